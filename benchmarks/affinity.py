"""Effect of prefix affinity on cache hits and load balance, with simulated servers.

    python benchmarks/affinity.py [--json] [--servers N] [--trees N] [--blocks N]

Trees send requests with growing prompts, one after another, as searches do. A server decodes with
a limited batch (`rstar_math.testing.Batching`) and caches a limited number of prompt blocks
(`rstar_math.testing.PromptCache`: 16 words per block). Uncached tokens cost prefill time. The clock
is simulated, so the results are the same on every machine. For each rule the benchmark prints the
share of cached prompt tokens, the share of requests sent to another server than the tree's own, the
utilisation of the servers and the simulated seconds.
"""

import argparse
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from typing import Any

from rstar_math.llm import balancing
from rstar_math.llm.balancing import Replica, Replicas
from rstar_math.seeding import derive
from rstar_math.testing import Batching, PromptCache
from rstar_math.testing.fake_server import Slots

EXAMPLES = " ".join(f"example{at}" for at in range(160))
DEPTH, WIDTH, SAMPLES, MOST = 8, 2, 4, 48
"""Layers per tree, requests per layer, samples per request, maximum tokens per sample."""
SLOTS, TOKEN_S, PREFILL_S = 32, 0.02, 0.0005
"""Samples decoded at once, seconds per sampled token, seconds per uncached prompt token."""
IN_FLIGHT = 12
"""Trees in flight per server: 1.5 to 3 times the number that fills its slots."""
RULES = (None, 0.25, 0.5, 1.0, 1e9)
"""Maximum load of a server relative to the mean; None disables affinity."""


@dataclass
class World:
    """The simulated servers, their clock and the pending events."""

    servers: Replicas
    slots: dict[Replica, Slots]
    caches: dict[Replica, PromptCache]
    now: float = 0.0
    requests: int = 0
    events: list[tuple[float, int, Replica, int, Iterator[None]]] = field(default_factory=list)
    left: dict[Iterator[None], int] = field(default_factory=dict)
    numbers: Iterator[int] = field(default_factory=count)

    def ask(self, tree: str, prompt: str, seed: int, asker: Iterator[None]) -> None:
        """Send a request to the server that the rule chooses."""
        tokens = SAMPLES * MOST
        chosen = self.servers.select(tree, tokens)
        chosen.outstanding_tokens += tokens
        self.requests += 1
        missed = len(prompt.split()) - self.caches[chosen].look_up(prompt)
        rng = random.Random(derive(prompt, seed))
        holds = [TOKEN_S * rng.randint(10, MOST) for _ in range(SAMPLES)]
        holds[0] += PREFILL_S * missed
        done = self.slots[chosen].schedule(holds, self.now)
        heappush(self.events, (done, next(self.numbers), chosen, tokens, asker))

    def run(self, trees: Iterator[int], at_once: int) -> None:
        """Grow all trees, a fixed number at a time."""
        for tree in [next(trees) for _ in range(at_once)]:
            self.begin(tree)
        while self.events:
            self.now, _, server, tokens, asker = heappop(self.events)
            server.outstanding_tokens -= tokens
            self.left[asker] -= 1
            if self.left[asker] == 0 and next(asker, False) is False:
                following = next(trees, None)
                if following is not None:
                    self.begin(following)

    def begin(self, tree: int) -> None:
        """Send the requests of the first layer of a tree."""
        holder: list[Iterator[None]] = []
        holder.append(self.grow(tree, holder))
        next(holder[0])

    def grow(self, tree: int, holder: list[Iterator[None]]) -> Iterator[None]:
        """The requests of one tree, one layer per iteration: a long question, then steps."""
        asked = " ".join(f"q{tree}w{at}" for at in range(80))
        for layer in range(DEPTH):
            self.left[holder[0]] = WIDTH
            for part in range(WIDTH):
                self.ask(f"tree {tree}", f"{EXAMPLES} {asked} {layer}.{part}", layer, holder[0])
            yield
            asked += " " + " ".join(f"t{tree}s{layer}w{at}" for at in range(30))


def measure(spread: float | None, servers: int, trees: int, blocks: int) -> dict[str, float]:
    """The results of one rule."""
    urls = [f"http://10.0.0.{at}:8000/v1" for at in range(servers)]
    chooser = Replicas(urls, None, 64, affinity=spread is not None)
    batching = Batching(slots=SLOTS, token_s=TOKEN_S)
    slots = {one: Slots(batching) for one in chooser.all}
    caches = {one: PromptCache(max_blocks=blocks) for one in chooser.all}
    world = World(chooser, slots, caches)
    before = balancing.LOAD_TOLERANCE
    balancing.LOAD_TOLERANCE = before if spread is None else spread
    try:
        world.run(iter(range(trees)), min(trees, IN_FLIGHT * servers))
    finally:
        balancing.LOAD_TOLERANCE = before
    queried = sum(cache.queried_tokens for cache in caches.values())
    return {
        "cache_hit_rate": round(sum(cache.hit_tokens for cache in caches.values()) / queried, 3),
        "rerouted": round(chooser.rerouted / world.requests, 3),
        "utilisation": round(
            sum(one.busy_s for one in slots.values()) / (SLOTS * servers * world.now), 3
        ),
        "seconds": round(world.now, 1),
    }


def main() -> None:
    """Measure all rules and print the results."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--servers", type=int, default=4)
    parser.add_argument("--trees", type=int, default=400)
    parser.add_argument("--blocks", type=int, default=400, help="blocks a server's cache holds")
    given = parser.parse_args()
    found: dict[str, Any] = {}
    for rule in RULES:
        name = "none" if rule is None else f"spread {rule:g}"
        found[name] = measure(rule, given.servers, given.trees, given.blocks)
        if not given.json:
            print(f"{name:>14}", found[name])
    if given.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
