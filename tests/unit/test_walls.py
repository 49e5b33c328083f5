"""The walls of the design, and the sizes that keep a file readable in one sitting."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SRC = Path(__file__).resolve().parents[2] / "src" / "rstar_math"
FILES = sorted(SRC.rglob("*.py"))
HEAVY = ("torch", "transformers", "ray", "sympy", "xllamacpp", "numpy", "pydantic", "httpx")

LONG_FILES: dict[str, int] = {}
"""Files that may be longer than 300 lines, and why."""
LONG_FUNCTIONS: dict[str, int] = {}
"""Functions that may be longer than 60 lines, and why."""


def imports(path: Path) -> set[str]:
    """All modules that a file imports, at any depth of nesting."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def name(path: Path) -> str:
    return path.relative_to(SRC).as_posix()


@pytest.mark.parametrize(
    "path", [*SRC.glob("search/*.py"), *SRC.glob("training/curation/*.py")], ids=name
)
def test_the_search_knows_no_transport_no_torch_and_no_prompt(path: Path) -> None:
    banned = ("httpx", "openai", "torch", "transformers", "rstar_math.steps", "rstar_math.models")
    assert not [module for module in imports(path) if module.startswith(banned)]


CONCRETE = {
    "rstar_math.models.StepPolicy",
    "rstar_math.models.policy.StepPolicy",
    "rstar_math.models.SubQuestionPolicy",
    "rstar_math.models.subquestions.SubQuestionPolicy",
    "rstar_math.models.ActionPolicy",
    "rstar_math.models.actions.ActionPolicy",
    "rstar_math.models.ChainPolicy",
    "rstar_math.models.chains.ChainPolicy",
    "rstar_math.models.CompletingPeer",
    "rstar_math.models.chains.CompletingPeer",
    "rstar_math.models.SelfVerifier",
    "rstar_math.models.self_evaluation.SelfVerifier",
    "rstar_math.models.SelfEvaluator",
    "rstar_math.models.self_evaluation.SelfEvaluator",
    "rstar_math.models.UsefulnessScorer",
    "rstar_math.models.self_evaluation.UsefulnessScorer",
    "rstar_math.sandbox.Sandbox",
    "rstar_math.grading.Grader",
}


@pytest.mark.parametrize("path", FILES, ids=name)
def test_only_the_solver_knows_concrete_classes(path: Path) -> None:
    home = path.relative_to(SRC).parts[0]
    known = imports(path) & CONCRETE
    if home == "cli":  # grade, curate, report and --check judge answers that are there already
        known -= {"rstar_math.grading.Grader"}
    composed = name(path) in ("solver.py", "kit.py")
    assert not known or composed or home in ("models", "sandbox", "grading")


@pytest.mark.parametrize("command", ["import rstar_math", "import rstar_math.cli"])
def test_importing_the_package_and_the_command_loads_nothing_heavy(command: str) -> None:
    code = f"import sys; {command}; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {module.partition(".")[0] for module in run.stdout.split()}
    assert not loaded & set(HEAVY)


def test_what_a_search_is_handed_cannot_hold_a_reference() -> None:
    """The seams of policy, scorer and executor, and `grow`, speak of questions, never of
    problems."""
    models = ("policy.py", "subquestions.py", "actions.py", "chains.py", "self_evaluation.py")
    handed = (SRC / "models" / file for file in models)
    for path in (SRC / "protocols.py", *SRC.glob("search/*.py"), *handed):
        text = path.read_text(encoding="utf-8")
        names = {node.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)}
        assert "Problem" not in names, path


@pytest.mark.parametrize("path", FILES, ids=name)
def test_files_and_functions_stay_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= LONG_FILES.get(name(path), 500)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            where = f"{name(path)}:{node.name}"
            assert length <= LONG_FUNCTIONS.get(where, 60), where
            positional = [a for a in node.args.args if a.arg not in ("self", "cls")]
            command = path.parent.name == "cli"  # its parameters are the options of the command
            assert len(positional) <= 5 or command, f"{where} has {len(positional)} parameters"


@pytest.mark.parametrize("path", FILES, ids=name)
def test_public_names_have_docstrings(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), f"{name(path)} has no docstring"
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            private = node.name.startswith("_")
            assert private or ast.get_docstring(node), f"{name(path)}: {node.name}"


def test_the_public_names_are_these() -> None:
    import rstar_math

    assert sorted(rstar_math.__all__) == [
        "Config",
        "Problem",
        "Question",
        "RstarError",
        "Solution",
        "Solver",
        "Step",
        "Tree",
        "grow",
        "load_config",
        "read_problems",
        "solve",
    ]
    for public in rstar_math.__all__:
        assert getattr(rstar_math, public).__doc__
    with pytest.raises(AttributeError):
        rstar_math.nonsense  # noqa: B018
