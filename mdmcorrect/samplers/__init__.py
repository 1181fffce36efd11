"""Samplers: one loop, named parts, and the published methods as combinations of them."""

from .ancestral import Ancestral, Cap, Confidence, Draws, Rescale, Sigma
from .correct import Correct, FixedPoint
from .plan import Counts, Intent, Plan, UnmaskThenRemask, Update
from .presets import MDLM, PRISM, BlockPRISM, BlockProSeCo, LLaDA, Preset, ProSeCo, ReMDM
from .remask import Binomial, Centred, Constant, Remask, RemaskCount
from .result import SampleResult, StepEvent
from .sampler import Sampler
from .scoring import Scores, Scoring
from .state import State
from .unmask import CeilTarget, CountRule, EvenSplit, Threshold, Unmask
from .window import Blocks, View

__all__ = [
    "MDLM",
    "PRISM",
    "Ancestral",
    "Binomial",
    "BlockPRISM",
    "BlockProSeCo",
    "Blocks",
    "Cap",
    "CeilTarget",
    "Centred",
    "Confidence",
    "Constant",
    "Correct",
    "CountRule",
    "Counts",
    "Draws",
    "EvenSplit",
    "FixedPoint",
    "Intent",
    "LLaDA",
    "Plan",
    "Preset",
    "ProSeCo",
    "ReMDM",
    "Remask",
    "RemaskCount",
    "Rescale",
    "SampleResult",
    "Sampler",
    "Scores",
    "Scoring",
    "Sigma",
    "State",
    "StepEvent",
    "Threshold",
    "Unmask",
    "UnmaskThenRemask",
    "Update",
    "View",
]
