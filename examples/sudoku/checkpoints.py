"""Checkpoints as safetensors: the weights, the model's sizes, and the command that made them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from mdmcorrect.heads import QualityHead, attach

from .files import replacing
from .model import SudokuConfig, SudokuTransformer

__all__ = ["SHIPPED", "build", "load_checkpoint", "read_provenance", "save_checkpoint"]

SHIPPED = Path(__file__).parent / "checkpoints"


def build(config: SudokuConfig, *, quality: bool = False) -> nn.Module:
    """A new model, with a PRISM head on its hidden states if `quality`."""
    model = SudokuTransformer(config)
    if not quality:
        return model
    return attach(model, QualityHead(config.width, mlp_hidden=config.width))


def save_checkpoint(path: Path, model: nn.Module, provenance: dict[str, Any]) -> None:
    """Write `model` (with or without a head) and a JSON-able `provenance` to `path`."""
    from safetensors.torch import save_file

    backbone = _backbone(model)
    metadata = {
        "config": json.dumps(backbone.config.to_dict()),
        "quality": json.dumps(backbone is not model),
        "provenance": json.dumps(provenance),
    }
    with replacing(path) as whole:
        save_file({name: value.contiguous() for name, value in model.state_dict().items()}, whole, metadata=metadata)


def load_checkpoint(path: Path, *, quality: bool | None = None, sees_givens: bool | None = None) -> nn.Module:
    """The model of a checkpoint in eval mode.

    Args:
        quality, sees_givens: None restores what was saved; True adds an untrained head, or an untrained mark of givens,
            to a checkpoint that has none; False drops them.

    Raises:
        FileNotFoundError: there is no such file.
    """
    from safetensors import safe_open
    from safetensors.torch import load_file

    if not path.exists():
        raise FileNotFoundError(f"no checkpoint at {path}; examples/sudoku/README.md has the commands that make one")
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    config, has_head = SudokuConfig(**json.loads(metadata["config"])), json.loads(metadata["quality"])
    saved = build(config, quality=has_head)
    saved.load_state_dict(load_file(path))
    quality = has_head if quality is None else quality
    wanted = config if sees_givens is None else replace(config, sees_givens=sees_givens)
    if (quality, wanted) == (has_head, config):
        return saved.eval()
    model = build(wanted, quality=quality)
    # Not strict: a head or a mark of givens that the checkpoint lacks stays as made, one too many is left behind.
    target, source = (model, saved) if quality == has_head else (_backbone(model), _backbone(saved))
    target.load_state_dict(source.state_dict(), strict=False)
    return model.eval()


def read_provenance(path: Path) -> dict[str, Any]:
    """What `save_checkpoint` was told: the command, its arguments, and the steps and seconds they took."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["provenance"])


def _backbone(model: nn.Module) -> SudokuTransformer:
    backbone = model if isinstance(model, SudokuTransformer) else model.model
    assert isinstance(backbone, SudokuTransformer)
    return backbone
