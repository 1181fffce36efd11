"""Published samplers as combinations of parts, by family: each names its paper, its settings, and nothing else."""

from .ancestral import DFM, MDLM, FirstHitting, ForwardBackward, InformedCorrector, ReMDM
from .dream import Dream
from .image import MaskGIT, TokenCritic
from .learned import GIDD, LearnedOrder
from .llada import LLaDA
from .llada2 import LLaDA2, LLaDA21
from .parallel import EntropyBounded, FastDLLM
from .planner import P2, P2Plus
from .preset import Preset
from .prism import PRISM, BlockPRISM
from .proseco import BlockProSeCo, ProSeCo

__all__ = [
    "DFM",
    "GIDD",
    "MDLM",
    "P2",
    "PRISM",
    "BlockPRISM",
    "BlockProSeCo",
    "Dream",
    "EntropyBounded",
    "FastDLLM",
    "FirstHitting",
    "ForwardBackward",
    "InformedCorrector",
    "LLaDA",
    "LLaDA2",
    "LLaDA21",
    "LearnedOrder",
    "MaskGIT",
    "P2Plus",
    "Preset",
    "ProSeCo",
    "ReMDM",
    "TokenCritic",
]
