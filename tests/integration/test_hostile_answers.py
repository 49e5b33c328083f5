"""Hostile answers: each is judged in bounded time, none is taken for right, nothing in them is
run."""

import asyncio
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rstar_math.config import GradingConfig
from rstar_math.grading import Grader, extract_answer, grade
from rstar_math.types import Verdict

_CODE = (
    "__import__('os').system('touch {mark}')",
    "eval(\"__import__('os').system('touch {mark}')\")",
    'exec(\'open("{mark}", "w")\')',
    "open('{mark}', 'w').write('x')",
    "(lambda: open('{mark}', 'w'))()",
    "[open('{mark}', 'w') for _ in [1]]",
    "Rational(__import__('os').system('touch {mark}'), 2)",
    "sqrt(open('{mark}','w'))",
    "$__import__('os').system('touch {mark}')$",
    "\\boxed{{__import__('os').system('touch {mark}')}}",
    "\\frac{{__import__('os').system('touch {mark}')}}{{2}}",
    "().__class__.__base__.__subclasses__()",
    "5; import os; os.system('touch {mark}')",
    "5 if open('{mark}','w') else 5",
    'f\'{{open("{mark}","w")}}\'',
    "\\write18{{touch {mark}}}5",
    "\\input{{/etc/passwd}}",
    "Matrix([[open('{mark}','w')]])",
    "\\int_0^1 __import__('os').system('touch {mark}') dx",
    "\\sum_{{k=1}}^{{open('{mark}','w')}} k",
)
_HUGE = (
    "9**9**9**9",
    "10^{10^{10}}",
    "10^{10^{10^{10}}}",
    "2^{2^{2^{2^{2^{2}}}}}",
    "9^{9^{9^{9^{9}}}}",
    "10**10**10",
    "(10^{10})!",
    "9999999999!",
    "((((9!)!)!)!)!",
    "100000!!",
    "factorial(10**9)",
    "\\binom{10^{12}}{5\\cdot10^{11}}",
    "binomial(10**10, 5*10**9)",
    "\\sin(10^{10^{10}})",
    "\\sin(9^{9^{9}})",
    "\\ln(10^{10^{10^{5}}})",
    "1e999999999",
    "1e-999999999",
    "e^{e^{e^{e^{e}}}}",
    "\\sqrt[10^{10}]{2}",
    "0.1^{10^{12}}",
    "(1+x)^{10^{9}}",
    "(x+y+z)^{1000000}",
    "x^{x^{x^{x^{x}}}}",
    "\\sum_{k=1}^{10^{12}} k^{10}",
    "\\prod_{k=1}^{10^9} (1+1/k)",
    "\\int_0^{10^9} e^{e^{x}} dx",
    "\\sum_{n=1}^{\\infty}\\sum_{m=1}^{\\infty} \\frac{1}{n^2m^2+nm+1}",
    "\\int_0^1\\int_0^1\\int_0^1 \\sin(xyz)^{xyz} dx dy dz",
    "\\lim_{x\\to 0} x^{x^{x^{x}}}",
    "1" * 100_000,
    "1" * 5_000 + "/" + "3" * 5_000,
    "0." + "3" * 50_000,
    "0.\\overline{" + "123456789" * 100 + "}",
    "1/0",
    "0^0",
    "\\frac{0}{0}",
    "1_{99999999}",
    "z" * 20 + "_{36}",
)
_SHAPES = (
    "",
    " ",
    "\\boxed{}",
    "$$",
    "\\(\\)",
    ".",
    "{}",
    "()",
    "[]",
    "\\frac{}{}",
    "\\sqrt{}",
    "^",
    "_",
    "5_{",
    "5^",
    "5^{",
    "5_",
    "5)",
    "(5",
    "5]",
    "{5",
    "5}}",
    "\\frac{5}",
    "5 5",
    "55",
    "5,5",
    "5 or 6",
    "5 or anything",
    "5\x00",
    "\ud800",
    "5\u202e6",
    "|" * 2_000,
    "(" * 2_000 + "5" + ")" * 2_000,
    "{" * 1_400 + "5" + "}" * 1_400,
    "[" * 1_400 + "5" + "]" * 1_400,
    "-" * 2_000 + "6",
    "+-" * 900 + "6",
    "\\sqrt{" * 400 + "6" + "}" * 400,
    "\\frac{1}{" * 300 + "6" + "}" * 300,
    "2^{" * 600 + "2" + "}" * 600,
    "x" * 2_999,
    "x+" * 1_400 + "x",
    "x*" * 1_400 + "x",
    "1+" * 1_400 + "1",
    ",".join("1" * 1_400),
    "\\{" + ",".join(f"\\sqrt{{{k}}}" for k in range(180)) + "\\}",
    "sin" * 900 + "x",
    "!" * 2_000,
    "'" * 2_000,
    "6" + "'" * 2_000,
    "\\boxed{" * 20_000,
    "\\boxed{" * 20_000 + "6" * 5,
    "\\boxed{5" * 20_000,
    "the answer is " * 20_000,
    "answer: " * 20_000 + "6",
    "$" * 50_000,
    "\\left" * 500,
    "\\begin{pmatrix}" * 100,
    "\\begin{pmatrix}" + "1&" * 1_400 + "1\\end{pmatrix}",
    "\\begin{cases}" + "x\\\\" * 300 + "\\end{cases}",
    "x<" * 900 + "x",
    "\\pm" * 500 + "6",
    "\\pm1" * 30,
    "1,000" * 500,
    "1 000" * 500,
    "0." + "12" * 900 + "...",
    "\\text{" * 500 + "6" + "}" * 500,
    "a" * 1_000_000,
    "\\" * 3_000,
    "\n" * 3_000 + "6",
)


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "mark"


def test_no_hostile_answer_is_right_slow_or_run(mark: Path) -> None:
    code = [text.format(mark=mark) for text in _CODE]

    async def judge_all() -> list[tuple[str, Verdict, float]]:
        judged = []
        async with Grader(GradingConfig(workers=1)) as grader:
            await grader.compare("\\sqrt{8}", "2\\sqrt{2}")
            for text in (*code, *_HUGE, *_SHAPES):
                for pred, gold in ((text, "5"), (text, "x^2+\\sqrt{5}"), ("5", text)):
                    start = time.monotonic()
                    result = await grader.compare(pred, gold)
                    judged.append((text, result.verdict, time.monotonic() - start))
        return judged

    judged = asyncio.run(judge_all())
    lenient = {"\\boxed{5" * 20_000, "5\x00"}
    assert not [
        text[:60] for text, verdict, _ in judged if verdict is Verdict.RIGHT and text not in lenient
    ]
    assert not [(text[:60], seconds) for text, _, seconds in judged if seconds > 10]
    assert not mark.exists()


@pytest.mark.parametrize("text", [*_HUGE, *_SHAPES], ids=lambda text: repr(text[:24]))
def test_extraction_takes_any_text(text: str) -> None:
    answer = extract_answer(text)
    assert answer is None or answer.strip()


@pytest.mark.parametrize(
    "unit",
    [
        "\\boxed{",
        "\\boxed{}",
        "{",
        "}",
        "answer is ",
        "so ",
        "the answer ",
        "$",
        "\\",
        "\\boxed ",
        "#### ",
    ],
)
def test_extraction_is_linear(unit: str) -> None:
    text = unit * (1_000_000 // len(unit))
    start = time.monotonic()
    extract_answer(text)
    extract_answer(text + "}" * 100_000)
    assert time.monotonic() - start < 10


def test_identical_monsters_are_equal_as_text_alone() -> None:
    monster = "9^{9^{9^{9}}}+" * 300 + "1"
    assert grade(monster, monster).verdict is Verdict.RIGHT
    assert grade("1" * 5_000, "1" * 4_999 + "2").verdict is Verdict.UNKNOWN


def test_the_worker_refuses_to_start_processes_or_to_write() -> None:
    program = (
        "import sys; from rstar_math.grading import engine, worker\n"
        "sys.addaudithook(worker._audit); worker._enable_hook()\n"
        "assert engine.grade_with_engine('2*sqrt(2)', r'\\sqrt{8}').verdict == 'right'\n"
        "import os, socket\n"
        "for act in (lambda: os.system('true'), lambda: open('x', 'w'),\n"
        "            lambda: socket.socket()):\n"
        "    try:\n"
        "        act()\n"
        "    except PermissionError:\n"
        "        continue\n"
        "    raise SystemExit('not refused')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
