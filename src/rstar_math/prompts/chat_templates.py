"""Renders chat templates in a child process with resource limits.

A template is a Jinja program that comes with the model, so it is not trusted. It is stored under
the GGUF key `tokenizer.chat_template` or in a tokenizer's configuration. The child process renders
it with placeholders for the user's and the assistant's text, under limits on time and memory. This
process then builds every prompt from the rendered pieces.
"""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from rstar_math.errors import InputError
from rstar_math.text import sanitize

TIMEOUT_S = 5.0
"""Time limit for the renderings of one template."""
MEMORY_BYTES = 1 << 30
"""Limit of the child process's address space."""
MAX_TEMPLATE_CHARS = 200_000
_WORKER = Path(__file__).with_name("template_worker.py")
_USER, _ASSISTANT = "\ue000rstar-user\ue001", "\ue000rstar-assistant\ue001"
Messages = Sequence[tuple[str, str]]
"""(role, content); the role is "system", "user" or "assistant"."""


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """A model's chat template and the special tokens that it uses."""

    source: str = field(repr=False)
    bos_token: str = ""
    eos_token: str = ""
    source_name: str = "the model"
    """The file or server that the template came from, for error messages."""

    def frame(self, messages: Messages, *, thinking: bool = False) -> "ChatFrame":
        """Return the text around the last user message and the assistant's answer.

        `messages` are the earlier messages. `thinking` sets the variable `enable_thinking`, which
        the templates of hybrid reasoning models use. Raises `InputError` if the template fails,
        takes too long or drops a message.
        """
        return _cached_frame(self, tuple(messages), thinking)


@dataclass(frozen=True, slots=True)
class ChatFrame:
    """A conversation up to the assistant's answer, with a gap for the last user message."""

    before: str
    """Text before the user's message."""
    after: str
    """Text between the user's message and the assistant's answer."""
    end_of_turn: str
    """The token that ends the assistant's answer, for example `<|im_end|>`."""

    def prompt(self, user: str) -> str:
        """Return the text up to the assistant's answer."""
        return f"{self.before}{user}{self.after}"


def template_of_tokenizer(folder: Path) -> ChatTemplate | None:
    """Return the chat template of a checkpoint folder; None if there is none.

    Raises `InputError` if a file cannot be read.
    """
    config_file = folder / "tokenizer_config.json"
    template_file = folder / "chat_template.jinja"
    try:
        config = (
            json.loads(config_file.read_text(encoding="utf-8")) if config_file.is_file() else {}
        )
        source = template_file.read_text(encoding="utf-8") if template_file.is_file() else None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"The chat template in {folder} cannot be read ({error}); copy the checkpoint again."
        ) from error
    config = config if isinstance(config, dict) else {}
    source = config.get("chat_template") if source is None else source
    if isinstance(source, list):
        entries = [entry for entry in source if isinstance(entry, dict)]
        templates = {str(entry.get("name")): entry.get("template") for entry in entries}
        source = templates.get("default")
    if not isinstance(source, str) or not source:
        return None
    return ChatTemplate(
        source,
        _token_text(config.get("bos_token")),
        _token_text(config.get("eos_token")),
        str(folder),
    )


def template_of_gguf(metadata: Mapping[str, Any], source_name: str) -> ChatTemplate | None:
    """Return the chat template in the metadata of a GGUF file; None if there is none."""
    source = metadata.get("tokenizer.chat_template")
    if not isinstance(source, str) or not source:
        return None
    tokens = metadata.get("tokenizer.ggml.tokens")
    tokens = tokens if isinstance(tokens, list) else []

    def token(key: str) -> str:
        index = metadata.get(f"tokenizer.ggml.{key}_token_id")
        if not isinstance(index, int) or not 0 <= index < len(tokens):
            return ""
        return str(tokens[index])

    return ChatTemplate(source, token("bos"), token("eos"), source_name)


def _token_text(entry: object) -> str:
    """Return the text of a special token in a tokenizer configuration; "" if there is none."""
    text = entry.get("content") if isinstance(entry, dict) else entry
    return text if isinstance(text, str) else ""


class _TemplateError(InputError):
    """The template raised an error."""


@lru_cache(maxsize=64)
def _cached_frame(
    template: ChatTemplate, messages: tuple[tuple[str, str], ...], thinking: bool
) -> ChatFrame:
    """Return the frame of `ChatTemplate.frame`; cached.

    If a template does not support the system role, the system message is put before the first user
    message.
    """
    try:
        return _render_frame(template, messages, thinking)
    except _TemplateError:
        if not messages or messages[0][0] != "system":
            raise
        system, rest = messages[0][1], messages[1:]
        if not rest:
            frame = _render_frame(template, (), thinking)
            return ChatFrame(f"{frame.before}{system}\n\n", frame.after, frame.end_of_turn)
        joined = ("user", f"{system}\n\n{rest[0][1]}")
        return _render_frame(template, (joined, *rest[1:]), thinking)


def _render_frame(
    template: ChatTemplate, messages: tuple[tuple[str, str], ...], thinking: bool
) -> ChatFrame:
    """Return the frame of a conversation, from two renderings.

    The first ends where the assistant's answer begins. The second ends after the assistant's turn.
    """
    variables = {
        "bos_token": template.bos_token,
        "eos_token": template.eos_token,
        "enable_thinking": thinking,
    }
    conversation = [{"role": role, "content": text} for role, text in (*messages, ("user", _USER))]
    cases = [
        {"messages": conversation, "add_generation_prompt": True, "variables": variables},
        {
            "messages": [*conversation, {"role": "assistant", "content": _ASSISTANT}],
            "add_generation_prompt": False,
            "variables": variables,
        },
    ]
    prompt, finished = _render(template, cases)
    if prompt.count(_USER) != 1 or finished.count(_ASSISTANT) != 1:
        raise InputError(
            f"The chat template of {template.source_name} does not include all messages; use "
            "another model, or --set policy.mode=completion."
        )
    before, _, after = prompt.partition(_USER)
    if template.bos_token:
        # Servers and tokenizers add the begin-of-text token themselves.
        before = before.removeprefix(template.bos_token)
    end = finished.partition(_ASSISTANT)[2].strip() or template.eos_token
    return ChatFrame(before, after, end)


def _render(template: ChatTemplate, cases: list[dict[str, Any]]) -> list[str]:
    """Render a template in a child process. Returns one text per case. Raises `InputError`."""
    subject = f"The chat template of {template.source_name}"
    fix = "use another model, or --set policy.mode=completion"
    length = len(template.source)
    if length > MAX_TEMPLATE_CHARS:
        raise InputError(
            f"{subject} has {length} characters (maximum {MAX_TEMPLATE_CHARS}); {fix}."
        )
    request = json.dumps({"template": template.source, "cases": cases})
    try:
        process = subprocess.run(
            [sys.executable, "-I", str(_WORKER), str(MEMORY_BYTES), str(int(TIMEOUT_S))],
            input=request.encode("utf-8", "replace"),
            capture_output=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise InputError(f"{subject} takes longer than {TIMEOUT_S:g} s; {fix}.") from error
    if process.returncode < 0:
        raise InputError(f"{subject} takes too much time or memory; {fix}.")
    if process.returncode > 0:
        reason = process.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise InputError(f"{subject} cannot be rendered ({sanitize(reason)[:200]}); {fix}.")
    results = json.loads(process.stdout)
    for result in results:
        if "error" in result:
            raise _TemplateError(f"{subject} fails ({sanitize(result['error'])}); {fix}.")
    return [result["text"] for result in results]
