"""Cases of sampler_step: one step closed and the next one opened, against the Python parts that define them."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..model import Output
from ..ops.sampler_step import sampler_step
from ..samplers import PRISM, Ancestral, Confidence, EntropyBounded, FixedSteps, LLaDA, Pool, ProSeCo, ReMDM, Sampler
from ..samplers.lowering import RowField
from ..samplers.native_steps import NativeSteps
from ..samplers.part_steps import PartSteps
from .cases import Arguments, Case, Results
from .comparison import expect_near

VOCABULARY = 13
MASK = VOCABULARY - 1
SAMPLERS: dict[str, Sampler] = {
    "even split": LLaDA(steps=9, temperature=0.7).parts(),
    "blocks": LLaDA(steps=24, block_length=8).parts(),
    "entropy bound": EntropyBounded(gamma=2.5).parts(),
    "quality": PRISM(steps=9, remask_count=2).parts(),
    "posterior": ReMDM(steps=9, eta=0.3).parts(),
    "posterior by confidence": Sampler(steps=9, plan=Ancestral(Confidence(0.7))),
    "pool": Sampler(steps=9, plan=Pool()),
    "strict pool": Sampler(steps=9, plan=Pool(cut="strict")),
    "corrections": ProSeCo(steps=9).parts(),
}
SHAPES = [(3, 37), (2, 300), (2, 4100)]  # few positions, more than a block's threads, more than shared memory holds
STEPS = 3  # of which the last is asked


class Stepped(NamedTuple):
    """What the operator says that the parts say too."""

    tokens: Tensor
    commit_score: Tensor
    commits: Tensor
    state: Tensor
    ahead: Tensor
    marks: Tensor


def model(tokens: Tensor, request: Any) -> Output:
    """Integer arithmetic on what stands before and on the place."""
    length, ids = tokens.shape[1], torch.arange(VOCABULARY)
    state = (tokens + 7).cumsum(1) * 7919 % 10007 + torch.arange(length) * 1009
    mixed = (state[..., None] * 65537 + ids * 40503) % 99991
    mixed = mixed * mixed % 99991
    return Output(logits=mixed.float() / 99991 * 6, quality=(state * 7907 % 9973).float() / 9973)


def stepped(expected: tuple[Tensor, ...], **arguments: Any) -> Stepped:
    rows, tokens, commit_score, commits, marks, _ = sampler_step(**arguments)
    state, ahead = rows.narrow(1, 0, RowField.WINDOWS), rows.narrow(1, RowField.LIVE, 4)
    return Stepped(tokens, commit_score, commits, state, ahead, marks.narrow(0, 0, 3))


def played(steps: Any, state: Any) -> tuple[Any, Any]:
    """The run after so many steps, and what is known of the next one."""
    standing = steps.begin(state)
    for index in range(STEPS):
        standing = steps.make(standing, steps.ahead(standing, first=not index))
    return standing, steps.ahead(standing, first=False)


def _recorded(steps: NativeSteps) -> dict[str, Any]:
    """What the operator's last call was given: filled when it comes. A dispatch mode would see it too, and take as long
    as all the cases to be imported."""
    prepared, given = steps.step, dict[str, Any]()
    signature = inspect.signature(prepared)

    def step(*arguments: Any) -> Any:
        bound = signature.bind(*arguments)
        bound.apply_defaults()
        given.update(bound.arguments, drawn=bound.arguments["marks"])
        del given["marks"]
        return prepared(*arguments)

    steps.step = step  # type: ignore[assignment]
    names = ("fixed", "block", "positions", "real"), ("kept_share", "noise_scales")
    for group, tensors in zip(names, (prepared.canvas, prepared.tables), strict=True):
        given.update(zip(group, tensors, strict=True))
    given["plan"] = prepared.plan
    return given


def asked(sampler: Sampler, shape: tuple[int, int], seed: int) -> Arguments:
    """Arguments of the last step's call, and what the parts make of it."""
    draw = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, MASK, shape, generator=draw)
    tokens[torch.rand(shape, generator=draw) < 0.8] = MASK
    run = FixedSteps(sampler, model, mask_id=MASK)
    state = run.start(tokens, seed=torch.arange(shape[0]) + seed)
    engine = run.engine
    assert engine.native is not None
    steps = NativeSteps(engine, engine.native, engine.window.layout(state, engine.steps), state)
    call = _recorded(steps)
    played(steps, state)
    parts, ahead = played(PartSteps(engine, engine.window.layout(state, engine.steps)), state)
    columns = [getattr(parts.state, field.name.lower()).long() for field in list(RowField)[: RowField.WINDOWS]]
    finishing = torch.zeros_like(parts.state.done)
    flags = [~parts.state.done, ahead.rows.mask, ahead.correcting.mask, finishing]
    marks = torch.stack([parts.update.committed, parts.update.remasked, parts.corrected])
    after = parts.state
    known = (after.tokens, after.commit_score, after.commits, torch.stack(columns, 1), torch.stack(flags, 1), marks)
    return {**call, "expected": known}


def check(results: Results, arguments: Arguments) -> None:
    for name, expected in zip(Stepped._fields, arguments["expected"], strict=True):
        rtol = 2e-6 if expected.is_floating_point() else 0.0
        expect_near(name, results[name], expected.double().numpy() if rtol else expected.numpy(), rtol=rtol)


def steps() -> Iterator[Case]:
    for name, sampler in SAMPLERS.items():
        for shape in SHAPES:

            def make(seed: int, sampler: Sampler = sampler, shape: tuple[int, int] = shape) -> Arguments:
                return asked(sampler, shape, seed)

            yield Case("sampler_step", f"{name}, {list(shape)}", stepped, make, check)


CASES = [*steps()]
