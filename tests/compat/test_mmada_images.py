"""compat.mmada.t2i_generate: schedule, guidance, the law of its draws, and what happens to its arguments."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats

from mdmcorrect.compat import mmada

TEXT, CODES, N, MASK = 20, 5, 12, 19  # the text's ids come first, then the codebook's; the mask is one of the text's
PROMPTING = {"uni_prompting": SimpleNamespace(text_tokenizer=range(TEXT))}
SETTINGS = {"seq_len": N, "mask_token_id": MASK, "codebook_size": CODES, "resolution": 3, "timesteps": 6, **PROMPTING}


class Model:
    """Code 0 at the first image position, code 1 at the second, ..., the surer the further on; notes its calls."""

    def __init__(self, sure=3.0):
        self.sure, self.seen, self.biases = sure, [], []

    def __call__(self, ids, attention_bias=None):
        self.seen.append(ids.clone())
        self.biases.append(attention_bias)
        logits = torch.full((*ids.shape, TEXT + CODES + 4), 9.0)  # what is no code must not matter
        place = torch.arange(N)
        codes = torch.nn.functional.one_hot(place % CODES, CODES) * (self.sure + place[:, None] / 10)
        told = (ids[:, :1, None] == 7).float()  # a canvas that does not begin with 7 has no prompt
        logits[:, -(N + 1) : -1, TEXT : TEXT + CODES] = codes * told
        return SimpleNamespace(logits=logits)


def blank(rows=2):
    ids = torch.full((rows, 4 + N + 1), MASK)
    ids[:, :4], ids[:, -1] = torch.tensor([7, 1, 2, 3]), 4
    return ids


def test_masks_fall_as_the_schedule_says():
    model, ids = Model(), blank()
    codes = mmada.t2i_generate(model, ids, attention_mask=torch.ones_like(ids), **SETTINGS)
    image = ids[:, 4:-1]
    assert torch.equal(codes, image - TEXT)
    assert ((codes >= 0) & (codes < CODES)).all()
    assert ids[:, -1].tolist() == [4, 4]
    left = [(seen == MASK).sum(1).tolist() for seen in model.seen]
    # floor(12 cos(pi i / 12)) but for i = 4, whose cosine in float32 is a little less than a half, as there.
    assert left == [[12] * 2, [11] * 2, [10] * 2, [8] * 2, [5] * 2, [3] * 2]
    assert model.biases[0].shape == (2, 1, 17, 17)
    linear = Model()
    mmada.t2i_generate(linear, blank(), noise_schedule=lambda ratio: 1 - ratio, **{**SETTINGS, "timesteps": 4})
    assert [int((seen[0] == MASK).sum()) for seen in linear.seen] == [12, 9, 6, 3]


def test_what_stands_in_the_image_stays():
    ids = blank()
    ids[:, 6] = TEXT + 3
    codes = mmada.t2i_generate(Model(), ids, **SETTINGS)
    assert codes[:, 2].tolist() == [3, 3]


def test_guidance_mixes_with_a_canvas_of_another_prefix():
    model, blind = Model(sure=1.0), blank()
    blind[:, 0] = 6
    mask = torch.ones_like(blind)
    ids = blank(400)
    mmada.t2i_generate(model, ids, blind[:1].expand(400, -1), mask[:1].expand(400, -1), mask[:1].expand(400, -1),
                       guidance_scale=2.0, **{**SETTINGS, "timesteps": 1})  # fmt: skip
    assert model.seen[0].shape == (800, 17)
    assert torch.equal(model.seen[0][400:, :4], torch.tensor([6, 1, 2, 3]).expand(400, -1))
    assert (model.seen[0][400:, 4:-1] == MASK).all()
    right = (ids[:, 4] == TEXT).float().mean().item()
    p = np.exp(3.0) / (np.exp(3.0) + CODES - 1)
    assert abs(right - p) < 4 * np.sqrt(p * (1 - p) / 400)


def test_draws_follow_the_softmax_over_codes():
    ids = blank(4000)
    generator = torch.Generator().manual_seed(3)
    codes = mmada.t2i_generate(Model(sure=1.0), ids, generator=generator, **{**SETTINGS, "timesteps": 1})
    for place in (0, 7):
        p = np.exp((1 + place / 10) * (np.arange(CODES) == place % CODES))
        counts = np.bincount(codes[:, place], minlength=CODES)
        assert stats.chisquare(counts, p / p.sum() * 4000).pvalue > 1e-4
    pair = np.bincount(codes[:, 0] * CODES + codes[:, 1], minlength=CODES**2).reshape(CODES, CODES)
    assert stats.chi2_contingency(pair)[1] > 1e-4
    again = mmada.t2i_generate(
        Model(sure=1.0), blank(4000), generator=generator.manual_seed(3), **{**SETTINGS, "timesteps": 1}
    )
    assert torch.equal(codes, again)


def surest_first(temperature, **options):
    """How often, of 500 images, the surest position is among those of the second step's canvas."""
    model = Model(sure=6.0)
    settings = {**SETTINGS, "timesteps": 6, "noise_schedule": lambda ratio: 1 - ratio}
    torch.manual_seed(5)
    mmada.t2i_generate(model, blank(500), temperature=temperature, **settings, **options)
    return [float((seen[:, -2] != MASK).float().mean()) for seen in model.seen]


def test_noise_on_the_order_fades_and_compounds_only_as_a_quirk():
    calm, wild = surest_first(0.0), surest_first(50.0)
    assert calm[1] > wild[1] + 0.2
    mended, compounding = surest_first(0.4), surest_first(0.4, quirks="upstream")
    assert mended[1] == compounding[1]  # the first step's temperature is the same
    assert compounding[4] >= mended[4]
    with pytest.raises(ValueError, match="quirks: expected some of"):
        mmada.t2i_generate(Model(), blank(), quirks="masks", **SETTINGS)
    with pytest.raises(ValueError, match="input_ids: expected token ids"):
        mmada.t2i_generate(Model())
