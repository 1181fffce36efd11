"""What the Python around each operator costs: ``python tools/wrapper_costs.py [B L V]``, default 1 64 32.

For each call: microseconds of the whole, of the native operator alone with the same arguments, of what is left, and the
operators that torch's dispatcher saw. The shortest of many short runs, one thread: what other processes take only adds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mdmcorrect import ops, rng
from mdmcorrect.ops.score_tokens import prepare_score_tokens

CALLS, RUNS = 50, 600


class Operators(TorchDispatchMode):
    """Every operator that runs, with its arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.ran: list[tuple[Any, tuple[Any, ...]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.ran.append((func, args))
        return func(*args, **(kwargs or {}))


def microseconds(call: Callable[[], Any]) -> float:
    best = float("inf")
    for _ in range(RUNS):
        start = time.perf_counter()
        for _ in range(CALLS):
            call()
        best = min(best, time.perf_counter() - start)
    return 1e6 * best / CALLS


def cases(batch: int, length: int, vocab: int) -> dict[str, Callable[[], Any]]:
    draw = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(batch, length, vocab, generator=draw)
    tokens = torch.randint(vocab, (batch, length), generator=draw)
    scores, rows = torch.rand(batch, length, generator=draw), torch.ones(batch, length, dtype=torch.bool)
    seed, positions = torch.arange(batch), torch.arange(length)
    step, call = torch.tensor(4), torch.tensor(0)
    options: dict[str, Any] = {"temperature": 1.0, "suppress": [vocab - 1], "want": ["token", "confidence"]}
    changing = {"tokens": tokens, "rows": rows, "positions": positions, "seed": seed, "step": step, "call": call}
    prepared = prepare_score_tokens(vocab=vocab, device="cpu", **options)
    return {
        "score_tokens, every score": lambda: ops.score_tokens(logits),
        "score_tokens, a sampler's": lambda: ops.score_tokens(logits, **changing, **options),
        "prepare_score_tokens' call": lambda: prepared(logits, **changing),
        "its native": lambda: prepared.native(logits, **changing),
        "select_positions": lambda: ops.select_positions(scores, 5, temperature=0.5, seed=seed, step=3),
        "count_positions": lambda: ops.count_positions(scores, "threshold", 0.5),
        "remask_step": lambda: ops.remask_step(
            tokens, tokens, unmask_score=scores, keep_score=scores, unmask_count=3, remask_count=1, mask_id=vocab - 1
        ),
        "rng.uniform": lambda: rng.uniform(seed, length, 3, 1),
        "rng.gumbel": lambda: rng.gumbel(seed, length, 3, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", nargs="*", type=int, default=[1, 64, 32], metavar="B L V")
    shape = parser.parse_args().shape
    if len(shape) != 3:
        parser.error("expected B L V, or nothing")
    torch.set_num_threads(1)
    print(f"{list(shape)}: microseconds of a call, of its operator alone, around it; operators")
    for name, call in cases(*shape).items():
        call()
        with Operators() as seen:
            call()
        func, args = next(each for each in seen.ran if each[0].namespace == "mdmcorrect")
        whole, alone = microseconds(call), microseconds(lambda func=func, args=args: func(*args))
        names = " ".join(each.name().split("::")[1].split(".")[0] for each, _ in seen.ran)
        print(f"{name:27} {whole:6.1f} {alone:6.1f} {whole - alone:6.1f}  {names}")


if __name__ == "__main__":
    main()
