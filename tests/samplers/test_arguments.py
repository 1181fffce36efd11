"""Arguments as people give them: each is taken, or answered by one sentence that names it."""

from dataclasses import fields
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from combinations import MASK, PRESETS, canvas, critic
from toys import Toy

from mdmcorrect import ops, rng
from mdmcorrect import samplers as s
from mdmcorrect.adapters import ConditionGuided, Guided, Steered
from mdmcorrect.canvas import Canvas
from mdmcorrect.likelihood import log_likelihood
from mdmcorrect.samplers import MDLM, FixedSteps, LLaDA
from mdmcorrect.schedules import LogLinear, sample_times

NAN = float("nan")
INF = float("inf")


def one_sentence(call, name):
    """The call raises TypeError or ValueError, in one line that begins with the argument's name or names."""
    with pytest.raises((TypeError, ValueError)) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text
    head = text.split(":")[0]
    assert name in head.replace(",", " ").replace("[", " ").split(), text
    assert "expected" in text or "give one" in text, text
    assert len(text) < 300


def llada(**given):
    return LLaDA(steps=4)(Toy(), **{"tokens": canvas(), "mask_id": MASK, **given})


CALLS = [
    *[("mask_id", value) for value in (-1, True, np.bool_(True), 3.0, np.float64(3), None, "11", [11], 10**20)],
    *[("mask_id", torch.tensor(value)) for value in ([11, 11], [], 11.0, -1, True)],
    *[("eos_id", value) for value in (-1, 2.0, True, "2", [2, -1], [2, "3"], "</s>", 12, [3, 99], {"eos": 2})],
    *[("stop", value) for value in (["\n"], "\n", 5, torch.tensor([5]))],
    *[("stop", value) for value in (lambda t, f: True, lambda t, f: torch.zeros(4, 16) > 0, lambda t, f: [False] * 4)],
    *[("history", value) for value in ("quality", "beauty", {"beauty"}, ["token", 3], 1, {"quality": True})],
    *[("history", value) for value in (["noised_logprob"], b"quality", 1.5)],
    *[("callback", value) for value in ("print", [print], 3)],
    *[("logits_processor", value) for value in ([], "top_k", 3)],
    ("tokens_processor", "x"),
    *[("on_interrupt", value) for value in ("stop", None, True)],
    *[("tokens", value) for value in (canvas().int(), canvas().numpy(), canvas().tolist(), "text", canvas()[0])],
    *[("tokens", value) for value in ({"input_ids": canvas()}, canvas() - 100, canvas().float(), None, canvas() > 3)],
    *[("fixed", value) for value in (canvas().float(), (canvas() > 3).tolist(), (canvas() > 3).numpy(), True)],
    *[("lengths", value) for value in ([4] * 4, 4, torch.ones(4), torch.tensor([-1] * 4), torch.tensor([17] * 4))],
    *[("attention_mask", value) for value in (np.ones((4, 16)), torch.ones(4, 16), torch.ones(16).long())],
    *[("positions", value) for value in (list(range(16)), np.arange(16), torch.arange(16), torch.zeros(4, 16))],
    *[("origin", value) for value in (-1, 1.0, True, "1", torch.tensor([1.0] * 4), torch.tensor([1]))],
    *[("seed", value) for value in (True, 1.5, "0", [1, 2, 3, 4], np.arange(4), torch.zeros(4), torch.zeros(3).long())],
    *[("state", value) for value in ({}, "run.pt", 3)],
]


@pytest.mark.parametrize(
    ("name", "value"), CALLS, ids=lambda value: getattr(value, "__name__", str(value))[:30].replace("\n", " ")
)
def test_of_a_samplers_call(name, value):
    one_sentence(lambda: llada(**{name: value}), name)


SETTINGS = {
    "steps": [0, -1, 2.0, True, None, "4", [4], NAN],
    "temperature": [-1, NAN, INF, "hot", [0.5, 1.0], True, None, torch.tensor([1.0, 2.0]), 1j],
    "top_k": [0, -1, 1.5, True, "5", [5]],
    "top_p": [0, 2, -0.1, NAN, "0.9", True, [0.9]],
    "top_p_rule": ["hf", None, True],
    "suppress": ["<pad>", [-1], [1.5], ["a"], True, 2.5, {"a": 1}],
    "eps": [-0.1, 1, NAN, "1e-3", None],
    "block_length": [0, -4, 2.5, True, "32"],
    "threshold": [-0.1, 1.5, NAN, "0.9", True],
    "editing_threshold": [-0.1, 1.5, NAN, None],
    "remask_threshold": [-0.1, 1.5, NAN, None],
    "accept": [-1, 1.5, NAN, None],
    "doubt": [-1, 1.5, NAN, "x"],
    "factor": [-1, NAN, INF, "x"],
    "gamma": [-1, NAN, INF, None],
    "eta": [-1, NAN, INF, "x", True],
    "scale": [-1, NAN, INF, None],
    "power": [-1, NAN, None],
    "noise": [-1, NAN, "gumbel"],
    "choice_temperature": [-1, NAN, "x"],
    "position_temperature": [-1, NAN, None],
    "order_temperature": [-1, NAN, None],
    "remask_temperature": [-1, NAN, None],
    "alg_temp": [-1, NAN, "x"],
    "remask_count": [-1, 1.5, True, "2"],
    "corrector_steps": [-1, 1.5, None],
    "correct_every": [0, -1, 1.5, None],
    "correct_start": [-1, 1.5, None],
    "corrector_top_k": [-1, 1.5, "x"],
    "count": [-1, 1.5, None],
    "rounds": [-1, 1.5, None],
    "candidates": [0, 1.5, None],
    "revise": [0, 99, 1.5, None],
    "step_on": [-1, 1.5, None],
    "step_off": [-1, 1.5],
    "loop_steps": [-1, 1.5, None],
    "at_least": [-1, 1.5, None],
    "post_steps": [-1, 1.5, None],
    "per_position": [-1, 1.5, None],
    "ratio": [-1, 1.5, None],
    "alpha_on": ["x", NAN],
    "t_on": ["x", NAN],
    "t_off": ["x", NAN],
    "eos_id": [-1, 1.5, [2, 3], "x"],
    "kappa": ["square", (), 0.5, (0.5, NAN), None],
    "schedule": ["square", (), 0.5, (0.5, "x"), None],
    "confidence_forbid": ["x", [-1], 1.5],
    "finish": [None, 1, "no"],
    "batch_mean": [None, 1],
    "carry_over": [None, 1],
    "ties": ["random", None],
    "alg": ["p2", None],
    "remasking": ["highest", None],
    "by": ["beauty", None],
    "rule": ["loop", None],
    "score": ["quality", None],
    "revisit": ["both", None],
    "corrector": ["beam", None],
    "unmask": ["best", None],
    "remask": ["qualty", 3],
    "kl_threshold": [0, -1, NAN, INF, "x", None],
    "cost_weight": [-1, NAN, "x", None],
    "cost": ["entropy", None],
    "refine_steps": [-1, 8, 1.5, None],
    "first_share": [-0.1, 1.5, NAN, None],
    "last_share": [-0.1, 1.5, NAN, None],
    "vocab": [1, 2.5, None],
    "stable": [-1, 1.5, None],
    "sure": ["x", NAN, None],
    "high": [0, -1, NAN, None],
    "low": [0, -1, NAN, None],
    "numbers": ["x", (1, 2), ((0.4, -1),), ((0.4, 1, 2),)],
}
NEEDED = {
    "TokenCritic": {"critic": critic},
    "PRISM": {"remask_count": 1},
    "ReMDM": {"eta": 0.1},
    "Tolerator": {"refine_steps": 4},
    "EntropyCanvas": {"vocab": 12},
}
KINDS = {type(preset) for preset in PRESETS.values()}


def preset_cases():
    for kind in sorted(KINDS, key=lambda kind: kind.__name__):
        settings = {setting.name: setting for setting in fields(kind)}
        needed = NEEDED.get(kind.__name__, {})
        steps = {} if settings["steps"].default is None else {"steps": 8}
        for name, values in SETTINGS.items():
            for value in values if name in settings else ():
                if value is None and settings[name].default is None:
                    continue  # None is what it is by default
                others = {} if (kind.__name__, name) == ("PRISM", "eta") else needed
                yield pytest.param(kind, {**steps, **others, name: value}, name, id=f"{kind.__name__}-{name}-{value}")


@pytest.mark.parametrize(("kind", "settings", "name"), list(preset_cases()))
def test_of_a_preset(kind, settings, name):
    one_sentence(lambda: kind(**settings), name)


def test_every_number_of_every_preset_is_in_that_table():
    told = set(SETTINGS)
    for kind in KINDS:
        assert {setting.name for setting in fields(kind)} <= told | {"critic", "planner", "loop_start", "loop_count"}, (
            kind
        )


@pytest.mark.parametrize(
    ("make", "name"),
    [
        *[(lambda v=v: s.Scoring(temperature=v), "temperature") for v in (-1, NAN, "x", True, [1])],
        *[(lambda v=v: s.Scoring(top_k=v), "top_k") for v in (0, 1.5)],
        *[(lambda v=v: s.Scoring(top_p=v), "top_p") for v in (0, 1.5, NAN)],
        *[(lambda v=v: s.Scoring(top_p_rule=v), "top_p_rule") for v in ("x", None)],
        *[(lambda v=v: s.Scoring(filter_order=v), "filter_order") for v in ("x", None)],
        (lambda: s.Scoring(noise="loud"), "noise"),
        (lambda: s.Scoring(law="murphy"), "law"),
        (lambda: s.Scoring(mask_token="hide"), "mask_token"),
        (lambda: s.Scoring(confidence_dtype="bf16"), "confidence_dtype"),
        (lambda: s.Scoring(confidence_dtype=torch.int64), "confidence_dtype"),
        *[(lambda v=v: s.Scoring(forbid=v), "forbid") for v in ("eos", [-1], 1.5)],
        (lambda: s.Unmask("best"), "order"),
        (lambda: s.Unmask(temperature=NAN), "temperature"),
        (lambda: s.Unmask(ties="random"), "ties"),
        (lambda: s.Unmask(count=3), "count"),
        (lambda: s.Unmask(spend_on_masks=1), "spend_on_masks"),
        (lambda: s.BeforeEnd(eos_id=[1, 2]), "eos_id"),
        (lambda: s.AboveMean(eos_id="x"), "eos_id"),
        (lambda: s.TimeGrid(eps=1), "eps"),
        (lambda: s.RoundedGrid(steps=0), "steps"),
        *[(lambda v=v: s.Threshold(v), "threshold") for v in (NAN, INF, "x", None, [0.5])],
        *[(lambda v=v: s.Threshold(0.5, at_least=v), "at_least") for v in (-1, 1.5, True)],
        *[(lambda v=v: s.Factor(v), "factor") for v in (-1, NAN)],
        *[(lambda v=v: s.EntropyBound(v), "gamma") for v in (-1, NAN)],
        *[(lambda v=v: s.Constant(v), "count") for v in (-1, 1.5, True)],
        *[(lambda v=v: s.Centred(v), "total") for v in (-1, 1.5)],
        *[(lambda v=v: s.Binomial(v), "eta") for v in (-1, 2, NAN)],
        (lambda: s.Remask("beauty"), "by"),
        (lambda: s.Remask(count=2), "count"),
        (lambda: s.Remask(start=-1), "start"),
        (lambda: s.Remask(stop=1.5), "stop"),
        *[(lambda v=v: s.Blocks(v), "length") for v in (0, 1.5, True, "x")],
        *[(lambda v=v: s.Blocks(steps=v), "steps") for v in (0, 1.5)],
        *[(lambda v=v: s.Blocks(extra=v), "extra") for v in (-1, 1.5)],
        (lambda: s.Blocks(until_filled=3), "until_filled"),
        (lambda: s.Blocks(4, until_filled=True, steps=2), "steps"),
        (lambda: s.Blocks(by="column"), "by"),
        (lambda: s.Review(Toy(), scoring=s.Scoring(mask_token="forbid")), "scoring"),
        (lambda: s.Ancestral(eps=1), "eps"),
        (lambda: s.Ancestral(sigma=0.5), "sigma"),
        (lambda: s.Ancestral(alpha=0.5), "alpha"),
        *[(lambda v=v, k=k: k(v), "eta") for v in (-1, 2, NAN, "x") for k in (s.Cap, s.Rescale, s.Confidence)],
        (lambda: s.Detour(scale=-1), "scale"),
        (lambda: s.Detour(power=NAN), "power"),
        (lambda: s.During(s.Cap(0.1), "x", 0.1), "t_on"),
        (lambda: s.Plateau(0.5, 0.1, NAN), "alpha_on"),
        (lambda: s.Kappa("square"), "kappa"),
        (lambda: s.Noise(-1.0), "scale"),
        (lambda: s.Noise((0.1, NAN)), "scale"),
        (lambda: s.Noise(1.0, "pink"), "kind"),
        (lambda: s.Pool(eta=NAN), "eta"),
        (lambda: s.Pool(cut="loose"), "cut"),
        (lambda: s.FixedOrder(by="beauty"), "by"),
        (lambda: s.FixedPoint(passes=1.5), "passes"),
        (lambda: s.FixedPoint(update="beam"), "update"),
        (lambda: s.HideAndAsk(candidates=0), "candidates"),
        (lambda: s.Informed(temperature=NAN), "temperature"),
        (lambda: s.Resample(count=1.5), "count"),
        (lambda: s.Overwrite(NAN), "threshold"),
        (lambda: s.RemaskDoubtful(ratio=2), "ratio"),
        (lambda: s.Edit(edit=0.5), "edit"),
        (lambda: s.DraftAndVerify(doubt="x"), "doubt"),
        (lambda: s.UnmaskThenRemask(unmask="random"), "unmask"),
        (lambda: s.UnmaskThenRemask(refill="always"), "refill"),
        (lambda: s.Sampler(steps=1.5), "steps"),
        (lambda: s.Sampler(steps=2, scoring=0.5), "scoring"),
        (lambda: s.Sampler(steps=2, window=32), "window"),
        (lambda: s.Sampler(steps=2, finish=1), "finish"),
        (lambda: FixedSteps("llada", Toy(), mask_id=MASK), "sampler"),
        (lambda: FixedSteps(LLaDA(steps=2), Toy(), mask_id=-1), "mask_id"),
        (lambda: FixedSteps(LLaDA(steps=2), Toy(), mask_id=MASK)(canvas(), steps=1.5), "steps"),
        *[(lambda v=v: Guided(Toy(), v), "scale") for v in (NAN, INF, "1.5", True, [1.0], None)],
        *[(lambda v=v: Guided(Toy(), 1.0, refresh=v), "refresh") for v in (0, 1.5, True)],
        (lambda: Guided(Toy(), 1.0, keep="<s>"), "keep"),
        (lambda: Steered(Toy(), Toy(), NAN), "scale"),
        (lambda: ConditionGuided(Toy(), "2", torch.zeros(())), "gamma"),
        (lambda: ConditionGuided(Toy(), 2.0, 0), "null"),
        (lambda: LogLinear(eps=NAN), "eps"),
        (lambda: sample_times(2.5), "batch"),
        (lambda: sample_times(2, t_min=NAN), "t_min"),
        (lambda: sample_times(2, dtype=torch.int64), "dtype"),
        (lambda: log_likelihood(Toy(), canvas(), mask_id=1.5), "mask_id"),
        (lambda: log_likelihood(Toy(), canvas(), mask_id=MASK, samples=1.5), "samples"),
        (lambda: log_likelihood(Toy(), canvas(), mask_id=MASK, batch_size=True), "batch_size"),
        (lambda: log_likelihood(Toy(), canvas(), mask_id=MASK, by="hand"), "by"),
        *[(lambda v=v: ops.select_positions(torch.zeros(1, 2), 1, temperature=v), "temperature") for v in (True, "x")],
        (lambda: ops.select_positions(torch.zeros(1, 2), True), "k"),
        (lambda: ops.select_positions(torch.zeros(1, 2), 1, largest="yes"), "largest"),
        (lambda: ops.count_positions(torch.zeros(1, 2), "threshold", NAN), "bound"),
        (lambda: ops.score_tokens(torch.zeros(1, 2, 3), suppress="ab"), "suppress"),
        (lambda: ops.score_tokens(torch.zeros(1, 2, 3), suppress=1.5), "suppress"),
        (lambda: rng.sequence_seeds(True, 2), "seed"),
    ],
)
def test_of_parts_schedules_and_operators(make, name):
    one_sentence(make, name)


PROMPTS = [[1, 2, 3], [4]]


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"prompts": "one two"}, "prompts"),
        ({"prompts": ["one", "two"]}, "prompts"),
        ({"prompts": [["one", "two"]]}, "prompts"),
        ({"prompts": [1, 2, 3]}, "prompts"),
        ({"prompts": 5}, "prompts"),
        ({"prompts": {"text": ["a"]}}, "prompts"),
        ({"prompts": [None]}, "prompts"),
        ({"prompts": [[1, None]]}, "prompts"),
        ({"prompts": [[1, 2**63]]}, "prompts"),
        ({"prompts": [np.array([0.5])]}, "prompts"),
        ({"new_tokens": 2.5}, "new_tokens"),
        ({"new_tokens": True}, "new_tokens"),
        ({"new_tokens": "4"}, "new_tokens"),
        ({"new_tokens": [1, 2.5]}, "new_tokens"),
        ({"length": 8.0}, "length"),
        ({"length": "8"}, "length"),
        ({"mask_id": None}, "mask_id"),
        ({"mask_id": 11.0}, "mask_id"),
        ({"mask_id": [11]}, "mask_id"),
        ({"pad_id": -1}, "pad_id"),
        ({"pad_id": [0]}, "pad_id"),
        ({"pad_id": "<pad>"}, "pad_id"),
        ({"padding": True}, "padding"),
        ({"num_return_sequences": 0}, "num_return_sequences"),
        ({"num_return_sequences": 1.5}, "num_return_sequences"),
    ],
)
def test_of_a_canvas(given, name):
    given = {"prompts": PROMPTS, "new_tokens": 2, "mask_id": MASK, "pad_id": 0, **given}
    with pytest.raises((TypeError, ValueError), match=f"^{name}"):
        Canvas.from_prompts(**given)


def test_a_canvas_takes_what_tokenizers_hand_over():
    expected = Canvas.from_prompts(PROMPTS, new_tokens=2, mask_id=MASK, pad_id=0)
    padded = torch.tensor([[1, 2, 3], [0, 0, 4]])
    real = torch.tensor([[1, 1, 1], [0, 0, 1]])
    for prompts in (
        {"input_ids": PROMPTS},
        {"input_ids": PROMPTS, "attention_mask": [[1, 1, 1], [1]]},
        {"input_ids": padded, "attention_mask": real},
        {"input_ids": padded.numpy(), "attention_mask": real.numpy()},
        {"input_ids": padded.tolist(), "attention_mask": real.tolist(), "token_type_ids": real.tolist()},
        tuple(tuple(row) for row in PROMPTS),
        [torch.tensor(row, dtype=torch.int32) for row in PROMPTS],
        [np.array(row, dtype=np.uint16) for row in PROMPTS],
        [[np.int64(each) for each in row] for row in PROMPTS],
        np.array([np.array(row) for row in PROMPTS], dtype=object),
    ):
        got = Canvas.from_prompts(
            prompts, new_tokens=np.int64(2), mask_id=np.int32(MASK), pad_id=torch.tensor(0), num_return_sequences=1
        )
        assert torch.equal(got.tokens, expected.tokens)
        assert torch.equal(got.attention_mask, expected.attention_mask)
    several = Canvas.from_prompts(PROMPTS, new_tokens=np.array([2, 4]), mask_id=MASK, pad_id=0)
    assert several.lengths.tolist() == [5, 5]


def test_a_tokenizers_batch_encoding():
    encoding = pytest.importorskip("transformers").BatchEncoding({"input_ids": PROMPTS})
    canvas = Canvas.from_prompts(encoding, new_tokens=1, mask_id=MASK, pad_id=0)
    assert canvas.lengths.tolist() == [4, 2]


@pytest.mark.parametrize(
    "kind",
    [np.int64, np.int32, np.uint8, torch.tensor, np.array, lambda x: np.int64(x)],
    ids=lambda kind: kind.__name__,  # not its address, by which processes of one run would disagree
)
def test_whole_numbers_of_numpy_and_torch_are_taken(kind):
    """As configurations and tokenizers give them."""
    plain = LLaDA(steps=4, block_length=4)(Toy(), canvas(), mask_id=MASK, eos_id=5)
    preset = LLaDA(steps=kind(4), block_length=kind(4))
    assert preset == LLaDA(steps=4, block_length=4)
    assert isinstance(preset.steps, int)
    taken = preset(Toy(), canvas(), mask_id=kind(MASK), eos_id=kind(5))
    assert torch.equal(taken.tokens, plain.tokens)


def test_numbers_of_numpy_and_torch_are_taken():
    plain = MDLM(steps=4, temperature=0.5, top_p=0.75, top_k=3)
    for kind in (np.float32, np.float64, torch.tensor):
        assert MDLM(steps=4, temperature=kind(0.5), top_p=kind(0.75), top_k=np.int64(3)) == plain
    assert MDLM(steps=4, suppress=[3, 4]) == MDLM(steps=4, suppress=torch.tensor([3, 4]))
    assert MDLM(steps=4, suppress=3) == MDLM(steps=4, suppress=np.array([3])) == MDLM(steps=4, suppress=(3,))
    assert MDLM(steps=4, suppress=None) == MDLM(steps=4)


def says_ends(tokens):
    """5 at column 6, 6 at column 9, else 2."""
    logits = torch.zeros(*tokens.shape, 12)
    logits[..., 2] = 1
    logits[:, 6, 5] = logits[:, 9, 6] = 9
    return logits


@pytest.mark.parametrize("kind", [list, tuple, torch.tensor, np.array], ids=lambda kind: kind.__name__)
def test_configurations_have_several_ends(kind):
    config = SimpleNamespace(eos_token_id=[6, 5])
    tokens = torch.full((1, 12), MASK)
    run = LLaDA(steps=12, block_length=1)
    result = run(says_ends, tokens, mask_id=MASK, eos_id=kind(config.eos_token_id))
    assert result.tokens[0].tolist() == [2] * 6 + [5] + [6] * 5  # the end it was stays; the first named fills
    assert result.nfe.tolist() == [7]
    alone = run(says_ends, tokens, mask_id=MASK, eos_id=6)
    assert alone.tokens[0].tolist() == [2] * 6 + [5, 2, 2] + [6] * 3
    assert torch.equal(run(says_ends, tokens, mask_id=MASK, eos_id=[6]).tokens, alone.tokens)
    assert torch.equal(
        run(says_ends, tokens, mask_id=MASK, eos_id=[]).tokens, run(says_ends, tokens, mask_id=MASK).tokens
    )
    canvas = Canvas.infill([[MASK] * 12], mask_id=MASK)
    assert [row.tolist() for row in canvas.sequences(result.tokens, eos_id=[6, 5])] == [[2] * 6]
    assert [len(row) for row in canvas.sequences(result.tokens, eos_id=6)] == [7]


@pytest.mark.parametrize("mask_id", [12, 99, np.int64(12), torch.tensor(99)])
def test_a_mask_beyond_the_vocabulary(mask_id):
    tokens = torch.full((2, 6), int(mask_id))
    one_sentence(lambda: LLaDA(steps=2)(Toy(), tokens, mask_id=mask_id), "mask_id")
    one_sentence(lambda: FixedSteps(LLaDA(steps=2), Toy(), mask_id=mask_id)(tokens), "mask_id")


def test_ids_beyond_the_vocabulary_are_told_by_their_own_names():
    for name in ("suppress", "confidence_forbid"):
        with pytest.raises(ValueError, match=f"^{name}: expected an id within the 12 ids of the logits, got 12"):
            LLaDA(steps=2, **{name: (3, 12)})(Toy(), canvas(), mask_id=MASK)
    for eos_id in (12, [3, 12]):
        with pytest.raises(ValueError, match="eos_id: expected an id within the 12 ids"):
            LLaDA(steps=2)(Toy(), canvas(), mask_id=MASK, eos_id=eos_id)


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_masks_left_by_nan_are_told_once(preset, caplog):
    toy = Toy()

    def broken(tokens, request):
        output = toy(tokens, request)
        output.logits[request.batch == 2, 5] = torch.nan
        return output

    result = preset(broken, canvas(), mask_id=MASK)
    assert result.stopped == "unfilled"
    told = [record for record in caplog.records if "masks are left in rows [2]" in record.message]
    assert len(told) == 1
    assert result.complete(MASK).tolist() == [True, True, False, True]
    caplog.clear()
    assert preset(Toy(), canvas(), mask_id=MASK).stopped == "finished"
    assert caplog.records == []


def test_masks_that_are_left_on_purpose_are_no_fault(caplog):
    left = s.Sampler(steps=2, unmask=s.Unmask("confidence", s.Threshold(2.0)), finish=False)
    result = left(Toy(), canvas(), mask_id=MASK)
    assert result.stopped == "finished"
    assert not result.complete(MASK).all()

    def at_once(tokens, fixed):
        return torch.ones(len(tokens), dtype=torch.bool)

    assert LLaDA(steps=4)(Toy(), canvas(), mask_id=MASK, stop=at_once).stopped == "finished"
    assert caplog.records == []


RESUMED = {
    "tokens": canvas(),
    "fixed": canvas() != MASK,
    "attention_mask": torch.ones(4, 16),
    "lengths": torch.full((4,), 16),
    "positions": torch.arange(16).expand(4, 16),
    "origin": 3,
    "seed": 7,
}


def test_with_a_state_what_is_given_must_agree():
    preset = LLaDA(steps=6)
    whole = preset(Toy(), canvas(), mask_id=MASK, seed=7)
    part = preset(Toy(), canvas(), mask_id=MASK, seed=7, callback=lambda event: event.index == 1).state
    same = {**RESUMED, "attention_mask": torch.ones(4, 16).bool()}
    del same["lengths"]
    assert torch.equal(preset(Toy(), mask_id=MASK, state=part, **same).tokens, whole.tokens)
    other = {
        "tokens": canvas().roll(1, 0),
        "fixed": canvas() == 3,
        "attention_mask": torch.arange(16).expand(4, 16) > 2,
        "lengths": torch.tensor([16, 16, 16, 15]),
        "positions": torch.arange(16).expand(4, 16) + 1,
        "origin": 4,
        "seed": 8,
    }
    for name, value in other.items():
        with pytest.raises(ValueError, match=f"^{name}: it differs from what the state holds"):
            preset(Toy(), mask_id=MASK, state=part, **{name: value})
    with pytest.raises(ValueError, match="seed: the state holds the run's seeds"):
        preset(Toy(), mask_id=MASK, state=part, seed=torch.Generator())
