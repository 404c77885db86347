"""Reads small files one after the other, each cold, until told to end: what others feel meanwhile.

    python -m benchmarks.reader DIRECTORY COUNT BYTES     (standard input: its end is the end)

Says "ready" after the first read; at the end the seconds of each that followed, in JSON.
"""

import json
import os
import random
import select
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Final

from benchmarks.content import file_names
from benchmarks.peers.interface import ROOT
from benchmarks.processes import PeerError

PAUSE_S: Final = 0.001  # it is to feel the load, not to be it


@contextmanager
def reading(directory: Path, count: int, size: int) -> Iterator[list[float]]:
    """Have files read meanwhile; the list has the seconds of each afterwards."""
    command = [sys.executable, "-m", "benchmarks.reader", str(directory), str(count), str(size)]
    reader = Popen(command, stdin=PIPE, stdout=PIPE, cwd=ROOT, text=True)
    assert reader.stdout
    durations_s: list[float] = []
    try:
        if reader.stdout.readline() != "ready\n":
            raise PeerError("the reader does not start")
        yield durations_s
    finally:
        output, _ = reader.communicate()
    if reader.returncode:
        raise PeerError(f"the reader ended with {reader.returncode}")
    durations_s += json.loads(output)


def read_cold(path: str, size: int) -> float:
    """The seconds of open, read and close. Afterwards it is not in the page cache."""
    began_s = time.perf_counter()
    descriptor = os.open(path, os.O_RDONLY)
    data = os.pread(descriptor, size, 0)
    seconds = time.perf_counter() - began_s
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    began_s = time.perf_counter()
    os.close(descriptor)
    if len(data) != size:
        raise SystemExit(f"{path}: {len(data)} bytes")
    return seconds + time.perf_counter() - began_s


def main(directory: str, count: int, size: int) -> None:
    names = file_names(count)
    random.shuffle(names)
    durations_s: list[float] = []
    while not (durations_s and select.select([sys.stdin], [], [], PAUSE_S)[0]):
        name = names[len(durations_s) % count]
        durations_s.append(read_cold(f"{directory}/{name}", size))
        if len(durations_s) == 1:
            print("ready", flush=True)
    print(json.dumps(durations_s[1:]), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
