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
"""Most rollouts, chains or runs that one request may ask for; time is limited besides."""
MOST_ITEMS = 4096
"""Longest list in a request."""
T = TypeVar("T")


def _unsaid(schema: dict[str, Any]) -> None:
    """Leave the length out of the API's description: a body of so many items may be refused for
    its size first."""
    schema.pop("maxItems", None)


Items = Annotated[list[T], Field(max_length=MOST_ITEMS, fail_fast=True, json_schema_extra=_unsaid)]
"""A list that is read up to its first fault: the faults of a large body would take seconds, in
which nobody else is answered, and a gigabyte."""


class _Wire(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="ignore", strict=True, use_attribute_docstrings=True
    )


class Part(_Wire):
    """A part of a message's content."""

    type: str
    text: str | None = None


class Message(_Wire):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | Items[Part] | None = None


class StreamOptions(_Wire):
    """What a stream carries besides."""

    include_usage: bool | None = None


class RstarOptions(_Wire):
    """How the answer is to be searched for."""

    model_config = ConfigDict(extra="forbid")

    strategy: str | None = Field(None, max_length=40)
    """As `rstar solve --strategy` takes it: mcts@16, sc@8, greedy, ..."""
    tokens: int | None = Field(None, ge=1, le=2**31)
    """Budget of sampled tokens: runs are repeated until it is spent."""
    rollouts: int | None = Field(None, ge=1, le=MAX_ROLLOUTS)
    """Walks from the root to an end, where the strategy gives no number."""
    candidates: int | None = Field(None, ge=1, le=64)
    """Next steps sampled at a node."""
    seconds: float | None = Field(None, gt=0)
    """The search ends after this time, with the best answer so far; at most what the server
    allows."""
    confidence: float | None = Field(None, gt=0.5, le=1)
    """Stop early when a majority is this sure; at 1 when no vote to come can change it."""
    context: bool = False
    """Whether the earlier turns and the system message are put before the question; by default
    the question is the last user message alone."""
    tree: bool = True
    """Whether the tree is kept for its page."""


class _Request(_Wire):
    """What both routes share."""

    model: str = Field(max_length=256)
    """rstar, or with a suffix for the strategy, as in rstar-mcts, rstar-sc8 or rstar-fast."""
    n: int | None = Field(None, ge=1, le=128)
    """Answers, each searched for under a seed of its own."""
    stop: str | Items[str] | None = None
    """Up to 4 texts before which the answer is cut."""
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    """The same seed gives the same answer, unless a limit of time ends the search; by default the
    server's seed."""
    max_tokens: int | None = Field(None, ge=1, le=2**31)
    """Most tokens of the answer's text."""
    stream: bool | None = None
    """Whether the answer comes in pieces, and what the search does before it."""
    stream_options: StreamOptions | None = None
    rstar: RstarOptions | None = None


class ChatRequest(_Request):
    """A request for a chat completion."""

    messages: Items[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1, le=2**31)
    """Most tokens of search and answer together: the search ends when they are sampled."""
    tools: list[Any] | None = None
    functions: list[Any] | None = None
    response_format: dict[str, Any] | None = None
    logprobs: bool | None = None
    modalities: Items[str] | None = None


class TextRequest(_Request):
    """A request for a text completion."""

    prompt: str | Items[str] | Items[int] | Items[Items[int]]
    """A question, or several."""
    echo: bool | None = None
    suffix: str | None = None
    logprobs: int | None = None
    best_of: int | None = None


MODEL_PROFILES: dict[str, dict[str, Any]] = {
    "fast": {"strategy": "sc@8", "confidence": 0.9},
    "deep": {"strategy": "mcts@64", "confidence": 0.99},
}
"""Names for a strategy with a budget: "fast" stops as soon as chains agree, "deep" looks long."""
LISTED = ("", "fast", "deep", "greedy", "sc8", "mcts", "mcts16")
"""Suffixes of the model names that are listed; others are taken too."""
_NAME = re.compile(r"rstar(?:-([a-z]+)(?:@?([0-9]{1,6}))?(?:x([0-9]{1,4}))?)?")
_MOST_STOPS = 4
_MOST_FAULTS = 200
"""Faults of one body that are looked at."""
R = TypeVar("R", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """What the server gives and allows."""

    search: SearchConfig = field(default_factory=SearchConfig)
    seconds: float = 300.0
    """Longest search; also where none is asked for."""
    tokens: int | None = None
    """Most tokens that one search may sample; None for no limit."""
    searches: int = 8
    """Most searches of one request: answers times questions."""


@dataclass(frozen=True, slots=True)
class SearchRequest:
    """What is to be done for one request."""

    model: str
    questions: tuple[Question, ...]
    n: int
    strategy: Strategy
    search: SearchConfig
    seconds: float
    cap: int | None
    """Sampled tokens at which a search is ended; None for no end."""
    stop: tuple[str, ...] = ()
    most: int | None = None
    """Most tokens of the answer's text."""
    stream: bool = False
    usage: bool = False
    """Whether a stream ends with what it cost."""
    keep: bool = True
    """Whether the trees are kept to be looked at."""


def read(kind: type[R], body: bytes) -> R:
    """A request from its JSON; the first fault as a sentence."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        if error.error_count() > _MOST_FAULTS:
            said = (
                f"The body has more than {_MOST_FAULTS} faults; see /openapi.json for its fields."
            )
            raise ApiError(said, code="too_many_faults") from None
        fault = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in fault["loc"])
        if fault["type"] == "json_invalid":
            raise ApiError(f"The body is not JSON ({fault['msg']}).", code="invalid_json") from None
        raise ApiError(
            f"{where or 'The body'} will not do: {fault['msg']}.",
            param=where or None,
            code=fault["type"],
        ) from None


def chat_order(request: ChatRequest, terms: ServerLimits) -> SearchRequest:
    """What a chat request asks for. Raises `ApiError`."""
    _refuse(request, "tools", "functions", "logprobs")
    if request.response_format and request.response_format.get("type") != "text":
        raise _unsupported("response_format", 'only {"type": "text"} can be given')
    if request.modalities and request.modalities != ["text"]:
        raise _unsupported("modalities", 'only ["text"] can be given')
    wishes = request.rstar or RstarOptions()
    text = _asked(request.messages, context=wishes.context)
    return _order(request, wishes, [text], terms, cap=request.max_completion_tokens)


def text_order(request: TextRequest, terms: ServerLimits) -> SearchRequest:
    """What a text request asks for. Raises `ApiError`."""
    _refuse(request, "echo", "suffix", "logprobs")
    if request.best_of is not None and request.best_of != (request.n or 1):
        raise _unsupported("best_of", "ask for a strategy such as rstar-sc8")
    prompts = [request.prompt] if isinstance(request.prompt, str) else request.prompt
    texts = [prompt for prompt in prompts if isinstance(prompt, str)]
    if len(texts) < len(prompts):
        raise _unsupported("prompt", "tokens cannot be read; give text")
    return _order(request, request.rstar or RstarOptions(), texts, terms, cap=None)


def _order(
    request: ChatRequest | TextRequest,
    wishes: RstarOptions,
    texts: Sequence[str],
    terms: ServerLimits,
    *,
    cap: int | None,
) -> SearchRequest:
    """What both routes have in common."""
    n = request.n or 1
    if not 1 <= n * len(texts) <= terms.searches:
        raise ApiError(
            f"{n * len(texts)} answers were asked for, and one request gives 1 to "
            f"{terms.searches}; send several requests.",
            param="n",
        )
    stop = [request.stop] if isinstance(request.stop, str) else request.stop or []
    if len(stop) > _MOST_STOPS:
        raise ApiError(f"{len(stop)} stops are too many; give up to {_MOST_STOPS}.", param="stop")
    strategy, search = resolve_strategy(request.model, wishes, terms.search)
    if request.seed is not None:
        search = search.model_copy(update={"seed": request.seed})
    caps = [limit for limit in (cap, terms.tokens) if limit is not None]
    return SearchRequest(
        model=request.model,
        questions=tuple(_question(text) for text in texts),
        n=n,
        strategy=strategy,
        search=search,
        seconds=min(wishes.seconds or terms.seconds, terms.seconds),
        cap=min(caps) if caps else None,
        stop=tuple(mark for mark in stop if mark),
        most=request.max_tokens,
        stream=bool(request.stream),
        usage=bool(request.stream_options and request.stream_options.include_usage),
        keep=wishes.tree,
    )


def resolve_strategy(
    model: str, wishes: RstarOptions, search: SearchConfig
) -> tuple[Strategy, SearchConfig]:
    """The strategy and its options: the request's fields, else the model's name, else the
    server's."""
    named = model_options(model)
    given = wishes.model_dump(exclude_none=True, include={*SearchConfig.model_fields, "tokens"})
    if "tokens" in given:
        given["token_budget"] = given.pop("tokens")
    options = {**named, **given}
    spec = options.pop("strategy", search.strategy)
    param = "model" if wishes.strategy is None else "rstar.strategy"
    try:
        chosen, *others = parse_strategies(spec)
    except ConfigError as error:
        if param == "model":
            raise unknown_model(model) from None
        raise ApiError(str(error), param=param, code="unknown_strategy") from None
    if others:
        raise ApiError("Give one strategy; a request has one.", param=param)
    if max(chosen.n or 1, 1) * (chosen.runs or 1) > MAX_ROLLOUTS:
        raise ApiError(
            f"{spec} is too much for one request; the most is {MAX_ROLLOUTS}.", param=param
        )
    return chosen, search.model_copy(update=options)


def model_options(name: str) -> dict[str, Any]:
    """The search options that a model's name stands for: {} for plain "rstar". Raises `ApiError`
    (404) for a name that is none of ours."""
    match = _NAME.fullmatch(name)
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
    """The names of models that are listed."""
    return [f"rstar-{suffix}" if suffix else "rstar" for suffix in LISTED]


def unknown_model(name: str) -> ApiError:
    """What is said to a name that is none of ours."""
    shown = name if len(name) <= 60 else f"{name[:60]}…"
    return ApiError(
        f"The model {shown!r} does not exist; there are {', '.join(model_names())}, and rstar-"
        "STRATEGY for others.",
        404,
        code="model_not_found",
        param="model",
    )


def _asked(messages: Sequence[Message], *, context: bool) -> str:
    """The question of a conversation: its last user message, or with `context` all of it."""
    asking = [at for at, message in enumerate(messages) if message.role == "user"]
    if not asking:
        raise ApiError("There is no message of the role user; the question is the last.", **_WHERE)
    last = asking[-1]
    if not context:
        return _text(messages[last], last)
    return "\n\n".join(_text(messages[at], at) for at in range(last + 1)).strip()


_WHERE: dict[str, Any] = {"param": "messages", "code": "no_question"}


def _text(message: Message, at: int) -> str:
    """The text of a message."""
    if message.content is None or isinstance(message.content, str):
        return message.content or ""
    for part in message.content:
        if part.type != "text" or part.text is None:
            raise ApiError(
                f"A part of the type {part.type[:40]!r} cannot be read here; send text only.",
                param=f"messages.{at}.content",
                code="unsupported_content",
            )
    return "\n".join(part.text or "" for part in message.content)


def _question(text: str) -> Question:
    """A question that can be searched for."""
    if not text.strip() or "\x00" in text:
        raise ApiError("The question is empty or no valid text; write one.", **_WHERE)
    if len(text) > MAX_QUESTION_CHARS:
        raise ApiError(
            f"The question has {len(text)} characters, and the most is {MAX_QUESTION_CHARS}; "
            "shorten it.",
            param="messages",
            code="context_length_exceeded",
        )
    return Question(question_id(text), text)


def _refuse(request: BaseModel, *names: str) -> None:
    """Refuse fields that ask for what a search does not give."""
    for name in names:
        if getattr(request, name):
            raise _unsupported(name, "leave it out")


def _unsupported(name: str, hint: str) -> ApiError:
    """What is said to a field that asks for what a search does not give."""
    return ApiError(
        f"{name} is not supported by a search; {hint}.", param=name, code="unsupported_parameter"
    )
