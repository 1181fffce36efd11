"""``mdmcorrect generate``: prompts in, completions out, by any published sampler."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

EPILOG = """\
examples:
  mdmcorrect generate path/to/model --prompt "The capital of France is" --preset LLaDA --steps 32 --new-tokens 32
  mdmcorrect generate path/to/model --prompts questions.jsonl --out answers.jsonl --preset PRISM --steps 64 \\
      --set remask_count=4 --set unmask=confidence --batch-size 8 --html pages
  mdmcorrect generate mypackage.models:load --prompts - --tokenizer path/to/tokenizer < questions.jsonl > answers.jsonl
  mdmcorrect generate --presets                         every sampler and its settings

A line of --prompts is a JSON string, or an object with "prompt" (or "text"), "messages" (a chat) or "tokens" (ids), and
an "id" of yours if you like. A line of the answers holds index, id, prompt, completion, tokens, nfe and seed.

Killed? Give the same command again: what is in --out stays, the rest is made, and every answer is what it would have
been, since its draws depend on --seed and its place among the prompts alone.

A factory is a function without arguments: it returns a model, tokens [B, L] -> logits [B, L, V], or the pair
(model, tokenizer).

exit status: 0 all done; 1 something is missing or failed; 2 a wrong argument or file; 130 interrupted.
"""


class _Presets(argparse.Action):
    """``--presets`` prints them and ends, whatever else is given."""

    def __init__(self, option_strings: list[str], dest: str, **options: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, **options)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any, **__: Any) -> None:
        from ._presets import listing

        print(listing())
        parser.exit()


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    from ._loading import add_model_arguments

    parser = subparsers.add_parser(
        "generate",
        help="complete prompts with a model and any sampler",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_model_arguments(parser)
    parser.add_argument("--prompt", action="append", default=[], metavar="TEXT", help="may be given several times")
    parser.add_argument("--prompts", type=Path, metavar="FILE", help="JSONL, - for standard input")
    parser.add_argument("--chat", action="store_true", help="put each prompt into the tokenizer's chat template")
    parser.add_argument("--no-special-tokens", action="store_true", help="add none around a prompt")
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSONL, gone on with if it is there; default: stdout")
    parser.add_argument("--overwrite", action="store_true", help="begin --out anew")
    parser.add_argument("--preset", default="LLaDA", help="the sampler (default LLaDA), or its sampler.json")
    parser.add_argument("--steps", type=int, help="its steps")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="another of its settings")
    parser.add_argument("--presets", action=_Presets, help="list every sampler and its settings, and end")
    parser.add_argument("--new-tokens", type=int, default=64, help="masks after each prompt (default 64)")
    parser.add_argument("--eos-id", type=int, nargs="*", help="ids that end a row; none: nothing does; default: known")
    parser.add_argument("--stop", action="append", default=[], metavar="TEXT", help="a text that ends a row, cut off")
    parser.add_argument("--pad-id", type=int, help="fills shorter rows of a batch; default: the tokenizer's, or eos")
    parser.add_argument("--batch-size", type=int, default=1, help="prompts at once (default 1)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--html", type=Path, metavar="FOLDER", help="also write a page that plays each run")
    parser.add_argument("--runs", type=Path, metavar="FOLDER", help="also save each run, for mdmcorrect replay")
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")


def run(args: argparse.Namespace) -> int:
    from ._journal import Journal, fingerprint
    from ._loading import model_of
    from ._presets import preset_of
    from ._prompts import ids_of, prompts_of
    from ._told import UserError

    sampler, settings = preset_of(args.preset, args.set, args.steps)
    for name, least in (("batch_size", 1), ("new_tokens", 0), ("seed", 0)):
        if getattr(args, name) < least:
            raise UserError(f"--{name.replace('_', '-')}: expected at least {least}, got {getattr(args, name)}")
    if args.seed >= 1 << 31:
        raise UserError(f"--seed: expected a number below 2147483648, got {args.seed}")
    if args.overwrite and args.out is None:
        raise UserError("--overwrite: there is no --out to begin anew")
    prompts = prompts_of(args.prompt, args.prompts)
    loaded = model_of(args)
    special = not args.no_special_tokens
    rows = [ids_of(prompt, loaded.tokenizer, chat=args.chat, special=special) for prompt in prompts]
    ids = _special_ids(args, loaded)
    said = {"model": args.model, "preset": type(sampler).__name__, "settings": settings, "ids": ids}
    said |= {
        name: getattr(args, name) for name in ("new_tokens", "seed", "dtype", "shift", "chat", "quality_head", "stop")
    }
    with nullcontext() if args.out is None else Journal(args.out, fingerprint(said), overwrite=args.overwrite) as kept:
        done = {} if kept is None else kept.done
        for index, entry in done.items():
            if index >= len(prompts) or entry.get("prompt") != prompts[index].given:
                raise UserError(f"--out {args.out}: its prompt {index} is another than is given now")
        count = _progress(args, len(prompts), len(done))
        todo = [index for index in range(len(prompts)) if index not in done]
        for first in range(0, len(todo), args.batch_size):
            batch = todo[first : first + args.batch_size]
            answers = list(_answers(args, loaded, sampler, prompts, rows, batch, ids))
            if kept is not None:
                kept.write(answers)
            else:
                sys.stdout.write("".join(json.dumps(answer) + "\n" for answer in answers))
                sys.stdout.flush()
            count(len(batch))
    return 0


def _special_ids(args: argparse.Namespace, loaded: Any) -> dict[str, Any]:
    """The mask, ends of sequence and padding."""
    from ._told import UserError

    mask = loaded.identifier(args.mask_id, "mask")
    if mask is None:
        raise UserError("--mask-id: neither the tokenizer nor the model names a mask token; give its id")
    known = loaded.identifier(None, "eos")
    ends = args.eos_id if args.eos_id is not None else [] if known is None or known == mask else [known]
    pad = loaded.identifier(args.pad_id, "pad")
    return {"mask_id": mask, "eos_id": ends, "pad_id": pad if pad is not None else (ends[0] if ends else 0)}


def _answers(
    args: argparse.Namespace,
    loaded: Any,
    sampler: Any,
    prompts: list[Any],
    rows: list[list[int]],
    batch: list[int],
    ids: dict[str, Any],
) -> Iterator[dict[str, Any]]:
    """What the sampler makes of some prompts; pages and runs are written first, so that a line says that they are."""
    import torch

    from mdmcorrect.canvas import Canvas

    from ._prompts import text_of
    from ._told import UserError

    stop = _stop(args, loaded, ids["mask_id"])
    looked_at = args.html is not None or args.runs is not None
    seeds = torch.tensor([(args.seed << 32) + index for index in batch], dtype=torch.int64, device="cpu")
    ends = ids["eos_id"] or None
    try:
        canvas = Canvas.from_prompts(
            [rows[index] for index in batch],
            new_tokens=args.new_tokens,
            mask_id=ids["mask_id"],
            pad_id=ids["pad_id"],
            device=args.device,
        )
        padded = {} if bool(canvas.attention_mask.all()) else {"attention_mask": canvas.attention_mask}
        result = sampler(
            loaded.model,
            canvas.tokens,
            mask_id=ids["mask_id"],
            fixed=canvas.fixed,
            eos_id=ends,
            stop=stop,
            seed=seeds,
            on_interrupt="raise",
            history="candidates" if looked_at else False,
            **padded,
        )
    except (TypeError, ValueError) as error:
        raise UserError(f"prompts {batch[0]} to {batch[-1]}: {error}") from error
    sequences = canvas.sequences(result.tokens, ends)
    for place, index in enumerate(batch):
        if looked_at:
            _show(args, result, place, index, loaded.tokenizer)
        given = rows[index]  # what it answers begins at the prompt's first mask, if there are any in it
        begins = given.index(ids["mask_id"]) if ids["mask_id"] in given else len(given)
        made = sequences[place][begins:].tolist()
        if stop is not None and ids["mask_id"] in made:  # what a row that was ended has left
            made = made[: made.index(ids["mask_id"])]
        text = text_of(made, loaded.tokenizer)
        completion = text if stop is None or text is None else stop.cut(text)
        answer = {"index": index, "prompt": prompts[index].given, "completion": completion}
        if prompts[index].name is not None:
            answer["id"] = prompts[index].name
        numbers = {"nfe": int(result.nfe[place]), "seed": int(seeds[place])}
        yield answer | {"tokens": made, "stopped": result.stopped} | numbers


def _stop(args: argparse.Namespace, loaded: Any, mask_id: int) -> Any:
    """The rule of ``--stop``, or None."""
    from mdmcorrect.streaming import StopStrings

    from ._told import UserError

    if not args.stop:
        return None
    if loaded.tokenizer is None:
        raise UserError("--stop: it is text, and the model has no tokenizer; give --tokenizer")
    try:
        return StopStrings(loaded.tokenizer, args.stop, mask_id=mask_id)
    except (TypeError, ValueError) as error:
        raise UserError(f"--stop: {error}") from error


def _show(args: argparse.Namespace, result: Any, place: int, index: int, tokenizer: Any) -> None:
    run = result.run([place])
    if args.runs is not None:
        args.runs.mkdir(parents=True, exist_ok=True)
        run.save(args.runs / f"{index:05d}.json", tokenizer)
    if args.html is not None:
        args.html.mkdir(parents=True, exist_ok=True)
        page = run.to_html(tokenizer, title=f"{run.method}, prompt {index}")
        (args.html / f"{index:05d}.html").write_text(page, encoding="utf-8")


def _progress(args: argparse.Namespace, total: int, before: int) -> Any:
    """Called with how many prompts were answered; writes one line, over and over on a terminal."""
    began, made = time.monotonic(), 0

    def told(count: int) -> None:
        nonlocal made
        made += count
        if args.quiet:
            return
        each = (time.monotonic() - began) / made
        left = each * (total - before - made)
        line = f"{before + made} of {total} prompts, {each:.1f} s each, {left:.0f} s left"
        end = "\r" if sys.stderr.isatty() and before + made < total else "\n"
        print(f"{line:60}" if end == "\r" else line, end=end, file=sys.stderr, flush=True)

    if before and not args.quiet:
        print(f"{before} of {total} prompts were answered before", file=sys.stderr)
    return told
