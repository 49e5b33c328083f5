"""A checkpoint of Hugging Face transformers as a Completer in this process, without a server.

Each request is run by itself, its samples together: what it gives depends on the request alone,
never on what else is asked at the time. That makes it the engine of choice for small models and
for runs that must repeat to the byte; a server is faster for all else.
"""

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rstar_math.errors import ContextExceeded
from rstar_math.meter import charge
from rstar_math.models.dialects import split_reasoning
from rstar_math.models.prompting import prompting_of_tokenizer
from rstar_math.protocols import Completion
from rstar_math.types import Cost


class TransformersModel:
    """A causal model and its tokenizer. `limit` is the most tokens of prompt and answer together;
    by default what the model was made for."""

    def __init__(self, name: str, model: Any, tokenizer: Any, *, limit: int | None = None) -> None:
        self.name = name
        self._model, self._tokenizer = model.eval(), tokenizer
        most = int(model.config.get_text_config().max_position_embeddings)
        self._limit = most if limit is None else min(limit, most)
        self._lock = threading.Lock()
        self.prompting = prompting_of_tokenizer(tokenizer, name)

    @classmethod
    def load(cls, base: str, *, limit: int | None = None) -> "TransformersModel":
        """The model of a checkpoint folder, or a name that transformers knows; on a GPU in
        bfloat16, else in float32. Raises `InputError` and `MissingExtra`."""
        from rstar_math.models.loading import load_policy

        model, tokenizer = load_policy(base)
        import torch

        if torch.cuda.is_available():
            model = model.to("cuda", torch.bfloat16)
        return cls(base, model, tokenizer, limit=limit)

    async def complete(
        self,
        prompt: str,
        *,
        n: int,
        stop: Sequence[str],
        max_tokens: int,
        temperature: float,
        seed: int,
    ) -> list[Completion]:
        """See `protocols.Completer`. The same request gives the same texts. Raises
        `ContextExceeded` where the prompt leaves no room for an answer."""
        tokens = list(self._tokenizer(prompt).input_ids)
        if len(tokens) >= self._limit:
            raise ContextExceeded(
                f"The prompt has {len(tokens)} tokens and {self.name} reads {self._limit} with its "
                "answer; shorten the question, or allow fewer steps."
            )
        room = min(max_tokens, self._limit - len(tokens))
        heat = (temperature, seed)
        samples = await asyncio.to_thread(self._sample, tokens, n, tuple(stop), room, heat)
        sampled = sum(len(sample.tokens) for sample in samples)
        charge(Cost(calls=1, samples=n, prompt_tokens=len(tokens), sampled_tokens=sampled))
        return [sample.completion() for sample in samples]

    async def aclose(self) -> None:
        """Free the weights."""
        del self._model

    def _sample(
        self,
        prompt: list[int],
        n: int,
        stops: tuple[str, ...],
        room: int,
        heat: tuple[float, int],
    ) -> "list[_Sample]":
        """Continuations of a prompt; `heat` is temperature and seed."""
        import torch

        samples = [_Sample() for _ in range(n)]
        with self._lock, torch.inference_mode():
            device = self._model.device
            generator = torch.Generator().manual_seed(heat[1])
            output = self._model(torch.tensor([prompt], device=device), use_cache=True)
            cache = output.cache
            cache.batch_repeat_interleave(n)
            logits = output.logits[:, -1].expand(n, -1)
            for _ in range(room):
                chosen = _drawn(logits.float().cpu(), heat[0], generator)
                for sample, token in zip(samples, chosen.tolist(), strict=True):
                    self._take(sample, token, stops)
                if all(sample.finished for sample in samples):
                    break
                fed = chosen.to(device).unsqueeze(1)
                output = self._model(fed, cache=cache, use_cache=True)
                logits = output.logits[:, -1]
        return samples

    def _take(self, sample: "_Sample", token: int, stops: tuple[str, ...]) -> None:
        """One more token of a sample; a finished one is left as it is."""
        if sample.finished:
            return
        sample.tokens.append(token)
        if token == self._tokenizer.eos_token_id:
            sample.finished = True
            return
        text = self._tokenizer.decode(sample.tokens, clean_up_tokenization_spaces=False)
        ends = [(text.index(stop), stop) for stop in stops if stop in text]
        if ends:
            at, sample.stop = min(ends)
            sample.text, sample.finished = text[:at], True
        else:
            sample.text = text


@dataclass(slots=True)
class _Sample:
    """A text under way."""

    tokens: list[int] = field(default_factory=list)
    text: str = ""
    finished: bool = False
    stop: str | None = None

    def completion(self) -> Completion:
        """The finished text, its thoughts apart."""
        thoughts, text, whole = split_reasoning(self.text)
        ended = self.finished and whole
        return Completion(text, ended, self.stop, len(self.tokens), reasoning=thoughts)


def _drawn(logits: Any, temperature: float, generator: Any) -> Any:
    """A token for each row, (N,); at temperature 0 the likeliest."""
    import torch

    if temperature == 0:
        return logits.argmax(dim=-1)
    chances = torch.softmax(logits / temperature, dim=-1)
    return torch.multinomial(chances, 1, generator=generator).squeeze(1)
