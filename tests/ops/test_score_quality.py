"""score_quality against the float64 reference, the module it stands for, and itself on other batches and layouts."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mdmcorrect import _native
from mdmcorrect.heads import QualityHead
from mdmcorrect.ops import score_quality
from mdmcorrect.selfcheck.inputs.quality import expected, head, states

OP = torch.ops.mdmcorrect.score_quality.default
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
NORMS = ["layer", "rms", None]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("size", [1, 2, 15, 16, 17, 63, 64, 65, 100, 1000, 4096])
def test_equals_reference(size, norm, dtype):
    hidden, arguments = states(2, 5, size, dtype=dtype), head(size, norm)
    np.testing.assert_allclose(score_quality(hidden, **arguments), expected(hidden, **arguments), rtol=3e-5, atol=1e-6)
    logit = score_quality(hidden, **arguments, logit=True)
    np.testing.assert_allclose(torch.sigmoid(logit), score_quality(hidden, **arguments), rtol=1e-5)
    for shape in ((2, size), (2, 5, size)):
        generator = torch.Generator().manual_seed(3)
        shift, scale = (torch.randn(*shape, generator=generator).to(dtype) / 2 for _ in range(2))
        for modulation in ({"shift": shift, "scale": scale}, {"shift": shift}, {"scale": scale}):
            np.testing.assert_allclose(
                score_quality(hidden, **arguments, **modulation),
                expected(hidden, **arguments, **modulation),
                rtol=3e-5,
                atol=1e-6,
            )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("norm", NORMS)
def test_error_is_within_twice_that_of_plain_torch(norm, dtype):
    hidden, arguments = states(4, 100, 4096, dtype=dtype), head(4096, norm)
    x = hidden.float()
    if norm == "layer":
        x = F.layer_norm(x, (4096,), arguments["norm_weight"], arguments["norm_bias"])
    elif norm == "rms":
        x = F.rms_norm(x, (4096,), arguments["norm_weight"], 1e-5) + arguments["norm_bias"]
    plain = torch.sigmoid(F.linear(x, arguments["weight"][None], arguments["bias"]))[..., 0]
    exact = expected(hidden, **arguments)
    error, theirs = (np.abs(values.numpy() - exact).max() for values in (score_quality(hidden, **arguments), plain))
    assert error <= 2 * theirs + np.spacing(np.float32(1))


def test_a_large_mean_does_not_cost_the_variance():
    hidden = torch.randn(1, 8, 512, generator=torch.Generator().manual_seed(0)) / 64 + 100
    arguments = head(512, "layer")
    np.testing.assert_allclose(score_quality(hidden, **arguments), expected(hidden, **arguments), rtol=2e-3)


@pytest.mark.parametrize("dtype", DTYPES)
def test_parameters_of_other_dtypes(dtype):
    hidden, arguments = states(2, 3, 40, dtype=torch.bfloat16), head(40, "layer", dtype)
    wide = {name: x.float() if isinstance(x, torch.Tensor) else x for name, x in arguments.items()}
    assert torch.equal(score_quality(hidden, **arguments), score_quality(hidden, **wide))
    row = {**arguments, "weight": arguments["weight"][None], "bias": arguments["bias"][0]}
    assert torch.equal(score_quality(hidden, **row), score_quality(hidden, **wide))


def test_float32_under_autocast():
    hidden, arguments = states(2, 3, 40), head(40, "layer")
    plain = score_quality(hidden, **arguments)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(score_quality(hidden, **arguments), plain)
    assert plain.dtype == torch.float32


def test_row_index():
    hidden, arguments = states(3, 50, 64, dtype=torch.bfloat16), head(64, "layer")
    arguments["shift"] = torch.randn(3, 64)
    index = torch.tensor([140, -1, 3, 149, 4, 5, -1, 3, 150, 10**15, 0])
    rows = torch.zeros(150, dtype=torch.bool)
    rows[[140, 3, 149, 4, 5, 0]] = True
    rows = rows.view(3, 50)
    every = score_quality(hidden, **arguments)
    some = score_quality(torch.where(rows[..., None], hidden, torch.nan), **arguments, row_index=index)
    assert torch.equal(some[rows], every[rows])
    assert some[~rows].isnan().all()


def test_batch_layout_and_threads():
    """The same bits wherever a row stands."""
    hidden, arguments = states(6, 70, 333), head(333, "layer")
    scale = torch.randn(6, 333)
    every = score_quality(hidden, **arguments, scale=scale)
    for b in (0, 3, 5):
        assert torch.equal(score_quality(hidden[b], **arguments, scale=scale[b]), every[b])
    padded = torch.full((6, 72, 400), torch.nan)
    padded[:, 1:71, 9:342] = hidden
    assert torch.equal(score_quality(padded[:, 1:71, 9:342], **arguments, scale=scale), every)
    swapped = hidden.transpose(0, 1).contiguous().transpose(0, 1)
    assert torch.equal(score_quality(swapped, **arguments, scale=scale), every)
    halves = torch.cat([torch.zeros_like(scale), scale], 1)  # as a linear layer's output is split
    assert torch.equal(score_quality(hidden, **arguments, scale=halves[:, 333:]), every)
    each = scale[:, None].expand(6, 70, 333).contiguous()
    assert torch.equal(score_quality(hidden, **arguments, scale=each), every)
    four = score_quality(hidden.view(2, 3, 70, 333), **arguments, scale=scale.view(2, 3, 333))
    assert torch.equal(four.view(6, 70), every)
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            assert torch.equal(score_quality(hidden, **arguments, scale=scale), every)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("shape", [(0, 3, 8), (2, 0, 8), (0, 8)])
def test_no_rows(shape):
    assert score_quality(torch.zeros(shape), torch.ones(8)).shape == shape[:-1]


def test_bad_rows_are_marked_and_leave_others_alone():
    hidden, arguments = states(1, 4, 100), head(100, "layer")
    clean = score_quality(hidden, **arguments)
    hidden[0, 1, 99], hidden[0, 2, 0] = torch.nan, torch.inf
    scores = score_quality(hidden, **arguments)
    assert scores.isnan().tolist() == [[False, True, True, False]]
    assert torch.equal(scores[0, [0, 3]], clean[0, [0, 3]])
    sure = score_quality(torch.tensor([[[1e30], [-1e30]]]), torch.ones(1), norm=None)
    assert sure.tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("condition_size", [None, 3])
def test_a_head_gives_the_same_with_and_without_gradients(norm, condition_size):
    """The module takes the operator where nothing is to be trained."""
    module = QualityHead(48, norm=norm, condition_size=condition_size)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 3)
    hidden = states(2, 5, 48)
    condition = None if condition_size is None else torch.randn(2, 3)
    trained = module(hidden, condition)
    assert trained.requires_grad
    with torch.no_grad():
        np.testing.assert_allclose(module(hidden, condition), trained.detach(), rtol=1e-4, atol=1e-4)
        wide = module(hidden.mT.contiguous().mT, condition)  # the last dimension is not contiguous
        np.testing.assert_allclose(wide, trained.detach(), rtol=1e-4, atol=1e-4)
        plain = module(hidden, condition)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(module(hidden, condition), plain)


@pytest.mark.parametrize("isa", _native.build_info()["isas_supported"])
def test_every_instruction_set(isa):
    program = """
        import itertools, sys
        import numpy as np, torch
        sys.path.insert(0, sys.argv[1])
        from test_score_quality import DTYPES, NORMS, expected, head, states
        from mdmcorrect import _native
        from mdmcorrect.ops import score_quality
        assert _native.build_info()["isa"] == sys.argv[2]
        for size, norm, dtype in itertools.product([1, 15, 64, 1000], NORMS, DTYPES):
            hidden, arguments = states(2, 5, size, dtype=dtype), head(size, norm)
            arguments["scale"] = states(2, size, dtype=dtype, seed=4) / 9
            np.testing.assert_allclose(
                score_quality(hidden, **arguments), expected(hidden, **arguments), rtol=3e-5, atol=1e-6
            )
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), os.path.dirname(__file__), isa],
        env={**os.environ, "MDMCORRECT_ISA": isa},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


# -------------------------------------------------------------------------------------------------- as an operator


def native_arguments(**changes) -> dict:
    wide = torch.randn(2, 3, 8)
    vector = torch.randn(8)
    arguments = {
        "hidden": wide,
        "weight": vector,
        "bias": torch.tensor(0.5),
        "norm": 1,
        "norm_weight": vector,
        "norm_bias": vector,
        "shift": wide,
        "scale": wide[:, :1].expand(2, 3, 8),
        "eps": 1e-5,
        "logit": False,
        "row_index": torch.arange(6),
    }
    return {**arguments, **changes}


OPTIONAL = ("bias", "norm_weight", "norm_bias", "shift", "scale", "row_index")


@pytest.mark.parametrize("changes", [{}, {**dict.fromkeys(OPTIONAL), "norm": 0}], ids=["everything", "bare"])
def test_opcheck(changes):
    torch.library.opcheck(OP, tuple(native_arguments(**changes).values()))


def test_compiles_to_one_graph():
    compiled = torch.compile(
        lambda x, index: score_quality(x, torch.ones(8), norm="rms", row_index=index), fullgraph=True
    )
    hidden, index = states(2, 3, 8), torch.tensor([0, 5, -1])
    eager = score_quality(hidden, torch.ones(8), norm="rms", row_index=index)
    assert torch.equal(compiled(hidden, index).nan_to_num(2), eager.nan_to_num(2))


def test_no_backward_is_said():
    hidden, weight = torch.zeros(2, 3, 8), torch.zeros(8, requires_grad=True)
    with pytest.raises(RuntimeError, match="weight: wants a gradient, but score_quality has no backward; train with"):
        score_quality(hidden, weight)
    with torch.no_grad():
        assert (score_quality(hidden, weight) == 0.5).all()


ONES = torch.ones(8)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"hidden": [[0.0]]}, TypeError, "hidden: expected a torch.Tensor, got list"),
        ({"hidden": torch.zeros(2, 3, 8).double()}, TypeError, "hidden: expected dtype float32 or .*, got float64"),
        ({"hidden": torch.zeros(8)}, ValueError, r"hidden: expected shape \[..., L, D\] with D >= 1, got \[8\]"),
        ({"hidden": torch.zeros(2, 8, 3).mT}, ValueError, "hidden: expected the last dimension to be contiguous"),
        ({"weight": None}, TypeError, "weight: expected a torch.Tensor, got NoneType"),
        ({"weight": torch.ones(7)}, ValueError, r"weight: expected shape \[8\] or \[1, 8\], got \[7\]"),
        ({"weight": ONES.double()}, TypeError, "weight: expected dtype float32 or bfloat16 or float16, got float64"),
        ({"weight": torch.ones(8, device="meta")}, ValueError, "weight: expected device cpu"),
        ({"bias": ONES}, ValueError, r"bias: expected shape \[\] or \[1\], got \[8\]"),
        ({"norm": "batch"}, ValueError, "norm: expected 'layer', 'rms' or None, got 'batch'"),
        ({"norm": None, "norm_weight": ONES}, ValueError, "norm_weight, norm_bias: got one, but norm is None"),
        ({"norm_bias": ONES[None]}, ValueError, r"norm_bias: expected shape \[8\], got \[1, 8\]"),
        ({"scale": ONES}, ValueError, r"scale: expected shape \[2, 8\] or \[2, 3, 8\], got \[8\]"),
        ({"shift": torch.ones(8, 2).T}, ValueError, "shift: expected the last dimension to be contiguous"),
        ({"row_index": torch.zeros(2)}, TypeError, "row_index: expected dtype int64, got float32"),
        ({"row_index": torch.zeros(2, 1).long()}, ValueError, r"row_index: expected shape \[R\], got \[2, 1\]"),
    ],
)
def test_errors_name_the_argument(change, error, text):
    with pytest.raises(error, match=text):
        score_quality(**{"hidden": torch.zeros(2, 3, 8), "weight": ONES, **change})


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"hidden": torch.zeros(3, 8)}, r"hidden: expected shape \[B, L, D\]"),
        ({"hidden": torch.zeros(2, 8, 3).mT, "shift": None, "scale": None}, "hidden: expected a contiguous last"),
        ({"hidden": torch.zeros(2, 3, 8).double()}, "hidden: expected float32, bfloat16 or float16"),
        ({"weight": torch.zeros(7)}, r"weight: expected shape \[8\], got \[7\]"),
        ({"weight": ONES.half()}, "weight: expected dtype float32"),
        ({"bias": torch.zeros(1)}, r"bias: expected shape \[\], got \[1\]"),
        ({"shift": torch.zeros(2, 1, 8)}, r"shift: expected shape \[2, 3, 8\], got \[2, 1, 8\]"),
        ({"norm": 3}, "norm: expected 0 .none., 1 .layer. or 2 .rms., got 3"),
        ({"row_index": torch.zeros(2, 3).long()}, r"row_index: expected shape \[R\]"),
    ],
)
def test_native_checks_hold_without_the_wrapper(changes, text):
    with pytest.raises(RuntimeError, match=text):
        OP(**native_arguments(**changes))
