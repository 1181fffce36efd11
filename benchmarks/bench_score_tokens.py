"""score_tokens: every statistic and one draw per row, on logits of the size of LLaDA's vocabulary.

Floor: moving the logits' bytes once. Peers: ours at temperature 0; LLaDA's step outside the model (low-confidence
remasking: argmax of the float64 Gumbel-noised logits at temperature above 0, softmax in the logits' dtype, the token's
confidence, topk), eager and compiled, which computes one statistic where ours computes nine; and for top_p the sort,
cumulative sum and multinomial of Hugging Face's filter.

Logits are peaked, like a model's, or flat: noise alone, where a nucleus takes most of the vocabulary.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mdmcorrect.ops import score_tokens

VOCAB = 126464
ROWS = 1024  # 259 MB in bfloat16, beyond every cache
PEER_ROWS = 64  # LLaDA's float64 temporaries take twenty times the logits
COMMITTED = 8
SHAPES = ["peaked", "flat"]


def make_logits(shape: str, rows: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[1, rows, VOCAB]. Peaked: a wide body of unlikely ids, a few likely ones; rows from nearly sure to doubtful."""
    random: dict[str, Any] = {"generator": torch.Generator(device).manual_seed(0), "device": device}
    logits = torch.empty(1, rows, VOCAB, dtype=dtype, device=device)
    for row in logits[0].split(64):
        values = torch.randn(row.shape, **random)
        if shape == "peaked":
            head = torch.randint(0, VOCAB, (len(row), 8), **random)
            values.mul_(2).scatter_(-1, head, 8 + 10 * torch.rand(len(row), 8, **random))
        row.copy_(values)
    return logits


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


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("temperature", [0.0, 1.0, 0.7])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["bf16", "fp32"])
def test_score_tokens(versus, timer, device, dtype, temperature, shape):
    """Every statistic against the floor, and against temperature 0."""
    logits = make_logits(shape, ROWS, dtype, device)
    versus(
        lambda: score_tokens(logits, temperature=temperature, seed=1),
        floor=timer.move(logits),
        peers={"ours at temperature 0": lambda: score_tokens(logits)} if temperature > 0 else {},
        bytes_moved=logits.nbytes,
    )


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rule", ["inclusive", "exclusive"])
def test_score_tokens_top_p(versus, timer, device, rule, shape):
    """A nucleus of 0.9 at temperature 1 against temperature 0 without one."""
    logits = make_logits(shape, ROWS // 2, torch.bfloat16, device)
    versus(
        lambda: score_tokens(logits, temperature=1.0, top_p=0.9, top_p_rule=rule, seed=1),
        floor=timer.move(logits),
        peers={"ours at temperature 0": lambda: score_tokens(logits)},
        bytes_moved=logits.nbytes,
    )


def test_score_tokens_nucleus_of_hugging_face(versus, timer, device):
    logits = make_logits("peaked", PEER_ROWS, torch.bfloat16, device)
    versus(
        lambda: score_tokens(logits, temperature=1.0, top_p=0.9, seed=1),
        floor=timer.move(logits),
        peers={"sort, multinomial": lambda: nucleus_step(logits, 1.0, 0.9)},
        bytes_moved=logits.nbytes,
    )


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_score_tokens_llada(versus, timer, device, temperature):
    logits = make_logits("peaked", PEER_ROWS, torch.bfloat16, device)
    compiled = torch.compile(llada_step)
    versus(
        lambda: score_tokens(logits, temperature=temperature, seed=1),
        floor=timer.move(logits),
        peers={
            "LLaDA eager": lambda: llada_step(logits, temperature),
            "torch.compile": lambda: compiled(logits, temperature),
        },
        bytes_moved=logits.nbytes,
    )


@pytest.mark.parametrize("want", [("token",), ("token", "confidence")], ids=["token", "token, confidence"])
def test_score_tokens_greedy(versus, timer, device, want):
    """What a greedy sampler needs: unwanted statistics cost nothing."""
    logits = make_logits("peaked", ROWS // 4, torch.bfloat16, device)
    versus(
        lambda: score_tokens(logits, want=want),
        floor=timer.move(logits),
        peers={"torch argmax": lambda: logits.argmax(-1)},
        bytes_moved=logits.nbytes,
    )


def test_score_tokens_guidance(versus, timer, device):
    """Two tensors of logits, mixed while they are read, against mixing them first."""
    cond, uncond = make_logits("peaked", ROWS // 2, torch.bfloat16, device).chunk(2, 1)
    versus(
        lambda: score_tokens(cond, uncond_logits=uncond, guidance=1.5),
        floor=timer.move(make_logits("peaked", ROWS // 2, torch.bfloat16, device)),
        peers={"mixed first": lambda: score_tokens(uncond + 2.5 * (cond - uncond))},
        bytes_moved=2 * cond.nbytes,
    )


def test_score_tokens_dense_noise(versus, timer, device):
    """One Gumbel per id against one per 512."""
    logits = make_logits("peaked", PEER_ROWS, torch.bfloat16, device)
    versus(
        lambda: score_tokens(logits, temperature=1.0, noise="dense", seed=1),
        floor=timer.move(logits),
        peers={"lazy noise": lambda: score_tokens(logits, temperature=1.0, seed=1)},
        bytes_moved=logits.nbytes,
    )


def test_score_tokens_some_rows(versus, timer, device):
    """A block of 32 positions out of 1024: rows that are not asked for are not read."""
    logits = make_logits("peaked", ROWS, torch.bfloat16, device)
    rows = torch.zeros(1, ROWS, dtype=torch.bool, device=device)
    rows[:, 512:544] = True
    block = logits[:, 512:544]
    versus(
        lambda: score_tokens(logits, rows=rows, temperature=1.0, seed=1),
        floor=timer.move(block),
        peers={"ours, every row": lambda: score_tokens(logits, temperature=1.0, seed=1)},
        bytes_moved=block.nbytes,
    )


def test_score_tokens_small(versus, timer, device):
    """What a call costs beside its logits: four rows of a small vocabulary."""
    logits = torch.randn(1, 4, 1000, generator=torch.Generator(device).manual_seed(0), device=device)
    versus(
        lambda: score_tokens(logits, temperature=1.0, seed=1),
        floor=timer.move(logits),
        peers={"softmax, multinomial": lambda: torch.multinomial(logits[0].softmax(-1), 1)},
        bytes_moved=logits.nbytes,
    )
