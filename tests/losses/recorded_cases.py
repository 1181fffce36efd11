"""What the losses returned before they were made of parts: the cases, and how each is run and written down.

tests/losses/data/recorded.json was written by the code of that time (``python tests/losses/recorded_cases.py FILE``);
test_recorded_losses.py runs the same cases again. A case's model has dropout, tied weights and a head, so that every
draw, its order and the order of the gradients' sums are seen.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mdmcorrect import heads, losses

B, L, V, D, MASK = 4, 9, 13, 8, 12
Case = tuple[str, str, dict[str, Any]]  # the loss, the model's kind, the options


class Net(nn.Module):
    """Logits by tied weights, hidden states beside them, dropout in between."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.embed, self.mix, self.bias = nn.Embedding(V, D), nn.Linear(D, D), nn.Parameter(torch.zeros(V))

    def forward(self, tokens: Tensor, attention_mask: Tensor | None = None, condition: Tensor | None = None) -> Any:
        x = self.embed(tokens)
        x = x + x.mean(1, keepdim=True) + (0 if condition is None else condition[:, None])
        hidden = F.dropout(torch.tanh(self.mix(x)), 0.2, training=True)
        if self.kind == "hidden":
            return {"hidden": hidden, "condition": condition}
        return {"logits": F.linear(hidden, self.embed.weight, self.bias), "hidden": hidden, "condition": condition}


def seeded(module: nn.Module, seed: int) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 2)
    return module


def given(dtype: torch.dtype) -> dict[str, Any]:
    """Everything a case may name, always drawn alike."""
    generator = torch.Generator().manual_seed(5)
    x0 = torch.randint(0, MASK, (B, L), generator=generator)
    z = torch.where(torch.rand(B, L, generator=generator) < 0.6, MASK, x0)
    tokens = torch.where(torch.rand(B, L, generator=generator) < 0.3, (x0 + 1) % MASK, x0)
    selected = (z == MASK).repeat_interleave(2, 0) & (torch.rand(2 * B, L, generator=generator) < 0.5)
    drawn = torch.where(torch.rand(2 * B, L, generator=generator) < 0.5, 1, x0.repeat_interleave(2, 0))
    y = torch.where(selected, drawn, z.repeat_interleave(2, 0))
    return {
        "x0": x0,
        "z": z,
        "tokens": tokens,
        "selected": selected,
        "y": y,
        "t": torch.tensor([0.2, 0.5, 0.7, 1.0], dtype=dtype),
        "fixed": torch.arange(L).expand(B, L) < 2,
        "loss_mask": torch.arange(L).expand(B, L) != 4,
        "attention_mask": (torch.arange(L) < torch.tensor([[9], [7], [9], [5]])).long(),
        "condition": torch.randn(B, D, generator=generator, dtype=dtype),
        "log_reward": torch.randn(B, generator=generator, dtype=dtype),
        "labels": x0.masked_fill(torch.arange(L) % 3 == 0, -100),
        "square": lambda t: t.square() + 0.1,
    }


def run(case: Case, dtype: torch.dtype) -> dict[str, Any]:
    """Loss, parts, inputs, gradients and the states of both generators after it."""
    name, kind, options = case
    data = given(dtype)
    options = {
        key: data[value] if isinstance(value, str) and value in data else value for key, value in options.items()
    }
    x0 = options.pop("x0", data["x0"])
    net, head = seeded(Net(kind), 1).to(dtype), seeded(heads.QualityHead(D, mlp_hidden=4), 2).to(dtype)
    other, log_z = seeded(Net(kind), 3).to(dtype), seeded(losses.LogPartition(V, 4), 4).to(dtype)
    learning = [*net.parameters(), *head.parameters(), *log_z.parameters()]
    generator = torch.Generator().manual_seed(7)
    torch.manual_seed(11)
    drawing = {"generator": generator, "mask_id": MASK}
    layer: dict[str, Any] = {"output_layer": net.embed.weight} if kind == "hidden" else {}
    hidden = lambda tokens: net(tokens)["hidden"]  # noqa: E731
    logits = lambda tokens: net(tokens)["logits"]  # noqa: E731
    z, t, tokens = data["z"], data["t"], data["tokens"]
    calls: dict[str, Callable[[], Any]] = {
        "mdlm_loss": lambda: losses.mdlm_loss(net, x0, **drawing, **layer, **options),
        "prism_loss": lambda: losses.prism_loss(net, x0, head=head, **drawing, **layer, **options),
        "proseco_loss": lambda: losses.proseco_loss(net, x0, **drawing, **layer, **options),
        "ddpp_loss": lambda: losses.ddpp_loss(net, other, log_z, x0, data["log_reward"], **drawing, **options),
        "mdlm_loss_from_logits": lambda: losses.mdlm_loss_from_logits(logits(z), x0, z, t, mask_id=MASK, **options),
        "mdlm_loss_from_hidden": lambda: losses.mdlm_loss_from_hidden(
            hidden(z), net.embed.weight, x0, z, t, mask_id=MASK, **options
        ),
        "proseco_loss_from_logits": lambda: losses.proseco_loss_from_logits(
            logits(z), logits(tokens), x0, z, tokens, t, mask_id=MASK, **options
        ),
        "proseco_loss_from_hidden": lambda: losses.proseco_loss_from_hidden(
            hidden(z), hidden(tokens), net.embed.weight, x0, z, tokens, t, mask_id=MASK, **options
        ),
        "prism_loss_from_logits": lambda: losses.prism_loss_from_logits(
            head(hidden(data["y"])), x0, data["y"], data["selected"], **options
        ),
        "prism_inputs": lambda: losses.prism_inputs(logits(z), z, **drawing, **options),
        "prism_inputs_from_hidden": lambda: losses.prism_inputs_from_hidden(
            hidden(z), net.embed.weight, z, **drawing, **options
        ),
        "corrector_inputs": lambda: losses.corrector_inputs(logits(z), x0, z, **drawing, **options),
        "corrector_inputs_from_hidden": lambda: losses.corrector_inputs_from_hidden(
            hidden(z), net.embed.weight, x0, z, **drawing, **options
        ),
    }
    answer = calls[name]()
    found: dict[str, Any] = {"drawn": [], "numbers": [], "bits": []}
    if isinstance(answer, losses.LossOutput):
        answer.loss.backward()
        tensors = {"loss": answer.loss.detach(), **answer.parts}
        found["parts"] = list(tensors)
        for number, parameter in enumerate(learning):
            if parameter.grad is not None:
                tensors[f"gradient {number}"] = parameter.grad
        found["reached"] = [key for key in tensors if key.startswith("gradient")]
        for value in tensors.values():
            found["numbers"] += [float(f"{number:.9g}") for number in (value.double().sum(), value.double().norm())]
            found["bits"].append(digest(value))
    else:
        found["drawn"] = [digest(part) for part in (answer if isinstance(answer, tuple) else (answer,))]
    found["generators"] = [digest(generator.get_state()), digest(torch.get_rng_state())]
    return found


def digest(value: Tensor) -> str:
    return hashlib.sha1(value.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes()).hexdigest()[:12]


def here() -> str:
    """What decides bits: torch, its instruction set, the processor."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    fields = {line.partition(":")[0].strip(): line.partition(":")[2].strip() for line in reversed(lines)}
    cpu = [fields.get(name, "") for name in ("vendor_id", "cpu family", "model")]
    sets = torch.backends.cpu.get_cpu_capability(), os.environ.get("MDMCORRECT_ISA", "chosen")
    return " ".join([torch.__version__, *sets, platform.machine(), *cpu])


DRAWS = [{"t": "t"}, {"t_min": 0.3}, {"antithetic": False}, {"schedule": "cosine"}, {"schedule": "loglinear"}]
ROLES = [
    {"fixed": "fixed"},
    {"loss_mask": "loss_mask"},
    {"attention_mask": "attention_mask"},
    {"fixed": "fixed", "loss_mask": "loss_mask", "attention_mask": "attention_mask"},
]
WEIGHTS = [{"weight": "uniform"}, {"weight": "square"}, {"normalizer": "BL"}, {"normalizer": "answer"}]
CALLS = [{"condition": "condition"}, {"check": False}]
DRAWN = [
    {"k": 3},
    {"k": 2, "n_y": 3},
    {"k": 3, "positions": "confidence"},
    {"k": 2, "positions": "confidence", "leftmost": 3, "temperature": 0.0},
    {"k": 2, "n_y": 2, "temperature": 0.7, "top_p": 0.8},
]
REPLACED = [{"inputs": "sample"}, {"inputs": "sample", "temperature": 0.5}, {"input_positions": "masked"}]
CORRECTED = [
    {"weighted": False},
    {"upweight_errors": True},
    {"score_fixed": True, "fixed": "fixed"},
    {"mdlm_weight": 0.3, "corrector_weight": 2.0},
    {"num_items_in_batch": 50},
    {"score_fixed": True, "fixed": "fixed", "num_items_in_batch": 50, "num_corrector_items_in_batch": 70},
]
ALONE = {
    "mdlm_loss": [*DRAWS, *ROLES, *WEIGHTS, *CALLS, {"num_items_in_batch": 40}],
    "prism_loss": [
        *DRAWS, *ROLES, *WEIGHTS, *CALLS, *DRAWN, {"mdlm_weight": 0.0}, {"mdlm_weight": 5.0, "k": 9},
        {"train_backbone": False, "k": 3}, {"num_items_in_batch": 50, "num_chosen_in_batch": 9, "k": 2},
        {"k": 4, "n_y": 2, "condition": "condition", "attention_mask": "attention_mask"},
    ],
    "proseco_loss": [*DRAWS, *ROLES, *WEIGHTS, *CALLS, *REPLACED, *CORRECTED],
    "ddpp_loss": [*DRAWS, {"fixed": "fixed"}, {"attention_mask": "attention_mask"}, *CALLS, {"beta": 0.3},
                  {"num_items_in_batch": 9}],
    "mdlm_loss_from_logits": [*ROLES, *WEIGHTS, {"x0": "labels"}, {"schedule": "cosine"}],
    "proseco_loss_from_logits": [*ROLES, *WEIGHTS, *CORRECTED, {"x0": "labels"}],
    "prism_loss_from_logits": [{}, {"x0": "labels"}, {"num_chosen_in_batch": 20}],
    "prism_inputs": [*DRAWN, {"eligible": "loss_mask", "k": 4}],
    "corrector_inputs": [*REPLACED, {"free": "loss_mask"}, {"x0": "labels"}],
}  # fmt: skip
FROM_HIDDEN = {
    "mdlm_loss": "mdlm_loss", "prism_loss": "prism_loss", "proseco_loss": "proseco_loss",
    "mdlm_loss_from_hidden": "mdlm_loss_from_logits", "proseco_loss_from_hidden": "proseco_loss_from_logits",
    "prism_inputs_from_hidden": "prism_inputs", "corrector_inputs_from_hidden": "corrector_inputs",
}  # fmt: skip


def cases() -> Iterator[tuple[str, Case]]:
    """Every option alone, then with two more of the same loss."""
    for name, source, kind in [
        *((name, name, "logits") for name in ALONE),
        *((name, source, "hidden") for name, source in FROM_HIDDEN.items()),
    ]:
        options = ALONE[source]
        together = [{**options[i - 2], **options[(i + 5) % len(options)], **one} for i, one in enumerate(options)]
        together = [one for one in together if consistent(one)]
        for i, chosen in enumerate([{}, *options, *together]):
            yield f"{name}-{kind}-{i}", (name, kind, chosen)


def consistent(options: dict[str, Any]) -> bool:
    """Whether a loss takes these together."""
    counts = {"num_items_in_batch", "num_chosen_in_batch"} & options.keys()
    frozen = not options.get("train_backbone", True) or options.get("mdlm_weight") == 0.0
    if frozen and (options.get("mdlm_weight") or counts):
        return False
    both = "num_items_in_batch" not in options or "num_corrector_items_in_batch" in options
    return both or not options.get("score_fixed")


def main() -> None:
    torch.set_num_threads(1)
    found = {name: run(case, torch.float32) for name, case in cases()}
    path = Path(sys.argv[1])
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(case)}" for name, case in found.items())
    path.write_text(f'{{"made on": {json.dumps(here())}, "cases": {{\n{lines}\n}}}}\n')


if __name__ == "__main__":
    main()
