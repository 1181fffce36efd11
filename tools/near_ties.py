"""How many draws differ between the CUDA source, the CPU and the float64 reference: `python tools/near_ties.py`.

All three have the same random bits, so a draw can differ only where two candidates come so near one another that the
last bits of an exponential decide. The CUDA source runs on the harness of tests/simt: a millisecond per draw.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor

import numpy as np
from cuda_code import ROOT

sys.path.insert(0, str(ROOT / "tests" / "simt"))

LENGTH = 4000  # draws of a job, all from one row of logits; in the launcher's form for many rows
VOCABS = (33, 65, 130, 600)  # one chunk or two: cheap to draw from, and many draws are what counts
TEMPERATURES = (1.0, 0.7, 1.9)


def draw(job: tuple[int, int, float]) -> tuple[int, Counter[str], list[str]]:
    """Draws of one job, how many differ in each pair, and the places where they do."""
    import device_ops
    import harness
    import torch

    from mdmcorrect import ops, reference

    seed, vocab, temperature = job
    torch.set_num_threads(1)
    row = (np.random.default_rng(seed).normal(size=vocab) * 2).astype(np.float32)
    logits = np.lib.stride_tricks.as_strided(row, (1, LENGTH, vocab), (0, 0, row.itemsize))
    options = {"temperature": temperature, "step": seed % 7, "call": seed % 3}
    simt = harness.Simt(harness.build())
    scores, _ = device_ops.score_tokens(simt, logits, seed=np.array([seed]), want=("token",), **options)
    expanded = torch.from_numpy(row).expand(1, LENGTH, vocab)
    on_cpu = ops.score_tokens(expanded, seed=torch.tensor([seed]), want=("token",), **options).token
    assert on_cpu is not None
    scaled = row.astype(float) / temperature
    tokens = {
        "CUDA source": scores["token"][0],
        "CPU": on_cpu.numpy()[0],
        "reference": np.array(
            [reference.draw(scaled, seed, place, options["step"], options["call"]) for place in range(LENGTH)]
        ),
    }
    differing: Counter[str] = Counter()
    places = []
    for (one, of_one), (other, of_other) in itertools.combinations(tokens.items(), 2):
        (where,) = np.nonzero(of_one != of_other)
        differing[f"{one} / {other}"] += len(where)
        places += [f"{one} {of_one[i]}, {other} {of_other[i]}: {job}, position {i}" for i in where]
    return LENGTH, differing, places


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=320_000)
    parser.add_argument("--seed", type=int, default=0, help="of the first job")
    arguments = parser.parse_args()
    kinds = itertools.cycle(itertools.product(VOCABS, TEMPERATURES))
    jobs = [(arguments.seed + i, *next(kinds)) for i in range(-(-arguments.draws // LENGTH))]
    draws, differing = 0, Counter[str]()
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for number, counts, places in pool.map(draw, jobs):
            draws += number
            differing.update(counts)
            print(*places, sep="\n", end="\n" if places else "")
    print(f"| {draws} draws | that differ | of all |\n|---|---|---|")
    for pair, count in differing.items():
        print(f"| {pair} | {count} | {count / draws:.1e} |")
    return any(count >= 1e-5 * draws for count in differing.values())


if __name__ == "__main__":
    raise SystemExit(main())
