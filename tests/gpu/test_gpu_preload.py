"""A CUDA graph may capture an operator's very first call in a process, with and without what preload does."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.gpu

SCRIPT = """
import sys, torch, mdmcorrect
from mdmcorrect import ops
if sys.argv[1] == "preloaded":
    mdmcorrect.preload()
logits = torch.randn(3, 40, 1000).cuda()
seed = torch.arange(3).cuda()
k = torch.tensor([3, 0, 7]).cuda()
torch.cuda.synchronize()
graph = torch.cuda.CUDAGraph()
with torch.cuda.graph(graph):
    scores = ops.score_tokens(logits, temperature=1.0, top_p=0.9, seed=seed, want=("token", "logprob"))
    chosen = ops.select_positions(scores.logprob, k)
graph.replay()
expected = ops.score_tokens(logits, temperature=1.0, top_p=0.9, seed=seed, want=("token", "logprob"))
assert torch.equal(scores.token, expected.token)
assert chosen.sum(1).tolist() == [3, 0, 7]
"""


@pytest.mark.parametrize("how", ["preloaded", "cold"])
def test_a_first_call_is_captured(how):
    result = subprocess.run([sys.executable, "-c", SCRIPT, how], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
