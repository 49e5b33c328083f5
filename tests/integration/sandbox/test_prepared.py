"""`from sympy import *` as the first statement is done beforehand: nobody may see a difference."""

import asyncio

import pytest

from rstar_math.config import SandboxConfig
from rstar_math.sandbox import Sandbox
from rstar_math.types import Execution, Step

LOOK = "print(len(globals()), sorted(set(globals()) - set(dir(__import__('sympy')))))"
LOOK_AT_ORDER = "print(hash(tuple(globals())), __name__, pi, Symbol is __import__('sympy').Symbol)"
PROGRAMS = (
    (f"from sympy import *\n{LOOK}",),
    (f"from sympy import *\n{LOOK_AT_ORDER}",),
    (f"# Solve it.\n\n   # Now.\nfrom sympy import *  # all\n{LOOK}\n1/0",),
    ("from sympy import *",),
    ("from sympy import *", LOOK),
    ("from sympy import *\ndef f(:", LOOK),
    ("x = 1\nfrom sympy import *", LOOK),
    ("pi = 3", "from sympy import *\nprint(pi)"),
    ("from sympy import *\npi = 3", "from sympy import *\nprint(pi)"),
    ('"""from sympy import *"""\nprint(pi)',),
    ("from sympy import *, os",),
    ("# A comment\rE = 5\nfrom sympy import *\nprint(E)",),
    ("from sympy import *\nx = Symbol('x')\nimport pickle\nprint(pickle.loads(pickle.dumps(x)))",),
    (
        "from sympy import *\nfrom dataclasses import dataclass\n@dataclass\nclass A:\n"
        "    a: int = 1\nimport __main__\nprint(__main__.A(), __main__.pi)",
    ),
)


async def results(skip: frozenset[str]) -> list[Execution]:
    async with Sandbox(SandboxConfig(workers=1), _skip=skip) as sandbox:
        found = []
        for *prefix, step in PROGRAMS:
            found.append(await sandbox.run([Step(code=c) for c in prefix], Step(code=step)))
        return found


def told(execution: Execution) -> tuple[object, ...]:
    return execution.status, execution.stdout, execution.error_type, execution.message


def test_the_same_programs_say_the_same_with_and_without_it() -> None:
    with_it = asyncio.run(results(frozenset()))
    without = asyncio.run(results(frozenset({"prepared"})))
    assert [told(e) for e in with_it] == [told(e) for e in without]
    assert {e.status.value for e in with_it} == {"ok", "error"}


@pytest.mark.parametrize("way", ["prepared", "huge_pages"])
def test_one_snippet_never_sees_the_prepared_names_changed_by_another(way: str) -> None:
    async def run() -> list[str]:
        async with Sandbox(SandboxConfig(workers=1), _skip={way}) as sandbox:
            first = await sandbox.run(
                (), Step(code="from sympy import *\npi = 4\nglobals()['E'] = 1\ndel sin\nprint(pi)")
            )
            second = await sandbox.run((), Step(code="from sympy import *\nprint(pi, E, sin(0))"))
            return [first.stdout, second.stdout]

    assert asyncio.run(run()) == ["4\n", "pi E 0\n"]


def test_a_fan_out_begins_with_the_same_names() -> None:
    async def run() -> list[str]:
        async with Sandbox(SandboxConfig(workers=1)) as sandbox:
            prefix = [Step(code="from sympy import *\nx = Symbol('x')")]
            steps = [Step(code=f"print(expand((x + {n})**2), pi)") for n in range(6)]
            found = await asyncio.gather(*(sandbox.run(prefix, step) for step in steps))
            return [e.stdout for e in found]

    assert asyncio.run(run())[:2] == ["x**2 pi\n", "x**2 + 2*x + 1 pi\n"]
