"""One operator per step against the parts it composes: the same tokens, numbers and events, for whatever lowers."""

import random
from dataclasses import fields, replace

import pytest
import torch
from combinations import MASK, PRESETS, canvas
from toys import Toy

from mdmcorrect.samplers import (
    Ancestral,
    Binomial,
    Blocks,
    Cap,
    CeilTarget,
    Centred,
    Confidence,
    Constant,
    Detour,
    During,
    EntropyBound,
    EvenSplit,
    Factor,
    FixedPoint,
    FixedSteps,
    Kappa,
    LLaDA,
    Noise,
    Plateau,
    Pool,
    Remask,
    Rescale,
    Sampler,
    Scoring,
    Threshold,
    TimeGrid,
    Unmask,
    UnmaskThenRemask,
)
from mdmcorrect.samplers import engine as engine_module
from mdmcorrect.samplers.addressed_steps import AddressedSteps
from mdmcorrect.samplers.native_steps import NativeSteps
from mdmcorrect.samplers.part_steps import PartSteps

# Presets whose every part the operator knows; a preset that leaves this list has become slower.
NATIVE = [
    "mdlm", "remdm-cap", "remdm-conf", "remdm-switch", "remdm-loop", "forward-backward", "dfm", "proseco-sampled",
    "proseco-top-k", "llada", "fast-dllm", "entropy-bounded", "dream", "dream-origin", "remedi", "prism",
    "block-prism", "proseco", "block-proseco",
]  # fmt: skip


def lowers(sampler):
    return sampler.parts().engine(Toy(), mask_id=MASK).native is not None


@pytest.fixture
def by_parts(monkeypatch):
    """Runs a call with every step made by the parts."""

    def run(call):
        with monkeypatch.context() as patched:
            patched.setattr(engine_module, "plan_of", lambda engine: None)
            return call()

    return run


def same_state(ours, parts):
    for item in fields(ours):
        mine, theirs = getattr(ours, item.name), getattr(parts, item.name)
        if not isinstance(mine, torch.Tensor):
            assert mine == theirs, item.name
        elif mine.is_floating_point():
            torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=0, equal_nan=True, msg=item.name)
        else:
            assert torch.equal(mine, theirs), item.name


def same_run(sampler, by_parts, tokens=None, toy=None, **options):
    tokens = canvas() if tokens is None else tokens
    options = {"mask_id": MASK, "seed": torch.arange(len(tokens)) + 3, "history": {"confidence"}, **options}
    models = [(toy or Toy)() for _ in range(3)]
    ours = sampler(models[0], tokens, **options)
    unseen = sampler(models[2], tokens, **{**options, "history": False})  # its scores stay where they are made
    same_state(unseen.state, ours.state)
    assert models[2].rows == models[0].rows
    parts = by_parts(lambda: sampler(models[1], tokens, **options))
    same_state(ours.state, parts.state)
    assert ours.stopped == parts.stopped
    assert models[0].rows == models[1].rows  # the same forwards, of the same rows
    assert len(ours.history) == len(parts.history)
    for mine, theirs in zip(ours.history, parts.history, strict=True):
        for item in fields(mine):
            if item.name in ("index", "scores"):
                continue
            if item.name == "candidates":
                for one, other in zip(mine.candidates or (), theirs.candidates or (), strict=True):
                    torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
                continue
            assert torch.equal(getattr(mine, item.name), getattr(theirs, item.name)), item.name
    return ours


def test_the_list_of_presets_that_lower():
    assert [name for name, preset in PRESETS.items() if lowers(preset)] == NATIVE


@pytest.mark.parametrize("name", NATIVE)
@pytest.mark.parametrize("ragged", [False, True], ids=["even", "ragged"])
def test_presets(name, ragged, by_parts):
    options = {}
    if ragged:
        options = {"attention_mask": torch.arange(16) >= torch.tensor([0, 1, 4, 2])[:, None], "eos_id": [5, 2]}
    same_run(PRESETS[name], by_parts, **options)


@pytest.mark.parametrize("name", NATIVE)
def test_presets_go_on_from_a_state(name, by_parts):
    """Stopped by a callback after three steps, on one road, and taken further on the other."""
    tokens, options = canvas(), {"mask_id": MASK, "seed": torch.arange(4)}
    whole = PRESETS[name](Toy(), tokens, **options)
    half = PRESETS[name](Toy(), tokens, callback=lambda event: event.index == 2, **options)
    rest = by_parts(lambda: PRESETS[name](Toy(), state=half.state, mask_id=MASK))
    assert torch.equal(rest.tokens, whole.tokens)
    assert torch.equal(rest.nfe, whole.nfe)


@pytest.mark.parametrize("name", NATIVE)
def test_fixed_steps(name, by_parts):
    steps = 30 if PRESETS[name].parts().window.until_filled else None

    def run():
        fixed_steps = FixedSteps(PRESETS[name], Toy(), mask_id=MASK, eos_id=5)
        return fixed_steps(canvas(3, 12), steps=steps, seed=torch.arange(3))

    same_state(run(), by_parts(run))


def drawn_counts(rng):
    simple = [EvenSplit(), CeilTarget(), TimeGrid(eps=rng.choice([1e-3, 0.2]))]
    at_least = rng.choice([0, 1, 3, rng.choice(simple)])
    threshold = Threshold(rng.choice([0.2, 0.35, 0.9]), strict=rng.random() < 0.5, at_least=at_least)
    return rng.choice([*simple, threshold, Factor(rng.choice([0.3, 1.5]), last_free=rng.random() < 0.5)])


def drawn_ranked(rng):
    order = rng.choice(["random", "confidence", "max_probability", "margin", "entropy"])
    count = EntropyBound(rng.choice([0.1, 2.5])) if order == "entropy" and rng.random() < 0.5 else drawn_counts(rng)
    unmask = Unmask(order, count, temperature=rng.choice([0.0, 0.3]), spend_on_masks=rng.random() < 0.2)
    number = rng.choice([Constant(rng.randrange(4)), Binomial(rng.random()), Centred(rng.randrange(9))])
    stop = rng.choice([None, 5])
    remask = Remask(rng.choice(["quality", "confidence", "random"]), number, start=rng.randrange(3), stop=stop)
    refill = rng.choice(["if_short", "never"])
    return UnmaskThenRemask(unmask, rng.choice([None, remask]), refill=refill)


def drawn_ancestral(rng):
    eta = rng.random()
    sigma = rng.choice([None, Cap(eta), Rescale(eta), Confidence(eta), Detour(2.0, 0.25), During(Cap(eta), 0.8, 0.2)])
    alpha = {"alpha": Plateau(0.55, 0.05, 0.9)} if rng.random() < 0.3 else {}
    return Ancestral(sigma, eps=rng.choice([1e-5, 0.1]), complete=rng.random() < 0.3, **alpha)


def drawn_pool(rng):
    schedule = rng.choice(["linear", (0.1, 0.4, 0.4, 0.9, 1.0)])
    noise = rng.choice(
        [None, Noise(1.5), Noise((2.0, 0.5), "uniform", annealed=False), Noise(0.7, "uniform"), Noise(0.5)]
    )
    return Pool(
        Kappa(schedule, advance=rng.random() < 0.3),
        masked=rng.choice(["logprob", "confidence", "random", "quality"]),
        committed=rng.choice(["current_logprob", "quality", "random", "stays"]),
        eta=rng.choice([1.0, 0.0, 1.7]),
        noise=noise,
        cut=rng.choice(["count", "strict"]),
    )


def drawn_window(rng):
    if rng.random() < 0.3:
        return Blocks()
    until_filled = rng.random() < 0.3
    return Blocks(
        rng.choice([1, 3, 5, 7]),
        until_filled=until_filled,
        steps=None if until_filled or rng.random() < 0.6 else rng.choice([1, 3]),
        extra=rng.choice([0, 0, 2]),
        by=rng.choice(["generated", "column"]),
        behind=rng.choice([None, None, "always", "first"]),
    )


def drawn_sampler(seed):
    rng = random.Random(seed)
    plan = rng.choice([drawn_ranked, drawn_ancestral, drawn_pool])(rng)
    correct = None
    if rng.random() < 0.3:
        correct = FixedPoint(
            passes=rng.randrange(3), every=rng.choice([1, 2]), start=rng.randrange(3), revisits=rng.random() < 0.5,
            carry_over=rng.random() < 0.5, update=rng.choice(["argmax", "sample"]),
        )  # fmt: skip
    scoring = Scoring(
        temperature=rng.choice([0.0, 1.0]),
        mask_token=rng.choice(["suppress", "forbid", *(["propose"] if correct is None else [])]),
        confidence_dtype=rng.choice([None, "logits", torch.bfloat16, torch.float16]),
    )
    window = drawn_window(rng)
    flags = {"finish": rng.random() < 0.7, "cache": rng.random() < 0.7}
    return Sampler(steps=rng.choice([1, 4, 9, 30]), plan=plan, window=window, correct=correct, scoring=scoring, **flags)


@pytest.mark.parametrize("seed", range(150))
def test_parts_in_any_combination(seed, by_parts):
    """With prompts of several lengths, given tokens, padding, ends of sequence and logits in half precision."""
    rng, sampler = random.Random(seed + 1000), drawn_sampler(seed)
    assert lowers(sampler)
    batch, length = rng.choice([(1, 1), (3, 16), (2, 33), (4, 9)])
    tokens = torch.full((batch, length), MASK)
    tokens[torch.rand(tokens.shape, generator=torch.Generator().manual_seed(seed)) < rng.choice([0.0, 0.2, 0.6])] = 4
    options = {}
    if rng.random() < 0.4:
        options["lengths"] = torch.arange(batch) % 3 * (length // 2) + length // 3
        options["lengths"].clamp_(max=length)
    if rng.random() < 0.3:
        options["eos_id"] = rng.choice([[5], [5, 2, 9]])
    dtype, scale = rng.choice([torch.float32, torch.bfloat16, torch.float16]), rng.choice([2.0, 6.0])
    same_run(sampler, by_parts, tokens, lambda: Toy(dtype=dtype, scale=scale), **options)


class CappedUnmask(Unmask):
    """Somebody's own rule, by one method."""

    def rank(self, state, scores):
        return super().rank(state, scores).clamp(max=0.5)


def test_a_subclass_is_not_taken_for_its_base():
    state = LLaDA(steps=3)(Toy(), canvas(), mask_id=MASK).state
    for unmask, road in ((CappedUnmask(), PartSteps), (Unmask(), NativeSteps)):
        assert isinstance(Sampler(steps=3, unmask=unmask).engine(Toy(), mask_id=MASK).steps_of(state), road)


@pytest.mark.parametrize("name", NATIVE)
def test_scores_that_nobody_sees_are_no_tensors(name, monkeypatch):
    """Where every row of a plain run on the CPU is in the forward, steps are made by address."""
    addressed = []
    for road, by_address in (("_after", False), ("_written", True)):
        monkeypatch.setattr(AddressedSteps, road, noted(getattr(AddressedSteps, road), addressed, by_address))
    FixedSteps(PRESETS[name], Toy(), mask_id=MASK)(canvas(1, 12), steps=4, seed=1)
    if name == "proseco-top-k":  # this corrector is made by its Python, and with it all of the step
        assert not addressed
        return
    opened, steps, last = addressed[:2], addressed[2:-1], addressed[-1]
    assert opened == [False, False]
    assert steps
    assert all(steps)
    # Closing asks for the argmax; where that is the mask, which is never proposed, the logits are read again.
    assert last or name in ("llada", "block-prism")


def noted(road, notes, note):
    return lambda *arguments: notes.append(note) or road(*arguments)


def test_a_corrector_that_may_mask_goes_by_parts():
    """The plan of the same step does not count such a mask among those it may commit."""
    for mask_token, native in (("propose", False), ("forbid", True)):
        sampler = Sampler(steps=3, correct=FixedPoint(), scoring=Scoring(mask_token=mask_token))
        assert lowers(sampler) == native


def test_what_the_host_makes_goes_by_parts():
    engine = LLaDA(steps=3).parts().engine
    for options in (
        {"stop": lambda tokens, fixed: fixed.any(1)},
        {"tokens_processor": lambda tokens, logits: tokens},
        {"eos_id": list(range(9))},
    ):
        assert engine(Toy(), mask_id=MASK, **options).native is None
    assert not lowers(LLaDA(steps=3, ties="torch"))


class Even:
    """Logits of bfloat16 that make every probability of the second id round to the same number."""

    def __init__(self, probability):
        self.rows, self.gap = [], torch.tensor(probability).logit()

    def __call__(self, tokens, request):
        self.rows.append(request.batch.tolist())
        logits = torch.full((*tokens.shape, 3), -1e4)
        logits[..., 0], logits[..., 1] = 0.0, self.gap
        return logits.bfloat16()


@pytest.mark.parametrize("threshold", [0.9, 0.901, 0.8965, 0.8984375, 0.94])
def test_a_threshold_is_rounded_as_the_scores_are(threshold, by_parts):
    """Torch compares bfloat16 numbers with 0.9 rounded to bfloat16, 0.8984, which some of them are."""
    count = Threshold(threshold, at_least=1)
    sampler = Sampler(
        steps=9, unmask=Unmask("confidence", count), scoring=Scoring(confidence_dtype="logits"), finish=False
    )
    tokens = torch.full((2, 7), 2)
    for probability in (0.897, 0.8984375, 0.9, 0.902):
        model = lambda: Even(probability)  # noqa: B023, E731 - called before the next
        same_run(sampler, by_parts, tokens, model, mask_id=2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_an_order_is_rounded_as_the_scores_are(dtype, by_parts):
    """A confidence over a low temperature keeps the digits of its type, fewer than the noise that is added has."""
    scoring = Scoring(confidence_dtype="logits", temperature=1.0)
    sampler = Sampler(steps=9, unmask=Unmask("confidence", temperature=3e-3), scoring=scoring)
    same_run(sampler, by_parts, canvas(2, 300), lambda: Toy(dtype=dtype, scale=3.0))


class HalfJudge(Toy):
    """Quality in bfloat16, every other number of a buffer."""

    def __call__(self, tokens, request):
        output = super().__call__(tokens, request)
        return replace(output, quality=output.quality.bfloat16().repeat_interleave(2, 1)[:, ::2])


@pytest.mark.parametrize("name", ["prism", "block-prism", "remedi"])
def test_quality_of_any_type_and_layout(name, by_parts):
    same_run(PRESETS[name], by_parts, toy=HalfJudge)


@pytest.mark.parametrize("corrector", [None, FixedPoint(passes=3)], ids=["plain", "corrected"])
def test_logits_that_change_their_type_and_size(corrector, by_parts):
    """From step to step; memory of the run is for the largest, of each type."""

    class Changing(Toy):
        def __call__(self, tokens, request):
            output, number = super().__call__(tokens, request), int(request.step.max())
            wider = torch.nn.functional.pad(output.logits, (0, number % 3), value=-1e4)
            return replace(output, logits=wider.to([torch.float32, torch.bfloat16, torch.float16][number % 3]))

    scoring = Scoring(confidence_dtype="logits", temperature=1.0)
    sampler = Sampler(steps=9, unmask=Unmask("confidence"), scoring=scoring, correct=corrector)
    same_run(sampler, by_parts, toy=Changing)


@pytest.mark.parametrize("name", ["prism", "llada", "mdlm", "proseco", "block-prism"])
def test_candidates_are_the_same(name, by_parts):
    result = same_run(PRESETS[name], by_parts, history={"candidates"})
    assert all((event.candidates.token >= 0).any() for event in result.history[:1])
