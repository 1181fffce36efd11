"""A loss as a list of terms: how tokens are corrupted, what a model reads, what is asked of its answer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from .._checks import instance, number, token_id
from ..wrappers import OF_THE_MODEL
from .arguments import tensor
from .corruption import Corruption, State
from .masking import Roles
from .outputs import LossOutput
from .reader import Reader, Run, Said
from .reading import Reading
from .sources import Given, Inputs, PrismInputs, Source
from .targets import Right, Target, check_target
from .terms import Count


@dataclass(frozen=True)
class Term:
    """One sum of a loss.

    Args:
        source: where its model's input comes from.
        target: what is asked of the answer.
        weight: its factor.
        name: of its parts; None for the target's own names.
    """

    source: Source
    target: Target
    weight: float = 1.0
    name: str | None = None

    def __post_init__(self) -> None:
        instance("source", self.source, Source, "a Source of mdmcorrect.losses")
        instance("target", self.target, Target, "a Target of mdmcorrect.losses")
        check_target(self.target)
        if self.name is not None and not (isinstance(self.name, str) and self.name):
            raise TypeError(f"name: expected a name or None, got {self.name!r}")
        if isinstance(self.target, Right) and isinstance(self.source, Given):
            raise ValueError(
                "source: expected one that writes tokens beside Right, got Given, whose selected are the masks of z, "
                "never right; Confidence judges z"
            )
        object.__setattr__(self, "weight", number("weight", self.weight))

    @property
    def key(self) -> str:
        """What its divisor is given under."""
        return self.name or self.target.name


@dataclass(frozen=True)
class Objective:
    """A loss made of parts.

    One forward for z, where a term or a source reads it, and one for each other source: terms whose sources are equal
    share their inputs and the forward. Forwards come in the order of the terms, z's first; then the terms' sums.

    Args:
        terms: the :class:`Term` of each sum, one at least. Two of one name need a ``name=``: their parts and divisors
            go by it.
        corruption: how z comes from x0.
        reader: how a model is called and read.
    """

    terms: Sequence[Term]
    corruption: Corruption = field(default_factory=Corruption)
    reader: Reader = field(default_factory=Reader)

    def __post_init__(self) -> None:
        expected = "terms: expected a list of Term, one at least"
        if isinstance(self.terms, str) or not isinstance(self.terms, Iterable):
            raise TypeError(f"{expected}, got {type(self.terms).__name__}")
        terms = tuple(self.terms)
        others = [type(term).__name__ for term in terms if not isinstance(term, Term)]
        if others or not terms:
            raise TypeError(f"{expected}, got {'one of ' + others[0] if others else 'none'}")
        keys = [term.key for term in terms]
        twice = [key for key in keys if keys.count(key) > 1]
        if twice:
            raise ValueError(f"terms: expected each of another name, got {twice[0]!r} twice; give one of them a name=")
        object.__setattr__(self, "terms", terms)
        instance("corruption", self.corruption, Corruption, "a Corruption")
        instance("reader", self.reader, Reader, "a Reader of mdmcorrect.losses")
        if not self.reader.train_backbone and "tokens" in self.learns:
            raise ValueError("train_backbone: expected True where a term learns from the model's tokens")

    def __call__(
        self,
        model: Any,
        x0: Tensor,
        *,
        mask_id: int,
        roles: Roles | None = None,
        t: Tensor | None = None,
        counts: Mapping[str, Count] | None = None,
        generator: torch.Generator | None = None,
        check: bool = True,
    ) -> LossOutput:
        """One training step's loss.

        Args:
            model: as in :func:`mdmcorrect.losses.mdlm_loss`.
            x0: int64 ``[B, L]`` clean tokens.
            mask_id: id of the mask token.
            roles: what is fixed, padding, scored; the model's condition.
            t: ``[B]`` times in (0, 1]; None draws them.
            counts: divisors by the name of a term ("mdlm", "quality", "corrector", ...), those of the whole batch where
                gradients are accumulated.
            generator: source of times, noise and what sources draw.
            check: look at the values of x0, masks and times, at the price of one host synchronisation.

        Returns:
            ``LossOutput`` with the parts of every term.
        """
        given: dict[str, Any] = {"mask_id": mask_id, "roles": roles, "t": t, "counts": counts, "check": check}
        return self.step(self.run(model, generator), x0, **given)

    def step(
        self,
        run: Run,
        x0: Tensor,
        *,
        mask_id: int,
        roles: Roles | None,
        t: Tensor | None,
        counts: Mapping[str, Count] | None,
        check: bool,
    ) -> LossOutput:
        """The call, with the model in ``run``."""
        generator = run.generator
        state = self.draw(x0, mask_id=mask_id, roles=roles, t=t, generator=generator, check=check)
        said, reading = [], None
        if self.reads_z:
            z = run.read(state.z, state, self._reads_of(Given()), learns=self._learns_of(Given()))
            reading = z.reading
        for source in self.sources:
            if source == Given():
                said.append((source.draw(state, None, run), z))
                continue
            inputs = self._drawn(source, state, reading, run)
            how: dict[str, Any] = {"learns": self._learns_of(source), "t": inputs.t}
            said.append((inputs, run.read(inputs.tokens, state, self._reads_of(source), **how)))
        return self.loss(state, said, counts)

    def run(self, model: Any, generator: torch.Generator | None = None, *, within: bool = False) -> Run:
        """The forwards of one batch, after checking that the model and this loss can be trained together.

        ``within``: they are in the forward of a wrapper around both.
        """
        given: dict[str, Any] = {"learns": self.learns, "parts": self.modules, "within": within}
        return Run(self.reader, model, self.reads, generator=generator, **given)

    def draw(
        self,
        x0: Tensor,
        *,
        mask_id: int,
        roles: Roles | None = None,
        t: Tensor | None = None,
        generator: torch.Generator | None = None,
        check: bool = True,
    ) -> State:
        """Corrupt a batch; for loops of one's own, whose model reads ``state.z`` at ``state.t``."""
        mask_id = token_id("mask_id", mask_id)
        roles = Roles() if roles is None else instance("roles", roles, Roles, "Roles(fixed=...) or None")
        return self.corruption.draw(x0, mask_id=mask_id, roles=roles, t=t, generator=generator, check=check)

    def inputs(
        self, output: Any, state: State, *, model: Any = None, generator: torch.Generator | None = None
    ) -> list[Inputs]:
        """What else the model reads: one for each source but z itself, in the order of the terms.

        Args:
            output: the model's of ``state.z``, its logits, or hidden states where the reader has an output layer;
                None where no source reads it.
            state: of :meth:`draw`.
            model: asked by sources that run it (:class:`Rollout`).
            generator: of what they draw.
        """
        instance("state", state, State, "the State of draw")
        reading = None
        if any(source.reads_z for source in self.sources):
            _answered("output", output)
            with torch.no_grad():
                reading = self.reader.read(output, state.z, state.mask_id)
        run = Run(self.reader, model, frozenset(), generator=generator)
        return [self._drawn(source, state, reading, run) for source in self.sources if source != Given()]

    def from_outputs(
        self,
        state: State,
        output: Any = None,
        inputs: Sequence[Inputs] = (),
        outputs: Sequence[Any] = (),
        *,
        counts: Mapping[str, Count] | None = None,
        names: Sequence[str] = ("", ""),
    ) -> LossOutput:
        """The loss for who calls the model alone.

        Args:
            state: of :meth:`draw`, or made with :class:`State`.
            output: the model's of ``state.z``, where a term reads it.
            inputs: of :meth:`inputs`, or one's own.
            outputs: the model's of each of them: logits ``[B * n, L, V]``, hidden states, a quality logit
                ``[B * n, L]``, or what a model returns that holds them.
            counts: as in the call.
            names: how errors call ``output`` and ``outputs``.
        """
        instance("state", state, State, "the State of draw")
        instance("inputs", inputs, (list, tuple), "a list of Inputs")
        instance("outputs", outputs, (list, tuple), "a list of the model's answers to them")
        for one in inputs:
            instance("inputs", one, (Inputs, PrismInputs), "a list of Inputs")
        others = [source for source in self.sources if source != Given()]
        if len(inputs) != len(others) or len(outputs) != len(others):
            raise ValueError(
                f"inputs, outputs: expected one of each for every source but z, {len(others)}, "
                f"got {len(inputs)} and {len(outputs)}"
            )
        given, said = iter(zip(inputs, outputs, strict=True)), []
        for source in self.sources:
            reads = self._reads_of(source)
            if source == Given():
                if not names[0]:
                    _answered("output", output)
                own = Inputs(state.z, state.masked & state.positions.scored)
                said.append((own, self.reader.said(output, state.z, state.mask_id, reads, names[0])))
            else:
                one, answer = next(given)
                said.append((one, self.reader.said(answer, one.tokens, state.mask_id, reads, names[1])))
        return self.loss(state, said, counts)

    def loss(
        self, state: State, said: Sequence[tuple[Inputs, Said]], counts: Mapping[str, Count] | None = None
    ) -> LossOutput:
        """The terms' sum, of inputs and what the model said of them, one pair for each of ``sources``."""
        if counts is not None:
            instance("counts", counts, Mapping, "numbers by the names of terms, as {'mdlm': 640}")
        unknown = set(counts or ()) - {term.key for term in self.terms}
        if unknown:
            names = [term.key for term in self.terms]
            raise ValueError(f"counts: expected names of terms, {names}, got {sorted(unknown)}")
        total, parts = None, {}
        for term in self.terms:
            # A loop, where index() would do: a graph that is traced compares dataclasses, but does not search them.
            inputs, answer = next(pair for pair, own in zip(said, self.sources, strict=True) if own == term.source)
            result = term.target.loss(answer, inputs, state, (counts or {}).get(term.key))
            instance(f"loss of {type(term.target).__name__}", result, LossOutput, "LossOutput(loss, parts)")
            weighted = term.weight * result.loss
            total = weighted if total is None else total + weighted
            parts.update({self._named(term, name): value for name, value in result.parts.items()})
        assert total is not None
        return LossOutput(total, parts)

    @property
    def modules(self) -> dict[str, Any]:
        """What learns beside the model, its head and its output layer."""
        parts = [self.corruption.modules, *(term.target.modules for term in self.terms)]
        return {name: part for each in parts for name, part in each.items()}

    @property
    def sources(self) -> list[Source]:
        """Each once, in the order of the terms."""
        found: list[Source] = []
        for term in self.terms:
            if term.source not in found:
                found.append(term.source)
        return found

    @property
    def reads(self) -> frozenset[str]:
        """What the targets read, of "tokens" and "quality"."""
        return frozenset().union(*(term.target.reads for term in self.terms))

    @property
    def learns(self) -> frozenset[str]:
        """What of it they send a gradient to."""
        return frozenset().union(*(term.target.learns for term in self.terms))

    @property
    def reads_z(self) -> bool:
        return any(source.reads_z or source == Given() for source in self.sources)

    def _reads_of(self, source: Source) -> frozenset[str]:
        own = [term.target.reads for term in self.terms if term.source == source]
        drawn = source == Given() and any(each.reads_z for each in self.sources)
        return frozenset().union(*own, {"tokens"} if drawn else ())

    def _learns_of(self, source: Source) -> bool:
        """Whether a term learns from what the model says of its tokens."""
        return any("tokens" in term.target.learns for term in self.terms if term.source == source)

    @staticmethod
    def _drawn(source: Source, state: State, reading: Reading | None, run: Run) -> Inputs:
        inputs = source.draw(state, reading, run)
        return instance(f"draw of {type(source).__name__}", inputs, Inputs, "Inputs(tokens, selected)")

    @staticmethod
    def _named(term: Term, part: str) -> str:
        if term.name is None:
            return part
        return term.name if part == term.target.name else f"{term.name}_{part}"


def _answered(name: str, output: Any) -> None:
    if output is None:
        raise TypeError(f"{name}: expected the model's answer to state.z, which is read, got None")


class ObjectiveModule(nn.Module):
    """A model and its objective as one module: what DDP, FSDP, accelerate and compilers wrap.

    All forwards of a step are then within the wrapper's one forward, and what learns beside the model (a head, an
    output layer, ``log Z``) is within it too. The answer is a dict, which wrappers and Hugging Face's Trainer read:
    "loss" and the parts, detached.

    Args:
        model: a module.
        objective: its loss.
        mask_id: id of the mask token.
    """

    def __init__(self, model: nn.Module, objective: Objective, *, mask_id: int) -> None:
        super().__init__()
        if not isinstance(model, nn.Module):
            raise TypeError(f"model: expected a module, got {type(model).__name__}")
        instance("objective", objective, Objective, "an Objective")
        self.model, self.objective, self.mask_id = model, objective, token_id("mask_id", mask_id)
        reader = objective.reader
        learning = {"head": reader.head, "output_layer": reader.output_layer, **objective.modules}
        own = {id(parameter): name for name, parameter in model.named_parameters()}
        self._weight: str | None = None  # a weight is found by its name: FSDP puts shards in its place
        for name, part in learning.items():
            if isinstance(part, nn.Module) and any(id(each) not in own for each in part.parameters()):
                self.add_module(name, part)
            elif isinstance(part, Tensor):
                if id(part) not in own:
                    raise ValueError(f"{name}: expected a parameter of the model, or a layer, got another tensor")
                self._weight = own[id(part)]

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        *,
        fixed: Tensor | None = None,
        loss_mask: Tensor | None = None,
        condition: Any = None,
        t: Tensor | None = None,
        counts: Mapping[str, Count] | None = None,
        generator: torch.Generator | None = None,
        check: bool = True,
    ) -> dict[str, Tensor]:
        """The loss of clean tokens.

        Args:
            input_ids: int64 ``[B, L]`` clean tokens x0.
            attention_mask, fixed, loss_mask, condition, t, counts, generator, check: as in :class:`Objective`.
            labels: where -100, tokens carry no loss, as if ``loss_mask`` left them out.
        """
        if labels is not None:
            if tensor("labels", labels).shape != tensor("input_ids", input_ids).shape:
                got = tuple(labels.shape)
                raise ValueError(f"labels: expected the shape of input_ids, {tuple(input_ids.shape)}, got {got}")
            kept = labels != -100
            loss_mask = kept if loss_mask is None else kept & loss_mask.to(kept)
        roles = Roles(fixed, loss_mask, attention_mask, condition)
        objective = self.objective
        if self._weight is not None:
            reader = replace(objective.reader, output_layer=self.model.get_parameter(self._weight))
            objective = replace(objective, reader=reader)
        given: dict[str, Any] = {"t": t, "counts": counts, "check": check}
        run = objective.run(self.model, generator, within=True)
        result = objective.step(run, input_ids, mask_id=self.mask_id, roles=roles, **given)
        return {"loss": result.loss, **result.parts}

    def __getattr__(self, name: str) -> Any:
        """Of a Hugging Face model what a trainer asks for (``config``, ``gradient_checkpointing_enable``, ...)."""
        if name in OF_THE_MODEL:
            return getattr(super().__getattr__("model"), name)
        return super().__getattr__(name)
