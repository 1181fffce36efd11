"""ZHZisZZ/dllm: ``dllm.core.samplers`` (MDLM, BD3LM) and ``dllm.pipelines`` (LLaDA2, LLaDA2.1)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import _checks
from ..adapters import Guided, RightShifted
from ..canvas import token_rows
from ..samplers import (
    Blocks,
    LLaDA2,
    LLaDA21,
    RoundedGrid,
    Sampler,
    SampleResult,
    Unmask,
    UnmaskThenRemask,
)
from ..samplers.counts import commit_shares, linear_stays
from ..samplers.presets.llada import commit_order, llada_scoring
from . import _common as common
from ._dllm_models import BlockCausal, Masked, PaddingKept, Staircase
from ._dllm_settings import (
    BD3LMSamplerConfig,
    LLaDA2SamplerConfig,
    LLaDA21SamplerConfig,
    MDLMSamplerConfig,
    SamplerConfig,
    SamplerOutput,
)
from ._dllm_windows import EndedAfter, LeftAtEnd, until_end
from ._rounded import rounded_as

_COUNT = _checks.at_least(1)
_RULES = {
    "max_new_tokens": _checks.at_least(0),
    "max_length": _checks.at_least(0),
    "block_size": _COUNT,
    "steps": _COUNT,
    "steps_per_block": _COUNT,
    "cfg_scale": _checks.number,
    "suppress_tokens": _checks.token_ids,
    "begin_suppress_tokens": _checks.token_ids,
}
MODULES = ("dllm.core.samplers", "dllm.pipelines.llada2.sampler", "dllm.pipelines.llada21.sampler")


def get_num_transfer_tokens(mask_index: Tensor, steps: int, scheduler: Any = None, stochastic: bool = False) -> Tensor:
    """How many masks of each row every step commits, int64 ``[B, S']``; steps in which no row commits any are left out.

    Args:
        mask_index: bool ``[B, L]``.
        steps: S.
        scheduler: has ``reverse_mask_prob(s, t)``, the share of masks at t that remain at s; default linear.
        stochastic: binomial draws from torch's generator.
    """
    left = mask_index.sum(1)
    columns = []
    for share in commit_shares(steps, _stays(scheduler)):
        expected = left.double()
        drawn = torch.binomial(expected, torch.full_like(expected, share)) if stochastic else expected * share
        columns.append(torch.round(drawn).long().minimum(left))
        left = left - columns[-1]
    counts = torch.stack(columns, 1)
    counts = counts.gather(1, (counts == 0).long().argsort(dim=1, stable=True))
    return counts[:, : int((counts > 0).sum(1).max()) if len(counts) else 0]


@dataclass
class BaseSampler:
    """A model with its tokenizer (``mask_token_id``, ``eos_token_id``, ``bos_token_id``, ``pad_token_id``)."""

    model: Any
    tokenizer: Any
    scheduler: Any = None

    config_class: ClassVar[type[SamplerConfig]]
    known_quirks: ClassVar[tuple[str, ...]] = ("unfilled_masks",)

    def _settings(self, config: SamplerConfig | None, settings: dict[str, Any]) -> Any:
        """The configuration, given or default, with ``settings`` over it; settings of others are passed over."""
        names = {field.name for field in fields(self.config_class)}
        given = {} if config is None else {n: getattr(config, n) for n in names if hasattr(config, n)}
        chosen = self.config_class(**{**given, **{n: value for n, value in settings.items() if n in names}})
        for name, rule in _RULES.items():
            if getattr(chosen, name, None) is not None:
                rule(name, getattr(chosen, name))
        return replace(chosen, quirks=common.check_quirks(chosen.quirks, self.known_quirks))

    def _device(self) -> torch.device:
        return torch.device(getattr(self.model, "device", "cpu"))

    def _prompts(self, inputs: Sequence[Any], *, right_shift: bool = False) -> list[Tensor]:
        """The inputs as tensors; where logits are shifted, an empty one becomes a beginning of sequence."""
        if len(inputs) == 0:
            raise ValueError("inputs: expected at least one prompt, got none")
        rows = [row.to(self._device()) for row in token_rows("inputs", inputs)]
        return [row.new_tensor([self.tokenizer.bos_token_id]) if right_shift and not len(row) else row for row in rows]

    def _output(self, result: SampleResult, start: Tensor, config: SamplerConfig) -> Any:
        common.completed(result)
        if not config.return_dict:
            return result.tokens
        histories, spent = [start], torch.zeros_like(result.nfe)
        for event in result.history or ():
            if bool((event.nfe > spent).any()):  # the original has no step that makes no forward
                histories.append(event.tokens)
            spent = event.nfe
        return SamplerOutput(result.tokens, histories, result.nfe.tolist())


class MDLMSampler(BaseSampler):
    """LLaDA's decoding of ragged prompts, aligned on the left and padded with the end of sequence.

    Its quirk "unfilled_masks": a mask that the model predicts uses up its place in the schedule, masks of a prompt
    compete with the first block's, and what is left over stays masked.
    """

    config_class = MDLMSamplerConfig

    def sample(self, inputs: Sequence[Any], config: MDLMSamplerConfig | None = None, **kwargs: Any) -> Any:
        """Generate after each prompt: int64 ``[B, L]``, or a :class:`SamplerOutput`.

        Masks in a prompt are filled with its first block.
        """
        settings = self._settings(config, kwargs)
        prompts = self._prompts(inputs, right_shift=settings.right_shift_logits)
        lengths = [len(row) for row in prompts]
        new = settings.max_new_tokens or settings.max_length - max(lengths)
        mask_id = self.tokenizer.mask_token_id
        rows = [F.pad(row, (0, new), value=mask_id) for row in prompts]
        blocks = math.ceil(new / settings.block_size)
        return self._fill(
            rows, torch.tensor(lengths, dtype=torch.int64, device="cpu"), blocks, settings, behind="always"
        )

    def infill(self, inputs: Sequence[Any], config: MDLMSamplerConfig | None = None, **kwargs: Any) -> Any:
        """Fill the masks of each input; blocks are cut from column 0 on."""
        settings = self._settings(config, kwargs)
        rows = self._prompts(inputs, right_shift=settings.right_shift_logits)
        width = max(len(row) for row in rows)
        settings = replace(settings, block_size=settings.block_size or width)
        return self._fill(
            rows,
            torch.zeros(len(rows), dtype=torch.int64, device="cpu"),
            math.ceil(width / settings.block_size),
            settings,
        )

    def _fill(
        self,
        rows: list[Tensor],
        origin: Tensor,
        blocks: int,
        settings: MDLMSamplerConfig,
        behind: str | None = None,
    ) -> Any:
        tokens, real = _padded(rows, self.tokenizer.eos_token_id)
        assert settings.block_size is not None
        sampler = _sampler(settings, math.ceil(settings.steps / max(blocks, 1)), self.scheduler, behind)
        model: Any = Masked(self.model)
        if settings.cfg_scale > 0:
            model = PaddingKept(Guided(model, settings.cfg_scale, keep=settings.cfg_keep_tokens or ()))
        if settings.right_shift_logits:
            model = RightShifted(model)
        result = sampler(
            model,
            tokens,
            mask_id=self.tokenizer.mask_token_id,
            attention_mask=real,
            origin=origin.to(tokens.device),
            seed=settings.seed,
            history=settings.return_dict,
        )
        return self._output(result, tokens, settings)


class BD3LMSampler(BaseSampler):
    """Block diffusion: prompts aligned on the right, a cache of all earlier blocks, and an end per row.

    Masks of a prompt stay, as there. Its quirk "unfilled_masks": so do those that the model predicts.
    """

    config_class = BD3LMSamplerConfig

    def sample(self, inputs: Sequence[Any], config: BD3LMSamplerConfig | None = None, **kwargs: Any) -> Any:
        """Generate after each prompt: int64 ``[B, L]``, or a :class:`SamplerOutput`.

        Ends after a block when every row has an end of sequence; columns after it are left out.
        """
        settings = self._settings(config, kwargs)
        prompts = self._prompts(inputs, right_shift=settings.right_shift_logits)
        size, longest = settings.block_size, max(len(row) for row in prompts)
        new = settings.max_new_tokens or settings.max_length - longest
        start = math.ceil(longest / size) * size
        pad_id, mask_id = self.tokenizer.pad_token_id, self.tokenizer.mask_token_id
        prompt = torch.stack([F.pad(row, (start - len(row), 0), value=pad_id) for row in prompts])
        tokens = F.pad(prompt, (0, new), value=mask_id)
        steps = settings.steps_per_block or math.ceil(settings.steps / math.ceil(new / size))
        model = Staircase(
            self.model,
            size,
            pad_id,
            guidance=settings.cfg_scale,
            keep=tuple(settings.cfg_keep_tokens or ()),
            right_shift=settings.right_shift_logits,
        )
        sampler = _sampler(settings, steps, self.scheduler)
        window = until_end(sampler.window, self.tokenizer.eos_token_id, start, EndedAfter)
        result = replace(sampler, window=window)(
            model,
            tokens,
            mask_id=mask_id,
            fixed=(tokens != mask_id) | (torch.arange(tokens.shape[1], device=tokens.device) < start),
            origin=start,
            seed=settings.seed,
            history=settings.return_dict,
        )
        blocks = int(result.state.window.max())  # what was never entered the original never appended
        output = self._output(replace(result, tokens=result.tokens[:, : start + blocks * size]), prompt, settings)
        if settings.return_dict:  # nor had it appended, when it kept these, the blocks after the one it was in
            kept = zip(output.histories[1:], model.stops, strict=True)
            output.histories[1:] = [canvas[:, :stop] for canvas, stop in kept]
        return output


class LLaDA2Sampler(BaseSampler):
    """LLaDA2.0's decoding: blocks of columns, each seeing those before it.

    Its quirks: "unfilled_masks" leaves masks where the model predicts them, and where ``max_new_tokens`` is smaller
    than ``minimal_topk``, which gives a block no step. "unfinished_blocks": with ``eos_early_stop`` a block is left as
    it is once it holds an end of sequence, in the prompt or in any row, and the next one is begun. "rounded_nucleus":
    top_p sums probabilities in the logits' dtype, so that in bfloat16 it keeps other tokens.
    """

    config_class = LLaDA2SamplerConfig
    known_quirks = ("unfilled_masks", "unfinished_blocks", "rounded_nucleus")

    def sample(self, inputs: Sequence[Any], config: LLaDA2SamplerConfig | None = None, **kwargs: Any) -> Any:
        """Generate after prompts of one length: int64 ``[B, L]``, whole blocks, or a :class:`SamplerOutput`."""
        settings = self._settings(config, kwargs)
        steps = settings.steps_per_block
        filtered = settings.temperature > 0  # the original filters draws only
        if settings.minimal_topk > 0:
            steps = min(steps, settings.max_new_tokens // settings.minimal_topk)
        preset = LLaDA2(
            steps=max(steps, 1),
            block_length=settings.block_size,
            threshold=settings.threshold,
            temperature=settings.temperature,
            top_k=settings.top_k or None if filtered else None,
            top_p=settings.top_p or None if filtered else None,
            ties=_block_ties(settings.ties),
        )
        return _by_blocks(self, preset.parts(), inputs, settings.max_new_tokens, settings, idle=steps < 1)


class LLaDA21Sampler(BaseSampler):
    """LLaDA2.1's decoding, which edits the tokens of a block while it fills it and after; batches too.

    Its quirk is LLaDA2's "rounded_nucleus".
    """

    config_class = LLaDA21SamplerConfig
    known_quirks = ("rounded_nucleus",)

    def sample(self, inputs: Sequence[Any], config: LLaDA21SamplerConfig | None = None, **kwargs: Any) -> Any:
        """Generate after prompts of one length: int64 ``[B, L]``, whole blocks, or a :class:`SamplerOutput`."""
        settings = self._settings(config, kwargs)
        filtered = settings.temperature > 0  # the original filters draws only
        preset = LLaDA21(
            block_length=settings.block_size,
            threshold=settings.threshold,
            editing_threshold=settings.editing_threshold,
            at_least=settings.num_to_transfer,
            post_steps=settings.max_post_steps,
            temperature=settings.temperature,
            top_k=settings.top_k or None if filtered else None,
            top_p=settings.top_p or None if filtered else None,
            ties=_block_ties(settings.ties),
        )
        new = settings.max_new_tokens or settings.max_length - len(inputs[0])
        return _by_blocks(self, preset.parts(), inputs, new, settings)


def _by_blocks(
    owner: BaseSampler, sampler: Sampler, inputs: Sequence[Any], new: int, settings: Any, *, idle: bool = False
) -> Any:
    """LLaDA2.x: a canvas of whole blocks from column 0 on, entered by all rows together; ``idle`` means no steps."""
    prompts = owner._prompts(inputs)
    if len({len(row) for row in prompts}) != 1:
        raise ValueError(f"inputs: expected prompts of one length, got lengths {[len(row) for row in prompts]}")
    prompt, size, mask_id = torch.stack(prompts), settings.block_size, owner.tokenizer.mask_token_id
    given = prompt.shape[1]
    width = math.ceil((given + new) / size) * size
    tokens = F.pad(prompt, (0, width - given), value=mask_id)
    window = replace(sampler.window, together=True)
    unfilled, unfinished = (name in settings.quirks for name in ("unfilled_masks", "unfinished_blocks"))
    if unfilled:
        sampler = _with_unfilled_masks(sampler)
    if settings.eos_early_stop:
        rule = LeftAtEnd if unfinished else EndedAfter
        window = until_end(window, owner.tokenizer.eos_token_id, given, rule)
        sampler = replace(sampler, finish=sampler.finish and not unfinished)
    scoring = rounded_as(sampler.scoring, rounded_nucleus="rounded_nucleus" in settings.quirks)
    result = replace(sampler, scoring=scoring, window=window)(
        BlockCausal(owner.model, size),
        tokens,
        mask_id=mask_id,
        fixed=torch.ones_like(tokens, dtype=torch.bool) if idle and unfilled else None,
        origin=given // size * size,
        seed=settings.seed,
        history=settings.return_dict,
    )
    return owner._output(result, tokens, settings)


def _block_ties(ties: str) -> str:
    """The original asks ``torch.topk`` about the block alone."""
    return "torch_block" if common.check_ties(ties) == "torch" else ties


def _sampler(
    settings: MDLMSamplerConfig | BD3LMSamplerConfig, steps: int, scheduler: Any, behind: str | None = None
) -> Sampler:
    if settings.block_size is None or settings.block_size < 1 or settings.steps < 1:
        raise ValueError(f"block_size, steps: expected at least 1, got {settings.block_size} and {settings.steps}")
    count = RoundedGrid(steps, settings.stochastic_transfer, _stays(scheduler))
    whole = isinstance(settings, MDLMSamplerConfig)  # ranks whole rows
    ties = common.check_ties(settings.ties) if whole else _block_ties(settings.ties)
    window = Blocks(settings.block_size, steps=steps, by="column", together=True)
    sampler = Sampler(
        name=type(settings).__name__.removesuffix("Config"),
        steps=steps,
        unmask=Unmask(commit_order(settings.remasking), count, ties=ties),
        window=window,
        scoring=llada_scoring(
            settings.temperature,
            suppress=tuple(getattr(settings, "suppress_tokens", None) or ()),
            confidence_forbid=tuple(getattr(settings, "begin_suppress_tokens", None) or ()),
        ),
    )
    if "unfilled_masks" not in settings.quirks:
        return sampler
    return replace(_with_unfilled_masks(sampler), window=replace(window, behind=behind))


def _with_unfilled_masks(sampler: Sampler) -> Sampler:
    """The sampler that spends its quota on masks the model predicts, and leaves them."""
    assert isinstance(sampler.plan, UnmaskThenRemask)
    return replace(
        sampler,
        plan=replace(sampler.plan, unmask=replace(sampler.plan.unmask, spend_on_masks=True)),
        scoring=replace(sampler.scoring, mask_token="propose"),
        finish=False,
    )


def _stays(scheduler: Any) -> Callable[[float, float], float]:
    if scheduler is None:
        return linear_stays
    return lambda s, t: float(scheduler.reverse_mask_prob(s=s, t=t))


def _padded(rows: list[Tensor], pad_id: int) -> tuple[Tensor, Tensor]:
    """Rows of different lengths as ``[B, L]``, padded on the right, and what of it is real."""
    width = max(len(row) for row in rows)
    tokens = torch.stack([F.pad(row, (0, width - len(row)), value=pad_id) for row in rows])
    lengths = torch.tensor([len(row) for row in rows], dtype=torch.int64, device=tokens.device)
    return tokens, torch.arange(width, device=tokens.device) < lengths[:, None]


REPLACES = {
    "MDLMSampler": MDLMSampler,
    "BD3LMSampler": BD3LMSampler,
    "LLaDA2Sampler": LLaDA2Sampler,
    "LLaDA21Sampler": LLaDA21Sampler,
    "utils.get_num_transfer_tokens": get_num_transfer_tokens,
}
