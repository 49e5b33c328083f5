"""The recipe of an evolution: problems, rounds, trainings, gates, measurements, as one TOML file.

Recipes that come with the package: `paper-7b`, `single-gpu`, `laptop`, `smoke`.
"""

import tomllib
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
from rstar_math.errors import ConfigError
from rstar_math.problems.synthesis import SynthesisConfig
from rstar_math.training.curation.records import CurationConfig
from rstar_math.training.settings import PolicyTraining, PreferenceTraining, ProbeTraining


class ProblemsSection(Section):
    """Which problems are searched and trained on."""

    train: tuple[str, ...] = Field(min_length=1)
    """Sources (a JSONL file, hf:NAME:CONFIG@SPLIT, gym:NAME?size=N) of problems with answers.
    Solutions annotated as in GSM8K are kept for a round with data = "annotated"."""
    held_out: int = Field(200, ge=1)
    """Problems kept back, drawn by their ids: gates are decided on them."""
    limit: int | None = Field(None, ge=2)
    """Most problems, drawn by their ids; by default all."""
    exclude_templates: bool = False
    """Whether problems that are an evaluation's with other numbers are left out too."""
    seed: int = 0
    """Seed of the drawing."""


class RoundSection(Section):
    """One round: search, curate, train, evaluate (rStar-Math, arXiv:2501.04519, section 3.4)."""

    data: Literal["search", "annotated"] = "search"
    """Where its solutions come from: a search, or (a first round without a strong model) annotated
    solutions turned into code steps."""
    model: ModelConfig | None = None
    """A model to search with in the place of the round's policy, as the paper's first round has
    one, asked with policy.prompt."""
    problems: int | None = Field(None, ge=1)
    """Most problems searched, drawn anew each round; by default all."""
    max_solution_steps: int | None = Field(None, ge=1)
    """Search only problems that have an annotated solution of at most so many steps, the one that
    states the answer included: a policy that solves no longer ones learns nothing from searching
    them. New problems (`synthesis`) have no such solution. By default all are searched."""
    sources: tuple[str, ...] = ()
    """Search only problems of sources with one of these in their names, as "gsm8k" is in
    "openai/gsm8k:main@train". By default all are searched."""
    strategy: Literal["mcts", "sc"] = "mcts"
    """How problems are searched: by a tree search (paper), or by `rollouts` independent solutions
    that share the nodes of their equal first steps. Samples cost a fraction of a tree search and
    suit a first round; their Q values rest on fewer paths."""
    rollouts: int = Field(16, ge=1)
    """Rollouts of a problem (paper: 16; first round 8)."""
    trees_per_problem: int = Field(1, ge=1)
    """Tree expansions of a problem with different seeds (paper: 2 in its last round)."""
    candidates: int = Field(8, ge=1)
    """Next steps sampled at a node (paper: 8; first round 5, last round 16)."""
    retry_rollouts: tuple[int, ...] = ()
    """Further rollouts, with new seeds, of problems that no path solved: one pass for each number
    (paper: 64, then 128 in its last round)."""
    scorer: bool = True
    """Whether the search goes by the preference model, where there is one (paper: from round 3)."""
    policy: bool = True
    """Whether a policy is trained at the end of the round."""
    ppm: bool = True
    """Whether a preference model is trained at the end of the round."""


class SynthesisSection(SynthesisConfig):
    """New problems that a model writes from those to learn from, before the first round; kept where
    its independent solutions agree (rStar-Math, arXiv:2501.04519: at least 3 of 10). Off unless
    `requests` says how many."""

    model: ModelConfig | None = None
    """Who writes and solves them, asked with policy.prompt; by default the model of the first
    round."""


class GateSection(Section):
    """When a new model takes the place of the old one: if it is better on held-out problems."""

    samples: int = Field(16, ge=2)
    """Solutions of each held-out problem that preference models choose among."""
    min_probability: float = Field(0.5, ge=0.5, lt=1)
    """How sure it must be that the new one is better: the share of paired bootstrap samples in
    which it is. 0.5 takes what looks better, 0.95 only what is shown to be."""


class SetSection(Section):
    """A set of problems to measure on."""

    source: str
    """A name that `rstar benchmarks` lists, a JSONL file, hf:NAME or gym:NAME."""
    size: int | None = Field(None, ge=1)
    """Problems drawn from it, by their ids; by default all."""
    system: bool = True
    """Whether the system is measured on it too, or the policy alone."""


class EvaluationSection(Section):
    """What is measured after each round. Training problems like these are left out."""

    benchmarks: tuple[SetSection, ...] = ()
    """Sets to measure on, none of them trained on."""
    policy: tuple[str, ...] = ("greedy",)
    """Strategies that measure the policy alone, each round."""
    system: tuple[str, ...] = ("sc@16", "mcts")
    """Strategies that measure policy and preference model together."""
    system_after: Literal["every", "last"] = "every"
    """Rounds after which the system is measured."""
    rollouts: int = Field(16, ge=1)
    """Rollouts of a measured search (paper's inference setting: one tree a trajectory)."""
    candidates: int = Field(32, ge=1)
    """Next steps sampled at a node of a measured search (paper: 32)."""
    token_budget: int | None = Field(None, ge=1)
    """Sampled tokens a problem that every system strategy is given, for a comparison at equal cost;
    by default each its own size."""
    seed: int = 1
    """Seed of the measured searches."""


_OVERRULED = {
    "search.rollouts": "say rounds.N.rollouts, or evaluation.rollouts for what is measured",
    "search.candidates": "say rounds.N.candidates, or evaluation.candidates for what is measured",
    "search.strategy": "say rounds.N.strategy; evaluation.system says what is measured",
}
"""Options of a solver that the stages set themselves, and what to say instead."""


class Recipe(Section):
    """Everything that shapes an evolution."""

    base_model: str = LOCAL
    """What every policy is trained from: "local" (the embedded SmolLM2-135M), "trained" (with
    what this package's rounds taught it, asked by its own prompt), a short name of `rstar models
    list`, a .gguf file, a checkpoint folder or hf:ORG/NAME of the hub; "tiny" is a model of some
    100,000 weights, made on the spot, that knows nothing but how to copy a number."""
    engine: Literal["llama.cpp", "transformers", "vllm"] = "llama.cpp"
    """What runs trained policies: llama.cpp on a .gguf file in this process, transformers in
    this process (a GPU if there is one; repeats to the byte), or vLLM servers that are started and
    ended as they are needed (section `servers`)."""
    int8: bool = False
    """Whether vLLM runs policies with 8-bit weights and activations (W8A8): on a CPU with AVX-512
    about 2.7 times as fast as in bfloat16. Policies are trained in full precision all the same."""
    evaluate_base: bool = True
    """Whether the untrained base is measured too, with policy.prompt."""
    launcher: tuple[str, ...] = ()
    """What starts trainings, as ["accelerate", "launch", "--num_processes", "8", "-m"]: a command
    line that takes a Python module and its arguments; by default this process trains itself."""
    train_on: Literal["all_rounds", "current_round"] = "current_round"
    """Solutions and pairs that a round's models are trained on: those of all rounds so far, or of
    its own (paper)."""
    init_from: Literal["base", "current"] = "base"
    """What a round's policy is trained from: the base anew (paper), or the policy in use, so that a
    round with keep = "round" costs no more than what it found."""
    ppm_probe: bool = False
    """Whether preference models are heads on the policy's frozen states instead of whole models:
    trained in seconds, no second model in memory."""
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
    def _orderly(self) -> Self:
        for number, one in enumerate(self.rounds, 1):
            if one.strategy == "sc" and one.trees_per_problem > 1:
                raise ValueError(
                    f"rounds.{number}.trees_per_problem has no effect with strategy = sc; raise "
                    f"rounds.{number}.rollouts instead"
                )
            searching = one.retry_rollouts or one.model or one.max_solution_steps or one.sources
            if one.data == "annotated" and (number > 1 or searching):
                raise ValueError(
                    'only the first round may have data = "annotated", and without model, more, '
                    "steps and sources"
                )
        if self.int8 and self.engine != "vllm":
            raise ValueError(f"int8 is for engine = vllm, and engine is {self.engine}; change one")
        if self.model.url != LOCAL:
            raise ValueError(
                "model.url is the policy of the round; name the first model in base, or a strong "
                "one for a round in rounds.N.model.url"
            )
        for option, instead in _OVERRULED.items():
            section, key = option.split(".")
            given = getattr(getattr(self, section), key)
            if given != getattr(Recipe.model_fields[section].default, key):
                raise ValueError(f"{option} = {given!r} has no effect in a recipe; {instead}")
        if self.synthesis.requests and self.writer is None:
            raise ValueError(
                f"synthesis.requests = {self.synthesis.requests} asks for new problems and nobody "
                "is there to write them; name a model in synthesis.model or rounds.1.model"
            )
        return self

    @property
    def writer(self) -> ModelConfig | None:
        """Who writes and solves new problems."""
        return self.synthesis.model or self.rounds[0].model

    def config(self, **sections: Any) -> Config:
        """The configuration of a solver, with some sections in the place of the recipe's."""
        names = ("model", "policy", "search", "sandbox", "grading", "servers")
        return Config(**({name: getattr(self, name) for name in names} | sections))


def recipes() -> list[str]:
    """Names of the recipes that come with the package."""
    folder = files("rstar_math.evolution") / "recipes"
    names = [entry.name for entry in folder.iterdir()]
    return sorted(name.removesuffix(".toml") for name in names if name.endswith(".toml"))


def load_recipe(source: str, settings: Sequence[str] = ()) -> Recipe:
    """The recipe of a TOML file or one that comes with the package, with `section.key=value`
    settings over it (`rounds.1.rollouts=8` for a round, `key=value` at the top).

    Raises `ConfigError` with the option, the value seen and what it may be.
    """
    tree = _read(source)
    for setting in settings:
        _set(tree, setting)
    return validate_recipe(tree, source)


def validate_recipe(tree: Any, source: str) -> Recipe:
    """A recipe of plain values. Raises `ConfigError`."""
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        fault = explain(error)
        if fault.kind == "unknown":
            hint = _nearest(error.errors()[0]["loc"])
            raise ConfigError(f"{source}: {fault.message}{hint}.") from error
        if fault.kind == "missing":
            raise ConfigError(f"{source}: {fault.message}; see the recipe laptop.") from error
        raise ConfigError(f"{source}: {fault.message}.") from error


def _read(source: str) -> dict[str, Any]:
    """The tables of a TOML file or a recipe of the package."""
    if source in recipes():
        folder = files("rstar_math.evolution") / "recipes"
        text = (folder / f"{source}.toml").read_text(encoding="utf-8")
    else:
        try:
            text = Path(source).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"{source!r} is neither a readable file nor a recipe ({', '.join(recipes())})."
            ) from error
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{source} is not valid TOML: {error}.") from error


def _set(tree: dict[str, Any], setting: str) -> None:
    """Put one setting over a tree of tables."""
    key, eq, value = setting.partition("=")
    *path, name = key.strip().split(".")
    at: Any = tree
    try:
        if not eq or not name:
            raise KeyError(key)
        for part in path:
            if isinstance(at, list) and not 1 <= int(part) <= len(at):
                raise ConfigError(
                    f"--set {setting!r}: the recipe has {path[0]} 1 to {len(at)} and no {part}; "
                    "give one of these, or write a recipe of your own with more."
                )
            at = at[int(part) - 1] if isinstance(at, list) else at.setdefault(part, {})
        at[name] = setting_value(value.strip())
    except (KeyError, ValueError, IndexError, AttributeError, TypeError) as error:
        raise ConfigError(
            f"--set {setting!r} is not section.key=value; for example "
            "--set rounds.2.rollouts=8 or --set sft.epochs=1."
        ) from error


def _nearest(where: Sequence[int | str]) -> str:
    """A hint at the option that an unknown one may have meant."""
    fields = Recipe.model_fields
    inner = {"rounds": RoundSection, "benchmarks": SetSection}
    named: type[Section] = Recipe
    for part in where[:-1]:
        if isinstance(part, str):
            kind = inner.get(part) or getattr(fields.get(part), "annotation", None)
            named = kind if isinstance(kind, type) and issubclass(kind, Section) else named
    close = get_close_matches(str(where[-1]), named.model_fields, 1)
    return (
        f"; the nearest is {close[0]}" if close else f"; there are {', '.join(named.model_fields)}"
    )
