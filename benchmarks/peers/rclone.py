"""rclone mount, a bucket of the gateway as a directory, with --vfs-cache-mode writes."""

import json
import shutil
import time
import urllib.request
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from typing import Final

from benchmarks.peers.gateway import GATEWAY_TURNS, GatewayDaemon, free_port
from benchmarks.peers.interface import CLOSING, SYNCING, MountedPlace, Site, Traits
from benchmarks.peers.s3 import BucketPast
from benchmarks.peers.s3fs import bucket_of
from benchmarks.processes import MountProcess, PeerError

UPLOAD_TIMEOUT_S: Final = 300.0
RELEASE_S: Final = 1.0  # the kernel's RELEASE, which queues an upload, comes after close(2)


class RclonePlace(MountedPlace):
    """Its files go to the server seconds after close: `settle` waits for that."""

    turns_max: int | None = GATEWAY_TURNS

    def __init__(self, process: MountProcess, port: int) -> None:
        super().__init__(process, process.path)
        self._url = f"http://127.0.0.1:{port}/vfs/stats"

    def settle(self) -> None:
        time.sleep(RELEASE_S)
        deadline = time.monotonic() + UPLOAD_TIMEOUT_S
        while self._waiting_count():
            if time.monotonic() > deadline:
                raise PeerError(f"not all uploaded within {UPLOAD_TIMEOUT_S:.0f} s")
            time.sleep(0.2)

    def _waiting_count(self) -> int:
        request = urllib.request.Request(self._url, method="POST")
        with urllib.request.urlopen(request, timeout=10) as answer:
            cache = json.load(answer)["diskCache"]
        return int(cache["uploadsInProgress"]) + int(cache["uploadsQueued"])


class Rclone(Traits):
    name = "rclone"
    note = "close and fsync return before anything is on the server; it uploads 5 s later"
    early = CLOSING | SYNCING
    without = frozenset({"xattr-set", "xattr-get"})  # it has no xattrs

    def __init__(self, site: Site, gateway: GatewayDaemon) -> None:
        self._site = site
        self._gateway = gateway
        self._conf = site.directory / "rclone.conf"
        self._cache = site.directory / "rclone-cache"

    def prepare(self) -> None:
        gateway = self._gateway.get()
        lines = [
            "[gateway]",
            "type = s3",
            "provider = Ceph",
            f"endpoint = {gateway.url}",
            f"access_key_id = {gateway.access_key}",
            f"secret_access_key = {gateway.secret_key}",
        ]
        self._conf.write_text("\n".join(lines) + "\n")

    def home(self, folder: str) -> str:
        return f"bucket {bucket_of(folder, self.name)}"

    def make(self, folder: str) -> None:
        self._gateway.make_bucket(bucket_of(folder, self.name))

    @contextmanager
    def mount(self, folder: str) -> Iterator[RclonePlace]:
        shutil.rmtree(self._cache, ignore_errors=True)
        path, port = self._site.directory / "mnt-rclone", free_port()
        command = ["rclone", "mount", f"gateway:{bucket_of(folder, self.name)}", str(path)]
        command += ["--config", str(self._conf), "--cache-dir", str(self._cache)]
        command += ["--vfs-cache-mode", "writes"]
        command += ["--rc", "--rc-no-auth", "--rc-addr", f"127.0.0.1:{port}"]
        process = MountProcess(command, path, self._site.log_path(self.name))
        try:
            yield RclonePlace(process, port)
        finally:
            process.close()

    def past(self, folder: str) -> AbstractContextManager[BucketPast]:
        return closing(BucketPast(self._gateway.get(), bucket_of(folder, self.name)))
