"""Removes duplicates, and problems that overlap with evaluation sets.

A problem is held against every evaluation question that it shares an n-gram of words with, numbers
masked, and is

- *same*: the words and numbers of the two are equal;
- *overlap*: they share an n-gram with the numbers in it, and at least `ratio` of the question's
  words are in the problem in the same order (longest common subsequence);
- *part*: all of the problem, of 5 words or more, is in the question as it stands;
- *reordered*: the question's numbers are all there, in any order, and at least `template_ratio` of
  the question's words, numbers masked, are in the problem in the same order;
- *template*: as reordered, with other numbers. Reported, and removed only on demand: the problem
  is another one, of a kind that the evaluation asks.

Where n comes from. GPT-3 (Brown et al., arXiv:2005.14165, appendix C) takes n-grams of words
without case, punctuation and space, n between 8 and 13 by the length of a set's examples.
Mathematics repeats long phrases ("where m and n are relatively prime positive integers"), so that
an n-gram alone removes too much; a second look at the share of the question that is there is what
Cosmopedia's decontamination does (10-grams, then half of the sample) and, as we remember it,
unverified, the Qwen2.5-Math report (arXiv:2409.12122: 13-grams, then a longest common subsequence
of 0.6). NuminaMath used embeddings.

Half of an n-gram must be words of prose, for formulas that go over many words (x ^ 2 + ...) are in
many problems; a question that has no such n-gram is looked for with all that it has. The source of
drawings is left out.

The rule for short questions: n is half of the question's words, at least 8 and at most `n`, and
where it is less than `n`, an overlap needs the same numbers besides, or all of the question's
and `template_ratio` of its words. A question of fewer than 8 words is found where the whole problem
is the same. Paraphrases and translations are not found; in scripts without spaces, whole questions
alone are.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from rstar_math.errors import ConfigError
from rstar_math.problems.similarity import (
    SHINGLE,
    NgramIndex,
    Words,
    common_words,
    is_prose,
    likely_pairs,
    longest_run,
    without_drawings,
    words,
)
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


Kind = Literal["same", "overlap", "part", "reordered", "template"]
"""The ways to be contaminated, the surest first."""
_KINDS: tuple[Kind, ...] = ("same", "overlap", "part", "reordered", "template")
_MASKED = ("reordered", "template")
SHORTEST = 8
"""Words below which a question has no n-grams of its own."""
PART = 5
"""Words from which on a problem that is part of a question counts."""
_BLOCK = 4_000
"""Problems looked at together; bounds the memory."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What counts as contaminated; see the module."""

    n: int = 13
    """Words of an n-gram, at least 8."""
    ratio: float = 0.6
    """Least share of the question's words in the problem, in [0, 1]."""
    template_ratio: float = 0.8
    """The same with numbers masked, in [0, 1]."""
    templates: bool = False
    """Whether problems with other numbers are removed too."""


DEFAULT = Rule()


@dataclass(frozen=True, slots=True)
class Match:
    """A problem and the evaluation question that it is held to be."""

    problem: Problem
    evaluation: str
    """Name of the evaluation set."""
    item: Problem
    """The evaluation's problem."""
    kind: Kind
    ratio: float
    """Share of the question's words that are in the problem in order, in [0, 1]."""
    overlap: str
    """The longest run of words that both have; numbers as "#" where they differ."""


@dataclass(frozen=True, slots=True)
class Decontaminated:
    """What became of some problems."""

    kept: list[Problem]
    """In the order they came."""
    removed: list[Match]
    """The surest match of each removed problem with each evaluation set that it was found in."""
    templates: list[Match]
    """The same of those kept that are questions of an evaluation with other numbers."""

    def counts(self) -> dict[str, dict[str, int]]:
        """Problems by evaluation set and kind; a problem counts in every set it was found in."""
        table: dict[str, dict[str, int]] = {}
        for match in (*self.removed, *self.templates):
            row = table.setdefault(match.evaluation, dict.fromkeys(_KINDS, 0))
            row[match.kind] += 1
        return table


@dataclass(frozen=True, slots=True)
class _Item:
    """An evaluation question, read."""

    evaluation: str
    problem: Problem
    words: Words
    n: int
    """Length of the n-grams looked for; 0 where the whole question is."""


class Evaluations:
    """Evaluation questions, ready to have problems held against them."""

    def __init__(self, sets: Mapping[str, Iterable[Problem]], rule: Rule = DEFAULT) -> None:
        """`sets` are by name. Raises `ConfigError` for a rule out of range."""
        if rule.n < SHORTEST or not 0.0 <= min(rule.ratio, rule.template_ratio) <= 1.0:
            raise ConfigError(
                f"Decontamination takes n-grams of at least {SHORTEST} words and shares from 0 to "
                f"1; it has n={rule.n}, ratio={rule.ratio} and "
                f"template_ratio={rule.template_ratio}."
            )
        self.rule = rule
        items = [_item(name, problem, rule.n) for name, asked in sets.items() for problem in asked]
        self._items = items
        self._whole: dict[tuple[str, ...], list[int]] = {}
        for index, item in enumerate(items):
            self._whole.setdefault(item.words.masked, []).append(index)
        self._masked: list[NgramIndex] = []
        self._exact: list[NgramIndex] = []
        for n in sorted({item.n for item in items} - {0}):
            chosen = [index for index, item in enumerate(items) if item.n == n]
            plain = [items[index].words.plain for index in chosen]
            masked = [items[index].words.masked for index in chosen]
            self._exact.append(NgramIndex(plain, chosen, n, _is_rich))
            self._masked.append(NgramIndex(masked, chosen, n, _is_rich))
        texts = [item.words.plain for item in items]
        lengths = range(PART, max(rule.n, PART))
        self._parts = {n: NgramIndex(texts, range(len(items)), n) for n in lengths}

    def matches(self, problems: Sequence[Problem]) -> list[list[Match]]:
        """For each problem the surest match with each set that it is found in."""
        read = [_read(problem) for problem in problems]
        candidates = self._candidates(read)
        return [
            self._best(problem, text, some)
            for problem, text, some in zip(problems, read, candidates, strict=True)
        ]

    def _candidates(self, read: Sequence[Words]) -> list[dict[int, bool]]:
        """For each problem the questions worth a look, and whether they share an n-gram as it
        stands, without masks."""
        found: list[dict[int, bool]] = [
            dict.fromkeys(self._whole.get(text.masked, ()) if text.plain else (), False)
            for text in read
        ]
        for indices, exact in ((self._masked, False), (self._exact, True)):
            texts = [text.plain if exact else text.masked for text in read]
            for index in indices:
                for problem, item in index.sharing(texts):
                    found[problem][item] = exact
        for n, index in self._parts.items():
            chosen = [at for at, text in enumerate(read) if len(text.plain) == n]
            for at, item in index.sharing([read[at].plain for at in chosen]):
                found[chosen[at]][item] = True
        return found

    def _best(self, problem: Problem, read: Words, some: Mapping[int, bool]) -> list[Match]:
        """The surest match in each set; of equal ones that with the most in common."""
        best: dict[str, tuple[int, float, int]] = {}
        for index, exact in some.items():
            item = self._items[index]
            judged = _judge(read, item, exact, self.rule)
            if judged is not None:
                rank = (_KINDS.index(judged[0]), -judged[1], index)
                best[item.evaluation] = min(rank, best.get(item.evaluation, rank))
        return [
            Match(
                problem,
                name,
                self._items[index].problem,
                _KINDS[kind],
                -ratio,
                _shown(read, self._items[index].words, masked=_KINDS[kind] in _MASKED),
            )
            for name, (kind, ratio, index) in sorted(best.items())
        ]


def decontaminate(problems: Sequence[Problem], evaluations: Evaluations) -> Decontaminated:
    """The problems that no evaluation set asks, and for each of the others what asks it."""
    kept: list[Problem] = []
    removed: list[Match] = []
    templates: list[Match] = []
    for start in range(0, len(problems), _BLOCK):
        block = problems[start : start + _BLOCK]
        for problem, found in zip(block, evaluations.matches(block), strict=True):
            if any(match.kind != "template" or evaluations.rule.templates for match in found):
                removed.extend(found)
            else:
                kept.append(problem)
                templates.extend(found)
    return Decontaminated(kept, removed, templates)


def _read(problem: Problem) -> Words:
    return words(without_drawings(problem.question.text))


def _item(name: str, problem: Problem, n: int) -> _Item:
    read = _read(problem)
    length = len(read.plain)
    grams = max(SHORTEST, min(n, length // 2)) if length >= SHORTEST else 0
    return _Item(name, problem, read, grams)


def _is_rich(ngram: Sequence[str]) -> bool:
    """Whether at least half of an n-gram are words of prose."""
    return 2 * sum(map(is_prose, ngram)) >= len(ngram)


def _judge(read: Words, item: _Item, exact: bool, rule: Rule) -> tuple[Kind, float] | None:
    """How a problem is an evaluation's question, and the share of its words; None if it is not."""
    asked = item.words
    if read.plain == asked.plain:
        return ("same" if read.exact == asked.exact else "overlap"), 1.0
    all_numbers = not Counter(asked.numbers) - Counter(read.numbers)
    if exact:
        ratio = common_words(asked.plain, read.plain) / len(asked.plain)
        enough = item.n == rule.n or read.numbers == asked.numbers
        if ratio >= rule.ratio and (enough or (all_numbers and ratio >= rule.template_ratio)):
            return "overlap", ratio
        if len(read.plain) >= PART and _contains(asked.plain, read.plain):
            return "part", ratio
    if len(read.masked) < rule.template_ratio * len(asked.masked):
        return None
    if item.n == 0 and read.masked != asked.masked:
        return None
    ratio = common_words(asked.masked, read.masked) / len(asked.masked)
    if ratio < rule.template_ratio:
        return None
    return ("reordered" if all_numbers else "template"), ratio


def _contains(whole: Sequence[str], part: Sequence[str]) -> bool:
    return f" {' '.join(part)} " in f" {' '.join(whole)} "


def _shown(read: Words, asked: Words, *, masked: bool) -> str:
    """The longest run of words in common."""
    ours, theirs = (read.masked, asked.masked) if masked else (read.plain, asked.plain)
    start, length = longest_run(ours, theirs)
    return " ".join(ours[start : start + length])
