"""A drop-in that draws says by which seed: the operators' own default is one seed for every call."""

import ast
from pathlib import Path

import pytest
import torch

import mdmcorrect.compat
from mdmcorrect.compat import diffusers

SOURCES = sorted(Path(mdmcorrect.compat.__path__[0]).glob("*.py"))


def unseeded(path):
    """Lines of calls of an operator that are given a temperature and no seed."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") in ("score_tokens", "select_positions"):
            given = {keyword.arg for keyword in node.keywords}
            if "temperature" in given and not given & {"seed", None}:
                yield node.lineno


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_every_call_that_draws_names_its_seed(path):
    assert list(unseeded(path)) == []


def test_diffusers_draws_differ_from_step_to_step_and_follow_torch():
    propose = diffusers._propose
    logits = torch.zeros(1, 40, 12)
    torch.manual_seed(3)
    first, second = (propose(logits, 1.0, None, None, None)[0] for _ in range(2))
    assert not torch.equal(first, second)
    torch.manual_seed(3)
    assert torch.equal(first, propose(logits, 1.0, None, None, None)[0])
