"""What the library asks of torch, its sources and its binary, and what its instruction sets share: nothing."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch_headers

from mdmcorrect import _native

ROOT = Path(__file__).resolve().parent.parent
OFFERED = (ROOT / "tests" / "data" / "torch_2_10_symbols.txt").read_text().split("\n")
NAMES = {
    name
    for line in (ROOT / "tests" / "data" / "torch_2_10_names.txt").read_text().splitlines()
    if not line.startswith("#")
    for name in line.split()
}
TORCH = tuple(map(int, torch.__version__.split(".")[:2]))
# Headers of extensions for the stable ABI; no others are included.
HEADERS = ("csrc/stable", "headeronly", "csrc/inductor/aoti_torch/c")
# Of Python 3.10's stable ABI, what a module of functions that take numbers needs.
PYTHON_SYMBOLS = {
    "PyModule_Create2", "PyLong_AsLongLong", "PyLong_FromLongLong", "PyErr_Format", "PyErr_Occurred", "PyErr_SetString",
    "PyEval_RestoreThread", "PyEval_SaveThread", "PyExc_RuntimeError", "PyExc_TypeError",
}  # fmt: skip
OBJECTS = ROOT / "build" / f"native-{sys.implementation.cache_tag}" / "CMakeFiles"

pytestmark = pytest.mark.skipif(shutil.which("nm") is None, reason="needs binutils")


def nm(*arguments: str) -> list[list[str]]:
    output = subprocess.run(["nm", *arguments], capture_output=True, text=True, check=True).stdout
    return [line.split() for line in output.splitlines() if line.strip()]


def undefined(library: Path) -> set[str]:
    """Names a shared library takes from others, without their version."""
    return {words[-1].split("@")[0] for words in nm("-D", "--undefined-only", str(library))}


def foreign(symbols: set[str]) -> set[str]:
    """Those that torch 2.10 or Python 3.10 do not promise: other C functions of torch, any C++ of torch or c10."""
    of_torch = {name for name in symbols if re.match(r"(aoti_)?torch_", name)} - set(OFFERED)
    mangled = {
        name for name in symbols if name.startswith("_Z") and re.search(r"\d(c10|at|torch|caffe2)\d*[A-Z_]", name)
    }
    of_python = {name for name in symbols if re.match(r"_?Py", name)} - PYTHON_SYMBOLS
    return of_torch | mangled | of_python


def identifiers(source: str) -> set[str]:
    """Names in C++, outside comments, strings and std."""
    code = re.sub(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|std::\w+', " ", source, flags=re.DOTALL)
    return set(re.findall(r"[A-Za-z_]\w+", code))


@functools.cache
def installed_names() -> set[str]:
    folders = (Path(torch.__file__).parent / "include" / "torch" / folder for folder in HEADERS)
    return {name for folder in folders for path in folder.rglob("*.h") for name in identifiers(path.read_text())}


def newer_names(source: str) -> set[str]:
    """Names of the installed torch's headers that a source uses and torch 2.10 does not have."""
    return (identifiers(source) & installed_names()) - NAMES


# Words, not names, are compared: headers of later versions have more words that are ours as well (shift, address).
@pytest.mark.skipif(TORCH > (2, 13), reason="words are compared with torch 2.13's headers or earlier ones")
@pytest.mark.parametrize("path", sorted((ROOT / "csrc" / "torch").iterdir()), ids=lambda path: path.name)
def test_the_sources_compile_against_torch_2_10(path):
    assert newer_names(path.read_text()) == set()


@pytest.mark.parametrize("path", sorted((ROOT / "csrc" / "torch").iterdir()), ids=lambda path: path.name)
def test_the_sources_include_headers_of_the_stable_abi(path):
    allowed = rf"torch/({'|'.join(HEADERS)})/"
    for header in re.findall(r"#include <((?:torch|c10|ATen)/.*?)>", path.read_text()):
        assert re.match(allowed, header), header


@pytest.mark.parametrize(("name", "since"), [("STABLE_TORCH_ERROR_CODE_CHECK", (2, 13)), ("torch_from_blob", (2, 11))])
def test_the_check_of_the_sources_finds_newer_names(name, since):
    if since > TORCH:
        pytest.skip("this torch does not have it")
    assert newer_names(f"void f() {{ {name}(0); }}  // {name}") == {name}


COMPILER = shutil.which("c++") or shutil.which("g++")


@pytest.mark.skipif(COMPILER is None, reason="needs a compiler")
def test_the_check_against_headers_accepts_and_refuses(tmp_path):
    """tools/torch_headers.py, on the headers that are here."""
    headers = Path(torch.__file__).parent / "include"
    assert torch_headers.check(COMPILER, ROOT / "csrc" / "torch" / "uniform.cpp", headers) == ""
    for number, line in enumerate(("void f() { a_name_of_tomorrow(); }", "void f() { int unused = 1; }")):
        source = tmp_path / f"{number}.cpp"
        source.write_text(f'#include "torch/checks.h"\n{line}\n')
        assert "error" in torch_headers.check(COMPILER, source, headers)


def test_the_library_needs_only_what_torch_2_10_offers():
    assert foreign(undefined(_native.LIBRARY)) == set()


def test_the_check_finds_newer_and_unstable_symbols():
    newer = {"torch_from_blob", "_ZN3c106detail14torchCheckFailEPKcS2_jS2_", "PyModule_FromSlotsAndSpec", "memcpy"}
    assert foreign(newer) == newer - {"memcpy"}


def test_the_library_needs_no_cuda_and_no_libpython():
    output = subprocess.run(["readelf", "-d", str(_native.LIBRARY)], capture_output=True, text=True, check=True).stdout
    needed = set(re.findall(r"NEEDED.*\[(.*?)\]", output))
    allowed = r"lib(torch_cpu|stdc\+\+|gcc_s|c|m|dl|rt|pthread)\.so|ld-linux"
    assert {name for name in needed if not re.match(allowed, name)} == set()


def objects(isa: str) -> list[str]:
    found = sorted(str(path) for path in (OBJECTS / f"cpu_{isa}.dir").rglob("*.o"))
    if not found:
        pytest.skip("needs the build folder of this Python: make build")
    return found


def outside(isa: str, files: list[str]) -> set[str]:
    """Names that files define for the linker, weak or strong, outside the instruction set's own namespace."""
    names = {words[-1] for words in nm("--defined-only", "--extern-only", *files) if len(words) == 3}
    own = f"10mdmcorrect{len(isa)}{isa}"
    return {name for name in names if own not in name}


@pytest.mark.parametrize("isa", _native.build_info()["isas_built"])
def test_instruction_sets_share_no_symbol(isa):
    """A weak symbol in two of them would be merged: generic code could run AVX-512."""
    assert outside(isa, objects(isa)) == set()


def test_the_check_finds_a_shared_template(tmp_path):
    compiler = shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        pytest.skip("needs a compiler")
    source = tmp_path / "shared.cpp"
    source.write_text(
        "#include <vector>\nnamespace mdmcorrect::avx2 { void f(std::vector<int>& v) { v.push_back(1); } }"
    )
    target = tmp_path / "shared.o"
    subprocess.run([compiler, "-std=c++17", "-c", str(source), "-o", str(target)], check=True)
    assert any("vector" in name for name in outside("avx2", [str(target)]))


@pytest.mark.parametrize(("isa", "registers"), [("generic", "%[yz]mm"), ("avx2", "%zmm")])
def test_an_instruction_set_uses_no_wider_registers(isa, registers):
    if isa not in _native.build_info()["isas_built"] or shutil.which("objdump") is None:
        pytest.skip("not built here")
    code = subprocess.run(["objdump", "-d", *objects(isa)], capture_output=True, text=True, check=True).stdout
    assert re.search(registers, code) is None
