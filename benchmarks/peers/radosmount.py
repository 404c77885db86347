"""radosmount itself, and its files seen through the binding."""

import importlib
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Final

from benchmarks.peers.interface import CLOSING, Place, Site, Traits, mounted
from benchmarks.processes import MountProcess

rados: Any = importlib.import_module("rados")  # the tests' stub holds only what radosmount uses

READ_BYTES_MAX: Final = 200 << 20
WRITE_BYTES: Final = 16 << 20
THREAD_COUNT: Final = 8


class RadosPast:
    """A pool through the binding."""

    def __init__(self, ioctx: Any) -> None:
        self._ioctx = ioctx

    def names(self) -> list[str]:
        return [listed.key for listed in self._ioctx.list_objects()]

    def read(self, name: str) -> bytes:
        data: bytes = self._ioctx.read(name, READ_BYTES_MAX)
        return data

    def xattr(self, name: str, key: str) -> bytes:
        value: bytes = dict(self._ioctx.get_xattrs(name))[key]
        return value

    def put(self, files: Mapping[str, bytes]) -> None:
        with ThreadPoolExecutor(THREAD_COUNT) as threads:
            list(threads.map(self._put_one, files.items()))

    def _put_one(self, file: tuple[str, bytes]) -> None:
        name, data = file
        for offset in range(0, len(data), WRITE_BYTES):
            self._ioctx.write(name, data[offset : offset + WRITE_BYTES], offset)

    def clear(self) -> None:
        with ThreadPoolExecutor(THREAD_COUNT) as threads:
            list(threads.map(self._ioctx.remove_object, self.names()))


@contextmanager
def pool_past(site: Site, pool: str) -> Iterator[RadosPast]:
    cluster = rados.Rados(conffile=site.conf)
    cluster.connect()
    try:
        ioctx = cluster.open_ioctx(pool)
        yield RadosPast(ioctx)
        ioctx.close()
    finally:
        cluster.shutdown()


class Radosmount(Traits):
    """`options` are for -o; the lazy variant is a peer of its own, for two rows."""

    def __init__(
        self, site: Site, name: str, *, options: str = "", only: frozenset[str] = frozenset()
    ) -> None:
        self._site = site
        self.name = name
        self.only = only
        self._options = options
        self.note = "close and fsync return when RADOS has acknowledged"
        if "lazy" in options:
            self.early = CLOSING
            self.note = "flush=lazy: fsync returns when RADOS has acknowledged, close does not"

    def prepare(self) -> None:
        return

    def home(self, folder: str) -> str:
        return f"pool {folder}"

    def make(self, folder: str) -> None:
        if folder not in self._site.lab.ceph("osd", "pool", "ls").split():
            self._site.lab.create_pool(folder)

    def mount(self, folder: str) -> AbstractContextManager[Place]:
        program = str(Path(sys.executable).parent / "radosmount")
        path = self._site.directory / "mnt-radosmount"
        command = [program, "-f", "-c", self._site.conf, f"ceph:{folder}", str(path)]
        if self._options:
            command += ["-o", self._options]
        process = MountProcess(
            command, path, self._site.log_path(self.name), umount=(program, "umount")
        )
        return mounted(process)

    def past(self, folder: str) -> AbstractContextManager[RadosPast]:
        return pool_past(self._site, folder)
