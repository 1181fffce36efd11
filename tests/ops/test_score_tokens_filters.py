"""top_k and top_p of score_tokens: the kept set, its ties, both rules and both orders."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mdmcorrect.ops import score_tokens
from mdmcorrect.selfcheck.inputs.scoring import assert_scores, expected, peaked_logits

RULES = ["inclusive", "exclusive"]
ORDERS = ["top_k_first", "top_p_first"]


def proposal(logits: torch.Tensor, **options) -> torch.Tensor:
    """The whole proposal of one row [V]: its log-probability at every id, by asking for each as the current token."""
    vocab = logits.shape[0]
    rows = logits.expand(1, vocab, vocab)
    scores = score_tokens(rows, tokens=torch.arange(vocab)[None], law="proposal", want=("current_logprob",), **options)
    return scores.current_logprob[0]


def kept(logits: torch.Tensor, **options) -> list[int]:
    return proposal(logits, **options).isfinite().nonzero()[:, 0].tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("vocab", [1, 5, 513, 3000, 50257])
def test_equals_reference(vocab, dtype):
    logits = peaked_logits(1, 3, vocab, dtype, seed=vocab)
    tokens = logits.argmax(-1)
    for temperature in (0.0, 1.0, 0.6):
        for options in (
            {"top_k": 1},
            {"top_k": 40},
            {"top_k": vocab + 3},
            {"top_p": 0.0},
            {"top_p": 0.9, "top_p_rule": "exclusive", "law": "proposal"},
            {"top_p": 0.999, "law": "proposal"},
            {"top_p": 1.0},
            {"top_k": 300, "top_p": 0.7, "filter_order": "top_p_first", "law": "proposal"},
            {"top_k": 300, "top_p": 0.7, "filter_order": "top_k_first", "forbid": [0]},
        ):
            options = {"temperature": temperature, "seed": 3, **options}
            assert_scores(score_tokens(logits, tokens=tokens, **options), expected(logits, tokens=tokens, **options))


def hugging_face(logits: torch.Tensor, top_k: int, top_p: float, order: str) -> torch.Tensor:
    """The filters as TopKLogitsWarper and TopPLogitsWarper describe them, in float64."""

    def by_count(x):
        return x.masked_fill(x < x.topk(min(top_k, len(x))).values[-1], -torch.inf)

    def by_mass(x):
        values, index = x.sort(descending=True, stable=True)
        mass = values.softmax(-1).cumsum(-1)
        dropped = torch.cat([torch.tensor([False]), (mass > top_p)[:-1]])
        return x.masked_fill(torch.zeros_like(dropped).scatter(0, index, dropped), -torch.inf)

    for step in (by_count, by_mass) if order == "top_k_first" else (by_mass, by_count):
        logits = step(logits)
    return logits.log_softmax(-1)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("top_p", [0.3, 0.77, 0.95])
@pytest.mark.parametrize("top_k", [3, 20, 500])
def test_inclusive_rule_is_that_of_hugging_face(top_k, top_p, order):
    for seed in range(4):
        logits = peaked_logits(1, 1, 600, seed=seed)[0, 0]
        ours = proposal(logits, temperature=0.8, top_k=top_k, top_p=top_p, filter_order=order)
        theirs = hugging_face(logits.double() / 0.8, top_k, top_p, order)
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-5)


def mdlm_nucleus(logits: torch.Tensor, top_p: float) -> torch.Tensor:
    """The nucleus of the MDLM family: ids whose cumulative probability is at most p, and the first."""
    probabilities, index = logits.softmax(-1).sort(descending=True, stable=True)
    stays = probabilities.cumsum(-1) <= top_p
    stays[0] = True
    return torch.zeros_like(stays).scatter(0, index, stays)


@pytest.mark.parametrize("top_p", [0.01, 0.5, 0.9])
def test_exclusive_rule_is_that_of_mdlm(top_p):
    for seed in range(4):
        logits = peaked_logits(1, 1, 700, seed=seed)[0, 0]
        stays = mdlm_nucleus(logits.double(), top_p).nonzero()[:, 0].tolist()
        assert kept(logits, top_p=top_p, top_p_rule="exclusive") == stays


def test_ties_in_the_nucleus_go_by_lowest_id():
    flat = torch.zeros(1000)
    assert kept(flat, top_p=0.25) == list(range(251))  # what precedes id 250 has mass 0.25, at most p
    assert kept(flat, top_p=0.25, top_p_rule="exclusive") == list(range(250))
    assert kept(flat, top_p=0.0) == kept(flat, top_p=0.0, top_p_rule="exclusive") == [0]
    stairs = torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0, 1.0, -torch.inf, -0.0])  # 1.0 at 1, 3, 5; zeros at 0, 2, 4, 7
    e = np.e
    for count in range(1, 7):
        mass = min(count, 3) * e + max(count - 3, 0)
        p = (mass + 0.01) / (3 * e + 4)
        ids = [1, 3, 5, 0, 2, 4, 7]
        assert kept(stairs, top_p=p, top_p_rule="exclusive") == sorted(ids[:count])
        assert kept(stairs, top_p=p) == sorted(ids[: count + 1])


def test_top_k_keeps_everything_that_ties_with_the_kth():
    logits = torch.tensor([3.0, 1.0, 1.0, 2.0, 1.0, 0.0, -0.0])
    assert kept(logits, top_k=2) == [0, 3]
    assert kept(logits, top_k=3) == [0, 1, 2, 3, 4]
    assert kept(logits, top_k=6) == kept(logits, top_k=7) == list(range(7))


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.sampled_from([0.0, -0.0, 1.0, 1.5, -2.0, 5.0, -torch.inf, -90.0]), min_size=1, max_size=40),
    top_k=st.none() | st.integers(1, 45),
    top_p=st.none() | st.sampled_from([0.0, 0.1, 0.5, 0.75, 0.9, 0.999, 1.0]),
    rule=st.sampled_from(RULES),
    order=st.sampled_from(ORDERS),
    temperature=st.sampled_from([0.0, 0.05, 1.0, 30.0]),
)
def test_any_combination(values, top_k, top_p, rule, order, temperature):
    logits = torch.tensor(values).repeat(15)[: 40 * 15].reshape(1, 1, -1)  # more ties, and a second chunk
    options = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "top_p_rule": rule, "filter_order": order}
    for law in ("raw", "proposal"):
        assert_scores(score_tokens(logits, law=law, **options), expected(logits, law=law, **options))


def test_options_per_sequence_and_per_position():
    logits = peaked_logits(3, 4, 800)
    temperature = torch.tensor([0.0, 0.5, 1.0])
    top_k = torch.tensor([1, 5, 900])
    top_p = torch.rand(3, 4, generator=torch.Generator().manual_seed(0)).double()
    seeds = torch.tensor([4, 5, 6])
    every = score_tokens(logits, temperature=temperature, top_k=top_k, top_p=top_p, seed=seeds)
    for b in range(3):
        for place in range(4):
            alone = score_tokens(
                logits[b : b + 1, place : place + 1],
                temperature=temperature[b].item(),
                top_k=int(top_k[b]),
                top_p=top_p[b, place].item(),
                positions=torch.tensor([place]),
                seed=seeds[b : b + 1],
            )
            for one, all_rows in zip(alone, every, strict=True):
                assert one is None or one.item() == all_rows[b, place].item()
    # Numbers in tensors are clamped, never an error: k below 1 keeps the best, p of NaN or above 1 keeps all.
    clamped = score_tokens(logits, temperature=1.0, top_k=torch.tensor([-5, 0, 1]), seed=seeds)
    assert torch.equal(clamped.token, logits.argmax(-1))
    off = score_tokens(logits, temperature=1.0, top_p=torch.tensor([torch.nan, 2.0, 1.0]), seed=seeds)
    assert torch.equal(off.token, score_tokens(logits, temperature=1.0, seed=seeds).token)


def test_extreme_temperatures():
    logits = peaked_logits(1, 50, 700)
    for temperature in (1e-30, 1e-310, torch.full((1,), 1e-30, dtype=torch.float64)):
        scores = score_tokens(logits, temperature=temperature)
        assert torch.equal(scores.token, logits.argmax(-1))
        assert torch.equal(scores.proposal_logprob, torch.zeros(1, 50))
    hot = score_tokens(logits, temperature=1e6, law="proposal")
    torch.testing.assert_close(hot.entropy, torch.full((1, 50), np.log(700)), rtol=1e-5, atol=0, check_dtype=False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("p", [0.3, 0.9, 0.999])
@pytest.mark.parametrize("rule", ["inclusive", "exclusive"])
def test_wide_nuclei(rule, p, dtype):
    """Nuclei of thousands of ids, in rows without a peak, with many ties, rising, with all values equal, and with
    unlikely ids wherever the CPU kernel looks for a sample of the row (csrc/cpu/nucleus_search.h)."""
    generator = torch.Generator().manual_seed(0)
    vocab = 30_000
    chunk, group = torch.arange(vocab) // 512, torch.arange(vocab) % 512 // 32
    unlike = group == chunk % 16
    rows = torch.stack(
        [
            torch.randn(vocab, generator=generator),
            torch.randn(vocab, generator=generator).mul(2).round(),
            torch.arange(vocab) / vocab,
            torch.zeros(vocab),
            torch.randn(vocab, generator=generator) * 5 - 1e4,
            torch.where(unlike, -6.0, torch.randn(vocab, generator=generator)),
        ]
    )
    logits = rows[None].to(dtype)
    for temperature in (1.0, 0.6):
        options = {"temperature": temperature, "top_p": p, "top_p_rule": rule, "law": "proposal", "seed": 1}
        scores, truth = score_tokens(logits, **options), expected(logits, **options)
        # One id more or less at the end of a nucleus, where sums in float32 and float64 differ, is 1e-4 of the mass.
        assert_scores(scores, truth, rtol=2e-4, atol=2e-4)
