"""Gen-Verse/MMaDA: ``mmu_generate``, ``mmu_generate_fast`` and ``t2i_generate`` of ``modeling_mmada.py``."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from itertools import accumulate
from operator import mul
from typing import Any

import torch
from torch import Tensor

from .. import _checks
from .._tables import device_table
from ..adapters import Guided
from ..model import Output, Request, read_output
from ..samplers import Blocks, FastDLLM, Noise, Pool, Sampler, Scoring, State, View
from ..samplers.engine import Stop
from . import _common as common
from ._rounded import HALF, guided

MODULES = ("models.modeling_mmada", "modeling_mmada")
QUIRKS = ("compounding_temperature",)


def mmu_generate(
    model: Any,
    idx: Tensor | None = None,
    input_embeddings: Tensor | None = None,
    max_new_tokens: int = 128,
    steps: int = 128,
    block_length: int = 128,
    temperature: float = 0.0,
    top_k: int | None = None,
    eot_token: int | None = None,
    cfg_scale: float = 0.0,
    remasking: str = "low_confidence",
    mask_id: int = 126336,
    attention_mask: Tensor | None = None,
    *,
    ties: str = "lowest",
    seed: int | Tensor | torch.Generator | None = None,
) -> Tensor:
    """MMaDA's text generation: LLaDA's blocks, confidences in full precision; int64 ``[B, P + max_new_tokens]``.

    Args:
        model: called as ``model(tokens, attention_bias=...)``; as a method, ``self``.
        input_embeddings, top_k, eot_token: not used, as in the original.
        attention_mask: 0/1 ``[B, P + max_new_tokens]``; who sees whom follows from it. With guidance too, where the
            original drops it.
        ties: how equal confidences are ordered, "lowest" index first or as "torch" does.
        seed: default drawn from torch's global generator if anything is random.
    """
    return _generate(
        model, idx, max_new_tokens, steps, block_length, temperature, cfg_scale, remasking, mask_id, attention_mask,
        ties, seed, None,
    )  # fmt: skip


def mmu_generate_fast(
    model: Any,
    idx: Tensor | None = None,
    input_embeddings: Tensor | None = None,
    max_new_tokens: int = 128,
    steps: int = 128,
    block_length: int = 128,
    temperature: float = 0.0,
    top_k: int | None = None,
    eot_token: int | None = None,
    cfg_scale: float = 0.0,
    remasking: str = "low_confidence",
    mask_id: int = 126336,
    attention_mask: Tensor | None = None,
    *,
    ties: str = "lowest",
    seed: int | Tensor | torch.Generator | None = None,
) -> Tensor:
    """:func:`mmu_generate`, ending after a block whose last token is ``eot_token`` in every row; masks follow."""
    return _generate(
        model, idx, max_new_tokens, steps, block_length, temperature, cfg_scale, remasking, mask_id, attention_mask,
        ties, seed, eot_token,
    )  # fmt: skip


def _generate(
    model: Any,
    idx: Tensor | None,
    max_new_tokens: int,
    steps: int,
    block_length: int,
    temperature: float,
    cfg_scale: float,
    remasking: str,
    mask_id: int,
    attention_mask: Tensor | None,
    ties: str,
    seed: int | Tensor | torch.Generator | None,
    eot_token: int | None,
) -> Tensor:
    if idx is None:
        raise ValueError("idx: expected token ids [B, P], got None")
    idx, mask_id = common.token_ids("idx", idx), _checks.token_id("mask_id", mask_id)
    max_new_tokens, steps, block_length = common.lengths(
        max_new_tokens=max_new_tokens, steps=steps, block_length=block_length
    )
    blocks = common.check_divides("max_new_tokens", max_new_tokens, "block_length", block_length)
    common.check_divides("steps", steps, "the number of blocks", blocks)
    bias, cfg_scale = None, _checks.number("cfg_scale", cfg_scale)
    if attention_mask is not None:
        width = idx.shape[1] + max_new_tokens
        got = getattr(attention_mask, "shape", type(attention_mask).__name__)
        if got != (len(idx), width):
            raise ValueError(f"attention_mask: expected [{len(idx)}, {width}], got {got}")
    if attention_mask is not None and bool((attention_mask == 0).any()):
        bias = _bias(attention_mask)
    preset = FastDLLM(steps=steps, remasking=remasking, temperature=temperature, ties=common.check_ties(ties))
    called = _Biased(model)
    sampler = replace(preset.parts(), window=Blocks(block_length, by="column", together=True))
    result = sampler(
        Guided(called, cfg_scale) if cfg_scale > 0 else called,
        common.append_masks(idx, max_new_tokens, mask_id),
        mask_id=mask_id,
        origin=idx.shape[1],
        condition=bias,
        stop=_ended(idx.shape[1], block_length, mask_id, eot_token) if eot_token is not None else None,
        seed=seed,
        history=False,
    )
    return common.completed(result).tokens


class _Biased:
    """The model with who sees whom as ``attention_bias``."""

    def __init__(self, model: Any) -> None:
        self.model, self.__name__ = model, type(model).__name__

    def __call__(self, tokens: Tensor, request: Request) -> Output:
        return read_output(self.model(tokens, attention_bias=request.condition), self.model)


def _ended(start: int, block_length: int, mask_id: int, eot_token: int) -> Stop:
    def stop(tokens: Tensor, fixed: Tensor) -> Tensor:
        blocks = tokens[:, start:].unflatten(1, (-1, block_length))
        ended = (blocks[..., -1] == eot_token).all(0) & (blocks != mask_id).all(-1).all(0)
        return ended.any().expand(len(tokens))

    return stop


def _bias(attention_mask: Tensor) -> Tensor:
    """Who sees whom, bool ``[B, 1, L, L]``."""
    real = attention_mask.bool()
    return (real[:, :, None] & real[:, None, :])[:, None]


def cosine_schedule(ratio: Tensor) -> Tensor:
    """The share of image tokens that are masked when ``ratio`` of the steps are done."""
    return torch.cos(ratio * math.pi * 0.5)


@torch.no_grad()
def t2i_generate(
    self: Any,
    input_ids: Tensor | None = None,
    uncond_input_ids: Tensor | None = None,
    attention_mask: Tensor | None = None,
    uncond_attention_mask: Tensor | None = None,
    temperature: float = 1.0,
    timesteps: int = 18,
    guidance_scale: float = 0,
    noise_schedule: Callable[[Tensor], Tensor] = cosine_schedule,
    generator: torch.Generator | None = None,
    config: Any = None,
    seq_len: int = 1024,
    mask_token_id: int = 126336,
    resolution: int = 512,
    codebook_size: int = 8192,
    *,
    quirks: str | Collection[str] = (),
    **kwargs: Any,
) -> Tensor:
    """MMaDA's images from text: MaskGIT's schedule over the ``seq_len`` ids before the last; int64 ``[B, seq_len]``.

    ``input_ids`` is filled in place with what is returned, as ids of the whole vocabulary; the original leaves one mask
    in it. Draws are exact, and confidences float32.

    Args:
        input_ids: int64 ``[B, L]``; image tokens that are not masks stay.
        uncond_input_ids: its first ``resolution + 1`` columns stand before the image in the unconditional half.
        temperature: of the Gumbel noise on the order, times the share of steps left.
        noise_schedule: float32 share of steps done to share of masks.
        quirks: "compounding_temperature" keeps a defect: the temperature is multiplied by the share of steps left in
            every step anew.
        kwargs: ``uni_prompting``, whose ``text_tokenizer`` has as many ids as stand before the codebook's.

    Raises:
        ValueError: no ``input_ids``, another quirk.
    """
    if input_ids is None:
        raise ValueError("input_ids: expected token ids [B, L], got None")
    kept = common.check_quirks(quirks, QUIRKS)
    offset, image = len(kwargs["uni_prompting"].text_tokenizer), slice(-(seq_len + 1), -1)
    shares = torch.tensor([(step + 1) / timesteps for step in range(timesteps)], dtype=torch.float32, device="cpu")
    counts = tuple(int((seq_len * noise_schedule(share)).floor()) for share in shares)
    left = [1 - (step + 1) / timesteps for step in range(timesteps)]
    scales = [temperature * each for each in (accumulate(left, mul) if kept else left)]
    canvas = {"ids": input_ids, "mask": attention_mask}
    if uncond_input_ids is not None and guidance_scale > 0:
        canvas |= {"blind": uncond_input_ids[:, : resolution + 1], "blind_mask": uncond_attention_mask}
    given = input_ids[:, image]
    result = Sampler(
        name="t2i_generate",
        steps=timesteps,
        plan=Pool(_Left(counts), committed="stays", noise=Noise(tuple(scales), annealed=False)),
        scoring=Scoring(temperature=1.0),
    )(
        _Image(self, image, offset, mask_token_id, codebook_size, guidance_scale),
        torch.where(given == mask_token_id, 0, given - offset + 1),
        mask_id=0,
        condition=canvas,
        seed=generator,
        history=False,
    )
    codes = result.tokens - 1
    input_ids[:, image] = torch.where(codes < 0, mask_token_id, codes + offset)
    common.completed(result)
    return codes


@dataclass(frozen=True)
class _Left:
    """So many masks are left after each step, one at least and one fewer than before; none after the last."""

    counts: tuple[int, ...]

    def __call__(self, state: State, view: View) -> Tensor:
        table = device_table(self.counts, torch.int64, view.step.device)[view.step.clamp(max=len(self.counts) - 1)]
        now = ((state.tokens == view.mask_id) & view.eligible).sum(1)
        left = torch.minimum(torch.minimum(table, now - 1).clamp(min=1), now)
        return view.eligible.sum(1) - torch.where(view.step + 1 >= view.steps, 0, left)


class _Image:
    """The model on canvases whose image part is in codes, 0 the mask and code c as c + 1, and its logits of these.

    The mask's logits are those of the id before the codebook's, which no canvas holds there: a view, not a copy.
    """

    def __init__(self, model: Any, image: slice, offset: int, mask_id: int, size: int, scale: float) -> None:
        self.model, self.image, self.offset, self.mask_id = model, image, offset, mask_id
        self.size, self.scale, self.__name__ = size, scale, type(model).__name__

    def __call__(self, tokens: Tensor, request: Request) -> Output:
        canvas = request.condition
        ids = canvas["ids"].clone()
        ids[:, self.image] = torch.where(tokens == 0, self.mask_id, tokens - 1 + self.offset)
        if "blind" not in canvas:
            bias = None if canvas["mask"] is None else _bias(canvas["mask"])
            return Output(logits=self._codes(self.model(ids, attention_bias=bias).logits))
        blind = torch.cat([canvas["blind"], ids[:, canvas["blind"].shape[1] :]], 1)
        masks = [canvas["mask"], canvas["blind_mask"]]
        bias = None if masks[0] is None or masks[1] is None else _bias(torch.cat(masks))
        seen, unseen = self._codes(self.model(torch.cat([ids, blind]), attention_bias=bias).logits).chunk(2)
        if seen.dtype in HALF:
            return Output(logits=guided(seen, unseen, self.scale), forwards=2)
        return Output(logits=seen, uncond_logits=unseen, guidance=self.scale, forwards=2)

    def _codes(self, logits: Tensor) -> Tensor:
        return logits[:, self.image, self.offset - 1 : self.offset + self.size]


REPLACES = {
    "MMadaModelLM.mmu_generate": mmu_generate,
    "MMadaModelLM.mmu_generate_fast": mmu_generate_fast,
    "MMadaModelLM.t2i_generate": t2i_generate,
}
