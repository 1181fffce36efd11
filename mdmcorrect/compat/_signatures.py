"""Whether a drop-in takes all that the function it is to replace takes."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Collection, Iterator
from typing import Any

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def refusals(theirs: Any, ours: Any, more: Collection[str] = ()) -> Iterator[str]:
    """Reasons why ``ours`` cannot stand for ``theirs``, as ends of a sentence that begins with the name of theirs.

    Of classes, their constructors and the methods that both define are compared.

    Args:
        more: keywords that ``ours`` takes by ``**``.
    """
    if not inspect.isclass(ours):
        yield from _of_functions(theirs, ours, more)
    elif inspect.isclass(theirs):
        for name, method in vars(ours).items():
            original = vars(theirs).get(name)
            if callable(getattr(method, "__func__", method)) and original is not None and _is_called(name):
                yield from (f".{name}{end}" for end in _of_functions(original, method, more))


def _is_called(name: str) -> bool:
    return name in ("__init__", "__call__") or not name.startswith("_")


def _of_functions(theirs: Any, ours: Any, more: Collection[str]) -> Iterator[str]:
    theirs, ours = (getattr(each, "__func__", each) for each in (theirs, ours))  # of static and class methods
    try:
        asked, taken = inspect.signature(theirs).parameters, inspect.signature(ours).parameters
    except (TypeError, ValueError):  # a class without a constructor, a builtin
        return
    variadic = next((p.name for p in asked.values() if p.kind is inspect.Parameter.VAR_KEYWORD), None)
    named = {p.name for p in asked.values() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
    if variadic is not None:
        named |= _keywords_read(theirs, variadic)
    open_ended = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in taken.values()) and not more
    positional = [p.name for p in asked.values() if p.kind in _POSITIONAL]
    # The first argument of a method, and of a function that becomes one, is the object, whatever it is called.
    names = {name for name in named if name not in positional[:1]}
    if not open_ended and (missing := sorted(names - taken.keys() - set(more))):
        yield f" takes {missing}, which our drop-in does not know"
        return
    orders = [[p.name for p in taken.values() if p.kind in _POSITIONAL], *getattr(ours, "orders", ())]
    if not any(positional[1:] == list(order)[1 : len(positional)] for order in orders):
        yield f" takes its arguments in another order, ({', '.join(positional)})"
    plain = (bool, int, float, str, type(None))
    for name in sorted(names & taken.keys()):
        given, default = asked[name].default if name in asked else None, taken[name].default
        if isinstance(given, plain) and isinstance(default, plain) and name in asked and given != default:
            yield f" has {name}={given!r} by default, our drop-in {default!r}"


def _keywords_read(function: Any, variadic: str) -> set[str]:
    """Keywords that a function reads from its ``**`` argument by name, as far as its source can be read."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return set()
    read = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("get", "pop"):
            holder, key = node.func.value, node.args[0] if node.args else None
        elif isinstance(node, ast.Subscript):
            holder, key = node.value, node.slice
        else:
            continue
        if isinstance(holder, ast.Name) and holder.id == variadic and isinstance(key, ast.Constant):
            read.add(str(key.value))
    return read
