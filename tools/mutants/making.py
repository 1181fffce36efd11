"""Mutants: the whole text of a module with one thing changed."""

from __future__ import annotations

import difflib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .areas import ROOT, area_of, sources


@dataclass(frozen=True)
class Mutant:
    """One bug.

    Attributes:
        name: what it is called in the report.
        path: of the module.
        text: the module's, with the bug.
        why: what it does wrong, of those by hand.
    """

    name: str
    path: Path
    text: str
    why: str = ""

    @property
    def module(self) -> str:
        return ".".join(self.path.relative_to(ROOT).with_suffix("").parts)

    @property
    def area(self) -> str:
        return area_of(self.path)

    @property
    def lines(self) -> list[int]:
        """Lines of the module as it is that the bug changes, or goes in front of."""
        before, after = self.path.read_text().splitlines(), self.text.splitlines()
        changed = difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes()
        return [
            line + 1
            for kind, start, stop, *_ in changed
            if kind != "equal"
            for line in range(start, max(stop, start + 1))
        ]

    @property
    def change(self) -> str:
        before, after = self.path.read_text().splitlines(), self.text.splitlines()
        return "\n".join(line for line in difflib.unified_diff(before, after, n=0, lineterm="") if line[:2] != "@@")


def drawn(area: str, number: int, seed: int) -> list[Mutant]:
    """So many mutants of an area, each place as likely as any other, however many ways there are to break it."""
    places = [(path, *place) for path in sources(area) for place in _places(path)]
    random.Random(seed).shuffle(places)
    made: list[Mutant] = []
    for path, position, ways in places:
        mutant = _mutant(path, position, random.Random(f"{seed} {path.name} {position}").sample(ways, len(ways)))
        if mutant is not None:
            made.append(mutant)
        if len(made) == number:
            break
    return made


def _places(path: Path) -> Iterator[tuple[tuple[int, int], list[tuple[str, int]]]]:
    """Where cosmic-ray would change the module, and by which of its operators: by name and count."""
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.plugins import get_operator, operator_names

    nodes = list(ast_nodes(get_ast(path.read_text())))
    left_out = {id(node) for node in nodes if _is_annotation(node)}
    places: dict[tuple[int, int], list[tuple[str, int]]] = {}
    for name in operator_names():
        if "Variable" in name:  # these need the names of variables
            continue
        operator, count = get_operator(name)(), 0
        for node in nodes:
            for _ in operator.mutation_positions(node):
                if id(node) not in left_out:
                    places.setdefault(node.start_pos, []).append((name, count))
                count += 1
    yield from sorted(places.items())


def _is_annotation(node: Any) -> bool:
    """Whether it stands in an annotation, which nobody evaluates."""
    while node.parent is not None:
        parent = node.parent
        if parent.type in ("annassign", "tfpdef", "funcdef", "param"):
            sign = node.get_previous_sibling()
            if (
                sign is not None
                and getattr(sign, "value", "") in (":", "->")
                and node.type not in ("suite", "simple_stmt")
            ):
                return True
        node = parent
    return False


def _mutant(path: Path, position: tuple[int, int], ways: list[tuple[str, int]]) -> Mutant | None:
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    for name, count in ways:
        text = mutate_code(path.read_text(), get_operator(name)(), count)
        try:
            compile(text, str(path), "exec")
        except (SyntaxError, TypeError, ValueError):  # no bug that could be committed
            continue
        where = f"{path.relative_to(ROOT)}:{position[0]}"
        return Mutant(f"{where} {name.removeprefix('core/')}", path, text)
    return None


def by_hand(names: list[str] | None = None) -> list[Mutant]:
    """Those of :mod:`.by_hand`, or those whose name or path holds one of the words.

    Where the code has moved on, so that what a mutant replaces is not there once, a line says so.
    """
    from .by_hand import BUGS

    made = []
    for name, (file, old, new) in BUGS.items():
        if names and not any(word in name or word in file for word in names):
            continue
        path = ROOT / "mdmcorrect" / file
        text = path.read_text()
        if text.count(old) != 1:
            print(f"left out: {name}: expected {old!r} once in {file}, found it {text.count(old)} times")
            continue
        made.append(Mutant(name, path, text.replace(old, new)))
    return made
