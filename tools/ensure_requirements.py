"""Installs with pip what is missing to build and test mdmcorrect in the interpreter that runs this file, and only that.

    python tools/ensure_requirements.py --torch torch==2.13.0 --extras test,dev

torch is installed only if there is none: whatever torch is already there stays. The environment variable
TORCH_INDEX_URL, where set, names the package index for it, such as the one of CPU wheels that pytorch.org's install
page gives.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    tomllib = None

ROOT = Path(__file__).resolve().parent.parent
BUILD_TOOLS = ["setuptools>=61", "wheel"]


def installed(requirement: str) -> bool:
    """Whether the requirement (a name, `name>=version` or `name==version`) is met; major and minor version count."""
    name, operator, wanted = re.fullmatch(r"([\w.-]+?)(?:(>=|==)([\d.]+))?", requirement).groups()
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    have, want = ([int(number) for number in re.findall(r"\d+", text)[:2]] for text in (version, wanted or "0"))
    return have == want if operator == "==" else have >= want


def extra_requirements(extras: list[str]) -> list[str]:
    """The requirements of pyproject.toml's extras, `mdmcorrect[...]` among them followed."""
    if tomllib is None:
        text = (ROOT / "pyproject.toml").read_text()
        table = dict(re.findall(r"^(\w+) = (\[.*\])$", text.split("[project.optional-dependencies]")[1], re.M))
        table = {name: re.findall(r'"([^"]+)"', items) for name, items in table.items()}
    else:
        table = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    found: list[str] = []
    for extra in extras:
        for requirement in table[extra]:
            nested = re.fullmatch(r"mdmcorrect\[([\w,]+)\]", requirement)
            found += extra_requirements(nested[1].split(",")) if nested else [requirement]
    return list(dict.fromkeys(found))


def pip_install(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *arguments], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch", required=True, help="pip requirement to install when there is no torch")
    parser.add_argument("--extras", default="", help="comma-separated extras of pyproject.toml")
    arguments = parser.parse_args()

    wanted = [*BUILD_TOOLS, "numpy", *extra_requirements([e for e in arguments.extras.split(",") if e])]
    scripts = sysconfig.get_path("scripts")
    for tool in ("cmake", "ninja"):
        if shutil.which(tool) or shutil.which(tool, path=scripts):
            wanted = [requirement for requirement in wanted if requirement != tool]
        else:
            wanted.append(tool)
    missing = [requirement for requirement in dict.fromkeys(wanted) if not installed(requirement)]
    if missing:
        print("installing:", ", ".join(missing), flush=True)
        pip_install(*missing)
    if not installed("torch"):
        index = os.environ.get("TORCH_INDEX_URL", "")
        print("installing:", arguments.torch, flush=True)
        pip_install(arguments.torch, *(["--index-url", index] if index else []))


if __name__ == "__main__":
    main()
