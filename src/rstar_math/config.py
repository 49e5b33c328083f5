"""The knobs: one frozen section a package, read from TOML and `--set section.key=value`.

A field's docstring is its `--help` text. Defaults that come from a paper name it; where no paper
speaks, the docstring says what the number was chosen for.
"""

import tomllib
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rstar_math.errors import ConfigError

EMBEDDED = "local"
"""The address of the embedded model."""


class Section(BaseModel):
    """A frozen group of options; unknown keys are refused, field docstrings are the
    descriptions."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class ModelConfig(Section):
    """The policy's language model and how it is asked."""

    url: str = "local"
    """"local" (embedded SmolLM2-135M), a path to a .gguf file, or http://host:port/v1."""
    name: str | None = None
    """Model name that the server knows; by default the only one it lists."""
    api_key_env: str = "OPENAI_API_KEY"
    """Environment variable that holds the server's key."""
    concurrency: int | None = Field(None, ge=1, le=4096)
    """Most requests in flight at once to a server (by default 128; fewer while it answers 429 or
    503); for the embedded model, samples decoded together (by default 32)."""
    context_tokens: int = Field(2048, ge=256)
    """Context of one sample in the embedded model, prompt and answer together."""
    timeout_s: float = Field(300.0, gt=0)
    """Longest time for one try of a request to a server; the embedded model is never given up."""
    retries: int = Field(4, ge=0)
    """Further tries after a refused or dropped connection or a 408, 429 or 5xx answer."""

    @property
    def embedded(self) -> bool:
        """Whether the model runs inside this process."""
        return not self.url.startswith(("http://", "https://"))

    @property
    def in_flight(self) -> int:
        """Requests (embedded: samples) in flight at once."""
        return self.concurrency or (32 if self.embedded else 128)


class PolicyConfig(Section):
    """How steps are asked for."""

    prompt: Literal["few-shot", "trained"] = "few-shot"
    """"few-shot" teaches the step format by examples; "trained" is the short prompt of a model
    that knows it."""
    temperature: float = Field(0.7, ge=0, le=5)
    """Sampling temperature (rStar-Math's code: 0.7 in the bootstrap round, 1.0 later)."""
    answers: int | None = Field(None, ge=1)
    """Most samples of the words that follow a program's output, which hardly vary; by default as
    many as of any other step (as in rStar-Math)."""
    step_tokens: int = Field(192, ge=1)
    """Most tokens of one step; rStar-Math's code allows 2048."""


class SearchConfig(Section):
    """The tree search (rStar-Math, arXiv:2501.04519, section 3 and appendix A.1)."""

    rollouts: int = Field(16, ge=1)
    """Walks from the root to an end (paper: 16; bootstrap round 8)."""
    tokens: int | None = Field(None, ge=1)
    """Budget of sampled tokens for one problem, the same for every strategy: runs are repeated
    until it is spent; by default a strategy has its own size."""
    confidence: float | None = Field(None, gt=0.5, le=1)
    """Stop early when a majority is settled: at 1 when no vote to come can change it, below 1 when
    it is this sure by the votes so far; by default never."""
    candidates: int = Field(8, ge=1)
    """Next steps sampled at a node, K (paper: 8; bootstrap round 5, test time 32)."""
    depth: int = Field(16, ge=1)
    """Most steps of a path (paper: 16)."""
    c: float = Field(2.0, ge=0)
    """Weight of exploration in UCT (rStar-Math's code: 2)."""
    selection: Literal["auto", "uct", "uct-zero", "puct"] = "auto"
    """Which child to walk to: by UCT with unvisited children first (standard), by UCT with those
    valued 0 (rStar-Math's code), or by PUCT (AlphaZero) with the share of samples as prior; "auto"
    is UCT where a scorer or verifier gives values, and PUCT where there are none to go by."""
    backup: Literal["ends", "all"] = "ends"
    """Whose values go up to the root: those of answers alone (rStar-Math), or the scores of all new
    nodes too (as in AlphaZero and AlphaMath), which learns sooner from a scorer."""
    in_flight: int = Field(1, ge=1, le=1024)
    """Rollouts in flight at once in one tree, kept apart by virtual loss; 1 is the papers' search.
    More keep the model busier and give a slightly different tree, the same at any speed."""
    code_errors: int = Field(1, ge=1)
    """Failed steps in a row that end a path (rStar-Math's code: 2 in the bootstrap round, else
    1)."""
    scorer: Literal["none", "self"] = "none"
    """What values steps: nothing, or the model's own judgement (as in Tree of Thoughts)."""
    self_check: bool = True
    """Whether a model that judges itself first writes a line of checking, as Tree of Thoughts does;
    without it a judgement takes a tenth of the tokens."""
    answer: Literal["majority", "weighted", "best", "top-of-runs"] | None = None
    """How the answer is chosen: by votes, by votes weighted with values, by the highest value, or
    as in the paper by the best of each run and a majority of the top `keep`; by default as suits
    the strategy."""
    keep: int = Field(4, ge=1)
    """Runs whose best paths vote in "top-of-runs" (rStar-Math's code: 4)."""
    trees: int | None = Field(None, ge=1)
    """Problems in flight at once; by default as many as keep the model busy."""
    seed: int = 0
    """Seed of all randomness of the search."""


class SandboxConfig(Section):
    """Limits on code that a model wrote."""

    mode: Literal["strict", "namespaces", "external"] = "strict"
    """How code is confined. "external" means only time and memory limits: you run inside a
    container of your own."""
    workers: int | None = Field(None, ge=1)
    """Pre-started interpreters; by default one for each CPU core."""
    wall_s: float = Field(10.0, gt=0)
    """Longest wall time of one step's code with its prefix."""
    cpu_s: float = Field(5.0, gt=0)
    """Longest processor time of one step's code with its prefix; the limit that normally ends a
    slow step, so that a busy machine does not change results."""
    memory_mb: int = Field(512, ge=64)
    """Memory of one step's code above what the pre-loaded interpreter takes, in MiB."""
    output_bytes: int = Field(65536, ge=1)
    """Most bytes that one step may print before it is ended."""


class GradingConfig(Section):
    """Deciding whether two answers are equal."""

    workers: int | None = Field(None, ge=1)
    """Grader processes; by default one for each CPU core, at most 4."""
    pair_s: float = Field(2.0, gt=0)
    """Longest time for one pair; past it the verdict is "unknown"."""
    memory_mb: int = Field(1024, ge=256)
    """Memory of one grader process, in MiB."""


class Config(Section):
    """Everything that shapes a run."""

    model: ModelConfig = ModelConfig()
    policy: PolicyConfig = PolicyConfig()
    search: SearchConfig = SearchConfig()
    sandbox: SandboxConfig = SandboxConfig()
    grading: GradingConfig = GradingConfig()


def load_config(
    source: str | None = None, settings: Sequence[str] = (), *, model: str | None = None
) -> Config:
    """The configuration of a TOML file or a preset's name, with `section.key=value` settings and
    the model's address over it.

    Without a source, the embedded model comes with the preset `laptop` and any other model with the
    papers' defaults. Raises `ConfigError` with the option, the value seen and what it may be.
    """
    over: dict[str, Any] = {}
    for setting in settings:
        key, eq, value = setting.partition("=")
        if not eq or key.count(".") != 1:
            raise ConfigError(
                f"--set {setting!r} is not section.key=value; for example --set search.rollouts=32."
            )
        section, name = key.strip().split(".")
        over.setdefault(section, {})[name] = _value(value.strip())
    if model is not None:
        over.setdefault("model", {})["url"] = model
    if source is None and over.get("model", {}).get("url", EMBEDDED) == EMBEDDED:
        source = "laptop"
    tree: dict[str, Any] = _read(source) if source else {}
    for section, values in over.items():
        group = tree.setdefault(section, {})
        if isinstance(group, dict):
            group.update(values)
    return _checked(tree)


def presets() -> list[str]:
    """Names of the configurations that come with the package."""
    folder = files("rstar_math.presets")
    return sorted(
        entry.name.removesuffix(".toml")
        for entry in folder.iterdir()
        if entry.name.endswith(".toml")
    )


def _read(source: str) -> dict[str, Any]:
    """The tables of a TOML file or a preset."""
    if source in presets():
        text = (files("rstar_math.presets") / f"{source}.toml").read_text(encoding="utf-8")
    else:
        try:
            text = Path(source).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"--config {source!r} is neither a readable file nor a preset "
                f"({', '.join(presets())})."
            ) from error
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{source} is not valid TOML: {error}.") from error


def _value(text: str) -> Any:
    """A setting's value as TOML reads it; a bare word is a string."""
    try:
        return tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        return text


def _checked(tree: Mapping[str, Any]) -> Config:
    """The tree as a Config; the first fault as a sentence."""
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        fault = error.errors()[0]
        where = [str(part) for part in fault["loc"]]
        key = ".".join(where)
        if fault["type"] == "extra_forbidden":
            raise ConfigError(f"There is no option {key}{_nearest(where)}.") from error
        raise ConfigError(f"{key} = {fault['input']!r} will not do: {fault['msg']}.") from error


def _nearest(where: Sequence[str]) -> str:
    """A hint at the options that an unknown one may have meant."""
    known = {name: list(type(getattr(Config(), name)).model_fields) for name in Config.model_fields}
    section, *names = where
    if not names:
        close = get_close_matches(section, known, 1)
        close += [f"{home}.{section}" for home, keys in known.items() if section in keys]
    else:
        homes = [section] if section in known else [*known]
        homes += [home for home in known if home not in homes]
        close = [
            f"{home}.{key}" for home in homes for key in get_close_matches(names[0], known[home], 1)
        ]
    if close:
        return f"; the nearest is {close[0]}"
    if section in known:
        return f"; {section} has {', '.join(known[section])}"
    return f"; the sections are {', '.join(known)}"
