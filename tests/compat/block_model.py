"""A block-diffusion model of the recorded kind, as Fast-dLLM v2 calls it; what it caches are the tokens themselves."""

from types import SimpleNamespace

import torch
from hash_model import integer_hash_logits


class Cache:
    """Like transformers' old caches: a list of keys and one of values, each here one layer of tokens."""

    def __init__(self, tokens):
        self.key_cache, self.value_cache = [tokens], [tokens.clone()]

    def __len__(self):
        return 1


class BlockLM:
    """``forward`` of Fast_dLLM_QwenForCausalLM; counts its calls and their tokens."""

    device = "cpu"

    def __init__(self, spec):
        self.spec = {**spec, "dtype": getattr(torch, spec["dtype"])}
        self.calls = self.tokens = 0

    def forward(
        self,
        input_ids,
        use_cache,
        past_key_values=None,
        update_past_key_values=False,
        block_size=32,
        use_block_cache=False,
        block_past_key_values=None,
        replace_position=None,
    ):
        self.calls += 1
        self.tokens += input_ids.numel()
        before = input_ids[:, :0] if past_key_values is None else past_key_values.key_cache[0]
        block, first, width = input_ids, 0, input_ids.shape[1]
        if block_past_key_values is not None:
            block, first = block_past_key_values.clone(), replace_position
            block[:, first : first + width] = input_ids
        full = torch.cat([before, block], 1)
        start = before.shape[1] + first
        logits = integer_hash_logits(full, None, torch.arange(start, start + width), **self.spec)
        past = Cache(full) if update_past_key_values else past_key_values
        return SimpleNamespace(logits=logits, past_key_values=past, block_past_key_values=block)
