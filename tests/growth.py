"""Checks that the time of a function grows linearly with the length of its input."""

import time
from collections.abc import Callable

_MEASURABLE_S = 0.01


def assert_linear(function: Callable[[str], object], piece: str, *, most: int) -> None:
    """Fail if doubling a text of repeated pieces makes the function more than three times slower.

    Texts have at most `most` characters. A function that takes less than 10 ms for the longest
    text passes. The smallest of several times counts, so that other processes do not matter.
    """
    long, short = piece * (most // len(piece)), piece * (most // len(piece) // 2)
    if _time(function, long) < _MEASURABLE_S:
        return
    ratios = [_time(function, long) / max(_time(function, short), 1e-6) for _ in range(5)]
    assert min(ratios) < 3, f"{piece!r}: twice the text takes {ratios} times as long"


def _time(function: Callable[[str], object], text: str) -> float:
    start = time.process_time()
    function(text)
    return time.process_time() - start
