"""The report of an evolution as Markdown, HTML and JSON, next to the tables of the paper."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from rstar_math.evaluation.document import (
    CONTENT_SECURITY_POLICY,
    Block,
    Cell,
    Heading,
    Paragraph,
    Table,
    format_percent,
    to_html,
    to_markdown,
)
from rstar_math.evaluation.plots import STYLE
from rstar_math.evaluation.report_sections import published
from rstar_math.evolution.manifest import ROUND, ManifestStore, StageResult
from rstar_math.evolution.problem_sets import unique_titles
from rstar_math.evolution.recipe import Recipe, validate_recipe
from rstar_math.files import write_text
from rstar_math.text import count_noun


@dataclass(slots=True)
class RoundState:
    """The results of one round so far; round 0 is the base model. A stage that has not run leaves
    its fields at their defaults."""

    number: int
    done: bool = False
    """Whether all stages of the round are finished."""
    searched: int = 0
    """Number of problems searched."""
    solved: int = 0
    """Number of problems that any path solved."""
    by_level: dict[str, tuple[int, int]] = field(default_factory=dict)
    """(problems searched, problems solved) by level or source."""
    by_success: dict[str, int] = field(default_factory=dict)
    """Number of problems searched, by difficulty for the policy; see `count_by_difficulty`."""
    solutions: int | None = None
    """Number of solutions that the policy is trained on."""
    pairs: int | None = None
    """Number of preference pairs that curation kept."""
    suspects: int = 0
    """Number of problems whose reference is probably wrong."""
    unreliable: int = 0
    """Number of synthetic problems whose solutions mostly contradict their reference."""
    held_out: dict[str, Any] | None = None
    """Accuracy of the policy's greedy answers on held-out problems; see `_accuracy_by_strategy`."""
    policy: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    """Accuracy of the policy alone, by benchmark and strategy; see `_accuracy_by_strategy`."""
    system: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    """Accuracy of policy and preference model together, by benchmark and strategy."""
    ppm: StageResult | None = None
    """The report of the preference model's training."""
    policy_gate: StageResult | None = None
    ppm_gate: StageResult | None = None


@dataclass(frozen=True, slots=True)
class EvolutionState:
    """The results of all rounds; the first entry is the base model."""

    rounds: list[RoundState]
    complete: bool


def evolution_state(manifests: ManifestStore) -> EvolutionState:
    """The results of an evolution, which may be running."""
    recipe = validate_recipe(manifests.recipe(), str(manifests.folder))
    titles = unique_titles(recipe.evaluation.benchmarks)
    rounds = [RoundState(number) for number in range(len(recipe.rounds) + 1)]
    for state in rounds:
        _add_searches(state, manifests)
        _add_training(state, manifests)
        _add_measurements(state, manifests, titles)
        state.done = manifests.result(f"{state.number}/{ROUND}") is not None
    return EvolutionState(rounds, rounds[-1].done)


def _add_searches(state: RoundState, manifests: ManifestStore) -> None:
    """Add the results of the round's searches. A retry searches only unsolved problems."""
    first = manifests.result(f"{state.number}/search")
    if first is None:
        return
    state.searched, state.solved = first["problems"], first["solved"]
    state.by_success = first.get("by_success", {})
    solved = {level: count for level, (_, count) in first["by_level"].items()}
    retry = 1
    while (result := manifests.result(f"{state.number}/more-{retry}")) is not None:
        state.solved += result["solved"]
        for level, (_, count) in result["by_level"].items():
            solved[level] = solved.get(level, 0) + count
        retry += 1
    state.by_level = {
        level: (searched, solved[level]) for level, (searched, _) in first["by_level"].items()
    }


def _add_training(state: RoundState, manifests: ManifestStore) -> None:
    """Add the results of curation, training and gates."""
    curated = manifests.result(f"{state.number}/curate")
    if curated is not None:
        state.solutions, state.pairs = curated["to_train_on"], curated.get("pairs")
        state.suspects = len(curated.get("suspects", ()))
        state.unreliable = len(curated.get("unreliable", ()))
    state.ppm = manifests.result(f"{state.number}/ppm")
    state.policy_gate = manifests.result(f"{state.number}/policy-gate")
    state.ppm_gate = manifests.result(f"{state.number}/ppm-gate")


def _add_measurements(state: RoundState, manifests: ManifestStore, titles: list[str]) -> None:
    """Add the accuracy of the models that this round trained."""
    held_out = manifests.result(f"{state.number}/held-out")
    if held_out is not None:
        state.held_out = _accuracy_by_strategy(held_out).get("greedy")
    for at, title in enumerate(titles, 1):
        for kind, accuracy in (("policy", state.policy), ("system", state.system)):
            result = manifests.result(f"{state.number}/{kind}-{at}")
            if result is not None:
                accuracy[title] = _accuracy_by_strategy(result)


def _accuracy_by_strategy(result: StageResult) -> dict[str, dict[str, Any]]:
    """By strategy: "share" of right answers, its "interval_95", number of "graded" answers, and
    mean sampled "tokens" per problem."""
    return {
        row["strategy"]: {
            "share": row["accuracy"],
            "interval_95": row["interval_95"],
            "graded": row["graded"],
            "tokens": row["cost"].get("sampled_tokens", 0) / max(row["problems"], 1),
        }
        for row in result["strategies"]
    }


def round_figures(manifests: ManifestStore, number: int) -> dict[str, float]:
    """The figures of one round that trackers record, by name; shares are in [0, 1].

    Figures of stages that the round does not have are left out.
    """
    state = evolution_state(manifests).rounds[number]
    figures: dict[str, Any] = {
        "searched": state.searched or None,
        "solved_share": state.solved / state.searched if state.searched else None,
        "solutions": state.solutions,
        "pairs": state.pairs,
        "held_out/accuracy": (state.held_out or {}).get("share"),
        "ppm/held_out_accuracy": ((state.ppm or {}).get("held_out") or {}).get("accuracy"),
        "policy_gate/promoted": (state.policy_gate or {}).get("promoted"),
        "ppm_gate/promoted": (state.ppm_gate or {}).get("promoted"),
    }
    for kind, measured in (("policy", state.policy), ("system", state.system)):
        for title, strategies in measured.items():
            for strategy, row in strategies.items():
                figures[f"{kind}/{title}/{strategy}/accuracy"] = row["share"]
                figures[f"{kind}/{title}/{strategy}/tokens_per_problem"] = row["tokens"]
    return {f"rounds/{name}": float(v) for name, v in figures.items() if v is not None}


TITLE = "Evolution"
PAPER = "rStar-Math, arXiv:2501.04519"
PAPER_LEVELS = ("GSM-level", "MATH-level", "Olympiad-level", "all")
PAPER_SOLVED = (
    ("round 1", "96.61 %", "67.36 %", "20.99 %", "60.17 %"),
    ("round 2", "97.88 %", "67.40 %", "56.04 %", "66.60 %"),
    ("round 3", "98.15 %", "88.69 %", "62.16 %", "77.86 %"),
    ("round 4", "98.15 %", "94.53 %", "80.58 %", "90.25 %"),
)
"""Share of the training problems solved, by round and `PAPER_LEVELS` (the paper's table 2)."""
_COUNT_LABELS = {
    "the same as another": "duplicates",
    "the same with other answers": "duplicates with different answers",
    "in a set that is measured on": "in a benchmark",
    "beyond the limit": "beyond problems.limit",
    "to learn from": "for training",
}
"""Labels of stored counts; the others are shown as they are stored."""
PAPER_BENCHMARKS = ("math500", "gsm8k", "aime24", "college_math")
"""Benchmarks of the paper's tables 3, 4 and 6 that the report shows."""


def write_summary(manifests: ManifestStore) -> list[Path]:
    """Write `report.md`, `report.html` and `report.json` into the folder; their paths.

    The same manifests give the same bytes.
    """
    blocks = list(report_blocks(manifests))
    paths = [manifests.path(f"report.{suffix}") for suffix in ("md", "html", "json")]
    write_text(paths[0], to_markdown(TITLE, blocks))
    folder = files("rstar_math.evaluation")
    css = (folder / "page.css").read_text(encoding="utf-8")
    css += (folder / "report.css").read_text(encoding="utf-8")
    write_text(paths[1], to_html(TITLE, blocks, css + STYLE, CONTENT_SECURITY_POLICY))
    summary = json.dumps(summary_json(manifests), ensure_ascii=False, indent=1)
    write_text(paths[2], [summary + "\n"])
    return paths


def summary_json(manifests: ManifestStore) -> dict[str, Any]:
    """The results of all rounds so far, as JSON; see `RoundState`."""
    state = evolution_state(manifests)
    synthesis = manifests.result("0/synthesis")
    return {
        "complete": state.complete,
        "rounds": [asdict(rnd) for rnd in state.rounds],
        **({} if synthesis is None else {"synthesis": synthesis["counts"]}),
    }


def report_blocks(manifests: ManifestStore) -> Iterator[Block]:
    """The blocks of the report, in order."""
    recipe = validate_recipe(manifests.recipe(), str(manifests.folder))
    state = evolution_state(manifests)
    yield Paragraph(_introduction(recipe, state))
    yield from _problems_section(manifests.result("0/problems"))
    yield from _synthesis_section(manifests.result("0/synthesis"))
    yield from _search_section(state)
    yield from _policy_section(recipe, state)
    yield from _ppm_section(state)
    yield from _system_section(recipe, state)
    yield from _cost_section(manifests)


def _introduction(recipe: Recipe, state: EvolutionState) -> str:
    done = sum(rnd.done for rnd in state.rounds[1:])
    progress = "all are complete" if state.complete else f"{done} are complete so far"
    return (
        f"{count_noun(len(recipe.rounds), 'round')} from the base model {recipe.base_model}: "
        f"{progress}. Intervals are 95 % confidence intervals. The paper's figures are for a 7B "
        "policy and other problems: compare trends, not values."
    )


def _problems_section(result: StageResult | None) -> Iterator[Block]:
    """Number of problems, and what was excluded and why."""
    if result is None:
        return
    yield Heading("Problems")
    counts = result["counts"].items()
    rows = [[_COUNT_LABELS.get(name, name), str(count)] for name, count in counts]
    yield Table(["problems", "number"], rows)
    overlaps = [
        [title, str(sum(n for kind, n in kinds.items() if kind != "template"))]
        for title, kinds in result["overlaps"].items()
    ]
    if overlaps:
        yield Paragraph("Excluded because they also occur in a benchmark:")
        yield Table(["benchmark", "problems"], overlaps)
        examples = [
            [example["problem"], f"{example['set']}: {example['item']}", example["kind"]]
            for example in result["examples"]
        ]
        yield Table(
            ["excluded", "overlaps with", "by"], examples, text_columns=3, folded="Examples"
        )


def _synthesis_section(result: StageResult | None) -> Iterator[Block]:
    """Number of drafts kept and rejected, with examples."""
    if result is None:
        return
    yield Heading("New problems written by a model")
    yield Table(["drafts", "number"], [[name, str(n)] for name, n in result["counts"].items()])
    if result["examples"]:
        rows = [
            [example["why"], example["draft"], example["because"]] for example in result["examples"]
        ]
        yield Table(["rejected as", "draft", "because of"], rows, text_columns=3, folded="Examples")


def _search_section(state: EvolutionState) -> Iterator[Block]:
    """Share of problems solved by level and round (the paper's table 2), and the data kept."""
    searched = [rnd for rnd in state.rounds[1:] if rnd.searched]
    if not searched:
        return
    yield Heading("Problems solved in search")
    levels = list(dict.fromkeys(level for rnd in searched for level in rnd.by_level))
    rows: list[list[Cell]] = []
    for rnd in searched:
        counts = [rnd.by_level.get(level, (0, 0)) for level in levels]
        shares = [_share(solved, total) for total, solved in counts]
        rows.append([f"round {rnd.number}", *shares, _share(rnd.solved, rnd.searched)])
    yield Table(["this run", *levels, "all"], rows)
    with_difficulty = [rnd for rnd in searched if rnd.by_success]
    if with_difficulty:
        labels = list(with_difficulty[0].by_success)
        yield Paragraph(
            "Problems by the probability that the round's policy reaches the reference answer, "
            "estimated from the trees of the first search: easy from 75 %, medium from 25 %."
        )
        yield Table(
            ["this run, problems", *labels],
            [
                [f"round {rnd.number}", *(str(rnd.by_success[name]) for name in labels)]
                for rnd in with_difficulty
            ],
        )
    yield Table(["paper, Table 2", *PAPER_LEVELS], PAPER_SOLVED, folded="The paper's table 2")
    columns = ["kept for training", "solutions", "pairs", "probably mislabelled"]
    if any(rnd.unreliable for rnd in state.rounds):
        columns.append("synthetic, mostly contradicted")
    kept = [
        [
            f"round {rnd.number}",
            *map(str, (rnd.solutions, rnd.pairs or 0, rnd.suspects, rnd.unreliable)),
        ]
        for rnd in state.rounds[1:]
        if rnd.solutions is not None
    ]
    yield Table(columns, [row[: len(columns)] for row in kept])


def _policy_section(recipe: Recipe, state: EvolutionState) -> Iterator[Block]:
    """Pass@1 of the policy by round (the paper's table 3), and the gate's decisions."""
    yield Heading("Policy alone")
    titles = unique_titles(recipe.evaluation.benchmarks)
    rows: list[list[Cell]] = []
    for rnd in state.rounds:
        accuracy = [_accuracy_cell(rnd.policy.get(title, {}).get("greedy")) for title in titles]
        name = f"round {rnd.number}" if rnd.number else "base, few-shot"
        rows.append([name, _accuracy_cell(rnd.held_out), *accuracy, _gate_cell(rnd.policy_gate)])
    yield Table(["this run, greedy", "held out", *titles, "promoted"], rows)
    yield _paper_table("Table 3")


def _ppm_section(state: EvolutionState) -> Iterator[Block]:
    """Preference models by round (the paper's table 4), and the gate's decisions."""
    rows: list[list[Cell]] = []
    for rnd in state.rounds:
        if rnd.ppm_gate is None:
            continue
        shares, fixed = rnd.ppm_gate["shares"], rnd.ppm_gate.get("fixed_policy", {})
        rows.append(
            [
                f"round {rnd.number}",
                format_percent((rnd.ppm or {}).get("held_out", {}).get("accuracy")),
                *[
                    format_percent(shares[name])
                    for name in ("majority", "weighted", "best", "oracle")
                ],
                format_percent(fixed.get("weighted")),
                _gate_cell(rnd.ppm_gate),
            ]
        )
    if not rows:
        return
    yield Heading("Preference model")
    yield Paragraph(
        "Pairs of held-out problems ranked right, and accuracy of four ways to choose among the "
        "same samples of held-out problems. The column for the first policy keeps the policy "
        "fixed, as the paper's table 4 does."
    )
    header = ["this run", "pairs ranked right", "majority", "weighted vote", "best of N"]
    header += ["any sample right", "first policy, weighted", "promoted"]
    yield Table(header, rows)
    yield _paper_table("Table 4")


def _system_section(recipe: Recipe, state: EvolutionState) -> Iterator[Block]:
    """Policy and preference model together, by round (the paper's table 6)."""
    titles = unique_titles(recipe.evaluation.benchmarks)
    rows: list[list[Cell]] = []
    for rnd in state.rounds:
        by_title = [rnd.system.get(title, {}) for title in titles]
        strategies = list(dict.fromkeys(name for accuracy in by_title for name in accuracy))
        for strategy in strategies:
            accuracy = [by_strategy.get(strategy) for by_strategy in by_title]
            tokens = [cell["tokens"] for cell in accuracy if cell]
            mean_tokens = f"{sum(tokens) / len(tokens):.0f}" if tokens else "-"
            cells = map(_accuracy_cell, accuracy)
            rows.append([f"round {rnd.number}", strategy, *cells, mean_tokens])
    if rows:
        yield Heading("Policy and preference model together")
        yield Table(["this run", "strategy", *titles, "tokens per problem"], rows, text_columns=2)
        yield _paper_table("Table 6")


def _cost_section(manifests: ManifestStore) -> Iterator[Block]:
    """Hours, calls and tokens of each stage."""
    rows: list[list[Cell]] = []
    for manifest in manifests.all():
        if manifest["stage"].endswith(f"/{ROUND}"):
            continue
        made, cost = manifest["made"], manifest["found"].get("cost", {})
        hours = (made["ended"] - made["began"]) / 3600
        tokens = f"{cost['sampled_tokens']:.0f}" if cost.get("sampled_tokens") else ""
        calls = f"{cost['calls']:.0f}" if cost.get("calls") else ""
        rows.append([manifest["stage"], f"{hours:.2f}", calls, tokens, made["version"]])
    yield Heading("Cost")
    yield Paragraph(
        "Hours of a stage that was interrupted and resumed count only its last session."
    )
    yield Table(["stage", "hours", "calls", "tokens sampled", "version"], rows)


def _paper_table(table: str) -> Table:
    """A table of the paper, with the columns `PAPER_BENCHMARKS`."""
    rows: dict[str, dict[str, str]] = {}
    for figure in published():
        is_shown = figure.benchmark in PAPER_BENCHMARKS
        if figure.paper == PAPER and figure.table == table and is_shown:
            rows.setdefault(figure.row, {})[figure.benchmark] = f"{figure.percent:.1f} %"
    cells = [
        [name, *[row.get(benchmark, "-") for benchmark in PAPER_BENCHMARKS]]
        for name, row in rows.items()
    ]
    title = f"The paper's {table.lower()}"
    return Table([f"paper, {table}", *PAPER_BENCHMARKS], cells, folded=title)


def _share(right: int, total: int) -> str:
    return f"{100 * right / total:.1f} % of {total}" if total else "-"


def _accuracy_cell(accuracy: dict[str, Any] | None) -> str:
    """The accuracy with its interval and the number of graded answers."""
    if not accuracy or accuracy["share"] is None:
        return "-"
    low, high = accuracy["interval_95"]
    share = f"{100 * accuracy['share']:.1f} %"
    return f"{share} ({100 * low:.0f}–{100 * high:.0f}, {accuracy['graded']})"


def _gate_cell(decision: StageResult | None) -> str:
    """A gate's decision with the difference and its interval."""
    if decision is None:
        return "-"
    low, high = decision["interval"]
    points = f"{100 * decision['difference']:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
    return f"{'yes' if decision['promoted'] else 'no'}, {points}"
