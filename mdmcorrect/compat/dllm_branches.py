"""ZHZisZZ/dllm, two pipelines beside its main ones: Nemotron-Labs' block decoder, and DiffusionGemma's step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import _checks, ops, rng
from . import _common as common
from ._dllm_settings import SamplerConfig
from ._steps import entropies, propose
from .diffusion_gemma import StableAndConfidentStoppingCriteria
from .dllm import BaseSampler
from .fast_dllm import _select
from .llada import get_num_transfer_tokens

__all__ = ["NemotronDiffusionSampler", "NemotronDiffusionSamplerConfig", "NemotronOutput", "denoising_step"]

MODULES = ("dllm.pipelines.nemotron_diffusion.sampler", "dllm.pipelines.diffusiongemma.sampler")


@dataclass
class NemotronOutput:
    """``sequences`` int64 ``[B, L]``; ``nfe``, forwards after the prompt's."""

    sequences: Tensor
    histories: None = None
    nfe: int | None = None


@dataclass(kw_only=True)
class NemotronDiffusionSamplerConfig(SamplerConfig):
    """Settings of :class:`NemotronDiffusionSampler`, by the names of the original."""

    max_new_tokens: int = 8192
    block_length: int = 8
    threshold: float | None = 0.9
    temperature: float = 0.0
    eos_token_id: int | None = None
    max_thinking_tokens: int | None = 6000


class NemotronDiffusionSampler(BaseSampler):
    """Blocks on an autoregressive model's cache, each begun by the model's next token (Nemotron-Labs Diffusion).

    A step commits the proposals that reach ``threshold``, the best in any case, or without one an even share. A filled
    block goes through the model once more, causally, for its keys and values. With ``max_thinking_tokens`` the token
    "</think>" is put where a row has been thinking for so long. A run ends with the block after which every row holds
    an end of sequence, and with the last of these ends.

    Its quirk "unfinished_blocks": once a row has its end with no mask before it, the block is left as it is in all
    rows, and rows go on after their ends. Here a row leaves a block by itself, and is padded by its end.
    """

    config_class = NemotronDiffusionSamplerConfig
    known_quirks = ("unfinished_blocks",)

    @torch.no_grad()
    def sample(
        self,
        inputs: Sequence[Any] | Tensor,
        config: NemotronDiffusionSamplerConfig | None = None,
        **kwargs: Any,
    ) -> NemotronOutput | Tensor:
        """Generate after prompts of one length: int64 ``[B, L]``, or with ``return_dict`` a :class:`NemotronOutput`.

        Args:
            inputs: int64 ``[B, P]`` or ``[P]``; the model gives ``logits`` and ``past_key_values`` for
                ``(tokens, past_key_values=, use_cache=, use_causal_mask=)``, and has ``mask_token_id`` and layers
                ``encoder.layers`` whose ``self_attn.diffusion_lm`` says whether a block sees itself whole.

        Raises:
            ValueError: no prompt, lengths that do not divide, a tokenizer without "</think>".
        """
        settings = self._settings(config, kwargs)
        tokens = torch.as_tensor(inputs, device=self._device())
        prompt = common.token_ids("inputs", tokens[None] if tokens.ndim == 1 else tokens)
        if not prompt.numel():
            raise ValueError(f"inputs: expected at least one token of a prompt, got {list(prompt.shape)}")
        length, block = common.lengths(max_new_tokens=settings.max_new_tokens, block_length=settings.block_length)
        blocks = common.check_divides("max_new_tokens", length, "block_length", block)
        eos = settings.eos_token_id
        if eos is None:
            eos = getattr(getattr(self.model, "config", None), "eos_token_id", None)
        run = _Run(self.model, settings, -1 if eos is None else eos, self._think_id(settings), prompt)
        for number in range(blocks):
            if run.block(number):
                break
        return NemotronOutput(run.tokens, nfe=run.nfe) if settings.return_dict else run.tokens

    def _think_id(self, settings: NemotronDiffusionSamplerConfig) -> int | None:
        if settings.max_thinking_tokens is None:
            return None
        token = self.tokenizer.convert_tokens_to_ids("</think>")
        if token is None or token == getattr(self.tokenizer, "unk_token_id", None):
            raise ValueError("max_thinking_tokens: expected a tokenizer that knows '</think>', or None")
        return int(token)


class _Run:
    """The canvas of one run, and the model's cache of what precedes its block."""

    def __init__(
        self, model: Any, settings: NemotronDiffusionSamplerConfig, eos: int, think: int | None, prompt: Tensor
    ) -> None:
        self.model, self.settings, self.eos, self.think = model, settings, eos, think
        self.tokens, self.start, self.nfe, self.step = prompt, prompt.shape[1], 0, 0
        self.mask_id, self.whole = model.mask_token_id, "unfinished_blocks" in settings.quirks
        self.seeds = rng.sequence_seeds(
            settings.seed, len(prompt), device=prompt.device, draws=settings.temperature > 0
        )
        self.past: Any = None
        self.next = self._keep(prompt)

    def block(self, number: int) -> bool:
        """Decode one block; whether the run has ended."""
        length, first = self.settings.block_length, self.tokens.shape[1]
        fresh = self.next.new_full((len(self.next), length), self.mask_id)
        fresh[:, 0] = self.next
        before, self.tokens = self.tokens, torch.cat([self.tokens, fresh], 1)
        if self.think is not None and self.settings.max_thinking_tokens is not None:
            over = (number + 1) * length - self.settings.max_thinking_tokens
            if over > 0:
                late = ~(before[:, self.start :] == self.think).any(1)
                place = first + max(0, length - over)
                self.tokens[:, place] = torch.where(late, self.think, self.tokens[:, place])
        masked = self.tokens[:, first:] == self.mask_id
        counts = get_num_transfer_tokens(masked, length)
        for step in range(length):
            masked = self.tokens[:, first:] == self.mask_id
            if not self.whole:
                masked &= ~self._ended(self.start)[:, None]
            if not masked.any():
                break
            self._fill(first, masked, counts[:, step])
            if self.whole and self._ended(first).any():
                break
        if not self.whole:
            ends = (self.tokens == self.eos) & self._generated()
            after = ends.long().cumsum(1) - ends.long() > 0
            self.tokens = torch.where(after, self.eos, self.tokens)
        self.next = self._keep(self.tokens[:, first:])
        self.nfe += 1
        ends = (self.tokens == self.eos) & self._generated()
        if self.eos < 0 or not ends.any(1).all():
            return False
        self.tokens = self.tokens[:, : int(ends.long().argmax(1).max()) + 1]
        return True

    def _generated(self) -> Tensor:
        return torch.arange(self.tokens.shape[1], device=self.tokens.device) >= self.start

    def _ended(self, first: int) -> Tensor:
        """bool ``[B]``: rows with an end of sequence from column ``first`` on that has no mask before it there."""
        part = self.tokens[:, first:]
        return ((part == self.eos) & ((part == self.mask_id).cumsum(1) == 0)).any(1)

    def _fill(self, first: int, masked: Tensor, count: Tensor) -> None:
        here = self.tokens[:, first:]
        logits = self.model(here, past_key_values=self.past, use_cache=False).logits
        self.nfe += 1
        self.step += 1
        scores = propose(
            logits,
            masked,
            mask_id=self.mask_id,
            temperature=self.settings.temperature,
            confidence_dtype=logits.dtype,
            seed=self.seeds,
            step=self.step,
        )
        assert scores.token is not None
        assert scores.confidence is not None
        if self.settings.threshold is not None:
            count = ops.count_positions(
                scores.confidence, "threshold", self.settings.threshold, eligible=masked, at_least=1
            )
        chosen = _select(scores.confidence, count, masked, self.settings.ties) & (scores.token >= 0)
        self.tokens = torch.cat([self.tokens[:, :first], torch.where(chosen, scores.token, here)], 1)

    def _keep(self, tokens: Tensor) -> Tensor:
        """Have the model keep these tokens; its next one, int64 ``[B]``."""
        self._see_whole(False)
        given = {} if self.past is None else {"past_key_values": self.past}
        output = self.model(tokens, use_cache=True, use_causal_mask=True, **given)
        self._see_whole(True)
        self.past = output.past_key_values
        last = output.logits[:, -1:]
        everywhere = torch.ones_like(tokens[:, :1], dtype=torch.bool)
        self.step += 1
        temperature = self.settings.temperature
        scores = propose(
            last, everywhere, mask_id=self.mask_id, temperature=temperature, seed=self.seeds, step=self.step
        )
        assert scores.token is not None
        return scores.token[:, 0]

    def _see_whole(self, value: bool) -> None:
        for layer in getattr(getattr(self.model, "encoder", None), "layers", ()):
            if hasattr(layer.self_attn, "diffusion_lm"):
                layer.self_attn.diffusion_lm = value


def denoising_step(
    self: Any,
    current_canvas: Tensor,
    argmax_canvas: Tensor,
    input_ids: Tensor,
    decoder_position_ids: Tensor,
    self_conditioning_logits: Tensor | None,
    mask_mapping: Any,
    past_key_values: Any,
    finished_denoising: Tensor,
    cur_step: int,
    vocab_size: int,
    entropy_bound: float,
    min_temperature: float | None,
    max_temperature: float | None,
    max_denoising_steps: int,
    stability_threshold: int | None,
    confidence_threshold: float | None,
    argmax_canvas_history: Tensor | None,
    **model_kwargs: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    """For ``DiffusionGemmaSampler._denoising_step``: canvas, argmax, logits, who has ended, argmaxes before.

    Draws and argmax are one read of the logits and entropies another, where the original makes a softmax and two
    distributions; see :mod:`mdmcorrect.compat.diffusion_gemma`. Tokens are exact draws, random ones come from torch's
    stream.
    """
    logits = self.model.forward(
        decoder_input_ids=current_canvas,
        self_conditioning_logits=self_conditioning_logits,
        decoder_attention_mask=mask_mapping,
        past_key_values=past_key_values,
        decoder_position_ids=decoder_position_ids,
        **model_kwargs,
    ).logits
    if min_temperature is not None and max_temperature is not None:
        logits = logits / (min_temperature + (max_temperature - min_temperature) * cur_step / max_denoising_steps)
    scores = ops.score_tokens(logits, temperature=1.0, want=["token", "argmax"], seed=None)
    assert scores.token is not None
    assert scores.argmax is not None
    entropy = entropies(logits)
    ranked, order = entropy.sort(dim=-1)
    within = ranked.cumsum(-1) - ranked <= _checks.weight("entropy_bound", entropy_bound)
    accepted = torch.zeros_like(within).scatter(-1, order, within)
    noise = torch.randint(0, vocab_size, current_canvas.shape, device=current_canvas.device)
    canvas, argmax = torch.where(accepted, scores.token, noise), scores.argmax
    if stability_threshold is not None and confidence_threshold is not None:
        over = finished_denoising[:, None]
        argmax, canvas = torch.where(over, argmax_canvas, argmax), torch.where(over, current_canvas, canvas)
        if self_conditioning_logits is not None:
            logits = torch.where(over[..., None], self_conditioning_logits.to(logits.dtype), logits)
        stop = StableAndConfidentStoppingCriteria(stability_threshold, confidence_threshold)
        stop.argmax_canvas_history = argmax_canvas_history
        finished_denoising = finished_denoising | stop(argmax, logits)
        argmax_canvas_history = stop.argmax_canvas_history
    kept = logits.to(self.model.model.decoder.embed_tokens.weight.dtype)
    return canvas, argmax, kept, finished_denoising, argmax_canvas_history


REPLACES = {
    "NemotronDiffusionSampler": NemotronDiffusionSampler,
    "DiffusionGemmaSampler._denoising_step": denoising_step,
}
