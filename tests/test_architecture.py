"""The layout is a promise: which module may import which."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "radosmount"
LAYERS = ["errors", "config", "store", "cache", "vfs", "fuse", "app", "cli", "__main__"]
# Modules of the top folder that share the layer of a neighbour.
LAYER_OF = {
    **dict.fromkeys(["background", "switching", "_switching"], "errors"),
    **dict.fromkeys(["options", "configure"], "config"),
    **dict.fromkeys(
        ["daemon", "lifecycle", "logs", "mountpoint", "notify", "restore", "unmount"], "app"
    ),
    **dict.fromkeys(["lab_folder", "lab_processes"], "lab"),
}
OUTSIDE = {"ctl", "lab"}  # beside the chain: config and errors only
CONFINED = {"pyfuse3": "radosmount.fuse", "rados": "radosmount.store.rados"}
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)


def layer_of(module: str) -> str:
    top = module.split(".")[1]
    return LAYER_OF.get(top, top)


def imports(path: Path) -> set[str]:
    """All modules that are imported anywhere in it, inside functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute here"
            module = node.module or ""
            is_package = (PACKAGE.parent / module.replace(".", "/")).is_dir()
            names |= {f"{module}.{alias.name}" if is_package else module for alias in node.names}
    return names


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_point_downwards(path: Path) -> None:
    """cli → app → fuse → vfs → cache → store → config → errors, and nothing looks up."""
    module = name_of(path)
    layer = layer_of(module)
    allowed = ["errors", "config"] if layer in OUTSIDE else LAYERS[: LAYERS.index(layer) + 1]
    for name in imports(path):
        if name.startswith("radosmount."):
            assert layer_of(name) in [*allowed, layer], f"{module} -> {name}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_libraries_stay_in_their_layer(path: Path) -> None:
    """pyfuse3 is known to fuse/ only, rados to store/rados/ only."""
    module = name_of(path)
    for name in imports(path):
        home = CONFINED.get(name.split(".")[0])
        assert home is None or module.startswith(home), f"{module} -> {name}"


def test_package_files_are_empty() -> None:
    assert not [path for path in PACKAGE.rglob("__init__.py") if path.read_text()]


def test_the_daemon_forks_before_librados() -> None:
    """Nothing that runs before the fork brings in rados, trio or pyfuse3 (their threads and
    state would not survive it): at module level, from cli.py on."""
    seen: set[str] = set()
    waiting = ["cli", "daemon", "mountpoint", "unmount"]
    while waiting:
        module = waiting.pop()
        if module in seen:
            continue
        seen.add(module)
        tree = ast.parse((PACKAGE / f"{module.replace('.', '/')}.py").read_text())
        for node in tree.body:
            if isinstance(node, ast.Import):
                assert not {a.name for a in node.names} & {"rados", "trio", "pyfuse3"}, module
            elif isinstance(node, ast.ImportFrom) and node.module:
                assert node.module not in {"rados", "trio", "pyfuse3"}, module
                if node.module == "radosmount.fuse":
                    waiting += [f"fuse.{alias.name}" for alias in node.names]
                elif node.module.startswith("radosmount."):
                    waiting.append(node.module.removeprefix("radosmount."))
