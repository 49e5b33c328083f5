"""A process reward model on a server.

vLLM has four routes for it. `/pooling` returns the outputs at every mark of a solution in one
request (Qwen's process reward models). `/classify` returns the output at the last token. A language
model that answers with one of two tokens is asked for their log-probabilities. Hidden states with
the head in this process serve every checkpoint that vLLM can embed. All but the first use the
server's prefix cache.
"""

from collections.abc import Sequence
from typing import Any

from rstar_math.concurrency import gather
from rstar_math.costs import add_cost
from rstar_math.errors import ModelRejectedError
from rstar_math.llm.balancing import Replicas
from rstar_math.llm.client import OpenAIClient, Tokens
from rstar_math.models.prompting import NOTHING_KNOWN, Prompting
from rstar_math.ppm.remote import parse_rows
from rstar_math.prompts.step_rewards import PrmFormat, probability
from rstar_math.scorers.heads import StepHead
from rstar_math.types import Cost

MAX_TOKENS = 4096
"""Maximum length of an input if the server does not report a shorter one."""
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
        self.max_tokens = min(MAX_TOKENS, client.context_tokens or MAX_TOKENS)
        self.prompting, self.bos = prompting, bos

    @property
    def replicas(self) -> Replicas:
        """The servers that run the model."""
        return self._client.replicas

    async def tokenize(self, text: str, *, special: bool) -> Tokens:
        """See `RewardBackend`."""
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

    async def probabilities(self, sequences: Sequence[Tokens]) -> list[float | None]:
        """See `RewardBackend`. Sequences that begin like each other are sent one after another, so
        that a prefix cache finds them."""
        if not sequences:
            return []
        return await self._ask(self, sequences)

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._client.aclose()

    async def check(self) -> None:
        """Raises `ModelRejectedError` or `InputError` if the server cannot score."""
        text = f"{self._layout.before.replace('{question}', '1 + 1')}2{self._layout.mark}"
        tokens = await self.tokenize(text, special=True)
        (found,) = await self.probabilities([tokens])
        if found is None:
            raise ModelRejectedError(
                f"{self._client.url} returns no score for a step; see the routes and options in "
                "docs/guides/scorers.md."
            )

    async def _pooled(self, sequences: Sequence[Tokens]) -> list[float | None]:
        """`/pooling`: one request per longest sequence, for all marks in it."""
        longest = _longest(sequences)
        body: dict[str, Any] = {
            "model": self._client.name,
            "input": [list(tokens) for tokens in longest],
            "use_activation": False,
        }
        total = sum(map(len, longest))
        reply = await self._client.post("/pooling", body, outside_v1=True, tokens=total)
        tables = _parse_tables(reply, len(longest))
        found: dict[Tokens, float] = {}
        for tokens, rows in zip(longest, tables, strict=True):
            for end, row in _ends(tokens, rows):
                found[tokens[:end]] = probability(row, self._layout.reading)
        return [found.get(tokens) for tokens in sequences]

    async def _classified(self, sequences: Sequence[Tokens]) -> list[float | None]:
        """`/classify`: raw outputs at the last token."""
        body = {
            "model": self._client.name,
            "input": [list(tokens) for tokens in sequences],
            "use_activation": False,
        }
        total = sum(map(len, sequences))
        reply = await self._client.post("/classify", body, outside_v1=True, tokens=total)
        rows = parse_rows(reply, "probs", len(sequences))
        if self._layout.reading == "tokens" and len(rows[0]) == 1:  # from_2_way_softmax: a margin
            rows = [[0.0, *row] for row in rows]
        return [probability(row, self._layout.reading) for row in rows]

    async def _embedded(self, sequences: Sequence[Tokens]) -> list[float | None]:
        """`/v1/embeddings`: hidden states, to which this process applies the head."""
        assert self._head is not None
        body = {
            "model": self._client.name,
            "input": [list(tokens) for tokens in sequences],
            "encoding_format": "float",
            "embd_normalize": -1,
            "use_activation": False,
        }
        total = sum(map(len, sequences))
        reply = await self._client.post("/embeddings", body, tokens=total)
        states = parse_rows(reply, "embedding", len(sequences))
        if any(abs(sum(x * x for x in state) - 1.0) < 1e-4 for state in states):
            raise ModelRejectedError(
                f"{self._client.url} normalizes its embeddings, so the head cannot use them; use a "
                "newer vLLM."
            )
        return [probability(row, self._layout.reading) for row in self._head.outputs(states)]

    async def _completed(self, sequences: Sequence[Tokens]) -> list[float | None]:
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
        return await gather(self._complete(tokens) for tokens in sequences)

    async def _complete(self, tokens: Tokens) -> float | None:
        assert self._pair is not None
        body = {
            "model": self._client.name,
            "prompt": list(tokens),
            "max_tokens": 1,
            "temperature": 0.0,
            "logprobs": _LISTED,
            "logprob_token_ids": list(self._pair),
            "return_tokens_as_token_ids": True,
        }
        reply = await self._client.post("/completions", body, tokens=len(tokens))
        listed = _listed_logprobs(reply, self._client.url)
        bad, good = (listed.get(f"token_id:{token}") for token in self._pair)
        if bad is None and good is None:
            return None
        # A token that is not among the listed ones has at most the lowest probability of them.
        floor = min(listed.values())
        outputs = [floor if bad is None else bad, floor if good is None else good]
        return probability(outputs, self._layout.reading)


ROUTES = {
    "/pooling": ServedRewards._pooled,
    "/classify": ServedRewards._classified,
    "/embeddings": ServedRewards._embedded,
    "/completions": ServedRewards._completed,
}
"""The routes that score token sequences."""


def _longest(sequences: Sequence[Tokens]) -> list[Tokens]:
    """Return the sequences that are not the beginning of another one."""
    ordered = sorted(set(sequences))
    return [
        tokens
        for tokens, following in zip(ordered, [*ordered[1:], ()], strict=True)
        if following[: len(tokens)] != tokens
    ]


def _ends(tokens: Tokens, rows: Sequence[Sequence[float]]) -> list[tuple[int, Sequence[float]]]:
    """Return (length of a prefix, outputs at its last token) for the rows of a sequence.

    A server returns a row for each token, or one for each token that equals the mark. With neither
    number of rows, only the last row is certain.
    """
    if len(rows) == len(tokens):
        return list(enumerate(rows, start=1))
    marks = [index for index, token in enumerate(tokens, start=1) if token == tokens[-1]]
    if len(rows) == len(marks):
        return list(zip(marks, rows, strict=True))
    return [(len(tokens), rows[-1])] if rows else []


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
