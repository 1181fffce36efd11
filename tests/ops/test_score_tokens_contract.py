"""score_tokens as an operator: opcheck, fake kernel, torch.compile, and errors that name the argument."""

from __future__ import annotations

import pytest
import torch

from mdmcorrect.ops import score_tokens
from mdmcorrect.selfcheck.inputs.scoring import assert_same_bits, peaked_logits

OP = torch.ops.mdmcorrect.score_tokens.default


def native_arguments(**changes) -> dict:
    arguments = {
        "logits": peaked_logits(2, 3, 40),
        "uncond_logits": peaked_logits(2, 3, 40, seed=1),
        "guidance": torch.full((2, 3), 1.5, dtype=torch.float64),
        "shift": 1,
        "want": 0b111111111111,
        "temperature": torch.full((2, 3), 0.7, dtype=torch.float64),
        "tokens": torch.zeros(2, 3, dtype=torch.int64),
        "rows": torch.ones(2, 3, dtype=torch.bool),  # all: opcheck takes NaN for a difference
        "positions": torch.arange(3),
        "top_k": torch.full((2, 3), 9),
        "top_p": torch.full((), 0.9, dtype=torch.float64).expand(2, 3),
        "top_p_inclusive": True,
        "top_p_first": False,
        "suppress": torch.tensor([1, 39]),
        "forbid": torch.tensor([2]),
        "proposal_law": False,
        "probabilities": False,
        "dense_noise": True,
        "confidence_dtype": torch.bfloat16,
        "seed": torch.tensor([4, 5]),
        "step": torch.tensor(1),
        "call": torch.tensor(0),
    }
    return {**arguments, **changes}


OPTIONAL = ("uncond_logits", "guidance", "tokens", "rows", "positions", "top_k", "top_p", "suppress", "forbid")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {
            "want": 0b00000000101,
            "logits": peaked_logits(2, 3, 40, torch.bfloat16),
            "uncond_logits": None,
            "guidance": None,
            "seed": torch.tensor(3),
        },
        {**dict.fromkeys(OPTIONAL), "want": 0b11111101111, "step": torch.tensor([0, 3])},
    ],
    ids=["everything", "few", "bare"],
)
def test_opcheck(changes):
    torch.library.opcheck(OP, tuple(native_arguments(**changes).values()))


def test_compiles_to_one_graph_and_does_not_recompile_per_step():
    frames = 0

    def backend(module, _):
        nonlocal frames
        frames += 1
        return module.forward

    @torch.compile(fullgraph=True, backend=backend)
    def step_of_a_sampler(logits, tokens, step, seed):
        scores = score_tokens(
            logits, tokens=tokens, temperature=0.8, top_p=0.95, suppress=3, seed=seed, step=step, law="proposal"
        )
        return scores.token, scores.confidence, scores.current_logprob

    logits, tokens = peaked_logits(2, 4, 600), torch.zeros(2, 4, dtype=torch.int64)
    for step in range(3):
        compiled = step_of_a_sampler(logits, tokens, torch.tensor(step), torch.tensor([1, 2]))
        eager = score_tokens(
            logits,
            tokens=tokens,
            temperature=0.8,
            top_p=0.95,
            suppress=3,
            seed=torch.tensor([1, 2]),
            step=step,
            law="proposal",
        )
        for ours, theirs in zip(compiled, (eager.token, eager.confidence, eager.current_logprob), strict=True):
            assert torch.equal(ours, theirs)
    assert frames == 1


def test_compiles_with_inductor():
    compiled = torch.compile(lambda x: score_tokens(x, temperature=1.0, seed=3, rows=x[..., 0] > 0), fullgraph=True)
    logits = peaked_logits(2, 9, 300)
    assert_same_bits(compiled(logits), score_tokens(logits, temperature=1.0, seed=3, rows=logits[..., 0] > 0))


def test_fake_tensors_have_the_shapes_of_the_real_ones():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        scores = score_tokens(torch.empty(2, 5, 7, 11, dtype=torch.bfloat16), temperature=1.0)
    assert scores.token.shape == scores.entropy.shape == (2, 5, 7)
    assert (scores.token.dtype, scores.entropy.dtype) == (torch.int64, torch.float32)


def logits() -> torch.Tensor:
    return torch.zeros(2, 3, 8)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"logits": [[0.0]]}, TypeError, "logits: expected a torch.Tensor, got list"),
        ({"logits": torch.zeros(2, 3, 8).double()}, TypeError, "logits: expected dtype float32 or .*, got float64"),
        ({"logits": torch.zeros(8)}, ValueError, r"logits: expected shape \[..., L, V\] with V >= 1, got \[8\]"),
        ({"logits": torch.zeros(2, 3, 0)}, ValueError, r"logits: expected shape .* with V >= 1, got \[2, 3, 0\]"),
        ({"logits": torch.zeros(2, 8, 3).mT}, ValueError, "logits: expected the last dimension to be contiguous"),
        ({"logits": torch.zeros(2, 3, 2, 8).transpose(0, 1)}, ValueError, "logits: the dimensions before L must merge"),
        ({"tokens": torch.zeros(2, 3)}, TypeError, "tokens: expected dtype int64, got float32"),
        ({"tokens": torch.zeros(3, 2).long()}, ValueError, r"tokens: expected shape \[2, 3\].*got \[3, 2\]"),
        ({"rows": torch.ones(2, 3).long()}, TypeError, "rows: expected dtype bool, got int64"),
        ({"rows": torch.ones(3).bool()}, ValueError, r"rows: expected shape \[2, 3\].*got \[3\]"),
        ({"positions": torch.zeros(2).long()}, ValueError, r"positions: expected shape \[3\] or \[2, 3\], got \[2\]"),
        ({"positions": torch.zeros(3)}, TypeError, "positions: expected dtype int64, got float32"),
        ({"temperature": -0.5}, ValueError, "temperature: expected a finite number >= 0 or a tensor, got -0.5"),
        ({"temperature": float("nan")}, ValueError, "temperature: expected a finite number"),
        ({"temperature": float("inf")}, ValueError, "temperature: expected a finite number"),
        ({"temperature": "hot"}, TypeError, "temperature: expected a finite number >= 0 or a tensor, got str"),
        ({"temperature": torch.tensor([1, 2])}, TypeError, "temperature: expected a floating-point dtype, got int64"),
        ({"temperature": torch.ones(3)}, ValueError, r"temperature: expected shape \[\], \[2\] \(per sequence\) or"),
        ({"top_k": 0}, ValueError, "top_k: expected at least 1, got 0"),
        ({"top_k": 2.0}, TypeError, "top_k: expected an int or a tensor, got float"),
        ({"top_k": torch.ones(2)}, TypeError, "top_k: expected int64, got float32"),
        ({"top_p": 1.5}, ValueError, r"top_p: expected a finite number in \[0, 1\] or a tensor, got 1.5"),
        ({"top_p_rule": "hf"}, ValueError, "top_p_rule: expected 'inclusive' or 'exclusive', got 'hf'"),
        ({"filter_order": "p"}, ValueError, "filter_order: expected 'top_k_first' or 'top_p_first', got 'p'"),
        ({"suppress": 8}, ValueError, r"suppress: expected an id within the 8 ids of the logits, got 8"),
        ({"suppress": [1.0]}, TypeError, "suppress: expected an int, got float 1.0"),
        ({"forbid": [-1]}, ValueError, r"forbid: expected a token id >= 0, got -1"),
        ({"forbid": torch.tensor([True])}, TypeError, "forbid: expected dtype int64, got bool"),
        ({"forbid": torch.zeros(1, 1).long()}, ValueError, r"forbid: expected ids \[n\], got shape \[1, 1\]"),
        ({"guidance": 1.0}, ValueError, "guidance: needs uncond_logits"),
        ({"uncond_logits": [1.0], "guidance": 1.0}, TypeError, "uncond_logits: expected a torch.Tensor, got list"),
        (
            {"uncond_logits": torch.zeros(2, 3, 9), "guidance": 1.0},
            ValueError,
            r"uncond_logits: expected shape \[2, 3, 8\] as logits has it, got \[2, 3, 9\]",
        ),
        (
            {"uncond_logits": torch.zeros(2, 3, 8).half(), "guidance": 1.0},
            TypeError,
            "uncond_logits: expected dtype float32, got float16",
        ),
        (
            {"uncond_logits": torch.zeros(2, 8, 3).transpose(1, 2), "guidance": 1.0},
            ValueError,
            "uncond_logits: expected the last dimension to be contiguous",
        ),
        (
            {"uncond_logits": torch.zeros(2, 3, 8), "guidance": float("nan")},
            ValueError,
            "guidance: expected a finite number or a tensor, got nan",
        ),
        (
            {"uncond_logits": torch.zeros(2, 3, 8), "guidance": 1.0, "input": "probs"},
            ValueError,
            'guidance: mixes logits, and with input="probs" there are none',
        ),
        ({"shift": -1}, ValueError, "shift: expected at least 0, got -1"),
        ({"shift": 1.0}, TypeError, "shift: expected an int, got float"),
        ({"want": ("noised_logprob",)}, ValueError, 'want: expected noise="dense"'),
        ({"noise": "loud"}, ValueError, "noise: expected 'lazy' or 'dense', got 'loud'"),
        ({"law": "murphy"}, ValueError, "law: expected 'raw' or 'proposal', got 'murphy'"),
        ({"input": "logprobs"}, ValueError, "input: expected 'logits' or 'probs', got 'logprobs'"),
        ({"confidence_dtype": torch.float64}, TypeError, "confidence_dtype: expected float32, bfloat16 or float16"),
        ({"want": ("token", "speed")}, ValueError, "want: expected names among token, argmax, .*, got 'speed'"),
        ({"want": "token"}, TypeError, "want: expected several names, such as"),
        ({"want": ("current_logprob",)}, ValueError, "want: expected tokens beside current_logprob"),
        ({"seed": 1.5}, TypeError, "seed: expected an int, an int64 tensor or a torch.Generator, got float"),
        ({"seed": torch.zeros(3).long()}, ValueError, r"seed: expected shape \[2\], one seed per sequence, or \[\]"),
        ({"step": torch.zeros(3).long()}, ValueError, r"step: expected shape \[\] or \[2\]"),
        ({"call": torch.zeros(2).long()}, ValueError, r"call: expected an int or int64 \[\], got shape \[2\]"),
        ({"tokens": torch.zeros(2, 3, device="meta").long()}, ValueError, "tokens: expected device cpu"),
    ],
)
def test_errors_name_the_argument(change, error, text):
    with pytest.raises(error, match=text):
        score_tokens(**{"logits": logits(), **change})


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"logits": torch.zeros(3, 40)}, r"logits: expected shape \[B, L, V\]"),
        ({"logits": torch.zeros(2, 40, 3).mT}, "logits: expected a contiguous last dimension"),
        ({"logits": torch.zeros(2, 3, 40).double()}, "logits: expected float32, bfloat16 or float16"),
        ({"temperature": torch.ones(2, 3)}, "temperature: expected dtype float64"),
        ({"tokens": None}, "want: current_logprob needs tokens"),
        ({"want": 1 << 12}, "want: unknown score"),
        ({"seed": torch.tensor([4]).expand(2)}, "seed: expected no stride of 0"),
        ({"seed": torch.tensor([4, 5, 6])}, r"seed: expected shape \[\] or \[2\], got \[3\]"),
        ({"suppress": torch.zeros(2, 2).long()}, r"suppress: expected shape \[n\], got \[2, 2\]"),
    ],
)
def test_native_checks_hold_without_the_wrapper(changes, text):
    with pytest.raises(RuntimeError, match=text):
        OP(**native_arguments(**changes))


def test_ids_outside_the_vocabulary_in_a_tensor_name_nothing():
    x = peaked_logits(1, 3, 20)
    assert_same_bits(score_tokens(x, suppress=torch.tensor([-1, 20, 4, 10**12, 4])), score_tokens(x, suppress=4))
