"""A run with everything in it: prompts, masks, tokens that are judged and mended, texts that try to break a page."""

from __future__ import annotations

import torch

from mdmcorrect.model import Output
from mdmcorrect.samplers import PRISM, SampleResult

MASK, V = 11, 12
NASTY = ["</script><script>document.title='broken'</script>", "\"'<b>&amp;", "a\nb", "\x1b[31m\x07", "\udc80", "שלום",
         "\u202eabc", " the", "", "<!--", "{{RUN}}", "[MASK]"]  # fmt: skip


def model(tokens, request):  # type: ignore[no-untyped-def]
    """Logits and quality that depend on the tokens, the positions and nothing else."""
    mixed = ((tokens * 31 + request.position_ids * 17).cumsum(1)[..., None] * 7 + torch.arange(V) * 13) % 101
    return Output(logits=mixed.float() / 12, quality=((tokens * 7 + request.position_ids) % 10 + 0.5) / 11)


def made(sampler=None, *, history="candidates", **options) -> SampleResult:  # type: ignore[no-untyped-def]
    tokens = torch.full((2, 16), MASK)
    tokens[:, :3] = torch.tensor([1, 7, 2])
    sampler = sampler or PRISM(steps=8, remask_count=2, temperature=1.0)
    return sampler(model, tokens, mask_id=MASK, seed=3, history=history, **options)
