"""compat.diffusers: recorded runs of the pipelines, the law of its draws, and life without diffusers."""

import importlib
import importlib.util
import sys

import fake_diffusers
import numpy as np
import pytest
import torch
from hash_model import HashModel, integer_hash_logits
from recorded import cases, recorded
from scipy import stats

import mdmcorrect.compat.diffusers as module


@pytest.fixture
def schedulers(monkeypatch):
    """The module on top of diffusers, or on what stands for it here."""
    if importlib.util.find_spec("diffusers") is None:
        fake_diffusers.install(monkeypatch)
    yield importlib.reload(module)
    monkeypatch.undo()
    importlib.reload(module)


def refine(scheduler, model, ids, generator, **settings):
    """Block after block, as diffusers' LLaDA2 pipeline drives its scheduler."""
    length, block, mask = settings["gen_length"], settings["block_length"], settings["mask_token_id"]
    editing = settings.get("editing_threshold", 0.5)
    steps = min(settings["num_inference_steps"], length // settings.get("minimal_topk", 1))
    scheduler.set_timesteps(steps, block_length=block)
    prompt = ids.shape[1]
    blocks = -(-(prompt + length) // block)
    x = torch.full((len(ids), blocks * block), mask)
    x[:, :prompt] = ids
    real = (torch.arange(blocks * block) < prompt + length).long().expand_as(x)
    finished = torch.zeros(len(ids), dtype=torch.bool)
    for number in range(prompt // block, blocks):
        end, step, after = (number + 1) * block, 0, 0
        window = x[:, :end]
        given = torch.arange(end - block, end) < prompt
        while True:
            tokens = window[:, -block:].clone()
            masks = bool((tokens == mask).any())
            after += not masks
            result = scheduler.step(
                model_output=model(window, real[:, :end])[:, -block:],
                timestep=step,
                sample=tokens,
                mask_token_id=mask,
                temperature=settings.get("temperature", 0.0),
                top_p=settings.get("top_p"),
                top_k=settings.get("top_k"),
                sampling_method=settings.get("sampling_method", "multinomial"),
                threshold=settings.get("threshold", 0.7),
                editing_threshold=editing,
                minimal_topk=settings.get("minimal_topk", 1),
                prompt_mask=given,
                generator=generator,
            )
            moved = (result.transfer_index | result.editing_transfer_index) & ~finished[:, None]
            window[:, -block:] = torch.where(moved, result.prev_sample, tokens)
            finished = scheduler.check_eos_finished(
                cur_x=window,
                sampled_tokens=result.sampled_tokens,
                final_transfer=moved,
                finished=finished,
                eos_token_id=settings["eos_token_id"],
                mask_token_id=mask,
                prompt_length=prompt,
            )
            step += masks
            edited = editing is not None and bool(result.editing_transfer_index.any())
            if finished.all() or (step >= steps if masks else not edited or after > 16):
                break
        x[:, :end] = window
        if finished.all():
            break
    return x[:, prompt : prompt + length]


@pytest.mark.parametrize("case", [case for case in cases("diffusers") if case.values[0]["name"].startswith("LLaDA2")])
def test_block_refinement_equals_the_recorded_run(case, schedulers):
    model = HashModel(case["model"])
    scheduler = schedulers.BlockRefinementScheduler()
    scheduler = schedulers.BlockRefinementScheduler.from_config(scheduler.config)
    ids = torch.tensor(case["inputs"]["input_ids"])
    generator = torch.Generator().manual_seed(5)  # that of the recording; a temperature draws from it
    assert refine(scheduler, model, ids, generator, **case["kwargs"]).tolist() == case["output"]
    assert model.calls == case["nfe"]


@pytest.mark.parametrize("case", [case for case in cases("diffusers") if case.values[0]["name"].startswith("Amused")])
def test_amused_equals_the_recorded_run(case, schedulers):
    kwargs, model = case["kwargs"], HashModel(case["model"])
    scheduler = schedulers.AmusedScheduler(
        mask_token_id=case["model"]["mask_id"], masking_schedule=kwargs["masking_schedule"]
    )
    temperature = kwargs["temperature"]
    scheduler.set_timesteps(
        kwargs["steps"], temperature=tuple(temperature) if isinstance(temperature, list) else temperature
    )
    x = torch.full((kwargs["B"], kwargs["n"]), case["model"]["mask_id"])
    generator = torch.Generator().manual_seed(9)
    for timestep in scheduler.timesteps:
        x = scheduler.step(model(x), timestep, x, generator=generator).prev_sample
    assert x.tolist() == case["output"]


@pytest.mark.parametrize("case", [case for case in cases("diffusers") if case.values[0]["name"].startswith("Entropy")])
def test_entropy_bound_equals_the_recorded_run(case, schedulers):
    kwargs, model = case["kwargs"], HashModel(case["model"])
    scheduler = schedulers.EntropyBoundScheduler(entropy_bound=kwargs["entropy_bound"])
    scheduler.set_timesteps(kwargs["steps"])
    generator = torch.Generator().manual_seed(9)
    x = torch.randint(0, case["model"]["V"], torch.tensor(case["output"]).shape, generator=generator)
    for timestep in scheduler.timesteps:
        x = scheduler.step(model(x), timestep, x, generator=generator).prev_sample
    assert x.tolist() == case["output"]


LOGITS = torch.tensor([[1.0, 0.4, -0.6, 0.0, -20.0], [0.0, 0.9, 0.3, -1.0, -20.0]])


def filtered(logits, temperature, top_k):
    p = torch.softmax(logits.double() / temperature, -1).numpy()
    p[p < np.sort(p)[-top_k]] = 0
    return p / p.sum()


@pytest.mark.parametrize("generator", [None, 3], ids=["exact", "torch"])
def test_refinement_draws_from_the_filtered_softmax(schedulers, generator):
    torch.manual_seed(2)
    scheduler = schedulers.BlockRefinementScheduler()
    scheduler.set_timesteps(1, block_length=2)
    rows = 20_000
    result = scheduler.step(
        LOGITS.expand(rows, 2, 5),
        0,
        torch.full((rows, 2), 4),
        mask_token_id=4,
        temperature=0.8,
        top_k=3,
        generator=generator and torch.Generator().manual_seed(generator),
    )
    law = np.outer(*(filtered(LOGITS[i], 0.8, 3) for i in (0, 1)))
    joint = np.bincount((result.prev_sample[:, 0] * 5 + result.prev_sample[:, 1]).numpy(), minlength=25).reshape(5, 5)
    assert stats.chisquare(joint[law > 0], law[law > 0] * rows).pvalue > 1e-4
    assert joint[law == 0].sum() == 0
    expected = torch.tensor([filtered(LOGITS[0], 0.8, 3)[token] for token in result.sampled_tokens[:50, 0]])
    torch.testing.assert_close(result.sampled_probs[:50, 0], expected.float())


def test_entropy_bound_keeps_what_is_sure_and_draws_the_rest_anew(schedulers):
    torch.manual_seed(2)
    scheduler = schedulers.EntropyBoundScheduler(t_max=0.8, t_min=0.4)
    scheduler.set_timesteps(2)
    rows = 20_000
    logits = torch.cat([LOGITS, LOGITS[:1] * 9]).expand(rows, 3, 5)  # the last position is nearly certain
    for step, temperature in ((0, 0.8), (1, 0.6)):
        p = torch.softmax(logits[0].double() / temperature, -1).numpy()
        entropy = -(p * np.log(p)).sum(-1)
        tokens, accepted, drawn, sure, scaled = scheduler.step(
            logits, step, torch.zeros(rows, 3, dtype=torch.int64), entropy_bound=entropy[2] + 1e-3, return_dict=False
        )
        assert accepted[0].tolist() == [entropy[0] < entropy[1], entropy[1] < entropy[0], True]
        torch.testing.assert_close(scaled, logits / temperature)
        torch.testing.assert_close(sure, scaled.softmax(-1).gather(-1, drawn[..., None])[..., 0])
        kept = 0 if entropy[0] < entropy[1] else 1
        assert stats.chisquare(np.bincount(tokens[:, kept], minlength=5)[:4], p[kept, :4] * rows).pvalue > 1e-4
        assert stats.chisquare(np.bincount(tokens[:, 1 - kept], minlength=5)).pvalue > 1e-4


def test_amused_masks_by_noisy_confidence_and_keeps_two_dimensions(schedulers):
    torch.manual_seed(2)
    scheduler = schedulers.AmusedScheduler(mask_token_id=4, masking_schedule="linear")
    scheduler.set_timesteps(2, temperature=(1.0, 1.0))
    rows, sure = 30_000, torch.zeros(1, 4, 5)
    sure[0, :, 0] = torch.tensor([0.0, 1.0, 2.0, 8.0])
    sure[..., 4] = -20
    logits = sure.expand(rows, 4, 5).permute(0, 2, 1).reshape(rows, 5, 2, 2)
    result = scheduler.step(logits, 1, torch.full((rows, 2, 2), 4))
    assert result.prev_sample.shape == (rows, 2, 2)
    masked = result.prev_sample.flatten(1) == 4
    assert (masked.sum(1) == 2).all()
    # Given the drawn probabilities, the two that stay are the two best keys log p + Gumbel.
    p = torch.softmax(sure[0], -1).gather(1, result.pred_original_sample.flatten(1).T).T.double().numpy()
    keys = np.log(p) + np.random.default_rng(0).gumbel(size=p.shape)
    again = np.argsort(np.argsort(keys)) < 2
    table = np.stack([masked.sum(0).numpy(), again.sum(0)])
    assert stats.chi2_contingency(table)[1] > 1e-4


def test_uniform_corruption_is_left_to_diffusers(schedulers, monkeypatch):
    scheduler = schedulers.BlockRefinementScheduler()
    monkeypatch.setattr(schedulers.BlockRefinementScheduler.__mro__[1], "step", lambda self, *a, **k: "theirs")
    assert scheduler.step(LOGITS[None], 0, torch.zeros(1, 2, dtype=torch.int64)) == "theirs"
    with pytest.raises(ValueError, match="`temperature` must be >= 0"):
        scheduler.step(LOGITS[None], 0, torch.zeros(1, 2, dtype=torch.int64), mask_token_id=4, temperature=-1.0)


def test_without_diffusers_the_module_imports_and_says_what_is_missing(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "diffusers"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "diffusers", None)
    importlib.reload(module)
    for make in (module.AmusedScheduler, module.BlockRefinementScheduler, module.EntropyBoundScheduler.from_config):
        with pytest.raises(ImportError, match="pip install diffusers"):
            make()
    monkeypatch.undo()
    importlib.reload(module)


@recorded("half_precision", "entropy_bound")
def test_a_step_within_the_bound_equals_the_recorded_one(case, schedulers):
    spec = {**case["model"], "dtype": getattr(torch, case["model"]["dtype"])}
    tokens = torch.tensor(case["tokens"])
    scheduler = schedulers.EntropyBoundScheduler()
    scheduler.set_timesteps(32)
    step = scheduler.step(
        integer_hash_logits(tokens, **spec),
        case["timestep"],
        tokens,
        entropy_bound=case["entropy_bound"],
        generator=torch.Generator().manual_seed(5),
    )
    assert step.accepted_index.int().tolist() == case["accepted"]
    assert step.prev_sample.tolist() == case["output"]


@pytest.mark.parametrize(
    ("canvas", "ends"),
    [
        ([9, 5, 3, 2, 9], True),  # a mask in the prompt, and one after the end
        ([5, 5, 9, 2, 9], False),  # one before it
        ([5, 2, 3, 4, 9], False),  # an end in the prompt
        ([5, 2, 3, 2, 9], False),  # which is the first
        ([5, 5, 3, 4, 9], False),
    ],
)
def test_a_row_has_ended_where_no_mask_is_left_before_its_end(canvas, ends, schedulers):
    now = torch.tensor([canvas])
    finished = schedulers.BlockRefinementScheduler.check_eos_finished(
        now, now, now == 2, torch.zeros(1, dtype=torch.bool), eos_token_id=2, mask_token_id=9, prompt_length=2
    )
    assert finished.tolist() == [ends]
