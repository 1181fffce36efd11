"""Replace an original's functions by ours, say which, and put them back."""

from __future__ import annotations

import importlib
import logging
import pkgutil
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import mdmcorrect.compat

from ._signatures import refusals

logger = logging.getLogger(__name__)


class Patch:
    """What :func:`patch` replaced; as a context manager it undoes that at the end.

    Attributes:
        repository: the name of the drop-in.
        replaced: dotted names that now hold our functions, ``module.function`` or ``module.Class.method``.
    """

    def __init__(self, repository: str, swaps: list[tuple[Any, str, Any, Any, str]]) -> None:
        self.repository = repository
        self.replaced = tuple(name for *_, name in swaps)
        self._swaps = swaps
        for owner, attribute, _, ours, _ in swaps:
            setattr(owner, attribute, ours)

    def undo(self) -> None:
        """Put the originals back where our functions still stand; a second call does nothing."""
        for owner, attribute, original, ours, _ in self._swaps:
            if vars(owner).get(attribute) is ours:
                setattr(owner, attribute, original)
        self._swaps = []

    def __enter__(self) -> Patch:
        return self

    def __exit__(self, *_: object) -> None:
        self.undo()

    def __repr__(self) -> str:
        return f"Patch({self.repository!r}, replaced={list(self.replaced)})"


def patch(repository: str, module: ModuleType | str | None = None) -> Patch:
    """Replace the functions of an original by ours, in it and wherever they have been imported from it.

    Args:
        repository: a module of :mod:`mdmcorrect.compat`, such as "fast_dllm".
        module: the original, or its import name; default the names its modules have when its root, or
            the folder they lie in, is on the path.

    Returns:
        A :class:`Patch`, whose ``replaced`` says what was replaced and whose ``undo`` takes it back; a context manager.

    Raises:
        ValueError: no such drop-in, or the module has none of its functions, or one that takes arguments ours does not.
        ImportError: the original cannot be imported.

    Example:
        >>> with patch("fast_dllm", original) as done:  # doctest: +SKIP
        ...     done.replaced
        ('generate.generate', 'generate.generate_with_prefix_cache', ...)
    """
    drop_in = _drop_in(repository)
    originals = _originals(repository, drop_in, module)
    swaps: dict[tuple[int, str], tuple[Any, str, Any, Any, str]] = {}  # by owner and attribute: modules share functions
    reasons: list[str] = []
    for original in originals:
        found = [(path, _swaps(original, path, ours)) for path, ours in drop_in.REPLACES.items()]
        unfit = list(_unfit(drop_in, [(path, each[0]) for path, each in found if each]))
        reasons += unfit
        for swap in (swap for _, each in found if not unfit for swap in each):
            swaps.setdefault((id(swap[0]), swap[1]), swap)
    if reasons and not swaps:
        raise ValueError(
            f"module: {reasons[0]}; it is another version or another repository's, nothing was replaced ({repository})"
        )
    if reasons:  # of several modules that have the names of the original's, this one is another's
        logger.warning("%s: left a module as it is: %s", repository, reasons[0])
    if not swaps:
        names = " and ".join(original.__name__ for original in originals)
        raise ValueError(f"module: {names} has none of {sorted(drop_in.REPLACES)}; is it {repository}?")
    return Patch(repository, list(swaps.values()))


def _unfit(drop_in: Any, found: list[tuple[str, tuple[Any, str, Any, Any, str]]]) -> Iterator[str]:
    """Why ours cannot replace what was found of an original."""
    for path, (_, _, theirs, ours, name) in found:
        for end in refusals(theirs, ours, getattr(drop_in, "TAKES", {}).get(path, ())):
            yield name + end


def _swaps(original: ModuleType, path: str, ours: Any) -> list[tuple[Any, str, Any, Any, str]]:
    """What of an original has the dotted name ``path``, and who else holds it."""
    *owners, attribute = path.split(".")
    owner: Any = original
    for name in owners:
        owner = getattr(owner, name, None)
    getattr(owner, attribute, None)  # some packages load what they hold when it is first asked for
    theirs = getattr(owner, "__dict__", {}).get(attribute)
    if theirs is None:
        return []
    copies = _copies(original, attribute, theirs, ours) if owner is original else []
    return [(owner, attribute, theirs, ours, f"{original.__name__}.{path}"), *copies]


def _drop_in(repository: str) -> Any:
    names = sorted(m.name for m in pkgutil.iter_modules(mdmcorrect.compat.__path__) if not m.name.startswith("_"))
    modules = {n: importlib.import_module(f"mdmcorrect.compat.{n}") for n in names if n == repository}
    if repository not in modules or not hasattr(modules[repository], "REPLACES"):
        raise ValueError(f"repository: expected one of {[n for n in names if n != 'patching']}, got {repository!r}")
    return modules[repository]


def _originals(repository: str, drop_in: Any, module: ModuleType | str | None) -> list[ModuleType]:
    """The module named, or those of the original that can be imported."""
    if isinstance(module, ModuleType):
        return [module]
    names, found, tried = [module] if module is not None else list(drop_in.MODULES), [], []
    for name in names:
        try:
            found.append(importlib.import_module(name))
        except ImportError as error:
            missing = getattr(error, "name", None) or ""
            absent = isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{missing}.")
            # In brackets: what stopped one that is there.
            tried.append(repr(name) if absent else f"{name!r} ({error})")
    if not found:
        raise ImportError(
            f"{repository}: could not import {' or '.join(tried)}; put the original on the path, or hand "
            f"over its module: patch({repository!r}, module)"
        )
    return found


def _copies(
    original: ModuleType, attribute: str, theirs: Any, ours: Callable[..., Any]
) -> list[tuple[Any, str, Any, Any, str]]:
    """Other modules that hold the original's function under any name, as after ``from generate import generate``."""
    found = []
    for name, module in list(sys.modules.items()):
        if not isinstance(module, ModuleType) or module is original:
            continue
        for alias, value in list(vars(module).items()):
            if value is theirs:
                found.append((module, alias, theirs, ours, f"{name}.{alias}"))
    return found
