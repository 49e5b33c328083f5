"""The sync door: one question, one call."""

import asyncio

from rstar_math.config import Config, load_config
from rstar_math.errors import ConfigError, InputError
from rstar_math.foreign import encodable
from rstar_math.solver import Solution, Solver
from rstar_math.types import Question


def solve(
    question: str,
    *,
    model: str | None = None,
    strategy: str | None = None,
    config: Config | None = None,
) -> Solution:
    """The solution of one question, for code without asyncio; inside an event loop use `Solver`.

    `model` and `strategy` (by default the config's) are as `rstar solve` takes them; a `config`
    brings its own model. Raises `RstarError`.
    """
    from rstar_math.problems import question_id
    from rstar_math.search.strategy import parse_strategies

    if config is not None and model is not None:
        raise ConfigError("solve takes a model or a config; put the model into config.model.url.")
    settings = config or load_config(model=model)
    chosen, *others = parse_strategies(strategy or settings.search.strategy)
    if others:
        raise ConfigError("solve takes one strategy; compare several with rstar eval.")
    if encodable(question) != question:
        raise InputError("The question holds characters that are not valid text; take them out.")

    async def once() -> Solution:
        async with Solver(settings) as solver:
            return await solver.solve(Question(question_id(question), question), chosen)

    return asyncio.run(once())
