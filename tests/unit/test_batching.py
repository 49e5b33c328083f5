"""The fake server's slots: who gets one when, worked out on arrival."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rstar_math.testing.fake_server import Batching, Slots, utilisation

HOLDS = st.lists(st.lists(st.floats(0.001, 5.0), max_size=6), max_size=20)


def test_a_sample_takes_the_first_free_slot() -> None:
    slots = Slots(Batching(slots=2))
    assert slots.schedule([3.0, 1.0, 1.0], now=10.0) == 13.0
    assert slots.spans == [(10.0, 13.0), (10.0, 11.0), (11.0, 12.0)]
    assert slots.schedule([0.5], now=10.0) == 12.5
    assert slots.schedule([], now=11.0) == 11.0
    assert slots.busy_s == 5.5


def test_a_sample_holds_its_slot_for_its_prefill_and_its_tokens() -> None:
    batching = Batching(token_s=0.5, prefill_s=2.0)
    assert batching.duration_s("one two three") == 3.5
    assert Batching(token_s=0.5, tokens=len).duration_s("four") == 2.0


@given(HOLDS, st.integers(1, 5))
def test_no_slot_is_idle_while_somebody_waits(holds: list[list[float]], count: int) -> None:
    slots = Slots(Batching(slots=count))
    for number, asked in enumerate(holds):
        slots.schedule(asked, now=float(number))
    starts = [start for start, _ in slots.spans]
    assert starts == sorted(starts)
    arrivals = [float(number) for number, asked in enumerate(holds) for _ in asked]
    for (start, _), arrival in zip(slots.spans, arrivals, strict=True):
        others = sum(begin <= start < end for begin, end in slots.spans)
        assert others <= count
        if start > arrival:
            just_before = sum(begin < start <= end for begin, end in slots.spans)
            assert just_before >= count


def test_utilisation_is_the_share_of_slots_in_use() -> None:
    spans = [(0.0, 4.0), (1.0, 2.0), (3.5, 9.0)]
    assert utilisation(spans, 2, 0.0, 4.0, 4) == pytest.approx([0.5, 1.0, 0.5, 0.75])
