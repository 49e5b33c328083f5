"""Problem synthesis: a model writes new problems from seed problems.

A new problem is accepted only if independent solutions agree on its answer (rStar-Math,
arXiv:2501.04519: at least 3 of 10). This module holds the parts: sampling drafts, filtering them
and accepting them. `evolution.synthesis` combines the parts. Every requested draft is either
accepted or counted under one reason.
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
from rstar_math.problems.filtering import (
    EvaluationIndex,
    Match,
    OverlapRule,
    decontaminate,
    deduplicate,
)
from rstar_math.problems.jsonl import question_id
from rstar_math.problems.similarity import split_words
from rstar_math.protocols import Completer
from rstar_math.seeding import derive
from rstar_math.types import SYNTHETIC, Problem, Question


class SynthesisConfig(Section):
    """Problem synthesis: a model writes new problems modelled on seed problems.

    A new problem is accepted only if independent solutions agree on its answer (rStar-Math,
    arXiv:2501.04519: at least 3 of 10).
    """

    requests: int = Field(0, ge=0)
    """Number of requests for new problems, each with different seed problems. 0 turns synthesis
    off."""
    per_request: int = Field(4, ge=1, le=1024)
    """Number of new problems sampled per request."""
    shots: int = Field(3, ge=1)
    """Number of seed problems in each prompt."""
    solutions: int = Field(10, ge=1)
    """Number of independent solutions per new problem (paper: 10)."""
    min_agreement: int = Field(3, ge=1)
    """Minimum number of solutions with the same answer (paper: 3). No other answer may be as
    frequent."""
    temperature: float = Field(1.0, ge=0, le=5)
    """Sampling temperature of the new problems. Their solutions use the policy's temperature."""
    max_tokens: int = Field(256, ge=1)
    """Maximum number of tokens of a new problem. Truncated problems are discarded."""
    seed: int = 0
    """Random seed for the choice of seed problems and for sampling."""

    @model_validator(mode="after")
    def _check_agreement(self) -> Self:
        if self.min_agreement > self.solutions:
            raise ValueError(
                f"min_agreement = {self.min_agreement} is above solutions = {self.solutions}; "
                "lower min_agreement or raise solutions"
            )
        return self

    @property
    def max_drafts(self) -> int:
        """Maximum number of new problems."""
        return self.requests * self.per_request


STOPS = ("\n\n", "\nProblem:", "\nAnswer", "\nSolution", "\nQuestion:")
"""Stop strings of a new problem."""
MIN_WORDS = 6
"""Minimum number of words of a new problem."""
MAX_CHARS = 2_000
"""Maximum length of a new problem in characters."""
MAX_ANSWER_CHARS = 200
"""Maximum length in characters of an answer that becomes a reference."""
_LABEL = re.compile(r"\A\W*(?:new\s+)?(?:problem|question)\s*\d*\s*[:.]\**\s*", re.IGNORECASE)
_ANSWER_MARK = re.compile(r"\b(?:answer|solution)\s*:|\\boxed|####|_____", re.IGNORECASE)
_FORMAT_MARK = re.compile(r"</?\s*(?:step|code|output|answer)\b|<\||^\s*Question:", re.I | re.M)
"""Marks of a solution or a chat. A draft with such a mark may contain the start of its solution, so
all sampled solutions would agree."""
_ASKS = re.compile(
    r"\?|\b(?:find|compute|calculate|determine|evaluate|solve|simplify|how many|how much|what)\b",
    re.IGNORECASE,
)
_BLANK = re.compile(r"\n\s*\n")


@dataclass(frozen=True, slots=True)
class Agreement:
    """The agreement of independent solutions of one problem."""

    answer: str | None
    """The most frequent answer; None if there is no answer or two are equally frequent."""
    agreeing: int
    """Number of solutions with the most frequent answer."""
    solutions: int
    """Number of requested solutions, including those without an answer."""

    def reference(self, min_agreement: int) -> str | None:
        """The answer, if it can serve as a reference.

        None if fewer than `min_agreement` solutions agree, or if the answer is too long or has
        invisible characters.
        """
        answer = self.answer
        if answer is None or self.agreeing < min_agreement:
            return None
        return answer if len(answer) <= MAX_ANSWER_CHARS and is_clean(answer) else None


def synthesis_prompt(seeds: Sequence[Problem]) -> str:
    """The prompt for a new problem: an instruction and the seed problems, one paragraph each."""
    texts = (_BLANK.sub("\n", seed.question.text.strip()) for seed in seeds)
    examples = "".join(f"Problem: {text}\n\n" for text in texts)
    return f"{_instruction()}{examples}Problem:"


def read_draft(text: str) -> str | None:
    """The problem in a sampled text; None if the text is unusable.

    A text is unusable if it is too short or too long, asks no question, contains its answer, or
    has invisible characters or marks of another format.
    """
    start = text.strip()[: 2 * MAX_CHARS]
    draft = _LABEL.sub("", start).split("\n\n")[0].strip()
    if len(draft) > MAX_CHARS or not is_clean(draft):
        return None
    if _ANSWER_MARK.search(draft) or _FORMAT_MARK.search(draft) or not _ASKS.search(draft):
        return None
    return draft if len(split_words(draft).plain) >= MIN_WORDS else None


def is_clean(text: str) -> bool:
    """Whether a text has no control characters (except newline and tab), no invisible characters
    and no unpaired surrogates."""
    return not any(
        unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Cn") for c in text if c not in "\n\t"
    )


def agreement(votes: Mapping[str, float], solutions: int) -> Agreement:
    """The agreement of solutions, from the votes of a majority vote over them.

    `votes` maps each class of equal answers to its number of solutions (`Choice.votes`).
    `solutions` is the number of requested solutions.
    """
    ranked = sorted(votes.items(), key=lambda item: -item[1])[:2]
    if not ranked:
        return Agreement(None, 0, solutions)
    (leader, count), *others = ranked
    tied = bool(others) and others[0][1] == count
    return Agreement(None if tied else leader, round(count), solutions)


@cache
def _instruction() -> str:
    """The instruction before the seed problems, with an empty line at its end."""
    text = (files("rstar_math.problems") / "synthesis.txt").read_text(encoding="utf-8")
    return text.rstrip("\n") + "\n\n"


OnResponse = Callable[[DraftResponse], None]
_FAILURES = {ContextLengthError: "context exceeded", RequestError: "request failed"}
_BLOCK = 20_000
"""Number of known problems in one index; bounds the memory."""
EXAMPLES = 5
"""Number of examples stored per reason."""
_EXAMPLE_CHARS = 200
"""Maximum length of an example in characters."""
NOT_WRITTEN, CUT, UNREADABLE = "not written", "cut off", "unreadable"
REPEATED = "the same as another draft"
UNASKED, SILENT, DISAGREED = "solver not reached", "without an answer", "without agreement"


@dataclass(frozen=True, slots=True)
class KnownProblems:
    """Existing problems that a draft must not repeat."""

    reason: str
    """The reason under which a repeated problem is counted."""
    sets: Mapping[str, Sequence[Problem]]
    """Problems by the name of their set."""
    rule: OverlapRule = field(default_factory=OverlapRule)


@dataclass(frozen=True, slots=True)
class Synthetic:
    """An accepted problem and its origin."""

    problem: Problem
    """Its reference is the answer that the solutions agree on."""
    seeds: tuple[str, ...]
    """Ids of the seed problems in the prompt."""
    model: str
    agreement: Agreement

    def provenance(self) -> dict[str, Any]:
        """The value of the key "provenance" in a problem file."""
        return {
            "seeds": list(self.seeds),
            "model": self.model,
            "agreeing": self.agreement.agreeing,
            "solutions": self.agreement.solutions,
        }


@dataclass(slots=True)
class Rejections:
    """The rejected drafts: counts and examples."""

    counts: Counter[str] = field(default_factory=Counter)
    """By reason."""
    examples: list[dict[str, str]] = field(default_factory=list)
    """At most `EXAMPLES` per reason, with the keys "why", "draft" and "because"."""

    def add(self, reason: str, text: str, because: str = "") -> None:
        """Count a draft, and store it while its reason has fewer than `EXAMPLES` examples."""
        self.counts[reason] += 1
        if self.counts[reason] <= EXAMPLES:
            self.examples.append({"why": reason, "draft": _short(text), "because": _short(because)})


@dataclass(frozen=True, slots=True)
class NewDrafts:
    """Drafts that are well-formed, distinct and not among the known problems."""

    problems: list[Problem]
    """Without references, in the order of the requests."""
    origins: dict[str, DraftResponse]
    """The response that each problem comes from, by problem id."""
    matches: list[Match]
    """The matches of rejected drafts with known problems."""


async def write_drafts(
    completer: Completer,
    seeds: Sequence[Problem],
    config: SynthesisConfig,
    file: DraftFile,
    *,
    model: str,
    width: int,
    on_response: OnResponse,
) -> None:
    """Send the requests that have no response in the file yet, `width` at a time.

    Each response is stored when it arrives; a request that fails is stored as failed. Raises
    `ModelError` if the model cannot be reached, and any error of `on_response`.
    """
    pending = iter([n for n in range(config.requests) if n not in file.responses])

    async def worker() -> None:
        for number in pending:
            response = await _request_drafts(completer, seeds, config, number, model)
            file.append(response)
            on_response(response)

    await gather(worker() for _ in range(width))


async def _request_drafts(
    completer: Completer,
    seeds: Sequence[Problem],
    config: SynthesisConfig,
    number: int,
    model: str,
) -> DraftResponse:
    """The response to request `number`."""
    seed = derive(config.seed, "synthesis", number)
    shots = random.Random(seed).sample(seeds, config.shots)
    failure: str | None = None
    texts: tuple[str | None, ...] = ()
    with track_cost() as cost:
        try:
            completions = await completer.complete(
                synthesis_prompt(shots),
                n=config.per_request,
                stop=STOPS,
                max_tokens=config.max_tokens,
                temperature=config.temperature,
                seed=seed,
            )
            texts = tuple(
                completion.text if completion.finished else None
                for completion in completions[: config.per_request]
            )
        except (ContextLengthError, RequestError) as error:
            failure = _FAILURES[type(error)]
    spent = {
        key: value for key, value in asdict(cost).items() if value and key not in ENVIRONMENT_FIELDS
    }
    return DraftResponse(number, tuple(shot.id for shot in shots), texts, model, failure, spent)


def require_seeds(seeds: Sequence[Problem], config: SynthesisConfig) -> None:
    """Raise `ConfigError` if there are fewer seed problems than `config.shots`."""
    if len(seeds) < config.shots:
        raise ConfigError(
            f"Each prompt needs {config.shots} seed problems but there are only {len(seeds)}; add "
            "problems, or lower the number of shots."
        )


def filter_drafts(
    responses: Sequence[DraftResponse],
    config: SynthesisConfig,
    known: Sequence[KnownProblems],
    rejections: Rejections,
) -> NewDrafts:
    """The well-formed drafts without duplicates and without problems in `known`.

    All other drafts are added to `rejections`. The result does not depend on the order in which
    responses arrived.
    """
    drafts: list[Problem] = []
    origins: dict[str, DraftResponse] = {}
    for response in responses:
        for text in response.texts:
            if text is None:
                rejections.counts[CUT] += 1
                continue
            draft = read_draft(text)
            if draft is None:
                rejections.add(UNREADABLE, text)
                continue
            name = f"{SYNTHETIC}/{question_id(draft)}"
            drafts.append(Problem(Question(name, draft), None, SYNTHETIC))
            origins.setdefault(name, response)
    missing = config.max_drafts - sum(len(response.texts) for response in responses)
    rejections.counts.update({NOT_WRITTEN: missing} if missing else {})
    distinct = deduplicate(drafts)
    for duplicate in distinct.removed:
        rejections.add(REPEATED, duplicate.problem.question.text, duplicate.witness.question.text)
    new, matches = distinct.kept, []
    for problems in known:
        for index in _known_indices(problems):
            clean = decontaminate(new, index)
            new = clean.kept
            for match in clean.removed:
                because = f"{match.evaluation} {match.item.id} ({match.kind}): {match.overlap}"
                rejections.add(problems.reason, match.problem.question.text, because)
            matches += clean.removed
    return NewDrafts(new, {problem.id: origins[problem.id] for problem in new}, matches)


def _known_indices(known: KnownProblems) -> Iterator[EvaluationIndex]:
    """Indices of the known problems, at most `_BLOCK` problems each."""
    for name, problems in known.sets.items():
        for start in range(0, len(problems), _BLOCK):
            yield EvaluationIndex({name: problems[start : start + _BLOCK]}, known.rule)


def accept_by_agreement(
    drafts: NewDrafts,
    agreements: Mapping[str, tuple[Agreement, bool]],
    config: SynthesisConfig,
    rejections: Rejections,
) -> list[Synthetic]:
    """The problems on whose answers enough solutions agree; the others go to `rejections`.

    `agreements` maps problem ids to the agreement and whether the solver could be reached.
    """
    accepted: list[Synthetic] = []
    for problem in drafts.problems:
        agreed, reached = agreements[problem.id]
        reference = agreed.reference(config.min_agreement)
        if reference is None:
            reason = DISAGREED if agreed.agreeing else SILENT if reached else UNASKED
            rejections.add(reason, problem.question.text, _describe(agreed))
            continue
        origin = drafts.origins[problem.id]
        solved = Problem(problem.question, reference, SYNTHETIC)
        accepted.append(Synthetic(solved, origin.seeds, origin.model, agreed))
    return accepted


def _describe(agreed: Agreement) -> str:
    """The agreement in words; "" without any answer."""
    if not agreed.agreeing:
        return ""
    share = f"{agreed.agreeing} of {agreed.solutions}"
    if agreed.answer is None:
        return f"several answers of {share} each"
    return f"{share} say {agreed.answer}"


def _short(text: str) -> str:
    """The beginning of a text on one line, with unprintable characters replaced."""
    line = " ".join(text[: 4 * _EXAMPLE_CHARS].split())
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line)
    return shown if len(shown) <= _EXAMPLE_CHARS else f"{shown[: _EXAMPLE_CHARS - 3]}..."
