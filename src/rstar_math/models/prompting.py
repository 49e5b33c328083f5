"""How a model is prompted: chat template, prompt set and step format, and the renderer for them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rstar_math.checkpoints.folders import read_notes
from rstar_math.checkpoints.tensors import GGUF_KEYS, read_header
from rstar_math.config.sections import PolicyConfig
from rstar_math.errors import ConfigError
from rstar_math.prompts.chat_templates import ChatTemplate, template_of_gguf, template_of_tokenizer
from rstar_math.prompts.prompt_sets import TRAINED
from rstar_math.prompts.rendering import Conversation, Mode, Renderer, make_renderer

WAYS: Mapping[Mode, str] = {
    "completion": "plain text with worked examples",
    "template": "chat template, rendered here; the answer is continued step by step",
    "messages": "chat messages; the server continues the partly written answer",
}
"""What each mode means, for a person."""


@dataclass(frozen=True, slots=True)
class Prompting:
    """What is known of how a model wants to be asked."""

    template: ChatTemplate | None = None
    """Its chat template, where this process can read it."""
    continues: bool = False
    """Whether its server continues a partly written assistant message."""
    chat: bool = False
    """Whether its server has a chat route."""
    trained: Mapping[str, str] = field(default_factory=dict)
    """How it was asked in training (`Renderer.description`); empty where rstar did not train it."""


NOTHING_KNOWN = Prompting()


def prompting_of_folder(folder: str) -> Prompting:
    """What a checkpoint folder says: its chat template, and how rstar trained it. Nothing for a
    name that is no folder."""
    path = Path(folder).expanduser()
    if not path.is_dir():
        return NOTHING_KNOWN
    return Prompting(template=template_of_tokenizer(path), trained=trained_prompting(path))


def prompting_of_tokenizer(tokenizer: Any, name: str) -> Prompting:
    """What a loaded tokenizer says, and the checkpoint folder that it came from."""
    source = getattr(tokenizer, "chat_template", None)
    template = None
    if isinstance(source, str) and source:
        bos, eos = tokenizer.bos_token or "", tokenizer.eos_token or ""
        template = ChatTemplate(source, str(bos), str(eos), name)
    return Prompting(template=template, trained=trained_prompting(Path(name).expanduser()))


def prompting_of_gguf(path: Path, adapter: Path | None = None) -> Prompting:
    """What a GGUF file says; how the model was trained, its adapter's file where there is one."""
    facts = read_header(path).metadata
    own = facts if adapter is None else read_header(adapter).metadata
    trained = {key: str(own[at]) for key, at in GGUF_KEYS.items() if at in own}
    return Prompting(template=template_of_gguf(facts, str(path)), trained=trained)


def trained_prompting(folder: Path) -> Mapping[str, str]:
    """How a checkpoint was asked in training; empty where it does not say."""
    if not (folder / "config.json").is_file():
        return {}
    found = read_notes(folder).get("prompting")
    return {k: str(v) for k, v in found.items()} if isinstance(found, Mapping) else {}


def prompting_of(completer: object) -> Prompting:
    """What a Completer says of itself; nothing for one that says nothing."""
    found = getattr(completer, "prompting", None)
    return found if isinstance(found, Prompting) else NOTHING_KNOWN


def renderer_for(config: PolicyConfig, known: Prompting = NOTHING_KNOWN) -> Renderer:
    """The renderer of a policy's prompts. Raises `ConfigError` where chat is asked for and the
    model has none, and for a prompt set that cannot be read."""
    trained = known.trained
    prompt = config.prompt
    if prompt == "auto" and trained:
        prompt = trained.get("prompt", "auto")
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
    """The renderer that a preference model was trained with; plain text in the format `tags` where
    its checkpoint does not say."""
    trained = known.trained
    chat = trained.get("mode") == "chat" and known.template is not None
    return make_renderer(
        prompt=trained.get("prompt", TRAINED),
        step_format=trained.get("format", "tags"),
        mode="template" if chat else "completion",
        template=known.template,
    )


def conversation_for(config: PolicyConfig, known: Prompting = NOTHING_KNOWN) -> Conversation | None:
    """How a model is sent messages; None where it is asked in plain text. Raises `ConfigError`."""
    mode = _mode(config, known)
    if mode == "completion":
        return None
    template = known.template if mode == "template" else None
    return Conversation(mode, template, config.max_thinking_tokens > 0)


def _mode(config: PolicyConfig, known: Prompting) -> Mode:
    """How prompts are sent: as the configuration says, else as in training, else by what the model
    and its server can do."""
    asked = config.mode if config.mode != "auto" else known.trained.get("mode", "auto")
    if asked == "completion":
        return "completion"
    if known.template is not None:
        return "template"
    if known.continues or (asked == "chat" and known.chat):
        return "messages"
    if asked == "chat":
        raise ConfigError(
            "policy.mode = chat needs a model with a chat template or a server with a chat route; "
            "set policy.mode=completion."
        )
    return "completion"
