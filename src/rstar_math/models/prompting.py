"""Selects the chat template, prompt set and step format of a model, and builds its renderer."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rstar_math.checkpoints.folders import read_notes
from rstar_math.checkpoints.tensors import PROMPTING_KEYS, read_header
from rstar_math.config.sections import PolicyConfig
from rstar_math.errors import ConfigError
from rstar_math.prompts.chat_templates import ChatTemplate, template_of_gguf, template_of_tokenizer
from rstar_math.prompts.prompt_sets import TRAINED
from rstar_math.prompts.rendering import (
    KIND_SETS,
    MATH_SETS,
    Conversation,
    Mode,
    Renderer,
    make_renderer,
)
from rstar_math.tasks import Kind

MODE_DESCRIPTIONS: Mapping[Mode, str] = {
    "completion": "plain text with worked examples",
    "template": "chat template, rendered here; the answer is continued step by step",
    "messages": "chat messages; the server continues the partly written answer",
}
"""Description of each mode for `rstar doctor`."""


@dataclass(frozen=True, slots=True)
class Prompting:
    """Facts about how a model expects to be prompted."""

    template: ChatTemplate | None = None
    """The model's chat template; None if this process cannot read it."""
    continues: bool = False
    """Whether the server continues a partial assistant message."""
    chat: bool = False
    """Whether the server has a chat endpoint."""
    trained: Mapping[str, str] = field(default_factory=dict)
    """`Renderer.description` at training time; empty if rstar did not train the model."""


NOTHING_KNOWN = Prompting()


def prompting_of_folder(folder: str) -> Prompting:
    """Return the chat template and training prompts of a checkpoint folder.

    The result is `NOTHING_KNOWN` if the folder does not exist.
    """
    path = Path(folder).expanduser()
    if not path.is_dir():
        return NOTHING_KNOWN
    return Prompting(template=template_of_tokenizer(path), trained=_trained_prompting(path))


def prompting_of_tokenizer(tokenizer: Any, name: str) -> Prompting:
    """Return the chat template of a loaded tokenizer and the training prompts of its checkpoint.

    `name` is the folder or name that the tokenizer was loaded from.
    """
    chat_template = getattr(tokenizer, "chat_template", None)
    template = None
    if isinstance(chat_template, str) and chat_template:
        bos, eos = tokenizer.bos_token or "", tokenizer.eos_token or ""
        template = ChatTemplate(chat_template, str(bos), str(eos), name)
    return Prompting(template=template, trained=_trained_prompting(Path(name).expanduser()))


def prompting_of_gguf(path: Path, adapter: Path | None = None) -> Prompting:
    """Return the chat template and training prompts of a GGUF file.

    With an adapter, the training prompts come from the adapter's file.
    """
    metadata = read_header(path).metadata
    training = metadata if adapter is None else read_header(adapter).metadata
    trained = {name: str(training[key]) for name, key in PROMPTING_KEYS.items() if key in training}
    return Prompting(template=template_of_gguf(metadata, str(path)), trained=trained)


def _trained_prompting(folder: Path) -> Mapping[str, str]:
    """Return the prompts that a checkpoint was trained with; empty if it records none."""
    if not (folder / "config.json").is_file():
        return {}
    found = read_notes(folder).get("prompting")
    return {k: str(v) for k, v in found.items()} if isinstance(found, Mapping) else {}


def prompting_of(completer: object) -> Prompting:
    """Return the `prompting` attribute of a Completer; `NOTHING_KNOWN` if it has none."""
    found = getattr(completer, "prompting", None)
    return found if isinstance(found, Prompting) else NOTHING_KNOWN


def renderer_for(
    config: PolicyConfig, known: Prompting = NOTHING_KNOWN, kind: Kind = Kind.MATH
) -> Renderer:
    """Return the renderer for the prompts of a policy, for one kind of problem.

    Raises `ConfigError` if chat is required and the model has none, and for an invalid prompt set.
    """
    trained = known.trained
    prompt = config.prompt
    if prompt == "auto" and trained:
        prompt = trained.get("prompt", "auto")
    if prompt in MATH_SETS:
        prompt = KIND_SETS.get(kind, prompt)
    step_format = config.format
    if step_format == "auto" and prompt == trained.get("prompt"):
        step_format = trained.get("format", "auto")  # type: ignore[assignment]
    return make_renderer(
        prompt=prompt,
        step_format=step_format,
        mode=_mode(config, known),
        template=known.template,
        thinking=config.max_thinking_tokens > 0,
    )


def scorer_renderer(known: Prompting) -> Renderer:
    """Return the renderer that a preference model was trained with.

    If its checkpoint does not record one, the result is plain text in the format `tags`.
    """
    trained = known.trained
    chat = trained.get("mode") == "chat" and known.template is not None
    return make_renderer(
        prompt=trained.get("prompt", TRAINED),
        step_format=trained.get("format", "tags"),
        mode="template" if chat else "completion",
        template=known.template,
    )


def conversation_for(config: PolicyConfig, known: Prompting = NOTHING_KNOWN) -> Conversation | None:
    """Return how to send messages to a model; None if it is prompted in plain text.

    Raises `ConfigError`.
    """
    mode = _mode(config, known)
    if mode == "completion":
        return None
    template = known.template if mode == "template" else None
    return Conversation(mode, template, config.max_thinking_tokens > 0)


def _mode(config: PolicyConfig, known: Prompting) -> Mode:
    """Return how prompts are sent.

    The configuration decides first, then the training prompts, then what the model and its server
    support.
    """
    requested = config.mode if config.mode != "auto" else known.trained.get("mode", "auto")
    if requested == "completion":
        return "completion"
    if known.template is not None:
        return "template"
    if known.continues or (requested == "chat" and known.chat):
        return "messages"
    if requested == "chat":
        raise ConfigError(
            "policy.mode = chat needs a model with a chat template or a server with a chat "
            "endpoint; set policy.mode=completion."
        )
    return "completion"
