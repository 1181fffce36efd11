"""How many instructions a warp issues on ways through the machine code that matter: once round a hot loop, or through a
kernel with so many trips of each loop.

`python tools/cuda_paths.py` reads the built library (or cubins and fatbins that are named) and prints a line for each
`loop` and `through` of csrc/cuda/budgets.txt, with a figure for each architecture. That file says what a line means. It
needs cuobjdump and nvdisasm (`pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm`), and kernels with -lineinfo.
"""

from __future__ import annotations

import argparse
import functools
import re
import subprocess
import tempfile
from collections import Counter, defaultdict
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


# ------------------------------------------------------------------------------------------------------ machine code


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
    order = _in_order(graph, entry, frozenset(graph))
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
            if _dominates(dominator, head, block):
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


def _dominates(dominator: dict[int, int], above: int, block: int) -> bool:
    while block != above and dominator[block] != block:
        block = dominator[block]
    return block == above


# ------------------------------------------------------------------------------------------------------------- ways


class Way(NamedTuple):
    """A line of budgets.txt: `loop` or `through`."""

    kind: str
    kernel: str
    case: str
    limit: int
    function: str  # loop: which one. through: where it begins, if that is called
    per: int  # loop: rounds of what is counted in one
    counts: tuple[
        tuple[str, int], ...
    ]  # loop: instructions that there are at least. through: trips of a function's loops
    skipped: tuple[str, ...]  # functions that are not entered


def ways() -> list[Way]:
    """In the order of the file."""
    found = []
    for line in cuda_code.BUDGETS.read_text().splitlines():
        kind, *words = line.split("#")[0].split() or [""]
        if kind not in cuda_code.WAYS:
            continue
        kernel, case, limit, function, per = words[:5]
        counts = dict(word.split("=") for word in words[5:] if "=" in word)
        skipped = tuple(word[1:] for word in words[5:] if word.startswith("-"))
        numbers = tuple((name, int(value)) for name, value in counts.items())
        found.append(Way(kind, kernel, case, int(limit), function, int(per), numbers, skipped))
    return found


def is_of(block: Block, functions: Iterable[str]) -> bool:
    """Whether most of its instructions come from one of them."""
    mine = sum(any(name in instruction.functions for name in functions) for instruction in block.instructions)
    return 2 * mine > len(block.instructions)


def named_loop(head: Block, way: Way) -> str:
    """Which of the functions that have trips a loop belongs to, by where most of its head comes from; "": none."""
    names = [name for name, _ in way.counts]
    found = Counter(next((name for name in one.functions if name in names), "") for one in head.instructions)
    return found.most_common(1)[0][0]


def round_of_loop(blocks: list[Block], way: Way) -> float:
    """Instructions of the shortest way round the loop that issues what it must, divided by the rounds in it."""
    graph = {i: block.following for i, block in enumerate(blocks)}
    wanted = way.counts
    best = float("inf")
    for loop in find_loops(graph, 0):
        total = Counter(one.opcode for i in loop.body for one in blocks[i].instructions)
        named = any(way.function in one.functions for one in blocks[loop.head].instructions)
        if not named or any(cuda_code.count_of(opcode, total) < count for opcode, count in wanted):
            continue
        states: dict[int, dict[tuple[int, ...], int]] = {loop.head: {tuple(0 for _ in wanted): 0}}
        for i in _in_order(graph, loop.head, loop.body):
            for counts, cost in states.get(i, {}).items():
                code = Counter(one.opcode for one in blocks[i].instructions)
                after = tuple(
                    min(have + cuda_code.count_of(opcode, code), count)
                    for have, (opcode, count) in zip(counts, wanted, strict=True)
                )
                cost += len(blocks[i].instructions)
                for following in blocks[i].following:
                    if following == loop.head:
                        if after == tuple(count for _, count in wanted):
                            best = min(best, cost)
                    elif following in loop.body:
                        reached = states.setdefault(following, {})
                        reached[after] = min(reached.get(after, cost), cost)
        if best < float("inf"):
            break  # the innermost loop that can
    return best / way.per


def _in_order(graph: Mapping[int, tuple[int, ...]], head: int, body: frozenset[int]) -> list[int]:
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


def longest_through(blocks: list[Block], way: Way) -> float:
    """Instructions of the longest way through the kernel: every phase between two barriers by its slowest warp.

    A loop is its longest round times its trips. Subroutines for rare operands (of divisions) are not entered.
    """
    graph: dict[int, tuple[int, ...]] = {}
    for i, block in enumerate(blocks):
        graph[i] = block.following
        if block.calls is not None:
            wanted = block.calls >= 0 and way.function in block.instructions[-1].operands  # a mangled name
            graph[i] = (block.calls,) if wanted else ()
    graph = _without(graph, {i for i in graph if not graph[i] and not _ends(blocks[i])})
    dominator = find_dominators(graph, 0)
    heads: dict[str, list[int]] = defaultdict(list)
    for loop in find_loops(graph, 0):
        heads[named_loop(blocks[loop.head], way)].append(loop.head)
    trips_of = dict(way.counts)
    skipped = {i for i in dominator if is_of(blocks[i], way.skipped)}
    # What the compiler has moved ahead of the branch that skips it stays: without it no loop of a name is reached.
    needed = {
        i
        for i in skipped
        if any(
            all(_dominates(dominator, i, head) for head in found) for name, found in heads.items() if trips_of.get(name)
        )
    }
    graph = _without(graph, skipped - needed)
    cost = {i: len(block.instructions) for i, block in enumerate(blocks)}
    for loop in find_loops(graph, 0):
        trips = trips_of.get(named_loop(blocks[loop.head], way), 1)
        latches = [i for i in loop.body if loop.head in graph[i]]
        for i in latches:
            graph[i] = tuple(one for one in graph[i] if one != loop.head)
        lengths = _lengths(graph, cost, loop.head, loop.body)
        once = max(lengths.get(i, 0) for i in latches)
        tested_first = tuple(one for one in graph[loop.head] if one not in loop.body)
        if tested_first:
            graph[loop.head] = tested_first
            cost[loop.head] += trips * once
        elif trips == 0:
            graph = _without(graph, {loop.head})
        else:
            cost[loop.head] += (trips - 1) * once
    ends = [length for i, length in _lengths(graph, cost, 0, frozenset(graph)).items() if _ends(blocks[i])]
    if not ends:
        raise ValueError(f"{way.kernel}: no way through it without {', '.join(way.skipped) or 'subroutines'}")
    return max(ends)


def _without(graph: Mapping[int, tuple[int, ...]], left_out: set[int]) -> dict[int, tuple[int, ...]]:
    return {i: tuple(one for one in following if one not in left_out) for i, following in graph.items()}


def _ends(block: Block) -> bool:
    return block.instructions[-1].opcode.split(".")[0] in ("EXIT", "RET")


def _lengths(
    graph: Mapping[int, tuple[int, ...]], cost: Mapping[int, int], start: int, body: frozenset[int]
) -> dict[int, int]:
    """Block -> the longest way to its end, of those that lead there without a loop."""
    lengths = {start: cost[start]}
    for i in _in_order(graph, start, body):
        for following in graph[i]:
            if following in body and following != start:
                lengths[following] = max(lengths.get(following, 0), lengths[i] + cost[following])
    return lengths


def measure(image: Path, wanted: list[Way]) -> dict[Way, dict[str, float]]:
    """Way -> architecture -> instructions."""
    found: dict[Way, dict[str, float]] = {way: {} for way in wanted}
    for arch, kernels in disassemble(image, {way.kernel for way in wanted}).items():
        blocks = {name: read_blocks(text) for name, text in kernels.items()}
        for way in wanted:
            for name in blocks:
                if fnmatchcase(name, way.kernel):
                    found[way][arch] = max(found[way].get(arch, 0), COUNTED[way.kind](blocks[name], way))
    return found


COUNTED = {"loop": round_of_loop, "through": longest_through}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", nargs="*", type=Path, help="cubins, fatbins or a library; without: the one built")
    arguments = parser.parse_args()
    images = arguments.images
    if not images:
        from mdmcorrect import _native

        images = [Path(_native.LIBRARY)]
    every: dict[Way, dict[str, float]] = {way: {} for way in ways()}
    for image in images:
        for way, archs in measure(image, list(every)).items():
            every[way] |= archs
    for way, archs in every.items():
        cells = "  ".join(
            f"sm_{arch} {count:.0f}" for arch, count in sorted(archs.items(), key=lambda one: int(one[0]))
        )
        print(f"{way.kernel}, {way.case}, at most {way.limit}: {cells}")
    return int(any(count > way.limit for way, archs in every.items() for count in archs.values()))


if __name__ == "__main__":
    raise SystemExit(main())
