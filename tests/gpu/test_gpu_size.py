"""Offsets beyond 2^31 elements, and what calls hold in memory. On the CPU sizes shrink: only the tests are tested."""

from __future__ import annotations

import pytest
import torch
from timers import timer_for
from torch.nn import functional as F

from mdmcorrect.ops import (
    bidirectional_attention,
    linear_cross_entropy,
    remask_step,
    score_hidden,
    score_tokens,
    select_positions,
)
from mdmcorrect.selfcheck.cases import returned
from mdmcorrect.selfcheck.inputs.scoring import peaked_logits
from mdmcorrect.selfcheck.scoring_cases import check_scores


@pytest.fixture
def size(device):
    """`size(huge, small, gigabytes)`: huge on a device that has that much memory free, small on the CPU."""

    def choose(huge: int, small: int, gigabytes: float) -> int:
        if device.type == "cpu":
            return small
        torch.cuda.empty_cache()
        free = torch.cuda.mem_get_info(device)[0] / 1e9
        if free < gigabytes:
            pytest.skip(f"needs {gigabytes} GB of free memory on the device, and there are {free:.0f}")
        return huge

    return choose


def test_score_tokens_of_many_logits(device, size):
    length, vocab = size(17_500, 70, 6), size(126_464, 513, 6)
    generator = torch.Generator(device).manual_seed(0)
    logits = torch.empty(1, length, vocab, dtype=torch.bfloat16, device=device).normal_(0, 3, generator=generator)
    options = {"temperature": 0.9, "seed": torch.tensor([5], device=device)}
    scores = score_tokens(logits, **options)._asdict()
    asked = torch.tensor([0, 1, length // 2, length - 2, length - 1], device=device)
    check_scores(
        returned({name: value[:, asked] for name, value in scores.items() if value is not None}),
        {
            "logits": logits[:, asked].cpu(),
            "temperature": 0.9,
            "seed": torch.tensor([5]),
            "positions": asked[None].cpu(),
        },
    )


def test_positions_of_a_long_row_and_of_many_rows(device, size):
    for shape in ((1, size(3_000_000, 30_000, 1)), (size(100_000, 1000, 1), 24)):
        scores = torch.rand(shape, generator=torch.Generator().manual_seed(0))
        k = torch.arange(shape[0]) % 5 + shape[1] // 3
        chosen = select_positions(scores.to(device), k.to(device))
        assert torch.equal(chosen.cpu(), select_positions(scores, k))
        tokens = torch.where(scores < 0.5, 9, 1)
        arguments = {"proposals": tokens + 1, "unmask_score": scores, "keep_score": scores}
        counts = {"unmask_count": k, "remask_count": k // 2}
        expected = remask_step(tokens, **arguments, **counts, mask_id=9)
        on_device = {name: value.to(device) for name, value in (arguments | counts).items()}
        for value, truth in zip(remask_step(tokens.to(device), **on_device, mask_id=9), expected, strict=True):
            assert torch.equal(value.cpu(), truth)


def test_attention_of_many_numbers(device, size):
    """Heads whose last rows lie beyond 2^31; a window of 100 keys near the end keeps the work small."""
    length, heads = size(140_000, 300, 24), size(128, 4, 24)
    start = length - 150
    generator = torch.Generator(device).manual_seed(0)
    fused = torch.empty(1, length, heads + 2, 128, dtype=torch.bfloat16, device=device).normal_(generator=generator)
    q, k, v = fused.transpose(1, 2).split([heads, 1, 1], 1)
    out = bidirectional_attention(q, k, v, starts=start, lengths=100)
    window = slice(start, start + 100)
    expected = F.scaled_dot_product_attention(
        *(x[:, :, window].float() for x in (q, k.expand(-1, heads, -1, -1), v.expand(-1, heads, -1, -1)))
    )
    torch.testing.assert_close(out[:, :, window].float(), expected, rtol=2e-2, atol=2e-2)
    assert not out[:, :, :start].any()
    assert not out[:, :, start + 100 :].any()


def test_loss_of_a_large_layer(device, size):
    vocab, width, rows = size(151_936, 1000, 20), size(16_384, 64, 20), 8
    generator = torch.Generator(device).manual_seed(0)
    hidden = torch.randn(rows, width, generator=generator, device=device).bfloat16().requires_grad_()
    weight = torch.empty(vocab, width, dtype=torch.bfloat16, device=device).normal_(0, 0.02, generator=generator)
    weight.requires_grad_()
    targets = torch.arange(vocab - rows, vocab, device=device)
    loss = linear_cross_entropy(hidden, weight, targets)
    ours = torch.autograd.grad(loss, (hidden, weight))
    plain = F.cross_entropy((hidden @ weight.T).float(), targets, reduction="sum")
    theirs = torch.autograd.grad(plain, (hidden, weight))
    torch.testing.assert_close(loss, plain, rtol=2e-3, atol=1e-2)
    for mine, other in zip(ours, theirs, strict=True):
        difference = (mine[-rows:] - other[-rows:]).abs().max()
        assert difference <= 0.02 * other[-rows:].abs().max()


def test_peaks(device, size):
    """What calls hold beyond arguments and results: less than half of the logits, or the matrix, they do without."""
    generator = torch.Generator(device).manual_seed(0)
    rows, vocab, length = 1024, size(200_000, 20_000, 4), size(4096, 1024, 4)

    def values(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, device=device).bfloat16()

    logits = peaked_logits(1, 64, 126_464, torch.bfloat16).to(device)
    hidden, weight, targets = values(rows, 64), values(vocab, 64), torch.arange(rows, device=device)
    q, k, v = (values(1, 8, length, 64).requires_grad_() for _ in range(3))
    layer = hidden.detach().requires_grad_(), weight.detach().requires_grad_()
    avoided = {
        "score_tokens": (lambda: score_tokens(logits, temperature=1.0), logits.nbytes),
        "score_hidden": (lambda: score_hidden(hidden, weight, temperature=1.0), 2 * rows * vocab),
        "linear_cross_entropy": (
            lambda: torch.autograd.grad(linear_cross_entropy(*layer, targets), layer),
            4 * rows * vocab,
        ),
        "bidirectional_attention": (
            lambda: torch.autograd.grad(bidirectional_attention(q, k, v).sum(), (q, k, v)),
            2 * 8 * length**2,
        ),
    }
    timer = timer_for(device)
    for name, (run, nbytes) in avoided.items():
        peak = timer.peak_bytes(run)
        if peak is not None:
            assert peak < nbytes / 2, f"{name}: {peak} bytes where {nbytes} are avoided"
