"""One object of the memory store, and what a Change does to it. Pure.

`changed` works on a copy, so that a refused change leaves nothing behind.
"""

from dataclasses import dataclass, field
from typing import Final

from radosmount import errors
from radosmount.store.interface import (
    AtVersion,
    Change,
    Create,
    Existence,
    Guard,
    Limits,
    Remove,
    RemoveXattr,
    SetOmap,
    SetXattr,
    Step,
    Truncate,
    Write,
    WriteFull,
    clamped_mtime_s,
)

_XATTR_NAME_BYTES_MAX: Final = 100


@dataclass(slots=True)
class MemoryObject:
    data: bytearray = field(default_factory=bytearray)
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    omap: dict[bytes, bytes] = field(default_factory=dict)
    mtime_s: int = 0
    version: int = 0

    def copy(self) -> "MemoryObject":
        return MemoryObject(
            bytearray(self.data), dict(self.xattrs), dict(self.omap), self.mtime_s, self.version
        )


def changed(old: MemoryObject | None, change: Change, limits: Limits) -> MemoryObject | None:
    """The object after `change`, of the old version still; None if it is removed.

    Raises: what the guard and the steps say.
    """
    check_guard(old, change.guard)
    if _operation_bytes(change) > limits.operation_bytes_max:
        raise errors.TooLarge("more data than one operation may carry")
    new = None if old is None else old.copy()
    for step in change.steps:
        new = _stepped(new, step, limits)
    if new is not None and change.mtime_s is not None:
        new.mtime_s = clamped_mtime_s(change.mtime_s)
    return new


def check_guard(old: MemoryObject | None, guard: Guard) -> None:
    match guard:
        case AtVersion(0):
            raise errors.InvalidArgument("version 0 is no version")
        case AtVersion(version) if old is None or old.version != version:
            raise errors.VersionConflict(f"not at version {version}")
        case Existence.ABSENT if old is not None:
            raise errors.ObjectExists("the object exists")
        case Existence.PRESENT if old is None:
            raise errors.ObjectNotFound("no such object")


def _stepped(item: MemoryObject | None, step: Step, limits: Limits) -> MemoryObject | None:
    if isinstance(step, Remove | RemoveXattr) and item is None:
        raise errors.ObjectNotFound("no such object")
    if isinstance(step, Remove):
        # What comes later starts from nothing, but at the mtime of before.
        return None
    item = MemoryObject() if item is None else item
    _alter(item, step, limits)
    return item


def _alter(item: MemoryObject, step: Step, limits: Limits) -> None:
    match step:
        case Create():
            pass
        case WriteFull(data):
            _check_size(len(data), limits)
            item.data[:] = data
        case Write(offset, data):
            _write(item, offset, data, limits)
        case Truncate(size):
            _check_size(size + 1, limits)
            _resize(item, size)
        case SetXattr(name, value):
            _check_xattr_name(name)
            item.xattrs[name] = bytes(value)
        case RemoveXattr(name):
            _check_xattr_name(name)
            item.xattrs.pop(name, None)
        case SetOmap(entries):
            item.omap.update(entries)


def _write(item: MemoryObject, offset: int, data: bytes, limits: Limits) -> None:
    if not data:
        return
    end = offset + len(data)
    _check_size(end, limits)
    _resize(item, max(end, len(item.data)))
    item.data[offset:end] = data


def _resize(item: MemoryObject, size: int) -> None:
    del item.data[size:]
    item.data.extend(bytes(size - len(item.data)))


def _check_size(size: int, limits: Limits) -> None:
    if size > limits.object_bytes_max:
        raise errors.TooLarge(f"{size} bytes are more than one object holds")


def _check_xattr_name(name: bytes) -> None:
    if not name or b"\0" in name:
        raise errors.InvalidArgument(f"{name!r} is no xattr name")
    if len(name) > _XATTR_NAME_BYTES_MAX:
        raise errors.NameTooLong(f"xattr {name!r}")


def _operation_bytes(change: Change) -> int:
    return sum(len(step.data) for step in change.steps if isinstance(step, Write | WriteFull))
