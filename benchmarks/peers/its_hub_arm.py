"""Self-consistency and best-of-N (LLM judge) of its_hub. Runs with its_hub's own interpreter.

    python its_hub_arm.py PROBLEMS URL MODEL METHOD SAMPLES MAX_TOKENS SYSTEM

Prints one JSON object per problem: the problem's id and the text of the chosen response.
"""

import asyncio
import json
import re
import sys
from pathlib import Path

from its_hub.core.algorithms.adaptive_self_consistency import AdaptiveSelfConsistency
from its_hub.core.algorithms.beta_self_consistency import BetaSelfConsistency
from its_hub.core.algorithms.self_consistency import SelfConsistency
from its_hub.core.lms.openai_lm import OpenAICompatibleLanguageModel

CONCURRENT = 8


def boxed(text: str) -> str:
    """The last boxed answer, as in its_hub's own examples; votes are counted by it."""
    found = re.findall(r"\\boxed\{([^{}]*)\}", text)
    return found[-1].replace(",", "").strip() if found else ""


METHODS = {
    "sc": SelfConsistency,
    "adaptive-sc": AdaptiveSelfConsistency,
    "beta-sc": BetaSelfConsistency,
}


def read_rows(path: str) -> list[dict[str, str]]:
    """The problems of a JSONL file."""
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


async def main() -> None:
    """Answer every problem."""
    path, url, model, method, samples, max_tokens, system = sys.argv[1:]
    rows = read_rows(path)
    lm = OpenAICompatibleLanguageModel(
        endpoint=url,
        api_key="none",
        model_name=model,
        system_prompt=system,
        max_tokens=int(max_tokens),
        temperature=0.7,
    )
    algorithm = METHODS[method](consistency_space_projection_func=boxed)
    limit = asyncio.Semaphore(CONCURRENT)

    async def answer(row: dict[str, str]) -> None:
        async with limit:
            reply = await algorithm.ainfer(lm, row["problem"], int(samples))
        print(json.dumps({"id": row["id"], "text": reply.get("content") or ""}), flush=True)

    await asyncio.gather(*map(answer, rows))


if __name__ == "__main__":
    asyncio.run(main())
