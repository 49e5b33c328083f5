"""Framing: any split of the stream gives the same frames; anything else is refused."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rstar_math.sandbox.child import protocol

VALUES = st.none() | st.integers() | st.text() | st.lists(st.text(), max_size=3)
FRAMES = st.tuples(st.dictionaries(st.text(), VALUES, max_size=4), st.binary(max_size=60))


@given(st.lists(FRAMES, max_size=5), st.lists(st.integers(1, 40)))
def test_frames_survive_any_cut(
    frames: list[tuple[dict[str, object], bytes]], cuts: list[int]
) -> None:
    stream = b"".join(protocol.encode(header, body) for header, body in frames)
    decoder = protocol.Decoder()
    found: list[tuple[dict[str, object], bytes]] = []
    at = 0
    for cut in itertools.chain(cuts, itertools.repeat(7)):
        found += decoder.feed(stream[at : at + cut])
        at += cut
        if at >= len(stream):
            break
    assert found == frames


@given(st.binary(max_size=200))
def test_noise_is_refused_or_waited_for(noise: bytes) -> None:
    decoder = protocol.Decoder()
    try:
        frames = decoder.feed(noise)
    except protocol.WireError:
        return
    assert all(isinstance(header, dict) for header, _ in frames)


@pytest.mark.parametrize("text", [b"[]", b"{", b"1", b"\xff", b"[" * 100_000])
def test_headers_that_are_no_objects_are_refused(text: bytes) -> None:
    with pytest.raises(protocol.WireError):
        protocol.Decoder().feed(protocol.LENGTHS.pack(len(text), 0) + text)


def test_a_frame_longer_than_allowed_is_refused_before_it_is_read() -> None:
    with pytest.raises(protocol.WireError, match="announces"):
        protocol.Decoder().feed(protocol.LENGTHS.pack(protocol.MAX_HEADER_BYTES + 1, 0))
