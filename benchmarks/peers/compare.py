"""rstar-math beside other packages on one model server, the same problems and equal tokens.

    python benchmarks/peers/compare.py PROBLEMS --model http://localhost:8000/v1 [--limit 100]
        [--tokens 1000] [--its-hub PYTHON] [--optillm COMMAND] [--arms NAMES] [--json]

PROBLEMS is a JSONL file with `id`, `problem` and `answer`. Each package talks to the model through
a proxy that counts tokens as the server reports them. All answers are read and graded by the same
reader. Packages that take a number of samples get `--tokens` divided by the mean tokens of a plain
chain of thought, which is measured first. The other arms run at their default size; read their
tokens beside their accuracy.

    plain               one chain of thought at temperature 0, and a majority over several
    its_hub             self-consistency, plain and with the Beta stopping rule
    optillm             self_consistency, bon, mcts and rstar, through its gateway
    rstar-math          greedy, sc and mcts over programs, and rstar, each at the token budget

The packages have environments of their own: `--its-hub` is the interpreter of one with
its_hub[lm], `--optillm` is the command optillm. An arm whose package is not given is left out and
named. The last line with --json is one object with one entry per arm: right, problems, the 95 %
interval, sampled and prompt tokens per problem, requests per problem, seconds.
"""

import argparse
import asyncio
import json
import os
import socket
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
from counting_proxy import Counts, counting_proxy, run_process

from rstar_math.evaluation.metrics import wilson
from rstar_math.extraction import extract_answer
from rstar_math.grading import Grader
from rstar_math.types import Verdict

FOLDER = Path(__file__).parent
SYSTEM = "Please reason step by step, and put your final answer within \\boxed{}."
"""The system message of all packages that take one; Qwen's own for mathematics."""
MAX_TOKENS = 512
OPTILLM = ("self_consistency", "bon", "mcts", "rstar")
ITS_HUB = ("sc", "beta-sc")
RSTAR = ("greedy", "sc@8", "mcts", "rstar")


class Comparison:
    """One comparison: a model server, problems, a budget."""

    def __init__(self, rows: list[dict[str, str]], url: str, name: str, tokens: int) -> None:
        self.rows, self.url, self.name, self.tokens = rows, url, name, tokens
        self.samples = 8
        self.results: dict[str, dict[str, Any]] = {}
        self.folder = Path(tempfile.mkdtemp())
        self.problems = self.folder / "problems.jsonl"
        self.problems.write_text("".join(json.dumps(row) + "\n" for row in rows))

    async def chat(self, arm: str, samples: int, temperature: float) -> None:
        """The plain model in a chat."""
        async with counting_proxy(self.url) as proxy:
            output = await self._ask(proxy.url, self.name, samples, temperature)
            await self._record(arm, output, proxy.counts)

    async def its_hub(self, python: str, method: str) -> None:
        """A method of its_hub."""
        async with counting_proxy(self.url) as proxy:
            arguments = [str(self.problems), proxy.url, self.name, method, str(self.samples)]
            command = [python, str(FOLDER / "its_hub_arm.py"), *arguments, str(MAX_TOKENS), SYSTEM]
            await self._record(f"its_hub {method}", await run_process(command), proxy.counts)

    async def optillm(self, command: str, approach: str) -> None:
        """An approach of optillm, asked through its gateway as its users do."""
        async with counting_proxy(self.url) as proxy, gateway(command, proxy.url) as url:
            output = await self._ask(url, f"{approach}-{self.name}", 1, 0.7)
            await self._record(f"optillm {approach}", output, proxy.counts)

    async def rstar(self, strategy: str) -> None:
        """A strategy of this package at the token budget."""
        run = self.folder / f"{strategy.replace('@', '')}.rstar"
        command = [sys.executable, "-m", "rstar_math.cli", "eval", str(self.problems)]
        async with counting_proxy(self.url) as proxy:
            command += ["--model", proxy.url, "--strategy", strategy, "--run", str(run), "--json"]
            if strategy != "greedy":
                command += ["--budget", f"tokens={self.tokens}"]
            await run_process(command)
            counts = proxy.counts
        lines = await run_process(
            [sys.executable, "-c", _ANSWERS, str(run)]  # the chosen answers
        )
        await self._record(f"rstar-math {strategy}", lines, counts)

    async def _ask(self, url: str, name: str, samples: int, temperature: float) -> str:
        settings = [str(samples), str(MAX_TOKENS), str(temperature), SYSTEM]
        script = str(FOLDER / "chat_arm.py")
        return await run_process([sys.executable, script, str(self.problems), url, name, *settings])

    async def _record(self, arm: str, output: str, counts: Counts) -> None:
        """Grade the answers of an arm and print its line."""
        seconds = time.monotonic() - counts.started
        replies = {row["id"]: row for row in map(json.loads, output.splitlines())}
        right = 0
        async with Grader() as grader:
            for row in self.rows:
                reply = replies.get(row["id"], {})
                texts = reply.get("texts") or [reply.get("text") or ""]
                answers = [a for a in map(extract_answer, texts) if a is not None]
                if "answer" in reply:
                    answers = [reply["answer"]] if reply["answer"] is not None else []
                if not answers:
                    continue
                groups = await grader.group(answers)
                best = max(groups, key=lambda group: (groups.count(group), -group))
                grade = await grader.compare(answers[groups.index(best)], row["answer"])
                right += grade.verdict is Verdict.RIGHT
        n = len(self.rows)
        low, high = wilson(right, n)
        self.results[arm] = {
            "right": right,
            "problems": n,
            "interval_95": [round(low, 4), round(high, 4)],
            "sampled_tokens": round(counts.sampled_tokens / n, 1),
            "prompt_tokens": round(counts.prompt_tokens / n, 1),
            "requests": round(counts.requests / n, 2),
            "refused": counts.refused,
            "seconds": round(seconds, 1),
        }
        print(
            f"{arm:26} {right:4}/{n} {100 * low:5.1f}-{100 * high:5.1f} % "
            f"{counts.sampled_tokens / n:8.0f} {counts.prompt_tokens / n:8.0f} {seconds:8.0f} s",
            flush=True,
        )


_ANSWERS = """
import json, sys
from rstar_math import read_run
for row in read_run(sys.argv[1]):
    print(json.dumps({"id": row.problem, "answer": row.answer}))
"""


@asynccontextmanager
async def gateway(command: str, model_url: str):
    """Run optillm's gateway in front of a model server; yields its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"OPENAI_API_KEY": "none", "OPTILLM_API_KEY": ""}
    process = await asyncio.create_subprocess_exec(
        *(command, "--base-url", model_url, "--port", str(port), "--host", "127.0.0.1"),
        env=environment,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        await _wait_for(port)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        await process.wait()


async def _wait_for(port: int) -> None:
    for _ in range(240):
        with suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            return
        await asyncio.sleep(0.5)
    raise RuntimeError("optillm did not open its port within 120 s.")


async def model_name(url: str) -> str:
    """The first model that the server lists."""
    async with aiohttp.ClientSession() as session, session.get(f"{url}/models") as reply:
        return (await reply.json())["data"][0]["id"]


async def compare(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Run every wanted arm."""
    rows = [json.loads(line) for line in options.problems.read_text().splitlines()]
    rows = [
        {"id": str(i), "problem": r["problem"], "answer": r["answer"]} for i, r in enumerate(rows)
    ]
    work = Comparison(
        rows[: options.limit], options.model, await model_name(options.model), options.tokens
    )
    print(f"{'arm':26} {'right':>8} {'95 %':>13} {'sampled':>8} {'prompt':>8} {'time':>10}")
    wanted = (
        set(options.arms.split(",")) if options.arms else {"plain", "its_hub", "optillm", "rstar"}
    )
    await work.chat("plain greedy", 1, 0.0)
    work.samples = max(2, round(options.tokens / work.results["plain greedy"]["sampled_tokens"]))
    if "plain" in wanted:
        await work.chat(f"plain majority of {work.samples}", work.samples, 0.7)
    for method in ITS_HUB if options.its_hub and "its_hub" in wanted else ():
        await work.its_hub(options.its_hub, method)
    for approach in OPTILLM if options.optillm and "optillm" in wanted else ():
        await work.optillm(options.optillm, approach)
    for strategy in RSTAR if "rstar" in wanted else ():
        await work.rstar(strategy)
    for name in ("its_hub", "optillm"):
        if not getattr(options, name):
            print(f"{name} was left out; see --help for how to name its environment.")
    return work.results


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare and print the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("problems", type=Path, help="JSONL file with id, problem and answer")
    parser.add_argument("--model", required=True, help="http://host:port/v1")
    parser.add_argument("--limit", type=int, help="only the first N problems")
    parser.add_argument("--tokens", type=int, default=1000, help="sampled tokens per problem")
    parser.add_argument("--its-hub", help="python of an environment with its_hub[lm]")
    parser.add_argument("--optillm", help="the command optillm")
    parser.add_argument("--arms", help="plain, its_hub, optillm, rstar; by default all")
    parser.add_argument("--json", action="store_true", help="last line: one JSON object")
    options = parser.parse_args(arguments)
    results = asyncio.run(compare(options))
    if options.json:
        print(json.dumps({"tokens": options.tokens, "arms": results}))


if __name__ == "__main__":
    main()
