"""Removes duplicate problems and problems that overlap with evaluation sets.

A problem is compared with every evaluation question that shares an n-gram of words with it, where
numbers are masked. A match has one of five kinds:

- *same*: words and numbers of both texts are equal.
- *overlap*: both share an n-gram including its numbers, and at least `ratio` of the question's
  words occur in the problem in the same order (longest common subsequence).
- *part*: the question contains the whole problem, which has at least 5 words.
- *reordered*: the problem has all numbers of the question, and at least `template_ratio` of the
  question's words, numbers masked, occur in the problem in the same order.
- *template*: as *reordered*, with other numbers. It is a different problem of the same type, so it
  is reported and removed only on request.

Choice of n. GPT-3 (Brown et al., arXiv:2005.14165, appendix C) uses word n-grams without case,
punctuation and space. Its n is 8 to 13, depending on the length of a set's examples. Mathematics
repeats long phrases ("where m and n are relatively prime positive integers"), so an n-gram alone
removes too much. Cosmopedia therefore also checks the overlapping share (10-grams, then half of
the sample). The Qwen2.5-Math report (arXiv:2409.12122) does the same with 13-grams and a longest
common subsequence of 0.6; these figures are from memory and not verified. NuminaMath uses
embeddings.

At least half of an n-gram must be words of prose, because many problems share long formulas
(x ^ 2 + ...). If a question has no such n-gram, all its n-grams count. The source code of drawings
is ignored.

Short questions. n is half of the question's words, at least 8 and at most `n`. If it is less than
`n`, an overlap also requires equal numbers, or all numbers of the question and `template_ratio` of
its words. A question of fewer than 8 words matches only a whole problem. Paraphrases and
translations are not found. In scripts without spaces only whole questions are found.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from rstar_math import tasks
from rstar_math.errors import ConfigError
from rstar_math.problems.similarity import (
    SHINGLE,
    NgramIndex,
    Words,
    common_words,
    is_prose,
    likely_pairs,
    longest_run,
    split_words,
    without_drawings,
)
from rstar_math.types import Problem

SameAnswer = Callable[[str, str], bool]
"""(reference, reference) -> whether they are equal although written differently."""


@dataclass(frozen=True, slots=True)
class Duplicate:
    """A removed problem and the kept problem that it duplicates."""

    problem: Problem
    """The removed problem."""
    witness: Problem
    """The kept problem."""
    kind: Literal["same", "near"]
    """Equal words, or similar texts."""


@dataclass(frozen=True, slots=True)
class Deduplicated:
    """The result of deduplication. Each problem is in `kept`, `removed` or `conflicts` once."""

    kept: list[Problem]
    """In input order."""
    removed: list[Duplicate]
    conflicts: list[list[Problem]]
    """Groups of equal problems with contradicting references; none of them is kept."""
    twins: list[list[Problem]]
    """Groups of two or more kept problems that differ only in their numbers."""


def same_text(first: str, second: str) -> bool:
    """Whether two references are equal texts, ignoring case, space and typesetting."""
    return first.strip() == second.strip() or split_words(first) == split_words(second)


def deduplicate(
    problems: Sequence[Problem],
    *,
    threshold: float = 0.8,
    same_answer: SameAnswer = same_text,
) -> Deduplicated:
    """The problems without duplicates.

    Problems with equal words are duplicates, or conflicts if their references differ. Similar
    problems with equal numbers and equal references are duplicates too. `threshold` is their
    minimum Jaccard similarity in [0, 1]; above 1 only equal texts are duplicates. `same_answer`
    compares references that are written differently; it must be symmetric.
    """
    texts = [split_words(_compared_text(problem)) for problem in problems]
    witness: dict[int, int] = {}
    conflicts: list[list[int]] = []
    unique: list[int] = []
    keys = (_identity(problem, text) for problem, text in zip(problems, texts, strict=True))
    for group in _group_indices(keys):
        group.sort(key=lambda index: _priority(problems[index]))
        if _contradict((_answer(problems[index]) for index in group), same_answer):
            conflicts.append(sorted(group))
            continue
        unique.append(group[0])
        witness |= dict.fromkeys(group[1:], group[0])
    if threshold <= 1.0:
        for cluster in _similar_clusters(problems, texts, sorted(unique), threshold, same_answer):
            best = min(cluster, key=lambda index: _priority(problems[index]))
            witness |= {index: best for index in cluster if index != best}
    dropped = witness.keys() | {index for group in conflicts for index in group}
    kept = [index for index in range(len(problems)) if index not in dropped]
    variants = _group_indices((texts[index].masked for index in kept), kept)
    return Deduplicated(
        kept=[problems[index] for index in kept],
        removed=[
            _duplicate(problems, texts, index, _final_witness(index, witness))
            for index in sorted(witness)
        ],
        conflicts=[[problems[index] for index in group] for group in sorted(conflicts)],
        twins=[[problems[index] for index in group] for group in variants if len(group) > 1],
    )


def _identity(problem: Problem, text: Words) -> object:
    """A key that is equal for equal problems. A text without any words is its own key."""
    question = problem.question
    return (text.exact or question.text.strip(), question.kind, question.images)


def _compared_text(problem: Problem) -> str:
    """The text by which problems are compared: choices are the same only with their options."""
    question = problem.question
    return question.shown if question.kind is tasks.Kind.CHOICE else question.text


def _answer(problem: Problem) -> str | None:
    """The answer by which problems can contradict each other. Tests contradict none."""
    return None if problem.question.kind is tasks.Kind.CODE else problem.reference_text


def _priority(problem: Problem) -> tuple[object, ...]:
    """Sort key: the first of equal problems is kept. Problems with a reference come first."""
    return (
        problem.reference is None,
        problem.source or "",
        problem.id,
        problem.question.text,
        problem.reference_text or "",
        problem.level or "",
    )


def _group_indices(keys: Iterable[object], indices: Sequence[int] | None = None) -> list[list[int]]:
    """Groups of positions with equal keys, or of their `indices`, in order of first appearance."""
    groups: dict[object, list[int]] = {}
    for position, key in enumerate(keys):
        groups.setdefault(key, []).append(position if indices is None else indices[position])
    return list(groups.values())


def _contradict(references: Iterable[str | None], same_answer: SameAnswer) -> bool:
    """Whether any two references are different answers."""
    known = list(dict.fromkeys(text for text in references if text is not None))
    return any(not (same_text(a, b) or same_answer(a, b)) for a, b in combinations(known, 2))


def _similar_clusters(
    problems: Sequence[Problem],
    texts: Sequence[Words],
    candidates: Sequence[int],
    threshold: float,
    same_answer: SameAnswer,
) -> list[list[int]]:
    """Clusters of two or more near duplicates among the candidates (union-find)."""
    parent = {index: index for index in candidates}

    def find_root(index: int) -> int:
        while parent[index] != index:
            parent[index] = index = parent[parent[index]]
        return index

    plain = [texts[index].plain for index in candidates]
    for i, j in likely_pairs(plain, [texts[index].figures for index in candidates]):
        first, second = find_root(candidates[i]), find_root(candidates[j])
        if first != second and similarity(plain[i], plain[j]) >= threshold:
            a, b = _answer(problems[candidates[i]]), _answer(problems[candidates[j]])
            if a == b or (a and b and (same_text(a, b) or same_answer(a, b))):
                parent[second] = first
    clusters: dict[int, list[int]] = {}
    for index in candidates:
        clusters.setdefault(find_root(index), []).append(index)
    return [cluster for cluster in clusters.values() if len(cluster) > 1]


def similarity(first: Sequence[str], second: Sequence[str]) -> float:
    """The Jaccard similarity of the three-word shingles of two texts, in [0, 1].

    0 if a text is shorter than a shingle.
    """
    a, b = (
        {tuple(text[at : at + SHINGLE]) for at in range(len(text) - SHINGLE + 1)}
        for text in (first, second)
    )
    return len(a & b) / len(a | b) if a and b else 0.0


def _duplicate(
    problems: Sequence[Problem], texts: Sequence[Words], index: int, witness: int
) -> Duplicate:
    same = _identity(problems[index], texts[index]) == _identity(problems[witness], texts[witness])
    return Duplicate(problems[index], problems[witness], "same" if same else "near")


def _final_witness(index: int, witness: dict[int, int]) -> int:
    """The kept problem at the end of a chain of witnesses."""
    while index in witness:
        index = witness[index]
    return index


Kind = Literal["same", "overlap", "part", "reordered", "template"]
"""The kinds of match, from most to least certain."""
_KINDS: tuple[Kind, ...] = ("same", "overlap", "part", "reordered", "template")
_MASKED = ("reordered", "template")
MIN_NGRAM_WORDS = 8
"""Minimum number of words of an n-gram. A shorter question is compared as a whole."""
MIN_PART_WORDS = 5
"""Minimum number of words of a problem that matches as part of a question."""
_BLOCK = 4_000
"""Number of problems processed together; bounds the memory."""


@dataclass(frozen=True, slots=True)
class OverlapRule:
    """The definition of contamination; the module docstring explains the terms."""

    n: int = 13
    """Words of an n-gram, at least 8."""
    ratio: float = 0.6
    """Minimum share of the question's words in the problem, in [0, 1]."""
    template_ratio: float = 0.8
    """Minimum share with numbers masked, in [0, 1]."""
    templates: bool = False
    """Whether problems that differ from a question only in numbers are removed too."""


DEFAULT = OverlapRule()


@dataclass(frozen=True, slots=True)
class Match:
    """A problem and the evaluation question that it matches."""

    problem: Problem
    evaluation: str
    """Name of the evaluation set."""
    item: Problem
    """The evaluation question."""
    kind: Kind
    ratio: float
    """Share of the question's words that occur in the problem in the same order, in [0, 1]."""
    overlap: str
    """The longest run of words in both texts. Numbers are "#" if the match masks them."""


@dataclass(frozen=True, slots=True)
class Decontaminated:
    """The result of decontamination."""

    kept: list[Problem]
    """In input order."""
    removed: list[Match]
    """For each removed problem the best match with each evaluation set."""
    templates: list[Match]
    """Matches of kept problems that differ from an evaluation question only in numbers."""

    def counts(self) -> dict[str, dict[str, int]]:
        """Number of problems by evaluation set and kind. A problem counts once per matching set."""
        table: dict[str, dict[str, int]] = {}
        for match in (*self.removed, *self.templates):
            row = table.setdefault(match.evaluation, dict.fromkeys(_KINDS, 0))
            row[match.kind] += 1
        return table


@dataclass(frozen=True, slots=True)
class _Item:
    """An evaluation question, split into words."""

    evaluation: str
    problem: Problem
    words: Words
    n: int
    """Length of its n-grams; 0 if it is compared as a whole."""


class EvaluationIndex:
    """An index of evaluation questions that finds the matches of problems."""

    def __init__(self, sets: Mapping[str, Iterable[Problem]], rule: OverlapRule = DEFAULT) -> None:
        """`sets` maps names to evaluation sets. Raises `ConfigError` if the rule is invalid."""
        if rule.n < MIN_NGRAM_WORDS or not 0.0 <= min(rule.ratio, rule.template_ratio) <= 1.0:
            raise ConfigError(
                f"Invalid overlap rule n={rule.n}, ratio={rule.ratio}, "
                f"template_ratio={rule.template_ratio}; n must be at least {MIN_NGRAM_WORDS} and "
                "the ratios must be in 0 to 1."
            )
        self.rule = rule
        items = [
            _item(name, problem, rule.n) for name, problems in sets.items() for problem in problems
        ]
        self._items = items
        self._whole: dict[tuple[str, ...], list[int]] = {}
        for index, item in enumerate(items):
            self._whole.setdefault(item.words.masked, []).append(index)
        self._masked: list[NgramIndex] = []
        self._exact: list[NgramIndex] = []
        for n in sorted({item.n for item in items} - {0}):
            indices = [index for index, item in enumerate(items) if item.n == n]
            plain = [items[index].words.plain for index in indices]
            masked = [items[index].words.masked for index in indices]
            self._exact.append(NgramIndex(plain, indices, n, _is_mostly_prose))
            self._masked.append(NgramIndex(masked, indices, n, _is_mostly_prose))
        texts = [item.words.plain for item in items]
        lengths = range(MIN_PART_WORDS, max(rule.n, MIN_PART_WORDS))
        self._parts = {n: NgramIndex(texts, range(len(items)), n) for n in lengths}

    def matches(self, problems: Sequence[Problem]) -> list[list[Match]]:
        """For each problem its best match with each evaluation set."""
        texts = [_question_words(problem) for problem in problems]
        return [
            self._best_matches(problem, text, candidates)
            for problem, text, candidates in zip(
                problems, texts, self._candidates(texts), strict=True
            )
        ]

    def _candidates(self, texts: Sequence[Words]) -> list[dict[int, bool]]:
        """For each text the items to compare it with, and whether both share an unmasked n-gram."""
        candidates: list[dict[int, bool]] = [
            dict.fromkeys(self._whole.get(text.masked, ()) if text.plain else (), False)
            for text in texts
        ]
        for indices, exact in ((self._masked, False), (self._exact, True)):
            sequences = [text.plain if exact else text.masked for text in texts]
            for index in indices:
                for position, item in index.find_shared(sequences):
                    candidates[position][item] = exact
        for n, index in self._parts.items():
            short = [position for position, text in enumerate(texts) if len(text.plain) == n]
            for i, item in index.find_shared([texts[position].plain for position in short]):
                candidates[short[i]][item] = True
        return candidates

    def _best_matches(
        self, problem: Problem, text: Words, candidates: Mapping[int, bool]
    ) -> list[Match]:
        """The most certain match in each set; ties go to the match with the highest ratio."""
        best: dict[str, tuple[int, float, int]] = {}
        for index, exact in candidates.items():
            item = self._items[index]
            result = _classify(text, item, exact, self.rule)
            if result is not None:
                rank = (_KINDS.index(result[0]), -result[1], index)
                best[item.evaluation] = min(rank, best.get(item.evaluation, rank))
        return [
            Match(
                problem,
                name,
                self._items[index].problem,
                _KINDS[kind],
                -ratio,
                _longest_overlap(text, self._items[index].words, masked=_KINDS[kind] in _MASKED),
            )
            for name, (kind, ratio, index) in sorted(best.items())
        ]


def decontaminate(problems: Sequence[Problem], evaluations: EvaluationIndex) -> Decontaminated:
    """The problems without those that occur in an evaluation set, and the matches of the others."""
    kept: list[Problem] = []
    removed: list[Match] = []
    templates: list[Match] = []
    for start in range(0, len(problems), _BLOCK):
        block = problems[start : start + _BLOCK]
        for problem, matches in zip(block, evaluations.matches(block), strict=True):
            if any(match.kind != "template" or evaluations.rule.templates for match in matches):
                removed.extend(matches)
            else:
                kept.append(problem)
                templates.extend(matches)
    return Decontaminated(kept, removed, templates)


def _question_words(problem: Problem) -> Words:
    return split_words(without_drawings(problem.question.text))


def _item(name: str, problem: Problem, n: int) -> _Item:
    text = _question_words(problem)
    length = len(text.plain)
    ngram = max(MIN_NGRAM_WORDS, min(n, length // 2)) if length >= MIN_NGRAM_WORDS else 0
    return _Item(name, problem, text, ngram)


def _is_mostly_prose(ngram: Sequence[str]) -> bool:
    """Whether at least half of an n-gram are words of prose."""
    return 2 * sum(map(is_prose, ngram)) >= len(ngram)


def _classify(
    text: Words, item: _Item, exact: bool, rule: OverlapRule
) -> tuple[Kind, float] | None:
    """The kind of a match and the ratio of shared words; None if the problem does not match.

    `exact` states that both texts share an unmasked n-gram.
    """
    question = item.words
    if text.plain == question.plain:
        return ("same" if text.exact == question.exact else "overlap"), 1.0
    all_numbers = not Counter(question.numbers) - Counter(text.numbers)
    if exact:
        ratio = common_words(question.plain, text.plain) / len(question.plain)
        sufficient = item.n == rule.n or text.numbers == question.numbers
        if ratio >= rule.ratio and (sufficient or (all_numbers and ratio >= rule.template_ratio)):
            return "overlap", ratio
        if len(text.plain) >= MIN_PART_WORDS and _contains(question.plain, text.plain):
            return "part", ratio
    if len(text.masked) < rule.template_ratio * len(question.masked):
        return None
    if item.n == 0 and text.masked != question.masked:
        return None
    ratio = common_words(question.masked, text.masked) / len(question.masked)
    if ratio < rule.template_ratio:
        return None
    return ("reordered" if all_numbers else "template"), ratio


def _contains(whole: Sequence[str], part: Sequence[str]) -> bool:
    return f" {' '.join(part)} " in f" {' '.join(whole)} "


def _longest_overlap(text: Words, question: Words, *, masked: bool) -> str:
    """The longest run of words that occurs in both texts."""
    first, second = (text.masked, question.masked) if masked else (text.plain, question.plain)
    start, length = longest_run(first, second)
    return " ".join(first[start : start + length])
