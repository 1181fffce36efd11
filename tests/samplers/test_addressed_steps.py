"""What a user's model, scoring or state brings to steps made by address: an answer of the parts, or an error; never
memory that is not theirs."""

from dataclasses import replace

import pytest
import torch
from combinations import MASK, canvas
from toys import Toy

from mdmcorrect.ops import _by_address as by_address
from mdmcorrect.samplers import (
    MDLM,
    FixedPoint,
    FixedSteps,
    LLaDA,
    ProSeCo,
    Sampler,
    Scoring,
    Threshold,
    Unmask,
)
from mdmcorrect.samplers import engine as engine_module
from mdmcorrect.samplers.addressed_steps import AddressedSteps
from mdmcorrect.samplers.native_steps import NativeSteps

pytestmark = pytest.mark.skipif(by_address.library is None, reason="built without Python's headers")


def by_operators(call, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(by_address, "library", None)
        return call()


def by_parts(call, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(engine_module, "plan_of", lambda engine: None)
        return call()


def same_everywhere(call, monkeypatch):
    ours = call()
    for theirs in (by_operators(call, monkeypatch), by_parts(call, monkeypatch)):
        for name in ("tokens", "nfe", "step", "commits"):
            assert torch.equal(getattr(ours, name), getattr(theirs, name)), name
    return ours


class Answers:
    """A Toy whose answers somebody changes."""

    def __init__(self, change):
        self.toy, self.change = Toy(), change

    def __call__(self, tokens, request):
        return self.change(self.toy(tokens, request))


@pytest.mark.parametrize("bound", [0.8995, 0.8985, 0.8984, 0.89501])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_thresholds_are_compared_in_the_dtype_of_the_scores(bound, dtype, monkeypatch):
    """Rounded to bfloat16 the bounds are a confidence's own values, 0.8984 and 0.8945."""

    def model(tokens):
        logits = torch.zeros(*tokens.shape, 12)
        logits[..., 3], logits[..., 4] = 4.6, torch.arange(tokens.shape[1]) * 0.05
        return logits.to(dtype)

    unmask = Unmask("confidence", Threshold(bound, at_least=1))
    scoring = Scoring(mask_token="forbid", confidence_dtype="logits")
    sampler = Sampler(steps=6, unmask=unmask, scoring=scoring)
    same_everywhere(lambda: sampler(model, canvas(1, 12), mask_id=MASK).state, monkeypatch)


@pytest.mark.parametrize("dtypes", [(torch.float32, torch.bfloat16), (torch.bfloat16, torch.float16)])
@pytest.mark.parametrize("rounds", [None, "logits"])
def test_a_model_may_change_its_dtype_and_vocabulary_between_calls(dtypes, rounds, monkeypatch):
    sampler = Sampler(
        steps=4, plan=ProSeCo(steps=4).parts().plan, correct=FixedPoint(passes=3),
        scoring=Scoring(confidence_dtype=rounds, temperature=1.0),
    )  # fmt: skip

    def call():
        toys = [Toy(V=vocab, dtype=dtype) for vocab, dtype in zip((12, 40), dtypes, strict=True)]

        def model(tokens, request):
            toys.reverse()
            return toys[0](tokens, request)

        return FixedSteps(sampler, model, mask_id=MASK)(canvas(2, 12), seed=3)

    same_everywhere(call, monkeypatch)


def run_fixed(model):
    return FixedSteps(LLaDA(steps=3), model, mask_id=MASK)(canvas(2, 12))


def run_freely(model):
    return LLaDA(steps=3)(model, canvas(2, 12), mask_id=MASK)


@pytest.mark.parametrize("run", [run_fixed, run_freely])
@pytest.mark.parametrize("forwards", [(1,), (1, 1, 1), (), True, 1.0, (1, True)], ids=str)
def test_forwards_are_one_number_or_one_per_row(forwards, run):
    model = Answers(lambda output: replace(output, forwards=forwards))
    with pytest.raises(ValueError, match="expected forwards, an int or 2 of them"):
        run(model)


def test_a_negative_shift_reads_nothing():
    model = Answers(lambda output: replace(output, shift=-(10**7)))
    with pytest.raises(ValueError, match="expected shift at least 0, got -10000000"):
        run_fixed(model)


def test_memory_that_moves_is_read_where_it_is(monkeypatch):
    """A model in another process gets its tensors through shared memory, to which they move for good."""

    def call():
        def model(tokens, request):
            for shared in (tokens, request.fixed, request.position_ids, request.wanted, request.attention_mask):
                shared.share_memory_()
            kept.extend(torch.full((800,), 77, dtype=torch.uint8) for _ in range(9))  # where they were
            return Toy()(tokens, request)

        kept = []
        run = FixedSteps(LLaDA(steps=5), model, mask_id=MASK)
        return run(canvas(8, 100), lengths=torch.full((8,), 100), seed=1)

    same_everywhere(call, monkeypatch)


def as_subclass(tensor):
    return tensor.as_subclass(type("Own", (torch.Tensor,), {}))


STATES = {
    "tokens": [torch.Tensor.int, lambda value: value[:1]],
    "fixed": [torch.Tensor.long, torch.Tensor.byte],
    "commits": [torch.Tensor.int, lambda value: value[:1].clone()],
    "commit_score": [torch.Tensor.double, lambda value: value[:1].clone()],
    "positions": [torch.Tensor.int, lambda value: value[:1].clone(), lambda value: value.to("meta")],
    "attention_mask": [torch.Tensor.long],
    "seed": [torch.Tensor.int, lambda value: value[:1]],
}


@pytest.mark.parametrize(("name", "change"), [(name, change) for name in STATES for change in range(len(STATES[name]))])
def test_a_state_of_wrong_tensors_is_an_error(name, change):
    steps = FixedSteps(MDLM(steps=5), Toy(), mask_id=MASK, padded=True)
    state = steps.start(canvas(2, 12), seed=torch.arange(2))
    wrong = replace(state, **{name: STATES[name][change](getattr(state, name))})
    with pytest.raises((RuntimeError, ValueError, TypeError, IndexError)):
        steps.step(wrong)


@pytest.mark.parametrize("change", [as_subclass, lambda value: value.t().contiguous().t()], ids=["subclass", "strides"])
@pytest.mark.parametrize("name", ["tokens", "fixed", "commits", "commit_score", "positions", "attention_mask"])
def test_a_state_of_other_tensors_goes_on(name, change):
    steps = FixedSteps(MDLM(steps=5), Toy(), mask_id=MASK, padded=True)
    state = steps.start(canvas(2, 12), seed=torch.arange(2))
    other = replace(state, **{name: change(getattr(state, name))})
    assert torch.equal(steps.step(other).tokens, steps.step(state).tokens)


class Repeated(Scoring):
    def __call__(self, logits, **options):
        return super().__call__(torch.cat([logits] * 50), **options)


class Widened(Scoring):
    name, change = "", staticmethod(lambda value: value)

    def __call__(self, logits, **options):
        return super().__call__(logits, **{**options, self.name: self.change(options[self.name])})


class Returned(Scoring):
    name, change = "", staticmethod(lambda value: value)

    def __call__(self, logits, **options):
        scores = super().__call__(logits, **options)
        scores[self.name] = self.change(scores[self.name])
        return scores


def scored_by(scoring):
    return FixedSteps(Sampler(steps=3, scoring=scoring), Toy(), mask_id=MASK)(canvas(2, 12), seed=1)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("rows", torch.Tensor.long),
        ("tokens", torch.Tensor.int),
        ("tokens", lambda value: value[:1]),
        ("positions", torch.Tensor.int),
        ("seed", torch.Tensor.int),
        ("step", torch.Tensor.int),
        ("step", lambda value: value[:1].repeat(3)),
    ],
)
def test_a_scoring_that_hands_on_the_wrong_tensors_is_an_error(name, change):
    with pytest.raises(RuntimeError, match=f"score_tokens: {name}: expected"):
        scored_by(type("Own", (Widened,), {"name": name, "change": staticmethod(change)})(temperature=1.0))


def test_a_scoring_of_more_logits_than_tokens_is_an_error():
    with pytest.raises(RuntimeError, match="score_tokens: tokens: expected shape"):
        scored_by(Repeated())


def test_a_scoring_may_hand_on_what_the_operator_takes():
    """Positions of one row, one step for all."""
    for name, change in (("positions", lambda value: value[0]), ("step", lambda value: value[0])):
        own = type("Own", (Widened,), {"name": name, "change": staticmethod(change)})
        assert torch.equal(scored_by(own(temperature=1.0)).tokens, scored_by(Scoring(temperature=1.0)).tokens)


@pytest.mark.parametrize(
    ("name", "change"),
    [("token", torch.Tensor.int), ("confidence", lambda value: value[:1].clone()), ("confidence", torch.Tensor.double)],
)
def test_a_scoring_that_returns_the_wrong_tensors_is_an_error(name, change):
    with pytest.raises(RuntimeError, match=f"sampler_step: {name}: expected"):
        scored_by(type("Own", (Returned,), {"name": name, "change": staticmethod(change)})())


@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (0, 0), (1, 1)], ids=str)
@pytest.mark.parametrize("preset", [LLaDA, MDLM, ProSeCo])
def test_canvases_of_nothing(preset, shape, monkeypatch):
    same_everywhere(
        lambda: FixedSteps(preset(steps=3), Toy(), mask_id=MASK)(torch.full(shape, MASK), seed=1), monkeypatch
    )


def test_where_a_state_is_not_plain_steps_are_native():
    steps = FixedSteps(MDLM(steps=5), Toy(), mask_id=MASK)
    state = steps.start(canvas(2, 12), seed=1)
    assert type(steps.engine.steps_of(state)) is AddressedSteps
    assert type(steps.engine.steps_of(replace(state, fixed=as_subclass(state.fixed)))) is NativeSteps
