"""The same numbers in forks, spawned processes, DataLoader workers and threads, whatever the number of threads is."""

from __future__ import annotations

import multiprocessing
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from mdmcorrect import ops

sys.path.append(str(Path(__file__).parent / "samplers"))
from combinations import MASK, PRESETS, canvas
from toys import Toy

NAMES = ("proseco", "llada", "prism", "p2", "remdm-conf")


def numbers() -> list[list[list[int]]]:
    """What a run of a few samplers and operators gives, as plain lists."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 70, 1200, generator=generator) * 4
    heads = torch.randn(2, 4, 130, 64, generator=generator)
    drawn = ops.score_tokens(logits, temperature=1.0, top_p=0.9, seed=3, want=("token", "entropy"))
    attended = ops.bidirectional_attention(heads, heads, heads).view(torch.int32).flatten(0, 2)
    runs = [PRESETS[name](Toy(), canvas(), mask_id=MASK, seed=1).tokens.tolist() for name in NAMES]
    return [drawn.token.tolist(), drawn.entropy.view(torch.int32).tolist(), attended.tolist(), *runs]


@pytest.fixture(scope="module")
def expected() -> list[list[list[int]]]:
    return numbers()


class Answers(Dataset[int]):
    """Each item is whether a worker finds the numbers of the process that made it."""

    def __init__(self, expected: list[list[list[int]]]) -> None:
        self.expected = expected

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> int:
        return int(numbers() == self.expected)


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_of_a_data_loader(start: str, expected: list[list[list[int]]]) -> None:
    workers = {"num_workers": 2 if start == "fork" else 1, "multiprocessing_context": start, "timeout": 120}
    loader = DataLoader(Answers(expected), batch_size=2, **workers)
    assert torch.cat(list(loader)).tolist() == [1, 1, 1, 1]


def test_a_fork_of_a_process_whose_threads_have_worked(expected: list[list[list[int]]]) -> None:
    """A child that would wait for its parent's threads would never end."""
    torch.set_num_threads(2)
    numbers()
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=lambda: (torch.set_num_threads(1), sender.send(numbers())))
    child.start()
    assert receiver.poll(120)
    assert receiver.recv() == expected
    child.join(30)
    assert child.exitcode == 0


def test_eight_threads_at_once(expected: list[list[list[int]]]) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert all(answer == expected for answer in pool.map(lambda _: numbers(), range(16)))


def test_the_number_of_threads_may_change(expected: list[list[list[int]]]) -> None:
    before = torch.get_num_threads()
    try:
        for number in (1, 3, 2, os.cpu_count() or 1, 1):
            torch.set_num_threads(number)
            assert numbers() == expected
    finally:
        torch.set_num_threads(before)
