"""The problem sets of an evolution: read, deduplicated, decontaminated, split into training and
held-out problems."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rstar_math.errors import InputError
from rstar_math.evolution.manifest import Facts, ManifestStore, file_digest
from rstar_math.evolution.recipe import Recipe, RoundSection, SetSection
from rstar_math.problems.annotated import annotated_steps
from rstar_math.problems.filtering import Evaluations, Match, Rule, decontaminate, deduplicate
from rstar_math.problems.jsonl import read_problems, sample, write_problems
from rstar_math.problems.sources import (
    AnnotatedProblem,
    is_source,
    parse_source,
    read_solutions,
    read_sources,
)
from rstar_math.seeding import derive
from rstar_math.types import Problem, Verdict

TRAIN, HELD_OUT, SOLUTIONS = "train.jsonl", "held-out.jsonl", "solutions.jsonl"
SYNTHETIC = "synthetic.jsonl"
"""Problems that a model wrote, where the recipe asks for them."""
_EXAMPLES = 5
ANY_ROUND = RoundSection()
"""A round that may search all problems."""


def evaluation_file(number: int) -> str:
    """Name of the file of the recipe's nth set to measure on, counted from 1."""
    return f"set-{number}.jsonl"


def prepare_problems(journal: ManifestStore, recipe: Recipe) -> Facts:
    """Write the files of problems; counts, and what was left out and why.

    Raises `InputError` where nothing is left, or a set has no reference answers.
    """
    sets = [_set(one, recipe.problems.seed) for one in recipe.evaluation.benchmarks]
    names = unique_titles(recipe.evaluation.benchmarks)
    section = recipe.problems
    read = read_sources(section.train)
    usable = [problem for problem in read if problem.reference is not None]
    single = deduplicate(usable, same_answer=_same)
    asked = dict(zip(names, sets, strict=True))
    clean = decontaminate(
        single.kept, Evaluations(asked, Rule(templates=section.exclude_templates))
    )
    kept = sample(clean.kept, section.limit, section.seed)
    held = {p.id for p in sample(kept, section.held_out, derive(section.seed, "held-out"))}
    train = [problem for problem in kept if problem.id not in held]
    if not train:
        raise InputError(
            f"Of {len(read)} problems {len(kept)} are left and {section.held_out} are to be held "
            "out; give more problems, or a smaller problems.held_out."
        )
    folder = journal.path("round-0")
    folder.mkdir(exist_ok=True)
    write_problems(folder / TRAIN, train)
    write_problems(folder / HELD_OUT, [problem for problem in kept if problem.id in held])
    for number, problems in enumerate(sets, 1):
        write_problems(folder / evaluation_file(number), problems)
    solved = _annotated(folder / SOLUTIONS, section.train, train) if _needs_solutions(recipe) else 0
    files = sorted(path for path in folder.glob("*.jsonl"))
    chosen = {
        filter_name(one): one for one in recipe.rounds if one.max_solution_steps or one.sources
    }
    parts = {name: len(training_pool(journal, 1, one)) for name, one in sorted(chosen.items())}
    return {
        "counts": {
            "read": len(read),
            "without an answer": len(read) - len(usable),
            "the same as another": len(single.removed),
            "the same with other answers": sum(map(len, single.conflicts)),
            "in a set that is measured on": len({m.problem.id for m in clean.removed}),
            "beyond the limit": len(clean.kept) - len(kept),
            "to learn from": len(train),
            "held out": len(held),
            "with annotated solutions": solved,
            **parts,
        },
        "sources": dict(Counter(problem.source or "" for problem in kept)),
        "overlaps": clean.counts(),
        "examples": [_example(match) for match in clean.removed[:_EXAMPLES]],
        "sets": {name: len(problems) for name, problems in asked.items()},
        "files": {path.name: file_digest(path) for path in files},
    }


def problems_in(journal: ManifestStore, name: str) -> list[Problem]:
    """The problems of one of the files."""
    return read_problems(journal.path("round-0", name))


def training_pool(
    journal: ManifestStore, number: int, one: RoundSection = ANY_ROUND
) -> list[Problem]:
    """What a round may search: the problems to learn from, and those that a model wrote, but for
    these that an earlier round found to be unreliable; only those that the round's `steps` and
    `sources` let through. Raises `InputError` where there are none."""
    problems = problems_in(journal, TRAIN)
    if ((journal.facts("0/synthesis") or {}).get("counts") or {}).get("kept"):
        problems += problems_in(journal, SYNTHETIC)
    doubted = unreliable_in_earlier_rounds(journal, number)
    kept = [problem for problem in problems if problem.id not in doubted]
    if one.sources:
        there = sorted({problem.source or "" for problem in kept})
        kept = [p for p in kept if any(part in (p.source or "") for part in one.sources)]
        if not kept:
            raise InputError(
                f"No problem to learn from is of a source with {' or '.join(one.sources)} in its "
                f"name; there are {', '.join(there)} (rounds.sources)."
            )
    if one.max_solution_steps is None:
        return kept
    solved = solutions_in(journal) if journal.path("round-0", SOLUTIONS).is_file() else []
    lengths = {
        one.id: len(annotated_steps(one.question, one.solution, one.answer).steps) for one in solved
    }
    short = [
        problem for problem in kept if 1 <= lengths.get(problem.id, 0) <= one.max_solution_steps
    ]
    if not short:
        raise InputError(
            "No problem to learn from has an annotated solution of at most "
            f"{one.max_solution_steps} steps; leave out rounds.max_solution_steps, or start a new "
            "run on problems with solutions as in GSM8K."
        )
    return short


def filter_name(one: RoundSection) -> str:
    """The name of a count: problems to learn from that a round's `steps` and `sources` let
    through."""
    named = [f"of {', '.join(one.sources)}"] if one.sources else []
    named += [f"solved in at most {one.max_solution_steps} steps"] if one.max_solution_steps else []
    return " ".join(named)


def unreliable_in_earlier_rounds(journal: ManifestStore, number: int) -> set[str]:
    """Ids of the synthetic problems whose solutions in a round before this mostly contradicted
    their references."""
    found = (journal.facts(f"{before}/curate") or {} for before in range(1, number))
    return {one["problem"] for facts in found for one in facts.get("unreliable", ())}


def solutions_in(journal: ManifestStore) -> list[AnnotatedProblem]:
    """The annotated solutions of problems to learn from."""
    return list(read_solutions(str(journal.path("round-0", SOLUTIONS))))


def unique_titles(sets: Sequence[SetSection]) -> list[str]:
    """Short names of sets to measure on, no two alike."""
    names: list[str] = []
    for one in sets:
        name = parse_source(one.source).title if is_source(one.source) else one.source
        while name in names:
            name += "'"
        names.append(name)
    return names


def _set(one: SetSection, seed: int) -> list[Problem]:
    """The problems of a set to measure on."""
    from rstar_math.problems.benchmarks import load

    graded = [problem for problem in load(one.source).problems if problem.reference is not None]
    if not graded:
        raise InputError(f"{one.source} has no reference answers, so nothing can be measured.")
    return sample(graded, one.size, derive(seed, one.source))


def _same(first: str, second: str) -> bool:
    from rstar_math.grading.grader import grade

    return grade(first, second).verdict is Verdict.RIGHT


def _needs_solutions(recipe: Recipe) -> bool:
    """Whether a round is made of annotated solutions, or chooses its problems by their length."""
    return any(
        one.data == "annotated" or one.max_solution_steps is not None for one in recipe.rounds
    )


def _annotated(path: Path, sources: Sequence[str], train: Sequence[Problem]) -> int:
    """Write the solutions that sources hold of problems to learn from; how many there are."""
    by_text = {problem.question.text.strip(): problem for problem in train}
    lines: dict[str, str] = {}
    for source in sources:
        for one in read_solutions(source):
            problem = by_text.get(one.question.strip())
            if problem is not None and problem.id not in lines:
                entry = {"problem": one.question, "solution": one.solution, "answer": one.answer}
                lines[problem.id] = json.dumps({"id": problem.id, **entry}, ensure_ascii=False)
    if not lines:
        raise InputError(
            "No source has annotated solutions, which a round of this recipe needs; name one whose "
            'lines have a "solution" as in GSM8K, or set rounds.1.model and leave out '
            "rounds.max_solution_steps."
        )
    path.write_text("".join(f"{line}\n" for line in lines.values()), encoding="utf-8")
    return len(lines)


def _example(match: Match) -> dict[str, Any]:
    """A problem that was left out, and because of what."""
    return {
        "problem": match.problem.id,
        "set": match.evaluation,
        "item": match.item.id,
        "kind": match.kind,
        "overlap": match.overlap[:200],
    }
