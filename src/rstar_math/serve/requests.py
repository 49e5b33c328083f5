"""Parses and validates requests: question, strategy, budget."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rstar_math.config.sections import SearchConfig
from rstar_math.errors import ConfigError
from rstar_math.problems.jsonl import MAX_QUESTION_CHARS, question_id
from rstar_math.search.strategies import Strategy, parse_strategies
from rstar_math.types import Question
from rstar_math.web.access import ApiError

MAX_ROLLOUTS = 1024
"""Maximum number of rollouts, chains or runs per request. Time is limited separately."""
MAX_ITEMS = 4096
"""Maximum length of a list in a request."""
T = TypeVar("T")


def _omit_max_items(schema: dict[str, Any]) -> None:
    """Remove the maximum length from the OpenAPI schema: a body that long may be rejected for its
    size first."""
    schema.pop("maxItems", None)


Items = Annotated[
    list[T], Field(max_length=MAX_ITEMS, fail_fast=True, json_schema_extra=_omit_max_items)
]
"""A list that is validated up to its first error. Collecting all errors of a large body would
block the event loop for seconds and use a gigabyte."""


class _RequestModel(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="ignore", strict=True, use_attribute_docstrings=True
    )


MAX_IGNORED = 20
"""Maximum number of ignored fields that a reply names."""
_IGNORED_WITHOUT_NOTE = frozenset({"user", "metadata", "store", "safety_identifier"})
"""Fields that do not concern the answer."""


class Part(_RequestModel):
    """One part of a message's content."""

    type: str
    text: str | None = None


class Message(_RequestModel):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | Items[Part] | None = None


class StreamOptions(_RequestModel):
    """Additional content of a stream."""

    include_usage: bool | None = None


class RstarOptions(_RequestModel):
    """Search options of a request."""

    model_config = ConfigDict(extra="forbid")

    strategy: str | None = Field(None, max_length=40)
    """Search strategy with its size, as for `rstar solve --strategy`: mcts@16, sc@8, greedy, ..."""
    tokens: int | None = Field(None, ge=1, le=2**31)
    """Token budget: the strategy runs repeatedly until it has sampled this many tokens."""
    rollouts: int | None = Field(None, ge=1, le=MAX_ROLLOUTS)
    """Number of rollouts if the strategy has no size."""
    candidates: int | None = Field(None, ge=1, le=64)
    """Candidate steps sampled per expansion."""
    seconds: float | None = Field(None, gt=0)
    """Time limit of the search; at most the server's limit. The answer is then the best so far."""
    confidence: float | None = Field(None, gt=0.5, le=1)
    """Stop early if the majority answer has at least this probability; 1 stops only when no
    remaining vote can change the answer."""
    context: bool = True
    """Put the system message and the earlier messages before the question; if false, the question
    is the last user message alone."""
    tree: bool = True
    """Keep the search tree, so that its page can be opened."""


class _Request(_RequestModel):
    """Fields of both routes. The reply names other fields as ignored."""

    model_config = ConfigDict(extra="allow")

    model: str = Field(max_length=256)
    """rstar, or rstar with the strategy as a suffix: rstar-mcts, rstar-sc8, rstar-fast."""
    n: int | None = Field(None, ge=1, le=128)
    """Number of answers; each is a separate search with its own seed."""
    stop: str | Items[str] | None = None
    """Up to 4 strings; the answer ends before the first of them."""
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    """Seed of the search; the default is the server's seed. Equal seeds give equal answers unless
    a time limit ends the search."""
    max_tokens: int | None = Field(None, ge=1, le=2**31)
    """Maximum number of tokens of the answer's text."""
    stream: bool | None = None
    """Send server-sent events: first the search's progress, then the answer."""
    stream_options: StreamOptions | None = None
    rstar: RstarOptions | None = None


class ChatRequest(_Request):
    """The body of a chat completion request."""

    messages: Items[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1, le=2**31)
    """Maximum number of tokens of search and answer together; the search ends at this number."""
    tools: list[Any] | None = None
    functions: list[Any] | None = None
    response_format: dict[str, Any] | None = None
    logprobs: bool | None = None
    modalities: Items[str] | None = None


class TextRequest(_Request):
    """The body of a text completion request."""

    prompt: str | Items[str] | Items[int] | Items[Items[int]]
    """One question, or a list of questions."""
    echo: bool | None = None
    suffix: str | None = None
    logprobs: int | None = None
    best_of: int | None = None


MODEL_PROFILES: dict[str, dict[str, Any]] = {
    "fast": {"strategy": "sc@8", "confidence": 0.9},
    "deep": {"strategy": "mcts@64", "confidence": 0.99},
}
"""Search options of the models rstar-fast (stops once chains agree) and rstar-deep (long)."""
LISTED_SUFFIXES = ("", "fast", "deep", "greedy", "sc8", "mcts", "mcts16")
"""Suffixes of the model names that /v1/models lists. Other strategies are accepted too."""
_MODEL_NAME = re.compile(r"rstar(?:-([a-z]+)(?:@?([0-9]{1,6}))?(?:x([0-9]{1,4}))?)?")
_MAX_STOPS = 4
_MAX_ERRORS = 200
"""Maximum number of validation errors of one body that are inspected."""
R = TypeVar("R", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """The server's default search options and its limits per request."""

    search: SearchConfig = field(default_factory=SearchConfig)
    seconds: float = 300.0
    """Maximum duration of a search, and the default."""
    tokens: int | None = None
    """Maximum number of tokens that one search may sample; None means no limit."""
    searches: int = 8
    """Maximum number of searches per request: answers times questions."""


@dataclass(frozen=True, slots=True)
class SearchRequest:
    """A validated request: the questions and how to search for their answers."""

    model: str
    questions: tuple[Question, ...]
    n: int
    """Answers per question."""
    strategy: Strategy
    search: SearchConfig
    seconds: float
    """Time limit of each search."""
    max_search_tokens: int | None
    """Number of sampled tokens at which a search ends; None means no limit."""
    stop: tuple[str, ...] = ()
    max_text_tokens: int | None = None
    """Maximum number of tokens of the answer's text."""
    stream: bool = False
    include_usage: bool = False
    """Whether a stream ends with the token usage."""
    keep_trees: bool = True
    """Whether the trees are kept, so that their pages can be opened."""
    ignored: tuple[str, ...] = ()
    """Fields of the request that have no effect."""


def parse_body(kind: type[R], body: bytes) -> R:
    """The request of a JSON body. Raises `ApiError` that describes the first error."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        if error.error_count() > _MAX_ERRORS:
            raise ApiError(
                f"The body has more than {_MAX_ERRORS} errors; see /openapi.json for its fields.",
                code="too_many_faults",
            ) from None
        first = error.errors(include_url=False, include_context=False)[0]
        if first["type"] == "json_invalid":
            raise ApiError(f"The body is not JSON ({first['msg']}).", code="invalid_json") from None
        name = ".".join(str(part) for part in first["loc"])
        raise ApiError(
            _field_error(name or "the body", first["type"], first["input"], first["msg"]),
            param=name or None,
            code=first["type"],
        ) from None


def _field_error(name: str, error_type: str, value: object, reason: str) -> str:
    """The message of one validation error. Lists and objects are not shown: they may be long."""
    if error_type == "missing":
        return f"The field {name} is missing."
    if error_type == "extra_forbidden":
        return f"Unknown field {name}; see /openapi.json for the fields."
    reason = reason[:1].lower() + reason[1:]
    if not isinstance(value, str | int | float | None):
        return f"Invalid value for {name} ({reason})."
    shown = repr(value)
    shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
    return f"Invalid value for {name}: {shown} ({reason})."


def chat_search(request: ChatRequest, limits: ServerLimits) -> SearchRequest:
    """The search that a chat request asks for. Raises `ApiError`."""
    _reject_fields(request, "tools", "functions", "logprobs")
    if request.response_format and request.response_format.get("type") != "text":
        raise _unsupported("response_format", 'use {"type": "text"}')
    if request.modalities and request.modalities != ["text"]:
        raise _unsupported("modalities", 'use ["text"]')
    options = request.rstar or RstarOptions()
    text = _question_text(request.messages, context=options.context)
    return _search_request(
        request, options, [text], limits, max_search_tokens=request.max_completion_tokens
    )


def text_search(request: TextRequest, limits: ServerLimits) -> SearchRequest:
    """The search that a text request asks for. Raises `ApiError`."""
    _reject_fields(request, "echo", "suffix", "logprobs")
    if request.best_of is not None and request.best_of != (request.n or 1):
        raise _unsupported("best_of", "use a model name such as rstar-sc8")
    prompts = [request.prompt] if isinstance(request.prompt, str) else request.prompt
    texts = [prompt for prompt in prompts if isinstance(prompt, str)]
    if len(texts) < len(prompts):
        raise _unsupported("prompt as token ids", "send text", param="prompt")
    options = request.rstar or RstarOptions()
    return _search_request(request, options, texts, limits, max_search_tokens=None)


def _search_request(
    request: ChatRequest | TextRequest,
    options: RstarOptions,
    texts: Sequence[str],
    limits: ServerLimits,
    *,
    max_search_tokens: int | None,
) -> SearchRequest:
    """The search for a request of either route."""
    n = request.n or 1
    if not 1 <= n * len(texts) <= limits.searches:
        raise ApiError(
            f"The request asks for {n * len(texts)} answers, but 1 to {limits.searches} are "
            "allowed; send several requests.",
            param="n",
        )
    stop = [request.stop] if isinstance(request.stop, str) else request.stop or []
    if len(stop) > _MAX_STOPS:
        raise ApiError(
            f"The request has {len(stop)} stop strings; send at most {_MAX_STOPS}.", param="stop"
        )
    strategy, search = resolve_strategy(request.model, options, limits.search)
    if request.seed is not None:
        search = search.model_copy(update={"seed": request.seed})
    token_limits = [limit for limit in (max_search_tokens, limits.tokens) if limit is not None]
    return SearchRequest(
        model=request.model,
        questions=tuple(_checked_question(text) for text in texts),
        n=n,
        strategy=strategy,
        search=search,
        seconds=min(options.seconds or limits.seconds, limits.seconds),
        max_search_tokens=min(token_limits) if token_limits else None,
        stop=tuple(text for text in stop if text),
        max_text_tokens=request.max_tokens,
        stream=bool(request.stream),
        include_usage=bool(request.stream_options and request.stream_options.include_usage),
        keep_trees=options.tree,
        ignored=_ignored_fields(request, options),
    )


def _ignored_fields(request: ChatRequest | TextRequest, options: RstarOptions) -> tuple[str, ...]:
    """The names of the fields that a search does not use, `MAX_IGNORED` at most."""
    extra = request.model_extra or {}
    names = [name for name in extra if name not in _IGNORED_WITHOUT_NOTE and name.isidentifier()]
    if isinstance(request, ChatRequest) and not options.context and len(request.messages) > 1:
        names.append("messages before the last")
    return tuple(sorted(name[:60] for name in names)[:MAX_IGNORED])


def resolve_strategy(
    model: str, options: RstarOptions, search: SearchConfig
) -> tuple[Strategy, SearchConfig]:
    """The strategy and its search options.

    The request's fields take precedence over the model name, which takes precedence over the
    server's options.
    """
    requested = options.model_dump(
        exclude_none=True, include={*SearchConfig.model_fields, "tokens"}
    )
    if "tokens" in requested:
        requested["token_budget"] = requested.pop("tokens")
    merged = {**model_options(model), **requested}
    spec = merged.pop("strategy", search.strategy)
    param = "model" if options.strategy is None else "rstar.strategy"
    try:
        strategy, *others = parse_strategies(spec)
    except ConfigError as error:
        if param == "model":
            raise unknown_model(model) from None
        raise ApiError(str(error), param=param, code="unknown_strategy") from None
    if others:
        raise ApiError(f"{spec!r} names several strategies; give one.", param=param)
    if max(strategy.size or 1, 1) * (strategy.runs or 1) > MAX_ROLLOUTS:
        raise ApiError(
            f"The strategy {spec} is too large; the maximum is {MAX_ROLLOUTS} rollouts.",
            param=param,
        )
    return strategy, search.model_copy(update=merged)


def model_options(name: str) -> dict[str, Any]:
    """The search options that a model name selects; {} for plain "rstar". Raises `ApiError` (404)
    for an unknown name."""
    match = _MODEL_NAME.fullmatch(name)
    if match is None:
        raise unknown_model(name)
    kind, size, runs = match.groups()
    if kind is None:
        return {}
    if kind in MODEL_PROFILES and size is None and runs is None:
        return MODEL_PROFILES[kind]
    spec = kind + (f"@{size}" if size else "") + (f"x{runs}" if runs else "")
    try:
        parse_strategies(spec)
    except ConfigError:
        raise unknown_model(name) from None
    return {"strategy": spec}


def model_names() -> list[str]:
    """The model names that /v1/models lists."""
    return [f"rstar-{suffix}" if suffix else "rstar" for suffix in LISTED_SUFFIXES]


def unknown_model(name: str) -> ApiError:
    """The error (404) for an unknown model name."""
    shown = name if len(name) <= 60 else f"{name[:60]}…"
    return ApiError(
        f"The model {shown!r} does not exist; use one of {', '.join(model_names())}, or "
        "rstar-STRATEGY.",
        404,
        code="model_not_found",
        param="model",
    )


def _question_text(messages: Sequence[Message], *, context: bool) -> str:
    """The question of a conversation: all its messages, or without `context` the last one.

    The last message must be the user's. Raises `ApiError`.
    """
    last = messages[-1]
    if last.role != "user":
        raise ApiError(
            f"The last message has the role {last.role}; send the question as a user message after "
            "it.",
            **_NO_QUESTION,
        )
    question = _message_text(last, len(messages) - 1)
    if not context or len(messages) == 1:
        return question
    instructions = [
        _message_text(message, at)
        for at, message in enumerate(messages)
        if message.role in ("system", "developer")
    ]
    turns = [
        f"{message.role.capitalize()}: {text}"
        for at, message in enumerate(messages[:-1])
        if message.role not in ("system", "developer") and (text := _message_text(message, at))
    ]
    parts = [text for text in instructions if text.strip()]
    if turns:
        parts += ["Earlier in this conversation:", *turns, f"User: {question}"]
    else:
        parts.append(question)
    return "\n\n".join(parts)


_NO_QUESTION: dict[str, Any] = {"param": "messages", "code": "no_question"}


def _message_text(message: Message, position: int) -> str:
    """The text of a message. Raises `ApiError` for content that is not text."""
    if message.content is None or isinstance(message.content, str):
        return message.content or ""
    for part in message.content:
        if part.type != "text" or part.text is None:
            raise ApiError(
                f"Content of type {part.type[:40]!r} is not supported; send text only.",
                param=f"messages.{position}.content",
                code="unsupported_content",
            )
    return "\n".join(part.text or "" for part in message.content)


def _checked_question(text: str) -> Question:
    """The text as a Question. Raises `ApiError` if it is empty, invalid or too long."""
    if not text.strip() or "\x00" in text:
        raise ApiError("The question is empty or contains a NUL character.", **_NO_QUESTION)
    if len(text) > MAX_QUESTION_CHARS:
        raise ApiError(
            f"The question has {len(text)} characters; shorten it to at most {MAX_QUESTION_CHARS}.",
            param="messages",
            code="context_length_exceeded",
        )
    return Question(question_id(text), text)


def _reject_fields(request: BaseModel, *names: str) -> None:
    """Raises `ApiError` if one of the fields is set: a search does not support them."""
    for name in names:
        if getattr(request, name):
            raise _unsupported(name, "omit it")


def _unsupported(name: str, hint: str, *, param: str | None = None) -> ApiError:
    """The error for a field that a search does not support."""
    return ApiError(
        f"{name} is not supported; {hint}.", param=param or name, code="unsupported_parameter"
    )
