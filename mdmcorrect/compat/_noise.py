"""Gumbel noise as some originals draw it: from float32 uniforms, the largest of which is 1 - 2^-24.

Such noise ends at 16.6 where it should reach 40 and more, which takes mass from unlikely tokens (arXiv 2409.02908,
section 5). It is drawn in full, ``[..., V]`` numbers from torch's own stream, as there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from .. import _checks
from ..samplers import Scores, Scoring

NOISES = ("exact", "fp32")


def check_noise(noise: str) -> str:
    _checks.choice("noise", noise, *NOISES)
    return noise


def stream(seed: int | Tensor | torch.Generator | None, device: torch.device) -> torch.Generator | None:
    """The generator that ``seed`` stands for, None being torch's global one.

    Raises:
        TypeError: ``seed`` is a tensor; there is one stream for all rows.
    """
    if isinstance(seed, Tensor):
        raise TypeError(
            "seed: noise='fp32' draws all rows from one stream; expected an int or a Generator, got a tensor"
        )
    return torch.Generator(device).manual_seed(seed) if isinstance(seed, int) else seed


@dataclass(frozen=True, kw_only=True)
class Float32Noise(Scoring):
    """Proposals ``argmax(logits / temperature + float32 noise)``; their confidences are exact, at temperature 1.

    Args:
        generator: None for torch's global one.
    """

    reads_logits = True

    generator: torch.Generator | None = None

    @property
    def random(self) -> bool:
        """False: tokens are drawn from torch's stream, and a seed drawn for the engine would move it."""
        return False

    def __call__(
        self, logits: Tensor, *, tokens: Tensor, rows: Tensor, mask_id: int, want: Iterable[str], **options: Any
    ) -> Scores:
        plain = Scoring(**{f.name: getattr(self, f.name) for f in fields(Scoring)} | {"temperature": 0.0})
        scores = plain(logits, tokens=tokens, rows=rows, mask_id=mask_id, want=want, **options)
        never = [*self.suppress, *self.forbid, *([mask_id] if self.mask_token != "propose" else [])]
        noisy = logits.float() / self.temperature
        noise = torch.rand(logits.shape, generator=self.generator, dtype=torch.float32, device=logits.device)
        noisy -= noise.log_().neg_().log_()
        noisy[..., never] = -torch.inf
        token = torch.where(scores["token"] >= 0, noisy.argmax(-1), -1)
        judge = replace(plain, suppress=(*self.suppress, *self.confidence_forbid), confidence_forbid=())
        asked = {"token", "current_logprob"}
        judged = judge(logits, tokens=token.clamp(min=0), rows=rows, mask_id=mask_id, want=asked, **options)
        confidence = judged["current_logprob"].exp()
        return Scores({**scores, "token": token, "confidence": confidence.to(scores["confidence"].dtype)})


def drawn_by(
    scoring: Scoring, noise: str, seed: int | Tensor | torch.Generator | None, device: torch.device
) -> Scoring:
    """The scoring with its draws by ``noise``."""
    if check_noise(noise) == "exact" or scoring.temperature == 0:
        return scoring
    return Float32Noise(**{f.name: getattr(scoring, f.name) for f in fields(Scoring)}, generator=stream(seed, device))
