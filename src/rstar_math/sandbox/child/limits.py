"""What one run may use."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds and bytes. A prefix counts towards the times and the memory, not the output."""

    wall_s: float
    cpu_s: float
    memory: int
    """Address space above what the warm interpreter takes."""
    output: int
