"""The few cases of each operator that ``mdmcorrect doctor --check`` asks: together they launch every kernel there is.

A test holds that each kernel that CUDA's launchers name is among them.
"""

from __future__ import annotations

from . import network_cases, pass_cases, position_cases, scoring_cases, step_cases
from .cases import Case

CASES = (*scoring_cases.CASES, *position_cases.CASES, *step_cases.CASES, *pass_cases.CASES, *network_cases.CASES)
BY_NAME = {str(case): case for case in CASES}

_FLOATS = ("float32", "bfloat16", "float16")
_HALVES = ("bfloat16", "float16")


def _of_each(dtypes: tuple[str, ...], *titles: str) -> list[str]:
    return [f"{title}, {dtype}" for title in titles for dtype in dtypes]


CHOSEN: dict[str, list[str]] = {
    "uniform": ["[2, 1025] float32", "[3, 1] float64", "[2, 4097] float64"],
    "select_positions": [
        "ranked, [2, 255] bfloat16",
        "drawn, [2, 1025] float32",
        "drawn, [2, 4097] float16",
        "ranked, [4, 0] float32",
    ],
    "count_positions": [
        "threshold, [5, 257] bfloat16",
        "factor, [2, 4097] float32",
        "entropy_bound, [5, 257] bfloat16",
        "cumulative, [5, 257] float32",
        "cut_off, [2, 4097] float32",
    ],
    "remask_step": [
        "two bands, [2, 1025] float32",
        "refill never, [2, 255] float16",
        "one pool, [2, 4097] bfloat16",
        "given masks, [2, 256] float16",
    ],
    "sampler_step": [
        "even split, [2, 300]",
        "blocks, [3, 37]",
        "entropy bound, [2, 300]",
        "quality, [2, 4100]",
        "posterior, [3, 37]",
        "posterior by confidence, [2, 300]",
        "pool, [2, 300]",
        "strict pool, [2, 4100]",
        "corrections, [3, 37]",
    ],
    "correct_pass": ["first, [3, 37]", "first, everywhere, [2, 300]", "later, [2, 300]", "later, [2, 4100]"],
    "score_tokens": [
        *_of_each(_FLOATS, "draw", "4609 ids", "guidance", "guidance of 4609 ids"),
        "argmax, bfloat16",
        "law of the proposal, bfloat16",
        "both filters, float32",
        "nucleus, bfloat16",
        "suppressed and forbidden ids, bfloat16",
        "some rows, float16",
        "shift, bfloat16",
        "dense noise, bfloat16",
        "rows off 16 bytes, bfloat16",
        "1 ids, float32",
        "probabilities",
    ],
    "score_hidden": [
        *_of_each(_FLOATS, "draw"),
        "both filters, float32",
        "suppressed and forbidden ids, bfloat16",
        "[1, 2] of 9001 ids, bfloat16",
        "some rows",
    ],
    "score_quality": [
        *(f"layer norm, [3, 40, 1000] {dtype}" for dtype in _FLOATS),
        "rms norm, [2, 5, 63] bfloat16",
        "None norm, [1, 2, 4096] float32",
    ],
    "bidirectional_attention": [
        *_of_each(_HALVES, *(f"width {width}" for width in (32, 64, 96, 128, 192, 256))),
        "width 160, bfloat16",
        "hide self, bfloat16",
        "blocks of 64, hide self, bfloat16",
        "shadow, one each, float16",
        "length 1, bfloat16",
        "width 64, float32",
        "blocks of 5, float32",
    ],
    "linear_cross_entropy": [
        *(f"[49, 64, 5000] {dtype}" for dtype in _FLOATS),
        *(f"[7, 5, 11] {dtype}, smoothed and capped" for dtype in _FLOATS),
    ],
}
FAMILIES: dict[str, list[Case]] = {op: [BY_NAME[f"{op}: {title}"] for title in titles] for op, titles in CHOSEN.items()}
