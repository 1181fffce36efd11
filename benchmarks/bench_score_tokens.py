"""score_tokens: every statistic and one draw per row, on logits of the size of LLaDA's vocabulary.

Floor: one plain read of the logits' bytes. Peers: LLaDA's step outside the model (low-confidence remasking: argmax of
the float64 Gumbel-noised logits at temperature above 0, softmax in the logits' dtype, the token's confidence, topk),
eager and compiled, which computes one statistic where ours computes nine; and for top_p the sort, cumulative sum and
multinomial of Hugging Face's filter.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mdmcorrect.ops import score_tokens

VOCAB = 126464
ROWS = 256  # 65 MB in bfloat16, beyond every cache
LLADA_ROWS = 64  # LLaDA's float64 temporaries take twenty times the logits
COMMITTED = 8


def peaked_logits(rows: int, dtype: torch.dtype) -> Tensor:
    """Like a model's: a wide body of unlikely ids and a few likely ones, from nearly sure rows to doubtful ones."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, rows, VOCAB, generator=generator) * 2
    head = torch.randint(0, VOCAB, (1, rows, 8), generator=generator)
    logits.scatter_(-1, head, 8 + 10 * torch.rand(1, rows, 8, generator=generator))
    return logits.to(dtype)


def plain_read(logits: Tensor) -> Callable[[], Tensor]:
    words = logits.view(torch.int64)
    return lambda: words.sum()


def llada_step(logits: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Token and committed positions as LLaDA's generate computes them after the model's forward."""
    noisy = logits
    if temperature > 0:
        wide = logits.to(torch.float64)
        noise = torch.rand_like(wide)
        noisy = wide.exp() / (-torch.log(noise)) ** temperature
    token = noisy.argmax(-1)
    confidence = torch.softmax(logits, -1).gather(-1, token[..., None])[..., 0]
    return token, confidence.topk(COMMITTED, -1).indices


def nucleus_step(logits: Tensor, temperature: float, top_p: float) -> Tensor:
    """Token as Hugging Face's top_p filter and a multinomial draw it."""
    values, index = (logits[0].float() / temperature).sort(-1, descending=True)
    mass = values.softmax(-1).cumsum(-1)
    dropped = torch.cat([torch.zeros_like(mass[:, :1], dtype=torch.bool), (mass > top_p)[:, :-1]], -1)
    drawn = values.masked_fill(dropped, float("-inf")).softmax(-1).multinomial(1)
    return index.gather(-1, drawn)


@pytest.mark.parametrize("temperature", [0.0, 1.0, 0.7])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["bf16", "fp32"])
def test_score_tokens(versus, dtype, temperature):
    """Every statistic against a plain read, and against temperature 0."""
    logits = peaked_logits(ROWS, dtype)
    versus(
        lambda: score_tokens(logits, temperature=temperature, seed=1),
        floor=plain_read(logits),
        peers={"ours at temperature 0": lambda: score_tokens(logits)},
        bytes_moved=logits.nbytes,
    )


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_score_tokens_llada(versus, temperature):
    logits = peaked_logits(LLADA_ROWS, torch.bfloat16)
    compiled = torch.compile(llada_step)
    versus(
        lambda: score_tokens(logits, temperature=temperature, seed=1),
        floor=plain_read(logits),
        peers={
            "LLaDA eager": lambda: llada_step(logits, temperature),
            "torch.compile": lambda: compiled(logits, temperature),
        },
        bytes_moved=logits.nbytes,
    )


@pytest.mark.parametrize("want", [("token",), ("token", "confidence")], ids=["token", "token, confidence"])
def test_score_tokens_greedy(versus, want):
    """What a greedy sampler needs: unwanted statistics cost nothing."""
    logits = peaked_logits(ROWS, torch.bfloat16)
    versus(
        lambda: score_tokens(logits, want=want),
        floor=plain_read(logits),
        peers={"torch argmax": lambda: logits.argmax(-1)},
        bytes_moved=logits.nbytes,
    )


@pytest.mark.parametrize("rule", ["inclusive", "exclusive"])
def test_score_tokens_top_p(versus, rule):
    logits = peaked_logits(64, torch.bfloat16)
    versus(
        lambda: score_tokens(logits, temperature=1.0, top_p=0.9, top_p_rule=rule, seed=1),
        floor=plain_read(logits),
        peers={
            "sort, multinomial": lambda: nucleus_step(logits, 1.0, 0.9),
            "ours without top_p": lambda: score_tokens(logits, temperature=1.0, seed=1),
        },
        bytes_moved=logits.nbytes,
    )


def test_score_tokens_some_rows(versus):
    """A block of 32 positions out of 1024: rows that are not asked for are not read."""
    logits = peaked_logits(1024, torch.bfloat16)
    rows = torch.zeros(1, 1024, dtype=torch.bool)
    rows[:, 512:544] = True
    block = logits[:, 512:544]
    versus(
        lambda: score_tokens(logits, rows=rows, temperature=1.0, seed=1),
        floor=plain_read(block),
        peers={"ours, every row": lambda: score_tokens(logits, temperature=1.0, seed=1)},
        bytes_moved=block.nbytes,
    )
