"""ceph-fuse, the MDS it needs, and its files seen through libcephfs (another client)."""

import importlib
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final

from benchmarks.peers.interface import CLOSING, MountedPlace, Site, Traits, mounted
from benchmarks.processes import MountProcess, PeerError

META_POOL: Final = "cephfs-meta"
DATA_POOL: Final = "cephfs-data"
START_TIMEOUT_S: Final = 60.0
READ_BYTES: Final = 4 << 20
ROOT_MODE: Final = 0o755


class CephfsPast:
    """A directory through libcephfs."""

    def __init__(self, client: Any, directory: bytes) -> None:
        self._client = client
        self._directory = directory

    def _path(self, name: str) -> bytes:
        return self._directory + b"/" + name.encode()

    def names(self) -> list[str]:
        with self._client.opendir(self._directory) as entries:
            names = []
            while entry := entries.readdir():
                names.append(entry.d_name.decode())
        return [name for name in names if name not in {".", ".."}]

    def read(self, name: str) -> bytes:
        fd = self._client.open(self._path(name), "r")
        pieces, offset = [], 0
        while piece := self._client.read(fd, offset, READ_BYTES):
            pieces.append(piece)
            offset += len(piece)
        self._client.close(fd)
        return b"".join(pieces)

    def xattr(self, name: str, key: str) -> bytes:
        value: bytes = self._client.getxattr(self._path(name), f"user.{key}")
        return value

    def put(self, files: Mapping[str, bytes]) -> None:
        for name, data in files.items():
            fd = self._client.open(self._path(name), "w", 0o644)
            for offset in range(0, len(data), READ_BYTES):
                self._client.write(fd, data[offset : offset + READ_BYTES], offset)
            self._client.close(fd)

    def clear(self) -> None:
        for name in self.names():
            self._client.unlink(self._path(name))


class CephFuse(Traits):
    name = "ceph-fuse"
    note = "close does not write back; creates and removals are acknowledged before they are safe"
    early = CLOSING

    def __init__(self, site: Site) -> None:
        self._site = site

    def prepare(self) -> None:
        lab = self._site.lab
        directory = lab.directory / "mds"
        directory.mkdir()
        caps = {"mon": "allow profile mds", "mgr": "allow profile mds", "mds": "allow *"}
        pairs = [word for service, cap in caps.items() for word in (service, cap)]
        key = lab.ceph("auth", "get-or-create", "mds.a", *pairs, "osd", "allow *")
        (directory / "keyring").write_text(key)
        for pool in (META_POOL, DATA_POOL):
            lab.ceph("osd", "pool", "create", pool, "8")
        lab.ceph("fs", "new", "bench", META_POOL, DATA_POOL)
        self._site.add_section("mds.a", mds_data=str(directory), keyring=f"{directory}/keyring")
        self._start_mds()

    def _start_mds(self) -> None:
        """The lab starts it as one of its own, and ends it."""
        self._site.lab.start_daemon("mds.a")
        deadline = time.monotonic() + START_TIMEOUT_S
        while "up:active" not in self._site.lab.ceph("mds", "stat"):
            if time.monotonic() > deadline:
                raise PeerError("the MDS did not get active")

    def home(self, folder: str) -> str:
        return f"cephfs {folder}"

    def make(self, folder: str) -> None:
        with self._client() as client:
            client.mkdir(f"/{folder}", ROOT_MODE)

    def mount(self, folder: str) -> AbstractContextManager[MountedPlace]:
        path = self._site.directory / "mnt-ceph-fuse"
        command = ["ceph-fuse", "-f", "-c", self._site.conf, "-n", "client.admin", str(path)]
        process = MountProcess(command, path, self._site.log_path(self.name))
        return mounted(process, path / folder)

    @contextmanager
    def past(self, folder: str) -> Iterator[CephfsPast]:
        with self._client() as client:
            yield CephfsPast(client, f"/{folder}".encode())

    @contextmanager
    def _client(self) -> Iterator[Any]:
        """A session of its own each time: one that stays would have to give up its caps."""
        cephfs: Any = importlib.import_module("cephfs")
        client = cephfs.LibCephFS(conffile=self._site.conf)
        client.mount()
        try:
            yield client
        finally:
            client.shutdown()
