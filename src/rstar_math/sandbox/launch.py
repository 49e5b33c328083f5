"""How a zygote is started: which interpreter, with what environment, seeing which files."""

import importlib.util
import os
import platform
import shutil
import site
import socket
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

from rstar_math.errors import SandboxError

CHILD = Path(__file__).parent / "child"
LIBRARY_FOLDERS = frozenset({"site-packages", "dist-packages"})
SYSTEM = (
    "/lib",
    "/lib64",
    "/lib32",
    "/usr/lib",
    "/usr/lib64",
    "/usr/lib32",
    "/usr/share/zoneinfo",
    "/etc/ld.so.cache",
    "/dev/urandom",
)
LIBRARIES = ("sympy", "mpmath", "numpy", "scipy")


@dataclass(frozen=True, slots=True)
class Setup:
    """What kind of zygote to start."""

    mode: str = "strict"
    scipy: bool = False
    skip: frozenset[str] = frozenset()
    """Layers to leave out: for tests of the tests."""

    def header(self) -> dict[str, object]:
        """The first frame to the zygote."""
        return {
            "mode": self.mode,
            "scipy": self.scipy,
            "skip": sorted(self.skip),
            "libraries": libraries(),
            "readable": readable(),
        }


def versions() -> dict[str, str]:
    """Versions of Python and the libraries that snippets see, by name; for a run's record."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


@cache
def libraries() -> list[str]:
    """Folders of installed packages, real paths. Not from `sys.path`, where an editable install
    puts a whole working tree."""
    candidates = [*site.getsitepackages(), *sysconfig.get_paths().values()]
    if site.ENABLE_USER_SITE:
        candidates.append(site.getusersitepackages())
    for name in LIBRARIES:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin:
            candidates.append(str(Path(spec.origin).parent.parent))
    real = [os.path.realpath(c) for c in candidates]
    return [c for c in dict.fromkeys(real) if Path(c).name in LIBRARY_FOLDERS and Path(c).is_dir()]


@cache
def readable() -> list[str]:
    """Folders and files that a snippet may read: the standard library, packages, shared objects."""
    paths = sysconfig.get_paths()
    own = [paths["stdlib"], sysconfig.get_path("platstdlib")]
    prefix_lib = Path(sys.base_prefix, "lib")
    if prefix_lib.is_dir():
        own.append(str(prefix_lib))
    real = [os.path.realpath(p) for p in (*own, *libraries(), *SYSTEM)]
    return [p for p in dict.fromkeys(real) if Path(p).exists()]


def environment() -> dict[str, str]:
    """All of a zygote's environment: nothing of the caller's but where its shared objects are."""
    fixed = {
        "PATH": "/usr/bin:/bin",
        "HOME": "/",
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
        "PYTHONHASHSEED": "0",
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
    }
    if "LD_LIBRARY_PATH" in os.environ:
        fixed["LD_LIBRARY_PATH"] = os.environ["LD_LIBRARY_PATH"]
    return fixed


def _interpreter(fd: int) -> list[str]:
    # Not -I or -E, which would ignore PYTHONHASHSEED.
    flags = ["-S", "-s", "-P", "-B", "-X", "utf8"]
    return [sys.executable, *flags, str(CHILD / "__main__.py"), str(fd)]


def bwrap_arguments() -> list[str]:
    """The `bwrap` command line up to the command: own namespaces, and only the readable files."""
    program = shutil.which("bwrap")
    if program is None:
        return []
    visible = [*readable(), str(CHILD), os.path.realpath(sys.executable), sys.executable]
    config = Path(sys.prefix, "pyvenv.cfg")
    if config.exists():
        visible.append(str(config))
    binds = [part for path in dict.fromkeys(visible) for part in ("--ro-bind", path, path)]
    links = [
        part
        for name in ("/lib", "/lib64")
        if os.path.islink(name)
        for part in ("--symlink", os.readlink(name), name)
    ]
    return [
        *(program, "--unshare-user", "--unshare-pid", "--unshare-net", "--unshare-ipc"),
        *("--unshare-uts", "--unshare-cgroup-try", "--hostname", "sandbox", "--as-pid-1"),
        *("--die-with-parent", "--cap-drop", "ALL", "--dev", "/dev", "--chdir", "/"),
        *binds,
        *links,
    ]


@cache
def bwrap_works() -> bool:
    """Whether bubblewrap is installed and allowed to make namespaces here; tried, not guessed."""
    arguments = bwrap_arguments()
    if not arguments:
        return False
    command = [*arguments, sys.executable, "-S", "-c", "pass"]
    try:
        return subprocess.run(command, capture_output=True, timeout=30, check=False).returncode == 0
    except (OSError, subprocess.SubprocessError):
        return False


def start(setup: Setup) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """A zygote that is starting, and our end of its socket. Raises `SandboxError`."""
    if sys.platform != "linux":
        raise SandboxError(
            f"the sandbox needs Linux, and this is {sys.platform}; run it in a Linux container "
            "or virtual machine"
        )
    command: list[str] = []
    if setup.mode != "external" and "bwrap" not in setup.skip and bwrap_works():
        command = bwrap_arguments()
    elif setup.mode == "namespaces":
        raise SandboxError(
            "sandbox.mode=namespaces needs bubblewrap (`bwrap`), which is missing or not allowed "
            "to make user namespaces here; install it, or use --set sandbox.mode=strict"
        )
    ours, theirs = socket.socketpair()
    with theirs:
        try:
            process = subprocess.Popen(
                [*command, *_interpreter(theirs.fileno())],
                env=environment(),
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        except OSError as e:
            ours.close()
            raise SandboxError(
                f"cannot start a process for the sandbox: {e.strerror}; the process table or the "
                "memory is full, or the interpreter cannot be run; free some and try again"
            ) from e
    return process, ours
