"""The one compiled module (docs/decisions/0014). All else about the package is in pyproject.toml.

Optional: where a compiler or librados's headers are missing, the package installs without it, and
the store works through the `rados` binding.
"""

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

NATIVE = Extension(
    "radosmount.store.rados.native._native",
    ["radosmount/store/rados/native/_native.pyx"],
    libraries=["rados"],
    extra_compile_args=["-O2", "-Wall", "-Wextra"],
)


class OptionalBuild(build_ext):
    """setuptools's own `optional` fails in an editable install: it copies what was not built."""

    def build_extensions(self) -> None:
        try:
            super().build_extensions()
        except Exception as failure:
            self.warn(f"built without the compiled module: {failure}")
            self.extensions.clear()


setup(
    ext_modules=cythonize([NATIVE], build_dir="build/cython"),
    cmdclass={"build_ext": OptionalBuild},
)
