"""What every published sampler is: settings that name their parts."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, fields
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from ... import _checks, _hub
from ..call import Runs
from ..pool import kappa_values
from ..sampler import step_count
from ..scoring import Scoring
from ..unmask import TIES
from . import written

P = TypeVar("P", bound="Preset")

# A setting means the same in every preset that has it; `limits` of a preset says where it does not. Settings that are
# not here are names and parts, which the parts they go to hold against what they know.
RULES: Mapping[str, _checks.Rule] = {
    "temperature": _checks.temperature,
    "top_k": _checks.top_k,
    "top_p": _checks.nucleus,
    "top_p_rule": _checks.one_of("inclusive", "exclusive"),
    "suppress": _checks.token_ids,
    "confidence_forbid": _checks.token_ids,
    "eos_id": _checks.token_id,
    "alg_temp": _checks.temperature,
    "order_temperature": _checks.temperature,
    "position_temperature": _checks.temperature,
    "remask_temperature": _checks.temperature,
    "choice_temperature": _checks.temperature,
    "noise": _checks.weight,
    "eps": _checks.below_one,
    "eta": _checks.share,
    "scale": _checks.weight,
    "power": _checks.weight,
    "gamma": _checks.weight,
    "factor": _checks.weight,
    "threshold": _checks.share,
    "editing_threshold": _checks.share,
    "remask_threshold": _checks.share,
    "accept": _checks.share,
    "doubt": _checks.share,
    "ratio": _checks.share,
    "t_on": _checks.number,
    "t_off": _checks.number,
    "alpha_on": _checks.number,
    "block_length": _checks.at_least(1),
    "correct_every": _checks.at_least(1),
    "correct_start": _checks.at_least(0),
    "corrector_steps": _checks.at_least(0),
    "corrector_top_k": _checks.at_least(0),
    "count": _checks.integer,
    "rounds": _checks.integer,
    "candidates": _checks.at_least(1),
    "revise": _checks.integer,
    "remask_count": _checks.at_least(0),
    "step_on": _checks.at_least(0),
    "step_off": _checks.at_least(0),
    "loop_start": _checks.integer,
    "loop_steps": _checks.at_least(0),
    "loop_count": _checks.integer,
    "at_least": _checks.at_least(0),
    "post_steps": _checks.at_least(0),
    "per_position": _checks.at_least(0),
    "kappa": kappa_values,
    "schedule": kappa_values,
    "ties": _checks.one_of(*TIES),
    "remasking": _checks.one_of("low_confidence", "random"),
    "finish": _checks.flag,
    "batch_mean": _checks.flag,
    "carry_over": _checks.flag,
}


@dataclass(frozen=True, kw_only=True)
class Preset(Runs):
    """A published sampler. Called, it is the :class:`Sampler` that :meth:`parts` returns.

    Args:
        steps: S (T, N in some papers), the steps of a row; what one costs in forwards is said at each preset.
        temperature: of the draw of tokens; 0 takes the most probable one.
        top_k, top_p: filters of the draw, None for none; ``top_p_rule`` says whether the token that crosses top_p is
            kept, "inclusive", or dropped, "exclusive". The default is the method's.
        suppress: ids of probability zero everywhere.
    """

    limits: ClassVar[Mapping[str, _checks.Rule]] = {}

    steps: int
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    top_p_rule: str = "inclusive"
    suppress: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        rules = {**RULES, "steps": step_count, **self.limits}
        for setting in fields(self):
            if setting.name in rules:
                rule = rules[setting.name]
                if "None" in str(setting.type):
                    rule = _checks.optional(rule)
                _checks.settle(self, **{setting.name: rule})
        self.parts()  # so that a wrong setting is refused where it is written

    def to_json(self) -> str:
        """The preset's name and all its settings, as JSON; a model among them (a critic) is named, not written."""
        return written.to_json(self)

    @classmethod
    def from_json(cls: type[P], text: str, **settings: Any) -> P:
        """The preset that :meth:`to_json` wrote. ``Preset.from_json`` reads any.

        Args:
            text: what it returned.
            settings: instead of those written, and those that could not be.

        Raises:
            ValueError: no such text, a preset or setting that does not exist, or one of another kind than ``cls``.
            TypeError: a setting of the wrong type.
        """
        preset = written.from_json(text, _kinds(), settings)
        if not isinstance(preset, cls):
            raise ValueError(f"preset: expected {cls.__name__}, got {type(preset).__name__}")
        return preset

    def save_pretrained(self, directory: str | PathLike[str]) -> Path:
        """Write ``sampler.json`` to a folder, such as a model's; its path."""
        return written.save(self, directory)

    @classmethod
    def from_pretrained(cls: type[P], name: str | PathLike[str], *, revision: str | None = None, **settings: Any) -> P:
        """The preset of a folder's ``sampler.json``, or of a repository ``owner/name`` on the Hugging Face hub.

        Args:
            name: a folder or file; else, with huggingface_hub installed, a repository.
            revision: of the repository.
            settings: as for :meth:`from_json`.

        Raises:
            FileNotFoundError: there is none.
            ImportError: a repository, but no huggingface_hub.
        """
        return cls.from_json(_hub.located(name, written.FILE_NAME, revision).read_text(encoding="utf-8"), **settings)

    def _scoring(self, **settings: Any) -> Scoring:
        """The scoring of these settings, and of what the method says besides."""
        if self.top_p is not None:
            settings["top_p_rule"] = self.top_p_rule
        return Scoring(
            temperature=self.temperature, top_k=self.top_k, top_p=self.top_p, suppress=self.suppress, **settings
        )


def _kinds() -> dict[str, type[Preset]]:
    """Every preset there is, those of other modules too: subclasses with their names."""
    found: dict[str, type[Preset]] = {}
    left: list[type[Preset]] = [Preset]
    while left:
        for kind in left.pop().__subclasses__():
            found.setdefault(kind.__name__, kind)
            left.append(kind)
    return found


@dataclass(frozen=True, kw_only=True)
class Filling(Preset):
    """A preset whose windows last until they are filled, which is as many steps as that takes: none to choose.

    ``steps`` was an argument once; it says nothing.
    """

    steps: int | None = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps is not None and self._until_filled:
            warnings.warn(
                f"steps: {type(self).__name__} makes as many as filling its windows takes; {self.steps} says nothing",
                DeprecationWarning,
                stacklevel=3,
            )

    @property
    def _until_filled(self) -> bool:
        return True
