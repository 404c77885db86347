"""What the runner asks of a peer. Each peer is one module beside this one."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from benchmarks.driver import Args
from benchmarks.past import Past
from benchmarks.processes import MountProcess
from radosmount.lab import Lab

CLOSING: Final = frozenset({"create-1", "create-8", "unlink", "tar", "rsync", "cp-4"})
SYNCING: Final = frozenset({"write", "overwrite", "append", "replace"})
ROOT: Final = Path(__file__).parent.parent.parent


@dataclass(frozen=True)
class Site:
    """Where a run takes place: the cluster, and a folder for mounts, caches and logs."""

    lab: Lab
    directory: Path

    @property
    def conf(self) -> str:
        return str(self.lab.conf_path)

    def add_section(self, name: str, **settings: str) -> None:
        """Give a daemon that is no part of a lab its section of the lab's ceph.conf."""
        folder = self.lab.directory
        paths = {
            "log_file": f"{folder}/log/{name}.log",
            "admin_socket": f"{folder}/run/{name}.asok",
            "pid_file": f"{folder}/run/{name}.pid",
            "crash_dir": f"{folder}/log",
        }
        lines = [f"{key} = {value}" for key, value in (paths | settings).items()]
        with self.lab.conf_path.open("a") as conf:
            conf.write("\n".join([f"[{name}]", *lines, "", ""]))

    def start_daemon(self, name: str, command: list[str]) -> None:
        """Start a daemon with the command line by which the lab knows, and ends, its own."""
        with self.log_path(name).open("ab") as log:
            subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def log_path(self, name: str) -> Path:
        return self.directory / f"{name}.log"


class Place(Protocol):
    """A folder, mounted afresh, ready for a driver."""

    def driver(self, args: Args) -> tuple[list[str], Args]:
        """The command of the driver, and the job for it."""
        ...

    def cpu_s(self) -> float:
        """CPU seconds that the client process has used so far."""
        ...

    def kernel_s(self) -> float:
        """Those of them that it was in the kernel."""
        ...

    def replies(self) -> int:
        """How many requests it has answered so far, or a little more."""
        ...

    def settle(self) -> None:
        """Wait until what was written is on the server, where the peer goes on after close."""
        ...


class Traits:
    """What the runner and the report know of a peer; these are the defaults."""

    name = ""
    note = ""  # what it promises and what it does not, for the report
    without: frozenset[str] = frozenset()  # rows that it cannot do
    only: frozenset[str] = frozenset()  # if any, the rows that it is for
    early: frozenset[str] = frozenset()  # rows in which it returns before the bytes are safe
    turns_max: int | None = None  # fewer turns for what takes very long


class Peer(Protocol):
    """`folder` is a pool, a directory or a bucket: one flat set of files."""

    name: str
    note: str
    without: frozenset[str]
    only: frozenset[str]
    early: frozenset[str]
    turns_max: int | None

    def prepare(self) -> None:
        """Start what it needs beside the cluster. Raises: PeerError."""
        ...

    def home(self, folder: str) -> str:
        """What identifies the folder's content: peers that share it fill it once."""
        ...

    def make(self, folder: str) -> None:
        """Make the folder, empty."""
        ...

    def mount(self, folder: str) -> AbstractContextManager[Place]:
        """Mount with cold caches, local disk caches too; unmount at the end."""
        ...

    def past(self, folder: str) -> AbstractContextManager[Past]: ...


class MountedPlace:
    """A directory of a mount whose daemon is our child."""

    def __init__(self, process: MountProcess, directory: Path) -> None:
        self._process = process
        self.directory = directory

    def driver(self, args: Args) -> tuple[list[str], Args]:
        return [sys.executable, "-m", "benchmarks.jobs"], {
            **args,
            "directory": str(self.directory),
        }

    def cpu_s(self) -> float:
        return self._process.cpu_s()

    def kernel_s(self) -> float:
        return self._process.kernel_s()

    def replies(self) -> int:
        return self._process.replies()

    def settle(self) -> None:
        return


@contextmanager
def mounted(process: MountProcess, directory: Path | None = None) -> Iterator[MountedPlace]:
    try:
        yield MountedPlace(process, directory or process.path)
    finally:
        process.close()
