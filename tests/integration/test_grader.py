"""The grader with real worker processes: time, memory, death, threads, event loops, batches,
groups."""

import asyncio
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from rstar_math.config import GradingConfig
from rstar_math.errors import GradingError
from rstar_math.grading import Grade, Grader, grade, grade_many
from rstar_math.grading import pool as pool_module
from rstar_math.types import Verdict

_NEEDS_ENGINE = ("\\sin 2x", "2\\sin x\\cos x")
_HANGING_WORKER = """
import json, sys, time
print(json.dumps({"ready": True}), flush=True)
for line in sys.stdin:
    request = json.loads(line)
    if "7" in request["gold"]:
        time.sleep(60)
    if "3" in request["gold"]:
        sys.exit(1)
    if "6" in request["gold"]:
        print("no JSON at all" * 10_000, flush=True)
    print(json.dumps({"id": request["id"], "verdict": "right", "reason": "ok"}), flush=True)
"""


def _worker_pids(grader: Grader) -> list[int]:
    return [worker.process.pid for worker in grader._pool._idle]


@pytest.fixture
def stub_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "worker.py"
    script.write_text(_HANGING_WORKER)
    monkeypatch.setattr(pool_module, "_SCRIPT", script)


def test_numbers_start_no_process() -> None:
    async def run() -> int:
        async with Grader(GradingConfig(workers=1)) as grader:
            assert (await grader.compare("18", "18.0")).verdict is Verdict.RIGHT
            return grader.engine_calls

    assert asyncio.run(run()) == 0


def test_expressions_are_judged_in_a_process_and_cached() -> None:
    async def run() -> None:
        async with Grader(GradingConfig(workers=1)) as grader:
            first = await grader.compare(*_NEEDS_ENGINE)
            assert first == Grade(Verdict.RIGHT, "The two are equal as expressions.")
            assert await grader.compare(*_NEEDS_ENGINE) == first
            assert grader.engine_calls == 1

    asyncio.run(run())


def test_several_event_loops_share_one_grader() -> None:
    grader = Grader(GradingConfig(workers=1))
    for k in range(2, 5):
        result = asyncio.run(grader.compare(f"\\ln {k * k}", f"2\\ln {k}"))
        assert result.verdict is Verdict.RIGHT
    grader.close()


def test_many_at_once_keep_their_order() -> None:
    pairs = [(f"\\ln (x^{{{k}}})", f"{k + k % 2}\\ln x") for k in range(1, 60)] * 2

    async def run() -> list[Grade]:
        async with Grader(GradingConfig(workers=2)) as grader:
            judged = await grader.compare_many(pairs)
            assert grader.engine_calls == 59
            return judged

    expected = [Verdict.WRONG if k % 2 else Verdict.RIGHT for k in range(1, 60)] * 2
    assert [result.verdict for result in asyncio.run(run())] == expected


def test_the_loop_is_not_blocked() -> None:
    async def run() -> float:
        longest, ticking = 0.0, True

        async def tick() -> None:
            nonlocal longest
            while ticking:
                before = time.monotonic()
                await asyncio.sleep(0.005)
                longest = max(longest, time.monotonic() - before)

        async with Grader(GradingConfig(workers=1)) as grader:
            ticker = asyncio.create_task(tick())
            await grader.compare_many(
                [(f"\\sqrt{{{k}}}+1", f"1+{k}^{{1/2}}") for k in range(2, 40)]
            )
            ticking = False
            await ticker
        return longest

    assert asyncio.run(run()) < 1.0


def test_a_hung_worker_is_killed_and_replaced(stub_worker: None) -> None:
    async def run() -> None:
        async with Grader(GradingConfig(workers=1, timeout_s=0.5)) as grader:
            assert (await grader.compare("\\sin x", "\\sin x+y")).reason == "ok"
            before = _worker_pids(grader)
            start = time.monotonic()
            hung = await grader.compare("\\sin x", "\\sin x+y+7z")
            assert hung.verdict is Verdict.UNKNOWN
            assert time.monotonic() - start < 10
            assert (await grader.compare("\\sin x", "\\sin x+z")).verdict is Verdict.RIGHT
            assert _worker_pids(grader) != before
            assert not any(_alive(pid) for pid in before)

    asyncio.run(run())


@pytest.mark.parametrize("gold", ["x+3y", "x+6y"])
def test_a_worker_that_dies_or_babbles_gives_unknown(stub_worker: None, gold: str) -> None:
    async def run() -> None:
        async with Grader(GradingConfig(workers=1, timeout_s=5)) as grader:
            assert (await grader.compare("\\sin x", f"\\sin {gold}")).verdict is Verdict.UNKNOWN
            assert (await grader.compare("\\sin x", "\\sin x+y")).verdict is Verdict.RIGHT

    asyncio.run(run())


def test_killed_idle_workers_are_not_noticed() -> None:
    async def run() -> None:
        async with Grader(GradingConfig(workers=1)) as grader:
            await grader.compare(*_NEEDS_ENGINE)
            for pid in _worker_pids(grader):
                os.kill(pid, signal.SIGKILL)
            result = await grader.compare("\\ln 9", "2\\ln 3")
            assert result.verdict is Verdict.RIGHT

    asyncio.run(run())


def test_cancelled_calls_leave_the_pool_whole(stub_worker: None) -> None:
    async def run() -> None:
        async with Grader(GradingConfig(workers=1, timeout_s=1)) as grader:
            task = asyncio.create_task(grader.compare("\\sin x", "\\sin x+7y"))
            await asyncio.sleep(0.2)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert (await grader.compare("\\sin x", "\\sin x+y")).verdict is Verdict.RIGHT

    asyncio.run(run())


def test_closing_ends_every_process() -> None:
    async def run() -> list[int]:
        async with Grader(GradingConfig(workers=2)) as grader:
            await grader.compare_many([(f"\\sqrt{{{k}}}", f"{k}^{{0.5}}+0y") for k in (2, 3, 5, 6)])
            return _worker_pids(grader)

    pids = asyncio.run(run())
    assert pids
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def test_a_closed_grader_says_so() -> None:
    grader = Grader(GradingConfig(workers=1))
    grader.close()
    with pytest.raises(GradingError, match="closed"):
        grader.compare_sync(*_NEEDS_ENGINE)


def test_a_process_that_cannot_start_is_an_error_with_a_hint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "_SCRIPT", tmp_path / "missing.py")
    grader = Grader(GradingConfig(workers=1))
    with pytest.raises(GradingError, match="memory_mb"):
        grader.compare_sync(*_NEEDS_ENGINE)
    grader.close()


def test_grade_works_in_threads_and_inside_a_running_loop() -> None:
    judged: list[Grade] = []

    def work(k: int) -> None:
        judged.append(grade(f"\\sqrt{{{9 * k}}}", f"3\\sqrt{{{k}}}"))

    threads = [threading.Thread(target=work, args=(k,)) for k in range(2, 8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [result.verdict for result in judged] == [Verdict.RIGHT] * 6

    async def inside() -> Grade:
        return grade(*_NEEDS_ENGINE)

    assert asyncio.run(inside()).verdict is Verdict.RIGHT


def test_grade_many_keeps_order() -> None:
    judged = grade_many([("1", "1"), ("\\sqrt{8}", "3"), ("1", "1"), _NEEDS_ENGINE])
    assert [j.verdict for j in judged] == [
        Verdict.RIGHT,
        Verdict.WRONG,
        Verdict.RIGHT,
        Verdict.RIGHT,
    ]


def test_workers_end_with_their_parent() -> None:
    program = (
        "import os, signal\n"
        "from rstar_math.grading import grader\n"
        "grader.grade('\\\\ln 4', '2\\\\ln 2')\n"
        "print([w.process.pid for w in grader._shared._pool._idle], flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    pids = [int(pid) for pid in found.stdout.strip("[]\n").split(",")]
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and any(_alive(pid) for pid in pids):
        time.sleep(0.05)
    assert pids
    assert not [pid for pid in pids if _alive(pid)]


def _limits(pid: int) -> str:
    return Path(f"/proc/{pid}/limits").read_text()


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_the_memory_of_a_worker_is_capped() -> None:
    async def run() -> None:
        async with Grader(GradingConfig(workers=1, memory_mb=512)) as grader:
            await grader.compare(*_NEEDS_ENGINE)
            (pid,) = _worker_pids(grader)
            limits = _limits(pid)
            line = next(
                line for line in limits.splitlines() if line.startswith("Max address space")
            )
            assert line.split()[3] == str(512 * 2**20)

    asyncio.run(run())


def test_groups_are_classes_in_order_of_appearance() -> None:
    answers = [
        "1/2",
        "\\sqrt{8}",
        "0.5",
        "2\\sqrt{2}",
        "",
        "x+1",
        "1+x",
        "",
        "\\frac{2}{4}",
        "5_{",
        "5_{",
    ]

    async def run() -> list[int]:
        async with Grader(GradingConfig(workers=1)) as grader:
            return await grader.group(answers)

    assert asyncio.run(run()) == [0, 1, 0, 1, 2, 3, 3, 2, 0, 4, 4]


def test_grouping_takes_far_fewer_comparisons_than_pairs() -> None:
    writings = [
        "\\sqrt{%d}",
        "%d^{1/2}",
        "sqrt(%d)",
        "\\sqrt{%d}+0",
        "(\\sqrt{%d})",
        "2\\cdot\\frac{\\sqrt{%d}}{2}",
    ]
    roots = [2, 3, 5, 6, 7, 10, 11, 13, 14, 15]
    answers = [writing % root for writing in writings for root in roots]
    random.Random(0).shuffle(answers)

    async def run() -> tuple[list[int], int]:
        async with Grader(GradingConfig(workers=1)) as grader:
            return await grader.group(answers), grader.engine_calls

    classes, calls = asyncio.run(run())
    assert len(set(classes)) == len(roots)
    assert calls <= 2 * len(answers)


def test_a_verifier_judges_against_its_reference() -> None:
    async def run() -> list[Verdict]:
        async with Grader(GradingConfig(workers=1)) as grader:
            verifier = grader.verifier("\\frac{\\sqrt{2}}{2}")
            return [await verifier.judge(answer) for answer in ("1/\\sqrt{2}", "\\sqrt{2}", "5_{")]

    assert asyncio.run(run()) == [Verdict.RIGHT, Verdict.WRONG, Verdict.UNKNOWN]
