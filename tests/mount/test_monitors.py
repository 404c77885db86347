"""Monitors that are elsewhere by now."""

import errno
import os
import re
from pathlib import Path

from radosmount.lab import Lab
from radosmount.lab_folder import free_port
from radosmount.lab_processes import run_program
from tests.mount.calls import can, eventually, opened
from tests.mount.mounting import mounted
from tests.support.cluster import temporary_lab

POOL = "assets"
TIMEOUT_S = 3
MOVED = ("connected anew", "is not stored", "Connection timed out", "nothing was acknowledged for")


def move_monitor(lab: Lab) -> None:
    """Restart the whole cluster with the monitor at another address, as ceph.conf says then."""
    for name in lab.pids():
        lab.stop_daemon(name)
    port = free_port()
    text = lab.conf_path.read_text()
    lab.conf_path.write_text(re.sub(r"(mon_host = \[v2:127\.0\.0\.1:)\d+", rf"\g<1>{port}", text))
    monmap = str(lab.directory / "monmap.moved")
    monitor = ("ceph-mon", "-i", "a", "-c", str(lab.conf_path))
    run_program((*monitor, "--extract-monmap", monmap))
    run_program(("monmaptool", "--rm", "a", monmap))
    run_program(("monmaptool", "--addv", "a", f"[v2:127.0.0.1:{port}]", monmap))
    run_program((*monitor, "--inject-monmap", monmap))
    for name in ("mon.a", "mgr.x", "osd.0"):
        lab.start_daemon(name)


def test_monitors_that_have_moved(tmp_path: Path) -> None:
    """Where all monitors have other addresses, and ceph.conf says so, the mount connects anew by
    itself, and stores what was not stored."""
    with temporary_lab(pools=(POOL,)) as lab:
        options = f"timeout={TIMEOUT_S},connect_timeout=3"
        with mounted(lab, f"ceph:{POOL}", options, expected=MOVED) as mount:
            (mount.path / "before").write_bytes(b"stored")
            with opened(mount.path / "dirty", os.O_WRONLY | os.O_CREAT) as descriptor:
                os.write(descriptor, b"not stored yet")
                move_monitor(lab)
                eventually(lambda: can(lambda: os.fsync(descriptor), errno.ETIMEDOUT), 90)
            assert (mount.path / "before").read_bytes() == b"stored"
            assert lab.rados("-p", POOL, "get", "dirty", "-") == b"not stored yet"
            (mount.path / "after").write_bytes(b"stored, too")
            assert lab.rados("-p", POOL, "get", "after", "-") == b"stored, too"
