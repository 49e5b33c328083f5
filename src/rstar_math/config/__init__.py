"""Options and how they are loaded.

sections   every option, with its default and the source of the default
loading    TOML files, presets and `--set section.key=value`
"""

from rstar_math.config.loading import load_config, presets
from rstar_math.config.sections import (
    HF,
    LOCAL,
    TRAINED,
    ActionsConfig,
    Config,
    DiscriminatorConfig,
    Duplicates,
    GradingConfig,
    JudgeConfig,
    ModelConfig,
    MutualConfig,
    PolicyConfig,
    SandboxConfig,
    SearchConfig,
    Section,
)

__all__ = [
    "HF",
    "LOCAL",
    "TRAINED",
    "ActionsConfig",
    "Config",
    "DiscriminatorConfig",
    "Duplicates",
    "GradingConfig",
    "JudgeConfig",
    "ModelConfig",
    "MutualConfig",
    "PolicyConfig",
    "SandboxConfig",
    "SearchConfig",
    "Section",
    "load_config",
    "presets",
]
