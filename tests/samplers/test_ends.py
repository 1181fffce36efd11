"""An end of sequence ends a row, and what was generated after it becomes the end, whatever else ended the row."""

import pytest
import torch
from combinations import MASK, PRESETS, canvas
from toys import Toy

from mdmcorrect.samplers import FixedSteps, LLaDA
from mdmcorrect.samplers import engine as engine_module

EOS = 5


@pytest.fixture(params=["native", "parts"])
def road(request, monkeypatch):
    if request.param == "parts":
        monkeypatch.setattr(engine_module, "plan_of", lambda engine: None)


def says_the_end_last(tokens):
    """The end at column 3, the least sure of all; 2 before it, 3 after it."""
    logits = torch.zeros(*tokens.shape, 12)
    logits[:, :3, 2], logits[:, 4:, 3], logits[:, 3, EOS] = 8, 9, 4
    return logits


@pytest.mark.parametrize("steps", [1, 2, 8])
def test_the_step_that_fills_the_last_mask_makes_the_end_count(steps, road):
    tokens = torch.full((2, 8), MASK)
    tokens[1, 6] = 7  # given
    result = LLaDA(steps=steps)(says_the_end_last, tokens, mask_id=MASK, eos_id=EOS)
    assert result.tokens.tolist() == [[2, 2, 2, 5, 5, 5, 5, 5], [2, 2, 2, 5, 5, 5, 7, 5]]
    fixed = FixedSteps(LLaDA(steps=steps), says_the_end_last, mask_id=MASK, eos_id=EOS)(tokens, seed=0)
    assert torch.equal(fixed.tokens, result.tokens)


def test_so_does_the_step_that_fills_what_is_left(road):
    """Rows that have used their steps are filled by the argmax."""
    sampler = PRESETS["mdlm"].parts()
    tokens = torch.full((4, 8), MASK)
    result = sampler(says_the_end_last, tokens, mask_id=MASK, eos_id=EOS, seed=1)
    one_step = type(sampler)(steps=1, plan=sampler.plan)(says_the_end_last, tokens, mask_id=MASK, eos_id=EOS, seed=1)
    for run in (result, one_step):
        assert (run.tokens[:, 3:] == EOS).all()


@pytest.mark.parametrize("name", PRESETS)
def test_of_every_preset(name, road):
    seen = 0
    for seed in range(4):
        tokens = canvas()
        result = PRESETS[name](Toy(scale=3.0), tokens, mask_id=MASK, eos_id=[EOS, 2], seed=seed)
        generated = tokens == MASK
        for row, own in zip(result.tokens, generated, strict=True):
            written = row[own]
            ends = ((written == EOS) | (written == 2)).nonzero().flatten().tolist()
            if ends and not (written[: ends[0]] == MASK).any():
                seen += ends[0] + 1 < len(written)
                assert (written[ends[0] + 1 :] == EOS).all()
    assert seen
