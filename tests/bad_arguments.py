"""Bad inputs, as data: by call, what is right with it, and for each argument the values that are not.

A value is bad for the argument alone. `test_bad_arguments.py` holds every answer against one rule.
"""

from __future__ import annotations

import numpy as np
import torch
from hash_model import HashLM
from torch import nn

from mdmcorrect import adapters, caches, heads, likelihood, losses, ops, rng, schedules
from mdmcorrect import samplers as s
from mdmcorrect.canvas import Canvas
from mdmcorrect.compat import d1, dllm, dream, fast_dllm, llada, mmada, p2, proseco, smdm

NAN, INF = float("nan"), float("inf")
MASK = 11
LOGITS, SCORES = torch.zeros(2, 3, 12), torch.zeros(2, 3)
TOKENS = torch.full((2, 3), MASK)
WHICH = torch.ones(2, 3, dtype=torch.bool)
HEADS = torch.zeros(2, 4, 3, 32)
HIDDEN, WEIGHT = torch.zeros(6, 8), torch.zeros(12, 8)
META = torch.device("meta")
NO_TENSOR = (None, [[1.0, 2.0]], "text", np.zeros((2, 3)))
NO_NUMBER = ("hot", [0.5, 1.0], True, 1j, NAN)
NO_INT = ("4", 2.5, True, [4], None, NAN)
NO_NAME = ("other", None, 3, True)
NO_FLAG = ("yes", None, 1)


class Model(nn.Module):
    """A model that takes what models may take."""

    def __init__(self):
        super().__init__()
        self.embed, self.norm, self.out = nn.Embedding(12, 8), nn.LayerNorm(8), nn.Linear(8, 12)

    def forward(self, tokens, attention_mask=None, position_ids=None, condition=None):
        hidden = self.norm(self.embed(tokens))
        return {"logits": self.out(hidden), "hidden": hidden}


MODEL, HEAD = Model(), heads.QualityHead(8)
X0 = torch.arange(6).view(2, 3)
TIME = torch.tensor([0.5, 0.7])
COMPAT = {"V": 12, "mask_id": MASK, "dtype": "float32", "scale": 6.0}
BLOCKS = {"model": None, "prompt": X0, "steps": 4, "gen_length": 8, "block_length": 4, "mask_id": MASK}
NO_PROMPT = ("hello", None, X0.float(), X0[0], 5, [["a"]])
OF_BLOCKS = {
    "prompt": NO_PROMPT,
    "steps": (0, -4, 2.5, "4", True, None),
    "gen_length": (-8, 2.5, "8", 7),
    "block_length": (0, 2.5, "4"),
    "temperature": (-1.0, NAN, "hot"),
    "remasking": ("high", None, 3),
    "mask_id": (-1, 12, "11", [11], 1.5),
    "ties": ("highest", None),
    "seed": (1.5, "0", True),
}


def with_model(function):
    """A drop-in with a model of its own."""
    return lambda model, **settings: function(HashLM(COMPAT), **settings)


def of_dllm(name):
    return lambda **settings: getattr(dllm, name)(HashLM(COMPAT), TOKENIZER).sample([[5, 6]], **settings)


class TOKENIZER:
    mask_token_id, bos_token_id, eos_token_id, pad_token_id = MASK, 1, 2, 0


SHAPES = (torch.zeros(3, 2), torch.zeros(2))
LIKE_SCORES = (*NO_TENSOR, *SHAPES, SCORES.long(), SCORES.bool())
MASKS = (*NO_TENSOR[1:], WHICH.float(), WHICH[:1], WHICH[0, 0], WHICH.to(META))
DRAWS = {
    "seed": (True, 1.5, "0", [1, 2], torch.zeros(3, dtype=torch.int64), torch.zeros(2)),
    "step": ("0", 1.5, True, None, torch.zeros(3, dtype=torch.int64), torch.zeros(2)),
    "call": ("0", 1.5, True, None, torch.zeros(2, dtype=torch.int64)),
}
SCORING = {
    "temperature": (*NO_NUMBER, -1.0, INF, torch.ones(3), torch.ones(2, dtype=torch.int64)),
    "top_k": ("5", 0, -1, 1.5, True, [5], torch.ones(2)),
    "top_p": ("0.9", 1.5, -0.1, NAN, True, [0.9], torch.ones(5)),
    "top_p_rule": NO_NAME,
    "filter_order": NO_NAME,
    "law": NO_NAME,
    "noise": NO_NAME,
    "suppress": ("3", [-1], [12], [1.5], 2.5, {"a": 1}, torch.ones(1)),
    "forbid": ("3", [-1], [12], [1.5]),
    "want": ("token", ["beauty"], ["current_logprob"], [3]),
    "confidence_dtype": ("bfloat16", torch.int64, 16),
    **DRAWS,
}
OF_SAMPLER = {
    "tokens": (TOKENS.int(), TOKENS.float(), TOKENS[0], TOKENS.tolist(), TOKENS.numpy(), "text", None, TOKENS - 100),
    "mask_id": (-1, True, 11.0, "11", [11], None),
    "fixed": (WHICH.float(), WHICH[:1], WHICH.tolist(), True),
    "lengths": (
        [3, 3],
        3,
        torch.ones(2),
        torch.ones(3, dtype=torch.int64),
        torch.tensor([3, 4]),
        torch.tensor([-1, 3]),
    ),
    "attention_mask": (WHICH.float(), WHICH[0], np.ones((2, 3))),
    "positions": (torch.zeros(2, 3), torch.arange(3), [0, 1, 2]),
    "origin": (-1, 1.0, "1", True),
    "eos_id": (-1, 12, MASK, 2.0, "2", [2, "3"], True),
    "stop": ("\n", 5, lambda tokens, fixed: True),
    "logits_processor": ("top_k", 3, [], lambda tokens, logits: logits[:, 0]),
    "tokens_processor": ("x", 3, lambda tokens, logits: tokens.float()),
    "seed": (True, 1.5, "0", [1, 2], torch.zeros(2), torch.zeros(3, dtype=torch.int64)),
    "state": ({}, "run.pt", 3),
    "callback": ("print", 3, [print]),
    "history": ("quality", {"beauty"}, 1, 1.5),
    "on_interrupt": ("stop", None, True),
}
OF_LOSS = {
    "x0": (X0.float(), X0[0], X0.tolist(), None, "text"),
    "mask_id": (-1, "11", 1.5, None, True, [11]),
    "t": (TIME.tolist(), torch.ones(3), torch.ones(2, 3), "0.5", TIME.long()),
    "t_min": (-0.1, 1.5, NAN, "0"),
    "schedule": ("square", None, 3),
    "fixed": (WHICH[0], [[True]], "prompt"),
    "loss_mask": (WHICH.float() / 2, WHICH[0], "answer"),
    "attention_mask": (WHICH.float() / 2, WHICH[0], "padding"),
    "normalizer": ("sentence", None, -3),
    "num_items_in_batch": (-1, "4", NAN, [4]),
}
CALLS: dict[str, tuple] = {
    "ops.score_tokens": (
        ops.score_tokens,
        {"logits": LOGITS},
        {
            "logits": (*NO_TENSOR, LOGITS.long(), LOGITS[0, 0, 0], LOGITS.transpose(1, 2)[:, :, ::2], LOGITS[..., :0]),
            "tokens": (*NO_TENSOR[1:], TOKENS.float(), TOKENS[:1], TOKENS.to(META)),
            "rows": MASKS,
            "positions": ([0, 1, 2], torch.zeros(3), torch.arange(4), torch.zeros(3, 2, dtype=torch.int64)),
            "uncond_logits": (LOGITS[:1], LOGITS.double(), LOGITS.bfloat16(), "none"),
            "shift": ("1", 1.5, -1, True),
            "input": NO_NAME,
            **SCORING,
        },
    ),
    "ops.score_hidden": (
        ops.score_hidden,
        {"hidden": HIDDEN, "weight": WEIGHT},
        {
            "hidden": (*NO_TENSOR, HIDDEN.long(), HIDDEN[0, 0]),
            "weight": (*NO_TENSOR, WEIGHT.long(), WEIGHT[:, :7], WEIGHT.bfloat16(), WEIGHT.to(META), WEIGHT[0]),
            "bias": (torch.zeros(11), torch.zeros(12, 1), [0.0] * 12, torch.zeros(12).long()),
            "row_index": ([0], torch.zeros(2), torch.zeros(1, 2, dtype=torch.int64), 3),
            "temperature": (-1.0, NAN, "hot"),
            "suppress": ([12], "3"),
            "want": ("token", ["beauty"]),
        },
    ),
    "ops.score_quality": (
        ops.score_quality,
        {"hidden": HIDDEN, "weight": torch.zeros(1, 8)},
        {
            "hidden": (*NO_TENSOR, HIDDEN.long(), HIDDEN[0, 0]),
            "weight": (None, torch.zeros(2, 8), torch.zeros(1, 7), [0.0] * 8),
            "bias": (torch.zeros(2), "0", [0.0]),
            "norm": ("batch", 3, True),
            "norm_weight": (torch.zeros(7), [1.0] * 8),
            "norm_bias": (torch.zeros(7), [1.0] * 8),
            "shift": (torch.zeros(7), "0"),
            "scale": (torch.zeros(7), "0"),
            "eps": (-1e-5, NAN, "small", None),
            "logit": NO_FLAG,
        },
    ),
    "ops.select_positions": (
        ops.select_positions,
        {"scores": SCORES, "k": 1},
        {
            "scores": (*NO_TENSOR, SCORES.long(), SCORES[0, 0], SCORES.bool()),
            "k": (True, 1.5, "1", None, [1, 2], torch.ones(2), torch.ones(3, dtype=torch.int64)),
            "eligible": MASKS,
            "temperature": ("x", True, -1.0, NAN, None),
            "largest": NO_FLAG,
            "positions": ([0, 1, 2], torch.zeros(3), torch.arange(4)),
            **DRAWS,
        },
    ),
    "ops.count_positions": (
        ops.count_positions,
        {"scores": SCORES, "rule": "threshold", "bound": 0.5},
        {
            "scores": (*NO_TENSOR, SCORES.long(), SCORES[0, 0]),
            "rule": NO_NAME,
            "bound": (NAN, "0.5", True, None, [0.5], torch.ones(3)),
            "eligible": MASKS,
            "at_least": ("1", 1.5, -1, True, None),
        },
    ),
    "ops.remask_step": (
        ops.remask_step,
        {"tokens": TOKENS, "proposals": X0, "unmask_score": SCORES, "unmask_count": 1, "mask_id": MASK},
        {
            "tokens": (*NO_TENSOR, TOKENS.float(), TOKENS[0, 0]),
            "proposals": (*NO_TENSOR, X0.float(), X0[:1], X0.to(META)),
            "unmask_score": ([[1.0]], SCORES.long(), SCORES[:1]),
            "unmask_count": ("1", 1.5, True, torch.ones(2), torch.ones(3, dtype=torch.int64)),
            "mask_id": ("11", 1.5, None, True, -1),
            "fixed": MASKS,
            "eligible": MASKS,
            "refill": NO_NAME,
        },
    ),
    "ops.bidirectional_attention": (
        ops.bidirectional_attention,
        {"q": HEADS, "k": HEADS, "v": HEADS},
        {
            "q": (*NO_TENSOR, HEADS.long(), HEADS[0], HEADS[..., :31]),
            "k": (*NO_TENSOR, HEADS[0], HEADS[..., :31], HEADS[:1], HEADS.bfloat16()),
            "v": (None, HEADS[:, :, :2], HEADS[:1]),
            "starts": ("0", 1.5, torch.zeros(2), torch.zeros(3, dtype=torch.int64)),
            "lengths": ("3", 1.5, torch.zeros(2), torch.zeros(3, dtype=torch.int64)),
            "q_positions": ([0, 1], torch.zeros(3), torch.arange(4)),
            "mask": NO_NAME,
            "hide_self": NO_FLAG,
            "block_size": ("4", 1.5, 0, True),
            "scale": ("1", NAN, True, INF),
            "return_lse": NO_FLAG,
        },
    ),
    "ops.linear_cross_entropy": (
        ops.linear_cross_entropy,
        {"hidden": HIDDEN, "weight": WEIGHT, "targets": X0.view(-1)},
        {
            "hidden": (*NO_TENSOR, HIDDEN.long()),
            "weight": (*NO_TENSOR, WEIGHT[:, :7], WEIGHT.long(), WEIGHT.to(META)),
            "targets": (*NO_TENSOR, X0.view(-1).float(), X0.view(-1)[:5], X0.view(-1).to(META)),
            "bias": (torch.zeros(11), [0.0] * 12),
            "token_weight": (torch.ones(5), [1.0] * 6, torch.ones(6).long()),
            "suppress": ([12], "3", [-1]),
            "ignore_index": ("x", 1.5, None, True),
            "reduction": NO_NAME,
            "label_smoothing": (-0.1, 1.5, NAN, "x", True),
            "softcap": (0.0, -1.0, NAN, "x", True),
            "return_correct": NO_FLAG,
        },
    ),
    "rng.uniform": (
        rng.uniform,
        {"seed": torch.arange(2), "positions": 3, "step": 0, "purpose": 1},
        {
            "seed": (None, 3, [1, 2], torch.zeros(2), torch.zeros(2, 2, dtype=torch.int64)),
            "positions": (None, "3", 1.5, torch.zeros(3), -1),
            "step": ("0", 1.5, torch.zeros(2), torch.zeros(3, dtype=torch.int64)),
            "dtype": (torch.int64, "float32", None),
        },
    ),
    "schedules.sample_times": (
        schedules.sample_times,
        {"batch": 2},
        {
            "batch": (2.5, "2", None, True, -1),
            "t_min": (NAN, -0.1, 1.5, "0"),
            "t_max": (NAN, 1.5, "1", -1.0),
            "antithetic": NO_FLAG,
            "dtype": (torch.int64, "float32"),
        },
    ),
    "schedules.get_schedule": (schedules.get_schedule, {"schedule": "linear"}, {"schedule": ("square", None, 3)}),
    "samplers.LLaDA(model)": (
        lambda **given: s.LLaDA(steps=2)(**{"model": MODEL, **given}),
        {"tokens": TOKENS, "mask_id": MASK},
        {**OF_SAMPLER, "model": (None, torch.zeros(3), "gpt", lambda tokens: None, lambda tokens: torch.zeros(2, 3))},
    ),
    "samplers.LLaDA": (
        s.LLaDA,
        {"steps": 4},
        {
            "steps": (0, -1, 2.0, True, None, "4", [4], NAN),
            "block_length": (0, -4, 2.5, True, "32"),
            "remasking": ("high", None, 3),
            "temperature": (-1, NAN, INF, "hot", None, [0.5, 1.0]),
            "top_k": (0, 1.5, "5"),
            "top_p": (0, 2, "0.9", NAN),
            "suppress": ("<pad>", [-1], 2.5),
            "confidence_forbid": ("x", [-1], 1.5),
            "ties": ("highest", None),
        },
    ),
    "samplers.PRISM": (
        s.PRISM,
        {"steps": 4, "remask_count": 1},
        {
            "unmask": ("best", None, 3),
            "remask": ("worst", 3, True),
            "remask_count": (-1, 1.5, "2", True),
            "step_on": (-1, 1.5, None),
            "step_off": (-1, 1.5),
            "loop_steps": (-1, 1.5, None),
        },
    ),
    "samplers.ProSeCo": (
        s.ProSeCo,
        {"steps": 4},
        {
            "corrector_steps": (-1, 1.5, None),
            "correct_every": (0, 1.5, None),
            "correct_start": (-1, 1.5, None),
            "corrector": ("best", None),
            "carry_over": NO_FLAG,
            "eps": (-0.1, 1, NAN, "x"),
        },
    ),
    "samplers.Blocks": (
        s.Blocks,
        {"length": 4},
        {
            "length": (0, 1.5, "4", True),
            "until_filled": NO_FLAG,
            "steps": (0, 1.5, "4"),
            "extra": (-1, 1.5, None),
            "by": NO_NAME,
            "together": NO_FLAG,
            "behind": ("never", 3, True),
        },
    ),
    "samplers.Pool": (
        s.Pool,
        {},
        {
            "keep": (3, "linear", None),
            "masked": (3, None),
            "committed": (3, None),
            "eta": (-1, NAN, "x", None),
            "noise": (0.5, "gumbel"),
            "cut": NO_NAME,
        },
    ),
    "samplers.Sampler": (
        s.Sampler,
        {"steps": 2},
        {
            "steps": (0, 1.5, "2", None, True),
            "plan": (3, "mdlm", s.Unmask()),
            "window": (32, None, "blocks"),
            "scoring": (0.5, None, "argmax"),
            "correct": (3, "prism", s.Unmask()),
            "review": (3, "critic", s.Unmask()),
            "finish": NO_FLAG,
            "cache": NO_FLAG,
            "name": (3, None),
        },
    ),
    "samplers.FixedSteps": (
        s.FixedSteps,
        {"sampler": s.LLaDA(steps=2), "model": MODEL, "mask_id": MASK},
        {
            "sampler": ("llada", None, 3),
            "model": (None, 3),
            "mask_id": (-1, 1.5, "11", None),
            "eos_id": (-1, MASK, "2"),
            "stop": ("\n", 3),
        },
    ),
    "likelihood.log_likelihood": (
        likelihood.log_likelihood,
        {"model": MODEL, "tokens": X0, "mask_id": MASK, "samples": 1},
        {
            "model": (None, "gpt", torch.zeros(3)),
            "tokens": (X0.float(), X0[0], X0.tolist()),
            "mask_id": (-1, 1.5, "11"),
            "scored": (WHICH.float(), WHICH[0], "all"),
            "lengths": ([3, 3], torch.ones(2)),
            "samples": (0, 1.5, "4", True),
            "by": NO_NAME,
            "stratified": NO_FLAG,
            "mask_token": NO_NAME,
            "batch_size": (0, 1.5, True, "4"),
            "seed": (1.5, "0", True),
        },
    ),
    "losses.mdlm_loss": (losses.mdlm_loss, {"model": MODEL, "x0": X0, "mask_id": MASK}, OF_LOSS),
    "losses.prism_loss": (
        lambda **given: losses.prism_loss(heads.attach(MODEL, HEAD), **given),
        {"x0": X0, "mask_id": MASK},
        {
            **{name: values for name, values in OF_LOSS.items() if name in ("x0", "mask_id", "t", "fixed")},
            "k": (0, 99, 1.5, "1"),
            "n_y": (0, 1.5, "1"),
            "positions": NO_NAME,
            "temperature": (-1.0, NAN, "hot"),
            "top_p": (0.0, 1.5, "x"),
            "mdlm_weight": ("x", NAN),
        },
    ),
    "losses.proseco_loss": (
        losses.proseco_loss,
        {"model": MODEL, "x0": X0, "mask_id": MASK},
        {
            **{name: values for name, values in OF_LOSS.items() if name in ("x0", "mask_id", "t", "schedule")},
            "inputs": NO_NAME,
            "input_positions": NO_NAME,
            "temperature": (-1.0, NAN, "hot"),
        },
    ),
    "heads.QualityHead": (
        heads.QualityHead,
        {"hidden_size": 8},
        {
            "hidden_size": (0, 1.5, "8", None, True),
            "norm": ("batch", 3, True),
            "mlp_hidden": (0, 1.5, "8"),
            "condition_size": (0, 1.5, "8"),
            "eps": (-1.0, NAN, "x", None),
        },
    ),
    "heads.QualityHead(hidden)": (
        lambda hidden: HEAD(hidden),
        {"hidden": HIDDEN},
        {"hidden": (HIDDEN[:, :7], "text", [[0.0] * 8], HIDDEN.long())},
    ),
    "heads.attach": (
        heads.attach,
        {"model": MODEL, "head": HEAD, "module": "norm"},
        {
            "model": (None, "gpt", torch.zeros(3)),
            "head": (None, 3, "mlp"),
            "module": (3, ["norm"]),
            "capture": NO_NAME,
            "logits": ("logits", 3),
            "condition": ("condition", 3),
        },
    ),
    "Canvas.from_prompts": (
        Canvas.from_prompts,
        {"prompts": [[1, 2], [3]], "mask_id": MASK, "new_tokens": 2, "pad_id": 0},
        {
            "prompts": ("one", ["one"], [["one"]], [1, 2], 5, {"text": 1}, [None], [[1, None]], [], [[-1]], [[0.5]]),
            "mask_id": (-1, 1.5, None, "11", [11], True),
            "new_tokens": (-1, 1.5, "2", True, [1], [1, "2"]),
            "length": (-1, 1.5, "8", True),
            "pad_id": (-1, 1.5, "0", [0]),
            "padding": NO_NAME,
            "num_return_sequences": (0, 1.5, "2", None),
        },
    ),
    "Canvas.sequences": (
        Canvas.from_prompts([[1, 2]], mask_id=MASK, new_tokens=2).sequences,
        {"tokens": torch.zeros(1, 4, dtype=torch.int64)},
        {"tokens": ([[1, 2, 3, 4]], torch.zeros(4), torch.zeros(1, 3), "text"), "eos_id": (-1, 1.5, "2", [2, "3"])},
    ),
    "adapters.Guided": (
        adapters.Guided,
        {"model": MODEL, "scale": 1.0},
        {
            "model": (None, "gpt", 3),
            "scale": (NAN, INF, "1", True, None, [1.0]),
            "keep": ("<s>", [-1], [1.5]),
            "refresh": (0, 1.5, True, "2"),
        },
    ),
    "adapters.ConditionGuided": (
        adapters.ConditionGuided,
        {"model": MODEL, "gamma": 2.0, "null": torch.zeros(())},
        {"model": (None, 3), "gamma": (NAN, "2", None, True), "null": (None, 0, [0.0]), "in_corrections": NO_FLAG},
    ),
    "adapters.Steered": (
        adapters.Steered,
        {"model": MODEL, "steering": MODEL},
        {"model": (None, 3), "steering": (None, 3, "gpt"), "scale": (NAN, "1", True, None)},
    ),
    "adapters.RightShifted": (adapters.RightShifted, {"model": MODEL}, {"model": (None, 3, "gpt")}),
    "adapters.ShadowBlock": (
        adapters.ShadowBlock, {"model": MODEL}, {"model": (None, 3, "gpt", lambda tokens: tokens)}
    ),
    "adapters.Stability": (
        adapters.Stability,
        {"model": MODEL},
        {"model": (None, 3, "gpt"), "history": (0, -1, 1.5, "2", None, True)},
    ),
    "adapters.Combined": (
        adapters.Combined,
        {"autoregressive": MODEL, "masked": MODEL, "decoder": MODEL.out},
        {"autoregressive": (None, 3, "gpt"), "masked": (None, 3), "decoder": (None, 3, "linear")},
    ),
    "caches.PrefixCache": (caches.PrefixCache, {"model": HashLM(COMPAT)}, {"model": (None, 3, "gpt")}),
    "caches.DualCache": (caches.DualCache, {"model": HashLM(COMPAT)}, {"model": (None, 3, "gpt")}),
    "compat.llada.generate": (
        with_model(llada.generate),
        BLOCKS,
        {
            **OF_BLOCKS,
            "cfg_scale": (NAN, "1", None),
            "noise": ("gumbel", None),
            "quirks": ("unknown", 3),
            "attention_mask": (X0[0], "padding", torch.ones(2, 4)),
        },
    ),
    "compat.d1.generate": (
        with_model(d1.generate), BLOCKS, {name: OF_BLOCKS[name] for name in ("prompt", "steps", "mask_id")}
    ),
    "compat.fast_dllm.generate": (
        with_model(fast_dllm.generate),
        BLOCKS,
        {**OF_BLOCKS, "threshold": (-0.1, 1.5, NAN, "x"), "factor": (-1, NAN, "x"), "step_callback": (3, "print")},
    ),
    "compat.fast_dllm.get_transfer_index": (
        fast_dllm.get_transfer_index,
        {"logits": LOGITS, "temperature": 0.0, "remasking": "low_confidence", "mask_index": WHICH, "x": TOKENS,
         "num_transfer_tokens": torch.ones(2, dtype=torch.int64)},
        {
            "logits": (None, LOGITS.long(), LOGITS[0]),
            "temperature": (-1.0, NAN, "hot"),
            "remasking": ("high", None),
            "mask_index": (None, WHICH.float(), WHICH[:1]),
            "x": (None, TOKENS[:1], TOKENS.tolist()),
            "num_transfer_tokens": (None, 1, [1, 1], torch.ones(3, dtype=torch.int64)),
            "ties": ("highest", None),
        },
    ),
    "compat.proseco.generate": (
        with_model(proseco.generate),
        BLOCKS,
        {**OF_BLOCKS, "max_corrector_steps_per_loop": (-1, 1.5, None), "apply_corrector_every_n_steps": (0, 1.5, None)},
    ),
    "compat.dream.diffusion_generate": (
        with_model(dream.diffusion_generate),
        {"model": None, "inputs": X0, "max_new_tokens": 4, "steps": 2, "mask_token_id": MASK},
        {
            "inputs": NO_PROMPT,
            "max_new_tokens": (-1, 1.5, "4", True),
            "steps": (0, 1.5, "2"),
            "mask_token_id": (-1, "11", 1.5),
            "alg": ("best", 3),
            "temperature": (-1.0, NAN, "hot"),
            "top_p": (1.5, "x"),
            "top_k": (-1, 1.5, "x"),
            "alg_temp": (-1.0, "x"),
            "num_return_sequences": (0, 1.5, "2"),
            "attention_mask": (X0[0], "padding", torch.ones(2, 4)),
        },
    ),
    "compat.mmada.mmu_generate": (
        lambda **settings: mmada.mmu_generate(lambda tokens, attention_bias=None: HashLM(COMPAT)(tokens), **settings),
        {"idx": X0, "max_new_tokens": 8, "steps": 4, "block_length": 4, "mask_id": MASK},
        {
            "idx": NO_PROMPT,
            "max_new_tokens": (-8, 7, "8", 2.5),
            "steps": (0, 2.5, "4"),
            "block_length": (0, "4"),
            "cfg_scale": (NAN, "1"),
            "attention_mask": (torch.ones(2, 5), "padding", [[1, 1]]),
        },
    ),
    "compat.p2.p2_sampling": (
        lambda **settings: p2.p2_sampling(model=lambda tokens: HashLM(COMPAT)(tokens).logits, **settings),
        {"xt": TOKENS, "mask_id": MASK, "num_steps": 2},
        {
            "xt": (None, TOKENS.float(), TOKENS[0], TOKENS.tolist(), "text"),
            "mask_id": (-1, "11"),
            "num_steps": (0, 2.5, "2"),
            "tau": (-1.0, NAN, "hot"),
            "eta": (-1.0, NAN, "x"),
            "kappa_fn": (None, 3, lambda t: "x"),
            "score_fn": (None, 3),
            "planner": (3, "gpt"),
            "noise": ("gumbel", None),
            "seed": (1.5, "0"),
        },
    ),
    "compat.smdm.diff_sample": (
        lambda **settings: smdm.diff_sample(lambda tokens: HashLM(COMPAT)(tokens).logits, None, **settings),
        {"prompt": X0, "steps": 2, "context_length": 6, "dim": MASK, "device": "cpu"},
        {
            "prompt": ("hello", X0.float(), X0[0], 5),
                        "steps": (0, 2.5, "2"),
            "temperature": (-1.0, NAN, "hot"),
            "cfg_scale": (NAN, "1", None),
            "context_length": (2, -1, 2.5, "6"),
            "eps": (-0.1, 1.5, NAN, "x"),
            "dim": (-1, "11", 1.5),
        },
    ),
    "compat.dllm.MDLMSampler": (
        of_dllm("MDLMSampler"),
        {"max_new_tokens": 4, "steps": 2, "block_size": 4},
        {
            "max_new_tokens": (-1, 1.5, "4"),
            "steps": (0, 1.5, "2"),
            "block_size": (0, 1.5, "4"),
            "temperature": (-1.0, NAN, "hot"),
            "remasking": ("high", None),
            "cfg_scale": (NAN, "1"),
            "suppress_tokens": (["a"], "3"),
            "ties": ("highest", None),
            "quirks": ("unknown", 3),
            "seed": (1.5, "0"),
        },
    ),
}  # fmt: skip
COMMANDS = {
    "--puzzles": ["compare", "--puzzles", "many"],
    "--puzzles, --calls": ["compare", "--puzzles", "-1"],
    "--calls": ["compare", "--calls", "few"],
    "--only": ["compare", "--only", "nobody", "--puzzles", "1"],
    "--temperature": ["compare", "--temperature", "hot"],
    "--seed": ["compare", "--seed", "1.5"],
    "invalid choice": ["dance"],
    "unrecognized": ["doctor", "--loud"],
}
