"""Every error of radosmount, in one tree: what happened, its errno, its log level.

Not a place for translation: `rados.Error` becomes one of these under store/rados/, and
these become FUSE replies in fuse/replies.py. Nothing else translates.
"""

import errno
import logging
from typing import ClassVar


class RadosmountError(Exception):
    """Base of all. `errno` is what a program on the mount sees."""

    errno: ClassVar[int] = errno.EIO
    log_level: ClassVar[int] = logging.DEBUG


class MountError(RadosmountError):
    """The mount cannot be made or ended. The text is one plain line that says what to do."""

    log_level = logging.ERROR


class UsageError(MountError):
    """The command line is wrong."""


class SpoolError(RadosmountError):
    """A spool file cannot be read, or not be written back. The text is one plain line that goes
    on after the file's path."""

    log_level = logging.ERROR


class StoreError(RadosmountError):
    """RADOS refused or failed.

    `is_transient`: trying again later may work, so unwritten bytes are kept for that.
    `is_outcome_unknown`: the operation may have been applied, or may still be.
    """

    is_transient: ClassVar[bool] = False
    is_outcome_unknown: ClassVar[bool] = False


class ObjectNotFound(StoreError):
    """No such object. Ordinary: every look-up of a new name causes it."""

    errno = errno.ENOENT


class ObjectExists(StoreError):
    """An exclusive create found the object there."""

    errno = errno.EEXIST


class VersionConflict(StoreError):
    """The object is not at the asserted version: someone else changed or removed it."""

    errno = errno.ESTALE
    log_level = logging.ERROR


class ObjectGone(VersionConflict):
    """What was to be changed is there no more."""


class NoSuchXattr(StoreError):
    errno = errno.ENODATA


class PermissionDenied(StoreError):
    """The client's caps do not allow it (EPERM of RADOS; EACCES for a file system)."""

    errno = errno.EACCES


class NoSpace(StoreError):
    """The cluster is full. Deleting still works."""

    errno = errno.ENOSPC
    log_level = logging.ERROR
    is_transient = True


class QuotaExceeded(StoreError):
    """The pool's quota is used up. Deleting still works."""

    errno = errno.EDQUOT
    log_level = logging.ERROR
    is_transient = True


class TooLarge(StoreError):
    """Beyond the size that one object may have (osd_max_object_size)."""

    errno = errno.EFBIG


class NameTooLong(StoreError):
    errno = errno.ENAMETOOLONG


class InvalidArgument(StoreError):
    errno = errno.EINVAL


class NotSupported(StoreError):
    """The pool cannot do this, as an erasure-coded pool without overwrites."""

    errno = errno.EOPNOTSUPP


class TimedOut(StoreError):
    """No answer in time. The operation may be applied all the same, even later."""

    errno = errno.ETIMEDOUT
    log_level = logging.ERROR
    is_transient = True
    is_outcome_unknown = True


class Disconnected(StoreError):
    """The cluster has cut this client off (blocklisted), or the connection is closed."""

    errno = errno.EIO
    log_level = logging.ERROR
    is_transient = True
    is_outcome_unknown = True


class PoolGone(StoreError):
    """The pool was deleted. One of the same name that was made since is another pool."""

    errno = errno.ENOENT
    log_level = logging.ERROR


class StoreFailure(StoreError):
    """Anything else that RADOS answers; the text carries its errno."""

    errno = errno.EIO
    log_level = logging.ERROR


class FilesystemError(RadosmountError):
    """What a file system call may not do here."""


class NoSuchEntry(FilesystemError):
    """A path component does not exist. Ordinary: every shell PATH search causes it."""

    errno = errno.ENOENT


class EntryExists(FilesystemError):
    errno = errno.EEXIST


class IsDirectory(FilesystemError):
    errno = errno.EISDIR


class NotDirectory(FilesystemError):
    errno = errno.ENOTDIR


class DirectoryNotEmpty(FilesystemError):
    errno = errno.ENOTEMPTY


class NotPermitted(FilesystemError):
    """This file system never does that, whoever asks (hard links, devices)."""

    errno = errno.EPERM


class AccessDenied(FilesystemError):
    """The Ceph user's caps do not allow writing."""

    errno = errno.EACCES


class ReadOnly(FilesystemError):
    """The mount or the pool is read-only here."""

    errno = errno.EROFS


class CrossPool(FilesystemError):
    """RADOS cannot move an object between pools or namespaces; mv(1) copies instead."""

    errno = errno.EXDEV


class InvalidCall(FilesystemError):
    errno = errno.EINVAL


class Unsupported(FilesystemError):
    errno = errno.EOPNOTSUPP


class FileTooBig(FilesystemError):
    """The file would grow beyond what one RADOS object holds."""

    errno = errno.EFBIG


class StaleFile(FilesystemError):
    """The object behind an inode is gone; the kernel looks the name up again."""

    errno = errno.ESTALE


class XattrMissing(FilesystemError):
    errno = errno.ENODATA


class XattrTooBig(FilesystemError):
    """A value over the 64 KiB that Linux can carry (xattr(7))."""

    errno = errno.E2BIG


class XattrSpaceExceeded(FilesystemError):
    """Too many xattrs wait for the file's first flush. After it there is room (setxattr(2))."""

    errno = errno.ENOSPC


class XattrNameInvalid(FilesystemError):
    """RADOS holds xattr names up to 100 bytes."""

    errno = errno.ERANGE


class DeadlineExceeded(FilesystemError):
    """Nothing was acknowledged for `timeout`."""

    errno = errno.ETIMEDOUT
    log_level = logging.ERROR
