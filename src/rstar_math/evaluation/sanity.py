"""Sanity checks before figures are believed: answer leaks, a wrong prompt format, an equally good
baseline.

- leakage: the same problems are searched twice, the second time with other reference answers;
  trees and choices must be equal to the byte.
- format: samples that were cut off or held no step are told apart from wrong answers.
- baseline: the model alone, in plain chain of thought through the same grader, must not be better
  than our own greedy chain: else the prompt does not fit the model.

What they do not see: a model server that knows the answers, since it is asked the same twice.
"""

import json
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from rstar_math.costs import add_cost, track_cost
from rstar_math.errors import InputError
from rstar_math.evaluation.metrics import Summary, wilson
from rstar_math.evaluation.statistics import mcnemar
from rstar_math.protocols import Completer, Completion
from rstar_math.search.tree import Tree, to_record
from rstar_math.search.voting import Choice
from rstar_math.types import Cost, Problem, Question

MAX_TOKENS = 512
"""Most tokens of a plain solution."""
_EXAMPLES = """\
Solve each problem. Think step by step and end with "The answer is ...".

Question: A box holds 3 rows of 4 eggs. Two eggs break. How many are whole?
Solution: There are 3 * 4 = 12 eggs. Two of them break, so 12 - 2 = 10 are whole. \
The answer is 10.

Question: What is the sum of the solutions of x^2 - 5x + 6 = 0?
Solution: The equation is (x - 2)(x - 3) = 0, so x is 2 or 3, and 2 + 3 = 5. The answer is 5.

Question: """
_STOPS = ("\nQuestion:", "\n\n\n")


async def baseline_answer(completer: Completer, question: Question, *, seed: int = 0) -> str | None:
    """The answer that the model states in plain chain of thought at temperature 0, or None where it
    states none. Raises `ModelError`."""
    from rstar_math.extraction import extract_answer

    found = await completer.complete(
        f"{_EXAMPLES}{question.text.strip()}\nSolution:",
        n=1,
        stop=_STOPS,
        max_tokens=MAX_TOKENS,
        temperature=0.0,
        seed=seed,
    )
    return extract_answer(found[0].text) if found else None


_Key = tuple[str, int, tuple[str, ...], int, float, int]


class CachingCompleter:
    """A Completer that asks another and keeps what it said: a request that comes again gets the
    same completions and the same bill, and is not asked.

    Batching servers do not decode the same request to the same text twice, whatever the seed; two
    searches are compared through this one. Holds all answers in memory.
    """

    def __init__(self, inner: Completer) -> None:
        self._inner = inner
        self._known: dict[_Key, tuple[list[Completion], Cost]] = {}
        self.prompting = getattr(inner, "prompting", None)
        self.asked = 0
        """Requests that went to the other model."""

    async def complete(
        self,
        prompt: str,
        *,
        n: int,
        stop: Sequence[str],
        max_tokens: int,
        temperature: float,
        seed: int,
    ) -> list[Completion]:
        """See `protocols.Completer`. An error is not kept: the next request is asked."""
        key = (prompt, n, tuple(stop), max_tokens, temperature, seed)
        if key in self._known:
            found, bill = self._known[key]
            add_cost(bill)
            return list(found)
        self.asked += 1
        with track_cost() as cost:
            found = await self._inner.complete(
                prompt, n=n, stop=stop, max_tokens=max_tokens, temperature=temperature, seed=seed
            )
        self._known[key] = list(found), replace(cost)
        return found


LOST = 0.2
"""Share of samples lost to the format from which the prompt is said not to fit."""
Searched = tuple[Tree, Choice]
Search = Callable[[Sequence[Problem]], Awaitable[Sequence[Searched]]]
"""Searches problems as the evaluation does, from the parts up; results in their order."""


@dataclass(frozen=True, slots=True)
class SanityCheck:
    """One check and what it came to."""

    name: str
    state: Literal["ok", "warning", "failed", "unclear"]
    message: str
    """A sentence for a person."""
    figures: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The fields as they are."""
        return asdict(self)


async def leakage(search: Search, problems: Sequence[Problem], name: str) -> SanityCheck:
    """Whether the reference answers reach the search that is called `name`.

    A search that differs under other references is run once more under the first ones: one that
    does not repeat itself then is "unclear", not guilty. Raises `InputError` without references.
    """
    if not any(problem.reference is not None for problem in problems):
        raise InputError("The leakage check needs problems with reference answers.")
    before = _bytes(await search(problems))
    after = _bytes(await search(replaced(problems)))
    ids = [problem.id for problem in problems]
    differ = [i for i, a, b in zip(ids, before, after, strict=True) if a != b]
    figures = {"problems": len(ids), "differing": differ}
    label = f"leakage, {name}"
    if not differ:
        return SanityCheck(
            label,
            "ok",
            f"{len(ids)} problems searched twice, under right and under other reference answers: "
            "equal trees and choices.",
            figures,
        )
    again = _bytes(await search(problems))
    if any(a != b for a, b in zip(before, again, strict=True)):
        return SanityCheck(
            label,
            "unclear",
            "The search does not repeat itself even under the same reference answers (programs "
            "near their time limit, or parts that go by chance), so nothing can be told.",
            figures,
        )
    return SanityCheck(
        label,
        "failed",
        f"The search of {', '.join(differ[:5])} changed with the reference answers: something in "
        "it sees them, and its accuracy means nothing.",
        figures,
    )


def replaced(problems: Sequence[Problem]) -> list[Problem]:
    """The same questions, each with a reference that is not its own: another problem's where it
    differs. Problems without one are left so."""
    given = [problem.reference for problem in problems]
    found: list[Problem] = []
    for at, problem in enumerate(problems):
        others = (r for r in given[at + 1 :] + given[:at] if r is not None)
        other = next((r for r in others if r != problem.reference), f"{problem.reference}7")
        reference = None if problem.reference is None else other
        found.append(
            Problem(
                Question(problem.id, problem.question.text),
                reference,
                problem.source,
                problem.level,
            )
        )
    return found


def formats(summary: Summary, limit: float = LOST) -> SanityCheck:
    """Where a strategy's problems went, and whether too many samples were lost to the format."""
    wrong = summary.graded - summary.right - summary.unknown - summary.unanswered
    figures: dict[str, Any] = {
        "right": summary.right,
        "wrong": max(wrong, 0),
        "unknown": summary.unknown,
        "unanswered": summary.unanswered,
        "samples": summary.cost.samples,
        "truncated": summary.cost.truncated,
        "malformed": summary.cost.malformed,
        "lost": summary.samples_lost,
    }
    split = (
        f"{summary.right} right, {figures['wrong']} wrong, {summary.unanswered} without any "
        f"answer; of {summary.cost.samples} samples {summary.cost.truncated} were cut off and "
        f"{summary.cost.malformed} held no step"
    )
    label = f"format, {summary.strategy}"
    if summary.samples_lost is not None and summary.samples_lost > limit:
        return SanityCheck(
            label,
            "warning",
            f"{split}: {summary.samples_lost:.0%} lost. The prompt format does not fit this model; "
            "raise policy.max_step_tokens if they were cut off, else change policy.prompt.",
            figures,
        )
    return SanityCheck(label, "ok", f"{split}.", figures)


def baseline(
    plain: Sequence[bool], ours: Sequence[bool], published: float | None = None
) -> Iterable[SanityCheck]:
    """The model in plain chain of thought against our greedy chain on the same problems, and
    against the share right, in [0, 1], that its makers publish."""
    n = len(plain)
    worse = sum(p and not o for p, o in zip(plain, ours, strict=True))
    better = sum(o and not p for p, o in zip(plain, ours, strict=True))
    p = mcnemar(worse, better)
    figures: dict[str, Any] = {"problems": n, "plain": sum(plain), "greedy": sum(ours), "p": p}
    low, high = wilson(sum(plain), n)
    said = (
        f"Plain chain of thought {sum(plain)}/{n}, our greedy chain {sum(ours)}/{n} "
        f"(McNemar's exact p = {p:.2g})"
    )
    if worse > better and p < 0.05:
        yield SanityCheck(
            "baseline",
            "warning",
            f"{said}: the model does better without our format; what the search gains on our "
            "greedy chain is no gain on the model.",
            figures,
        )
    else:
        yield SanityCheck("baseline", "ok", f"{said}.", figures)
    if published is not None:
        inside = low <= published <= high
        yield SanityCheck(
            "published",
            "ok" if inside else "warning",
            f"Plain chain of thought has {low:.1%} to {high:.1%} (95 %), published is "
            f"{published:.1%}"
            + ("." if inside else ": prompt, grader or model are not the published ones."),
            {"published": published, "interval_95": [low, high]},
        )


def _bytes(found: Iterable[Searched]) -> list[bytes]:
    """Trees and choices as they are compared."""
    return [
        json.dumps([to_record(tree), asdict(choice)], sort_keys=True).encode()
        for tree, choice in found
    ]
