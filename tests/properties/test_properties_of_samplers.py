"""Every preset on canvases, models and options of any kind: what every run must keep."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from combinations import MASK, PRESETS
from drawn import SEEDS
from hypothesis import given
from hypothesis import strategies as st
from test_native_steps import NATIVE, drawn_sampler
from toys import Toy

from mdmcorrect.samplers import FixedSteps
from mdmcorrect.samplers import engine as engine_module

NAMES = st.sampled_from(list(PRESETS))
REVIEWED = {name for name, preset in PRESETS.items() if preset.parts().review is not None}
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def drawn_run(seed, *, padding=True):
    """A canvas, a model and options that go together."""
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    batch, length = rng.choice([(1, 1), (1, 9), (3, 16), (4, 5), (2, 24)])
    tokens = torch.randint(0, MASK, (batch, length), generator=generator)
    share = torch.rand(batch, 1, generator=generator) * rng.choice([0.3, 1.0])
    tokens[torch.rand(batch, length, generator=generator) >= share] = MASK
    options = {"seed": torch.arange(batch) * 7919 + seed % 997}
    padded = rng.choice([None, "lengths", "left"]) if padding else None
    if padded == "lengths":
        options["lengths"] = torch.randint(0, length + 1, (batch,), generator=generator)
    elif padded == "left":
        first = torch.randint(0, length, (batch, 1), generator=generator)
        options["attention_mask"] = torch.arange(length) >= first
    if rng.random() < 0.4:
        options["eos_id"] = rng.choice([5, [5, 2]])
    how = {"dtype": rng.choice(DTYPES), "scale": rng.choice([0.0, 0.5, 6.0, 1e4])}
    return tokens, lambda: Toy(**how), options


def real(tokens, options):
    if "lengths" in options:
        return torch.arange(tokens.shape[1]) < options["lengths"][:, None]
    return options.get("attention_mask", torch.ones_like(tokens, dtype=torch.bool))


@given(name=NAMES, seed=SEEDS)
def test_what_is_given_stays_and_what_is_asked_is_filled(case, name, seed):
    tokens, model, options = drawn_run(seed)
    toy = model()
    run = PRESETS[name](toy, tokens.clone(), mask_id=MASK, history=True, **options)
    generated = (tokens == MASK) & real(tokens, options)
    assert run.stopped == "finished"
    assert torch.equal(run.tokens[~generated], tokens[~generated])
    assert not (run.tokens[generated] == MASK).any() or "eos_id" in options
    assert ((run.tokens[generated] >= 0) & (run.tokens[generated] < 12)).all()
    if name not in REVIEWED:
        assert run.nfe.tolist() == toy.nfe(len(tokens))
        assert run.calls == len(toy.rows)
    for event in run.history:
        changed = event.tokens != event.before
        assert not (changed & ~generated).any()
        assert not (event.committed & event.remasked).any()
    ends = [options["eos_id"]] if isinstance(options.get("eos_id"), int) else options.get("eos_id", [])
    for row, own in zip(run.tokens, generated, strict=True):
        written = row[own].tolist()
        first = next((at for at, token in enumerate(written) if token in ends), None)
        if first is not None and MASK not in written[:first]:
            assert set(written[first + 1 :]) <= {ends[0]}
    case()


@given(name=NAMES, seed=SEEDS)
def test_a_row_does_not_see_its_neighbours(case, name, seed):
    tokens, model, options = drawn_run(seed)
    together = PRESETS[name](model(), tokens, mask_id=MASK, **options)
    row = seed % len(tokens)
    mine = {key: value[row : row + 1] if isinstance(value, torch.Tensor) else value for key, value in options.items()}
    alone = PRESETS[name](model(), tokens[row : row + 1], mask_id=MASK, **mine)
    assert torch.equal(alone.tokens[0], together.tokens[row])
    assert alone.nfe.item() == together.nfe[row].item()
    case()


@given(name=NAMES, seed=SEEDS, left=st.integers(0, 4), right=st.integers(0, 4))
def test_padding_moves_nothing(case, name, seed, left, right):
    tokens, model, options = drawn_run(seed, padding=False)
    plain = PRESETS[name](model(), tokens, mask_id=MASK, **options)
    wide = torch.nn.functional.pad(tokens, (left, right), value=3)
    attended = torch.nn.functional.pad(torch.ones_like(tokens, dtype=torch.bool), (left, right), value=False)
    padded = PRESETS[name](model(), wide, mask_id=MASK, attention_mask=attended, **options)
    assert torch.equal(padded.tokens[:, left : left + tokens.shape[1]], plain.tokens)
    assert padded.nfe.tolist() == plain.nfe.tolist()
    case()


@given(name=NAMES, seed=SEEDS, stop=st.integers(0, 8))
def test_a_run_goes_on_from_any_step(case, name, seed, stop):
    tokens, model, options = drawn_run(seed)
    eos = {key: value for key, value in options.items() if key == "eos_id"}
    whole = PRESETS[name](model(), tokens, mask_id=MASK, **options)
    part = PRESETS[name](model(), tokens, mask_id=MASK, callback=lambda event: event.index == stop, **options)
    rest = PRESETS[name](model(), mask_id=MASK, state=part.state, **eos)
    assert torch.equal(rest.tokens, whole.tokens)
    assert rest.nfe.tolist() == whole.nfe.tolist()
    case()


@pytest.fixture(scope="module")
def by_parts():
    def run(call):
        made = engine_module.plan_of
        engine_module.plan_of = lambda engine: None
        try:
            return call()
        finally:
            engine_module.plan_of = made

    return run


@given(seed=SEEDS)
def test_one_operator_makes_the_steps_of_the_parts(case, by_parts, seed):
    sampler = drawn_sampler(seed)
    tokens, model, options = drawn_run(seed)
    if options.get("eos_id") is not None and sampler.finish is False:
        sampler = replace(sampler, finish=True)
    ours = sampler(model(), tokens, mask_id=MASK, **options)
    parts = by_parts(lambda: sampler(model(), tokens, mask_id=MASK, **options))
    assert torch.equal(ours.tokens, parts.tokens)
    assert (ours.nfe.tolist(), ours.steps.tolist()) == (parts.nfe.tolist(), parts.steps.tolist())
    torch.testing.assert_close(ours.state.commit_score, parts.state.commit_score, rtol=1e-6, atol=0, equal_nan=True)
    case()


@given(name=st.sampled_from(NATIVE), seed=SEEDS)
def test_fixed_steps_are_the_samplers(case, name, seed):
    tokens, model, options = drawn_run(seed)
    preset = PRESETS[name]
    expected = preset(model(), tokens, mask_id=MASK, **options)
    eos = {key: options.pop(key) for key in ("eos_id",) if key in options}
    steps = None if not preset.parts().window.until_filled else 40
    fixed = FixedSteps(preset, model(), mask_id=MASK, **eos)(tokens, steps=steps, **options)
    assert torch.equal(fixed.tokens, expected.tokens)
    assert fixed.nfe.tolist() == expected.nfe.tolist()
    case()
