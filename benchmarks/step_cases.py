"""One step of a sampler halfway through a run, as its authors' code makes it and as ours does.

The model is prepared logits, so that only the step is measured. Ours is the engine's step, with its question to the
host. A quarter of the canvas is a prompt; samplers that decode in blocks of 32 are halfway through the block in the
middle, the others have half of the generated positions filled.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import original_steps as original
import torch
from torch import Tensor

from mdmcorrect.model import Output, Request
from mdmcorrect.samplers import (
    MDLM,
    P2,
    BlockPRISM,
    BlockProSeCo,
    Dream,
    FastDLLM,
    LLaDA,
    ReMDM,
    Sampler,
    State,
)
from mdmcorrect.samplers.forward import Answer, Forward
from mdmcorrect.samplers.presets.preset import Preset
from mdmcorrect.samplers.state import initial_state

BLOCK, BLOCK_STEPS = 32, 16
THRESHOLD, ETA, EPS = 0.9, 0.02, 1e-3


@dataclass(frozen=True)
class Halfway:
    """A canvas ``[B, L]`` in the middle of a run; `blocks`: decoded in blocks."""

    logits: Tensor
    mask_id: int
    blocks: bool
    quality: Tensor = field(init=False)

    def __post_init__(self) -> None:
        generator = torch.Generator(self.device).manual_seed(1)
        noise = torch.randn(self.logits.shape[:2], generator=generator, device=self.device)
        object.__setattr__(self, "quality", noise.mul(2).add(2).sigmoid())

    @property
    def device(self) -> torch.device:
        return self.logits.device

    @property
    def prompt(self) -> int:
        return self.logits.shape[1] // (4 * BLOCK) * BLOCK

    @property
    def generated(self) -> int:
        return self.logits.shape[1] - self.prompt

    @property
    def steps(self) -> int:
        """Two positions a step."""
        return self.generated // 2

    @property
    def window(self) -> int:
        return self.generated // BLOCK // 2

    @property
    def end(self) -> int:
        """Of the block."""
        return self.prompt + (self.window + 1) * BLOCK

    @cached_property
    def state(self) -> State:
        batch, length, vocab = self.logits.shape
        generator = torch.Generator(self.device).manual_seed(2)
        tokens = torch.randint(0, vocab, (batch, length), generator=generator, device=self.device)
        tokens[tokens == self.mask_id] = 0
        first, last = (self.end - BLOCK, self.end) if self.blocks else (self.prompt, length)
        order = torch.rand(batch, last - first, generator=generator, device=self.device).argsort(1)
        tokens[:, first:last][order < (last - first) // 2] = self.mask_id
        tokens[:, last:] = self.mask_id
        fixed = (torch.arange(length, device=self.device) < self.prompt).expand_as(tokens)
        state = initial_state(tokens, mask_id=self.mask_id, fixed=fixed, seed=torch.arange(batch, device=self.device))
        made = BLOCK_STEPS // 2 if self.blocks else self.steps // 2
        window = self.window if self.blocks else 0
        return replace(
            state,
            window=state.window + window,
            window_step=state.window_step + made,
            step=state.step + window * BLOCK_STEPS + made,
            quota=state.quota + (BLOCK if self.blocks else self.generated),
        )

    @property
    def count(self) -> Tensor:
        return torch.full((len(self.logits),), BLOCK // BLOCK_STEPS, device=self.device)

    def times(self, eps: float) -> tuple[Tensor, Tensor]:
        """Of this step, ``[B]`` float32."""
        grid = torch.linspace(1, eps, self.steps + 1, device=self.device)
        i = self.steps // 2
        return grid[i].expand(len(self.logits)), grid[i + 1].expand(len(self.logits))

    def answer(self, tokens: Tensor, request: Request, *, shift: int = 0) -> Output:
        """The model."""
        return Output(logits=self.logits, quality=self.quality, shift=shift)


def ask_for_every_row(forward: Forward, tokens: Tensor) -> None:
    """Has every row scored, as most originals do, whatever the step needs."""
    ask, everything = forward.ask, torch.ones_like(tokens, dtype=torch.bool)

    def asked(*arguments: Any, **options: Any) -> Answer:
        answer = ask(*arguments, **options)
        object.__setattr__(answer.request, "wanted", everything)
        return answer

    forward.ask = asked  # type: ignore[method-assign]


def engine_step(case: Halfway, sampler: Sampler, *, every_row: bool = False, shift: int = 0) -> Callable[[], Tensor]:
    sampler = replace(sampler, plan=sampler.plan, cache=False)  # every row is in the forward, as in theirs
    engine = sampler.engine(partial(case.answer, shift=shift), mask_id=case.mask_id)
    if every_row:
        ask_for_every_row(engine.forward, case.state.tokens)
    steps = engine.steps_of(case.state)
    standing = steps.begin(case.state)

    @torch.no_grad()
    def run() -> Tensor:
        """From one forward to the next: the question to the host, the forward, the scores, the next canvas."""
        return steps.make(standing, steps.ahead(standing, first=False)).tokens

    return run


@dataclass(frozen=True)
class Contest:
    """A sampler's step: the authors', ours on the rows that theirs reads, ours as it is."""

    theirs: Callable[[], Tensor]
    same_rows: Callable[[], Tensor]
    ours: Callable[[], Tensor]


def contest(name: str, temperature: float, logits: Tensor, mask_id: int) -> Contest:
    case = Halfway(logits, mask_id, blocks=name in ("llada", "fast_dllm", "proseco", "prism"))
    x, block_steps = case.state.tokens, BLOCK_STEPS * (case.generated // BLOCK)
    common: dict[str, Any] = {"mask_id": mask_id}
    warm = {**common, "temperature": temperature}
    block: dict[str, Any] = {"block_length": BLOCK, "temperature": temperature}
    shift = 0
    theirs: Callable[[], Tensor]
    preset: Preset
    if name == "llada":
        theirs = partial(original.llada, x, logits, **warm, end=case.end, count=case.count)
        preset = LLaDA(steps=block_steps, **block)
    elif name == "dream":
        t, s = case.times(EPS)
        theirs = partial(original.dream, x, logits, **warm, share=1 - s[0] / t[0])
        preset, shift = Dream(steps=case.steps, temperature=temperature, alg="maskgit_plus", eps=EPS), 1
    elif name == "fast_dllm":
        theirs = partial(original.fast_dllm, x, logits, **warm, end=case.end, threshold=THRESHOLD)
        preset = FastDLLM(threshold=THRESHOLD, **block)
    elif name == "mdlm":
        t, s = case.times(1e-5)
        theirs = partial(original.mdlm, x, logits, **common, t=t, s=s)
        preset = MDLM(steps=case.steps)
    elif name == "remdm":
        t, s = case.times(1e-5)
        theirs = partial(original.remdm, x, logits, **common, t=t, s=s, eta=ETA)
        preset = ReMDM(steps=case.steps, eta=ETA)
    elif name == "p2":
        kept = torch.tensor((case.steps // 2 + 1) / case.steps, device=case.device)
        theirs = partial(original.p2, x, logits, case.state.fixed, **warm, kept=kept)
        preset = P2(steps=case.steps, temperature=temperature, revisit="draft")
    elif name == "proseco":
        columns = {"start": case.prompt, "end": case.end}
        theirs = partial(original.proseco, x, lambda tokens: logits, **warm, **columns, count=case.count, passes=4)
        preset = BlockProSeCo(steps=block_steps, correct_every=1, **block)
    else:
        columns = {"start": case.end - BLOCK, "end": case.end}
        remask = torch.ones_like(case.count)
        theirs = partial(original.prism, x, logits, case.quality, **warm, **columns, count=case.count, remask=remask)
        preset = BlockPRISM(steps=block_steps, remask_count=BLOCK_STEPS, **block)
    sampler = preset.parts()
    every_row = name != "dream"  # which reads masked rows
    return Contest(
        theirs,
        engine_step(case, sampler, every_row=every_row, shift=shift),
        engine_step(case, sampler, shift=shift),
    )
