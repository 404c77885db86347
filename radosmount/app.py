"""The only place that builds objects across the layers.

Imported once the process is the one that stays (see daemon.py): it brings in rados.
"""

import ctypes
import gc
import logging
import os
import shlex
from typing import Final

import trio

from radosmount import lifecycle
from radosmount.cache.spool import Spool
from radosmount.config import MIB, Config
from radosmount.configure import connection_words
from radosmount.fuse.operations import Operations
from radosmount.fuse.session import Session, kernel_cache
from radosmount.lifecycle import OnReady, Parts
from radosmount.store.interface import Store
from radosmount.store.rados.lasting import open_lasting_store
from radosmount.vfs.filesystem import Filesystem

log = logging.getLogger(__name__)

# mallopt(3). By default glibc keeps what each thread of ours and of librados has freed in an arena
# of the thread's own, up to 8 a core, and after the first large block that was freed it keeps even
# those of up to 32 MiB: tens of MiB more at the peak, which `cache_size` does not bound.
M_TRIM_THRESHOLD: Final = -1
M_MMAP_THRESHOLD: Final = -3
M_ARENA_MAX: Final = -8
ARENA_COUNT_MAX: Final = 2
SHARED_BLOCK_BYTES_MAX: Final = 4 * MIB  # the size of an operation: smaller ones are used again
# Of what was freed, so much stays ours, but a quarter of `cache_size` at most. The kernel clears
# each page that it gives us anew: that was a sixth of our CPU for a stream of writes.
KEPT_BYTES_MAX: Final = 64 * MIB

# gc.set_threshold. Nearly all here goes with its last reference; the collector is for the few
# cycles (exceptions, tasks), most of which are young when they end. A look at everything, by
# default each time that it has grown by a quarter, serves nobody for 100 ms and more where a large
# directory is listed: now it comes after millions of new objects, without what was imported.
GC_YOUNG_COUNT: Final = 2000
GC_MIDDLE_COUNT: Final = 10
GC_ALL_COUNT: Final = 500


async def open_store(config: Config) -> Store:
    return await open_lasting_store(config.store)


def make(
    store: Store, config: Config, nursery: trio.Nursery, on_ready: OnReady
) -> tuple[Filesystem, Session]:
    """The file system over `store`, and the session that serves it."""
    invalidation = kernel_cache(config.fuse)
    filesystem = Filesystem(
        store, config.view, config.cache, nursery, invalidation.invalidate, make_spool(config)
    )
    session = Session(
        lambda on_init: Operations(filesystem, on_init),
        config.fuse,
        invalidation,
        on_ready,
    )
    return filesystem, session


def make_spool(config: Config) -> Spool | None:
    """Its log lines tell a command that needs nothing but to be pasted. One tells now what is
    wrong with the directory, before there are bytes to lose."""
    directory = config.cache.spool_directory
    words = ["radosmount", "restore", *connection_words(config.store)]
    if directory is None:
        return None
    spool = Spool(directory, config.store.cluster, shlex.join(words))
    if not config.view.is_read_only and (complaint := spool.complaint()):
        log.warning("the spool %s is not fit: %s", directory, complaint)
    return spool


def run(config: Config, announce_ready: OnReady) -> int:
    """As `lifecycle.run`. Raises: MountError."""
    share_freed_memory(min(config.cache.size_bytes // 4, KEPT_BYTES_MAX))
    collect_rarely()
    return lifecycle.run(config, announce_ready, Parts(open_store, make))


def share_freed_memory(kept_bytes: int) -> None:
    """Bound what malloc keeps, before there are threads. MALLOC_ARENA_MAX of the environment
    counts more; a libc without mallopt (musl) has no arenas."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and "MALLOC_ARENA_MAX" not in os.environ:
        mallopt(M_ARENA_MAX, ARENA_COUNT_MAX)
        mallopt(M_TRIM_THRESHOLD, kept_bytes)
        mallopt(M_MMAP_THRESHOLD, SHARED_BLOCK_BYTES_MAX)


def collect_rarely() -> None:
    """Keep the garbage collector from long looks."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_YOUNG_COUNT, GC_MIDDLE_COUNT, GC_ALL_COUNT)
