import pytest
import torch

from mdmcorrect.canvas import Canvas
from mdmcorrect.samplers import MDLM, LLaDA

MASK, PAD, EOS = 9, 8, 7
PROMPTS = [[1, 2, 3], [4], []]


def test_prompts_padded_on_either_side():
    left = Canvas.from_prompts(PROMPTS, new_tokens=2, mask_id=MASK, pad_id=PAD)
    assert left.tokens.tolist() == [[1, 2, 3, 9, 9], [8, 8, 4, 9, 9], [8, 8, 8, 9, 9]]
    assert left.positions.tolist() == [[0, 1, 2, 3, 4], [0, 0, 0, 1, 2], [0, 0, 0, 0, 1]]
    right = Canvas.from_prompts(PROMPTS, new_tokens=2, mask_id=MASK, pad_id=PAD, padding="right")
    assert right.tokens.tolist() == [[1, 2, 3, 9, 9], [4, 9, 9, 8, 8], [9, 9, 8, 8, 8]]
    assert right.positions[:, :2].tolist() == [[0, 1]] * 3
    for canvas in (left, right):
        assert canvas.attention_mask.sum(1).tolist() == canvas.lengths.tolist() == [5, 3, 2]
        assert canvas.prompt_lengths.tolist() == [3, 1, 0]
        assert torch.equal(canvas.fixed, canvas.tokens != MASK)
        assert [row.tolist() for row in canvas.sequences()] == [[1, 2, 3, 9, 9], [4, 9, 9], [9, 9]]


def test_new_tokens_may_differ_and_length_may_lead():
    canvas = Canvas.from_prompts(PROMPTS, new_tokens=[0, 3, 1], mask_id=MASK, pad_id=PAD, padding="right")
    assert canvas.lengths.tolist() == [3, 4, 1]
    filled = Canvas.from_prompts(PROMPTS, length=6, mask_id=MASK)
    assert filled.lengths.tolist() == [6, 6, 6]
    assert (filled.tokens == MASK).sum(1).tolist() == [3, 5, 6]
    wide = Canvas.from_prompts(PROMPTS, length=8, new_tokens=2, mask_id=MASK, pad_id=PAD)
    assert wide.tokens.shape == (3, 8)


def test_templates_are_filled_between():
    canvas = Canvas.infill([[1, MASK, 3, MASK, 5], [MASK, 2]], mask_id=MASK, pad_id=PAD, padding="right")
    assert canvas.fixed.tolist() == [[True, False, True, False, True], [False, True, True, True, True]]
    assert canvas.prompt_lengths.tolist() == [1, 0]

    def sixes(tokens, attention_mask):
        return torch.nn.functional.one_hot(torch.full_like(tokens, 6), 10).float()

    result = LLaDA(steps=4)(sixes, **canvas.inputs())
    assert [row.tolist() for row in canvas.sequences(result.tokens)] == [[1, 6, 3, 6, 5], [6, 2]]
    assert [row.tolist() for row in canvas.completions(result.tokens)] == [[6, 3, 6, 5], [6, 2]]


def test_a_pad_that_is_the_mask_is_not_filled():
    canvas = Canvas.from_prompts(PROMPTS, new_tokens=2, mask_id=MASK, pad_id=MASK)
    assert canvas.fixed.sum(1).tolist() == [3, 3, 3]
    result = LLaDA(steps=2)(lambda tokens, attention_mask: torch.zeros(*tokens.shape, 10), **canvas.inputs())
    assert (result.tokens == MASK).sum(1).tolist() == [0, 2, 3]


def test_trimming_at_the_first_generated_end():
    canvas = Canvas.from_prompts([[1, EOS, 2], [3]], new_tokens=4, mask_id=MASK, pad_id=EOS)
    tokens = canvas.tokens.clone()
    tokens[0, 3:] = torch.tensor([5, EOS, 6, EOS])
    tokens[1, 3:] = torch.tensor([5, 5, 6, 5])
    assert [row.tolist() for row in canvas.sequences(tokens, EOS)] == [[1, EOS, 2, 5], [3, 5, 5, 6, 5]]
    assert [row.tolist() for row in canvas.completions(tokens, EOS)] == [[5], [5, 5, 6, 5]]
    assert [len(row) for row in canvas.completions(tokens)] == [4, 4]


def test_return_sequences_lie_together_and_differ():
    canvas = Canvas.from_prompts([[1, 2], [3]], new_tokens=30, mask_id=MASK, pad_id=PAD, num_return_sequences=3)
    assert canvas.tokens.shape == (6, 32)
    assert [row[0].item() for row in canvas.sequences()] == [1, 1, 1, 3, 3, 3]
    result = MDLM(steps=10)(lambda tokens, attention_mask: torch.zeros(*tokens.shape, 10), **canvas.inputs())
    assert len({tuple(row.tolist()) for row in canvas.completions(result.tokens)}) == 6


def test_draws_do_not_depend_on_the_padding():
    def uniform(tokens, attention_mask=None):
        return torch.zeros(*tokens.shape, 10)

    seed = torch.tensor([5, 6, 7])
    runs = []
    for options in ({"padding": "left"}, {"padding": "right"}, {"padding": "left", "length": 40}):
        canvas = Canvas.from_prompts(PROMPTS, new_tokens=20, mask_id=MASK, pad_id=PAD, **options)
        runs.append(canvas.completions(MDLM(steps=10)(uniform, **canvas.inputs(), seed=seed).tokens))
    for run in runs[1:]:
        for one, other in zip(run, runs[0], strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("prompts", "options", "error", "message"),
    [
        (PROMPTS, {}, ValueError, "new_tokens, length: expected at least one of them"),
        (PROMPTS, {"length": 2}, ValueError, r"prompts\[0\]: 3 tokens do not fit a canvas of length 2"),
        (PROMPTS, {"length": 4, "new_tokens": 2}, ValueError, r"prompts\[0\]: 3 tokens and 2 new ones do not fit .* 4"),
        (PROMPTS, {"new_tokens": 2}, ValueError, r"pad_id: rows of \[5, 3, 2\] tokens need padding to 5"),
        (PROMPTS, {"new_tokens": [1, 2]}, ValueError, r"new_tokens: expected one number per prompt \(3\), got 2"),
        (PROMPTS, {"new_tokens": -1}, ValueError, "new_tokens: expected numbers >= 0, got -1"),
        (PROMPTS, {"new_tokens": 2, "padding": "both"}, ValueError, "padding: expected 'left' or 'right', got 'both'"),
        (
            PROMPTS,
            {"new_tokens": 2, "num_return_sequences": 0},
            ValueError,
            "num_return_sequences: expected at least 1",
        ),
        (PROMPTS, {"new_tokens": 2, "mask_id": -1}, ValueError, "mask_id: expected a token id >= 0, got -1"),
        ([], {"new_tokens": 2}, ValueError, "prompts: expected at least one, got none"),
        ([[1.5]], {"new_tokens": 2}, TypeError, r"prompts\[0\]: expected integer token ids, got torch.float32"),
        ([torch.zeros(1, 2).long()], {"new_tokens": 2}, ValueError, r"prompts\[0\]: expected a sequence of ids \[n\]"),
        ([[-1]], {"new_tokens": 2}, ValueError, r"prompts\[0\]: expected ids >= 0, got -1"),
    ],
)
def test_what_does_not_fit_is_said(prompts, options, error, message):
    with pytest.raises(error, match=message):
        Canvas.from_prompts(prompts, **{"mask_id": MASK, **options})


def test_templates_and_tokens_that_do_not_fit():
    with pytest.raises(ValueError, match=r"templates\[1\]: 3 tokens do not fit a canvas of length 2"):
        Canvas.infill([[1], [1, 2, 3]], mask_id=MASK, length=2, pad_id=PAD)
    canvas = Canvas.from_prompts([[1]], new_tokens=2, mask_id=MASK)
    with pytest.raises(ValueError, match=r"tokens: expected \[1, 3\] like the canvas, got \[1, 4\]"):
        canvas.sequences(torch.zeros(1, 4).long())
