"""INIT's reply, amended."""

import struct

from hypothesis import given
from hypothesis import strategies as st

from radosmount.fuse.handshake import (
    CONGESTION_THRESHOLD,
    HANDLE_KILLPRIV,
    HANDLE_KILLPRIV_V2,
    MAX_BACKGROUND,
    PARALLEL_DIROPS,
    amended,
)

WANTED = PARALLEL_DIROPS | HANDLE_KILLPRIV_V2


def init_request(flags: int) -> bytes:
    """fuse_in_header and fuse_init_in of fuse_kernel.h."""
    header = struct.pack("=IIQQIIII", 104, 26, 1, 0, 0, 0, 0, 0)
    return header + struct.pack("=IIII", 7, 45, 131072, flags) + bytes(48)


def init_reply(flags: int) -> bytes:
    """fuse_out_header and fuse_init_out of fuse_kernel.h, as libfuse sends it."""
    body = struct.pack("=IIIIHHIIHHII", 7, 31, 131072, flags, 0, 0, 1 << 20, 1, 256, 0, 0, 0)
    return struct.pack("=IiQ", 16 + len(body) + 24, 0, 1) + body + bytes(24)


def flags_of(reply: bytes) -> int:
    return int(struct.unpack_from("=I", reply, 28)[0])


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_only_what_the_kernel_offers_is_added(offered: int, agreed: int) -> None:
    """The reply gains the wanted flags that the kernel offers, and loses none."""
    reply = amended(init_request(offered), init_reply(agreed), has_setuid=False)
    assert flags_of(reply) == agreed | (offered & WANTED)


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_the_kernel_clears_setuid_bits(offered: int, agreed: int) -> None:
    """Where files may have them, we never say that we do."""
    reply = amended(init_request(offered), init_reply(agreed), has_setuid=True)
    assert not flags_of(reply) & (HANDLE_KILLPRIV | HANDLE_KILLPRIV_V2)


def test_the_rest_of_the_reply_stays() -> None:
    """Besides the flags only the limits of background requests change."""
    before = init_reply(0x4040B039)
    after = amended(init_request(WANTED), before, has_setuid=False)
    assert struct.unpack_from("=HH", after, 32) == (MAX_BACKGROUND, CONGESTION_THRESHOLD)
    assert (after[:28], after[36:]) == (before[:28], before[36:])
