"""The control flow of kernels in machine code: blocks, which of them every way passes, loops."""

from __future__ import annotations

import functools
import re
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

import cuda_code


class Instruction(NamedTuple):
    """predicated: it may be skipped. functions: that it was inlined from, the innermost first."""

    opcode: str
    operands: str
    predicated: bool
    functions: tuple[str, ...]


class Block(NamedTuple):
    """Instructions that are executed one after the other, and where they go on."""

    instructions: tuple[Instruction, ...]
    following: tuple[int, ...]
    calls: int | None  # the block of the function that it calls last


class Loop(NamedTuple):
    head: int
    body: frozenset[int]


@functools.cache
def functions_of(source: Path) -> list[tuple[int, str]]:
    """(first line, name) of each function of a source of ours: it begins in the first or third column."""
    if not source.exists():
        return []
    begins = re.compile(r"^(?:  )?(?:\w[\w:<>,*& ]*?[\s*&])?(?:__attribute__\(\(\w+\)\) \w+ )?(\w+)\([^;]*$")
    found = []
    for number, line in enumerate(source.read_text().splitlines(), 1):
        match = begins.match(line)
        if match and match[1] not in ("if", "for", "while", "switch", "return", "static_assert"):
            found.append((number, match[1]))
    return found


@functools.cache
def function_at(source: Path, line: int) -> str:
    before = [name for first, name in functions_of(source) if first <= line]
    return before[-1] if before else ""


def disassemble(image: Path, kernels: Iterable[str]) -> dict[str, dict[str, str]]:
    """Architecture -> kernel -> what nvdisasm says of it, for kernels that match a pattern."""
    tool = cuda_code.find_cuobjdump()
    if tool is None:
        raise FileNotFoundError("no cuobjdump; `pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm`")
    found: dict[str, dict[str, str]] = defaultdict(dict)
    with tempfile.TemporaryDirectory() as folder:
        cubins = [image.resolve()]
        if image.suffix != ".cubin":
            subprocess.run([tool, "-xelf", "all", str(image.resolve())], cwd=folder, capture_output=True, check=True)
            cubins = sorted(Path(folder).glob("*.cubin"))
        for cubin in cubins:
            names = re.findall(rb"\.text\.(\w+)", cubin.read_bytes())
            if not any(fnmatchcase(name.decode(), pattern) for name in names for pattern in kernels):
                continue
            command = [str(Path(tool).with_name("nvdisasm")), "-gi", "-c", str(cubin)]
            text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            arch = re.search(r"\.target\s+sm_(\d+)", text)
            assert arch is not None, cubin
            parts = re.split(r"^\.text\.(\w+):\n", text, flags=re.M)
            for name, body in zip(parts[1::2], parts[2::2], strict=True):
                if any(fnmatchcase(name, pattern) for pattern in kernels):
                    found[arch[1]][name] = body.split("\n//-----")[0]
    return found


def read_blocks(text: str) -> list[Block]:
    """The control flow of one kernel. Ways that only a warp that has come apart takes (BRA.DIV) are left out."""
    where = re.compile(r'"([^"]*)", line (\d+)')
    shape = re.compile(r"^\s+/\*[0-9a-f]+\*/\s+(?:\{ *)?(@!?U?P\w+\s+)?([A-Z][\w.]*)([^;]*);")
    label = re.compile(r"^([.$][\w$.]+):")
    lines: list[tuple[Instruction, list[str]]] = []  # with the labels before it
    functions: tuple[str, ...] = ()
    chain: dict[str, None] | None = None
    labels: list[str] = []
    for line in text.splitlines():
        if "//## File" in line:
            if chain is None:
                chain = {}
            for source, number in where.findall(line):
                chain[function_at(Path(source).resolve(), int(number))] = None
        elif match := label.match(line):
            labels.append(match[1])
        elif match := shape.match(line):
            if chain is not None:
                functions, chain = tuple(chain), None
            lines.append((Instruction(match[2], match[3].strip(), match[1] is not None, functions), labels))
            labels = []
    return split_blocks(lines)


def split_blocks(lines: list[tuple[Instruction, list[str]]]) -> list[Block]:
    place = {name: i for i, (_, names) in enumerate(lines) for name in names}
    starts = {0, *place.values()}
    for i, (instruction, _) in enumerate(lines):
        if instruction.opcode.split(".")[0] in ("BRA", "BRX", "JMP", "CALL", "RET", "EXIT"):
            starts.add(i + 1)
    order = sorted(start for start in starts if start < len(lines))
    number = {start: i for i, start in enumerate(order)}
    blocks = []
    for start, end in zip(order, [*order[1:], len(lines)], strict=True):
        last = lines[end - 1][0]
        name, *modifiers = last.opcode.split(".")
        targets = [
            number[place[target]] for target in re.findall(r"`\(([.$][\w$.]+)\)", last.operands) if target in place
        ]
        following = [number[end]] if end in number else []
        calls = None
        if name == "BRA" and "DIV" not in modifiers:
            conditional = last.predicated or last.operands.startswith(("P", "!P", "UP", "!UP"))
            following = targets + (following if conditional else [])
        elif name == "CALL":
            calls = targets[0] if targets else -1
        elif name in ("BRX", "JMP"):
            following = targets
        elif name in ("RET", "EXIT") and not last.predicated:
            following = []
        inside = tuple(instruction for instruction, _ in lines[start:end])
        blocks.append(Block(inside, tuple(dict.fromkeys(following)), calls))
    return blocks


def find_dominators(graph: Mapping[int, tuple[int, ...]], entry: int) -> dict[int, int]:
    """Block -> the last other block that every way to it passes; in an order in which ways go."""
    order = in_order(graph, entry, frozenset(graph))
    rank = {block: i for i, block in enumerate(order)}
    before: dict[int, list[int]] = defaultdict(list)
    for block in order:
        for following in graph[block]:
            before[following].append(block)
    dominator = {entry: entry}
    changed = True
    while changed:
        changed = False
        for block in order[1:]:
            known = [one for one in before[block] if one in dominator]
            new = functools.reduce(functools.partial(_common, dominator, rank), known)
            changed = changed or dominator.get(block) != new
            dominator[block] = new
    return dominator


def find_loops(graph: Mapping[int, tuple[int, ...]], entry: int) -> list[Loop]:
    """Natural loops of what is reached from `entry`, the innermost ones first; those with one head are one."""
    dominator = find_dominators(graph, entry)
    before: dict[int, list[int]] = defaultdict(list)
    for block in dominator:
        for following in graph[block]:
            before[following].append(block)
    bodies: dict[int, set[int]] = {}
    for block in dominator:
        for head in graph[block]:
            if dominates(dominator, head, block):
                body = bodies.setdefault(head, {head})
                pending = [block]
                while pending:
                    one = pending.pop()
                    if one not in body:
                        body.add(one)
                        pending += before[one]
    return sorted((Loop(head, frozenset(body)) for head, body in bodies.items()), key=lambda loop: len(loop.body))


def _common(dominator: dict[int, int], rank: dict[int, int], a: int, b: int) -> int:
    while a != b:
        if rank[a] > rank[b]:
            a = dominator[a]
        else:
            b = dominator[b]
    return a


def dominates(dominator: dict[int, int], above: int, block: int) -> bool:
    while block != above and dominator[block] != block:
        block = dominator[block]
    return block == above


def in_order(graph: Mapping[int, tuple[int, ...]], head: int, body: frozenset[int]) -> list[int]:
    """Blocks of a loop, each after all that lead to it within one round; of a loop inside it one round."""
    order: list[int] = []
    seen = {head}
    stack = [(head, iter(graph[head]))]
    while stack:
        block, rest = stack[-1]
        following = next((one for one in rest if one in body and one not in seen), None)
        if following is None:
            order.append(block)
            stack.pop()
        else:
            seen.add(following)
            stack.append((following, iter(graph[following])))
    return order[::-1]
