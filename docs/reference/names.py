"""The page of public names."""

import ast
import inspect
from collections.abc import Iterator
from importlib import import_module

from docs.reference.markdown import cell, plain

MODULES = {
    "rstar_math": "What most programs need.",
    "rstar_math.protocols": "Extension interfaces. Any class with these methods works.",
    "rstar_math.types": "The data types that all packages share.",
    "rstar_math.search": "Searching with your own components.",
    "rstar_math.solver": "Solving questions and problems.",
    "rstar_math.llm.connect": "Addresses to models.",
    "rstar_math.policies.completions": "Policies made of a model.",
    "rstar_math.sandbox": "Running code that a model wrote.",
    "rstar_math.grading": "Extracting answers and deciding whether two are equal.",
    "rstar_math.problems": "Reading problems.",
    "rstar_math.training.curation": "From trees to training data.",
    "rstar_math.testing": "Stand-ins: a toy world, scripted models, a fake server.",
    "rstar_math.errors": "What can go wrong.",
}
"""The modules of the API page, in its order."""


def api_page() -> str:
    """The page of public names."""
    lines = ["# Python", "", "Names that are not on this page may change without notice.", ""]
    for name, said in MODULES.items():
        lines += [f"## {name}", "", said, ""]
        for public in public_names(name):
            lines += entry(name, public)
    return "\n".join(lines)


def public_names(module: str) -> list[str]:
    """`__all__` of a module, or the public functions and classes that it defines."""
    loaded = import_module(module)
    own = (
        name
        for name, value in vars(loaded).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module
    )
    return list(getattr(loaded, "__all__", own))


def entry(module: str, name: str) -> list[str]:
    """One public name: signature, docstring, fields and methods."""
    value = getattr(import_module(module), name)
    heading = [f"### {name}", ""]
    if not (inspect.isclass(value) or inspect.isfunction(value)):
        return [*heading, f"`{name} = {cell(repr(value))[:80]}`", ""]
    node = ast.parse(inspect.cleandoc("\n" + inspect.getsource(value))).body[0]
    doc = plain(inspect.getdoc(value) or "")
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return [*heading, "```python", signature(node), "```", "", doc, ""]
    assert isinstance(node, ast.ClassDef)
    bases = ", ".join(ast.unparse(base) for base in node.bases)
    lines = [
        *heading,
        "```python",
        f"class {name}({bases})" if bases else f"class {name}",
        "```",
        "",
        doc,
        "",
    ]
    for field, said in fields(node):
        lines += [f"- `{field}`" + (f": {plain(' '.join(said.split()))}" if said else "")]
    lines.append("")
    for method in node.body:
        if isinstance(
            method, ast.FunctionDef | ast.AsyncFunctionDef
        ) and not method.name.startswith("_"):
            said = inspect.cleandoc(ast.get_docstring(method) or "")
            lines += [
                f"#### {name}.{method.name}",
                "",
                "```python",
                signature(method),
                "```",
                "",
                plain(said),
                "",
            ]
    return lines


def fields(node: ast.ClassDef) -> Iterator[tuple[str, str]]:
    """Annotated fields (or members of an enumeration) with the docstring under each."""
    for statement, after in zip(node.body, [*node.body[1:], None], strict=True):
        said = ""
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            said = str(after.value.value)
        if isinstance(statement, ast.AnnAssign | ast.Assign) and not ast.unparse(
            statement
        ).startswith("_"):
            yield ast.unparse(statement), said


def signature(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """A definition's first lines; one parameter a line where one line is too long."""
    word = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
    decorated = "".join(f"@{ast.unparse(d)}\n" for d in node.decorator_list)
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    given = list(parameters(node.args))
    line = f"{word} {node.name}({', '.join(given)}){returns}"
    if len(line) > 88:
        lines = "".join(f"    {parameter},\n" for parameter in given)
        line = f"{word} {node.name}(\n{lines}){returns}"
    return decorated + line


def parameters(args: ast.arguments) -> Iterator[str]:
    """Each parameter with its type and default."""

    def one(arg: ast.arg, default: ast.expr | None = None, stars: str = "") -> str:
        typed = f": {ast.unparse(arg.annotation)}" if arg.annotation else ""
        return f"{stars}{arg.arg}{typed}" + (f" = {ast.unparse(default)}" if default else "")

    plain_ones = [*args.posonlyargs, *args.args]
    none: list[ast.expr | None] = [None] * (len(plain_ones) - len(args.defaults))
    for arg, default in zip(plain_ones, [*none, *args.defaults], strict=True):
        yield one(arg, default)
    if args.vararg:
        yield one(args.vararg, stars="*")
    elif args.kwonlyargs:
        yield "*"
    for arg, default in zip(args.kwonlyargs, args.kw_defaults, strict=True):
        yield one(arg, default)
    if args.kwarg:
        yield one(args.kwarg, stars="**")
