"""Which objects a path of a pool's directory stands for: its file, and its directory's marker.

Pure. The grammar itself is store/names.py.
"""

import functools
from typing import Final

from radosmount.errors import NameTooLong, NoSuchEntry
from radosmount.store.interface import ObjectKey
from radosmount.store.names import COMPONENT_BYTES_MAX, FLAT, TREE, Grammar, InvalidPath, Path
from radosmount.vfs.nodes import ObjectPlace

# A name is asked for several times, most often at once: looked up, and then made or removed.
KEPT_COUNT_MAX: Final = 2048


@functools.lru_cache(KEPT_COUNT_MAX)
def of_tree(place: ObjectPlace, path: Path) -> tuple[ObjectKey, ObjectKey | None]:
    """In the tree view: the file of that path in its first spelling, and the directory's marker.

    Raises: as `of_file`.
    """
    name = TREE.plain(path)
    if not name:
        return of_file(place, path, TREE), marker(place, path)
    pool_id, namespace = place
    return ObjectKey(pool_id, namespace, name), ObjectKey(pool_id, namespace, name + b"/")


def of_file(
    place: ObjectPlace, path: Path, grammar: Grammar = FLAT, is_beside: bool = False
) -> ObjectKey:
    """Raises: NoSuchEntry for a name that no object has; NameTooLong."""
    if len(path[-1]) > COMPONENT_BYTES_MAX:  # the kernel lets through more
        raise NameTooLong(f"a component of {len(path[-1])} bytes")
    try:
        found = grammar.object_of(path, beside_directory=is_beside)
    except InvalidPath as failure:
        raise NoSuchEntry(str(failure)) from failure
    return ObjectKey(place.pool_id, place.namespace, found.name, found.locator)


def marker(place: ObjectPlace, path: Path) -> ObjectKey | None:
    """None where no object lies below a directory of that path."""
    try:
        name = TREE.prefix_of(path)
    except InvalidPath:
        return None
    return ObjectKey(place.pool_id, place.namespace, name)
