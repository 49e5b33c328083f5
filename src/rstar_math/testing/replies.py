"""What a fake server says: sampled texts as the JSON of the OpenAI-compatible routes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Sampled:
    """One sampled text as a server gives it out; None for a choice without a text."""

    text: str | None
    tokens: int = 0
    """Words."""
    cut: bool = False
    """Whether it was ended by `max_tokens`."""


def sampled(body: Mapping[str, Any], texts: Sequence[str | None]) -> list[Sampled]:
    """The texts ended at the first stop string and at `max_tokens` words (default 16)."""
    return [_ended(text, body.get("stop", []), body.get("max_tokens", 16)) for text in texts]


def reply(path: str, body: Mapping[str, Any], samples: Sequence[Sampled]) -> dict[str, Any]:
    """The JSON of an answer on a route."""
    choices: list[dict[str, Any]] = []
    for index, one in enumerate(samples):
        choice: dict[str, Any] = {"index": index}
        if one.text is None:
            choices.append(choice | {"text": None})
            continue
        choice["finish_reason"] = "length" if one.cut else "stop"
        if path.endswith("/chat/completions"):
            choice["message"] = {"role": "assistant", "content": one.text}
        else:
            choice["text"] = one.text
        choices.append(choice)
    prompt = len(str(body.get("prompt") or body.get("messages")).split())
    tokens = sum(one.tokens for one in samples)
    usage = {"prompt_tokens": prompt, "completion_tokens": tokens, "total_tokens": prompt + tokens}
    return {"object": "text_completion", "choices": choices, "usage": usage}


def _ended(text: str | None, stops: Sequence[str], max_tokens: int) -> Sampled:
    """A text as far as a server would have sampled it."""
    if text is None:
        return Sampled(None)
    ends = [at for stop in stops if (at := text.find(stop)) >= 0]
    shown = text[: min(ends)] if ends else text
    tokens = len(shown.split())
    if tokens <= max_tokens:
        return Sampled(shown, tokens)
    return Sampled(" ".join(shown.split(maxsplit=max_tokens)[:max_tokens]), max_tokens, cut=True)
