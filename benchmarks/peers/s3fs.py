"""s3fs, a bucket of the gateway as a directory."""

from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import Final

from benchmarks.peers.gateway import GATEWAY_TURNS, GatewayDaemon
from benchmarks.peers.interface import Place, Site, Traits, mounted
from benchmarks.peers.s3 import BucketPast
from benchmarks.processes import MountProcess

SHARED: Final = "set-"  # folders that are only read are shared by the S3 mounts


class S3fs(Traits):
    name = "s3fs"
    note = "every change of an object, an append or an xattr too, stores the object anew"

    turns_max: int | None = GATEWAY_TURNS

    def __init__(self, site: Site, gateway: GatewayDaemon) -> None:
        self._site = site
        self._gateway = gateway
        self._password: Path = site.directory / "s3fs.passwd"

    def prepare(self) -> None:
        keys = self._gateway.get()
        self._password.touch(mode=0o600)
        self._password.write_text(f"{keys.access_key}:{keys.secret_key}\n")

    def home(self, folder: str) -> str:
        return f"bucket {bucket_of(folder, self.name)}"

    def make(self, folder: str) -> None:
        self._gateway.make_bucket(bucket_of(folder, self.name))

    def mount(self, folder: str) -> AbstractContextManager[Place]:
        path = self._site.directory / "mnt-s3fs"
        options = f"url={self._gateway.get().url},use_path_request_style,use_xattr"
        options += f",passwd_file={self._password}"
        command = ["s3fs", bucket_of(folder, self.name), str(path), "-f", "-o", options]
        return mounted(MountProcess(command, path, self._site.log_path(self.name)))

    def past(self, folder: str) -> AbstractContextManager[BucketPast]:
        return closing(BucketPast(self._gateway.get(), bucket_of(folder, self.name)))


def bucket_of(folder: str, peer: str) -> str:
    return folder if folder.startswith(SHARED) else f"{folder}-{peer}"
