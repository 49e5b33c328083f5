"""What holds on this machine, found by trying: each layer is put on in a throw-away process, and
then the thing that it must stop is attempted there."""

import json
import subprocess
import sys
from dataclasses import dataclass

from rstar_math.sandbox import launch

TRIAL_S = 30.0


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of the sandbox as found here."""

    name: str
    holds: bool
    detail: str
    """What was found, one line."""
    stops: str
    """What the layer is there to stop."""


NOT_COVERED = (
    "A fault in the kernel itself: snippets share the machine's kernel. For code from an adversary "
    "rather than from a model, add a virtual machine.",
    "Timing and cache side channels, and how loaded the machine is: a snippet can measure time.",
    "Whether a path exists, and its size and dates (`stat`), where bubblewrap is not in use; its "
    "contents cannot be read.",
    "Installed packages: everything in site-packages can be read, so keep no data there.",
    "A snippet's own result: it can print anything, and claim success. It cannot touch another's.",
    "Memory of all snippets together: each has its own limit, the machine must bear "
    "4 x workers x sandbox.memory_mb at worst.",
    "Randomness that a program asks of the system (`secrets`, `random.SystemRandom`, unseeded "
    "`numpy.random.default_rng()`), the clock and time-outs: such programs do not repeat.",
    "Interpreters on macOS and Windows: refused, whatever the mode.",
)

_STOPS = {
    "descriptors": "inherited files and sockets, the environment",
    "capabilities": "what root may do: mounts, raw devices, raising limits, reading any file",
    "dumpable": "reading the zygote's memory and descriptors (ptrace, /proc/PID/mem)",
    "landlock": "reading files other than Python's own, writing any, TCP, signals outside",
    "rlimits": "memory, descriptors, file sizes, core dumps, processes of an ordinary user",
    "seccomp": "processes, threads, sockets, signals, kernel interfaces, changes to files",
    "judge": "running too long, printing too much, leaving processes behind",
    "bwrap": "seeing that other files and processes exist (adds to Landlock; optional)",
}


def probe() -> list[Layer]:
    """The layers, outermost last, each tried just now; takes about 0.3 s. Never raises: what cannot
    be tried does not hold."""
    found = dict.fromkeys(_STOPS, (False, "could not be tried"))
    if sys.platform != "linux":
        return [Layer(n, False, f"{sys.platform}: needs Linux", s) for n, s in _STOPS.items()]
    found |= _try_layers()
    found["judge"] = (True, "clocks, counters and kills from outside the snippet's process")
    if launch.bwrap_works():
        found["bwrap"] = (True, "in use around every interpreter")
    else:
        found["bwrap"] = (False, "not installed, or not allowed to make user namespaces; optional")
    return [Layer(name, *found[name], stops) for name, stops in _STOPS.items()]


def _try_layers() -> dict[str, tuple[bool, str]]:
    command = [sys.executable, "-S", "-s", "-P", "-B", str(launch.CHILD / "__main__.py"), "probe"]
    try:
        done = subprocess.run(
            command,
            env=launch.environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=TRIAL_S,
            check=False,
        )
        lines = [json.loads(line) for line in done.stdout.splitlines() if line]
    except (OSError, ValueError, subprocess.SubprocessError) as e:
        return dict.fromkeys(_STOPS, (False, f"could not be tried: {e}"))
    return {name: (bool(holds), str(detail)) for name, holds, detail in lines}
