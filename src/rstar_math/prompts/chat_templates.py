"""Renders chat templates in a limited child process.

A template is a Jinja program that comes with the model (GGUF key `tokenizer.chat_template`, or
`chat_template` of a tokenizer's configuration), so it is not trusted. It is rendered a few times in
a child process with limits on time and memory, with marks in the place of the user's and the
assistant's text. Every prompt is then put together from these pieces by this process.
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
"""Longest time for the renderings of one template."""
MEMORY_BYTES = 1 << 30
"""Address space of the process that renders."""
MAX_TEMPLATE_CHARS = 200_000
_WORKER = Path(__file__).with_name("template_worker.py")
_USER, _ASSISTANT = "\ue000rstar-user\ue001", "\ue000rstar-assistant\ue001"
Messages = Sequence[tuple[str, str]]
"""(role, content); roles are "system", "user" and "assistant"."""


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """A model's chat template and the special tokens that it refers to."""

    source: str = field(repr=False)
    bos_token: str = ""
    eos_token: str = ""
    where: str = "the model"
    """The file or server that it came from, for error messages."""

    def frame(self, messages: Messages, *, thinking: bool = False) -> "ChatFrame":
        """The text around a last user message and the assistant's answer, after some messages.

        `thinking` is passed on as `enable_thinking`, which the templates of hybrid reasoning models
        know. Raises `InputError` for a template that fails, takes too long or drops a message.
        """
        return _frame(self, tuple(messages), thinking)


@dataclass(frozen=True, slots=True)
class ChatFrame:
    """A conversation up to the assistant's answer, with a gap for the last user message."""

    before: str
    """Text before the user's message."""
    after: str
    """Text between the user's message and the assistant's answer."""
    end_of_turn: str
    """What ends the assistant's answer, e.g. `<|im_end|>`."""

    def prompt(self, user: str) -> str:
        """The text that the assistant's answer follows directly."""
        return f"{self.before}{user}{self.after}"


def template_of_tokenizer(folder: Path) -> ChatTemplate | None:
    """The template of a checkpoint folder; None where it has none. Raises `InputError`."""
    told, file = folder / "tokenizer_config.json", folder / "chat_template.jinja"
    try:
        config = json.loads(told.read_text(encoding="utf-8")) if told.is_file() else {}
        source = file.read_text(encoding="utf-8") if file.is_file() else None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"The chat template in {folder} cannot be read ({error}); copy the checkpoint again."
        ) from error
    config = config if isinstance(config, dict) else {}
    source = config.get("chat_template") if source is None else source
    if isinstance(source, list):
        entries = [entry for entry in source if isinstance(entry, dict)]
        named = {str(entry.get("name")): entry.get("template") for entry in entries}
        source = named.get("default")
    if not isinstance(source, str) or not source:
        return None
    return ChatTemplate(
        source, _token(config.get("bos_token")), _token(config.get("eos_token")), str(folder)
    )


def template_of_gguf(facts: Mapping[str, Any], where: str) -> ChatTemplate | None:
    """The template of a GGUF file, given its metadata; None where it has none."""
    source = facts.get("tokenizer.chat_template")
    if not isinstance(source, str) or not source:
        return None
    tokens = facts.get("tokenizer.ggml.tokens")
    tokens = tokens if isinstance(tokens, list) else []

    def token(key: str) -> str:
        index = facts.get(f"tokenizer.ggml.{key}_token_id")
        if not isinstance(index, int) or not 0 <= index < len(tokens):
            return ""
        return str(tokens[index])

    return ChatTemplate(source, token("bos"), token("eos"), where)


def _token(entry: object) -> str:
    """A special token as a tokenizer's configuration names it."""
    text = entry.get("content") if isinstance(entry, dict) else entry
    return text if isinstance(text, str) else ""


class _TemplateError(InputError):
    """The template raised an error of its own."""


@lru_cache(maxsize=64)
def _frame(
    template: ChatTemplate, messages: tuple[tuple[str, str], ...], thinking: bool
) -> ChatFrame:
    """See `ChatTemplate.frame`. A template that knows no system role gets the system message in
    front of the first user message."""
    try:
        return _framed(template, messages, thinking)
    except _TemplateError:
        if not messages or messages[0][0] != "system":
            raise
        system, rest = messages[0][1], messages[1:]
        if not rest:
            frame = _framed(template, (), thinking)
            return ChatFrame(f"{frame.before}{system}\n\n", frame.after, frame.end_of_turn)
        joined = ("user", f"{system}\n\n{rest[0][1]}")
        return _framed(template, (joined, *rest[1:]), thinking)


def _framed(
    template: ChatTemplate, messages: tuple[tuple[str, str], ...], thinking: bool
) -> ChatFrame:
    """The frame, from two renderings: one that ends where the assistant begins, and one that ends
    the assistant's turn."""
    variables = {
        "bos_token": template.bos_token,
        "eos_token": template.eos_token,
        "enable_thinking": thinking,
    }
    talk = [{"role": role, "content": text} for role, text in (*messages, ("user", _USER))]
    cases = [
        {"messages": talk, "add_generation_prompt": True, "variables": variables},
        {
            "messages": [*talk, {"role": "assistant", "content": _ASSISTANT}],
            "add_generation_prompt": False,
            "variables": variables,
        },
    ]
    asked, ended = _render(template, cases)
    if asked.count(_USER) != 1 or ended.count(_ASSISTANT) != 1:
        raise InputError(
            f"The chat template of {template.where} does not keep the messages; use another model, "
            "or --set policy.mode=completion."
        )
    before, _, after = asked.partition(_USER)
    if template.bos_token:
        # Servers and tokenizers put it before every text by themselves.
        before = before.removeprefix(template.bos_token)
    end = ended.partition(_ASSISTANT)[2].strip() or template.eos_token
    return ChatFrame(before, after, end)


def _render(template: ChatTemplate, cases: list[dict[str, Any]]) -> list[str]:
    """The renderings of a template, made by a process of its own."""
    what = f"The chat template of {template.where}"
    way_out = "use another model, or --set policy.mode=completion"
    if len(template.source) > MAX_TEMPLATE_CHARS:
        raise InputError(f"{what} has {len(template.source)} characters; {way_out}.")
    request = json.dumps({"template": template.source, "cases": cases})
    try:
        done = subprocess.run(
            [sys.executable, "-I", str(_WORKER), str(MEMORY_BYTES), str(int(TIMEOUT_S))],
            input=request.encode("utf-8", "replace"),
            capture_output=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise InputError(f"{what} takes longer than {TIMEOUT_S:g} s; {way_out}.") from error
    if done.returncode < 0:
        raise InputError(f"{what} takes too much time or memory; {way_out}.")
    if done.returncode > 0:
        last = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise InputError(f"{what} cannot be rendered ({sanitize(last)[:200]}); {way_out}.")
    answers = json.loads(done.stdout)
    for answer in answers:
        if "error" in answer:
            raise _TemplateError(f"{what} fails ({sanitize(answer['error'])}); {way_out}.")
    return [answer["text"] for answer in answers]
