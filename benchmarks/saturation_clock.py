"""The scheduling of `saturation.py` alone, in simulated time: no network, no processor time.

    python benchmarks/saturation_clock.py [--trees 64] [--rollouts 8] [--slots 128] [--in-flight 8]

The event loop's clock jumps to the next timer whenever nothing else is ready, so the result does
not depend on the load of the machine. The policy is a queue of slots with the steps and times of
`saturation_world`. The scorer is a process reward model on a server that handles 32 requests at
once and takes a fixed time for each. One line per scorer time: wall time over ideal.
"""

import argparse
import asyncio
import selectors
from collections.abc import Coroutine, Sequence
from typing import Any

from saturation_world import MOST_TOKENS, TimedExecutor, Times, answer

from rstar_math.config import PolicyConfig, SearchConfig
from rstar_math.policies.completions import StepPolicy
from rstar_math.protocols import Completion
from rstar_math.search import Tree, grow
from rstar_math.seeding import derive
from rstar_math.types import Question, Step


class JumpingSelector(selectors.DefaultSelector):  # type: ignore[misc,valid-type]
    """Never waits: a wait of some seconds moves the clock forward instead."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        """Ready files, without waiting."""
        if timeout is not None and timeout > 0:
            self.now_s += timeout
        found: list[Any] = super().select(0)
        return found


class JumpingLoop(asyncio.SelectorEventLoop):
    """An event loop with the clock of a `JumpingSelector`."""

    def __init__(self) -> None:
        self._clock = JumpingSelector()
        super().__init__(self._clock)

    def time(self) -> float:
        """Simulated seconds."""
        return self._clock.now_s


class Slots:
    """A Completer with continuous batching: a sample holds one of the slots while it is decoded."""

    def __init__(self, times: Times, slots: int) -> None:
        self._times, self._free = times, asyncio.Semaphore(slots)
        self.used_s = 0.0

    async def complete(
        self, prompt: str, *, n: int, seed: int, **options: object
    ) -> list[Completion]:
        """See `protocols.Completer`."""
        texts = answer({"prompt": prompt, "n": n, "seed": seed})

        async def decode(text: str) -> Completion:
            tokens = len(text.split())
            seconds = self._times.prefill_s + tokens * self._times.token_s
            async with self._free:
                await asyncio.sleep(seconds)
            self.used_s += seconds
            return Completion(text.removesuffix("/>"), True, "/>", tokens)

        return list(await asyncio.gather(*map(decode, texts)))


class ServedScorer:
    """A Scorer on a server that handles `slots` requests at once."""

    def __init__(self, seconds: float, slots: int) -> None:
        self._seconds, self._free = seconds, asyncio.Semaphore(slots)

    async def score(self, question: Question, prefixes: Sequence[Sequence[Step]]) -> list[float]:
        """See `protocols.Scorer`."""
        async with self._free:
            await asyncio.sleep(self._seconds)
        return [derive(1, question.id, prefix[-1].text) / 2**30 - 1.0 for prefix in prefixes]


async def over_ideal(trees: int, slots: int, search: SearchConfig, times: Times) -> float:
    """Wall time over ideal of a search of all trees."""
    model = Slots(times, slots)
    policy = StepPolicy(
        model,  # type: ignore[arg-type]
        PolicyConfig(prompt="trained", max_step_tokens=MOST_TOKENS),
    )
    scorer = ServedScorer(times.prm_s, times.prm_slots)
    executor = TimedExecutor(times, 0.0)
    clock = asyncio.get_running_loop()
    start = clock.time()
    questions = [Question(f"t{i}", f"What is task {i}?") for i in range(trees)]
    await asyncio.gather(
        *(
            grow(Tree(each), policy=policy, executor=executor, scorer=scorer, config=search)
            for each in questions
        )
    )
    return (clock.time() - start) / (model.used_s / slots)


def simulate(work: Coroutine[Any, Any, float]) -> float:
    """Run a coroutine in simulated time."""
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        return runner.run(work)


def main() -> None:
    """Print wall time over ideal for several times of the scorer."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trees", type=int, default=64)
    parser.add_argument("--rollouts", type=int, default=8)
    parser.add_argument("--slots", type=int, default=128)
    parser.add_argument("--in-flight", type=int, default=8)
    options = parser.parse_args()
    search = SearchConfig(
        rollouts=options.rollouts, candidates=8, max_depth=8, parallel_rollouts=options.in_flight
    )
    for seconds in (0.02, 0.15, 0.3, 0.6):
        times = Times(1.0, prm_s=seconds)
        found = simulate(over_ideal(options.trees, options.slots, search, times))
        print(f"scorer {1000 * seconds:4.0f} ms: wall over ideal {found:.3f}", flush=True)


if __name__ == "__main__":
    main()
