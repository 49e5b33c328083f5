"""The page of errors: every command of it is run in this process, and says what the page says."""

import re
import shlex
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rstar_math.cli import main
from rstar_math.config import load_config
from rstar_math.problems import read_problems
from rstar_math.runs.results import default_conditions, run_conditions
from rstar_math.runs.store import RunStore
from rstar_math.search import Tree
from rstar_math.search.voting import NO_CHOICE
from rstar_math.testing import serving
from rstar_math.types import Verdict
from tests.e2e.adder import answer
from tests.unit.docs.pages import blocks

PAGE = "docs/troubleshooting.md"
WANTED = {
    "--cluster auto": ("ray",),
    "hf:policy": ("torch",),
    "rstar report": ("matplotlib",),
    "rstar view first.rstar": ("starlette", "rstar_math.viewer.app"),
}
"""What the commands of the section on extras would need; without it, they say so."""


def mistakes() -> list[tuple[str, str]]:
    """The commands of the page, each with what it says, on one line."""
    parts = [re.split(r"^\$ ", block.code, flags=re.MULTILINE)[1:] for block in blocks(PAGE)]
    lines = [part.partition("\n") for found in parts for part in found]
    return [(command, " ".join(said.split())) for command, _, said in lines]


class Absent:
    """An importer that does not find a package."""

    def __init__(self, package: str) -> None:
        self._package = package

    def find_spec(self, name: str, *_: object) -> None:
        """Nothing; raises for the package and its parts, as where it is not installed."""
        if name.partition(".")[0] == self._package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=self._package)


def take_away(package: str, patch: pytest.MonkeyPatch, *loaded: str) -> None:
    """Make as if a package were not installed, for the rest of a test; `loaded` are modules of
    ours that had it already."""
    parts = [name for name in sys.modules if name.partition(".")[0] == package]
    for name in (*parts, *loaded):
        patch.delitem(sys.modules, name, raising=False)
    patch.setattr(sys, "meta_path", [Absent(package), *sys.meta_path])


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The files that the page speaks of, and what its addresses stand for."""
    folder = tmp_path_factory.mktemp("mistakes")
    texts = {
        "problems.jsonl": '{"problem": "Add 1 and 2.", "answer": "3"}\n',
        "malformed.jsonl": '{"problem": "Add 1 and 2."}\nproblem: Add 3 and 4.\n',
        "columns.jsonl": '{"text": "Add 1 and 2.", "label": "3"}\n',
        "unanswered.jsonl": '{"problem": "Add 1 and 2."}\n',
        "weights.gguf": "no weights",
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    with (
        pytest.MonkeyPatch.context() as patch,
        serving(answer) as fake,
        socket.create_server(("127.0.0.1", 0)) as taken,
        socket.socket() as closed,
    ):
        closed.bind(("127.0.0.1", 0))  # bound and not listening: refuses, and nobody else gets it
        patch.chdir(folder)
        ports = {"8420": taken, "8000": closed}
        found = {page: str(real.getsockname()[1]) for page, real in ports.items()}
        found["9000"] = fake.url.removesuffix("/v1").rpartition(":")[2]
        how = run_conditions(load_config(None, model=fake.url), guided=False), default_conditions()
        problems = read_problems(Path("problems.jsonl"))
        with RunStore.open(Path("first.rstar"), *how) as store:
            store.add_problems(problems)
            tree = Tree(problems[0].question)
            store.save("mcts", tree, NO_CHOICE, Verdict.WRONG)
        with RunStore.open(Path("busy.rstar"), *how):
            yield found


def test_the_page_has_the_likeliest_mistakes() -> None:
    assert len(mistakes()) >= 25


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("command", "said"), mistakes())
def test_a_mistake_is_told_as_the_page_tells_it(
    command: str,
    said: str,
    places: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for page, real in places.items():
        command = re.sub(rf"\b{page}\b", real, command)
    for sign, modules in WANTED.items():
        if sign in command and "--port" not in command:
            take_away(modules[0], monkeypatch, *modules[1:])
    monkeypatch.setattr(sys, "argv", shlex.split(command))
    with pytest.raises(SystemExit) as end:
        main()
    printed = capsys.readouterr()
    told = " ".join(printed.err.split())
    assert told.count("rstar: ") == 1
    told = told.removeprefix("rstar: ")
    for page, real in places.items():
        told = told.replace(real, page)
    assert (told, printed.out) == (said, "")
    assert end.value.code in (1, 2)
