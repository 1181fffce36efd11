"""A sampler's step outside the model: ours against what the authors' code computes, on LLaDA's vocabulary in bfloat16.

Ours scores the rows that theirs does; "needed rows" is ours as it is, which reads only what the step asks for. Floor:
moving the logits' bytes once. MDLM and ReMDM draw at temperature 1, as published; the others at 0 and 0.7.

The small sizes show what a step costs beside the vocabulary.

Beside the times: operators of torch that a step dispatches, questions to the host (waits, on a device), and the peak
of memory as a multiple of the logits. A case is left out where theirs would hold more than BUDGET.
"""

from __future__ import annotations

import functools

import pytest
import torch
from bench_score_tokens import VOCAB, make_logits
from counting import counted
from step_cases import contest

MASK = 126336
BUDGET = {"cpu": 4.5e9, "cuda": 70e9}  # bytes, the logits among them
SMALL = [(1, 64, 32), (1, 128, 32), (16, 64, 32), (1, 64, 1000)]  # Sudoku, proteins, molecules
SIZES = [*SMALL, *((batch, length, VOCAB) for length in (256, 1024) for batch in (1, 8))]
SAMPLERS = ["llada", "dream", "fast_dllm", "mdlm", "remdm", "p2", "proseco", "prism"]
CASES = [(name, temperature) for name in SAMPLERS for temperature in (0.0, 0.7)]
CASES = [case for case in CASES if case[0] not in ("mdlm", "remdm") or case[1] > 0]


@functools.lru_cache(maxsize=1)
def logits_of(batch: int, length: int, vocab: int, device: torch.device) -> torch.Tensor:
    logits = make_logits("peaked", batch * length, torch.bfloat16, device).reshape(batch, length, -1)[..., :vocab]
    logits[..., min(MASK, vocab - 1)] = -20.0  # what a trained model thinks of its mask
    return logits if vocab == logits.shape[-1] else logits.contiguous()


@pytest.mark.parametrize("size", SIZES, ids=lambda size: "x".join(map(str, size)))
@pytest.mark.parametrize(("name", "temperature"), CASES, ids=[f"{name}-{temperature}" for name, temperature in CASES])
def test_sampler_step(versus, timer, device, timed, measured, name, temperature, size):
    if not timed and size != SIZES[0]:
        pytest.skip("the smallest size shows that it runs")
    batch, length, vocab = size
    mask_id = min(MASK, vocab - 1)
    share = peak_share(name, temperature, timer) if timed else 0
    held = (1 + share) * batch * length * vocab * 2
    if held > BUDGET[device.type]:
        pytest.skip(f"theirs would hold {held / 1e9:.0f} GB")
    logits = logits_of(batch, length, vocab, device)
    steps = contest(name, temperature, logits, mask_id)
    versus(
        steps.same_rows,
        floor=timer.move(logits),
        peers={"theirs": steps.theirs, "needed rows": steps.ours},
        bytes_moved=logits.nbytes,
        memory=True,
    )
    ours, theirs = counted(steps.ours), counted(steps.theirs)
    beside = {
        "operators": (ours.operators, theirs.operators),
        "questions": (len(ours.waits), len(theirs.waits)),
    }
    peaks = measured.get("peak_bytes", {})
    if peaks.get("ours") is not None:
        beside["peak of the logits"] = tuple(round(1 + peaks[who] / logits.nbytes, 3) for who in ("ours", "theirs"))
    measured["beside"] = beside


@functools.cache
def peak_share(name: str, temperature: float, timer) -> float:
    """Bytes that theirs holds at its peak, over those of the logits; from 64 rows."""
    logits = logits_of(1, 64, VOCAB, timer.device)
    return (timer.peak_bytes(contest(name, temperature, logits, MASK).theirs) or 0) / logits.nbytes
