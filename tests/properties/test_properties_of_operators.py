"""Every operator on inputs of any scale, layout and option, against the float64 reference or a law it must keep."""

from __future__ import annotations

import numpy as np
import torch
from drawn import FLOATS, LAYOUTS, SEEDS, generator, laid_out, same_bits, tensor
from hard_rows import hard_case, judge
from hypothesis import given
from hypothesis import strategies as st

from mdmcorrect import ops, reference
from mdmcorrect.ops.count_positions import RULES
from mdmcorrect.selfcheck.inputs.attention import arrays, error, expected, plain, spacing
from mdmcorrect.selfcheck.inputs.cross_entropy import assert_near

NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}
VOCABS = st.sampled_from([2, 3, 31, 64, 513, 1500])
# What scores hold: usual ones, ties, the ends of the range, and what is none.
VALUES = np.array([0.0, -0.0, 0.25, 0.5, 0.5, 0.9, 1.0, -1.0, 1e-30, 1e-45, -1e30, 3e38, np.inf, -np.inf, np.nan])


def given_scores(random, shape, dtype):
    drawn = (
        random.choice(VALUES, shape)
        if random.random() < 0.5
        else random.normal(size=shape) * 10.0 ** random.integers(-8, 8)
    )
    return tensor(drawn, dtype)


# ---- scoring ----


@given(dtype=FLOATS, vocab=VOCABS, length=st.integers(1, 4), layout=LAYOUTS, seed=SEEDS)
def test_scores_are_the_references_wherever_they_lie(case, dtype, vocab, length, layout, seed):
    hard = hard_case(seed, dtype=NAMES[dtype], vocab=vocab, length=length)
    logits, tokens = torch.from_numpy(hard.rows)[None].to(dtype), torch.from_numpy(hard.tokens)[None]
    sequence = int(reference.sequence_seeds(hard.options["seed"], 1)[0])
    scores = ops.score_tokens(laid_out(logits, layout), tokens=tokens, **hard.options)
    judge(hard, {name: value[0].numpy() for name, value in scores._asdict().items() if value is not None}, sequence)
    plainly = ops.score_tokens(logits, tokens=tokens, **hard.options)
    for name, value in scores._asdict().items():
        if value is not None:
            same_bits(value, getattr(plainly, name), name)
    case()


@given(
    dtype=FLOATS,
    vocab=VOCABS,
    shape=st.tuples(st.integers(1, 3), st.integers(1, 5)),
    layout=LAYOUTS,
    shift=st.integers(0, 2),
    guidance=st.sampled_from([None, 0.0, 0.5, 1.5, -0.5]),
    share=st.sampled_from([0.0, 0.4, 1.0]),
    seed=SEEDS,
)
def test_guidance_shift_and_rows_are_what_they_say(case, dtype, vocab, shape, layout, shift, guidance, share, seed):
    random = generator(seed)
    logits, other = (tensor(random.normal(size=(*shape, vocab)) * 3, dtype) for _ in range(2))
    rows = torch.from_numpy(random.random(shape) < share)
    drawn = {"temperature": float(random.choice([0.0, 0.7])), "seed": torch.arange(shape[0]) + seed % 1000, "step": 3}
    more = {} if guidance is None else {"uncond_logits": laid_out(other, layout), "guidance": guidance}
    ours = ops.score_tokens(laid_out(logits, layout), rows=rows, shift=shift, **more, **drawn)
    mixed = logits if guidance in (None, 0.0) else other + (guidance + 1) * (logits - other)
    moved = mixed[:, (torch.arange(shape[1]) - shift).clamp(min=0)]
    for name, value in ops.score_tokens(moved, rows=rows, **drawn)._asdict().items():
        if value is not None:
            same_bits(getattr(ours, name), value, name)
            left = value[~rows]
            assert (left == -1).all() if not value.is_floating_point() else left.isnan().all()
    case()


@given(
    dtype=FLOATS,
    vocab=st.sampled_from([2, 31, 513, 700]),
    count=st.integers(1, 5),
    width=st.sampled_from([1, 8, 33, 64]),
    layout=LAYOUTS,
    seed=SEEDS,
)
def test_hidden_states_score_as_their_logits(case, dtype, vocab, count, width, layout, seed):
    """Of small integers, whose products and sums no order of adding rounds."""
    random = generator(seed)
    hidden = tensor(random.integers(-2, 3, (1, count, width)), dtype)
    weight = tensor(random.integers(-2, 3, (vocab, width)) / 4, dtype)
    tokens = torch.from_numpy(random.integers(0, vocab, (1, count)))
    options = {
        "temperature": float(random.choice([0.0, 1.0, 0.3])),
        "top_k": None if random.random() < 0.7 else int(random.integers(1, vocab + 1)),
        "top_p": None if random.random() < 0.7 else 0.8,
        "suppress": [int(random.integers(vocab))] if vocab > 2 and random.random() < 0.5 else None,
        "law": str(random.choice(["raw", "proposal"])),
        "seed": int(random.integers(1 << 40)),
    }
    ours = ops.score_hidden(laid_out(hidden, layout), laid_out(weight, layout), tokens=tokens, **options)
    logits = (hidden.float() @ weight.float().T).to(dtype)
    for name, value in ops.score_tokens(logits, tokens=tokens, **options)._asdict().items():
        if value is not None:
            same_bits(getattr(ours, name), value, name)
    case()


@given(
    dtype=FLOATS,
    shape=st.tuples(st.integers(1, 3), st.integers(1, 5), st.sampled_from([1, 7, 64, 200])),
    norm=st.sampled_from(["layer", "rms", None]),
    scale=st.sampled_from([1e-3, 1.0, 30.0]),
    modulated=st.sampled_from([None, "sequence", "position"]),
    layout=LAYOUTS,
    logit=st.booleans(),
    seed=SEEDS,
)
def test_qualities_are_the_references(case, dtype, shape, norm, scale, modulated, layout, logit, seed):
    random = generator(seed)
    size = shape[-1]
    hidden = tensor(random.normal(size=shape) * scale, dtype)
    given_ = {
        "weight": tensor(random.normal(size=size) / size**0.5, dtype),
        "bias": tensor(random.normal(size=1), dtype),
    }
    if norm is not None:
        given_ |= {"norm_weight": tensor(1 + random.normal(size=size) / 4, dtype)}
        given_ |= {"norm_bias": tensor(random.normal(size=size) / 4, dtype)}
    if modulated is not None:
        of = shape if modulated == "position" else (shape[0], size)
        given_ |= {name: tensor(random.normal(size=of) / 2, dtype) for name in ("shift", "scale")}
    ours = ops.score_quality(laid_out(hidden, layout), norm=norm, logit=logit, **given_)
    wide = {name: value.double().numpy() for name, value in given_.items()}
    for name in ("shift", "scale"):
        wide[name] = wide[name][:, None] if modulated == "sequence" else wide.get(name, 0.0)
    truth = reference.score_quality(hidden.double().numpy(), **{**wide, "bias": float(wide["bias"][0])}, norm=norm)
    assert ours.dtype == torch.float32
    probability = torch.sigmoid(ours) if logit else ours
    size_of_terms = 1.0 if norm is not None else scale
    np.testing.assert_allclose(probability.numpy(), truth, rtol=2e-4, atol=2e-5 * max(1.0, size_of_terms))
    case()


# ---- positions ----


@given(
    dtype=FLOATS,
    shape=st.tuples(st.integers(0, 4), st.integers(0, 70)),
    largest=st.booleans(),
    draws=st.booleans(),
    seed=SEEDS,
)
def test_selections_are_the_references(case, dtype, shape, largest, draws, seed):
    random = generator(seed)
    scores = given_scores(random, shape, dtype)
    k = torch.from_numpy(random.integers(-2, shape[1] + 3, shape[0]))
    eligible = torch.from_numpy(random.random(shape) < random.choice([0.3, 0.9, 1.0]))
    drawn = {
        "temperature": 0.7 if draws else 0.0,
        "seed": torch.from_numpy(random.integers(0, 1 << 40, shape[0])),
        "step": 5,
    }
    chosen = ops.select_positions(scores, k, eligible=eligible, largest=largest, **drawn)
    possible = eligible & ~scores.isnan()
    assert not (chosen & ~possible).any()
    assert chosen.sum(1).tolist() == torch.minimum(k.clamp(min=0), possible.sum(1)).tolist()
    if not draws:
        truth = reference.select_positions(
            scores.float().numpy(), k.numpy(), eligible=eligible.numpy(), largest=largest
        )
        assert chosen.tolist() == truth.tolist()
    spread = torch.stack([scores, scores + 1], 2)[..., 0]
    assert torch.equal(ops.select_positions(spread, k, eligible=eligible, largest=largest, **drawn), chosen)
    for row in range(shape[0]):
        one = slice(row, row + 1)
        alone = {**drawn, "seed": drawn["seed"][one]}
        assert torch.equal(
            ops.select_positions(scores[one], k[one], eligible=eligible[one], largest=largest, **alone), chosen[one]
        )
    case()


@given(
    shape=st.tuples(st.integers(0, 4), st.integers(0, 40)),
    rule=st.sampled_from(RULES),
    bound=st.sampled_from([-1.0, 0.0, 0.25, 0.5, 0.9, 1.0, 2.0, 7.0]),
    at_least=st.integers(0, 3),
    seed=SEEDS,
)
def test_counts_are_the_references(case, shape, rule, bound, at_least, seed):
    random = generator(seed)
    values = [0.0, -0.0, 0.25, 0.5, 0.75, 1.0, np.nan] if random.random() < 0.5 else np.round(random.random(9), 3)
    scores = tensor(random.choice(values, shape), torch.float32)
    eligible = torch.from_numpy(random.random(shape) < 0.8)
    ours = ops.count_positions(scores, rule, bound, eligible=eligible, at_least=at_least)
    truth = reference.count_positions(
        scores.numpy(), rule, np.float32(bound), eligible=eligible.numpy(), at_least=at_least
    )
    assert ours.tolist() == truth.tolist()
    case()


@given(
    dtype=FLOATS,
    shape=st.tuples(st.integers(0, 4), st.integers(0, 60)),
    mode=st.sampled_from(["bands", "masks", "pool", "unmask", "mixed"]),
    refill=st.sampled_from(["if_short", "never"]),
    seed=SEEDS,
)
def test_steps_are_the_references(case, dtype, shape, mode, refill, seed):
    random = generator(seed)
    mask_id = 9
    tokens = torch.from_numpy(np.where(random.random(shape) < random.random(), mask_id, random.integers(0, 9, shape)))
    proposals = torch.from_numpy(random.integers(-1, mask_id + 1, shape))

    def mask():
        return torch.from_numpy(random.random(shape) < 0.5)

    def count():
        return torch.from_numpy(random.integers(-2, shape[1] + 3, shape[0]))

    def scores():
        return given_scores(random, shape, dtype)

    chosen = {
        "bands": lambda: {
            "unmask_score": scores(),
            "unmask_count": count(),
            "keep_score": scores(),
            "remask_count": count(),
        },
        "masks": lambda: {"commit": mask(), "remask": mask()},
        "pool": lambda: {"unmask_score": scores(), "keep_score": scores(), "keep_count": count()},
        "unmask": lambda: {"unmask_score": scores(), "unmask_count": count()},
        "mixed": lambda: {"commit": mask(), "keep_score": scores(), "remask_count": count()},
    }[mode]()
    if random.random() < 0.7:
        chosen["fixed"] = mask()
    if random.random() < 0.7:
        chosen["eligible"] = mask()
    ours = ops.remask_step(tokens, proposals, mask_id=mask_id, refill=refill, **chosen)
    plain_ = {name: (value.float() if value.is_floating_point() else value).numpy() for name, value in chosen.items()}
    truth = reference.remask_step(tokens.numpy(), proposals.numpy(), mask_id=mask_id, refill=refill, **plain_)
    for mine, true in zip(ours, truth, strict=True):
        assert mine.tolist() == np.asarray(true).tolist()
    case()


# ---- networks ----


@given(
    dtype=FLOATS,
    batch=st.integers(1, 2),
    heads=st.sampled_from([(1, 1), (2, 1), (4, 2)]),
    lengths=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    width=st.sampled_from([32, 64, 96]),
    mask=st.sampled_from(["full", "block_causal"]),
    hide=st.booleans(),
    padded=st.booleans(),
    scale=st.sampled_from([0.01, 1.0, 8.0]),
    layout=LAYOUTS,
    seed=SEEDS,
)
def test_attention_is_the_references(
    case, dtype, batch, heads, lengths, width, mask, hide, padded, scale, layout, seed
):
    random = generator(seed)
    queries, keys = lengths if mask == "full" and not hide else (lengths[1], lengths[1])
    q = tensor(random.normal(size=(batch, heads[0], queries, width)) * scale, dtype)
    k, v = (tensor(random.normal(size=(batch, heads[1], keys, width)), dtype) for _ in range(2))
    masking = {"mask": mask, "hide_self": hide}
    if mask == "block_causal":
        masking["block_size"] = int(random.integers(1, 40))
    if padded:
        masking["starts"] = torch.from_numpy(random.integers(0, keys + 1, batch))
        masking["lengths"] = torch.from_numpy(random.integers(0, keys + 1, batch))
    if queries != keys:
        masking["q_positions"] = torch.from_numpy(np.sort(random.integers(0, keys, queries)))
    out, lse = ops.bidirectional_attention(*(laid_out(x, layout) for x in (q, k, v)), return_lse=True, **masking)
    exact, exact_lse = expected(q, k, v, **masking)
    # Of a few numbers torch's error may be a lucky one: then what rounding the terms of a score leaves open.
    wide = k.repeat_interleave(heads[0] // heads[1], 1).abs().double()
    terms = float((q.abs().double() @ wide.mT).max()) * width**-0.5 * float(v.abs().max())
    within = 2 * error(plain(q, k, v, **masking), exact) + 4 * spacing(dtype, exact) + 2.0**-23 * terms
    assert error(out, exact) <= within
    empty = exact_lse == -torch.inf
    assert torch.equal(lse == -torch.inf, empty)
    assert not out[empty].any()
    torch.testing.assert_close(lse[~empty].double(), exact_lse[~empty], rtol=1e-5, atol=1e-5)
    assert arrays(masking).keys() == masking.keys()
    case()


@given(
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16]),
    sizes=st.tuples(st.integers(1, 20), st.sampled_from([1, 8, 33]), st.sampled_from([2, 31, 400])),
    scale=st.sampled_from([0.01, 1.0, 10.0]),
    smoothing=st.sampled_from([0.0, 0.1]),
    softcap=st.sampled_from([None, 30.0]),
    layout=LAYOUTS,
    seed=SEEDS,
)
def test_losses_and_gradients_are_the_references(case, dtype, sizes, scale, smoothing, softcap, layout, seed):
    random = generator(seed)
    count, width, vocab = sizes
    hidden = torch.from_numpy(random.normal(size=(count, width))).to(dtype)
    weight = torch.from_numpy(random.normal(size=(vocab, width)) * scale / width**0.5).to(dtype)
    suppress = [int(random.integers(1, vocab))] if vocab > 2 and random.random() < 0.5 else []
    targets = torch.from_numpy(random.integers(0, vocab, count))
    targets[torch.isin(targets, torch.tensor(suppress, dtype=torch.int64))] = 0
    targets[torch.from_numpy(random.random(count) < 0.3)] = -100
    options = {"suppress": suppress, "label_smoothing": smoothing, "softcap": softcap}
    inputs = [laid_out(x.clone(), layout).requires_grad_() for x in (hidden, weight)]
    losses = ops.linear_cross_entropy(*inputs, targets, reduction="none", **options)
    upstream = torch.from_numpy(random.normal(size=count)).to(losses.dtype)
    truth = reference.linear_cross_entropy(
        hidden.double().numpy(), weight.double().numpy(), targets.numpy(), **options, grad_losses=upstream.numpy()
    )
    tolerance = {torch.float64: 1e-11, torch.float32: 1e-5, torch.bfloat16: 1e-5}[dtype]
    np.testing.assert_allclose(losses.detach().numpy(), truth[0], rtol=tolerance, atol=tolerance * max(1.0, scale))
    near = {torch.float64: 1e-11, torch.float32: 2e-5, torch.bfloat16: 2e-2}[dtype]
    for mine, true in zip(torch.autograd.grad((losses * upstream).sum(), inputs), truth[1:3], strict=True):
        # What is nearly 0 is what is left of a probability next to 1.
        assert_near(mine, true, near, terms=0.03)
    case()
