"""The contents that are kept after their flush: how many, and until when."""

import gc
import weakref

from radosmount.cache.file import CachedFile
from radosmount.cache.kept import FILE_BYTES_MAX, FILE_BYTES_MIN, TOTAL_BYTES_MAX, KeptContents
from radosmount.store.interface import ObjectStat, ReadResult
from tests.support.stores import key_of


def kept_file(kept: KeptContents, size: int = FILE_BYTES_MAX, version: int = 5) -> CachedFile:
    file = CachedFile(key_of(b"f"), ObjectStat(size, 1000, version))
    kept.keep(file, ReadResult(bytes(size), version))
    return file


def test_oldest_are_dropped() -> None:
    """All together do not exceed the bound; the newest stay."""
    kept = KeptContents()
    files = [kept_file(kept) for _ in range(10)]
    is_kept = [file.known_content is not None for file in files]
    assert is_kept == [False] * 6 + [True] * 4
    assert TOTAL_BYTES_MAX == 4 * FILE_BYTES_MAX


def test_empty_files_are_bounded() -> None:
    kept = KeptContents()
    files = [kept_file(kept, size=0) for _ in range(2000)]
    assert sum(file.stored is not None for file in files) == TOTAL_BYTES_MAX // FILE_BYTES_MIN


def test_large_file_is_not_kept() -> None:
    assert kept_file(KeptContents(), FILE_BYTES_MAX + 1).stored is None


def test_newer_content_outlives_the_older_ones_turn() -> None:
    """A file that is stored again keeps what is newer when the older one's turn comes."""
    kept = KeptContents()
    file = kept_file(kept)
    kept_file(kept)
    file.observe(ObjectStat(1, 1000, 6))
    kept.keep(file, ReadResult(b"x", 6))
    for _ in range(3):
        kept_file(kept)
    assert file.known_content == ReadResult(b"x", 6)


def test_forgotten_file_takes_its_content_along() -> None:
    """What is kept keeps no file."""
    kept = KeptContents()
    reference = weakref.ref(kept_file(kept))
    gc.collect()
    assert reference() is None
