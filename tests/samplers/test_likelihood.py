"""log_likelihood: unbiased for the bound, which an exact model makes the log-likelihood; conditional; reproducible."""

import itertools
import math

import kernels
import pytest
import torch

from mdmcorrect.likelihood import log_likelihood
from mdmcorrect.model import Output

SEQUENCES = torch.tensor(list(itertools.product(range(kernels.V), repeat=kernels.L)))
TRUTH = torch.from_numpy(kernels.JOINT.flatten()).log()


@pytest.mark.parametrize("by", ["count", "time"])
@pytest.mark.parametrize("stratified", [False, True])
def test_an_exact_model_gives_its_log_likelihood(by, stratified):
    estimate = log_likelihood(
        kernels.exact_model, SEQUENCES, mask_id=kernels.MASK, samples=300, by=by, stratified=stratified, seed=3
    )
    assert estimate.count.tolist() == [3] * 27
    deviation = (estimate.value - TRUTH) / estimate.stderr
    assert deviation.abs().max() < 4.5
    assert abs(deviation.mean()) < 4 / math.sqrt(27)
    if not stratified:  # the standard error is that of the spread there is
        assert 0.6 < deviation.std() < 1.5


def test_counts_spread_less_than_times_and_strata_less_than_draws():
    def spread(**options):
        runs = [
            log_likelihood(kernels.exact_model, SEQUENCES, mask_id=kernels.MASK, samples=12, seed=seed, **options).value
            for seed in range(25)
        ]
        return torch.stack(runs).var(0).mean()

    assert spread(by="count") < spread(by="time")
    assert spread(by="count") < spread(by="count", stratified=False)


def test_what_is_not_scored_is_given():
    scored = torch.tensor([[False, True, True]]).expand(27, 3)
    estimate = log_likelihood(kernels.exact_model, SEQUENCES, mask_id=kernels.MASK, samples=300, scored=scored, seed=1)
    first = torch.from_numpy(kernels.JOINT.sum((1, 2))).log()
    assert ((estimate.value - (TRUTH - first[SEQUENCES[:, 0]])) / estimate.stderr).abs().max() < 4.5
    one = torch.tensor([[False, False, True]]).expand(27, 3)
    exact = log_likelihood(kernels.exact_model, SEQUENCES, mask_id=kernels.MASK, samples=1, scored=one)
    expected = TRUTH - torch.from_numpy(kernels.JOINT.sum(2).flatten()).log().repeat_interleave(3)
    torch.testing.assert_close(exact.value, expected, atol=1e-5, rtol=1e-5)
    assert exact.stderr.isnan().all()


def test_nothing_scored_is_certain_and_padding_is_never_scored():
    tokens = torch.tensor([[0, 1, 2, 2], [1, 1, 0, 0]])
    model = lambda x, attention_mask=None: torch.zeros(*x.shape, 5)  # noqa: E731
    estimate = log_likelihood(model, tokens, mask_id=4, lengths=torch.tensor([4, 2]), samples=3)
    torch.testing.assert_close(estimate.value, -torch.tensor([4.0, 2.0], dtype=torch.float64) * math.log(4))
    none = log_likelihood(model, tokens, mask_id=4, scored=torch.zeros_like(tokens, dtype=torch.bool), samples=3)
    assert none.value.tolist() == [0.0, 0.0]
    forbidden = log_likelihood(model, tokens, mask_id=4, mask_token="forbid", samples=3)
    torch.testing.assert_close(forbidden.value, torch.full((2,), -4 * math.log(5), dtype=torch.float64))


def test_rows_do_not_see_the_batch_and_chunks_change_nothing():
    calls = []

    def model(tokens, request):
        calls.append((len(tokens), request.condition.tolist(), request.batch.tolist()))
        return Output(logits=kernels.exact_model(tokens))

    options = {"mask_id": kernels.MASK, "samples": 5, "condition": torch.arange(27)}
    seeds = torch.arange(27) * 31 + 7
    whole = log_likelihood(model, SEQUENCES, seed=seeds, **options)
    assert [rows for rows, *_ in calls] == [27] * 5
    assert all(condition == batch for _, condition, batch in calls)
    pieces = log_likelihood(model, SEQUENCES, seed=seeds, batch_size=8, **options)
    torch.testing.assert_close(whole.value, pieces.value)
    options["condition"] = torch.zeros(1)
    alone = log_likelihood(model, SEQUENCES[4:5], seed=seeds[4:5], **options)
    torch.testing.assert_close(alone.value[0], whole.value[4])
    assert whole.nfe == 5


def test_what_the_model_is_told_and_bad_arguments():
    told = []

    def model(tokens, request):
        told.append((request.time.tolist(), (tokens == 4).float().mean(1).tolist()))
        assert ((tokens == 4) == request.wanted).all()
        return torch.zeros(*tokens.shape, 5)

    tokens = torch.zeros(2, 6, dtype=torch.int64)
    log_likelihood(model, tokens, mask_id=4, samples=6)
    assert all(time == pytest.approx(share) for time, share in told)
    for options, message in (
        ({"by": "weight"}, "by: expected 'count' or 'time', got 'weight'"),
        ({"samples": 0}, "samples, batch_size: expected at least 1, got 0 and None"),
        ({"mask_token": "keep"}, "mask_token: expected 'suppress' or 'forbid', got 'keep'"),
        ({"scored": torch.ones(2, 5).bool()}, r"scored: expected \[2, 6\] like tokens, got \[2, 5\]"),
    ):
        with pytest.raises(ValueError, match=message):
            log_likelihood(model, tokens, mask_id=4, **options)


def test_a_model_is_told_what_is_given_and_what_is_asked():
    tokens, scored = torch.arange(8).view(2, 4), torch.tensor([[True, False, True, True]] * 2)
    seen = []

    def model(x, request):
        seen.append(request)
        assert (x == 9).equal(request.wanted)
        return torch.zeros(*x.shape, 10)

    condition = torch.tensor([3.0, 4.0])
    estimate = log_likelihood(model, tokens, mask_id=9, scored=scored, samples=4, condition=condition, batch_size=3)
    assert [len(request.batch) for request in seen] == [3, 3, 2]
    for request in seen:
        assert torch.equal(request.fixed, ~scored[request.batch])
        assert torch.equal(request.condition, condition[request.batch])
        assert not (request.wanted & request.fixed).any()
        shares = request.wanted.sum(1) / 3
        assert torch.allclose(request.time.float(), shares)
        assert (request.step < 4).all()
    assert torch.allclose(estimate.value, torch.full((2,), -3 * math.log(9), dtype=torch.float64))
