"""The Hugging Face example runs, and the implementation of attention does not show in what it draws."""

from __future__ import annotations

import pytest
import torch

WHY = "needs transformers: pip install 'mdmcorrect[transformers]'"
example = pytest.importorskip("mdmcorrect.examples.hugging_face", reason=WHY)


def test_both_implementations_draw_the_same() -> None:
    prompts = example.uneven_prompts(3, 40)
    canvas = example.Canvas.from_prompts(prompts, new_tokens=12, mask_id=example.MASK_ID, pad_id=example.PAD_ID)
    found = example.sample(example.judged_model(torch.float32, layers=1), canvas, steps=3)
    real = canvas.attention_mask
    assert not real.all()
    torch.testing.assert_close(found["mdmcorrect"].logits[real], found["sdpa"].logits[real], rtol=1e-3, atol=1e-4)
    assert torch.equal(found["mdmcorrect"].tokens, found["sdpa"].tokens)
    for drawn, prompt in zip(canvas.sequences(found["mdmcorrect"].tokens), prompts, strict=True):
        assert torch.equal(drawn[: len(prompt)], prompt)
        assert (drawn != example.MASK_ID).all()


def test_command(capsys) -> None:  # type: ignore[no-untyped-def]
    sizes = {"longest": 16, "new-tokens": 4, "prompts": 2, "steps": 2, "rounds": 1}
    example.main(["--dtype=bfloat16", *(f"--{name}={value}" for name, value in sizes.items())])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "[2, 20] tokens, 35% padding; 2 steps, random weights"
    assert [line.split()[0] for line in lines[1:3]] == ["sdpa:", "mdmcorrect:"]
    assert lines[-1].endswith("of 8")
