"""Every argument of every drop-in has a case in which it alone decides, or is said to be read by nobody.

The table is data: a run, its base, and another value for each argument, ``With(both, changed)`` where that needs
company. An argument without a case fails, and so does one whose case changes nothing.
"""

import inspect
import math
from dataclasses import dataclass, fields
from types import SimpleNamespace

import pytest
import torch
from hash_model import HashLM, integer_hash_quality

from mdmcorrect.compat import (
    bd3lms,
    d1,
    dinfer,
    dllm,
    dream,
    fast_dllm,
    llada,
    mdlm,
    mmada,
    open_dllm,
    p2,
    prism,
    proseco,
    remdm,
    sedd,
    smdm,
)

MASK, EOS = 12, 2
SPEC = {"V": 13, "mask_id": MASK, "dtype": "float32", "scale": 6.0}
TIED = {**SPEC, "scale": 900.0, "peak": 1}  # sure of everything, so that all confidences are 1
OTHER = {**SPEC, "salt": 5}
ENDS = {**SPEC, "boost": {str(EOS): 9.0}}
ROUGH = {**SPEC, "dtype": "bfloat16"}
TO_MASK = {**SPEC, "mask_logit": 9.0}
PROMPT = torch.tensor([[5, 6, 7], [1, 2, 3]])
TOKENIZER = SimpleNamespace(mask_token_id=MASK, bos_token_id=1, eos_token_id=EOS, pad_token_id=0, eos_id=EOS)


@dataclass(frozen=True)
class With:
    both: dict
    changed: object


@dataclass(frozen=True)
class Case:
    """``unread``: arguments that the documentation says nobody reads. ``read``: what is compared."""

    function: object
    base: dict
    changes: dict
    unread: frozenset = frozenset()
    keywords: frozenset = frozenset()  # of a function that takes them by **


def plain(value):
    """What a run gave, as lists and numbers."""
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    if isinstance(value, dict):
        return {name: plain(each) for name, each in value.items()}
    if hasattr(value, "sequences"):
        return [
            type(value).__name__,
            *(plain(getattr(value, name, None)) for name in ("sequences", "history", "histories")),
        ]
    return value


def run(function, settings):
    settings = {name: value.clone() if isinstance(value, torch.Tensor) else value for name, value in settings.items()}
    torch.manual_seed(0)
    model = settings.get("model", settings.get("self"))
    if isinstance(model, dict):
        model = settings["model" if "model" in settings else "self"] = HashLM(model)
    return plain(function(**settings)), getattr(model, "calls", None)


# ---- runs ----


def of_mmada(function):
    def call(model, **settings):
        def answer(tokens, attention_bias=None):
            return model(tokens, attention_mask=attention_bias)

        return function(answer, **settings)

    return call


def logits_only(function):
    def call(model, planner=None, **settings):
        second = None if planner is None else HashLM(planner)
        plan = None if second is None else lambda tokens: second(tokens).logits
        more = {} if function is p2.p2_plus_sampling else {"planner": plan}
        return function(model=lambda tokens: model(tokens).logits, **settings, **more)

    return call


def judged(model, **settings):
    def answer(tokens):
        quality = integer_hash_quality(tokens).logit()
        return {"logits": model(tokens).logits, "remasking_conf": quality}

    return prism.llada_inference(answer, **settings)


def told(function):
    def call(step_callback=None, **settings):
        steps = []
        answer = function(**settings, step_callback=steps.append if step_callback else None)
        return answer, steps

    return call


def of_smdm(model, **settings):
    return smdm.diff_sample(lambda tokens: model(tokens).logits, **settings)


BLOCKS = {"model": SPEC, "prompt": PROMPT, "steps": 4, "gen_length": 8, "block_length": 4, "mask_id": MASK}
DRAWN = {"temperature": 1.0}
FILTERED = {"model": ROUGH, "temperature": 1.0, "top_p": 0.6, "max_new_tokens": 64}
LONG = {"steps": 16, "gen_length": 64, "block_length": 64}
WIDE = torch.randn(1, 64, 200, generator=torch.Generator().manual_seed(0)).bfloat16()
OF_BLOCKS = {
    "model": OTHER,
    "prompt": PROMPT + 1,
    "steps": 8,
    "gen_length": With({"steps": 8}, 16),
    "block_length": With({"steps": 4}, 8),
    "temperature": 1.0,
    "remasking": "random",
    "mask_id": With({"prompt": torch.tensor([[5, 9, 7], [1, 9, 3]])}, 9),
    "ties": With({"model": TIED}, "torch"),
    "seed": With({**DRAWN, "seed": 1}, 2),
}
GUIDED = {**OF_BLOCKS, "cfg_scale": 0.5}
FAST = {
    **OF_BLOCKS,
    "steps": With({}, 8),
    "threshold": 0.3,
    "factor": 1.5,
    "step_callback": True,
}
SCORED = {
    "logits": torch.randn(2, 6, 13, generator=torch.Generator().manual_seed(0)),
    "temperature": 0.0,
    "remasking": "low_confidence",
    "mask_index": torch.arange(6).expand(2, 6) > 1,
    "x": torch.full((2, 6), MASK),
    "num_transfer_tokens": torch.tensor([2, 1]),
}
OF_SCORED = {
    "logits": SCORED["logits"].flip(-1),
    "temperature": With({"seed": 1}, 2.0),
    "remasking": With({"seed": 1}, "random"),
    "mask_index": torch.arange(6).expand(2, 6) > 3,
    "x": torch.full((2, 6), 1),
    "num_transfer_tokens": torch.tensor([3, 1]),
    "ties": With({"logits": torch.zeros(2, 6, 13)}, "torch"),
    "seed": With({"temperature": 2.0, "seed": 1}, 2),
}
FROM_P2 = {"model": SPEC, "xt": torch.full((2, 8), MASK), "mask_id": MASK, "num_steps": 4, "seed": 1}
OF_P2 = {
    "model": OTHER,
    "xt": torch.tensor([[MASK] * 7 + [3], [MASK] * 8]),
    "mask_id": With({"xt": torch.tensor([[MASK, 9] * 4] * 2), "num_steps": 3}, 9),
    "num_steps": 2,
    "tau": 0.0,
    "seed": 2,
}
OF_P2_ALL = {
    **OF_P2,
    "kappa_fn": lambda t: math.sin(t * math.pi / 2),
    "eta": 3.0,
    "planner": OTHER,
    "score_fn": p2.random_score,
    "noise": "truncated",
}
DREAM = {"model": SPEC, "inputs": PROMPT, "max_new_tokens": 8, "steps": 4, "mask_token_id": MASK, "alg": "entropy"}
OF_DREAM = {
    "model": OTHER,
    "inputs": PROMPT + 1,
    "generation_config": With({"steps": 4}, SimpleNamespace(temperature=1.0)),
    "ties": With({"model": TIED}, "torch"),
    "seed": With({"temperature": 1.0, "seed": 1}, 2),
    "temperature": 1.0,
    "top_p": With({"temperature": 1.0, "seed": 1}, 0.4),
    "top_k": With({"temperature": 1.0, "seed": 1}, 2),
    "max_length": With({"max_new_tokens": None, "max_length": 11}, 9),
    "max_new_tokens": 6,
    "eps": 0.3,
    "steps": 5,
    "alg": "maskgit_plus",
    "alg_temp": With({"seed": 1}, 2.0),
    "num_return_sequences": 2,
    "return_dict_in_generate": True,
    "output_history": With({"return_dict_in_generate": True}, True),
    "mask_token_id": With({"inputs": torch.tensor([[5, 9, 7], [1, 9, 3]])}, 9),
}
UNREAD_IDS = frozenset({"pad_token_id", "bos_token_id", "eos_token_id"})
PROBS = torch.rand(2, 5, 13, generator=torch.Generator().manual_seed(1)) ** 4
CATEGORICAL = {
    "categorical_probs": PROBS.flip(-1),
    "noise": "fp32",
    "seed": 2,
    "step": 3,
}
CASES = {
    "llada.generate": Case(
        llada.generate,
        BLOCKS,
        {
            **GUIDED,
            "attention_mask": torch.tensor([[0, 1, 1], [1, 1, 1]]),
            "logits_eos_inf": With({"model": {**SPEC, "V": 126349, "mask_id": 126336}}, True),
            "confidence_eos_eot_inf": With({"model": {**SPEC, "V": 126349, "mask_id": 126336}}, True),
            "is_mps": With({"model": ROUGH, **LONG}, True),
            "quirks": With({"model": TO_MASK}, "unfilled_masks"),
            "confidence_dtype": With({"model": ROUGH, **LONG}, None),
            "noise": With({**DRAWN, "seed": 1}, "fp32"),
        },
        unread=frozenset({"logits_eos_inf", "confidence_eos_eot_inf"}),  # of ids of LLaDA's vocabulary: test_llada.py
    ),
    "d1.generate": Case(
        d1.generate,
        {**BLOCKS, "tokenizer": None},
        {**GUIDED, "quirks": With({"model": TO_MASK}, "unfilled_masks"), "noise": With({**DRAWN, "seed": 1}, "fp32")},
        unread=frozenset({"tokenizer"}),
    ),
    "fast_dllm.generate": Case(told(fast_dllm.generate), BLOCKS, FAST),
    "fast_dllm.generate_with_prefix_cache": Case(told(fast_dllm.generate_with_prefix_cache), BLOCKS, FAST),
    "fast_dllm.generate_with_dual_cache": Case(
        told(fast_dllm.generate_with_dual_cache),
        BLOCKS,
        {**FAST, "quirks": With({"threshold": 1.0, "steps": 4}, "dual_cache_steps")},
    ),
    "fast_dllm.get_transfer_index": Case(fast_dllm.get_transfer_index, SCORED, {**OF_SCORED, "threshold": 0.2}),
    "fast_dllm.get_transfer_index_dynamic": Case(
        fast_dllm.get_transfer_index_dynamic, SCORED, {**OF_SCORED, "factor": 4.0},
        unread=frozenset({"num_transfer_tokens"}),
    ),
    "dinfer.get_transfer_index": Case(dinfer.get_transfer_index, SCORED, {**OF_SCORED, "threshold": 0.2}),
    "dinfer.get_transfer_index_dynamic": Case(
        dinfer.get_transfer_index_dynamic, SCORED, {**OF_SCORED, "factor": 4.0},
        unread=frozenset({"num_transfer_tokens"}),
    ),
    "llada.get_num_transfer_tokens": Case(
        llada.get_num_transfer_tokens,
        {"mask_index": torch.arange(6).expand(2, 6) > 1, "steps": 3},
        {"mask_index": torch.arange(6).expand(2, 6) > 2, "steps": 2},
    ),
    "dllm.get_num_transfer_tokens": Case(
        dllm.get_num_transfer_tokens,
        {"mask_index": torch.arange(9).expand(2, 9) > 1, "steps": 3},
        {
            "mask_index": torch.arange(9).expand(2, 9) > 2,
            "steps": 2,
            "scheduler": SimpleNamespace(reverse_mask_prob=lambda s, t: min(1.0, (s / t) ** 3)),
            "stochastic": True,
        },
    ),
    "mmada.mmu_generate": Case(
        of_mmada(mmada.mmu_generate),
        {"model": SPEC, "idx": PROMPT, "max_new_tokens": 8, "steps": 4, "block_length": 4, "mask_id": MASK},
        {
            **{name: case for name, case in GUIDED.items() if name not in ("prompt", "gen_length", "mask_id")},
            "idx": PROMPT + 1,
            "max_new_tokens": With({"steps": 8}, 16),
            "mask_id": With({"idx": torch.tensor([[5, 9, 7], [1, 9, 3]])}, 9),
            "attention_mask": torch.arange(11).expand(2, 11) > 1,
        },
        unread=frozenset({"input_embeddings", "top_k", "eot_token"}),
    ),
    "mmada.mmu_generate_fast": Case(
        of_mmada(mmada.mmu_generate_fast),
        {"model": SPEC, "idx": PROMPT, "max_new_tokens": 8, "steps": 4, "block_length": 4, "mask_id": MASK},
        {
            **{name: case for name, case in GUIDED.items() if name not in ("prompt", "gen_length", "mask_id")},
            "idx": PROMPT + 1,
            "max_new_tokens": With({"steps": 8}, 16),
            "mask_id": With({"idx": torch.tensor([[5, 9, 7], [1, 9, 3]])}, 9),
            "attention_mask": torch.arange(11).expand(2, 11) > 1,
            "eot_token": With({"model": ENDS}, EOS),
        },
        unread=frozenset({"input_embeddings", "top_k"}),
    ),
    "dream.diffusion_generate": Case(
        dream.diffusion_generate,
        DREAM,
        {
            **OF_DREAM,
            "attention_mask": torch.tensor([[0, 1, 1], [1, 1, 1]]),
            "generation_tokens_hook_func": lambda step, tokens, logits: torch.where(tokens == 3, 4, tokens),
            "generation_logits_hook_func": lambda step, tokens, logits: logits.flip(-1),
            "quirks": With({"model": TO_MASK}, "unfilled_masks"),
        },
        unread=UNREAD_IDS,
        keywords=frozenset(field.name for field in fields(dream.DreamGenerationConfig)),
    ),
    "open_dllm.diffusion_generate": Case(
        open_dllm.diffusion_generate,
        DREAM,
        {**OF_DREAM, "quirks": With({**FILTERED, "seed": 1}, "rounded_nucleus")},
        unread=UNREAD_IDS | {"attention_mask"},
        keywords=frozenset(field.name for field in fields(open_dllm.MDMGenerationConfig)),
    ),
    "dream.sample_tokens": Case(
        dream.sample_tokens,
        {"logits": SCORED["logits"], "temperature": 1.0, "seed": 1},
        {
            "logits": SCORED["logits"].flip(-1),
            "temperature": 0.5,
            "top_p": 0.4,
            "top_k": 2,
            "margin_confidence": True,
            "neg_entropy": True,
            "quirks": With({"logits": WIDE, "top_p": 0.9}, "rounded_nucleus"),
            "seed": 2,
        },
    ),
    "open_dllm.sample_tokens": Case(
        open_dllm.sample_tokens,
        {"logits": SCORED["logits"], "temperature": 1.0, "seed": 1},
        {
            "logits": SCORED["logits"].flip(-1),
            "temperature": 0.5,
            "top_p": 0.4,
            "top_k": 2,
            "alg": "entropy",
            "quirks": With({"logits": WIDE, "top_p": 0.9}, "rounded_nucleus"),
            "seed": 2,
        },
    ),
    "p2.p2_sampling": Case(logits_only(p2.p2_sampling), FROM_P2, OF_P2_ALL),
    "p2.p2_plus_sampling": Case(
        logits_only(p2.p2_plus_sampling), {**FROM_P2, "num_steps": 4},
        {**OF_P2, "num_steps": 3, "shared_order": True},
        unread=frozenset({"kwargs"}),
    ),
    "prism.llada_inference": Case(
        judged,
        {
            "model": SPEC,
            "prompt": torch.tensor([[5, 6, 7, *[0] * 9], [1, 2, *[0] * 10]]),
            "tokenizer": TOKENIZER,
            "steps": 6,
            "max_length": 12,
            "model_type": "prism",
            "block_length": 6,
            "unmasking": "prob_max",
            "remasking": True,
            "remasking_mode": "PRISM",
            "num_remasking": 3,
            "temperature": 0.0,
            "mask_id": MASK,
        },
        {
            "model": OTHER,
            "prompt": torch.tensor([[5, 6, 8, *[0] * 9], [1, 2, *[0] * 10]]),
            "tokenizer": SimpleNamespace(pad_token_id=7),
            "steps": 4,
            "max_length": With({}, 12),
            "block_length": With({"steps": 12}, 12),
            "unmasking": "random",
            "remasking": False,
            "remasking_mode": "remdm_conf",
            "num_remasking": 6,
            "temperature": 1.0,
            "mask_id": With({"prompt": torch.tensor([[5, 9, 7, *[0] * 9], [1, 9, *[0] * 10]])}, 9),
            "finish": With({"num_remasking": 9}, True),
            "ties": With({"model": TIED}, "torch"),
            "quirks": With({"remasking_mode": "remdm_conf"}, "unused_confidence_buffer"),
            "noise": With({**DRAWN, "seed": 1}, "fp32"),
            "seed": With({**DRAWN, "seed": 1}, 2),
        },
        unread=frozenset({"max_length", "model_type", "track"}),  # the prompt has that length
    ),
    "proseco.generate": Case(
        proseco.generate,
        BLOCKS,
        {
            **OF_BLOCKS,
            "threshold": 0.3,
            "max_corrector_steps_per_loop": 0,
            "apply_corrector_every_n_steps": With({"steps": 8}, 3),
            "early_eos_stopping": With({"model": ENDS, "tokenizer": TOKENIZER}, False),
            "tokenizer": With({"model": ENDS}, TOKENIZER),
            "save_intermediate_outputs": True,
            "remasking_only_masked": With({"max_corrector_steps_per_loop": 0, "apply_corrector_every_n_steps": 1,
                                           "early_eos_stopping": False, "remasking_only_masked": True}, False),
        },
        unread=frozenset({"disable_pbar"}),
    ),
    "smdm.diff_sample": Case(
        of_smdm,
        {"model": SPEC, "tokenizer": None, "prompt": PROMPT, "steps": 4, "context_length": 12, "dim": MASK,
         "device": "cpu", "seed": 1},
        {
            "model": OTHER,
            "prompt": PROMPT + 1,
            "batch_size": With({"prompt": None}, 2),
            "alg": "greddy",
            "steps": 5,
            "temperature": 0.0,
            "cfg_scale": 0.0,
            "context_length": 10,
            "eps": 0.3,
            "dim": With({"prompt": torch.tensor([[5, 9, 7], [1, 9, 3]])}, 9),
            "flattened": With({"alg": "greddy"}, True),
            "seed": 2,
        },
        unread=frozenset({"tokenizer", "device"}),  # the only device there is
    ),
    **{
        f"{module.__name__.rpartition('.')[2]}._sample_categorical": Case(
            module._sample_categorical, {"categorical_probs": PROBS, "seed": 1}, CATEGORICAL
        )
        for module in (mdlm, bd3lms, remdm)
    },
    "sedd.sample_categorical": Case(
        sedd.sample_categorical,
        {"categorical_probs": PROBS, "seed": 1},
        {**CATEGORICAL, "method": None},
        unread=frozenset({"method"}),  # one is there
    ),
}  # fmt: skip


def arguments(case):
    function = case.function
    wrapped = inspect.getclosurevars(function).nonlocals.get("function", function)
    inner = {judged: prism.llada_inference, of_smdm: smdm.diff_sample}.get(function, wrapped)
    signature = inspect.signature(inner).parameters
    return {name for name, part in signature.items() if part.kind is not part.VAR_KEYWORD} | case.keywords


@pytest.mark.parametrize("name", CASES)
def test_every_argument_has_its_case(name):
    case = CASES[name]
    missing = arguments(case) - case.changes.keys() - case.unread
    unknown = case.changes.keys() - arguments(case)
    assert (missing, unknown) == (set(), set())


EACH = [(name, argument) for name, case in CASES.items() for argument in case.changes if argument not in case.unread]


@pytest.mark.parametrize(("name", "argument"), EACH)
def test_each_decides(name, argument):
    case = CASES[name]
    change = case.changes[argument]
    change = change if isinstance(change, With) else With({}, change)
    base = {**case.base, **change.both}
    first = run(case.function, base)
    assert first == run(case.function, base)
    assert first != run(case.function, {**base, argument: change.changed}), f"{argument} changes nothing"


# ---- configurations of dLLM's samplers ----

DLLM = {"max_new_tokens": 8, "block_size": 4, "seed": 1}
SHARED = {
    "return_dict": True,
    "ties": With({"model": TIED}, "torch"),
    "seed": With({"temperature": 1.0}, 2),
    "temperature": 1.0,
    "max_new_tokens": 4,
    "block_size": 8,
}
OF_MDLM = {
    **SHARED,
    "quirks": With({"model": TO_MASK}, "unfilled_masks"),
    "max_length": With({"max_new_tokens": None, "max_length": 11}, 9),
    "steps": 5,
    "remasking": "random",
    "stochastic_transfer": True,
    "cfg_scale": 0.5,
    "cfg_keep_tokens": With({"cfg_scale": 1.5}, [5, 6, 7]),
    "right_shift_logits": True,
}
FILTERS = {
    "ties": With({"model": TIED, "threshold": 1.0, "block_size": 32, "max_new_tokens": 64}, "torch"),
    "top_p": With({"temperature": 1.0}, 0.4),
    "top_k": With({"temperature": 1.0}, 2),
    "quirks": With(
        {"model": ROUGH, "temperature": 1.0, "top_p": 0.6, "max_new_tokens": 64, "block_size": 32}, "rounded_nucleus"
    ),
    "eos_early_stop": With({"model": ENDS}, True),
}
SETTINGS = {
    "MDLMSampler": (
        {**DLLM, "steps": 4},
        {**OF_MDLM, "suppress_tokens": [3, 4, 5], "begin_suppress_tokens": [1, 2, 3, 4, 5, 6]},
    ),
    "BD3LMSampler": ({**DLLM, "steps": 4}, {**OF_MDLM, "steps_per_block": 4}),
    "LLaDA2Sampler": (
        {**DLLM, "steps_per_block": 4, "threshold": 0.3},
        {
            **SHARED,
            **FILTERS,
            "steps_per_block": With({"threshold": 0.99}, 2),
            "threshold": 0.9,
            "minimal_topk": With({"threshold": 0.99}, 4),
        },
    ),
    "LLaDA21Sampler": (
        {**DLLM, "threshold": 0.3, "editing_threshold": 0.2},
        {
            **SHARED,
            **FILTERS,
            "max_length": With({"max_new_tokens": None, "max_length": 11}, 7),
            "threshold": 0.9,
            "editing_threshold": 0.9,
            "max_post_steps": 0,
            "num_to_transfer": With({"threshold": 0.99}, 3),
        },
    ),
}


def of_dllm(name):
    def call(model, **settings):
        return getattr(dllm, name)(model, TOKENIZER).sample(PROMPT.tolist(), **settings)

    return call


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_of_dllm_has_its_case(name):
    own = {field.name for field in fields(getattr(dllm, name).config_class)}
    assert own == SETTINGS[name][1].keys()


@pytest.mark.parametrize(("name", "field"), [(name, field) for name in SETTINGS for field in SETTINGS[name][1]])
def test_each_setting_of_dllm_decides(name, field):
    base, changes = SETTINGS[name]
    change = changes[field] if isinstance(changes[field], With) else With({}, changes[field])
    base = {"model": SPEC, **base, **change.both}
    first = run(of_dllm(name), base)
    assert first == run(of_dllm(name), base)
    assert first != run(of_dllm(name), {**base, field: change.changed}), f"{field} changes nothing"
