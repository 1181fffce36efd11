"""The statistics behind the tables: AUROC, calibration bins, paired bootstrap."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import mannwhitneyu

from mdmcorrect.examples.sudoku.quality import Detections, auroc, reliability
from mdmcorrect.examples.sudoku.report import paired_gain, read_rows, table


def test_auroc_is_the_mann_whitney_statistic() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = (torch.rand(400, generator=generator) * 20).round()  # many ties
    right = torch.rand(400, generator=generator) < 0.4
    expected = mannwhitneyu(scores[right], scores[~right]).statistic / (right.sum() * (~right).sum()).item()
    assert auroc(scores, right) == pytest.approx(float(expected), abs=1e-12)
    assert auroc(right.float(), right) == 1.0
    assert np.isnan(auroc(scores, torch.ones(400, dtype=torch.bool)))


def test_reliability_bins_hold_equal_shares() -> None:
    quality = torch.linspace(0, 1, 100)
    points = reliability(Detections(quality > 0.5, quality, {"quality": quality}), bins=4)
    assert [count for _, _, count in points] == [25] * 4
    assert [round(right, 2) for _, right, _ in points] == [0.0, 0.0, 1.0, 1.0]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for arm, rate in (("prism/PRISM", 0.9), ("prism/no correction", 0.5), ("prism/random remasking", 0.55)):
        for seed in (0, 1):
            solved = "".join(str(int(one)) for one in rng.random(300) < rate)
            entry = {"arm": arm, "order": "random", "calls": 10, "seed": seed, "settings": {"temperature": 0.0},
                     "solved": solved, "cells": rate, "nfe": 10.0, "seconds": 1.0}  # fmt: skip
            (tmp_path / f"{arm.replace('/', '-')}{seed}.json").write_text(json.dumps(entry))
    return tmp_path


def test_paired_gain_covers_the_true_difference(results: Path) -> None:
    rows = {row.arm: row for row in read_rows(results)}
    gain, low, high = paired_gain(rows["prism/PRISM"], rows["prism/no correction"])
    assert low < 0.4 < high
    assert low < gain < high
    assert paired_gain(rows["prism/PRISM"], rows["prism/PRISM"]) == (0.0, 0.0, 0.0)


def test_table_names_every_arm_and_gain(results: Path) -> None:
    text = table(results)
    assert "| 10 | random | prism/PRISM | 10.0 |" in text
    assert "best uncorrected (prism/no correction)" in text
    assert "best training-free (prism/random remasking)" in text


def test_table_without_results_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="evaluate search"):
        table(tmp_path)
