"""Connections that break and messages that come late, under writers, readers and fio."""

import contextlib
import multiprocessing
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Final

from tests.battery.clusters import VerifiedLoad
from tests.battery.kills import Load
from tests.battery.row import Arena, Row, RowFailed

BROKEN: Final = "injecting socket failure"  # in the log of librados
FIO_LIMIT_S: Final = 600
FIO: Final = (
    "fio",
    "--name=job",
    "--ioengine=psync",
    "--rw=randrw",
    "--bsrange=512-256k",
    "--size=8m",
    "--numjobs=2",
    "--nrfiles=2",
    "--fsync=64",
    "--end_fsync=1",
    "--verify=crc32c",
    "--verify_fatal=1",
    "--verify_backlog=64",
    "--group_reporting",
)


def run_fio(directory: Path, seed: int) -> str | None:
    """What it complains of."""
    command = [*FIO, f"--randseed={seed}", f"--directory={directory}"]
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=FIO_LIMIT_S, cwd=directory.parent
    )
    return f"{result.stdout}{result.stderr}" if result.returncode or result.stderr else None


@contextlib.contextmanager
def unlike_this_process() -> Iterator[ProcessPoolExecutor]:
    """Another process that starts programs: a child of this one would close, until its exec,
    what the writers have open, and hear of their errors."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        pool.submit(time.sleep, 0).result()
        yield pool


def faults(arena: Arena, log: Path) -> tuple[str, ...]:
    """Settings of a client whose connections break every so many messages, each way, and which
    hears late of one in twenty."""
    return (
        f"--ms_inject_socket_failures={arena.sizes['messages']}",
        "--ms_inject_delay_type=osd",
        "--ms_inject_delay_probability=0.05",
        "--ms_inject_delay_max=0.2",
        "--debug_ms=0",
        f"--log_file={log}",
    )


def messenger(arena: Arena) -> None:
    """Programs notice nothing of it."""
    logs = [arena.folder / f"client.{number}.log" for number in range(2)]
    fio_runs = 0
    with (
        unlike_this_process() as pool,
        arena.mounted(arena.source, words=faults(arena, logs[0])) as one,
        arena.mounted(arena.source, words=faults(arena, logs[1])) as other,
        arena.objects() as objects,
    ):
        load = VerifiedLoad(arena, (one, other))
        runner = Load()
        with runner.running(load.works(runner.over)) as check:
            end_s = time.monotonic() + arena.sizes["seconds"]
            while time.monotonic() < end_s:
                directory = (one, other)[fio_runs % 2].path / f"fio-{fio_runs}"
                directory.mkdir()
                fio = pool.submit(run_fio, directory, arena.random.getrandbits(31))
                if complaint := fio.result():
                    raise RowFailed(f"fio: {complaint}")
                for path in directory.iterdir():
                    path.unlink()
                fio_runs += 1
                check()
        load.verify(objects)
    arena.figures.faults += sum(log.read_text().count(BROKEN) for log in logs)
    arena.figures.more["fio_runs"] = fio_runs


ROWS = (
    Row(
        "messenger",
        "the client's connections broken every some messages, and one message of the OSDs in "
        "twenty late by up to 0.2 s, under fio with checksums and verified writers and readers on "
        "two mounts: no error, no wrong byte",
        messenger,
        {"seconds": 30, "writers": 3, "messages": 300},
        {"seconds": 600, "writers": 6, "messages": 300},
    ),
)
