"""Fixed steps: the sampler's tokens, nothing asked of the host, one graph."""

import pytest
import torch
from combinations import MASK, PRESETS, canvas
from counting import Called, counted

from mdmcorrect.model import Output
from mdmcorrect.samplers import MDLM, PRISM, Blocks, FastDLLM, FixedSteps, LLaDA, ProSeCo, Sampler, Unmask

V = 12
LENGTH = 12  # of the canvases here


def model(tokens, request):
    """A deterministic model with quality, of attended tokens by their relative position, on whatever device."""
    attended = torch.ones_like(tokens) if request.attention_mask is None else request.attention_mask.long()
    place = request.position_ids
    context = ((tokens + 7) * (place + 3) * 7919 % 10007 * attended).sum(1, keepdim=True)
    state = context * 31 + place * 1009
    mixed = (state[..., None] * 65537 + torch.arange(V, device=tokens.device) * 40503 + 12345) % 99991
    logits = (mixed * mixed % 99991).float() / 99991 * 6
    return Output(logits=logits, quality=(((state + tokens * 523) * 7907 % 9973).float() + 1) / 9974)


def steps_of(preset):
    """As many steps as a row can make where the sampler cannot say."""
    return 40 if preset.parts().window.until_filled else None


def plain(preset):
    """A preset whose own models run on any device."""
    return preset.parts().review is None


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_equals_the_sampler(preset):
    """On a ragged batch padded on the left, whose rows end at different steps."""
    tokens = canvas(3, LENGTH)
    layout = {
        "attention_mask": torch.arange(LENGTH) >= torch.tensor([0, 1, 4])[:, None],
        "seed": torch.tensor([4, 5, 6]),
    }
    expected = preset(model, tokens, mask_id=MASK, history=False, **layout)
    state = FixedSteps(preset, model, mask_id=MASK, padded=True)(tokens, steps=steps_of(preset), **layout)
    assert torch.equal(state.tokens, expected.tokens)
    assert state.nfe.tolist() == expected.nfe.tolist()
    assert state.step.tolist() == expected.steps.tolist()
    assert state.done.all()


def test_the_end_of_sequence_ends_rows():
    tokens = canvas(3, LENGTH)
    for preset in (LLaDA(steps=6, block_length=4), PRISM(steps=6, remask_count=1)):
        expected = preset(model, tokens, mask_id=MASK, eos_id=5, seed=1)
        assert torch.equal(FixedSteps(preset, model, mask_id=MASK, eos_id=5)(tokens, seed=1).tokens, expected.tokens)


def asked_by(preset):
    """Steps of a run, and what it asked."""
    events = []
    tokens, seed = canvas(2, LENGTH), torch.arange(2)
    preset(model, tokens, mask_id=MASK)  # fills the tables that are made once

    def run():
        preset(model, tokens, mask_id=MASK, seed=seed, history=False, callback=events.append)

    asked = counted(run).waits
    return len(events), asked


def test_the_counters_count():
    x = torch.arange(4)
    for ask in (x.sum().item, x.tolist, x.nonzero, lambda: x[x > 1], lambda: bool(x.any())):
        assert counted(ask).waits, ask


@pytest.mark.parametrize("preset", [p for p in PRESETS.values() if not p.parts().correct], ids=lambda p: p.parts().name)
def test_a_step_asks_one_question(preset):
    """Which rows are live and which need a forward."""
    steps, asked = asked_by(preset)
    assert asked.count("tolist") == steps + 1, "every step, and the one that finds no row left"
    assert len(asked) == steps + 1, asked


def test_a_corrector_asks_one_between_passes():
    steps, asked = asked_by(ProSeCo(steps=5, corrector_steps=3))
    assert steps + 1 < len(asked) <= steps + 1 + 2 * steps, asked


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_fixed_steps_ask_none(preset):
    if plain(preset):
        tokens, seed = canvas(2, LENGTH), torch.arange(2)
        run = FixedSteps(preset, model, mask_id=MASK)
        run(tokens, seed=seed, steps=2)
        assert counted(lambda: run(tokens, seed=seed, steps=2)).waits == []


@pytest.mark.parametrize("preset", [p for p in PRESETS.values() if plain(p)], ids=lambda p: p.parts().name)
def test_fixed_steps_never_leave_the_device(preset):
    """On tensors without values, where a question would raise. Nothing is made from the host's numbers either."""
    run = FixedSteps(preset, model, mask_id=MASK)
    tokens = torch.empty(2, LENGTH, dtype=torch.int64, device="meta")
    with Called("tensor", "as_tensor", "cpu") as called:
        state = run(tokens, seed=torch.empty(2, dtype=torch.int64, device="meta"), steps=2)
    assert state.tokens.device.type == "meta"
    assert called.waits == []


FIXED = {
    "llada": LLaDA(steps=2, block_length=6, temperature=0.7),
    "mdlm": MDLM(steps=2),
    "prism": PRISM(steps=2, remask_count=1),
}


@pytest.mark.slow
@pytest.mark.parametrize("preset", FIXED.values(), ids=FIXED)
def test_a_run_compiles_whole(preset):
    torch.compiler.reset()
    run = FixedSteps(preset, model, mask_id=MASK)
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    for seed in (torch.tensor([3, 4]), torch.tensor([5, 6])):
        tokens = canvas(2, LENGTH)
        assert torch.equal(compiled(tokens, seed=seed).tokens, run(tokens, seed=seed).tokens)


@pytest.mark.slow
def test_a_step_compiles_once():
    """The same graph for every step."""
    torch.compiler.reset()
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    run = FixedSteps(PRISM(steps=5, remask_count=2), model, mask_id=MASK)
    step = torch.compile(run.step, fullgraph=True, backend=backend)
    state = run.start(canvas(2, LENGTH), seed=torch.tensor([3, 4]))
    for _ in range(5):
        state = step(state)
    assert torch.equal(run.step(state, closing=True).tokens, run(canvas(2, LENGTH), seed=torch.tensor([3, 4])).tokens)
    assert len(graphs) == 1


def test_refuses_what_asks_the_host():
    with pytest.raises(ValueError, match="ties: expected 'lowest' with fixed steps, got 'torch'"):
        FixedSteps(LLaDA(steps=2, ties="torch"), model, mask_id=MASK)
    model_of_windows = type("Cached", (), {"reads_windows": True, "__call__": lambda self, tokens: tokens})()
    with pytest.raises(ValueError, match="model: it reads windows"):
        FixedSteps(LLaDA(steps=2), model_of_windows, mask_id=MASK)
    with pytest.raises(ValueError, match="steps: this sampler stays in a block until it is filled"):
        FixedSteps(FastDLLM(threshold=0.9), model, mask_id=MASK)(canvas(2, LENGTH))


def test_most_steps():
    assert Blocks().most_steps(7, 20) == 7
    assert Blocks(6).most_steps(2, 20) == 4  # at least one per block
    assert Blocks(6, steps=3, extra=2).most_steps(99, 20) == 4 * (3 + 2)
    sampler = Sampler(steps=3, unmask=Unmask("random"), finish=False)
    assert not (FixedSteps(sampler, model, mask_id=MASK)(canvas(2, LENGTH)).tokens == MASK).any()


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:`torch.jit.trace`:DeprecationWarning")
def test_a_corrector_traces():
    """TorchScript makes a product with 1 the other factor, here a bool."""
    tokens, table = canvas(2, 12), torch.eye(12) * 5
    fixed_steps = FixedSteps(ProSeCo(steps=4), lambda tokens: table[tokens.cumsum(1) % 11], mask_id=MASK)

    def run(tokens, seed):
        state = fixed_steps(tokens, seed=seed, steps=2)
        return state.tokens, state.nfe

    traced = torch.jit.trace(run, (tokens, torch.arange(2)), check_trace=False)
    for ours, theirs in zip(traced(tokens, torch.arange(2)), run(tokens, torch.arange(2)), strict=True):
        assert torch.equal(ours, theirs)
