"""The calls on one object: blocking, on an ioctx of the calling thread, raising our errors.

The traps of the binding, all found by experiment, end here:
- a read of length 0 fails, so it becomes a stat; trunc of a missing object silently does
  nothing, so it comes with a create; an empty write with an offset grows the object;
- a WriteOp lives only in its context manager, and never has `zero`, whose arguments are swapped;
- mtime 0 means "leave it"; xattr and object names are `str` by names.to_text.
"""

import errno
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final, TypeVar

import rados

from radosmount import errors
from radosmount.store import posix
from radosmount.store.interface import (
    AtVersion,
    Change,
    Create,
    Existence,
    Guard,
    Inspection,
    ObjectKey,
    ObjectStat,
    ReadResult,
    Remove,
    RemoveXattr,
    SetOmap,
    SetXattr,
    Step,
    Truncate,
    Write,
    WriteFull,
    Xattrs,
    clamped_mtime_s,
)
from radosmount.store.rados import translation
from radosmount.store.rados.conventions import NO_XATTR, OMAP_PAGE_COUNT, PROBE_NAME
from radosmount.store.rados.ioctxs import Ioctxs
from radosmount.store.rados.names import from_text, to_text

T = TypeVar("T")

_IDEMPOTENT: Final = 0
_EXCLUSIVE: Final = 1
_STAT_ATTEMPT_COUNT_MAX: Final = 5


def stat(ioctxs: Ioctxs, key: ObjectKey) -> ObjectStat:
    def call(ioctx: rados.Ioctx, name: str) -> ObjectStat:
        size, local_time = ioctx.stat(name)
        return ObjectStat(size, int(time.mktime(local_time)), ioctx.get_last_version())

    return _translated(ioctxs, key, call)


def stat_with_posix(ioctxs: Ioctxs, key: ObjectKey) -> ObjectStat:
    """Two calls, until both are of one version. Raises: VersionConflict."""
    for _ in range(_STAT_ATTEMPT_COUNT_MAX):
        found = stat(ioctxs, key)
        xattrs = get_xattrs(ioctxs, key)
        if xattrs.version == found.version:
            return _with_posix(found, xattrs.values)
    raise errors.VersionConflict(f"{key.name!r} is being changed again and again")


def _with_posix(found: ObjectStat, xattrs: Mapping[bytes, bytes]) -> ObjectStat:
    return replace(found, posix=posix.kept_in(xattrs))


def read(ioctxs: Ioctxs, key: ObjectKey, offset: int, length: int) -> ReadResult:
    def call(ioctx: rados.Ioctx, name: str) -> ReadResult:
        if length == 0:
            ioctx.stat(name)
            return ReadResult(b"", ioctx.get_last_version())
        return ReadResult(ioctx.read(name, length, offset), ioctx.get_last_version())

    return _translated(ioctxs, key, call)


def get_xattrs(ioctxs: Ioctxs, key: ObjectKey) -> Xattrs:
    def call(ioctx: rados.Ioctx, name: str) -> Xattrs:
        pairs = ioctx.get_xattrs(name)
        values = {from_text(xattr_name): value for xattr_name, value in pairs}
        return Xattrs(values, ioctx.get_last_version())

    return _translated(ioctxs, key, call)


def get_omap(ioctxs: Ioctxs, key: ObjectKey, bytes_max: int) -> Mapping[bytes, bytes]:
    """In pages, so not a snapshot of an omap that is being changed. Raises: TooLarge."""

    def call(ioctx: rados.Ioctx, name: str) -> Mapping[bytes, bytes]:
        entries = _omap_without_key(ioctx, name)
        size_bytes, after = 0, ""
        while page := _omap_page(ioctx, name, after):
            after = page[-1][0]
            for text, value in page:
                entries[from_text(text)] = value or b""
                size_bytes += len(text) + len(value or b"")
            if size_bytes > bytes_max:
                raise errors.TooLarge(f"{name!r}: omap of over {bytes_max} bytes")
        return entries

    return _translated(ioctxs, key, call)


def inspect(ioctxs: Ioctxs, key: ObjectKey, length: int) -> Inspection:
    """The binding reads nothing but omap together, so there are several calls. The first and the
    last are of one version, and so is what was read between. Raises: VersionConflict."""
    found = stat(ioctxs, key)
    omap, has_more = _translated(ioctxs, key, _first_omap)
    length = min(length, found.size)
    head = read(ioctxs, key, 0, length).data if length else b""
    xattrs = get_xattrs(ioctxs, key)
    if xattrs.version != found.version:
        raise errors.VersionConflict(f"{key.name!r} changed while it was looked at")
    return Inspection(_with_posix(found, xattrs.values), xattrs.values, omap, has_more, head)


def _first_omap(ioctx: rados.Ioctx, name: str) -> tuple[dict[bytes, bytes], bool]:
    """The first page, and whether there is another: the binding does not tell."""
    with rados.ReadOpCtx() as operation:
        unkeyed, _ = ioctx.get_omap_vals_by_keys(operation, ("",))
        pairs, _ = ioctx.get_omap_vals(operation, "", "", OMAP_PAGE_COUNT)
        ioctx.operate_read_op(operation, name)
        page = [*unkeyed, *pairs]
    entries = {from_text(text): value or b"" for text, value in page}
    return entries, bool(page) and bool(_omap_page(ioctx, name, page[-1][0]))


def _omap_without_key(ioctx: rados.Ioctx, name: str) -> dict[bytes, bytes]:
    """The entry whose key is empty, if any: the pages begin after it."""
    with rados.ReadOpCtx() as operation:
        pairs, _ = ioctx.get_omap_vals_by_keys(operation, ("",))
        ioctx.operate_read_op(operation, name)
        return {from_text(text): value or b"" for text, value in pairs}


def _omap_page(ioctx: rados.Ioctx, name: str, after: str) -> list[tuple[str, bytes | None]]:
    with rados.ReadOpCtx() as operation:
        pairs, _ = ioctx.get_omap_vals(operation, after, "", OMAP_PAGE_COUNT)
        ioctx.operate_read_op(operation, name)
        return list(pairs)


def apply(ioctxs: Ioctxs, key: ObjectKey, change: Change) -> int:
    """One WriteOp: the guard, then the steps. Returns the new version, 0 if removed."""
    assert change.steps, "a change without steps does nothing, not even to mtime"

    def call(ioctx: rados.Ioctx, name: str) -> int:
        with rados.WriteOpCtx() as operation:
            _add_guard(operation, change.guard)
            for step in change.steps:
                _add_step(ioctx, operation, step)
            ioctx.operate_write_op(operation, name, mtime=_rados_mtime_s(change.mtime_s))
        return 0 if isinstance(change.steps[-1], Remove) else ioctx.get_last_version()

    return _translated(ioctxs, key, call)


def probe_read(ioctxs: Ioctxs, place: ObjectKey) -> None:
    """`place` gives pool and namespace. Raises: PermissionDenied."""

    def call(ioctx: rados.Ioctx, _: str) -> None:
        ioctx.stat(PROBE_NAME.decode())

    _expect_not_found(ioctxs, place, call)


def probe_write(ioctxs: Ioctxs, place: ObjectKey) -> None:
    """An assertion that fails, so nothing is changed. Raises: PermissionDenied."""

    def call(ioctx: rados.Ioctx, _: str) -> None:
        with rados.WriteOpCtx() as operation:
            operation.rm_xattr(NO_XATTR.decode())
            ioctx.operate_write_op(operation, PROBE_NAME.decode())

    _expect_not_found(ioctxs, place, call)


def _expect_not_found(
    ioctxs: Ioctxs, place: ObjectKey, call: Callable[[rados.Ioctx, str], None]
) -> None:
    try:
        _translated(ioctxs, place, call)
    except errors.ObjectNotFound:
        return


def _add_guard(operation: rados.WriteOp, guard: Guard) -> None:
    match guard:
        case AtVersion(version):
            operation.assert_version(version)
        case Existence.ABSENT:
            operation.new(_EXCLUSIVE)
        case Existence.PRESENT:
            operation.rm_xattr(NO_XATTR.decode())


def _add_step(ioctx: rados.Ioctx, operation: rados.WriteOp, step: Step) -> None:
    # The binding takes nothing but exactly `bytes`; `bytes()` of bytes copies nothing.
    match step:
        case Create():
            operation.new(_IDEMPOTENT)
        case WriteFull(data):
            operation.write_full(bytes(data))
        case Write(_, data) if not data:
            operation.new(_IDEMPOTENT)  # librados would grow the object to the offset
        case Write(offset, data):
            operation.write(bytes(data), offset)
        case Truncate(size):
            operation.new(_IDEMPOTENT)  # alone it would do nothing on a missing object
            operation.truncate(size)
        case SetXattr(name, value):
            operation.set_xattr(_xattr_text(name), bytes(value))
        case RemoveXattr(name):
            operation.rm_xattr(_xattr_text(name))
        case SetOmap(entries):
            ioctx.set_omap(operation, tuple(entries), tuple(entries.values()))
        case Remove():
            operation.remove()


def _xattr_text(name: bytes) -> str:
    """The empty name is acknowledged and lost: the OSD keeps its own object info there."""
    if not name or b"\0" in name:
        raise errors.InvalidArgument(f"{name!r} is no xattr name")
    return to_text(name)


def _rados_mtime_s(mtime_s: int | None) -> int:
    """What the binding takes: 0 leaves the mtime as it is."""
    return 0 if mtime_s is None else clamped_mtime_s(mtime_s)


def _translated(ioctxs: Ioctxs, key: ObjectKey, call: Callable[[rados.Ioctx, str], T]) -> T:
    """Run `call` on the object, its `rados.Error`s as ours."""
    if b"\0" in key.name:  # librados would cut the name there, and reach another object
        raise errors.InvalidArgument(f"{key.name!r}: librados cannot name it")
    try:
        return call(ioctxs.get(key), to_text(key.name))
    except rados.Error as failure:
        if failure.errno == errno.ENOENT and not ioctxs.pool_exists(key.pool_id):
            raise errors.PoolGone(f"pool {key.pool_id} does not exist (any more)") from None
        raise translation.from_binding(failure, f"{key.name!r} in pool {key.pool_id}") from None
