"""``mdmcorrect score``: how probable a model finds each token of a text."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

EPILOG = """\
examples:
  mdmcorrect score path/to/bert --text "The cat sat on the moon."
  mdmcorrect score path/to/model --texts drafts.jsonl --out scored.jsonl --by head
  mdmcorrect score mypackage.models:load --texts - --by seen < drafts.jsonl > scored.jsonl

what a token's quality is (--by):
  head     what the model's quality head says of it; one forward per text; the default where there is a head
  hidden   its probability where it alone is masked, by any masked model; one forward per token; else the default
  seen     its probability where it can be seen; one forward per text; a model that copies calls everything right

A line of --texts is a JSON string, or an object with "text" or "tokens" (ids), and an "id" of yours if you like.
A line of the answers holds index, id, prompt, tokens, pieces (their texts), quality and its mean. --out is gone on with
after a kill, as that of `mdmcorrect generate` is.
"""
WAYS = ("head", "hidden", "seen")


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    from ._loading import add_model_arguments

    parser = subparsers.add_parser(
        "score",
        help="the quality of each token of a text, by a model",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_model_arguments(parser)
    parser.add_argument("--text", action="append", default=[], help="may be given several times; shown as a table")
    parser.add_argument("--texts", type=Path, metavar="FILE", help="JSONL, - for standard input")
    parser.add_argument("--no-special-tokens", action="store_true", help="add none around a text")
    parser.add_argument("--by", choices=WAYS, help="what quality is; see below")
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSONL, gone on with if it is there")
    parser.add_argument("--overwrite", action="store_true", help="begin --out anew")
    parser.add_argument("--batch-size", type=int, default=16, help="rows at once when tokens are masked (default 16)")


def run(args: argparse.Namespace) -> int:
    from ._journal import Journal, fingerprint
    from ._loading import model_of
    from ._prompts import ids_of, prompts_of
    from ._told import UserError

    if args.batch_size < 1:
        raise UserError(f"--batch-size: expected at least 1, got {args.batch_size}")
    if args.overwrite and args.out is None:
        raise UserError("--overwrite: there is no --out to begin anew")
    prompts = prompts_of(args.text, args.texts)
    loaded = model_of(args)
    mask_id = loaded.identifier(args.mask_id, "mask")
    if mask_id is None:
        raise UserError("--mask-id: neither the tokenizer nor the model names a mask token; give its id")
    special = not args.no_special_tokens
    said = {name: getattr(args, name) for name in ("model", "by", "dtype", "shift", "quality_head")}
    said |= {"mask_id": mask_id, "command": "score"}
    with nullcontext() if args.out is None else Journal(args.out, fingerprint(said), overwrite=args.overwrite) as kept:
        done = {} if kept is None else kept.done
        for index, entry in done.items():
            if index >= len(prompts) or entry.get("prompt") != prompts[index].given:
                raise UserError(f"--out {args.out}: its text {index} is another than is given now")
        for index, prompt in enumerate(prompts):
            if index in done:
                continue
            ids = ids_of(prompt, loaded.tokenizer, special=special)
            try:
                answer = _answer(loaded, ids, mask_id, args)
            except (TypeError, ValueError) as error:
                raise UserError(f"text {index}: {error}") from error
            answer = {"index": index, "prompt": prompt.given, **answer}
            if prompt.name is not None:
                answer["id"] = prompt.name
            if kept is not None:
                kept.write([answer])
            elif args.texts is None:
                sys.stdout.write(_table(answer))
            else:
                sys.stdout.write(json.dumps(answer) + "\n")
    return 0


def _answer(loaded: Any, ids: list[int], mask_id: int, args: argparse.Namespace) -> dict[str, Any]:
    from mdmcorrect.replay.tokens import reader, visible

    quality, by = qualities(loaded.model, ids, mask_id=mask_id, by=args.by, batch=args.batch_size, device=args.device)
    say = str if loaded.tokenizer is None else reader(loaded.tokenizer)
    known = [value for value in quality if value is not None]
    return {
        "tokens": ids,
        "pieces": [visible(say(token)) for token in ids],
        "by": by,
        "quality": quality,
        "mean": round(sum(known) / len(known), 6) if known else None,
    }


def qualities(
    model: Any, ids: list[int], *, mask_id: int, by: str | None, batch: int, device: str
) -> tuple[list[float | None], str]:
    """The quality of each token, None where it is a mask or undefined, and which kind of quality it is.

    Args:
        model: any that a sampler takes.
        ids: the text's.
        mask_id: the mask token, of probability zero.
        by: one of ``WAYS``; None takes the head where there is one.
        batch: rows of a forward in which single tokens are masked.
        device: where the tokens go.

    Raises:
        ValueError: ``by="head"``, and the model gives no quality.
    """
    import torch

    from mdmcorrect import ops
    from mdmcorrect.model import Request, as_model, check_logits, combine

    reads = as_model(model)

    def ask(tokens: torch.Tensor, wanted: torch.Tensor) -> Any:
        rows, length = tokens.shape
        every = torch.arange(rows, dtype=torch.int64, device=device)
        share = (tokens == mask_id).double().mean(1)
        place = torch.arange(length, dtype=torch.int64, device=device).expand(rows, length)
        request = Request(every, wanted, share, torch.zeros_like(every), place, mask_id=mask_id, fixed=~wanted)
        output = reads(tokens, request)
        check_logits(output.logits, tokens, mask_id, "model")
        return output

    def probability(output: Any, tokens: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        scored = ops.score_tokens(
            combine(output), tokens=tokens, rows=rows, suppress=[mask_id], want=["current_logprob"]
        )
        return scored.current_logprob.exp()

    if not ids:
        return [], by or "hidden"
    text = torch.tensor([ids], dtype=torch.int64, device=device)
    real = text != mask_id
    with torch.no_grad():
        if by != "hidden":
            output = ask(text, real)
            if output.quality is None and by == "head":
                raise ValueError("--by head: the model gives no quality; name a head with --quality-head")
            if output.quality is not None and by != "seen":
                return _numbers(output.quality[0].float().where(real[0], torch.nan)), "head"
            if by == "seen":
                return _numbers(probability(output, text, real)[0]), "seen"
        found = torch.full((len(ids),), torch.nan, dtype=torch.float32, device=device)
        for places in real[0].nonzero().flatten().split(batch):
            alone = torch.zeros(len(places), len(ids), dtype=torch.bool, device=device)
            alone[torch.arange(len(places), device=device), places] = True
            whole = text.expand(len(places), -1)
            output = ask(whole.masked_fill(alone, mask_id), alone)
            found[places] = probability(output, whole, alone)[alone]
    return _numbers(found), "hidden"


def _numbers(values: Any) -> list[float | None]:
    return [round(value, 6) if value == value else None for value in values.tolist()]


def _table(answer: dict[str, Any]) -> str:
    """One line per token: its place, its quality, a bar, its text."""
    lines = [f"quality by {answer['by']}, mean {answer['mean']}"]
    for place, (piece, value) in enumerate(zip(answer["pieces"], answer["quality"], strict=True)):
        bar = "" if value is None else "█" * round(20 * value)
        lines.append(f"{place:5d}  {'masked' if value is None else f'{value:6.4f}'}  {bar:20}  {piece}")
    return "\n".join(lines) + "\n"
