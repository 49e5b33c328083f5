"""Speed of llama.cpp in this process and of vLLM on the cores of this machine.

    RSTAR_VLLM='/path/to/vllm serve' OMP_WAIT_POLICY=passive python benchmarks/cpu_engines.py
        [--json] [--problems 24] [--sides local,vllm_float32,...]

The embedded model with its trained adapter solves generated stories. All sides solve the same
stories, one side after the other. The start of a server is not timed. Sides:

    local           self-consistency with 8 chains, llama.cpp at Q8_0
    vllm_float32    the same on vLLM for CPUs, blocks of 32 tokens
    vllm_bfloat16   the same in bfloat16
    vllm_blocks     the same in float32 with vLLM's default blocks (128 tokens on a CPU)
    ppm_llama       MCTS with 500 tokens on vLLM, the preference model in llama.cpp
    ppm_torch       the same, the preference model in torch

Results of each side: sampled tokens_a_second, seconds, cached_share of the prompt tokens, and
scorer_tokens for the last two. Ratios: each engine over llama.cpp, and ppm_torch over ppm_llama.
"""

import argparse
import asyncio
import json
import time

from rstar_math.config import Config, load_config
from rstar_math.problems.sources import read_sources
from rstar_math.search.strategies import Strategy, parse_strategies
from rstar_math.solver.solver import Solver
from rstar_math.types import Cost, Problem

_MACHINE = [
    "--enforce-eager",
    "--max-model-len",
    "1024",
    "--no-enable-chunked-prefill",
    "--max-num-batched-tokens",
    "8192",
]
_CHAINS = ("sc@8", ())
_TREES = ("mcts", ("search.scorer=ppm", "search.token_budget=500", "search.candidates=4"))


def _served(dtype: str, block: int | None = 32) -> list[str]:
    """Configuration of one kind of server."""
    machine = _MACHINE + ([] if block is None else ["--block-size", str(block)])
    return [
        "model.url=vllm:trained",
        "model.concurrency=64",
        f"servers.args={json.dumps(['--dtype', dtype])}",
        f"servers.hardware_args={json.dumps(machine)}",
    ]


SIDES: dict[str, tuple[tuple[str, tuple[str, ...]], list[str]]] = {
    "local": (_CHAINS, []),
    "vllm_float32": (_CHAINS, _served("float32")),
    "vllm_bfloat16": (_CHAINS, _served("bfloat16")),
    "vllm_blocks": (_CHAINS, _served("float32", None)),
    "ppm_llama": (_TREES, [*_served("float32"), "search.ppm=trained"]),
    "ppm_torch": (_TREES, [*_served("float32"), "search.ppm=hf:trained"]),
}


async def measure(config: Config, strategy: Strategy, asked: list[Problem]) -> dict[str, float]:
    """The results of one side."""
    async with Solver(config) as solver:
        started = time.monotonic()
        total = Cost.total([found.tree.cost async for _, found in solver.map(asked, strategy)])
        seconds = time.monotonic() - started
    found = {
        "tokens_a_second": total.sampled_tokens / seconds,
        "seconds": seconds,
        "cached_share": total.cached_tokens / max(1, total.prompt_tokens),
    }
    return found | ({"scorer_tokens": total.scorer_tokens} if total.scorer_tokens else {})


def main() -> None:
    """Measure and print the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--problems", type=int, default=24)
    parser.add_argument("--sides", default=",".join(SIDES))
    args = parser.parse_args()
    asked = read_sources([f"stories:words?size={args.problems}"])
    figures: dict[str, float] = {}
    for side in args.sides.split(","):
        (strategy, more), served = SIDES[side]
        config = load_config("trained", ["policy.temperature=0.8", *more, *served])
        found = asyncio.run(measure(config, parse_strategies(strategy)[0], asked))
        figures |= {f"{side}_{name}": value for name, value in found.items()}
        print(side, "  ".join(f"{name} {value:.4g}" for name, value in found.items()), flush=True)
    for side in SIDES:
        first = "ppm_llama" if side == "ppm_torch" else "local"
        pair = [figures.get(f"{name}_tokens_a_second") for name in (side, first)]
        if side not in ("local", "ppm_llama") and all(pair):
            figures[f"{side}_over_{first}"] = float(pair[0] or 0) / float(pair[1] or 1)
    if args.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
