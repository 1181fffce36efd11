"""The loop: presets are their parts, rows are independent, runs resume, forwards are counted."""

import ast
import inspect
import io
import sys

import pytest
import torch
from combinations import COMBINATIONS, MASK, PRESETS, canvas
from toys import Toy

from mdmcorrect import samplers
from mdmcorrect.model import Request
from mdmcorrect.samplers import MDLM, LLaDA, Preset, State

each_preset = pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)


def seeds(batch):
    return torch.arange(batch) * 7919 + 5


def equal_runs(one, other):
    assert torch.equal(one.tokens, other.tokens)
    assert one.nfe.tolist() == other.nfe.tolist()
    assert one.steps.tolist() == other.steps.tolist()


@pytest.mark.parametrize(("preset", "parts"), COMBINATIONS.values(), ids=COMBINATIONS)
def test_a_preset_is_its_parts(preset, parts):
    assert preset.parts() == parts
    equal_runs(preset(Toy(), canvas(), mask_id=MASK, seed=3), parts(Toy(), canvas(), mask_id=MASK, seed=3))


def test_every_preset_is_among_them_and_none_is_more_than_a_combination():
    """Each is a screen of fields and parts: without a loop of its own, of steps or of anything else."""
    public = {getattr(samplers, name) for name in samplers.__all__}
    presets = {kind for kind in public if isinstance(kind, type) and issubclass(kind, Preset) and kind is not Preset}
    assert {type(preset) for preset in PRESETS.values()} == presets
    for preset in presets:
        source = inspect.getsource(preset)
        assert len(source.splitlines()) <= 70
        loops = [node for node in ast.walk(ast.parse(source)) if isinstance(node, (ast.For, ast.While))]
        assert not loops


@each_preset
def test_fills_every_mask_and_nothing_else(preset):
    tokens = canvas()
    result = preset(Toy(), tokens, mask_id=MASK)
    assert result.stopped == "finished"
    assert not (result.tokens == MASK).any()
    assert result.complete(MASK).all()
    given = tokens != MASK
    assert torch.equal(result.tokens[given], tokens[given])
    assert (tokens == canvas()).all()


@pytest.mark.parametrize("preset", [preset for preset in PRESETS.values() if preset.parts().review is None])
def test_counts_the_forwards_of_each_row(preset):
    model = Toy()
    result = preset(model, canvas(), mask_id=MASK, seed=1)
    assert result.nfe.tolist() == model.nfe(4)
    assert result.calls == len(model.rows)
    assert result.token_forwards == 16 * sum(len(rows) for rows in model.rows)
    assert all(rows for rows in model.rows)


@each_preset
def test_a_stopped_run_goes_on_as_if_it_had_not(preset):
    whole = preset(Toy(), canvas(), mask_id=MASK, seed=2, history=True)
    for stop_at in range(len(whole.history)):
        part = preset(
            Toy(),
            canvas(),
            mask_id=MASK,
            seed=2,
            callback=lambda event, last=stop_at: event.index == last,
            history=True,
        )
        assert part.stopped == "callback"
        assert len(part.history) == stop_at + 1
        file = io.BytesIO()
        torch.save(part.state.state_dict(), file)
        file.seek(0)
        state = State.load(torch.load(file))
        rest = preset(Toy(), None, mask_id=MASK, state=state, history=True)
        equal_runs(rest, whole)
        assert rest.calls == whole.calls
        assert rest.token_forwards == whole.token_forwards


@each_preset
def test_an_interrupt_keeps_the_last_whole_step(preset):
    counted = Toy()
    whole = preset(counted, canvas(), mask_id=MASK, seed=2)
    for call in range(1, len(counted.rows) + 1):
        model = Toy()
        model.fail_at = call
        part = preset(model, canvas(), mask_id=MASK, seed=2)
        assert part.stopped == "interrupted"
        assert part.calls < call * (1 if preset.parts().review is None else 2)
        equal_runs(preset(Toy(), None, mask_id=MASK, state=part.state), whole)


def test_other_errors_of_the_model_are_not_swallowed():
    model = Toy()
    model.fail_at, model.error = 2, RuntimeError
    with pytest.raises(RuntimeError):
        LLaDA(steps=4)(model, canvas(), mask_id=MASK)


@each_preset
def test_rows_do_not_see_the_batch(preset):
    tokens = canvas(batch=16)
    together = preset(Toy(), tokens, mask_id=MASK, seed=seeds(16))
    assert len({tuple(row) for row in together.tokens.tolist()}) == 16
    for row in range(16):
        alone = preset(Toy(), tokens[row : row + 1], mask_id=MASK, seed=seeds(16)[row : row + 1])
        assert torch.equal(alone.tokens[0], together.tokens[row])
        assert alone.nfe[0] == together.nfe[row]
        assert alone.steps[0] == together.steps[row]


@each_preset
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(preset, side):
    tokens = canvas()
    plain = preset(Toy(), tokens, mask_id=MASK, seed=seeds(4))
    amounts = [0, 3, 1, 5]
    wide, attention_mask = torch.full((4, 21), 9), torch.zeros(4, 21)
    for row, amount in enumerate(amounts):
        start = amount if side == "left" else 0
        wide[row, start : start + 16] = tokens[row]
        attention_mask[row, start : start + 16] = 1
    padded = preset(Toy(), wide, mask_id=MASK, seed=seeds(4), attention_mask=attention_mask.bool())
    for row, amount in enumerate(amounts):
        start = amount if side == "left" else 0
        assert torch.equal(padded.tokens[row, start : start + 16], plain.tokens[row])
    assert padded.nfe.tolist() == plain.nfe.tolist()
    assert (padded.tokens[~attention_mask.bool()] == 9).all()


@each_preset
def test_ragged_rows_end_on_their_own(preset):
    lengths = torch.tensor([16, 9, 5, 3])
    tokens = canvas()
    result = preset(Toy(), tokens, mask_id=MASK, seed=seeds(4), lengths=lengths)
    for row, length in enumerate(lengths.tolist()):
        alone = preset(Toy(), tokens[row : row + 1, :length], mask_id=MASK, seed=seeds(4)[row : row + 1])
        assert torch.equal(result.tokens[row, :length], alone.tokens[0])
        assert result.nfe[row] == alone.nfe[0]
        assert torch.equal(result.tokens[row, length:], tokens[row, length:])
    assert result.nfe[3] == 0


@each_preset
def test_events_tell_the_whole_story(preset):
    tokens = canvas()
    result = preset(Toy(), tokens, mask_id=MASK, seed=1, history={"quality", "entropy"})
    for event in result.history:
        assert torch.equal(event.before, tokens)
        changed = event.before != event.tokens
        assert not (changed & ~(event.committed | event.remasked | event.corrected)).any()
        assert (event.before[event.committed] == MASK).all()
        assert (event.tokens[event.committed] != MASK).all()
        assert (event.before[event.remasked] != MASK).all()
        assert (event.tokens[event.remasked] == MASK).all()
        assert not event.tokens[~event.live].ne(event.before[~event.live]).any()
        assert event.scores.keys() == {"quality", "entropy"}
        tokens = event.tokens
    assert torch.equal(tokens, result.tokens)
    scored = torch.cat([event.scores["entropy"][event.committed] for event in result.history])
    assert scored.isfinite().all()
    assert torch.equal(result.history[-1].nfe, result.nfe)


def test_what_a_callback_does_to_its_event_stays_there():
    def scribble(event):
        event.tokens.fill_(0)
        event.before.fill_(0)
        event.nfe.fill_(99)

    preset = PRESETS["prism"]
    one = preset(Toy(), canvas(), mask_id=MASK, seed=0, callback=scribble)
    equal_runs(one, preset(Toy(), canvas(), mask_id=MASK, seed=0))


def test_history_is_off_unless_asked_for():
    plain = PRESETS["prism"](Toy(), canvas(), mask_id=MASK, seed=0)
    assert plain.history is None
    for off in (False, None):
        assert PRESETS["prism"](Toy(), canvas(), mask_id=MASK, seed=0, history=off).history is None
    kept = PRESETS["prism"](Toy(), canvas(), mask_id=MASK, seed=0, history=True)
    assert len(kept.history) == 9
    assert torch.equal(kept.tokens, plain.tokens)


def test_current_logprob_is_told_of_committed_tokens():
    preset = PRESETS["prism"]
    result = preset(Toy(), canvas(), mask_id=MASK, seed=0, history={"current_logprob"})
    assert torch.equal(result.tokens, preset(Toy(), canvas(), mask_id=MASK, seed=0).tokens)
    event = result.history[4]
    committed = (event.before != MASK) & (canvas() == MASK)
    logits = Toy()(event.before, _request(event.before)).logits
    logits[..., MASK] = -torch.inf
    logprob = logits.log_softmax(-1).gather(2, event.before[..., None])[..., 0]
    torch.testing.assert_close(event.scores["current_logprob"][committed], logprob[committed])


def _request(tokens):
    place = torch.arange(tokens.shape[1]).expand(tokens.shape)
    return Request(torch.arange(len(tokens)), tokens == MASK, torch.zeros(1), torch.zeros(1), place)


def test_commit_scores_are_probabilities_of_the_tokens_as_committed():
    seen = torch.full((4, 16), torch.nan)

    def follow(event):
        seen[event.committed] = event.scores["confidence"][event.committed]
        seen[event.remasked] = torch.nan

    result = PRESETS["prism"](Toy(), canvas(), mask_id=MASK, callback=follow, history={"confidence"})
    torch.testing.assert_close(result.state.commit_score, seen, equal_nan=True)
    generated = canvas() == MASK
    assert ((seen[generated] > 0) & (seen[generated] <= 1)).all()
    assert seen[~generated].isnan().all()
    assert torch.equal(result.state.commits > 0, generated)


def test_eos_ends_a_row_and_fills_its_rest():
    eos = 5

    def says_eos_at_six(tokens):
        logits = torch.zeros(*tokens.shape, 12)
        logits[..., 2] = 1
        logits[:, 6, eos] = 9
        return logits

    tokens = torch.full((2, 12), MASK)
    tokens[1, 1] = eos  # a given one ends nothing
    result = LLaDA(steps=12, block_length=1)(says_eos_at_six, tokens, mask_id=MASK, eos_id=eos)
    assert result.tokens[0].tolist() == [2] * 6 + [eos] * 6
    assert result.tokens[1].tolist() == [2, eos, 2, 2, 2, 2] + [eos] * 6
    assert result.nfe.tolist() == [7, 6]
    without = LLaDA(steps=12, block_length=1)(says_eos_at_six, tokens, mask_id=MASK)
    assert without.nfe.tolist() == [12, 11]


def test_stop_ends_rows_by_themselves():
    def first_filled(tokens, fixed):
        return tokens[:, 3] != MASK

    result = LLaDA(steps=13, block_length=1)(Toy(), canvas(), mask_id=MASK, stop=first_filled)
    assert result.stopped == "finished"
    assert result.nfe.tolist() == [1] * 4
    assert not result.complete(MASK).any()


def test_a_logits_processor_rules_over_the_model():
    def only_sevens(tokens, logits):
        assert tokens.shape == logits.shape[:2]
        return torch.full_like(logits, -torch.inf).index_fill(2, torch.tensor(7), 0.0)

    result = PRESETS["mdlm"](Toy(), canvas(), mask_id=MASK, logits_processor=only_sevens)
    assert (result.tokens[canvas() == MASK] == 7).all()


def test_a_condition_follows_its_rows():
    labels = torch.tensor([3, 1, 4, 0])

    def conditional(tokens, condition):
        label, scale = condition["label"], condition["scale"]
        assert label.shape == tokens.shape[:1]
        logits = torch.zeros(*tokens.shape, 12)
        return logits.scatter(2, label[:, None, None].expand(*tokens.shape, 1), scale)

    result = MDLM(steps=30)(
        conditional, canvas(), mask_id=MASK, condition={"label": labels, "scale": 50.0}, history=False
    )
    assert result.calls < 4 * result.nfe.max()
    assert (result.nfe < result.calls).any()
    for row, label in enumerate(labels):
        assert (result.tokens[row][canvas()[row] == MASK] == label).all()


def test_seeds_tell_runs_apart():
    run = [PRESETS["mdlm"](Toy(), canvas(), mask_id=MASK, seed=seed).tokens for seed in (0, 0, 1)]
    assert torch.equal(run[0], run[1])
    assert not torch.equal(run[0], run[2])
    generators = [torch.Generator().manual_seed(3) for _ in range(2)]
    drawn = [PRESETS["mdlm"](Toy(), canvas(), mask_id=MASK, seed=generator).tokens for generator in generators]
    assert torch.equal(drawn[0], drawn[1])


def test_progress_draws_with_rich_or_says_what_is_missing(monkeypatch):
    events = []
    result = LLaDA(steps=4)(Toy(), canvas(), mask_id=MASK, progress=True, callback=events.append)
    assert len(events) == 4
    assert result.stopped == "finished"
    monkeypatch.setitem(sys.modules, "rich.progress", None)
    with pytest.raises(ImportError, match="pip install rich"):
        LLaDA(steps=4)(Toy(), canvas(), mask_id=MASK, progress=True)


def test_no_gradients_and_no_graph():
    weight = torch.zeros(12, requires_grad=True)

    def model(tokens):
        assert not torch.is_grad_enabled()
        return weight.expand(*tokens.shape, 12) + 0.0

    MDLM(steps=4)(model, canvas(), mask_id=MASK)
    assert torch.is_grad_enabled()


@each_preset
def test_threads_change_nothing(preset):
    tokens, before = canvas(batch=16), torch.get_num_threads()
    runs = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            runs.append(preset(Toy(V=1500, scale=12.0), tokens, mask_id=MASK, seed=4))
    finally:
        torch.set_num_threads(before)
    equal_runs(*runs)
