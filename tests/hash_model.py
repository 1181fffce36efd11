"""The model of the recorded runs: logits that are an integer hash, bit-equal on every machine."""

from types import SimpleNamespace

import torch
from torch import nn

PRIME = 2**31 - 1


def integer_hash_logits(
    tokens, visible=None, columns=None, *, V, mask_id, dtype, scale, mask_logit=-30.0, salt=0, peak=4, boost=None
):
    """Logits of the recorded runs: an integer hash of (visible tokens, position, id), bit-equal on every machine.

    Of all positions, or of the given columns.
    """
    visible = torch.ones_like(tokens) if visible is None else visible
    place = torch.arange(tokens.shape[1])
    position = place if columns is None else columns
    offset = (position[:, None] - place) * 1000003 + 245489 + salt * 104729
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
    if mask_logit is not None:
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


class HashLM(nn.Module):
    """Looks like a Hugging Face model; its cache holds the tokens themselves. ``calls`` counts forwards."""

    def __init__(self, spec):
        super().__init__()
        self.spec = {**spec, "dtype": getattr(torch, spec["dtype"])}
        self.weight = nn.Parameter(torch.zeros(1), requires_grad=False)
        self.config = SimpleNamespace(vocab_size=spec["V"], mask_token_id=spec["mask_id"])
        self.calls = 0

    @property
    def device(self):
        return self.weight.device

    @property
    def dtype(self):
        return self.spec["dtype"]

    def forward(
        self,
        input_ids,
        attention_mask=None,
        *_positional,
        past_key_values=None,
        use_cache=False,
        replace_position=None,
        **_ignored,
    ):
        self.calls += 1
        full, columns = input_ids, torch.arange(input_ids.shape[1])
        if past_key_values is not None:
            cached = past_key_values[0][0][:, 0, :, 0].long()
            if replace_position is None:
                full, columns = torch.cat([cached, input_ids], 1), columns + cached.shape[1]
            else:
                full = cached.masked_scatter(replace_position, input_ids)
                columns = replace_position[0].nonzero().flatten()
            attention_mask = None  # the recorded runs' model sees all that is cached
        logits = integer_hash_logits(full, self._visible(full, attention_mask), columns, **self.spec)
        cache = full.double()[:, None, :, None]
        return SimpleNamespace(logits=logits, past_key_values=[(cache, cache)] if use_cache else None)

    @staticmethod
    def _visible(tokens, attention_mask):
        if attention_mask is None or isinstance(attention_mask, str):
            return torch.ones_like(tokens)
        if attention_mask.ndim == 4 and attention_mask.dtype == torch.bool:  # keys that some query sees
            return attention_mask[:, 0].any(1).long().expand_as(tokens)
        if attention_mask.ndim == 4:  # added to scores: keys that the last query sees
            return (attention_mask[:, 0, -1] == 0).long().expand_as(tokens)
        return (attention_mask != 0).long()
