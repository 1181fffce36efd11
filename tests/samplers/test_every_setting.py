"""Every field of every preset and part, and every argument of a sampler's call, has a case in which it alone decides.

The tables are data: a base, and for each field what is changed, ``With(both, changed)`` where it needs company. A field
without a case fails, and so does one whose case changes nothing that a run does.
"""

import inspect
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace

import pytest
import torch
from combinations import MASK, canvas, critic, planner
from toys import Toy

from mdmcorrect import samplers as s
from mdmcorrect.samplers import Sampler, Scoring

DRAWN = Scoring(temperature=1.0)


@dataclass(frozen=True)
class With:
    """``both``: what the base has besides; ``changed``: the field's other value; ``given``: of the call."""

    both: dict
    changed: object
    given: dict | None = None


class Reader(Toy):
    """A model that reads all it may be given, and notes it; its scale says how sure it is."""

    def __init__(self, **options):
        super().__init__(**options)
        self.read = []

    def __call__(self, tokens, request):
        self.read.append((tokens.tolist(), request.time.tolist(), request.correction, request.batch.tolist()))
        output = super().__call__(tokens, request)
        shift = (request.time * 7).sin()[:, None, None] + (0 if request.condition is None else request.condition)
        turn = torch.arange(self.V) * shift + request.correction
        return replace(output, logits=output.logits + turn.sin().to(output.logits.dtype) / 2)


def outcome(sampler, **given):
    """Everything that a run does, as far as a caller or a model can see."""
    model, dtype = given.pop("model", None), given.pop("dtype", torch.float32)
    model = Reader(dtype=dtype, scale=given.pop("scale", 6.0)) if model is None else model
    options = {"tokens": canvas(), "mask_id": MASK, "seed": 3, "history": True, **given}
    run = sampler(model, **options)
    events = [(event.committed.tolist(), event.remasked.tolist(), event.tokens.tolist()) for event in run.history]
    return run.tokens.tolist(), run.nfe.tolist(), run.stopped, events, getattr(model, "read", None)


def decides(build, base, name, case, **given):
    """The field alone makes another run; of the same values it is the same."""
    case = case if isinstance(case, With) else With({}, case)
    both, options = {**base, **case.both}, {**given, **(case.given or {})}
    one, again, other = build(**both), build(**both), build(**{**both, name: case.changed})
    first = outcome(one, **options)
    assert first == outcome(again, **options)
    assert first != outcome(other, **options), f"{name}={case.changed!r} changes nothing"


# ---- presets ----


def frequent(preset):
    """The id that a preset writes most often."""
    tokens = torch.tensor(outcome(preset)[0])
    return (int(tokens[canvas() == MASK].mode().values),)


def of_every_preset(base):
    """Cases of the fields that all presets have."""
    drawn = {"temperature": 1.0}
    return {
        "temperature": 0.0 if base.temperature else 1.0,
        "top_k": With(drawn, 2),
        "top_p": With(drawn, 0.4),
        "top_p_rule": With({**drawn, "top_p": 0.4}, "inclusive" if base.top_p_rule == "exclusive" else "exclusive"),
        "suppress": frequent(base),
    }


EPS = {"eps": 0.2}
TIES = {"ties": With({"temperature": 0.0}, "torch", {"scale": 0.0})}
# Settings of one's own; `steps` is 5 where there is one to choose.
PRESET_CASES = {
    "MDLM": (s.MDLM(steps=9), EPS),
    "ReMDM": (
        s.ReMDM(steps=9, eta=0.3),
        {
            **EPS,
            "rule": "rescale",
            "eta": 0.05,
            "t_on": With({"t_on": 0.9, "t_off": 0.1}, 0.5),
            "t_off": With({"t_on": 0.9, "t_off": 0.1}, 0.6),
            "alpha_on": With({"t_on": 0.55, "t_off": 0.05}, 0.9),
        },
    ),
    "ForwardBackward": (s.ForwardBackward(steps=9), EPS),
    "DFM": (s.DFM(steps=9), {**EPS, "scale": 1.0, "power": 2.0}),
    "FirstHitting": (s.FirstHitting(), {}),
    "InformedCorrector": (
        s.InformedCorrector(steps=9),
        {**EPS, "count": 3, "by": "margin", "position_temperature": 0.0, "rounds": 2, "correct_every": 2},
    ),
    "P2": (
        s.P2(steps=6),
        {
            "eta": With({}, 3.0),
            "kappa": "sine",
            "score": "random",
            "planner": planner,
            "revisit": "draft",
        },
    ),
    "P2Plus": (s.P2Plus(steps=6), {"steps": 4}),
    "MaskGIT": (s.MaskGIT(steps=6), {"choice_temperature": 0.0, "schedule": "linear"}),
    "TokenCritic": (
        s.TokenCritic(steps=6, critic=critic),
        {"critic": lambda tokens: critic(tokens, _Positions(tokens)) * -1 + 1, "noise": 0.0, "schedule": "linear"},
    ),
    "LearnedOrder": (s.LearnedOrder(steps=6), {}),
    "GIDD": (s.GIDD(steps=7, temperature=1.0), {"count": 3}),
    "ProSeCo": (
        s.ProSeCo(steps=8),
        {
            **EPS,
            "corrector_steps": 3,
            "correct_every": 3,
            "correct_start": 4,
            "carry_over": False,
            "corrector": "sample",
            "corrector_top_k": With({"corrector": "top_k", "corrector_top_k": 1, "corrector_steps": 3}, 4),
        },
    ),
    "LLaDA": (
        s.LLaDA(steps=6),
        {"block_length": 5, "remasking": "random", "confidence_forbid": (1, 2, 3, 4, 5), **TIES},
    ),
    "FastDLLM": (
        s.FastDLLM(block_length=None, threshold=0.3),
        {
            "block_length": 5,
            "threshold": 0.2,
            "factor": With({"threshold": None, "factor": 1.5}, 0.5),
            "remasking": "random",
            **TIES,
            "steps": With({"threshold": None, "steps": 4}, 6),
        },
    ),
    "EntropyBounded": (s.EntropyBounded(gamma=0.7), {"gamma": 3.0, "block_length": 5}),
    "Dream": (
        s.Dream(steps=7, alg="entropy"),
        {
            "alg": "topk_margin",
            "alg_temp": 0.4,
            "eps": 0.3,
            "batch_mean": With({}, True, {"lengths": torch.tensor([16, 12, 9, 7])}),
            **TIES,
        },
    ),
    "LLaDA2": (s.LLaDA2(steps=3, block_length=8, threshold=0.3), {"block_length": 5, "threshold": 0.1, **TIES}),
    "LLaDA21": (
        s.LLaDA21(block_length=8, threshold=0.3, editing_threshold=0.2, post_steps=4),
        {
            "block_length": 5,
            "threshold": 0.15,
            "editing_threshold": 0.35,
            "at_least": With({"threshold": 0.9}, 3),
            "post_steps": 0,
            "remask": "low_prob",
            "remask_threshold": With({"remask": "low_prob"}, 0.3),
            "per_position": With({"remask": "low_prob", "remask_threshold": 0.3}, 0),
            "ratio": With({"remask": "low_prob", "remask_threshold": 0.3}, 0.9),
            **TIES,
        },
    ),
    "KLASS": (
        s.KLASS(steps=15, threshold=0.2, kl_threshold=0.7),
        {"steps": 5, "block_length": 5, "threshold": 0.5, "kl_threshold": 0.1},
    ),
    "WINO": (s.WINO(block_length=15, accept=0.2, doubt=0.4), {"block_length": 5, "accept": 0.3, "doubt": 0.8}),
    "RemeDi": (s.RemeDi(steps=9), {"block_length": 5, "by": "probability"}),
    "CoRe": (
        s.CoRe(steps=9, correct_every=2, candidates=3, revise=1),
        {"block_length": 5, "candidates": 2, "revise": 3, "correct_every": 4},
    ),
    "HistoryRemasking": (
        s.HistoryRemasking(steps=9, numbers=((0.3, 0), (1.0, 2))),
        {"numbers": ((0.6, 0), (1.0, 2)), "order_temperature": 2.0},
    ),
    "NAVIRA": (s.NAVIRA(steps=7), {"remask_count": 3, "remask_temperature": 0.0, "unmask": "confidence"}),
    "MDiff4STR": (s.MDiff4STR(steps=4), {"eos_id": 2}),
    "InfoGain": (
        s.InfoGain(steps=6, candidates=4),
        {
            "block_length": 5,
            "candidates": 2,
            "position_temperature": 2.0,
            "cost_weight": 0.0,
            "cost": "mean",
        },
    ),
    "Tolerator": (
        s.Tolerator(steps=9, refine_steps=4),
        {"refine_steps": 2, "first_share": 0.5, "last_share": 0.1},
    ),
    "EntropyCanvas": (
        s.EntropyCanvas(vocab=12, steps=9, gamma=2.0, sure=0.9),
        {
            "vocab": 9,
            "gamma": 0.5,
            "stable": With({"sure": 3.0}, 0),
            "sure": With({"stable": 0}, 3.0),
            "high": 2.0,
            "low": 0.1,
            "top_p_rule": With({"top_p": 0.4, "high": 2.0, "low": 1.5}, "exclusive"),
        },
    ),
    "PRISM": (
        s.PRISM(steps=9, remask_count=2),
        {
            "unmask": "confidence",
            "remask": "confidence",
            "remask_count": 1,
            "eta": With({"remask_count": None, "eta": 0.1}, 0.9),
            "step_on": 6,
            "step_off": 4,
            "loop_start": With({"loop_start": 4, "loop_steps": 2, "loop_count": 2}, 6),
            "loop_steps": With({"loop_start": 4, "loop_count": 2}, 2),
            "loop_count": With({"loop_start": 4, "loop_steps": 2, "loop_count": 2}, 3),
        },
    ),
    "BlockPRISM": (
        s.BlockPRISM(steps=8, remask_count=5),
        {
            "block_length": 7,
            "remask_count": 2,
            "unmask": "random",
            "remask": "confidence",
            "finish": With({"block_length": 7, "steps": 6, "remask_count": 9}, False),
            **TIES,
        },
    ),
    "BlockProSeCo": (
        s.BlockProSeCo(steps=9),
        {
            "block_length": 5,
            "corrector_steps": 1,
            "correct_every": 3,
            "threshold": With({"steps": None, "threshold": 0.3}, 0.1),
            "remasking": "random",
            **TIES,
        },
    ),
}


class _Positions:
    """A request of nothing but positions."""

    attention_mask = None

    def __init__(self, tokens):
        self.position_ids = torch.arange(tokens.shape[1]).expand_as(tokens)


PRESETS_BY_NAME = {
    name: kind
    for name, kind in vars(s).items()
    if name in s.__all__ and isinstance(kind, type) and issubclass(kind, s.Preset) and kind is not s.Preset
}


EVERY_FIELD = [(name, setting.name) for name, kind in PRESETS_BY_NAME.items() for setting in fields(kind)]


@pytest.mark.parametrize(("name", "field"), EVERY_FIELD)
def test_of_a_preset(name, field):
    base, own = PRESET_CASES[name]
    settings = {setting.name: getattr(base, setting.name) for setting in fields(base)}
    if field == "steps" and "steps" not in own:
        if base.steps is None:
            with pytest.warns(DeprecationWarning, match="says nothing"):
                replace(base, steps=4)
            return
        own = {**own, "steps": base.steps - 1}
    cases = {**of_every_preset(base), **own}
    decides(type(base), settings, field, cases[field])


def test_no_preset_has_a_case_of_a_field_it_lost():
    assert PRESET_CASES.keys() == PRESETS_BY_NAME.keys()
    for name, (_, own) in PRESET_CASES.items():
        assert own.keys() <= {setting.name for setting in fields(PRESETS_BY_NAME[name])}


# ---- parts ----


def ranked(**options):
    return lambda part: Sampler(steps=6, unmask=part, **options)


def counted(order="confidence", **options):
    return lambda part: Sampler(
        steps=6, unmask=s.Unmask(order, part), **{"window": s.Blocks(until_filled=True), **options}
    )


def planned(**options):
    return lambda part: Sampler(**{"steps": 9, "plan": part, "scoring": DRAWN, **options})


def again(part):
    return Sampler(steps=9, unmask=s.Unmask("random", s.CeilTarget()), remask=s.Remask("quality", part), scoring=DRAWN)


def noised(part):
    return planned()(s.Pool(s.Kappa(advance=True), committed="stays", noise=part))


def edited(part):
    window = s.Blocks(until_filled=True, extra=8)
    return Sampler(steps=1, plan=s.Edit(s.Unmask(count=s.Threshold(0.3)), edit=part, post_steps=8), window=window)


def corrected(part):
    return Sampler(steps=9, plan=s.Ancestral(), correct=part, scoring=DRAWN)


def reviewed(part):
    pool = s.Pool(masked="review", committed="review")
    return Sampler(steps=6, plan=pool, review=part, scoring=DRAWN)


def half_as_sure(early, late):
    return min(1.0, 1.5 * early / late)


def of_two(tokens, request):
    """Each of two ids has probability 1/2, exactly."""
    return torch.full((*tokens.shape, 12), -torch.inf).index_fill(-1, torch.tensor([2, 3]), 0.0)


FEW, MORE = s.Unmask("random", s.CeilTarget()), s.Unmask("confidence", s.CeilTarget())
TEMPLATE = canvas()
TEMPLATE[:, 5] = TEMPLATE[:, 11] = 6
SCORING_CASES = {
    "temperature": 0.3,
    "top_k": 2,
    "top_p": 0.4,
    "top_p_rule": With({"top_p": 0.4}, "exclusive"),
    "filter_order": With({"top_k": 3, "top_p": 0.6}, "top_p_first"),
    "noise": "dense",
    "law": With({"temperature": 0.3}, "proposal"),
    "mask_token": "forbid",
    "suppress": (1, 2, 3),
    "forbid": (1, 2, 3),
    "confidence_forbid": (1, 2, 3, 4, 5),
    "confidence_dtype": With({"temperature": 0.0}, torch.bfloat16, {"scale": 0.01}),
}
PART_CASES = {
    "Ancestral": (
        planned(),
        {},
        {
            "sigma": s.Cap(0.3),
            "eps": 0.3,
            "alpha": With({"sigma": s.Cap(0.3)}, s.Plateau(0.6, 0.1, 0.7)),
            "complete": With(EPS, True),
        },
    ),
    "Cap": (lambda part: planned()(s.Ancestral(part)), {"eta": 0.3}, {"eta": 0.1}),
    "Rescale": (lambda part: planned()(s.Ancestral(part)), {"eta": 0.3}, {"eta": 0.1}),
    "Confidence": (lambda part: planned()(s.Ancestral(part)), {"eta": 1.0}, {"eta": 0.1}),
    "Detour": (lambda part: planned()(s.Ancestral(part)), {"scale": 2.0, "power": 0.25}, {"scale": 0.5, "power": 2.0}),
    "During": (
        lambda part: planned()(s.Ancestral(part)),
        {"sigma": s.Cap(0.5), "t_on": 0.9, "t_off": 0.2},
        {"sigma": s.Cap(0.2), "t_on": 0.5, "t_off": 0.7},
    ),
    "Plateau": (
        lambda part: planned()(s.Ancestral(s.Cap(0.3), alpha=part)),
        {"t_on": 0.55, "t_off": 0.05, "alpha_on": 0.9},
        {"t_on": 0.8, "t_off": 0.4, "alpha_on": 0.5},
    ),
    "JumpTimes": (planned(window=s.Blocks(until_filled=True)), {}, {}),
    "Straight": (lambda part: planned()(s.Ancestral(alpha=part)), {}, {}),
    "EvenSplit": (counted(window=s.Blocks()), {}, {}),
    "CeilTarget": (counted(window=s.Blocks()), {}, {}),
    "CosineTarget": (counted(window=s.Blocks()), {}, {}),
    "TimeGrid": (
        lambda part: planned(scoring=Scoring())(s.WholeRow(s.Unmask(count=part))),
        {},
        {"eps": 0.3, "batch_mean": With({}, True, {"lengths": torch.tensor([16, 12, 9, 7])})},
    ),
    "RoundedGrid": (
        counted(window=s.Blocks()),
        {"steps": 6},
        {"steps": 4, "stochastic": True, "stays": half_as_sure},
    ),
    "Threshold": (
        counted(),
        {"threshold": 0.3},
        {"threshold": 0.2, "strict": With({"threshold": 0.5}, True, {"model": of_two}), "at_least": 3},
    ),
    "Steady": (
        lambda part: ranked()(s.SteadyFirst(count=part)),
        {"threshold": 0.2, "kl_threshold": 0.7},
        {"threshold": 0.5, "kl_threshold": 0.1, "otherwise": With({"kl_threshold": 0.01}, s.TimeGrid())},
    ),
    "SteadyFirst": (
        ranked(),
        {"count": s.Steady(0.3, 0.5)},
        {
            "order": "margin",
            "count": s.Steady(0.3, 0.1),
            "temperature": 1.0,
            "ties": With({}, "torch", {"scale": 0.0}),
            "spend_on_masks": With({}, True, {"loves_the_mask": True}),
        },
    ),
    "Factor": (
        counted(),
        {"factor": 0.7},
        {"factor": 2.0, "last_free": With({"factor": 1.61}, False, {"tokens": canvas(length=7)})},
    ),
    "EntropyBound": (counted("entropy"), {"gamma": 0.7}, {"gamma": 3.0}),
    "AboveMean": (counted(), {}, {"eos_id": 2}),
    "Constant": (again, {"count": 2}, {"count": 1}),
    "Binomial": (again, {"eta": 0.9}, {"eta": 0.1}),
    "Centred": (again, {"total": 6}, {"total": 3}),
    "Unmask": (
        ranked(),
        {},
        {
            "order": "margin",
            "count": s.TimeGrid(),
            "temperature": 1.0,
            "ties": With({}, "torch", {"scale": 0.0}),
            "spend_on_masks": With({}, True, {"loves_the_mask": True}),
        },
    ),
    "BeforeEnd": (
        ranked(),
        {},
        {
            "order": "margin",
            "count": s.TimeGrid(),
            "temperature": 1.0,
            "ties": With({}, "torch", {"scale": 0.0}),
            "spend_on_masks": With({}, True, {"loves_the_mask": True}),
            "eos_id": 2,
        },
    ),
    "Remask": (
        lambda part: Sampler(steps=9, unmask=FEW, remask=part, scoring=DRAWN),
        {"count": s.Constant(2)},
        {"by": "confidence", "count": s.Constant(1), "start": 6, "stop": 5},
    ),
    "UnmaskThenRemask": (
        planned(),
        {"unmask": FEW},
        {
            "unmask": MORE,
            "remask": s.Remask(count=s.Constant(2)),
            "refill": With({"unmask": s.Unmask(), "remask": s.Remask(count=s.Centred(12))}, "never"),
        },
    ),
    "WholeRow": (planned(scoring=Scoring()), {}, {"unmask": MORE}),
    "Looped": (
        planned(steps=12),
        {"unmask": FEW, "loop_start": 5, "loops": 4, "loop_count": 3},
        {
            "unmask": MORE,
            "remask": s.Remask(count=s.Constant(2)),
            "refill": With({"remask": s.Remask(count=s.Centred(24))}, "never"),
            "loop_start": 3,
            "loops": 2,
            "loop_count": 2,
        },
    ),
    "DraftAndVerify": (
        planned(window=s.Blocks(until_filled=True, extra=30), scoring=Scoring()),
        {"unmask": s.Unmask(count=s.Threshold(0.2)), "doubt": 0.4},
        {"unmask": s.Unmask(count=s.Threshold(0.3)), "doubt": 0.8},
    ),
    "HistoryRemask": (
        planned(),
        {"numbers": ((0.3, 0), (1.0, 2))},
        {"unmask": s.Unmask("confidence", s.CeilTarget()), "numbers": ((0.6, 0), (1.0, 2))},
    ),
    "ScoreThenFill": (
        planned(steps=14),
        {"unmask": FEW},
        {"unmask": MORE, "count": s.Constant(3), "temperature": 0.0},
    ),
    "Edit": (
        planned(steps=1, window=s.Blocks(until_filled=True, extra=8), scoring=Scoring()),
        {"unmask": s.Unmask(count=s.Threshold(0.3)), "edit": s.Overwrite(0.2), "post_steps": 8},
        {"unmask": s.Unmask(count=s.Threshold(0.15)), "edit": s.Overwrite(0.35), "post_steps": 0},
    ),
    "Overwrite": (edited, {"threshold": 0.2}, {"threshold": 0.35}),
    "RemaskDoubtful": (
        edited,
        {"threshold": 0.2},
        {"by": "t2t_remask", "threshold": 0.1, "per_position": 0, "ratio": 0.07},
    ),
    "Rewrite": (planned(scoring=Scoring()), {}, {"unmask": s.Unmask("margin")}),
    "FillThenRefine": (
        planned(),
        {"refine": 4},
        {"unmask": s.Unmask("margin"), "refine": 2, "first": 0.5, "last": 0.1},
    ),
    "BoundedCanvas": (
        planned(),
        {"vocab": 12, "gamma": 2.0, "sure": 0.9},
        {"vocab": 9, "gamma": 0.5, "stable": With({"sure": 3.0}, 0), "sure": With({"stable": 0}, 3.0)},
    ),
    "InformationGain": (
        lambda part: Sampler(steps=6, correct=part),
        {"candidates": 4},
        {"count": s.Threshold(0.5), "candidates": 2, "temperature": 2.0, "cost_weight": 0.0, "cost": "mean"},
    ),
    "Annealed": (
        lambda part: Sampler(steps=6, scoring=part),
        {"temperature": 1.0, "high": 1.2, "low": 1.0, "over": 6},
        {**SCORING_CASES, "high": 2.0, "low": 0.1, "over": With({"high": 3.0, "low": 0.1}, 3)},
    ),
    "Pool": (
        planned(),
        {},
        {
            "keep": s.Kappa("sine"),
            "masked": "random",
            "committed": "stays",
            "eta": 3.0,
            "noise": s.Noise(1.0),
            "cut": With({}, "strict", {"scale": 0.0}),
        },
    ),
    "Kappa": (
        lambda part: planned()(s.Pool(part)),
        {},
        {"schedule": "cosine", "advance": With({"schedule": (0.0, 0.0, 0.5, 0.5, 1.0)}, True)},
    ),
    "Noise": (noised, {"scale": 2.0}, {"scale": (2.0, 0.5), "kind": "uniform", "annealed": False}),
    "FixedOrder": (planned(), {}, {"by": "margin", "shared": With({}, True, {"tokens": canvas()})}),
    "FixedPoint": (
        corrected,
        {"passes": 2},
        {
            "passes": 1,
            "every": 3,
            "start": 5,
            "carry_over": False,
            "revisits": False,
            "update": "sample",
            "top_k": With({"update": "top_k", "top_k": 1}, 4),
        },
    ),
    "HideAndAsk": (
        corrected,
        {"candidates": 4, "every": 2, "revise": 1},
        {"candidates": 2, "every": 3, "revise": 3, "start": 5, "stop": 4},
    ),
    "Informed": (
        corrected,
        {"count": 2},
        {"count": 3, "by": "margin", "temperature": 0.0, "rounds": 2, "every": 2, "start": 5},
    ),
    "Resample": (corrected, {"count": 2}, {"count": 4, "every": 2}),
    "Review": (
        reviewed,
        {"model": planner, "reads": "logprob"},
        {
            "model": lambda tokens, request: -planner(tokens, request),
            "reads": "lead",
            "draft": "generated",
            "scoring": Scoring(suppress=(1, 2, 3)),
        },
    ),
    "Blocks": (
        lambda part: Sampler(steps=9, unmask=s.Unmask(count=s.Threshold(0.7)), window=part),
        {"length": 5},
        {
            "length": 4,
            "until_filled": True,
            "steps": 2,
            "extra": With({"steps": 1}, 2),
            "by": With({}, "column", {"tokens": TEMPLATE}),
            "together": With({}, True, {"lengths": torch.tensor([16, 9, 7, 8])}),
            "behind": With({"steps": 1, "by": "column"}, "always", {"origin": 8}),
        },
    ),
    "Scoring": (
        lambda part: Sampler(steps=6, scoring=part),
        {"temperature": 1.0},
        SCORING_CASES,
    ),
    "Sampler": (
        lambda part: part,
        {"steps": 6, "unmask": FEW},
        {
            "steps": 5,
            "plan": With({"unmask": None, "plan": s.Ancestral()}, s.Ancestral(eps=0.3)),
            "window": s.Blocks(5),
            "scoring": DRAWN,
            "correct": s.FixedPoint(),
            "review": With(
                {"unmask": None, "plan": s.Pool(masked="review"), "review": s.Review(critic)},
                s.Review(lambda tokens: 1 - critic(tokens, _Positions(tokens))),
            ),
            "finish": With({"steps": 2, "unmask": s.Unmask(count=s.Threshold(2.0))}, False),
            "cache": With({"unmask": None, "plan": s.Ancestral(), "steps": 30}, False),
        },
    ),
}
PARTS_BY_NAME = {
    name: kind
    for name, kind in vars(s).items()
    if name in s.__all__ and is_dataclass(kind) and name not in PRESETS_BY_NAME and not name.startswith("Preset")
}
# Not parts, but what they hand to one another and to a caller.
RECORDS = {"Counts", "Draws", "Intent", "Moment", "SampleResult", "State", "StepEvent", "Update", "View", "Preset"}
# Fields that a part has from its base and takes no other value of; and what a message says.
REFUSED = {
    (name, field): value
    for name in ("WholeRow", "DraftAndVerify", "HistoryRemask", "ScoreThenFill", "Edit", "Rewrite", "FillThenRefine")
    for field, value in (("remask", s.Remask()), ("refill", "never"))
}
SAID = {("Sampler", "name")}


EVERY_PART_FIELD = [
    (name, setting.name)
    for name, kind in PARTS_BY_NAME.items()
    if name not in RECORDS
    for setting in fields(kind)
    if (name, setting.name) not in SAID
]


def loves_the_mask(tokens, request):
    output = Toy()(tokens, request)
    output.logits[..., MASK] = torch.where(request.position_ids % 3 == 0, 9.0, 0.0)
    return output


@pytest.mark.parametrize(("name", "field"), EVERY_PART_FIELD)
def test_of_a_part(name, field):
    place, base, cases = PART_CASES[name]
    kind = PARTS_BY_NAME[name]
    if (name, field) in REFUSED:
        with pytest.raises(ValueError, match=f"^{field}: "):
            kind(**{**base, field: REFUSED[name, field]})
        return
    case = cases[field] if isinstance(cases[field], With) else With({}, cases[field])
    given = dict(case.given or {})
    if given.pop("loves_the_mask", False):
        given["model"] = loves_the_mask
        place = ranked(scoring=Scoring(mask_token="propose"), finish=False)
    decides(lambda **settings: place(kind(**settings)), base, field, With(case.both, case.changed, given))


def test_every_part_has_its_cases():
    assert PART_CASES.keys() == PARTS_BY_NAME.keys() - RECORDS
    for name, (_, base, cases) in PART_CASES.items():
        own = {setting.name for setting in fields(PARTS_BY_NAME[name])}
        assert cases.keys() <= own
        needed = {f.name for f in fields(PARTS_BY_NAME[name]) if f.default is MISSING and f.default_factory is MISSING}
        assert needed <= base.keys()


# ---- the call ----

CALL = {
    "tokens": TEMPLATE,
    "mask_id": 4,
    "fixed": canvas() == 3,
    "lengths": torch.tensor([16, 12, 9, 7]),
    "attention_mask": torch.arange(16).expand(4, 16) > 1,
    "positions": torch.arange(16).expand(4, 16) * 2,
    "origin": 1,
    "condition": torch.tensor(0.3),
    "eos_id": 2,
    "stop": lambda tokens, fixed: (tokens == 2).any(1),
    "logits_processor": lambda tokens, logits: logits.flip(-1),
    "tokens_processor": lambda tokens, logits: torch.where(tokens == 2, 3, tokens),
    "seed": 4,
    "callback": lambda event: event.index == 1,
}
# What a run does not depend on, or refuses without its like; tests of their own look at them.
ELSEWHERE = {"model", "state", "history", "progress", "on_interrupt"}


@pytest.mark.parametrize("name", CALL)
def test_of_a_call(name):
    sampler = Sampler(steps=9, unmask=s.Unmask("random"), window=s.Blocks(5, by="column"), scoring=DRAWN)
    assert outcome(sampler) == outcome(sampler)
    assert outcome(sampler) != outcome(sampler, **{name: CALL[name]})


def test_every_argument_of_a_call_has_its_case():
    assert set(inspect.signature(Sampler.__call__).parameters) - {"self"} == CALL.keys() | ELSEWHERE
