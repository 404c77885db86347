"""What librados writes into memory when it lists, decoded by either driver."""

import ctypes

import pytest

from radosmount.store.rados import listing
from radosmount.store.rados.listing import Decode, decode

Row = tuple[bytes, bytes, bytes]
ROWS: list[Row] = [
    (b"", b"plain", b""),
    (b"space", b"\xff/long" * 300, b"key"),
    (b"", b"k", b"k" * 100),
]
UNNAMEABLE: list[Row] = [(b"", b"a\0b", b""), (b"", b"a", b"\0"), (b"n", b"\0", b"x")]


@pytest.fixture(params=["binding", "native"])
def decoder(request: pytest.FixtureRequest) -> Decode:
    if request.param == "binding":
        return decode
    reason = "not built"
    module = pytest.importorskip("radosmount.store.rados.native._native", reason=reason)
    found: Decode = module.decode_listing
    return found


def decoded(decoder: Decode, rows: list[Row]) -> list[Row]:
    texts = [[ctypes.create_string_buffer(text, len(text) or 1) for text in row] for row in rows]
    items = (listing._Item * max(len(rows), 1))()
    for item, row, (space, name, locator) in zip(items, rows, texts, strict=False):
        item.namespace_length, item.name_length, item.locator_length = map(len, row)
        item.namespace, item.name, item.locator = map(ctypes.addressof, (space, name, locator))
    return decoder(ctypes.addressof(items), len(rows))


def test_all_that_can_be_named(decoder: Decode) -> None:
    """Names, namespaces and locator keys of any bytes and length, in their order."""
    assert decoded(decoder, ROWS) == ROWS
    assert decoded(decoder, []) == []


def test_a_nul_cannot_be_named(decoder: Decode) -> None:
    """librados would cut such a name short, and mean another object."""
    assert decoded(decoder, [*UNNAMEABLE, *ROWS, *UNNAMEABLE]) == ROWS
