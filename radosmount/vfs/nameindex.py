"""All names of a pool or namespace, as the directories and files of the tree view.

Pure: no I/O, no awaits, no clock. RADOS lists in hash order and knows no directories; here they
are made of the names. Each name is one file in one directory, by its one path (store/names.py);
directories come and go with what lies below them.

A directory's own marker object `d/` has the path `d/%-`: it keeps the directory, and is not
listed in it.
"""

from collections.abc import Iterator
from typing import NamedTuple

from radosmount.store.names import (
    EMPTY_COMPONENT,
    PIECE_BYTES,
    TREE,
    ObjectName,
    Path,
    is_continuation,
)


class Name(NamedTuple):
    """One entry of a directory. `found`: the object; None for a directory."""

    component: bytes
    found: ObjectName | None


class _Directory:
    __slots__ = ("directories", "files")

    def __init__(self) -> None:
        self.directories: dict[bytes, _Directory] = {}
        self.files: dict[bytes, None] = {}

    @property
    def is_empty(self) -> bool:
        return not self.directories and not self.files


class NameIndex:
    def __init__(self) -> None:
        self._top = _Directory()

    def add(self, name: bytes, locator: bytes = b"") -> None:
        """An object is there."""
        *parents, component = TREE.path_of(name, locator)
        directory = self._top
        for parent in parents:
            below = directory.directories.get(parent)
            if below is None:
                below = directory.directories[parent] = _Directory()
            directory = below
        directory.files[component] = None

    def discard(self, name: bytes, locator: bytes = b"") -> None:
        """Its directories go with it where nothing else is in them."""
        path = TREE.path_of(name, locator)
        directories = [self._top]
        for parent in path[:-1]:
            below = directories[-1].directories.get(parent)
            if below is None:
                return
            directories.append(below)
        directories[-1].files.pop(path[-1], None)
        for depth in range(len(path) - 1, 0, -1):
            if not directories[depth].is_empty:
                return
            del directories[depth - 1].directories[path[depth - 1]]

    def has(self, name: bytes, locator: bytes = b"") -> bool:
        return self.has_file(TREE.path_of(name, locator))

    def has_directory(self, path: Path) -> bool:
        return self._directory(path) is not None

    def has_file(self, path: Path) -> bool:
        """Whether an object has that path, under its first spelling."""
        return self.what_has(path)[0]

    def what_has(self, path: Path) -> tuple[bool, bool]:
        """Whether a file has that path, under its first spelling; whether a directory has."""
        above = self._directory(path[:-1])
        if above is None:
            return False, False
        return path[-1] in above.files, path[-1] in above.directories

    def has_marker(self, path: Path) -> bool:
        """Whether a directory, as mkdir made it, is more than its names imply."""
        return self.has_file((*path, EMPTY_COMPONENT))

    def subdirectory_count(self, path: Path) -> int:
        directory = self._directory(path)
        return len(directory.directories) if directory is not None else 0

    def is_bare(self, path: Path) -> bool:
        """Whether a directory has nothing below it but its marker."""
        directory = self._directory(path)
        return directory is not None and (
            not directory.directories and directory.files.keys() <= {EMPTY_COMPONENT}
        )

    def names(self, path: Path) -> Iterator[Name]:
        """What is directly in a directory, as it is at the first step. A file that has a
        directory beside it shows under its second spelling."""
        names = list(self._continued(path))
        directory = self._directory(path)
        if directory is None:
            directory = _Directory()
        components = list(directory.files)
        shown = set(directory.directories)
        for component in list(directory.directories):
            yield Name(component, None)
        yield from names
        for component in components:
            if component == EMPTY_COMPONENT and path:
                continue
            found = TREE.object_of((*path, component))
            if component not in directory.directories:
                yield Name(component, found)
                continue
            beside = TREE.path_of(*found, beside_directory=True)
            if len(beside) == len(path) + 1:
                yield Name(beside[-1], found)
            elif beside[len(path)] not in shown:  # it goes on in a directory
                shown.add(beside[len(path)])
                yield Name(beside[len(path)], None)

    def _continued(self, path: Path) -> Iterator[Name]:
        """Files of the directory above whose second spelling is too long, and goes on here."""
        above = self._directory(path[:-1])
        if not path or not is_continuation(path[-1]) or above is None:
            return
        begin = path[-1][:PIECE_BYTES]
        for component in above.files:
            if component in above.directories and component.startswith(begin):
                found = TREE.object_of((*path[:-1], component))
                beside = TREE.path_of(*found, beside_directory=True)
                if beside[:-1] == path:
                    yield Name(beside[-1], found)

    def _directory(self, path: Path) -> _Directory | None:
        directory: _Directory | None = self._top
        for component in path:
            if directory is None:
                return None
            directory = directory.directories.get(component)
        return directory
