"""The operators: the work around a masked diffusion model's forward pass.

Each is one function here, one kernel per device in the compiled library, and one short function of the same name in
:mod:`mdmcorrect.reference`. They run on tensors where they are, never wait for a device, and work under
``torch.compile``.
"""

from mdmcorrect import _native

_native.load()  # before anything here imports torch: what is missing is then said in one sentence

from mdmcorrect.ops.attention_backend import AttentionBackend, attention_backend  # noqa: E402
from mdmcorrect.ops.bidirectional_attention import bidirectional_attention  # noqa: E402
from mdmcorrect.ops.count_positions import count_positions  # noqa: E402
from mdmcorrect.ops.linear_cross_entropy import linear_cross_entropy  # noqa: E402
from mdmcorrect.ops.remask_step import remask_step  # noqa: E402
from mdmcorrect.ops.score_hidden import score_hidden  # noqa: E402
from mdmcorrect.ops.score_quality import score_quality  # noqa: E402
from mdmcorrect.ops.score_tokens import TokenScores, score_tokens  # noqa: E402
from mdmcorrect.ops.select_positions import select_positions  # noqa: E402

__all__ = [
    "AttentionBackend",
    "TokenScores",
    "attention_backend",
    "bidirectional_attention",
    "count_positions",
    "linear_cross_entropy",
    "remask_step",
    "score_hidden",
    "score_quality",
    "score_tokens",
    "select_positions",
]
