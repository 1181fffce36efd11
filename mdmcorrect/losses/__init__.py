"""Losses that teach a masked diffusion model to correct itself, each with a form that calls the model, one that takes
logits, and one that takes hidden states and never makes logits."""

import mdmcorrect._requires_torch

from .ddpp import LogPartition, ddpp_loss
from .masking import count_items, mask_tokens
from .mdlm import mdlm_loss, mdlm_loss_from_hidden, mdlm_loss_from_logits
from .outputs import LossOutput
from .prism import PrismInputs, prism_inputs, prism_inputs_from_hidden, prism_loss, prism_loss_from_logits
from .proseco import (
    corrector_inputs,
    corrector_inputs_from_hidden,
    proseco_loss,
    proseco_loss_from_hidden,
    proseco_loss_from_logits,
)

__all__ = [
    "LogPartition",
    "LossOutput",
    "PrismInputs",
    "corrector_inputs",
    "corrector_inputs_from_hidden",
    "count_items",
    "ddpp_loss",
    "mask_tokens",
    "mdlm_loss",
    "mdlm_loss_from_hidden",
    "mdlm_loss_from_logits",
    "prism_inputs",
    "prism_inputs_from_hidden",
    "prism_loss",
    "prism_loss_from_logits",
    "proseco_loss",
    "proseco_loss_from_hidden",
    "proseco_loss_from_logits",
]
