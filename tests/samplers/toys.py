"""Models small and exact enough to tell what a sampler must do with them."""

import torch

from mdmcorrect.model import Output

PRIME = 2**31 - 1


def integer_hash_logits(tokens, visible, *, V, mask_id, dtype, scale, mask_logit, salt=0, peak=4):
    """Logits of the recorded runs: an integer hash of (visible tokens, position, id), bit-equal on every machine."""
    position = torch.arange(tokens.shape[1])
    offset = (position[:, None] - position) * 1000003 + 245489 + salt * 104729
    weight = offset % 65521 + 1
    weight = (31 * weight**2 + 17 * weight) % 65521 + 1
    code = ((tokens + 1) * 48271 + 11) % 65521 * visible
    context = (code @ weight.T) % PRIME
    state = (context * 16807 + (position + 1) * 69621 + salt) % PRIME
    mixed = (state[..., None] + (torch.arange(V) * 40014 + 12345) % PRIME) % PRIME * 48271 % PRIME
    mixed = (mixed ^ mixed >> 13) % PRIME * 69621
    mixed = (mixed + 1) % PRIME
    unit = ((mixed ^ mixed >> 7) % PRIME).double() / PRIME
    power = unit
    for _ in range(peak - 1):
        power = power * unit
    logits = power * scale
    logits[..., mask_id] = mask_logit
    return logits.to(dtype)


def integer_hash_quality(tokens):
    """Quality of the recorded PRISM runs, as a probability."""
    position = torch.arange(tokens.shape[1]) + 1
    mixed = (tokens + 3) * 48271 + position * 69621 + tokens.sum(1, keepdim=True) * 16807
    return torch.sigmoid((mixed % PRIME).double() / PRIME * 8 - 4).float()


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
        ids = torch.arange(self.V)
        mixed = (state[..., None] * 65537 + ids * 40503 + 12345) % 99991
        mixed = mixed * mixed % 99991
        logits = (mixed.double() / 99991 * self.scale).to(self.dtype)
        judged = (state + tokens * 523) * 7907 % 9973
        return Output(logits=logits, quality=(judged.float() + 1) / 9974 if self.quality else None)

    def nfe(self, batch):
        """Calls each row of the batch was in."""
        return [sum(row in call for call in self.rows) for row in range(batch)]
