"""Models small and exact enough to tell what a sampler must do with them."""

import torch

from mdmcorrect.model import Output


class Toy:
    """A deterministic model with quality that sees attended tokens by their relative position, so padding is nothing.

    Counts the rows of every call in `rows`, and fails at call `fail_at` with `error`.
    """

    def __init__(self, V=12, scale=6.0, quality=True, dtype=torch.float32):
        self.V, self.scale, self.quality, self.dtype = V, scale, quality, dtype
        self.rows, self.fail_at, self.error = [], None, KeyboardInterrupt

    def __call__(self, tokens, request):
        self.rows.append(request.batch.tolist())
        if len(self.rows) == self.fail_at:
            raise self.error
        attended = torch.ones_like(tokens) if request.attention_mask is None else request.attention_mask.long()
        place = request.position_ids
        context = ((tokens + 7) * (place + 3) * 7919 % 10007 * attended).sum(1, keepdim=True)
        state = context * 31 + place * 1009
        ids = torch.arange(self.V, device=tokens.device)
        mixed = (state[..., None] * 65537 + ids * 40503 + 12345) % 99991
        mixed = mixed * mixed % 99991
        logits = (mixed.double() / 99991 * self.scale).to(self.dtype)
        judged = (state + tokens * 523) * 7907 % 9973
        return Output(logits=logits, quality=(judged.float() + 1) / 9974 if self.quality else None)

    def nfe(self, batch):
        """Calls each row of the batch was in."""
        return [sum(row in call for call in self.rows) for row in range(batch)]
