"""What a loop over steps needs of whoever makes them: the engine's parts, or one operator for all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from ..model import Window
from .plan import Update
from .rows import Rows
from .scoring import Scores
from .state import State


@dataclass(eq=False)
class Ahead:
    """A step as the host knows it: rows that need a forward, those of them to correct, whether any is finishing.

    ``live``: whether any row is left. ``unfilled``: rows that the step before finished and that hold masks still.
    ``opened``: what whoever makes the step knows of it.
    """

    rows: Rows
    correcting: Rows
    finishing: bool
    windows: list[Window] | None
    live: bool = True
    unfilled: tuple[int, ...] = ()
    opened: Any = None


class Seen(Protocol):
    """What a forward reads of a run: of a :class:`State`, or of what stands for one."""

    @property
    def fixed(self) -> Tensor: ...
    @property
    def positions(self) -> Tensor: ...
    @property
    def attention_mask(self) -> Tensor: ...
    @property
    def seed(self) -> Tensor: ...
    @property
    def step(self) -> Tensor: ...
    @property
    def padded(self) -> bool: ...
    @property
    def placed(self) -> bool: ...


class Standing(Protocol):
    """A run between two steps, and what the last one did."""

    @property
    def state(self) -> State: ...
    @property
    def tokens(self) -> Tensor: ...
    @property
    def update(self) -> Update: ...
    @property
    def corrected(self) -> Tensor: ...
    @property
    def scores(self) -> Scores: ...


class Steps(Protocol):
    """Makes the steps of one run. None of its methods but :meth:`ahead` asks the host; a corrector may."""

    def begin(self, state: State) -> Standing:
        """The run before its first step."""

    def ahead(self, standing: Any, *, first: bool) -> Ahead:
        """What the host must know before the forward, in one question. ``first``: ids are looked at in it too.

        Raises:
            ValueError: there are negative ids.
        """

    def make(self, standing: Any, ahead: Ahead) -> Standing:
        """The step, of every row that is not done."""

    def fixed_steps(self, state: State, number: int, *, closing: bool) -> State:
        """The state after so many of the same steps, made without asking the host: the model reads every row.

        Rows that have used all their steps wait for a ``closing`` step after them, which fills what is left. ``calls``
        and ``token_forwards`` are not counted.
        """


def negative_ids(rows: tuple[int, ...]) -> ValueError:
    return ValueError(f"tokens: expected ids >= 0, got negative ones in rows {list(rows)}")
