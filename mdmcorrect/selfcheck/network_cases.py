"""Cases of the operators beside a network's layers: score_quality, linear_cross_entropy, bidirectional_attention."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch

from mdmcorrect import reference
from mdmcorrect.ops import bidirectional_attention, linear_cross_entropy, score_quality

from .cases import Arguments, Case, Results
from .comparison import expect_near
from .inputs import attention, cross_entropy, quality

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def check_quality(results: Results, arguments: Arguments) -> None:
    given = dict(arguments)
    index = given.pop("row_index", None)
    truth = quality.expected(**given)
    if index is not None:
        left_out = np.ones(truth.size, bool)
        left_out[index[index >= 0].numpy()] = False
        truth.reshape(-1)[left_out] = np.nan
    expect_near("probability", results["output 0"], truth, rtol=5e-5, atol=2e-6)


def qualities() -> Iterator[Case]:
    shapes = [(2, 5, 1), (2, 5, 63), (3, 40, 1000), (1, 2, 4096), (0, 3, 64), (2, 0, 64)]
    for dtype_name, dtype in DTYPES.items():
        for norm in ("layer", "rms", None):
            for shape in shapes:

                def make(
                    seed: int,
                    norm: str | None = norm,
                    shape: tuple[int, int, int] = shape,
                    dtype: torch.dtype = dtype,
                ) -> Arguments:
                    generator = torch.Generator().manual_seed(seed)
                    arguments = {
                        "hidden": quality.states(*shape, dtype=dtype, seed=seed),
                        **quality.head(shape[2], norm, dtype, seed + 1),
                    }
                    if shape[1] == 40:  # modulated per sequence, and some rows only
                        arguments["shift"], arguments["scale"] = (
                            torch.randn(2, shape[0], shape[2], generator=generator).to(dtype) / 2
                        )
                        arguments["row_index"] = torch.randperm(120, generator=generator)[:50] - 1
                    return arguments

                title = f"{norm} norm, {list(shape)} {dtype_name}"
                yield Case("score_quality", title, score_quality, make, check_quality)


def check_loss(results: Results, arguments: Arguments, **options: Any) -> None:
    given = dict(arguments)
    (upstream,) = given.pop("upstream")
    truth = reference.linear_cross_entropy(
        given["hidden"].double().numpy(),
        given["weight"].double().numpy(),
        given["targets"].numpy(),
        bias=given["bias"].double().numpy(),
        suppress=given["suppress"].numpy(),
        row_index=given["row_index"].numpy(),
        grad_losses=upstream.double().numpy(),
        **options,
    )
    dtype = arguments["hidden"].dtype
    expect_near("loss", results["output 0"], truth[0], rtol=5e-6, atol=5e-6)
    tolerance, terms = 2 * cross_entropy.TOLERANCE[dtype], max(upstream.abs().tolist(), default=0.0)
    for name, exact in zip(("hidden", "weight", "bias"), truth[1:], strict=True):
        cross_entropy.assert_near(results[f"grad_{name}"], exact, tolerance, f"grad_{name}", terms)


LOSSES: dict[str, dict[str, Any]] = {"": {}, ", smoothed and capped": {"label_smoothing": 0.1, "softcap": 5.0}}


def losses() -> Iterator[Case]:
    shapes = [(1, 1, 3), (7, 5, 11), (40, 33, 385), (300, 16, 1700), (49, 64, 5000), (0, 8, 20)]  # N, D, V
    for dtype_name, dtype in DTYPES.items():
        for shape in shapes:

            def make(seed: int, shape: tuple[int, int, int] = shape, dtype: torch.dtype = dtype) -> Arguments:
                rows, _, vocab = shape
                generator = torch.Generator().manual_seed(seed)
                hidden, weight, targets = cross_entropy.problem(*shape, dtype)
                return {
                    "hidden": hidden * (1 + seed / 8),
                    "weight": weight,
                    "targets": targets.clamp(max=vocab - 2),
                    "bias": torch.randn(vocab, generator=generator),
                    "suppress": torch.tensor([vocab - 1]),
                    "row_index": torch.randint(-1, max(rows, 1), (max(1, rows),), generator=generator),
                    "upstream": (torch.randn(rows, generator=generator),),
                }

            for kind, options in LOSSES.items():
                call = partial(linear_cross_entropy, reduction="none", **options)
                title, check = f"{list(shape)} {dtype_name}{kind}", partial(check_loss, **options)
                yield Case("linear_cross_entropy", title, call, make, check, ("hidden", "weight", "bias"))


def check_attention(results: Results, arguments: Arguments) -> None:
    """Within twice the error of plain torch in the same dtype and one unit; gradients within eight units of the largest
    and what float32 sums leave where terms cancel."""
    given = dict(arguments)
    q, k, v = (given.pop(name) for name in "qkv")
    grad_out, grad_lse = given.pop("upstream")
    out, lse = attention.expected(q, k, v, **given)
    plain = attention.plain(q, k, v, **given).nan_to_num(0.0)
    unit = attention.spacing(q.dtype, out)
    expect_near("output", results["output 0"], out.numpy(), atol=2 * attention.error(plain, out) + unit)
    expect_near("lse", results["output 1"], lse.numpy(), rtol=2e-3, atol=2e-3)
    if "grad_q" not in results:
        return
    gradients = reference.bidirectional_attention_backward(
        grad_out.double().numpy(),
        grad_lse.double().numpy(),
        *(x.double().numpy() for x in (q, k, v)),
        **attention.arrays(given),
    )
    sums = (
        float(grad_out.float().abs().sum(-1).max() * v.float().abs().max() * k.float().abs().max())
        if q.numel()
        else 0.0
    )
    left = torch.finfo(torch.float32).eps * q.shape[-1] ** -0.5 * sums
    for name, array in zip("qkv", gradients, strict=True):
        exact = torch.from_numpy(array)
        unit = attention.spacing(q.dtype, exact)
        expect_near(f"grad_{name}", results[f"grad_{name}"], array, atol=8 * unit + left)


FORWARD_WIDTHS = (160, 192, 256)
Shaped = tuple[str, tuple[int, int, int], Arguments]


def attentions() -> Iterator[Case]:
    """Every width that has a kernel, and on CUDA 16 bits alone; of the widest CUDA has the forward pass."""
    every = (32, 64, 96, 128, *FORWARD_WIDTHS)
    full: list[Shaped] = [(f"width {width}", (1, 131, width), {}) for width in every]
    masks: list[Shaped] = [(name, (3, 70, 32), masking) for name, masking in attention.MASKINGS.items()]
    lengths: list[Shaped] = [(f"length {length}", (2, length, 64), {}) for length in (1, 63, 65, 300)]
    empty: list[Shaped] = [("no sequence", (0, 5, 64), {}), ("no position", (2, 0, 64), {})]
    for dtype_name, dtype in DTYPES.items():
        for name, shape, masking in full + masks + lengths + empty:

            def make(
                seed: int,
                shape: tuple[int, int, int] = shape,
                masking: Arguments = masking,
                dtype: torch.dtype = dtype,
            ) -> Arguments:
                q, k, v = attention.heads(*shape, dtype, seed=seed)
                generator = torch.Generator().manual_seed(seed)
                padding = attention.ragged(shape[1]) if shape[0] == 3 else {}
                upstream = torch.randn(q.shape, generator=generator).to(dtype), torch.zeros(q.shape[:3])
                return {"q": q, "k": k, "v": v, "upstream": upstream, **padding, **masking}

            call = partial(bidirectional_attention, return_lse=True)
            title = f"{name}, {dtype_name}"
            gradients = () if shape[2] in FORWARD_WIDTHS else ("q", "k", "v")
            devices = ("cpu",) if dtype == torch.float32 else ("cpu", "cuda")
            yield Case("bidirectional_attention", title, call, make, check_attention, gradients, devices)


CASES = [*qualities(), *losses(), *attentions()]
