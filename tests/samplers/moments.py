"""One step of a part by itself: a state and a view made by hand."""

from dataclasses import replace

import torch

from mdmcorrect.samplers import Blocks
from mdmcorrect.samplers.state import initial_state

MASK = 11


def moment(tokens, *, step=0, steps=6, window=None, quota=None, index=0, seed=0, **changes):
    """The state and the view of rows at step ``step`` of window ``index``, none of whose positions is fixed."""
    tokens = torch.as_tensor(tokens)
    tokens = tokens[None] if tokens.ndim == 1 else tokens
    state = initial_state(tokens, mask_id=MASK, fixed=torch.zeros_like(tokens, dtype=torch.bool), seed=seed)
    held = (tokens == MASK).sum(1) if quota is None else torch.full_like(state.quota, quota)
    place = {"window_step": step, "step": step, "window": index}
    place = {name: torch.full_like(state.step, value) for name, value in place.items()}
    state = replace(state, **place, quota=held, **changes)
    window = window or Blocks()
    return window.view(state, window.layout(state, steps), MASK)


def where(mask):
    """Columns of each row where a mask is true."""
    return [row.nonzero().flatten().tolist() for row in mask]
