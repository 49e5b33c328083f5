"""`rstar report`: what runs came to, as Markdown and as a page."""

from pathlib import Path
from typing import Annotated

import typer

from rstar_math.cli.options import AsJson, print_json, run


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run files.")],
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Where to write it.")] = Path(
        "report"
    ),
    plots: Annotated[bool, typer.Option(help="Draw plots (needs matplotlib).")] = True,
    trees: Annotated[bool, typer.Option(help="Write each run's trees beside it.")] = True,
    inspect: Annotated[
        bool, typer.Option("--inspect", help="Write logs of inspect_ai too, one a strategy.")
    ] = False,
    lm_eval: Annotated[
        bool, typer.Option("--lm-eval", help="Write results files of lm-eval too.")
    ] = False,
    as_json: AsJson = False,
    open_: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
) -> None:
    """Write a report on one or more runs: report.md, report.html and pages of their trees.

    Shares with intervals, expected results of k attempts, paired tests, accuracy against cost, the
    papers' figures beside ours, every problem under every strategy, and what it takes to repeat it.
    """
    from rstar_math.evaluation.interchange import names_of, write_inspect_logs, write_lm_eval

    named = list(zip(runs, names_of(runs), strict=True))
    written = run(_write(runs, out, plots=plots, trees=trees), kept=False)
    if inspect:
        written += [
            log for path, name in named for log in write_inspect_logs(path, out / "inspect", name)
        ]
    if lm_eval:
        written += [write_lm_eval(path, out / "lm-eval", name) for path, name in named]
    if as_json:
        print_json({"files": [str(path) for path in written]})
    else:
        for path in written:
            typer.echo(path)
    if open_:
        typer.launch(str(written[1]))


async def _write(runs: list[Path], out: Path, *, plots: bool, trees: bool) -> list[Path]:
    """The files of a report."""
    from rstar_math.evaluation.recorded import Grading
    from rstar_math.evaluation.report import write_report
    from rstar_math.grading import Grader
    from rstar_math.types import Verdict

    async with Grader() as grader:

        async def judge(answer: str, reference: str) -> Verdict:
            return await grader.verifier(reference).judge(answer)

        grading = Grading(grader.group, judge)
        return await write_report(runs, out, grading, plots=plots, trees=trees)
