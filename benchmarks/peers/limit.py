"""The limits as peers: the binding's plain calls, and rados bench."""

import re
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from benchmarks.driver import Args
from benchmarks.peers.interface import Site
from benchmarks.peers.radosmount import Radosmount
from benchmarks.processes import PeerError, run_quietly

BENCH_S: Final = 3
BIG_BYTES: Final = 4 << 20
SMALL_BYTES: Final = 4096
BIG_POOL: Final = "bench-4m"
SMALL_POOL: Final = "bench-4k"
OBJECT_COUNTS: Final = {BIG_POOL: 50, SMALL_POOL: 4000}  # the OSD keeps these in memory


class PoolPlace:
    """A pool instead of a directory: the driver is librados's client itself."""

    def __init__(self, site: Site, pool: str) -> None:
        self._site = site
        self._pool = pool

    def driver(self, args: Args) -> tuple[list[str], Args]:
        where = {"conf": self._site.conf, "pool": self._pool}
        return [sys.executable, "-m", "benchmarks.limits"], {**args, **where}

    def cpu_s(self) -> float:
        return 0.0

    def kernel_s(self) -> float:
        return 0.0

    def replies(self) -> int:
        return 0

    def settle(self) -> None:
        return


class LibradosLimit(Radosmount):
    """Works on the files of radosmount's pools, without radosmount."""

    def __init__(self, site: Site) -> None:
        super().__init__(site, "librados")
        self.note = "the same round trips in a row, plain calls of the Python binding"

    @contextmanager
    def mount(self, folder: str) -> Iterator[PoolPlace]:
        yield PoolPlace(self._site, folder)


def bench_result(output: str) -> tuple[int, float]:
    """Operations and seconds of one `rados bench`. Raises: PeerError."""
    made = re.search(r"Total (?:reads|writes) made:\s+(\d+)", output)
    seconds = re.search(r"Total time run:\s+([\d.]+)", output)
    if not made or not seconds:
        raise PeerError(f"rados bench said {output[-200:]!r}")
    return int(made[1]), float(seconds[1])


def children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class RadosBench:
    """`rados bench`, for the rows that it has a mode for, in a pool of its own."""

    name = "rados bench"
    note = "4 MiB objects, 4 at a time; 4 KiB objects, 1 or 8 at a time"

    def __init__(self, site: Site) -> None:
        self._site = site

    def prepare(self) -> None:
        """Fill what is read, and read it once: the OSDs are warm for everyone."""
        for pool, size in ((BIG_POOL, BIG_BYTES), (SMALL_POOL, SMALL_BYTES)):
            self._site.lab.create_pool(pool)
            self._bench(pool, 3, "write", 16, "-b", str(size), "--no-cleanup")
            self._bench(pool, 3, "seq", 16)

    def measure(self, mode: str, depth: int, operation_bytes: int) -> tuple[int, float, float]:
        """Operations, seconds, and CPU seconds of the client."""
        pool = BIG_POOL if operation_bytes == BIG_BYTES else SMALL_POOL
        size = ("-b", str(operation_bytes), "--no-cleanup") if mode == "write" else ()
        began_s = children_cpu_s()
        count, seconds = self._bench(pool, BENCH_S, mode, depth, *size)
        return count, seconds, children_cpu_s() - began_s

    def _bench(
        self, pool: str, seconds: int, mode: str, depth: int, *more: str
    ) -> tuple[int, float]:
        command = ["rados", "-c", self._site.conf, "-p", pool, "bench", str(seconds), mode]
        count = OBJECT_COUNTS[pool]
        limit = ("--max-objects", str(count)) if mode == "write" else ()
        return bench_result(run_quietly([*command, "-t", str(depth), *limit, *more]))
