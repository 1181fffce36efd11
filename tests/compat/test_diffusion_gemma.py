"""mdmcorrect.compat.diffusion_gemma: a recorded run of the original, and the original itself where it is installed."""

import importlib
from types import SimpleNamespace

import pytest
import torch
from hash_model import HashModel
from recorded import cases

from mdmcorrect import compat
from mdmcorrect.compat import diffusion_gemma

ORIGINAL = "transformers.models.diffusion_gemma.generation_diffusion_gemma"


@pytest.mark.parametrize("case", cases("diffusion_gemma"))
def test_a_canvas_goes_as_recorded(case):
    """Eight steps at the model's temperatures, from 0.8 to 0.4; the draws are torch's, as there."""
    accepted, model = [], HashModel(case["model"])
    config = SimpleNamespace(**case["kwargs"])
    vocab = case["model"]["V"]
    torch.manual_seed(case["seed"])
    sampler = diffusion_gemma.EntropyBoundSampler(config, 16, vocab, 8)
    canvas = sampler.initialize_canvas(2, torch.device("cpu"))
    for step in range(8, 0, -1):
        logits = model(canvas) / (0.4 + 0.4 * step / 8)
        drawn = torch.multinomial(logits.softmax(-1).view(-1, vocab), 1).view(2, 16)
        canvas = sampler.accept_canvas(canvas, drawn, logits, step)
        accepted.append(sampler.accepted_token_mask.int().tolist())
        canvas = sampler.renoise_canvas(canvas, step)
    assert [canvas.tolist(), accepted] == case["output"]


LOGITS = 4 * torch.randn(3, 7, 11, generator=torch.Generator().manual_seed(0))


def entropy(logits):
    return torch.distributions.Categorical(logits=logits.double()).entropy()


@pytest.mark.parametrize("bound", [1e-6, 0.3, 2.0, 99.0])
def test_what_is_accepted_stays_within_the_bound(bound):
    sampler = diffusion_gemma.EntropyBoundSampler(SimpleNamespace(entropy_bound=bound), 7, 11, 4)
    current, drawn = torch.zeros(3, 7, dtype=torch.int64), torch.full((3, 7), 9)
    canvas = sampler.accept_canvas(current, drawn, LOGITS, 1)
    for row, values in enumerate(entropy(LOGITS)):
        taken = values[sampler.accepted_token_mask[row]]
        assert len(taken) >= 1
        assert taken.sum() - taken.max() <= bound
        left = values[~sampler.accepted_token_mask[row]]
        assert not len(left) or (left.min() >= taken.max() and taken.sum() > bound)
    assert torch.equal(canvas == 9, sampler.accepted_token_mask)
    torch.manual_seed(4)
    again = sampler.renoise_canvas(canvas, 1)
    assert torch.equal(again[sampler.accepted_token_mask], canvas[sampler.accepted_token_mask])
    torch.manual_seed(4)
    random = sampler.initialize_canvas(3, torch.device("cpu"))
    assert torch.equal(again[~sampler.accepted_token_mask], random[~sampler.accepted_token_mask])


def test_a_row_stops_when_it_is_stable_and_sure():
    sure, unsure = LOGITS[:1] * 50, LOGITS[:1]
    logits, canvas = torch.cat([sure, unsure, sure]), LOGITS.argmax(-1)
    moving = canvas.clone()
    moving[2, 0] += 1
    stop = diffusion_gemma.StableAndConfidentStoppingCriteria(2, 0.1)
    answers = [stop(each, logits).tolist() for each in (canvas, canvas, moving, moving, moving)]
    assert answers == [[False] * 3, [False] * 3, [True, False, False], [True, False, False], [True, False, True]]
    stop.reset()
    assert stop(moving, logits).tolist() == [False] * 3
    assert diffusion_gemma.StableAndConfidentStoppingCriteria(0, 0.1)(canvas, logits).tolist() == [True, False, True]


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r"config\.entropy_bound: expected"):
        diffusion_gemma.EntropyBoundSampler(SimpleNamespace(entropy_bound=-1.0), 7, 11, 4)
    sampler = diffusion_gemma.EntropyBoundSampler(SimpleNamespace(entropy_bound=1.0), 7, 11, 4)
    with pytest.raises(ValueError, match="accepted_canvas: expected one that accept_canvas returned"):
        sampler.renoise_canvas(torch.zeros(1, 7, dtype=torch.int64), 1)


def test_the_installed_original_does_the_same_and_takes_ours():
    original = pytest.importorskip(ORIGINAL)
    config = original.EntropyBoundSamplerConfig(entropy_bound=0.3)
    pairs = [(getattr(original, name), getattr(diffusion_gemma, name)) for name in diffusion_gemma.REPLACES]
    samplers = [kind(config, 7, 11, 4) for kind in pairs[0]]
    stops = [kind(1, 2.0) for kind in pairs[1]]
    current, drawn = LOGITS.argmin(-1), LOGITS.argmax(-1)
    for dtype in (torch.float32, torch.bfloat16):
        logits = LOGITS.to(dtype)
        outcomes = []
        for sampler, stop in zip(samplers, stops, strict=True):
            torch.manual_seed(1)
            accepted = sampler.accept_canvas(current, drawn, logits, 3)
            outcomes.append((accepted, sampler.renoise_canvas(accepted, 3), stop(drawn, logits), stop(drawn, logits)))
        assert all(torch.equal(*both) for both in zip(*outcomes, strict=True))
    with compat.patch("diffusion_gemma") as done:
        module = importlib.import_module(ORIGINAL)
        assert module.EntropyBoundSampler is diffusion_gemma.EntropyBoundSampler
        assert len(done.replaced) >= 2
