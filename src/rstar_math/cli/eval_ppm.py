"""`rstar eval-ppm`: evaluates scorers on pairs, labelled steps, sampled solutions, ProcessBench."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rstar_math.cli.options import AsJson, ConfigSource, Model, Settings, TrustConfig, print_json
from rstar_math.errors import InputError

if TYPE_CHECKING:
    from rstar_math.evaluation.reranking import RerankComparison
    from rstar_math.protocols import Scorer, Verifier
    from rstar_math.runs.store import RunStore
    from rstar_math.search.tree import Tree
    from rstar_math.training.rows import PreferenceRow
    from rstar_math.verification.judges import Judges


async def compare_with_majority(
    scorer: "Scorer", run_file: Path, strategy: str | None, limit: int | None
) -> "tuple[dict[str, Any], RerankComparison]":
    """The results of `evaluation.reranking` on the first `limit` problems of a run with the tokens
    that the scorer read, and the outcomes behind them.

    Raises `InputError` if the run has no sampled solutions.
    """
    from rstar_math.costs import track_cost
    from rstar_math.evaluation.reranking import rerank_samples
    from rstar_math.runs.store import RunStore
    from rstar_math.verification.judges import Judges

    with RunStore.read(run_file) as store:
        name = _sampling_strategy(store, strategy)
        async with Judges() as judges:
            trees = _trees_with_verifiers(store, name, limit, judges)
            with track_cost() as cost:
                comparison = await rerank_samples(trees, scorer, judges.grouper)
        report = {
            "run": str(run_file),
            "strategy": name,
            **comparison.as_json(),
            "scorer_tokens": cost.scorer_tokens,
        }
    return report, comparison


def _sampling_strategy(store: "RunStore", strategy: str | None) -> str:
    """The given strategy, by default the only one that samples complete solutions.

    Raises `InputError` if the run does not contain it.
    """
    strategies = store.strategies()
    sampling = [name for name in strategies if name.startswith(("sc@", "bon@"))]
    if strategy is not None and strategy in strategies:
        return strategy
    if strategy is None and len(sampling) == 1:
        return sampling[0]
    raise InputError(
        f"{store.path} has results of: {', '.join(strategies) or 'no strategy'}. Select one with "
        "--strategy, or sample solutions first with: rstar eval FILE --strategy sc@8 --run "
        f"{store.path}"
    )


async def _trees_with_verifiers(
    store: "RunStore", strategy: str, limit: int | None, judges: "Judges"
) -> "AsyncIterator[tuple[Tree, Verifier]]":
    """Yields the trees of problems with a reference answer, each with its verifier."""
    done = store.done(strategy)
    problems = [p for p in store.problems() if p.id in done and p.reference is not None]
    for problem in problems[:limit]:
        yield store.tree(problem.id, strategy), judges.verifier(problem)


SamplesRun = Annotated[
    Path | None,
    typer.Option(
        "--run",
        metavar="RUN",
        help="Run file with sampled solutions (rstar eval --strategy sc@8). Compares choosing by "
        "each scorer with majority voting on the same samples.",
    ),
]
Scorers = Annotated[
    list[str],
    typer.Argument(
        metavar="SCORER...",
        help="What to evaluate, each as [NAME=]PLACE[@FORMAT]. A preference model: a folder of "
        "rstar train ppm, a .gguf file of rstar deploy, or trained (in this package; hf:trained "
        "uses torch). A process reward model: a folder, hf:ORG/NAME or http://host:port/v1 with "
        "a format of search.prm_format (@auto recognises it). judge and self: a chat model, with "
        "--model and --set judge....",
    ),
]
BaseModel = Annotated[
    str | None,
    typer.Option(
        "--base",
        metavar="MODEL",
        help="Base model of an adapter, or the policy of a probe if it was moved.",
    ),
]
StrategyName = Annotated[
    str | None,
    typer.Option(
        "--strategy",
        metavar="NAME",
        help="Strategy of the run to use; by default its only sc@N or bon@N.",
    ),
]
ItemLimit = Annotated[
    int | None,
    typer.Option(
        "--limit", min=1, metavar="N", help="Use only the first N pairs, solutions and problems."
    ),
]
PairsFile = Annotated[
    Path | None,
    typer.Option(
        "--pairs",
        metavar="FILE",
        help="Preference pairs: the file preference.jsonl of rstar curate. For preference models "
        "of rstar only.",
    ),
]
AllPairs = Annotated[
    bool,
    typer.Option(
        "--include-training-problems",
        help="Use all pairs of the file, not only those of held-out problems.",
    ),
]
BenchFiles = Annotated[
    list[Path] | None,
    typer.Option("--processbench", metavar="FILE", help="ProcessBench file. Repeatable."),
]
StepFiles = Annotated[
    list[Path] | None,
    typer.Option(
        "--steps",
        metavar="FILE",
        help="Your solutions with a label per step: JSON lines with problem, steps and labels "
        "(true or false). Repeatable.",
    ),
]


def eval_ppm(
    scorers: Scorers,
    pairs: PairsFile = None,
    all_pairs: AllPairs = False,
    processbench: BenchFiles = None,
    steps: StepFiles = None,
    run_file: SamplesRun = None,
    strategy: StrategyName = None,
    base: BaseModel = None,
    limit: ItemLimit = None,
    model: Model = None,
    config: ConfigSource = None,
    settings: Settings = None,
    trust: TrustConfig = False,
    as_json: AsJson = False,
) -> None:
    """Evaluate scorers: preference models, process reward models, judges; one or several at once.

    --pairs reports ranking accuracy on held-out problems. --processbench reports the F1 of finding
    the first wrong step, --steps how well right steps rank above wrong ones. --run compares answers
    chosen by value with the majority of the same samples; its problems must not be in the model's
    training data. Figures have 90 and 95 % intervals. Each further scorer is compared with the
    first on the same data.
    """
    from rstar_math.cli.scorer_places import open_scorer, parse_places
    from rstar_math.models.default import load_config

    if pairs is None and not processbench and not steps and run_file is None:
        raise InputError(
            "No data to evaluate on; pass --pairs FILE, --processbench FILE, --steps FILE or "
            "--run RUN."
        )
    loaded = load_config(config, settings or (), model=model, trusted=trust)
    places = parse_places(scorers)
    data = _Data(pairs, all_pairs, processbench or [], steps or [], run_file, strategy, limit)

    async def evaluate() -> dict[str, Any]:
        values = _Values()
        found: dict[str, Any] = {}
        for place in places:
            rows = None if pairs is None else data.read_pairs(place.resolved)
            async with open_scorer(place, loaded, base) as scorer:
                found[place.name] = {"checkpoint": place.text}
                found[place.name] |= await data.evaluate(place.name, scorer, rows, values)
        comparisons = data.finish(found, values)
        if len(found) == 1:
            return dict(found[places[0].name])
        return {"scorers": found, "comparisons": comparisons}

    report = asyncio.run(evaluate())
    if as_json:
        print_json(report)
    else:
        _show(report)


class _Values:
    """What the scorers gave, by file and name of the scorer, for the comparisons."""

    def __init__(self) -> None:
        self.bench: dict[Path, dict[str, list[list[float]]]] = {}
        self.steps: dict[Path, dict[str, list[list[float]]]] = {}
        self.choosing: dict[str, RerankComparison] = {}


@dataclass(frozen=True, slots=True)
class _Data:
    """What to evaluate on."""

    pairs: Path | None
    all_pairs: bool
    bench: Sequence[Path]
    steps: Sequence[Path]
    run_file: Path | None
    strategy: str | None
    limit: int | None

    def read_pairs(self, checkpoint: Path) -> "list[PreferenceRow]":
        """The preference pairs for a checkpoint. Raises `InputError`."""
        assert self.pairs is not None
        return _read_pairs(checkpoint, self.pairs, self.limit, self.all_pairs)

    async def evaluate(
        self, name: str, scorer: "Scorer", rows: "list[PreferenceRow] | None", values: _Values
    ) -> dict[str, Any]:
        """The figures of one scorer that need no others; adds its values to `values`."""
        from rstar_math.evaluation.processbench import read_solutions
        from rstar_math.evaluation.scorer_comparison import read_labelled, step_values

        report: dict[str, Any] = {}
        if rows is not None:
            report["pairs"] = await _rank_pairs(scorer, rows)
        for file in self.bench:
            solutions = [(s.id, s.problem, s.steps) for s in read_solutions(file, self.limit)]
            values.bench.setdefault(file, {})[name] = await step_values(scorer, solutions)
        for file in self.steps:
            labelled = read_labelled(file, self.limit)
            asked = [(f"{file.name}:{n}", s.problem, s.steps) for n, s in enumerate(labelled)]
            values.steps.setdefault(file, {})[name] = await step_values(scorer, asked)
        if self.run_file is not None:
            choosing = await compare_with_majority(scorer, self.run_file, self.strategy, self.limit)
            report["choosing"], values.choosing[name] = choosing
        return report

    def finish(self, found: dict[str, Any], values: _Values) -> dict[str, Any]:
        """Add the figures of each scorer on labelled steps, and return the comparisons."""
        from rstar_math.evaluation.processbench import read_solutions
        from rstar_math.evaluation.scorer_comparison import (
            choosing_comparisons,
            detection_report,
            ranking_report,
            read_labelled,
        )

        comparisons: dict[str, Any] = {}
        for file in self.bench:
            report = detection_report(read_solutions(file, self.limit), values.bench[file])
            comparisons.setdefault("processbench", {})[str(file)] = report["comparisons"]
            for name, figures in report["scorers"].items():
                found[name].setdefault("processbench", {})[str(file)] = figures
        for file in self.steps:
            report = ranking_report(read_labelled(file, self.limit), values.steps[file])
            comparisons.setdefault("steps", {})[str(file)] = report["comparisons"]
            for name, figures in report["scorers"].items():
                found[name].setdefault("steps", {})[str(file)] = figures
        if values.choosing:
            comparisons["choosing"] = choosing_comparisons(values.choosing)
        return comparisons


def _show(report: dict[str, Any]) -> None:
    """Print the figures, sentences that interpret --run, and the comparisons of scorers."""
    from rstar_math.cli.display import out

    if "scorers" not in report:
        _show_scorer(report, "")
        return
    for name, figures in report["scorers"].items():
        _show_scorer(figures, f"{name}: ")
    for kind, by_file in report["comparisons"].items():
        tables = {"": by_file} if kind == "choosing" else by_file
        for file, rows in tables.items():
            for pair, figures in rows.items():
                for line in _lines(figures):
                    out.print(f"{pair}: {file or kind}: {line}", markup=False)


def _show_scorer(report: dict[str, Any], prefix: str) -> None:
    from rstar_math.cli.display import out

    sections = {"pairs": report.get("pairs")}
    sections |= report.get("processbench", {}) | report.get("steps", {})
    for name, figures in {**sections, "choosing": report.get("choosing")}.items():
        for key, value in (figures or {}).items():
            if key == "against_majority":
                for comparison in value.values():
                    out.print(prefix + comparison["sentence"], markup=False)
                continue
            for line in _lines({key: value}):
                out.print(f"{prefix}{name}: {line}", markup=False)


def _lines(figures: dict[str, Any]) -> list[str]:
    """Each figure as text; tables in tables are joined by dots."""
    lines = []
    for key, value in figures.items():
        if isinstance(value, dict):
            lines += [f"{key.replace('_', ' ')}, {line}" for line in _lines(value)]
            continue
        numbers = value if isinstance(value, list | tuple) else [value]
        shown = " to ".join(f"{x:.4f}" if isinstance(x, float) else str(x) for x in numbers)
        lines.append(f"{key.replace('_', ' ')} {shown}")
    return lines


def _read_pairs(
    checkpoint: Path, path: Path, limit: int | None, include_training: bool
) -> "list[PreferenceRow]":
    """The pairs of a file, by default only those of the checkpoint's held-out problems.

    Raises `InputError` if there are none or if the held-out problems are not known.
    """
    from rstar_math.checkpoints.folders import read_notes
    from rstar_math.errors import InputError
    from rstar_math.training.rows import PreferenceRow, is_held_out, read_rows

    rows = read_rows(path, PreferenceRow)
    if not include_training:
        notes = read_notes(checkpoint) if checkpoint.suffix != ".gguf" else {}
        settings = notes.get("settings")
        if settings is None:
            raise InputError(
                f"{checkpoint} does not record its training problems; add "
                f"--include-training-problems to use all pairs of {path}."
            )
        rows = [r for r in rows if is_held_out(r.problem, settings["held_out"], settings["seed"])]
    if not rows:
        raise InputError(
            f"{path} has no pairs of held-out problems; add --include-training-problems to use "
            "all pairs."
        )
    return rows[:limit]


async def _rank_pairs(scorer: Any, rows: "list[PreferenceRow]") -> dict[str, Any]:
    """Ranking accuracy and calibration on pairs. Raises `InputError` for other scorers."""
    from rstar_math.training.batches import calibration_error, pair_calibration, ranking_accuracy
    from rstar_math.training.rows import for_model

    if not hasattr(scorer, "score_texts"):
        raise InputError(
            "--pairs compares texts in the format of our preference models, which this scorer does "
            "not read; use --processbench, --steps or --run for it."
        )
    rows = for_model(rows, scorer.renderer)
    texts = [text for row in rows for text in (row.prompt + row.chosen, row.prompt + row.rejected)]
    values = await scorer.score_texts(texts)
    pairs = [
        (chosen, rejected)
        for chosen, rejected in zip(values[::2], values[1::2], strict=True)
        if chosen is not None and rejected is not None
    ]
    return {
        "pairs": len(pairs),
        "too_long": len(rows) - len(pairs),
        "problems": len({row.problem for row in rows}),
        "accuracy": ranking_accuracy(pairs),
        "calibration_error": calibration_error(pair_calibration(pairs)),
    }
