"""A process that samples and scores for as long as it is asked to, and what it holds meanwhile."""

from __future__ import annotations

import json
import os
import random
import sys
import time
from pathlib import Path


def held() -> dict[str, float]:
    """Resident megabytes, descriptors and threads of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "megabytes": pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
        "descriptors": len(os.listdir("/proc/self/fd")),
        "threads": len(os.listdir("/proc/self/task")),
    }


def run(minutes: float, report: Path | None) -> int:
    """One line every thirtieth of the time; status 1 if what is held grows after the first tenth."""
    sys.path[:0] = [str(Path(__file__).resolve().parents[2] / "tests" / folder) for folder in ("", "samplers")]
    import torch
    from combinations import MASK, PRESETS, canvas
    from toys import Toy

    from mdmcorrect import ops

    rng, started, seen, rounds = random.Random(0), time.monotonic(), [], 0
    while (spent := (time.monotonic() - started) / 60) < minutes:
        torch.set_num_threads(rng.choice([1, 2, 4]))
        preset = PRESETS[rng.choice(list(PRESETS))]
        preset(Toy(), canvas(rng.randint(1, 6), rng.randint(4, 40)), mask_id=MASK, history=rng.random() < 0.3)
        batch, length, width = rng.randint(1, 4), rng.randint(1, 64), rng.choice([32, 64])
        logits = torch.randn(batch, length, rng.choice([33, 1000, 5000]))
        scores = ops.score_tokens(
            logits, temperature=rng.choice([0.0, 1.0]), top_p=rng.choice([None, 0.9]), seed=rounds
        )
        ops.select_positions(scores.max_logprob, rng.randint(0, length))
        heads = torch.randn(batch, 2, length, width, requires_grad=True)
        ops.bidirectional_attention(heads, heads, heads).sum().backward()
        weight = torch.randn(500, width, requires_grad=True)
        ops.linear_cross_entropy(
            heads.detach().flatten(0, 2), weight, torch.randint(0, 500, (batch * 2 * length,))
        ).backward()
        rounds += 1
        if spent >= len(seen) * minutes / 30:
            seen.append({"minutes": round(spent, 2), "rounds": rounds, **held()})
            print(json.dumps(seen[-1]), flush=True)
    if report is not None:
        report.write_text("".join(json.dumps(line) + "\n" for line in seen))
    settled = seen[max(1, len(seen) // 5) :]
    half = len(settled) // 2
    early, late = settled[:half], settled[half:]

    def grown(name: str) -> float:
        return max(line[name] for line in late) - max(line[name] for line in early) if early else 0.0

    growth = {name: round(grown(name), 1) for name in ("megabytes", "descriptors", "threads")}
    print(f"{rounds} rounds; more in the second half than in the first: {growth}")
    return int(growth["megabytes"] > 32 or growth["descriptors"] > 0 or growth["threads"] > 0)
