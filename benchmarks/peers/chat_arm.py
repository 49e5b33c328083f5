"""Any OpenAI-compatible server asked in a chat: a plain model (chain of thought, or a majority over
several), or a gateway such as optillm or `rstar serve`.

    python chat_arm.py PROBLEMS URL MODEL SAMPLES MAX_TOKENS TEMPERATURE SYSTEM

Prints one JSON object per problem: the problem's id and the texts of the responses.
"""

import asyncio
import json
import sys
from pathlib import Path

import aiohttp

CONCURRENT = 8


def read_rows(path: str) -> list[dict[str, str]]:
    """The problems of a JSONL file."""
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


async def main() -> None:
    """Answer every problem."""
    path, url, model, samples, max_tokens, temperature, system = sys.argv[1:]
    rows = read_rows(path)
    limit = asyncio.Semaphore(CONCURRENT)
    timeout = aiohttp.ClientTimeout(total=3600)
    async with aiohttp.ClientSession(timeout=timeout) as session:

        async def answer(row: dict[str, str]) -> None:
            messages = [{"role": "system", "content": system}] if system else []
            messages.append({"role": "user", "content": row["problem"]})
            body = {
                "model": model,
                "messages": messages,
                "n": int(samples),
                "max_tokens": int(max_tokens),
                "temperature": float(temperature),
            }
            if body["n"] == 1:
                del body["n"]  # gateways refuse it
            async with limit, session.post(f"{url}/chat/completions", json=body) as response:
                reply = await response.json()
            choices = reply.get("choices") or []
            texts = [(choice["message"].get("content") or "") for choice in choices]
            print(json.dumps({"id": row["id"], "texts": texts}), flush=True)

        await asyncio.gather(*map(answer, rows))


if __name__ == "__main__":
    asyncio.run(main())
