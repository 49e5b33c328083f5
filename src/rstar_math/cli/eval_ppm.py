"""`rstar eval-ppm`: evaluates a preference model on pairs, sampled solutions and ProcessBench."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rstar_math.cli.options import AsJson, print_json
from rstar_math.errors import InputError

if TYPE_CHECKING:
    from rstar_math.protocols import Scorer, Verifier
    from rstar_math.runs.store import RunStore
    from rstar_math.search.tree import Tree
    from rstar_math.verification.judges import Judges


async def compare_with_majority(
    scorer: "Scorer", run_file: Path, strategy: str | None, limit: int | None
) -> dict[str, Any]:
    """The results of `evaluation.reranking` on the first `limit` problems of a run, and the tokens
    that the scorer read. Raises `InputError` if the run has no sampled solutions."""
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
        return {
            "run": str(run_file),
            "strategy": name,
            **comparison.as_json(),
            "scorer_tokens": cost.scorer_tokens,
        }


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


if TYPE_CHECKING:
    from rstar_math.ppm.remote import RemotePPM
    from rstar_math.ppm.scorer import LocalPPM
    from rstar_math.training.rows import PreferenceRow

    PPM = LocalPPM | RemotePPM
SamplesRun = Annotated[
    Path | None,
    typer.Option(
        "--run",
        metavar="RUN",
        help="Run file with sampled solutions (rstar eval --strategy sc@8). Compares choosing by "
        "this model with majority voting on the same samples.",
    ),
]
Checkpoint = Annotated[
    Path,
    typer.Argument(
        metavar="CHECKPOINT",
        help="Preference model: a folder of rstar train ppm, a .gguf file of rstar deploy, or "
        "trained (in this package; hf:trained uses torch).",
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
        help="Preference pairs: the file preference.jsonl of rstar curate.",
    ),
]
AllPairs = Annotated[
    bool,
    typer.Option(
        "--include-training-problems",
        help="Use all pairs of the file, not only those of held-out problems.",
    ),
]


def eval_ppm(
    checkpoint: Checkpoint,
    pairs: PairsFile = None,
    all_pairs: AllPairs = False,
    processbench: Annotated[
        list[Path] | None,
        typer.Option("--processbench", metavar="FILE", help="ProcessBench file. Repeatable."),
    ] = None,
    run_file: SamplesRun = None,
    strategy: StrategyName = None,
    base: BaseModel = None,
    limit: ItemLimit = None,
    as_json: AsJson = False,
) -> None:
    """Evaluate a preference model and compare it with majority voting.

    --pairs reports ranking accuracy on held-out problems. --processbench reports the F1 of finding
    the first wrong step. --run compares answers chosen by value with the majority of the same
    samples; its problems must not be in the model's training data.
    """
    from rstar_math.errors import InputError
    from rstar_math.ppm.remote import resolve_ppm

    if pairs is None and not processbench and run_file is None:
        raise InputError(
            "No data to evaluate on; pass --pairs FILE, --processbench FILE or --run RUN."
        )

    async def evaluate() -> dict[str, Any]:
        report: dict[str, Any] = {"checkpoint": str(checkpoint)}
        path = Path(resolve_ppm(str(checkpoint)))
        rows = None if pairs is None else _read_pairs(path, pairs, limit, all_pairs)
        scorer = _load(path, base)
        try:
            if rows is not None:
                report["pairs"] = await _rank_pairs(scorer, rows)
            for file in processbench or ():
                figures = await _detect_errors(scorer, file, limit)
                report.setdefault("processbench", {})[str(file)] = figures
            if run_file is not None:
                report["choosing"] = await compare_with_majority(scorer, run_file, strategy, limit)
            return report
        finally:
            await scorer.aclose()

    report = asyncio.run(evaluate())
    if as_json:
        print_json(report)
    else:
        _show(report)


def _show(report: dict[str, Any]) -> None:
    """Print the figures and, for --run, sentences that interpret them."""
    from rstar_math.cli.display import out

    sections = {"pairs": report.get("pairs"), **report.get("processbench", {})}
    for name, figures in {**sections, "choosing": report.get("choosing")}.items():
        for key, value in (figures or {}).items():
            if key == "against_majority":
                for comparison in value.values():
                    out.print(comparison["sentence"], markup=False)
                continue
            shown = f"{value:.4f}" if isinstance(value, float) else value
            out.print(f"{name}: {key.replace('_', ' ')} {shown}")


def _load(checkpoint: Path, base: str | None) -> "PPM":
    """The model of a folder or of a .gguf file."""
    from rstar_math.ppm.remote import RemotePPM
    from rstar_math.ppm.scorer import LocalPPM

    if checkpoint.suffix == ".gguf":
        return RemotePPM.load(checkpoint, base=base or "local")
    return LocalPPM.load(checkpoint, base=base)


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


async def _rank_pairs(scorer: "PPM", rows: "list[PreferenceRow]") -> dict[str, Any]:
    """Ranking accuracy and calibration on pairs."""
    from rstar_math.training.batches import calibration_error, pair_calibration, ranking_accuracy
    from rstar_math.training.rows import for_model

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


async def _detect_errors(scorer: "PPM", path: Path, limit: int | None) -> dict[str, Any]:
    """First-error detection on a ProcessBench file."""
    from rstar_math.evaluation.processbench import as_steps, cross_validate, read_solutions
    from rstar_math.types import Question

    solutions = read_solutions(path, limit)
    values = []
    for solution in solutions:
        steps = as_steps(solution.steps)
        prefixes = [steps[: n + 1] for n in range(len(steps))]
        values.append(await scorer.score(Question(solution.id, solution.problem), prefixes))
    result, thresholds = cross_validate(solutions, values)
    return {
        "solutions": len(solutions),
        "f1": result.f1,
        "wrong": result.wrong,
        "located": result.located,
        "right": result.right,
        "cleared": result.cleared,
        "thresholds": thresholds,
    }
