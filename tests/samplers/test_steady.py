"""KLASS: positions that are sure and have not moved, against a loop that keeps every distribution in float64."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from toys import Toy

from mdmcorrect.adapters import Guided, RightShifted, Stability
from mdmcorrect.model import Output, Request, Window
from mdmcorrect.samplers import KLASS, FastDLLM, LLaDA, Sampler, Steady, SteadyFirst, Unmask

VOCAB, MASK = 20, 19


class Drifting(torch.nn.Module):
    """Every position's logits move with every token that is written, the farther away the less."""

    def __init__(self, seed=0, length=24, pull=0.8):
        super().__init__()
        random = torch.Generator().manual_seed(seed)
        self.own = torch.randn(length, VOCAB, generator=random) * 2
        self.words = torch.randn(VOCAB, VOCAB, generator=random)
        distance = (torch.arange(length)[:, None] - torch.arange(length)).abs()
        self.weights = pull / (1 + distance) ** 1.5

    def forward(self, tokens):
        length = tokens.shape[1]
        return self.own[:length] + torch.einsum("ij,bjv->biv", self.weights[:length, :length], self.words[tokens])


def canvas(batch=3, prompt=5, length=24):
    tokens = torch.full((batch, length), MASK)
    tokens[:, :prompt] = torch.randint(0, MASK, (batch, prompt), generator=torch.Generator().manual_seed(7))
    return tokens


def written_anew(model, tokens, *, steps, block, threshold, kl_threshold, history, prompt=5):
    """One row of the authors' rule at temperature 0: tokens and forwards."""
    tokens, length = tokens.clone(), tokens.shape[0]
    blocks = range(prompt, length, block)
    before, recent, made = np.zeros((length, VOCAB)), np.zeros((history, length)), 0
    for start in blocks:
        stop = min(start + block, length)
        masks, each = stop - start, steps // len(blocks)
        for step in range(each):
            own = [i for i in range(start, stop) if tokens[i] == MASK]
            if not own:
                break
            made += 1
            logits = model(tokens[None])[0].double().numpy()
            law = np.exp(logits - logits.max(1, keepdims=True))
            law /= law.sum(1, keepdims=True)
            moved = (law * (np.log(law + 1e-12) - np.log(before + 1e-12))).sum(1)
            recent, before = np.concatenate([recent[1:], moved[None]]), law
            admissible = np.where(np.arange(VOCAB) == MASK, -1.0, law)
            best, sure = admissible.argmax(1), admissible.max(1)
            steady = (recent < kl_threshold).all(0) if step >= history - 1 else np.zeros(length, bool)
            ready = [i for i in own if steady[i] and sure[i] > threshold]
            split = masks // each + (step < masks % each)
            for i in ready or sorted(own, key=lambda i: -sure[i])[:split]:
                tokens[i] = int(best[i])
    return tokens.tolist(), made


@pytest.mark.parametrize("history", [1, 2, 3])
@pytest.mark.parametrize(("threshold", "kl_threshold"), [(0.5, 0.01), (0.3, 0.1), (0.6, 0.5), (0.0, 1e-9)])
def test_what_is_sure_and_steady_is_committed_at_once(threshold, kl_threshold, history):
    fewer = 0
    for seed in range(6):
        model = Drifting(seed)
        preset = KLASS(steps=20, block_length=10, threshold=threshold, kl_threshold=kl_threshold)
        result = preset(Stability(model, history=history), canvas(), mask_id=MASK)
        for row, start in enumerate(canvas()):
            options = {"threshold": threshold, "kl_threshold": kl_threshold, "history": history}
            tokens, made = written_anew(model, start, steps=20, block=10, **options)
            assert result.tokens[row].tolist() == tokens
            assert int(result.nfe[row]) == made
            fewer += made < 20
    assert fewer or kl_threshold < 1e-6


def test_no_threshold_that_is_ever_met_is_llada():
    result = KLASS(steps=10, block_length=10, kl_threshold=1e-9)(Stability(Drifting()), canvas(), mask_id=MASK)
    plain = LLaDA(steps=10, block_length=10)(Drifting(), canvas(), mask_id=MASK)
    assert torch.equal(result.tokens, plain.tokens)
    assert torch.equal(result.nfe, plain.nfe)


def test_any_steadiness_is_a_threshold_of_confidence():
    class Still(Drifting):
        def forward(self, tokens):
            return super().forward(torch.full_like(tokens, MASK))

    result = KLASS(steps=20, threshold=0.7, kl_threshold=1.0)(Stability(Still(), history=1), canvas(), mask_id=MASK)
    # In the first step there is nothing to compare with; then all that is sure goes, and the rest as LLaDA has it.
    first = FastDLLM(threshold=0.7)(Still(), canvas(), mask_id=MASK)
    assert (result.tokens == first.tokens).all()
    assert (result.nfe < 19).all()


def request(tokens, step=0, correction=0, made=0, **options):
    windows = tuple(Window(row, 0, step, 0, tokens.shape[1], made) for row in range(len(tokens)))
    return Request(
        batch=torch.arange(len(tokens)),
        wanted=tokens == MASK,
        time=torch.ones(len(tokens), dtype=torch.float64),
        step=torch.full((len(tokens),), made),
        position_ids=torch.arange(tokens.shape[1]).expand_as(tokens),
        correction=correction,
        mask_id=MASK,
        windows=windows,
        **options,
    )


def test_the_quality_is_the_exponential_of_the_largest_recent_divergence():
    answers = torch.randn(4, 2, 6, VOCAB, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    given, adapter, run = iter(answers.float()), Stability(lambda tokens: next(given), history=2), {}
    tokens, seen = canvas(2, 2, 6), []
    for step in range(4):
        seen.append(adapter(tokens, request(tokens, step, made=step, run=run)).quality)
    laws = answers.softmax(-1)
    moved = (laws[1:] * (laws[1:].log() - laws[:-1].log())).sum(-1)
    assert seen[0].eq(0).all()
    assert seen[1].eq(0).all()  # of two steps one has nothing to compare with
    for step in (2, 3):
        torch.testing.assert_close(seen[step], (-moved[step - 2 : step].amax(0)).exp().float(), rtol=1e-5, atol=1e-7)


def test_logits_that_the_model_writes_over_are_not_compared_with_themselves():
    buffer = torch.zeros(1, 4, VOCAB)

    def model(tokens):
        return buffer.add_(torch.arange(VOCAB) / VOCAB)

    adapter, run, tokens = Stability(model, history=1), {}, canvas(1, 0, 4)
    adapter(tokens, request(tokens, run=run))
    assert (adapter(tokens, request(tokens, 1, run=run)).quality < 0.999).all()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_what_says_nothing_is_never_steady(bad):
    logits = torch.zeros(1, 4, VOCAB)
    logits[0, 1] = bad
    adapter, run, tokens = Stability(lambda _: logits, history=1), {}, canvas(1, 0, 4)
    adapter(tokens, request(tokens, run=run))
    assert adapter(tokens, request(tokens, 1, run=run)).quality[0].tolist() == [1.0, 0.0, 1.0, 1.0]


def test_ids_that_are_impossible_are_no_divergence():
    logits = torch.zeros(1, 4, VOCAB)
    logits[..., 3:9] = -torch.inf
    adapter, run, tokens = Stability(lambda _: logits, history=1), {}, canvas(1, 0, 4)
    adapter(tokens, request(tokens, run=run))
    assert adapter(tokens, request(tokens, 1, run=run)).quality.eq(1).all()


def test_shifted_and_guided_logits_are_compared_as_they_are_read():
    """Logits at l - 1 are those of position l; of both halves of guidance, their mixture counts."""
    model, run, plain = Drifting(), {}, {}
    tokens, other = canvas(2, 3, 8), canvas(2, 3, 8)
    other[:, 4] = 1
    shifted, direct = Stability(RightShifted(model), history=1), Stability(model, history=1)
    for step, each in enumerate((tokens, other)):
        ours = shifted(each, request(each, step, run=run)).quality
        theirs = direct(each, request(each, step, run=plain)).quality
    assert torch.equal(ours[:, 1:], theirs[:, :-1])
    assert ours.gt(0).all()
    guided = Stability(Guided(model, 2.0), history=1)
    result = KLASS(steps=19, threshold=0.4, kl_threshold=0.3)(guided, canvas(), mask_id=MASK)

    def mixed(each):
        hidden = each.clone()
        hidden[:, :5] = MASK
        return model(hidden) + 3 * (model(each) - model(hidden))

    for row, start in enumerate(canvas()):
        tokens, _ = written_anew(mixed, start, steps=19, block=19, threshold=0.4, kl_threshold=0.3, history=1)
        assert result.tokens[row].tolist() == tokens


def test_a_corrector_is_answered_by_the_model():
    adapter, tokens = Stability(Toy(V=VOCAB), history=1), canvas(1, 0, 4)
    asked = request(tokens, correction=1)
    answer = adapter(tokens, asked)
    assert torch.equal(answer.quality, Toy(V=VOCAB)(tokens, asked).quality)
    assert adapter not in asked.run


def test_rows_are_alone_and_columns_that_were_not_there_are_not_steady():
    """A row's answer is that of a batch of one; logits of other columns than before have nothing to compare with."""
    preset = KLASS(steps=19, block_length=10, threshold=0.4, kl_threshold=0.2)
    together = preset(Stability(Drifting()), canvas(), mask_id=MASK)
    for row in range(3):
        alone = preset(Stability(Drifting()), canvas()[row : row + 1], mask_id=MASK)
        assert torch.equal(alone.tokens[0], together.tokens[row])
    starts = iter([0, 1, 1])
    adapter = Stability(lambda tokens: Output(torch.zeros(1, 3, VOCAB), start=next(starts)), history=1)
    run, tokens = {}, canvas(1, 0, 6)
    seen = [adapter(tokens, request(tokens, step, run=run)).quality[0].tolist() for step in range(3)]
    assert seen == [[0.0] * 6, [0.0] * 6, [0.0, 1.0, 1.0, 1.0, 0.0, 0.0]]


def test_a_run_that_goes_on_compares_anew():
    """The step after a state commits as LLaDA's does: nothing is known of the forward before."""

    class Breaks(Drifting):
        calls = 0

        def forward(self, tokens):
            self.calls += 1
            if self.calls == 2:
                raise KeyboardInterrupt
            return super().forward(tokens)

    preset = KLASS(steps=19, threshold=0.0, kl_threshold=5.0)
    broken = preset(Stability(Breaks(), history=1), canvas(), mask_id=MASK)
    assert (broken.tokens == MASK).sum(1).tolist() == [18] * 3
    on = preset(Stability(Drifting(), history=1), state=broken.state, mask_id=MASK, history=True)
    assert [event.committed.sum(1).tolist() for event in on.history] == [[1] * 3, [17] * 3]


def test_parts_refuse_each_other():
    with pytest.raises(TypeError, match="unmask count: expected Steady"):
        SteadyFirst("confidence", Unmask().count)
    with pytest.raises(ValueError, match="kl_threshold: expected a positive number, got 0"):
        KLASS(steps=3, kl_threshold=0)
    with pytest.raises(ValueError, match="history: expected"):
        Stability(Drifting(), history=0)
    with pytest.raises(ValueError, match="quality: KLASS reads"):
        KLASS(steps=3)(Drifting(), canvas(), mask_id=MASK)
    with pytest.raises(ValueError, match="Stability needs the rows' windows"):
        Stability(Drifting())(canvas(), replace(request(canvas()), windows=None))


def test_random_orders_and_temperatures_decide_among_the_others():
    sampler = Sampler(steps=10, unmask=SteadyFirst("random", Steady(0.4, 0.3)))
    result = sampler(Stability(Drifting()), canvas(), mask_id=MASK, seed=1)
    again = sampler(Stability(Drifting()), canvas(), mask_id=MASK, seed=2)
    assert result.complete(MASK).all()
    assert not torch.equal(result.tokens, again.tokens)
