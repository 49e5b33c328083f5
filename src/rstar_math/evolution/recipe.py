"""The recipe of an evolution: one TOML file with problems, rounds, trainings, gates and evaluation.

Recipes in the package: `paper-7b`, `single-gpu`, `laptop`, `smoke`.
"""

from collections.abc import Sequence
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from rstar_math.config.loading import explain, setting_value
from rstar_math.config.sections import (
    LOCAL,
    Config,
    GradingConfig,
    ModelConfig,
    PolicyConfig,
    SandboxConfig,
    SearchConfig,
    Section,
    ServersConfig,
)
from rstar_math.config.trust import require_trust
from rstar_math.errors import ConfigError
from rstar_math.files import parse_toml
from rstar_math.problems.synthesis import SynthesisConfig
from rstar_math.training.curation.records import CurationConfig
from rstar_math.training.settings import PolicyTraining, PreferenceTraining, ProbeTraining


class ProblemsSection(Section):
    """The training problems, and the held-out problems that decide the gates."""

    train: tuple[str, ...] = Field(min_length=1)
    """Sources of problems with answers: a JSONL file, hf:NAME:CONFIG@SPLIT or gym:NAME?size=N.
    Annotated solutions in the style of GSM8K are kept for rounds that need them (data =
    "annotated", max_solution_steps)."""
    held_out: int = Field(200, ge=1)
    """Number of problems held out from training. The gates compare models on them."""
    limit: int | None = Field(None, ge=2)
    """Maximum number of problems, held-out ones included; a random sample by id. Default: all."""
    exclude_templates: bool = False
    """Also exclude problems that equal a benchmark problem except for the numbers."""
    seed: int = 0
    """Seed of the random samples."""


class RoundSection(Section):
    """One round: search, curate, train, evaluate (rStar-Math, arXiv:2501.04519, section 3.4)."""

    data: Literal["search", "annotated"] = "search"
    """Source of the solutions: a search, or annotated solutions converted to code steps. Only the
    first round can use annotated solutions; they replace the strong model of the paper."""
    model: ModelConfig | None = None
    """Model that searches instead of the current policy, with the prompt policy.prompt. The paper
    uses a strong model in its first round."""
    problems: int | None = Field(None, ge=1)
    """Maximum number of problems to search; each round draws a new random sample. Default: all."""
    max_solution_steps: int | None = Field(None, ge=1)
    """Search only problems that have an annotated solution of at most this many steps, the answer
    step included. A weak policy learns nothing from problems that it never solves. Problems from
    `synthesis` have no annotated solution and are excluded. Default: all problems."""
    sources: tuple[str, ...] = ()
    """Search only problems whose source name contains one of these strings; "gsm8k" matches
    "openai/gsm8k:main@train". Default: all problems."""
    strategy: Literal["mcts", "sc"] = "mcts"
    """Search strategy: MCTS (paper), or `rollouts` independent solutions, merged into a tree by
    equal first steps (sc). Independent solutions are much cheaper and suit a first round, but
    their Q values are averages over fewer paths."""
    rollouts: int = Field(16, ge=1)
    """Rollouts per problem (paper: 16; 8 in the first round)."""
    trees_per_problem: int = Field(1, ge=1)
    """Independent trees per problem, with different seeds (paper: 2 in the last round)."""
    candidates: int = Field(8, ge=1)
    """Next steps sampled per node (paper: 8; 5 in the first round, 16 in the last)."""
    retry_rollouts: tuple[int, ...] = ()
    """Rollouts of further searches, with new seeds, of the problems that are still unsolved; one
    search per number (paper: 64, then 128 in the last round)."""
    scorer: bool = True
    """Use the current preference model in the search, if there is one (paper: from round 3 on)."""
    policy: bool = True
    """Train a policy at the end of the round."""
    ppm: bool = True
    """Train a process preference model (PPM) at the end of the round."""


class SynthesisSection(SynthesisConfig):
    """New problems that a model writes before the first round, after the pattern of the training
    problems. A problem is kept if enough independent solutions agree on its answer (rStar-Math,
    arXiv:2501.04519: at least 3 of 10). Off by default; `requests` sets the amount."""

    model: ModelConfig | None = None
    """Model that writes and solves the problems, with the prompt policy.prompt. Default: the model
    of the first round (rounds.1.model)."""


class GateSection(Section):
    """The gates: a new model is promoted only if it is better on the held-out problems."""

    samples: int = Field(16, ge=2)
    """Solutions sampled per held-out problem; preference models choose among them."""
    min_probability: float = Field(0.5, ge=0.5, lt=1)
    """Minimum probability that the new model is better, as the share of paired bootstrap samples
    in which it is. 0.5 promotes every model with a higher mean; 0.95 requires strong evidence."""


class BenchmarkSection(Section):
    """A benchmark to measure accuracy on."""

    source: str
    """A name from `rstar benchmarks`, a JSONL file, hf:NAME or gym:NAME."""
    size: int | None = Field(None, ge=1)
    """Number of problems, a random sample by id. Default: all."""
    system: bool = True
    """Also measure policy and preference model together, not only the policy alone."""


class EvaluationSection(Section):
    """Accuracy measured after each round. Training problems that occur in a benchmark are
    excluded."""

    benchmarks: tuple[BenchmarkSection, ...] = ()
    """Benchmarks to measure on."""
    policy: tuple[str, ...] = ("greedy",)
    """Strategies that measure the policy alone, after each round."""
    system: tuple[str, ...] = ("sc@16", "mcts")
    """Strategies that measure policy and preference model together."""
    system_after: Literal["every", "last"] = "every"
    """Measure policy and preference model together after every round, or only after the last."""
    rollouts: int = Field(16, ge=1)
    """Rollouts per measured search (paper: one tree per trajectory)."""
    candidates: int = Field(32, ge=1)
    """Next steps sampled per node in a measured search (paper: 32)."""
    token_budget: int | None = Field(None, ge=1)
    """Sampled tokens per problem for each `system` strategy, to compare strategies at equal cost.
    Default: no limit; each strategy has its own size."""
    seed: int = 1
    """Seed of the measured searches."""


_SET_BY_STAGES = {
    "search.rollouts": "set rounds.N.rollouts, or evaluation.rollouts for measured searches",
    "search.candidates": "set rounds.N.candidates, or evaluation.candidates for measured searches",
    "search.strategy": "set rounds.N.strategy, or evaluation.system for measured searches",
}
"""Solver options that have no effect in a recipe, and the options to set instead."""


class Recipe(Section):
    """All options of an evolution."""

    base_model: str = LOCAL
    """Model that policies are trained from: "local" (the embedded SmolLM2-135M), "trained" (the
    policy that this package ships, with its own prompt), a short name from `rstar models list`, a
    .gguf file, a checkpoint folder, hf:ORG/NAME of the Hugging Face hub, or "tiny". "tiny" is a
    model of about 100,000 weights, created at the start, that can only copy a number."""
    engine: Literal["llama.cpp", "transformers", "vllm"] = "llama.cpp"
    """Engine for trained policies: llama.cpp with a .gguf file in this process; transformers in
    this process (on a GPU if there is one; deterministic to the byte); or vLLM servers that are
    started and stopped as needed (section `servers`)."""
    int8: bool = False
    """Run policies with 8-bit weights and activations (W8A8); requires engine = "vllm". On a CPU
    with AVX-512 this is about 2.7 times as fast as bfloat16. Training stays in full precision."""
    evaluate_base: bool = True
    """Also measure the untrained base model, with the prompt policy.prompt."""
    launcher: tuple[str, ...] = ()
    """Command that starts a training, for example ["accelerate", "launch", "--num_processes", "8",
    "-m"]; a Python module and its arguments are appended. Default: train in this process."""
    train_on: Literal["all_rounds", "current_round"] = "current_round"
    """Train a round's models on the solutions and pairs of all rounds so far, or only of the
    current round (paper)."""
    init_from: Literal["base", "current"] = "base"
    """Train a round's policy from the base model (paper), or from the current policy. "current"
    with train_on = "current_round" makes each training as short as the round's own data."""
    ppm_probe: bool = False
    """Train preference models as heads on the frozen hidden states of the policy instead of whole
    models. This takes seconds and needs no second model in memory."""
    problems: ProblemsSection
    synthesis: SynthesisSection = SynthesisSection()
    rounds: tuple[RoundSection, ...] = Field(min_length=1)
    model: ModelConfig = ModelConfig()
    policy: PolicyConfig = PolicyConfig(temperature=1.0)
    search: SearchConfig = SearchConfig()
    sandbox: SandboxConfig = SandboxConfig()
    grading: GradingConfig = GradingConfig()
    servers: ServersConfig = ServersConfig()
    curation: CurationConfig = CurationConfig()
    sft: PolicyTraining = PolicyTraining()
    preference: PreferenceTraining = PreferenceTraining()
    probe: ProbeTraining = ProbeTraining()
    gate: GateSection = GateSection()
    evaluation: EvaluationSection = EvaluationSection()

    @model_validator(mode="after")
    def _check_options(self) -> Self:
        for number, section in enumerate(self.rounds, 1):
            _check_round(number, section)
        if self.int8 and self.engine != "vllm":
            raise ValueError(
                f'int8 requires engine = "vllm", and engine is "{self.engine}"; change one of them'
            )
        if self.model.url != LOCAL:
            raise ValueError(
                "model.url has no effect in a recipe; set base_model for the model to train, or "
                "rounds.N.model.url for a strong model that searches"
            )
        for option, instead in _SET_BY_STAGES.items():
            section_name, key = option.split(".")
            value = getattr(getattr(self, section_name), key)
            if value != getattr(Recipe.model_fields[section_name].default, key):
                raise ValueError(f"{option} = {value!r} has no effect in a recipe; {instead}")
        if self.synthesis.requests and self.synthesis_model is None:
            raise ValueError(
                f"synthesis.requests = {self.synthesis.requests} requires a model that writes the "
                "problems; set synthesis.model or rounds.1.model"
            )
        return self

    @property
    def synthesis_model(self) -> ModelConfig | None:
        """The model that writes and solves new problems, if any."""
        return self.synthesis.model or self.rounds[0].model

    def solver_config(self, **sections: Any) -> Config:
        """The configuration of a solver: the recipe's sections, some replaced by `sections`."""
        names = ("model", "policy", "search", "sandbox", "grading", "servers")
        return Config(**({name: getattr(self, name) for name in names} | sections))


def _check_round(number: int, section: RoundSection) -> None:
    """Raise `ValueError` if options of a round contradict each other."""
    if section.strategy == "sc" and section.trees_per_problem > 1:
        raise ValueError(
            f"rounds.{number}.trees_per_problem has no effect with strategy = sc; raise "
            f"rounds.{number}.rollouts instead"
        )
    if section.data != "annotated":
        return
    if number > 1:
        raise ValueError(
            f'rounds.{number}.data = "annotated" is invalid; only the first round can use it'
        )
    for key in ("model", "retry_rollouts", "max_solution_steps", "sources"):
        if getattr(section, key):
            raise ValueError(
                f'rounds.1.{key} has no effect with data = "annotated", which searches nothing; '
                "remove one of them"
            )


def recipe_names() -> list[str]:
    """Names of the recipes in the package."""
    folder = files("rstar_math.evolution") / "recipes"
    names = [entry.name for entry in folder.iterdir()]
    return sorted(name.removesuffix(".toml") for name in names if name.endswith(".toml"))


def load_recipe(source: str, settings: Sequence[str] = (), *, trusted: bool = False) -> Recipe:
    """The recipe of a TOML file, or of the package by name, with `settings` applied.

    A setting is `section.key=value`, `rounds.1.key=value` for a round, or `key=value`. A file that
    is not `trusted` is limited as in `config.load_config`. Raises `ConfigError` with the option,
    its value and what is valid.
    """
    tree = _read_toml(source)
    if not trusted and source not in recipe_names():
        given = {setting.partition("=")[0].strip() for setting in settings}
        require_trust(tree, source, overridden=given)
    for setting in settings:
        _apply_setting(tree, setting)
    return validate_recipe(tree, source)


def validate_recipe(tree: Any, source: str) -> Recipe:
    """The recipe of plain values; errors name `source`. Raises `ConfigError`."""
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        fault = explain(error)
        hint = ""
        if fault.kind == "unknown":
            hint = _suggest_option(error.errors()[0]["loc"])
        elif fault.kind == "missing":
            hint = "; see the recipe laptop"
        raise ConfigError(f"{source}: {fault.message}{hint}.") from error


def _read_toml(source: str) -> dict[str, Any]:
    """The content of a TOML file, or of a recipe in the package. Raises `ConfigError`."""
    if source in recipe_names():
        folder = files("rstar_math.evolution") / "recipes"
        text = (folder / f"{source}.toml").read_text(encoding="utf-8")
    else:
        try:
            text = Path(source).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"{source!r} is neither a readable file nor a recipe ({', '.join(recipe_names())})."
            ) from error
    try:
        return parse_toml(text)
    except ValueError as error:
        raise ConfigError(f"{source} is not valid TOML: {error}.") from error


def _apply_setting(tree: dict[str, Any], setting: str) -> None:
    """Set one option in a tree of TOML tables. Raises `ConfigError`."""
    key, equals, value = setting.partition("=")
    *path, name = key.strip().split(".")
    table: Any = tree
    try:
        if not equals or not name:
            raise KeyError(key)
        for part in path:
            if isinstance(table, list) and not 1 <= int(part) <= len(table):
                raise ConfigError(
                    f"--set {setting!r}: the recipe has {path[0]} 1 to {len(table)} and no {part}; "
                    "use one of these, or write a recipe with more."
                )
            table = table[int(part) - 1] if isinstance(table, list) else table.setdefault(part, {})
        table[name] = setting_value(value.strip())
    except (KeyError, ValueError, IndexError, AttributeError, TypeError) as error:
        raise ConfigError(
            f"--set {setting!r} is not section.key=value; for example "
            "--set rounds.2.rollouts=8 or --set sft.epochs=1."
        ) from error


def _suggest_option(location: Sequence[int | str]) -> str:
    """The nearest option to an unknown one, or all options of its section."""
    fields = Recipe.model_fields
    items = {"rounds": RoundSection, "benchmarks": BenchmarkSection}
    section: type[Section] = Recipe
    for part in location[:-1]:
        if isinstance(part, str):
            inner = items.get(part) or getattr(fields.get(part), "annotation", None)
            section = inner if isinstance(inner, type) and issubclass(inner, Section) else section
    close = get_close_matches(str(location[-1]), section.model_fields, 1)
    if close:
        return f"; the nearest is {close[0]}"
    return f"; the options are {', '.join(section.model_fields)}"
