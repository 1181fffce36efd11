"""Samplers on a device: the CPU's tokens from end to end; with fixed steps no waiting and one CUDA graph."""

from __future__ import annotations

import combinations
import pytest
import torch
from combinations import MASK, canvas
from devices import Captured, no_synchronisation
from test_fixed_steps import model
from toys import Toy

from mdmcorrect.samplers import MDLM, PRISM, FixedSteps, LLaDA

PRESETS = {
    "llada": LLaDA(steps=6, block_length=4, temperature=0.7),
    "mdlm": MDLM(steps=6),
    "prism": PRISM(steps=6, remask_count=2),
}
each_preset = pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)


@each_preset
def test_a_run_waits_for_nothing(preset, device):
    run = FixedSteps(preset, model, mask_id=MASK)
    tokens, seed = canvas(3, 12).to(device), torch.arange(3, device=device)
    run(tokens, seed=seed)  # loads the kernels
    with no_synchronisation(device):
        tokens = run(tokens, seed=seed).tokens
    assert not (tokens == MASK).any()


@each_preset
def test_a_run_is_one_graph(preset, device):
    """Replayed for another canvas and other seeds, which are written where the first ones were."""
    run = FixedSteps(preset, model, mask_id=MASK)
    tokens, seed = canvas(3, 12).to(device), torch.arange(3, device=device)

    def call():
        state = run(tokens, seed=seed)
        return {"tokens": state.tokens, "nfe": state.nfe}

    captured = Captured(call, device)
    tokens[1, 6], tokens[2, 8] = MASK, 3
    seed += 5
    expected = call()
    for name, value in captured.replay().items():
        assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize("preset", combinations.PRESETS.values(), ids=combinations.PRESETS)
def test_a_run_is_the_cpus_run(preset, device):
    """The model is integer arithmetic, so logits are equal; none of a few hundred draws should be a near tie."""
    expected = preset(Toy(), canvas(), mask_id=MASK, seed=7)
    result = preset(Toy(), canvas().to(device), mask_id=MASK, seed=7)
    assert result.tokens.device == device
    assert torch.equal(result.tokens.cpu(), expected.tokens)
    assert result.nfe.tolist() == expected.nfe.tolist()
    assert result.steps.tolist() == expected.steps.tolist()
