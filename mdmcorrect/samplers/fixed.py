"""A sampler as one pure function of tensors, for ``torch.compile`` and CUDA graphs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .. import _checks, rng
from .call import Runs
from .capture import Graphs, check_call
from .engine import Engine, Stop
from .footprint import Opaque
from .forward import LogitsProcessor
from .identity import identity
from .state import State, initial_state


class FixedSteps(Opaque):
    """A sampler that makes a fixed number of steps, each the same operations whatever it finds.

    Nothing is asked of the host, so the whole run, or a step of it, compiles with ``torch.compile(fullgraph=True)`` and
    captures into a CUDA graph, if the model does. Tokens and NFE are those of the sampler, to the bit, where the
    model's logits of a row do not depend on the batch. The price is that a row is in every forward: NFE counts the
    forwards it needed, which are fewer than those made where rows end early, commit nothing or need no correction; a
    corrector makes all its passes in every step.

    Args:
        sampler: a preset or a :class:`Sampler`.
        model, mask_id, condition, eos_id, stop, logits_processor: as for a call of the sampler; ``stop`` may not ask
            the host either.
        padded: None, the model is told where padding is whenever :meth:`start` got ``lengths`` or an
            ``attention_mask``; True, in any case; False refuses these two.
        capture: a call records itself as a CUDA graph, once for each kind of call, and replays it: see below.

    Raises:
        ValueError: the sampler breaks ties as ``torch.topk`` does, or the model reads windows: both ask the host.

    With ``capture=True`` the first call of a kind makes three short runs, records a whole one and replays it. Later
    calls copy their tensors in, replay and return copies: the states of the same calls without it, whatever the tokens,
    seeds (ints too) and origins. A kind is: shapes and dtypes, ``steps``, device, autocast and what else chooses
    kernels, and all that the model, the sampler and the condition are made of, as far as it can be seen. That is the
    memory of parameters, buffers and other tensors, attributes of modules (``training`` is one), and what functions
    close over or read of their module's names. Weights written in place are seen by a replay; replaced ones make
    another graph. Four graphs are kept.

    The caller promises the rest: that Python decides as it did when the run was recorded. A change within an object
    that is no module, data class, container or callable, such as ``model.config``, or of a global name that a module's
    method reads, wants a new ``FixedSteps``. Calls wait for each other, in threads too. A copy, also one by pickle,
    starts without graphs. :meth:`step` records none.

    Example:
        >>> from mdmcorrect.samplers import FixedSteps, LLaDA
        >>> def model(tokens):
        ...     return torch.eye(8, device=tokens.device)[tokens.cumsum(1) % 7] * 9
        >>> run = FixedSteps(LLaDA(steps=3), model, mask_id=7)
        >>> run(torch.tensor([[5, 7, 7, 7]])).tokens
        tensor([[5, 5, 3, 6]])
    """

    def __init__(
        self,
        sampler: Runs,
        model: Any,
        *,
        mask_id: int,
        condition: Any = None,
        eos_id: int | Sequence[int] | None = None,
        stop: Stop | None = None,
        logits_processor: LogitsProcessor | None = None,
        padded: bool | None = None,
        capture: bool = False,
    ) -> None:
        if not isinstance(sampler, Runs):
            raise TypeError(f"sampler: expected a preset or a Sampler, got {type(sampler).__name__}")
        self.sampler = sampler.parts()
        self.mask_id = mask_id = _checks.token_id("mask_id", mask_id)
        self.identity, self.draws = identity(self.sampler, mask_id), self.sampler.random
        caller = {"condition": condition, "stop": stop, "logits_processor": logits_processor}
        self._make_engine = partial(self.sampler.engine, model, mask_id=mask_id, eos_id=eos_id, **caller)
        self.engine = self._make_engine()
        self.padded = padded
        self._graphs = Graphs() if _checks.flag("capture", capture) else None
        review = None if self.sampler.review is None else self.sampler.review.model
        self._roots = {"model": model, "review": review, "sampler": self.sampler, **caller}  # what a graph depends on
        unmask = getattr(self.sampler.plan, "unmask", None)
        if unmask is not None and unmask.ties != "lowest":
            raise ValueError(f"ties: expected 'lowest' with fixed steps, got {unmask.ties!r}, which asks the host")
        if self.engine.forward.reads_windows:
            raise ValueError("model: it reads windows, plain numbers that a step would have to ask the host for")

    def start(
        self,
        tokens: Tensor,
        *,
        fixed: Tensor | None = None,
        lengths: Tensor | None = None,
        attention_mask: Tensor | None = None,
        positions: Tensor | None = None,
        origin: int | Tensor | None = None,
        seed: rng.Seed = None,
    ) -> State:
        """The state before the first step; arguments and errors as of a call of the sampler.

        Their values are never looked at. A graph that draws takes its ``seed`` as a tensor.
        """
        layout = {"fixed": fixed, "lengths": lengths, "attention_mask": attention_mask, "positions": positions}
        return self._start(self.engine, tokens, **layout, origin=origin, seed=seed)

    def _start(self, engine: Engine, tokens: Tensor, **given: Any) -> State:
        state = initial_state(tokens, mask_id=self.mask_id, **given, draws=self.draws, sampler=self.identity)
        if state.padded and self.padded is False:
            raise ValueError("lengths, attention_mask: expected none with padded=False, got padding")
        if self.padded:
            state = replace(state, padded=True)
        return engine.steps_of(state).begin(state).state

    def step(self, state: State, *, closing: bool = False) -> State:
        """The state one step later. A ``closing`` step, the last, fills what is left with the argmax."""
        with torch.no_grad():
            return self.engine.steps_of(state).fixed_steps(state, 0 if closing else 1, closing=closing)

    def __call__(
        self,
        tokens: Tensor,
        *,
        steps: int | None = None,
        fixed: Tensor | None = None,
        lengths: Tensor | None = None,
        attention_mask: Tensor | None = None,
        positions: Tensor | None = None,
        origin: int | Tensor | None = None,
        seed: rng.Seed = None,
    ) -> State:
        """The state after all steps: its ``tokens`` and ``nfe``. ``state.masked(mask_id)`` says whether masks are left.

        Args:
            tokens: int64 ``[B, L]``.
            steps: how many, before the closing one; default as many as a row can make.
            fixed, lengths, attention_mask, positions, origin, seed: as for :meth:`start`.

        Raises:
            ValueError: no ``steps`` for a sampler that stays in a block until it is filled. With ``capture``: tokens
                that are not on a CUDA device, or a model that is on several or whose weights FSDP gathers.
            RuntimeError: with ``capture``: within another graph or ``torch.compile``, or what cannot be recorded, such
                as a model that asks the host for a value.
        """
        given = {
            "fixed": fixed,
            "lengths": lengths,
            "attention_mask": attention_mask,
            "positions": positions,
            "origin": origin,
            "seed": seed,
        }
        if self._graphs is not None:
            return self._captured(self._graphs, tokens, steps, given)
        return self._run(self.engine, tokens, steps=steps, **given)

    def _run(self, engine: Engine, tokens: Tensor, *, steps: int | None, **given: Any) -> State:
        state = self._start(engine, tokens, **given)
        with torch.no_grad():
            return engine.steps_of(state).fixed_steps(state, self._steps(steps, tokens), closing=self.sampler.finish)

    def _steps(self, steps: int | None, tokens: Tensor) -> int:
        if steps is not None:
            return _checks.integer("steps", steps, minimum=0)
        return self.sampler.window.most_steps(self.sampler.steps, tokens.shape[1])

    def _captured(self, graphs: Graphs, tokens: Tensor, steps: int | None, given: dict[str, Any]) -> State:
        """The same from a graph. Plain numbers enter it as tensors, so that others replay it."""
        given = {name: value for name, value in given.items() if value is not None}
        if not isinstance(tokens, Tensor) or tokens.ndim != 2:
            return self._run(self.engine, tokens, steps=steps, **given)  # says what is wrong
        check_call(tokens)
        batch, device = tokens.shape[0], tokens.device
        given["seed"] = rng.seed_tensor(given.get("seed"), batch, device=device, draws=self.draws)
        origin = given.get("origin")
        if origin is not None and not (isinstance(origin, Tensor) and origin.ndim):
            column = _checks.integer("origin", origin, minimum=0)
            given["origin"] = torch.full((batch,), column, dtype=torch.int64, device=device)
        if not tokens.numel() or not all(isinstance(value, Tensor) for value in given.values()):
            return self._run(self.engine, tokens, steps=steps, **given)  # nothing to record, or it says what is wrong
        return graphs(
            lambda: partial(self._run, self._make_engine()),
            {"tokens": tokens, **given},
            steps=self._steps(steps, tokens),
            settings=self.padded,
            roots=self._roots,
        )
