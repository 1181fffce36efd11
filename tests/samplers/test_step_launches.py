"""What a step of FixedSteps costs on a CUDA device besides the model: operators that launch something, counted from the
model's return to its next call. The device is made up, so this needs none."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from crossings import WithoutGuards
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from mdmcorrect import _constants, _kernels, _native
from mdmcorrect.model import Output
from mdmcorrect.ops import _scoring
from mdmcorrect.samplers import MDLM, P2, PRISM, Dream, FastDLLM, FixedSteps, LLaDA, ProSeCo, ReMDM

B, L, V = 2, 256, 126_464
MOST = 8
LAUNCHES = {"mdmcorrect::score_tokens": 2}  # of an operator with more than one; tests/test_cuda_launches.py holds these
SAMPLERS = {
    "llada": LLaDA(steps=8),
    "llada, drawn": LLaDA(steps=8, temperature=0.7),
    "dream": Dream(steps=8),
    "dream, drawn": Dream(steps=8, temperature=0.4, top_p=0.9),
    "fast-dllm": FastDLLM(steps=8),
    "mdlm": MDLM(steps=8),
    "remdm": ReMDM(steps=8, eta=0.02),
    "p2": P2(steps=8),
    "prism": PRISM(steps=8, remask_count=2),
    "proseco": ProSeCo(steps=8),
}


class BetweenForwards(TorchDispatchMode):
    """For each time between two calls of the model, how often each operator ran that is no view."""

    def __init__(self) -> None:
        super().__init__()
        self.in_model, self.ran = False, [Counter()]

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if not (self.in_model or func.is_view or func.namespace == "prim"):
            self.ran[-1][func._schema.name] += 1
        return func(*args, **(kwargs or {}))

    def model(self, tokens, request):
        self.in_model = True
        logits = torch.empty(*tokens.shape, V, dtype=torch.bfloat16, device=tokens.device)
        quality = torch.empty(tokens.shape, device=tokens.device)
        self.in_model = False
        self.ran.append(Counter())
        return Output(logits=logits, quality=quality)


@pytest.fixture
def made_up_device(monkeypatch):
    """All kernels are there, and small tensors of numbers are kept as on a real one."""
    monkeypatch.setattr(_kernels, "CUDA_OPS", frozenset(_native.build_info()["ops"]))
    for module in (_constants, _scoring):
        monkeypatch.setattr(module, "_kept", {})
    place = object()  # no other test's: what is kept is fake
    monkeypatch.setattr(_constants, "place_of", lambda like: (like.device, place))
    monkeypatch.setattr(_constants, "keep", lambda into, key, value, at_most: into.setdefault(key, value))
    with FakeTensorMode(), WithoutGuards():
        yield


def launches(ran: Counter) -> int:
    return sum(times * LAUNCHES.get(name, 1) for name, times in ran.items())


@pytest.mark.parametrize("name", SAMPLERS)
def test_launches_between_two_forwards(name, made_up_device):
    counted = BetweenForwards()
    run = FixedSteps(SAMPLERS[name], counted.model, mask_id=V - 1)
    tokens, seed = (torch.empty(*shape, dtype=torch.int64, device="cuda") for shape in ((B, L), (B,)))
    with counted:
        run(tokens, steps=6, seed=seed)
    settled = counted.ran[len(counted.ran) // 2 : -2]  # what is made once has been made, and no row is finishing
    assert len(settled) >= 2
    assert all(ran["mdmcorrect::score_tokens"] == 1 for ran in settled)
    worst = max(settled, key=launches)
    assert launches(worst) <= MOST, f"{launches(worst)}: {dict(worst)}"
