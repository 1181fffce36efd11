"""score_quality: a quality head's probability from hidden states, in one read of them."""

from __future__ import annotations

import torch
from torch import Tensor

from mdmcorrect import _checks, _native
from mdmcorrect.ops import _arguments as arguments
from mdmcorrect.ops._differentiation import detached, wants_gradient

_native.load()

_NORMS = (None, "layer", "rms")  # the native norm's numbers


def score_quality(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    norm: str | None = "layer",
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    shift: Tensor | None = None,
    scale: Tensor | None = None,
    eps: float = 1e-5,
    logit: bool = False,
    row_index: Tensor | None = None,
) -> Tensor:
    """P(the token here is right) as a quality head says it (PRISM, arXiv 2510.01384): for each position,

    ``sigmoid(weight . ((1 + scale) * norm(hidden) + shift) + bias)``

    in float32 whatever the dtype of the hidden states, under autocast too. There is no derivative:
    :class:`mdmcorrect.heads.QualityHead` is what is trained.

    Args:
        hidden: ``[..., L, D]`` float32, bfloat16 or float16, the last dimension contiguous, other strides free.
        weight: ``[D]`` or ``[1, D]``, the projection to one logit; like every argument below of any of these dtypes.
        bias: ``[]`` or ``[1]``.
        norm: "layer" (mean and variance over D), "rms" (mean square over D) or None.
        norm_weight, norm_bias: ``[D]``, the norm's own. Default: 1 and 0.
        shift, scale: adaLN's modulation (arXiv 2212.09748), ``[..., D]`` per sequence or ``[..., L, D]`` per position,
            the last dimension contiguous.
        eps: added to the variance or mean square.
        logit: return what the sigmoid would be taken of.
        row_index: int64 ``[R]``: the rows to score, b * L + l for position l of sequence b. An index that is no row,
            such as -1, is padding. A row left out is not read and gets NaN. Default: every row.

    Returns:
        float32 ``[..., L]``. NaN where the hidden states hold NaN, or infinity under a norm.

    Raises:
        TypeError: an argument of the wrong type or dtype.
        ValueError: a shape, device, layout or name that does not fit.
        RuntimeError: an argument wants a gradient, backward or forward, while they are recorded; or a CUDA tensor, but
            a library without this kernel for CUDA.

    Example:
        >>> score_quality(torch.tensor([[1.0, -1.0], [3.0, 5.0]]), torch.tensor([2.0, 0.0]))
        tensor([0.8808, 0.1192])
    """
    hidden = arguments.require_tensor("hidden", hidden)
    if hidden.dim() < 2 or hidden.shape[-1] < 1:
        raise ValueError(f"hidden: expected shape [..., L, D] with D >= 1, got {list(hidden.shape)}")
    arguments.require_kernel("score_quality", hidden)
    lead, size = hidden.shape[:-1], hidden.shape[-1]
    shapes: dict[str, tuple[Tensor | None, tuple[tuple[int, ...], ...]]] = {
        "hidden": (hidden, (tuple(hidden.shape),)),
        "weight": (weight, ((size,), (1, size))),
        "bias": (bias, ((), (1,))),
        "norm_weight": (norm_weight, ((size,),)),
        "norm_bias": (norm_bias, ((size,),)),
        "shift": (shift, ((*lead[:-1], size), (*lead, size))),
        "scale": (scale, ((*lead[:-1], size), (*lead, size))),
    }
    for name, (tensor, allowed) in shapes.items():
        if tensor is not None or name == "weight":
            _check(name, tensor, allowed, hidden)
    if norm is not None and (not isinstance(norm, str) or norm not in _NORMS):
        raise ValueError(f"norm: expected 'layer', 'rms' or None, got {norm!r}")
    if norm is None and (norm_weight is not None or norm_bias is not None):
        raise ValueError("norm_weight, norm_bias: got one, but norm is None")
    eps, logit = _checks.weight("eps", eps), _checks.flag("logit", logit)
    if row_index is not None:
        arguments.require_row_index(row_index, hidden, "hidden")

    def parameter(tensor: Tensor | None, *shape: int) -> Tensor | None:
        return None if tensor is None else tensor.to(torch.float32).reshape(shape)

    grid = _as_grid("hidden", hidden)
    quality = detached(
        torch.ops.mdmcorrect.score_quality,
        grid,
        parameter(weight, size),
        parameter(bias),
        _NORMS.index(norm),
        parameter(norm_weight, size),
        parameter(norm_bias, size),
        _modulation("shift", shift, hidden, grid),
        _modulation("scale", scale, hidden, grid),
        eps,
        logit,
        row_index,
    )
    return quality.reshape(lead)


def _check(name: str, value: object, allowed: tuple[tuple[int, ...], ...], hidden: Tensor) -> None:
    tensor = arguments.require_tensor(name, value)
    arguments.require_dtype(name, tensor, *arguments.SCORE_DTYPES)
    arguments.require_device(name, tensor, hidden, "hidden")
    if tuple(tensor.shape) not in allowed:
        expected = " or ".join(str(list(shape)) for shape in dict.fromkeys(allowed))
        raise ValueError(f"{name}: expected shape {expected}, got {list(tensor.shape)}")
    if wants_gradient(tensor):
        raise RuntimeError(
            f"{name}: wants a gradient, but score_quality has no backward; train with mdmcorrect.heads.QualityHead, or "
            "call this under torch.no_grad()"
        )


def _as_grid(name: str, tensor: Tensor) -> Tensor:
    """[..., L, D] as [B, L, D]."""
    if tensor.shape[-1] > 1 and tensor.stride(-1) != 1:
        raise ValueError(
            f"{name}: expected the last dimension to be contiguous, got strides {tuple(tensor.stride())} "
            f"for shape {list(tensor.shape)}; call .contiguous() first"
        )
    return tensor[None] if tensor.dim() == 2 else tensor.flatten(0, -3)


def _modulation(name: str, value: Tensor | None, hidden: Tensor, grid: Tensor) -> Tensor | None:
    """Per sequence or per position, as a view [B, L, D]."""
    if value is None:
        return None
    per_position = value if value.shape == hidden.shape else value.unsqueeze(-2)
    return _as_grid(name, per_position).expand_as(grid)


@torch.library.register_fake("mdmcorrect::score_quality")
def _fake(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    norm: int,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    shift: Tensor | None,
    scale: Tensor | None,
    eps: float,
    logit: bool,
    row_index: Tensor | None,
) -> Tensor:
    return torch.empty(hidden.shape[:-1], dtype=torch.float32, device=hidden.device)
