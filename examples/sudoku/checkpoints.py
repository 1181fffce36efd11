"""Checkpoints as safetensors: the weights, the model's sizes, and the command that made them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import nn

from mdmcorrect.heads import QualityHead, attach

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
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, path, metadata=metadata)


def load_checkpoint(path: Path, *, quality: bool | None = None) -> nn.Module:
    """The model of a checkpoint in eval mode.

    Args:
        quality: None restores what was saved; True adds an untrained head to a checkpoint that has none; False drops
            the head.

    Raises:
        FileNotFoundError: there is no such file.
    """
    from safetensors import safe_open
    from safetensors.torch import load_file

    if not path.exists():
        raise FileNotFoundError(f"no checkpoint at {path}; examples/sudoku/README.md has the commands that make one")
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    config, saved_quality = SudokuConfig(**json.loads(metadata["config"])), json.loads(metadata["quality"])
    model = build(config, quality=saved_quality)
    model.load_state_dict(load_file(path))
    if quality is False:
        model = _backbone(model)
    elif quality and not saved_quality:
        with_head = build(config, quality=True)
        _backbone(with_head).load_state_dict(model.state_dict())
        model = with_head
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
