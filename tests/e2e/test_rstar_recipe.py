"""`rstar solve --recipe rstar` with two servers, as a person uses it."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.toy_talk import Talker, sum_problem
from rstar_math.testing import FakeServer, serving
from tests.e2e.rstar import rstar

SMALL = (
    *("--set", "actions.votes=4", "--set", "actions.sub_votes=2"),
    *("--set", "actions.candidates=2"),
)


def saying(accuracy: float) -> Any:
    talker = Talker(accuracy)

    def answer(body: Mapping[str, Any]) -> Sequence[str]:
        return talker(str(body["prompt"]), body["n"], body.get("seed") or 0)

    return answer


@pytest.fixture
def first() -> Iterator[FakeServer]:
    with serving(saying(0.5)) as server:
        yield server


@pytest.fixture
def second() -> Iterator[FakeServer]:
    with serving(saying(0.9), model="second") as server:
        yield server


def test_solve_shows_actions_votes_and_the_second_look(
    first: FakeServer, second: FakeServer
) -> None:
    question = sum_problem(1).question.text
    run = rstar(
        *("solve", question, "--recipe", "rstar", "--strategy", "rstar@4", *SMALL),
        *("--model", first.url, "--discriminator", second.url),
    )
    assert run.returncode == 0, run.stderr
    assert re.search(r"\d% of the votes", run.stdout)
    assert "discriminator score" in run.stdout
    assert "of them by the discriminator" in " ".join(run.stdout.split())
    assert second.requests
    assert all("Answer:" in request["prompt"] for request in second.requests)


def test_eval_has_the_second_model_in_the_bill_and_goes_on(
    first: FakeServer, second: FakeServer, tmp_path: Path
) -> None:
    file, kept = tmp_path / "sums.jsonl", tmp_path / "run.rstar"
    problems = [sum_problem(index) for index in range(4)]
    rows = [{"problem": p.question.text, "answer": p.reference} for p in problems]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    verb = (
        *("eval", file, "--recipe", "rstar", "--strategy", "cot@4,gen@3,rstar@3,peer", *SMALL),
        *("--model", first.url, "--discriminator", second.url, "--run", kept),
    )
    run = rstar(*verb, "--json")
    assert run.returncode == 0, run.stderr
    cost = {row["strategy"]: row["cost"] for row in json.loads(run.stdout)["strategies"]}
    assert cost["rstar@3"]["discriminator_tokens"] > 0 == cost["gen@3"]["discriminator_tokens"]
    asked = len(first.requests), len(second.requests)
    again = rstar(*verb)
    assert (len(first.requests), len(second.requests)) == asked
    assert "of the tokens by the discriminator" in " ".join(again.stdout.split())
    more = {"problem": sum_problem(9).question.text, "answer": sum_problem(9).reference}
    file.write_text(file.read_text() + json.dumps(more) + "\n")
    other = rstar(*verb[:-4], "--run", kept)
    assert other.returncode == 2
    assert "discriminator" in other.stderr


def test_the_recipe_brings_its_strategy(first: FakeServer) -> None:
    run = rstar(
        *("solve", sum_problem(1).question.text, "--recipe", "few-shot-cot", *SMALL),
        *("--model", first.url),
    )
    assert run.returncode == 0, run.stderr
    assert len(first.requests) == 1
    assert first.requests[0]["temperature"] == 0
