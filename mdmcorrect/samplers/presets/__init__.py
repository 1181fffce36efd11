"""Published samplers as combinations of parts, by family: each names its paper, its settings, and nothing else."""

from .ancestral import DFM, MDLM, FirstHitting, ForwardBackward, InformedCorrector, ReMDM
from .dream import Dream
from .image import MaskGIT, TokenCritic
from .learned import GIDD, LearnedOrder
from .llada import LLaDA
from .llada2 import LLaDA2, LLaDA21
from .parallel import KLASS, EntropyBounded, FastDLLM
from .planner import P2, P2Plus
from .preset import Preset
from .prism import PRISM, BlockPRISM
from .proseco import BlockProSeCo, ProSeCo
from .recent import EntropyCanvas, InfoGain, Tolerator
from .revise import NAVIRA, WINO, CoRe, HistoryRemasking, MDiff4STR, RemeDi

__all__ = [
    "DFM",
    "GIDD",
    "KLASS",
    "MDLM",
    "NAVIRA",
    "P2",
    "PRISM",
    "WINO",
    "BlockPRISM",
    "BlockProSeCo",
    "CoRe",
    "Dream",
    "EntropyBounded",
    "EntropyCanvas",
    "FastDLLM",
    "FirstHitting",
    "ForwardBackward",
    "HistoryRemasking",
    "InfoGain",
    "InformedCorrector",
    "LLaDA",
    "LLaDA2",
    "LLaDA21",
    "LearnedOrder",
    "MDiff4STR",
    "MaskGIT",
    "P2Plus",
    "Preset",
    "ProSeCo",
    "ReMDM",
    "RemeDi",
    "TokenCritic",
    "Tolerator",
]
