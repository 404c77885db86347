"""Extents hold exactly what was written."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from radosmount.cache import extents
from radosmount.cache.extents import ExtentMap

Operation = tuple[str, int, bytes]
operations = st.lists(
    st.tuples(st.sampled_from(["write", "truncate"]), st.integers(0, 40), st.binary(max_size=20)),
    max_size=20,
)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 8 bytes, so that a few bytes reach every edge."""
    monkeypatch.setattr(extents, "BLOCK_BYTES", 8)


def applied(operations: list[Operation]) -> tuple[ExtentMap, dict[int, int]]:
    """The extents, and the model: byte values by offset."""
    extent_map, model = ExtentMap(), dict[int, int]()
    for kind, offset, data in operations:
        before = len(model)
        if kind == "write":
            model.update({offset + index: value for index, value in enumerate(data)})
            assert extent_map.write(offset, data) == len(model) - before
        else:
            model = {at: value for at, value in model.items() if at < offset}
            assert extent_map.truncate(offset) == before - len(model)
    return extent_map, model


def bytes_of(extent_map: ExtentMap) -> dict[int, int]:
    return {at + i: value for at, data in extent_map for i, value in enumerate(data)}


@given(operations)
def test_holds_what_was_written(operations: list[Operation]) -> None:
    """Extents are a map from offset to byte, whatever the writes and truncates; they count it."""
    extent_map, model = applied(operations)
    assert bytes_of(extent_map) == model
    assert extent_map.byte_count == len(model)
    assert extent_map.end == max(model, default=-1) + 1
    assert bool(extent_map) == bool(model)


@given(operations)
def test_invariants(operations: list[Operation]) -> None:
    """Extents are ordered, do not overlap, do not cross blocks, and are one where they touch."""
    extent_map, _ = applied(operations)
    end = -1
    for offset, data in extent_map:
        assert data
        assert offset // 8 == (offset + len(data) - 1) // 8
        assert offset > end or (offset == end and offset % 8 == 0)
        end = offset + len(data)


@given(operations, st.integers(0, 50), st.integers(0, 50))
def test_overlaps(operations: list[Operation], offset: int, length: int) -> None:
    """overlaps yields the parts within a range."""
    extent_map, model = applied(operations)
    wanted = {at: value for at, value in model.items() if offset <= at < offset + length}
    found = {
        at + index: value
        for at, view in extent_map.overlaps(offset, length)
        for index, value in enumerate(view)
    }
    assert found == wanted


@given(operations, operations)
def test_overlay(older: list[Operation], newer: list[Operation]) -> None:
    """An overlay is the newer bytes where there are any, else the older ones."""
    below, below_model = applied(older)
    above, above_model = applied(newer)
    below.overlay(above)
    assert bytes_of(below) == {**below_model, **above_model}


@given(operations, st.integers(0, 50), st.integers(0, 30))
def test_shifted_moves_from_start_on(operations: list[Operation], start: int, delta: int) -> None:
    """A shift moves the bytes from the start on, and leaves those before."""
    extent_map, model = applied(operations)
    moved = {at + delta if at >= start else at: value for at, value in model.items()}
    assert bytes_of(extent_map.shifted(start, delta)) == moved
    assert bytes_of(extent_map) == model


@given(operations=operations, offset=st.integers(0, 60))
def test_split(operations: list[Operation], offset: int) -> None:
    """Both parts together are the whole."""
    extent_map, expected = applied(operations)
    rest = extent_map.split(offset)
    assert bytes_of(extent_map) == {at: byte for at, byte in expected.items() if at < offset}
    assert bytes_of(rest) == {at: byte for at, byte in expected.items() if at >= offset}
    assert extent_map.byte_count + rest.byte_count == len(expected)


def test_snapshot_of_bytearray_is_a_copy() -> None:
    """A buffer that is written and changed afterwards does not change the extent."""
    extent_map, data = ExtentMap(), bytearray(b"abc")
    extent_map.write(0, data)
    data[:] = b"xyz"
    assert [bytes(held) for _, held in extent_map] == [b"abc"]
