"""New problems by a model from seed problems, kept only if independent solutions agree (rStar-Math,
arXiv:2501.04519: at least 3 of 10).

Asking, telling apart and deciding; `evolution.synthesis` puts them together. Every draft that was
asked for is kept or counted by one reason.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rstar_math.errors import ConfigError, ContextExceeded, RequestFailed
from rstar_math.meter import metering
from rstar_math.problems.decontamination import Evaluations, Match, Rule, decontaminate
from rstar_math.problems.draft_file import DraftFile, Written
from rstar_math.problems.drafts import STOPS, Agreement, read_draft, synthesis_prompt
from rstar_math.problems.duplicates import deduplicate
from rstar_math.problems.reader import question_id
from rstar_math.problems.settings import SynthesisConfig
from rstar_math.protocols import Completer
from rstar_math.search.record import CIRCUMSTANCES
from rstar_math.seeding import derive
from rstar_math.tasks import together
from rstar_math.types import SYNTHETIC, Problem, Question

OnWritten = Callable[[Written], None]
_FAILED = {ContextExceeded: "context exceeded", RequestFailed: "request failed"}
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
class Known:
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
class LeftOut:
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
class Fresh:
    """Drafts that are problems, and new ones."""

    problems: list[Problem]
    """Without references, in the order of the requests."""
    origins: dict[str, Written]
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

    await together(writer() for _ in range(width))


async def _ask(
    completer: Completer,
    seeds: Sequence[Problem],
    config: SynthesisConfig,
    number: int,
    model: str,
) -> Written:
    """One request."""
    seed = derive(config.seed, "synthesis", number)
    shown = random.Random(seed).sample(seeds, config.shots)
    failure: str | None = None
    texts: tuple[str | None, ...] = ()
    with metering() as cost:
        try:
            found = await completer.complete(
                synthesis_prompt(shown),
                n=config.each,
                stop=STOPS,
                max_tokens=config.max_tokens,
                temperature=config.temperature,
                seed=seed,
            )
            texts = tuple(one.text if one.finished else None for one in found[: config.each])
        except (ContextExceeded, RequestFailed) as error:
            failure = _FAILED[type(error)]
    spent = {key: value for key, value in asdict(cost).items() if value}
    kept = {key: value for key, value in spent.items() if key not in CIRCUMSTANCES}
    names = tuple(problem.id for problem in shown)
    return Written(number, names, texts, model, failure, kept)


def require_seeds(seeds: Sequence[Problem], config: SynthesisConfig) -> None:
    """Raise `ConfigError` where there are fewer seed problems than are shown."""
    if len(seeds) < config.shots:
        raise ConfigError(
            f"Each request shows {config.shots} seed problems and there are {len(seeds)}; give "
            "more problems, or fewer shots."
        )


def tell_apart(
    written: Sequence[Written], config: SynthesisConfig, known: Sequence[Known], out: LeftOut
) -> Fresh:
    """The drafts that are problems, each once, and asked nowhere in `known`; the others go to
    `out`. Who stays does not depend on the order in which requests were answered."""
    drafts: list[Problem] = []
    origins: dict[str, Written] = {}
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
    return Fresh(fresh, {problem.id: origins[problem.id] for problem in fresh}, matches)


def _evaluations(known: Known) -> Iterator[Evaluations]:
    """Known problems, ready to have drafts held against them, some at a time."""
    for name, problems in known.sets.items():
        for start in range(0, len(problems), _BLOCK):
            yield Evaluations({name: problems[start : start + _BLOCK]}, known.rule)


def settle(
    fresh: Fresh,
    found: Mapping[str, tuple[Agreement, bool]],
    config: SynthesisConfig,
    out: LeftOut,
) -> list[Synthetic]:
    """The problems on whose answers enough solutions agree; the others go to `out`. `found` is by
    id, with whether the solver could be asked at all."""
    kept: list[Synthetic] = []
    for problem in fresh.problems:
        agreed, asked = found[problem.id]
        reference = agreed.reference(config.agreeing)
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
