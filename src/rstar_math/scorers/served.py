"""A process reward model on a server.

vLLM has four routes for it. `/pooling` returns the outputs at every mark of a solution in one
request (Qwen's process reward models). `/classify` returns the output at the last token. A language
model that answers with one of two tokens is asked for their log-probabilities. Hidden states with
the head in this process serve every checkpoint that vLLM can embed. All but the first use the
server's prefix cache.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rstar_math.concurrency import gather
from rstar_math.costs import add_cost
from rstar_math.errors import ContextLengthError, ModelRejectedError
from rstar_math.llm.balancing import Replicas
from rstar_math.llm.client import OpenAIClient, Tokens
from rstar_math.models.prompting import NOTHING_KNOWN, Prompting
from rstar_math.ppm.remote import parse_rows
from rstar_math.prompts.step_rewards import PrmFormat, RewardInput, probability
from rstar_math.scorers.heads import StepHead
from rstar_math.types import Cost

_CACHED_PIECES = 20_000
"""Number of texts whose tokens are kept."""
_LISTED = 20
"""Number of log-probabilities requested from servers that cannot return those of chosen tokens."""


class ServedRewards:
    """A `RewardBackend` on a server. `route` is one of the keys of `ROUTES`."""

    def __init__(
        self,
        client: OpenAIClient,
        layout: PrmFormat,
        *,
        route: str,
        head: StepHead | None = None,
        prompting: Prompting = NOTHING_KNOWN,
        bos: str = "",
    ) -> None:
        self._client, self._layout, self._head = client, layout, head
        self.route = route
        """Key of `ROUTES`."""
        self._ask = ROUTES[route]
        self._pair: tuple[int, int] | None = None
        self._tokens: dict[tuple[str, bool], Tokens] = {}
        self._rows_are_marks = bool(layout.mark)
        """Whether a row per mark is expected, so that one request scores all steps."""
        self.prompting, self.bos = prompting, bos

    @property
    def replicas(self) -> Replicas:
        """The servers that run the model."""
        return self._client.replicas

    async def tokenize(self, text: str, *, special: bool) -> Tokens:
        """Returns the tokens of a text. Raises `ModelRejectedError`."""
        body: dict[str, Any] = {"prompt": text, "content": text, "model": self._client.name}
        body |= {"add_special_tokens": special, "add_special": special, "parse_special": True}
        reply = await self._client.post("/tokenize", body, outside_v1=True)
        tokens = reply.get("tokens") if isinstance(reply, dict) else None
        if not isinstance(tokens, list) or not all(isinstance(token, int) for token in tokens):
            raise ModelRejectedError(
                f"{self._client.url} does not return tokens at /tokenize; serve the reward model "
                "with vLLM."
            )
        return tuple(tokens)

    async def probabilities(self, inputs: Sequence[RewardInput]) -> list[float | None]:
        """See `RewardBackend`. Texts are sent as they are, and tokens only for formats whose pieces
        are tokenized separately. If one input of several is too long, each is sent alone."""
        if not inputs:
            return []
        asked = await gather(self._prepare(each) for each in inputs)
        try:
            return await self._ask(self, asked)
        except ContextLengthError:
            if len(asked) == 1:
                return [None]
        rows = await gather(self.probabilities([each]) for each in inputs)
        return [row[0] for row in rows]

    async def _prepare(self, one: RewardInput) -> "_Asked":
        if not one.piecewise:
            return _Asked(one, one.text)
        first, *others = one.pieces
        parts = await gather(
            self._cached_tokens(piece, special=one.special and not index)
            for index, piece in enumerate((first, *others))
        )
        return _Asked(one, tuple(token for part in parts for token in part))

    async def _cached_tokens(self, text: str, *, special: bool) -> Tokens:
        """Like `tokenize`, with a cache: a tree has each step in many inputs."""
        key = (text, special)
        if key not in self._tokens:
            if len(self._tokens) >= _CACHED_PIECES:
                self._tokens.clear()
            self._tokens[key] = await self.tokenize(text, special=special)
        return self._tokens[key]

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._client.aclose()

    async def check(self) -> None:
        """Raises `ModelRejectedError` or `InputError` if the server cannot score."""
        pieces = tuple(filter(None, (self._layout.before.replace("{question}", "1 + 1"), "2")))
        pieces = (*pieces, self._layout.mark) if self._layout.mark else pieces
        one = RewardInput(pieces, 1, special=True, piecewise=self._layout.piecewise)
        (found,) = await self.probabilities([one])
        if found is None:
            raise ModelRejectedError(
                f"{self._client.url} returns no score for a step; see the routes and options in "
                "docs/guides/scorers.md."
            )

    def _body(self, asked: Sequence["_Asked"]) -> dict[str, Any]:
        """The fields that the pooling routes share."""
        return {
            "model": self._client.name,
            "input": [each.body for each in asked],
            "add_special_tokens": asked[0].input.special,
            "use_activation": False,
        }

    async def _pooled(self, asked: Sequence["_Asked"]) -> list[float | None]:
        """`/pooling`: one request for all marks of the longest inputs.

        A server that returns a row per token is asked for each input, unless its tokens are known.
        """
        longest = _longest(asked) if self._rows_are_marks else list(asked)
        total = sum(len(each.body) for each in longest)
        reply = await self._client.post(
            "/pooling", self._body(longest), outside_v1=True, tokens=total
        )
        tables = _parse_tables(reply, len(longest))
        found: dict[Body, float] = {}
        for each, rows in zip(longest, tables, strict=True):
            ends = _ends(each, rows, asked if self._layout.mark else [each])
            if len(rows) > each.input.steps and isinstance(each.body, str):
                self._rows_are_marks = False
            for body, row in ends:
                found[body] = probability(row, self._layout.reading)
        missing = [each for each in asked if each.body not in found]
        if missing and len(missing) < len(asked):
            values = await self._pooled(missing)
            found |= {e.body: v for e, v in zip(missing, values, strict=True) if v is not None}
        return [found.get(each.body) for each in asked]

    async def _classified(self, asked: Sequence["_Asked"]) -> list[float | None]:
        """`/classify`: raw outputs at the last token."""
        total = sum(len(each.body) for each in asked)
        reply = await self._client.post(
            "/classify", self._body(asked), outside_v1=True, tokens=total
        )
        rows = parse_rows(reply, "probs", len(asked))
        if self._layout.reading == "tokens" and len(rows[0]) == 1:  # from_2_way_softmax: a margin
            rows = [[0.0, *row] for row in rows]
        return [probability(row, self._layout.reading) for row in rows]

    async def _embedded(self, asked: Sequence["_Asked"]) -> list[float | None]:
        """`/v1/embeddings`: hidden states, to which this process applies the head."""
        assert self._head is not None
        body = self._body(asked) | {"encoding_format": "float", "embd_normalize": -1}
        total = sum(len(each.body) for each in asked)
        reply = await self._client.post("/embeddings", body, tokens=total)
        states = parse_rows(reply, "embedding", len(asked))
        if any(abs(sum(x * x for x in state) - 1.0) < 1e-4 for state in states):
            raise ModelRejectedError(
                f"{self._client.url} normalizes its embeddings, so the head cannot use them; use a "
                "newer vLLM."
            )
        return [probability(row, self._layout.reading) for row in self._head.outputs(states)]

    async def _completed(self, asked: Sequence["_Asked"]) -> list[float | None]:
        """`/v1/completions`: the log-probabilities of two tokens as the next one."""
        if self._pair is None:
            ids = [
                (await self.tokenize(text, special=False))[-1:]
                for text in (self._layout.bad, self._layout.good)
            ]
            if not all(ids) or ids[0] == ids[1]:
                raise ModelRejectedError(
                    f"The tokenizer of {self._client.url} does not tell {self._layout.good!r} from "
                    f"{self._layout.bad!r}; set good and bad of the format to other texts."
                )
            self._pair = (ids[0][0], ids[1][0])
        return await gather(self._complete(each) for each in asked)

    async def _complete(self, one: "_Asked") -> float | None:
        assert self._pair is not None
        body = {
            "model": self._client.name,
            "prompt": one.body if isinstance(one.body, str) else list(one.body),
            "add_special_tokens": one.input.special,
            "max_tokens": 1,
            "temperature": 0.0,
            "logprobs": _LISTED,
            "logprob_token_ids": list(self._pair),
            "return_tokens_as_token_ids": True,
        }
        reply = await self._client.post("/completions", body, tokens=len(one.body))
        listed = _listed_logprobs(reply, self._client.url)
        bad, good = (listed.get(f"token_id:{token}") for token in self._pair)
        if bad is None and good is None:
            return None
        # A token that is not among the listed ones has at most the lowest probability of them.
        floor = min(listed.values())
        outputs = [floor if bad is None else bad, floor if good is None else good]
        return probability(outputs, self._layout.reading)


Body = str | Tokens
"""An input as it is sent: its text, or its tokens."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """An input with the form in which it is sent."""

    input: RewardInput
    body: Body


ROUTES = {
    "/pooling": ServedRewards._pooled,
    "/classify": ServedRewards._classified,
    "/embeddings": ServedRewards._embedded,
    "/completions": ServedRewards._completed,
}
"""The routes that score token sequences."""


def _longest(asked: Sequence[_Asked]) -> list[_Asked]:
    """Return the inputs that are not the beginning of another one."""
    ordered = sorted({each.body: each for each in asked}.values(), key=lambda each: each.body)
    return [
        each
        for each, following in zip(ordered, [*ordered[1:], None], strict=True)
        if following is None or following.body[: len(each.body)] != each.body
    ]


def _ends(
    whole: _Asked, rows: Sequence[Sequence[float]], asked: Sequence[_Asked]
) -> list[tuple[Body, Sequence[float]]]:
    """Return (input, outputs at its last token) for the inputs that `whole` begins with.

    A server returns a row for each mark, or for each token. With another number of rows, only the
    last one is certain.
    """
    if not rows:
        return []
    parts = [each for each in asked if whole.body[: len(each.body)] == each.body]
    if len(rows) == whole.input.steps:
        return [(each.body, rows[each.input.steps - 1]) for each in parts]
    if not isinstance(whole.body, str) and len(rows) == len(whole.body):
        return [(each.body, rows[len(each.body) - 1]) for each in parts]
    return [(whole.body, rows[-1])]


def _parse_tables(reply: object, expected: int) -> list[list[list[float]]]:
    """Return the rows of outputs of each text in a reply of `/pooling`, in order.

    Charges the tokens that the server counted. Raises `ModelRejectedError`.
    """
    body: dict[str, Any] = reply if isinstance(reply, dict) else {}
    try:
        entries = sorted(body["data"], key=lambda entry: int(entry["index"]))
        tables = [[[float(x) for x in row] for row in entry["data"]] for entry in entries]
        usage = body.get("usage") or {}
        add_cost(Cost(calls=1, scorer_tokens=max(0, int(usage.get("prompt_tokens") or 0))))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelRejectedError(
            "The server answered /pooling without outputs per token; serve the model with vLLM's "
            "--runner pooling."
        ) from error
    if len(tables) != expected:
        raise ModelRejectedError(f"The server answered for {len(tables)} of {expected} texts.")
    return tables


def _listed_logprobs(reply: object, url: str) -> dict[str, float]:
    """Return the log-probabilities at the first sampled token by token, "token_id:N".

    Charges the tokens that the server counted. Raises `ModelRejectedError`.
    """
    body: dict[str, Any] = reply if isinstance(reply, dict) else {}
    try:
        listed = body["choices"][0]["logprobs"]["top_logprobs"][0]
        found = {str(token): float(value) for token, value in listed.items()}
        usage = body.get("usage") or {}
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        read = int(usage.get("prompt_tokens") or 0) - int(cached)
        add_cost(Cost(calls=1, scorer_tokens=max(0, read) + 1))
        if not found:
            raise KeyError("top_logprobs")
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise ModelRejectedError(
            f"{url} returns no log-probabilities of tokens; serve the model with vLLM."
        ) from error
    return found
