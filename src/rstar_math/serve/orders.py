"""From a request to what is searched for: the question, the strategy and its budget."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from rstar_math.config import SearchConfig
from rstar_math.errors import ConfigError
from rstar_math.problems.reader import MAX_QUESTION_CHARS, question_id
from rstar_math.search.strategy import Strategy, parse_strategies
from rstar_math.serve.refusal import Refusal
from rstar_math.serve.wire import MOST_WALKS, ChatRequest, Message, TextRequest, Wishes
from rstar_math.types import Question

PROFILES: dict[str, dict[str, Any]] = {
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
class Terms:
    """What the server gives and allows."""

    search: SearchConfig = field(default_factory=SearchConfig)
    seconds: float = 300.0
    """Longest search; also where none is asked for."""
    tokens: int | None = None
    """Most tokens that one search may sample; None for no limit."""
    searches: int = 8
    """Most searches of one request: answers times questions."""


@dataclass(frozen=True, slots=True)
class Order:
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
            raise Refusal(said, code="too_many_faults") from None
        fault = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in fault["loc"])
        if fault["type"] == "json_invalid":
            raise Refusal(f"The body is not JSON ({fault['msg']}).", code="invalid_json") from None
        raise Refusal(
            f"{where or 'The body'} will not do: {fault['msg']}.",
            param=where or None,
            code=fault["type"],
        ) from None


def chat_order(request: ChatRequest, terms: Terms) -> Order:
    """What a chat request asks for. Raises `Refusal`."""
    _refuse(request, "tools", "functions", "logprobs")
    if request.response_format and request.response_format.get("type") != "text":
        raise _unsupported("response_format", 'only {"type": "text"} can be given')
    if request.modalities and request.modalities != ["text"]:
        raise _unsupported("modalities", 'only ["text"] can be given')
    wishes = request.rstar or Wishes()
    text = _asked(request.messages, context=wishes.context)
    return _order(request, wishes, [text], terms, cap=request.max_completion_tokens)


def text_order(request: TextRequest, terms: Terms) -> Order:
    """What a text request asks for. Raises `Refusal`."""
    _refuse(request, "echo", "suffix", "logprobs")
    if request.best_of is not None and request.best_of != (request.n or 1):
        raise _unsupported("best_of", "ask for a strategy such as rstar-sc8")
    prompts = [request.prompt] if isinstance(request.prompt, str) else request.prompt
    texts = [prompt for prompt in prompts if isinstance(prompt, str)]
    if len(texts) < len(prompts):
        raise _unsupported("prompt", "tokens cannot be read; give text")
    return _order(request, request.rstar or Wishes(), texts, terms, cap=None)


def _order(
    request: ChatRequest | TextRequest,
    wishes: Wishes,
    texts: Sequence[str],
    terms: Terms,
    *,
    cap: int | None,
) -> Order:
    """What both routes have in common."""
    n = request.n or 1
    if not 1 <= n * len(texts) <= terms.searches:
        raise Refusal(
            f"{n * len(texts)} answers were asked for, and one request gives 1 to "
            f"{terms.searches}; send several requests.",
            param="n",
        )
    stop = [request.stop] if isinstance(request.stop, str) else request.stop or []
    if len(stop) > _MOST_STOPS:
        raise Refusal(f"{len(stop)} stops are too many; give up to {_MOST_STOPS}.", param="stop")
    strategy, search = _how(request.model, wishes, terms.search)
    if request.seed is not None:
        search = search.model_copy(update={"seed": request.seed})
    caps = [limit for limit in (cap, terms.tokens) if limit is not None]
    return Order(
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


def _how(model: str, wishes: Wishes, search: SearchConfig) -> tuple[Strategy, SearchConfig]:
    """The strategy and its options: the request's fields, else the model's name, else the
    server's."""
    named = model_options(model)
    given = wishes.model_dump(exclude_none=True, include={*SearchConfig.model_fields})
    options = {**named, **given}
    spec = options.pop("strategy", search.strategy)
    param = "model" if wishes.strategy is None else "rstar.strategy"
    try:
        chosen, *others = parse_strategies(spec)
    except ConfigError as error:
        if param == "model":
            raise unknown_model(model) from None
        raise Refusal(str(error), param=param, code="unknown_strategy") from None
    if others:
        raise Refusal("Give one strategy; a request has one.", param=param)
    if max(chosen.n or 1, 1) * (chosen.runs or 1) > MOST_WALKS:
        raise Refusal(f"{spec} is too much for one request; the most is {MOST_WALKS}.", param=param)
    return chosen, search.model_copy(update=options)


def model_options(name: str) -> dict[str, Any]:
    """The search options that a model's name stands for: {} for plain "rstar". Raises `Refusal`
    (404) for a name that is none of ours."""
    match = _NAME.fullmatch(name)
    if match is None:
        raise unknown_model(name)
    kind, size, runs = match.groups()
    if kind is None:
        return {}
    if kind in PROFILES and size is None and runs is None:
        return PROFILES[kind]
    spec = kind + (f"@{size}" if size else "") + (f"x{runs}" if runs else "")
    try:
        parse_strategies(spec)
    except ConfigError:
        raise unknown_model(name) from None
    return {"strategy": spec}


def model_names() -> list[str]:
    """The names of models that are listed."""
    return [f"rstar-{suffix}" if suffix else "rstar" for suffix in LISTED]


def unknown_model(name: str) -> Refusal:
    """What is said to a name that is none of ours."""
    shown = name if len(name) <= 60 else f"{name[:60]}…"
    return Refusal(
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
        raise Refusal("There is no message of the role user; the question is the last.", **_WHERE)
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
            raise Refusal(
                f"A part of the type {part.type[:40]!r} cannot be read here; send text only.",
                param=f"messages.{at}.content",
                code="unsupported_content",
            )
    return "\n".join(part.text or "" for part in message.content)


def _question(text: str) -> Question:
    """A question that can be searched for."""
    if not text.strip() or "\x00" in text:
        raise Refusal("The question is empty or no valid text; write one.", **_WHERE)
    if len(text) > MAX_QUESTION_CHARS:
        raise Refusal(
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


def _unsupported(name: str, hint: str) -> Refusal:
    """What is said to a field that asks for what a search does not give."""
    return Refusal(
        f"{name} is not supported by a search; {hint}.", param=name, code="unsupported_parameter"
    )
