"""Models around models, with models small enough to say what must come out."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from mdmcorrect.adapters import ConditionGuided, DualCache, Guided, PrefixCache, RightShifted
from mdmcorrect.model import Output
from mdmcorrect.samplers import Blocks, FastDLLM, LLaDA, ProSeCo

MASK = 11


def canvas():
    tokens = torch.full((3, 15), MASK)
    tokens[:, :3] = torch.tensor([[1, 2, 3], [4, 5, 6], [7, 8, 9]])
    return tokens


def context_logits(tokens, columns=None):
    """Logits that depend on all tokens and on the column."""
    columns = torch.arange(tokens.shape[1]) if columns is None else columns
    context = (tokens * 7919 % 1009).sum(1, keepdim=True) + columns * 31
    return ((context[..., None] * 65537 + torch.arange(12) * 40503) % 997 / 100).float()


def test_guidance_mixes_with_a_canvas_without_what_was_given():
    seen = []

    def model(tokens, request):
        seen.append((tokens.clone(), request))
        return Output(context_logits(tokens))

    guided = LLaDA(steps=4)(Guided(model, 1.5, keep=[5]), canvas(), mask_id=MASK)
    tokens, request = seen[0]
    assert tokens.shape == (6, 15)
    assert tokens[3:, :3].tolist() == [[MASK] * 3, [MASK, 5, MASK], [MASK] * 3]
    assert torch.equal(tokens[3:, 3:], tokens[:3, 3:])
    assert request.batch.tolist() == [0, 1, 2, 0, 1, 2]
    assert guided.nfe.tolist() == [8, 8, 8]
    assert guided.calls == 4

    def by_hand(tokens, request):
        bare = torch.where(request.fixed & (tokens != 5), MASK, tokens)
        uncond = context_logits(bare)
        return uncond + 2.5 * (context_logits(tokens) - uncond)

    assert torch.equal(guided.tokens, LLaDA(steps=4)(by_hand, canvas(), mask_id=MASK).tokens)


def test_a_kept_unconditional_half_is_refreshed_every_few_steps():
    rows = []

    def model(tokens):
        rows.append(len(tokens))
        return context_logits(tokens)

    result = LLaDA(steps=6)(Guided(model, 1.0, refresh=3), canvas(), mask_id=MASK)
    assert rows == [6, 3, 3, 6, 3, 3]
    assert result.nfe.tolist() == [8, 8, 8]
    with pytest.raises(ValueError, match="refresh: expected at least 1, got 0"):
        Guided(model, 1.0, refresh=0)


def test_shifted_logits_are_read_one_column_later():
    def model(tokens):
        logits = torch.zeros(*tokens.shape, 12)
        logits[:, torch.arange(15), torch.arange(15) % 10] = 5.0  # column j says j % 10, meant for j + 1
        return logits

    result = LLaDA(steps=2)(RightShifted(model), canvas(), mask_id=MASK)
    assert result.tokens[0, 3:].tolist() == [(j - 1) % 10 for j in range(3, 15)]


class Cached:
    """A model with keys and values: the tokens themselves."""

    def __init__(self):
        self.widths = []

    def __call__(self, tokens, past_key_values=None, use_cache=False, replace_position=None):
        self.widths.append(tokens.shape[1])
        full, columns = tokens, torch.arange(tokens.shape[1])
        if past_key_values is not None:
            cached = past_key_values[0][0][:, 0, :, 0]
            if replace_position is None:
                full, columns = torch.cat([cached, tokens], 1), columns + cached.shape[1]
            else:
                full = cached.masked_scatter(replace_position, tokens)
                columns = replace_position[0].nonzero().flatten()
        cache = full[:, None, :, None]
        return SimpleNamespace(logits=context_logits(full, columns), past_key_values=[(cache, cache)])


@pytest.mark.parametrize(("adapter", "width"), [(PrefixCache, [12, 8, 4]), (DualCache, [4, 4, 4])])
def test_a_cache_that_holds_everything_changes_nothing(adapter, width):
    model = Cached()
    sampler = FastDLLM(steps=9, block_length=4).parts()
    sampler = replace(sampler, window=Blocks(4, by="column", together=True))
    result = sampler(adapter(model), canvas(), mask_id=MASK)
    plain = sampler(lambda tokens: context_logits(tokens), canvas(), mask_id=MASK)
    assert torch.equal(result.tokens, plain.tokens)
    assert model.widths == [n for w in width for n in (15, w, w)]
    assert result.nfe.tolist() == [9, 9, 9]


def test_a_cache_serves_the_rows_that_remain():
    tokens = canvas()
    tokens[1, 3:6] = 4  # one mask left in row 1's first block
    sampler = FastDLLM(steps=9, block_length=4).parts()
    sampler = replace(sampler, window=Blocks(4, by="column", together=True))
    model = Cached()
    result = sampler(PrefixCache(model), tokens, mask_id=MASK, origin=3)
    plain = sampler(lambda tokens: context_logits(tokens), tokens, mask_id=MASK, origin=3)
    assert torch.equal(result.tokens, plain.tokens)
    assert result.nfe.tolist() == [9, 7, 9]


def test_a_cache_wants_its_rows_in_one_block():
    tokens = canvas()
    tokens[0, 3] = 4
    with pytest.raises(ValueError, match="cache: expected all rows in one block, got"):
        FastDLLM(steps=3, block_length=4)(PrefixCache(Cached()), tokens, mask_id=MASK)


def test_an_answer_for_some_columns_must_fit_them():
    def short(tokens, request):
        return Output(context_logits(tokens)[:, 5:], start=6)

    with pytest.raises(ValueError, match=r"expected logits \[3, 9, V\]"):
        LLaDA(steps=3)(short, canvas(), mask_id=MASK)


def test_condition_guidance_mixes_log_probabilities_and_leaves_corrections_alone():
    seen = []

    def model(tokens, request):
        seen.append((request.correction, request.condition.tolist()))
        return Output(logits=request.condition[:, None, None] * torch.arange(6.0).expand(*tokens.shape, 6) / 10)

    def logits_of(gamma, **options):
        kept = []
        guided = ConditionGuided(model, gamma, torch.tensor(0.5), **options)
        preset = ProSeCo(steps=1, corrector_steps=1, temperature=0.0)
        result = preset(
            guided,
            torch.tensor([[5, 2, 5], [5, 1, 5]]),
            mask_id=5,
            fixed=torch.zeros(2, 3, dtype=torch.bool),
            condition=torch.tensor([1.0, 3.0]),
            logits_processor=lambda tokens, logits: kept.append(logits) or logits,
        )
        return kept, result

    kept, result = logits_of(2.0)
    base = torch.arange(6.0) / 10
    expected = torch.stack([2 * base * 1.0 - base * 0.5, 2 * base * 3.0 - base * 0.5])
    torch.testing.assert_close(kept[0], expected[:, None].expand(2, 3, 6))
    assert seen[0] == (0, [1.0, 3.0, 0.5, 0.5])
    corrections = [condition for correction, condition in seen if correction]
    assert corrections
    assert all(len(condition) <= 2 for condition in corrections)
    assert result.nfe.min() >= 3
    seen.clear()
    logits_of(2.0, in_corrections=True)
    assert all(0.5 in condition for correction, condition in seen if correction)
    with pytest.raises(ValueError, match=r"condition: expected \[B, \*\[\]\] like null, got NoneType"):
        ProSeCo(steps=1)(ConditionGuided(model, 2.0, torch.tensor(0.5)), torch.full((1, 2), 5), mask_id=5)
