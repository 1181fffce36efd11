"""What is done to the logits before they are scored: guidance and shift, on every dtype, layout and instruction set."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch

from mdmcorrect import _native, reference
from mdmcorrect.ops import TokenScores, score_tokens
from mdmcorrect.selfcheck.inputs.scoring import assert_same_bits, assert_scores, expected, peaked_logits

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
ISAS = _native.build_info()["isas_supported"]


def mixed(cond: torch.Tensor, uncond: torch.Tensor, guidance: float) -> torch.Tensor:
    """LLaDA's classifier-free guidance, in tensor operations of the logits' dtype."""
    return uncond + (guidance + 1) * (cond - uncond)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vocab", [1, 31, 32, 33, 512, 700, 50257])
@pytest.mark.parametrize("guidance", [0.5, 1.5, -0.3])
def test_guidance_is_that_of_tensor_operations(guidance, vocab, dtype):
    cond, uncond = (peaked_logits(2, 3, vocab, dtype, seed=s) for s in (1, 2))
    for options in ({}, {"temperature": 0.7, "top_p": 0.9, "seed": 3, "law": "proposal"}):
        scores = score_tokens(cond, uncond_logits=uncond, guidance=guidance, **options)
        assert_same_bits(scores, score_tokens(mixed(cond, uncond, guidance), **options))
        if vocab < 1000:
            assert_scores(scores, expected(cond, uncond_logits=uncond, guidance=guidance, **options))


@pytest.mark.parametrize("dtype", DTYPES)
def test_reference_rounds_as_torch_does(dtype):
    generator = torch.Generator().manual_seed(0)
    words = torch.randint(-(2**31), 2**31, (2, 50_000), generator=generator, dtype=torch.int64).to(torch.int32)
    x = words.view(torch.float32)
    x = x[:, x.isfinite().all(0)]
    x = torch.cat([x, x.sign() * torch.rand(x.shape, generator=generator) * 1e5, x.sign() * 2.0**-20], 1)
    name = str(dtype).removeprefix("torch.")
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(reference.rounded(x.numpy(), name), x.to(dtype).float().numpy())
        c, u = x.clamp(-1e4, 1e4).to(dtype)
        np.testing.assert_array_equal(
            reference.guided(c.float().numpy(), u.float().numpy(), 1.7, name), mixed(c, u, 1.7).float().numpy()
        )


def test_guidance_per_sequence_and_per_position():
    cond, uncond = peaked_logits(2, 3, 600, seed=1), peaked_logits(2, 3, 600, seed=2)
    weight = torch.tensor([[0.0, 1.0, 2.0], [0.5, 0.0, -1.0]])
    scores = score_tokens(cond, uncond_logits=uncond, guidance=weight)
    for b in range(2):
        for place in range(3):
            w = float(weight[b, place])
            row = cond[b, place] if w == 0 else mixed(cond[b, place], uncond[b, place], w)
            one = score_tokens(row[None, None])
            for ours, alone in zip(scores, one, strict=True):
                assert ours is None or torch.equal(ours[b, place], alone[0, 0])
    each = score_tokens(cond, uncond_logits=uncond, guidance=torch.tensor([1.0, 2.0]))
    both = [score_tokens(cond, uncond_logits=uncond, guidance=w) for w in (1.0, 2.0)]
    assert torch.equal(each.entropy, torch.stack([both[0].entropy[0], both[1].entropy[1]]))


def test_unconditional_logits_are_not_read_where_guidance_is_zero():
    cond = peaked_logits(1, 4, 600)
    broken = torch.full_like(cond, torch.nan)
    assert_same_bits(score_tokens(cond, uncond_logits=broken), score_tokens(cond))
    weight = torch.tensor([[0.0, 1.0, 0.0, 1.0]])
    scores = score_tokens(cond, uncond_logits=broken, guidance=weight)
    assert (scores.token < 0).tolist() == [[False, True, False, True]]
    rows = torch.tensor([[True, False, True, False]])
    assert (score_tokens(cond, uncond_logits=broken, guidance=1.0, rows=rows).token < 0).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("weight", [1.0, -0.5, -1.0, -3.0])
def test_an_id_absent_from_both_stays_absent(weight, dtype):
    """-inf - -inf is NaN in tensor operations; here the id is as if suppressed, wherever the row ends."""
    cond, uncond = peaked_logits(1, 2, 600, dtype, seed=1), peaked_logits(1, 2, 600, dtype, seed=2)
    tokens = torch.tensor([[7, 599]])
    cond[..., 7] = uncond[..., 7] = cond[..., 520:] = uncond[..., 520:] = -torch.inf
    for options in ({}, {"temperature": 0.7, "seed": 1, "law": "proposal"}, {"temperature": 1.0, "top_p": 0.9}):
        scores = score_tokens(cond, uncond_logits=uncond, guidance=weight, tokens=tokens, **options)
        assert (scores.token >= 0).all()
        absent = [7, *range(520, 600)]
        other = [x.masked_fill(x == -torch.inf, 0.0) for x in (cond, uncond)]
        known = score_tokens(
            other[0], uncond_logits=other[1], guidance=weight, tokens=tokens, suppress=absent, **options
        )
        assert_same_bits(scores, known)
        assert_scores(
            scores, expected(cond, uncond_logits=uncond, guidance=weight, tokens=tokens, **options), 1e-5, 1e-5
        )


def test_an_id_at_plus_infinity_in_both_is_still_infinite():
    cond, uncond = peaked_logits(1, 2, 100, seed=1), peaked_logits(1, 2, 100, seed=2)
    cond[0, 0, 7] = uncond[0, 0, 7] = torch.inf
    assert (score_tokens(cond, uncond_logits=uncond, guidance=1.0).token < 0).tolist() == [[True, False]]


@pytest.mark.parametrize("shift", [0, 1, 2, 9])
def test_shift(shift):
    logits, uncond = peaked_logits(2, 5, 700, seed=1), peaked_logits(2, 5, 700, seed=2)
    tokens = torch.randint(0, 700, (2, 5), generator=torch.Generator().manual_seed(0))
    rows = torch.rand(2, 5, generator=torch.Generator().manual_seed(0)) < 0.6
    source = (torch.arange(5) - shift).clamp(min=0)
    options = {"tokens": tokens, "temperature": 0.8, "seed": 4, "positions": torch.arange(5) + 3}
    for more in ({}, {"rows": rows}):
        shifted = score_tokens(logits, shift=shift, **options, **more)
        assert_same_bits(shifted, score_tokens(logits[:, source], **options, **more))
    guided = score_tokens(logits, shift=shift, uncond_logits=uncond, guidance=1.5, **options)
    assert_same_bits(guided, score_tokens(logits[:, source], uncond_logits=uncond[:, source], guidance=1.5, **options))
    truth = expected(
        logits,
        shift=shift,
        tokens=tokens,
        temperature=0.8,
        seed=4,
        positions=(source * 0 + torch.arange(5) + 3).expand(2, 5),
    )
    assert_scores(score_tokens(logits, shift=shift, **options), truth)


def test_layouts():
    """LLaDA runs condition and no condition as one batch and takes the halves."""
    both = peaked_logits(4, 3, 600, torch.bfloat16)
    cond, uncond = both.chunk(2)
    wide = torch.full((3, 2, 640), torch.nan, dtype=torch.bfloat16)
    wide[:, :, 5:605] = uncond.transpose(0, 1)
    apart = wide[:, :, 5:605].transpose(0, 1)
    options = {"guidance": 1.0, "shift": 1, "temperature": 1.0, "seed": 2}
    assert_same_bits(
        score_tokens(cond, uncond_logits=apart, **options), score_tokens(cond, uncond_logits=uncond, **options)
    )
    four = score_tokens(cond.reshape(2, 1, 3, 600), uncond_logits=uncond.reshape(2, 1, 3, 600), **options)
    flat = score_tokens(cond, uncond_logits=uncond, **options)
    assert_same_bits(TokenScores(*(s if s is None else s.reshape(2, 3) for s in four)), flat)


@pytest.mark.parametrize("isa", ISAS)
def test_every_instruction_set(isa):
    program = """
        import sys
        import torch
        sys.path.insert(0, sys.argv[1])
        from mdmcorrect.selfcheck.inputs.scoring import assert_same_bits, assert_scores, expected, peaked_logits
        from mdmcorrect import _native
        from mdmcorrect.ops import score_tokens
        assert _native.build_info()["isa"] == sys.argv[2]
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            for vocab in (31, 700):
                cond, uncond = (peaked_logits(2, 3, vocab, dtype, seed=s) for s in (1, 2))
                uncond[0, 0, 3] = 6e4  # float16 overflows: -inf
                for options in ({"shift": 1}, {"temperature": 0.7, "seed": 3, "noise": "dense"}):
                    scores = score_tokens(cond, uncond_logits=uncond, guidance=1.5, **options)
                    assert_same_bits(scores, score_tokens(uncond + 2.5 * (cond - uncond), **options))
                    truth = expected(cond, uncond_logits=uncond, guidance=1.5, **options)
                    assert_scores(scores, truth)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), os.path.dirname(__file__), isa],
        env={**os.environ, "MDMCORRECT_ISA": isa},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
