"""What stands around an operator's own call: no other operator once numbers are kept as tensors, and nothing kept that
is fake, foreign, unbounded or within a caller's reach."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mdmcorrect import _constants, ops, rng
from mdmcorrect.ops import _scoring
from mdmcorrect.ops.score_tokens import prepare_score_tokens

B, L, V = 2, 16, 32
WANT = ("token", "confidence")
OPTIONS = {"temperature": 0.7, "top_k": 9, "top_p": 0.9, "suppress": [31], "forbid": 3, "want": WANT}


class Operators(TorchDispatchMode):
    """Names of the operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func._schema.name.removeprefix("aten::"))
        return func(*args, **(kwargs or {}))


@pytest.fixture(autouse=True)
def nothing_kept_yet():
    _constants._kept.clear()
    _scoring._kept.clear()


class Inputs(NamedTuple):
    logits: torch.Tensor
    heads: torch.Tensor
    tokens: torch.Tensor
    scores: torch.Tensor
    rows: torch.Tensor
    positions: torch.Tensor
    seed: torch.Tensor


def inputs() -> Inputs:
    draw = torch.Generator().manual_seed(0)
    return Inputs(
        logits=3 * torch.randn(B, L, V, generator=draw),
        heads=torch.randn(1, B, L, 32, generator=draw),
        tokens=torch.randint(0, V, (B, L), generator=draw),
        scores=torch.rand(B, L, generator=draw),
        rows=torch.rand(B, L, generator=draw) < 0.8,
        positions=torch.arange(L),
        seed=torch.tensor([3, 4]),
    )


def scored(x, **changes):
    given = {"tokens": x.tokens, "rows": x.rows, "positions": x.positions, "seed": x.seed, **OPTIONS, **changes}
    return ops.score_tokens(x.logits, step=2, call=1, **given)


def prepared(x):
    return prepare_score_tokens(vocab=V, device=x.logits.device, **OPTIONS)


def by_prepared(x):
    ready = prepared(x)
    return lambda: ready(x.logits, tokens=x.tokens, rows=x.rows, seed=x.seed, step=2, call=1)


def by_native(x):
    ready = prepared(x)
    return lambda: ready.native(x.logits, rows=x.rows, seed=x.seed, step=2, uncond_logits=x.logits, guidance=0.5)


def updated(x):
    return ops.remask_step(
        x.tokens, x.tokens, unmask_score=x.scores, keep_score=x.scores, unmask_count=3, remask_count=1, mask_id=31
    )


CALLS = {  # from inputs to a call without arguments
    "score_tokens": lambda x: lambda: scored(x),
    "prepared": by_prepared,
    "native": by_native,
    "guided": lambda x: lambda: scored(x, uncond_logits=x.logits, guidance=1.5),
    "select_positions": lambda x: lambda: ops.select_positions(x.scores, 3, temperature=0.5, seed=7, step=2, call=1),
    "count_positions": lambda x: lambda: ops.count_positions(x.scores, "threshold", 0.5, at_least=1),
    "remask_step": lambda x: lambda: updated(x),
    "uniform": lambda x: lambda: rng.uniform(x.seed, L, 2, 1, 3),
    "attention": lambda x: lambda: ops.bidirectional_attention(x.heads, x.heads, x.heads, starts=1, lengths=9),
}
calls = pytest.mark.parametrize("make", CALLS.values(), ids=CALLS)


@calls
def test_one_operator_runs_and_views_of_its_results(make):
    call = make(inputs())
    first = call()
    with Operators() as ran:
        again = call()
    own = [name for name in ran.names if name.startswith("mdmcorrect::")]
    others = [name for name in ran.names if name not in own]
    assert len(own) == 1
    assert set(others) <= {"unbind", "squeeze"}
    assert len(others) <= (2 if isinstance(first, ops.TokenScores) else 0)
    torch.testing.assert_close(again, first, rtol=0, atol=0, equal_nan=True)


@calls
def test_kept_numbers_are_out_of_reach(make):
    """Written over, results change nothing that a later call reads."""
    call = make(inputs())
    first = [leaf.clone() for leaf in tree_leaves(call()) if isinstance(leaf, torch.Tensor)]
    for leaf in tree_leaves(call()):
        if isinstance(leaf, torch.Tensor):
            leaf.fill_(1)
    again = [leaf for leaf in tree_leaves(call()) if isinstance(leaf, torch.Tensor)]
    torch.testing.assert_close(again, first, rtol=0, atol=0, equal_nan=True)
    kept = {tensor.data_ptr() for tensor in _constants._kept.values()}
    assert kept
    assert not kept & {leaf.data_ptr() for leaf in again}


@calls
def test_nothing_fake_is_kept(make):
    expected = make(inputs())()
    _constants._kept.clear()
    _scoring._kept.clear()
    with FakeTensorMode() as fake:
        call = make(Inputs(*[fake.from_tensor(value) for value in inputs()]))
        shapes = [leaf.shape for leaf in tree_leaves(call()) if isinstance(leaf, torch.Tensor)]
    assert not _constants._kept
    assert not _scoring._kept
    real = make(inputs())()
    assert shapes == [leaf.shape for leaf in tree_leaves(real) if isinstance(leaf, torch.Tensor)]
    torch.testing.assert_close(real, expected, rtol=0, atol=0, equal_nan=True)


@calls
def test_one_graph_after_numbers_were_kept(make):
    torch.compiler.reset()  # one graph for each case, of which there are more than Dynamo keeps
    x = inputs()
    expected = make(x)()
    compiled = torch.compile(lambda x: make(x)(), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), expected, rtol=0, atol=0, equal_nan=True)


def test_nothing_is_kept_where_tensors_are_not_what_they_seem():
    x, places = torch.zeros(3), []

    def look(y):
        places.append(_constants.place_of(y))
        return y + 1

    make_fx(look)(x)
    torch.func.functionalize(look)(x)
    torch.func.vmap(look)(x)
    torch.jit.trace(look, x, check_trace=False)
    with FakeTensorMode() as fake:
        look(fake.from_tensor(x))
        places.append(_constants.place_of(x))
    look(fake.from_tensor(x))
    assert places == [None] * len(places)
    assert len(places) >= 6
    assert _constants.place_of(x) == _constants.place_of(torch.nn.Parameter(x)) == (torch.device("cpu"), 0)


class Twos(TorchDispatchMode):
    """Fills every new tensor with 2."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        return torch.full_like(made, 2) if func._schema.name == "aten::full" else made


def test_what_a_mode_makes_is_not_kept():
    x = inputs()
    expected = scored(x), updated(x)
    _constants._kept.clear()
    _scoring._kept.clear()
    with Twos():
        scored(x)
        updated(x)
    torch.testing.assert_close((scored(x), updated(x)), expected, rtol=0, atol=0, equal_nan=True)


def test_kept_in_inference_mode_and_used_for_gradients():
    q = torch.randn(1, 2, 8, 32)
    with torch.inference_mode():
        ops.bidirectional_attention(q, q, q, lengths=5)
    leaf = q.clone().requires_grad_()
    ops.bidirectional_attention(leaf, leaf, leaf, lengths=5).sum().backward()
    assert leaf.grad.abs().sum() > 0


def test_default_dtype_and_device_do_not_matter():
    x = inputs()
    expected = [make(x)() for make in CALLS.values()]
    _constants._kept.clear()
    _scoring._kept.clear()
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float16)
    try:
        with torch.device("meta"):
            results = [make(x)() for make in CALLS.values()]
    finally:
        torch.set_default_dtype(before)
    torch.testing.assert_close(results, expected, rtol=0, atol=0, equal_nan=True)


def test_threads_and_many_numbers():
    """More numbers than are kept, from several threads at once."""
    x = inputs()
    steps = range(2 * _constants.KEPT_AT_MOST)

    def draw(step: int) -> torch.Tensor:
        return rng.uniform(x.seed, 4, step, 1, call=step)

    with ThreadPoolExecutor(8) as pool:
        drawn = list(pool.map(draw, steps))
    numbers = torch.tensor(list(steps))
    for step in steps[::97]:
        expected = torch.ops.mdmcorrect.uniform(x.seed, torch.arange(4), numbers[step], 1, numbers[step], torch.float32)
        assert torch.equal(drawn[step], expected)
    assert len(_constants._kept) <= _constants.KEPT_AT_MOST + 8
    for width in range(2 * _scoring._KEPT_AT_MOST):
        ops.score_tokens(x.logits, temperature=1 + width / 1000, want=("token",))
    assert len(_scoring._kept) <= _scoring._KEPT_AT_MOST
    assert len(_constants._kept) <= _constants.KEPT_AT_MOST + 8


def test_long_lists_are_not_kept():
    logits = torch.zeros(1, 1, _constants.LONGEST + 2)
    ops.score_tokens(logits, suppress=list(range(_constants.LONGEST + 1)))
    rng.uniform(torch.tensor([1]), _constants.LONGEST + 1, 0, 1)
    assert max(tensor.numel() for tensor in _constants._kept.values()) == 1


def test_a_place_is_a_stream_and_none_while_a_graph_is_captured(monkeypatch):
    device, stream, capturing = torch.device("cuda", 0), 17, False
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capturing)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=stream))
    first = _constants._current_place(device)
    stream = 18
    assert first != _constants._current_place(device)
    capturing = True
    assert _constants._current_place(device) is None


@pytest.mark.parametrize(
    ("good", "bad", "error", "text"),
    [
        ({"temperature": 1}, {"temperature": True}, TypeError, "temperature: expected"),
        ({"suppress": 1}, {"suppress": True}, TypeError, "suppress: expected an int, got bool"),
        ({"suppress": [1]}, {"suppress": [True]}, TypeError, "suppress: expected an int, got bool"),
        ({"top_k": 1}, {"top_k": 1.0}, TypeError, "top_k: expected an int or a tensor"),
        ({"law": "raw"}, {"law": ["raw"]}, ValueError, "law: expected 'raw' or 'proposal'"),
        ({"want": WANT}, {"want": [["token"]]}, ValueError, "want: expected names among"),
        ({"confidence_dtype": None}, {"confidence_dtype": []}, TypeError, "confidence_dtype: expected float32"),
    ],
)
def test_an_equal_of_another_type_is_refused(good, bad, error, text):
    logits = torch.zeros(1, 4, 8)
    ops.score_tokens(logits, **good)
    with pytest.raises(error, match=text):
        ops.score_tokens(logits, **bad)


def test_a_tensor_in_a_list_is_read_each_time():
    logits, barred = torch.tensor([[[3.0, 2.0, 1.0]]]), torch.tensor(0)
    assert ops.score_tokens(logits, suppress=[barred]).token.item() == 1
    barred += 1
    assert ops.score_tokens(logits, suppress=[barred]).token.item() == 0


def test_prepared_scores_are_score_tokens():
    x = inputs()
    changing = {"tokens": x.tokens, "rows": x.rows, "positions": x.positions, "seed": x.seed, "step": 2, "call": 1}
    ready = prepared(x)
    expected = ops.score_tokens(x.logits, **changing, **OPTIONS)
    torch.testing.assert_close(ready(x.logits, **changing), expected, rtol=0, atol=0, equal_nan=True)
    ids, stats = ready.native(x.logits, **changing)
    named = dict(zip(ready.names, [*ids, *stats], strict=True))
    assert set(named) == set(WANT)
    for name, values in named.items():
        assert torch.equal(values, getattr(expected, name)) or values.isnan().any()
    wide = ready(x.logits[0], tokens=x.tokens[0], seed=x.seed[:1], step=2)
    assert wide.token.shape == (L,)


def test_prepared_scoring_refuses_what_it_was_not_prepared_for():
    x = inputs()
    with pytest.raises(ValueError, match="logits: expected 32 ids, as was prepared for, got 31"):
        prepared(x)(x.logits[..., :31])
    everything = prepare_score_tokens(vocab=V, device="cpu")
    with pytest.raises(ValueError, match=r"tokens: expected int64 .* current_logprob was prepared for, got None"):
        everything(x.logits)
    assert prepare_score_tokens(vocab=V, device="cpu", has_tokens=False)(x.logits).current_logprob is None
    with pytest.raises(ValueError, match="suppress: expected an id within the 32 ids"):
        prepare_score_tokens(vocab=V, device="cpu", suppress=32)
    with pytest.raises(ValueError, match=r"temperature: expected shape \[\]"):
        prepare_score_tokens(vocab=V, device="cpu", temperature=torch.ones(2))
