"""All settings, one frozen section a layer. Pure: parsing reads no file and no environment
but what it is given.

`DEFAULTS` below is the one table of defaults; the documents quote it.
"""

import enum
from dataclasses import dataclass, field
from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB


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
    options: tuple[tuple[str, str], ...] = ()  # any other Ceph option, as --KEY=VALUE
    connect_timeout_s: float = 15.0
    timeout_s: float = 30.0
    thread_count: int = 32
    pool_thread_count_max: int = 16  # one dead pool never takes all threads


@dataclass(frozen=True, slots=True)
class CacheConfig:
    """The page cache. `size_bytes` bounds dirty and in-flight bytes together."""

    size_bytes: int = 256 * MIB
    atomic_max_bytes: int = 16 * MIB
    flush: FlushMode = FlushMode.CLOSE
    conflict: ConflictMode = ConflictMode.FAIL
    dirty_expire_s: float = 5.0
    timeout_s: float = 30.0


@dataclass(frozen=True, slots=True)
class ViewConfig:
    """What is shown, and as whose. `pool` None shows every pool as a directory."""

    pool: bytes | None = None
    namespace: bytes = b""
    writable_pools: frozenset[bytes] = frozenset()
    is_read_only: bool = False
    has_strict_modes: bool = False
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
    request_count_max: int = 256
    timeout_s: float = 30.0


@dataclass(frozen=True, slots=True)
class Config:
    store: StoreConfig = field(default_factory=StoreConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)
    view: ViewConfig = field(default_factory=ViewConfig)
    fuse: FuseConfig = field(default_factory=FuseConfig)
    is_foreground: bool = False
    is_debug: bool = False
