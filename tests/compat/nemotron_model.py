"""A block-diffusion model of the recorded kind, called as dLLM's Nemotron pipeline does; it caches the tokens."""

from types import SimpleNamespace

import torch
from hash_model import integer_hash_logits


class CausalLM:
    """Counts its calls; ``seen`` holds whether each call's layers saw their tokens whole."""

    device = "cpu"

    def __init__(self, spec):
        self.spec = {**spec, "dtype": getattr(torch, spec["dtype"])}
        self.mask_token_id, self.calls, self.seen = spec["mask_id"], 0, []
        self.encoder = SimpleNamespace(layers=[SimpleNamespace(self_attn=SimpleNamespace(diffusion_lm=True))])

    def __call__(self, tokens, past_key_values=None, use_cache=False, use_causal_mask=False):
        self.calls += 1
        self.seen.append(self.encoder.layers[0].self_attn.diffusion_lm)
        before = tokens[:, :0] if past_key_values is None else past_key_values
        full = torch.cat([before, tokens], 1)
        columns = torch.arange(before.shape[1], full.shape[1])
        logits = integer_hash_logits(full, None, columns, **self.spec)
        return SimpleNamespace(logits=logits, past_key_values=full if use_cache else None)
