"""Which programs share a request."""

from rstar_math.sandbox.child.protocol import Limits
from rstar_math.sandbox.executor import FAN_OUT_MAX_STEP_CHARS, Job, PrefixTimes, plan_batches
from rstar_math.sandbox.programs import Program

LIMITS = Limits(2, 1, 1 << 26, 100)


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
    other = Job(Program(("x = 1",), "9", Limits(3, 1, 1 << 26, 100)), 9)
    assert sizes([*jobs(4), other]) == [4, 1]
