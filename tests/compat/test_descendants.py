"""Descendants of LLaDA and Dream: equal to them where they agree, and held to what sets them apart."""

from types import SimpleNamespace

import pytest
import torch
from hash_model import HashLM
from recorded import MASK, check, recorded

from mdmcorrect.compat import d1, diffusion_vs_ar, dream, llada, mmada, open_dllm, smdm

SPEC = {"V": 97, "mask_id": MASK, "dtype": "float32", "scale": 14.0}
PROMPT = torch.tensor([[5, 6, 7], [1, 2, 3]])
SETTINGS = {"steps": 8, "block_length": 8, "mask_id": MASK}


def test_d1_is_llada_with_rounded_steps():
    expected = llada.generate(HashLM(SPEC), PROMPT, gen_length=24, **{**SETTINGS, "steps": 6})
    assert torch.equal(d1.generate(HashLM(SPEC), PROMPT, None, gen_length=24, **SETTINGS), expected)
    bf16 = {**SPEC, "dtype": "bfloat16"}
    full = llada.generate(HashLM(bf16), PROMPT, gen_length=16, **SETTINGS, confidence_dtype=None)
    assert torch.equal(d1.generate(HashLM(bf16), PROMPT, gen_length=16, **SETTINGS), full)
    with pytest.raises(ValueError, match="gen_length: expected a multiple of block_length = 8, got 15"):
        d1.generate(HashLM(SPEC), PROMPT, gen_length=15, **SETTINGS)


class Biased:
    """A model that notes who sees whom."""

    def __init__(self):
        self.model, self.seen = HashLM(SPEC), []

    def __call__(self, tokens, attention_bias=None):
        self.seen.append(attention_bias)
        return self.model(tokens, attention_mask=None if attention_bias is None else attention_bias)


def test_mmada_is_llada_with_a_bias():
    expected = llada.generate(HashLM(SPEC), PROMPT, gen_length=16, **SETTINGS, confidence_dtype=None)
    model = Biased()
    assert torch.equal(mmada.mmu_generate(model, PROMPT, max_new_tokens=16, **SETTINGS), expected)
    assert model.seen == [None] * 8
    mask = torch.ones(2, 19, dtype=torch.int64)
    mask[0, :2] = 0
    for scale, rows in ((0.0, 2), (1.0, 4)):
        model = Biased()
        mmada.mmu_generate(model, PROMPT, max_new_tokens=16, attention_mask=mask, cfg_scale=scale, **SETTINGS)
        assert model.seen[0].shape == (rows, 1, 19, 19)
        assert not model.seen[0][0, 0, :, :2].any()
    with pytest.raises(ValueError, match="idx: expected token ids"):
        mmada.mmu_generate(model)


def test_mmada_fast_ends_with_its_rows():
    model = Biased()
    model.model = HashLM({**SPEC, "boost": {"4": 30.0}})
    tokens = mmada.mmu_generate_fast(model, PROMPT, max_new_tokens=16, eot_token=4, **SETTINGS)
    assert (tokens[:, 3:11] == 4).all()
    assert (tokens[:, 11:] == MASK).all()
    assert len(model.seen) == 4


@pytest.mark.parametrize("alg", ["maskgit_plus", "entropy", "topk_margin"])
def test_open_dllm_is_dream_row_by_row(alg):
    settings = {"max_new_tokens": 12, "steps": 6, "mask_token_id": MASK, "alg": alg}
    inputs = torch.tensor([[5, MASK, MASK, MASK, MASK, 7], [1, 2, 3, 4, 5, 6]])
    model = HashLM(SPEC)
    assert torch.equal(
        open_dllm.diffusion_generate(model, inputs, **settings),
        dream.diffusion_generate(HashLM(SPEC), inputs, **settings),
    )


@recorded("open_dllm")
def test_open_dllm_equals_its_recorded_runs(case):
    """Padding that is given, padding that is generated, padding that is the mask; histories."""

    class Model:
        def __init__(self, model):
            self.model, self.config = model, SimpleNamespace(pad_token_id=case["pad"])

        def __call__(self, input_ids, attention_mask=None, is_causal=None):
            return self.model(input_ids, attention_mask=attention_mask)

    def run(model, ties):
        output = open_dllm.diffusion_generate(
            Model(model),
            torch.tensor(case["inputs"]["inputs"]),
            **case["kwargs"],
            output_history=True,
            return_dict_in_generate=True,
            ties=ties,
        )
        assert len(output.history) == case["histories"]
        return output.sequences, None

    check(case, run)


@recorded("d1")
def test_d1_equals_its_recorded_runs(case):
    """Under float32 noise the numbers too, from the original's place in torch's stream."""

    def run(model, ties):
        torch.manual_seed(case["seed"])
        prompt = torch.tensor(case["inputs"]["prompt"])
        return d1.generate(model, prompt, None, **case["kwargs"], ties=ties, noise="fp32"), None

    check(case, run)


def test_open_dllm_plans_paths():
    model = HashLM({**SPEC, "scale": 9.0})
    model.generation_config = SimpleNamespace(mask_token_id=MASK, alg="p2", return_dict_in_generate=True)
    output = open_dllm.diffusion_generate(model, PROMPT, max_new_tokens=12, steps=6, output_history=True)
    masks = [(tokens == MASK).sum(1).tolist() for tokens in output.history]
    assert masks == [[10, 10], [8, 8], [6, 6], [4, 4], [2, 2], [0, 0]]
    assert torch.equal(output.history[-1], output.sequences)
    again = [((a != MASK) & (b == MASK)).any() for a, b in zip(output.history, output.history[1:], strict=False)]
    assert any(again)


def test_open_dllm_sample_tokens():
    logits = torch.randn(2, 5, 30, generator=torch.Generator().manual_seed(0)).bfloat16()
    p = logits.float().softmax(-1)
    confidence, x0 = open_dllm.sample_tokens(logits, alg="entropy")
    torch.testing.assert_close(confidence, (p * p.log()).sum(-1))
    assert torch.equal(x0, p.argmax(-1))
    with pytest.raises(ValueError, match=r"alg: expected one of .*'p2'.*, got 'best'"):
        open_dllm.sample_tokens(logits, alg="best")


def interrupts(*_tokens, **_options):
    raise KeyboardInterrupt


INTERRUPTED = {
    "d1": lambda: d1.generate(interrupts, PROMPT, gen_length=8, **SETTINGS),
    "open_dllm": lambda: open_dllm.diffusion_generate(
        interrupts, PROMPT, max_new_tokens=4, steps=2, mask_token_id=MASK
    ),
    "smdm": lambda: smdm.diff_sample(interrupts, None, PROMPT, steps=2, context_length=6, dim=MASK, device="cpu"),
    "diffusion_vs_ar": lambda: diffusion_vs_ar.generate_samples(
        SimpleNamespace(
            model=interrupts,
            tokenizer=SimpleNamespace(mask_token_id=MASK, vocab_size=97),
            diff_args=SimpleNamespace(diffusion_steps=2, topk_decoding=False),
        ),
        {"input_ids": PROMPT, "src_mask": torch.zeros(2, 3)},
    ),
}


@pytest.mark.parametrize("name", INTERRUPTED)
def test_an_interrupted_run_raises(name):
    with pytest.raises(KeyboardInterrupt):
        INTERRUPTED[name]()


def test_d1_keeps_unfilled_masks_if_asked():
    model = HashLM({**SPEC, "boost": {"96": 60.0}})
    assert (d1.generate(model, PROMPT, gen_length=8, **SETTINGS) != MASK).all()
    kept = d1.generate(model, PROMPT, gen_length=8, **SETTINGS, quirks="unfilled_masks")
    assert (kept == MASK).any()
    assert torch.equal(
        kept, llada.generate(model, PROMPT, gen_length=8, **SETTINGS, quirks="unfilled_masks", confidence_dtype=None)
    )
