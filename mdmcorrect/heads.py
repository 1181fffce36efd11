"""The quality head of PRISM (arXiv 2510.01384): from a hidden state to P(the token here is right | the rest).

``QualityHead`` is the layer; ``attach`` puts it on any model whose hidden states can be reached, by a function of the
model's output or by a forward hook on a named submodule.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import ops
from .losses.outputs import read_condition, read_hidden, read_logits

_NORMS = ("layer", "rms", None)


class QualityHead(nn.Module):
    """Normalise, modulate by a condition, optionally an MLP, project to one logit.

    The output layer starts at zero, so an untrained head says 1/2 everywhere. The normalisation and the projection run
    in float32 whatever the dtype of hidden states, parameters or autocast (float64 when the parameters are float64);
    the MLP runs in the ambient precision. On a CPU, where no gradient is recorded and there is no MLP, all of it is one
    read of the hidden states (:func:`mdmcorrect.ops.score_quality`).

    Args:
        hidden_size: D, size of the hidden states.
        norm: "layer" (LayerNorm), "rms" (RMSNorm) or None for hidden states the model has normalised itself.
        mlp_hidden: width of a Linear-GELU between norm and projection (PRISM on LLaDA-8B: D); None for none.
        condition_size: C, size of a conditioning vector that shifts and scales the normalised states (adaLN of DiT,
            arXiv 2212.09748; PRISM on MDLM's backbone); None for a model without one. Its layer starts at zero.
        eps: of the norm.
    """

    def __init__(
        self,
        hidden_size: int,
        *,
        norm: str | None = "layer",
        mlp_hidden: int | None = None,
        condition_size: int | None = None,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        sizes = {"hidden_size": hidden_size, "mlp_hidden": mlp_hidden, "condition_size": condition_size}
        for name, size in sizes.items():
            if size is not None and size < 1:
                raise ValueError(f"{name}: expected a positive size, got {size}")
        if norm not in _NORMS:
            raise ValueError(f"norm: expected one of {_NORMS}, got {norm!r}")
        self.hidden_size, self.condition_size, self.eps = hidden_size, condition_size, eps
        self.norm: nn.Module | None = None
        if norm == "layer":
            self.norm = nn.LayerNorm(hidden_size, eps=eps)
        elif norm == "rms":
            self.norm = nn.RMSNorm(hidden_size, eps=eps)
        self.modulation = None if condition_size is None else nn.Linear(condition_size, 2 * hidden_size)
        self.mlp = None if mlp_hidden is None else nn.Sequential(nn.Linear(hidden_size, mlp_hidden), nn.GELU())
        self.out = nn.Linear(hidden_size if mlp_hidden is None else mlp_hidden, 1)
        for layer in (self.out, self.modulation):
            if layer is not None:
                nn.init.zeros_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(self, hidden: Tensor, condition: Tensor | None = None) -> Tensor:
        """Logit of the quality.

        Args:
            hidden: ``[..., L, D]`` hidden states of the forward that saw the tokens being judged.
            condition: ``[..., C]``, one vector per sequence, when the head was made with ``condition_size``.

        Returns:
            ``[..., L]`` logits, float32 (float64 with float64 parameters).
        """
        if hidden.shape[-1] != self.hidden_size:
            raise ValueError(f"hidden: expected [..., L, {self.hidden_size}], got {tuple(hidden.shape)}")
        dtype = torch.float64 if self.out.weight.dtype == torch.float64 else torch.float32
        with torch.autocast(hidden.device.type, enabled=False):
            shift, scale = self._shift_and_scale(condition, dtype)
            if self._in_one_read(hidden, condition):
                return self._read_once(hidden, shift, scale)
            x = self._normalize(hidden.to(dtype))
            if shift is not None and scale is not None:
                x = x * (1 + scale.unsqueeze(-2)) + shift.unsqueeze(-2)
        if self.mlp is not None:
            x = self.mlp(x if torch.is_autocast_enabled(x.device.type) else x.to(self.mlp[0].weight.dtype))
        with torch.autocast(hidden.device.type, enabled=False):
            return F.linear(x.to(dtype), self.out.weight.to(dtype), self.out.bias.to(dtype)).squeeze(-1)

    def probability(self, hidden: Tensor, condition: Tensor | None = None) -> Tensor:
        """``sigmoid(forward(...))``: the quality in (0, 1), ``[..., L]``."""
        return torch.sigmoid(self(hidden, condition))

    def _in_one_read(self, hidden: Tensor, condition: Tensor | None) -> bool:
        """Whether ``ops.score_quality`` can do it: nothing to train, no MLP in between, no float64."""
        if self.mlp is not None or hidden.device.type != "cpu" or hidden.dim() < 2 or hidden.stride(-1) != 1:
            return False
        tensors = [hidden, *self.parameters(), *([] if condition is None else [condition])]
        recorded = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
        return not recorded and all(tensor.dtype != torch.float64 for tensor in tensors)

    def _read_once(self, hidden: Tensor, shift: Tensor | None, scale: Tensor | None) -> Tensor:
        norm, lead = self.norm, (*hidden.shape[:-2], -1)
        return ops.score_quality(
            hidden,
            self.out.weight,
            self.out.bias,
            norm=None if norm is None else "layer" if isinstance(norm, nn.LayerNorm) else "rms",
            norm_weight=None if norm is None else norm.weight,
            norm_bias=norm.bias if isinstance(norm, nn.LayerNorm) else None,
            shift=None if shift is None else shift.expand(lead),
            scale=None if scale is None else scale.expand(lead),
            eps=self.eps,
            logit=True,
        )

    def _normalize(self, x: Tensor) -> Tensor:
        if self.norm is None:
            return x
        weight = self.norm.weight.to(x.dtype)
        if isinstance(self.norm, nn.LayerNorm):
            return F.layer_norm(x, x.shape[-1:], weight, self.norm.bias.to(x.dtype), self.eps)
        return F.rms_norm(x, x.shape[-1:], weight, self.eps)

    def _shift_and_scale(self, condition: Tensor | None, dtype: torch.dtype) -> tuple[Tensor | None, Tensor | None]:
        if self.modulation is None:
            return None, None
        if condition is None:
            raise ValueError(
                f"condition: this head was made with condition_size={self.condition_size} and needs a tensor "
                f"[..., {self.condition_size}], got None"
            )
        if condition.shape[-1] != self.condition_size:
            raise ValueError(f"condition: expected [..., {self.condition_size}], got {tuple(condition.shape)}")
        weight, bias = self.modulation.weight.to(dtype), self.modulation.bias.to(dtype)
        shift, scale = F.linear(condition.to(dtype), weight, bias).chunk(2, dim=-1)
        return shift, scale


@dataclass
class QualityOutput:
    """What a model with an attached head returns.

    ``logits [B, L, V]``, ``hidden [B, L, D]``, ``quality [B, L]`` in (0, 1), ``quality_logit [B, L]``, ``condition``.
    """

    logits: Tensor
    hidden: Tensor
    quality: Tensor
    quality_logit: Tensor
    condition: Tensor | None = None


class ModelWithQuality(nn.Module):
    """A model and its quality head as one module; made by :func:`attach`. Arguments of the call go to the model."""

    def __init__(
        self,
        model: nn.Module,
        head: nn.Module,
        *,
        hidden: Callable[[Any], Tensor] | None,
        logits: Callable[[Any], Tensor] | None,
        condition: Callable[[Any], Tensor | None] | None,
        module: str | None,
        capture: str,
    ) -> None:
        super().__init__()
        self.model, self.quality_head = model, head
        self._read_hidden, self._read_logits, self._read_condition = hidden, logits, condition
        self._module, self._captured = module, None
        if module is not None:
            target = dict(model.named_modules()).get(module)
            if target is None:
                raise ValueError(f"module: the model has no submodule named {module!r}")
            if capture == "output":
                target.register_forward_hook(self._capture_output)
            else:
                target.register_forward_pre_hook(self._capture_input)

    def _capture_output(self, _module: nn.Module, _args: Any, output: Any) -> None:
        self._captured = output[0] if isinstance(output, tuple) else output

    def _capture_input(self, _module: nn.Module, args: Any) -> None:
        self._captured = args[0]

    def forward(self, *args: Any, **kwargs: Any) -> QualityOutput:
        self._captured = None
        output = self.model(*args, **kwargs)
        hidden = self._hidden(output)
        logits = read_logits(output) if self._read_logits is None else self._read_logits(output)
        condition = read_condition(output) if self._read_condition is None else self._read_condition(output)
        quality_logit = self.quality_head(hidden, condition)
        return QualityOutput(logits, hidden, torch.sigmoid(quality_logit), quality_logit, condition)

    def _hidden(self, output: Any) -> Tensor:
        if self._module is None:
            return read_hidden(output) if self._read_hidden is None else self._read_hidden(output)
        captured, self._captured = self._captured, None
        if not isinstance(captured, Tensor):
            raise RuntimeError(
                f"module: {self._module!r} did not run in the model's forward, so it gave no hidden states"
            )
        return captured


def attach(
    model: nn.Module,
    head: nn.Module,
    *,
    hidden: Callable[[Any], Tensor] | None = None,
    module: str | None = None,
    capture: str = "output",
    logits: Callable[[Any], Tensor] | None = None,
    condition: Callable[[Any], Tensor | None] | None = None,
) -> ModelWithQuality:
    """Put a quality head on a model.

    Args:
        model: any module whose output holds logits.
        head: called as ``head(hidden, condition)``, returns logits ``[B, L]``; usually a :class:`QualityHead`.
        hidden: takes the model's output, returns hidden states ``[B, L, D]``. By default the output's ``hidden``, else
            the last of its ``hidden_states`` (a Hugging Face model called with ``output_hidden_states=True``).
        module: instead of ``hidden``, the name of a submodule (as in ``named_modules``) that a forward hook listens to.
        capture: of that submodule "output" (its first element if a tuple) or "input" (its first positional argument).
        logits: takes the model's output, returns logits; by default the output itself or its ``logits``.
        condition: takes the model's output, returns the conditioning vector or None; by default its ``condition``.

    Returns:
        A module with the model's call signature that returns a :class:`QualityOutput`.

    Raises:
        ValueError: both ``hidden`` and ``module`` given, an unknown submodule or ``capture``.
    """
    if hidden is not None and module is not None:
        raise ValueError("hidden, module: give one of them, got both")
    if capture not in ("output", "input"):
        raise ValueError(f"capture: expected 'output' or 'input', got {capture!r}")
    return ModelWithQuality(
        model, head, hidden=hidden, logits=logits, condition=condition, module=module, capture=capture
    )
