"""huggingface/transformers, ``models/diffusion_gemma/generation_diffusion_gemma.py``: which tokens a canvas accepts.

    import transformers.models.diffusion_gemma.generation_diffusion_gemma as original
    mdmcorrect.compat.patch("diffusion_gemma", original)

A canvas starts with random tokens. Every step the positions of least entropy, as many as an entropy bound admits (arXiv
2505.24857), take the model's draw, and all others a new random token; no position is settled. A row ends when its
argmax has not changed for some steps and its mean entropy is low. Here an entropy is one read of the logits; random
tokens come from torch's stream, as there.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import _checks
from ._steps import entropies


class EntropyBoundSampler:
    """See the module; arguments, attributes and methods of the original.

    Args:
        config: an object with ``entropy_bound``, in nats.
        canvas_length, vocab_size: of the canvases that are made here.
        max_denoising_steps: not used, as there.
    """

    def __init__(self, config: Any, canvas_length: int, vocab_size: int, max_denoising_steps: int) -> None:
        self.entropy_bound = _checks.weight("config.entropy_bound", config.entropy_bound)
        self.canvas_length = _checks.integer("canvas_length", canvas_length, minimum=0)
        self.vocab_size = _checks.integer("vocab_size", vocab_size, minimum=1)
        self.accepted_token_mask: Tensor | None = None

    def initialize_canvas(self, batch_size: int, device: torch.device) -> Tensor:
        """int64 ``[batch_size, canvas_length]``, uniform over the vocabulary."""
        return torch.randint(0, self.vocab_size, (batch_size, self.canvas_length), device=device)

    def accept_canvas(
        self, current_canvas: Tensor, denoiser_canvas: Tensor, logits: Tensor, cur_step: int | Tensor
    ) -> Tensor:
        """``current_canvas`` with the accepted positions, kept as ``accepted_token_mask``, from ``denoiser_canvas``.

        Args:
            current_canvas, denoiser_canvas: int64 ``[B, L]``.
            logits: ``[B, L, V]``.
            cur_step: not used, as there.
        """
        ranked, order = entropies(logits).sort(dim=-1)
        within = ranked.cumsum(-1) - ranked <= self.entropy_bound
        self.accepted_token_mask = torch.zeros_like(within).scatter(-1, order, within)
        return torch.where(self.accepted_token_mask, denoiser_canvas, current_canvas)

    def renoise_canvas(self, accepted_canvas: Tensor, cur_step: int | Tensor) -> Tensor:
        """``accepted_canvas`` with a new random token where the last :meth:`accept_canvas` accepted none.

        Raises:
            ValueError: nothing has been accepted yet.
        """
        if self.accepted_token_mask is None:
            raise ValueError("accepted_canvas: expected one that accept_canvas returned, but it has not been called")
        random = self.initialize_canvas(accepted_canvas.shape[0], accepted_canvas.device)
        return torch.where(self.accepted_token_mask, accepted_canvas, random)


class StableAndConfidentStoppingCriteria:
    """True of rows whose argmax stood for ``stability_threshold`` steps and whose mean entropy is below a bound.

    Args:
        stability_threshold: steps, 0 for none.
        confidence_threshold: of the mean entropy, in nats.
    """

    def __init__(self, stability_threshold: int, confidence_threshold: float) -> None:
        self.stability_threshold = _checks.integer("stability_threshold", stability_threshold, minimum=0)
        self.confidence_threshold = _checks.number("confidence_threshold", confidence_threshold)
        self.argmax_canvas_history: Tensor | None = None

    def __call__(self, argmax_canvas: Tensor, logits: Tensor, **kwargs: Any) -> Tensor:
        """bool ``[B]``, for ``argmax_canvas`` int64 ``[B, L]`` and ``logits [B, L, V]``."""
        stable = torch.ones_like(argmax_canvas[:, :1], dtype=torch.bool)[:, 0]
        if self.stability_threshold:
            seen = self.argmax_canvas_history
            if seen is None:
                seen = torch.full_like(argmax_canvas, -1).expand(self.stability_threshold, *argmax_canvas.shape)
            stable = (seen == argmax_canvas).all(-1).all(0)
            self.argmax_canvas_history = torch.cat([seen[1:], argmax_canvas[None]])
        return stable & (entropies(logits).mean(-1) < self.confidence_threshold)

    def reset(self) -> None:
        """Forget the canvases seen."""
        self.argmax_canvas_history = None


MODULES = ("transformers.models.diffusion_gemma.generation_diffusion_gemma",)
REPLACES = {
    "EntropyBoundSampler": EntropyBoundSampler,
    "StableAndConfidentStoppingCriteria": StableAndConfidentStoppingCriteria,
}
