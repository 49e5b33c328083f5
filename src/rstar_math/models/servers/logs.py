"""What a server wrote: where it goes, and what in it says why it failed."""

import os
import re
import time
from pathlib import Path

from rstar_math.foreign import plain
from rstar_math.models.weights import cache_dir

_FAULT = re.compile(r"\b[A-Z]\w*(?:Error|Exception)\b: .+|\berror: .+|No module named .+")
_HARMLESS = re.compile(r"\b(?:DEBUG|INFO|WARNING) \d\d-\d\d ")
"""Lines that vLLM itself does not call errors, whatever they speak of."""
_READ = 256 << 10
"""Bytes of the end of a log that are looked through."""


def log_place(folder: str | None, name: str, port: int) -> Path:
    """A new file for the log of a server."""
    place = Path(folder).expanduser() if folder else cache_dir() / "servers"
    place.mkdir(parents=True, exist_ok=True)
    safe = re.sub(r"[^\w.-]+", "_", name)[-60:] or "model"
    return place / f"{safe}-{port}-{os.getpid()}-{time.time_ns() // 1_000_000}.log"


def what_went_wrong(log: Path) -> str:
    """The errors that the end of a log names, the first and the last of them, or else its last
    lines; in at most 500 harmless characters."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _READ))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError as error:
        return f"its log cannot be read ({error.strerror})"
    lines = [plain(line.strip()) for line in lines if line.strip()]
    grave = [line for line in lines if not _HARMLESS.search(line)]
    faults = list(dict.fromkeys(m[0][:240] for line in grave if (m := _FAULT.search(line))))
    told = [faults[0], *faults[-1:]] if faults else lines[-3:]
    return " | ".join(dict.fromkeys(told))[:500] or "it wrote nothing"
