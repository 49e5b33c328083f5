"""The problem sets of an evolution: read, deduplicated, decontaminated, split into training and
held-out problems. They are files in `round-0`."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rstar_math.errors import InputError
from rstar_math.evolution.manifest import ManifestStore, StageResult, file_digest
from rstar_math.evolution.recipe import BenchmarkSection, Recipe, RoundSection
from rstar_math.problems.annotated import parse_solution
from rstar_math.problems.filtering import (
    EvaluationIndex,
    Match,
    OverlapRule,
    decontaminate,
    deduplicate,
)
from rstar_math.problems.jsonl import read_problems, sample, write_problems
from rstar_math.problems.sources import (
    AnnotatedProblem,
    is_source,
    parse_source,
    read_solutions,
    read_sources,
)
from rstar_math.seeding import derive
from rstar_math.text import count_noun
from rstar_math.types import Problem, Verdict

TRAIN, HELD_OUT, SOLUTIONS = "train.jsonl", "held-out.jsonl", "solutions.jsonl"
SYNTHETIC = "synthetic.jsonl"
"""Problems that a model wrote; only with `synthesis.requests`."""
_EXAMPLES = 5
ALL_PROBLEMS = RoundSection()
"""A round without restrictions on its problems."""


def benchmark_file(number: int) -> str:
    """File name of the recipe's nth benchmark, counted from 1."""
    return f"set-{number}.jsonl"


def prepare_problems(manifests: ManifestStore, recipe: Recipe) -> StageResult:
    """Write the problem files; the counts, and examples of what was excluded and why.

    Raises `InputError` if no training problem is left, a benchmark has no reference answers, or a
    round has no problems to search.
    """
    section = recipe.problems
    benchmarks = [_read_benchmark(item, section.seed) for item in recipe.evaluation.benchmarks]
    titles = unique_titles(recipe.evaluation.benchmarks)
    read = read_sources(section.train)
    with_answer = [problem for problem in read if problem.reference is not None]
    unique = deduplicate(with_answer, same_answer=_same_answer)
    by_title = dict(zip(titles, benchmarks, strict=True))
    clean = decontaminate(
        unique.kept, EvaluationIndex(by_title, OverlapRule(templates=section.exclude_templates))
    )
    kept = sample(clean.kept, section.limit, section.seed)
    held_out = {p.id for p in sample(kept, section.held_out, derive(section.seed, "held-out"))}
    train = [problem for problem in kept if problem.id not in held_out]
    if not train:
        raise InputError(
            f"No training problems are left: {len(kept)} of {len(read)} problems are usable, and "
            f"problems.held_out is {section.held_out}. Add problems, or lower problems.held_out."
        )
    folder = manifests.path("round-0")
    folder.mkdir(exist_ok=True)
    write_problems(folder / TRAIN, train)
    write_problems(folder / HELD_OUT, [problem for problem in kept if problem.id in held_out])
    for number, problems in enumerate(benchmarks, 1):
        write_problems(folder / benchmark_file(number), problems)
    solutions = 0
    if _needs_solutions(recipe):
        solutions = _write_solutions(folder / SOLUTIONS, section.train, train)
    files = sorted(folder.glob("*.jsonl"))
    restricted = {
        filter_name(item): item for item in recipe.rounds if item.max_solution_steps or item.sources
    }
    pools = {
        name: len(training_pool(manifests, 1, item)) for name, item in sorted(restricted.items())
    }
    return {
        "counts": {
            "read": len(read),
            "without an answer": len(read) - len(with_answer),
            "the same as another": len(unique.removed),
            "the same with other answers": sum(map(len, unique.conflicts)),
            "in a set that is measured on": len({m.problem.id for m in clean.removed}),
            "beyond the limit": len(clean.kept) - len(kept),
            "to learn from": len(train),
            "held out": len(held_out),
            "with annotated solutions": solutions,
            **pools,
        },
        "sources": dict(Counter(problem.source or "" for problem in kept)),
        "overlaps": clean.counts(),
        "examples": [_overlap_example(match) for match in clean.removed[:_EXAMPLES]],
        "sets": {title: len(problems) for title, problems in by_title.items()},
        "files": {path.name: file_digest(path) for path in files},
    }


def read_problem_file(manifests: ManifestStore, name: str) -> list[Problem]:
    """The problems of one of the files, such as `TRAIN`."""
    return read_problems(manifests.path("round-0", name))


def training_pool(
    manifests: ManifestStore, number: int, section: RoundSection = ALL_PROBLEMS
) -> list[Problem]:
    """The problems that a round may search.

    These are the training problems and the synthetic problems that no earlier round found
    unreliable, restricted to the round's `sources` and `max_solution_steps`. Raises `InputError`
    if a restriction leaves none.
    """
    problems = read_problem_file(manifests, TRAIN)
    if ((manifests.result("0/synthesis") or {}).get("counts") or {}).get("kept"):
        problems += read_problem_file(manifests, SYNTHETIC)
    unreliable = unreliable_in_earlier_rounds(manifests, number)
    problems = [problem for problem in problems if problem.id not in unreliable]
    if section.sources:
        known = sorted({problem.source or "" for problem in problems})
        problems = [
            p for p in problems if any(part in (p.source or "") for part in section.sources)
        ]
        if not problems:
            raise InputError(
                f"No training problem has a source with {' or '.join(section.sources)} in its "
                f"name; change rounds.sources. The sources are {', '.join(known)}."
            )
    if section.max_solution_steps is None:
        return problems
    has_solutions = manifests.path("round-0", SOLUTIONS).is_file()
    solutions = read_annotated_solutions(manifests) if has_solutions else []
    lengths = {
        annotated.id: len(
            parse_solution(annotated.question, annotated.solution, annotated.answer).steps
        )
        for annotated in solutions
    }
    short = [p for p in problems if 1 <= lengths.get(p.id, 0) <= section.max_solution_steps]
    if not short:
        raise InputError(
            "No training problem has an annotated solution of at most "
            f"{section.max_solution_steps} steps; remove rounds.max_solution_steps, or start a new "
            "run on problems with solutions in the style of GSM8K."
        )
    return short


def filter_name(section: RoundSection) -> str:
    """The name of a count: training problems that fit a round's restrictions; "" without any."""
    parts = [f"of {', '.join(section.sources)}"] if section.sources else []
    if section.max_solution_steps:
        parts.append(f"solved in at most {count_noun(section.max_solution_steps, 'step')}")
    return " ".join(parts)


def unreliable_in_earlier_rounds(manifests: ManifestStore, number: int) -> set[str]:
    """Ids of synthetic problems whose reference the solutions of an earlier round mostly
    contradict."""
    results = (manifests.result(f"{earlier}/curate") or {} for earlier in range(1, number))
    return {entry["problem"] for result in results for entry in result.get("unreliable", ())}


def read_annotated_solutions(manifests: ManifestStore) -> list[AnnotatedProblem]:
    """The annotated solutions of training problems."""
    return list(read_solutions(str(manifests.path("round-0", SOLUTIONS))))


def unique_titles(benchmarks: Sequence[BenchmarkSection]) -> list[str]:
    """A short, unique title for each benchmark."""
    titles: list[str] = []
    for section in benchmarks:
        source = section.source
        title = parse_source(source).title if is_source(source) else source
        while title in titles:
            title += "'"
        titles.append(title)
    return titles


def _read_benchmark(section: BenchmarkSection, seed: int) -> list[Problem]:
    """The problems of a benchmark that have a reference answer, sampled to its size."""
    from rstar_math.problems.benchmarks import load_benchmark

    graded = [p for p in load_benchmark(section.source).problems if p.reference is not None]
    if not graded:
        raise InputError(
            f"The benchmark {section.source} has no reference answers; remove it from "
            "evaluation.benchmarks."
        )
    return sample(graded, section.size, derive(seed, section.source))


def _same_answer(first: str, second: str) -> bool:
    from rstar_math.grading.grader import grade

    return grade(first, second).verdict is Verdict.RIGHT


def _needs_solutions(recipe: Recipe) -> bool:
    """Whether a round trains on annotated solutions, or selects problems by their length."""
    return any(
        section.data == "annotated" or section.max_solution_steps is not None
        for section in recipe.rounds
    )


def _write_solutions(path: Path, sources: Sequence[str], train: Sequence[Problem]) -> int:
    """Write the annotated solutions of training problems; their number. Raises `InputError` if
    there are none."""
    by_text = {problem.question.text.strip(): problem for problem in train}
    lines: dict[str, str] = {}
    for source in sources:
        for annotated in read_solutions(source):
            problem = by_text.get(annotated.question.strip())
            if problem is not None and problem.id not in lines:
                row = {
                    "id": problem.id,
                    "problem": annotated.question,
                    "solution": annotated.solution,
                    "answer": annotated.answer,
                }
                lines[problem.id] = json.dumps(row, ensure_ascii=False)
    if not lines:
        raise InputError(
            "A round of this recipe needs annotated solutions, and no source has any. Add a source "
            'whose lines have a "solution" in the style of GSM8K, or set rounds.1.model and remove '
            "rounds.max_solution_steps."
        )
    path.write_text("".join(f"{line}\n" for line in lines.values()), encoding="utf-8")
    return len(lines)


def _overlap_example(match: Match) -> dict[str, Any]:
    """An excluded problem with the benchmark problem that it overlaps, as JSON."""
    return {
        "problem": match.problem.id,
        "set": match.evaluation,
        "item": match.item.id,
        "kind": match.kind,
        "overlap": match.overlap[:200],
    }
