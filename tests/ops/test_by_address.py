"""Operators called by address: the same bits as through the dispatcher, and only where nobody could tell otherwise."""

from __future__ import annotations

import copy
import pickle
import random

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from mdmcorrect import _constants
from mdmcorrect.ops import _by_address as by_address
from mdmcorrect.ops import _scoring
from mdmcorrect.ops.correct_pass import PreparedPasses
from mdmcorrect.ops.score_tokens import prepare_score_tokens
from mdmcorrect.samplers.lowering import RowField

DTYPES = [torch.float32, torch.bfloat16, torch.float16]

pytestmark = pytest.mark.skipif(by_address.library is None, reason="built without Python's headers")


def changing(rng, batch, length, vocab):
    """What differs from call to call, in layouts that a caller may have."""
    draw = torch.Generator().manual_seed(rng.randrange(1 << 30))
    wide = torch.randn(batch, length + 2, vocab + 3, generator=draw) * rng.choice([0.1, 3.0, 300.0])
    logits = rng.choice([wide[:, 1 : length + 1, :vocab], wide[:, :length, :vocab].clone()])
    positions = rng.choice(
        [torch.arange(length).expand(batch, length), torch.arange(batch * length).view(batch, length)]
    )
    rows = torch.zeros(batch, 22, dtype=torch.int64)
    rows[:, 2] = torch.arange(batch) * 3
    wanted = torch.rand(batch, length, generator=draw) < rng.choice([0.2, 1.0])
    tokens = torch.randint(0, vocab, (batch, length), generator=draw)
    seed = torch.arange(batch) + 5
    return {
        "logits": logits.to(rng.choice(DTYPES)), "tokens": tokens, "rows": wanted, "positions": positions,
        "seed": seed, "step": rows.select(1, 2), "call": torch.tensor(rng.randrange(3)), "shift": rng.randrange(3),
    }  # fmt: skip


def drawn_options(rng, vocab):
    noise = rng.choice(["lazy", "dense"])
    names = [name for name in _scoring.SCORES if noise == "dense" or name != "noised_logprob"]
    return {
        "temperature": rng.choice([0.0, 0.7, 1.0]),
        "top_k": rng.choice([None, 1, 5]),
        "top_p": rng.choice([None, 0.9]),
        "top_p_rule": rng.choice(["inclusive", "exclusive"]),
        "filter_order": rng.choice(["top_k_first", "top_p_first"]),
        "suppress": rng.choice([None, 0, [vocab - 1, 0]]),
        "forbid": rng.choice([None, [vocab // 2, 1, 1]]),
        "law": rng.choice(["raw", "proposal"]),
        "noise": noise,
        "confidence_dtype": rng.choice([None, *DTYPES]),
        "want": rng.sample(names, rng.randrange(1, len(names))),
    }


@pytest.mark.parametrize("seed", range(60))
def test_scores_have_the_same_bits(seed, monkeypatch):
    rng = random.Random(seed)
    batch, length, vocab = rng.choice([(1, 1, 3), (2, 7, 33), (3, 5, 700), (0, 4, 8), (2, 0, 8)])
    prepared = prepare_score_tokens(vocab=vocab, device="cpu", **drawn_options(rng, vocab))
    given = changing(rng, batch, length, vocab)
    assert prepared.direct is not None
    made = prepared.direct(**given)
    assert made is not None
    monkeypatch.setattr(by_address, "library", None)
    expected = prepared.trusted(**given)
    assert len(made) == len(expected) == len(prepared.names)
    for name, ours, theirs in zip(prepared.names, made, expected, strict=True):
        assert ours.dtype == theirs.dtype
        assert ours.shape == theirs.shape
        assert ours.numpy().tobytes() == theirs.numpy().tobytes(), name


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda prepared: pickle.loads(pickle.dumps(prepared))])
def test_a_copy_has_addresses_of_its_own(copied):
    """Of memory that the first one may have given back."""
    rng = random.Random(1)
    given = changing(rng, 2, 7, 33)
    first = prepare_score_tokens(vocab=33, device="cpu", suppress=[3, 1], temperature=0.7, want=["token", "logprob"])
    expected, second = first.trusted(**given), copied(first)
    assert second.direct is not None
    assert second.direct._how != first.direct._how
    del first
    _constants._kept.clear()
    _scoring._kept.clear()
    for ours, theirs in zip(second.trusted(**given), expected, strict=True):
        assert ours.numpy().tobytes() == theirs.numpy().tobytes()


class Watching(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.add(func)
        return func(*args, **(kwargs or {}))


class Functions(TorchFunctionMode):
    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.seen.add(func)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("mode", [Watching, Functions])
def test_a_mode_sees_the_operator(mode):
    prepared = prepare_score_tokens(vocab=33, device="cpu", want=["token"])
    given = changing(random.Random(2), 2, 7, 33)
    with mode() as watching:
        prepared.trusted(**given)
    assert torch.ops.mdmcorrect.score_tokens.default in watching.seen


def test_a_profiler_sees_the_operator():
    prepared = prepare_score_tokens(vocab=33, device="cpu", want=["token"])
    given = changing(random.Random(2), 2, 7, 33)
    with torch.profiler.profile() as profile:
        prepared.trusted(**given)
    assert "mdmcorrect::score_tokens" in {event.name for event in profile.events()}


class Logits(torch.Tensor):
    """Somebody's own kind of tensor, which may be anything inside."""


def test_what_is_not_plain_goes_by_the_dispatcher():
    prepared = prepare_score_tokens(vocab=33, device="cpu", want=["token"])
    given = changing(random.Random(4), 2, 7, 33)
    logits, tokens = given["logits"], given["tokens"]
    negated = torch.complex(torch.zeros_like(logits.float()), logits.float()).conj().imag
    assert negated.is_neg()
    others = {
        "a subclass": {"logits": logits.as_subclass(Logits)},
        "a negated view": {"logits": negated},
        "another dtype": {"logits": logits.double()},
        "strides": {"tokens": tokens.t().contiguous().t()},
    }
    for title, other in others.items():
        assert prepared.direct(**{**given, **other}) is None, title
    right = prepared.trusted(**{**given, "logits": negated.clone()})
    assert torch.equal(prepared.trusted(**{**given, "logits": negated})[0], right[0])


def test_what_does_not_fit_goes_by_the_dispatcher():
    """It says what is wrong; by address other memory would be read or written."""
    prepared = prepare_score_tokens(vocab=33, device="cpu", want=["token"])
    given = changing(random.Random(4), 2, 7, 33)
    length = given["tokens"].shape[1]
    wrong = {
        "logits": [given["logits"][:1], given["logits"][:, :6], given["logits"][0], given["logits"][..., :32]],
        "tokens": [given["tokens"].int(), given["tokens"][:1], given["tokens"].to("meta")],
        "rows": [given["rows"].byte(), given["rows"][:, :6].clone()],
        "positions": [torch.arange(length), given["positions"].int(), given["positions"].to("meta")],
        "seed": [given["seed"][:1], given["seed"].int(), torch.tensor(3)],
        "step": [given["step"][:1], given["step"].int(), torch.tensor(3)],
        "call": [torch.tensor([0]), torch.tensor(0, dtype=torch.int32)],
    }
    for name, others in wrong.items():
        for other in others:
            assert prepared.direct(**{**given, name: other}) is None, (name, other.dtype, other.shape)
    with pytest.raises(RuntimeError, match="shift: expected at least 0, got -1"):
        prepared.trusted(**{**given, "shift": -1})


def test_ids_of_a_tensor_may_change():
    ids = torch.tensor([3])
    prepared = prepare_score_tokens(vocab=33, device="cpu", suppress=ids, want=["token"])
    assert prepared.direct is None


def test_wrong_calls_are_errors():
    with pytest.raises(TypeError, match="expected 18 to 30 numbers, got 1"):
        by_address.library.score_tokens(1)
    with pytest.raises(TypeError, match="int"):
        by_address.library.sampler_step(*["x"] * 37)
    with pytest.raises(OverflowError):
        by_address.library.sampler_step(*[1 << 70] * 37)


@pytest.mark.parametrize("seed", range(20))
def test_passes_have_the_same_bits(seed, monkeypatch):
    rng, draw = random.Random(seed), torch.Generator().manual_seed(seed)
    batch, length = rng.choice([(1, 1), (3, 17), (0, 5), (2, 300)])

    def ids():
        return torch.randint(-1, 9, (batch, length), generator=draw)

    fixed, block = torch.rand(batch, length, generator=draw) < 0.3, rng.choice([None, ids().abs()])
    rows = torch.zeros(batch, len(RowField), dtype=torch.int64)
    rows[:, RowField.CORRECT], rows[:, RowField.WINDOW] = torch.arange(batch) % 2, 1
    dtypes = [rng.choice(DTYPES) for _ in range(rng.randrange(4))]
    values, earlier = ([torch.rand(batch, length, generator=draw).to(of) for of in dtypes] for _ in range(2))
    passes = PreparedPasses(fixed, block, 8, rng.random() < 0.5)
    first, later = (rows, ids().abs(), ids()), (rows, ids().abs(), ids(), ids(), ids(), values, earlier)
    ours = (*passes.first(*first), *passes.next(*later))
    monkeypatch.setattr(by_address, "library", None)
    theirs = (*passes.first(*first), *passes.next(*later))
    for mine, other in zip([*ours[:-1], *ours[-1]], [*theirs[:-1], *theirs[-1]], strict=True):
        assert mine.dtype == other.dtype
        assert torch.equal(mine, other)
