"""The form of a spool file."""

import hashlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from radosmount.cache.changes import Attempt, Changes, Flight, PartlyStored
from radosmount.cache.extents import ExtentMap
from radosmount.cache.spoolfile import NAME_BYTES_MAX, Spooled, decode, encode, file_name
from radosmount.errors import SpoolError
from radosmount.store.interface import ObjectKey, ObjectStat

names = st.binary(min_size=1, max_size=40)
times = st.integers(0, 2**32)
sizes = st.integers(0, 2**27)


@st.composite
def flights(draw: st.DrawFn) -> Flight:
    extents = ExtentMap()
    writes = st.tuples(st.integers(0, 3 << 20), st.binary(min_size=1, max_size=50))
    for offset, data in draw(st.lists(writes, max_size=8)):
        extents.write(offset, data)
    xattrs = draw(st.dictionaries(names, st.none() | st.binary(max_size=20), max_size=3))
    changes = Changes(extents, draw(st.none() | sizes), draw(times), xattrs)
    stat = (draw(sizes), draw(times), draw(sizes))
    base = draw(st.sampled_from([ObjectStat(*stat), PartlyStored(*stat, size_min=5)]))
    size = extents.end + draw(sizes)
    return Flight(changes, base, draw(st.booleans()), size, draw(st.booleans()))


pieces = st.tuples(sizes, sizes, st.binary(min_size=16, max_size=16))
attempts = st.builds(
    Attempt, sizes, sizes, times, st.booleans(), st.lists(pieces, max_size=3).map(tuple)
)
keys = st.builds(ObjectKey, st.integers(1, 99), st.binary(max_size=9), names, st.binary(max_size=9))
spooleds = st.builds(
    Spooled,
    keys,
    names,
    st.text(max_size=9),
    flights(),
    st.lists(attempts, max_size=2).map(tuple),
    st.text(max_size=9),
    times,
)


def comparable(spooled: Spooled) -> tuple[object, ...]:
    flight = spooled.flight
    changes = flight.changes
    extents = [(offset, bytes(buffer)) for offset, buffer in changes.extents]
    inner = (changes.cut, changes.mtime_s, changes.xattrs, extents)
    outer = (flight.base, flight.is_new, flight.size, flight.is_append)
    return (replace(spooled, flight=None), outer, inner)  # type: ignore[arg-type]


@given(spooleds)
def test_round_trip(spooled: Spooled) -> None:
    """What is read is what was written, whatever bytes names and values are made of."""
    assert comparable(decode(b"".join(encode(spooled)))) == comparable(spooled)


def an_example() -> Spooled:
    extents = ExtentMap()
    extents.write(3, b"content")
    flight = Flight(Changes(extents, 0, 1_500_000_000), ObjectStat(5, 6, 7), False, 10, False)
    return Spooled(ObjectKey(1, b"", b"n\n"), b"assets", "ceph", flight, (), "why", 1_600_000_000)


def test_every_truncation_is_noticed() -> None:
    """A file that is not whole is refused, in plain words, wherever it ends."""
    whole = b"".join(encode(an_example()))
    for length in range(len(whole)):
        with pytest.raises(SpoolError, match=r"no spool file|another format|damaged"):
            decode(whole[:length])


def test_every_changed_byte_is_noticed() -> None:
    whole = bytearray(b"".join(encode(an_example())))
    for index in range(len(whole)):
        whole[index] ^= 1
        with pytest.raises(SpoolError, match=r"no spool file|another format|damaged"):
            decode(bytes(whole))
        whole[index] ^= 1


@given(st.binary(max_size=300))
def test_anything_else_is_refused(content: bytes) -> None:
    with pytest.raises(SpoolError):
        decode(content)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"size": 10', b'"size": 9'),
        (b'"size": 10', b'"size": -1'),
        (b"[[3, 7]]", b"[[3, 6]]"),
        (b"[[3, 7]]", b"[[3, 8]]"),
        (b"[[3, 7]]", b"[[3, 5], [3, 2]]"),
        (b'"object"', b'"objekt"'),
        (b'"base": {', b'"base": 5, "b": {'),
        (b"{", b"["),
    ],
)
def test_a_header_that_makes_no_sense(old: bytes, new: bytes) -> None:
    """With a right digest, too."""
    rest = b"".join(list(encode(an_example()))[1:]).replace(old, new, 1)
    digest = hashlib.blake2b(rest, digest_size=16).hexdigest().encode()
    with pytest.raises(SpoolError, match="damaged"):
        decode(b"radosmount-spool 1 " + digest + b"\n" + rest)


def test_another_format() -> None:
    with pytest.raises(SpoolError, match="newer radosmount"):
        decode(b"radosmount-spool 2 x\n{}\n")


@given(spooleds, st.integers(1, 9999))
def test_file_names(spooled: Spooled, number: int) -> None:
    """A name is one visible component that fits, whatever the object is called."""
    name = file_name(spooled, number)
    assert name.isascii()
    assert name.isprintable()
    assert not set(name) & set("/ '\"\\$`")
    assert not name.startswith((".", "-"))
    assert name.endswith(f"-{number}.spool")


@pytest.mark.parametrize("name", [b"\xff" * 2048, b"../../etc/passwd", b"/", b".", b"a" * 2048])
def test_hostile_names(name: bytes) -> None:
    key = ObjectKey(1, b"", name)
    found = file_name(replace(an_example(), key=key, pool_name=b"/" * 200), 9999)
    assert len(found) <= NAME_BYTES_MAX
    assert "/" not in found


def test_a_name_that_a_person_can_read() -> None:
    assert file_name(an_example(), 2) == "20200913T122640Z-assets-n%0A-2.spool"
