"""score_quality: a quality head's probability for every position of hidden states like LLaDA-8B's.

Floor: moving the hidden states once. Peer: the same head as torch modules run it, normalisation in float32,
eager and compiled.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mdmcorrect.ops import score_quality

BATCH, LENGTH, WIDTH = 8, 1024, 4096


def eager(
    hidden: Tensor, weight: Tensor, gain: Tensor, offset: Tensor, shift: Tensor | None, scale: Tensor | None
) -> Tensor:
    x = F.layer_norm(hidden.float(), (WIDTH,), gain, offset)
    if shift is not None and scale is not None:
        x = x * (1 + scale[:, None]) + shift[:, None]
    return torch.sigmoid(F.linear(x, weight[None])[..., 0])


@pytest.mark.parametrize("modulated", [False, True], ids=["norm", "norm, modulation"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["bf16", "fp32"])
def test_score_quality(versus, timer, device, dtype, modulated):
    generator = torch.Generator(device).manual_seed(0)

    def values(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device=device)

    hidden = (values(BATCH, LENGTH, WIDTH) * 2 + 0.1).to(dtype)
    weight, gain, offset = values(WIDTH) / WIDTH**0.5, 1 + values(WIDTH) / 8, values(WIDTH) / 8
    shift, scale = (values(BATCH, WIDTH) / 8 if modulated else None for _ in range(2))
    arguments = (hidden, weight, gain, offset, shift, scale)
    compiled = torch.compile(eager)

    def ours() -> Tensor:
        return score_quality(hidden, weight, norm_weight=gain, norm_bias=offset, shift=shift, scale=scale)

    torch.testing.assert_close(ours(), eager(*arguments), rtol=1e-4, atol=1e-5)
    versus(
        ours,
        floor=timer.move(hidden),
        peers={"eager torch": lambda: eager(*arguments), "torch.compile": lambda: compiled(*arguments)},
        bytes_moved=hidden.nbytes,
    )
