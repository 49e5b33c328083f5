"""Request formats of different servers: pure functions that build a request and parse the reply.

`completions` and `chat` are the OpenAI API; the other two chat dialects continue a partly written
assistant message. `llama_cpp` is that server's own route: its OpenAI
route counts the tokens of the first of n samples only, and does not tell which stop string was
met.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rstar_math.errors import ModelRejectedError
from rstar_math.prompts.rendering import ChatPrompt
from rstar_math.protocols import Completion
from rstar_math.text import replace_surrogates
from rstar_math.types import Cost

_CONTINUE = (
    "Continue the text below exactly where it ends, in the same format. "
    "Write only the continuation, no introduction.\n\n"
)
_CONTINUE_ANSWER = (
    "This is the beginning of the answer. Continue it exactly where it ends, in the same format; "
    "write only the continuation.\n\n"
)
_MARKDOWN_OPENING = "```python\n"


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    """One request for `n` samples."""

    model: str
    prompt: str
    n: int
    stop: tuple[str, ...]
    max_tokens: int
    temperature: float
    seed: int
    slot: int | None = None
    """The slot of the embedded server that is to run it."""


@dataclass(frozen=True, slots=True)
class RequestFormat:
    """A route of a server, with how to say an `CompletionRequest` there and how to read what comes
    back."""

    route: str
    build: Callable[[CompletionRequest], dict[str, Any]]
    parse: Callable[[CompletionRequest, object], tuple[list[Completion], Cost]]
    outside_v1: bool = False
    """Whether the route lies beside the /v1 of the address instead of under it."""


def _build_openai(ask: CompletionRequest) -> dict[str, Any]:
    return {
        "model": ask.model,
        "n": ask.n,
        "stop": list(ask.stop),
        "max_tokens": ask.max_tokens,
        "temperature": ask.temperature,
        "seed": ask.seed,
    }


def _build_completions(ask: CompletionRequest) -> dict[str, Any]:
    return _build_openai(ask) | {"prompt": ask.prompt}


def _build_chat(ask: CompletionRequest) -> dict[str, Any]:
    """For servers that do not continue an assistant message: a user message asks for it."""
    if not isinstance(ask.prompt, ChatPrompt):
        messages = [{"role": "user", "content": _CONTINUE + ask.prompt}]
        return _build_openai(ask) | {"messages": messages}
    messages = _messages(ask.prompt)
    if ask.prompt.partial not in ("", _MARKDOWN_OPENING):
        messages[-1]["content"] += f"\n\n{_CONTINUE_ANSWER}{ask.prompt.partial}"
    return _build_openai(ask) | {"messages": messages}


def _build_continued_chat(ask: CompletionRequest) -> dict[str, Any]:
    """For servers that continue an assistant message which comes last."""
    if not isinstance(ask.prompt, ChatPrompt):
        return _build_chat(ask)
    partial = [{"role": "assistant", "content": ask.prompt.partial}] if ask.prompt.partial else []
    return _build_openai(ask) | {"messages": [*_messages(ask.prompt), *partial]}


def _build_vllm_chat(ask: CompletionRequest) -> dict[str, Any]:
    """For vLLM and SGLang, which continue the last message where they are told to."""
    body = _build_continued_chat(ask)
    if body["messages"][-1]["role"] != "assistant":
        return body
    return body | {"continue_final_message": True, "add_generation_prompt": False}


def _messages(prompt: ChatPrompt) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in prompt.messages]


def _build_llama_cpp(ask: CompletionRequest) -> dict[str, Any]:
    slot = {} if ask.slot is None else {"id_slot": ask.slot}
    return slot | {
        "prompt": ask.prompt,
        "n_cmpl": ask.n,
        "stop": list(ask.stop),
        "n_predict": ask.max_tokens,
        "temperature": ask.temperature,
        "seed": ask.seed,
        "cache_prompt": True,
        "top_k": 0,
        "top_p": 1.0,
        "min_p": 0.0,
    }


def _parse_openai(ask: CompletionRequest, answer: object) -> tuple[list[Completion], Cost]:
    choices = answer.get("choices") if isinstance(answer, dict) else None
    if not isinstance(choices, list):
        raise ModelRejectedError("The server answered without choices; is it OpenAI-compatible?")
    found = [_choice(choice, ask.stop) for choice in choices]
    usage = answer.get("usage") if isinstance(answer, dict) else None
    counts = usage if isinstance(usage, dict) else {}
    details = counts.get("prompt_tokens_details")
    cost = Cost(
        calls=1,
        samples=len(choices),
        prompt_tokens=_count(counts.get("prompt_tokens")),
        cached_tokens=_count(details.get("cached_tokens")) if isinstance(details, dict) else 0,
        sampled_tokens=_count(counts.get("completion_tokens")),
    )
    return [c for c in found if c is not None], cost


def _choice(choice: object, stop: Sequence[str]) -> Completion | None:
    """A choice of the completions or the chat route, or None where it is neither."""
    if not isinstance(choice, dict):
        return None
    text, thoughts = choice.get("text"), None
    if text is None and isinstance(message := choice.get("message"), dict):
        text = message.get("content")
        thoughts = message.get("reasoning_content") or message.get("reasoning")
        if text is None and isinstance(thoughts, str):
            text = ""
    if not isinstance(text, str):
        return None
    reason = choice.get("stop_reason") or choice.get("matched_stop")
    found = _ended(text, choice.get("finish_reason") == "stop", reason, stop)
    return (
        replace(found, reasoning=replace_surrogates(thoughts))
        if isinstance(thoughts, str)
        else found
    )


def split_reasoning(text: str) -> tuple[str, str, bool]:
    """What a reasoning model thought, the rest of its text, and whether the thoughts had an end.

    Thoughts stand before `</think>`; the tag that opens them may be part of the prompt.
    """
    thoughts, end, rest = text.rpartition("</think>")
    if end:
        return thoughts.strip().removeprefix("<think>").strip(), rest.lstrip("\n"), True
    if text.lstrip().startswith("<think>"):
        return text.strip().removeprefix("<think>").strip(), "", False
    return "", text, True


def _ended(text: str, finished: bool, reason: object, stop: Sequence[str]) -> Completion:
    """A completion that surely ends before the first stop string, whatever the server did about
    them."""
    thoughts, text, whole = split_reasoning(replace_surrogates(text))
    if thoughts:
        return replace(_ended_text(text, finished and whole, reason, stop), reasoning=thoughts)
    return _ended_text(text, finished, reason, stop)


def _ended_text(text: str, finished: bool, reason: object, stop: Sequence[str]) -> Completion:
    """The same for a text without thoughts."""
    ends = [(at, mark) for mark in stop if (at := text.find(mark)) >= 0]
    if ends:
        at, mark = min(ends)
        return Completion(text[:at], True, mark)
    return Completion(text, finished, reason if isinstance(reason, str) and reason else None)


def _parse_llama_cpp(ask: CompletionRequest, answer: object) -> tuple[list[Completion], Cost]:
    parts = answer if isinstance(answer, list) else [answer]
    found: list[Completion] = []
    cost = Cost(calls=1)
    for part in parts:
        if not isinstance(part, dict) or not isinstance(part.get("content"), str):
            raise ModelRejectedError(
                "The server answered without content; is it a llama.cpp server?"
            )
        finished = part.get("stop_type") in ("eos", "word")
        found.append(_ended(part["content"], finished, part.get("stopping_word"), ask.stop))
        cost.samples += 1
        cost.sampled_tokens += _count(part.get("tokens_predicted"))
    first = parts[0] if parts and isinstance(parts[0], dict) else {}
    cost.prompt_tokens = _count(first.get("tokens_evaluated"))
    timings = first.get("timings")
    cost.cached_tokens = _count(timings.get("cache_n")) if isinstance(timings, dict) else 0
    return found, cost


def raw_format(
    route: str, body: dict[str, Any], *, beside_v1: bool
) -> tuple[RequestFormat, CompletionRequest]:
    """Any other request, as a dialect that says just that."""
    nothing = CompletionRequest("", "", 1, (), 1, 0.0, 0)
    return RequestFormat(route, lambda _: body, _parse_openai, outside_v1=beside_v1), nothing


def context_of(entry: dict[str, Any]) -> int | None:
    """The longest sequence a model takes, in tokens, as an entry of vLLM's or llama.cpp's list of
    models tells it."""
    meta = entry.get("meta")
    said = meta.get("n_ctx") if isinstance(meta, dict) else entry.get("max_model_len")
    return _count(said) or None


def _count(value: object) -> int:
    """A count as the server gave it; 0 where it is none."""
    return value if isinstance(value, int) and 0 < value < 2**53 else 0


COMPLETIONS = RequestFormat("/completions", _build_completions, _parse_openai)
CHAT = RequestFormat("/chat/completions", _build_chat, _parse_openai)
CONTINUED_CHAT = RequestFormat("/chat/completions", _build_continued_chat, _parse_openai)
VLLM_CHAT = RequestFormat("/chat/completions", _build_vllm_chat, _parse_openai)
LLAMA_CPP = RequestFormat("/completion", _build_llama_cpp, _parse_llama_cpp, outside_v1=True)
