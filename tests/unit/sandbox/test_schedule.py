"""Which programs share a request."""

from rstar_math.sandbox.child.protocol import Limits
from rstar_math.sandbox.programs import Program
from rstar_math.sandbox.scheduling import (
    FAN_OUT_MAX_STEP_CHARS,
    Job,
    PrefixTimes,
    WritingPrograms,
    plan_batches,
)

LIMITS = Limits(2, 1, 1 << 26, 100, 1 << 20, 16)


def jobs(count: int, prefix: tuple[str, ...] = ("x = 1",), code: str = "") -> list[Job]:
    return [Job(Program(prefix, f"{code}{i}", LIMITS), i) for i in range(count)]


def sizes(found: list[Job], idle: int = 1, times: PrefixTimes | None = None) -> list[int]:
    return [len(batch.jobs) for batch in plan_batches(found, times or PrefixTimes(), idle)]


def test_four_candidates_share_a_prefix_and_three_do_not() -> None:
    assert sizes(jobs(4)) == [4]
    assert sizes(jobs(3)) == [1, 1, 1]


def test_two_share_a_slow_prefix() -> None:
    times = PrefixTimes()
    times.put(("x = 1",), 0.2)
    assert sizes(jobs(2), times=times) == [2]


def test_without_a_prefix_there_is_nothing_to_share() -> None:
    assert sizes(jobs(8, prefix=())) == [1] * 8


def test_a_fan_out_is_spread_over_idle_zygotes_and_bounded() -> None:
    assert sizes(jobs(8), idle=2) == [4, 4]
    assert sizes(jobs(70)) == [32, 32, 6]


def test_long_candidates_and_other_limits_go_alone() -> None:
    assert sizes(jobs(4, code="#" * FAN_OUT_MAX_STEP_CHARS)) == [1] * 4
    other = Job(Program(("x = 1",), "9", Limits(3, 1, 1 << 26, 100, 1 << 20, 16)), 9)
    assert sizes([*jobs(4), other]) == [4, 1]


def test_what_writes_files_goes_alone() -> None:
    found = jobs(6)
    found[0].writes = True
    assert sizes(found) == [1, 5]


def test_a_program_after_one_that_writes_files_writes_too() -> None:
    writing = WritingPrograms(size=2)
    writing.add(Program(("a",), "b", LIMITS))
    assert Program(("a",), "b", LIMITS) in writing
    assert Program(("a", "b", "c"), "d", LIMITS) in writing
    assert Program(("a",), "c", LIMITS) not in writing
    assert Program(("b", "a"), "b", LIMITS) not in writing
    for code in "xy":
        writing.add(Program((), code, LIMITS))
    assert Program(("a",), "b", LIMITS) not in writing
