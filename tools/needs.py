"""Installs what is missing of a list of requirements; where nothing is, asks no network, which a machine may not have.

    python tools/needs.py build "[test]"            what a build and this project's extra need
    python tools/needs.py --no-deps nvidia-cutlass  without what it would bring along

What is there counts however it came: by pip in the version asked for, as a module without pip's records (conda, the
system, a vendor's build), as a program on PATH.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

try:
    import packaging.requirements as packaging_requirements
except ImportError:  # pip has one of its own
    import pip._vendor.packaging.requirements as packaging_requirements  # type: ignore[no-redef]

ROOT = Path(__file__).resolve().parent.parent
# Before 70.1 setuptools leaves wheels to another distribution.
BUILD = ("setuptools>=61", "cmake", "torch>=2.10", "numpy")
SETUPTOOLS_WITH_WHEELS = (70, 1)
MODULES = {"cupy-cuda13x": "cupy", "pytest-xdist": "xdist"}
PROGRAMS = {
    **{name: name for name in ("cmake", "ninja", "ruff", "clang-format")},
    "nvidia-cuda-cuobjdump": "cuobjdump",
    "nvidia-cuda-nvdisasm": "nvdisasm",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("requirements", nargs="+", metavar="REQUIREMENT", help="as pip takes it; build; [EXTRA]")
    parser.add_argument("--no-deps", action="store_true", help="not what they need in turn")
    parser.add_argument("--target", type=Path, help="a folder to look in and install to, instead of the environment")
    parser.add_argument("--constraint", help="pip's file of versions")
    parser.add_argument("--torch", default="torch>=2.10", help="what to install where there is no torch at all")
    parser.add_argument("--torch-index-url", help="where torch then comes from")
    parser.add_argument("--optional", action="store_true", help="where pip fails, say so and go on")
    args = parser.parse_args()
    missing = [each for each in expanded(args.requirements) if not is_there(each, args.target)]
    options = ["--no-deps"] if args.no_deps else []
    options += ["--target", str(args.target)] if args.target else []
    options += ["--constraint", args.constraint] if args.constraint else []
    torch = [each for each in missing if each.name == "torch"]
    others = [str(each) for each in missing if each.name != "torch"]
    if torch and not pip([args.torch], [*options, *(["--index-url", url] if (url := args.torch_index_url) else [])]):
        return 1
    return 0 if not others or pip(others, options) or args.optional else 1


def expanded(words: list[str]) -> list[Any]:
    """Requirements of words, each once: of this project's extras, and of a build."""
    found = []
    for word in words:
        if word == "build":
            found += [packaging_requirements.Requirement(each) for each in (*BUILD, *wheels())]
        elif word.startswith("["):
            extras = project()["optional-dependencies"]
            for name in word.strip("[]").split(","):
                for each in map(packaging_requirements.Requirement, extras[name]):
                    own = each.name == "mdmcorrect"
                    found += expanded([f"[{','.join(sorted(each.extras))}]"]) if own else [each]
        else:
            found.append(packaging_requirements.Requirement(word))
    return list({str(each): each for each in found if each.marker is None or each.marker.evaluate()}.values())


def wheels() -> tuple[str, ...]:
    try:
        numbers = importlib.metadata.version("setuptools").split(".")[:2]
    except importlib.metadata.PackageNotFoundError:
        return ()
    return () if tuple(map(int, numbers)) >= SETUPTOOLS_WITH_WHEELS else ("wheel",)


def project() -> dict[str, Any]:
    try:
        import tomllib
    except ImportError:  # Python 3.10
        import pip._vendor.tomli as tomllib  # type: ignore[no-redef]
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def is_there(requirement: Any, target: Path | None = None) -> bool:
    if target is not None:
        found = importlib.metadata.distributions(name=requirement.name, path=[str(target)])
        return any(requirement.specifier.contains(each.version, prereleases=True) for each in found)
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        module = MODULES.get(requirement.name, requirement.name.replace("-", "_"))
        program = PROGRAMS.get(requirement.name)
        return is_installed(module) or bool(program and shutil.which(program))
    return requirement.specifier.contains(version, prereleases=True)


def is_installed(module: str) -> bool:
    """Whether there is such a module that is not of this project: a script beside this one may have its name."""
    spec = importlib.util.find_spec(module)
    return spec is not None and not (spec.origin and Path(spec.origin).is_relative_to(ROOT / "tools"))


def pip(requirements: list[str], options: list[str]) -> bool:
    """Whether pip installed them; else one sentence says what to do."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", *options, *requirements]
    if subprocess.run(command, check=False).returncode == 0:
        return True
    print(
        f"mdmcorrect: pip could not install {', '.join(requirements)} (it says why above). Without a network, bring "
        "their wheels here and run this again with PIP_NO_INDEX=1 PIP_FIND_LINKS=their folder.",
        file=sys.stderr,
    )
    return False


if __name__ == "__main__":
    raise SystemExit(main())
