"""How many instructions a warp issues on ways through the machine code that matter: once round a hot loop, or through a
kernel with so many trips of each loop.

`python tools/cuda_paths.py` reads the built library (or cubins and fatbins that are named) and prints a line for each
`loop` and `through` of csrc/cuda/budgets.txt, with a figure for each architecture. That file says what a line means. It
needs cuobjdump and nvdisasm (`pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm`), and kernels with -lineinfo.
"""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

import cuda_code
from cuda_flow import Block, disassemble, dominates, find_dominators, find_loops, in_order, read_blocks


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
        for i in in_order(graph, loop.head, loop.body):
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
            all(dominates(dominator, i, head) for head in found) for name, found in heads.items() if trips_of.get(name)
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
    for i in in_order(graph, start, body):
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
