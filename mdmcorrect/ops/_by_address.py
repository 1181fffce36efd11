"""The operators of a sampler's step by the addresses of their tensors: a shorter way than torch's dispatcher.

The dispatcher takes about half a microsecond for a tensor that goes in or comes out. A step of a small canvas costs
less on the CPU than the forty of its operators take there. So where tensors are what they seem, lie on the CPU and are
contiguous, the library is called with their addresses; kernels and numbers are the same. Nobody looks at shapes and
dtypes after that, so they are looked at here. Everywhere else (another shape, dtype or device, a mode or profiler that
watches operators, a graph that is made, a view) the operator is called, which says what is wrong.

An address holds until the next call only: memory of a tensor that somebody else has may move, as it does when that is
sent to another process.

What is handed over, and in which order, ``csrc/torch/by_address.h`` lists.
"""

from __future__ import annotations

import mdmcorrect._requires_torch

from array import array
from collections.abc import Sequence
from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from typing import Any, TypeAlias

import torch
from torch import Tensor

from mdmcorrect import _constants, _native
from mdmcorrect.ops._scoring import ScoreOptions

Shape: TypeAlias = tuple[int, ...]

FLOAT_CODES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}

_NUMBER: Shape = ()

library: Any = None
"""The module with the functions; None where it was built without Python's headers."""


def usable(like: Tensor) -> bool:
    """Whether operators on tensors next to ``like`` may be called by address now."""
    return library is not None and like.is_cpu and _constants.unwatched(like)


def address(tensor: Tensor | None) -> int:
    """Of the first element; 0 for None."""
    return 0 if tensor is None else tensor.data_ptr()


def plain(tensor: Tensor) -> bool:
    """Whether what a tensor holds is where its address and strides say."""
    kind = type(tensor)
    return (kind is Tensor or kind is torch.nn.Parameter) and tensor.is_cpu and tensor.layout is torch.strided


def fits(shape: Shape, dtype: torch.dtype, *tensors: Tensor | None) -> bool:
    """Whether each is None, or contiguous on the CPU with this shape and dtype."""
    for tensor in tensors:
        if tensor is None:
            continue
        if tensor.dtype is not dtype or tensor.shape != shape or not plain(tensor) or not tensor.is_contiguous():
            return False
    return True


def floats(shape: Shape, *tensors: Tensor | None) -> list[int] | None:
    """Address and type of each; None if one has another shape or type than the operators read, or strides."""
    numbers: list[int] = []
    for tensor in tensors:
        if tensor is None:
            numbers += (0, 0)
            continue
        code = FLOAT_CODES.get(tensor.dtype)
        if code is None or not fits(shape, tensor.dtype, tensor) or tensor.is_neg():
            return None
        numbers += (tensor.data_ptr(), code)
    return numbers


class ScoreTokens:
    """``score_tokens`` with options of plain numbers."""

    __slots__ = ("_how", "_numbers", "_options")

    MOST_IDS = 1 << 23  # with a nucleus; the operator says so where there are more

    def __init__(self, options: ScoreOptions, vocab: int) -> None:
        self._options = options  # whose tensors are read through their addresses
        lists = [[] if ids is None else sorted(ids.tolist()) for ids in (options.suppress, options.forbid)]
        how = [
            vocab, options.want, *map(address, (options.temperature, options.top_k, options.top_p)),
            options.top_p_inclusive, options.top_p_first, 0, len(lists[0]), 0, len(lists[1]), options.proposal_law,
            options.probabilities, options.dense_noise, FLOAT_CODES[options.confidence_dtype],
        ]  # fmt: skip
        self._numbers = numbers = array("q", [*how, *lists[0], *lists[1]])
        self._how, size = numbers.buffer_info()[0], numbers.itemsize
        numbers[7] = self._how + size * len(how)
        numbers[9] = numbers[7] + size * len(lists[0])

    @classmethod
    def of(cls, options: ScoreOptions, vocab: int) -> ScoreTokens | None:
        """None where the operator is to be called."""
        return cls(options, vocab) if usable(options.temperature) and vocab <= cls.MOST_IDS else None

    def __reduce__(self) -> tuple[Any, ...]:
        return ScoreTokens.of, (self._options, self._numbers[0])  # addresses mean nothing to a copy

    def write(self, logits: Tensor, code: int, *numbers: int) -> int:
        """Scores of ``logits [B, L, V]``, of a dtype with this code, written to addresses.

        Args:
            numbers: the fields of ``ScoreTokensAddresses`` after ``position_stride``.

        Returns:
            How many positions have a forbidden id as their ``argmax``.
        """
        batch_stride, position_stride, _ = logits.stride()
        return library.score_tokens(
            self._how,
            logits.shape[0],
            logits.shape[1],
            logits.data_ptr(),
            code,
            batch_stride,
            position_stride,
            *numbers,
        )

    def __call__(
        self,
        logits: Tensor,
        tokens: Tensor,
        rows: Tensor,
        positions: Tensor,
        seed: Tensor,
        step: Tensor,
        call: Tensor,
        shift: int,
    ) -> Sequence[Tensor] | None:
        """See :meth:`mdmcorrect.ops.score_tokens.PreparedScoring.trusted`; None where the operator is to be called."""
        code, shape = FLOAT_CODES.get(logits.dtype), logits.shape[:2]
        if code is None or not usable(logits) or not plain(logits) or logits.is_neg():
            return None
        if logits.dim() != 3 or logits.shape[2] != self._numbers[0] or logits.stride(2) != 1:
            return None
        if not fits(shape, torch.bool, rows) or not fits(shape, torch.int64, tokens):
            return None
        if not fits(shape[:1], torch.int64, seed) or not fits(_NUMBER, torch.int64, call):
            return None
        for strided, expected in ((step, shape[:1]), (positions, shape)):
            if strided.dtype is not torch.int64 or strided.shape != expected or not plain(strided):
                return None
        made = [torch.empty_like(tokens) for _ in self._options.id_places]
        made += [torch.empty_like(tokens, dtype=torch.float32) for _ in self._options.stat_places]
        self.write(
            logits, code, shift, tokens.data_ptr(), rows.data_ptr(), positions.data_ptr(), *positions.stride(),
            seed.data_ptr(), step.data_ptr(), step.stride(0), call.data_ptr(), 0, *map(address, made),
        )  # fmt: skip
        return made


def _load() -> Any:
    _native.load()
    # By its path: another library than the package's own may be loaded, and a second one would be registered beside it.
    loader = ExtensionFileLoader("mdmcorrect._C", str(_native.LIBRARY))
    spec = spec_from_file_location(loader.name, loader.path, loader=loader)
    assert spec is not None
    try:
        module = module_from_spec(spec)
        loader.exec_module(module)
    except ImportError:
        return None
    return module if hasattr(module, "sampler_step") else None


library = _load()
