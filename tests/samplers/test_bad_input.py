"""What is wrong with an argument or a model is said, or has a documented result; no run goes on for ever."""

from dataclasses import replace

import pytest
import torch
from combinations import MASK, PRESETS, canvas
from toys import Toy

from mdmcorrect.likelihood import log_likelihood
from mdmcorrect.model import Output
from mdmcorrect.samplers import MDLM, PRISM, FixedSteps, LLaDA, ReMDM, State, Unmask
from mdmcorrect.samplers.state import initial_state

each_preset = pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"tokens": canvas().int()}, TypeError, "tokens: expected an int64 tensor .* got torch.int32"),
        ({"tokens": canvas().float()}, TypeError, "tokens: expected an int64 tensor .* got torch.float32"),
        ({"tokens": [[1, 2]]}, TypeError, "tokens: expected an int64 tensor .* got list"),
        ({"tokens": canvas()[0]}, ValueError, r"tokens: expected \[B, L\], got \[16\]; add a batch dimension"),
        ({"tokens": None}, ValueError, "tokens: expected int64 .* or a state"),
        ({"mask_id": -1}, ValueError, "mask_id: expected a token id >= 0, got -1"),
        ({"mask_id": 11.0}, TypeError, "mask_id: expected an int, got float"),
        ({"mask_id": 12, "tokens": torch.full((2, 3), 12)}, ValueError, "mask_id: expected an id within the 12 ids"),
        ({"fixed": torch.zeros(4, 15, dtype=torch.bool)}, ValueError, r"fixed: expected \[4, 16\] like tokens"),
        ({"fixed": torch.zeros(4, 16)}, TypeError, "fixed: expected a bool tensor .* got torch.float32"),
        ({"attention_mask": torch.ones(4)}, TypeError, "attention_mask: expected a bool tensor"),
        ({"attention_mask": torch.ones(4).bool()}, ValueError, r"attention_mask: expected \[4, 16\]"),
        ({"lengths": torch.ones(3).long()}, ValueError, r"lengths: expected int64 \[4\], got torch.int64 \[3\]"),
        ({"lengths": [3, 3, 3, 3]}, ValueError, r"lengths: expected int64 \[4\], got list"),
        (
            {"lengths": torch.ones(4).long(), "attention_mask": torch.ones(4, 16).bool()},
            ValueError,
            "lengths, attention_mask: give one of them",
        ),
        ({"positions": torch.zeros(4, 2).long()}, ValueError, r"positions: expected int64 \[4, 16\]"),
        ({"seed": torch.zeros(3).long()}, ValueError, "seed"),
        ({"history": {"beauty"}}, ValueError, "beauty"),
        ({"eos_id": MASK}, ValueError, "eos_id: expected an id that can be generated, got mask_id 11"),
        ({"eos_id": [3, MASK]}, ValueError, "eos_id: expected an id that can be generated, got mask_id 11"),
    ],
)
def test_arguments_that_do_not_fit(arguments, error, message):
    arguments = {"tokens": canvas(), "mask_id": MASK, **arguments}
    with pytest.raises(error, match=message):
        LLaDA(steps=4)(Toy(), **arguments)


def test_a_state_of_another_canvas_is_refused():
    state = initial_state(canvas(), mask_id=MASK)
    with pytest.raises(ValueError, match=r"state: expected tokens \[4, 9\], got \[4, 16\]"):
        LLaDA(steps=4)(Toy(), canvas()[:, :9], mask_id=MASK, state=state)
    values = state.state_dict()
    values["colour"] = values.pop("quota")
    with pytest.raises(ValueError, match=r"state: missing \['quota'\], unknown \['colour'\]"):
        State.load(values)


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (lambda tokens: torch.zeros(4, 16), ValueError, r"expected logits \[4, 16, V\] .* got \[4, 16\]"),
        (lambda tokens: torch.zeros(4, 15, 12), ValueError, r"expected logits \[4, 16, V\] .* got \[4, 15, 12\]"),
        (lambda tokens: torch.zeros(4, 16, 12).long(), TypeError, "expected floating logits, got torch.int64"),
        (lambda tokens: torch.zeros(4, 16, 0), ValueError, "within the 0 ids"),
        (lambda tokens: None, TypeError, "to return logits, an Output, or an object with .logits, got NoneType"),
        (lambda tokens: {"scores": 1}, TypeError, "an object with .logits, got dict"),
        (
            lambda tokens: Output(torch.zeros(4, 16, 12), quality=torch.zeros(4, 16, 1)),
            ValueError,
            r"expected quality \[4, 16\], got \[4, 16, 1\]",
        ),
        (
            lambda tokens: Output(torch.zeros(4, 16, 12), quality=torch.zeros(4, 16).long()),
            TypeError,
            "expected floating quality, got torch.int64",
        ),
    ],
)
def test_models_that_answer_wrongly(answer, error, message):
    with pytest.raises(error, match=message):
        LLaDA(steps=4)(answer, canvas(), mask_id=MASK)


def test_a_model_that_is_none():
    with pytest.raises(TypeError, match="model: expected a callable tokens -> logits, got Tensor"):
        LLaDA(steps=4)(torch.zeros(3), canvas(), mask_id=MASK)


def test_a_logits_processor_that_answers_wrongly():
    with pytest.raises(ValueError, match="logits_processor: expected logits"):
        LLaDA(steps=4)(Toy(), canvas(), mask_id=MASK, logits_processor=lambda tokens, logits: logits[:, 0])


def test_a_method_that_reads_quality_names_itself_and_the_model():
    with pytest.raises(ValueError, match=r"quality: PRISM reads .* the model Toy gives none; return .*Output"):
        PRISM(steps=4, remask_count=1)(Toy(quality=False), canvas(), mask_id=MASK)
    PRISM(steps=4, remask_count=1, remask="random")(Toy(quality=False), canvas(), mask_id=MASK)


@each_preset
def test_without_masks_nothing_is_asked_of_the_model(preset):
    def never(tokens):
        raise AssertionError("asked")

    tokens = torch.randint(0, 11, (3, 5))
    result = preset(never, tokens, mask_id=MASK, history=True)
    assert torch.equal(result.tokens, tokens)
    assert result.nfe.tolist() == [0, 0, 0]
    assert result.steps.tolist() == [0, 0, 0]
    assert result.history == []
    assert result.stopped == "finished"


@each_preset
@pytest.mark.parametrize("shape", [(0, 7), (3, 0), (0, 0)])
def test_empty_canvases(preset, shape):
    result = preset(Toy(), torch.zeros(shape, dtype=torch.int64), mask_id=MASK)
    assert result.tokens.shape == shape
    assert result.calls == 0


@each_preset
@pytest.mark.parametrize("length", [1, 2])
def test_the_shortest_canvases(preset, length):
    result = preset(Toy(), torch.full((2, length), MASK), mask_id=MASK)
    assert result.complete(MASK).all()


@each_preset
@pytest.mark.parametrize("bad", [torch.nan, torch.inf], ids=["nan", "inf"])
def test_positions_with_nan_logits_stay_masked_and_the_run_ends(preset, bad):
    toy = Toy()

    def partly_nan(tokens, request):
        output = toy(tokens, request)
        output.logits[:, 5] = bad
        output.logits[:, 13, 2] = bad
        return output

    tokens = canvas()
    result = preset(partly_nan, tokens, mask_id=MASK)
    assert result.stopped == "unfilled"
    assert (result.tokens[:, [5, 13]] == MASK).all()
    assert not result.complete(MASK).any()
    rest = torch.ones(16, dtype=torch.bool)
    rest[[5, 13]] = False
    assert (result.tokens[:, rest] != MASK).all()


@each_preset
def test_all_logits_nan(preset):
    def broken(tokens):
        return {"logits": torch.full((*tokens.shape, 12), torch.nan), "quality": torch.ones(tokens.shape)}

    result = preset(broken, canvas(), mask_id=MASK)
    assert torch.equal(result.tokens, canvas())
    assert (result.nfe <= 60).all()


@each_preset
def test_quality_of_nan_is_never_the_lowest(preset):
    toy = Toy()

    def unknown_quality(tokens, request):
        output = toy(tokens, request)
        return Output(output.logits, quality=torch.full_like(output.quality, torch.nan))

    result = preset(unknown_quality, canvas(), mask_id=MASK)
    assert result.complete(MASK).all()


@each_preset
def test_a_model_that_predicts_the_mask_is_overruled(preset):
    def loves_the_mask(tokens):
        logits = torch.zeros(*tokens.shape, 12)
        logits[..., MASK] = 80.0
        logits[..., 3] = 40.0
        return {"logits": logits, "quality": torch.full(tokens.shape, 0.5)}

    result = preset(loves_the_mask, canvas(), mask_id=MASK)
    assert (result.tokens[canvas() == MASK] == 3).all()


def test_a_vocabulary_of_nothing_but_the_mask():
    result = MDLM(steps=5)(lambda tokens: torch.zeros(*tokens.shape, 1), torch.zeros(2, 3).long(), mask_id=0)
    assert (result.tokens == 0).all()
    assert result.nfe.max() <= 6


def test_masks_that_are_fixed_stay():
    fixed = canvas() != MASK
    fixed[:, 7] = True
    result = LLaDA(steps=5)(Toy(), canvas(), mask_id=MASK, fixed=fixed)
    assert (result.tokens[:, 7] == MASK).all()
    assert result.complete(MASK).all()


def test_steps_end_even_if_every_token_keeps_being_masked():
    result = ReMDM(steps=7, rule="rescale", eta=1.0)(Toy(), canvas(), mask_id=MASK)
    assert result.steps.max() <= 8
    assert result.complete(MASK).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_logits_of_other_dtypes(dtype):
    result = LLaDA(steps=4)(Toy(dtype=dtype), canvas(), mask_id=MASK)
    assert result.complete(MASK).all()


def test_logits_with_strides():
    toy = Toy()

    def transposed(tokens, request):
        logits = toy(tokens, request).logits
        return logits.transpose(1, 2).contiguous().transpose(1, 2)

    one = LLaDA(steps=4)(transposed, canvas(), mask_id=MASK)
    assert torch.equal(one.tokens, LLaDA(steps=4)(Toy(), canvas(), mask_id=MASK).tokens)


class Embedding(torch.nn.Module):
    """Fails on ids it does not know, as networks do."""

    def __init__(self):
        super().__init__()
        self.embed, self.out = torch.nn.Embedding(50, 8), torch.nn.Linear(8, 50)

    def forward(self, tokens):
        return self.out(self.embed(tokens))


@pytest.mark.parametrize(("tokens", "mask_id"), [([[1, 99, 99]], 99), ([[70, 49, 49]], 49)])
def test_ids_beyond_the_vocabulary_are_named(tokens, mask_id):
    tokens = torch.tensor(tokens)
    text = "model: failed on token ids from .* to .*; are mask_id and the tokens within its vocabulary"
    with pytest.raises(IndexError, match=text):
        LLaDA(steps=2)(Embedding(), tokens, mask_id=mask_id)
    with pytest.raises(IndexError, match=text):
        FixedSteps(LLaDA(steps=2), Embedding(), mask_id=mask_id)(tokens, seed=torch.tensor([1]))
    with pytest.raises(IndexError, match=text):
        log_likelihood(Embedding(), torch.tensor([[1, 70, 2]]), mask_id=49, samples=2, seed=0)


def test_a_canvas_without_the_mask_is_told(caplog):
    tokens = torch.tensor([[3, 4, 49, 49]])
    result = LLaDA(steps=2)(Embedding(), tokens, mask_id=7)
    assert torch.equal(result.tokens, tokens)
    assert "there was nothing to do: no position holds mask_id 7" in caplog.text
    caplog.clear()
    LLaDA(steps=2)(Embedding(), tokens, mask_id=49)
    assert not caplog.text


def test_a_state_is_of_one_mask_and_one_sampler():
    tokens = torch.tensor([[3] + [49] * 8])
    state = LLaDA(steps=4)(Embedding(), tokens, mask_id=49, callback=lambda event: True).state
    with pytest.raises(
        ValueError, match="state: it was made by another sampler, with mask_id=49 where this one has mask_id=3"
    ):
        LLaDA(steps=4)(Embedding(), mask_id=3, state=state)
    with pytest.raises(ValueError, match=r"with Sampler\(steps=4 where this one has Sampler\(steps=8"):
        LLaDA(steps=8)(Embedding(), mask_id=49, state=state)


def test_a_callback_answers_with_a_bool():
    with pytest.raises(TypeError, match=r"callback: expected it to return a bool, true to stop, got a tensor \[2\]"):
        LLaDA(steps=2)(
            Embedding(), torch.tensor([[3, 49]]), mask_id=49, callback=lambda event: torch.tensor([True, False])
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: {"tokens": state.tokens.int()}, r"state: expected tokens int64 \[4, 16\], got int32 \[4, 16\]"),
        (lambda state: {"fixed": state.fixed.int()}, "state: expected fixed bool"),
        (lambda state: {"fixed": state.fixed[:, :8]}, r"state: expected fixed bool \[4, 16\], got bool \[4, 8\]"),
        (lambda state: {"commit_score": state.commit_score.double()}, "state: expected commit_score float32"),
        (lambda state: {"step": state.step.int()}, r"state: expected step int64 \[4\], got int32"),
        (lambda state: {"done": state.done.long()}, "state: expected done bool"),
        (lambda state: {"seed": None}, "state: expected seed int64 .* got NoneType"),
        (lambda state: {"tokens": state.tokens.to("meta")}, "state: expected fixed on meta as its tokens are, got cpu"),
    ],
    ids=["tokens", "fixed", "fixed-shape", "commit_score", "step", "done", "seed", "device"],
)
def test_a_state_changed_by_hand_is_looked_at(change, message):
    state = LLaDA(steps=3)(Toy(), canvas(), mask_id=MASK).state
    with pytest.raises(ValueError, match=message):
        LLaDA(steps=3)(Toy(), mask_id=MASK, state=replace(state, **change(state)))


def test_one_seed_for_every_row_may_be_an_expanded_one():
    seed = torch.tensor(5).expand(4)
    drawn = LLaDA(steps=3, temperature=1.0)(Toy(), canvas(), mask_id=MASK, seed=seed)
    assert torch.equal(
        drawn.tokens, LLaDA(steps=3, temperature=1.0)(Toy(), canvas(), mask_id=MASK, seed=seed + 0).tokens
    )


def test_a_count_rule_without_its_second_half_is_refused_when_it_is_made():
    class Half:
        def before(self, state, view):
            return view.quota

    with pytest.raises(TypeError, match="unmask count: expected a rule with before and after, got Half"):
        Unmask(count=Half())
