"""Samplers: one loop, named parts, and the published methods as combinations of them."""

from .ancestral import Ancestral, Draws, JumpTimes
from .correct import Correct, FixedPoint
from .counts import CeilTarget, CountRule, EntropyBound, EvenSplit, Factor, RoundedGrid, Threshold, TimeGrid
from .informed import Informed, Resample
from .plan import Counts, Intent, Plan, UnmaskThenRemask, Update, WholeRow
from .pool import FixedOrder, Kappa, Keep, Noise, Pool
from .presets import (
    DFM,
    GIDD,
    MDLM,
    P2,
    PRISM,
    BlockPRISM,
    BlockProSeCo,
    Dream,
    EntropyBounded,
    FastDLLM,
    FirstHitting,
    ForwardBackward,
    InformedCorrector,
    LearnedOrder,
    LLaDA,
    MaskGIT,
    P2Plus,
    Preset,
    ProSeCo,
    ReMDM,
    TokenCritic,
)
from .remask import Binomial, Centred, Constant, Remask, RemaskCount
from .result import SampleResult, StepEvent
from .review import Review
from .sampler import Sampler
from .scoring import Scores, Scoring
from .sigma import Cap, Confidence, Detour, During, Moment, Plateau, Rescale, Sigma, Straight
from .state import State
from .unmask import Unmask
from .window import Blocks, View

__all__ = [
    "DFM",
    "GIDD",
    "MDLM",
    "P2",
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
    "Detour",
    "Draws",
    "Dream",
    "During",
    "EntropyBound",
    "EntropyBounded",
    "EvenSplit",
    "Factor",
    "FastDLLM",
    "FirstHitting",
    "FixedOrder",
    "FixedPoint",
    "ForwardBackward",
    "Informed",
    "InformedCorrector",
    "Intent",
    "JumpTimes",
    "Kappa",
    "Keep",
    "LLaDA",
    "LearnedOrder",
    "MaskGIT",
    "Moment",
    "Noise",
    "P2Plus",
    "Plan",
    "Plateau",
    "Pool",
    "Preset",
    "ProSeCo",
    "ReMDM",
    "Remask",
    "RemaskCount",
    "Resample",
    "Rescale",
    "Review",
    "RoundedGrid",
    "SampleResult",
    "Sampler",
    "Scores",
    "Scoring",
    "Sigma",
    "State",
    "StepEvent",
    "Straight",
    "Threshold",
    "TimeGrid",
    "TokenCritic",
    "Unmask",
    "UnmaskThenRemask",
    "Update",
    "View",
    "WholeRow",
]
