"""NVlabs/Fast-dLLM: ``v2/generation_functions.py``, block diffusion on an autoregressive model's cache (2509.26328).

model.mdm_sample = types.MethodType(mdmcorrect.compat.fast_dllm_v2.batch_sample, model)
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from .. import _checks, rng
from ..caches import selected
from ..samplers import Scoring
from . import _common as common
from ._rounded import RoundedScoring, rounded_as
from ._steps import above

__all__ = ["batch_sample"]

QUIRKS = ("prompts_ending_with_a_block", "stop_as_next_token")


@torch.no_grad()
def batch_sample(
    self: Any,
    input_ids: Tensor,
    tokenizer: Any,
    block_size: int,
    max_new_tokens: int,
    small_block_size: int,
    min_len: int,
    seq_len: Tensor,
    mask_id: int = 151665,
    threshold: float = 0.95,
    stop_token: int = 151645,
    use_block_cache: bool = False,
    top_p: float = 0.95,
    temperature: float = 0.0,
    *,
    quirks: str | Collection[str] = (),
    seed: rng.Seed = None,
) -> dict[int, Tensor]:
    """For ``Fast_dLLM_QwenForCausalLM.batch_sample``: the tokens of each row, prompt first.

    Blocks of ``block_size`` columns, counted from column 0, are decoded from left to right, and in them small blocks:
    a step commits the proposals more probable than ``threshold`` and the best in any case. A filled block goes through
    the model once more, which keeps its keys and values and gives the next block's first token. A row ends with a block
    that holds ``stop_token``; what is after it is padding.

    Args:
        self: a model whose ``forward`` takes ``input_ids``, ``past_key_values``, ``update_past_key_values`` and, for
            ``use_block_cache``, ``block_past_key_values`` and ``replace_position``; its ``logits`` describe the next
            token.
        input_ids: int64 ``[B, P]``, prompts padded on the right.
        tokenizer: its ``pad_token_id`` is read.
        min_len, seq_len: the shortest prompt's length, and int64 ``[B]``, each prompt's.
        use_block_cache: keep keys and values of the block while one of its small blocks is decoded.
        top_p, temperature: of the draws; the token that crosses ``top_p`` is kept.
        quirks: defects of the original to keep. "prompts_ending_with_a_block": one that does is followed by the model's
            next token only if it is the longest, or the shortest and longer than a block; one block is not seen.
            "stop_as_next_token": a stop token that begins a block ends nothing.
        seed: default drawn from torch's global generator if anything is random.

    Returns:
        ``{row: int64 [length]}``; a row that has ended is padded to the block's end, or one further if others go on.

    Raises:
        ValueError: small blocks that do not divide a block, lengths that are not those of the prompts.
    """
    kept = common.check_quirks(quirks, QUIRKS)
    prompts = common.token_ids("input_ids", input_ids)
    block_size, small = common.lengths(block_size=block_size, small_block_size=small_block_size)
    common.check_divides("block_size", block_size, "small_block_size", small)
    lengths = torch.as_tensor(seq_len, device=prompts.device).reshape(-1).long()
    if lengths.shape != prompts.shape[:1] or int(lengths.min()) != min_len or int(lengths.max()) > prompts.shape[1]:
        raise ValueError(
            f"seq_len: expected [{len(prompts)}] lengths from min_len = {min_len} to {prompts.shape[1]}, got "
            f"{lengths.tolist()}"
        )
    nucleus = top_p if temperature > 0 and top_p < 1 else None
    plain = Scoring(temperature, top_p=nucleus, law="proposal", mask_token="forbid", confidence_dtype="logits")
    blocks = _checks.integer("max_new_tokens", max_new_tokens, minimum=0) // block_size
    blocks += int(lengths.max()) // block_size
    rows = _Rows(self, prompts, lengths, blocks * block_size + 1, mask_id, stop_token, tokenizer.pad_token_id)
    seeds = rng.sequence_seeds(seed, len(prompts), device=prompts.device, draws=temperature > 0)
    first = min_len // block_size
    strict = "prompts_ending_with_a_block" in kept
    if min_len > block_size or (min_len == block_size and not strict):
        rows.close(0, first * block_size, block_size, at_end=True, ends="stop_as_next_token" not in kept)
    decode = _Decoder(rounded_as(plain), threshold, seeds, use_block_cache)
    for block in range(first, blocks):
        if not len(rows.index):
            break
        start, stop = block * block_size, (block + 1) * block_size
        for left in range(start, stop, small):
            decode.small_block(rows, start, stop, left, left + small)
        decode.block_past = None
        rows.leave(stop)
        if len(rows.index):
            at_end = not strict or stop >= prompts.shape[1]
            rows.close(start, stop, block_size, at_end=at_end, ends="stop_as_next_token" not in kept)
    return rows.all()


class _Rows:
    """The canvases of the rows that go on, and what the others have become."""

    def __init__(
        self, model: Any, prompts: Tensor, lengths: Tensor, width: int, mask_id: int, stop_id: int, pad_id: int
    ) -> None:
        self.model, self.lengths, self.mask_id, self.stop_id, self.pad_id = model, lengths, mask_id, stop_id, pad_id
        self.index = torch.arange(len(prompts), device=prompts.device)
        width = max(width, prompts.shape[1])
        column = torch.arange(width, device=prompts.device)
        self.tokens = torch.nn.functional.pad(prompts, (0, width - prompts.shape[1]))
        self.tokens = self.tokens.masked_fill(column >= lengths[:, None], mask_id)
        self.overlooked = torch.zeros_like(self.tokens, dtype=torch.bool)  # positions whose stop token ends nothing
        self.past: Any = None
        self.done: dict[int, Tensor] = {}
        self.end = width  # what of the canvas there is to return

    def ended(self) -> Tensor:
        """bool ``[b]``: rows with a stop token of their own that has no mask before it."""
        unmasked = self._generated(self.tokens == self.mask_id).cumsum(1) == 0
        return (self._stops() & unmasked & ~self.overlooked).any(1)

    def _stops(self) -> Tensor:
        return self._generated(self.tokens == self.stop_id)

    def _generated(self, where: Tensor) -> Tensor:
        return where & (torch.arange(where.shape[1], device=where.device) >= self.lengths[:, None])

    def leave(self, stop: int) -> None:
        """Take out the rows that have ended within the first ``stop`` columns, padded behind their stop token."""
        self.end = stop
        ended = self.ended()
        if not ended.any():
            return
        stops = self._stops()
        after = stops.cumsum(1) - stops.long() > 0
        width = stop if ended.all() else stop + 1
        padded = self.tokens[:, :width].masked_fill(after[:, :width], self.pad_id)
        for row in ended.nonzero().flatten().tolist():
            self.done[int(self.index[row])] = padded[row]
        self._keep((~ended).nonzero().flatten())

    def _keep(self, rows: Tensor) -> None:
        for name in ("index", "tokens", "lengths", "overlooked"):
            setattr(self, name, getattr(self, name)[rows])
        if self.past is None or not len(rows):
            return
        if not hasattr(self.past, "key_cache"):
            self.past = selected(self.past, rows.tolist())
            return
        for name in ("key_cache", "value_cache"):
            layers = getattr(self.past, name)
            layers[:] = [layer[rows] for layer in layers]

    def close(self, start: int, stop: int, block_size: int, *, at_end: bool, ends: bool) -> None:
        """Keep the keys and values of columns ``[start, stop)``, and begin the next block with the next token.

        ``at_end``: in rows too whose prompt ends there. ``ends``: a stop token there ends the row.
        """
        output = self.model.forward(
            input_ids=self.tokens[:, start:stop],
            use_cache=True,
            past_key_values=self.past,
            update_past_key_values=True,
            block_size=block_size,
        )
        self.past = output.past_key_values
        last = output.logits[:, -1].clone()
        last[:, self.mask_id] = -torch.inf
        token = last.argmax(-1)
        takes = self.lengths <= stop if at_end else self.lengths < stop
        self.tokens[:, stop] = torch.where(takes, token, self.tokens[:, stop])
        self.overlooked[:, stop] = takes & (not ends)
        self.leave(stop + 1)

    def all(self) -> dict[int, Tensor]:
        """Every row, those that were not ended as they are."""
        for row, index in enumerate(self.index.tolist()):
            self.done[index] = self.tokens[row, : self.end]
        return self.done


class _Decoder:
    """Fills small blocks."""

    def __init__(self, scoring: RoundedScoring, threshold: float, seeds: Tensor, cached: bool) -> None:
        self.scoring, self.threshold, self.seeds, self.cached = scoring, threshold, seeds, cached
        self.block_past: Any = None
        self.step = 0

    def small_block(self, rows: _Rows, start: int, stop: int, left: int, right: int) -> None:
        while True:
            here = rows.tokens[:, left:right]
            masked = (here == rows.mask_id) & ~rows.ended()[:, None]
            if not masked.any():
                return
            logits = self._logits(rows, start, stop, left, right, again=bool(masked[:, 0].any()))
            scores = self.scoring(
                logits,
                tokens=here,
                rows=masked,
                positions=torch.arange(left, right, device=here.device).expand_as(here),
                mask_id=rows.mask_id,
                want=["token", "confidence"],
                seed=self.seeds[rows.index],
                step=torch.full_like(rows.index, self.step),
                call=0,
            )
            token, confidence = scores["token"], scores["confidence"]
            self.step += 1
            chosen = above(confidence, self.threshold, masked) & (token >= 0)
            rows.tokens[:, left:right] = torch.where(chosen, token, here)
            if not chosen.any():
                raise ValueError("model: expected logits that admit a token besides the mask, got none")

    def _logits(self, rows: _Rows, start: int, stop: int, left: int, right: int, *, again: bool) -> Tensor:
        """Logits of the small block, each column's those at the column before."""
        options: dict[str, Any] = {"use_cache": True, "past_key_values": rows.past, "update_past_key_values": False}
        if self.cached and self.block_past is not None and not again:
            options |= {"block_past_key_values": self.block_past, "replace_position": left - start}
            logits = rows.model.forward(input_ids=rows.tokens[:, left:right], use_block_cache=True, **options).logits
            return torch.cat([logits[:, :1], logits[:, :-1]], 1)
        if self.cached:
            options["use_block_cache"] = True
        output = rows.model.forward(input_ids=rows.tokens[:, start:stop], **options)
        if self.cached:
            self.block_past = output.block_past_key_values
        logits = torch.cat([output.logits[:, :1], output.logits[:, :-1]], 1)
        return logits[:, left - start : right - start]


MODULES = ("generation_functions", "v2.generation_functions")
REPLACES = {"Fast_dLLM_QwenForCausalLM.batch_sample": batch_sample}
