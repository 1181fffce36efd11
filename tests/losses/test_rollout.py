"""States that a sampler makes: how far it runs, what is judged, what the minimiser is."""

from __future__ import annotations

import pytest
import torch
from prism_enumeration import LENGTH, MASK, TOKENS, averaged_quality, code, make_world
from rollout_enumeration import STEPS, compare, rollout_minimiser
from test_prism_proposition import Table, Tabular, distance
from torch import Tensor, nn

from mdmcorrect import losses, samplers
from mdmcorrect.heads import QualityHead, attach
from mdmcorrect.losses import Correct, Objective, Reader, Right, Roles, Rollout, Term

V, MASKED = 7, 6
SAMPLER = samplers.Sampler(
    steps=STEPS,
    unmask=samplers.Unmask("random", samplers.CeilTarget()),
    scoring=samplers.Scoring(temperature=1.0),
)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.norm, self.out = nn.Embedding(V, 8), nn.LayerNorm(8), nn.Linear(8, V)
        self.rows: list[int] = []

    def forward(self, tokens: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        self.rows.append(len(tokens))
        x = self.embed(tokens)
        return self.out(self.norm(x + x.mean(1, keepdim=True)))


def clean(rows: int = 6, length: int = 12) -> Tensor:
    return torch.randint(0, MASKED, (rows, length), generator=torch.Generator().manual_seed(1))


def inputs(source: Rollout, **options):
    """The source's inputs of fully masked rows, and the state they come from."""
    objective = Objective([Term(source, Correct(weight="uniform"))])
    roles = options.pop("roles", Roles())
    state = objective.draw(clean(), mask_id=MASKED, roles=roles, t=torch.ones(6))
    model = options.pop("model", Net())
    (found,) = objective.inputs(None, state, model=model, generator=torch.Generator().manual_seed(0))
    return found, state


PRESETS = {
    "parts": samplers.Sampler(steps=4, unmask=samplers.Unmask("random", samplers.CeilTarget())),
    "PRISM": samplers.PRISM(steps=4, unmask="random", remask=None),
    "LLaDA": samplers.LLaDA(steps=4, block_length=6),
    "MDLM": samplers.MDLM(steps=4),
}


@pytest.mark.parametrize("name", ["parts", "PRISM", "LLaDA"])
def test_a_row_makes_as_many_steps_as_it_is_told(name):
    for stop in (1, 2, 3):
        found, state = inputs(Rollout(PRESETS[name], stop=stop))
        assert (found.tokens == MASKED).sum(1).tolist() == [12 - 3 * stop] * 6
        assert torch.equal(found.selected, state.masked & (found.tokens != MASKED))
        assert found.t.tolist() == pytest.approx([1 - stop / 4] * 6)


@pytest.mark.parametrize("name", PRESETS)
def test_rows_stop_apart_and_leave_the_batch(name):
    steps = torch.tensor([1, 2, 2, 3, 4, 4])
    net = Net()
    found, _ = inputs(Rollout(PRESETS[name], stop=lambda rows, most, generator: steps), model=net)
    if name != "MDLM":
        assert (found.tokens == MASKED).sum(1).tolist() == [9, 6, 6, 3, 0, 0]
        assert net.rows == [6, 5, 3, 2]
    ended, _ = inputs(Rollout(PRESETS[name], stop="end"))
    assert not (ended.tokens == MASKED).any()


def test_random_steps_are_uniform_and_come_from_the_generator():
    source = Rollout(PRESETS["parts"])
    last = source._last_steps(8000, torch.Generator().manual_seed(0))
    counts = torch.bincount(last, minlength=5)
    assert counts[0] == 0
    assert (counts[1:] - 2000).abs().max() < 5 * (2000 * 3 / 4) ** 0.5
    objective, model = Objective([Term(source, Correct(weight="uniform"))]), Net()
    state = objective.draw(clean(), mask_id=MASKED, roles=Roles(), t=torch.ones(6))

    def drawn(seed: int) -> Tensor:
        (found,) = objective.inputs(None, state, model=model, generator=torch.Generator().manual_seed(seed))
        return found.tokens

    before = torch.random.get_rng_state()
    assert torch.equal(drawn(0), drawn(0))
    assert not torch.equal(drawn(0), drawn(1))
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("fill", ["argmax", "sample"])
def test_masks_that_are_left_are_filled(fill):
    found, state = inputs(Rollout(PRESETS["parts"], stop=2, fill=fill))
    assert not (found.tokens == MASKED).any()
    assert torch.equal(found.selected, state.masked)
    if fill == "argmax":
        open_, _ = inputs(Rollout(PRESETS["parts"], stop=2))
        logits = Net()(open_.tokens).index_fill(-1, torch.tensor([MASKED]), -torch.inf)
        assert torch.equal(found.tokens, torch.where(open_.tokens == MASKED, logits.argmax(-1), open_.tokens))


def test_some_of_what_was_written_is_judged():
    whole, _ = inputs(Rollout(PRESETS["parts"], stop=2))
    found, _ = inputs(Rollout(PRESETS["parts"], stop=2, k=4))
    assert torch.equal(found.tokens, whole.tokens)
    assert (found.selected <= whole.selected).all()
    assert found.selected.sum(1).tolist() == [4] * 6


def test_fixed_padding_and_a_condition():
    fixed, padding = torch.zeros(6, 12, dtype=torch.bool), torch.ones(6, 12)
    fixed[:, :2], padding[:, 10:] = True, 0
    roles = Roles(fixed=fixed, attention_mask=padding)
    found, state = inputs(Rollout(PRESETS["parts"], stop=4), roles=roles)
    assert torch.equal(found.tokens[:, :2], state.x0[:, :2])
    assert torch.equal(found.tokens[:, 10:], state.x0[:, 10:])
    assert found.selected[:, 2:10].all()
    assert not found.selected[:, [0, 1, 10, 11]].any()


class Hidden(Net):
    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        return self.norm(x + x.mean(1, keepdim=True))


def test_a_model_that_returns_hidden_states_is_sampled_all_the_same():
    states, whole = [], []
    for model, reader in ((Hidden(), True), (Net(), False)):
        objective = Objective(
            [Term(Rollout(PRESETS["parts"], stop=3), Correct(weight="uniform"))],
            reader=Reader(output_layer=model.out if reader else None),
        )
        generator = torch.Generator().manual_seed(0)
        result = objective(model, clean(), mask_id=MASKED, generator=generator)
        result.loss.backward()
        states.append(result.loss.detach())
        whole.append(model.out.weight.grad)
    torch.testing.assert_close(*states)
    torch.testing.assert_close(*whole)


def test_a_head_judges_what_its_own_sampler_wrote():
    """PRISM's sampler asks the head that is trained; both terms share the rollout and its forward."""
    model = attach(Net(), QualityHead(8), module="norm")
    sampler = samplers.PRISM(steps=4, unmask="confidence", remask_count=1)
    source = Rollout(sampler)
    objective = Objective([Term(source, Right()), Term(source, Correct(weight="uniform"), 0.5)])
    result = objective(model, clean(), mask_id=MASKED, generator=torch.Generator().manual_seed(0))
    result.loss.backward()
    assert result.loss.item() == pytest.approx(result.parts["quality"].item() + 0.5 * result.parts["corrector"].item())
    assert model.quality_head.out.weight.grad.abs().sum() > 0
    assert model.model.out.weight.grad.abs().sum() > 0


REFUSED = {
    "sampler: expected a sampler of mdmcorrect.samplers, got int": {"sampler": 3},
    "stop: expected one of|stop: expected 'random' or 'end'": {"stop": "half"},
    "sampler: expected a sampler of mdmcorrect.samplers, got the class PRISM": {"sampler": samplers.PRISM},
    "stop: expected at least one step": {"stop": 0},
    "k: expected at least one token": {"k": 0},
    "fill: expected 'argmax' or 'sample'": {"fill": "none"},
    'stop: expected "end", a number of steps': {"sampler": samplers.LLaDA2(block_length=4)},
}


@pytest.mark.parametrize("message", REFUSED)
def test_errors_name_the_argument(message):
    arguments = {"sampler": PRESETS["parts"], **REFUSED[message]}
    with pytest.raises((ValueError, TypeError), match=message):
        Rollout(**arguments)


@pytest.mark.parametrize("last", [3, torch.ones(6), torch.ones(7, dtype=torch.int64)], ids=["int", "float", "rows"])
def test_a_function_says_one_whole_step_for_each_row(last):
    with pytest.raises((TypeError, ValueError), match=r"stop: expected .*int64.* of the function"):
        inputs(Rollout(PRESETS["parts"], stop=lambda rows, steps, generator: last))


# ---- the minimiser, by enumeration and by the drawn loss ----


def drawn(world, rows, batches):
    """The minimiser of Right on rollouts with their own draws, from its gradient at two constant tables."""
    model, heads = Tabular(world), [Table(0.0), Table(2.0)]
    data = torch.Generator().manual_seed(0)
    for batch in range(batches):
        x0 = world.states[torch.multinomial(world.data, rows, replacement=True, generator=data)]
        for head in heads:
            objective = Objective(
                [Term(Rollout(SAMPLER), Right())],
                losses.Corruption(t_min=0.0),
                Reader(head=head, train_backbone=False),
            )
            generator = torch.Generator().manual_seed(batch)
            result = objective(model, x0, mask_id=MASK, generator=generator, check=False)
            (result.loss * result.parts["chosen"]).backward()
    low, high = (head.logit.grad for head in heads)
    levels = [torch.sigmoid(head.logit.detach()[0, 0]) for head in heads]
    count = (high - low) / (levels[1] - levels[0])
    return levels[0] - low / count, count


@pytest.mark.parametrize("model", ["exact", "wrong"])
def test_the_drawn_loss_has_the_mean_over_z_as_its_minimiser(model):
    world = make_world(model=model)
    found, count = drawn(world, rows=150_000, batches=3)
    expected, visits = rollout_minimiser(world)
    error, deviation = distance(found, expected, count)
    assert error < 0.02
    assert deviation < 5
    seen = visits > 1e-12
    assert (count[~seen].abs() < 0.5).all()  # no cell is judged that the enumeration says is not
    torch.testing.assert_close((count / count.sum())[seen], (visits / visits.sum())[seen], atol=2e-3, rtol=0)
    assert distance(found, averaged_quality(world, 1), count)[0] > 0.05


def test_a_head_of_rollouts_is_calibrated_on_them_and_prisms_is_not():
    world = make_world(model="wrong")
    label, visits = rollout_minimiser(world)
    own, prisms = (compare(g, label, visits) for g in (label, averaged_quality(world, 1)))
    assert own["calibration"] < 1e-12
    assert prisms["calibration"] > 0.1
    assert own["brier"] < prisms["brier"]
    assert own["auroc"] > prisms["auroc"]
    # The other way round: of whether a token is likely beside the others, rollouts say less than PRISM.
    quality = averaged_quality(world, 1)
    seen = visits > 1e-12
    assert (label - quality)[seen].abs().mean() > 0.05
    assert int(code(torch.full((LENGTH,), TOKENS - 1))) < len(label)
