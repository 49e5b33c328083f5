"""Options: one frozen section per subject.

A field's docstring is its `--help` text. A default that comes from a paper names the paper. For
other defaults, the docstring states the reason.
"""

import re
from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from rstar_math.confidence import LogprobOptions, Measure


class Section(BaseModel):
    """A frozen group of options. Unknown keys are rejected; field docstrings are descriptions."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy with some options changed.

        Raises `KeyError` for an unknown option; pydantic's own method would accept it.
        """
        if unknown := set(update or ()) - set(type(self).model_fields):
            raise KeyError(f"{type(self).__name__} has no {', '.join(sorted(unknown))}")
        return super().model_copy(update=update, deep=deep)


VLLM = "vllm:"
"""Prefix of the address of a checkpoint for which a vLLM server is started."""


class ServersConfig(Section):
    """The vLLM servers that are started for vllm:FOLDER and stopped when no longer needed."""

    vllm_command: tuple[str, ...] | None = None
    """Command that starts vLLM, for example one in another virtual environment. Default: the
    environment variable RSTAR_VLLM if it is set, else "vllm serve"."""
    args: tuple[str, ...] = ()
    """Extra options of the policy's servers that may change results, such as --dtype or
    --quantization. A run can be resumed only with the same options."""
    hardware_args: tuple[str, ...] = ()
    """Extra options of the policy's servers that depend on the machine, such as
    --gpu-memory-utilization or --max-num-seqs."""
    ppm: tuple[str, ...] = ()
    """Extra options of the preference model's server."""
    adapters: dict[str, str] = Field(default_factory=dict)
    """LoRA adapters (PEFT folders) that the policy's servers load, by name. model.name selects
    one."""
    replicas: int = Field(1, ge=1, le=256)
    """Number of servers for the policy, if `gpus` is empty."""
    gpus: tuple[str, ...] = ()
    """GPUs of each policy server, one CUDA_VISIBLE_DEVICES value per server. ["0", "1"] starts two
    servers; ["0,1"] starts one that splits the model over both GPUs (tensor parallelism)."""
    ppm_gpus: str | None = None
    """GPUs of the preference model's server, as a CUDA_VISIBLE_DEVICES value."""
    startup_timeout_s: float = Field(1200.0, gt=0)
    """Maximum time in seconds for a server to load its model and answer requests."""
    log_dir: str | None = None
    """Folder for the server logs. Default: the cache folder, which keeps only the logs of servers
    that failed."""

    @property
    def count(self) -> int:
        """Number of servers for the policy."""
        return len(self.gpus) or self.replicas


NO_MODEL = "none"
"""Address that stands for no model."""
LOCAL, TRAINED = "local", "trained"
"""Addresses of the embedded model: as published, and after training with `rstar evolve laptop`."""
Duplicates = Literal["text", "program"]
"""When two samples at a node count as the same step."""
HF = "hf:"
"""Prefix of the address of a checkpoint that transformers runs in this process."""
_SHORT_NAMES = {"smollm2-135m": LOCAL}
"""Short names of the embedded model."""


def normalize_url(url: str) -> str:
    """Return a model address in its normal form.

    Prefixes and short names become lower case. Short names of the embedded model become "local".
    """
    if prefix := re.match(r"(?:hf|vllm):", url, re.IGNORECASE):
        return prefix[0].lower() + url[prefix.end() :]
    if re.fullmatch(r"[\w.\-]+", url) and not url.lower().endswith(".gguf"):
        return _SHORT_NAMES.get(url.lower(), url.lower())
    return url


class ModelConfig(Section):
    """The policy's language model and the limits of its requests."""

    url: str = LOCAL
    """Address of the model. In this process: "local" (embedded SmolLM2-135M, also named
    smollm2-135m), "trained" (the same model after `rstar evolve laptop`), a short name from
    `rstar models list`, the path of a .gguf file, or hf:ORG/NAME:Q4_K_M (a GGUF file on the Hugging
    Face hub). With transformers: hf:ORG/NAME or hf:FOLDER. With a vLLM server that is started for
    it (section `servers`): vllm:ORG/NAME or vllm:FOLDER. On a running server: http://host:port/v1;
    several, separated by commas, share the requests. FOLDER may be "trained". "none": no model, for
    a policy of your own that needs none."""
    name: str | None = None
    """Name of a model or LoRA adapter on the server. Default: the only model that the server
    lists."""
    adapter: str | None = None
    """LoRA adapter for the embedded model: a .gguf file written by `rstar deploy --adapter`."""
    api_key_env: str = "OPENAI_API_KEY"
    """Environment variable that holds the server's API key."""
    concurrency: int | None = Field(None, ge=1, le=4096)
    """Maximum number of requests in flight per server (default 128; fewer while the server answers
    429 or 503). For the embedded model: number of samples decoded together (default 32)."""
    context_tokens: int = Field(2048, ge=256)
    """Context length of the embedded model in tokens, prompt and answer together."""
    timeout_s: float = Field(300.0, gt=0)
    """Maximum time in seconds for one attempt of a request to a server. The embedded model has no
    time limit."""
    max_retries: int = Field(4, ge=0)
    """Maximum number of retries after a refused or dropped connection, or an answer with status
    408, 409, 425, 429 or 5xx."""
    affinity: bool = True
    """With several servers, send all requests of a tree to the server whose cache holds the tree's
    prefixes. If that server has more than its share of the load, or if false, a request goes to the
    least loaded server."""

    @field_validator("url", mode="before")
    @classmethod
    def _normalize_url(cls, url: object) -> object:
        joined = ",".join(map(str, url)) if isinstance(url, list | tuple) else url
        return normalize_url(joined) if isinstance(joined, str) else joined

    @property
    def embedded(self) -> bool:
        """Whether the model runs inside this process."""
        return not self.url.startswith(("http://", "https://", VLLM))

    @property
    def address_count(self) -> int:
        """Number of addresses in `url`."""
        return len([part for part in self.url.split(",") if part.strip()])

    @property
    def in_flight(self) -> int:
        """Maximum number of requests in flight (embedded model: of samples decoded together)."""
        return self.concurrency or (32 if self.embedded else 128)


class DiscriminatorConfig(ModelConfig):
    """The second model of rStar, which completes partly hidden solutions."""

    url: str = "same"
    """Address of the discriminator: "same" (the policy's model checks its own work), or an address
    as for model.url."""


class PolicyConfig(Section):
    """How the policy prompts the model and samples steps."""

    source: str = "model"
    """Where steps come from: "model" (the language model writes code-augmented steps), or
    "module:factory" for a policy of your own, which then proposes the steps of all strategies
    without prompts of their own."""
    prompt: str = "auto"
    """System message and worked examples: "easy" (one or two calculations), "grade-school" (as in
    GSM8K), "competition" (as in MATH, with sympy), "trained" (no examples, for models trained on
    the step format), "code" (programs with tests), "choice" (multiple choice and short texts), or
    the path of a TOML file. "auto" is "trained" for a model that rstar trained, else "grade-school"
    in chat mode and "easy" in completion mode. The sets for mathematics do not apply to other kinds
    of problems, which have "code" and "choice"."""
    format: Literal["auto", "fenced", "tags"] = "auto"
    """Step format: Markdown code blocks in which each step begins with a comment ("fenced"), or
    code with a tag after each step ("tags"). "auto" is the format that the model was trained on,
    else "fenced" in chat mode and "tags" in completion mode."""
    mode: Literal["auto", "chat", "completion"] = "auto"
    """How prompts are sent: through the model's chat template, with a partial answer to continue
    ("chat"), or as plain text ("completion"). "auto" is "chat" if the model has a template or its
    server continues partial answers. `rstar doctor --model` shows the choice."""
    temperature: float = Field(0.7, ge=0, le=5)
    """Sampling temperature (rStar-Math's code: 0.7 in the bootstrap round, 1.0 later)."""
    answer_samples: int | None = Field(None, ge=1)
    """Maximum number of samples of the text that follows a program's output, which hardly varies.
    Default: as many as of any other step (as in rStar-Math)."""
    max_step_tokens: int = Field(192, ge=1)
    """Maximum number of tokens per step (rStar-Math's code: 2048)."""
    max_solution_tokens: int = Field(400, ge=1)
    """Maximum number of tokens of a program or an answer when whole solutions are sampled without a
    stop after each step. 400 is enough for word problems; competition problems may need 1024."""
    max_thinking_tokens: int = Field(0, ge=0)
    """Maximum number of tokens that a reasoning model may think before its first step; 0 disables
    thinking. Thoughts count as sampled tokens, and answers are never extracted from them."""


class SearchConfig(Section):
    """The tree search (rStar-Math, arXiv:2501.04519, section 3 and appendix A.1)."""

    strategy: str = "mcts"
    """Strategy that solves a problem if --strategy is not given."""
    rollouts: int = Field(16, ge=1)
    """Number of rollouts per problem (paper: 16; bootstrap round 8)."""
    token_budget: int | None = Field(None, ge=1)
    """Token budget per problem, the same for every strategy: runs are repeated until the budget is
    spent. `search.budget` selects which tokens count. Default: no budget; each strategy does one
    run of its own size."""
    budget: Literal["sampled", "total", "all"] = "sampled"
    """Which tokens count against `search.token_budget`: only the tokens that the model samples
    ("sampled"), prompt tokens as well, cached or not ("total"), or also those that a scorer or
    judge reads and samples ("all"). No effect without a token budget."""
    confidence: float | None = Field(None, gt=0.5, le=1)
    """Stop a majority vote early. 1 stops when no remaining vote can change the answer. A lower
    value also stops when the votes so far make the leading answer this probable. Default: never
    stop early."""
    particle_temperature: float = Field(1.0, gt=0)
    """Temperature of the weights of particle filtering: a higher one resamples more evenly (paper:
    1)."""
    resample_below: float = Field(1.0, ge=0, le=1)
    """Particle filtering resamples if the effective number of particles is at most this share of
    their number. 1 resamples after each step (paper); 0.5 is usual elsewhere."""
    candidates: int = Field(8, ge=1)
    """Number of next steps sampled per node, K (paper: 8; bootstrap round 5, test time 32)."""
    duplicates: Duplicates = "text"
    """Which samples at a node become one child: samples with equal text ("text"), or samples whose
    code is equal apart from comments and whitespace ("program"). With "program", steps without
    code are equal if they state the same answer."""
    max_depth: int = Field(16, ge=1)
    """Maximum number of steps per path (paper: 16)."""
    exploration: float = Field(2.0, ge=0)
    """Exploration constant c of the selection rule (rStar-Math's code: 2)."""
    selection: str = "auto"
    """Selection rule for children: "uct" (unvisited children first), "uct-zero" (unvisited children
    have value 0, as in rStar-Math's code), "puct" (AlphaZero; the share of samples is the prior),
    or "module:rule" for your own. "auto" is UCT if a scorer or verifier provides values, else
    PUCT."""
    tie_break: Literal["first", "random"] = "first"
    """Choice between equally good children: the first one, or a random one. "random" is rStar's
    rule: unexplored children are tried in random order, with random moves below them (its
    simulation phase)."""
    backup: Literal["answers", "all", "rollout"] = "answers"
    """Which values are backed up to the root. "answers": the value of each answer when it is found
    (rStar-Math). "all": also the score of every new node (AlphaZero, AlphaMath). "rollout": the
    value at the end of each rollout, 0 without an answer (rStar)."""
    discount: float = Field(1.0, ge=0, le=1)
    """Factor on a backed-up value per step towards the root (1 in both papers; rStar's code has
    this option but does not use it)."""
    parallel_rollouts: int = Field(1, ge=1, le=1024)
    """Number of rollouts in flight in one tree, spread by virtual loss; 1 is the papers' search.
    More rollouts keep the model busier. The tree depends on this number, but not on timing."""
    max_code_errors: int = Field(1, ge=1)
    """Number of consecutive failed steps that ends a path (rStar-Math's code: 2 in the bootstrap
    round, else 1)."""
    scorer: str = "none"
    """Scorer of steps: "none", "self" (the model judges its own steps, as in Tree of Thoughts),
    "ppm" (the trained process preference model of `search.ppm`), "prm" (the process reward model of
    `search.prm`), "judge" (a chat model, section `judge`), "confidence" (the model's token
    log-probabilities, see `search.confidence_measure`), or "module:factory" for your own. Of
    several, separated by commas, the first drives the search; the values of the others are only
    stored. ppm=PLACE, prm=PLACE and prm=PLACE@FORMAT name further models, for example
    "ppm,prm=hf:ORG/NAME"."""
    confidence_measure: Measure = "mean"
    """Confidence of a path by the model's own token log-probabilities, for scorer = "confidence",
    answer = "confidence" and `search.chain_stop`. Of the sampled tokens: "mean", "tail" (the last
    tokens), "lowest" (the least probable window). Of the most probable tokens at each position:
    "self-certainty", "tail-certainty", "lowest-certainty" (DeepConf: the lowest or the tail)."""
    confidence_window: int = Field(32, ge=1)
    """Number of tokens of the tail and of a window (DeepConf: 2048, for chains of 10,000 tokens and
    more)."""
    confidence_alternatives: int = Field(5, ge=2, le=128)
    """Number of most probable tokens per position that the certainties use (DeepConf: 20; OpenAI's
    completions allow 5)."""
    chain_stop: Literal["none", "low", "high"] = "none"
    """Stop sampled chains (sc, bon, cot) that have become unlikely, as in DeepConf: chains whose
    lowest window falls below that of the best 10 % ("low") or 90 % ("high") of the first
    `search.warmup_chains` chains. Chains are then sampled step by step."""
    warmup_chains: int = Field(16, ge=1)
    """Number of chains that are never stopped and set the threshold of `search.chain_stop`
    (DeepConf: 16)."""
    ppm: str | None = None
    """Process preference model: "trained" (this package's own, for the embedded model; hf:trained
    and vllm:trained run it with torch and vLLM), a folder written by `rstar train ppm`,
    vllm:FOLDER, a .gguf file written by `rstar deploy`, or http://host:port/v1 of a server that
    runs it (several with commas)."""
    ppm_head: str | None = None
    """Value head for a preference model server that returns hidden states (embeddings): the folder
    or .gguf file of the model. Without it, the server must offer vLLM's /classify."""
    prm: str | None = None
    """Process reward model of others: a checkpoint folder, hf:ORG/NAME (both with torch in this
    process), vllm:FOLDER, or http://host:port/v1 of a server that runs it (several with commas)."""
    prm_format: str = "auto"
    """What the process reward model reads and how its score is read: "qwen-prm", "math-shepherd",
    "rlhflow", "skywork-prm", "trl", "qwen-rm", "classifier", "reranker", or the path of a TOML
    file. "auto" recognises the model from its config.json or name."""
    prm_aggregation: Literal["auto", "last", "min", "product", "mean"] = "auto"
    """How the scores of a path's steps become the value of the path. "auto" is what the authors of
    the format use."""
    prm_route: Literal["auto", "/pooling", "/classify", "/completions", "/embeddings"] = "auto"
    """Route of the process reward model's server. "auto" follows from the format."""
    prm_head: str | None = None
    """Folder with the head of a process reward model whose server returns hidden states
    (embeddings). Its chat template is used too."""
    use_examples: bool = True
    """Value the programs of code problems by the share of the public tests that they pass, in
    searches that accept a scorer and have none. The votes for a program then count by this value.
    Hidden tests are never used."""
    self_check: bool = True
    """Let a model that judges its own steps write one line of reasoning first, as in Tree of
    Thoughts. Without it, a judgement takes a tenth of the tokens."""
    answer: Literal["majority", "paths", "weighted", "confidence", "best", "top-of-runs"] | None = (
        None
    )
    """How the final answer is chosen. "majority": votes weighted by the policy's probability of
    each path. "paths": one vote per path (rStar's generator). "weighted": votes weighted by
    probability and value. "confidence": votes weighted by probability and confidence. "best": the
    path with the highest value. "top-of-runs": one vote for the best path of each of the
    `search.top_k` best runs (rStar-Math). Default: depends on the strategy."""
    top_k: int = Field(4, ge=1)
    """Number of runs whose best paths vote under "top-of-runs" (rStar-Math's code: 4)."""
    parallel_problems: int | None = Field(None, ge=1)
    """Number of problems in flight. Default: enough to keep the model busy."""
    seed: int = 0
    """Seed of all randomness in a search."""

    @property
    def logprobs(self) -> LogprobOptions | None:
        """Which token log-probabilities the search needs from the model; None if none."""
        if "confidence" not in (self.scorer, self.answer) and self.chain_stop == "none":
            return None
        uses_certainty = self.confidence_measure.endswith("certainty")
        alternatives = self.confidence_alternatives if uses_certainty else 0
        return LogprobOptions(self.confidence_window, alternatives)


class ActionsConfig(Section):
    """rStar's five actions (arXiv:2408.06195, section 3 and appendix). Where the paper gives no
    value, the default comes from its public code."""

    prompt_set: str = "school"
    """Prompts for one kind of task: school (word problems), competition (harder mathematics), yesno
    (commonsense questions answered yes or no), or the path of a folder."""
    enabled: tuple[str, ...] = ("A1", "A2", "A3", "A4", "A5")
    """Enabled actions: A1 one-step thought, A2 rest of the solution, A3 next sub-question with its
    answer, A4 re-answer the sub-question, A5 rephrase the question, or "module:NAME" for your own.
    The paper's ablation leaves some out."""
    depth: int | None = Field(None, ge=1)
    """Maximum number of steps per path. Default: the prompt set's depth (paper: 5, and 8 for
    competition mathematics)."""
    candidates: int = Field(5, ge=1)
    """Number of one-step thoughts (A1), and of sub-questions (A3), sampled per node (paper: 5; its
    code 3)."""
    temperature: float = Field(0.8, ge=0, le=5)
    """Sampling temperature of all actions (rStar's code: 0.8)."""
    votes: int = Field(32, ge=1)
    """Number of samples for the rest of a solution (A2) and for the answer to the last sub-question
    (A3). The majority answer becomes the step, and its share the step's confidence (rStar's code:
    32)."""
    sub_votes: int = Field(10, ge=1)
    """Number of samples for the answer to any other sub-question (rStar's code: 10)."""
    thought_tokens: int = Field(256, ge=1)
    """Maximum number of tokens of a one-step thought (rStar's code: 256)."""
    question_tokens: int = Field(128, ge=1)
    """Maximum number of tokens of a sub-question (rStar's code: 128)."""
    answer_tokens: int = Field(512, ge=1)
    """Maximum number of tokens of a sub-question's answer, and of a rephrased question (rStar's
    code: 512)."""
    solution_tokens: int = Field(1024, ge=1)
    """Maximum number of tokens of the rest of a solution and of a re-answered sub-question (rStar's
    code: 1024)."""


class JudgeConfig(ModelConfig):
    """A chat model that judges steps or solutions (`search.scorer=judge`)."""

    url: str = "same"
    """Address of the judge: "same" (the policy's model), or an address as for model.url."""
    mode: Literal["pointwise", "pairwise"] = "pointwise"
    """What the judge sees: one partial solution, to which it gives a value ("pointwise"), or two
    whole solutions, of which it names the better ("pairwise": a tournament chooses the answer of
    bon and mcts)."""
    style: Literal["rating", "genprm", "thinkprm"] = "rating"
    """Prompt and form of a pointwise judgement: a rating from 1 to 10 after a rubric ("rating"), or
    the prompts and verdicts of the generative verifiers GenPRM (arXiv:2504.00891) and ThinkPRM
    (arXiv:2504.16828), which think first."""
    rubric: str | None = None
    """Text file that tells the judge what to look at, for the style "rating" and pairwise
    judgements. Default: a rubric for mathematics."""
    votes: int = Field(1, ge=1, le=64)
    """Number of judgements per step, whose mean is the value. A pair gets this number in each
    order."""
    tokens: int = Field(1024, ge=8)
    """Maximum number of tokens of a judgement, thoughts included."""
    temperature: float = Field(0.6, ge=0, le=5)
    """Sampling temperature of judgements (0.6 is the one that GenPRM's authors use)."""


class MutualConfig(Section):
    """rStar's discriminator (arXiv:2408.06195, section 3.3)."""

    splits: int = Field(1, ge=1, le=64)
    """Number of positions at which each candidate solution is cut; the discriminator completes each
    beginning once (paper: 1, at random; its code 4, evenly spaced)."""
    min_visible: float = Field(0.2, gt=0, lt=1)
    """Minimum share of a candidate solution that the discriminator sees (paper: 0.2)."""
    max_visible: float = Field(0.8, gt=0, lt=1)
    """Maximum share of a candidate solution that the discriminator sees (paper: 0.8; its code
    0.5)."""

    @model_validator(mode="after")
    def _check_visible_range(self) -> Self:
        if self.min_visible > self.max_visible:
            raise ValueError(
                f"min_visible = {self.min_visible} is above max_visible = {self.max_visible}"
            )
        return self

    min_agreement: Literal["one", "half", "all"] = "half"
    """Minimum number of completions that must agree with a candidate to keep it (rStar's code:
    half)."""
    score: Literal["paper", "code"] = "paper"
    """Ranking of the kept candidates: reward times confidence ("paper"), or the answer's share of
    the kept candidates plus the share of its candidates that were kept ("code", rStar's code)."""
    budget_share: float = Field(0.25, ge=0, lt=1)
    """Share of `search.token_budget` that is reserved for the discriminator. 0.25 is enough for
    about one completion per candidate."""
    temperature: float = Field(1.0, ge=0, le=5)
    """Sampling temperature of the completions (rStar's code: 1)."""
    tokens: int = Field(512, ge=1)
    """Maximum number of tokens per completion (rStar's code: 512)."""


class SandboxConfig(Section):
    """Limits on the execution of model-written code."""

    mode: Literal["strict", "namespaces", "external"] = "strict"
    """How code is confined: "strict" (Landlock and seccomp), "namespaces" (bubblewrap and seccomp,
    for kernels without Landlock), or "external" (only time and memory limits, for use inside a
    container of your own)."""
    workers: int | None = Field(None, ge=1)
    """Number of pre-started interpreters. Default: one per CPU core."""
    timeout_s: float = Field(10.0, gt=0)
    """Maximum wall time in seconds of one step's code, including its prefix."""
    cpu_s: float = Field(5.0, gt=0)
    """Maximum CPU time in seconds of one step's code, including its prefix. This limit normally
    ends a slow step, so that results do not depend on the load of the machine."""
    memory_mb: int = Field(512, ge=64)
    """Memory limit of one step's code in MiB, in addition to the memory of the interpreter."""
    output_bytes: int = Field(65536, ge=1)
    """Maximum number of bytes that one step may print; a step that prints more is ended."""
    scratch_mb: int = Field(16, ge=1, le=65536)
    """Size in MiB of the private folder in which one step's code, with its prefix, may write
    files. The files are kept in memory until the code ends, in addition to `memory_mb`."""
    scratch_files: int = Field(256, ge=1, le=1_000_000)
    """Maximum number of files and folders in that folder."""


class GradingConfig(Section):
    """How two answers are compared."""

    workers: int | None = Field(None, ge=1)
    """Number of grader processes. Default: one per CPU core, at most 4."""
    timeout_s: float = Field(2.0, gt=0)
    """Maximum time in seconds per comparison; after it the verdict is "unknown"."""
    memory_mb: int = Field(1024, ge=256)
    """Memory limit of one grader process in MiB."""


class ProblemsConfig(Section):
    """Second models that some kinds of problems need."""

    describe: str | None = None
    """Model that transcribes the pictures of questions for a policy that reads only text: an
    address as for model.url, of a server of a multimodal model. Default: pictures are sent to the
    policy's model."""
    judge: str | None = None
    """Model that decides whether a short text is the same answer as an accepted one if their normal
    forms differ: an address as for model.url. Default: they are different answers."""


class Config(Section):
    """All options of a run."""

    model: ModelConfig = ModelConfig()
    policy: PolicyConfig = PolicyConfig()
    search: SearchConfig = SearchConfig()
    actions: ActionsConfig = ActionsConfig()
    discriminator: DiscriminatorConfig = DiscriminatorConfig()
    mutual: MutualConfig = MutualConfig()
    judge: JudgeConfig = JudgeConfig()
    sandbox: SandboxConfig = SandboxConfig()
    grading: GradingConfig = GradingConfig()
    servers: ServersConfig = ServersConfig()
    problems: ProblemsConfig = ProblemsConfig()

    @property
    def policy_server_count(self) -> int:
        """Number of servers that share the policy's requests; 1 for a model in this process."""
        in_vllm = self.model.url.startswith(VLLM)
        return self.servers.count if in_vllm else self.model.address_count
