"""Counts of what the server did, in Prometheus' text format, version 0.0.4."""

from collections import defaultdict
from collections.abc import Iterator

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
"""Upper ends of the histogram's buckets, in seconds."""


class Metrics:
    """Counters that only grow, since the server's start."""

    def __init__(self) -> None:
        self.requests: dict[tuple[str, int], int] = defaultdict(int)
        """Requests by route and status; 499 for those whose client left."""
        self.in_flight = 0
        """Requests that are not answered yet."""
        self.searches: dict[str, int] = defaultdict(int)
        """Searches by what ended them."""
        self.answered = 0
        """Searches that came to an answer."""
        self.tokens: dict[str, int] = defaultdict(int)
        """Tokens by kind: prompt, sampled, scorer."""
        self._buckets = [0] * len(BUCKETS_S)
        self._seconds = 0.0
        self._count = 0

    def observe(self, seconds: float) -> None:
        """Count how long a request for an answer took."""
        self._seconds += seconds
        self._count += 1
        for at, most in enumerate(BUCKETS_S):
            self._buckets[at] += seconds <= most

    def text(self, **gauges: float) -> str:
        """All of them, and `gauges` by name, for a scrape."""
        return "\n".join([*self._lines(gauges), ""])

    def _lines(self, gauges: dict[str, float]) -> Iterator[str]:
        yield from _head("rstar_requests_total", "counter", "Requests by route and status.")
        for (route, status), count in sorted(self.requests.items()):
            yield f'rstar_requests_total{{route="{route}",status="{status}"}} {count}'
        yield from _head("rstar_searches_total", "counter", "Searches by what ended them.")
        for ended, count in sorted(self.searches.items()):
            yield f'rstar_searches_total{{ended="{ended}"}} {count}'
        yield from _head("rstar_answers_total", "counter", "Searches that came to an answer.")
        yield f"rstar_answers_total {self.answered}"
        yield from _head("rstar_tokens_total", "counter", "Tokens of the model by kind.")
        for kind, count in sorted(self.tokens.items()):
            yield f'rstar_tokens_total{{kind="{kind}"}} {count}'
        for name, value in {"in_flight": self.in_flight, **gauges}.items():
            yield from _head(f"rstar_{name}", "gauge", name.replace("_", " ").capitalize() + ".")
            yield f"rstar_{name} {value:g}"
        name = "rstar_answer_seconds"
        yield from _head(name, "histogram", "Seconds from request to the end of the answer.")
        for most, count in zip(BUCKETS_S, self._buckets, strict=True):
            yield f'{name}_bucket{{le="{most:g}"}} {count}'
        yield f'{name}_bucket{{le="+Inf"}} {self._count}'
        yield f"{name}_sum {self._seconds:.6f}"
        yield f"{name}_count {self._count}"


def _head(name: str, kind: str, words: str) -> Iterator[str]:
    """What goes before a metric's values."""
    yield f"# HELP {name} {words}"
    yield f"# TYPE {name} {kind}"
