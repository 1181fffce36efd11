"""The model of the recorded runs: logits that are an integer hash, bit-equal on every machine."""

import torch

PRIME = 2**31 - 1


def integer_hash_logits(tokens, visible=None, *, V, mask_id, dtype, scale, mask_logit, salt=0, peak=4, boost=None):
    """Logits of the recorded runs: an integer hash of (visible tokens, position, id), bit-equal on every machine."""
    visible = torch.ones_like(tokens) if visible is None else visible
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
    for token, more in (boost or {}).items():
        logits[..., int(token)] += more
    return logits.to(dtype)


def integer_hash_quality(tokens):
    """Quality of the recorded PRISM runs, as a probability."""
    position = torch.arange(tokens.shape[1]) + 1
    mixed = (tokens + 3) * 48271 + position * 69621 + tokens.sum(1, keepdim=True) * 16807
    return torch.sigmoid((mixed % PRIME).double() / PRIME * 8 - 4).float()


class HashModel:
    """The model of one recorded case, tokens -> logits; counts its calls."""

    def __init__(self, spec, **changes):
        self.spec = {**spec, "dtype": getattr(torch, spec["dtype"]), **changes}
        self.calls = 0

    def __call__(self, tokens, attention_mask=None):
        self.calls += 1
        visible = None if attention_mask is None else attention_mask.long()
        return integer_hash_logits(tokens, visible, **self.spec)
