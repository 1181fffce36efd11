"""One way to say a thing: a preset's call, its filters, what is off, whose a state is, what an event's scores are."""

import inspect
import subprocess
import sys
import warnings
from dataclasses import MISSING, fields, replace
from pathlib import Path

import pytest
import torch
from combinations import COMBINATIONS, MASK, PRESETS, canvas, planner
from toys import Toy

import mdmcorrect
from mdmcorrect import ops
from mdmcorrect import samplers as s
from mdmcorrect.samplers import (
    GIDD,
    MDLM,
    P2,
    PRISM,
    WINO,
    CoRe,
    Dream,
    EntropyBounded,
    FastDLLM,
    FirstHitting,
    FixedPoint,
    InformedCorrector,
    LLaDA,
    LLaDA21,
    Preset,
    ProSeCo,
    Sampler,
    Scoring,
    State,
)

each_preset = pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
KINDS = sorted({type(preset) for preset in PRESETS.values()}, key=lambda kind: kind.__name__)
each_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)


def test_presets_and_samplers_take_the_same_named_options():
    for kind in (*KINDS, Sampler, Preset):
        signature = inspect.signature(kind.__call__)
        assert not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in signature.parameters.values())
        assert {"seed", "eos_id", "history", "on_interrupt", "state"} <= set(signature.parameters)
    with pytest.raises(TypeError, match="histroy"):
        LLaDA(steps=2)(Toy(), canvas(), mask_id=MASK, histroy=True)
    assert not any(
        p.kind is inspect.Parameter.VAR_KEYWORD for p in inspect.signature(s.FixedSteps.__call__).parameters.values()
    )


@each_preset
def test_temperature_and_filters_are_those_of_every_preset(preset):
    given = {"temperature": 0.3, "top_k": 4, "top_p": 0.7, "suppress": (7, 9), "top_p_rule": "inclusive"}
    scoring = replace(preset, **given).parts().scoring
    assert {name: getattr(scoring, name) for name in given} == given


@each_preset
def test_suppressed_ids_are_never_written(preset):
    """All but three ids: whatever a method draws, keeps, edits or fills with."""
    suppressed = tuple(range(3, MASK))
    result = replace(preset, suppress=suppressed)(Toy(), canvas(), mask_id=MASK, seed=1)
    assert result.complete(MASK).all()
    assert (result.tokens[canvas() == MASK] < 3).all()


@each_preset
def test_a_top_k_of_one_is_greedy(preset):
    """Where temperature draws the token, not where."""
    preset = replace(preset, top_k=1, temperature=5.0)
    rows = []

    def watching(tokens, logits):
        return logits

    result = preset(Toy(), canvas(), mask_id=MASK, seed=1, history={"token", "argmax"}, logits_processor=watching)
    for event in result.history:
        token, argmax = event.scores["token"], event.scores["argmax"]
        anywhere = isinstance(preset, s.EntropyCanvas)  # its canvas holds no masks
        scored = (token >= 0) & ((event.before == MASK) | anywhere)
        rows.append(scored.any())
        assert torch.equal(token[scored], argmax[scored])
    assert any(rows)


def test_one_default_of_top_p_rule():
    assert inspect.signature(ops.score_tokens).parameters["top_p_rule"].default == "inclusive"
    assert inspect.signature(ops.score_hidden).parameters["top_p_rule"].default == "inclusive"
    assert Scoring().top_p_rule == "inclusive"
    exclusive = {kind.__name__ for kind in KINDS if kind.__dataclass_fields__["top_p_rule"].default != "inclusive"}
    assert exclusive == {  # what their authors' code does
        *("MDLM", "ReMDM", "ForwardBackward", "DFM", "FirstHitting", "InformedCorrector"),
        *("PRISM", "ProSeCo", "NAVIRA"),
    }


@each_kind
def test_steps_have_no_default_that_means_nothing(kind):
    """They have none, or are None, "as many as it takes", but where the authors name a number."""
    default = kind.__dataclass_fields__["steps"].default
    assert default is MISSING or default is None or kind.__name__ in ("EntropyCanvas", "GIDD", "LLaDA2", "MDiff4STR")


@pytest.mark.parametrize(
    "kind", [FirstHitting, EntropyBounded, WINO, LLaDA21, lambda **steps: FastDLLM(threshold=0.9, **steps)]
)
def test_steps_of_samplers_that_take_as_many_as_they_need(kind):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain = kind()
    with pytest.deprecated_call(match="steps"):
        given = kind(steps=5)
    assert given.parts() == plain.parts()


def test_fast_dllm_without_a_threshold_needs_steps():
    with pytest.raises(ValueError, match="steps: expected an int of at least 1, or a threshold or a factor"):
        FastDLLM()
    with pytest.raises(ValueError, match="steps: expected an int"):
        MDLM(steps=None)


@each_kind
def test_off_is_none(kind):
    """No setting is off by False, an empty string or a number; numbers whose 0 is a number say 0."""
    numbers = {"temperature", "remask_temperature", "order_temperature", "loop_steps", "loop_count", "step_on"}
    for setting in fields(kind):
        if setting.default is not MISSING and not setting.default:
            falsy = setting.default is None or setting.name in numbers | {"correct_start"}
            assert falsy or setting.default == () or setting.type == "bool", setting.name


def test_what_off_was_once_is_taken():
    assert ProSeCo(steps=4, corrector_top_k=0).parts() == ProSeCo(steps=4).parts()
    assert FixedPoint(top_k=0) == FixedPoint()
    assert Dream(steps=4, alg="entropy", alg_temp=0.0).parts() == Dream(steps=4, alg="entropy").parts()
    assert s.BlockPRISM(steps=4, remask_count=0).parts() == s.BlockPRISM(steps=4).parts()


def test_parts_of_the_package_come_when_asked_for():
    for name in ("samplers", "ops", "losses", "canvas", "compat", "rng", "reference"):
        assert getattr(mdmcorrect, name).__name__ == f"mdmcorrect.{name}"
        assert name in dir(mdmcorrect)
    with pytest.raises(AttributeError, match="no attribute 'sampler'"):
        _ = mdmcorrect.sampler


def test_parts_without_torch_are_one_sentence():
    code = (
        f"import sys; sys.path = [{str(Path(mdmcorrect.__file__).parents[1])!r}, *sys.path]\n"
        "import mdmcorrect\n"
        "try:\n    mdmcorrect.samplers\nexcept ImportError as error:\n    print(error)\n"
    )
    run = subprocess.run([sys.executable, "-S", "-E", "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.startswith("mdmcorrect needs torch 2.10 or newer, and none is installed here")
    assert run.stdout.count("\n") == 1


@pytest.mark.parametrize(("preset", "parts"), COMBINATIONS.values(), ids=COMBINATIONS)
def test_a_state_refuses_another_sampler(preset, parts):
    state = preset(Toy(), canvas(), mask_id=MASK, seed=1, callback=lambda event: True).state
    saved = State.load(state.state_dict())
    parts(Toy(), mask_id=MASK, state=saved)  # the same sampler by another name
    other = PRISM(steps=3, remask_count=2)
    with pytest.raises(ValueError, match=r"state: it was made by another sampler, with .* where this one has .*"):
        other(Toy(), mask_id=MASK, state=saved)
    changed = replace(preset, temperature=preset.temperature + 0.125)
    with pytest.raises(ValueError, match="state: it was made by another sampler"):
        changed(Toy(), mask_id=MASK, state=saved)


def test_a_state_saved_before_samplers_had_names_is_anyones():
    values = LLaDA(steps=4)(Toy(), canvas(), mask_id=MASK, callback=lambda event: True).state.state_dict()
    del values["sampler"]
    state = State.load(values)
    assert state.sampler == ""
    assert MDLM(steps=4)(Toy(), mask_id=MASK, state=state).complete(MASK).all()


def test_a_samplers_name_does_not_hold_addresses():
    """Another process must find the same words."""
    state = P2(steps=3, planner=planner)(Toy(), canvas(), mask_id=MASK, callback=lambda event: True).state
    assert "0x" not in state.sampler
    assert "planner" in state.sampler


def scores_of(tokens, model, name):
    request = type("R", (), {"batch": torch.arange(4), "attention_mask": None})()
    request.position_ids = torch.arange(tokens.shape[1]).expand(tokens.shape)
    logits = model(tokens, request).logits
    return getattr(ops.score_tokens(logits, suppress=[MASK], want=[name]), name)


@each_preset
def test_an_event_says_which_canvas_its_scores_describe(preset):
    if preset.parts().scoring.law != "raw" or preset.parts().scoring.mask_token != "suppress":
        preset = replace(preset, temperature=0.0)
    result = preset(Toy(), canvas(), mask_id=MASK, seed=1, history={"max_logprob"})
    # What a temperature of the step has divided is not the model's own.
    forbidding = preset.parts().scoring.mask_token != "suppress" or isinstance(preset, s.EntropyCanvas)
    for event in result.history:
        assert event.rescored.shape == (4,)
        if preset.parts().correct is None:
            assert not event.rescored.any()
        if forbidding:
            continue
        told = event.scores["max_logprob"]
        scored = told.isfinite() & ~event.rescored[:, None]
        torch.testing.assert_close(told[scored], scores_of(event.before, Toy(), "max_logprob")[scored])


def test_correctors_say_whether_scores_are_theirs():
    for preset, theirs in (
        (ProSeCo(steps=6, corrector_steps=2), True),
        (InformedCorrector(steps=6, count=2), True),
        (GIDD(steps=6), False),
        (CoRe(steps=6, correct_every=2), False),
    ):
        result = preset(Toy(), canvas(), mask_id=MASK, seed=1, history=True)
        assert any(event.rescored.any() for event in result.history) is theirs
