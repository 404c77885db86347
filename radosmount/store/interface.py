"""What the rest of radosmount may ask of an object store.

The seam between the file system and RADOS: store/rados/ does it on a cluster, store/memory.py
in a dict, and tests/contract runs one suite over both. Values that cross it are ints, bytes
and the frozen types below; failures are `errors.StoreError`s.

What holds for every store:
- `apply` is atomic: all steps of a `Change` or none, guard included.
- Versions of one object grow with every change; 0 means "no object".
- A call that raised an error with `is_outcome_unknown` may be applied at any later time.
- Cancelling a call abandons its answer, never the operation.
"""

import enum
import time
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

from radosmount.store.posix import Posix


class ObjectKey(NamedTuple):
    """One object, as RADOS names it (a tuple, since it is hashed on every call).

    `name` is 1 to 2048 bytes without NUL. `locator` is the locator key that the object was
    written with, or b"".
    """

    pool_id: int
    namespace: bytes
    name: bytes
    locator: bytes = b""


@dataclass(frozen=True, slots=True)
class ObjectStat:
    """`mtime_s` is whole seconds since the epoch: librados 16 shows no more. `posix`: the xattr of
    that name, where the store was opened to bring it along, and the object has it."""

    size: int
    mtime_s: int
    version: int
    posix: Posix | None = field(default=None, kw_only=True)


@dataclass(frozen=True, slots=True)
class ReadResult:
    """`data` is shorter than asked only where the object ends."""

    data: bytes
    version: int


@dataclass(frozen=True, slots=True)
class Xattrs:
    """All xattrs of an object at one version, names as RADOS has them (no `user.`)."""

    values: Mapping[bytes, bytes]
    version: int


@dataclass(frozen=True, slots=True)
class Inspection:
    """One object at one version: its state, all xattrs, the first entries of its omap and the
    first bytes of its content, as many as asked for where it has them."""

    stat: ObjectStat
    xattrs: Mapping[bytes, bytes]
    omap: Mapping[bytes, bytes]
    has_more_omap: bool
    head: bytes


class Existence(enum.Enum):
    """Guards that speak of existence only."""

    ANY = "any"
    ABSENT = "absent"  # else ObjectExists
    PRESENT = "present"  # else ObjectNotFound


@dataclass(frozen=True, slots=True)
class AtVersion:
    """The object exists at exactly this version, else VersionConflict."""

    version: int


Guard = Existence | AtVersion


@dataclass(frozen=True, slots=True)
class Create:
    """Make the object, empty, where there is none; else nothing."""


@dataclass(frozen=True, slots=True)
class WriteFull:
    """Replace the whole content; xattrs and omap stay."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Write:
    """Overwrite from `offset`, growing the object if need be; a gap reads as zeros.

    Without data it only makes the object where there is none, as Create.
    """

    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Truncate:
    """Set the size (creating the object if there is none); what is new reads as zeros.

    TooLarge from `object_bytes_max` on: RADOS grows an object to exactly that only by a Write.
    """

    size: int


@dataclass(frozen=True, slots=True)
class SetXattr:
    """`name` is 1 to 100 bytes without NUL, else InvalidArgument or NameTooLong."""

    name: bytes
    value: bytes


@dataclass(frozen=True, slots=True)
class RemoveXattr:
    """Remove one xattr; one that is not there is no error. The object must exist."""

    name: bytes


@dataclass(frozen=True, slots=True)
class SetOmap:
    entries: Mapping[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Remove:
    """Remove the object with its xattrs and omap, else ObjectNotFound. Later steps of the
    same Change start from nothing."""


Step = Create | WriteFull | Write | Truncate | SetXattr | RemoveXattr | SetOmap | Remove


@dataclass(slots=True)
class Notice:
    """What someone is told in the moment in which the store acknowledges: `message`, written to
    `fd` by the driver. `is_sent` is set before the caller goes on, with `sent_ns`, a time that is
    not after it (CLOCK_MONOTONIC, as `asked_ns`); a driver may leave it to him.

    Whoever hears of it so may ask the next thing before the caller knows: see `Pump`.
    """

    fd: int
    message: bytes  # at most NOTICE_BYTES_MAX
    is_sent: bool = False
    asked_ns: int = field(default_factory=time.monotonic_ns)
    sent_ns: int = 0


NOTICE_BYTES_MAX: Final = 256


@dataclass(frozen=True, slots=True)
class Change:
    """One atomic operation on one object.

    There is at least one step. `mtime_s`: the mtime that the object has afterwards, by
    `clamped_mtime_s`; None leaves it as it is. A change that may make an object needs one:
    without, a new object would be of 1970.
    """

    steps: tuple[Step, ...]
    guard: Guard = Existence.ANY
    mtime_s: int | None = None
    notice: Notice | None = field(default=None, compare=False)


# RADOS holds mtime in 32 bits, and 0 stands for "unchanged".
_MTIME_MIN_S: Final = 1
_MTIME_MAX_S: Final = 2**32 - 1


def clamped_mtime_s(mtime_s: int) -> int:
    """The mtime that an object has after a change with `mtime_s`: the nearest possible."""
    return min(max(mtime_s, _MTIME_MIN_S), _MTIME_MAX_S)


class ListedObject(NamedTuple):
    namespace: bytes
    name: bytes
    locator: bytes


@dataclass(frozen=True, slots=True)
class Pool:
    """One pool of the osdmap. `applications`: as `ceph osd pool application get`."""

    pool_id: int
    name: bytes
    applications: frozenset[str]


@dataclass(frozen=True, slots=True)
class PoolUsage:
    """Bytes as `ceph df` shows them; a quota of 0 is none. `write_count` grows with every write,
    by anyone. A cluster tells all of it some seconds late (mgr_stats_period)."""

    stored_bytes: int
    available_bytes: int
    object_count: int
    write_count: int
    quota_bytes: int
    quota_objects: int


@dataclass(frozen=True, slots=True)
class Usage:
    """The cluster's raw bytes, and every pool's by its id."""

    total_bytes: int
    available_bytes: int
    pools: Mapping[int, PoolUsage]


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one object, and of one operation's data (osd_max_object_size, osd_max_write_size)."""

    object_bytes_max: int
    operation_bytes_max: int


class Store(Protocol):
    """An object store. Every method may raise TimedOut, Disconnected, PermissionDenied,
    PoolGone and StoreFailure besides what it says."""

    @property
    def limits(self) -> Limits: ...

    @property
    def cluster_id(self) -> str:
        """Which cluster it is (its fsid): another one of that name has another."""

    async def stat(self, key: ObjectKey) -> ObjectStat:
        """Raises: ObjectNotFound."""

    async def stat_or_other(
        self, key: ObjectKey, other: ObjectKey
    ) -> tuple[ObjectStat | None, ObjectStat | None]:
        """The state of an object, or where it is not there that of another one in its pool, which
        is asked for at once where the driver can; None of one that is not there, or not told."""

    async def read(self, key: ObjectKey, offset: int, length: int) -> ReadResult:
        """At most `length` bytes from `offset`; b"" at or after the end. Raises: ObjectNotFound."""

    async def stat_and_read(self, key: ObjectKey, length: int) -> tuple[ObjectStat, ReadResult]:
        """Its state and at most its first `length` bytes, in one round trip where the driver can.

        Each part tells its version: they are the same but where it takes two round trips and the
        object was changed between. Raises: ObjectNotFound.
        """

    async def inspect(self, key: ObjectKey, length: int) -> Inspection:
        """All that makes up an object, of its content at most the first `length` bytes, in one
        round trip where the driver can. Only the omap may go on: see `get_omap`.

        Raises: ObjectNotFound; VersionConflict where it takes several round trips and the object
        was changed between.
        """

    async def apply(self, key: ObjectKey, change: Change) -> int:
        """Apply all steps or none; return the object's new version (0 where it is removed).

        Raises: what the guard and the steps say; QuotaExceeded and NoSpace where growth is
        refused; TooLarge; NotSupported.
        """

    async def get_xattrs(self, key: ObjectKey) -> Xattrs:
        """Raises: ObjectNotFound."""

    async def get_omap(self, key: ObjectKey) -> Mapping[bytes, bytes]:
        """The whole omap. Raises: ObjectNotFound; TooLarge beyond one operation's data."""

    def list_objects(
        self, pool_id: int, namespace: bytes
    ) -> AsyncGenerator[list[ListedObject], None]:
        """All objects of one namespace, in batches (never empty), in RADOS's own order.

        Wrap it in contextlib.aclosing where the loop over it may end early.

        An error is an error, at the point where it happened: never a short list. Objects that
        exist throughout appear exactly once; removed ones of a pool with snapshots do not.
        """

    def pools(self) -> tuple[Pool, ...]:
        """The pools of the newest osdmap that this client has seen; never waits. The very same
        tuple until something may have changed.

        Of a pool that was removed and made again under its name, the new id shows only after
        `refresh_pools`: so after PoolGone, refresh. Raises: Disconnected after `aclose`.
        """

    async def refresh_pools(self) -> None:
        """Fetch the newest osdmap. May wait for a monitor: callers bound their wait."""

    async def probe_read(self, pool_id: int, namespace: bytes) -> None:
        """Raises: PermissionDenied where the caps do not allow reading."""

    async def probe_write(self, pool_id: int, namespace: bytes) -> None:
        """Raises: PermissionDenied where the caps do not allow writing. Changes nothing."""

    async def usage(self) -> Usage:
        """What statfs needs, from the monitor. Raises TimedOut where none answers.

        All zeros while the monitor has heard nothing from the manager yet (after a restart).
        """

    async def aclose(self) -> None:
        """End in order: waits for calls that are under way, at most their time-outs.

        Calls that come later get Disconnected. Raises: TimedOut where a call is stuck in a thread:
        the process must then end by os._exit.
        """
