"""Published samplers as combinations of parts, by family: each names its paper, its settings, and nothing else."""

from .ancestral import MDLM, ReMDM
from .llada import LLaDA
from .preset import Preset
from .prism import PRISM, BlockPRISM
from .proseco import BlockProSeCo, ProSeCo

__all__ = ["MDLM", "PRISM", "BlockPRISM", "BlockProSeCo", "LLaDA", "Preset", "ProSeCo", "ReMDM"]
