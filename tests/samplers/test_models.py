"""The forms of model a sampler understands."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mdmcorrect.heads import QualityHead, attach
from mdmcorrect.model import Output, SigmaDenoiser
from mdmcorrect.samplers import MDLM, PRISM, LLaDA
from mdmcorrect.schedules import LogLinear

MASK, V = 7, 8


def tokens(batch=3, length=10):
    filled = torch.full((batch, length), MASK)
    filled[:, 0] = torch.arange(batch)
    return filled


def logits_of(tokens):
    return ((tokens[:, :1, None] * 5 + torch.arange(tokens.shape[1])[:, None] * 3 + torch.arange(V)) % 11).float()


class Named(nn.Module):
    def forward(self, tokens, attention_mask=None, position_ids=None, condition=None):
        self.seen = (attention_mask, position_ids, condition)
        return SimpleNamespace(logits=logits_of(tokens))


class Greedy(nn.Module):
    def forward(self, tokens, request):
        assert request.wanted.shape == tokens.shape
        assert (tokens[request.wanted] == MASK).all()
        return Output(logits_of(tokens))


def test_every_form_gives_the_same_tokens():
    forms = [
        logits_of,
        lambda tokens: Output(logits_of(tokens)),
        lambda tokens: {"logits": logits_of(tokens)},
        lambda tokens, request: logits_of(tokens),
        lambda tokens, *, request: Output(logits_of(tokens)),
        Named(),
        Greedy(),
        SigmaDenoiser(lambda tokens, sigma: logits_of(tokens)),
    ]
    expected = LLaDA(steps=3)(forms[0], tokens(), mask_id=MASK).tokens
    for form in forms[1:]:
        assert torch.equal(LLaDA(steps=3)(form, tokens(), mask_id=MASK).tokens, expected)


def test_padding_reaches_models_that_name_it():
    model = Named()
    attention_mask = torch.ones(3, 10, dtype=torch.bool)
    attention_mask[1, :4] = False
    LLaDA(steps=3)(model, tokens(), mask_id=MASK, attention_mask=attention_mask)
    assert torch.equal(model.seen[0], attention_mask)
    assert model.seen[1][1].tolist() == [0, 0, 0, 0, 0, 1, 2, 3, 4, 5]
    LLaDA(steps=3)(model, tokens(), mask_id=MASK)
    assert model.seen == (None, None, None)


def test_padding_a_model_cannot_see_is_refused():
    attention_mask = torch.ones(3, 10, dtype=torch.bool)
    attention_mask[1, :4] = False
    with pytest.raises(
        TypeError, match="attention_mask: was given to the sampler, but the model logits_of takes neither"
    ):
        LLaDA(steps=3)(logits_of, tokens(), mask_id=MASK, attention_mask=attention_mask)
    with pytest.raises(TypeError, match="condition: was given to the sampler, but the model logits_of takes neither"):
        LLaDA(steps=3)(logits_of, tokens(), mask_id=MASK, condition=torch.zeros(3))
    LLaDA(steps=3)(logits_of, tokens(), mask_id=MASK, attention_mask=torch.ones(3, 10).bool())  # nothing to see


def test_a_model_with_a_head_is_one_with_quality():
    class Backbone(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.out = nn.Embedding(V, 6), nn.Linear(6, V)

        def forward(self, tokens):
            hidden = self.embed(tokens)
            return SimpleNamespace(logits=self.out(hidden), hidden=hidden)

    torch.manual_seed(0)
    model = attach(Backbone(), QualityHead(6)).eval()
    result = PRISM(steps=9, remask_count=1)(model, tokens(), mask_id=MASK, history={"quality"})
    assert result.complete(MASK).all()
    assert result.history[3].scores["quality"].eq(0.5).all()  # an untrained head
    assert any(event.remasked.any() for event in result.history)


def test_a_sigma_denoiser_is_told_the_noise():
    told = []

    def net(tokens, sigma):
        told.append(sigma)
        return logits_of(tokens)

    MDLM(steps=4)(SigmaDenoiser(net), torch.full((1, 50), MASK), mask_id=MASK)
    times = torch.tensor([1.0, 0.75, 0.5, 0.25], dtype=torch.float64)
    times = 1 - (1 - 1e-5) * (1 - times)
    torch.testing.assert_close(torch.cat(told)[:4], LogLinear().sigma(times).float())
    told.clear()
    MDLM(steps=4)(SigmaDenoiser(net, time_conditioned=False), torch.full((1, 50), MASK), mask_id=MASK)
    assert torch.cat(told).eq(0).all()


def test_a_sigma_denoiser_is_told_the_rest_by_name():
    seen = {}

    def net(tokens, sigma, attention_mask=None, condition=None, position_ids=None):
        seen.update(mask=attention_mask, condition=condition, positions=position_ids)
        return logits_of(tokens)

    mask = torch.ones(3, 10, dtype=torch.bool)
    mask[1, :4] = False
    given = {"attention_mask": mask, "condition": torch.tensor([3, 4, 5])}
    LLaDA(steps=1)(SigmaDenoiser(net), tokens(), mask_id=MASK, **given)
    assert torch.equal(seen["mask"], mask)
    assert seen["condition"].tolist() == [3, 4, 5]
    assert seen["positions"][1].tolist() == [0, 0, 0, 0, 0, 1, 2, 3, 4, 5]
    for name, value in given.items():
        with pytest.raises(TypeError, match=f"{name}: was given to the sampler, but the model"):
            LLaDA(steps=1)(SigmaDenoiser(lambda x, sigma: logits_of(x)), tokens(), mask_id=MASK, **{name: value})


def test_a_request_tells_what_the_step_knows():
    requests = []

    def model(tokens, request):
        requests.append(request)
        return Output(logits_of(tokens), quality=torch.ones(tokens.shape))

    LLaDA(steps=9)(model, tokens(), mask_id=MASK)
    assert [request.step.tolist() for request in requests] == [[step] * 3 for step in range(9)]
    assert requests[3].time.tolist() == pytest.approx([6 / 9] * 3)
    assert requests[3].needs == frozenset()
    assert requests[3].batch.tolist() == [0, 1, 2]
    requests.clear()
    PRISM(steps=9, remask_count=1)(model, tokens(), mask_id=MASK)
    assert requests[0].needs == {"quality"}


def test_a_model_called_model_is_told_from_the_word():
    def model(tokens):
        return tokens

    with pytest.raises(ValueError, match=r"^model [\w.]*test_models\.model: expected logits"):
        LLaDA(steps=2)(model, torch.full((1, 4), 7), mask_id=7)
    with pytest.raises(TypeError, match=r"the model [\w.]*test_models\.model takes neither 'condition'"):
        LLaDA(steps=2)(model, torch.full((1, 4), 7), mask_id=7, condition=3)
