"""Do the sources compile against older torches? Checks csrc/torch with each one's headers, without building anything.

    python tools/torch_headers.py                  2.10 to 2.12, whose headers are fetched once and kept
    python tools/torch_headers.py 2.14.1           another version
    python tools/torch_headers.py --keep FOLDER    where headers are kept; default in the user's cache

A wheel for the CPU is fetched and its headers are taken out of it: those for 64-bit ARM, which are small, say the same.
The tests hold the names that csrc/torch uses against tests/data/torch_2_10_names.txt instead, which needs no network.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VERSIONS = ("2.10.0", "2.11.0", "2.12.1")
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mdmcorrect" / "torch-headers"
PLATFORM = "manylinux_2_28_aarch64"
PARTS = (
    "torch/include/torch/csrc/stable/",
    "torch/include/torch/csrc/inductor/aoti_torch/",
    "torch/include/torch/headeronly/",
)
# As CMakeLists.txt has them.
OPTIONS = (
    "-std=c++17",
    "-fsyntax-only",
    "-fvisibility=hidden",
    "-O1",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-DTORCH_TARGET_VERSION=0x020a000000000000",
)
DEFINITIONS = ('-DMDM_VERSION="0"', '-DMDM_OPS="uniform"', "-DMDM_HAS_GENERIC=1")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("versions", nargs="*", default=VERSIONS, metavar="VERSION")
    parser.add_argument("--keep", type=Path, default=CACHE)
    args = parser.parse_args()
    compiler = os.environ.get("CXX") or shutil.which("c++") or "g++"
    sources = sorted(path for path in (ROOT / "csrc" / "torch").glob("*.cpp") if path.name != "module.cpp")
    failed = False
    for version in args.versions:
        headers = fetched(version, args.keep)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            said = list(pool.map(lambda source: check(compiler, source, headers), sources))  # noqa: B023
        faults = [text for text in said if text]
        failed = failed or bool(faults)
        print(f"torch {version}: {len(sources) - len(faults)} of {len(sources)} files compile")
        print("".join(faults), end="", file=sys.stderr)
    return 1 if failed else 0


def check(compiler: str, source: Path, headers: Path) -> str:
    """What the compiler has to say, "" if nothing."""
    command = [compiler, *OPTIONS, *DEFINITIONS, f"-I{ROOT / 'csrc'}", "-isystem", str(headers), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stderr or ("" if done.returncode == 0 else f"{source}: {compiler} failed\n")


def fetched(version: str, keep: Path) -> Path:
    """Folder of a version's headers, of which only what extensions for the stable ABI include."""
    folder = keep / version
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=keep) as temporary:
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
            target = ["--platform", PLATFORM, "--python-version", "3.11", "--dest", temporary]
            if subprocess.run([*pip, *target, f"torch=={version}"], check=False).returncode != 0:
                raise SystemExit(f"torch_headers: pip could not fetch torch {version}; it says why above")
            (wheel,) = Path(temporary).glob("torch-*.whl")
            with zipfile.ZipFile(wheel) as archive:
                names = [name for name in archive.namelist() if name.startswith(PARTS) and not name.endswith("/")]
                archive.extractall(temporary, names)
            (Path(temporary) / "torch" / "include").rename(folder)  # whole or not at all
    return folder


if __name__ == "__main__":
    raise SystemExit(main())
