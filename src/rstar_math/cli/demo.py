"""`rstar demo`: three word problems, the embedded model as it was trained, a page to look at."""

from importlib.resources import as_file, files
from pathlib import Path
from typing import Annotated

import typer

from rstar_math.cli.options import configure, run


def demo(
    html: Annotated[Path, typer.Option(help="Page to write.")] = Path("demo.html"),
    model: Annotated[
        str,
        typer.Option("--model", "-m", metavar="MODEL", help="Another one, as rstar solve has it."),
    ] = "trained",
) -> None:
    """Solve three word problems with the embedded model, after training, by MCTS with its
    preference model, and write the trees to a page. The problems are within its reach: three of
    seven that it solved in both of two searches of twelve."""
    from rstar_math.cli import batch
    from rstar_math.serve.viewer.export import write_page
    from rstar_math.solver import MCTS

    brief = ["search.rollouts=8", "search.candidates=6"]
    if model == "trained":
        brief += ["search.scorer=ppm", "search.ppm=trained", "search.answer=weighted"]
        brief += ["policy.temperature=0.8"]
    settings = configure(None, brief, model)
    with as_file(files("rstar_math.presets") / "demo.jsonl") as file:
        job = batch.Job(file, None, None, [MCTS], show_each=True)
        with batch.opened(job, settings) as opened:
            run(opened.work(settings), kept=False, needs=settings)
            results = list(opened.store.results(MCTS.name))
            write_page([opened.store], html)
    right = sum(result.verdict == "right" for result in results)
    typer.echo(f"{right} of {len(results)} solved. The trees, step by step: {html}")
