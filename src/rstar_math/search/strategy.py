"""Names of the ways to solve a problem, as `--strategy` takes them."""

import re
from dataclasses import dataclass
from typing import Literal, get_args

from rstar_math.errors import ConfigError

Kind = Literal[
    "greedy",
    "sc",
    "bon",
    "beam",
    "dvts",
    "tot",
    "rap",
    "value",
    "mcts",
    "zero",
    "cot",
    "gen",
    "rstar",
    "verify",
    "peer",
]
CHAINS = ("greedy", "sc", "bon", "zero", "cot", "peer")
"""Kinds that sample whole solutions and search no tree."""
ACTIONS = ("gen", "rstar", "verify")
"""Kinds that search over rStar's actions."""
SCORED = ("bon", "beam", "dvts", "value")
"""Kinds that go by the scorer of the configuration, and need one."""
WORDS = ("zero", "cot", "peer", *ACTIONS)
"""Kinds that reason in words, by the prompts of `actions.family`."""
KNOWN = (
    "greedy, sc@8, bon@8, beam@8, dvts@8, tot, rap, value, mcts, mcts@16, mcts@16x4 (4 runs); in "
    "words instead of programs: zero, cot, cot@8, gen@32, rstar@32, verify@32, peer"
)
"""The strategies, as help and errors list them."""

_SPEC = re.compile(r"([a-z]+)(?:@(\d{1,6}))?(?:x(\d{1,4}))?\Z")
_SIZES: dict[str, int | None] = {
    "greedy": None,
    "sc": 8,
    "bon": 8,
    "beam": 8,
    "dvts": 8,
    "tot": 5,
    "value": 1,
    "rap": 10,
    "mcts": None,
    "zero": None,
    "cot": None,
    "peer": None,
    "gen": 32,
    "rstar": 32,
    "verify": 32,
}
"""The number after @ where none is given. Beam 8: rStar-Math's code; Tree of Thoughts 5, RAP 10
and rStar 32: their papers."""


@dataclass(frozen=True, slots=True)
class Strategy:
    """A way to solve.

    "greedy" one chain at temperature 0; "sc" a majority over `n` chains, "bon" the best of them by
    score; "beam" a step-level beam of `n`, "dvts" `n` subtrees that each follow their best step;
    "tot" Tree of Thoughts with a beam of `n`; "value" best-first search until `n` answers; "rap"
    sub-questions in a tree of `n` rollouts; "mcts" a tree of `n` rollouts (None: as many as the
    config says).

    In words instead of programs (`actions.family` has the prompts): "zero" one zero-shot chain of
    thought at temperature 0, "cot" one few-shot chain at temperature 0 or with `n` a majority over
    `n`; "gen" a tree of `n` rollouts over rStar's actions and a majority of its paths, "rstar" the
    same with the discriminator, "verify" with the model's own verification instead; "peer" what
    the discriminator's model answers by itself, as "cot".
    """

    kind: Kind
    n: int | None = None
    runs: int | None = None
    """Independent runs under different seeds; None for one, or as many as a token budget allows."""

    @property
    def name(self) -> str:
        """The text that `parse_strategies` reads this from."""
        size = "" if self.n is None else f"@{self.n}"
        return f"{self.kind}{size}" + ("" if self.runs is None else f"x{self.runs}")

    @property
    def cold(self) -> bool:
        """Whether it is one chain at temperature 0."""
        return self.kind in CHAINS and self.n is None

    def most_runs(self, *, endless: bool) -> int | None:
        """Runs to make: `runs`, or where none are given one, or any number if `endless`."""
        if self.kind == "dvts" and (self.runs or not endless):
            return (self.n or 8) * (self.runs or 1)
        return self.runs if self.runs is not None or endless else 1


def without_scorer(kind: str) -> ConfigError:
    """What to say where a kind that goes by a scorer has none."""
    return ConfigError(
        f"{kind} goes by a scorer, and there is none; type --set search.scorer=self, or give "
        "Solver a scorer."
    )


def parse_strategies(text: str) -> list[Strategy]:
    """The strategies of a comma-separated list. Raises `ConfigError` for one that is unknown or
    listed twice."""
    found: list[Strategy] = []
    for spec in (part.strip() for part in text.split(",")):
        strategy = _parsed(spec)
        if strategy in found:
            raise ConfigError(f"The strategy {strategy.name} is listed twice; once is enough.")
        found.append(strategy)
    return found


def _parsed(spec: str) -> Strategy:
    """One strategy from its name."""
    match = _SPEC.match(spec)
    if match is None or match[1] not in get_args(Kind) or "0" in (match[2], match[3]):
        raise ConfigError(f"{spec!r} is no strategy; give some of {KNOWN}; separated by commas.")
    kind: Kind = match[1]  # type: ignore[assignment]
    if (kind in ("greedy", "zero") and match[2]) or (kind in CHAINS and match[3]):
        raise ConfigError(f"{spec!r} has a number too many; {kind} is one {_shape(kind)}.")
    n = int(match[2]) if match[2] else _SIZES[kind]
    return Strategy(kind, n, int(match[3]) if match[3] else None)


def _shape(kind: str) -> str:
    """How a chain strategy is written."""
    if kind in ("greedy", "zero"):
        return f"chain, written {kind}"
    return f"set of chains, written {kind}@8"
