"""How much memory there is for a training: of the GPU, or of the system and the control group."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def free_memory() -> tuple[int, str] | None:
    """Bytes that a training can have here and where they are: free memory of the GPU, or what the
    system and the control group still give. None where that is not told."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.mem_get_info()[0]), "GPU memory"
    return cpu_memory()


def cpu_memory() -> tuple[int, str] | None:
    """Bytes that the system and the control group still give to this process, and which of the two
    gives less. None where that is not told."""
    return min(_cpu_limits(), default=None)


def _cpu_limits() -> Iterator[tuple[int, str]]:
    with suppress(OSError, ValueError, IndexError):
        text = Path("/proc/meminfo").read_text(encoding="ascii")
        line = next(line for line in text.splitlines() if line.startswith("MemAvailable:"))
        yield int(line.split()[1]) * 1024, "memory"
    with suppress(OSError, ValueError, IndexError):
        place = Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines()[-1]
        folder = Path("/sys/fs/cgroup") / place.split(":", 2)[2].lstrip("/")
        for group in (folder, *folder.parents):
            if group == Path("/sys/fs"):
                break
            yield from _group_limit(group)
    with suppress(OSError, ValueError):
        folder = Path("/sys/fs/cgroup/memory")
        limit = int((folder / "memory.limit_in_bytes").read_text(encoding="ascii"))
        used = int((folder / "memory.usage_in_bytes").read_text(encoding="ascii"))
        yield limit - used, "memory of the control group"


def _group_limit(group: Path) -> Iterator[tuple[int, str]]:
    """What a control group (version 2) still gives: cached files are given up for it."""
    with suppress(OSError, ValueError, KeyError):
        limit = int((group / "memory.max").read_text(encoding="ascii"))
        used = int((group / "memory.current").read_text(encoding="ascii"))
        lines = (group / "memory.stat").read_text(encoding="ascii").splitlines()
        cached = int(dict(line.split() for line in lines)["inactive_file"])
        yield limit - used + cached, "memory of the control group"
