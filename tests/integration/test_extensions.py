"""The examples of extensions work from outside the package, through the command."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from rstar_math.config import load_config
from rstar_math.errors import ConfigError
from rstar_math.problems.benchmarks import extract_reference, find_benchmark, load_benchmark
from rstar_math.solver.solver import Solver
from rstar_math.testing import serving

ROOT = Path(__file__).resolve().parents[2]


def answer(body: Mapping[str, Any]) -> list[str]:
    """A program for a sum, in the format of plain prompts."""
    prompt, n = str(body["prompt"]), int(body.get("n", 1))
    if "<code/>" in prompt.rpartition("3 plus 5?")[2]:
        return ["It is \\boxed{8}.\n<answer/>"] * n
    return [f"# Add them ({at}).\nprint(3 + 5)\n<code/>" for at in range(n)]


def actions(body: Mapping[str, Any]) -> list[str]:
    """A plan, and a solution only where a plan comes first."""
    prompt, n = str(body["prompt"]), int(body.get("n", 1))
    if prompt.endswith("Plan:"):
        return [" Add the numbers."] * n
    if "Plan: Add the numbers." in prompt.rpartition("3 plus 5?")[2]:
        return [" 3 + 5 = 8. The answer is 8."] * n
    return [" I need a plan."] * n


def rstar(*args: str) -> dict[str, Any]:
    """What the command prints as JSON, with examples/ on the path."""
    done = subprocess.run(
        [sys.executable, "-m", "rstar_math.cli", *args, "--json"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'examples'}:{ROOT / 'src'}"},
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize(
    "options",
    [
        ("--strategy", "extensions.strategy:SPEC@4"),
        ("--set", "search.selection=extensions.selection_rule:cautious"),
        ("--set", "search.scorer=extensions.scorer:brevity"),
    ],
    ids=["strategy", "selection-rule", "scorer"],
)
def test_an_extension_is_named_on_the_command_line(options: tuple[str, ...]) -> None:
    small = ("--set", "search.rollouts=2", "--set", "search.candidates=2")
    with serving(answer) as fake:
        found = rstar("solve", "What is 3 plus 5?", "--model", fake.url, *small, *options)
    assert found["answer"] == "8"


def test_a_policy_is_named_and_needs_no_model() -> None:
    own = ("--model", "none", "--set", "policy.source=extensions.policy:change")
    small = ("--set", "search.max_depth=9", "--set", "search.answer=paths")
    for strategy in ("mcts@20", "sc@4"):
        found = rstar("solve", "Give change of 30 cents.", *own, *small, "--strategy", strategy)
        kinds = {node["step"]["kind"] for node in found["tree"]["nodes"][1:]}
        assert kinds <= {"coin", "answer"}
        assert found["answer"] in ("3", "6")
        assert found["cost"]["calls"] == 0


@pytest.mark.parametrize(
    "settings",
    [("policy.source=change",), ("policy.source=extensions.policy:nothing",), ("model.url=none",)],
)
def test_a_policy_that_is_none_is_a_sentence(
    settings: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(ROOT / "examples")

    async def opened() -> None:
        async with Solver(load_config(None, ["model.url=none", *settings])):
            pass

    with pytest.raises(ConfigError, match="policy"):
        asyncio.run(opened())


def test_a_file_with_own_parts_wants_trust() -> None:
    file = str(ROOT / "examples" / "extensions" / "own_parts.toml")
    with pytest.raises(ConfigError, match="trust-config"):
        load_config(file)
    with serving(answer) as fake:
        options = ("--config", file, "--trust-config", "--model", fake.url)
        found = rstar("solve", "What is 3 plus 5?", *options)
    assert found["answer"] == "8"


def test_a_policy_from_a_file_wants_trust(tmp_path: Path) -> None:
    file = tmp_path / "theirs.toml"
    file.write_text('[policy]\nsource = "os:system"\n')
    with pytest.raises(ConfigError, match=r"policy\.source.*trust-config"):
        load_config(str(file))


def test_an_action_is_named_in_the_configuration() -> None:
    enabled = 'actions.enabled=["A2","extensions.action:PLAN"]'
    with serving(actions) as fake:
        options = ("--model", fake.url, "--strategy", "gen@4", "--set", enabled)
        found = rstar("solve", "What is 3 plus 5?", *options)
    assert found["answer"] == "8"


def test_a_benchmark_as_a_function(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "examples")
    found = load_benchmark("extensions.benchmark:sums", limit=3)
    assert [problem.reference for problem in found.problems] == ["16", "62", "108"]


def test_a_benchmark_as_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "examples")
    file = ROOT / "examples" / "extensions" / "benchmarks.toml"
    monkeypatch.setenv("RSTAR_BENCHMARKS", str(file))
    own = find_benchmark("sums")
    assert (own.size, own.licence) == (20, "CC0")
    assert own.hub is not None
    assert extract_reference("worked out: 16", own.hub.read) == "16"
    assert find_benchmark("gsm8k").name == "gsm8k"
