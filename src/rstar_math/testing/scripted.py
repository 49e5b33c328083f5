"""A Completer and a Policy that answer from a function."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rstar_math.costs import add_cost
from rstar_math.prompts.grammar import TAGS
from rstar_math.protocols import Completion
from rstar_math.types import Cost, Question, Step

CompletionFunction = Callable[[str, int, int], Sequence[str]]
"""(prompt, n, seed) -> up to n texts. A text ends before its first stop string."""


@dataclass(frozen=True, slots=True)
class Request:
    """The arguments of one call of `Completer.complete`."""

    prompt: str
    n: int
    stop: tuple[str, ...]
    max_tokens: int
    temperature: float
    seed: int


class ScriptedCompleter:
    """A Completer whose texts come from a function. Errors of the function are passed on.

    Every word counts as one token. A sample of more than `max_tokens` words is truncated.
    """

    def __init__(self, answer: CompletionFunction) -> None:
        self._answer = answer
        self.requests: list[Request] = []
        """All requests so far, in order of arrival."""

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
        """See `protocols.Completer`."""
        self.requests.append(Request(prompt, n, tuple(stop), max_tokens, temperature, seed))
        texts = list(self._answer(prompt, n, seed))[:n]
        completions = [_truncate(text, stop, max_tokens) for text in texts]
        add_cost(
            Cost(
                calls=1,
                samples=len(completions),
                prompt_tokens=len(prompt.split()),
                sampled_tokens=sum(completion.tokens or 0 for completion in completions),
            )
        )
        return completions


def _truncate(text: str, stop: Sequence[str], max_tokens: int) -> Completion:
    """The text up to its first stop string, or up to `max_tokens` words."""
    stops = [(at, mark) for mark in stop if (at := text.find(mark)) >= 0]
    end, mark = min(stops) if stops else (len(text), None)
    completed = text[:end]
    words = completed.split()
    if len(words) > max_tokens:
        return Completion(" ".join(words[:max_tokens]), finished=False, tokens=max_tokens)
    return Completion(completed, finished=True, stop=mark, tokens=len(words))


Script = Callable[[Question, Sequence[Step], int, int], Sequence[str]]
"""(question, prefix, k, seed) -> sampled texts, each with its end mark (`<step/>`, `<code/>`, ...).
"""


class ScriptedPolicy:
    """A Policy whose samples come from a function.

    `propose` charges one call and one token per word.
    """

    def __init__(self, script: Script) -> None:
        self._script = script

    async def propose(
        self, question: Question, prefix: Sequence[Step], k: int, *, seed: int
    ) -> list[Step]:
        """See `protocols.Policy`."""
        texts = list(self._script(question, prefix, k, seed))[:k]
        words = sum(len(text.split()) for text in texts)
        samples = (
            TAGS.parse_step(prefix, text.removesuffix("/>"), finished=True) for text in texts
        )
        steps = [sample.step for sample in samples if sample.step is not None]
        add_cost(
            Cost(
                calls=1,
                samples=len(texts),
                sampled_tokens=words,
                malformed=len(texts) - len(steps),
            )
        )
        return steps
