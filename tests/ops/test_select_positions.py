"""select_positions against the float64 reference, its contract, and its law."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mdmcorrect import reference, rng
from mdmcorrect.ops import select_positions

# Values that float keys get wrong first: signed zeros, infinities, NaN, subnormals, neighbours, many equal ones.
AWKWARD = [0.0, -0.0, 1.0, -1.0, float("inf"), float("-inf"), float("nan"), 1e-45, -1e-45, 0.5, 0.50000006, 3e38, -3e38]


def expected(scores: torch.Tensor, k, **kwargs) -> torch.Tensor:
    arrays = {name: v.numpy() if isinstance(v, torch.Tensor) else v for name, v in kwargs.items()}
    if "seed" in arrays and isinstance(arrays["seed"], int):
        arrays["seed"] = rng.sequence_seeds(arrays["seed"], len(scores)).numpy()
    counts = k.numpy() if isinstance(k, torch.Tensor) else k
    return torch.from_numpy(reference.select_positions(scores.float().numpy(), counts, **arrays))


@settings(max_examples=150, deadline=None)
@given(data=st.data(), batch=st.integers(0, 4), length=st.integers(0, 70), largest=st.booleans())
def test_rank_equals_reference(data, batch, length, largest):
    draw = data.draw(st.lists(st.sampled_from(AWKWARD), min_size=batch * length, max_size=batch * length))
    scores = torch.tensor(draw, dtype=torch.float32).reshape(batch, length)
    k = torch.tensor(
        data.draw(st.lists(st.integers(-2, length + 2), min_size=batch, max_size=batch)), dtype=torch.int64
    )
    eligible = torch.from_numpy(np.random.default_rng(length).random((batch, length)) < 0.7)
    torch.testing.assert_close(
        select_positions(scores, k, eligible=eligible, largest=largest),
        expected(scores, k, eligible=eligible, largest=largest),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("length", [1, 2, 255, 256, 257, 1000, 65536])
def test_dtypes_and_lengths(dtype, length):
    generator = torch.Generator().manual_seed(length)
    scores = torch.randn(3, length, generator=generator).to(dtype)  # 16-bit rounding makes plenty of ties
    for k in (0, 1, length // 3, length - 1, length, length + 5):
        torch.testing.assert_close(select_positions(scores, k), expected(scores, k))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_every_16_bit_score_ranks_exactly(dtype):
    """All 65536 bit patterns in one row: subnormals, infinities and NaN of every payload among them."""
    scores = torch.arange(-32768, 32768, dtype=torch.int32).to(torch.int16).view(dtype)[None]
    for k in (1, 700, 31000, 40000):
        torch.testing.assert_close(select_positions(scores, k), expected(scores, k))


def test_ties_go_to_the_lowest_index():
    scores = torch.zeros(2, 600)
    scores[0, 300] = 1.0
    chosen = select_positions(scores, torch.tensor([3, 4]))
    assert chosen[0].nonzero().flatten().tolist() == [0, 1, 300]
    assert chosen[1].nonzero().flatten().tolist() == [0, 1, 2, 3]


def test_nan_never_chosen_and_minus_infinity_last():
    nan, inf = float("nan"), float("inf")
    scores = torch.tensor([[nan, -inf, 2.0, inf, -inf]])
    for temperature in (0.0, 1.0):
        chosen = [select_positions(scores, k, temperature=temperature)[0].tolist() for k in range(6)]
        assert chosen[1] == [False, False, False, True, False]
        assert chosen[2] == [False, False, True, True, False]
        assert chosen[3] == [False, True, True, True, False]
        assert chosen[4] == chosen[5] == [False, True, True, True, True]


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_any_strides(temperature):
    base = torch.randn(6, 40, 2)
    wide = base[::2, 3::3, 1]
    eligible = (torch.rand(13, 3) < 0.6).t()
    positions = torch.arange(26)[::2]
    k = torch.tensor([2, 9, 3, 9, 4, 9])[::2]
    kwargs = {"eligible": eligible, "temperature": temperature, "positions": positions, "seed": torch.arange(6)[::2]}
    dense = {name: v.contiguous() if isinstance(v, torch.Tensor) else v for name, v in kwargs.items()}
    torch.testing.assert_close(
        select_positions(wide, k, **kwargs), select_positions(wide.contiguous(), k.contiguous(), **dense)
    )
    broadcast = torch.randn(1, 50).expand(4, 50)
    torch.testing.assert_close(select_positions(broadcast, 5), select_positions(broadcast.contiguous(), 5))


@pytest.mark.parametrize("largest", [True, False])
@pytest.mark.parametrize("temperature", [0.1, 1.0, 7.0])
def test_gumbel_top_k_equals_reference(temperature, largest):
    scores = torch.randn(8, 300)
    kwargs = {
        "temperature": temperature,
        "largest": largest,
        "seed": torch.randint(-(2**62), 2**62, (8,)),
        "step": torch.arange(8),
        "positions": torch.randint(0, 2**31, (8, 300)),
        "call": 3,
    }
    k = torch.arange(8) * 30
    torch.testing.assert_close(select_positions(scores, k, **kwargs), expected(scores, k, **kwargs))


def test_a_row_does_not_see_its_batch_its_padding_or_the_threads():
    scores, seeds = torch.randn(16, 5000), torch.arange(16) * 977
    kwargs = {"temperature": 0.8, "step": 5}
    whole = select_positions(scores, 40, seed=seeds, **kwargs)
    for b in (0, 7, 15):
        torch.testing.assert_close(
            select_positions(scores[b : b + 1], 40, seed=seeds[b : b + 1], **kwargs)[0], whole[b]
        )
    padded = torch.cat([torch.randn(16, 7), scores], 1)
    shifted = select_positions(
        padded,
        40,
        seed=seeds,
        eligible=torch.arange(5007).expand(16, -1) >= 7,
        positions=torch.arange(5007) - 7,
        **kwargs,
    )
    torch.testing.assert_close(shifted[:, 7:], whole)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        torch.testing.assert_close(select_positions(scores, 40, seed=seeds, **kwargs), whole)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("seed", [0, -5, 2**40 + 7])
def test_an_int_seed_stands_for_the_sequences_own(seed):
    scores = torch.randn(5, 90)
    seeds = rng.sequence_seeds(seed, 5)
    chosen = select_positions(scores, 11, temperature=1.0, seed=seed)
    torch.testing.assert_close(chosen, select_positions(scores, 11, temperature=1.0, seed=seeds))
    torch.testing.assert_close(chosen, expected(scores, 11, temperature=1.0, seed=seed))
    one = select_positions(
        scores[:1], 11, temperature=1.0, seed=seeds[:1]
    )  # [1] is a sequence's own seed, not one for all
    torch.testing.assert_close(one, chosen[:1])


def test_seed_step_call_and_position_each_change_the_draw():
    scores = torch.zeros(1, 400)

    def draw(seed=1, step=0, call=0, positions=None):
        return select_positions(
            scores, 20, temperature=1.0, seed=torch.tensor([seed]), step=step, call=call, positions=positions
        )

    others = [draw(seed=2), draw(step=1), draw(call=1), draw(positions=torch.arange(400) + 1)]
    assert all(not torch.equal(draw(), other) for other in others)
    assert torch.equal(draw(), draw())


def plackett_luce(weights: list[float], k: int) -> dict[tuple[int, ...], float]:
    """Probability of each k-subset under sampling without replacement from the normalised weights."""
    law: dict[tuple[int, ...], float] = {}
    for order in itertools.permutations(range(len(weights)), k):
        probability, left = 1.0, sum(weights)
        for i in order:
            probability *= weights[i] / left
            left -= weights[i]
        key = tuple(sorted(order))
        law[key] = law.get(key, 0.0) + probability
    return law


@pytest.mark.parametrize(
    ("k", "temperature", "largest"), [(1, 1.0, True), (2, 0.5, True), (3, 2.0, False), (4, 1.0, True)]
)
def test_gumbel_top_k_follows_plackett_luce(k, temperature, largest):
    draws = 40_000
    row = [0.3, -1.0, 1.2, 0.0, 0.7]
    scores = torch.tensor(row).expand(draws, 5)
    chosen = select_positions(scores, k, temperature=temperature, largest=largest, seed=20240 + k)
    codes = (chosen.long() << torch.arange(5)).sum(1)
    sign = 1.0 if largest else -1.0
    law = plackett_luce([float(np.exp(sign * s / temperature)) for s in row], k)
    counts = torch.bincount(codes, minlength=32)
    observed = [int(counts[sum(1 << i for i in subset)]) for subset in law]
    assert sum(observed) == draws
    assert stats.chisquare(observed, [p * draws for p in law.values()]).pvalue > 1e-4


@pytest.mark.slow
def test_rare_positions_are_drawn_at_their_rate():
    """A position 1e-5 as likely as the rest together: float32 uniforms near 1 would never let it win this often."""
    draws, gap = 400_000, float(np.log(1e5))
    scores = torch.zeros(draws, 2)
    scores[:, 1] = -gap
    wins = int(select_positions(scores, 1, temperature=1.0, seed=5)[:, 1].sum())
    assert stats.binomtest(wins, draws, 1.0 / (1.0 + 1e5)).pvalue > 1e-4


def test_small_temperature_is_the_ranking():
    scores = torch.randn(5, 200)
    torch.testing.assert_close(select_positions(scores, 17, temperature=1e-30), select_positions(scores, 17))


def test_opcheck():
    scores, seed = torch.randn(3, 12), torch.arange(3)
    args = (scores, torch.tensor([1, 2, 3]), scores > 0, 0.5, torch.arange(12), True, seed, seed, torch.tensor(0))
    torch.library.opcheck(torch.ops.mdmcorrect.select_positions.default, args)
    args = (scores.half(), torch.tensor(2), None, 0.0, None, False, seed, torch.tensor(1), torch.tensor(0))
    torch.library.opcheck(torch.ops.mdmcorrect.select_positions.default, args)


def test_compiles_whole_and_does_not_recompile_per_step():
    torch.compiler.reset()
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    def sample(scores, k, step):
        return select_positions(scores.sigmoid(), k, temperature=0.5, seed=3, step=step)

    compiled = torch.compile(sample, fullgraph=True, backend=backend)
    for step in range(4):
        scores, k, at = torch.randn(2, 30), torch.tensor([step, 2]), torch.tensor(step)
        torch.testing.assert_close(compiled(scores, k, at), sample(scores, k, at))
    assert len(graphs) == 1


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"scores": [[1.0]]}, TypeError, "scores: expected a torch.Tensor, got list"),
        ({"scores": torch.randn(4)}, ValueError, r"scores: expected shape \[B, L\], got \[4\]"),
        (
            {"scores": torch.zeros(2, 4).double()},
            TypeError,
            "scores: expected dtype float32 or bfloat16 or float16, got float64",
        ),
        ({"k": -1}, ValueError, "k: expected at least 0, got -1"),
        ({"k": 2.0}, TypeError, "k: expected an int or an int64 tensor, got float"),
        ({"k": torch.tensor([1, 2, 3])}, ValueError, r"k: expected shape \[\] or \[2\], one per row, got \[3\]"),
        ({"k": torch.tensor(1, dtype=torch.int32)}, TypeError, "k: expected dtype int64, got int32"),
        ({"eligible": torch.ones(2, 4)}, TypeError, "eligible: expected dtype bool, got float32"),
        (
            {"eligible": torch.ones(2, 5, dtype=torch.bool)},
            ValueError,
            r"eligible: expected shape \[2, 4\].*got \[2, 5\]",
        ),
        ({"temperature": -1.0}, ValueError, "temperature: expected a number >= 0, got -1.0"),
        ({"temperature": float("inf")}, ValueError, "temperature"),
        ({"positions": torch.arange(5)}, ValueError, r"positions: expected shape \[4\] or \[2, 4\], got \[5\]"),
        ({"seed": 1.5}, TypeError, "seed"),
        ({"step": torch.zeros(3, dtype=torch.int64)}, ValueError, r"step: expected shape"),
        ({"call": torch.zeros(2, dtype=torch.int64)}, ValueError, "call"),
    ],
)
def test_errors_name_the_argument(change, error, words):
    arguments = {"scores": torch.randn(2, 4), "k": 1, **change}
    with pytest.raises(error, match=words):
        select_positions(**arguments)


def test_direct_call_with_wrong_arguments_is_an_error_too():
    scores, zero = torch.randn(2, 4), torch.tensor(0)
    with pytest.raises(
        RuntimeError, match=r"mdmcorrect::select_positions: eligible: expected shape \[2, 4\], got \[2, 3\]"
    ):
        torch.ops.mdmcorrect.select_positions(
            scores, zero, torch.ones(2, 3, dtype=torch.bool), 0.0, None, True, zero, zero, zero
        )


def test_seeds_of_no_sequence():
    """An empty array of NumPy's has a stride of 0."""
    seeds = torch.from_numpy(np.zeros(0, np.int64))
    assert select_positions(torch.zeros(0, 3), 1, temperature=1.0, seed=seeds).shape == (0, 3)
