"""From errno to our errors: the only place where what librados says becomes a StoreError."""

import errno
import os

import rados

from radosmount import errors

_KIND_BY_ERRNO: dict[int, type[errors.StoreError]] = {
    errno.ENOENT: errors.ObjectNotFound,
    errno.EEXIST: errors.ObjectExists,
    # What a failed assert_version answers: the object is newer, or older and missing.
    errno.ERANGE: errors.VersionConflict,
    errno.EOVERFLOW: errors.VersionConflict,
    errno.ENODATA: errors.NoSuchXattr,
    errno.EPERM: errors.PermissionDenied,
    errno.EACCES: errors.PermissionDenied,
    errno.ENOSPC: errors.NoSpace,
    errno.EDQUOT: errors.QuotaExceeded,
    errno.EFBIG: errors.TooLarge,  # beyond osd_max_object_size
    errno.EMSGSIZE: errors.TooLarge,  # beyond osd_max_write_size
    errno.ENAMETOOLONG: errors.NameTooLong,
    errno.EINVAL: errors.InvalidArgument,
    errno.EOPNOTSUPP: errors.NotSupported,
    errno.ETIMEDOUT: errors.TimedOut,
    errno.ESHUTDOWN: errors.Disconnected,  # blocklisted
    errno.ENOTCONN: errors.Disconnected,
}


def from_errno(code: int, what: str) -> errors.StoreError:
    """The error for librados's `code` (its sign does not matter) at `what`."""
    code = abs(code)
    kind = _KIND_BY_ERRNO.get(code, errors.StoreFailure)
    return kind(f"{what}: {os.strerror(code)} (errno {code})")


def from_binding(failure: rados.Error, what: str) -> errors.StoreError:
    """The error for an exception of the binding. Its state errors mean a closed handle."""
    if isinstance(failure, rados.RadosStateError | rados.IoctxStateError):
        return errors.Disconnected(f"{what}: the connection is closed")
    if failure.errno is None:
        return errors.StoreFailure(f"{what}: {failure!r}")
    return from_errno(failure.errno, what)
