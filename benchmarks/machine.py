"""Where and with what a run was made, for its result."""

import argparse
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from benchmarks import idle
from benchmarks.peers.interface import ROOT

VERSION_COMMANDS: Final = {
    "radosmount": ("git", "-C", str(ROOT), "describe", "--always", "--dirty"),
    "ceph": ("ceph", "--version"),
    "ceph-fuse": ("ceph-fuse", "--version"),
    "rclone": ("rclone", "version"),
    "s3fs": ("s3fs", "--version"),
    "juicefs": (str(ROOT / ".venv/bin/juicefs"), "--version"),
}


def first_line(command: tuple[str, ...]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except OSError:
        return "not installed"
    return (done.stdout or done.stderr).partition("\n")[0].strip()


def field_of(path: str, name: str) -> str:
    for line in Path(path).read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return "unknown"


def about_this_run(arguments: argparse.Namespace, seed: str) -> dict[str, str]:
    versions = {name: first_line(command) for name, command in VERSION_COMMANDS.items()}
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{os.cpu_count()} CPUs, {field_of('/proc/cpuinfo', 'model name')}",
        "memory": field_of("/proc/meminfo", "MemTotal"),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "cluster": f"{arguments.osds} OSD(s) of BlueStore on this machine, one replica",
        "waiting": idle.about(),
        "load before": " ".join(f"{load:.2f}" for load in os.getloadavg()),
        "seed": seed,
        "size": "quick: no figure to go by" if arguments.quick else "full",
        **versions,
    }
