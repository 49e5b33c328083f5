"""The dependency order, drawn in `tests/structure.py`, and what keeps a file readable."""

import ast
import importlib
import io
import re
import subprocess
import sys
import tokenize
from types import ModuleType

import pytest

import rstar_math
from tests import structure

HEAVY = {"torch", "transformers", "ray", "sympy", "xllamacpp", "numpy", "pydantic", "aiohttp"}


def test_a_package_imports_only_from_the_layers_below() -> None:
    assert structure.wrong_imports() == []


def test_no_modules_import_each_other() -> None:
    assert structure.cycles() == []


def test_nothing_in_production_imports_testing() -> None:
    assert structure.imports_of_testing() == []


def test_files_and_functions_are_short() -> None:
    assert structure.long_files() == []
    assert structure.long_functions() == []


def test_the_search_and_curation_know_no_transport_no_torch_and_no_prompt() -> None:
    banned = {"prompts", "models", "llm", "policies", "checkpoints", "ppm"}
    pure = [n for n in structure.MODULES if n.startswith(("search.", "training.curation."))]
    for one in structure.IMPORTS:
        if one.source in pure:
            assert one.target.partition(".")[0] not in banned, one
    for name in pure:
        text = structure.MODULES[name].read_text(encoding="utf-8")
        words = {n.id for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Name)}
        assert not words & {"aiohttp", "torch", "transformers"}, name


def concrete_classes() -> set[type]:
    """Everything that implements a protocol of the search with a model, a sandbox or a grader."""
    found: set[type] = set()
    for name in ("policies.completions", "policies.actions", "policies.self_evaluation"):
        module: ModuleType = importlib.import_module(f"rstar_math.{name}")
        made = [v for v in vars(module).values() if isinstance(v, type)]
        found |= {
            one
            for one in made
            if one.__module__ == module.__name__
            and any(hasattr(one, method) for method in ("propose", "score", "answers"))
        }
    from rstar_math.grading import Grader
    from rstar_math.sandbox import Sandbox

    return found | {Grader, Sandbox}


def test_only_the_solver_knows_concrete_classes() -> None:
    classes = concrete_classes()
    assert len(classes) > 8
    homes = {cls.__module__.removeprefix("rstar_math.") for cls in classes}
    names = {cls.__name__ for cls in classes}
    known = []
    for name, path in structure.MODULES.items():
        package = name.partition(".")[0]
        if package in ("solver", "policies", "sandbox", "grading", "verification", "cli"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rstar_math."):
                home = (node.module or "").removeprefix("rstar_math.")
                if home in homes or home in ("grading", "sandbox"):
                    known += [(package, a.name) for a in node.names if a.name in names]
    assert known == []


def test_what_a_search_is_handed_cannot_hold_a_reference() -> None:
    """Policies, scorers, executors and `grow` are given questions, never problems."""
    handed = ("protocols", "search.", "policies.")
    for name, path in structure.MODULES.items():
        if name.startswith(handed):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
            assert "Problem" not in names, name


@pytest.mark.parametrize("command", ["import rstar_math", "import rstar_math.cli"])
def test_importing_the_package_and_the_command_loads_nothing_heavy(command: str) -> None:
    code = f"import sys; {command}; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {module.partition(".")[0] for module in run.stdout.split()} & HEAVY


def test_public_names_have_docstrings() -> None:
    bare = []
    for name, path in structure.MODULES.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if not ast.get_docstring(tree):
            bare.append(name)
        for node in tree.body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                private = node.name.startswith("_")
                if not private and not ast.get_docstring(node):
                    bare.append(f"{name}: {node.name}")
    assert bare == []


def test_the_public_names_are_these() -> None:
    assert sorted(rstar_math.__all__) == [
        "Config",
        "Problem",
        "Question",
        "RstarError",
        "RunTable",
        "Solution",
        "Solver",
        "Step",
        "Tree",
        "grow",
        "load_config",
        "read_problems",
        "read_run",
        "solve",
    ]
    for public in rstar_math.__all__:
        assert getattr(rstar_math, public).__doc__
    with pytest.raises(AttributeError):
        rstar_math.nonsense  # noqa: B018


EXTERNAL = {"inspect_ai", "log", "read_eval_log", "llama_cpp"}
"""Names of other packages in docstrings."""


def test_names_in_docstrings_and_comments_exist() -> None:
    """A rename also changes what is said about the name."""
    tokens = {
        name: list(tokenize.generate_tokens(io.StringIO(path.read_text("utf-8")).readline))
        for name, path in structure.MODULES.items()
    }
    known = {part for name in structure.MODULES for part in name.split(".")} | EXTERNAL
    for found in tokens.values():
        for token in found:
            if token.type == tokenize.NAME:
                known.add(token.string)
            elif token.type == tokenize.STRING and not is_docstring(token.string):
                known.update(re.findall(r"\w+", token.string))
    stale = [
        f"{name}:{token.start[0]} {span}"
        for name, found in tokens.items()
        for token in found
        if token.type == tokenize.COMMENT or is_docstring(token.string)
        for span in re.findall(r"`([A-Za-z_][\w.]*)(?:\([^`]*\))?`", token.string)
        if not set(span.strip(".").split(".")) <= known
    ]
    assert stale == []


def is_docstring(text: str) -> bool:
    """Whether a token is a string in three quotes, as docstrings are."""
    return text.startswith(('"""', 'f"""', 'r"""'))


EXTRAS = ["starlette", "uvicorn", "prometheus_client", "torch", "transformers", "trl", "peft"]
EXTRAS += ["datasets", "matplotlib", "ray", "xllamacpp", "reasoning_gym"]
WITHOUT_EXTRAS = [
    "viewer.export", "evaluation.report", "evaluation.interchange", "runs.store", "cli.solve",
    "cli.evaluate", "cli.jobs", "grading.grader", "sandbox.executor", "solver.solver",
    "search.mcts", "llm.client", "problems.sources", "training.curation.curate", "evolution.recipe",
]  # fmt: skip
"""What a bare installation can do: search with a server, grade, report, export."""


def test_a_bare_installation_needs_no_extra() -> None:
    code = (
        "import importlib, sys\n"
        f"for name in {EXTRAS}: sys.modules[name] = None\n"
        f"for name in {WITHOUT_EXTRAS}: importlib.import_module('rstar_math.' + name)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
