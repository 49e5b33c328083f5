"""The structure of the source tree: modules, imports, layers, cycles, sizes.

    python -m tests.structure

prints a summary and every offence; `tests/unit/test_structure.py` asserts that there are none.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PACKAGE = "rstar_math"
SOURCE = Path(__file__).resolve().parents[1] / "src" / PACKAGE
LAYERS: tuple[tuple[str, ...], ...] = (
    ("", "tasks", "types", "protocols", "errors", "seeding", "text", "files", "concurrency",
     "confidence", "costs", "rejected", "progress", "redaction", "tracking"),
    ("config", "extraction", "task_records"),
    ("search", "prompts", "grading", "sandbox", "problems", "checkpoints"),
    ("models", "verification"),
    ("policies",),
    ("llm",),
    ("ppm",),
    ("scorers",),
    ("runs",),
    ("training",),
    ("solver",),
    ("evaluation", "distributed"),
    ("evolution",),
    ("publishing",),
    ("web",),
    ("viewer",),
    ("serve",),
    ("cli",),
    ("testing",),
)  # fmt: skip
"""Lowest first. A package imports from its own layers below and, but for the first layer, from no
other package of its layer."""
MAX_LINES = 500
MAX_FUNCTION_LINES = 60
MAX_POSITIONAL = 5


@dataclass(frozen=True)
class Import:
    """One module that imports another, at import time or in a function."""

    source: str
    target: str
    line: int


def name_of(path: Path) -> str:
    """A module's name without the package's: "search.mcts", or "" for the root."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(SOURCE.rglob("*.py"))}


def imports_of(name: str) -> Iterator[Import]:
    """All imports of a module from this package, those in functions counted."""
    path = MODULES[name]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and name:  # the root only re-exports
            base = node.module or ""
            if node.level:
                above = name.split(".")
                above = above if path.name == "__init__.py" else above[:-1]
                above = above[: len(above) - node.level + 1]
                base = ".".join([PACKAGE, *above, *([base] if base else [])])
            if base != PACKAGE and not base.startswith(f"{PACKAGE}."):
                continue
            base = base.removeprefix(PACKAGE).removeprefix(".")
            for alias in node.names:
                whole = f"{base}.{alias.name}".removeprefix(".")
                yield Import(name, whole if whole in MODULES else base, node.lineno)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith(f"{PACKAGE}."):
                    yield Import(name, alias.name.removeprefix(f"{PACKAGE}."), node.lineno)


IMPORTS = [one for name in MODULES for one in imports_of(name)]


def layer_of(name: str) -> int:
    """The number of a module's layer. Raises `LookupError` for a package that has none."""
    package = name.partition(".")[0]
    for number, layer in enumerate(LAYERS):
        if package in layer:
            return number
    raise LookupError(f"{package} has no layer; add it to LAYERS")


def wrong_imports() -> list[str]:
    """Imports from a higher layer, or from another package of the same one."""
    found = []
    for one in IMPORTS:
        here, there = layer_of(one.source), layer_of(one.target)
        same = one.source.partition(".")[0] == one.target.partition(".")[0]
        if there > here or (here == there > 0 and not same):
            found.append(f"{one.source}:{one.line} imports {one.target}")
    return found


def cycles() -> list[str]:
    """Groups of modules that import each other; a package's `__init__` may import its modules."""
    graph: dict[str, set[str]] = {name: set() for name in MODULES}
    for one in IMPORTS:
        if one.source != one.target:
            graph[one.source].add(one.target)
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[str] = []

    def visit(name: str) -> None:
        order[name] = low[name] = len(order)
        stack.append(name)
        for other in sorted(graph[name]):
            if other not in order:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], order[other])
        if low[name] == order[name]:
            group = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(group) > 1:
                found.append(", ".join(sorted(group)))

    for name in sorted(graph):
        if name not in order:
            visit(name)
    return found


def imports_of_testing() -> list[str]:
    """Production imports of `rstar_math.testing`."""
    return [
        f"{one.source}:{one.line}"
        for one in IMPORTS
        if one.target.partition(".")[0] == "testing" != one.source.partition(".")[0]
    ]


def long_files() -> list[str]:
    """Modules above 500 lines."""
    counts = {name: path.read_text(encoding="utf-8").count("\n") for name, path in MODULES.items()}
    return [f"{name}: {count}" for name, count in counts.items() if count > MAX_LINES]


def functions() -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """All functions and methods, with where they are."""
    for name, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{name}:{node.name}", node


def long_functions() -> list[str]:
    """Functions above 60 lines, or with more than 5 positional parameters (but for commands, whose
    parameters are their options)."""
    found = []
    for where, node in functions():
        length = (node.end_lineno or node.lineno) - node.lineno + 1
        positional = [a for a in node.args.args if a.arg not in ("self", "cls")]
        if length > MAX_FUNCTION_LINES:
            found.append(f"{where}: {length} lines")
        if len(positional) > MAX_POSITIONAL and not where.startswith("cli."):
            found.append(f"{where}: {len(positional)} parameters")
    return found


def main() -> None:
    """Print the summary and all offences."""
    lines = sum(path.read_text(encoding="utf-8").count("\n") for path in MODULES.values())
    packages = sum(path.name == "__init__.py" for path in MODULES.values())
    print(f"modules: {len(MODULES) - packages} and {packages} packages")
    print(f"lines: {lines}")
    for title, offences in (
        ("imports against the layers", wrong_imports()),
        ("cycles", cycles()),
        (f"modules over {MAX_LINES} lines", long_files()),
        ("long functions", long_functions()),
        ("production imports of testing", imports_of_testing()),
    ):
        print(f"{title}: {len(offences) or 'none'}")
        for offence in offences:
            print(f"  {offence}")


if __name__ == "__main__":
    main()
