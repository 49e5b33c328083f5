"""Reproducibility of the embedded model: one request with one seed in four situations.

    python benchmarks/same_seed.py [--json]

The situations: twice alone with an empty cache; with its prompt in the cache; with only the
beginning of its prompt in the cache, after another question; and beside three other requests. For
each the benchmark prints how many of the 24 sampled tokens equal the first answer, and the largest
difference of log-probabilities up to the first different token. Takes 1 to 2 minutes of one core.
"""

import argparse
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

from rstar_math.llm.local import EngineSettings, start_llama_cpp
from rstar_math.models.embedded import weights_file
from rstar_math.prompts.templates import few_shot_prompt
from rstar_math.types import Question

TOKENS = 24
ASKED = "A shop sells 25 apples and then 17 more. How many apples does it sell in all?"
OTHER = "Ben has 23 cards and gets 18 more. How many cards does he have now?"


class Engine:
    """The embedded model with a number of streams."""

    def __init__(self, streams: int) -> None:
        self._server, key = start_llama_cpp(weights_file("local"), EngineSettings(streams, 2048))
        self._http = httpx.Client(
            base_url=self._server.listening_address,
            headers={"Authorization": f"Bearer {key}"},
            timeout=900,
        )

    def ask(self, question: str, *, cached: bool, seed: int = 7) -> list[dict[str, Any]]:
        """The sampled tokens with their log-probabilities."""
        body = {"prompt": few_shot_prompt(Question("q", question)), "n_predict": TOKENS}
        body |= {"temperature": 0.7, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "seed": seed}
        body |= {"cache_prompt": cached, "n_probs": 1, "ignore_eos": True}
        found: list[dict[str, Any]] = self._http.post("/completion", json=body).json()[
            "completion_probabilities"
        ]
        return found


def alike(first: list[dict[str, Any]], again: list[dict[str, Any]]) -> dict[str, float]:
    """Number of equal tokens at the start of two answers, and the largest difference of their
    log-probabilities.
    """
    pairs = list(zip(first, again, strict=True))
    same = next((at for at, (a, b) in enumerate(pairs) if a["id"] != b["id"]), len(pairs))
    apart = [abs(a["logprob"] - b["logprob"]) for a, b in pairs[: max(same, 1)]]
    return {"same_tokens": same, "largest_difference": max(apart)}


def measure() -> dict[str, dict[str, float]]:
    """The results of each situation."""
    one, four = Engine(1), Engine(4)
    first = one.ask(ASKED, cached=False)
    found = {"alone_twice": alike(first, one.ask(ASKED, cached=False))}
    found["whole_prompt_cached"] = alike(first, one.ask(ASKED, cached=True))
    one.ask(OTHER, cached=True)
    found["beginning_cached"] = alike(first, one.ask(ASKED, cached=True))
    with ThreadPoolExecutor(4) as pool:
        others = [pool.submit(four.ask, OTHER, cached=False, seed=seed) for seed in range(3)]
        found["beside_three_others"] = alike(first, four.ask(ASKED, cached=False))
        for other in others:
            other.result()
    return found


def main() -> None:
    """Print the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    given = parser.parse_args()
    figures = measure()
    if given.json:
        print(json.dumps(figures))
        return
    for name, row in figures.items():
        print(f"{name:20} {row['same_tokens']:>2} of {TOKENS}, {row['largest_difference']:.2g}")


if __name__ == "__main__":
    main()
