"""Process reward models as Scorers: `load_prm` opens the one that the configuration names."""

import asyncio
import os
from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b
from math import isfinite
from pathlib import Path
from typing import Literal, Protocol

from rstar_math.config.sections import HF, VLLM, Config
from rstar_math.costs import add_cost
from rstar_math.errors import ConfigError, ModelError, ModelRejectedError
from rstar_math.llm.balancing import Replicas
from rstar_math.llm.client import OpenAIClient
from rstar_math.models.prompting import Prompting, prompting_of_folder
from rstar_math.ppm.remote import OpenScorer, scoring_client
from rstar_math.prompts.step_rewards import (
    Aggregation,
    ChatFrameText,
    PrmFormat,
    RewardInput,
    aggregate,
    architecture_facts,
    prm_format,
    recognize_format,
    reward_input,
    reward_steps,
)
from rstar_math.scorers.heads import StepHead, read_model_config
from rstar_math.scorers.local import load_local
from rstar_math.scorers.served import ServedRewards
from rstar_math.types import Cost, Question, Step

CACHED_SCORES = 100_000
"""Number of step scores that are kept, 16 bytes of key each."""
AUTO = "auto"


class RewardBackend(Protocol):
    """A running process reward model that scores token sequences."""

    prompting: Prompting
    """The model's chat template."""
    bos: str
    """The tokenizer's begin-of-text token; "" if there is none."""

    async def probabilities(self, inputs: Sequence[RewardInput]) -> list[float | None]:
        """Return the probability of a right step, in [0, 1], at the end of each input.

        None for an input that is too long, or for which the model gave no score. Charges the tokens
        that were read. Raises `ModelError`.
        """
        ...

    async def aclose(self) -> None:
        """Free the model or close the connections."""
        ...


class PrmScorer:
    """A process reward model as a Scorer.

    The value of a prefix is 2 p - 1, where p aggregates the probabilities of its steps. Each step
    is scored once: its probability is kept by the text of the prefix that it ends.
    """

    reads_prose = True
    """Whether steps in words are scored as they are, not as comments of a program."""

    def __init__(
        self,
        backend: RewardBackend,
        layout: PrmFormat,
        aggregation: Aggregation | Literal["auto"] = "auto",
    ) -> None:
        self._backend, self.layout = backend, layout
        self.aggregation = layout.aggregation if aggregation == "auto" else aggregation
        self._known: OrderedDict[bytes, float] = OrderedDict()

    async def score(self, question: Question, prefixes: Sequence[Sequence[Step]]) -> list[float]:
        """See `protocols.Scorer`.

        A prefix that is too long for the model, or for which it gives no score, has the value 0 and
        counts in `Cost.unscorable`. Raises `ModelError`.
        """
        rows = await self.step_probabilities(question, prefixes)
        add_cost(Cost(unscorable=sum(row is None for row in rows)))
        return [
            0.0 if row is None else 2.0 * aggregate(row, self.aggregation) - 1.0 for row in rows
        ]

    async def step_probabilities(
        self, question: Question, prefixes: Sequence[Sequence[Step]]
    ) -> list[list[float] | None]:
        """Return the probabilities of the steps of each prefix; None if one is unknown."""
        frame = self._frame(question)
        rows: list[list[bytes]] = []
        wanted: dict[bytes, RewardInput] = {}
        for prefix in prefixes:
            texts = reward_steps(prefix)
            ends = range(1, len(texts) + 1) if self.aggregation != "last" else [len(texts)]
            inputs = [reward_input(self.layout, question, texts[:end], frame) for end in ends]
            rows.append([_key(each) for each in inputs])
            wanted |= zip(rows[-1], inputs, strict=True)
        missing = {key: each for key, each in wanted.items() if key not in self._known}
        found = {key: self._known[key] for key in wanted if key in self._known}
        if missing:
            values = await self._backend.probabilities([*missing.values()])
            found |= {
                key: value
                for key, value in zip(missing, values, strict=True)
                if value is not None and isfinite(value)
            }
        self._remember(found)
        known = [[found.get(key) for key in row] for row in rows]
        return [None if None in row else [p for p in row if p is not None] for row in known]

    @property
    def replicas(self) -> Replicas | None:
        """The servers that run the model; None in this process."""
        return getattr(self._backend, "replicas", None)

    async def aclose(self) -> None:
        """Frees the model or closes the connections."""
        self._known.clear()
        await self._backend.aclose()

    def _frame(self, question: Question) -> ChatFrameText:
        template = self._backend.prompting.template
        if template is None or "{chat}" not in self.layout.before:
            return ChatFrameText(self._backend.bos)
        frame = template.frame(())
        return ChatFrameText(
            self._backend.bos, frame.prompt(question.text.strip()), frame.end_of_turn
        )

    def _remember(self, found: dict[bytes, float]) -> None:
        """Keep scores; the ones that were not used for the longest time are dropped."""
        for key, value in found.items():
            self._known[key] = value
            self._known.move_to_end(key)
        while len(self._known) > CACHED_SCORES:
            self._known.popitem(last=False)


def _key(one: RewardInput) -> bytes:
    ends = ",".join(str(len(piece)) for piece in one.pieces)
    text = f"{ends}\n{one.text}"
    return blake2b(text.encode("utf-8", "replace"), digest_size=16).digest()


class PairScorer:
    """A reranker on vLLM's route `/score`: it scores (question, solution) with its own template.

    The value of a prefix is 2 p - 1 for a score p in [0, 1].
    """

    reads_prose = True

    def __init__(self, client: OpenAIClient) -> None:
        self._client = client

    async def score(self, question: Question, prefixes: Sequence[Sequence[Step]]) -> list[float]:
        """See `protocols.Scorer`. Raises `ModelError`."""
        if not prefixes:
            return []
        texts = ["\n\n".join(reward_steps(prefix)) for prefix in prefixes]
        body = {
            "model": self._client.name,
            "text_1": question.text,
            "text_2": texts,
        }
        total = sum(len(text) // 3 for text in texts)
        reply = await self._client.post("/score", body, outside_v1=True, tokens=total)
        fields = reply if isinstance(reply, dict) else {}
        try:
            entries = sorted(fields["data"], key=lambda entry: int(entry["index"]))
            scores = [float(entry["score"]) for entry in entries]
            read = int((fields.get("usage") or {}).get("prompt_tokens") or 0)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ModelRejectedError(
                f"{self._client.url} answered /score without scores; serve a reranker with vLLM's "
                "--runner pooling."
            ) from error
        if len(scores) != len(prefixes) or not all(0.0 <= score <= 1.0 for score in scores):
            raise ModelRejectedError(
                f"{self._client.url} returned scores outside [0, 1] or too few; serve a model with "
                "one output."
            )
        add_cost(Cost(calls=1, scorer_tokens=max(0, read)))
        return [2.0 * score - 1.0 for score in scores]

    @property
    def replicas(self) -> Replicas:
        """The servers that run the model."""
        return self._client.replicas

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._client.aclose()


async def load_prm(config: Config) -> OpenScorer:
    """Return the process reward model that `search.prm` names; the caller must close it.

    It is a checkpoint folder or hub repository (in this process), vllm:FOLDER (a server that is
    started for it), or the address of a server. Raises `ConfigError`, `InputError`,
    `MissingDependencyError` or `ModelError`.
    """
    search = config.search
    place = search.prm
    if place is None:
        raise ConfigError(
            "search.scorer=prm needs a process reward model; give its folder, hf:ORG/NAME or "
            "address: --set search.prm=PLACE."
        )
    if place.startswith(("http://", "https://", VLLM)):
        return await _connect(place, config)
    if search.prm_head is not None:
        raise ConfigError(
            "search.prm_head is only for a server, since a folder has its own head; leave it out."
        )
    layout = await asyncio.to_thread(_format_of_place, place, search.prm_format)
    deterministic = config.model.url.startswith(HF)
    backend = await load_local(place, layout, deterministic=deterministic)
    return PrmScorer(backend, layout, search.prm_aggregation)


def _format_of_place(place: str, chosen: str) -> PrmFormat:
    """Return the format of a checkpoint. Raises `ConfigError` if it is not recognised."""
    if chosen != AUTO:
        return prm_format(chosen)
    from rstar_math.models.loading import resolve_checkpoint

    source, _ = resolve_checkpoint(place)
    return _recognize(source, place)


def _recognize(place: str, name: str) -> PrmFormat:
    folder = Path(place).expanduser()
    architectures, recorded = architecture_facts(read_model_config(folder))
    found = recognize_format(architectures, f"{name} {folder.name} {recorded}")
    if found is None:
        raise ConfigError(
            f"The format of the reward model {name} is not known "
            f"({', '.join(architectures) or 'no architecture'}); set search.prm_format."
        )
    return found


async def _connect(url: str, config: Config) -> OpenScorer:
    """Return a process reward model on a server."""
    search, model = config.search, config.model
    key, on_close = os.environ.get(model.api_key_env), None
    folder = search.prm_head
    layout = None if search.prm_format == AUTO else prm_format(search.prm_format)
    if url.startswith(VLLM):
        from rstar_math.llm.vllm_servers import reward_server

        folder = folder or url.removeprefix(VLLM)
        layout = layout or _recognize(folder, folder)
        lease = await reward_server(url, config.servers, pooling=layout.reading != "tokens")
        url, key, on_close = ",".join(lease.urls), lease.key, lease.release
    client = scoring_client(url, key, model, on_close)
    try:
        await client.check_server()
        layout = layout or _recognize(folder or client.name, client.name)
        if layout.reading == "pair":
            return PairScorer(client)
        backend = await _open_route(client, layout, search.prm_route, search.prm_head, folder)
        return PrmScorer(backend, layout, search.prm_aggregation)
    except ModelError as error:
        await client.aclose()
        raise type(error)(str(error).replace("--model", "search.prm")) from error
    except BaseException:
        await client.aclose()
        raise


async def _open_route(
    client: OpenAIClient, layout: PrmFormat, route: str, head: str | None, folder: str | None
) -> ServedRewards:
    """Return a checked backend on the configured or the default route."""
    weights = None
    if head is not None:
        weights = await asyncio.to_thread(StepHead.load, Path(head))
    if route == AUTO:
        route = "/embeddings" if weights is not None else layout.route
    if (route == "/embeddings") != (weights is not None):
        raise ConfigError(
            f"Hidden states need a head and a head needs hidden states: the format {layout.name} "
            f"uses the route {route}; set search.prm_head to the folder of the model for "
            "/embeddings, and leave it out for other routes."
        )
    prompting = prompting_of_folder(folder or "")
    bos = "" if prompting.template is None else prompting.template.bos_token
    backend = ServedRewards(client, layout, route=route, head=weights, prompting=prompting, bos=bos)
    await backend.check()
    return backend
