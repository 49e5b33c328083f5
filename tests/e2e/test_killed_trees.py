"""A search that is killed at any moment goes on inside its trees: a real process, real SIGKILLs."""

import asyncio
import json
import os
import random
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from rstar_math.config import load_config
from rstar_math.errors import ModelError
from rstar_math.evolution.stages import search_problems
from rstar_math.problems.jsonl import read_problems
from rstar_math.runs.store import RunStore
from rstar_math.search import to_record
from rstar_math.search.strategies import parse_strategy
from rstar_math.testing import serving
from rstar_math.testing.fake_server import Fault
from tests.e2e import adder
from tests.e2e.rstar import COMMAND, write_problems
from tests.unit.docs.pages import ROOT

ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{ROOT / 'examples'}:{ROOT / 'src'}"}
SMALL = (
    "search.candidates=3",
    "search.scorer=extensions.scorer:brevity",
    "search.parallel_problems=2",
    "policy.prompt=easy",
    "policy.mode=completion",
    'actions.enabled=["A1","A2"]',
    "actions.depth=4",
    "actions.votes=4",
)


def answer(body: Mapping[str, Any]) -> list[str]:
    """Steps of programs, and for rStar's actions thoughts and solutions, by the request's seed."""
    prompt = str(body["prompt"])
    if "<code>" in prompt:
        return adder.answer(body)
    rng = random.Random(f"{body['seed']} {prompt}")
    return [
        f" Add {rng.randint(1, 9)} first. The answer is {rng.randint(1, 3)}."
        if rng.random() < 0.7
        else f" Step {rng.randint(1, 99)} comes first."
        for _ in range(body["n"])
    ]


def command(file: Path, run: Path, url: str, strategies: str, *settings: str) -> list[str]:
    options = [part for each in (*SMALL, *settings) for part in ("--set", each)]
    where = ["--run", str(run), "--model", url, "--json"]
    return [*COMMAND, "eval", str(file), "--strategy", strategies, *where, *options]


def contents(run: Path) -> dict[tuple[str, str], object]:
    """Every tree, choice and verdict."""
    with RunStore.read(run) as store:
        return {
            (result.problem, name): (
                to_record(store.tree(result.problem, name)),
                result.choice,
                result.verdict,
                result.failures,
            )
            for name in store.strategies()
            for result in store.results(name)
        }


def finished(args: list[str]) -> dict[str, Any]:
    done = subprocess.run(args, capture_output=True, text=True, check=False, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def killed(args: list[str], asked: "list[dict[str, Any]]", after_s: float) -> bool:
    """Kill a command some time after its next request; False if it ended before."""
    before = len(asked)
    process = subprocess.Popen(
        args, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=ENVIRONMENT
    )
    while len(asked) == before and process.poll() is None:
        time.sleep(0.002)
    try:
        process.wait(after_s)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
        return True
    return False


CASES = {
    "every-strategy": ("mcts@12,sc@6,beam@3,particles@4,rstar@6", ()),
    "budget-stop-and-flight": (
        "mcts,sc,particles@3,rstar@4",
        ("search.token_budget=600", "search.parallel_rollouts=3", "search.confidence=0.9"),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_killed_twenty_times_a_search_redoes_only_what_was_in_flight(
    tmp_path: Path, case: str
) -> None:
    strategies, settings = CASES[case]
    file = write_problems(tmp_path, 6)
    rng = random.Random(31)
    whole, broken = tmp_path / "whole.rstar", tmp_path / "broken.rstar"
    with serving(answer, delay_s=0.03) as fake:
        finished(command(file, whole, fake.url, strategies, *settings))
        needed = Counter(json.dumps(body, sort_keys=True) for body in fake.requests)
        fake.requests.clear()
        args = command(file, broken, fake.url, strategies, *settings)
        kills, redone, most = 0, 0, 0
        while kills < 20 and killed(args, fake.requests, rng.uniform(0.0, 0.9)):
            most = max(most, fake.in_flight)
            kills += 1
            time.sleep(0.1)
        report = finished(args)
        sent = Counter(json.dumps(body, sort_keys=True) for body in fake.requests)
        redone = (sent - needed).total()
    assert contents(broken) == contents(whole)
    assert set(sent) == set(needed), "no request of another tree"
    assert kills >= 10
    # Two problems at a time, each with a few requests in flight.
    assert redone <= kills * 2 * 4, (redone, kills)
    spent = [re.sub(r'"seconds": [\d.]+', "", json.dumps(row)) for row in report["strategies"]]
    assert len(spent) == len(strategies.split(","))
    assert not Path(f"{broken}-growing").exists()
    print(f"{case}: {kills} kills, {needed.total()} requests needed, {redone} redone")


def test_the_search_stage_of_an_evolution_goes_on_inside_its_trees(tmp_path: Path) -> None:
    """A server that refuses everything from some request on ends the stage, as a kill would."""
    problems = read_problems(write_problems(tmp_path, 3), None)
    strategies = [parse_strategy("mcts@4")]
    whole, broken = tmp_path / "whole.rstar", tmp_path / "broken.rstar"
    with serving(answer) as fake:
        settings = ["search.candidates=3", "policy.prompt=easy", "policy.mode=completion"]
        settings += [f"model.url={fake.url}", "search.parallel_problems=2"]
        config = load_config(None, settings)

        def stage(run: Path) -> None:
            search = search_problems(
                run, problems, strategies, config, digests={"model.name": "m"}, guided=True
            )
            asyncio.run(search)

        stage(whole)
        needed = len(fake.requests)
        fake.requests.clear()
        for end in (needed // 3, 2 * needed // 3):

            def refuse(body: Mapping[str, Any], end: int = end) -> Fault | None:
                return 400 if len(fake.requests) > end else None

            fake.fault_for = refuse
            with pytest.raises(ModelError):
                stage(broken)
        fake.fault_for = None
        stage(broken)
        sent = len(fake.requests)
    assert contents(broken) == contents(whole)
    # Refused requests, and the probes that tell whether the server is at fault, are no waste.
    assert sent <= needed + 2 * 2 * 4
