"""A change as the steps of one operation of the compiled module. Pure."""

from radosmount import errors
from radosmount.store.interface import (
    AtVersion,
    Change,
    Create,
    Existence,
    Guard,
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
from radosmount.store.rados.native._native import WriteOperation


def carried_bytes(change: Change) -> int:
    """How much data the operation will hold."""
    return sum(map(_byte_count, change.steps))


def _byte_count(step: Step) -> int:
    match step:
        case Write(_, data) | WriteFull(data):
            return len(data)
        case SetXattr(_, value):
            return len(value)
        case SetOmap(entries):
            return sum(len(name) + len(value) for name, value in entries.items())
    return 0


def build(operation: WriteOperation, change: Change) -> None:
    """The guard, then the steps. Raises: InvalidArgument."""
    _add_guard(operation, change.guard)
    for step in change.steps:
        _add_step(operation, step)
    if change.mtime_s is not None:
        operation.set_mtime(clamped_mtime_s(change.mtime_s))
    if change.notice is not None:
        operation.set_notice(change.notice.fd, change.notice.message)


def _add_guard(operation: WriteOperation, guard: Guard) -> None:
    match guard:
        case AtVersion(version):
            operation.assert_version(version)
        case Existence.ABSENT:
            operation.create(True)
        case Existence.PRESENT:
            operation.assert_exists()


def _add_step(operation: WriteOperation, step: Step) -> None:
    match step:
        case Write(_, data) if not data:
            operation.create(False)  # librados would grow the object to the offset
        case Write(offset, data):
            operation.write(bytes(data), offset)
        case WriteFull(data):
            operation.write_full(bytes(data))
        case Create():
            operation.create(False)
        case Truncate(size):
            operation.create(False)  # alone it would do nothing on a missing object
            operation.truncate(size)
        case SetXattr(name, value):
            operation.set_xattr(_checked_xattr_name(name), bytes(value))
        case RemoveXattr(name):
            operation.remove_xattr(_checked_xattr_name(name))
        case SetOmap(entries):
            for name, value in entries.items():
                operation.set_omap(name, value)
        case Remove():
            operation.remove()


def _checked_xattr_name(name: bytes) -> bytes:
    """The empty name is acknowledged and lost: the OSD keeps its own object info there."""
    if not name or b"\0" in name:
        raise errors.InvalidArgument(f"{name!r} is no xattr name")
    return name
