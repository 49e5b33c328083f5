"""Against a real vLLM, on whatever machine there is:

    RSTAR_VLLM='/path/to/venv/bin/vllm serve' \\
        pytest -m 'live and slow' -s tests/integration/servers/test_real_vllm.py

On a CPU it takes about ten minutes of one core. `RSTAR_TEST_CHECKPOINT` and
`RSTAR_TEST_ADAPTER` name a policy and a LoRA adapter of it to use in the place of tiny ones.
"""

import asyncio
import json
import os
import shlex
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rstar_math.config import Config, load_config
from rstar_math.config.sections import ServersConfig
from rstar_math.llm.balancing import request_affinity
from rstar_math.llm.client import OpenAIClient
from rstar_math.llm.metrics import ServerMetrics, monitor
from rstar_math.llm.vllm_servers import ServerLease, policy_servers
from rstar_math.llm.watchdog import descendants
from rstar_math.search import to_record
from rstar_math.solver.solver import Solver
from rstar_math.types import Problem, Question
from tests.integration.servers.conftest import ended_within

pytestmark = [pytest.mark.live, pytest.mark.slow, pytest.mark.timeout(1200)]

# On a CPU vLLM 0.32 dies of a seeded request whose prompt it computes in parts ("CPU Generator does
# not use offset"), so that is turned off.
EXACT = ("--dtype", "float32")
SMALL = ("--gpu-memory-utilization", "0.2")  # by default vLLM wants nearly all memory to be free
CPU = (
    *("--enforce-eager", "--max-model-len", "1024", "--block-size", "32"),
    *("--no-enable-chunked-prefill", "--max-num-batched-tokens", "8192"),
    *("--num-gpu-blocks-override", "512", *SMALL),
)
LONG = "Eve keeps a list of her numbers: " + ", ".join(str(n) for n in range(10, 60)) + ". "


@dataclass(frozen=True)
class Made:
    """A policy that writes well formed steps, and an adapter of it."""

    policy: Path
    adapter: Path
    ppm: Path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    if not os.environ.get("RSTAR_VLLM"):
        pytest.skip("name vLLM's command line in RSTAR_VLLM")
    from rstar_math.training.preference import train_preference
    from rstar_math.training.rows import solution_row
    from rstar_math.training.settings import PolicyTraining, PreferenceTraining
    from rstar_math.training.sft import train_policy
    from rstar_math.training.tiny_model import save_tiny_policy
    from tests.integration.training.test_preference_training import ROWS as PAIRS
    from tests.unit.training.tiny import question, solution

    root = tmp_path_factory.mktemp("vllm")
    rows = [solution_row(question(n), solution(n)) for n in range(48)]
    texts = [row.prompt + row.completion for row in rows]
    base = save_tiny_policy(
        root / "tiny", size=64, head_size=32, weight_std=0.1, vocabulary=512, texts=texts
    )
    how: dict[str, Any] = {"bf16": False, "learning_rate": 3e-3, "max_tokens": 256}
    whole = PolicyTraining(batch_size=8, epochs=12, **how)
    train_policy(rows, str(base), root / "policy", whole)
    part = PolicyTraining(batch_size=8, max_steps=4, lora_rank=8, **{**how, "learning_rate": 0.05})
    train_policy(rows[:8], str(root / "policy"), root / "tuned", part)
    judge = PreferenceTraining(batch_size=4, max_steps=4, **how)
    train_preference(PAIRS[:48], str(root / "policy"), root / "ppm", judge)
    return Made(
        Path(os.environ.get("RSTAR_TEST_CHECKPOINT", root / "policy")),
        Path(os.environ.get("RSTAR_TEST_ADAPTER", root / "tuned" / "adapter")),
        root / "ppm",
    )


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as one:
        yield one


@pytest.fixture(scope="module")
def two(
    made: Made, runner: asyncio.Runner, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerLease]:
    """Two servers of the policy, with the adapter."""
    servers = ServersConfig(
        args=EXACT,
        hardware_args=CPU,
        adapters={"tuned": str(made.adapter)},
        replicas=2,
        log_dir=str(tmp_path_factory.mktemp("logs")),
    )
    lease = runner.run(policy_servers(f"vllm:{made.policy}", servers))
    below = [pid for one in lease.group.servers for pid in descendants(one.process.pid)]
    assert len(below) >= 4, "each has an engine process of its own"
    yield lease
    runner.run(lease.release())
    assert ended_within(below)


@asynccontextmanager
async def client(
    lease: ServerLease, *at: int, name: str | None = None, affinity: bool = True
) -> AsyncIterator[OpenAIClient]:
    """A model on some of the servers, by default on both."""
    model = OpenAIClient(
        ",".join(lease.urls[one] for one in at or (0, 1)),
        name=name or lease.name,
        key=lease.key,
        affinity=affinity,
    )
    try:
        await model.check_server()
        yield model
    finally:
        await model.aclose()


async def ask(
    model: OpenAIClient, number: int, n: int = 4, seed: int = 7, tokens: int = 48
) -> list[str]:
    found = await model.complete(
        f"Question: What is {number} + {number + 3}?\n<code>\n",
        n=n,
        stop=["/>"],
        max_tokens=tokens,
        temperature=1.0,
        seed=seed,
    )
    return [one.text for one in found]


def test_a_seed_means_the_same_alone_and_in_company(
    two: ServerLease, runner: asyncio.Runner
) -> None:
    async def use() -> tuple[list[list[str]], list[list[str]], list[list[str]]]:
        async with client(two, 0) as model, client(two, 1) as other:
            alone = [await ask(model, number) for number in range(6)]
            elsewhere = [await ask(other, number) for number in range(6)]
            crowd = await asyncio.gather(
                *(ask(model, n, seed=s) for s in (7, 8, 9) for n in range(6))
            )
            return alone, elsewhere, crowd[:6]

    alone, elsewhere, crowd = runner.run(use())
    assert any(len(set(texts)) > 1 for texts in alone), "the samples of one request differ"
    assert elsewhere == alone
    same = sum(a == b for x, y in zip(alone, crowd, strict=True) for a, b in zip(x, y, strict=True))
    print(f"\nsamples that are the same in a batch of 72: {same} of 24")
    assert same >= 22


def test_an_adapter_is_a_model_of_its_own(two: ServerLease, runner: asyncio.Runner) -> None:
    async def use() -> tuple[list[str], list[str]]:
        async with client(two, 0) as model, client(two, 0, name="tuned") as tuned:
            assert model.context_tokens == 1024
            return await ask(model, 5), await ask(tuned, 5)

    base, tuned = runner.run(use())
    assert base != tuned


def test_who_hangs_up_frees_the_server(two: ServerLease, runner: asyncio.Runner) -> None:
    async def use() -> list[float]:
        async with client(two, 0) as model:
            seen = ServerMetrics(model.replicas)
            asking = asyncio.ensure_future(
                model.complete("Question: ", n=64, stop=[], max_tokens=900, temperature=2.0, seed=1)
            )
            while not asking.done() and not any(seen.running):
                await asyncio.sleep(0.1)
                await seen.sample()
            assert not asking.done()
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
            for _ in range(100):
                await asyncio.sleep(0.2)
                await seen.sample()
                if not seen.running[-1]:
                    break
            return seen.running

    running = runner.run(use())
    assert max(running) > 0
    assert running[-1] == 0


def problems(start: int, text: str = "") -> list[Problem]:
    return [
        Problem(Question(f"p{n}", f"{text}What is {n} + {n + 3}?"))
        for n in range(start, start + 16)
    ]


def config_for(*settings: str, model: str | None = None) -> Config:
    base = ["policy.prompt=trained", "policy.max_step_tokens=48", "search.rollouts=4"]
    base += ["search.candidates=4", "search.max_depth=4", "sandbox.workers=1", "grading.workers=1"]
    return load_config("laptop", [*base, *settings], model=model)


async def searched(
    model: OpenAIClient, asked: Sequence[Problem], act: Any = None
) -> tuple[dict[str, Any], ServerMetrics]:
    """The trees of a search, and how busy the servers were."""
    trees: dict[str, Any] = {}
    config = config_for(model="http://127.0.0.1/v1")
    watching = monitor({"policy": model.replicas}, interval_s=1.0)
    async with Solver(config, model=model) as solver, watching as use:
        async for problem, found in solver.map(asked):
            trees[problem.id] = to_record(found.tree)
            if act is not None:
                act(len(trees))
    return trees, use["policy"]


async def grow(model: OpenAIClient, tree: str) -> None:
    """The requests of a tree: layer by layer two prompts, which grow by a step."""
    text = f"Question: {tree} {LONG}\n"
    with request_affinity(tree):
        for layer in range(6):
            await asyncio.gather(
                *(
                    model.complete(
                        f"{text}{part}", n=2, stop=[], max_tokens=8, temperature=1.0, seed=layer
                    )
                    for part in range(2)
                )
            )
            text += f"# Step {layer} of tree {tree}: now add {layer + 3} to it.\n"


def test_prefix_affinity_in_figures(two: ServerLease, runner: asyncio.Runner) -> None:
    """Requests as searches ask them, without affinity and with it; other trees, so that neither
    finds what the other left in the caches."""
    rates: dict[bool, float | None] = {}

    async def use(affinity: bool) -> None:
        async with client(two, affinity=affinity) as model:
            async with monitor({"policy": model.replicas}, interval_s=1.0) as seen:
                await asyncio.gather(*(grow(model, f"{affinity}{at}") for at in range(16)))
            rates[affinity] = seen["policy"].hit_rate
            summary = seen["policy"].summary()
            print(f"\naffinity {affinity}: {summary}; rerouted {model.replicas.rerouted}")

    runner.run(use(False))
    runner.run(use(True))
    with_it, without = rates[True], rates[False]
    assert with_it is not None
    assert without is not None
    assert with_it > without


def test_a_killed_replica_changes_nothing(two: ServerLease, runner: asyncio.Runner) -> None:
    """The last that is done with the two: one is killed, as a machine that goes."""

    async def use() -> tuple[dict[str, Any], dict[str, Any], OpenAIClient]:
        async with client(two) as model:
            before, _ = await searched(model, problems(20))

            def kill(done: int) -> None:
                if done == 2:
                    two.group.servers[1].process.kill()

            after, _ = await searched(model, problems(20), kill)
            return before, after, model

    before, after, model = runner.run(use())
    assert model.replicas.all[1].probe_at > 0, "it was asked in vain"
    same = [name for name in before if before[name] == after[name]]
    print(f"\ntrees that are the same after a replica was killed: {len(same)} of {len(before)}")
    assert after.keys() == before.keys()
    assert len(same) >= 8


def test_rstar_starts_both_models_and_ends_them(made: Made, tmp_path: Path) -> None:
    """`rstar search` with a policy and a preference model that it starts itself."""
    asked = tmp_path / "problems.jsonl"
    rows = [{"id": p.id, "problem": p.question.text} for p in problems(40)[:4]]
    asked.write_text("\n".join(map(json.dumps, rows)) + "\n")
    settings = [
        f"servers.args={json.dumps(EXACT)}",
        f"servers.hardware_args={json.dumps(CPU)}",
        f"servers.ppm={json.dumps([*EXACT, '--enforce-eager', *SMALL])}",
        f"servers.adapters={{tuned = '{made.adapter}'}}",
        "model.name=tuned",
        "search.scorer=ppm",
        f"search.ppm=vllm:{made.ppm}",
        f"servers.log_dir={tmp_path}/logs",
        "search.rollouts=2",
        "policy.prompt=trained",
        "policy.max_step_tokens=48",
        "search.candidates=4",
        "search.max_depth=4",
    ]
    command = [sys.executable, "-m", "rstar_math.cli", "search", str(asked), "--json"]
    command += ["--run", str(tmp_path / "run"), "--model", f"vllm:{made.policy}"]
    command += [part for one in settings for part in ("--set", one)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    print(f"\n{shlex.join(command)}\n{done.stderr[-800:]}")
    assert done.returncode == 0
    told = json.loads(done.stdout)
    assert told["servers"]["policy"]["servers"] == 1
    assert 0 <= told["servers"]["policy"]["cache_hit_rate"] <= 1
    logs = [log.name.split("-") for log in (tmp_path / "logs").iterdir()]
    assert {name for name, *_ in logs} == {"policy", "ppm"}
    left = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
    assert not [
        line for line in left.splitlines() if any(f"--port {log[1]}" in line for log in logs)
    ]
