"""Pictures reach the server of a multimodal model as content parts, are counted and shown; a model
of texts gets a clear error or a transcription. No multimodal model runs here: a local HTTP server
checks the requests."""

import asyncio
import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from rstar_math.config import load_config
from rstar_math.errors import ConfigError, ModelRejectedError
from rstar_math.runs.results import run_conditions
from rstar_math.runs.store import RunStore
from rstar_math.solver.solution import Solution
from rstar_math.solver.solver import Solver
from rstar_math.testing import ScriptedCompleter, serving
from rstar_math.types import Image, Problem, Question, Verdict
from rstar_math.viewer.export import write_page
from tests.unit.kinds.test_tasks import PNG

DOT = Image("image/png", PNG)
PROBLEM = Problem(Question("p", "How many dots are in the picture?", None, (DOT,)), "1")


def pictures_in(body: Mapping[str, Any]) -> list[bytes]:
    """The decoded pictures of a chat request; all are parts of the user's last message."""
    found = []
    for message in body.get("messages", []):
        if isinstance(message["content"], list):
            assert message["role"] == "user"
            *images, text = message["content"]
            assert text["type"] == "text"
            for part in images:
                assert part["type"] == "image_url"
                head, _, data = part["image_url"]["url"].partition(",")
                assert head == "data:image/png;base64"
                found.append(base64.b64decode(data, validate=True))
    return found


def seer(body: Mapping[str, Any]) -> list[str]:
    """A multimodal model that counts the pictures it gets."""
    pictures = pictures_in(body)
    text = str(body["messages"])
    count = len(pictures) if all(picture == PNG for picture in pictures) else 99
    if "Count from 1 to 9" in text:
        return [" 5, 6, 7"] * body["n"]
    if "Transcribe" in text:
        return [f"{count} dot on white."] * body["n"]
    if "```output" in str(body["messages"][-1]["content"]):
        return [f"It is \\boxed{{{count}}}."] * body["n"]
    return [f"# Count.\nprint({count})\n```\n"] * body["n"]


def solve(*settings: str, strategy: str = "sc@2", **parts: Any) -> Solution:
    async def work() -> Solution:
        async with Solver(load_config(None, settings), **parts) as solver:
            solution = await solver.solve(PROBLEM.question, strategy)
            if solution.answer == "1":
                assert await solver.judge(solution.answer, PROBLEM) is Verdict.RIGHT
            return solution

    return asyncio.run(work())


@pytest.mark.parametrize("strategy", ["sc@2", "mcts@2"])
def test_pictures_are_parts_of_the_last_message_and_are_counted(strategy: str) -> None:
    with serving(seer) as fake:
        fake.routes.add("/v1/chat/completions")
        solution = solve(f"model.url={fake.url}", strategy=strategy)
    assert solution.answer == "1"
    assert solution.tree.cost.images >= 1


def test_a_model_of_texts_gets_a_clear_error_or_a_transcription() -> None:
    def reader(prompt: str, n: int, seed: int) -> list[str]:
        asked = prompt.rpartition("Question:")[2]
        assert "1 dot on white." in asked
        if "<output>" in asked:
            return [" It is \\boxed{1}.<answer/>"] * n
        return ["# Count.\nprint(1)\n<code/>"] * n

    with pytest.raises(ConfigError, match="describe"):
        solve(model=ScriptedCompleter(reader))
    with pytest.raises(ConfigError, match="pictures"):
        solve(model=ScriptedCompleter(reader), strategy="cot")
    with serving(seer) as fake:
        fake.routes.add("/v1/chat/completions")
        setting = f"problems.describe={fake.url}"
        solution = solve(setting, model=ScriptedCompleter(reader))
        again = solve(setting, model=ScriptedCompleter(reader), strategy="mcts@2")
    assert solution.answer == again.answer == "1"


def test_a_server_that_refuses_pictures_is_reported() -> None:
    def blind(body: Mapping[str, Any]) -> list[str]:
        return ["x"] * body["n"]

    with serving(blind) as fake:
        fake.routes.add("/v1/chat/completions")
        fake.fault_for = lambda body: 400 if pictures_in(body) else None
        with pytest.raises(ModelRejectedError, match="describe"):
            solve(f"model.url={fake.url}")


def test_pages_show_pictures_without_a_network(tmp_path: Path) -> None:
    big = Image("image/png", PNG + b"\0" * (5 << 20))
    problems = [PROBLEM, Problem(Question("big", "?", None, (big,)), "1")]
    with serving(seer) as fake:
        fake.routes.add("/v1/chat/completions")
        config = load_config(None, [f"model.url={fake.url}"])
        solution = solve(f"model.url={fake.url}")
    with RunStore.open(tmp_path / "a.rstar", run_conditions(config, guided=False)) as store:
        store.add_problems(problems)
        store.save("sc@2", solution.tree, solution.choice, Verdict.RIGHT)
        write_page([store], tmp_path / "page.html")
        assert store.tree("p", "sc@2").question == PROBLEM.question
    from rstar_math.viewer.result import problem_html

    shown, named = map(problem_html, problems)
    assert base64.b64encode(PNG).decode() in shown
    assert "base64" not in named
    assert "not shown" in named
    page = (tmp_path / "page.html").read_text()
    assert "img-src data:" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
