"""Files, functions, tests, options and modules that the documentation names exist."""

import ast
import re
from functools import cache

import pytest
from pydantic import BaseModel

from rstar_math.config import Config
from rstar_math.evolution.recipe import Recipe
from tests.unit.docs.pages import ROOT, WRITTEN, name, spans, text

PAGES = [name(path) for path in WRITTEN]
SOURCE = ROOT / "src" / "rstar_math"
FILE = re.compile(r"(?:[\w.<>-]+/)*[\w-]+\.(?:py|toml|css|svg|yml)\Z")
OTHER_FILES = (".md", ".json", ".jsonl", ".gz", ".gguf", ".rstar", ".html")
USERS_FILES = {"score.py"}
"""Files of the reader's."""
FOREIGN = {"generation_config.json", "inspect_ai.log.read_eval_log"}
"""Dated: it may name what is gone."""


def known_file(path: str) -> bool:
    """Whether a path names a file of the repository, from its root or from the package; a test's
    or a module's bare name will do."""
    places = (ROOT / path, SOURCE / path, ROOT / "docs" / path)
    if any(place.exists() for place in places) or "NAME" in path or path in USERS_FILES:
        return True
    return "/" not in path and any((ROOT / "tests").rglob(path))


@cache
def words() -> frozenset[str]:
    """Every word of the project's source."""
    folders = ("src", "tests", "benchmarks", "examples", "docs")
    found: set[str] = {"Makefile", "pyproject"}
    for folder in folders:
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".py", ".toml", ".txt", ".css", ".js"):
                found |= set(re.findall(r"\w+", path.read_text(encoding="utf-8")))
    return frozenset(found)


@cache
def known_tests() -> frozenset[str]:
    """The names of all tests."""
    files = (ROOT / "tests").rglob("test_*.py")
    return frozenset(n for f in files for n in re.findall(r"def (test_\w+)", f.read_text()))


@cache
def defined(path: str) -> frozenset[str]:
    """Functions, classes, methods and assigned names of a file of the package, or of a folder."""
    place = SOURCE / path
    found: set[str] = set()
    for file in place.rglob("*.py") if place.is_dir() else [place]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                found.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                found.add(node.id)
    return frozenset(found)


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_is_named_exists(page: str) -> None:
    assert [span for span in spans(page) if FILE.match(span) and not known_file(span)] == []


@pytest.mark.parametrize("page", PAGES)
def test_every_test_that_is_named_exists(page: str) -> None:
    named = [span for span in spans(page) if re.match(r"test_\w+(\.\.\.)?\Z", span)]
    lost = [one for one in named if not any(t.startswith(one.rstrip(".")) for t in known_tests())]
    lost += [one for one in named if not one.endswith("...") and one not in known_tests()]
    assert lost == []


@pytest.mark.parametrize("page", PAGES)
def test_every_module_and_identifier_that_is_named_occurs_in_the_source(page: str) -> None:
    """Words of code with an underscore or a capital within, and dotted paths of the package."""
    lost = []
    for span in spans(page):
        one = span.removesuffix("()")
        if one in FOREIGN or FILE.match(one) or not re.match(r"[A-Za-z]\w*(\.\w+)*\Z", one):
            continue
        if one.startswith("rstar_math."):
            lost += [] if resolved(one) else [span]
        elif "_" in one or re.search(r"[a-z][A-Z]", one):
            lost += [span for part in one.split(".") if part not in words()]
    assert sorted(set(lost)) == []


def resolved(dotted: str) -> bool:
    """Whether a dotted path is a module of the package or a name in one."""
    path = SOURCE.joinpath(*dotted.split(".")[1:])
    if path.is_dir() or path.with_suffix(".py").exists():
        return True
    file, folder = path.parent.with_suffix(".py"), path.parent / "__init__.py"
    home = file if file.exists() else folder
    return home.exists() and path.name in home.read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES)
def test_every_option_of_the_configuration_that_is_named_exists(page: str) -> None:
    lost = []
    for span in spans(page):
        key = re.match(r"([a-z_]+)\.(?:N\.|\d\.)?([a-z_A-Z]+)(?:\s*=.*)?\Z", span)
        if not key or FILE.match(span) or span.endswith(OTHER_FILES):
            continue
        section, option = key.groups()
        both = (Recipe.model_fields, Config.model_fields)
        sections = [str(fields[section].annotation) for fields in both if section in fields]
        if sections and option != "KEY":
            known = re.findall(r"\w+", " ".join(sections))
            models = [model for model in _models() if model.__name__ in known]
            lost += [] if any(option in model.model_fields for model in models) else [span]
    assert lost == []


@pytest.mark.parametrize("page", PAGES)
def test_every_bare_setting_that_is_named_exists(page: str) -> None:
    """As in `lora=16`: an option of some section."""
    known = {option for model in _models() for option in model.model_fields}
    said = [re.match(r"([a-z_]{2,}) ?= ?[^=\s].*\Z", span) for span in spans(page)]
    lost = {one[1] for one in said if one and one[1] not in known}
    assert lost <= set(), page


@pytest.mark.parametrize(
    ("page", "least"),
    [("docs/fidelity.md", 20), ("docs/design.md", 30), ("docs/evolution.md", 15)],
)
def test_the_functions_of_a_table_are_in_the_files_beside_them(page: str, least: int) -> None:
    """A cell says `FILE`, then `name`s that are defined there."""
    rows = [row for row in text(page).splitlines() if row.startswith("| ")]
    checked = 0
    for row in rows:
        for cell in row.split(" | "):
            found = re.findall(r"`([\w./]+)`", cell)
            files = [one for one in found if FILE.match(one) and (SOURCE / one).exists()]
            files = [one for one in files if one.endswith(".py")]
            names = [one for one in found if re.match(r"_?[A-Za-z]\w*(\.\w+)?\Z", one)]
            names = [one for one in names if not one.startswith("test_") and one not in files]
            if files:
                where = frozenset().union(*(defined(file) for file in files))
                assert [one for one in names if not set(one.split(".")) <= where] == [], row
                checked += len(names)
    assert checked >= least


def _models() -> list[type[BaseModel]]:
    """Every section of the configuration, of curation, of training and of a recipe."""
    from rstar_math.evolution import recipe
    from rstar_math.training import settings

    homes = (recipe, settings)
    found = [v for home in homes for v in vars(home).values() if hasattr(v, "model_fields")]
    return [*found, *(type(getattr(Config(), name)) for name in Config.model_fields)]
