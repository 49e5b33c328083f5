"""`rstar eval-ppm` on several scorers at once, and searches that record further scorers."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rstar_math.cli import app
from rstar_math.config import load_config
from rstar_math.errors import ConfigError, InputError
from rstar_math.search import to_record
from rstar_math.search.records import from_record
from rstar_math.solver.components import parse_scorers
from rstar_math.solver.solver import Solver
from rstar_math.testing import ScriptedPolicy
from tests.integration.scorers.tiny_rewards import save_tiny_reward
from tests.integration.training.test_preference_training import ROWS
from tests.unit.docs.pages import ROOT
from tests.unit.toy import QUESTION, script


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scorers")
    for name in ("qwen-prm", "rlhflow", "classifier"):
        save_tiny_reward(name, root)
    return root


def call(*args: str) -> Any:
    done = CliRunner().invoke(app, [*args, "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_three_scorers_are_compared_on_labelled_steps(root: Path, tmp_path: Path) -> None:
    bench, steps = tmp_path / "bench.jsonl", tmp_path / "steps.jsonl"
    texts = ["Add the numbers.", "It is 5."]
    bench.write_text(
        "\n".join(
            json.dumps({"id": f"p{n}", "problem": f"2 + {n}?", "steps": texts, "label": n % 2 - 1})
            for n in range(8)
        )
    )
    steps.write_text(
        "\n".join(
            json.dumps({"problem": f"2 + {n}?", "steps": texts, "labels": [True, n == 3]})
            for n in range(8)
        )
    )
    names = ["first=" + str(root / "qwen-prm"), f"{root}/rlhflow@auto", f"{root}/classifier"]
    files = ("--processbench", str(bench), "--steps", str(steps))
    found = call("eval-ppm", *names, *files)
    assert list(found["scorers"]) == ["first", "rlhflow", "classifier"]
    for figures in found["scorers"].values():
        assert figures["processbench"][str(bench)]["solutions"] == 8
        own = figures["steps"][str(steps)]
        assert own["right_steps"] == 9
        assert own["interval_95"][0] <= own["auc"] <= own["interval_95"][1]
    pairs = found["comparisons"]["steps"][str(steps)]
    assert list(pairs) == ["rlhflow - first", "classifier - first"]
    shown = CliRunner().invoke(app, ["eval-ppm", *names, *files], catch_exceptions=False)
    assert "rlhflow - first" in shown.output
    alone = call("eval-ppm", names[0], *files)
    assert alone["processbench"] == found["scorers"]["first"]["processbench"]
    with pytest.raises(ConfigError, match="named first"):
        call("eval-ppm", names[0], names[0], *files)
    pairs_file = tmp_path / "pairs.jsonl"
    pairs_file.write_text(ROWS[0].model_dump_json())
    with pytest.raises(InputError, match="--pairs"):
        call("eval-ppm", names[0], "--pairs", str(pairs_file), "--include-training-problems")


def test_a_search_records_the_values_of_further_scorers(root: Path) -> None:
    scorers = f"prm={root}/qwen-prm,prm={root}/rlhflow@rlhflow,ppm={root}/classifier"
    exact = ("model.url=hf:none", "search.rollouts=3")  # bitwise equal values
    config = load_config(None, [f"search.scorer={scorers}", *exact])
    first = load_config(None, [f"search.scorer=prm={root}/qwen-prm", *exact])
    assert [each.label for each in parse_scorers(config)] == ["qwen-prm", "rlhflow", "classifier"]

    async def tree(used: Any) -> Any:
        async with Solver(used, policy=ScriptedPolicy(script)) as solver:
            return (await solver.solve(QUESTION, "mcts")).tree

    both, alone = asyncio.run(tree(config)), asyncio.run(tree(first))
    assert [node.score for node in both] == [node.score for node in alone]
    assert [node.visits for node in both] == [node.visits for node in alone]
    scored = [node for node in both if node.score is not None]
    assert len(scored) > 3
    for node in scored:
        assert set(node.other_scores) == {"rlhflow", "classifier"}
    assert len({node.other_scores["rlhflow"] for node in scored}) > 3
    assert both.cost.scorer_tokens > alone.cost.scorer_tokens
    record = to_record(both)
    again = from_record(json.loads(json.dumps(record)))
    assert [node.other_scores for node in again] == [node.other_scores for node in both]
    for node in record["nodes"]:
        node.pop("other_scores", None)
    old = from_record(record)
    assert all(node.other_scores == {} for node in old)


def test_a_scorer_that_is_no_scorer_says_so() -> None:
    for wrong in ("ppm,none-such", "self=PLACE", "prm="):
        with pytest.raises(ConfigError, match=r"search\.scorer"):
            parse_scorers(load_config(None, [f"search.scorer={wrong}"]))
    same = load_config(None, ["search.scorer=prm=/a/x,prm=/b/x"])
    assert [each.label for each in parse_scorers(same)] == ["x", "x#2"]


def test_the_example_writes_models_that_are_recognised(tmp_path: Path) -> None:
    script = ROOT / "examples" / "scorers" / "tiny_reward_model.py"
    for form in ("qwen-prm", "skywork-prm", "classifier"):
        folder = tmp_path / form
        command = [sys.executable, str(script), str(folder), "--format", form]
        subprocess.run(command, check=True, capture_output=True, timeout=280)
        found = call("eval-ppm", f"{folder}@auto", "--steps", str(script.with_name("steps.jsonl")))
        (figures,) = found["steps"].values()
        assert figures["steps"] == 12
        assert 0 <= figures["auc"] <= 1
