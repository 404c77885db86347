"""Listed names without their inodes.

READDIRPLUS lets an entry come with nodeid 0: a name, its type and number, and no inode that either
side has to keep (fuse_direntplus_link of Linux: "userspace did not want to return attributes").
pyfuse3 sets nodeid and number as one; here the first is taken back behind its back.
"""

import ctypes
import logging
from collections.abc import Iterable
from typing import Final

import pyfuse3

from radosmount.vfs.directories import BareName

log = logging.getLogger(__name__)

_SAMPLE_INO: Final = 0x0123_4567_89AB_CDEF


class BareReply:
    """One EntryAttributes for all names, and the nodeid in it. Raises: LookupError where this
    pyfuse3 keeps it elsewhere."""

    def __init__(self) -> None:
        self._entry = pyfuse3.EntryAttributes()
        self._nodeid = _nodeid_of(self._entry)

    def add(self, token: pyfuse3.ReaddirToken, names: Iterable[BareName], index: int) -> None:
        """As many as there is room for. `index`: the number of the first."""
        entry, nodeid, reply = self._entry, self._nodeid, pyfuse3.readdir_reply
        known_bits = None
        for name, number, type_bits in names:
            index += 1
            entry.st_ino = number
            if type_bits != known_bits:
                entry.st_mode = known_bits = type_bits
            nodeid.value = 0
            if not reply(token, name, entry, index):
                return


def make_bare_reply() -> BareReply | None:
    """None: every name comes with its inode."""
    try:
        return BareReply()
    except LookupError as failure:
        log.warning("large directories are listed slowly: %s", failure)
        return None


def _nodeid_of(entry: pyfuse3.EntryAttributes) -> ctypes.c_uint64:
    """The nodeid, and not the number, which `st_ino` sets too: `st_ino` reads the nodeid."""
    entry.st_ino = pyfuse3.InodeT(_SAMPLE_INO)
    word_count = type(entry).__basicsize__ // 8
    words = (ctypes.c_uint64 * word_count).from_address(id(entry))
    places = [place for place, word in enumerate(words) if word == _SAMPLE_INO]
    if len(places) != 2:
        raise LookupError(f"pyfuse3's EntryAttributes has {len(places)} numbers")
    nodeid = ctypes.c_uint64.from_address(id(entry) + 8 * places[0])
    nodeid.value = 0
    if entry.st_ino != 0:
        raise LookupError("pyfuse3's EntryAttributes has another order")
    return nodeid
