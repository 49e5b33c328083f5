"""Scorers as they are named on the command line of `rstar eval-ppm`."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rstar_math.errors import ConfigError

if TYPE_CHECKING:
    from rstar_math.config.sections import Config
    from rstar_math.protocols import Completer, Scorer

_MODELS = ("judge", "self")
"""Scorers that are a chat model."""
_PPM = "ppm"
"""Format name of our preference models."""


@dataclass(frozen=True, slots=True)
class ScorerPlace:
    """A scorer on the command line."""

    text: str
    name: str
    """Its name in the report, different from those of the others."""
    place: str
    format: str | None
    """A format of process reward models, "ppm", or None to recognise it."""

    @property
    def resolved(self) -> Path:
        """The folder or file of a preference model."""
        from rstar_math.ppm.remote import resolve_ppm

        return Path(resolve_ppm(self.place))

    @property
    def is_preference_model(self) -> bool:
        """Whether it is run as a preference model of this package."""
        if self.format is not None:
            return self.format == _PPM
        if self.place in _MODELS or self.place.startswith(("http://", "https://", "vllm:")):
            return False
        return not _is_reward_model(self.place)


def parse_places(texts: Sequence[str]) -> list[ScorerPlace]:
    """The scorers named as [NAME=]PLACE[@FORMAT]. Raises `ConfigError` for equal names."""
    found: list[ScorerPlace] = []
    for text in texts:
        name, equals, rest = text.partition("=")
        if not equals or "/" in name or ":" in name:
            name, rest = "", text
        place, _, chosen = rest.rpartition("@") if "@" in rest else (rest, "", "")
        name = name or place.rstrip("/").rpartition("/")[2] or place
        if any(each.name == name for each in found):
            raise ConfigError(f"Two scorers are named {name}; name one of them: NAME={text}.")
        found.append(ScorerPlace(text, name, place, chosen or None))
    return found


def _is_reward_model(place: str) -> bool:
    """Whether a checkpoint has the format of a process reward model of others."""
    from rstar_math.prompts.step_rewards import architecture_facts, recognize_format
    from rstar_math.scorers.heads import read_model_config

    folder = Path(place.removeprefix("hf:")).expanduser()
    if place.startswith("hf:") and not folder.is_dir():
        return recognize_format((), place) is not None
    if not folder.is_dir():
        return False
    architectures, recorded = architecture_facts(read_model_config(folder))
    found = recognize_format(architectures, f"{folder.name} {recorded}")
    return found is not None and found.name != "classifier"


@asynccontextmanager
async def open_scorer(
    place: ScorerPlace, config: "Config", base: str | None
) -> "AsyncIterator[Scorer]":
    """Open a scorer. Raises the errors of its factory."""
    from rstar_math.llm.connect import connect
    from rstar_math.solver.components import scorer_factory

    async with AsyncExitStack() as stack:
        if place.is_preference_model:
            yield await _open_preference_model(place, base, stack)
            return
        model: Completer | None = None
        kind, update = "prm", {"prm": place.place, "prm_format": place.format or "auto"}
        if place.place in _MODELS:
            kind, update = place.place, {}
            if kind == "self" or config.judge.url == "same":
                connection = await connect(config.model, config.servers)
                stack.push_async_callback(connection.aclose)
                model = connection
            judge = config.judge.model_copy(update={"mode": "pointwise"})
            config = config.model_copy(update={"judge": judge})
        config = config.model_copy(update={"search": config.search.model_copy(update=update)})
        scorer = await stack.enter_async_context(scorer_factory(kind)(config, model))
        assert scorer is not None, "only the scorer none opens nothing"
        yield scorer  # type: ignore[misc]


async def _open_preference_model(
    place: ScorerPlace, base: str | None, stack: AsyncExitStack
) -> "Scorer":
    """Open a preference model: a folder, or a .gguf file."""
    from rstar_math.ppm.remote import RemotePPM

    path = place.resolved
    if path.suffix == ".gguf":
        remote = RemotePPM.load(path, base=base or "local")
        stack.push_async_callback(remote.aclose)
        return remote
    from rstar_math.ppm.scorer import LocalPPM

    local = LocalPPM.load(path, base=base)
    stack.push_async_callback(local.aclose)
    return local
