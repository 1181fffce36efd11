"""A sampler put together from parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import InitVar, dataclass, field
from typing import Any

from .. import _checks
from .call import Runs
from .candidates import Watch
from .correct import Correct
from .draws import draws
from .engine import Engine, Stop, TokensProcessor
from .forward import Forward, LogitsProcessor
from .plan import Plan, UnmaskThenRemask
from .remask import Remask
from .review import Review
from .scoring import Scoring
from .unmask import Unmask
from .window import Blocks


@dataclass(frozen=True, kw_only=True)
class Sampler(Runs):
    """A sampler made of parts. Presets are such combinations: ``preset.parts()`` is the equal Sampler.

    Args:
        steps: S, steps of a row, all its blocks together.
        unmask, remask: parts of an :class:`UnmaskThenRemask` plan.
        plan: how a step writes the canvas, instead of ``unmask`` and ``remask``.
        window: where a row may write, and for how many steps.
        scoring: how tokens are proposed and scored.
        correct: a corrector, or None.
        review: a second model that reads the step's draft, whose opinion the plan ranks by; or None.
        finish: when a row's steps are used and masks are left, fill them with the argmax of one more forward (the
            noise removal of MDLM). False leaves them.
        cache: rows with nothing to commit and no correction due skip their forward. False makes every forward; a
            corrector whose model sees the time wants that, for its fixed point may move with the time.
        name: what error messages call the method.

    Raises:
        ValueError: ``steps`` is not a positive int, or ``plan`` comes with ``unmask`` or ``remask``.
    """

    steps: int
    unmask: InitVar[Unmask | None] = None
    remask: InitVar[Remask | None] = None
    plan: Plan | None = None
    window: Blocks = field(default_factory=Blocks)
    scoring: Scoring = field(default_factory=Scoring)
    correct: Correct | None = None
    review: Review | None = None
    finish: bool = True
    cache: bool = True
    name: str = field(default="Sampler", compare=False)

    def __post_init__(self, unmask: Unmask | None, remask: Remask | None) -> None:
        object.__setattr__(self, "steps", step_count("steps", self.steps))
        _checks.settle(self, finish=_checks.flag, cache=_checks.flag)
        for part, kind in (("window", Blocks), ("scoring", Scoring)):
            if not isinstance(getattr(self, part), kind):
                raise TypeError(f"{part}: expected {kind.__name__}(...), got {getattr(self, part)!r}")
        for part, method, like in (("plan", "prepare", "Ancestral()"), ("correct", "due", "FixedPoint()")):
            given = getattr(self, part)
            if given is not None and not (hasattr(given, method) and callable(given)):
                raise TypeError(f"{part}: expected None or a part such as {like}, got {given!r}")
        if self.review is not None and not isinstance(self.review, Review):
            raise TypeError(f"review: expected None or Review(...), got {self.review!r}")
        if not isinstance(self.name, str):
            raise TypeError(f"name: expected text, got {type(self.name).__name__}")
        if self.plan is None:
            object.__setattr__(self, "plan", UnmaskThenRemask(unmask or Unmask(), remask))
        elif unmask is not None or remask is not None:
            raise ValueError("plan, unmask, remask: a plan has its own unmask and remask; give the plan or these parts")

    def parts(self) -> Sampler:
        """Itself."""
        return self

    @property
    def random(self) -> bool:
        """Whether a run draws anything, so that its seed matters."""
        return draws(self.scoring, self.plan, self.correct)

    @property
    def most_steps(self) -> int | None:
        """Steps of a row at most, as far as its length does not decide."""
        return None if self.window.until_filled or self.window.steps is not None else self.steps

    def engine(
        self,
        model: Any,
        *,
        mask_id: int,
        condition: Any = None,
        eos_id: int | Sequence[int] | None = None,
        stop: Stop | None = None,
        logits_processor: LogitsProcessor | None = None,
        tokens_processor: TokensProcessor | None = None,
        shown: frozenset[str] = frozenset(),
        candidates: bool = False,
    ) -> Engine:
        """The loop that a call runs, for one run.

        ``shown``: scores to compute beside those the method reads; ``candidates``: keep the best tokens of each step.
        """
        assert self.plan is not None
        _checks.called("stop", stop, "(tokens, fixed) -> bool [B]")
        _checks.called("logits_processor", logits_processor, "(tokens, logits) -> logits")
        _checks.called("tokens_processor", tokens_processor, "(tokens, logits) -> tokens")
        eos_ids = _checks.token_ids("eos_id", eos_id)
        if mask_id in eos_ids:
            raise ValueError(f"eos_id: expected an id that can be generated, got mask_id {mask_id}")
        wants = self.plan.wants | shown | (self.correct.wants if self.correct else frozenset())
        keep_logits = tokens_processor is not None
        review = None
        if self.review is not None:
            review = self.review.forward(mask_id, self.name, condition)
        return Engine(
            steps=self.steps,
            plan=self.plan,
            window=self.window,
            correct=self.correct,
            finish=self.finish,
            cache=self.cache,
            forward=Forward(
                model,
                self.scoring,
                mask_id,
                wants,
                self.name,
                condition,
                logits_processor,
                keep_logits=keep_logits,
                ids={"eos_id": eos_ids},
                watch=self._watch(mask_id) if candidates else None,
            ),
            mask_id=mask_id,
            eos_ids=eos_ids,
            stop=stop,
            tokens_processor=tokens_processor,
            review=self.review,
            review_forward=review,
            shown=shown,
        )

    def _watch(self, mask_id: int) -> Watch:
        """Who keeps candidates, of the distribution that the scoring's confidences are of."""
        mask = [mask_id]
        return Watch(
            suppress=(*self.scoring.suppress, *(mask if self.scoring.mask_token == "suppress" else ())),
            barred=(*self.scoring.forbid, *(mask if self.scoring.mask_token == "forbid" else ())),
        )


def step_count(name: str, value: object) -> int:
    """How many steps: an int of at least 1.

    Raises:
        ValueError: anything else.
    """
    try:
        return _checks.integer(name, value, minimum=1)
    except (TypeError, ValueError):
        raise ValueError(f"{name}: expected an int of at least 1, got {value!r}") from None
