"""Checks that the time of a function grows linearly with the length of its input."""

import time
from collections.abc import Callable

_START, _MOST = 500, 64_000
_MEASURABLE_S = 0.004


def assert_linear(function: Callable[[str], object], text: Callable[[int], str]) -> None:
    """Fail if doubling a text makes the function more than three times slower.

    The smallest of several times counts, so that other processes do not matter. A function that
    stays too fast to measure at the longest text passes.
    """
    size = _START
    while size < _MOST and _best(function, text(size)) < _MEASURABLE_S:
        size *= 2
    short = _best(function, text(size))
    if short >= _MEASURABLE_S:
        ratios = [_best(function, text(2 * size)) / _best(function, text(size)) for _ in range(3)]
        assert min(ratios) < 3, f"{size} repetitions: {short:.4f} s, twice as many: x {ratios}"


def _best(function: Callable[[str], object], text: str) -> float:
    times = []
    for _ in range(2):
        start = time.process_time()
        function(text)
        times.append(time.process_time() - start)
    return min(times)
