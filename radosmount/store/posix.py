"""What RADOS has no place for, in one xattr: mode, owner, group, the mtime's nanoseconds, and
where a symbolic link points.

Pure. The value is a line of text, `mode=100644 uid=1000 gid=1000 mtime=1700000000.123456789`,
and for a link ` target=` behind it, up to the end, as it is. `rados getxattr POOL OBJECT
radosmount.posix` shows it. Every field may be missing: then the mount's holds. Anyone may write the
xattr, so what cannot be read counts as not there.
"""

import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

XATTR: Final = b"radosmount.posix"

NS_PER_S: Final = 1_000_000_000
TYPES: Final = frozenset({stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK})
ID_MAX: Final = 2**32 - 2  # the last one means "none" (chown(2))
TARGET_BYTES_MAX: Final = 4095  # PATH_MAX, without its NUL

_FORM: Final = re.compile(
    rb"(?:mode=(?P<mode>[0-7]{1,7}))?"
    rb"(?: ?uid=(?P<uid>[0-9]{1,10}))?"
    rb"(?: ?gid=(?P<gid>[0-9]{1,10}))?"
    rb"(?: ?mtime=(?P<seconds>[0-9]{1,10})\.(?P<fraction>[0-9]{9}))?"
    rb"(?: ?target=(?P<target>[^\0]{1,4095}))?",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Posix:
    """`mode` has the type's bits. `mtime_ns` is since the epoch, and counts only while the
    object's own mtime has the same seconds: who else writes the object does not know of it."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    mtime_ns: int | None = None
    target: bytes | None = None

    def exact_mtime_ns(self, mtime_s: int) -> int:
        """The mtime of an object that RADOS says is of `mtime_s`."""
        if self.mtime_ns is not None and self.mtime_ns // NS_PER_S == mtime_s:
            return self.mtime_ns
        return mtime_s * NS_PER_S


NONE: Final = Posix()


def merged(ours: Posix, before: Posix, theirs: Posix) -> Posix:
    """What we have changed since `before`, else what others have made of it; and our time."""
    return Posix(
        theirs.mode if ours.mode == before.mode else ours.mode,
        theirs.uid if ours.uid == before.uid else ours.uid,
        theirs.gid if ours.gid == before.gid else ours.gid,
        ours.mtime_ns,
        theirs.target if ours.target == before.target else ours.target,
    )


def encode(posix: Posix) -> bytes:
    fields = []
    if posix.mode is not None:
        fields.append(b"mode=%o" % posix.mode)
    if posix.uid is not None:
        fields.append(b"uid=%d" % posix.uid)
    if posix.gid is not None:
        fields.append(b"gid=%d" % posix.gid)
    if posix.mtime_ns is not None and posix.mtime_ns >= 0:
        fields.append(b"mtime=%d.%09d" % divmod(posix.mtime_ns, NS_PER_S))
    if posix.target is not None:
        fields.append(b"target=" + posix.target)
    return b" ".join(fields)


def kept_in(xattrs: Mapping[bytes, bytes]) -> Posix | None:
    """What the xattrs of an object say; None where it has none of ours."""
    value = xattrs.get(XATTR)
    return None if value is None else decode(value)


def decode(value: bytes) -> Posix:
    """`NONE` for what is not of this form."""
    found = _FORM.fullmatch(value)
    if found is None:
        return NONE
    mode = None if found["mode"] is None else int(found["mode"], 8)
    uid, gid = (None if found[name] is None else int(found[name]) for name in ("uid", "gid"))
    if mode is not None and stat.S_IFMT(mode) not in TYPES:
        return NONE
    if any(number is not None and number > ID_MAX for number in (uid, gid)):
        return NONE
    is_link = mode is not None and stat.S_ISLNK(mode)
    if is_link != (found["target"] is not None):
        return NONE
    mtime_ns = None
    if found["seconds"] is not None:
        mtime_ns = int(found["seconds"]) * NS_PER_S + int(found["fraction"])
    return Posix(mode, uid, gid, mtime_ns, found["target"])
