"""`rstar solve`: one question, watched."""

from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated

import typer

from rstar_math.cli.options import (
    AsJson,
    ConfigSource,
    Discriminator,
    Model,
    Settings,
    configure,
    one_strategy,
    print_json,
    run,
)

if TYPE_CHECKING:
    from rstar_math.solver import Solution


def solve(
    question: Annotated[str, typer.Argument(help="The question, in words.")],
    model: Model = None,
    discriminator: Discriminator = None,
    strategy: Annotated[
        str | None,
        typer.Option(
            help="greedy, sc@8, bon@8, beam@8, dvts@8, tot, rap, value, mcts@16; in words instead "
            "of programs: zero, cot, cot@8, gen@32, rstar@32, verify@32, peer.",
            show_default="mcts, or the recipe's",
        ),
    ] = None,
    config: ConfigSource = None,
    set_: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Solve one question by search, and show the steps, their code, output and Q."""
    from rstar_math.errors import InputError
    from rstar_math.foreign import encodable
    from rstar_math.problems.reader import MAX_QUESTION_CHARS, question_id
    from rstar_math.solver import Solver
    from rstar_math.types import Question

    settings = configure(config, set_, model, discriminator)
    chosen = one_strategy(strategy, settings, "solve")
    if encodable(question) != question:
        raise InputError("The question holds characters that are not valid text; take them out.")
    if not question.strip() or len(question) > MAX_QUESTION_CHARS:
        raise InputError(
            f"A question has 1 to {MAX_QUESTION_CHARS} characters; this one has {len(question)}."
        )

    async def once() -> "Solution":
        from rstar_math.cli import show

        async with Solver(settings) as solver:
            rollouts = chosen.n or settings.search.rollouts
            watched = chosen.kind in ("mcts", "gen", "rstar") and not as_json
            with show.watching(rollouts) if watched else nullcontext(None) as update:
                asked = Question(question_id(question), question)
                return await solver.solve(asked, chosen, on_progress=update)

    found = run(once(), kept=False, needs=settings)
    if as_json:
        print_json(_report(found))
        return
    from rstar_math.cli import show

    show.out.print(show.solution(found))


def _report(found: "Solution") -> dict[str, object]:
    """A solution as JSON."""
    from dataclasses import asdict

    from rstar_math.search import to_record

    return {
        "question": found.question.text,
        "answer": found.answer,
        "share": found.choice.share,
        "votes": found.choice.votes,
        "cost": asdict(found.tree.cost),
        "node": found.choice.node,
        "tree": to_record(found.tree),
    }
