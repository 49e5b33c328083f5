"""Memory of the zygote put into huge pages, of which a fork copies one entry instead of 512.

A fork, and the end of what was forked, cost what there is to copy and to take down: with the
mathematics loaded, some 24,000 small pages (`benchmarks/sandbox.py`, `gain_huge_pages`).
"""

import gc

from . import kernel

HUGE = 2 << 20
MADV_COLLAPSE = 25
"""Linux 6.1 on."""


def collapse() -> int:
    """Put the regions in which Python's objects lie into huge pages; how many now are.

    Where the kernel does not (before 6.1, or with huge pages switched off), all stays as it was.
    """
    gc.collect()
    # From the objects' addresses, because inside bubblewrap there is no /proc/self/maps to read.
    regions = sorted({id(thing) // HUGE for thing in gc.get_objects()})
    return sum(kernel.advise(region * HUGE, HUGE, MADV_COLLAPSE) for region in regions)
