"""All settings, one frozen section a layer.

The defaults of these classes are the one table of defaults: options.py, which turns `-o` text
into a `Config`, shows them in --help, and a test holds the man page to them.
"""

import enum
from dataclasses import dataclass, field
from typing import Final, Literal

KIB: Final = 1024
MIB: Final = 1024 * KIB


Driver = Literal["auto", "binding", "native"]


class FlushMode(enum.Enum):
    """When written bytes must be in RADOS (`-o flush=`, `-o sync`)."""

    CLOSE = "close"  # at close and fsync
    LAZY = "lazy"  # at fsync, else within dirty_expire
    SYNC = "sync"  # at every write


class ConflictMode(enum.Enum):
    """What a flush does to an object that someone else changed (`-o conflict=`)."""

    FAIL = "fail"  # ESTALE; nothing is overwritten
    LAST_WRITER = "last-writer"


@dataclass(frozen=True, slots=True)
class StoreConfig:
    """How to reach the cluster. Names as in ceph(8): `client_name` is e.g. `client.webapp`;
    `conf_path` None means the places that librados searches for `cluster`."""

    cluster: str = "ceph"
    client_name: str = "client.admin"
    conf_path: str | None = None
    keyring_path: str | None = None
    monitor_hosts: str | None = None
    # Any other Ceph option, as --KEY=VALUE. They may be secret (--key).
    options: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    connect_timeout_s: float = 15.0
    timeout_s: float = 30.0
    thread_count: int = 32
    pool_thread_count_max: int = 16  # one dead pool never takes all threads
    # Who calls librados: our compiled module, or the `rados` binding on threads. `auto` is the
    # module where it is built. With the module the two counts bound what is in flight.
    driver: Driver = "auto"
    has_posix: bool = False  # every stat brings the xattr of store/posix.py along


@dataclass(frozen=True, slots=True)
class CacheConfig:
    """The page cache. `size_bytes` bounds dirty and in-flight bytes together."""

    size_bytes: int = 256 * MIB
    atomic_max_bytes: int = 16 * MIB
    flush: FlushMode = FlushMode.CLOSE
    conflict: ConflictMode = ConflictMode.FAIL
    dirty_expire_s: float = 5.0
    timeout_s: float = 30.0
    has_posix: bool = False  # a flush stores the mtime's nanoseconds, and modes and owners
    spool_directory: str | None = None  # None: what can never be stored is lost


# A virtual xattr of a mount's root, by which `radosmount umount` finds the daemon.
PID_XATTR: Final = "ceph.radosmount.pid"
# And one that tells it how much is left to store, in words.
UNSTORED_XATTR: Final = "ceph.radosmount.unstored"


class NamesMode(enum.Enum):
    """How a `/` in an object's name shows."""

    FLAT = "flat"  # escaped
    TREE = "tree"  # as directories


@dataclass(frozen=True, slots=True)
class ViewConfig:
    """What is shown, and as whose. `pool` None shows every pool as a directory."""

    pool: bytes | None = None
    namespace: bytes = b""
    writable_pools: frozenset[bytes] = frozenset()
    is_read_only: bool = False
    has_strict_modes: bool = False
    has_posix: bool = False  # modes, owners and symbolic links are the objects'
    names: NamesMode = NamesMode.TREE
    uid: int = 0
    gid: int = 0
    file_mode: int = 0o644
    directory_mode: int = 0o755
    timeout_s: float = 30.0


@dataclass(frozen=True, slots=True)
class FuseConfig:
    """The mount itself. `options` go to libfuse as they are."""

    mountpoint: str = ""
    source: str = ""
    allow_other: bool = False
    options: frozenset[str] = frozenset()
    request_count_max: int = 1024  # callers that may wait for the store before all do
    invalidation_count_max: int = 65536  # inodes that wait to be dropped from the kernel's cache
    has_posix: bool = False  # then it is the kernel that clears setuid bits
    is_tuned: bool = True  # by our own reading of /dev/fuse, where it works
    readahead_kib: int = 4096  # the kernel's 128 means requests of 128 KiB, one at a time


@dataclass(frozen=True, slots=True)
class ProcessConfig:
    """The process around the mount: how it starts, logs and ends."""

    log_path: str | None = None  # None: stderr in the foreground, else syslog
    ready_margin_s: float = 10.0  # on top of connect_timeout, until the mount must answer
    progress_interval_s: float = 5.0
    flush_retry_delay_s: float = 1.0
    stop_extension_s: float = 30.0  # what we ask of systemd at every progress line
    # At the end, when nothing was acknowledged for so long, it is given up. With what follows far
    # below the TimeoutSec of systemd/mnt-assets.mount, which we cannot extend: SIGKILL spools
    # nothing.
    stall_limit_s: float = 90.0
    spool_limit_s: float = 60.0  # when given up: for what is left to reach the local disk
    close_margin_s: float = 5.0  # on top of timeout, until stuck store threads are left behind


@dataclass(frozen=True, slots=True)
class Config:
    store: StoreConfig = field(default_factory=StoreConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)
    view: ViewConfig = field(default_factory=ViewConfig)
    fuse: FuseConfig = field(default_factory=FuseConfig)
    process: ProcessConfig = field(default_factory=ProcessConfig)
    is_foreground: bool = False
    is_debug: bool = False
