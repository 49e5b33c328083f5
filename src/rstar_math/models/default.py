"""The model that is used when none is named: the best one that is on the machine."""

import os
from collections.abc import Sequence

from rstar_math.config import loading
from rstar_math.config.sections import TRAINED, Config
from rstar_math.models.names import catalogue
from rstar_math.models.storage import catalogue_file

VARIABLE = "RSTAR_MODEL"
"""Environment variable that names another default model."""


def default_model() -> str:
    """Return the default model.

    It is the value of `RSTAR_MODEL` if that is set, else the first model of the catalogue
    (`rstar models list`, best first) that was downloaded, else "trained": the embedded model with
    the adapter of this package. Never downloads.
    """
    if named := os.environ.get(VARIABLE, "").strip():
        return named
    for model in catalogue().values():
        if not model.package and catalogue_file(model) is not None:
            return model.name
    return TRAINED


def load_config(
    source: str | None = None,
    settings: Sequence[str] = (),
    *,
    model: str | None = None,
    discriminator: str | None = None,
    trusted: bool = False,
) -> Config:
    """Return the configuration of a TOML file or preset, with overrides applied.

    `settings` are `section.key=value` strings, for example "search.rollouts=32"; `model` and
    `discriminator` are addresses. Both override the source. If nothing names a model, it is
    `default_model()`. Without a source, the packaged model uses the preset `laptop`, its trained
    version uses the preset `trained`, other models in this process use `in-process`, and
    servers use the papers' defaults.

    A file that is not `trusted` may not run programs, import code, weaken the sandbox or name the
    variable of an API key (see `config.trust`). Raises `ConfigError` with the option, the value
    seen and the expected value.
    """
    return loading.load_config(
        source,
        settings,
        model=model,
        discriminator=discriminator,
        default_model=default_model(),
        trusted=trusted,
    )
