"""The operators on the harness, with the arguments of mdmcorrect.reference, NumPy arrays in and out; attention is in
device_attention.py."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from harness import BFloat16, Simt, Traffic, float_type, widen
from params import FLOAT_TYPES, FloatGrid, struct_named

from mdmcorrect.ops.count_positions import RULES


def integers(value, dtype=np.int64) -> np.ndarray | None:
    return None if value is None else np.asarray(value, dtype)


def select_positions(
    simt: Simt, scores, k, *, eligible=None, temperature=0.0, positions=None, largest=True, seed=0, step=0, call=0
) -> tuple[np.ndarray, dict[str, Traffic]]:
    """seed: [B], each sequence's own, or one for all."""
    batch, length = scores.shape
    grid = None if positions is None else np.broadcast_to(np.asarray(positions, np.int64), (batch, length))
    selected = np.empty((batch, length), np.uint8)
    traffic = simt.launch(
        "select_positions",
        batch=batch,
        length=length,
        scores=scores,
        eligible=eligible,
        positions=grid,
        k=integers(k),
        seed=integers(seed),
        step=integers(step),
        call=integers(call),
        temperature=temperature,
        largest=largest,
        selected=selected,
    )
    return selected.astype(bool), traffic


def uniform(
    simt: Simt, seed, positions, step, purpose, call=0, *, dtype=np.float32
) -> tuple[np.ndarray, dict[str, Traffic]]:
    """seed: [B]; positions: [L] or [B, L]; step: a number or [B]."""
    positions = np.asarray(positions, np.int64)
    batch, length = len(seed), positions.shape[-1]
    values = np.empty((batch, length), dtype)
    traffic = simt.launch(
        "uniform",
        batch=batch,
        length=length,
        positions=np.broadcast_to(positions, (batch, length)),
        seed=integers(seed),
        step=integers(step),
        call=integers(call),
        purpose=purpose,
        type=float_type(values),
        values=values,
    )
    return values, traffic


def count_positions(
    simt: Simt, scores, rule, bound, *, eligible=None, at_least=0
) -> tuple[np.ndarray, dict[str, Traffic]]:
    """bound: a number or [B]."""
    bound = np.asarray(bound, np.float64)
    counts = np.empty(len(scores), np.int64)
    traffic = simt.launch(
        "count_positions",
        batch=len(scores),
        length=scores.shape[1],
        scores=scores,
        eligible=eligible,
        bound=bound,
        bound_stride=bound.ndim,
        rule=RULES.index(rule),
        at_least=at_least,
        counts=counts,
    )
    return counts, traffic


def remask_step(
    simt: Simt,
    tokens,
    proposals,
    *,
    mask_id,
    refill="if_short",
    unmask_count=None,
    remask_count=None,
    keep_count=None,
    **grids,
) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], dict[str, Traffic]]:
    batch, length = tokens.shape
    out_tokens = np.empty((batch, length), np.int64)
    committed, remasked = np.empty((batch, length), np.uint8), np.empty((batch, length), np.uint8)
    traffic = simt.launch(
        "remask_step",
        batch=batch,
        length=length,
        mask_id=mask_id,
        tokens=tokens,
        proposals=proposals,
        unmask_count=integers(unmask_count),
        remask_count=integers(remask_count),
        keep_count=integers(keep_count),
        refill_if_short=refill == "if_short",
        out_tokens=out_tokens,
        out_committed=committed,
        out_remasked=remasked,
        **grids,
    )
    return (out_tokens, committed.astype(bool), remasked.astype(bool)), traffic


def array(value: Any) -> Any:
    """A copy of a tensor, with its strides, as a device's memory holds it; anything else itself."""
    if not isinstance(value, torch.Tensor):
        return value
    value = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype).copy_(value)
    if value.dtype == torch.bfloat16:
        return value.view(torch.int16).numpy().view(np.uint16).view(BFloat16)
    return value.numpy().view(np.uint8) if value.dtype == torch.bool else value.numpy()


def sampler_step(simt: Simt, arguments: Mapping[str, Any]) -> tuple[dict[str, np.ndarray], dict[str, Traffic]]:
    """arguments: by the names of the operator's schema."""
    given = dict(arguments)
    (batch, length), shape = given["tokens"].shape, given["tokens"].shape
    plan = bytes.fromhex(given.pop("plan"))
    ints, reals = (struct_named(name)[0] for name in ("StepInts", "StepReals"))
    given["ints"], given["reals"] = ints.from_buffer_copy(plan), reals.from_buffer_copy(plan, ctypes.sizeof(ints))
    given["positions"] = np.broadcast_to(given["positions"], shape)
    for table, steps in (("kept_share", "kept_steps"), ("noise_scales", "noise_steps")):
        given[steps] = 0 if given[table] is None else len(given[table])
    outputs = {
        "out_rows": np.empty_like(given["rows"]),
        "out_tokens": np.empty(shape, np.int64),
        "out_commit_score": np.empty(shape, np.float32),
        "out_commits": np.empty(shape, np.int64),
        "out_marks": np.empty((6, *shape), np.uint8),
        "out_time": np.empty(batch, np.float64),
    }
    modes = {"close_mode": given.pop("close"), "open_mode": given.pop("open")}
    traffic = simt.launch("sampler_step", batch=batch, length=length, **given, **modes, **outputs)
    return outputs, traffic


def correct_pass(simt: Simt, arguments: Mapping[str, Any]) -> tuple[list[np.ndarray], dict[str, Traffic]]:
    """arguments: by the names of the operator's schema; results in its order."""
    given = dict(arguments)
    (batch, length), first = given["draft"].shape, given["first"]
    values = [None if first else given.pop(f"value_{i}") for i in range(3)]
    earlier = [None if first else given.pop(f"earlier_{i}") for i in range(3)]
    shape, nothing = (batch, length), (0, length)
    draft, moved = np.empty(shape, np.int64), np.empty(batch, np.uint8)
    reach, token = np.empty(shape if first else nothing, np.uint8), np.empty(nothing if first else shape, np.int64)
    kept = [None if value is None else np.empty(shape, value.dtype) for value in values]
    named = ("mask_id", "first", "carry_over", "rows", "draft", "fixed", "block", "proposal", "token", "earlier_token")
    traffic = simt.launch(
        "correct_pass",
        batch=batch,
        length=length,
        **{name: given[name] for name in named},
        values=[FloatGrid() if value is None else value for value in values],
        earlier_values=[FloatGrid() if value is None else value for value in earlier],
        out_draft=draft,
        out_reach=reach,
        out_moved=moved,
        out_token=token,
        out_values=kept,
    )
    return [draft, reach, moved, token, *kept], traffic


def linear_cross_entropy(
    simt: Simt,
    hidden,
    weight,
    targets,
    *,
    bias=None,
    suppress=(),
    ignore_index=-100,
    row_index=None,
    label_smoothing=0.0,
    softcap=0.0,
    block_ids=None,
    normaliser=None,
    grad_losses=None,
    needs_hidden=True,
) -> tuple[tuple[np.ndarray, ...], dict[str, Traffic]]:
    """Forward, losses, normaliser (maximum and log_sum), correct and counted; or with ``grad_losses`` and the forward's
    ``normaliser``, the gradients of hidden, weight and bias. NumPy multiplies, in float32."""
    (n, width), (vocab, _) = hidden.shape, weight.shape
    rows = n if row_index is None else len(row_index)
    block_ids = block_ids or (vocab + 7) // 8 * 8
    packed, logits = np.empty((rows, width), hidden.dtype), np.empty((rows, block_ids), np.float32)
    packed = packed.view(type(hidden))
    product, sums = np.empty((rows, width), np.float32), np.empty((rows, width), np.float32)
    outputs = {
        "losses": np.empty(n, np.float32),
        "maximum": np.empty(n, np.float32),
        "log_sum": np.empty(n, np.float32),
        "correct": np.empty(n, np.uint8),
        "counted": np.empty(n, np.uint8),
    }
    grad_hidden = np.zeros_like(hidden, order="C") if needs_hidden else None
    grad_weight, grad_bias = np.zeros((vocab, width)), np.zeros(vocab)

    def multiply(which: int, first: int, ids: int) -> None:
        inputs = widen(simt.memory_of(packed).view(type(hidden))).astype(np.float32)
        block, held = widen(weight[first : first + ids]).astype(np.float32), simt.memory_of(logits)
        gradient = held if hidden.dtype == np.float32 else held.view(hidden.dtype).view(type(hidden))
        with np.errstate(invalid="ignore", over="ignore"):  # rows that hold NaN or inf
            gradient = widen(gradient[:, :ids]).astype(np.float32)
            if which == 0:
                held[:, :ids] = inputs @ block.T
                simt.written_by_host(held[:, :ids])
            elif which == 1:
                grad_weight[first : first + ids] = gradient.T @ inputs
            elif which == 2:
                grad_bias[first : first + ids] = gradient.sum(0)
            else:
                simt.memory_of(product)[...] = gradient @ block
                simt.written_by_host(simt.memory_of(product))

    callback = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)(multiply)
    simt.library.simt_set_product(callback)
    traffic = simt.launch(
        "linear_cross_entropy_blocks",
        all_rows=n,
        rows=rows,
        vocab=vocab,
        width=width,
        block_ids=block_ids,
        type=float_type(hidden),
        hidden=hidden,
        hidden_stride=hidden.strides[0] // hidden.itemsize,
        targets=integers(targets),
        ignore_index=ignore_index,
        row_index=integers(row_index),
        bias=bias,
        suppress=np.array(suppress, np.int64),
        suppress_count=len(suppress),
        label_smoothing=label_smoothing,
        softcap=softcap or 0.0,
        packed_hidden=packed,
        logits=logits,
        **(outputs if grad_losses is None else dict.fromkeys(outputs)),
        grad_losses=grad_losses,
        known_maximum=None if normaliser is None else normaliser[0],
        known_log_sum=None if normaliser is None else normaliser[1],
        hidden_product=product,
        hidden_sums=sums,
        grad_hidden=None if grad_losses is None else grad_hidden,
    )
    if grad_losses is None:
        flags = (outputs[name].astype(bool) for name in ("correct", "counted"))
        return (outputs["losses"], (outputs["maximum"], outputs["log_sum"]), *flags), traffic
    return (grad_hidden, grad_weight, grad_bias), traffic


ID_SCORES = ("token", "argmax")
VALUE_SCORES = (
    "logprob",
    "proposal_logprob",
    "current_logprob",
    "max_logprob",
    "second_logprob",
    "entropy",
    "margin",
    "logsumexp",
    "confidence",
    "noised_logprob",
)


def score_tokens(
    simt: Simt,
    logits,
    *,
    uncond_logits=None,
    guidance=0.0,
    tokens=None,
    rows=None,
    positions=None,
    temperature=0.0,
    top_k=None,
    top_p=None,
    top_p_rule="inclusive",
    filter_order="top_k_first",
    suppress=(),
    forbid=(),
    law="raw",
    input="logits",
    confidence="float32",
    shift=0,
    want=None,
    seed=0,
    step=0,
    call=0,
    noise="lazy",
    op="score_tokens",
    shape=None,
    row_index=None,
    first_row=0,
) -> tuple[dict[str, np.ndarray], dict[str, Traffic]]:
    """logits [B, L, V]; guidance, temperature, top_k, top_p: numbers or [B, L]; seed as in select_positions.

    shape: (B, L), and logits are [R, V]: of the rows of row_index, or of first_row and those that follow.
    """
    vocab = logits.shape[-1]
    batch, length = logits.shape[:2] if shape is None else shape
    names = [name for name in (*ID_SCORES, *VALUE_SCORES) if want is None or name in want]
    out = {
        name: np.full(
            (batch, length), -1 if name in ID_SCORES else np.nan, np.int64 if name in ID_SCORES else np.float32
        )
        for name in names
        if (name != "current_logprob" or tokens is not None) and (name != "noised_logprob" or noise == "dense")
    }

    def grid(value, dtype):
        return None if value is None else np.broadcast_to(np.asarray(value, dtype), (batch, length))

    strides = [stride // logits.itemsize for stride in logits.strides]
    beside = [0, 0] if uncond_logits is None else [stride // logits.itemsize for stride in uncond_logits.strides]
    traffic = simt.launch(
        op,
        layout="score_tokens",
        batch=batch,
        length=length,
        vocab=vocab,
        logits=logits,
        type=float_type(logits),
        batch_stride=strides[0] if shape is None else 0,
        position_stride=strides[1] if shape is None else 0,
        row_stride=0 if shape is None else strides[0],
        row_index=row_index,
        first_row=first_row,
        row_count=batch * length if shape is None else len(logits),
        uncond_logits=uncond_logits,
        uncond_batch_stride=beside[0],
        uncond_position_stride=beside[1],
        guidance=grid(guidance, np.float64),
        shift=shift,
        probabilities=input == "probs",
        tokens=tokens,
        rows=rows,
        positions=grid(positions, np.int64),
        temperature=grid(temperature, np.float64),
        top_k=grid(top_k, np.int64),
        top_p=grid(top_p, np.float64),
        top_p_inclusive=top_p_rule == "inclusive",
        top_p_first=filter_order == "top_p_first",
        suppress=np.array(suppress, np.int64),
        suppress_count=len(suppress),
        forbid=np.array(forbid, np.int64),
        forbid_count=len(forbid),
        proposal_law=law == "proposal",
        confidence_type=FLOAT_TYPES[confidence],
        dense_noise=noise == "dense",
        seed=integers(seed),
        step=integers(step),
        call=integers(call),
        ids=[out.get(name) for name in ID_SCORES],
        values=[None, None, *(out.get(name) for name in VALUE_SCORES)],
    )
    return out, traffic


NORMS = (None, "layer", "rms")  # in the order of core/score_quality_params.h


def score_quality(
    simt: Simt,
    hidden,
    weight,
    bias=None,
    *,
    norm="layer",
    norm_weight=None,
    norm_bias=None,
    shift=None,
    scale=None,
    eps=1e-5,
    logit=False,
    row_index=None,
) -> tuple[np.ndarray, dict[str, Traffic]]:
    """hidden [B, L, D]; shift and scale [B, D] or [B, L, D]; rows left out are NaN."""
    batch, length, size = hidden.shape
    quality = np.empty((batch, length), np.float32)

    def per_position(value):
        if value is None or value.ndim == 3:
            return value
        strides = (value.strides[0], 0, value.strides[1])
        return np.lib.stride_tricks.as_strided(value, hidden.shape, strides, subok=True)

    traffic = simt.launch(
        "score_quality",
        batch=batch,
        length=length,
        size=size,
        hidden=hidden,
        weight=weight,
        norm_weight=norm_weight,
        norm_bias=norm_bias,
        bias=bias,
        shift=per_position(shift),
        scale=per_position(scale),
        norm=NORMS.index(norm),
        eps=eps,
        logit=logit,
        rows=batch * length if row_index is None else len(row_index),
        row_index=row_index,
        quality=quality,
    )
    return quality, traffic
