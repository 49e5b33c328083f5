"""Trainings that a launcher starts, on several processes or GPUs, instead of this process."""

import json
import subprocess
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from rstar_math.config.sections import Section
from rstar_math.errors import InputError, MissingExtra
from rstar_math.models.checkpoints import is_whole
from rstar_math.models.servers.launch import place_of, under_warden

_KEPT = 40
"""Lines of a training's words that are looked through for why it failed."""


def launched(
    launcher: Sequence[str],
    training: Sequence[str],
    out: Path,
    settings: Section,
    *,
    say: Callable[[str], None],
) -> None:
    """Run `rstar train` with the arguments `training` and `--out`, by a launcher: a command line
    that takes a module and its arguments (`accelerate launch --num_processes 8 -m`). Returns when
    the model is written.

    It goes on from its last checkpoint, and ends when this process ends, however that does. Raises
    `MissingExtra` where there is no such launcher, `InputError` with its last words where it fails.
    """
    command = [_found(launcher[0]), *launcher[1:], "rstar_math.cli", "train", *training]
    command += ["--out", str(out)]
    for name, value in settings.model_dump(mode="json", exclude_defaults=True).items():
        command += ["--set", f"{name}={json.dumps(value)}"]
    last: deque[str] = deque(maxlen=_KEPT)
    with subprocess.Popen(
        under_warden(command),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    ) as process:
        try:
            assert process.stderr is not None
            for line in process.stderr:
                last.append(line.rstrip())
                if line.startswith("step "):
                    say(line.rstrip())
        finally:
            with suppress(ProcessLookupError):
                process.terminate()
    if not is_whole(out):
        raise InputError(
            f"The training that {launcher[0]} started ended with code {process.returncode}: "
            f"{_why(last)}; the same command goes on from its last checkpoint."
        )


def _found(name: str) -> str:
    """The launcher's program."""
    found = place_of(name)
    if found is None:
        raise MissingExtra(
            f"There is no program {name} to start a training with; install it or change launch."
        )
    return found


def _why(lines: Sequence[str]) -> str:
    """The line that says most of a failure."""
    told: list[Any] = [line for line in lines if "Error" in line or line.startswith("rstar:")]
    line = str(told[-1] if told else next(iter(lines), "it said nothing"))
    return line.strip().removeprefix("rstar: ").rstrip(".")
