"""The operators: the work around a masked diffusion model's forward pass.

Each is one function here, one kernel per device in the compiled library, and one short function of the same name in
:mod:`mdmcorrect.reference`. They run on tensors where they are, never wait for a device, and work under
``torch.compile``.
"""

from mdmcorrect.ops.remask_step import remask_step
from mdmcorrect.ops.score_tokens import TokenScores, score_tokens
from mdmcorrect.ops.select_positions import select_positions

__all__ = ["TokenScores", "remask_step", "score_tokens", "select_positions"]
