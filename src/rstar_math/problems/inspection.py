"""What a set of problems holds: kinds, missing answers, duplicates, overlap with known sets."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rstar_math.problems.filtering import (
    Decontaminated,
    Deduplicated,
    EvaluationIndex,
    decontaminate,
    deduplicate,
)
from rstar_math.tasks import ChoiceTask, CodeTask, HiddenTests, Kind, TextTask
from rstar_math.text import count_noun
from rstar_math.types import Problem

FEW_TESTS = 3
"""Code problems with fewer tests are reported: programs that are wrong pass them easily."""
_QUESTION_CHARS = 300


@dataclass(frozen=True, slots=True)
class Inspection:
    """Facts about a set of problems."""

    kinds: dict[Kind, list[Problem]]
    """The problems of each kind that occurs, in order."""
    without_answer: list[Problem]
    few_tests: list[Problem]
    """Code problems with fewer than `FEW_TESTS` tests, public and hidden ones together."""
    without_examples: list[Problem]
    """Code problems without a public test, in whose search programs are not valued."""
    duplicates: Deduplicated
    overlap: Decontaminated | None
    """None if no known sets were given."""

    def as_json(self) -> dict[str, Any]:
        """The facts with the ids of problems."""
        report: dict[str, Any] = {
            "problems": sum(map(len, self.kinds.values())),
            "kinds": {kind.value: len(found) for kind, found in self.kinds.items()},
            "first": {kind.value: describe(found[0]) for kind, found in self.kinds.items()},
            "images": sum(bool(p.question.images) for f in self.kinds.values() for p in f),
            "without_answer": [problem.id for problem in self.without_answer],
            "few_tests": [problem.id for problem in self.few_tests],
            "without_public_tests": [problem.id for problem in self.without_examples],
            "duplicates": [
                {"id": d.problem.id, "same_as": d.witness.id, "kind": d.kind}
                for d in self.duplicates.removed
            ],
            "contradictions": [[p.id for p in group] for group in self.duplicates.conflicts],
        }
        if self.overlap is not None:
            report["overlap"] = [
                {"id": m.problem.id, "set": m.evaluation, "with": m.item.id, "kind": m.kind}
                for m in (*self.overlap.removed, *self.overlap.templates)
            ]
        return report


def inspect_problems(
    problems: Sequence[Problem],
    known: Mapping[str, Sequence[Problem]],
    same_answer: Callable[[str, str], bool],
) -> Inspection:
    """The facts about problems. `known` maps names to sets with which they may overlap."""
    kinds: dict[Kind, list[Problem]] = {}
    for problem in problems:
        kinds.setdefault(problem.question.kind, []).append(problem)
    graded = [p for p in kinds.get(Kind.CODE, []) if p.reference is not None]
    return Inspection(
        kinds={kind: kinds[kind] for kind in Kind if kind in kinds},
        without_answer=[problem for problem in problems if problem.reference is None],
        few_tests=[problem for problem in graded if count_tests(problem) < FEW_TESTS],
        without_examples=[p for p in kinds.get(Kind.CODE, []) if not _examples(p)],
        duplicates=deduplicate(problems, same_answer=same_answer),
        overlap=decontaminate(problems, EvaluationIndex(known)) if known else None,
    )


def count_tests(problem: Problem) -> int:
    """The number of tests of a code problem, public and hidden ones."""
    hidden = problem.reference.tests if isinstance(problem.reference, HiddenTests) else ()
    return _examples(problem) + len(hidden)


def _examples(problem: Problem) -> int:
    task = problem.question.task
    return len(task.examples) if isinstance(task, CodeTask) else 0


def describe(problem: Problem) -> str:
    """The problem in words: how its question begins, and how an answer is judged."""
    text = " ".join(problem.question.text.split())
    text = text if len(text) <= _QUESTION_CHARS else f"{text[: _QUESTION_CHARS - 3]}..."
    return f"{text} [{_judged_by(problem)}]"


def _judged_by(problem: Problem) -> str:
    reference = problem.reference_text
    images = len(problem.question.images)
    pictures = f"{count_noun(images, 'picture')}; " if images else ""
    match problem.question.task:
        case CodeTask() as task:
            way = f"calls of {task.function}" if task.function else "standard input and output"
            public, all_tests = len(task.examples), count_tests(problem)
            answer = f"{way}: {public} public and {all_tests - public} hidden tests"
            if problem.reference is not None:
                limits = f"{task.time_s:g} s and {task.memory_mb} MiB each"
                return f"{pictures}{answer}, {limits}"
            return f"{pictures}{way}, no tests"
        case ChoiceTask(options=options):
            answer = f"one of {len(options)} options"
        case TextTask(form=form):
            answer = {"words": "a few words", "yesno": "yes or no"}.get(form, f"a {form}")
        case None:
            answer = "a mathematical answer"
    return f"{pictures}{answer}: {reference}" if reference else f"{pictures}{answer}, unknown"


def kinds_in_words(problems: Sequence[Problem]) -> str:
    """The counts by kind, for example "20 code, 40 choice"."""
    counts = Counter(problem.question.kind for problem in problems)
    return ", ".join(f"{counts[kind]} {kind}" for kind in Kind if counts[kind])
