"""What the parts are told of the logits."""

import pytest
import torch

from mdmcorrect.samplers import Scores, Scoring

LOGITS = torch.tensor([[[1.0, 1.2, 0.9, 5.0]] * 40, [[0.0, -1.0, 0.5, 5.0]] * 40])  # id 3 is the mask


def score(scoring, rows=None):
    rows = torch.ones(2, 40, dtype=torch.bool) if rows is None else rows
    return scoring(
        LOGITS,
        tokens=torch.zeros(2, 40, dtype=torch.int64),
        rows=rows,
        positions=torch.arange(40),
        mask_id=3,
        want={"token", "argmax", "confidence", "max_logprob", "quality"},
        seed=torch.tensor([1, 2]),
        step=torch.tensor([0, 0]),
        call=0,
    )


@pytest.mark.parametrize("mask_token", ["suppress", "forbid"])
@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_argmax_is_the_best_token_that_is_not_the_mask(mask_token, temperature):
    scores = score(Scoring(temperature=temperature, mask_token=mask_token))
    assert scores["argmax"].tolist() == [[1] * 40, [2] * 40]
    assert scores["token"].max() < 3
    assert (scores["token"].unique().numel() > 2) == (temperature > 0)


def test_the_mask_keeps_its_mass_only_where_it_is_forbidden():
    forbidden, suppressed = score(Scoring(mask_token="forbid")), score(Scoring())
    torch.testing.assert_close(forbidden["confidence"][0, 0], LOGITS[0, 0].softmax(0)[1])
    torch.testing.assert_close(suppressed["confidence"][0, 0], LOGITS[0, 0, :3].softmax(0)[1])


def test_positions_that_are_not_asked_for_hold_nothing():
    rows = torch.zeros(2, 40, dtype=torch.bool)
    rows[0, 3] = True
    scores = score(Scoring(temperature=1.0, mask_token="forbid"), rows)
    assert (scores["token"] >= 0).sum() == (scores["argmax"] >= 0).sum() == 1
    assert scores["confidence"].isfinite().sum() == 1


def test_confidences_are_rounded_to_the_dtype_of_the_logits_on_request():
    rounded = score(Scoring(confidence_dtype=torch.bfloat16))["confidence"]
    exact = score(Scoring())["confidence"]
    assert torch.equal(rounded, exact.bfloat16().float())
    assert not torch.equal(rounded, exact)


def test_newer_scores_go_over_older_ones_where_there_are_any():
    older = Scores(token=torch.tensor([[1, 2, -1]]), entropy=torch.tensor([[0.1, 0.2, torch.nan]]))
    newer = Scores(token=torch.tensor([[5, -1, -1]]), entropy=torch.tensor([[0.5, torch.nan, torch.nan]]))
    merged = newer.over(older)
    assert merged["token"].tolist() == [[5, 2, -1]]
    torch.testing.assert_close(merged["entropy"], torch.tensor([[0.5, 0.2, torch.nan]]), equal_nan=True)
    with pytest.raises(KeyError, match="score 'margin' was not computed; the part that reads it must name it"):
        merged["margin"]


def test_settings_out_of_range_are_refused():
    for settings, message in (
        ({"top_p": 0.0}, "top_p: expected 0 < top_p <= 1"),
        ({"top_k": 0}, "top_k: expected at least 1"),
        ({"mask_token": "hide"}, "mask_token: expected 'suppress', 'forbid' or 'propose', got 'hide'"),
    ):
        with pytest.raises(ValueError, match=message):
            Scoring(**settings)
