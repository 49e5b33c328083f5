"""Programs run one process per input. What they print or return is compared outside of it, so no
hostile program passes."""

import asyncio
import json
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest

from rstar_math.problems import read_problems
from rstar_math.sandbox import Sandbox
from rstar_math.tasks import CallTest, CodeTask, HiddenTests, StreamTest
from rstar_math.types import Problem, Question, Step, Verdict
from rstar_math.verification.agreement import generate_inputs, verified_tests
from rstar_math.verification.code import ExampleScorer, executor_for
from rstar_math.verification.judges import Judges
from rstar_math.verification.programs import ProgramRunner

EXAMPLES = Path(__file__).parents[3] / "examples" / "problems"
SOLUTIONS = json.loads((Path(__file__).parents[2] / "data" / "example_programs.json").read_text())
SECRET = 918273645
ADD = Problem(
    Question("add", "Add.", CodeTask("add", examples=(CallTest("add(1, 2)", "3"),), time_s=1.0)),
    HiddenTests((CallTest("add(20, 22)", "42"), CallTest(f"add({SECRET}, 1)", str(SECRET + 1)))),
)
SUM = Problem(
    Question("sum", "Sum.", CodeTask(examples=(StreamTest("1 2\n", "3\n"),), time_s=1.0)),
    HiddenTests((StreamTest(f"{SECRET} 1\n", f"{SECRET + 1}\n"),)),
)
T = TypeVar("T")


def with_judges(work: Callable[[Judges], Coroutine[Any, Any, T]]) -> T:
    async def run() -> T:
        async with Judges() as judges:
            return await work(judges)

    return asyncio.run(run())


def judged(problem: Problem, programs: Sequence[str]) -> list[Verdict]:
    async def work(judges: Judges) -> list[Verdict]:
        verifier = judges.verifier(problem)
        return list(await asyncio.gather(*(verifier.judge(program) for program in programs)))

    return with_judges(work)


HOSTILE_FUNCTIONS = {
    "exits early with code 0": "import os\ndef add(a, b):\n    os._exit(0)\n",
    "ends the process while it is loaded": "import sys\nsys.exit(0)\n",
    "equals everything": """
class Equal:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __hash__(self): return 0
def add(a, b):
    return Equal()
""",
    "an int that equals everything": """
class Equal(int):
    def __eq__(self, other): return True
    __hash__ = int.__hash__
def add(a, b):
    return Equal(7)
""",
    "reads the tests in the frames of its callers": """
import sys
def add(a, b):
    frame, seen = sys._getframe(), []
    while frame:
        seen += [v for v in {**frame.f_locals, **frame.f_globals}.values()]
        frame = frame.f_back
    for value in seen:
        for key in ("expected", "returns", "tests", "reference"):
            if isinstance(value, dict) and key in value: return value[key]
            if hasattr(value, key): return getattr(value, key)
    return None
""",
    "searches all objects for the expected value": f"""
import gc
def add(a, b):
    for thing in gc.get_objects():
        try:
            text = repr(thing)
        except Exception:
            continue
        for word in ("{SECRET + 1}", "expected", "42"):
            if word in text and "gc.get_objects" not in text and len(text) < 400:
                return eval(word) if word.isdigit() else None
    return None
""",
    "patches json and prints what it likes": """
import json
json.dumps = lambda *a, **k: '{"i": "0x3"}'
def add(a, b):
    return 3
""",
    "patches the comparison of the operators": """
import builtins, operator
operator.eq = lambda a, b: True
builtins.all = lambda *a: True
builtins.isinstance = lambda *a: True
def add(a, b):
    return 0
""",
    "patches its own harness": """
import sys
main = sys.modules["__main__"]
main._encode = lambda value, depth=0: True
def add(a, b):
    return None
""",
    "writes a verdict to the report": """
import os
def add(a, b):
    os.write(3, b'{"status": "ok", "verdict": "right"}')
    os._exit(0)
""",
    "prints the mark of a result": """
import os
def add(a, b):
    os.write(1, b"\\n\\x1eRESULT:true\\n")
    os._exit(0)
""",
    "prints all small numbers as results": """
import os
def add(a, b):
    for n in range(99):
        os.write(1, b"\\n\\x1eRESULT:{\\"i\\": \\"%s\\"}\\n" % hex(n).encode())
    return 0
""",
    "opens files for tests": """
import glob
def add(a, b):
    for name in glob.glob("/tmp/**/*.jsonl", recursive=True) + glob.glob("*.jsonl"):
        return eval(open(name).readline())
    raise RuntimeError("nothing to read")
""",
    "reads the memory of its parent": """
import os
def add(a, b):
    return open(f"/proc/{os.getppid()}/mem", "rb").read(100)
""",
    "never ends": "def add(a, b):\n    while True: pass\n",
    "takes all memory": "def add(a, b):\n    return len('a' * 10**11)\n",
    "forks to answer twice": """
import os
def add(a, b):
    return 3 if os.fork() else 42
""",
    "a dictionary that has every key": """
class Every(dict):
    def __getitem__(self, key): return 42
    def __eq__(self, other): return True
def add(a, b):
    return Every()
""",
    "not a number": "def add(a, b):\n    return float('nan')\n",
    "a list that holds itself": "def add(a, b):\n    x = []\n    x.append(x)\n    return x\n",
    "knows the public test": "def add(a, b):\n    return 3\n",
    "replaces eval": "import builtins\nbuiltins.eval = lambda *a: 3\ndef add(a, b): return 3\n",
    "raises its answer": "def add(a, b):\n    raise SystemExit(0)\n",
    "closes its output": "import os\nos.close(1)\ndef add(a, b):\n    return a + b + 1\n",
}
HOSTILE_PROGRAMS = {
    "exits early": "import os\nos._exit(0)\n",
    "prints nothing and succeeds": "raise SystemExit(0)\n",
    "prints the public output": "print(3)\n",
    "prints its own source": "import sys\nprint(sys._getframe(1).f_locals)\n",
    "prints every number": "for n in range(1000): print(n)\n",
    "right output, then dies": "print(sum(map(int, input().split())))\nimport os\nos.abort()\n",
    "prints more than allowed": "print('3' * 10**8)\n",
    "patches print": "import builtins\nbuiltins.print = lambda *a: None\nprint(3)\n",
}


@pytest.mark.parametrize(
    ("problem", "hostile", "honest"),
    [
        (ADD, HOSTILE_FUNCTIONS, "def add(a, b):\n    return a + b\n"),
        (SUM, HOSTILE_PROGRAMS, "print(sum(map(int, input().split())))\n"),
    ],
)
def test_no_hostile_program_passes(problem: Problem, hostile: dict[str, str], honest: str) -> None:
    verdicts = judged(problem, [*hostile.values(), honest])
    passed = [name for name, v in zip(hostile, verdicts, strict=False) if v is not Verdict.WRONG]
    assert passed == []
    assert verdicts[-1] is Verdict.RIGHT


def test_a_process_sees_one_input_and_no_output() -> None:
    spy = "import sys\ndef add(a, b):\n    return repr([f.f_locals for f in _frames()])\n"
    spy += "def _frames():\n    f = sys._getframe()\n    while f:\n        yield f\n"
    spy += "        f = f.f_back\n"

    async def work(judges: Judges) -> str:
        assert isinstance(ADD.question.task, CodeTask)
        runner = ProgramRunner(judges.sandbox, ADD.question.task)
        return (await runner.run(spy, "add(20, 22)")).output or ""

    seen = with_judges(work)
    assert "add(20, 22)" in seen
    assert str(SECRET) not in seen
    assert "'42'" not in seen


@pytest.mark.parametrize("name", ["functions", "programs"])
def test_the_example_problems_are_solved_by_their_solutions_and_no_other(name: str) -> None:
    problems = read_problems(EXAMPLES / f"{name}.jsonl")

    async def work(judges: Judges) -> list[tuple[Verdict, Verdict]]:
        others = [SOLUTIONS[p.id] for p in problems[1:] + problems[:1]]
        own = await asyncio.gather(*(judges.judge(p, SOLUTIONS[p.id]) for p in problems))
        wrong = await asyncio.gather(
            *(judges.judge(p, other) for p, other in zip(problems, others, strict=True))
        )
        return list(zip(own, wrong, strict=True))

    assert len(problems) == 20
    assert with_judges(work) == [(Verdict.RIGHT, Verdict.WRONG)] * 20


def test_values_cross_as_they_are_and_floats_differ_only_where_the_set_says_so() -> None:
    def verdict(returned: str, expected: str, tolerance: float | None = None) -> Verdict:
        problem = Problem(
            Question("f", "f", CodeTask("f")), HiddenTests((CallTest("f()", expected, tolerance),))
        )
        return judged(problem, [f"def f():\n    return {returned}\n"])[0]

    right = [
        ("(1, [2, {3}], {'a': b'x'})", "(1, [2, {3}], {'a': b'x'})"),
        ("2 ** 400", "2 ** 400"),
        ("frozenset([1])", "{1}"),
        ("float('nan')", "float('nan')"),
        ("1.0", "1"),
        ("[*'ab'] * 3", "['a', 'b'] * 3"),
        ("__import__('collections').Counter('aab')", "{'a': 2, 'b': 1}"),
    ]
    wrong = [
        ("[1]", "(1,)"),
        ("'1'", "1"),
        ("0.1 + 0.2", "0.3"),
        ("None", "False"),
        ("{1: 2}", "{1}"),
    ]
    assert [verdict(*pair) for pair in right] == [Verdict.RIGHT] * len(right)
    assert [verdict(*pair) for pair in wrong] == [Verdict.WRONG] * len(wrong)
    assert verdict("0.1 + 0.2", "0.3", 1e-9) is Verdict.RIGHT
    assert verdict("0.31", "0.3", 1e-9) is Verdict.WRONG
    assert verdict("float('inf')", "1e308", 1e-3) is Verdict.WRONG


def test_standard_input_is_read_in_every_way() -> None:
    ways = [
        "a, b = map(int, input().split())\nprint(a + b)",
        "import sys\nprint(sum(map(int, sys.stdin.read().split())))",
        "import sys\nprint(sum(map(int, sys.stdin.buffer.readline().split())))",
        "print(sum(map(int, open(0).read().split())))",
        "import sys\nfor line in sys.stdin:\n    print(sum(map(int, line.split())), end='')",
        "def main():\n    print(eval(input().replace(' ', '+')), '  ')\n"
        "if __name__ == '__main__':\n    main()\n",
    ]
    assert judged(SUM, ways) == [Verdict.RIGHT] * len(ways)


def test_programs_with_the_same_outputs_vote_together() -> None:
    programs = [
        "def add(a, b):\n    return a + b\n",
        "def add(a, b):\n    # In another way.\n    return sum([a, b])\n",
        "def add(a, b):\n    return 3\n",
        "def add(a, b):\n    return 1 / 0\n",
        "def add(a, b):\n    raise ValueError\n",
        "def add(a, b):\n    return 1 / 0  # again\n",
    ]
    public = CodeTask("add", examples=(CallTest("add(*map(int, '12'))", "3"),))
    more = CodeTask("add", examples=public.examples, inputs=("add(5, 6)",))
    generated = CodeTask("add", examples=(CallTest("add(1, 2)", "3"),))

    async def work(judges: Judges) -> list[list[int]]:
        tasks = (public, more, generated)
        return [await judges.grouper(Question("q", "", task))(programs) for task in tasks]

    found = with_judges(work)
    assert found[0] == [0, 0, 0, 1, 2, 1]
    assert found[1] == found[2] == [0, 0, 1, 2, 3, 2]


def test_public_tests_value_programs_and_feed_the_steps() -> None:
    async def work() -> tuple[list[float], str, list[str]]:
        async with Sandbox() as sandbox:
            task = CodeTask(
                "add", examples=(CallTest("add(1, 2)", "3"), CallTest("add(2, 2)", "4"))
            )
            question = Question("add", "Add.", task)
            good = Step(code="def add(a, b):\n    return a + b\n", kind="code")
            half = Step(code="def add(a, b):\n    return 3\n", kind="code")
            started = Step(code="x = 1\n", kind="step")
            values = await ExampleScorer(sandbox).score(question, [[good], [half], [started], []])
            executor = executor_for(SUM.question, sandbox)
            first = Step(code="a, b = map(int, input().split())\n")
            run = await executor.run([first], Step(code="print(a * b)\n"))
            setup = CodeTask("f", setup="def twice(x):\n    return 2 * x\n")
            given = executor_for(Question("f", "", setup), sandbox)
            shown = await given.run([], Step(code="print(twice(4))\n"))
            return values, run.stdout, [shown.stdout]

    values, printed, given = asyncio.run(work())
    assert values == [1.0, 0.0, 0.0, 0.0]
    assert printed == "2\n"
    assert given == ["8\n"]


def test_tests_are_made_where_the_solutions_agree_on_all_outputs() -> None:
    task = CodeTask("top", examples=(CallTest("top([3, 1, 2])", "3"),))
    programs = [
        "def top(a):\n    return max(a)\n",
        "def top(a):\n    return sorted(a)[-1]\n",
        "def top(a):\n    a = list(a)\n    a.sort(reverse=True)\n    return a[0]\n",
        "def top(a):\n    return a[0]\n",
    ]
    inputs = generate_inputs(task, seed=1, count=20)
    assert len(set(inputs)) == len(inputs) > 10
    assert inputs == generate_inputs(task, seed=1, count=20)

    async def work(judges: Judges, programs: list[str]) -> Any:
        return await verified_tests(judges.sandbox, task, programs, inputs, min_agreement=3)

    tests = with_judges(lambda judges: work(judges, programs))
    assert tests
    assert all(max(eval(t.call.removeprefix("top"))) == int(t.expected) for t in tests)
    few = with_judges(lambda judges: work(judges, programs[:2] + programs[3:]))
    assert few == ()
