"""Request formats of different servers: pure functions that build a request and parse the reply.

`COMPLETIONS` and `CHAT` are the OpenAI API. `CONTINUED_CHAT` and `VLLM_CHAT` continue a partly
written assistant message. `LLAMA_CPP` is that server's own route, for two reasons: its OpenAI route
counts the tokens of the first of n samples only, and does not report which stop string was met.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

from rstar_math.confidence import LogprobOptions
from rstar_math.errors import ModelRejectedError
from rstar_math.llm.logprobs import chat_token_stats, openai_token_stats
from rstar_math.prompts.rendering import ChatPrompt
from rstar_math.protocols import Completion
from rstar_math.task_records import image_uri
from rstar_math.text import replace_surrogates
from rstar_math.types import Cost

_CONTINUE_TEXT = (
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
    """A request for `n` samples."""

    model: str
    prompt: str
    n: int
    stop: tuple[str, ...]
    max_tokens: int
    temperature: float
    seed: int
    slot: int | None = None
    """Slot of the embedded server that runs the request; None lets the server choose."""
    logprobs: LogprobOptions | None = None
    """Token log-probabilities to request; None requests none."""

    @property
    def alternatives(self) -> int:
        """Number of most probable tokens to request per position; at least 1, because servers take
        0 in different ways."""
        return 0 if self.logprobs is None else max(1, self.logprobs.alternatives)


@dataclass(frozen=True, slots=True)
class RequestFormat:
    """A route of a server, with functions that build its requests and parse its replies."""

    route: str
    build: Callable[[CompletionRequest], dict[str, Any]]
    """Returns the JSON body of a request."""
    parse: Callable[[CompletionRequest, object], tuple[list[Completion], Cost]]
    """Returns the samples in a reply's JSON and their cost. Raises `ModelRejectedError`."""
    outside_v1: bool = False
    """Whether the route is at the server's root instead of under /v1."""


def _build_openai(request: CompletionRequest) -> dict[str, Any]:
    return {
        "model": request.model,
        "n": request.n,
        "stop": list(request.stop),
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "seed": request.seed,
    }


def _build_completions(request: CompletionRequest) -> dict[str, Any]:
    logprobs = {"logprobs": request.alternatives} if request.logprobs else {}
    return _build_openai(request) | {"prompt": request.prompt} | logprobs


def _build_messages(request: CompletionRequest, messages: list[dict[str, str]]) -> dict[str, Any]:
    logprobs = {"logprobs": True, "top_logprobs": request.alternatives} if request.logprobs else {}
    return _build_openai(request) | {"messages": messages} | logprobs


def _build_chat(request: CompletionRequest) -> dict[str, Any]:
    """For servers that do not continue an assistant message: a user message asks for it."""
    if not isinstance(request.prompt, ChatPrompt):
        messages = [{"role": "user", "content": _CONTINUE_TEXT + request.prompt}]
        return _build_messages(request, messages)
    prompt = request.prompt
    if prompt.partial not in ("", _MARKDOWN_OPENING):
        *earlier, (role, content) = prompt.messages
        content += f"\n\n{_CONTINUE_ANSWER}{prompt.partial}"
        prompt = ChatPrompt((*earlier, (role, content)), "", prompt.images)
    messages = _messages(prompt)
    return _build_messages(request, messages)


def _build_continued_chat(request: CompletionRequest) -> dict[str, Any]:
    """For servers that continue a final assistant message."""
    prompt = request.prompt
    if not isinstance(prompt, ChatPrompt):
        return _build_chat(request)
    partial = [{"role": "assistant", "content": prompt.partial}] if prompt.partial else []
    return _build_messages(request, [*_messages(prompt), *partial])


def _build_vllm_chat(request: CompletionRequest) -> dict[str, Any]:
    """For vLLM and SGLang, which continue a final assistant message only on request."""
    body = _build_continued_chat(request)
    if body["messages"][-1]["role"] != "assistant":
        return body
    return body | {"continue_final_message": True, "add_generation_prompt": False}


def _messages(prompt: ChatPrompt) -> list[dict[str, Any]]:
    """The messages. Pictures are content parts of the last one, before its text."""
    messages: list[dict[str, Any]] = [
        {"role": role, "content": content} for role, content in prompt.messages
    ]
    if prompt.images:
        parts = [
            {"type": "image_url", "image_url": {"url": image_uri(image)}} for image in prompt.images
        ]
        messages[-1]["content"] = [*parts, {"type": "text", "text": messages[-1]["content"]}]
    return messages


def _build_llama_cpp(request: CompletionRequest) -> dict[str, Any]:
    slot = {} if request.slot is None else {"id_slot": request.slot}
    logprobs = {"n_probs": request.alternatives} if request.logprobs else {}
    return {
        **slot,
        **logprobs,
        "prompt": request.prompt,
        "n_cmpl": request.n,
        "stop": list(request.stop),
        "n_predict": request.max_tokens,
        "temperature": request.temperature,
        "seed": request.seed,
        "cache_prompt": True,
        "top_k": 0,
        "top_p": 1.0,
        "min_p": 0.0,
    }


def _parse_openai(request: CompletionRequest, body: object) -> tuple[list[Completion], Cost]:
    choices = body.get("choices") if isinstance(body, dict) else None
    if not isinstance(choices, list):
        raise ModelRejectedError("The server answered without choices; is it OpenAI-compatible?")
    usage = body.get("usage") if isinstance(body, dict) else None
    counts = usage if isinstance(usage, dict) else {}
    details = counts.get("prompt_tokens_details")
    sampled = _count(counts.get("completion_tokens"))
    cost = Cost(
        calls=1,
        samples=len(choices),
        prompt_tokens=_count(counts.get("prompt_tokens")),
        cached_tokens=_count(details.get("cached_tokens")) if isinstance(details, dict) else 0,
        sampled_tokens=sampled,
    )
    reached_limit = bool(sampled) and sampled >= request.max_tokens * len(choices)
    found = [_parse_choice(choice, request, reached_limit) for choice in choices]
    completions = [completion for completion in found if completion is not None]
    if not cost.sampled_tokens:
        texts = [completion.reasoning + completion.text for completion in completions]
        cost.sampled_tokens = sum(map(estimate_tokens, texts))
        cost.estimated_tokens += cost.sampled_tokens
    if not cost.prompt_tokens:
        cost.prompt_tokens = estimate_tokens(request.prompt)
        cost.estimated_tokens += cost.prompt_tokens
    return completions, cost


_CHARS_PER_TOKEN = 3.5
"""Characters per token of mathematics in English, for servers that report no usage."""
_UNFINISHED = frozenset(
    ["length", "max_tokens", "model_length", "max_output_tokens", "token_limit", "content_filter",
     "abort", "aborted", "error", "cancelled", "safety", "recitation",
     "insufficient_system_resource"]
)  # fmt: skip
"""Finish reasons, in lower case, of a text that does not end by itself."""


def estimate_tokens(text: str) -> int:
    """Returns roughly the number of tokens of a text; at least 1 if it is not empty."""
    return ceil(len(text) / _CHARS_PER_TOKEN)


def is_finished(reason: object, *, reached_limit: bool) -> bool:
    """Whether a text ended by itself, from a server's finish reason.

    Servers have many words for that: stop, eos, eos_token, end_turn, STOP, stop_sequence. So only
    the words for other ends count. Without a reason, the token limit decides.
    """
    if isinstance(reason, str) and reason:
        return reason.lower() not in _UNFINISHED
    return not reached_limit


def _parse_choice(
    choice: object, request: CompletionRequest, reached_limit: bool
) -> Completion | None:
    """Returns a choice of the completions or chat route, or None if it has no text."""
    if not isinstance(choice, dict):
        return None
    text, reasoning = choice.get("text"), None
    if text is None and isinstance(message := choice.get("message"), dict):
        text, reasoning = _message_text(message)
    if not isinstance(text, str):
        return None
    met_stop = choice.get("stop_reason") or choice.get("matched_stop")
    finished = is_finished(choice.get("finish_reason"), reached_limit=reached_limit)
    completion = _completion(text, finished, met_stop, request.stop)
    if request.logprobs is not None:
        stats = openai_token_stats(choice.get("logprobs"), request.logprobs)
        completion = replace(completion, token_stats=stats)
    if isinstance(reasoning, str):
        return replace(completion, reasoning=replace_surrogates(reasoning))
    return completion


def _message_text(message: dict[str, Any]) -> tuple[object, object]:
    """Returns the text and the reasoning of a message, whose content may be a list of parts."""
    content = message.get("content")
    reasoning = message.get("reasoning_content") or message.get("reasoning")
    if isinstance(content, list):
        parts = [part for part in content if isinstance(part, dict)]
        texts = [part["text"] for part in parts if isinstance(part.get("text"), str)]
        thoughts = [str(part["thinking"]) for part in parts if part.get("thinking")]
        return "".join(texts), "".join(thoughts) or reasoning
    return ("" if content is None and isinstance(reasoning, str) else content), reasoning


def split_reasoning(text: str) -> tuple[str, str, bool]:
    """Returns a reasoning model's reasoning, the rest of its text, and whether the reasoning ended.

    Reasoning ends with `</think>`. The opening tag may be missing, as it can be in the prompt.
    """
    reasoning, end, rest = text.rpartition("</think>")
    if end:
        return reasoning.strip().removeprefix("<think>").strip(), rest.lstrip("\n"), True
    if text.lstrip().startswith("<think>"):
        return text.strip().removeprefix("<think>").strip(), "", False
    return "", text, True


def _completion(text: str, finished: bool, met_stop: object, stop: Sequence[str]) -> Completion:
    """Returns a completion with its reasoning split off.

    The text always ends before the first stop string, even if the server ignored it.
    """
    reasoning, text, ended = split_reasoning(replace_surrogates(text))
    if reasoning:
        completion = _truncate_at_stop(text, finished and ended, met_stop, stop)
        return replace(completion, reasoning=reasoning)
    return _truncate_at_stop(text, finished, met_stop, stop)


def _truncate_at_stop(
    text: str, finished: bool, met_stop: object, stop: Sequence[str]
) -> Completion:
    found = [(at, mark) for mark in stop if (at := text.find(mark)) >= 0]
    if found:
        at, mark = min(found)
        return Completion(text[:at], True, mark)
    return Completion(text, finished, met_stop if isinstance(met_stop, str) and met_stop else None)


def _parse_llama_cpp(request: CompletionRequest, body: object) -> tuple[list[Completion], Cost]:
    samples = body if isinstance(body, list) else [body]
    completions: list[Completion] = []
    cost = Cost(calls=1)
    for sample in samples:
        if not isinstance(sample, dict) or not isinstance(sample.get("content"), str):
            raise ModelRejectedError(
                "The server answered without content; is it a llama.cpp server?"
            )
        finished = sample.get("stop_type") in ("eos", "word")
        met_stop = sample.get("stopping_word")
        completion = _completion(sample["content"], finished, met_stop, request.stop)
        if request.logprobs is not None:
            positions = sample.get("completion_probabilities")
            stats = chat_token_stats(positions, request.logprobs)
            completion = replace(completion, token_stats=stats)
        completions.append(completion)
        cost.samples += 1
        cost.sampled_tokens += _count(sample.get("tokens_predicted"))
    first = samples[0] if samples and isinstance(samples[0], dict) else {}
    cost.prompt_tokens = _count(first.get("tokens_evaluated"))
    timings = first.get("timings")
    cost.cached_tokens = _count(timings.get("cache_n")) if isinstance(timings, dict) else 0
    return completions, cost


def raw_format(
    route: str, body: dict[str, Any], *, outside_v1: bool
) -> tuple[RequestFormat, CompletionRequest]:
    """Returns a format that sends `body` as it is, and an empty request to send in that format."""
    empty = CompletionRequest("", "", 1, (), 1, 0.0, 0)
    return RequestFormat(route, lambda _: body, _parse_openai, outside_v1=outside_v1), empty


def context_length(entry: dict[str, Any]) -> int | None:
    """Returns a model's maximum sequence length in tokens, or None if the server does not report
    it. `entry` is an item of the list of models of vLLM or llama.cpp."""
    meta = entry.get("meta")
    length = meta.get("n_ctx") if isinstance(meta, dict) else entry.get("max_model_len")
    return _count(length) or None


def _count(value: object) -> int:
    """Returns a count that the server reported; 0 if it is not a valid count."""
    return value if isinstance(value, int) and 0 < value < 2**53 else 0


COMPLETIONS = RequestFormat("/completions", _build_completions, _parse_openai)
CHAT = RequestFormat("/chat/completions", _build_chat, _parse_openai)
CONTINUED_CHAT = RequestFormat("/chat/completions", _build_continued_chat, _parse_openai)
VLLM_CHAT = RequestFormat("/chat/completions", _build_vllm_chat, _parse_openai)
LLAMA_CPP = RequestFormat("/completion", _build_llama_cpp, _parse_llama_cpp, outside_v1=True)
