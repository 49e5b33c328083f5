"""Verdicts: the kernel's facts decide; whatever a child says, the reply is well-formed."""

import json
import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rstar_math.sandbox import programs
from rstar_math.sandbox.child.protocol import Limits
from rstar_math.sandbox.child.run import Run, build_reply
from rstar_math.types import Execution, ExecutionStatus, Step

LIMITS = Limits(
    wall_s=2,
    cpu_s=1,
    memory_bytes=64 << 20,
    output_bytes=100,
    scratch_bytes=1 << 20,
    scratch_files=16,
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
REPORTS = (
    st.binary(max_size=200)
    | st.binary(min_size=8193, max_size=9000)
    | JSON.map(lambda value: json.dumps(value).encode())
    | st.fixed_dictionaries(
        {},
        optional={
            "status": JSON | st.sampled_from(["ok", "error", "memory", "timeout", "killed"]),
            "type": JSON,
            "message": JSON,
            "prefix_s": JSON,
            "id": JSON,
        },
    ).map(lambda value: json.dumps(value).encode())
)


def verdict(report: bytes, wait_status: int = 0, kill_reason: str | None = None) -> Execution:
    run = Run(7, LIMITS)
    run.report += report
    run.kill_reason = kill_reason
    reply = build_reply(run, wait_status, 0.1)
    assert reply["id"] == 7
    return programs.parse_reply(json.loads(json.dumps(reply)), b"out")


@given(REPORTS, st.sampled_from([0, 256, 7 << 8]))
def test_any_report_gives_a_result(report: bytes, wait_status: int) -> None:
    result = verdict(report, wait_status)
    assert result.status in {"ok", "error", "memory", "exited"}
    for text in (result.error_type, result.message):
        assert text is None or (len(text) <= 300 and "\n" not in text)


@given(REPORTS)
def test_no_report_undoes_a_kill(report: bytes) -> None:
    assert verdict(report, signal.SIGKILL, "wall").status is ExecutionStatus.TIMEOUT
    assert verdict(report, signal.SIGKILL, "output").status is ExecutionStatus.OUTPUT_CAP
    assert verdict(report, signal.SIGSEGV).status is ExecutionStatus.KILLED


def test_messages_name_the_limit_or_the_signal() -> None:
    assert "1 s of processor" in str(verdict(b"", 9, "cpu").message)
    assert "2 s" in str(verdict(b"", 9, "wall").message)
    assert "SIGSEGV" in str(verdict(b"", signal.SIGSEGV).message)
    assert verdict(b"", signal.SIGXCPU).status is ExecutionStatus.TIMEOUT
    assert "code 7" in str(verdict(b"", 7 << 8).message)


@pytest.mark.parametrize("status", list(ExecutionStatus))
def test_what_was_ended_by_force_is_left_out_of_the_prefix(status: ExecutionStatus) -> None:
    step = Step(code="x = 1", execution=Execution(status))
    kept = status in (ExecutionStatus.OK, ExecutionStatus.ERROR)
    assert programs.code_to_replay([step, Step(prose="so")]) == (("x = 1",) if kept else ())


def test_the_cache_keeps_the_first_verdict_and_its_bound() -> None:
    cache = programs.ResultCache(2)
    made = [programs.Program((), str(i), LIMITS) for i in range(3)]
    first = Execution(ExecutionStatus.TIMEOUT)
    cache.put(made[0], first)
    cache.put(made[0], Execution(ExecutionStatus.OK))
    assert cache.get(made[0]) is first
    for program in made[1:]:
        cache.put(program, first)
    assert cache.get(made[0]) is None
