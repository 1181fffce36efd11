"""The rows of the benchmarks that answer what a device is asked first, the most important file first."""

from __future__ import annotations

ROWS: dict[str, list[str]] = {
    "score_tokens": [
        "test_score_tokens[bf16-0.0-peaked]",
        "test_score_tokens[bf16-1.0-peaked]",
        "test_score_tokens[bf16-0.7-peaked]",
        "test_score_tokens_llada[1.0]",
        "test_score_tokens_some_rows",
        "test_score_tokens_small",
    ],
    "bidirectional_attention": [
        "test_bidirectional_attention[(1, 32, 1024, 128)-bf16]",
        "test_bidirectional_attention[(8, 12, 1024, 64)-bf16]",
        "test_bidirectional_attention[(4, 32, 4096, 128)-bf16]",
        "test_bidirectional_attention_blocks[(1, 32, 1024, 128)]",
        "test_bidirectional_attention_half_padding[(1, 32, 1024, 128)]",
        "test_bidirectional_attention_training",
    ],
    "sampler_step": [
        "test_sampler_step[llada-0.0-1x256x126464]",
        "test_sampler_step[llada-0.7-1x256x126464]",
        "test_sampler_step[prism-0.7-8x256x126464]",
    ],
    "score_hidden": ["test_score_hidden[1.0]", "test_score_hidden_greedy", "test_score_hidden_some_rows"],
    "linear_cross_entropy": ["test_linear_cross_entropy[bf16]", "test_linear_cross_entropy_forward"],
    "score_quality": ["test_score_quality[bf16-norm]"],
    "select_positions": ["test_select_positions[16x1024-gumbel]"],
    "remask_step": ["test_remask_step[16x1024]"],
    "count_positions": ["test_count_positions[16x1024-entropy_bound]"],
}


def node_ids(file: str) -> list[str]:
    return [f"benchmarks/bench_{file}.py::{row}" for row in ROWS[file]]
