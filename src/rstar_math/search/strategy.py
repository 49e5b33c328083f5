"""Names of the ways to solve a problem, as `--strategy` takes them."""

import re
from dataclasses import dataclass
from typing import Literal

from rstar_math.errors import ConfigError

Kind = Literal["greedy", "sc", "mcts"]

_SPEC = re.compile(r"(greedy|sc|mcts)(?:@(\d{1,6}))?\Z")


@dataclass(frozen=True, slots=True)
class Strategy:
    """A way to solve: "greedy" one chain at temperature 0, "sc" a vote over `n` chains, "mcts" a
    tree of `n` rollouts (None: as many as the config says)."""

    kind: Kind
    n: int | None = None

    @property
    def name(self) -> str:
        """The text that `parse_strategies` reads this from."""
        return self.kind if self.n is None else f"{self.kind}@{self.n}"


def parse_strategies(text: str) -> list[Strategy]:
    """The strategies of a comma-separated list. Raises `ConfigError` for one that is unknown or
    listed twice."""
    found: list[Strategy] = []
    for spec in (part.strip() for part in text.split(",")):
        match = _SPEC.match(spec)
        if match is None or match[2] == "0" or (match[1] == "greedy" and match[2]):
            raise ConfigError(
                f"{spec!r} is no strategy; give some of greedy, sc@8, mcts or mcts@16, "
                "separated by commas."
            )
        kind: Kind = match[1]  # type: ignore[assignment]
        strategy = Strategy(kind, int(match[2]) if match[2] else 8 if kind == "sc" else None)
        if strategy in found:
            raise ConfigError(f"The strategy {strategy.name} is listed twice; once is enough.")
        found.append(strategy)
    return found
