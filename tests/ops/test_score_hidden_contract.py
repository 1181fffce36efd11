"""score_hidden as an operator: opcheck, fake kernel, torch.compile, and errors that name the argument."""

from __future__ import annotations

import pytest
import torch

from mdmcorrect.ops import score_hidden
from mdmcorrect.selfcheck.inputs.scoring import assert_same_bits

OP = torch.ops.mdmcorrect.score_hidden.default


def layer(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(*shape, generator=generator).to(dtype) for shape in ((2, 3, 8), (40, 8), (40,)))


def native_arguments(**changes) -> dict:
    hidden, weight, bias = layer()
    arguments = {
        "hidden": hidden,
        "weight": weight,
        "bias": bias,
        "row_index": torch.arange(6),  # all: opcheck takes NaN for a difference
        "want": 0b11111111111,
        "temperature": torch.full((2, 3), 0.7, dtype=torch.float64),
        "tokens": torch.zeros(2, 3, dtype=torch.int64),
        "positions": torch.arange(3),
        "top_k": torch.full((2, 3), 9),
        "top_p": torch.full((), 0.9, dtype=torch.float64).expand(2, 3),
        "top_p_inclusive": True,
        "top_p_first": False,
        "suppress": torch.tensor([1, 39]),
        "forbid": torch.tensor([2]),
        "proposal_law": False,
        "confidence_dtype": torch.bfloat16,
        "seed": torch.tensor([4, 5]),
        "step": torch.tensor(1),
        "call": torch.tensor(0),
    }
    return {**arguments, **changes}


OPTIONAL = ("bias", "row_index", "tokens", "positions", "top_k", "top_p", "suppress", "forbid")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {
            "want": 0b00000000101,
            "seed": torch.tensor(3),
            **dict(zip(("hidden", "weight", "bias"), layer(torch.half), strict=True)),
        },
        {**dict.fromkeys(OPTIONAL), "want": 0b11111101111, "step": torch.tensor([0, 3])},
    ],
    ids=["everything", "few", "bare"],
)
def test_opcheck(changes):
    torch.library.opcheck(OP, tuple(native_arguments(**changes).values()))


def test_compiles_to_one_graph_and_does_not_recompile_per_step():
    frames = 0

    def backend(module, _):
        nonlocal frames
        frames += 1
        return module.forward

    @torch.compile(fullgraph=True, backend=backend)
    def step_of_a_sampler(hidden, weight, index, step):
        scores = score_hidden(hidden, weight, row_index=index, temperature=0.8, suppress=3, seed=2, step=step)
        return scores.token, scores.confidence

    hidden, weight, _ = layer()
    for step in range(3):
        index = torch.tensor([step, 5, -1])
        token, confidence = step_of_a_sampler(hidden, weight, index, torch.tensor(step))
        eager = score_hidden(hidden, weight, row_index=index, temperature=0.8, suppress=3, seed=2, step=step)
        assert torch.equal(token, eager.token)
        assert torch.equal(confidence.nan_to_num(2), eager.confidence.nan_to_num(2))
    assert frames == 1


def test_compiles_with_inductor_and_autocast():
    @torch.compile(fullgraph=True)
    def scores(hidden, weight, bias):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return score_hidden(hidden * 2, weight, bias, temperature=1.0)

    hidden, weight, bias = layer()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_same_bits(scores(hidden, weight, bias), score_hidden(hidden * 2, weight, bias, temperature=1.0))


def test_fake_tensors_have_the_shapes_of_the_real_ones():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        scores = score_hidden(torch.empty(2, 5, 7, 11), torch.empty(13, 11), row_index=torch.arange(4))
    assert scores.token.shape == scores.entropy.shape == (2, 5, 7)
    assert (scores.token.dtype, scores.entropy.dtype) == (torch.int64, torch.float32)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"hidden": [[0.0]]}, TypeError, "hidden: expected a torch.Tensor, got list"),
        ({"hidden": torch.zeros(2, 3, 8).double()}, TypeError, "hidden: expected dtype float32 or .*, got float64"),
        ({"hidden": torch.zeros(8)}, ValueError, r"hidden: expected shape \[..., L, D\], got \[8\]"),
        ({"hidden": torch.zeros(2, 8, 3).mT}, ValueError, "hidden: expected the last dimension to be contiguous"),
        ({"hidden": torch.zeros(2, 3, 8).half()}, TypeError, "weight: expected dtype float16, got float32"),
        ({"weight": torch.zeros(40, 7)}, ValueError, r"weight: expected shape \[V, 8\] with V >= 1, got \[40, 7\]"),
        ({"weight": torch.zeros(0, 8)}, ValueError, r"weight: expected shape .* with V >= 1, got \[0, 8\]"),
        ({"weight": torch.zeros(8)}, ValueError, r"weight: expected shape \[V, 8\] with V >= 1, got \[8\]"),
        ({"weight": torch.zeros(40, 8, device="meta")}, ValueError, "weight: expected device cpu"),
        ({"weight": None}, TypeError, "weight: expected a torch.Tensor, got NoneType"),
        ({"bias": torch.zeros(8)}, ValueError, r"bias: expected shape \[40\], got \[8\]"),
        ({"bias": torch.zeros(40).half()}, TypeError, "bias: expected dtype float32, got float16"),
        ({"row_index": torch.zeros(2)}, TypeError, "row_index: expected dtype int64, got float32"),
        ({"row_index": [0]}, TypeError, "row_index: expected a torch.Tensor, got list"),
        ({"row_index": torch.zeros(2, 1).long()}, ValueError, r"row_index: expected shape \[R\], got \[2, 1\]"),
        ({"tokens": torch.zeros(3, 2).long()}, ValueError, r"tokens: expected shape \[2, 3\] as hidden .*got \[3, 2\]"),
        ({"tokens": torch.zeros(2, 3)}, TypeError, "tokens: expected dtype int64, got float32"),
        ({"positions": torch.zeros(2).long()}, ValueError, r"positions: expected shape \[3\] or \[2, 3\], got \[2\]"),
        ({"temperature": torch.ones(3)}, ValueError, r"temperature: expected shape \[\], \[2\] \(per sequence\) or"),
        ({"top_k": 0}, ValueError, "top_k: expected at least 1, got 0"),
        ({"top_p": 1.5}, ValueError, r"top_p: expected a finite number in \[0, 1\] or a tensor, got 1.5"),
        ({"suppress": 40}, ValueError, r"suppress: expected an id within the 40 ids of the logits, got 40"),
        ({"law": "murphy"}, ValueError, "law: expected 'raw' or 'proposal', got 'murphy'"),
        ({"want": ("current_logprob",)}, ValueError, "want: expected tokens beside current_logprob"),
        ({"seed": torch.zeros(3).long()}, ValueError, r"seed: expected shape \[2\], one seed per sequence, or \[\]"),
        ({"call": torch.zeros(2).long()}, ValueError, r"call: expected an int or int64 \[\], got shape \[2\]"),
    ],
)
def test_errors_name_the_argument(change, error, text):
    with pytest.raises(error, match=text):
        score_hidden(**{"hidden": torch.zeros(2, 3, 8), "weight": torch.zeros(40, 8), **change})


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"hidden": torch.zeros(3, 8)}, r"hidden: expected shape \[B, L, D\]"),
        ({"hidden": torch.zeros(2, 8, 3).mT}, "hidden: expected a contiguous last dimension"),
        ({"hidden": torch.zeros(2, 3, 8).double(), "bias": None}, "hidden: expected float32, bfloat16 or float16"),
        ({"weight": torch.zeros(40, 9)}, r"weight: expected shape \[V, 8\]"),
        ({"weight": torch.zeros(40, 8).double()}, "weight: expected float32, bfloat16 or float16"),
        ({"bias": torch.zeros(39)}, r"bias: expected shape \[40\], got \[39\]"),
        ({"bias": torch.zeros(40).half()}, "bias: expected the dtype of hidden"),
        ({"row_index": torch.zeros(2, 3).long()}, r"row_index: expected shape \[R\]"),
        ({"row_index": torch.zeros(2)}, "row_index: expected dtype int64"),
        ({"tokens": None}, "want: current_logprob needs tokens"),
        ({"want": 1 << 12}, "want: unknown score"),
        ({"seed": torch.tensor([4]).expand(2)}, "seed: expected no stride of 0"),
    ],
)
def test_native_checks_hold_without_the_wrapper(changes, text):
    with pytest.raises(RuntimeError, match=text):
        OP(**native_arguments(**changes))
