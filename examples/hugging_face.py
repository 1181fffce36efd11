"""PRISM sampling from a Hugging Face model, its attention by torch and by this library.

    python -m mdmcorrect.examples.hugging_face --dtype bfloat16

A decoder of transformers attends in both directions (`is_causal=False`, as in LLaDA and Dream), carries a quality head,
and fills the masks after prompts of uneven length, which stand behind left padding. Its weights are random: what comes
out means nothing, but costs what it costs and must not depend on who computes the attention, beyond rounding.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from mdmcorrect.canvas import Canvas
from mdmcorrect.heads import QualityHead, attach
from mdmcorrect.integrations.transformers import register
from mdmcorrect.samplers import PRISM

__all__ = ["Sampled", "judged_model", "main", "sample", "uneven_prompts"]

MASK_ID, PAD_ID, VOCABULARY = 4095, 4094, 4096
IMPLEMENTATIONS = ("sdpa", "mdmcorrect")


def judged_model(dtype: torch.dtype, *, layers: int = 4, seed: int = 0) -> nn.Module:
    """A decoder with random weights, eight heads of 64 in four groups, and a quality head that listens to its norm."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=512,
        intermediate_size=1024,
        num_hidden_layers=layers,
        num_attention_heads=8,
        num_key_value_heads=4,
        initializer_range=0.1,
        is_causal=False,
    )
    head = QualityHead(config.hidden_size)
    nn.init.normal_(head.out.weight)  # an untrained head's zeros would call every token equally doubtful
    return attach(LlamaForCausalLM(config), head, module="model.norm").to(dtype).eval()


def uneven_prompts(count: int, longest: int) -> list[Tensor]:
    """Random ids, of lengths from an eighth of the longest."""
    generator = torch.Generator().manual_seed(1)
    lengths = torch.linspace(longest / 8, longest, count).long().tolist()
    return [torch.randint(PAD_ID, (length,), generator=generator) for length in lengths]


@dataclass(frozen=True)
class Sampled:
    """By one implementation of attention: the canvas's tokens, the first forward's logits, median seconds of a run."""

    tokens: Tensor
    logits: Tensor
    seconds: float


def sample(judged: nn.Module, canvas: Canvas, *, steps: int, rounds: int = 1) -> dict[str, Sampled]:
    """The same run, of the same seed, by each implementation, in turn."""
    register()
    sampler = PRISM(steps=steps, unmask="confidence", remask_count=4)
    seconds: dict[str, list[float]] = {name: [] for name in IMPLEMENTATIONS}
    tokens, logits = {}, {}
    for turn in range(rounds + 1):  # the first warms up
        for name in IMPLEMENTATIONS:
            judged.model.set_attn_implementation(name)
            with torch.no_grad():
                logits[name] = judged(canvas.tokens, attention_mask=canvas.attention_mask).logits
                start = time.perf_counter()
                tokens[name] = sampler(judged, **canvas.inputs(), seed=0, on_interrupt="raise").tokens
            if turn > 0:
                seconds[name].append(time.perf_counter() - start)
    return {name: Sampled(tokens[name], logits[name], statistics.median(seconds[name])) for name in IMPLEMENTATIONS}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--longest", type=int, default=768, help="tokens of the longest prompt")
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args(argv)
    prompts = uneven_prompts(args.prompts, args.longest)
    canvas = Canvas.from_prompts(prompts, new_tokens=args.new_tokens, mask_id=MASK_ID, pad_id=PAD_ID)
    found = sample(judged_model(getattr(torch, args.dtype)), canvas, steps=args.steps, rounds=args.rounds)
    torchs, ours = found["sdpa"], found["mdmcorrect"]
    real = canvas.attention_mask
    print(
        f"{list(canvas.tokens.shape)} tokens, {1 - real.float().mean():.0%} padding; {args.steps} steps, random weights"
    )
    for name, result in found.items():
        print(f"{name:>10}: {result.seconds:.2f} s")
    apart = (ours.logits[real].float() - torchs.logits[real].float()).abs().max().item()
    print(f"first logits at most {apart:.1g} apart, of {torchs.logits[real].float().std():.1f} standard deviation")
    drawn = ~canvas.fixed
    print(f"tokens drawn alike: {(ours.tokens == torchs.tokens)[drawn].sum()} of {drawn.sum()}")


if __name__ == "__main__":
    main()
