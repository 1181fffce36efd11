"""Every sampler on the shipped checkpoints: boards solved against model calls, at settings nobody tuned.

Samplers are given the same temperature and about the same number of calls; what they used is measured. `evaluate` is
the study, with settings chosen on validation puzzles; this is the survey. Of the samplers there are, two are missing:
`LearnedOrder` reads an order that neither checkpoint was taught, `EntropyCanvas` is for models of uniform corruption.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mdmcorrect import samplers as s
from mdmcorrect.adapters import ShadowBlock

from .checkpoints import SHIPPED
from .figures import figure
from .files import replacing
from .puzzles import Puzzles
from .solve import BoardModel, solve

__all__ = ["METHODS", "Method", "Point", "compare", "markdown", "picture", "read_points", "wilson", "write_points"]

log = logging.getLogger(__name__)
Make = Callable[[int, float, Any], Callable[..., Any]]


@dataclass(frozen=True)
class Method:
    """One sampler: which family it is drawn with, its checkpoint, and how to make it for a budget of calls.

    `make(calls, temperature, model)`: the model is for samplers that read their draft with it. `free`: the number of
    calls is the sampler's own affair, so that one budget is enough. `adapter` is put around the model.
    """

    name: str
    family: str
    make: Make
    checkpoint: str = "prism"
    free: bool = False
    adapter: Callable[[Any], Any] = lambda model: model


@dataclass(frozen=True)
class Point:
    """What one sampler did with one budget: boards solved out of `boards`, mean calls per board, seconds."""

    name: str
    family: str
    calls: int
    solved: int
    boards: int
    nfe: float
    seconds: float

    @property
    def rate(self) -> float:
        return self.solved / self.boards


def _methods() -> Iterator[Method]:
    def ancestral(name: str, make: Make, **options: Any) -> Method:
        return Method(name, "ancestral", make, **options)

    yield ancestral("MDLM", lambda n, t, m: s.MDLM(steps=n, temperature=t))
    yield ancestral("first-hitting", lambda n, t, m: s.FirstHitting(temperature=t), free=True)
    for rule, eta in (("cap", 0.05), ("rescale", 0.1), ("conf", None)):
        yield ancestral(f"ReMDM-{rule}", lambda n, t, m, r=rule, e=eta: s.ReMDM(steps=n, rule=r, eta=e, temperature=t))
    yield ancestral("ReMDM-switch", lambda n, t, m: s.ReMDM(steps=n, eta=0.1, t_on=0.5, t_off=0.1, temperature=t))
    yield ancestral(
        "ReMDM-loop", lambda n, t, m: s.ReMDM(steps=n, eta=0.1, t_on=0.55, t_off=0.05, alpha_on=0.9, temperature=t)
    )
    yield ancestral("forward-backward", lambda n, t, m: s.ForwardBackward(steps=n, temperature=t))
    yield ancestral("DFM corrector", lambda n, t, m: s.DFM(steps=n, temperature=t))
    for by in ("confidence", "margin"):
        yield ancestral(
            f"informed ({by})",
            lambda n, t, m, by=by: s.InformedCorrector(steps=max(1, n // 2), count=2, by=by, temperature=t),
            checkpoint="proseco",
        )
    yield Method("P2", "planner", lambda n, t, m: s.P2(steps=n, temperature=t))
    yield Method("P2, eta 2", "planner", lambda n, t, m: s.P2(steps=n, eta=2.0, temperature=t))
    yield Method(
        "P2 (planner)",
        "planner",
        lambda n, t, m: s.P2(steps=n // 2, planner=m, temperature=t),
        checkpoint="proseco",  # which learned to answer where a token stands
    )
    yield Method("P2+", "planner", lambda n, t, m: s.P2Plus(steps=n, temperature=t))
    yield Method("MaskGIT", "planner", lambda n, t, m: s.MaskGIT(steps=n, choice_temperature=1.0, temperature=t))
    yield Method(
        "Token-Critic", "planner", lambda n, t, m: s.TokenCritic(steps=max(1, n // 2), critic=m, temperature=t)
    )
    for remasking in ("low_confidence", "random"):
        yield Method(
            f"LLaDA ({remasking.replace('_', ' ')})",
            "confidence",
            lambda n, t, m, r=remasking: s.LLaDA(steps=n, remasking=r, temperature=t),
        )
    for alg in ("origin", "topk_margin", "entropy"):
        yield Method(f"Dream ({alg})", "confidence", lambda n, t, m, a=alg: s.Dream(steps=n, alg=a, temperature=t))
    yield Method("Fast-dLLM", "confidence", lambda n, t, m: s.FastDLLM(threshold=1 - 10 ** (-n / 8), temperature=t))
    yield Method("entropy-bounded", "confidence", lambda n, t, m: s.EntropyBounded(gamma=10 ** (-n / 8), temperature=t))
    yield Method("MDiff4STR", "confidence", lambda n, t, m: s.MDiff4STR(steps=n), free=True)
    # LLaDA2.x's thresholds are of the distribution after the temperature, which its authors leave at 0.
    yield Method(
        "LLaDA2", "confidence", lambda n, t, m: s.LLaDA2(steps=n, block_length=81, threshold=1 - 10 ** (-n / 8))
    )
    for order in ("random", "max_probability"):
        label = "random order" if order == "random" else "surest first"
        yield Method(
            f"PRISM ({label})",
            "corrector",
            lambda n, t, m, o=order: s.PRISM(steps=n, unmask=o, remask_count=4, temperature=t),
        )
    for update in ("argmax", "sample"):
        yield Method(
            f"ProSeCo ({update})",
            "corrector",
            lambda n, t, m, u=update: s.ProSeCo(steps=max(1, n // 2), corrector=u, temperature=t),
            checkpoint="proseco",
        )
    yield Method(
        "PRISM (LLaDA's variant)",
        "corrector",
        lambda n, t, m: s.BlockPRISM(steps=n, remask_count=8, temperature=t),
    )
    yield Method(
        "ProSeCo (LLaDA's variant)",
        "corrector",
        lambda n, t, m: s.BlockProSeCo(steps=n * 2 // 3, corrector_steps=1, correct_every=2, temperature=t),
        checkpoint="proseco",
    )
    yield Method(
        "NAVIRA",
        "corrector",
        lambda n, t, m: s.NAVIRA(steps=n // 2, remask_count=4, unmask="confidence", temperature=t),
    )
    for remask in (None, "low_prob"):
        yield Method(
            "LLaDA2.1 (edits)" if remask is None else "T2M (remasks)",
            "revision",
            lambda n, t, m, r=remask: s.LLaDA21(
                block_length=81, threshold=1 - 10 ** (-n / 8), remask=r, remask_threshold=0.5
            ),
            checkpoint="proseco",
        )
    yield Method("GIDD's correction", "revision", lambda n, t, m: s.GIDD(steps=n), checkpoint="proseco")
    yield Method("RemeDi", "revision", lambda n, t, m: s.RemeDi(steps=n, block_length=None, by="probability"))
    yield Method(
        "CoRe", "revision", lambda n, t, m: s.CoRe(steps=n * 4 // 5, candidates=4, correct_every=4, temperature=t)
    )
    yield Method(  # the paper's 16, 8 and 4 are of images of a thousand tokens
        "history remasking",
        "revision",
        lambda n, t, m: s.HistoryRemasking(steps=n, numbers=((0.4, 0), (0.6, 4), (0.8, 2), (1.0, 1)), temperature=t),
    )
    yield Method(  # of four calls each but the last
        "Info-Gain",
        "confidence",
        lambda n, t, m: s.InfoGain(steps=max(1, n // 4), candidates=3, temperature=t),
    )
    yield Method(
        "Tolerator",
        "revision",
        lambda n, t, m: s.Tolerator(steps=n, refine_steps=n // 4, first_share=0.4, last_share=0.1, temperature=t),
    )
    yield Method(
        "WINO",
        "revision",
        lambda n, t, m: s.WINO(block_length=81, accept=1 - 10 ** (-n / 8), doubt=0.5, temperature=t),
        checkpoint="proseco",
        adapter=ShadowBlock,
    )


METHODS = tuple(_methods())


def compare(
    puzzles: Puzzles,
    *,
    calls: Iterable[int],
    temperature: float = 0.25,
    only: str = "",
    seed: int = 0,
    checkpoints: Path = SHIPPED,
    told: Callable[[Point], Any] = lambda point: None,
) -> list[Point]:
    """One point per sampler and budget; `only` keeps samplers whose name holds it, `told` hears of each point."""
    models: dict[str, BoardModel] = {}
    points = []
    for method in METHODS:
        if only.lower() not in method.name.lower():
            continue
        if method.checkpoint not in models:
            models[method.checkpoint] = BoardModel(checkpoints / f"{method.checkpoint}.safetensors")
        model = models[method.checkpoint]
        for budget in sorted(calls)[: 1 if method.free else None]:
            result = solve(method.adapter(model), puzzles, method.make(budget, temperature, model), seed=seed)
            point = Point(
                method.name,
                method.family,
                budget,
                int(result.solved.sum()),
                len(puzzles),
                round(result.nfe.double().mean().item(), 2),
                round(result.seconds, 2),
            )
            points.append(point)
            told(point)
    return points


def wilson(solved: int, boards: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson's score interval)."""
    share, spread = solved / boards, z * z / boards
    centre = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / boards + spread / (4 * boards)) / (1 + spread)
    return max(0.0, centre - half), min(1.0, centre + half)


def write_points(points: list[Point], path: Path) -> None:
    with replacing(path) as whole:
        whole.write_text(json.dumps([asdict(point) for point in points], indent=1) + "\n")


def read_points(path: Path) -> list[Point]:
    return [Point(**one) for one in json.loads(path.read_text())]


def markdown(points: list[Point]) -> str:
    """A table with one line per sampler and, per budget, its measured calls, share solved and 95 % interval."""
    budgets = sorted({point.calls for point in points})
    lines = ["| sampler |" + "".join(f" calls | solved of {points[0].boards} |" for _ in budgets)]
    lines.append("|---|" + "---|---|" * len(budgets))
    family = ""
    for name in dict.fromkeys(point.name for point in points):
        mine = {point.calls: point for point in points if point.name == name}
        first = next(iter(mine.values()))
        if first.family != family:
            family = first.family
            lines.append(f"| *{family}* |" + " | |" * len(budgets))
        cells = ""
        for budget in budgets:
            point = mine.get(budget)
            if point is None:
                cells += " | |"
                continue
            low, high = wilson(point.solved, point.boards)
            cells += f" {point.nfe:.1f} | {point.rate:.2f} [{low:.2f}, {high:.2f}] |"
        lines.append(f"| {name} |{cells}")
    return "\n".join(lines) + "\n"


def picture(points: list[Point], path: Path) -> None:
    """Solved against measured calls as a PNG: a panel per family, a line per sampler, bars for the 95 % intervals."""
    families = list(dict.fromkeys(point.family for point in points))
    with figure(path, width=4.4, height=4.4, panels=len(families), columns=3) as panels:
        for axes, family in zip(panels, families, strict=True):
            for name in dict.fromkeys(point.name for point in points if point.family == family):
                line = sorted((p for p in points if p.name == name), key=lambda p: p.nfe)
                ends = [wilson(point.solved, point.boards) for point in line]
                below = [point.rate - low for point, (low, _) in zip(line, ends, strict=True)]
                above = [high - point.rate for point, (_, high) in zip(line, ends, strict=True)]
                axes.errorbar(
                    [point.nfe for point in line],
                    [point.rate for point in line],
                    yerr=[below, above],
                    label=name,
                    marker="o",
                    markersize=4,
                    linewidth=1,
                    capsize=2,
                )
            axes.set(xlabel="model calls per puzzle (NFE)", title=family, ylim=(-0.02, 1.02))
            axes.grid(alpha=0.3)
            axes.legend(fontsize=7)
        for first in panels[::3]:
            first.set_ylabel("puzzles solved")
