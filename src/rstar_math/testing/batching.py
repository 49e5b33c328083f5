"""Continuous batching as servers like vLLM and llama.cpp do it, in time only: nothing is computed.

A server decodes at most `slots` samples at once. A sample takes the first free slot, in the order
of asking, and gives it back as soon as it is done; a request is answered when its last sample is.
Which sample is done when follows from the order of arrival alone, so it is worked out on arrival,
and whoever asked has only to sleep until then.

Not modelled: decoding that slows down as the batch grows, a prefix cache, and clients that hang up
(their samples are decoded to the end).
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from heapq import heapreplace


def words(text: str) -> int:
    """A text's tokens if a word is a token."""
    return len(text.split())


@dataclass(frozen=True, slots=True)
class Batching:
    """How a fake server spends its time."""

    slots: int = 256
    """Samples decoded at once."""
    token_s: float = 0.01
    """Seconds a token."""
    prefill_s: float = 0.0
    """Seconds before the first token of a sample, in which it holds a slot."""
    tokens: Callable[[str], int] = words
    """How many tokens a text has."""

    def hold_s(self, text: str) -> float:
        """Seconds that sampling a text holds a slot."""
        return self.prefill_s + self.token_s * self.tokens(text)


class Slots:
    """The slots of one server, from any thread. Times are in seconds on the caller's clock."""

    def __init__(self, batching: Batching) -> None:
        self.batching = batching
        self.spans: list[tuple[float, float]] = []
        """When each sample got its slot and when it gives it back, in order of asking."""
        self._free_at = [0.0] * batching.slots
        self._lock = threading.Lock()

    @property
    def busy_s(self) -> float:
        """Slot-seconds given out so far; over `slots` it is the shortest time for the work."""
        return sum(end - start for start, end in self.spans)

    def take(self, holds_s: Sequence[float], now: float) -> float:
        """When the last of some samples will be done that are asked for at `now` and hold a slot
        for `holds_s`; `now` where there are none."""
        done = now
        with self._lock:
            for hold_s in holds_s:
                start = max(now, self._free_at[0])
                heapreplace(self._free_at, start + hold_s)
                self.spans.append((start, start + hold_s))
                done = max(done, start + hold_s)
        return done

    def clear(self) -> None:
        """Forget what was, as a server that has just been started."""
        with self._lock:
            self.spans.clear()
            self._free_at = [0.0] * self.batching.slots


def utilisation(
    spans: Sequence[tuple[float, float]], slots: int, start: float, end: float, parts: int
) -> list[float]:
    """The share of slots in use, in [0, 1], in each of `parts` equal parts of a time."""
    width = (end - start) / parts
    used = [0.0] * parts
    for begin, finish in spans:
        first = max(0, int((begin - start) / width))
        last = min(parts - 1, int((finish - start) / width))
        for part in range(first, last + 1):
            left = start + part * width
            used[part] += max(0.0, min(finish, left + width) - max(begin, left))
    return [busy / (width * slots) for busy in used]
