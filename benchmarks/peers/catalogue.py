"""All peers, by name."""

from typing import Final

from benchmarks.peers.cephfuse import CephFuse
from benchmarks.peers.gateway import GatewayDaemon
from benchmarks.peers.interface import Peer, Site
from benchmarks.peers.juicefs import JuiceFs
from benchmarks.peers.limit import LibradosLimit
from benchmarks.peers.radosmount import Radosmount
from benchmarks.peers.rclone import Rclone
from benchmarks.peers.s3fs import S3fs

LAZY_ROWS: Final = frozenset({"create-1", "create-8", "unlink"})
PEER_NAMES: Final = (
    "radosmount", "radosmount lazy", "ceph-fuse", "rclone", "s3fs", "juicefs", "librados",
    "rados bench",
)  # fmt: skip


def make_peers(site: Site) -> list[Peer]:
    gateway = GatewayDaemon(site)
    return [
        Radosmount(site, "radosmount"),
        Radosmount(site, "radosmount lazy", options="flush=lazy", only=LAZY_ROWS),
        CephFuse(site),
        Rclone(site, gateway),
        S3fs(site, gateway),
        JuiceFs(site, gateway),
        LibradosLimit(site),
    ]
