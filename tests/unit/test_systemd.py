"""The units are ones that systemd takes."""

import re
import subprocess
from pathlib import Path

from radosmount.config import ProcessConfig

UNITS = Path(__file__).parents[2] / "systemd"


def test_units_verify(tmp_path: Path) -> None:
    """With a program in place of radosmount, which need not be installed here."""
    for unit in UNITS.iterdir():
        text = unit.read_text().replace("ExecStart=radosmount ", "ExecStart=/bin/true ")
        (tmp_path / unit.name).write_text(text)
    names = ["radosmount@assets.service", "mnt-assets.mount", "mnt-assets.automount"]
    command = ["systemd-analyze", "verify", *(str(tmp_path / name) for name in names)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stderr) == (0, "")


def test_a_mount_unit_leaves_time_to_give_up() -> None:
    """systemd ends what hangs by SIGKILL: before that, the spool has taken it."""
    [limit_s] = re.findall(r"^TimeoutSec=(\d+)$", (UNITS / "mnt-assets.mount").read_text(), re.M)
    process = ProcessConfig()
    needed_s = process.stall_limit_s + process.close_margin_s + process.spool_limit_s
    assert needed_s <= int(limit_s) / 1.5


def test_the_service_forces_nothing_into_a_namespace() -> None:
    """A service with a mount namespace of its own would mount for itself alone."""
    settings = [
        line.partition("=")[0]
        for line in (UNITS / "radosmount@.service").read_text().splitlines()
        if not line.startswith("#")
    ]
    private = ("Private", "Protect", "ReadOnly", "ReadWrite", "Inaccessible", "BindPaths")
    assert [name for name in settings if name.startswith(private)] == []
    assert "Type" in settings
