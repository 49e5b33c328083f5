r"""Formats of process reward models: how a solution is written for them, and how a score is read.

A format is text. The input that scores step t is

    before  step_1 mark after  ...  step_(t-1) mark after  step_t mark  end

and the score is read at its last token. The input of step t + 1 continues that of step t, apart
from `end`, so a prefix cache computes each step once.

Each format names the public source that it was checked against. The weights themselves were not
available to this project (docs/guides/scorers.md says what was tested instead).
"""

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from rstar_math.errors import ConfigError, InputError
from rstar_math.prompts.grammar import CODE_STEP_KINDS, FENCED
from rstar_math.prompts.templates import step_texts
from rstar_math.types import Question, Step

Reading = Literal["classes", "tokens", "sigmoid", "tanh", "pair"]
"""How a score is read. "classes": the model has two outputs, wrong and right; the score is the
softmax probability of right. "tokens": the softmax of the next-token logits of `good` and `bad`.
"sigmoid": one output, a logit. "tanh": one output s, probability (1 + tanh s) / 2. "pair": a server
scores the question and the solution with its own template (vLLM's /score)."""
Aggregation = Literal["last", "min", "product", "mean"]
"""How the probabilities of a prefix's steps become one."""
SYSTEM = r"Please reason step by step, and put your final answer within \boxed{}."
_LLAMA_TURN = "<|start_header_id|>{role}<|end_header_id|>\n\n"
_LLAMA_USER, _LLAMA_ASSISTANT = (
    _LLAMA_TURN.replace("{role}", role) for role in ("user", "assistant")
)
_LLAMA_SYSTEM = (
    _LLAMA_TURN.replace("{role}", "system")
    + "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n<|eot_id|>"
)
_CHATML = (
    f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{{question}}<|im_end|>\n"
    "<|im_start|>assistant\n"
)


@dataclass(frozen=True, slots=True)
class PrmFormat:
    """The format of one kind of process reward model."""

    name: str
    reading: Reading
    aggregation: Aggregation
    """What the authors use to rank whole solutions."""
    before: str = "{question}\n"
    """Text before the steps. {question} is the problem, {bos} the tokenizer's begin-of-text token,
    and {chat} the prompt of the model's own chat template."""
    step: str = "{step}"
    """A step; {step} is its text and {n} its number from 1."""
    mark: str = ""
    """Text after a step, at whose last token the score is read."""
    after: str = ""
    """Text between the mark and the next step."""
    end: str = ""
    """Text after the last mark, which longer inputs do not contain. {end} is the end-of-turn token
    of the model's chat template."""
    piecewise: bool = False
    """Whether `before`, each step and each mark are tokenized separately and then joined."""
    good: str = "+"
    bad: str = "-"
    """The two tokens of the reading "tokens"."""
    architectures: tuple[str, ...] = ()
    """Ends of the architecture names in config.json that this format fits."""
    names: tuple[str, ...] = ()
    """Parts of a model's name, in lower case, that this format fits."""
    route: str = "/classify"
    """The route of a vLLM server that scores this kind of model: a key of
    `scorers.served.ROUTES`, or "/score" for pairs."""
    source: str = ""
    """What the format was checked against."""


PRM_FORMATS: Mapping[str, PrmFormat] = {
    each.name: each
    for each in (
        PrmFormat(
            "qwen-prm",
            "classes",
            "product",
            before=_CHATML,
            mark="<extra_0>",
            architectures=("ForProcessRewardModel",),
            names=("qwen2.5-math-prm", "qwen2.5-math-7b-prm800k"),
            route="/pooling",
            source="model card of Qwen2.5-Math-PRM-7B; product: arXiv:2501.07301",
        ),
        PrmFormat(
            "math-shepherd",
            "tokens",
            "min",
            before="{question} ",
            step="Step {n}: {step}",
            mark=" ки",
            after="\n",
            names=("math-shepherd",),
            route="/completions",
            source="model card of math-shepherd-mistral-7b-prm; min: arXiv:2312.08935",
        ),
        PrmFormat(
            "rlhflow",
            "tokens",
            "mean",
            before=f"{_LLAMA_SYSTEM}{_LLAMA_USER}{{question}} ",
            mark=f"<|eot_id|>{_LLAMA_ASSISTANT}",
            after=f"+<|eot_id|>{_LLAMA_USER}",
            names=("rlhflow", "llama3.1-8b-prm"),
            route="/completions",
            source="RLHFlow/RLHF-Reward-Modeling, math-rm/prm_evaluate.py",
        ),
        PrmFormat(
            "skywork-prm",
            "sigmoid",
            "mean",
            before="{bos}{question}\n",
            mark="\n",
            piecewise=True,
            architectures=("ForPrmModel",),
            names=("skywork-o1-open-prm",),
            route="/embeddings",
            source="SkyworkAI/skywork-o1-prm-inference, as copied in openreasoner/openr",
        ),
        PrmFormat(
            "trl",
            "classes",
            "last",
            before="{bos}{question}",
            mark="\n",
            piecewise=True,
            architectures=("ForTokenClassification",),
            route="/pooling",
            source="huggingface/trl, PRMTrainer with its default step_separator",
        ),
        PrmFormat(
            "qwen-rm",
            "tanh",
            "last",
            before=_CHATML,
            after="\n\n",
            end="<|im_end|>\n",
            architectures=("Qwen2ForRewardModel",),
            names=("qwen2.5-math-rm",),
            route="/pooling",
            source="model card of Qwen2.5-Math-RM-72B (its score has no fixed range)",
        ),
        PrmFormat(
            "classifier",
            "tanh",
            "last",
            before="{chat}",
            after="\n\n",
            end="{end}",
            architectures=("ForSequenceClassification", "ForRewardModel"),
            source="transformers, sequence classification with one output",
        ),
        PrmFormat("reranker", "pair", "last", route="/score", source="vLLM, the route /score"),
    )
}
"""The formats by name."""


def prm_format(name: str) -> PrmFormat:
    """Return a format of `PRM_FORMATS`, or that of a TOML file. Raises `ConfigError`."""
    if name in PRM_FORMATS:
        return PRM_FORMATS[name]
    if name.endswith(".toml"):
        return read_format(Path(name).expanduser())
    known = ", ".join(PRM_FORMATS)
    raise ConfigError(f"Unknown search.prm_format {name!r}; use auto, {known}, or a TOML file.")


def recognize_format(architectures: Sequence[str], name: str) -> PrmFormat | None:
    """Return the format of a model, from its name and the architectures of its config.json.

    A name decides before an architecture. None if neither is known.
    """
    lower = name.lower()
    for each in PRM_FORMATS.values():
        if any(part in lower for part in each.names):
            return each
    for each in PRM_FORMATS.values():
        if any(one.endswith(each.architectures) for one in architectures if each.architectures):
            return each
    return None


class _FormatFile(BaseModel):
    """The content of a user's format file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reading: Reading
    aggregation: Aggregation = "last"
    before: str = "{question}\n"
    step: str = "{step}"
    mark: str = ""
    after: str = ""
    end: str = ""
    piecewise: bool = False
    good: str = "+"
    bad: str = "-"
    route: Literal["/pooling", "/classify", "/completions", "/embeddings", "/score"] = "/classify"


def read_format(path: Path) -> PrmFormat:
    """Return the format in a TOML file, whose keys are the fields of `PrmFormat`.

    Raises `ConfigError`.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        content = _FormatFile.model_validate(table)
    except (OSError, ValueError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise ConfigError(
            f"{path} is not a format of a process reward model ({reason}); it needs reading and "
            f"may set {', '.join(list(_FormatFile.model_fields)[1:])}."
        ) from error
    if content.reading != "pair" and "{step}" not in content.step:
        raise ConfigError(f"{path} sets a step without {{step}}; add it where the text belongs.")
    return PrmFormat(path.stem, source=str(path), **content.model_dump())


@dataclass(frozen=True, slots=True)
class ChatFrameText:
    """The texts of a model that a format may insert."""

    bos: str = ""
    prompt: str | None = None
    """The prompt of the model's chat template for the question; None without a template."""
    end: str = ""


@dataclass(frozen=True, slots=True)
class RewardInput:
    """The input that scores the last step of a prefix."""

    pieces: tuple[str, ...]
    """Its text in parts, which are tokenized separately if `piecewise`."""
    steps: int
    """Number of steps, at least 1."""
    special: bool
    """Whether the tokenizer adds its begin-of-text token."""
    piecewise: bool = False

    @property
    def text(self) -> str:
        """The whole text."""
        return "".join(self.pieces)


def reward_input(
    layout: PrmFormat, question: Question, steps: Sequence[str], frame: ChatFrameText
) -> RewardInput:
    """Return the input that scores the last of some step texts, at least one.

    A step's text loses the mark if it contains it.
    """
    text = question.text.strip()
    chat = f"Question: {text}\n" if frame.prompt is None else frame.prompt
    inserted = {"{bos}": frame.bos, "{chat}": chat, "{question}": text}
    pieces = [_filled(layout.before, inserted)]
    end = layout.end.replace("{end}", frame.end)
    for number, content in enumerate(steps, start=1):
        if layout.mark.strip():
            content = content.replace(layout.mark.strip(), "")
        values = {"{n}": str(number), "{step}": content}
        step = layout.step
        if step.startswith("Step {n}: ") and content.lstrip().startswith(f"Step {number}"):
            step = "{step}"
        last = number == len(steps)
        pieces += [_filled(step, values), layout.mark + (end if last else layout.after)]
    return RewardInput(
        tuple(piece for piece in pieces if piece),
        len(steps),
        special="{bos}" not in layout.before,
        piecewise=layout.piecewise,
    )


def _filled(template: str, values: Mapping[str, str]) -> str:
    """Return a template with its fields replaced; a value is never searched for fields."""
    parts, rest = [], template
    while rest:
        found = [(at, key) for key in values if (at := rest.find(key)) >= 0]
        if not found:
            break
        at, key = min(found)
        parts += [rest[:at], values[key]]
        rest = rest[at + len(key) :]
    return "".join([*parts, rest])


def reward_steps(steps: Sequence[Step]) -> list[str]:
    """Return the steps of a solution as a process reward model reads them, at least one.

    Code steps are shown as Markdown with the output of the program. A step in words is split where
    a line is empty, as the authors of these models do. The steps of a longer solution begin with
    those of a shorter one.
    """
    texts: list[str] = []
    if steps and all(step.kind in CODE_STEP_KINDS for step in steps):
        texts = step_texts(steps, FENCED)
    else:
        for step in steps:
            texts += step.text.split("\n\n")
    return [text.strip() for text in texts if text.strip()] or ["(empty)"]


def aggregate(probabilities: Sequence[float], how: Aggregation) -> float:
    """Return the probability, in [0, 1], of a prefix from those of its steps, at least one."""
    if how == "last":
        return probabilities[-1]
    if how == "min":
        return min(probabilities)
    if how == "product":
        return math.prod(probabilities)
    return sum(probabilities) / len(probabilities)


def probability(outputs: Sequence[float], reading: Reading) -> float:
    """Return the probability, in [0, 1], that a step is right, from the outputs of the model.

    Two outputs are (wrong, right). Raises `InputError` if their number does not fit.
    """
    expected = 2 if reading in ("classes", "tokens") else 1
    if len(outputs) != expected:
        raise InputError(
            f"The reward model has {len(outputs)} outputs, but its format reads {expected}; set "
            "search.prm_format to the format of this model."
        )
    if reading == "tanh":
        return (1.0 + math.tanh(outputs[0])) / 2.0
    margin = outputs[1] - outputs[0] if expected == 2 else outputs[0]
    return _sigmoid(margin)


def _sigmoid(x: float) -> float:
    if x >= 0:
        return 1.0 / (1.0 + math.exp(-x))
    return math.exp(x) / (1.0 + math.exp(x))


def architecture_facts(config: Mapping[str, Any]) -> tuple[tuple[str, ...], str]:
    """Return the architectures and the recorded name in a config.json."""
    names = config.get("architectures")
    found = tuple(map(str, names)) if isinstance(names, list) else ()
    return found, str(config.get("_name_or_path") or "")
