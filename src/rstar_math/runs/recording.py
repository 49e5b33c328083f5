"""Components that record their answers in a journal, or take them from it (see `journal`)."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any, TypeVar

from rstar_math.costs import track_cost
from rstar_math.protocols import (
    BlockPolicy,
    Completer,
    Completion,
    Executor,
    Policy,
    Scorer,
    Verifier,
)
from rstar_math.rejected import add_rejected, collect_rejected
from rstar_math.runs.journal import Journal
from rstar_math.search.expansion import PATH_ERRORS
from rstar_math.search.records import step_of, step_record
from rstar_math.search.tournament import PairJudge
from rstar_math.types import Execution, ExecutionStatus, Question, Step, TokenStats, Verdict

T = TypeVar("T")
_ERRORS = {error.__name__: error for error in PATH_ERRORS}
"""Errors that end only one path. They are recorded like answers, because the tree contains them."""


async def _recall(
    journal: Journal,
    key: str,
    ask: Callable[[], Awaitable[T]],
    write: Callable[[T], Any],
    read: Callable[[Any], T],
) -> T:
    """Return the recorded answer to a request, or ask and record the answer."""
    found = journal.find(key)
    if found is not None:
        if isinstance(found, dict) and found.get("error") in _ERRORS:
            raise _ERRORS[found["error"]](str(found.get("message")))
        with suppress(TypeError, ValueError, LookupError, AttributeError):
            return read(found)
    with track_cost() as cost, collect_rejected([]) as rejected:
        try:
            value = await ask()
        except tuple(_ERRORS.values()) as error:
            name = next(name for name, kind in _ERRORS.items() if isinstance(error, kind))
            journal.record(key, {"error": name, "message": str(error)}, cost)
            raise
    journal.record(key, write(value), cost, rejected)
    for sample in rejected:
        add_rejected(sample)
    return value


def _texts(steps: Sequence[Step]) -> list[list[str | None]]:
    """What a request depends on: the texts of a prefix and what its programs printed."""
    return [[s.text, None if s.execution is None else s.execution.stdout] for s in steps]


def record_policy(policy: Policy, journal: Journal) -> Policy:
    """Return a policy with the same methods that records its steps."""
    if isinstance(policy, BlockPolicy):
        return _RecordedBlockPolicy(policy, journal)
    return _RecordedPolicy(policy, journal)


class _RecordedPolicy:
    """A `Policy` whose steps are recorded."""

    def __init__(self, policy: Policy, journal: Journal) -> None:
        self._policy = policy
        self._journal = journal

    async def propose(
        self, question: Question, prefix: Sequence[Step], k: int, *, seed: int
    ) -> list[Step]:
        """See `protocols.Policy`."""
        return await _recall(
            self._journal,
            self._journal.key("steps", _texts(prefix), k, seed),
            lambda: self._policy.propose(question, prefix, k, seed=seed),
            lambda steps: [step_record(step) for step in steps],
            lambda records: [step_of(record) for record in records],
        )


class _RecordedBlockPolicy(_RecordedPolicy):
    """A `BlockPolicy` whose steps are recorded."""

    async def propose_blocks(
        self, question: Question, prefix: Sequence[Step], k: int, *, seed: int
    ) -> list[list[Step]]:
        """See `protocols.BlockPolicy`."""
        policy = self._policy
        assert isinstance(policy, BlockPolicy)
        return await _recall(
            self._journal,
            self._journal.key("blocks", _texts(prefix), k, seed),
            lambda: policy.propose_blocks(question, prefix, k, seed=seed),
            lambda blocks: [[step_record(step) for step in block] for block in blocks],
            lambda records: [[step_of(record) for record in block] for block in records],
        )


class RecordedExecutor:
    """An `Executor` whose results are recorded."""

    def __init__(self, executor: Executor, journal: Journal) -> None:
        self._executor = executor
        self._journal = journal

    async def run(self, prefix: Sequence[Step], step: Step) -> Execution:
        """See `protocols.Executor`."""
        return await _recall(
            self._journal,
            self._journal.key("run", [before.code for before in prefix], step.code),
            lambda: self._executor.run(prefix, step),
            asdict,
            lambda record: Execution(
                **{**record, "status": ExecutionStatus(record["status"])},
            ),
        )


class RecordedScorer:
    """A `Scorer` whose values are recorded. Several scorers of one search need different names."""

    def __init__(self, scorer: Scorer, journal: Journal, name: str = "") -> None:
        self._scorer = scorer
        self._journal = journal
        self._name = name

    async def score(self, question: Question, prefixes: Sequence[Sequence[Step]]) -> list[float]:
        """See `protocols.Scorer`."""
        return await _recall(
            self._journal,
            self._journal.key("score", self._name, [_texts(prefix) for prefix in prefixes]),
            lambda: self._scorer.score(question, prefixes),
            list,
            lambda values: [float(value) for value in values],
        )


class RecordedPairJudge:
    """A `PairJudge` whose comparisons are recorded."""

    def __init__(self, judge: PairJudge, journal: Journal) -> None:
        self._judge = judge
        self._journal = journal

    async def compare(
        self, question: Question, first: Sequence[Step], second: Sequence[Step]
    ) -> float:
        """See `search.tournament.PairJudge`."""
        return await _recall(
            self._journal,
            self._journal.key("compare", _texts(first), _texts(second)),
            lambda: self._judge.compare(question, first, second),
            float,
            float,
        )


class RecordedVerifier:
    """A `Verifier` whose verdicts are recorded, so that a slow grader gives the same tree again."""

    def __init__(self, verifier: Verifier, journal: Journal) -> None:
        self._verifier = verifier
        self._journal = journal

    async def judge(self, answer: str) -> Verdict:
        """See `protocols.Verifier`."""
        return await _recall(
            self._journal,
            self._journal.key("judge", answer),
            lambda: self._verifier.judge(answer),
            lambda verdict: verdict.value,
            Verdict,
        )


class RecordedCompleter:
    """A `Completer` whose samples are recorded. Its other attributes are those of the model."""

    def __init__(self, completer: Completer, journal: Journal) -> None:
        self._completer = completer
        self._journal = journal

    def __getattr__(self, name: str) -> Any:
        return getattr(self._completer, name)

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
        """See `protocols.Completer`."""
        options = {"n": n, "max_tokens": max_tokens, "temperature": temperature, "seed": seed}
        return await _recall(
            self._journal,
            self._journal.key("complete", prompt, list(stop), options),
            lambda: self._completer.complete(
                prompt, n=n, stop=stop, max_tokens=max_tokens, temperature=temperature, seed=seed
            ),
            lambda completions: [asdict(completion) for completion in completions],
            lambda records: [_completion(record) for record in records],
        )


def _completion(record: dict[str, Any]) -> Completion:
    """Return the completion of a record."""
    stats = record.get("token_stats")
    return Completion(**record | {"token_stats": stats and TokenStats(**stats)})
