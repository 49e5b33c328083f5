"""Options: one frozen section per subject.

A field's docstring is its `--help` text. Defaults that come from a paper name it; where no paper
speaks, the docstring says what the number was chosen for.
"""

import re
from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator


class Section(BaseModel):
    """A frozen group of options; unknown keys are refused, field docstrings are the
    descriptions."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy with some options changed. Raises `KeyError` for an unknown option, which
        pydantic would accept."""
        if unknown := set(update or ()) - set(type(self).model_fields):
            raise KeyError(f"{type(self).__name__} has no {', '.join(sorted(unknown))}")
        return super().model_copy(update=update, deep=deep)


VLLM = "vllm:"
"""How the address of a checkpoint begins that a server is started for."""


class ServersConfig(Section):
    """The vLLM servers that are started for vllm:FOLDER, and end when they are not needed."""

    vllm_command: tuple[str, ...] | None = None
    """The beginning of the command line, for a vLLM in another virtual environment; by default what
    the environment variable RSTAR_VLLM says, else "vllm serve"."""
    args: tuple[str, ...] = ()
    """Further options of the policy's servers that may change results, as --dtype or
    --quantization; a run goes on only with the same."""
    hardware_args: tuple[str, ...] = ()
    """Further options of the policy's servers that fit them to a machine, as
    --gpu-memory-utilization or --max-num-seqs."""
    ppm: tuple[str, ...] = ()
    """Further options of the preference model's server."""
    adapters: dict[str, str] = Field(default_factory=dict)
    """LoRA adapters (folders in the layout of PEFT) that the policy's servers load, by the names
    that model.name chooses among."""
    replicas: int = Field(1, ge=1, le=256)
    """Servers of the policy, if no `gpus` are named."""
    gpus: tuple[str, ...] = ()
    """The GPUs of each of the policy's servers, as CUDA_VISIBLE_DEVICES has them: ["0", "1"] is two
    servers, ["0,1"] is one that splits the model (tensor parallel)."""
    ppm_gpus: str | None = None
    """The GPUs of the preference model's server."""
    startup_timeout_s: float = Field(1200.0, gt=0)
    """Longest time for a server to load its model and answer."""
    log_dir: str | None = None
    """Folder for the servers' logs; by default the cache folder, which keeps those of servers that
    failed."""

    @property
    def count(self) -> int:
        """How many servers of the policy there are."""
        return len(self.gpus) or self.replicas


LOCAL, TRAINED = "local", "trained"
"""The addresses of the embedded model, as it was published and after training."""
Duplicates = Literal["text", "program"]
"""When two samples count as the same step."""
HF = "hf:"
"""What the address of a checkpoint begins with that transformers runs in this process."""
_SAME = {"smollm2-135m": LOCAL}
"""Short names of the packaged model."""


def canonical(url: str) -> str:
    """A model's name as the rest of the package knows it: short names and prefixes in lower case,
    "local" for the packaged model."""
    if prefix := re.match(r"(?:hf|vllm):", url, re.IGNORECASE):
        return prefix[0].lower() + url[prefix.end() :]
    if re.fullmatch(r"[\w.\-]+", url) and not url.lower().endswith(".gguf"):
        return _SAME.get(url.lower(), url.lower())
    return url


class ModelConfig(Section):
    """The policy's language model and how it is asked."""

    url: str = LOCAL
    """"local" (embedded SmolLM2-135M, also called smollm2-135m), "trained" (the same after `rstar
    evolve laptop`), a short name of `rstar models list`, a path to a .gguf file,
    hf:ORG/NAME:Q4_K_M (a GGUF file of the Hugging Face hub), hf:ORG/NAME or hf:FOLDER (a checkpoint
    that transformers runs in this process), vllm:ORG/NAME or vllm:FOLDER (one that vLLM serves as
    long as it is needed, section `servers`; FOLDER may be "trained" for both), or
    http://host:port/v1; several such with commas between them share the work."""
    name: str | None = None
    """Model name, or LoRA adapter's, that the server knows; by default the only one it lists."""
    adapter: str | None = None
    """LoRA adapter for the embedded model: a .gguf file that `rstar deploy --adapter` wrote."""
    api_key_env: str = "OPENAI_API_KEY"
    """Environment variable that holds the server's key."""
    concurrency: int | None = Field(None, ge=1, le=4096)
    """Most requests in flight at once to each server (by default 128; fewer while it answers 429 or
    503); for the embedded model, samples decoded together (by default 32)."""
    context_tokens: int = Field(2048, ge=256)
    """Context of one sample in the embedded model, prompt and answer together."""
    timeout_s: float = Field(300.0, gt=0)
    """Longest time for one try of a request to a server; the embedded model is never given up."""
    max_retries: int = Field(4, ge=0)
    """Further tries after a refused or dropped connection or a 408, 429 or 5xx answer."""
    affinity: bool = True
    """Whether of several servers one gets all requests of a tree, whose prefix it then has in its
    cache, as long as it has not more than its share to do; else the one with least to do."""

    @field_validator("url", mode="before")
    @classmethod
    def _joined(cls, url: object) -> object:
        joined = ",".join(map(str, url)) if isinstance(url, list | tuple) else url
        return canonical(joined) if isinstance(joined, str) else joined

    @property
    def embedded(self) -> bool:
        """Whether the model runs inside this process."""
        return not self.url.startswith(("http://", "https://", VLLM))

    @property
    def addresses(self) -> int:
        """How many servers `url` names."""
        return len([part for part in self.url.split(",") if part.strip()])

    @property
    def in_flight(self) -> int:
        """Requests (embedded: samples) in flight at once."""
        return self.concurrency or (32 if self.embedded else 128)


class DiscriminatorConfig(ModelConfig):
    """The second model of rStar, which completes masked solutions, and how it is asked."""

    url: str = "same"
    """"same" (the policy's model checks its own work), or an address as for model.url."""


class PolicyConfig(Section):
    """How steps are asked for."""

    prompt: str = "auto"
    """System message and worked examples: "easy" (one or two calculations), "grade-school" (as in
    GSM8K), "competition" (as in MATH, with sympy), "trained" (no examples, for models trained on
    the step format), or a TOML file of your own; "auto" is "trained" for a model that rstar
    trained, else "grade-school" in chat mode and "easy" in completion mode."""
    format: Literal["auto", "fenced", "tags"] = "auto"
    """How steps are written: Markdown code blocks whose steps begin with comments ("fenced"), or
    with a mark after each step ("tags"); "auto" is the one the model was trained on, else "fenced"
    in chat mode and "tags" in completion mode."""
    mode: Literal["auto", "chat", "completion"] = "auto"
    """How a prompt is sent: by the model's chat template, with a partly written answer to be
    continued ("chat"), or as plain text ("completion"); "auto" is chat where the model has a
    template or its server continues answers. `rstar doctor --model` shows the choice."""
    temperature: float = Field(0.7, ge=0, le=5)
    """Sampling temperature (rStar-Math's code: 0.7 in the bootstrap round, 1.0 later)."""
    answer_samples: int | None = Field(None, ge=1)
    """Most samples of the words that follow a program's output, which hardly vary; by default as
    many as of any other step (as in rStar-Math)."""
    max_step_tokens: int = Field(192, ge=1)
    """Most tokens of one step; rStar-Math's code allows 2048."""
    max_solution_tokens: int = Field(400, ge=1)
    """Most tokens of a whole program or answer, where chains are sampled without a stop at each
    step; a longer one has gone astray on word problems, competition problems may need 1024."""
    max_thinking_tokens: int = Field(0, ge=0)
    """Most tokens that a reasoning model may think before its first step; 0 lets it begin with the
    step at once. Thoughts count as sampled tokens and are never read for an answer."""


class SearchConfig(Section):
    """The tree search (rStar-Math, arXiv:2501.04519, section 3 and appendix A.1)."""

    strategy: str = "mcts"
    """How a problem is solved where no --strategy is given."""
    rollouts: int = Field(16, ge=1)
    """Walks from the root to an end (paper: 16; bootstrap round 8)."""
    token_budget: int | None = Field(None, ge=1)
    """Budget of tokens for one problem, the same for every strategy: runs are repeated until it is
    spent; by default a strategy has its own size."""
    budget: Literal["sampled", "total"] = "sampled"
    """Which tokens `token_budget` counts: sampled ones, or also those of prompts, cached or not."""
    confidence: float | None = Field(None, gt=0.5, le=1)
    """Stop early when a majority is settled: at 1 when no vote to come can change it, below 1 when
    it is this sure by the votes so far; by default never."""
    candidates: int = Field(8, ge=1)
    """Next steps sampled at a node, K (paper: 8; bootstrap round 5, test time 32)."""
    duplicates: Duplicates = "text"
    """Which samples at a node become one child: those with equal text, or those whose code is equal
    up to comments and blank space ("program"; without code, those that state the same answer)."""
    max_depth: int = Field(16, ge=1)
    """Most steps of a path (paper: 16)."""
    exploration: float = Field(2.0, ge=0)
    """Weight of exploration in UCT (rStar-Math's code: 2)."""
    selection: str = "auto"
    """The rule that chooses a child: "uct" (unvisited children first), "uct-zero" (unvisited
    children have value 0, as in rStar-Math's code), "puct" (AlphaZero; the share of samples is the
    prior), "module:rule" for your own, or "auto": UCT where a scorer or verifier gives values,
    else PUCT."""
    tie_break: Literal["first", "random"] = "first"
    """Which of equally good children to walk to. "random" is rStar's: an unexplored child at random
    first, and random moves below it (its simulation phase)."""
    backup: Literal["answers", "all", "rollout"] = "answers"
    """Whose values go up to the root: those of answers when they are found (rStar-Math), the scores
    of all new nodes too (as in AlphaZero and AlphaMath), or the value of the end that a rollout
    walked to, each time it is walked to, 0 where it has no answer (rStar)."""
    discount: float = Field(1.0, ge=0, le=1)
    """Factor on a value for each step that it goes up (1 in both papers; rStar's code has it as an
    option that it does not use)."""
    parallel_rollouts: int = Field(1, ge=1, le=1024)
    """Rollouts in flight at once in one tree, kept apart by virtual loss; 1 is the papers' search.
    More keep the model busier and give a slightly different tree, the same at any speed."""
    max_code_errors: int = Field(1, ge=1)
    """Failed steps in a row that end a path (rStar-Math's code: 2 in the bootstrap round, else
    1)."""
    scorer: str = "none"
    """What values steps: "none", "self" (the model judges its own steps, as in Tree of Thoughts),
    "ppm" (a trained process preference model, `search.ppm`), or "module:factory" for your own."""
    ppm: str | None = None
    """A process preference model: "trained" (this package's own, of the embedded model; hf:trained
    or vllm:trained where torch or vLLM runs it), the folder that `rstar train ppm` wrote,
    vllm:FOLDER, the .gguf file that `rstar deploy` made of it, or http://host:port/v1 of a server
    that runs it (or of several, with commas)."""
    ppm_head: str | None = None
    """For a server that gives hidden states (embeddings): the head, as the same folder or .gguf
    file; without it the server must have vLLM's /classify."""
    self_check: bool = True
    """Whether a model that judges itself first writes a line of checking, as Tree of Thoughts does;
    without it a judgement takes a tenth of the tokens."""
    answer: Literal["majority", "paths", "weighted", "best", "top-of-runs"] | None = None
    """How the answer is chosen: by votes that count what the policy would write, by one vote a path
    (rStar's generator), by votes weighted with values, by the highest value, or as in rStar-Math by
    the best of each run and a majority of the top `top_k`; by default as suits the strategy."""
    top_k: int = Field(4, ge=1)
    """Runs whose best paths vote in "top-of-runs" (rStar-Math's code: 4)."""
    parallel_problems: int | None = Field(None, ge=1)
    """Problems in flight at once; by default as many as keep the model busy."""
    seed: int = 0
    """Seed of all randomness of the search."""


class ActionsConfig(Section):
    """rStar's five actions (arXiv:2408.06195, section 3 and appendix; facts of its public code
    where the paper is silent)."""

    prompt_set: str = "school"
    """Prompts for a kind of task: school (word problems), competition (harder mathematics), yesno
    (commonsense, answered yes or no), or a folder of one's own."""
    enabled: tuple[str, ...] = ("A1", "A2", "A3", "A4", "A5")
    """Actions in use (the paper's ablation leaves some out): A1 a one-step thought, A2 the rest of
    the solution, A3 the next sub-question with its answer, A4 that sub-question re-answered, A5 the
    question rephrased; or module:NAME of an action outside the package."""

    @field_validator("enabled")
    @classmethod
    def _can_end(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        builtin = {"A1", "A2", "A3", "A4", "A5"}
        unknown = [name for name in value if name not in builtin and ":" not in name]
        if unknown:
            raise ValueError(f"unknown action {unknown[0]!r}; use A1 to A5 or module:NAME")
        if set(value) <= {"A4", "A5"}:
            raise ValueError("a path can end only by A1, A2 or A3; allow one of them")
        return value

    depth: int | None = Field(None, ge=1)
    """Most steps of a path; by default the family's (paper: 5, and 8 for competition
    mathematics)."""
    candidates: int = Field(5, ge=1)
    """One-step thoughts, and sub-questions, sampled at a node (paper: 5; its code 3)."""
    temperature: float = Field(0.8, ge=0, le=5)
    """Sampling temperature of all actions (rStar's code: 0.8)."""
    votes: int = Field(32, ge=1)
    """Samples of a rest of the solution, and of the answer to the last sub-question, whose majority
    is the step and whose share is its confidence (rStar's code: 32)."""
    sub_votes: int = Field(10, ge=1)
    """The same for the answers to other sub-questions (rStar's code: 10)."""
    thought_tokens: int = Field(256, ge=1)
    """Most tokens of a one-step thought (rStar's code: 256)."""
    question_tokens: int = Field(128, ge=1)
    """Most tokens of a sub-question (rStar's code: 128)."""
    answer_tokens: int = Field(512, ge=1)
    """Most tokens of a sub-question's answer, and of a rephrased question (rStar's code: 512)."""
    solution_tokens: int = Field(1024, ge=1)
    """Most tokens of a rest of the solution, and of a sub-question answered again (rStar's code:
    1024)."""


class MutualConfig(Section):
    """rStar's discriminator (arXiv:2408.06195, section 3.3)."""

    splits: int = Field(1, ge=1, le=64)
    """Places at which each candidate is cut for the second model to complete (paper: 1, drawn at
    random; its code 4, evenly spread)."""
    min_visible: float = Field(0.2, gt=0, lt=1)
    """Least share of a candidate that is shown (paper: 0.2)."""
    max_visible: float = Field(0.8, gt=0, lt=1)
    """Greatest share of a candidate that is shown (paper: 0.8; its code 0.5)."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.min_visible > self.max_visible:
            raise ValueError(
                f"min_visible = {self.min_visible} is above max_visible = {self.max_visible}"
            )
        return self

    min_agreement: Literal["one", "half", "all"] = "half"
    """How many of the completions must agree for a candidate to be kept (rStar's code: half)."""
    score: Literal["paper", "code"] = "paper"
    """What the kept candidates are ranked by: reward times confidence of each (paper), or their
    answer's share among those kept plus the share of it that was kept (rStar's code)."""
    budget_share: float = Field(0.25, ge=0, lt=1)
    """Share of a token budget (`search.token_budget`) that is reserved for the second model; about
    one completion per candidate."""
    temperature: float = Field(1.0, ge=0, le=5)
    """Sampling temperature of the completions (rStar's code: 1)."""
    tokens: int = Field(512, ge=1)
    """Most tokens of a completion (rStar's code: 512)."""


class SandboxConfig(Section):
    """Limits on code that a model wrote."""

    mode: Literal["strict", "namespaces", "external"] = "strict"
    """How code is confined. "external" means only time and memory limits: you run inside a
    container of your own."""
    workers: int | None = Field(None, ge=1)
    """Pre-started interpreters; by default one for each CPU core."""
    timeout_s: float = Field(10.0, gt=0)
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
    timeout_s: float = Field(2.0, gt=0)
    """Longest time for one pair; past it the verdict is "unknown"."""
    memory_mb: int = Field(1024, ge=256)
    """Memory of one grader process, in MiB."""


class Config(Section):
    """Everything that shapes a run."""

    model: ModelConfig = ModelConfig()
    policy: PolicyConfig = PolicyConfig()
    search: SearchConfig = SearchConfig()
    actions: ActionsConfig = ActionsConfig()
    discriminator: DiscriminatorConfig = DiscriminatorConfig()
    mutual: MutualConfig = MutualConfig()
    sandbox: SandboxConfig = SandboxConfig()
    grading: GradingConfig = GradingConfig()
    servers: ServersConfig = ServersConfig()

    @property
    def servers_of_policy(self) -> int:
        """How many servers share the policy's work; 1 for a model in this process."""
        return self.servers.count if self.model.url.startswith(VLLM) else self.model.addresses
