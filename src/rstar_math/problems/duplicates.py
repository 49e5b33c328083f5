"""Duplicates among problems: which are dropped, for which other, and which only look alike.

- *Same*: equal texts apart from case, space, punctuation and typesetting. One of them stays. Where
  their references are not equal none stays, for one of them is wrong: a conflict.
- *Near*: the same figures (numbers, operators, brackets, letters) in the same order, at least
  `threshold` of all three-word shingles in common, and equal references or none. One stays. With
  different references they are different questions ("how many more", "how many in all").
- *Twins*: equal texts apart from the numbers. They have answers of their own and all stay.

Who survives depends on the problems and not on their order, and removing duplicates again removes
nothing. The threshold is that of Lee et al. (arXiv:2107.06499) for near-duplicates.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from rstar_math.problems.minhash import SHINGLE, likely_pairs
from rstar_math.problems.similarity import Words, words
from rstar_math.types import Problem

SameAnswer = Callable[[str, str], bool]
"""Whether two reference answers, written differently, are equal."""


@dataclass(frozen=True, slots=True)
class Duplicate:
    """A problem that was dropped, and the witness: the one that stays in its place."""

    problem: Problem
    witness: Problem
    kind: Literal["same", "near"]


@dataclass(frozen=True, slots=True)
class Deduplicated:
    """What became of some problems: each is in `kept`, `removed` or `conflicts`, once."""

    kept: list[Problem]
    """In the order they came."""
    removed: list[Duplicate]
    conflicts: list[list[Problem]]
    """Groups of the same problem with contradicting references; none of them is kept."""
    twins: list[list[Problem]]
    """Families, of two or more, of kept problems that differ in nothing but their numbers."""


def textually(first: str, second: str) -> bool:
    """Whether two references are equal as texts, apart from case, space and typesetting."""
    return first.strip() == second.strip() or words(first).exact == words(second).exact


def deduplicate(
    problems: Sequence[Problem],
    *,
    threshold: float = 0.8,
    same_answer: SameAnswer = textually,
) -> Deduplicated:
    """The problems without duplicates; see the module.

    `threshold` is a Jaccard similarity in [0, 1]; above 1 only the same texts are duplicates.
    `same_answer` compares references that are written differently; it should be symmetric.
    """
    read = [words(problem.question.text) for problem in problems]
    witness: dict[int, int] = {}
    conflicts: list[list[int]] = []
    firsts: list[int] = []
    for group in _groups(_key(problem, text) for problem, text in zip(problems, read, strict=True)):
        group.sort(key=lambda index: _rank(problems[index]))
        if _contradict((problems[index].reference for index in group), same_answer):
            conflicts.append(sorted(group))
            continue
        firsts.append(group[0])
        witness |= dict.fromkeys(group[1:], group[0])
    if threshold <= 1.0:
        for cluster in _clusters(problems, read, sorted(firsts), threshold, same_answer):
            best = min(cluster, key=lambda index: _rank(problems[index]))
            witness |= {index: best for index in cluster if index != best}
    gone = witness.keys() | {index for group in conflicts for index in group}
    kept = [index for index in range(len(problems)) if index not in gone]
    families = _groups((read[index].masked for index in kept), kept)
    return Deduplicated(
        kept=[problems[index] for index in kept],
        removed=[
            _duplicate(problems, read, index, _last(index, witness)) for index in sorted(witness)
        ],
        conflicts=[[problems[index] for index in group] for group in sorted(conflicts)],
        twins=[[problems[index] for index in group] for group in families if len(group) > 1],
    )


def _key(problem: Problem, text: Words) -> object:
    """What same problems have in common; a text of signs that are no words stands for itself."""
    return text.exact or problem.question.text.strip()


def _rank(problem: Problem) -> tuple[object, ...]:
    """Whoever comes first stays: one with a reference, then by source, id and text."""
    return (
        problem.reference is None,
        problem.source or "",
        problem.id,
        problem.question.text,
        problem.reference or "",
        problem.level or "",
    )


def _groups(keys: Iterable[object], names: Sequence[int] | None = None) -> list[list[int]]:
    """Positions, or their names, with equal keys, in order of first appearance."""
    found: dict[object, list[int]] = {}
    for position, key in enumerate(keys):
        found.setdefault(key, []).append(position if names is None else names[position])
    return list(found.values())


def _contradict(references: Iterable[str | None], same_answer: SameAnswer) -> bool:
    """Whether two of some references are different answers."""
    known = list(dict.fromkeys(text for text in references if text is not None))
    return any(not (textually(a, b) or same_answer(a, b)) for a, b in combinations(known, 2))


def _clusters(
    problems: Sequence[Problem],
    read: Sequence[Words],
    chosen: Sequence[int],
    threshold: float,
    same_answer: SameAnswer,
) -> list[list[int]]:
    """Clusters of near duplicates among the chosen problems, those of one left out."""
    leader = {index: index for index in chosen}

    def lead(index: int) -> int:
        while leader[index] != index:
            leader[index] = index = leader[leader[index]]
        return index

    texts = [read[index].plain for index in chosen]
    figures = [read[index].figures for index in chosen]
    for one, other in likely_pairs(texts, figures):
        first, second = lead(chosen[one]), lead(chosen[other])
        if first != second and similarity(texts[one], texts[other]) >= threshold:
            a, b = problems[chosen[one]].reference, problems[chosen[other]].reference
            if a == b or (a and b and (textually(a, b) or same_answer(a, b))):
                leader[second] = first
    clusters: dict[int, list[int]] = {}
    for index in chosen:
        clusters.setdefault(lead(index), []).append(index)
    return [cluster for cluster in clusters.values() if len(cluster) > 1]


def similarity(first: Sequence[str], second: Sequence[str]) -> float:
    """Jaccard similarity of the three-word shingles of two texts, in [0, 1]; 0 without shingles."""
    a, b = (
        {tuple(text[at : at + SHINGLE]) for at in range(len(text) - SHINGLE + 1)}
        for text in (first, second)
    )
    return len(a & b) / len(a | b) if a and b else 0.0


def _duplicate(
    problems: Sequence[Problem], read: Sequence[Words], index: int, witness: int
) -> Duplicate:
    same = _key(problems[index], read[index]) == _key(problems[witness], read[witness])
    return Duplicate(problems[index], problems[witness], "same" if same else "near")


def _last(index: int, witness: dict[int, int]) -> int:
    """The survivor that a problem's witness, itself perhaps removed, leads to."""
    while index in witness:
        index = witness[index]
    return index
