"""Calling a model in training, and reading logits, hidden states and condition from whatever it returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..adapters import RightShifted
from ..model import Caller, Output, Request, combine, counted_positions, gives_hidden_states, outside_vocabulary
from .averaging import check_seen

Forward = Callable[..., Any]


@dataclass
class LossOutput:
    """A loss and what to log beside it.

    ``loss`` is a scalar with a graph; ``parts`` are detached scalars on the same device (reading them synchronises).
    """

    loss: Tensor
    parts: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Shifted:
    """The answer of a model within :class:`mdmcorrect.adapters.RightShifted`: its logits at a position, and the hidden
    states they are made of, belong to the next one. What else it holds stays where it is."""

    answer: Any


def shifted(values: Tensor) -> Tensor:
    """``[B, L, ...]`` one position to the right; the first keeps its own too."""
    return torch.cat([values[:, :1], values[:, :-1]], 1)


def read_field(output: Any, name: str) -> Any:
    """An attribute, of a mapping an entry; None where there is none."""
    if isinstance(output, Shifted):
        output = output.answer
    if isinstance(output, Mapping):
        return output.get(name)
    return getattr(output, name, None)


def read_logits(output: Any) -> Tensor:
    """The output itself if it is a tensor, else its ``logits``, attribute or key."""
    if isinstance(output, Shifted):
        return shifted(read_logits(output.answer))
    logits = output if isinstance(output, Tensor) else read_field(output, "logits")
    if not isinstance(logits, Tensor):
        raise TypeError(f"model: expected logits or an object with .logits, got {type(output).__name__}")
    return logits


def read_hidden(output: Any) -> Tensor:
    """The output's ``hidden``, its ``last_hidden_state``, or the last of its ``hidden_states``."""
    hidden = None
    if not isinstance(output, Tensor):
        for name in ("hidden", "last_hidden_state", "hidden_states"):
            hidden = read_field(output, name) if hidden is None else hidden
    hidden = hidden[-1] if isinstance(hidden, (tuple, list)) and hidden else hidden
    if not isinstance(hidden, Tensor):
        raise TypeError(
            "model: hidden states are needed: expected an object with .hidden, .last_hidden_state or .hidden_states, "
            f"got {type(output).__name__} without them; of a Hugging Face model pass its base model"
        )
    return hidden


def read_condition(output: Any) -> Tensor | None:
    """The output's ``condition`` (the vector that modulates its layers), None without one."""
    return None if isinstance(output, Tensor) else read_field(output, "condition")


def call_model(
    model: Any,
    tokens: Tensor,
    *,
    forward: Forward | None,
    time: Tensor,
    attention_mask: Tensor | None,
    condition: Any,
    states: bool = False,
) -> Any:
    """``model(tokens)`` with the attention mask and condition the caller gave, or ``forward`` when there is one.

    A model is told what samplers tell theirs: with a mask, positions from the first real token on, if it takes them.
    ``states``: ask a model that takes ``output_hidden_states`` for them.
    """
    if forward is not None and not callable(forward):
        raise TypeError(f"forward: expected a callable or None, got {type(forward).__name__}")
    if isinstance(model, RightShifted):
        given: dict[str, Any] = {"time": time, "attention_mask": attention_mask, "condition": condition}
        return Shifted(call_model(model.model.model, tokens, forward=forward, states=states, **given))
    if forward is not None:
        try:
            return forward(model, tokens, time=time, attention_mask=attention_mask, condition=condition)
        except IndexError as error:
            raise outside_vocabulary(tokens, error) from error
    rows, length = tokens.shape
    if attention_mask is None:
        positions = torch.arange(length, device=tokens.device).expand(rows, length)
    else:
        positions = counted_positions(attention_mask.to(device=tokens.device, dtype=torch.bool))
    request = Request(
        batch=torch.arange(rows, device=tokens.device),
        wanted=torch.ones_like(tokens, dtype=torch.bool),
        time=time.double(),
        step=torch.zeros(rows, dtype=torch.int64, device=tokens.device),
        position_ids=positions,
        attention_mask=attention_mask,
        condition=condition,
    )
    asked = {"output_hidden_states": True} if states and gives_hidden_states(model) else {}
    answer = Caller(model, "the loss")(tokens, request, **asked)
    check_seen(model, answer)
    if isinstance(answer, Output) and (answer.shift or answer.uncond_logits is not None):
        return replace(answer, logits=combine(answer), uncond_logits=None, shift=0, hidden=None)
    return answer


def ask_head(head: Any, hidden: Tensor, condition: Tensor | None, tokens: Tensor | None) -> Tensor:
    """Quality logits ``[B, L]``: ``head(hidden, condition)``, or with the tokens too where the head reads them."""
    if getattr(head, "reads_tokens", False) is True:
        return head(hidden, condition, tokens)
    return head(hidden, condition)
