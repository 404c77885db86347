"""What the folder of a lab (lab.py) holds before any daemon runs: settings, keys, empty stores."""

import contextlib
import random
import socket
import uuid
from pathlib import Path
from typing import Final

from radosmount.config import MIB
from radosmount.errors import MountError
from radosmount.lab_processes import run_program

OSD_SIZE_BYTES: Final = 20480 * MIB  # sparse: only what is stored takes room
OSD_MEMORY_BYTES: Final = 1024 * MIB  # Ceph refuses less than 896 MiB
# Below Linux's ephemeral ports, so that no outgoing connection takes the port of a stopped
# monitor, and above the range (6800-7568) in which the other daemons pick theirs.
MONITOR_PORTS: Final = range(10000, 30000)

CONF_HEAD = "# A private Ceph of radosmount.lab; nothing of it is outside this folder.\n"
_CONF = """\
[global]
fsid = {fsid}
mon_host = [v2:127.0.0.1:{port}]
ms_bind_msgr1 = false
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
keyring = {directory}/keyring
auth_cluster_required = cephx
auth_service_required = cephx
auth_client_required = cephx
auth_allow_insecure_global_id_reclaim = false
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_autoscale_mode = off
osd_crush_chooseleaf_type = 0
mon_allow_pool_size_one = true
mon_allow_pool_delete = true
mon_warn_on_pool_no_redundancy = false
mon_data_avail_warn = 1
mon_data_avail_crit = 0

[mon]
mon_data = {directory}/mon
mon_cluster_log_file = {directory}/log/$cluster.$channel.log
paxos_propose_interval = 0.05

[mgr]
mgr_data = {directory}/mgr
mgr_initial_modules =
mgr_stats_period = 1

[osd]
osd_data = {directory}/osd.$id
osd_objectstore = bluestore
osd_memory_target = {memory_bytes}
osd_op_queue = wpq
osd_mon_shutdown_timeout = 0.2
bluestore_block_size = {osd_size_bytes}
bluestore_fsck_on_mkfs = false

"""

# One a daemon, not [global]: a client that reads this file must not write logs here.
_DAEMON_SECTION = """\
[{name}]
log_file = {directory}/log/{name}.log
pid_file = {directory}/run/{name}.pid
admin_socket = {directory}/run/{name}.asok
run_dir = {directory}/run
crash_dir = {directory}/log

"""

# What ceph-authtool(8) is told about each identity the cluster is born with.
_DAEMON_CAPS: Final = {
    "mon": {"mon": "allow *"},
    "client": {"mon": "allow *", "osd": "allow *", "mgr": "allow *", "mds": "allow *"},
    "mgr": {"mon": "allow profile mgr", "osd": "allow *", "mds": "allow *"},
    "osd": {"mon": "allow profile osd", "osd": "allow *", "mgr": "allow profile osd"},
}


def make_folder(directory: Path, osd_uuids: dict[str, str], monitor_port: int) -> None:
    """Fill the empty folder `directory` for a cluster of these OSDs (`osd.0`: its uuid).

    Raises: `MountError` when a program of Ceph fails.
    """
    conf, keyring = directory / "ceph.conf", directory / "keyring"
    fsid = str(uuid.uuid4())
    conf.write_text(_settings(directory, fsid, monitor_port, osd_uuids))
    for folder in ("log", "run", "mon", "mgr", *osd_uuids):
        (directory / folder).mkdir()
    for name in ("mon.", "client.admin", "mgr.x", *osd_uuids):
        _make_key(keyring, name)
    monmap = str(directory / "monmap")
    address = f"[v2:127.0.0.1:{monitor_port}]"
    run_program(("monmaptool", "--create", "--fsid", fsid, "--addv", "a", address, monmap))
    store = ("--monmap", monmap, "--keyring", str(keyring))
    run_program(("ceph-mon", "-i", "a", "-c", str(conf), "--mkfs", *store))
    for name, osd_uuid in osd_uuids.items():
        _make_osd_store(conf, name, osd_uuid)


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on now."""
    for port in random.sample(MONITOR_PORTS, 100):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
    raise MountError("no free port on 127.0.0.1 for the monitor")


def _settings(directory: Path, fsid: str, port: int, osd_uuids: dict[str, str]) -> str:
    settings = CONF_HEAD + _CONF.format(
        fsid=fsid,
        port=port,
        directory=directory,
        memory_bytes=OSD_MEMORY_BYTES,
        osd_size_bytes=OSD_SIZE_BYTES,
    )
    sections = (
        _DAEMON_SECTION.format(name=name, directory=directory)
        for name in ("mon.a", "mgr.x", *osd_uuids)
    )
    return settings + "".join(sections)


def _make_key(keyring: Path, name: str) -> None:
    caps = _DAEMON_CAPS[name.partition(".")[0]]
    words = [word for service, cap in caps.items() for word in ("--cap", service, cap)]
    create = () if keyring.exists() else ("--create-keyring",)
    run_program(("ceph-authtool", *create, str(keyring), "--gen-key", "-n", name, *words))


def _make_osd_store(conf: Path, name: str, osd_uuid: str) -> None:
    """Format one OSD. Without --no-mon-config it would wait for a monitor first."""
    identity = ("-i", name.removeprefix("osd."), "-c", str(conf))
    run_program(("ceph-osd", *identity, "--no-mon-config", "--mkfs", "--osd-uuid", osd_uuid))
