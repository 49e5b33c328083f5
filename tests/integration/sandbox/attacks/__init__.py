"""Attack cases as data. None names a real credential, sends anything off the machine, or aims at
anything but canaries that the tests make."""

from .case import Case
from .files import FILES
from .honest import HONEST
from .information import INFORMATION, LEAKS
from .kernel import KERNEL
from .network import NETWORK
from .processes import PROCESSES
from .resources import EXITS, MEMORY, OUTPUT, PARSING, TIME
from .scratch import SCRATCH

CASES: tuple[Case, ...] = (
    *FILES,
    *PROCESSES,
    *TIME,
    *INFORMATION,
    *MEMORY,
    *EXITS,
    *NETWORK,
    *KERNEL,
    *LEAKS,
    *OUTPUT,
    *PARSING,
    *HONEST,
    *SCRATCH,
)

__all__ = ["CASES", "Case"]
