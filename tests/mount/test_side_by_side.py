"""Programs that make, rename, remove, open and list the same few names at once."""

import contextlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.mount.calls import opened


def rename_onto(file: Path, number: int) -> None:
    for count in range(150):
        source = file.with_name(f"{file.name}.{number}.{count % 3}")
        source.write_bytes(b"%5d" % count)
        os.rename(source, file)


def make_and_remove(file: Path, number: int) -> None:
    for count in range(150):
        file.write_bytes(b"%5d" % count)
        with contextlib.suppress(FileNotFoundError):  # by the other thread
            file.unlink()


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_RDWR, os.O_RDWR | os.O_CREAT | os.O_APPEND])
@pytest.mark.parametrize("change", [rename_onto, make_and_remove])
def test_opens_during_changes(file: Path, change: Callable[[Path, int], None], flags: int) -> None:
    """open of a name that this mount renames onto, or removes and makes anew, again and again
    finds one of the files, or that there is none (ENOENT); and that file stays readable and
    writable."""
    file.write_bytes(b"first")

    def open_until_all_are_done() -> int:
        count = 0
        while not all(changer.done() for changer in changers):
            with contextlib.suppress(FileNotFoundError), opened(file, flags) as descriptor:
                assert len(os.read(descriptor, 100)) % 5 == 0
                if flags & os.O_RDWR:
                    assert os.write(descriptor, b"again") == 5
                count += 1
        return count

    with ThreadPoolExecutor() as threads:
        changers = [threads.submit(change, file, number) for number in range(2)]
        openers = [threads.submit(open_until_all_are_done) for _ in range(2)]
        for changer in changers:
            changer.result()
        assert all(opener.result() > 10 for opener in openers)


def test_files_come_and_go_while_others_list(file: Path) -> None:
    """What this mount makes or removes shows at once: also to who makes the same names anew while
    others list the directory."""
    names = [f"{file.name}-{number}" for number in range(100)]
    for name in names:
        file.with_name(name).touch()

    def make_and_remove(number: int) -> None:
        for count in range(100):
            path = file.with_name(f"{file.name}-own-{number}-{count % 3}")
            with opened(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as descriptor:
                os.write(descriptor, b"content")
            if count % 2:
                os.rename(path, f"{path}-renamed")
            else:
                path.unlink()
            assert not path.exists()

    def list_until_all_are_done() -> int:
        count = 0
        while not all(maker.done() for maker in makers):
            assert set(names) <= set(os.listdir(file.parent))
            count += 1
        return count

    with ThreadPoolExecutor() as threads:
        makers = [threads.submit(make_and_remove, number) for number in range(2)]
        listers = [threads.submit(list_until_all_are_done) for _ in range(2)]
        for maker in makers:
            maker.result()
        assert all(lister.result() > 10 for lister in listers)
