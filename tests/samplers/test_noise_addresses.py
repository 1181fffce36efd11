"""No random number is read twice for two decisions: every draw of a run has an address of its own.

An address is (purpose, call, seed, step, position). Equal noise in two places makes draws depend on one another where a
law says they do not, and the law of one place alone cannot see it.
"""

from collections import Counter

import pytest
import torch
from combinations import MASK, PRESETS, canvas
from toys import Toy

from mdmcorrect import ops, rng
from mdmcorrect.samplers import Informed, Resample, Sampler, Scoring, State
from mdmcorrect.samplers import engine as engine_module


class Addresses:
    """Notes every draw that a run by parts makes."""

    def __init__(self, monkeypatch):
        self.read = Counter()
        monkeypatch.setattr(engine_module, "plan_of", lambda engine: None)
        select, score = ops.select_positions, Scoring.__call__
        for name in ("uniform", "gumbel"):
            monkeypatch.setattr(State, name, self.noting(getattr(State, name)))

        def noted_select(scores, k, *, eligible=None, temperature=0.0, positions=None, **options):
            if temperature > 0:
                where = torch.ones_like(scores, dtype=torch.bool) if eligible is None else eligible
                self.note(rng.Purpose.POSITION, options["call"], options["seed"], options["step"], positions, where)
            return select(scores, k, eligible=eligible, temperature=temperature, positions=positions, **options)

        def noted_score(scoring, logits, *, rows, positions, seed, step, call, **options):
            if scoring.temperature > 0:
                self.note(rng.Purpose.TOKEN, call, seed, step, positions, rows)
            return score(scoring, logits, rows=rows, positions=positions, seed=seed, step=step, call=call, **options)

        monkeypatch.setattr(ops, "select_positions", noted_select)
        monkeypatch.setattr(Scoring, "__call__", noted_score)

    def noting(self, drawn):
        def noted(state, purpose, call=0, **options):
            live = ~state.done[:, None].expand_as(state.tokens)  # a row that is done decides nothing
            self.note(purpose, call, state.seed, state.step, state.positions, live)
            return drawn(state, purpose, call, **options)

        return noted

    def note(self, purpose, call, seed, step, positions, where):
        length = where.shape[1]
        positions = positions.expand(len(seed), length)
        steps = torch.as_tensor(step).expand(len(seed))
        for row in range(len(seed)):
            for position in positions[row][where[row]].tolist():
                self.read[purpose, int(call), int(seed[row]), int(steps[row]), position] += 1

    def twice(self):
        return {address for address, times in self.read.items() if times > 1}


@pytest.mark.parametrize("name", PRESETS)
def test_of_every_preset(name, monkeypatch):
    addresses = Addresses(monkeypatch)
    PRESETS[name](Toy(), canvas(), mask_id=MASK, seed=torch.tensor([5, 6, 7, 8]))
    assert addresses.twice() == set()


def test_of_a_corrector_that_draws_in_every_round(monkeypatch):
    addresses = Addresses(monkeypatch)
    sampler = Sampler(steps=6, correct=Informed(3, rounds=3), scoring=Scoring(temperature=1.0))
    sampler(Toy(), canvas(), mask_id=MASK, seed=torch.tensor([5, 6, 7, 8]))
    assert addresses.twice() == set()
    drawn = {(purpose, call) for purpose, call, *_ in addresses.read}
    assert {
        (rng.Purpose.POSITION, 1),
        (rng.Purpose.POSITION, 3),
        (rng.Purpose.TOKEN, 0),
        (rng.Purpose.TOKEN, 3),
    } <= drawn
    # What a round chooses is new in every step.
    steps = {step for purpose, call, _, step, _ in addresses.read if purpose == rng.Purpose.POSITION}
    assert len(steps) == 5


def test_numbers_that_are_read_twice_are_noticed(monkeypatch):
    class Again(Resample):
        def __call__(self, state, view, rows, scores, rescore):
            rescore(state.tokens, rows, view.reach, 0)
            return super().__call__(state, view, rows, scores, rescore)

    addresses = Addresses(monkeypatch)
    Sampler(steps=4, correct=Again(2), scoring=Scoring(temperature=1.0))(Toy(), canvas(), mask_id=MASK, seed=1)
    assert addresses.twice()
