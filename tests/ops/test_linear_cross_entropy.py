"""linear_cross_entropy against the float64 reference, torch's own expression, and autograd's rules."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mdmcorrect import reference
from mdmcorrect.ops import linear_cross_entropy
from mdmcorrect.selfcheck.inputs.cross_entropy import TOLERANCE, assert_near, problem

NATIVE = torch.ops.mdmcorrect.linear_cross_entropy.default
NATIVE_BACKWARD = torch.ops.mdmcorrect.linear_cross_entropy_backward.default
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
SHAPES = [(1, 1, 1), (7, 5, 11), (40, 33, 385), (49, 64, 192), (300, 16, 1700)]  # N, D, V around the kernel's blocks


def gradients(loss: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss, inputs)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_losses_and_gradients_are_the_references(shape, dtype):
    hidden, weight, targets = problem(*shape, dtype)
    vocab = shape[2]
    value = torch.float64 if dtype == torch.float64 else torch.float32
    bias, upstream = torch.randn(vocab).to(value), torch.randn(shape[0]).to(value)
    suppress = [] if vocab < 3 else [vocab // 2, vocab - 1]
    targets[torch.isin(targets, torch.tensor(suppress))] = 0
    rows = torch.tensor([-1, *range(0, shape[0], 2), *range(0, shape[0], 3), 10**6])
    inputs = [tensor.requires_grad_() for tensor in (hidden, weight, bias)]
    losses = linear_cross_entropy(
        hidden, weight, targets, bias=bias, suppress=suppress, row_index=rows, reduction="none"
    )
    expected = reference.linear_cross_entropy(
        *(tensor.detach().double().numpy() for tensor in (hidden, weight)),
        targets.numpy(),
        bias=bias.detach().double().numpy(),
        suppress=suppress,
        row_index=rows.numpy(),
        grad_losses=upstream.numpy(),
    )
    assert losses.dtype == value
    np.testing.assert_allclose(losses.detach().numpy(), expected[0], rtol=2e-6, atol=2e-6)
    for actual, truth, source in zip(gradients((losses * upstream).sum(), *inputs), expected[1:], inputs, strict=True):
        assert actual.dtype == source.dtype
        assert actual.shape == source.shape
        assert_near(actual, truth, TOLERANCE[dtype], terms=float(upstream.abs().max()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_no_less_exact_than_torch_in_the_same_dtype(dtype):
    hidden, weight, targets = problem(200, 256, 3001, dtype)
    truth = reference.linear_cross_entropy(hidden.double(), weight.double(), targets)
    counted = (targets != -100).nonzero()[:, 0]
    inputs = hidden.requires_grad_(), weight.requires_grad_()
    ours = linear_cross_entropy(hidden, weight, targets, reduction="none")
    theirs = F.cross_entropy(hidden[counted] @ weight.T, targets[counted], reduction="none")
    for mine, plain, true in zip(
        (ours[counted], *gradients(ours.sum(), *inputs)),
        (theirs, *gradients(theirs.sum(), *inputs)),
        (torch.from_numpy(truth[0])[counted], *map(torch.from_numpy, truth[1:3])),
        strict=True,
    ):
        ulp = torch.finfo(mine.dtype).eps * true.abs().max()
        assert (mine - true).abs().max() <= 2 * (plain - true).abs().max() + ulp


@pytest.mark.parametrize(
    ("reduction", "options"),
    [
        ("sum", {}),
        ("mean", {}),
        ("none", {}),
        ("none", {"label_smoothing": 0.2}),
        ("mean", {"softcap": 2.0}),
        ("sum", {"label_smoothing": 0.2, "softcap": 2.0}),
    ],
)
def test_gradcheck(reduction, options):
    hidden, weight, targets = problem(9, 4, 13, torch.float64)
    targets[0] = 3
    inputs = (hidden, weight, torch.randn(13).double(), torch.rand(9).double())

    def loss(h: Tensor, w: Tensor, b: Tensor, token_weight: Tensor) -> Tensor:
        return linear_cross_entropy(
            h,
            w,
            targets,
            bias=b,
            token_weight=token_weight,
            suppress=12,
            row_index=torch.arange(7),
            reduction=reduction,
            **options,
        )

    targets[targets == 12] = 0
    assert torch.autograd.gradcheck(loss, [tensor.requires_grad_() for tensor in inputs])


OPTIONS = [
    {"label_smoothing": 0.1},
    {"softcap": 3.0},
    {"label_smoothing": 0.3, "softcap": 30.0},
    {"label_smoothing": 1.0},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(1, 1, 2), (7, 5, 11), (40, 33, 385), (35, 16, 1700)], ids=str)
def test_label_smoothing_and_softcap_are_the_references(shape, dtype, options):
    """With ids suppressed in any order, twice, in a row (a slice of the kernel's and more) and outside."""
    hidden, weight, targets = problem(*shape, dtype)
    vocab = shape[2]
    value = torch.float64 if dtype == torch.float64 else torch.float32
    bias, upstream = torch.randn(vocab).to(value), torch.randn(shape[0]).to(value)
    suppress = [] if vocab < 3 else [vocab - 1, vocab // 2, vocab - 1]
    if vocab > 1000:
        suppress += range(190, 390)
    targets[torch.isin(targets, torch.tensor(suppress))] = 0
    inputs = [tensor.requires_grad_() for tensor in (hidden, weight, bias)]
    ids = torch.tensor([*suppress, -1, vocab])
    losses = linear_cross_entropy(hidden, weight, targets, bias=bias, suppress=ids, reduction="none", **options)
    expected = reference.linear_cross_entropy(
        *(tensor.detach().double().numpy() for tensor in (hidden, weight)),
        targets.numpy(),
        bias=bias.detach().double().numpy(),
        suppress=suppress,
        grad_losses=upstream.numpy(),
        **options,
    )
    assert losses.dtype == value
    np.testing.assert_allclose(losses.detach().numpy(), expected[0], rtol=2e-6, atol=2e-6)
    for actual, truth, source in zip(gradients((losses * upstream).sum(), *inputs), expected[1:], inputs, strict=True):
        assert actual.dtype == source.dtype
        assert_near(actual, truth, TOLERANCE[dtype], terms=float(upstream.abs().max()))


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_label_smoothing_and_softcap_are_torchs(options):
    """Nearly as exact as torch's own expression in float32, without suppressed ids, at logits of any scale: beside the
    options the two differ in the order in which 32 products are added up."""
    for scale in (1e-3, 1.0, 30.0, 1e3):
        hidden, weight, targets = problem(60, 32, 1501, torch.float32, counted=1.0)
        hidden = hidden * scale

        def plain(h: Tensor, w: Tensor, t: Tensor, reduction: str) -> Tensor:
            logits = h @ w.T
            if cap := options.get("softcap"):
                logits = torch.tanh(logits / cap) * cap
            smoothing = options.get("label_smoothing", 0.0)
            return F.cross_entropy(logits, t, reduction=reduction, label_smoothing=smoothing)

        results = []
        ours = partial(linear_cross_entropy, **options)
        for call, dtype in ((ours, torch.float32), (plain, torch.float32), (plain, torch.float64)):
            inputs = [tensor.to(dtype).requires_grad_() for tensor in (hidden, weight)]
            losses = call(*inputs, targets, reduction="none")
            results.append((losses.detach(), *gradients(losses.sum(), *inputs)))
        for mine, torchs, true in zip(*results, strict=True):
            ulp = torch.finfo(mine.dtype).eps * true.abs().max()
            assert (mine - true).abs().max() <= 4 * (torchs - true).abs().max() + 2 * ulp


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_label_smoothing_beside_large_logits(dtype):
    """A constant added to all logits changes no loss, but for what it rounds away of the logits themselves."""
    hidden, weight, targets = problem(20, 8, 900, dtype, counted=1.0)
    weight = (weight * 0).contiguous()  # all logits equal: the loss is log V, exactly at any offset
    for offset in (0.0, 1e3, -1e6, 1e30, -3e38):
        bias = torch.full((900,), offset)
        losses = linear_cross_entropy(
            hidden, weight, targets, bias=bias, suppress=range(600, 700), label_smoothing=0.5, reduction="none"
        )
        kept = torch.tensor(800.0).log()
        expected = torch.where((targets >= 600) & (targets < 700), torch.inf, kept.expand(20))
        torch.testing.assert_close(losses, expected, rtol=0, atol=1e-6 + abs(offset) * 2e-7)


def test_label_smoothing_and_softcap_with_infinite_logits():
    hidden, weight = torch.ones(2, 1), torch.zeros(4, 1)
    bias, targets = torch.tensor([0.0, 1.0, -torch.inf, 2.0]), torch.tensor([0, 1])
    call = partial(linear_cross_entropy, hidden, weight, targets, reduction="none")
    assert call(bias=bias, label_smoothing=0.1).eq(torch.inf).all()
    assert call(bias=bias, label_smoothing=0.1, suppress=2).isfinite().all()
    capped = call(bias=bias, label_smoothing=0.1, softcap=5.0)
    torch.testing.assert_close(
        capped, F.cross_entropy((5 * torch.tanh(bias / 5)).expand(2, 4), targets, reduction="none", label_smoothing=0.1)
    )
    assert call(bias=bias.abs(), softcap=5.0).isfinite().all()
    assert call(bias=bias.abs()).isnan().all()
    for options in ({}, {"softcap": 5.0}, {"label_smoothing": 0.1}):
        assert call(bias=torch.full((4,), torch.nan), **options).isnan().all()
    assert call(suppress=range(4), label_smoothing=0.1).isnan().all()
    assert call(suppress=0, label_smoothing=0.1).tolist() == [torch.inf, pytest.approx(np.log(3))]
    assert call(suppress=0, label_smoothing=1.0).tolist() == pytest.approx([np.log(3)] * 2)
    _, right = call(bias=torch.tensor([90.0, 100.0, 0.0, 0.0]), softcap=1.0, return_correct=True)
    assert right.tolist() == [True, True]  # both are at the cap


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_results_do_not_depend_on_the_threads_or_on_other_rows(threads):
    hidden, weight, targets = problem(150, 40, 2000, torch.bfloat16)
    before = torch.get_num_threads()

    def run(rows: Tensor | None = None) -> tuple[Tensor, ...]:
        h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        losses = linear_cross_entropy(h, w, targets, row_index=rows, reduction="none")
        return (losses, *gradients(losses.sum(), h, w))

    try:
        torch.set_num_threads(1)
        expected = run()
        torch.set_num_threads(threads)
        for one, other in zip(run(), expected, strict=True):
            assert torch.equal(one, other)
        some = torch.tensor([3, 77, 120])
        for one, other in zip(run(some)[:2], expected[:2], strict=True):
            assert torch.equal(one[some], other[some])
    finally:
        torch.set_num_threads(before)


def test_layouts():
    """Any strides, leading dimensions, odd rows of 16-bit values."""
    hidden, weight, targets = problem(24, 6, 50, torch.bfloat16)
    expected = linear_cross_entropy(hidden, weight, targets, reduction="none")
    spaced_hidden = torch.zeros(24, 9, dtype=torch.bfloat16)[:, :6].copy_(hidden)
    spaced_weight = torch.zeros(50, 7, dtype=torch.bfloat16)[:, :6].copy_(weight)
    for h, w, t in (
        (spaced_hidden, spaced_weight, targets),
        (hidden.T.contiguous().T, weight.T.contiguous().T, torch.stack([targets, targets], 1)[:, 0]),
    ):
        assert torch.equal(linear_cross_entropy(h, w, t, reduction="none"), expected)
    grid = linear_cross_entropy(hidden.view(4, 2, 3, 6), weight, targets.view(4, 2, 3), reduction="none")
    assert torch.equal(grid, expected.view(4, 2, 3))


def test_reductions_and_weights():
    hidden, weight, targets = problem(30, 8, 40, torch.float32)
    counted = targets != -100
    token_weight = torch.rand(30).masked_fill(~counted, torch.inf).requires_grad_()
    losses = linear_cross_entropy(hidden, weight, targets, reduction="none")
    weighted = linear_cross_entropy(hidden, weight, targets, token_weight=token_weight, reduction="none")
    torch.testing.assert_close(weighted[counted], (losses * token_weight)[counted])
    assert not weighted[~counted].any()
    total = linear_cross_entropy(hidden, weight, targets, token_weight=token_weight)
    torch.testing.assert_close(total, weighted.sum())
    mean = linear_cross_entropy(hidden, weight, targets, token_weight=token_weight, reduction="mean")
    torch.testing.assert_close(mean, weighted.sum() / counted.sum())
    torch.testing.assert_close(gradients(total, token_weight)[0], losses.where(counted, 0))


def test_nothing_counts():
    hidden, weight = torch.randn(3, 4, requires_grad=True), torch.randn(5, 4, requires_grad=True)
    for h, targets in ((hidden, torch.full((3,), -100)), (hidden[:0], torch.zeros(0, dtype=torch.int64))):
        for reduction in ("sum", "mean"):
            loss = linear_cross_entropy(h, weight, targets, reduction=reduction)
            assert loss == 0.0
            for gradient in gradients(loss, hidden, weight):
                assert not gradient.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_rows_without_a_loss(dtype):
    """NaN and +inf logits, no id left, targets outside: NaN there and nowhere else. -inf logits are ids of mass 0."""
    hidden, weight, targets = problem(6, 4, 9, dtype, counted=1.0)
    hidden[1, 2], hidden[2, 0] = torch.nan, torch.inf
    targets[3], targets[4] = 9, -7
    h, w = hidden.requires_grad_(), weight.requires_grad_()
    losses = linear_cross_entropy(h, w, targets, reduction="none")
    bad = torch.tensor([False, True, True, True, True, False])
    assert torch.equal(losses.isnan(), bad)
    assert torch.equal(gradients(losses.sum(), h)[0].isnan().any(1), bad)
    fine = linear_cross_entropy(h, w, targets, row_index=torch.tensor([0, 5]))
    assert all(gradient.isfinite().all() for gradient in gradients(fine, h, w))

    row, target = torch.ones(1, 4, dtype=dtype), torch.tensor([2])
    assert linear_cross_entropy(row, weight, target, suppress=range(9)).isnan()
    assert linear_cross_entropy(row, weight, target, suppress=2) == torch.inf
    bias = torch.zeros(9).index_fill(0, torch.tensor([4, 5]), -torch.inf)
    assert_near(
        linear_cross_entropy(row, weight, target, bias=bias),
        reference.linear_cross_entropy(row.float(), weight.detach().float(), target, suppress=[4, 5])[0],
        1e-6,
    )


def test_huge_logits():
    hidden, weight = torch.tensor([[3e4], [-3e4]]), torch.tensor([[1.0], [-1.0], [0.5]])
    losses = linear_cross_entropy(hidden, weight, torch.tensor([0, 0]), reduction="none")
    torch.testing.assert_close(losses, torch.tensor([0.0, 6e4]))


def test_whether_the_target_is_the_most_likely():
    hidden, weight, targets = problem(60, 3, 5, torch.float32)
    loss, correct = linear_cross_entropy(hidden, weight, targets, suppress=1, return_correct=True)
    logits = (hidden @ weight.T).index_fill(-1, torch.tensor([1]), -torch.inf)
    assert torch.equal(correct, (logits.argmax(-1) == targets) & (targets != -100))
    assert 0 < correct.sum() < 60
    assert torch.equal(loss, linear_cross_entropy(hidden, weight, targets, suppress=1))
    tie = torch.ones(2, 1), torch.tensor([[1.0], [1.0], [0.0]]), torch.tensor([1, 2])
    assert linear_cross_entropy(*tie, return_correct=True)[1].tolist() == [True, False]


def test_only_the_gradients_that_are_needed():
    hidden, weight, targets = problem(10, 4, 20, torch.float32)
    bias = torch.zeros(20)
    both = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    expected = gradients(linear_cross_entropy(*both, targets), *both)
    for position, tensor in enumerate((hidden, weight)):
        tensor.requires_grad_()
        assert torch.equal(gradients(linear_cross_entropy(hidden, weight, targets), tensor)[0], expected[position])
        tensor.requires_grad_(False)
    _, normaliser, _, _ = NATIVE(hidden, weight, targets, bias, None, None, -100)
    for needs in ((True, False, False), (False, True, False), (False, False, True)):
        found = NATIVE_BACKWARD(torch.ones(10), hidden, weight, targets, bias, None, None, -100, normaliser, *needs)
        assert [len(gradient) > 0 for gradient in found] == list(needs)
    assert not linear_cross_entropy(hidden, weight, targets).requires_grad


def test_backward_twice():
    hidden, weight, targets = problem(10, 4, 20, torch.float32)
    hidden.requires_grad_()
    loss = linear_cross_entropy(hidden, weight, targets)
    first = torch.autograd.grad(loss, hidden, retain_graph=True)[0]
    assert torch.equal(torch.autograd.grad(loss, hidden, retain_graph=True)[0], first)


def test_autocast():
    hidden, weight, targets = problem(10, 4, 20, torch.float32)
    hidden.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        loss = linear_cross_entropy(hidden, weight, targets)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, linear_cross_entropy(hidden.bfloat16(), weight.bfloat16(), targets))
    assert gradients(loss, hidden)[0].dtype == torch.float32


def test_memory_does_not_grow_with_the_vocabulary():
    def allocated(vocab: int) -> int:
        hidden, weight, targets = problem(64, 8, vocab, torch.float32, counted=1.0)
        with torch.profiler.profile(profile_memory=True) as profiler:
            normaliser = NATIVE(hidden, weight, targets, None, None, None, -100)[1]
            grad = NATIVE_BACKWARD(
                torch.ones(64), hidden, weight, targets, None, None, None, -100, normaliser, True, True, False
            )
        events = profiler.profiler.kineto_results.events()
        sizes = [event.nbytes() for event in events if event.name() == "[memory]" and event.nbytes() > 0]
        return sum(sizes) - grad[1].nbytes

    small, large = allocated(8000), allocated(16000)
    assert small < 8000 * 64 * 4
    assert large - small < 0.05 * 8000 * 64 * 4


@pytest.mark.parametrize(
    ("operator", "schema"),
    [
        ("mm.out", "(Tensor self, Tensor mat2, *, Tensor(a!) out) -> Tensor(a!)"),
        ("mm.dtype_out", "(Tensor self, Tensor mat2, ScalarType out_dtype, *, Tensor(a!) out) -> Tensor(a!)"),
        ("view.dtype", "(Tensor(a) self, ScalarType dtype) -> Tensor(a)"),
    ],
)
def test_torch_operators_take_what_the_cuda_binding_passes(operator, schema):
    """csrc/torch/matmul.h calls them by position, and on a machine without a GPU nothing else would notice."""
    name, overload = operator.split(".")
    assert str(getattr(getattr(torch.ops.aten, name), overload)._schema) == f"aten::{operator}{schema}"


@pytest.mark.slow
def test_opcheck():
    hidden, weight, targets = problem(8, 6, 20, torch.float32)
    for bias, suppress, rows, options in (
        (None, None, None, ()),
        (torch.zeros(20), torch.tensor([3]), torch.tensor([0, 2, -1]), (0.1, 5.0)),
    ):
        inputs = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        torch.library.opcheck(NATIVE, (*inputs, targets, bias, suppress, rows, -100, *options))
        needs = (True, True, bias is not None)
        torch.library.opcheck(
            NATIVE_BACKWARD,
            (torch.ones(8), hidden, weight, targets, bias, suppress, rows, -100, torch.ones(2, 8), *needs, *options),
        )


@pytest.mark.slow
def test_compile():
    hidden, weight, targets = problem(12, 6, 20, torch.float32)
    bias, token_weight = torch.randn(20), torch.rand(12)
    inputs = [tensor.requires_grad_() for tensor in (hidden, weight, bias, token_weight)]

    def step(h: Tensor, w: Tensor, b: Tensor, weights: Tensor) -> Tensor:
        options = {"suppress": 3, "label_smoothing": 0.1, "softcap": 4.0}
        return linear_cross_entropy(h * 2, w, targets, bias=b, token_weight=weights, reduction="mean", **options)

    eager, compiled = step(*inputs), torch.compile(step, fullgraph=True)(*inputs)
    torch.testing.assert_close(compiled, eager)
    for one, other in zip(gradients(compiled, *inputs), gradients(eager, *inputs), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"hidden": torch.zeros(3, 4, dtype=torch.int64)}, TypeError, "hidden: expected dtype"),
        ({"hidden": torch.zeros(3, 0)}, ValueError, r"hidden: expected shape \[..., D\]"),
        ({"weight": torch.zeros(5, 3)}, ValueError, r"weight: expected shape \[V, 4\]"),
        ({"weight": torch.zeros(5, 4).half()}, TypeError, "weight: expected torch.float32"),
        ({"weight": None}, TypeError, "weight: expected a torch.Tensor"),
        ({"targets": torch.zeros(2, dtype=torch.int64)}, ValueError, r"targets: expected shape \[3\]"),
        ({"targets": torch.zeros(3)}, TypeError, "targets: expected dtype int64"),
        ({"bias": torch.zeros(4)}, ValueError, r"bias: expected shape \[5\]"),
        ({"token_weight": torch.zeros(3, 1)}, ValueError, r"token_weight: expected shape \[3\]"),
        ({"token_weight": torch.zeros(3).bool()}, TypeError, "token_weight: expected dtype"),
        ({"suppress": 5}, ValueError, r"suppress: expected an id within the 5 ids of the logits, got 5"),
        ({"row_index": torch.zeros(1, 1, dtype=torch.int64)}, ValueError, r"row_index: expected shape \[R\]"),
        ({"row_index": torch.zeros(1)}, TypeError, "row_index: expected dtype int64"),
        ({"label_smoothing": 1.5}, ValueError, r"label_smoothing: expected a number in \[0, 1\], got 1.5"),
        ({"label_smoothing": float("nan")}, ValueError, "label_smoothing: expected a number in"),
        ({"label_smoothing": torch.tensor(0.1)}, TypeError, "label_smoothing: expected a number, got Tensor"),
        ({"label_smoothing": True}, TypeError, r"label_smoothing: expected a number in \[0, 1\], got bool"),
        ({"softcap": 0}, ValueError, r"softcap: expected a number in \[1e-30, 1e\+30\], got 0"),
        ({"softcap": "30"}, TypeError, "softcap: expected a number in .*, got str '30'"),
        ({"ignore_index": None}, TypeError, "ignore_index: expected an int, got NoneType"),
        ({"reduction": "average"}, ValueError, "reduction: expected 'sum', 'mean' or 'none'"),
    ],
)
def test_errors_name_the_argument(change, error, text):
    arguments = {"hidden": torch.zeros(3, 4), "weight": torch.zeros(5, 4), "targets": torch.zeros(3).long(), **change}
    with pytest.raises(error, match=text):
        linear_cross_entropy(**arguments)


def test_the_operator_itself_refuses_what_would_crash_it():
    hidden, weight, targets = torch.zeros(3, 4), torch.zeros(5, 4), torch.zeros(3).long()
    for arguments, text in (
        ((hidden, weight.double(), targets, None, None, None, -100), "weight: expected the dtype of hidden"),
        ((hidden, weight.T, targets, None, None, None, -100), r"weight: expected shape \[V, 4\]"),
        ((hidden.T.contiguous().T, weight, targets, None, None, None, -100), "hidden: expected a contiguous last"),
        ((hidden, weight, targets, weight[:, 0], None, None, -100), "bias: expected contiguous shape"),
        ((hidden, weight, targets.int(), None, None, None, -100), "targets: expected dtype int64"),
        ((hidden, weight, targets, None, None, None, -100, 2.0), "label_smoothing: expected a number in"),
        ((hidden, weight, targets, None, None, None, -100, 0.0, -1.0), "softcap: expected 0 or a number in"),
    ):
        with pytest.raises(RuntimeError, match=text):
            NATIVE(*arguments)
