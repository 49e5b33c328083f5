"""The report of an evolution: the paper's tables beside ours, as Markdown, HTML and JSON."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from rstar_math.evaluation.document import (
    POLICY,
    Block,
    Cell,
    Heading,
    Paragraph,
    Table,
    percent,
    to_html,
    to_markdown,
)
from rstar_math.evaluation.plots import STYLE
from rstar_math.evaluation.report_sections import published
from rstar_math.evolution.manifest import ROUND, Facts, ManifestStore
from rstar_math.evolution.problem_sets import unique_titles
from rstar_math.evolution.recipe import Recipe, validate_recipe
from rstar_math.files import write_text


@dataclass(slots=True)
class RoundState:
    """What a round came to; round 0 is the base. Empty where it did not come so far."""

    number: int
    done: bool = False
    """Whether all of it was done, its measurements too."""
    searched: int = 0
    """Problems searched."""
    solved: int = 0
    """Those that any path of its searches solved."""
    by_level: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Problems searched and solved, by level or source."""
    by_success: dict[str, int] = field(default_factory=dict)
    """Problems searched, by how likely the policy is to come to the reference."""
    solutions: int | None = None
    pairs: int | None = None
    suspects: int = 0
    """Problems whose reference is probably wrong."""
    unreliable: int = 0
    """Problems that a model wrote and whose solutions mostly contradict their reference."""
    held_out: Facts | None = None
    """The policy's greedy answers on held-out problems: share, interval_95, graded, tokens."""
    policy: dict[str, dict[str, Facts]] = field(default_factory=dict)
    """By set and strategy: share, interval_95, graded, tokens (mean sampled of a problem)."""
    system: dict[str, dict[str, Facts]] = field(default_factory=dict)
    ppm: Facts | None = None
    policy_gate: Facts | None = None
    ppm_gate: Facts | None = None

    def as_json(self) -> dict[str, Any]:
        """All of it under plain names."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class EvolutionState:
    """All rounds, the base first."""

    rounds: list[RoundState]
    complete: bool


def evolution_state(journal: ManifestStore) -> EvolutionState:
    """The course of an evolution, which may be under way."""
    recipe = validate_recipe(journal.recipe(), str(journal.folder))
    names = unique_titles(recipe.evaluation.benchmarks)
    rounds = [RoundState(number) for number in range(len(recipe.rounds) + 1)]
    for one in rounds:
        _searched(one, journal)
        _learned(one, journal)
        _measured(one, journal, names)
        one.done = journal.facts(f"{one.number}/{ROUND}") is not None
    return EvolutionState(rounds, rounds[-1].done)


def _searched(one: RoundState, journal: ManifestStore) -> None:
    """Fill in what was searched: later passes solve some of what earlier ones left."""
    first = journal.facts(f"{one.number}/search")
    if first is None:
        return
    one.searched, one.solved = first["problems"], first["solved"]
    one.by_success = first.get("by_success", {})
    solved = {level: row[1] for level, row in first["by_level"].items()}
    turn = 1
    while (more := journal.facts(f"{one.number}/more-{turn}")) is not None:
        one.solved += more["solved"]
        for level, row in more["by_level"].items():
            solved[level] = solved.get(level, 0) + row[1]
        turn += 1
    one.by_level = {level: (row[0], solved[level]) for level, row in first["by_level"].items()}


def _learned(one: RoundState, journal: ManifestStore) -> None:
    """Fill in what was learned from."""
    curated = journal.facts(f"{one.number}/curate")
    if curated is not None:
        one.solutions, one.pairs = curated["to_train_on"], curated.get("pairs")
        one.suspects = len(curated.get("suspects", ()))
        one.unreliable = len(curated.get("unreliable", ()))
    one.ppm = journal.facts(f"{one.number}/ppm")
    one.policy_gate = journal.facts(f"{one.number}/policy-gate")
    one.ppm_gate = journal.facts(f"{one.number}/ppm-gate")


def _measured(one: RoundState, journal: ManifestStore, names: list[str]) -> None:
    """Fill in what was measured of models that this round made."""
    held = journal.facts(f"{one.number}/held-out")
    if held is not None:
        one.held_out = _figures(held).get("greedy")
    for at, name in enumerate(names, 1):
        for kind, found in (("policy", one.policy), ("system", one.system)):
            facts = journal.facts(f"{one.number}/{kind}-{at}")
            if facts is not None:
                found[name] = _figures(facts)


def _figures(facts: Facts) -> dict[str, Facts]:
    """By strategy the figures that are shown."""
    return {
        row["strategy"]: {
            "share": row["accuracy"],
            "interval_95": row["interval_95"],
            "graded": row["graded"],
            "tokens": row["cost"].get("sampled_tokens", 0) / max(row["problems"], 1),
        }
        for row in facts["strategies"]
    }


TITLE = "Evolution"
PAPER = "rStar-Math, arXiv:2501.04519"
LEVELS = ("GSM-level", "MATH-level", "Olympiad-level", "all")
SOLVED = (
    ("round 1", "96.61 %", "67.36 %", "20.99 %", "60.17 %"),
    ("round 2", "97.88 %", "67.40 %", "56.04 %", "66.60 %"),
    ("round 3", "98.15 %", "88.69 %", "62.16 %", "77.86 %"),
    ("round 4", "98.15 %", "94.53 %", "80.58 %", "90.25 %"),
)
"""Share of the training problems solved, as published: no benchmark, so it is here."""


def write_summary(journal: ManifestStore) -> list[Path]:
    """Write `report.md`, `report.html` and `report.json` into the folder of an evolution; their
    paths. The same journal gives the same bytes."""
    blocks = list(document(journal))
    written = [journal.path(f"report.{kind}") for kind in ("md", "html", "json")]
    write_text(written[0], to_markdown(TITLE, blocks))
    css = (files("rstar_math.evaluation") / "page.css").read_text(encoding="utf-8")
    own = (files("rstar_math.evaluation") / "report.css").read_text(encoding="utf-8")
    write_text(written[1], to_html(TITLE, blocks, css + own + STYLE, POLICY))
    import json

    write_text(written[2], [json.dumps(outcome(journal), ensure_ascii=False, indent=1) + "\n"])
    return written


def outcome(journal: ManifestStore) -> dict[str, Any]:
    """The figures of all rounds so far: per round what was solved, learned, decided and measured,
    with the models in use after it."""
    found = evolution_state(journal)
    written = journal.facts("0/synthesis")
    more = {} if written is None else {"synthesis": written["counts"]}
    return {"complete": found.complete, "rounds": [one.as_json() for one in found.rounds], **more}


def document(journal: ManifestStore) -> Iterator[Block]:
    """The report's parts in their order."""
    recipe = validate_recipe(journal.recipe(), str(journal.folder))
    found = evolution_state(journal)
    yield Paragraph(_opening(recipe, found))
    yield from _problems(journal.facts("0/problems"))
    yield from _synthesis(journal.facts("0/synthesis"))
    yield from _searches(found)
    yield from _policies(recipe, found)
    yield from _preferences(found)
    yield from _systems(recipe, found)
    yield from _costs(journal)


def _opening(recipe: Recipe, found: EvolutionState) -> str:
    done = sum(one.done for one in found.rounds[1:])
    state = "all are done" if found.complete else f"{done} are done so far"
    return (
        f"{len(recipe.rounds)} rounds from the base {recipe.base_model}: {state}. Intervals are at "
        "95 %. Theirs are the paper's figures for a 7B policy and other problems: compare trends, "
        "not values."
    )


def _problems(facts: Facts | None) -> Iterator[Block]:
    """Where the problems came from, and what was left out."""
    if facts is None:
        return
    yield Heading("Problems")
    rows = [[name, str(count)] for name, count in facts["counts"].items()]
    yield Table(["problems", "number"], rows)
    overlaps = [
        [name, str(sum(n for kind, n in kinds.items() if kind != "template"))]
        for name, kinds in facts["overlaps"].items()
    ]
    if overlaps:
        yield Paragraph("Left out because a set that is measured on asks the same:")
        yield Table(["set", "problems"], overlaps)
        examples = [
            [e["problem"], f"{e['set']}: {e['item']}", e["kind"]] for e in facts["examples"]
        ]
        yield Table(["left out", "because of", "how"], examples, words=3, folded="Examples")


def _synthesis(facts: Facts | None) -> Iterator[Block]:
    """What became of the problems that a model wrote."""
    if facts is None:
        return
    yield Heading("New problems written by a model")
    yield Table(["drafts", "number"], [[name, str(n)] for name, n in facts["counts"].items()])
    if facts["examples"]:
        rows = [[e["why"], e["draft"], e["because"]] for e in facts["examples"]]
        yield Table(["left out", "draft", "because of"], rows, words=3, folded="Examples")


def _searches(found: EvolutionState) -> Iterator[Block]:
    """Solved share by level and round (the paper's table 2)."""
    rounds = [one for one in found.rounds[1:] if one.searched]
    if not rounds:
        return
    yield Heading("Problems solved in search")
    levels = list(dict.fromkeys(level for one in rounds for level in one.by_level))
    rows: list[list[Cell]] = []
    for one in rounds:
        shares = [_share(*one.by_level.get(level, (0, 0))[::-1]) for level in levels]
        rows.append([f"round {one.number}", *shares, _share(one.solved, one.searched)])
    yield Table(["ours", *levels, "all"], rows)
    told = [one for one in rounds if one.by_success]
    if told:
        names = list(told[0].by_success)
        counts = [[f"round {n.number}", *(str(n.by_success[name]) for name in names)] for n in told]
        yield Paragraph(
            "The problems by how likely the policy of the round is to come to their reference, "
            "reckoned from the trees of the first search: easy from 75 %, medium from 25 %."
        )
        yield Table(["ours, problems", *names], counts)
    yield Table(["theirs, Table 2", *LEVELS], SOLVED, folded="The paper's table 2")
    kept = [
        [f"round {n.number}", *map(str, (n.solutions, n.pairs or 0, n.suspects, n.unreliable))]
        for n in found.rounds[1:]
        if n.solutions is not None
    ]
    columns = ["kept for training", "solutions", "pairs", "probably mislabelled"]
    if any(one.unreliable for one in found.rounds):
        columns.append("synthetic, mostly contradicted")
    yield Table(columns, [row[: len(columns)] for row in kept])


def _policies(recipe: Recipe, found: EvolutionState) -> Iterator[Block]:
    """Policy pass@1 by round (the paper's table 3), and what the gate said."""
    yield Heading("Policy alone")
    names = unique_titles(recipe.evaluation.benchmarks)
    rows: list[list[Cell]] = []
    for one in found.rounds:
        measured = [_shown(one.policy.get(name, {}).get("greedy")) for name in names]
        rows.append([_round(one.number), _shown(one.held_out), *measured, _gate(one.policy_gate)])
    yield Table(["ours, greedy", "held out", *names, "put to use"], rows)
    yield _theirs("Table 3", ["math500", "gsm8k", "aime24", "college_math"])


def _preferences(found: EvolutionState) -> Iterator[Block]:
    """Preference models (the paper's table 4), and what the gate said."""
    rounds = [one for one in found.rounds if one.ppm_gate is not None]
    if not rounds:
        return
    yield Heading("Preference model")
    rows: list[list[Cell]] = []
    for one in rounds:
        gate, held = one.ppm_gate or {}, (one.ppm or {}).get("held_out", {})
        shares, fixed = gate["shares"], gate.get("fixed_policy", {})
        rows.append(
            [
                f"round {one.number}",
                percent(held.get("accuracy")),
                *[percent(shares[name]) for name in ("majority", "weighted", "best", "oracle")],
                percent(fixed.get("weighted")),
                _gate(gate),
            ]
        )
    header = ["ours", "pairs ranked right", "majority", "weighted vote", "best of all"]
    header += ["any sample right", "first policy, weighted", "put to use"]
    yield Paragraph(
        "Choosing among the same samples of held-out problems, and pairs of held-out problems "
        "ranked. The last but one holds the policy fixed, as the paper's table 4 does."
    )
    yield Table(header, rows)
    yield _theirs("Table 4", ["math500", "gsm8k", "aime24", "college_math"])


def _systems(recipe: Recipe, found: EvolutionState) -> Iterator[Block]:
    """Policy and preference model together, by round (the paper's table 6)."""
    rows: list[list[Cell]] = []
    names = unique_titles(recipe.evaluation.benchmarks)
    for one in found.rounds:
        strategies = list(dict.fromkeys(s for name in names for s in one.system.get(name, {})))
        for strategy in strategies:
            cells = [one.system.get(name, {}).get(strategy) for name in names]
            tokens = [cell["tokens"] for cell in cells if cell]
            spent = f"{sum(tokens) / len(tokens):.0f}" if tokens else "-"
            rows.append([f"round {one.number}", strategy, *map(_shown, cells), spent])
    if rows:
        yield Heading("Policy and preference model together")
        yield Table(["ours", "strategy", *names, "tokens a problem"], rows, words=2)
        yield _theirs("Table 6", ["math500", "gsm8k", "aime24", "college_math"])


def _costs(journal: ManifestStore) -> Iterator[Block]:
    """What each stage took."""
    rows: list[list[Cell]] = []
    for manifest in journal.manifests():
        if manifest["stage"].endswith(f"/{ROUND}"):
            continue
        made, facts = manifest["made"], manifest["found"]
        cost = facts.get("cost", {})
        hours = (made["ended"] - made["began"]) / 3600
        tokens = f"{cost['sampled_tokens']:.0f}" if cost.get("sampled_tokens") else ""
        calls = f"{cost['calls']:.0f}" if cost.get("calls") else ""
        rows.append([manifest["stage"], f"{hours:.2f}", calls, tokens, made["version"]])
    yield Heading("What it took")
    yield Paragraph(
        "Hours are of the stage's last sitting; one that was stopped and gone on with took more."
    )
    yield Table(["stage", "hours", "calls", "tokens sampled", "version"], rows)


def _theirs(table: str, columns: Sequence[str]) -> Table:
    """The paper's table, some columns of it."""
    rows: dict[str, dict[str, str]] = {}
    for figure in published():
        if figure.paper == PAPER and figure.table == table and figure.benchmark in columns:
            rows.setdefault(figure.row, {})[figure.benchmark] = f"{figure.percent:.1f} %"
    cells = [[name, *[row.get(column, "-") for column in columns]] for name, row in rows.items()]
    return Table([f"theirs, {table}", *columns], cells, folded=f"The paper's {table.lower()}")


def _round(number: int) -> str:
    return f"round {number}" if number else "base, by examples"


def _share(right: int, of: int) -> str:
    return f"{100 * right / of:.1f} % of {of}" if of else "-"


def _shown(cell: Facts | None) -> str:
    """A share with its interval."""
    if not cell or cell["share"] is None:
        return "-"
    low, high = cell["interval_95"]
    return f"{100 * cell['share']:.1f} % ({100 * low:.0f}–{100 * high:.0f}, {cell['graded']})"


def _gate(gate: Facts | None) -> str:
    """What a gate decided."""
    if gate is None:
        return "-"
    low, high = gate["interval"]
    points = f"{100 * gate['difference']:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
    return f"{'yes' if gate['promoted'] else 'no'}, {points}"
