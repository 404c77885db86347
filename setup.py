"""The compiled modules (docs/decisions/0013, 0014, 0027). All else is in pyproject.toml.

Each is optional: where a compiler or headers are missing, the package installs without it, and
works through the `rados` binding, pyfuse3 and trio as they are.
"""

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

FLAGS = ["-O2", "-Wall", "-Wextra"]
MODULES = [
    Extension("radosmount._switching", ["radosmount/_switching.pyx"], extra_compile_args=FLAGS),
    Extension("radosmount.fuse._device", ["radosmount/fuse/_device.pyx"], extra_compile_args=FLAGS),
    Extension(
        "radosmount.store.rados.native._native",
        ["radosmount/store/rados/native/_native.pyx"],
        libraries=["rados"],
        extra_compile_args=FLAGS,
    ),
]


class OptionalBuild(build_ext):
    """setuptools's own `optional` fails in an editable install: it copies what was not built."""

    def build_extensions(self) -> None:
        wanted, self.extensions = self.extensions, []
        for extension in wanted:
            try:
                self.build_extension(extension)
                self.extensions.append(extension)
            except Exception as failure:
                self.warn(f"built without {extension.name}: {failure}")


setup(
    ext_modules=cythonize(MODULES, build_dir="build/cython"),
    cmdclass={"build_ext": OptionalBuild},
)
