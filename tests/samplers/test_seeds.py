"""Without a seed runs differ, as torch's generator says; one that draws nothing leaves it alone."""

import numpy as np
import pytest
import torch
from combinations import MASK, PRESETS, canvas
from test_fixed_steps import model
from toys import Toy

from mdmcorrect import ops, rng
from mdmcorrect.likelihood import log_likelihood
from mdmcorrect.samplers import (
    GIDD,
    MDLM,
    P2,
    PRISM,
    Binomial,
    EvenSplit,
    FixedSteps,
    HistoryRemasking,
    Informed,
    LLaDA,
    MaskGIT,
    Pool,
    Remask,
    RoundedGrid,
    Sampler,
    Scoring,
    State,
    Threshold,
    Unmask,
    UnmaskThenRemask,
)
from mdmcorrect.samplers.draws import draws

each_preset = pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)


def generator_state():
    return torch.get_rng_state()


def test_repeated_calls_differ_and_manual_seed_repeats_them():
    def run():
        return MDLM(steps=6)(Toy(), canvas(), mask_id=MASK).tokens

    torch.manual_seed(5)
    first, second = run(), run()
    assert not torch.equal(first, second)
    torch.manual_seed(5)
    assert torch.equal(run(), first)
    assert torch.equal(run(), second)


@each_preset
def test_the_generator_gives_one_number_if_the_run_draws_and_none_if_not(preset):
    torch.manual_seed(1)
    one = torch.randint(-(2**63), 2**63 - 1, (), dtype=torch.int64)
    after_one = generator_state()
    torch.manual_seed(1)
    before = generator_state()
    result = preset(Toy(), canvas(), mask_id=MASK)
    assert torch.equal(generator_state(), after_one if preset.parts().random else before)
    if preset.parts().random:
        assert torch.equal(result.seed, rng.sequence_seeds(int(one), 4))


@each_preset
def test_a_preset_that_says_it_draws_nothing_does_not(preset):
    """Whatever the seed, the same canvas; so that `random` never leaves out a draw."""
    if not preset.parts().random:
        runs = [preset(Toy(V=12, scale=1.0), canvas(), mask_id=MASK, seed=seed) for seed in (1, 2)]
        assert torch.equal(runs[0].tokens, runs[1].tokens)
        assert runs[0].nfe.tolist() == runs[1].nfe.tolist()


@pytest.mark.parametrize(
    ("part", "random"),
    [
        (Scoring(temperature=0.0, noise="dense"), False),
        (Scoring(temperature=0.1), True),
        (Unmask("confidence"), False),
        (Unmask("random"), True),
        (Unmask("entropy", temperature=0.2), True),
        (Unmask("confidence", RoundedGrid(4)), False),
        (Unmask("confidence", RoundedGrid(4, stochastic=True)), True),
        (Unmask("confidence", Threshold(0.5, at_least=RoundedGrid(4, stochastic=True))), True),
        (Unmask("confidence", Threshold(0.5, at_least=EvenSplit())), False),
        (Remask("quality", Binomial(0.5)), True),
        (Remask("random"), True),
        (Remask("quality"), False),
        (UnmaskThenRemask(Unmask("confidence"), Remask("random")), True),
        (Pool(), False),
        (Pool(masked="random"), True),
        (Pool(committed="random"), True),
        (Informed(temperature=0.0), False),
        (Informed(temperature=1.0), True),
        (LLaDA(steps=2).parts(), False),
        (LLaDA(steps=2, remasking="random").parts(), True),
        (PRISM(steps=2, unmask="confidence", remask=None, temperature=0.0).parts(), False),
        (PRISM(steps=3, unmask="confidence", remask=None, temperature=0.0, loop_steps=1, loop_count=1).parts(), True),
        (P2(steps=2, temperature=0.0).parts(), False),
        (P2(steps=2, temperature=0.0, score="random").parts(), True),
        (MaskGIT(steps=2, temperature=0.0).parts(), True),
        (MaskGIT(steps=2, temperature=0.0, choice_temperature=0.0).parts(), False),
        (HistoryRemasking(steps=2, temperature=0.0).parts(), False),
        (GIDD(steps=2, temperature=0.0).parts(), True),  # its masks go in random order
        (object(), True),  # a part of someone's own that does not say
    ],
)
def test_parts_say_whether_they_draw(part, random):
    assert draws(part) is random


def test_the_result_carries_its_seed():
    first = MDLM(steps=6)(Toy(), canvas(), mask_id=MASK)
    assert first.seed.dtype == torch.int64
    assert first.seed.shape == (4,)
    again = MDLM(steps=6)(Toy(), canvas(), mask_id=MASK, seed=first.seed)
    assert torch.equal(again.tokens, first.tokens)
    alone = MDLM(steps=6)(Toy(), canvas()[2:3], mask_id=MASK, seed=first.seed[2:3])
    assert torch.equal(alone.tokens[0], first.tokens[2])


def test_resuming_takes_the_states_seed():
    part = MDLM(steps=6)(Toy(), canvas(), mask_id=MASK, callback=lambda event: event.index == 2)
    whole = MDLM(steps=6)(Toy(), canvas(), mask_id=MASK, seed=part.seed)
    torch.manual_seed(99)
    before = generator_state()
    rest = MDLM(steps=6)(Toy(), mask_id=MASK, state=State.load(part.state.state_dict()))
    assert torch.equal(rest.tokens, whole.tokens)
    assert torch.equal(generator_state(), before)


@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint64, np.uint8])
def test_numpy_integers_are_seeds(kind):
    of_python = MDLM(steps=4)(Toy(), canvas(), mask_id=MASK, seed=7)
    of_numpy = MDLM(steps=4)(Toy(), canvas(), mask_id=MASK, seed=kind(7))
    assert torch.equal(of_python.tokens, of_numpy.tokens)


def test_a_numpy_seed_beyond_int64_is_taken_modulo_2_to_the_64():
    big = np.uint64(2**64 - 3)
    assert torch.equal(rng.sequence_seeds(big, 2), rng.sequence_seeds(-3, 2))


@pytest.mark.parametrize(
    "seed", [True, np.bool_(True), 1.0, np.float32(1), "1", [1, 2], torch.zeros(4), torch.zeros(4).int()]
)
def test_what_is_no_seed(seed):
    for preset in (MDLM(steps=2), LLaDA(steps=2)):
        with pytest.raises(TypeError, match="seed: expected an int"):
            preset(Toy(), canvas(), mask_id=MASK, seed=seed)


def test_a_generator_is_left_alone_where_nothing_is_drawn():
    generator = torch.Generator().manual_seed(3)
    before = generator.get_state()
    LLaDA(steps=4)(Toy(), canvas(), mask_id=MASK, seed=generator)
    assert torch.equal(generator.get_state(), before)
    MDLM(steps=4)(Toy(), canvas(), mask_id=MASK, seed=generator)
    assert not torch.equal(generator.get_state(), before)


def test_the_default_device_has_no_say():
    torch.manual_seed(4)
    expected = MDLM(steps=4)(Toy(), canvas(), mask_id=MASK).seed
    torch.manual_seed(4)
    with torch.device("meta"):
        seed = rng.fresh_seed()
    assert torch.equal(rng.sequence_seeds(seed, 4), expected)


def test_likelihoods_differ_and_carry_their_seed():
    tokens = canvas().clamp(max=10)
    torch.manual_seed(0)
    one, other = (log_likelihood(Toy(), tokens, mask_id=MASK, samples=4) for _ in range(2))
    assert not torch.equal(one.value, other.value)
    again = log_likelihood(Toy(), tokens, mask_id=MASK, samples=4, seed=one.seed)
    assert torch.equal(again.value, one.value)


def test_operators_take_none():
    logits = torch.zeros(3, 50, 100)
    hidden, weight = torch.randn(3, 50, 4), torch.randn(100, 4)
    scores = torch.zeros(3, 50)
    for draw in (
        lambda seed: ops.score_tokens(logits, temperature=1.0, want=["token"], seed=seed).token,
        lambda seed: ops.score_tokens(logits, temperature=torch.ones(3), want=["token"], seed=seed).token,
        lambda seed: ops.score_hidden(hidden, weight, temperature=1.0, want=["token"], seed=seed).token,
        lambda seed: ops.select_positions(scores, 5, temperature=1.0, seed=seed),
        lambda seed: rng.sequence_seeds(seed, 3),
    ):
        torch.manual_seed(0)
        one, other = draw(None), draw(None)
        assert not torch.equal(one, other)
        torch.manual_seed(0)
        assert torch.equal(draw(None), one)
        assert torch.equal(draw(np.int64(3)), draw(3))
    before = generator_state()
    ops.score_tokens(logits, want=["token"], seed=None)
    ops.select_positions(scores, 5, seed=None)
    assert torch.equal(generator_state(), before)


def test_while_a_graph_is_made_a_seed_is_asked_for(monkeypatch):
    monkeypatch.setattr(rng, "_making_a_graph", lambda: True)
    run = FixedSteps(MDLM(steps=2), model, mask_id=MASK)
    with pytest.raises(ValueError, match="seed: expected an int64 tensor while a CUDA graph is captured"):
        run(canvas(2, 12))
    with pytest.raises(ValueError, match="seed: expected an int64 tensor"):
        ops.select_positions(torch.zeros(2, 4), 1, temperature=1.0, seed=None)
    run(canvas(2, 12), seed=torch.tensor([1, 2]))
    FixedSteps(LLaDA(steps=2), model, mask_id=MASK)(canvas(2, 12))  # draws nothing


@pytest.mark.slow
def test_torch_compile_takes_a_tensor_and_refuses_none():
    torch.compiler.reset()
    run = FixedSteps(MDLM(steps=1), model, mask_id=MASK)
    compiled = torch.compile(run, fullgraph=True, backend="eager")
    seed = torch.tensor([3, 4])
    assert torch.equal(compiled(canvas(2, 12), seed=seed).tokens, run(canvas(2, 12), seed=seed).tokens)
    with pytest.raises(Exception, match="seed"):
        compiled(canvas(2, 12))
    quiet = FixedSteps(LLaDA(steps=1), model, mask_id=MASK)
    compiled = torch.compile(quiet, fullgraph=True, backend="eager")
    assert torch.equal(compiled(canvas(2, 12)).tokens, quiet(canvas(2, 12)).tokens)


def test_fixed_steps_draw_their_own():
    run = FixedSteps(MDLM(steps=6), model, mask_id=MASK)
    torch.manual_seed(0)
    one, other = run(canvas(2, 12)), run(canvas(2, 12))
    assert not torch.equal(one.seed, other.seed)
    assert torch.equal(run(canvas(2, 12), seed=one.seed).tokens, one.tokens)


def test_a_sampler_of_parts_draws_too():
    sampler = Sampler(steps=4, unmask=Unmask("random"), scoring=Scoring())
    torch.manual_seed(0)
    one, other = (sampler(Toy(), canvas(), mask_id=MASK) for _ in range(2))
    assert not torch.equal(one.seed, other.seed)
