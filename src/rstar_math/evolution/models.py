"""The models of an evolution: which policy and which preference model are in use, and how a solver
is to find them."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rstar_math.config import TRAINED, Config, ModelConfig
from rstar_math.evolution.journal import Facts, file_digest
from rstar_math.evolution.recipe import Recipe

WEIGHTS = "*.safetensors"


@dataclass(frozen=True, slots=True)
class Made:
    """A model that a round made. Round 0 is the base."""

    round: int
    folder: str
    """A checkpoint; of the base what transformers loads."""
    address: str
    """What `model.url` is set to; "" for a preference model."""
    digest: str
    """A hash of its weights."""


@dataclass(frozen=True, slots=True)
class Pair:
    """The models in use."""

    policy: Made
    ppm: Made | None = None

    def with_policy(self, policy: Made) -> "Pair":
        """The pair with another policy."""
        return replace(self, policy=policy)

    def with_ppm(self, ppm: Made) -> "Pair":
        """The pair with another preference model."""
        return replace(self, ppm=ppm)

    async def in_use(self) -> Facts:
        """Which rounds made the two, as the manifest of a round's end."""
        return {"policy": self.policy.round, "ppm": self.ppm and self.ppm.round}

    def hashes(self, *, scored: bool) -> dict[str, str]:
        """What the models are, for a run's conditions."""
        ppm = self.ppm.digest if scored and self.ppm is not None else "none"
        return {"model.name": self.policy.digest, "search.ppm": ppm}


def config_of(recipe: Recipe, pair: Pair, *, scored: bool, **search: Any) -> Config:
    """The configuration of a solver with the models in use; `search` are options of that section.

    The base is asked with `policy.prompt` unless it is the policy of this package; what was trained
    is asked by its own short prompt.
    """
    options: dict[str, Any] = {**search}
    if scored and pair.ppm is not None:
        options |= {"scorer": "ppm", "ppm": pair.ppm.folder}
    trained = pair.policy.round > 0 or recipe.base == TRAINED
    prompt = "trained" if trained else recipe.policy.prompt
    return recipe.config(
        model=recipe.model.model_copy(update={"url": pair.policy.address}),
        policy=recipe.policy.model_copy(update={"prompt": prompt}),
        search=recipe.search.model_copy(update=options),
    )


def strong_config(recipe: Recipe, model: ModelConfig, **search: Any) -> Config:
    """The configuration of a solver with a model that a round names for itself."""
    return recipe.config(
        model=model,
        policy=recipe.policy,
        search=recipe.search.model_copy(update=search),
    )


def weights_digest(folder: Path) -> str:
    """A hash of a checkpoint's weights."""
    parts = [file_digest(path) for path in sorted(folder.glob(WEIGHTS))]
    return "-".join(parts)
