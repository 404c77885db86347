"""What the benchmark's files hold: bytes that follow from a seed, so that both sides know them.

Pure. Random, because a store that compresses or finds zeros must not win by it.
"""

import random
import zlib
from collections.abc import Iterable
from typing import Final, TypeVar

T = TypeVar("T")

PAGE_BYTES: Final = 4096
MIB: Final = 1 << 20


def content(seed: str, size: int) -> bytes:
    """`size` bytes that follow from `seed`."""
    return random.Random(seed).randbytes(size)


def file_names(count: int) -> list[str]:
    return [f"file-{index:05d}" for index in range(count)]


def shuffled_pages(seed: str, file_bytes: int, count: int) -> list[int]:
    """Offsets (bytes) of `count` different pages of a file, in random order."""
    pages = random.Random(seed).sample(range(file_bytes // PAGE_BYTES), count)
    return [page * PAGE_BYTES for page in pages]


def share_of(items: list[T], worker: int, workers: int) -> list[T]:
    """What one of several workers takes of `items`."""
    return items[worker::workers]


def checksum(pieces: Iterable[bytes]) -> int:
    """A sum that does not depend on the order of `pieces`: workers come in any order."""
    return sum(zlib.crc32(piece) for piece in pieces) & 0xFFFFFFFF
