"""The few things of diffusers that its schedulers' subclasses stand on, for machines without diffusers."""

import sys
from types import MappingProxyType, ModuleType, SimpleNamespace

import torch


class Output(SimpleNamespace):
    def __init__(self, *values, **names):
        super().__init__(**dict(zip(("prev_sample", "pred_original_sample"), values, strict=False)), **names)


class Configured:
    defaults: MappingProxyType

    def __init__(self, **config):
        self.config = SimpleNamespace(**{**self.defaults, **config})

    @classmethod
    def from_config(cls, config):
        return cls(**vars(config))


class BlockRefinementScheduler(Configured):
    defaults = MappingProxyType(
        {
            "block_length": 32,
            "num_inference_steps": 32,
            "threshold": 0.95,
            "editing_threshold": None,
            "minimal_topk": 1,
        }
    )
    _transfer_schedule = None

    def set_timesteps(self, steps, device=None, block_length=None):
        self.num_inference_steps, length = steps, block_length or self.config.block_length
        self._transfer_schedule = length // steps + (torch.arange(steps) < length % steps).long()

    def step(self, *args, **kwargs):
        return "diffusers' own step"


class AmusedScheduler(Configured):
    defaults = MappingProxyType({"masking_schedule": "cosine"})

    def set_timesteps(self, steps, temperature=(2, 0), device=None):
        self.timesteps = torch.arange(steps).flip(0)
        ends = temperature if isinstance(temperature, (tuple, list)) else (temperature, 0.01)
        self.temperatures = torch.linspace(*ends, steps)


class EntropyBoundScheduler(Configured):
    defaults = MappingProxyType({"entropy_bound": 0.1, "t_max": 0.8, "t_min": 0.4, "num_inference_steps": 32})

    def set_timesteps(self, steps, device=None):
        self.num_inference_steps, self.timesteps = steps, torch.arange(steps)


def install(monkeypatch):
    """Put the modules where an import finds them."""
    modules = {"diffusers": ModuleType("diffusers"), "diffusers.schedulers": ModuleType("schedulers")}
    for name, scheduler in (
        ("scheduling_amused", AmusedScheduler),
        ("scheduling_block_refinement", BlockRefinementScheduler),
        ("scheduling_entropy_bound", EntropyBoundScheduler),
    ):
        module = modules[f"diffusers.schedulers.{name}"] = ModuleType(name)
        setattr(module, scheduler.__name__, scheduler)
        setattr(module, f"{scheduler.__name__}Output", Output)
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
