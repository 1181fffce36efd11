"""PRISM (arXiv 2510.01384): teach a head the probability that a token is right given all the others.

z = mask(x0);  S: k masked positions of z;  y = z with y_S drawn from the model (no gradient)
L = E[ mean_{i in S} BCE( 1[x0_i = y_i], g_i(y) ) ] + lambda L_MDM
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .._checks import choice, integer, number, token_id
from ..model import check_logits
from ..schedules import Schedule
from .arguments import IGNORED, tensor
from .averaging import check_averaged
from .judging import Judge
from .masking import bool_like, check_tokens
from .mdlm import MaskedTerm
from .output_layer import (
    check_output_layer,
    draw_from_hidden,
    max_logprob,
    read_layer,
    read_model,
    scores_of,
)
from .outputs import (
    Forward,
    LossOutput,
    call_model,
    repeat_rows,
)
from .terms import Count, Weight, draw_tokens, normalize, share, upcast, without_mask


class PrismInputs(NamedTuple):
    """``tokens`` y, int64 ``[B * n_y, L]`` (the n_y draws of a row are neighbours), and ``selected`` S, bool alike."""

    tokens: Tensor
    selected: Tensor


def prism_loss(
    model: Any,
    x0: Tensor,
    *,
    mask_id: int,
    head: Callable[[Tensor, Tensor | None], Tensor] | None = None,
    k: int = 1,
    n_y: int = 1,
    positions: str = "random",
    leftmost: int | None = None,
    temperature: float = 1.0,
    top_p: float = 1.0,
    train_backbone: bool = True,
    mdlm_weight: float | None = None,
    t: Tensor | None = None,
    t_min: float = 1e-3,
    antithetic: bool = True,
    schedule: str | Schedule = "linear",
    fixed: Tensor | None = None,
    loss_mask: Tensor | None = None,
    attention_mask: Tensor | None = None,
    condition: Tensor | None = None,
    weight: Weight = "elbo",
    normalizer: str = "token",
    num_items_in_batch: Count = None,
    num_chosen_in_batch: Count = None,
    generator: torch.Generator | None = None,
    forward: Forward | None = None,
    output_layer: Any = None,
    check: bool = True,
) -> LossOutput:
    """One step of PRISM's fine-tuning: a forward on z, n_y draws of y, a forward on every y, the head on its states.

    The minimiser of the first term at k = 1 is ``g_i(y) = p(x_i = y_i | y with i masked)``, whatever model drew y
    (Proposition 1); at k > 1 it averages ``p(x_i = y_i | y with S masked)`` over S, less informed (docs/losses.md).

    Args:
        model: as in :func:`mdlm_loss`. Best made by ``heads.attach``, wrapped or not (DDP, FSDP, ``torch.compile``):
            its head is then asked within its forward. Another one has hidden states in its output: ``hidden``,
            ``last_hidden_state``, or the last of ``hidden_states``.
        x0, mask_id, t, t_min, antithetic, schedule, fixed, loss_mask, attention_mask, condition, generator, forward,
            output_layer, check: as in :func:`mdlm_loss`. ``loss_mask`` also keeps S within the scored positions. The
            condition of the model's output, not the argument, goes to the head.
        head: ``head(hidden, condition) -> logits [B * n_y, L]``; None takes that of the model.
        k: number of masked positions filled and judged per y, 1 <= k <= L; a row with fewer masks fills all of them.
        n_y: draws of y per z; positions are drawn anew for each.
        positions: "random" (uniform among the masks) or "confidence" (the k with the highest maximum probability,
            PRISM's variant for LLaDA).
        leftmost: choose only among each row's leftmost masks, this many (LLaDA variant: 512); None for all.
        temperature, top_p: how y is drawn; temperature 0 is the argmax (LLaDA variant), which any top_p keeps; top_p
            drops the crossing token.
        train_backbone: False runs both forwards without gradient and detaches the head's inputs. Dropout is not
            switched off: call ``model.eval()``.
        mdlm_weight: lambda (paper: 5 on Sudoku, 0.5 on OpenWebText). None: 1 with a trained backbone, 0 with a frozen.
        weight, normalizer, num_items_in_batch: of the masked diffusion term alone. The quality term is the mean over
            chosen positions.
        num_chosen_in_batch: divide the quality term by this number instead of by that of the chosen positions:
            ``k * n_y`` for each row of the whole batch where gradients are accumulated, or where rows with fewer masks
            shall weigh less (PRISM's code for LLaDA).

    Returns:
        ``LossOutput`` with parts "quality" (mean BCE), "mdlm", "right" (share of chosen tokens that were right) and
        "chosen" (their number). No mask drawn anywhere: the quality term is 0.

    Raises:
        ValueError, TypeError: besides those of :func:`mdlm_loss`: k > L, n_y < 1, a frozen backbone with
            mdlm_weight > 0, a head or hidden states that are missing or of the wrong shape; a head whose gradients
            processes would not share.
    """
    term = MaskedTerm(mask_id, schedule, fixed, loss_mask, attention_mask, weight, normalizer, num_items_in_batch)
    check_output_layer(model, output_layer)
    mdlm_weight = float(train_backbone) if mdlm_weight is None else number("mdlm_weight", mdlm_weight)
    if not train_backbone and mdlm_weight:
        raise ValueError(f"mdlm_weight: expected 0 with train_backbone=False, got {mdlm_weight}")
    _check_counts(mdlm_weight, num_items_in_batch, num_chosen_in_batch)
    n_y = _draws(n_y)
    judge = Judge(model, head, train_backbone=train_backbone, train_logits=bool(mdlm_weight))
    check_averaged(model=model, head=head, output_layer=output_layer)
    z, t = term.draw(x0, t, t_min=t_min, antithetic=antithetic, generator=generator, check=check)

    with nullcontext() if train_backbone and mdlm_weight else torch.no_grad():
        output = call_model(model, z, forward=forward, time=t, attention_mask=attention_mask, condition=condition)
    drawing: dict[str, Any] = {
        "mask_id": term.mask_id,
        "eligible": term.roles(x0).scored,
        "k": k,
        "n_y": n_y,
        "positions": positions,
        "leftmost": leftmost,
        "temperature": temperature,
        "top_p": top_p,
        "generator": generator,
    }
    states, product = read_model(output, output_layer, x0, term.mask_id)
    if product is None:
        y, selected = prism_inputs(states, z, **drawing)
    else:
        y, selected = prism_inputs_from_hidden(states, product, z, **drawing)

    def run() -> Any:
        return call_model(
            judge.model if forward is None else model,
            y,
            forward=forward,
            time=torch.repeat_interleave(t, n_y),
            attention_mask=repeat_rows(attention_mask, n_y),
            condition=repeat_rows(condition, n_y),
            states=judge.reads_states and output_layer is None,
        )

    quality_logit = judge(run, output_layer)
    result = prism_loss_from_logits(quality_logit, x0, y, selected, num_chosen_in_batch=num_chosen_in_batch)
    if mdlm_weight:
        mdlm = term.loss(scores_of(states, product, x0, term.mask_id), x0, z, t)
        result = LossOutput(result.loss + mdlm_weight * mdlm.loss, {**mdlm.parts, **result.parts})
    return result


def prism_inputs(
    logits: Tensor,
    z: Tensor,
    *,
    mask_id: int,
    k: int = 1,
    n_y: int = 1,
    eligible: Tensor | None = None,
    positions: str = "random",
    leftmost: int | None = None,
    temperature: float = 1.0,
    top_p: float = 1.0,
    generator: torch.Generator | None = None,
) -> PrismInputs:
    """Choose S among the masks of ``z`` and fill it from ``logits [B, L, V]``, without gradient.

    S depends on z alone, never on the drawn tokens: the proposition needs that. Tokens are drawn at S only, so the
    float64 work is on ``[B, n_y * k, V]``.
    """
    mask_id = token_id("mask_id", mask_id)
    check_logits(logits, z, mask_id)

    def confidence(_: Tensor) -> Tensor:
        scores = without_mask(logits, mask_id)
        return -(scores - scores.amax(-1, keepdim=True)).logsumexp(-1)

    def draw(index: Tensor) -> Tensor:
        rows = logits.gather(1, index.unsqueeze(-1).expand(-1, -1, logits.shape[-1]))
        return draw_tokens(without_mask(rows, mask_id), temperature=temperature, top_p=top_p, generator=generator)

    return choose_and_fill(
        confidence,
        draw,
        z,
        mask_id=mask_id,
        k=k,
        n_y=n_y,
        eligible=eligible,
        positions=positions,
        leftmost=leftmost,
        generator=generator,
    )


def prism_inputs_from_hidden(
    hidden: Tensor,
    output_layer: Any,
    z: Tensor,
    *,
    mask_id: int,
    k: int = 1,
    n_y: int = 1,
    eligible: Tensor | None = None,
    positions: str = "random",
    leftmost: int | None = None,
    temperature: float = 1.0,
    top_p: float = 1.0,
    generator: torch.Generator | None = None,
) -> PrismInputs:
    """:func:`prism_inputs` of ``output_layer(hidden)`` without those logits; its draws are others, of one law."""
    mask_id = token_id("mask_id", mask_id)
    choosing: dict[str, Any] = {
        "mask_id": mask_id,
        "k": k,
        "n_y": n_y,
        "eligible": eligible,
        "positions": positions,
        "leftmost": leftmost,
        "generator": generator,
    }
    drawing: dict[str, Any] = {"temperature": temperature, "top_p": top_p, "generator": generator}
    with torch.no_grad():
        states, product = read_layer(hidden, output_layer, z, mask_id)
    if product is None:
        return prism_inputs(states, z, temperature=temperature, top_p=top_p, **choosing)

    def draw(index: Tensor) -> Tensor:
        rows = states.gather(1, index.unsqueeze(-1).expand(-1, -1, states.shape[-1]))
        return draw_from_hidden(rows, product, None, mask_id, **drawing)

    return choose_and_fill(lambda masked: max_logprob(states, product, masked, mask_id), draw, z, **choosing)


def choose_and_fill(
    confidence: Callable[[Tensor], Tensor],
    draw: Callable[[Tensor], Tensor],
    z: Tensor,
    *,
    mask_id: int,
    k: int,
    n_y: int,
    eligible: Tensor | None,
    positions: str,
    leftmost: int | None,
    generator: torch.Generator | None,
) -> PrismInputs:
    """:func:`prism_inputs`, wherever tokens come from: ``confidence`` gives ``[B, L]`` scores of the positions marked,
    ``draw`` a token for each of the positions ``[B, n_y * k]``."""
    batch, length = z.shape
    k, n_y = integer("k", k), _draws(n_y)
    if not 1 <= k <= length:
        raise ValueError(f"k: expected 1 <= k <= L = {length}, got {k}")
    if leftmost is not None:
        leftmost = integer("leftmost", leftmost, minimum=1, what="a positive number of masks or None")
    masked = z == mask_id
    if eligible is not None:
        masked = masked & bool_like("eligible", eligible, z)
    if leftmost is not None:
        masked = masked & (masked.cumsum(-1) <= leftmost)
    with torch.no_grad():
        scores = _position_scores(confidence, masked, n_y, positions, generator)
        best, index = scores.masked_fill(~masked.unsqueeze(1), float("-inf")).topk(k, dim=-1)
        index = index.flatten(1)  # [B, n_y * k]
        drawn = draw(index).view(batch * n_y, k)
        index = index.view(batch * n_y, k)
        real = (best > float("-inf")).view(batch * n_y, k)
        repeated = torch.repeat_interleave(z, n_y, dim=0)
        y = repeated.scatter(1, index, torch.where(real, drawn, repeated.gather(1, index)))
        selected = torch.zeros_like(y, dtype=torch.bool).scatter(1, index, real)
    return PrismInputs(y, selected)


def prism_loss_from_logits(
    quality_logit: Tensor, x0: Tensor, y: Tensor, selected: Tensor, *, num_chosen_in_batch: Count = None
) -> LossOutput:
    """The quality term alone: mean over ``selected`` of ``BCE(1[x0 = y], sigmoid(quality_logit))``.

    Args:
        quality_logit: ``[B * n_y, L]`` logits of g on y.
        x0: int64 ``[B, L]`` clean tokens.
        y, selected: from :func:`prism_inputs`, ``[B * n_y, L]``. Where x0 is -100 nothing counts as selected.
        num_chosen_in_batch: as in :func:`prism_loss`.
    """
    check_tokens(x0)
    if (
        tensor("y", y).ndim != 2
        or y.shape[1] != x0.shape[1]
        or (y.shape[0] % x0.shape[0] if x0.shape[0] else y.shape[0])
    ):
        raise ValueError(f"y: expected [B * n_y, L] for x0 {tuple(x0.shape)}, got {tuple(y.shape)}")
    if tensor("quality_logit", quality_logit).shape != y.shape:
        raise ValueError(f"head: expected logits {tuple(y.shape)}, got {tuple(quality_logit.shape)}")
    if not quality_logit.is_floating_point():
        raise TypeError(f"head: expected floating logits, got {quality_logit.dtype}")
    n_y = y.shape[0] // x0.shape[0] if x0.shape[0] else 1
    clean = torch.repeat_interleave(x0, n_y, dim=0)
    right = clean == y
    selected = bool_like("selected", selected, y, "y") & (clean != IGNORED)
    with torch.autocast(quality_logit.device.type, enabled=False):
        logit = upcast(quality_logit)
        bce = F.binary_cross_entropy_with_logits(logit, right.to(logit.dtype), reduction="none")
        loss = normalize(bce, selected, "token", num_chosen_in_batch, "num_chosen_in_batch")
    chosen = selected.sum()
    parts = {
        "quality": loss.detach(),
        "right": share(right & selected, selected),
        "chosen": chosen,
    }
    return LossOutput(loss, parts)


def _draws(n_y: int) -> int:
    return integer("n_y", n_y, minimum=1, what="at least one draw per z")


def _check_counts(mdlm_weight: float, items: Count, chosen: Count) -> None:
    """Both terms are sums over the whole accumulated batch, or neither is."""
    if not mdlm_weight and items is not None:
        raise ValueError(f"num_items_in_batch: expected None where mdlm_weight is 0, got {items}")
    if mdlm_weight and (items is None) != (chosen is None):
        missing, given = ("num_items_in_batch", "num_chosen_in_batch")[:: 1 if items is None else -1]
        raise ValueError(
            f"{missing}: expected it beside {given}; the masked term is divided by the one, the quality term, of "
            "k * n_y positions a row, by the other"
        )


def _position_scores(
    confidence: Callable[[Tensor], Tensor],
    masked: Tensor,
    n_y: int,
    positions: str,
    generator: torch.Generator | None,
) -> Tensor:
    """``[B, n_y, L]``, larger is chosen first."""
    batch, length = masked.shape
    if choice("positions", positions, "random", "confidence") == "random":
        device = masked.device if generator is None else generator.device
        return torch.rand(batch, n_y, length, generator=generator, dtype=torch.float32, device=device).to(masked.device)
    return confidence(masked).unsqueeze(1).expand(batch, n_y, length)
