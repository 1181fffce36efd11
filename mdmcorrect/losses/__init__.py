"""Losses that teach a masked diffusion model to correct itself: functions, and the parts they are made of.

Each function has a form that calls the model, one that takes logits, and one that takes hidden states and never makes
logits. Another loss is an :class:`Objective` of one's own parts.
"""

import mdmcorrect._requires_torch

from .corruption import Corruption, State
from .ddpp import LogPartition, ddpp_loss
from .hybrid import Confidence, Gidd, Hybrid, Scdd, WrongTokens
from .infill import Infill, InfillDecoder, TeacherForced
from .look_back import AncestralStep, LookBack
from .masking import Roles, count_items, mask_tokens
from .mdlm import mdlm_loss, mdlm_loss_from_hidden, mdlm_loss_from_logits
from .objective import Objective, ObjectiveModule, Term
from .orders import LearnedOrder, Orders, OrderWeights
from .outputs import LossOutput
from .prism import prism_inputs, prism_inputs_from_hidden, prism_loss, prism_loss_from_logits
from .proseco import (
    corrector_inputs,
    corrector_inputs_from_hidden,
    proseco_loss,
    proseco_loss_from_hidden,
    proseco_loss_from_logits,
)
from .reader import Reader, Run, Said
from .reading import Reading
from .rollout import Rollout
from .sources import Given, Inputs, JointDraw, ModelOutput, PrismInputs, Source
from .targets import Correct, Denoise, Right, Target

__all__ = [
    "AncestralStep",
    "Confidence",
    "Correct",
    "Corruption",
    "Denoise",
    "Gidd",
    "Given",
    "Hybrid",
    "Infill",
    "InfillDecoder",
    "Inputs",
    "JointDraw",
    "LearnedOrder",
    "LogPartition",
    "LookBack",
    "LossOutput",
    "ModelOutput",
    "Objective",
    "ObjectiveModule",
    "OrderWeights",
    "Orders",
    "PrismInputs",
    "Reader",
    "Reading",
    "Right",
    "Roles",
    "Rollout",
    "Run",
    "Said",
    "Scdd",
    "Source",
    "State",
    "Target",
    "TeacherForced",
    "Term",
    "WrongTokens",
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
