"""The quality head of PRISM (arXiv 2510.01384): from a hidden state to P(the token here is right | the rest).

``QualityHead`` is the layer; ``attach`` (attached.py) puts it on any model whose hidden states can be reached, by a
function of the model's output or by a forward hook on a named submodule.
"""

from __future__ import annotations

import mdmcorrect._requires_torch

import json
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import _checks, _hub, ops
from .attached import ModelWithQuality, QualityOutput, attach
from .layers import is_plain

__all__ = ["FILE_NAME", "ModelWithQuality", "QualityHead", "QualityOutput", "attach"]

FILE_NAME = "quality_head.safetensors"
_NORMS = ("layer", "rms", None)
_NORM_LAYERS = (nn.LayerNorm, nn.RMSNorm)


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
        vocab_size: V, mask token included: the head reads the judged tokens themselves, an embedding of which is added
            to the normalised states. A hidden state says what the model would write, and need not say what stands
            there. None for a head of hidden states alone. The embedding starts at zero.
        eps: of the norm.
    """

    def __init__(
        self,
        hidden_size: int,
        *,
        norm: str | None = "layer",
        mlp_hidden: int | None = None,
        condition_size: int | None = None,
        vocab_size: int | None = None,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        hidden_size = _size("hidden_size", hidden_size)
        mlp_hidden = None if mlp_hidden is None else _size("mlp_hidden", mlp_hidden)
        condition_size = None if condition_size is None else _size("condition_size", condition_size)
        if norm is not None and not (isinstance(norm, str) and norm in _NORMS):
            raise ValueError(f"norm: expected one of {_NORMS}, got {norm!r}")
        eps = _checks.positive("eps", eps)
        self.hidden_size, self.condition_size, self.eps = hidden_size, condition_size, eps
        self.settings: dict[str, Any] = {
            "hidden_size": hidden_size,
            "norm": norm,
            "mlp_hidden": mlp_hidden,
            "condition_size": condition_size,
            "eps": eps,
        }
        if vocab_size is not None:
            self.settings["vocab_size"] = _size("vocab_size", vocab_size)
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
        self.embedding: nn.Embedding | None = None
        if vocab_size is not None:
            self.embedding = nn.Embedding(self.settings["vocab_size"], hidden_size)
            nn.init.zeros_(self.embedding.weight)

    @property
    def reads_tokens(self) -> bool:
        """Whether it is called with the tokens too; a head of one's own says so by an attribute of this name."""
        return self.embedding is not None

    def forward(self, hidden: Tensor, condition: Tensor | None = None, tokens: Tensor | None = None) -> Tensor:
        """Logit of the quality.

        Args:
            hidden: ``[..., L, D]`` hidden states of the forward that saw the tokens being judged.
            condition: ``[..., C]``, one vector per sequence, when the head was made with ``condition_size``.
            tokens: int64 ``[..., L]``, the tokens being judged, when it was made with ``vocab_size``.

        Returns:
            ``[..., L]`` logits, float32 (float64 with float64 parameters).
        """
        for name, value in {"hidden": hidden, "condition": condition}.items():
            if value is not None and not (isinstance(value, Tensor) and value.is_floating_point()):
                got = value.dtype if isinstance(value, Tensor) else type(value).__name__
                raise TypeError(f"{name}: expected a floating tensor, got {got}")
        if hidden.ndim < 1 or hidden.shape[-1] != self.hidden_size:
            raise ValueError(f"hidden: expected [..., L, {self.hidden_size}], got {tuple(hidden.shape)}")
        dtype = torch.float64 if _dtype(self.out, torch.float32) == torch.float64 else torch.float32
        with torch.autocast(hidden.device.type, enabled=False):
            shift, scale = self._shift_and_scale(condition, dtype)
            if self._in_one_read(hidden, condition):
                return self._read_once(hidden, shift, scale)
            x = self._normalize(hidden.to(dtype))
            if shift is not None and scale is not None:
                x = x * (1 + scale.unsqueeze(-2)) + shift.unsqueeze(-2)
            if self.embedding is not None:
                x = x + self._embedded(tokens, x)
        if self.mlp is not None:
            x = self.mlp(x if torch.is_autocast_enabled(x.device.type) else x.to(_dtype(self.mlp, dtype)))
        with torch.autocast(hidden.device.type, enabled=False):
            return _project(self.out, x, dtype).squeeze(-1)

    def probability(self, hidden: Tensor, condition: Tensor | None = None, tokens: Tensor | None = None) -> Tensor:
        """``sigmoid(forward(...))``: the quality in (0, 1), ``[..., L]``."""
        return torch.sigmoid(self(hidden, condition, tokens))

    def _embedded(self, tokens: Tensor | None, states: Tensor) -> Tensor:
        """``[..., L, D]`` in the states' dtype."""
        assert self.embedding is not None
        if not isinstance(tokens, Tensor):
            raise TypeError(
                f"tokens: this head was made with vocab_size={self.embedding.num_embeddings} and needs the tokens "
                f"being judged, got {type(tokens).__name__}"
            )
        if tokens.shape != states.shape[:-1] or tokens.dtype != torch.int64:
            raise ValueError(
                f"tokens: expected int64 {list(states.shape[:-1])}, got {tokens.dtype} {list(tokens.shape)}"
            )
        return self.embedding(tokens).to(states.dtype)

    def _in_one_read(self, hidden: Tensor, condition: Tensor | None) -> bool:
        """Whether ``ops.score_quality`` can do it: nothing to train, no MLP in between, no float64, plain layers."""
        if (
            self.mlp is not None
            or self.embedding is not None
            or hidden.device.type != "cpu"
            or hidden.dim() < 2
            or hidden.stride(-1) != 1
        ):
            return False
        if not is_plain(self.out, nn.Linear) or not (self.norm is None or is_plain(self.norm, *_NORM_LAYERS)):
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
        if not is_plain(self.norm, *_NORM_LAYERS):  # an adapter, a hook: it knows what it does
            return self.norm(x.to(_dtype(self.norm, x.dtype))).to(x.dtype)
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
        shift, scale = _project(self.modulation, condition, dtype).chunk(2, dim=-1)
        return shift, scale

    def save(self, path: str | PathLike[str], *, state_dict: dict[str, Tensor] | None = None) -> None:
        """Write weights and settings to one safetensors file; of a directory, to ``quality_head.safetensors`` in it.

        Args:
            path: of the file, or of a directory that exists.
            state_dict: the weights, where they have been gathered already; by default its own.

        Raises:
            ImportError: without the safetensors package.
        """
        weights = self.state_dict() if state_dict is None else state_dict
        tensors = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
        _safetensors().save_file(tensors, _file(path), metadata={"quality_head": json.dumps(self.settings)})

    @classmethod
    def load(cls, path: str | PathLike[str], *, device: torch.device | str = "cpu") -> QualityHead:
        """The head that :meth:`save` wrote, or :meth:`ModelWithQuality.save_pretrained` to a directory; its dtypes too.

        Raises:
            ImportError: without the safetensors package.
            ValueError: the file holds no quality head.
        """
        with _safetensors().safe_open(_file(path), "pt", device=str(device)) as file:
            metadata = file.metadata() or {}
            if "quality_head" not in metadata:
                raise ValueError(f"path: {_file(path)} holds no quality head that QualityHead.save wrote")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        head = cls(**json.loads(metadata["quality_head"]))
        head.load_state_dict(tensors, assign=True)
        return head

    def save_pretrained(self, directory: str | PathLike[str]) -> Path:
        """Write ``quality_head.safetensors`` to a folder, which is made if need be; its path.

        Raises:
            ImportError: without the safetensors package.
        """
        Path(directory).mkdir(parents=True, exist_ok=True)
        self.save(directory)
        return Path(directory) / FILE_NAME

    @classmethod
    def from_pretrained(
        cls, name: str | PathLike[str], *, revision: str | None = None, device: torch.device | str = "cpu"
    ) -> QualityHead:
        """The head of a folder, or of a repository ``owner/name`` on the Hugging Face hub.

        Args:
            name: a folder or file that :meth:`save` wrote; else, with huggingface_hub installed, a repository.
            revision: of the repository.
            device: where the head goes.

        Raises:
            FileNotFoundError: there is none.
            ImportError: without the safetensors package, or a repository without huggingface_hub.
            ValueError: the file holds no quality head.
        """
        return cls.load(_hub.located(name, FILE_NAME, revision), device=device)


def _size(name: str, value: object) -> int:
    return _checks.integer(name, value, minimum=1, what="a positive size", expected="a whole number")


def _file(path: str | PathLike[str]) -> Path:
    return Path(path) / FILE_NAME if Path(path).is_dir() else Path(path)


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ImportError as error:
        raise ImportError("a quality head is a safetensors file: pip install safetensors") from error
    return safetensors.torch


def _dtype(layer: nn.Module, otherwise: torch.dtype) -> torch.dtype:
    """Of the layer's first parameter that has a floating one."""
    return next((p.dtype for p in layer.parameters() if p.is_floating_point()), otherwise)


def _project(layer: nn.Module, x: Tensor, dtype: torch.dtype) -> Tensor:
    """``layer(x)`` in ``dtype`` where the layer is plain; another one (an adapter, a hook) decides itself."""
    if not is_plain(layer, nn.Linear):
        return layer(x.to(_dtype(layer, dtype))).to(dtype)
    return F.linear(x.to(dtype), layer.weight.to(dtype), layer.bias.to(dtype))
