"""Builds the native library by driving CMake; everything else about the package is in pyproject.toml.

CMakeLists.txt is the only list of sources. This file finds torch, a compiler and cmake, says in one sentence what is
missing, and tells CMake where the results go. Environment variables: MDMCORRECT_CUDA (auto, on, off),
MDMCORRECT_CUDA_ARCHS (such as "80,90a" or "native"), MDMCORRECT_TORCH_DIR (the torch to build against, where it is not
the one of the environment that is installed to), CMAKE_BUILD_PARALLEL_LEVEL, CXX.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import re
import shutil
import site
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from setuptools import Extension, find_packages, setup
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
TORCH_MINIMUM = (2, 10)


def fail(sentence: str) -> NoReturn:
    raise SystemExit(f"mdmcorrect: {sentence}")


def setuptools_version() -> tuple[int, ...]:
    return tuple(map(int, importlib.metadata.version("setuptools").split(".")[:2]))


def licence() -> dict[str, str]:
    """As an SPDX expression where setuptools takes one from here (PEP 639): 77.0.3 does not yet."""
    return {"license_expression" if setuptools_version() >= (77, 1) else "license": "Apache-2.0"}


def readme() -> str:
    """README with its links and pictures at their address, as package indexes show it."""
    address = "https://github.com/mdmcorrect/mdmcorrect"
    text = (ROOT / "README.md").read_text()
    text = re.sub(r"(!\[[^]]*\]\()(?!https?:|#)", rf"\1{address}/raw/main/", text)
    return re.sub(r"((?<!!)\[[^]]*\]\()(?!https?:|#)", rf"\1{address}/blob/main/", text)


def check_setuptools() -> None:
    """A fresh environment of Python 3.10 or 3.11 has a setuptools that cannot make wheels by itself."""
    if setuptools_version() < (70, 1) and importlib.util.find_spec("wheel") is None:
        fail(
            f"setuptools {importlib.metadata.version('setuptools')} cannot build wheels without wheel; run "
            "`pip install --upgrade setuptools wheel`."
        )


def package_folders() -> Iterator[Path]:
    """Where the environment that the interpreter belongs to has its packages: an isolated build does not see them.

    Headers and libraries are all that is needed of torch, and these are found by path.
    """
    yield from (Path(sysconfig.get_path(name)) for name in ("purelib", "platlib"))
    yield from map(Path, site.getsitepackages())
    if sys.prefix == sys.base_prefix:  # a virtual environment does not see the user's
        yield Path(site.getusersitepackages())


def find_torch() -> Path:
    """Folder of the installed torch, found without importing it; exits with a sentence if none will do."""
    named, spec = os.environ.get("MDMCORRECT_TORCH_DIR"), importlib.util.find_spec("torch")
    seen = [] if spec is None else [Path(folder) for folder in spec.submodule_search_locations or ()]
    folders = [Path(named)] if named else [*seen, *(folder / "torch" for folder in package_folders())]
    torch = next((folder for folder in folders if (folder / "version.py").is_file()), None)
    if torch is None and named:
        fail(f"MDMCORRECT_TORCH_DIR={named} is no torch; name the folder of the package, which holds version.py.")
    if torch is None:
        fail(
            "torch was not found where this would be installed; install torch 2.10 or newer first, then install again. "
            "If it is there and the installer hides it (uv), add --no-build-isolation, or name its folder by "
            "MDMCORRECT_TORCH_DIR."
        )
    version = torch_version(torch)
    numbers = re.match(r"(\d+)\.(\d+)", version)
    if numbers is None or tuple(map(int, numbers.groups())) < TORCH_MINIMUM:
        fail(f"torch {version} is too old; torch 2.10 or newer is needed: `pip install --upgrade torch`.")
    return torch


def torch_version(torch: Path) -> str:
    """As its version.py says."""
    found = re.search(r"""^__version__ *= *['"]([^'"]+)""", (torch / "version.py").read_text(), re.MULTILINE)
    return found.group(1) if found else "of an unknown version"


def isolated_needs() -> list[str]:
    """What an isolated build needs that the machine does not have; elsewhere nothing is fetched unasked."""
    isolated = any(name in os.environ for name in ("_PYPROJECT_HOOKS_BUILD_BACKEND", "PEP517_BUILD_BACKEND"))
    return ["cmake"] if isolated and find_tool("cmake") is None else []


def find_tool(name: str) -> str | None:
    """Path of cmake or ninja: on PATH or, when it came with pip, beside this interpreter or in its module."""
    found = shutil.which(name) or shutil.which(name, path=sysconfig.get_path("scripts"))
    if found is None and importlib.util.find_spec(name) is not None:
        module = importlib.import_module(name)
        folder = getattr(module, "CMAKE_BIN_DIR", None) or getattr(module, "BIN_DIR", None)
        found = folder and shutil.which(name, path=folder)
    return found


def find_cmake() -> str:
    cmake = find_tool("cmake")
    if cmake is None:
        fail("cmake was not found; `pip install cmake` (and ninja, for faster builds), then try again.")
    return cmake


def check_compiler() -> None:
    names = [os.environ["CXX"].split()[0]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]
    if not any(shutil.which(name) for name in names):
        fail(
            f"no C++17 compiler was found (looked for {', '.join(names)}); install one (Debian, Ubuntu: "
            "`apt install g++`; Fedora: `dnf install gcc-c++`; conda: `conda install cxx-compiler`) or set CXX."
        )


def pybind11_cmake_dir() -> str:
    """Folder of pybind11's CMake files, or "" when it is not installed: the _host module is then left out."""
    if importlib.util.find_spec("pybind11") is None:
        return ""
    import pybind11

    return pybind11.get_cmake_dir()


class BuildWhereTorchIs(build):
    """Says what is missing before anything is copied."""

    def run(self) -> None:
        find_torch()
        super().run()


class CMakeBuild(build_ext):
    """Configures and builds with CMake, in one folder per Python so that rebuilds are incremental."""

    def build_extension(self, ext: Extension) -> None:
        if ext.name == "mdmcorrect._host":
            return  # CMake has made it beside _C, if pybind11 and Python's headers are there
        torch_dir = find_torch()
        check_compiler()
        cmake = find_cmake()
        out_dir = Path(self.get_ext_fullpath(ext.name)).resolve().parent
        build_dir = ROOT / "build" / f"native-{sys.implementation.cache_tag}"
        build_dir.mkdir(parents=True, exist_ok=True)
        configure = [
            cmake,
            f"-S{ROOT}",
            f"-B{build_dir}",
            "-DCMAKE_BUILD_TYPE=Release",
            f"-DMDMCORRECT_OUTPUT_DIR={out_dir}",
            f"-DMDMCORRECT_TORCH_DIR={torch_dir}",
            f"-DMDMCORRECT_VERSION={self.distribution.get_version()}",
            f"-DMDMCORRECT_CUDA={os.environ.get('MDMCORRECT_CUDA', 'auto')}",
            f"-DMDMCORRECT_CUDA_ARCHS={os.environ.get('MDMCORRECT_CUDA_ARCHS', '')}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11_cmake_dir()}",
        ]
        ninja = find_tool("ninja")
        if ninja is not None and not (build_dir / "CMakeCache.txt").exists():
            configure += ["-GNinja", f"-DCMAKE_MAKE_PROGRAM={ninja}"]
        jobs = os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL", str(os.cpu_count() or 1))
        try:
            subprocess.run(configure, check=True)
            subprocess.run([cmake, "--build", str(build_dir), "--parallel", jobs], check=True)
        except subprocess.CalledProcessError as error:
            step = "configuring" if error.cmd == configure else "compiling"
            fail(f"{step} the native library failed; the messages above say why (build folder: {build_dir}).")


check_setuptools()

# The examples live at the top of the repository, where readers look for them, and install as mdmcorrect.examples.
EXAMPLES = ["mdmcorrect.examples", *(f"mdmcorrect.examples.{name}" for name in find_packages("examples"))]
# What NVRTC compiles (mdmcorrect/jit.py) comes with the package.
CUDA_SOURCES = {"mdmcorrect.csrc.core": ["*.h"], "mdmcorrect.csrc.cuda": ["*.cu", "*.cuh"]}

setup(
    packages=[*find_packages(include=["mdmcorrect", "mdmcorrect.*"]), *EXAMPLES, *CUDA_SOURCES],
    package_dir={"mdmcorrect.examples": "examples", "mdmcorrect.csrc": "csrc"},
    package_data={
        "mdmcorrect": ["py.typed"],
        "mdmcorrect.replay": ["page.html", "page.css", "page.js"],
        "mdmcorrect.examples.sudoku": ["checkpoints/*"],
        **CUDA_SOURCES,
    },
    **licence(),
    long_description=readme(),
    long_description_content_type="text/markdown",
    setup_requires=isolated_needs(),
    ext_modules=[
        Extension("mdmcorrect._C", sources=[], py_limited_api=True),
        Extension("mdmcorrect._host", sources=[], optional=True),
    ],
    cmdclass={"build": BuildWhereTorchIs, "build_ext": CMakeBuild},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
