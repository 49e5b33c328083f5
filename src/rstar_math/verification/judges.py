"""Verifiers and groupers of all kinds of problems, from one table.

async with Judges(config.grading, config.sandbox) as judges:
    verdict = await judges.judge(problem, answer)
    classes = await judges.grouper(problem.question)(answers)
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rstar_math.config.sections import GradingConfig, SandboxConfig
from rstar_math.grading.grader import Grader
from rstar_math.protocols import AnswerGrouper, Verifier
from rstar_math.sandbox.executor import Sandbox
from rstar_math.tasks import (
    AcceptedTexts,
    ChoiceTask,
    CodeTask,
    HiddenTests,
    Kind,
    Reference,
    RightOptions,
    TextTask,
)
from rstar_math.types import Problem, Question, Verdict
from rstar_math.verification.choices import read_choice
from rstar_math.verification.code import ProgramVerifier, group_programs
from rstar_math.verification.opinions import OpinionJudge
from rstar_math.verification.texts import equal_texts, group_texts


class Judges:
    """Verifiers and groupers. They share one grader and one sandbox, which start when needed.

    `sandbox` is used instead of an own one and is not closed. `opinion` is a model that decides
    short texts whose normal forms differ; None means that they are different answers.
    """

    def __init__(
        self,
        grading: GradingConfig | None = None,
        sandbox_config: SandboxConfig | None = None,
        *,
        sandbox: Sandbox | None = None,
        opinion: OpinionJudge | None = None,
    ) -> None:
        self.opinion = opinion
        self._grading = grading
        self._sandbox_config = sandbox_config
        self._sandbox = sandbox
        self._grader: Grader | None = None
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the grader and the sandbox if they were started here."""
        await self._stack.aclose()
        self._grader = None

    @property
    def grader(self) -> Grader:
        """The grader of mathematical answers."""
        if self._grader is None:
            self._grader = Grader(self._grading)
            self._stack.push_async_callback(self._grader.aclose)
        return self._grader

    @property
    def sandbox(self) -> Sandbox:
        """The sandbox in which programs are tested."""
        if self._sandbox is None:
            self._sandbox = Sandbox(self._sandbox_config)
            self._stack.push_async_callback(self._sandbox.aclose)
        return self._sandbox

    def verifier(self, problem: Problem) -> Verifier:
        """A Verifier for one problem. No other object of a search holds the reference.

        Raises `ValueError` if the problem has no reference.
        """
        if problem.reference is None:
            raise ValueError(f"problem {problem.id!r} has no reference")
        return JUDGING[problem.question.kind].verifier(self, problem.question, problem.reference)

    async def judge(self, problem: Problem, answer: str | None) -> Verdict:
        """Whether a final answer is right; None is wrong. Use it only after a search."""
        return Verdict.WRONG if answer is None else await self.verifier(problem).judge(answer)

    def grouper(self, question: Question) -> AnswerGrouper:
        """The function that sorts answers to a question into classes of equal answers."""
        group = JUDGING[question.kind].group

        async def group_answers(answers: Sequence[str]) -> list[int]:
            return await group(self, question, answers)

        return group_answers


@dataclass(frozen=True, slots=True)
class Judging:
    """How the answers to one kind of problem are judged and grouped."""

    verifier: Callable[[Judges, Question, Reference], Verifier]
    group: Callable[[Judges, Question, Sequence[str]], Awaitable[list[int]]]


def _math_verifier(judges: Judges, question: Question, reference: Reference) -> Verifier:
    assert isinstance(reference, str)
    return judges.grader.verifier(reference)


async def _group_math(judges: Judges, question: Question, answers: Sequence[str]) -> list[int]:
    return await judges.grader.group(answers)


def _code_verifier(judges: Judges, question: Question, reference: Reference) -> Verifier:
    assert isinstance(question.task, CodeTask)
    assert isinstance(reference, HiddenTests)
    return ProgramVerifier(judges.sandbox, question.task, reference)


async def _group_code(judges: Judges, question: Question, answers: Sequence[str]) -> list[int]:
    assert isinstance(question.task, CodeTask)
    return await group_programs(judges.sandbox, question.task, answers)


@dataclass(frozen=True, slots=True)
class _ChoiceVerifier:
    task: ChoiceTask
    reference: RightOptions

    async def judge(self, answer: str) -> Verdict:
        """Whether exactly the right options are chosen; UNKNOWN if none can be read."""
        chosen = read_choice(answer, self.task)
        if chosen is None:
            return Verdict.UNKNOWN
        return Verdict.RIGHT if chosen == self.reference.letters else Verdict.WRONG


def _choice_verifier(judges: Judges, question: Question, reference: Reference) -> Verifier:
    assert isinstance(question.task, ChoiceTask)
    assert isinstance(reference, RightOptions)
    return _ChoiceVerifier(question.task, reference)


async def _group_choices(judges: Judges, question: Question, answers: Sequence[str]) -> list[int]:
    assert isinstance(question.task, ChoiceTask)
    numbers: dict[object, int] = {}
    keys = [read_choice(answer, question.task) or answer.strip() for answer in answers]
    return [numbers.setdefault(key, len(numbers)) for key in keys]


@dataclass(frozen=True, slots=True)
class _TextVerifier:
    question: Question
    task: TextTask
    reference: AcceptedTexts
    opinion: OpinionJudge | None

    async def judge(self, answer: str) -> Verdict:
        """Whether the answer has the normal form of an accepted text, or the model says so."""
        if any(equal_texts(answer, text, self.task.form) for text in self.reference.texts):
            return Verdict.RIGHT
        if self.opinion is None or self.task.form != "words":
            return Verdict.WRONG
        return await self.opinion.same(self.question, answer, self.reference.texts)


def _text_verifier(judges: Judges, question: Question, reference: Reference) -> Verifier:
    assert isinstance(question.task, TextTask)
    assert isinstance(reference, AcceptedTexts)
    return _TextVerifier(question, question.task, reference, judges.opinion)


async def _group_texts(judges: Judges, question: Question, answers: Sequence[str]) -> list[int]:
    assert isinstance(question.task, TextTask)
    return group_texts(question.task, answers)


JUDGING: Mapping[Kind, Judging] = {
    Kind.MATH: Judging(_math_verifier, _group_math),
    Kind.CODE: Judging(_code_verifier, _group_code),
    Kind.CHOICE: Judging(_choice_verifier, _group_choices),
    Kind.TEXT: Judging(_text_verifier, _group_texts),
}
"""Judging by kind of problem."""
