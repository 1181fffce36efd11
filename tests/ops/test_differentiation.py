"""Every way that torch differentiates, on every operator: right, or refused in one sentence, never a silent 0."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import pytest
import torch
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from mdmcorrect import reference
from mdmcorrect.ops import (
    bidirectional_attention,
    count_positions,
    linear_cross_entropy,
    remask_step,
    score_hidden,
    score_quality,
    score_tokens,
    select_positions,
)
from mdmcorrect.selfcheck.inputs.attention import plain

F64 = torch.float64


class Case(NamedTuple):
    """A differentiable operator, the same by torch's operations, and inputs in float64."""

    ours: object
    torchs: object
    inputs: tuple[torch.Tensor, ...]


def numbers(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def attention_case(**masking) -> Case:
    """Both results of a pair of sequences, of which one is padded; keys outside hold NaN in ours alone."""
    starts, lengths = torch.tensor([0, 1]), torch.tensor([5, 3])
    plain_masking = {"starts": starts.numpy(), "lengths": lengths.numpy(), **masking}
    seen = torch.from_numpy(reference.visible_keys(2, 5, 5, **plain_masking))[:, None]
    empty = ~seen.any(-1, keepdim=True)

    def ours(q, k, v):
        out, lse = bidirectional_attention(q, k, v, starts=starts, lengths=lengths, return_lse=True, **masking)
        return torch.cat([out, lse[..., None].masked_fill(empty, 0.0)], -1)

    def torchs(q, k, v):
        k, v = k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)
        scores = (q @ k.mT * 32**-0.5).masked_fill(~seen, -torch.inf).masked_fill(empty, 0.0)
        out = scores.softmax(-1).masked_fill(~seen, 0.0) @ v
        return torch.cat([out, scores.logsumexp(-1, keepdim=True).masked_fill(empty, 0.0)], -1)

    return Case(
        ours, torchs, (numbers(2, 2, 5, 32, seed=0), numbers(2, 1, 5, 32, seed=1), numbers(2, 1, 5, 32, seed=2))
    )


def loss_case(*, label_smoothing: float = 0.0, softcap: float | None = None) -> Case:
    """Losses of each row, one of which does not count, with a bias, an id of mass 0 and weights of the rows."""
    given = {"label_smoothing": label_smoothing, "softcap": softcap}
    targets, rows = torch.tensor([2, 0, -100, 4, 5]), torch.tensor([0, 1, 2, 3, -1])
    counted = torch.tensor([True, True, False, True, False])

    def ours(hidden, weight, bias, token_weight):
        options = {"suppress": 3, "row_index": rows, "reduction": "none", **given}
        return linear_cross_entropy(hidden, weight, targets, bias=bias, token_weight=token_weight, **options)

    def torchs(hidden, weight, bias, token_weight):
        logits = hidden @ weight.T + bias
        logits = logits if softcap is None else softcap * torch.tanh(logits / softcap)
        kept = torch.arange(6) != 3
        logprob = logits[:, kept].log_softmax(-1)
        losses = F.nll_loss(logprob, targets - (targets > 3).long(), reduction="none", ignore_index=-100)
        losses = (1.0 - label_smoothing) * losses - label_smoothing * logprob.mean(-1)
        return losses.where(counted, 0.0) * token_weight.where(counted, 0.0)

    inputs = numbers(5, 4, seed=3), numbers(6, 4, seed=4), numbers(6, seed=5), numbers(5, seed=6)
    return Case(ours, torchs, inputs)


CASES = {
    "attention": attention_case(),
    "attention without oneself": attention_case(hide_self=True),
    "attention in blocks": attention_case(mask="block_causal", block_size=2),
    "loss": loss_case(),
    "smoothed and capped loss": loss_case(label_smoothing=0.2, softcap=1.5),
}


@pytest.fixture(params=CASES)
def case(request) -> Case:
    return CASES[request.param]


def leaves(case: Case, chosen=None) -> list[torch.Tensor]:
    wanted = range(len(case.inputs)) if chosen is None else chosen
    return [x.clone().requires_grad_(i in wanted) for i, x in enumerate(case.inputs)]


def close(actual, expected) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-7, atol=1e-9)


def squared(function):
    return lambda *inputs: (function(*inputs) ** 2).sum()


def directions(case: Case) -> tuple[torch.Tensor, ...]:
    return tuple(numbers(*x.shape, seed=20 + i) for i, x in enumerate(case.inputs))


# ---- recorded backward ----


def test_gradcheck_and_gradgradcheck(case):
    assert torch.autograd.gradcheck(case.ours, leaves(case), fast_mode=True)
    assert torch.autograd.gradgradcheck(case.ours, leaves(case), fast_mode=True)


def test_every_choice_of_inputs(case):
    """First and second derivatives of each subset are those of torch's expression, nothing of the others."""
    count = len(case.inputs)
    for size, order in itertools.product((1, 2, count), (1, 2)):
        for chosen in itertools.combinations(range(count), size):
            found = []
            for function in (case.ours, case.torchs):
                inputs = leaves(case, chosen)
                wanted = [inputs[i] for i in chosen]
                gradients = torch.autograd.grad(squared(function)(*inputs), wanted, create_graph=order == 2)
                if order == 2:
                    gradients = torch.autograd.grad(sum((g**2).sum() for g in gradients), wanted)
                assert not any(x.requires_grad for i, x in enumerate(inputs) if i not in chosen)
                found.append(gradients)
            close(*found)


def test_a_third_derivative(case):
    found = []
    for function in (case.ours, case.torchs):
        inputs = leaves(case)
        value = squared(function)(*inputs)
        for _ in range(3):
            gradients = torch.autograd.grad(value, inputs[:2], create_graph=True)
            value = sum((g**2).sum() for g in gradients)
        found.append(gradients)
    torch.testing.assert_close(*found, rtol=1e-6, atol=1e-7)


def test_a_gradient_penalty_in_float32_and_bfloat16():
    """What a second derivative of 0 spoiled."""
    q, k, v = (x.float() for x in CASES["attention"].inputs)
    for dtype, tolerance in ((torch.float32, 1e-4), (torch.bfloat16, 0.06)):
        found = []
        for function in (bidirectional_attention, plain):
            x = q.detach().to(dtype, copy=True).requires_grad_()
            wide = [y.repeat_interleave(2, 1).to(dtype) for y in (k, v)]
            (gradient,) = torch.autograd.grad((function(x, *wide) ** 2).sum(), x, create_graph=True)
            gradient.float().pow(2).sum().backward()
            found.append(x.grad.float())
        assert found[1].abs().max() > 0.01
        assert (found[0] - found[1]).abs().max() <= tolerance * found[1].abs().max()


def test_first_derivatives_come_from_the_kernels(monkeypatch, case):
    def fail(*_, **__):
        raise AssertionError("the plain expression")

    monkeypatch.setattr(torch.func, "vjp", fail)
    squared(case.ours)(*leaves(case)).backward()
    torch.func.grad(squared(case.ours))(*case.inputs)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoints(case, reentrant):
    found = []
    for function in (case.ours, lambda *x: checkpoint(case.ours, *x, use_reentrant=reentrant)):
        inputs = leaves(case)
        squared(function)(*inputs).backward()
        found.append([x.grad for x in inputs])
    close(*found)


def test_no_gradient_is_recorded_without_need(case):
    assert not case.ours(*case.inputs).requires_grad
    with torch.no_grad():
        assert not case.ours(*leaves(case)).requires_grad
    with torch.inference_mode():
        assert case.ours(*case.inputs).is_inference()


# ---- torch.func ----


def test_func_grad_vjp_and_its_own_gradient(case):
    places = tuple(range(len(case.inputs)))
    for function in (lambda f: torch.func.grad(squared(f), places), lambda f: torch.func.jacrev(f, places)):
        close(function(case.ours)(*case.inputs), function(case.torchs)(*case.inputs))

    def norm(f):
        return lambda *x: sum((g**2).sum() for g in torch.func.grad(squared(f), places)(*x))

    close(*(torch.func.grad(norm(f), places)(*case.inputs) for f in (case.ours, case.torchs)))


def test_forward_mode(case):
    found = [torch.func.jvp(f, case.inputs, directions(case)) for f in (case.ours, case.torchs)]
    close(*found)
    assert found[0][1].abs().max() > 0.01
    with forward_ad.dual_level():
        for place in range(len(case.inputs)):
            tangents = []
            for function in (case.ours, case.torchs):
                inputs = list(case.inputs)
                inputs[place] = forward_ad.make_dual(inputs[place], directions(case)[place])
                tangents.append(forward_ad.unpack_dual(function(*inputs)).tangent)
            close(*tangents)


def test_hessians_by_every_road(case):
    """Reverse over reverse, forward over reverse, reverse over forward, and products with a vector."""
    first = case.inputs[0]

    def of_first(f):
        return lambda x: squared(f)(x, *case.inputs[1:])

    (direction,) = directions(case)[:1]
    expected = torch.func.jvp(torch.func.grad(of_first(case.torchs)), (first,), (direction,))[1]
    close(torch.func.jvp(torch.func.grad(of_first(case.ours)), (first,), (direction,))[1], expected)

    def slope(x):
        return torch.func.jvp(of_first(case.ours), (x,), (direction,))[1]

    close(torch.func.grad(slope)(first), expected)
    close(torch.autograd.functional.hvp(of_first(case.ours), first, direction)[1], expected)
    small = torch.func.hessian(squared(linear_cross_entropy), argnums=0)
    hidden, weight, targets = numbers(2, 3, seed=7), numbers(4, 3, seed=8), torch.tensor([1, 3])
    exact = torch.func.hessian(lambda h: F.cross_entropy(h @ weight.T, targets, reduction="sum") ** 2)(hidden)
    close(small(hidden, weight, targets), exact)


@pytest.mark.parametrize("places", [(0,), (1,), (0, 1)])
def test_vmap_and_gradients_under_it(case, places):
    """Over a first, a middle and a last dimension, the entries being those of single calls."""
    inputs = list(case.inputs)
    dims: list[int | None] = [None] * len(inputs)
    for place, dim in zip(places, (-1, 1), strict=False):
        inputs[place] = torch.stack([inputs[place], inputs[place] * 2, -inputs[place]], dim)
        dims[place] = dim
    places_of_gradient = tuple(range(len(inputs)))
    for function in (lambda f: f, lambda f: torch.func.grad(squared(f), places_of_gradient)):
        mapped = torch.func.vmap(function(case.ours), tuple(dims))(*inputs)
        expected = torch.func.vmap(function(case.torchs), tuple(dims))(*inputs)
        close(mapped, expected)
    per_sample = torch.func.vmap(lambda *x: torch.func.jvp(case.ours, x, x)[1], tuple(dims))(*inputs)
    close(per_sample, torch.func.vmap(lambda *x: torch.func.jvp(case.torchs, x, x)[1], tuple(dims))(*inputs))


# ---- torch.compile ----


def test_compiled_gradients_and_what_a_compiled_graph_refuses(case):
    compiled = torch.compile(case.ours, fullgraph=True, backend="aot_eager")
    found = []
    for function in (case.ours, compiled):
        inputs = leaves(case)
        squared(function)(*inputs).backward()
        found.append([x.grad for x in inputs])
    close(*found)
    inputs = leaves(case)
    value = squared(compiled)(*inputs)
    with pytest.raises(RuntimeError):  # by torch
        sum(g.sum() for g in torch.autograd.grad(value, inputs, create_graph=True)).backward()


def test_the_operator_by_itself_refuses_a_second_derivative():
    """Which is what a graph holds."""
    hidden, weight, targets = numbers(2, 3, seed=7).requires_grad_(), numbers(4, 3, seed=8), torch.tensor([1, 3])
    losses = torch.ops.mdmcorrect.linear_cross_entropy(hidden, weight, targets, None, None, None, -100)[0]
    (gradient,) = torch.autograd.grad(losses.sum(), hidden, create_graph=True)
    with pytest.raises(RuntimeError, match="linear_cross_entropy: its gradients cannot be differentiated again inside"):
        gradient.sum().backward()
    q = numbers(1, 1, 3, 32, seed=0).requires_grad_()
    masking = None, None, None, 0, False, 0, None, 1.0
    out = torch.ops.mdmcorrect.bidirectional_attention(q, q, q, *masking)[0]
    (gradient,) = torch.autograd.grad(out.sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="bidirectional_attention: its gradients cannot be differentiated again"):
        gradient.sum().backward()


@pytest.mark.parametrize("name", ["attention", "loss"])
def test_transforms_inside_a_compiled_graph(name):
    case = CASES[name]
    transforms = {
        "jvp": lambda f: lambda *x: torch.func.jvp(f, x, x)[1],
        "grad": lambda f: torch.func.grad(squared(f)),
        "hvp": lambda f: lambda *x: torch.func.jvp(torch.func.grad(squared(f)), x, x)[1],
        "vmap": lambda f: lambda x, *rest: torch.func.vmap(lambda y: f(y, *rest))(torch.stack([x, 2 * x])),
    }
    for transform in transforms.values():
        torch._dynamo.reset()
        close(
            torch.compile(transform(case.ours), backend="aot_eager", fullgraph=True)(*case.inputs),
            transform(case.torchs)(*case.inputs),
        )


# ---- operators without derivatives ----


def scores_of(logits: torch.Tensor) -> torch.Tensor:
    return score_tokens(logits, temperature=1.0, seed=3, want=("entropy",)).entropy


def hidden_scores_of(hidden: torch.Tensor) -> torch.Tensor:
    return score_hidden(hidden, torch.eye(8)[:6].contiguous(), want=("entropy",)).entropy


@pytest.mark.parametrize("function", [scores_of, hidden_scores_of])
def test_scores_are_constants(function):
    """Detached, as documented: nothing that is made of them alone has a gradient."""
    inputs = torch.randn(2, 5, 8, requires_grad=True)
    values = function(inputs)
    assert not values.requires_grad
    with pytest.raises(RuntimeError, match="does not require grad"):
        values.sum().backward()
    with forward_ad.dual_level():
        assert forward_ad.unpack_dual(function(forward_ad.make_dual(inputs.detach(), inputs.detach()))).tangent is None
    stacked = torch.stack([inputs.detach(), 2 * inputs.detach()])
    mapped = torch.func.vmap(function)(stacked)
    assert torch.equal(mapped, torch.stack([function(x) for x in stacked]))


def test_choices_under_vmap_and_with_gradients():
    scores = torch.randn(3, 2, 9)
    tokens = torch.randint(0, 5, (3, 2, 9))
    eligible = torch.rand(3, 2, 9) < 0.5

    def remasked(tokens, scores, mask):
        counts = {"unmask_count": 2, "remask_count": 1, "unmask_score": scores, "keep_score": scores}
        return remask_step(tokens, tokens + 5, mask_id=0, eligible=mask, **counts)

    for function, inputs in (
        (lambda s, e: select_positions(s, 3, eligible=e, temperature=0.5, seed=2), (scores, eligible)),
        (lambda s, e: count_positions(s, "threshold", 0.2, eligible=e), (scores, eligible)),
        (remasked, (tokens, scores, eligible)),
    ):
        singles = [function(*entry) for entry in zip(*inputs, strict=True)]
        mapped = torch.func.vmap(function)(*inputs)
        if isinstance(mapped, torch.Tensor):
            mapped, singles = (mapped,), [(x,) for x in singles]
        for found, expected in zip(mapped, zip(*singles, strict=True), strict=True):
            assert torch.equal(found, torch.stack(expected))
        recorded = [x[0].requires_grad_() if x.is_floating_point() else x[0] for x in inputs]
        results = function(*recorded)
        assert not any(x.requires_grad for x in (results if isinstance(results, tuple) else (results,)))


def test_quality_refuses_to_lose_a_gradient():
    hidden, weight = torch.randn(2, 3, 4), torch.randn(4)
    with pytest.raises(RuntimeError, match="weight: wants a gradient, but score_quality has no backward"):
        score_quality(hidden, weight.clone().requires_grad_())
    with pytest.raises(RuntimeError, match="hidden: wants a gradient"):
        torch.func.grad(lambda x: score_quality(x, weight).sum())(hidden)
    with pytest.raises(RuntimeError, match="hidden: wants a gradient"):
        torch.func.jvp(lambda x: score_quality(x, weight), (hidden,), (hidden,))
    with forward_ad.dual_level(), pytest.raises(RuntimeError, match="hidden: wants a gradient"):
        score_quality(forward_ad.make_dual(hidden, hidden), weight)
    stacked = torch.stack([hidden, 2 * hidden])
    mapped = torch.func.vmap(lambda x: score_quality(x, weight))(stacked)
    assert torch.equal(mapped, torch.stack([score_quality(x, weight) for x in stacked]))
