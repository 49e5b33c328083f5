"""Servers that run a preference model, behind one face: text to tokens, tokens to values."""

from collections.abc import Sequence
from typing import Any, Protocol

from rstar_math.errors import ModelRefused
from rstar_math.meter import charge
from rstar_math.models.http import HttpModel
from rstar_math.models.slots import Slots
from rstar_math.models.value_head import ValueHead
from rstar_math.types import Cost

Tokens = tuple[int, ...]
_PROBE = "1 + 1 = 2"


class Reader(Protocol):
    """A running preference model."""

    async def tokens(self, text: str) -> Tokens:
        """A text as the model's own tokens."""
        ...

    async def values(self, sequences: Sequence[Tokens]) -> list[float]:
        """Values in [-1, 1], in order. Charges the tokens that were run. Raises `ModelError`."""
        ...


async def tokens_of(http: HttpModel, text: str) -> Tokens:
    """A text in the tokens of a server of llama.cpp's or vLLM's kind, which have a route for it
    (with the field named differently)."""
    body = {"content": text, "prompt": text, "model": http.name, "add_special": True}
    body |= {"add_special_tokens": True, "parse_special": True}
    answer = await http.post("/tokenize", body, beside_v1=True)
    found = answer.get("tokens") if isinstance(answer, dict) else None
    if not isinstance(found, list) or not all(isinstance(token, int) for token in found):
        raise ModelRefused(
            f"{http.url} does not tell tokens at /tokenize; serve the preference model with "
            "llama.cpp or vLLM."
        )
    return tuple(found)


class ReadoutReader:
    """llama.cpp on a file whose output matrix holds the head (`gguf_files`): the value is read off
    the first token's log-probabilities. The sequences of one call run one after another in one
    slot, so that what they have in common is computed once."""

    def __init__(self, http: HttpModel, streams: int) -> None:
        self._http = http
        self._slots: Slots[Tokens] = Slots(http, streams, empty=())

    async def tokens(self, text: str) -> Tokens:
        """See `Reader`."""
        return await tokens_of(self._http, text)

    async def values(self, sequences: Sequence[Tokens]) -> list[float]:
        """See `Reader`."""
        if not sequences:
            return []
        async with self._slots.taken(sequences[0], keep=True) as slot:
            values = [await self._value(tokens, slot.number) for tokens in sequences]
            slot.holds = sequences[-1]
            return values

    def close(self) -> None:
        """Free the saved prefixes; only after the server has ended."""
        self._slots.close()

    async def _value(self, tokens: Tokens, slot: int) -> float:
        body = {"prompt": list(tokens), "n_predict": 1, "n_probs": 2, "temperature": 0.0}
        body |= {"cache_prompt": True, "id_slot": slot}
        answer = await self._http.post("/completion", body, beside_v1=True)
        try:
            assert isinstance(answer, dict)
            first, second = answer["completion_probabilities"][0]["top_logprobs"][:2]
            margin = float(first["logprob"]) - float(second["logprob"])
            charge(Cost(scorer_tokens=int(answer["timings"]["prompt_n"])))
        except (AssertionError, KeyError, IndexError, TypeError, ValueError) as error:
            raise ModelRefused("llama.cpp answered without probabilities.") from error
        sign = {0: 1.0, 1: -1.0}.get(first["id"], 0.0)
        return squashed(sign * margin)


class EmbeddingReader:
    """Any server that gives un-normalised hidden states of the last token as embeddings, and the
    head here: llama.cpp (pooling "last"), vLLM (`--runner pooling`)."""

    def __init__(self, http: HttpModel, head: ValueHead) -> None:
        self._http, self._head = http, head

    async def tokens(self, text: str) -> Tokens:
        """See `Reader`."""
        return await tokens_of(self._http, text)

    async def values(self, sequences: Sequence[Tokens]) -> list[float]:
        """See `Reader`."""
        return self._head.values(await self._states(sequences))

    async def check(self) -> None:
        """Nothing, where the server's states fit the head and are not normalised; else raises
        `ModelRefused` or `InputError`."""
        (state,) = await self._states([await self.tokens(_PROBE)])
        self._head.values([state])
        if abs(sum(x * x for x in state) - 1.0) < 1e-3:
            raise ModelRefused(
                f"{self._http.url} normalises its embeddings, so a head cannot read them; start it "
                "without (llama.cpp: --embd-normalize -1, vLLM: a version that knows "
                "use_activation)."
            )

    async def _states(self, sequences: Sequence[Tokens]) -> list[list[float]]:
        if not sequences:
            return []
        body = {
            "model": self._http.name,
            "input": [list(tokens) for tokens in sequences],
            "encoding_format": "float",
            "embd_normalize": -1,
            "use_activation": False,
        }
        tokens = sum(map(len, sequences))
        answer = await self._http.post("/embeddings", body, tokens=tokens)
        return [[float(x) for x in entry] for entry in entries(answer, "embedding", len(sequences))]


class ClassificationReader:
    """vLLM's /classify on a sequence-classification checkpoint, asked for raw scores."""

    def __init__(self, http: HttpModel) -> None:
        self._http = http

    async def tokens(self, text: str) -> Tokens:
        """See `Reader`."""
        return await tokens_of(self._http, text)

    async def values(self, sequences: Sequence[Tokens]) -> list[float]:
        """See `Reader`."""
        return [squashed(raw) for raw in await self._raw(sequences, activated=False)]

    async def check(self) -> None:
        """Nothing, where the server gives raw scores when asked for them; else raises
        `ModelRefused`."""
        probe = [await self.tokens(_PROBE)]
        raw, share = await self._raw(probe, activated=False), await self._raw(probe, activated=True)
        if raw == share:
            raise ModelRefused(
                f"{self._http.url} gives no raw scores (use_activation is ignored); use a newer "
                "vLLM, or serve hidden states and name the head with search.ppm_head."
            )

    async def _raw(self, sequences: Sequence[Tokens], *, activated: bool) -> list[float]:
        if not sequences:
            return []
        body = {
            "model": self._http.name,
            "input": [list(tokens) for tokens in sequences],
            "use_activation": activated,
        }
        tokens = sum(map(len, sequences))
        answer = await self._http.post("/classify", body, beside_v1=True, tokens=tokens)
        found = entries(answer, "probs", len(sequences))
        if any(len(scores) != 1 for scores in found):
            raise ModelRefused(
                f"{self._http.url} gives {len(found[0])} scores a text and a preference model one; "
                "serve what rstar train ppm wrote."
            )
        return [float(scores[0]) for scores in found]


def squashed(raw: float) -> float:
    """A value in [-1, 1] of a raw score."""
    from math import tanh

    return tanh(raw)


def entries(answer: object, field: str, wanted: int) -> list[list[float]]:
    """The rows of numbers that a server answered with, in the order of asking; charges the tokens
    that it counted. Raises `ModelRefused`."""
    body: dict[str, Any] = answer if isinstance(answer, dict) else {}
    try:
        rows = sorted(body["data"], key=lambda entry: int(entry["index"]))
        found = [[float(x) for x in entry[field]] for entry in rows]
        usage = body.get("usage") or {}
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        charge(Cost(scorer_tokens=max(0, int(usage.get("prompt_tokens") or 0) - int(cached))))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelRefused(
            f"The server answered without {field}; does it run a preference model?"
        ) from error
    if len(found) != wanted:
        raise ModelRefused(f"The server answered {len(found)} of {wanted} texts.")
    return found
