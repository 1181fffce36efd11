"""What a sampler hands back: the result, and one event per step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from typing import TYPE_CHECKING, Any

from torch import Tensor

from .candidates import Candidates
from .state import State

if TYPE_CHECKING:
    from ..replay.run import Run


@dataclass(frozen=True)
class StepEvent:
    """One step of the whole batch, given to the callback and kept in the history. Its tensors are copies.

    Attributes:
        index: which step of this call of the sampler, from 0.
        step: int64 ``[B]``, the step each row made.
        live: bool ``[B]``, rows that made one.
        before, tokens: int64 ``[B, L]``, tokens before and after.
        committed, remasked, corrected: bool ``[B, L]``, what changed and by which part.
        nfe: int64 ``[B]``, forwards used so far.
        scores: by name ``[B, L]``, those asked for; NaN or -1 where the step computed none. They describe what the
            model read: ``before``, but for the rows of ``rescored``.
        rescored: bool ``[B]``, rows whose scores are those of a corrector's last forward, of the canvas it tried, which
            need be neither ``before`` nor ``tokens``; what it did not score keeps the step's.
        candidates: the best tokens of the step's first forward, if they were asked for.
    """

    index: int
    step: Tensor
    live: Tensor
    before: Tensor
    tokens: Tensor
    committed: Tensor
    remasked: Tensor
    corrected: Tensor
    nfe: Tensor
    rescored: Tensor
    scores: Mapping[str, Tensor] = field(default_factory=dict)
    candidates: Candidates | None = None


@dataclass(frozen=True)
class SampleResult:
    """Where a run ended.

    Attributes:
        tokens: int64 ``[B, L]``. Masks remain only if the run was stopped, if ``finish=False``, or where the model's
            logits were NaN or admitted no token.
        nfe: int64 ``[B]``, forwards each row was in: predictor and corrector; a row that needs none sits out.
        steps: int64 ``[B]``, steps each row made.
        stopped: "finished"; "unfilled", finished, but rows hold masks that a last forward could not fill (NaN or +inf
            logits, no token that may be proposed); "callback" (it returned True); "interrupted" (KeyboardInterrupt).
        state: hand it back as ``state=`` to go on; :meth:`State.state_dict` saves it.
        history: the steps of this call, or None if it kept none.
        calls: forwards of the model, whatever their batch.
        token_forwards: tokens that went through the model, padding included.
        mask_id: the mask token.
        method: what the sampler calls itself.
    """

    tokens: Tensor
    nfe: Tensor
    steps: Tensor
    stopped: str
    state: State
    history: list[StepEvent] | None
    calls: int
    token_forwards: int
    mask_id: int = -1
    method: str = ""

    @property
    def seed(self) -> Tensor:
        """int64 ``[B]``, the seed of each row: given as ``seed=``, it makes the same draws again."""
        return self.state.seed

    def complete(self, mask_id: int) -> Tensor:
        """bool ``[B]``: rows without a mask left to fill."""
        return ~self.state.masked(mask_id).any(1)

    def run(self, rows: Sequence[int] | None = None) -> Run:
        """What the history says, as plain numbers; see :func:`mdmcorrect.replay.run_of`.

        Raises:
            ValueError: the call kept no history, or there is no such row.
        """
        from ..replay.run import run_of

        return run_of(self, rows)

    def save(self, path: str | PathLike[str], tokenizer: Any = None) -> None:
        """Write the run as JSON, for :func:`mdmcorrect.replay.load` and ``mdmcorrect replay``.

        Args:
            path: the file.
            tokenizer: one with ``decode([id])``, a function of an id, or texts by id; what it says is saved too.
        """
        self.run().save(path, tokenizer)

    def to_html(self, tokenizer: Any = None, **options: Any) -> str:
        """One page that plays the run; options as of :func:`mdmcorrect.replay.page.to_html`."""
        return self.run(options.get("rows")).to_html(tokenizer, **options)

    def text(self, tokenizer: Any = None, **options: Any) -> str:
        """The run step by step, to be printed; options as of :func:`mdmcorrect.replay.terminal.text`."""
        return self.run().text(tokenizer, **options)

    def plot(self, **options: Any) -> Any:
        """Quality, confidence, entropy and counts over steps; options as of :func:`mdmcorrect.replay.figure.plot`."""
        return self.run().plot(**options)


class Interrupted(KeyboardInterrupt):
    """Ctrl-C in a sampler called with ``on_interrupt="raise"``: ends the loop around it, and keeps the run.

    Attributes:
        result: the :class:`SampleResult` up to the last whole step; ``result.state`` goes on from there.
    """

    def __init__(self, result: SampleResult) -> None:
        super().__init__("the sampler was interrupted; .result holds the run up to its last whole step")
        self.result = result


def copy_event(
    index: int,
    before: State,
    after: State,
    committed: Tensor,
    remasked: Tensor,
    corrected: Tensor,
    rescored: Tensor,
    scores: Mapping[str, Tensor],
    candidates: Candidates | None = None,
) -> StepEvent:
    """An event that shares no memory with the run, so that whoever gets it cannot change what follows."""
    return StepEvent(
        index=index,
        step=before.step.clone(),
        live=~before.done,
        before=before.tokens.clone(),
        tokens=after.tokens.clone(),
        committed=committed.clone(),
        remasked=remasked.clone(),
        corrected=corrected.clone(),
        nfe=after.nfe.clone(),
        rescored=rescored.clone(),
        scores={name: value.detach().clone() for name, value in scores.items()},
        candidates=candidates,
    )
