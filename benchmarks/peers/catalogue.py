"""All peers, by name."""

from typing import Final

from benchmarks.peers.cephfuse import CephFuse
from benchmarks.peers.interface import Peer, Site
from benchmarks.peers.limit import LibradosLimit
from benchmarks.peers.radosmount import Radosmount

LAZY_ROWS: Final = frozenset({"create-1", "create-8", "unlink"})
PEER_NAMES: Final = ("radosmount", "radosmount lazy", "ceph-fuse", "librados", "rados bench")


def make_peers(site: Site) -> list[Peer]:
    return [
        Radosmount(site, "radosmount"),
        Radosmount(site, "radosmount lazy", options="flush=lazy", only=LAZY_ROWS),
        CephFuse(site),
        LibradosLimit(site),
    ]
