"""A private Ceph (one monitor, one manager, 1 to 3 OSDs) for the demo, tests and benchmarks.

Not part of the file system: it stands outside the layers, drives Ceph's own programs and
never imports `rados`. What a lab's folder holds before anything runs is in lab_folder.py.

Everything lives in one folder: settings, keys, stores, sockets, logs. Invariants:

- A daemon belongs to a lab if and only if its command line names the lab's ceph.conf. That
  is read from /proc whenever it is asked, so no record can be stale and no foreign
  process is ever ended, however the lab's owner died.
- A folder with content that is not a lab's is refused, never removed.

    python -m radosmount.lab up DIR --osds 1 --pool assets
    python -m radosmount.lab status DIR
    python -m radosmount.lab down DIR
"""

import argparse
import contextlib
import os
import shlex
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence, Set
from pathlib import Path
from signal import SIGKILL, SIGTERM, Signals
from types import TracebackType
from typing import Final, Self

from radosmount.errors import MountError
from radosmount.lab_folder import CONF_HEAD, free_port, make_folder
from radosmount.lab_processes import daemon_name, run_program, running_programs, send_signal

START_TIMEOUT_S: Final = 60.0
TERM_TIMEOUT_S: Final = 5.0  # a daemon that ignores SIGTERM for this long gets SIGKILL
KILL_TIMEOUT_S: Final = 30.0  # only a process stuck in the kernel outlives SIGKILL
POLL_INTERVAL_S: Final = 0.05
OSD_COUNT_MAX: Final = 3
POOL_PG_COUNT: Final = 8
SOCKET_PATH_MAX: Final = 107  # sun_path of unix(7), without its final zero


def _no_progress(_line: str) -> None:
    """The default for `progress`: say nothing."""


class Lab:
    """One private Ceph in one folder; a context manager that starts and ends it.

    `pools` are made at the start, `progress` is told of each long step. The daemons outlive
    the process that started them, until `stop`.

    Raises (all methods): `MountError` with one plain message when Ceph does not do as told.
    """

    def __init__(
        self,
        directory: Path,
        osd_count: int = 1,
        *,
        pools: Sequence[str] = (),
        monitor_port: int | None = None,
        progress: Callable[[str], None] | None = None,
    ) -> None:
        if not 1 <= osd_count <= OSD_COUNT_MAX:
            raise MountError(f"a lab has 1 to {OSD_COUNT_MAX} OSDs, not {osd_count}")
        self.directory = directory.resolve()
        self.osd_count = osd_count
        self._pools = tuple(pools)
        self._monitor_port = monitor_port
        self._progress = progress or _no_progress
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    @classmethod
    def attach(cls, directory: Path) -> Self:
        """Take over the lab that runs in `directory`. Raises: `MountError` if none does."""
        lab = cls(directory)
        if not lab.pids():
            raise MountError(f"no lab runs in {lab.directory}; `lab up` starts one")
        lab.osd_count = len(list(lab.directory.glob("osd.*")))
        return lab

    @property
    def conf_path(self) -> Path:
        """The ceph.conf for clients; with it alone, any Ceph program is client.admin."""
        return self.directory / "ceph.conf"

    @property
    def keyring_path(self) -> Path:
        return self.directory / "keyring"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    # The whole lab

    def start(self) -> None:
        """Make the cluster and wait until every pool serves reads and writes.

        What a dead or half-started lab left in the folder is removed first. On failure
        nothing is left behind, and the message carries the ends of the logs.
        """
        self._clear_directory()
        try:
            self._make_cluster()
        except BaseException as failure:
            message = f"{failure}{self._log_tails()}"
            self.stop()
            if isinstance(failure, MountError):
                raise MountError(message) from failure
            raise

    def stop(self) -> None:
        """End every daemon, wait until all are gone, remove the folder. Safe at any time."""
        pids = self.pids()
        for pid in pids.values():
            send_signal(pid, SIGTERM)
        if not self._wait_for_end(pids, TERM_TIMEOUT_S):
            for pid in self.pids().values():
                send_signal(pid, SIGKILL)
            if not self._wait_for_end(pids, KILL_TIMEOUT_S):
                raise MountError(f"these daemons do not end, even by SIGKILL: {self.pids()}")
        self._remove_directory()

    def status(self) -> str:
        """Return the daemons with their pids, and what `ceph status` says if it answers."""
        pids = self.pids()
        if not pids:
            return f"no lab runs in {self.directory}\n"
        lines = [f"{name} pid {pid}" for name, pid in sorted(pids.items())]
        return "\n".join([f"lab in {self.directory}", *lines, "", self.ceph("status")])

    # Programs of Ceph

    def ceph(self, *args: str) -> str:
        """Run ceph(8) as client.admin and return its standard output (about 0.3 s a call)."""
        return run_program(("ceph", "-c", str(self.conf_path), *args)).stdout.decode()

    def rados(self, *args: str, input: bytes | None = None) -> bytes:
        """Run rados(8) as client.admin and return its standard output."""
        return run_program(("rados", "-c", str(self.conf_path), *args), input).stdout

    def create_pool(self, name: str, application: str = "rados") -> None:
        """Make a pool and wait until all its placement groups serve."""
        self._ceph_batch(_pool_commands(name, application))
        self._wait_for_pool(name)

    def delete_pool(self, name: str) -> None:
        self.ceph("osd", "pool", "delete", name, name, "--yes-i-really-really-mean-it")

    def add_user(self, name: str, **caps: str) -> Path:
        """Make the client `client.NAME` and return its keyring, for `-k`.

        `add_user("reader", mon="allow r", osd="allow r pool=assets")`
        """
        pairs = [word for service, cap in caps.items() for word in (service, cap)]
        keyring = self.directory / f"client.{name}.keyring"
        keyring.touch(mode=0o600)
        keyring.write_text(self.ceph("auth", "get-or-create", f"client.{name}", *pairs))
        return keyring

    # Single daemons

    def pids(self) -> dict[str, int]:
        """Return the live daemons: `{"mon.a": 4711, "mgr.x": 4712, "osd.0": 4713}`."""
        own = {name: child.pid for name, child in self._children.items() if child.poll() is None}
        # A child may not show its command line yet: execve(2) returns before /proc has it.
        return own | {
            name: pid
            for pid, words in running_programs()
            if (name := daemon_name(words, self.conf_path)) is not None
        }

    def signal(self, name: str, number: Signals) -> None:
        """Send a signal to one daemon. Raises: `MountError` if it does not run."""
        pids = self.pids()
        if name not in pids:
            raise MountError(f"{name} does not run in the lab {self.directory}")
        send_signal(pids[name], number)

    def stop_daemon(self, name: str, number: Signals = SIGTERM) -> None:
        """End one daemon by `number` and wait until it is gone; its data stays."""
        pid = self.pids().get(name)
        self.signal(name, number)
        if pid is not None and not self._wait_for_end({name: pid}, TERM_TIMEOUT_S):
            raise MountError(f"{name} (pid {pid}) did not end by {number.name}")

    def start_daemon(self, name: str) -> None:
        """Start one daemon again. Does not wait until it serves."""
        if name in self.pids():
            raise MountError(f"{name} runs already in the lab {self.directory}")
        kind, _, identity = name.partition(".")
        with self._output_path(name).open("ab") as output:
            self._children[name] = subprocess.Popen(
                [f"ceph-{kind}", "-f", "-i", identity, "-c", str(self.conf_path)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C of the owner is not meant for the daemons
            )

    # Steps of start()

    def _clear_directory(self) -> None:
        """Leave an empty folder, or raise if it is not ours to empty."""
        longest_socket = self.directory / "run" / "osd.0.asok"
        if len(os.fsencode(longest_socket)) > SOCKET_PATH_MAX:
            raise MountError(f"{self.directory} is too long a path for Ceph's sockets")
        if self.pids():
            raise MountError(f"a lab runs already in {self.directory}; `lab down` ends it")
        self._remove_directory()
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(self.directory.iterdir()):
            raise MountError(f"{self.directory} is not empty and holds no lab")

    def _remove_directory(self) -> None:
        """Remove the folder if the head of its ceph.conf says that it is a lab's."""
        with contextlib.suppress(FileNotFoundError):
            if self.conf_path.read_text().startswith(CONF_HEAD):
                shutil.rmtree(self.directory)

    def _make_cluster(self) -> None:
        osd_uuids = {f"osd.{index}": str(uuid.uuid4()) for index in range(self.osd_count)}
        self._progress(f"making a private Ceph in {self.directory}")
        make_folder(self.directory, osd_uuids, self._monitor_port or free_port())
        self._progress("starting the monitor and the manager")
        self.start_daemon("mon.a")
        self.start_daemon("mgr.x")
        self._wait_for_monitor()
        self._progress(f"starting {self.osd_count} OSD(s)")
        self._start_osds(osd_uuids)
        self._wait_until_ready()

    def _wait_for_monitor(self) -> None:
        socket_path = self.directory / "run" / "mon.a.asok"
        self._wait_for(socket_path.exists, "the monitor did not start", {"mon.a"})

    def _start_osds(self, osd_uuids: dict[str, str]) -> None:
        """Enter the OSDs and the first pools into the maps by one call, then start them."""
        commands = [f"osd new {osd_uuid} {name[4:]}" for name, osd_uuid in osd_uuids.items()]
        for pool in self._pools:
            commands += _pool_commands(pool, "rados")
        self._ceph_batch(commands)
        for name in osd_uuids:
            self.start_daemon(name)

    def _wait_until_ready(self) -> None:
        self._progress("waiting until the OSDs and the manager serve")
        self._wait_for(self._is_ready, "the cluster did not get ready")
        for pool in self._pools:
            self._wait_for_pool(pool)

    def _is_ready(self) -> bool:
        osd_counts = f"{self.osd_count} osds: {self.osd_count} up"
        return osd_counts in self.ceph("osd", "stat") and '"available": true' in self.ceph(
            "mgr", "stat"
        )

    def _wait_for_pool(self, name: str) -> None:
        """A listing visits every placement group, and waits for each to serve."""
        self.rados("-p", name, "ls")

    def _wait_for(
        self, is_done: Callable[[], bool], failure: str, needed: Set[str] | None = None
    ) -> None:
        """Poll until `is_done`. A daemon that ended meanwhile will not come: say so at once.
        `needed`: of those daemons only, since others may end because of them."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while not is_done():
            ended = self._children.keys() - self.pids().keys()
            if needed is not None:
                ended &= needed
            if ended:
                raise MountError(f"{failure}: {', '.join(sorted(ended))} ended")
            if time.monotonic() > deadline:
                raise MountError(f"{failure} within {START_TIMEOUT_S:.0f} s")
            time.sleep(POLL_INTERVAL_S)

    # Processes

    def _ceph_batch(self, commands: Sequence[str]) -> None:
        """Run several ceph commands by one process: its start-up costs more than they do."""
        lines = "".join(f"{line}\n" for line in commands)
        done = run_program(("ceph", "-c", str(self.conf_path)), lines.encode())
        complaint = done.stderr.decode(errors="replace").strip()
        if "Error " in complaint:  # fed with lines, ceph(8) goes on after an error and ends with 0
            raise MountError(f"ceph refused {commands}: {complaint}")

    def _wait_for_end(self, pids: dict[str, int], timeout_s: float) -> bool:
        """Return whether all of `pids` ended within `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while pids.items() & self.pids().items():
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL_INTERVAL_S)
        return True

    def _output_path(self, name: str) -> Path:
        return self.directory / "log" / f"{name}.out"

    def _log_tails(self) -> str:
        """Return the last lines of what every daemon printed, for an error message."""
        tails = []
        for path in sorted(self.directory.glob("log/*.out")):
            lines = path.read_text(errors="replace").splitlines()[-5:]
            tails += [f"\n  {path.stem}: {line}" for line in lines]
        return "".join(tails)


def _pool_commands(name: str, application: str) -> list[str]:
    return [
        f"osd pool create {shlex.quote(name)} {POOL_PG_COUNT}",
        f"osd pool application enable {shlex.quote(name)} {application}",
    ]


def _parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="radosmount.lab", description="Start, show and end a private Ceph in one folder."
    )
    actions = parser.add_subparsers(dest="action", required=True)
    up = actions.add_parser("up", help="make and start it")
    up.add_argument("--osds", type=int, default=1, metavar="N", help="1 to 3 (default 1)")
    up.add_argument("--pool", action="append", default=[], metavar="NAME", help="make this pool")
    up.add_argument("--port", type=int, metavar="PORT", help="of the monitor (default: a free one)")
    status = actions.add_parser("status", help="show its daemons and ceph status")
    down = actions.add_parser("down", help="end it and remove the folder")
    for action in (up, status, down):
        action.add_argument("directory", type=Path, metavar="DIR")
    return parser.parse_args(argv)


def _say(line: str) -> None:
    print(f"lab: {line}", file=sys.stderr, flush=True)


def _up(arguments: argparse.Namespace) -> int:
    began_s = time.monotonic()
    lab = Lab(
        arguments.directory,
        arguments.osds,
        pools=arguments.pool,
        monitor_port=arguments.port,
        progress=_say,
    )
    lab.start()
    _say(f"up after {time.monotonic() - began_s:.1f} s")
    print(lab.conf_path)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 done; 1 failed, or for `status` not running; 130 ended by Ctrl-C."""
    arguments = _parse_arguments(sys.argv[1:] if argv is None else argv)
    try:
        if arguments.action == "up":
            return _up(arguments)
        if arguments.action == "down":
            Lab(arguments.directory).stop()
            return 0
        lab = Lab(arguments.directory)
        print(lab.status(), end="")
        return 0 if lab.pids() else 1
    except MountError as failure:
        _say(str(failure))
        return 1
    except KeyboardInterrupt:  # start() has removed what was half-made
        return 130


if __name__ == "__main__":
    sys.exit(main())
