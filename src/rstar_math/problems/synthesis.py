"""New problems by a model from seed problems, kept only if independent solutions agree (rStar-Math,
arXiv:2501.04519: at least 3 of 10).

Asking, telling apart and deciding; `evolution.synthesis` puts them together. Every draft that was
asked for is kept or counted by one reason.
"""

import random
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any, Self

from pydantic import Field, model_validator

from rstar_math.concurrency import gather
from rstar_math.config.sections import Section
from rstar_math.costs import ENVIRONMENT_FIELDS, track_cost
from rstar_math.errors import ConfigError, ContextLengthError, RequestError
from rstar_math.problems.drafts import DraftFile, DraftResponse
from rstar_math.problems.filtering import Evaluations, Match, Rule, decontaminate, deduplicate
from rstar_math.problems.jsonl import question_id
from rstar_math.problems.similarity import words
from rstar_math.protocols import Completer
from rstar_math.seeding import derive
from rstar_math.types import SYNTHETIC, Problem, Question


class SynthesisConfig(Section):
    """New problems that a model writes after the pattern of some it is shown, kept where its
    independent solutions agree (rStar-Math, arXiv:2501.04519: at least 3 of 10)."""

    requests: int = Field(0, ge=0)
    """Requests for new problems, each with seed problems of its own; 0 for none at all."""
    per_request: int = Field(4, ge=1, le=1024)
    """New problems sampled with the same seed problems."""
    shots: int = Field(3, ge=1)
    """Seed problems shown."""
    solutions: int = Field(10, ge=1)
    """Independent solutions of each new problem (paper: 10)."""
    min_agreement: int = Field(3, ge=1)
    """Of them so many must agree, and more than on any other answer (paper: 3)."""
    temperature: float = Field(1.0, ge=0, le=5)
    """Sampling temperature of the new problems; their solutions have that of the policy."""
    max_tokens: int = Field(256, ge=1)
    """Most tokens of a new problem; one that is cut off is not used."""
    seed: int = 0
    """Seed of the drawing of seed problems, and of the sampling."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.min_agreement > self.solutions:
            raise ValueError(
                f"min_agreement = {self.min_agreement} is above solutions = {self.solutions}"
            )
        return self

    @property
    def most(self) -> int:
        """New problems at most."""
        return self.requests * self.per_request


STOPS = ("\n\n", "\nProblem:", "\nAnswer", "\nSolution", "\nQuestion:")
"""Stop strings of a new problem."""
FEWEST_WORDS = 6
MOST_CHARS = 2_000
MOST_ANSWER_CHARS = 200
"""Longest answer that becomes a reference."""
_LEAD = re.compile(r"\A\W*(?:new\s+)?(?:problem|question)\s*\d*\s*[:.]\**\s*", re.IGNORECASE)
_SOLVED = re.compile(r"\b(?:answer|solution)\s*:|\\boxed|####|_____", re.IGNORECASE)
_MARKED = re.compile(r"</?\s*(?:step|code|output|answer)\b|<\||^\s*Question:", re.I | re.M)
"""Marks of a solution's or a chat's own text: with them a draft could bring the beginning of its
solution along, on which all solutions would agree."""
_ASKS = re.compile(
    r"\?|\b(?:find|compute|calculate|determine|evaluate|solve|simplify|how many|how much|what)\b",
    re.IGNORECASE,
)
_BLANK = re.compile(r"\n\s*\n")


@dataclass(frozen=True, slots=True)
class Agreement:
    """What independent solutions of one problem came to."""

    answer: str | None
    """The answer that most of them gave; None where none was given or two were as frequent."""
    agreeing: int
    """Solutions with this answer, or with one as frequent as any."""
    solutions: int
    """Solutions asked for, also those without an answer."""

    def reference(self, least: int) -> str | None:
        """The answer as a reference; None where fewer than `least` agree on it, or it is nothing
        that a file of problems can hold."""
        found = self.answer
        if found is None or self.agreeing < least:
            return None
        return found if len(found) <= MOST_ANSWER_CHARS and is_clean(found) else None


def synthesis_prompt(seeds: Sequence[Problem]) -> str:
    """Seed problems as examples, each one paragraph, then room for a new one."""
    texts = (_BLANK.sub("\n", seed.question.text.strip()) for seed in seeds)
    shown = "".join(f"Problem: {text}\n\n" for text in texts)
    return f"{_instruction()}{shown}Problem:"


def read_draft(text: str) -> str | None:
    """The problem that a sampled text holds, or None: too short or long, asking nothing, told with
    its answer, or with characters or marks that are no text of a problem."""
    start = text.strip()[: 2 * MOST_CHARS]
    draft = _LEAD.sub("", start).split("\n\n")[0].strip()
    if len(draft) > MOST_CHARS or not is_clean(draft):
        return None
    if _SOLVED.search(draft) or _MARKED.search(draft) or not _ASKS.search(draft):
        return None
    return draft if len(words(draft).plain) >= FEWEST_WORDS else None


def is_clean(text: str) -> bool:
    """Whether all of a text can be seen and written: no control characters but line ends and tabs,
    no invisible ones, no halves of characters."""
    return not any(
        unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Cn") for c in text if c not in "\n\t"
    )


def agreement(votes: Mapping[str, float], solutions: int) -> Agreement:
    """What some solutions agree on. `votes` are those of a majority over them (a `Choice`'s): one
    for each solution with an answer, by classes of equal answers; `solutions` is how many were
    asked for."""
    ranked = sorted(votes.items(), key=lambda item: -item[1])[:2]
    if not ranked:
        return Agreement(None, 0, solutions)
    (leader, most), *others = ranked
    tied = bool(others) and others[0][1] == most
    return Agreement(None if tied else leader, round(most), solutions)


@cache
def _instruction() -> str:
    """The words before the seeds, ended by an empty line."""
    text = (files("rstar_math.problems") / "synthesis.txt").read_text(encoding="utf-8")
    return text.rstrip("\n") + "\n\n"


OnWritten = Callable[[DraftResponse], None]
_FAILED = {ContextLengthError: "context exceeded", RequestError: "request failed"}
_BLOCK = 20_000
"""Known problems that drafts are held against at once; bounds the memory."""
EXAMPLES = 5
"""Examples kept of each reason."""
_CHARS = 200
"""Characters of an example."""
NOT_WRITTEN, CUT, UNREADABLE = "not written", "cut off", "unreadable"
REPEATED = "the same as another draft"
UNASKED, SILENT, DISAGREED = "solver not reached", "without an answer", "without agreement"


@dataclass(frozen=True, slots=True)
class KnownProblems:
    """Problems that no draft may ask again."""

    reason: str
    """What a draft that does is counted as."""
    sets: Mapping[str, Sequence[Problem]]
    rule: Rule = field(default_factory=Rule)


@dataclass(frozen=True, slots=True)
class Synthetic:
    """A new problem and where it came from."""

    problem: Problem
    """Its reference is the answer agreed on."""
    seeds: tuple[str, ...]
    """Ids of the problems that the model was shown."""
    model: str
    agreement: Agreement

    def provenance(self) -> dict[str, Any]:
        """As the key "provenance" of a problem file tells it."""
        return {
            "seeds": list(self.seeds),
            "model": self.model,
            "agreeing": self.agreement.agreeing,
            "solutions": self.agreement.solutions,
        }


@dataclass(slots=True)
class Rejections:
    """What became of the drafts that were not kept."""

    counts: Counter[str] = field(default_factory=Counter)
    """By reason."""
    examples: list[dict[str, str]] = field(default_factory=list)
    """At most `EXAMPLES` of each reason: "why", "draft", "because"."""

    def add(self, reason: str, text: str, because: str = "") -> None:
        """Count a draft, and keep it as an example while there are few."""
        self.counts[reason] += 1
        if self.counts[reason] <= EXAMPLES:
            self.examples.append({"why": reason, "draft": _short(text), "because": _short(because)})


@dataclass(frozen=True, slots=True)
class NewDrafts:
    """Drafts that are problems, and new ones."""

    problems: list[Problem]
    """Without references, in the order of the requests."""
    origins: dict[str, DraftResponse]
    """By id the request that each came from."""
    matches: list[Match]
    """What others are held to be."""


async def write_drafts(
    completer: Completer,
    seeds: Sequence[Problem],
    config: SynthesisConfig,
    file: DraftFile,
    *,
    model: str,
    width: int,
    on_written: OnWritten,
) -> None:
    """Ask for what the file lacks of the drafts, `width` requests at a time, each kept when it is
    answered. A request that cannot be served is kept as failed. Raises `ModelError` where the model
    cannot be asked at all, and what `on_written` raises."""
    left = iter([number for number in range(config.requests) if number not in file.done])

    async def writer() -> None:
        for number in left:
            written = await _ask(completer, seeds, config, number, model)
            file.keep(written)
            on_written(written)

    await gather(writer() for _ in range(width))


async def _ask(
    completer: Completer,
    seeds: Sequence[Problem],
    config: SynthesisConfig,
    number: int,
    model: str,
) -> DraftResponse:
    """One request."""
    seed = derive(config.seed, "synthesis", number)
    shown = random.Random(seed).sample(seeds, config.shots)
    failure: str | None = None
    texts: tuple[str | None, ...] = ()
    with track_cost() as cost:
        try:
            found = await completer.complete(
                synthesis_prompt(shown),
                n=config.per_request,
                stop=STOPS,
                max_tokens=config.max_tokens,
                temperature=config.temperature,
                seed=seed,
            )
            texts = tuple(one.text if one.finished else None for one in found[: config.per_request])
        except (ContextLengthError, RequestError) as error:
            failure = _FAILED[type(error)]
    spent = {key: value for key, value in asdict(cost).items() if value}
    kept = {key: value for key, value in spent.items() if key not in ENVIRONMENT_FIELDS}
    names = tuple(problem.id for problem in shown)
    return DraftResponse(number, names, texts, model, failure, kept)


def require_seeds(seeds: Sequence[Problem], config: SynthesisConfig) -> None:
    """Raise `ConfigError` where there are fewer seed problems than are shown."""
    if len(seeds) < config.shots:
        raise ConfigError(
            f"Each request shows {config.shots} seed problems and there are {len(seeds)}; give "
            "more problems, or fewer shots."
        )


def filter_drafts(
    written: Sequence[DraftResponse],
    config: SynthesisConfig,
    known: Sequence[KnownProblems],
    out: Rejections,
) -> NewDrafts:
    """The drafts that are problems, each once, and asked nowhere in `known`; the others go to
    `out`. Who stays does not depend on the order in which requests were answered."""
    drafts: list[Problem] = []
    origins: dict[str, DraftResponse] = {}
    for one in written:
        for text in one.texts:
            if text is None:
                out.counts[CUT] += 1
                continue
            draft = read_draft(text)
            if draft is None:
                out.add(UNREADABLE, text)
                continue
            name = f"{SYNTHETIC}/{question_id(draft)}"
            drafts.append(Problem(Question(name, draft), None, SYNTHETIC))
            origins.setdefault(name, one)
    missing = config.most - sum(len(one.texts) for one in written)
    out.counts.update({NOT_WRITTEN: missing} if missing else {})
    single = deduplicate(drafts)
    for twice in single.removed:
        out.add(REPEATED, twice.problem.question.text, twice.witness.question.text)
    fresh, matches = single.kept, []
    for one_kind in known:
        for evaluations in _evaluations(one_kind):
            found = decontaminate(fresh, evaluations)
            fresh = found.kept
            for match in found.removed:
                because = f"{match.evaluation} {match.item.id} ({match.kind}): {match.overlap}"
                out.add(one_kind.reason, match.problem.question.text, because)
            matches += found.removed
    return NewDrafts(fresh, {problem.id: origins[problem.id] for problem in fresh}, matches)


def _evaluations(known: KnownProblems) -> Iterator[Evaluations]:
    """Known problems, ready to have drafts held against them, some at a time."""
    for name, problems in known.sets.items():
        for start in range(0, len(problems), _BLOCK):
            yield Evaluations({name: problems[start : start + _BLOCK]}, known.rule)


def accept_by_agreement(
    fresh: NewDrafts,
    found: Mapping[str, tuple[Agreement, bool]],
    config: SynthesisConfig,
    out: Rejections,
) -> list[Synthetic]:
    """The problems on whose answers enough solutions agree; the others go to `out`. `found` is by
    id, with whether the solver could be asked at all."""
    kept: list[Synthetic] = []
    for problem in fresh.problems:
        agreed, asked = found[problem.id]
        reference = agreed.reference(config.min_agreement)
        if reference is None:
            reason = DISAGREED if agreed.agreeing else SILENT if asked else UNASKED
            out.add(reason, problem.question.text, _said(agreed))
            continue
        origin = fresh.origins[problem.id]
        solved = Problem(problem.question, reference, SYNTHETIC)
        kept.append(Synthetic(solved, origin.seeds, origin.model, agreed))
    return kept


def _said(agreed: Agreement) -> str:
    """What some solutions came to, in words."""
    if not agreed.agreeing:
        return ""
    share = f"{agreed.agreeing} of {agreed.solutions}"
    if agreed.answer is None:
        return f"several answers of {share} each"
    return f"{share} say {agreed.answer}"


def _short(text: str) -> str:
    """The beginning of a text on one line, with nothing in it that cannot be seen."""
    line = " ".join(text[: 4 * _CHARS].split())
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line)
    return shown if len(shown) <= _CHARS else f"{shown[: _CHARS - 3]}..."
