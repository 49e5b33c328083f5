"""Sanity checks of an evaluation: answer leakage, prompt format and a plain baseline.

- leakage: the same problems are searched twice, the second time with other reference answers and
  other hidden tests. Prompts, trees and choices must be equal byte for byte.
- format: truncated and malformed samples are counted apart from wrong answers.
- baseline: the model in plain chain of thought, with the same grader, must not be better than our
  greedy chain. Otherwise the prompt does not fit the model.

Not detected: a model server that knows the answers, because it receives equal requests.
"""

import json
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from rstar_math.costs import add_cost, track_cost
from rstar_math.errors import InputError
from rstar_math.evaluation.metrics import Summary, wilson
from rstar_math.evaluation.statistics import mcnemar
from rstar_math.policies.answers import PROGRAM_INSTRUCTION, stated_answer
from rstar_math.protocols import Completer, Completion
from rstar_math.search.records import to_record
from rstar_math.search.tree import Tree
from rstar_math.search.voting import Choice
from rstar_math.tasks import (
    AcceptedTexts,
    CallTest,
    ChoiceTask,
    CodeTask,
    HiddenTests,
    Kind,
    Reference,
    RightOptions,
    StreamTest,
    Task,
    Test,
    TextTask,
    letters,
)
from rstar_math.types import Cost, Problem, Question

MAX_TOKENS = 512
"""Maximum number of tokens of a plain solution."""
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
    """The model's answer in plain chain of thought at temperature 0; None if it states none.

    Raises `ModelError`.
    """
    if question.kind is Kind.CODE:
        prompt = f"{question.shown}\n\n{PROGRAM_INSTRUCTION}\n\n```python\n"
        found = await completer.complete(
            prompt, n=1, stop=("```",), max_tokens=MAX_TOKENS, temperature=0.0, seed=seed
        )
        return found[0].text if found and found[0].text.strip() else None
    completions = await completer.complete(
        f"{_EXAMPLES}{question.shown}\nSolution:",
        n=1,
        stop=_STOPS,
        max_tokens=MAX_TOKENS,
        temperature=0.0,
        seed=seed,
    )
    return stated_answer(question, completions[0].text) if completions else None


_Key = tuple[str, int, tuple[str, ...], int, float, int]


class CachingCompleter:
    """A Completer that caches the completions of another one.

    A repeated request returns the same completions and charges the same cost, without a call.
    Batching servers may decode equal requests to different texts, whatever the seed, so two
    searches can only be compared through a cache. The cache is kept in memory and not limited.
    """

    def __init__(self, inner: Completer) -> None:
        self._inner = inner
        self._cache: dict[_Key, tuple[list[Completion], Cost]] = {}
        self.prompting = getattr(inner, "prompting", None)
        self.accepts_images = bool(getattr(inner, "accepts_images", False))
        self.calls = 0
        """Number of requests sent to the other Completer."""
        self._prompts: set[str] = set()

    def take_prompts(self) -> set[str]:
        """Return the prompts since the last call of this method, cached or not."""
        prompts, self._prompts = self._prompts, set()
        return prompts

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
        """See `protocols.Completer`. An error is not cached."""
        key = (prompt, n, tuple(stop), max_tokens, temperature, seed)
        self._prompts.add(str(prompt))
        if key in self._cache:
            completions, cost = self._cache[key]
            add_cost(cost)
            return list(completions)
        self.calls += 1
        with track_cost() as cost:
            completions = await self._inner.complete(
                prompt, n=n, stop=stop, max_tokens=max_tokens, temperature=temperature, seed=seed
            )
        self._cache[key] = list(completions), replace(cost)
        return completions


MAX_LOST_SHARE = 0.2
"""Maximum share of truncated or malformed samples without a warning, in [0, 1]."""
SearchResult = tuple[Tree, Choice]
Search = Callable[[Sequence[Problem]], Awaitable[Sequence[SearchResult]]]
"""Searches problems as the evaluation does, with a new solver; returns results in input order."""


@dataclass(frozen=True, slots=True)
class SanityCheck:
    """The result of one check."""

    name: str
    state: Literal["ok", "warning", "failed", "unclear"]
    message: str
    """The result in words."""
    figures: dict[str, Any] = field(default_factory=dict)
    """The numbers behind the message."""

    def as_json(self) -> dict[str, Any]:
        """The fields as JSON."""
        return asdict(self)


def _no_prompts() -> set[str]:
    return set()


async def check_leakage(
    search: Search,
    problems: Sequence[Problem],
    name: str,
    take_prompts: Callable[[], set[str]] = _no_prompts,
) -> SanityCheck:
    """Check that the search `name` does not use the reference answers or hidden tests.

    `take_prompts` returns the prompts since its last call. They are compared too, because a model
    may ignore a leaked answer. If the search changes with the references, it runs again with the
    original ones. If that run differs too, the search is not reproducible and the state is
    "unclear". Raises `InputError` if no problem has a reference.
    """
    if not any(problem.reference is not None for problem in problems):
        raise InputError(
            "The leakage check needs reference answers; use problems that have an answer."
        )
    take_prompts()
    original, prompts = _bytes(await search(problems)), take_prompts()
    swapped, swapped_prompts = _bytes(await search(swap_references(problems))), take_prompts()
    ids = [problem.id for problem in problems]
    differing = [i for i, a, b in zip(ids, original, swapped, strict=True) if a != b]
    figures = {"problems": len(ids), "differing": differing}
    label = f"leakage, {name}"
    changed = prompts ^ swapped_prompts
    figures["changed_prompts"] = len(changed)
    if not differing and not changed:
        return SanityCheck(
            label,
            "ok",
            f"{len(ids)} problems were searched twice, with right and with other reference "
            "answers: prompts, trees and choices are equal.",
            figures,
        )
    repeated = _bytes(await search(problems))
    again = take_prompts()
    if again != prompts or any(a != b for a, b in zip(original, repeated, strict=True)):
        return SanityCheck(
            label,
            "unclear",
            "The search is not reproducible even with the same reference answers (programs near "
            "their time limit, or random components), so leakage cannot be tested.",
            figures,
        )
    if not differing:
        return SanityCheck(
            label,
            "failed",
            f"{len(changed)} prompts changed with the reference answers or hidden tests: a prompt "
            "contains them, so the accuracy is meaningless.",
            figures,
        )
    return SanityCheck(
        label,
        "failed",
        f"The search of {', '.join(differing[:5])} changed with the reference answers: a part of "
        "it uses them, so its accuracy is meaningless.",
        figures,
    )


def swap_references(problems: Sequence[Problem]) -> list[Problem]:
    """The problems with wrong references: that of another problem, if one differs.

    Problems without a reference stay without one.
    """
    references = [problem.reference for problem in problems]
    found: list[Problem] = []
    for index, problem in enumerate(problems):
        others = [r for r in references[index + 1 :] + references[:index] if r is not None]
        own = problem.reference
        reference = None if own is None else _other_reference(problem.question.task, own, others)
        found.append(replace(problem, reference=reference))
    return found


def _other_reference(task: Task | None, own: Reference, others: Sequence[Reference]) -> Reference:
    """A reference of the same kind that is not `own`: one of the others if it fits the task."""
    match task, own:
        case ChoiceTask(options=options), RightOptions(letters=right):
            rest = [letter for letter in letters(len(options)) if letter not in right]
            return RightOptions((rest[0],) if rest else right[:1])
        case CodeTask(), HiddenTests(tests=tests):
            return HiddenTests(tuple(map(_other_test, tests)))
        case TextTask(), AcceptedTexts(texts=texts):
            return AcceptedTexts(tuple(f"{text} 7" for text in texts))
    return next((r for r in others if isinstance(r, str) and r != own), f"{own}7")


def _other_test(test: Test) -> Test:
    """A test with another input and another output."""
    if isinstance(test, CallTest):
        return CallTest(f"[{test.call}, 7]", f"[{test.expected}, 8]", test.tolerance)
    return StreamTest(f"7\n{test.stdin}", f"7\n{test.stdout}", test.tolerance)


def check_format(summary: Summary, limit: float = MAX_LOST_SHARE) -> SanityCheck:
    """Check that a strategy does not lose too many samples because of the prompt format."""
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
    counts = (
        f"{summary.right} right, {figures['wrong']} wrong, {summary.unanswered} without an answer; "
        f"of {summary.cost.samples} samples {summary.cost.truncated} were cut off and "
        f"{summary.cost.malformed} had no step"
    )
    label = f"format, {summary.strategy}"
    if summary.samples_lost is not None and summary.samples_lost > limit:
        return SanityCheck(
            label,
            "warning",
            f"{counts}: {summary.samples_lost:.0%} lost. The prompt format does not fit this "
            "model; raise policy.max_step_tokens if samples were cut off, otherwise change "
            "policy.prompt.",
            figures,
        )
    return SanityCheck(label, "ok", f"{counts}.", figures)


def check_baseline(
    plain: Sequence[bool], greedy: Sequence[bool], published: float | None = None
) -> Iterable[SanityCheck]:
    """Compare plain chain of thought with our greedy chain, and with a published accuracy.

    `plain` and `greedy` state whether each problem was answered correctly. `published` is the
    accuracy in [0, 1] that the model's authors report.
    """
    n = len(plain)
    only_plain = sum(p and not g for p, g in zip(plain, greedy, strict=True))
    only_greedy = sum(g and not p for p, g in zip(plain, greedy, strict=True))
    p_value = mcnemar(only_plain, only_greedy)
    figures: dict[str, Any] = {
        "problems": n,
        "plain": sum(plain),
        "greedy": sum(greedy),
        "p": p_value,
    }
    low, high = wilson(sum(plain), n)
    message = (
        f"Plain chain of thought {sum(plain)}/{n}, our greedy chain {sum(greedy)}/{n} "
        f"(McNemar's exact p = {p_value:.2g})"
    )
    if only_plain > only_greedy and p_value < 0.05:
        yield SanityCheck(
            "baseline",
            "warning",
            f"{message}: the model is better without our format, so an improvement over our greedy "
            "chain is not an improvement over the model.",
            figures,
        )
    else:
        yield SanityCheck("baseline", "ok", f"{message}.", figures)
    if published is not None:
        inside = low <= published <= high
        yield SanityCheck(
            "published",
            "ok" if inside else "warning",
            f"Plain chain of thought has an accuracy of {low:.1%} to {high:.1%} (95 %); the "
            f"published accuracy is {published:.1%}"
            + ("." if inside else ". The prompt, the grader or the model differs."),
            {"published": published, "interval_95": [low, high]},
        )


def _bytes(results: Iterable[SearchResult]) -> list[bytes]:
    """Trees and choices, serialized for comparison."""
    return [
        json.dumps([to_record(tree), asdict(choice)], sort_keys=True).encode()
        for tree, choice in results
    ]
