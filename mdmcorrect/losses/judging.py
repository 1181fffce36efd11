"""The forward of PRISM's loss that is judged: its quality, with the head inside the forward wherever it can be."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ..wrappers import unwrapped
from .averaging import averagers, check_waiting, covered
from .output_layer import model_hidden
from .outputs import ask_head, read_condition, read_field, read_hidden

Head = Callable[..., Tensor]


class Judge:
    """How the quality of a forward comes about.

    An attached model (``heads.attach``) asks its head in its own forward, which DDP, FSDP and compilers then see whole;
    a frozen backbone is detached within it. Any other model gives hidden states, to which the head is applied here.

    Args:
        model: as the loss got it.
        head: likewise; None for the model's own.
        train_backbone: whether hidden states have a gradient.
        train_logits: whether the loss uses a gradient of the model's logits.

    Raises:
        TypeError: no head.
        ValueError: a wrapper of the model would wait for gradients that do not come, or not see those that do.
    """

    def __init__(self, model: Any, head: Head | None, *, train_backbone: bool, train_logits: bool) -> None:
        self.train_backbone, self.train_logits = train_backbone, train_logits
        model = judged_model(model)
        self.model, self.attached = model, _attached(model, head)
        self.head = getattr(unwrapped(model), "quality_head", None) if head is None else head
        if isinstance(self.head, type):
            raise TypeError(f"head: {_EXPECTED}, got the class {self.head.__name__}")
        if self.head is not None and not callable(self.head):
            raise TypeError(f"head: {_EXPECTED}, got {type(self.head).__name__}")
        if self.head is None and not train_backbone:
            raise TypeError(
                f"head: {_EXPECTED}; with train_backbone=False the states are detached within that model, and "
                f"{type(model).__name__} is no wrapper that can be seen through"
            )
        learns = covered(self.head) if isinstance(self.head, nn.Module) else set()
        if not train_backbone and self.attached is None and any(learns & covered(each) for each in averagers(model)):
            raise ValueError(
                "head: is part of a model whose wrapper averages what its own forward computes, and would be asked "
                "outside of it; use heads.attach(backbone, head) and wrap that"
            )

    @property
    def reads_states(self) -> bool:
        """Whether the forward's hidden states are read, the head being outside of it."""
        return self.attached is None and self.head is not None

    def __call__(self, forward: Callable[[], Any], tokens: Tensor, output_layer: Any) -> tuple[Any, Tensor]:
        """Output and quality logits of the forward of ``tokens``, which is run here."""
        if self.attached is not None:
            with self.attached.judging(train_backbone=self.train_backbone, train_logits=self.train_logits):
                output = forward()
            logit = read_field(output, "quality_logit")
            if not isinstance(logit, Tensor):
                raise TypeError("model: has an attached head, but its output no quality_logit")
            if not self.train_logits:
                told = "mdlm_weight: 0" if self.train_backbone else "train_backbone: False"
                check_waiting(self.model, logit, told)
            return output, logit
        with nullcontext() if self.train_backbone else torch.no_grad():
            output = forward()
        return output, read_quality(output, tokens, self.head, output_layer)


def read_quality(output: Any, tokens: Tensor, head: Head | None, output_layer: Any) -> Tensor:
    """Quality logits of an answer to ``tokens``: its own, or the head's on its hidden states."""
    if head is None:
        logit = None if isinstance(output, Tensor) else read_field(output, "quality_logit")
        if not isinstance(logit, Tensor):
            raise TypeError(f"head: {_EXPECTED}")
        return logit
    hidden = read_hidden(output) if output_layer is None else model_hidden(output)
    return ask_head(head, hidden, None if isinstance(output, Tensor) else read_condition(output), tokens)


def judged_model(model: Any) -> Any:
    """The model to run for a quality: without the adapters that only change logits, which nobody reads then."""
    from ..adapters import RightShifted, Steered

    while isinstance(model, (RightShifted, Steered)):
        model = model.model.model
    return model


_EXPECTED = "expected a callable (hidden, condition) -> logits, or a model made by heads.attach"


def _attached(model: Any, head: Head | None) -> Any:
    """The attached model in ``model`` whose own head is asked, or None."""
    from ..heads import ModelWithQuality  # which imports the losses' readers

    inner = unwrapped(model)
    for module in inner.modules() if isinstance(inner, nn.Module) else ():
        if isinstance(module, ModelWithQuality) and (head is None or head is module.quality_head):
            return module
    return None
