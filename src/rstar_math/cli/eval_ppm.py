"""`rstar eval-ppm`: measures a preference model on pairs, votes and ProcessBench."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rstar_math.cli.options import AsJson, print_json
from rstar_math.errors import InputError

if TYPE_CHECKING:
    from rstar_math.grading.grader import Grader
    from rstar_math.protocols import Scorer, Verifier
    from rstar_math.runs.store import RunStore
    from rstar_math.search.tree import Tree


async def against_votes(
    scorer: "Scorer", run_file: Path, strategy: str | None, limit: int | None
) -> dict[str, Any]:
    """The figures of `evaluation.reranking` on the first `limit` problems of a run, with the tokens
    that the scorer read. Raises `InputError` where the run has no samples to choose from."""
    from rstar_math.costs import track_cost
    from rstar_math.evaluation.reranking import rerank_samples
    from rstar_math.grading.grader import Grader
    from rstar_math.runs.store import RunStore

    async def work(store: "RunStore", name: str) -> dict[str, Any]:
        async with Grader() as grader:
            with track_cost() as cost:
                found = await rerank_samples(
                    _judged(store, name, limit, grader), scorer, grader.group
                )
            return {
                "run": str(run_file),
                "strategy": name,
                **found.as_json(),
                "scorer_tokens": cost.scorer_tokens,
            }

    with RunStore.read(run_file) as store:
        return await work(store, _samples(store, strategy))


def _samples(store: "RunStore", strategy: str | None) -> str:
    """The strategy whose results are chosen from: the one that is named, or the only one that
    sampled whole solutions."""
    there = store.strategies()
    chains = [name for name in there if name.startswith(("sc@", "bon@"))]
    if strategy is not None and strategy in there:
        return strategy
    if strategy is None and len(chains) == 1:
        return chains[0]
    what = ", ".join(there) or "nothing"
    raise InputError(
        f"{store.path} has {what}; name one with --strategy, or sample solutions first: "
        f"rstar eval FILE --strategy sc@8 --run {store.path}."
    )


async def _judged(
    store: "RunStore", name: str, limit: int | None, grader: "Grader"
) -> "AsyncIterator[tuple[Tree, Verifier]]":
    """The trees of problems that have a reference, each with its judge."""
    done = store.done(name)
    there = [p for p in store.problems() if p.id in done and p.reference is not None]
    for problem in there[:limit]:
        assert problem.reference is not None
        yield store.tree(problem.id, name), grader.verifier(problem.reference)


if TYPE_CHECKING:
    from rstar_math.ppm.remote import RemotePPM
    from rstar_math.ppm.scorer import LocalPPM
    from rstar_math.training.rows import PreferenceRow

    Scored = LocalPPM | RemotePPM
Sampled = Annotated[
    Path | None,
    typer.Option(
        "--run",
        metavar="RUN",
        help="Solutions of your policy to choose from, as rstar eval --strategy sc@8 leaves them: "
        "is choosing by this model better than majority voting on the same samples?",
    ),
]
Trained = Annotated[
    Path,
    typer.Argument(
        metavar="CHECKPOINT",
        help="What rstar train ppm wrote, or rstar deploy made of it; trained is this package's "
        "own (hf:trained with torch).",
    ),
]
Base = Annotated[
    str | None,
    typer.Option(
        "--base", metavar="MODEL", help="A probe's policy, if it moved, or the model of an adapter."
    ),
]
Chosen = Annotated[
    str | None,
    typer.Option(
        "--strategy", metavar="NAME", help="Which results of RUN; by default its only sc@N."
    ),
]
First = Annotated[
    int | None,
    typer.Option(
        "--limit", min=1, metavar="N", help="Take the first N pairs, solutions and problems."
    ),
]


def eval_ppm(
    checkpoint: Trained,
    pairs: Annotated[
        Path | None,
        typer.Option("--pairs", metavar="FILE", help="preference.jsonl of rstar curate."),
    ] = None,
    all_pairs: Annotated[
        bool,
        typer.Option(
            "--include-training-problems",
            help="Rank all pairs of the file, not only held-out problems.",
        ),
    ] = False,
    processbench: Annotated[
        list[Path] | None,
        typer.Option("--processbench", metavar="FILE", help="A ProcessBench file. Repeatable."),
    ] = None,
    run_file: Sampled = None,
    strategy: Chosen = None,
    base: Base = None,
    limit: First = None,
    as_json: AsJson = False,
) -> None:
    """Measure a preference model, and whether choosing by it beats the majority on your policy.

    Ranking accuracy on pairs of held-out problems; F1 of finding the first wrong
    step (ProcessBench); answers chosen by value against a majority of the same
    samples. The problems of --run must be ones that it has not learned from.
    """
    from rstar_math.errors import InputError
    from rstar_math.ppm.remote import resolve_ppm

    if pairs is None and not processbench and run_file is None:
        raise InputError(
            "There is nothing to measure on; give --pairs FILE, --processbench FILE or --run RUN."
        )

    async def measured() -> dict[str, Any]:
        report: dict[str, Any] = {"checkpoint": str(checkpoint)}
        place = Path(resolve_ppm(str(checkpoint)))
        rows = None if pairs is None else _rows(place, pairs, limit, all_pairs)
        scorer = _loaded(place, base)
        try:
            if rows is not None:
                report["pairs"] = await _ranked(scorer, rows)
            for path in processbench or ():
                found = await _detected(scorer, path, limit)
                report.setdefault("processbench", {})[str(path)] = found
            if run_file is not None:
                report["choosing"] = await against_votes(scorer, run_file, strategy, limit)
            return report
        finally:
            await scorer.aclose()

    report = asyncio.run(measured())
    if as_json:
        print_json(report)
    else:
        _show(report)


def _show(report: dict[str, Any]) -> None:
    """The figures, and of the choices what they mean."""
    from rstar_math.cli.display import out

    named = {"pairs": report.get("pairs"), **report.get("processbench", {})}
    for name, figures in {**named, "choosing": report.get("choosing")}.items():
        for key, value in (figures or {}).items():
            if key == "against_majority":
                for one in value.values():
                    out.print(one["sentence"], markup=False)
                continue
            shown = f"{value:.4f}" if isinstance(value, float) else value
            out.print(f"{name}: {key.replace('_', ' ')} {shown}")


def _loaded(checkpoint: Path, base: str | None) -> "Scored":
    """The model of a folder, or of a .gguf file."""
    from rstar_math.ppm.remote import RemotePPM
    from rstar_math.ppm.scorer import LocalPPM

    if checkpoint.suffix == ".gguf":
        return RemotePPM.load(checkpoint, base=base or "local")
    return LocalPPM.load(checkpoint, base=base)


def _rows(
    checkpoint: Path, path: Path, limit: int | None, everything: bool
) -> "list[PreferenceRow]":
    """A file's pairs; of problems that the model has not learned from."""
    from rstar_math.checkpoints.folders import read_notes
    from rstar_math.errors import InputError
    from rstar_math.training.rows import PreferenceRow, is_held_out, read_rows

    rows = read_rows(path, PreferenceRow)
    if not everything:
        notes = read_notes(checkpoint) if checkpoint.suffix != ".gguf" else {}
        settings = notes.get("settings")
        if settings is None:
            raise InputError(
                f"{checkpoint} does not say which problems it learned from; add --all to rank all "
                f"pairs of {path}."
            )
        rows = [r for r in rows if is_held_out(r.problem, settings["held_out"], settings["seed"])]
    if not rows:
        raise InputError(f"No problem of {path} is held out; add --all to rank all pairs.")
    return rows[:limit]


async def _ranked(scorer: "Scored", rows: "list[PreferenceRow]") -> dict[str, Any]:
    """Ranking accuracy on pairs."""
    from rstar_math.training.batches import calibration_error, pair_calibration, ranking_accuracy
    from rstar_math.training.rows import for_model

    rows = for_model(rows, scorer.renderer)
    texts = [text for row in rows for text in (row.prompt + row.chosen, row.prompt + row.rejected)]
    values = await scorer.score_texts(texts)
    sides = [(a, b) for a, b in zip(values[::2], values[1::2], strict=True) if None not in (a, b)]
    found = [(float(a or 0), float(b or 0)) for a, b in sides]
    return {
        "pairs": len(found),
        "too_long": len(rows) - len(found),
        "problems": len({row.problem for row in rows}),
        "accuracy": ranking_accuracy(found),
        "calibration_error": calibration_error(pair_calibration(found)),
    }


async def _detected(scorer: "Scored", path: Path, limit: int | None) -> dict[str, Any]:
    """First-error detection on a ProcessBench file."""
    from rstar_math.evaluation.processbench import as_steps, cross_validate, read_solutions
    from rstar_math.types import Question

    solutions = read_solutions(path, limit)
    found = []
    for solution in solutions:
        steps = as_steps(solution.steps)
        prefixes = [steps[: n + 1] for n in range(len(steps))]
        found.append(await scorer.score(Question(solution.id, solution.problem), prefixes))
    whole, thresholds = cross_validate(solutions, found)
    return {
        "solutions": len(solutions),
        "f1": whole.f1,
        "wrong": whole.wrong,
        "located": whole.located,
        "right": whole.right,
        "cleared": whole.cleared,
        "thresholds": thresholds,
    }
