"""The form of a spool file: what a file had that the store did not take.

Pure. A line with the format's number and the digest of all that follows; one line of JSON; then
the bytes of the extents, one after the other, in the order in which the JSON lists them.

Names and values of RADOS are bytes. In the JSON they are text by surrogateescape: readable where
they are UTF-8, and exact in any case.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote

from radosmount.cache.changes import Attempt, Changes, Flight, PartlyStored
from radosmount.cache.extents import Buffer, ExtentMap
from radosmount.errors import SpoolError
from radosmount.store import posix
from radosmount.store.interface import ObjectKey, ObjectStat

MAGIC: Final = b"radosmount-spool"
FORMAT: Final = b"1"
FIRST_LINE_BYTES_MAX: Final = 256
DIGEST_BYTES: Final = 16

NAME_BYTES_MAX: Final = 255  # NAME_MAX of every local file system that counts
SUFFIX: Final = ".spool"
POOL_CHARACTERS_MAX: Final = 64
NUMBER_MAX: Final = 9999  # of one object's files in one second


@dataclass(frozen=True, slots=True)
class Spooled:
    """One file's unstored bytes, and all that it takes to store them later.

    `pool_name` is for people, `key.pool_id` counts; b"" is unknown. So is `cluster` for people, and
    `cluster_id` counts; "" is unknown. `error`: why they were not stored.
    """

    key: ObjectKey
    pool_name: bytes
    cluster: str
    flight: Flight
    attempts: tuple[Attempt, ...]
    error: str
    time_s: int
    cluster_id: str = ""


def movable(flight: Flight, attempts: Iterable[Attempt]) -> Flight:
    """`flight`, which is no append where some of it may be stored in part: to put it behind what
    others append would double that."""
    is_append = flight.is_append and all(attempt.is_append for attempt in attempts)
    return replace(flight, is_append=is_append)


def file_name(spooled: Spooled, number: int) -> str:
    """Time, pool, object and number: one component in ASCII, whatever the object's name is.

    Long names are cut: the whole one is in the file.
    """
    time = datetime.fromtimestamp(spooled.time_s, UTC).strftime("%Y%m%dT%H%M%SZ")
    pool = quote(spooled.pool_name, safe="")[:POOL_CHARACTERS_MAX]
    name = quote(spooled.key.name, safe="")
    others = len(f"{time}-{pool}--{NUMBER_MAX}{SUFFIX}")
    return f"{time}-{pool}-{name[: NAME_BYTES_MAX - others]}-{number}{SUFFIX}"


def encode(spooled: Spooled) -> Iterator[Buffer]:
    """The pieces of the file, in order. The extents are not copied."""
    header = json.dumps(_header(spooled)).encode() + b"\n"
    buffers = [buffer for _, buffer in spooled.flight.changes.extents]
    digest = hashlib.blake2b(header, digest_size=DIGEST_BYTES)
    for buffer in buffers:
        digest.update(buffer)
    yield b"%b %b %b\n" % (MAGIC, FORMAT, digest.hexdigest().encode())
    yield header
    yield from buffers


def decode(content: bytes) -> Spooled:
    """Raises: SpoolError where that is no spool file, or not a whole one."""
    first_end = content.find(b"\n", 0, FIRST_LINE_BYTES_MAX)
    first_line = content[: max(first_end, 0)].split(b" ")
    if first_line[0] != MAGIC:
        raise SpoolError("is no spool file")
    if first_line[1:2] != [FORMAT]:
        raise SpoolError("is of another format: a newer radosmount may read it")
    rest = memoryview(content)[first_end + 1 :]
    digest = hashlib.blake2b(rest, digest_size=DIGEST_BYTES).hexdigest()
    if first_line[2:] != [digest.encode()]:
        raise SpoolError("is damaged, or not whole")
    header_end = content.find(b"\n", first_end + 1)
    try:
        header = json.loads(content[first_end + 1 : header_end])
        return _spooled(header, memoryview(content)[header_end + 1 :])
    except (KeyError, IndexError, TypeError, ValueError, OverflowError, RecursionError) as failure:
        raise SpoolError(f"is damaged ({failure!r})") from failure


def _header(spooled: Spooled) -> dict[str, object]:
    key, flight = spooled.key, spooled.flight
    changes = flight.changes
    return {
        "cluster": spooled.cluster,
        "fsid": spooled.cluster_id,
        "pool": _text(spooled.pool_name),
        "pool_id": key.pool_id,
        "namespace": _text(key.namespace),
        "object": _text(key.name),
        "locator": _text(key.locator),
        "error": spooled.error,
        "time": datetime.fromtimestamp(spooled.time_s, UTC).isoformat(),
        "size": flight.size,
        "mtime_s": changes.mtime_s,
        "is_new": flight.is_new,
        "is_append": flight.is_append,
        "cut": changes.cut,
        "base": _base_header(flight.base),
        "posix": None if changes.posix is None else _text(posix.encode(changes.posix)),
        "xattrs": {
            _text(name): None if value is None else _text(value)
            for name, value in changes.xattrs.items()
        },
        "attempts": [_attempt_header(attempt) for attempt in spooled.attempts],
        "extents": [[offset, len(buffer)] for offset, buffer in changes.extents],
    }


def _base_header(base: ObjectStat) -> dict[str, object]:
    """What a flush is guarded by; not what the object's xattrs say."""
    header: dict[str, object] = asdict(base)
    del header["posix"]
    return header


def _attempt_header(attempt: Attempt) -> dict[str, object]:
    return {
        "size_min": attempt.size_min,
        "size_max": attempt.size_max,
        "mtime_s": attempt.mtime_s,
        "is_append": attempt.is_append,
        "pieces": [[offset, length, digest.hex()] for offset, length, digest in attempt.pieces],
    }


def _spooled(header: dict[str, Any], data: memoryview) -> Spooled:
    """Raises: what a header that we have not written causes."""
    key = ObjectKey(
        _count(header["pool_id"]),
        _bytes(header["namespace"]),
        _bytes(header["object"]),
        _bytes(header["locator"]),
    )
    flight = _flight(header, data)
    return Spooled(
        key,
        _bytes(header["pool"]),
        str(header["cluster"]),
        flight,
        tuple(map(_attempt, header["attempts"])),
        str(header["error"]),
        int(datetime.fromisoformat(header["time"]).timestamp()),
        str(header.get("fsid", "")),  # files of the first version have none
    )


def _flight(header: dict[str, Any], data: memoryview) -> Flight:
    size = _count(header["size"])
    cut = None if header["cut"] is None else _count(header["cut"])
    xattrs = {
        _bytes(name): None if value is None else _bytes(value)
        for name, value in header["xattrs"].items()
    }
    changes = Changes(_extents(header["extents"], data), cut, int(header["mtime_s"]), xattrs)
    if header.get("posix") is not None:  # files of the first version have none
        changes.posix = posix.decode(_bytes(header["posix"]))
    if changes.extents.end > size:
        raise ValueError("bytes beyond the end")
    return Flight(
        changes, _stat(header["base"]), bool(header["is_new"]), size, bool(header["is_append"])
    )


def _stat(base: dict[str, Any]) -> ObjectStat:
    size, mtime_s, version = _count(base["size"]), int(base["mtime_s"]), _count(base["version"])
    if "size_min" in base:
        return PartlyStored(size, mtime_s, version, _count(base["size_min"]))
    return ObjectStat(size, mtime_s, version)


def _extents(listed: list[list[int]], data: memoryview) -> ExtentMap:
    extents = ExtentMap()
    at = end = 0
    for offset, length in listed:
        if _count(offset) < end or _count(length) == 0:
            raise ValueError("extents are not in order")
        extents.write(offset, bytes(data[at : at + length]))
        at, end = at + length, offset + length
    if at != len(data):
        raise ValueError("not as many bytes as are listed")
    return extents


def _attempt(header: dict[str, Any]) -> Attempt:
    return Attempt(
        _count(header["size_min"]),
        _count(header["size_max"]),
        int(header["mtime_s"]),
        bool(header["is_append"]),
        tuple(
            (_count(offset), _count(length), bytes.fromhex(digest))
            for offset, length, digest in header["pieces"]
        ),
    )


def _count(value: object) -> int:
    if not isinstance(value, int) or value < 0:
        raise ValueError(f"{value!r} is no size")
    return value


def _text(value: bytes) -> str:
    return value.decode(errors="surrogateescape")


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogateescape")
