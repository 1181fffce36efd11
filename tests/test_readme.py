"""The README's Python runs as printed, on a small model in place of the reader's."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import BertConfig

README = Path(__file__).parents[1] / "README.md"


class TinyModel(nn.Module):
    def __init__(self, vocabulary: int, hidden_size: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, hidden_size)
        self.norm = nn.LayerNorm(hidden_size)
        self.out = nn.Linear(hidden_size, vocabulary)

    def forward(self, tokens: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return self.out(self.norm(self.embed(tokens)))


def test_readme_code_runs() -> None:
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    assert len(blocks) == 5
    torch.manual_seed(0)
    names = {
        "model": TinyModel(20, 8),
        "prompts": [[1, 2, 3], [4]],
        "mask_id": 19,
        "pad_id": 0,
        "hidden_size": 8,
        "x0": torch.randint(0, 19, (2, 12)),
        "config": BertConfig(vocab_size=20, hidden_size=64, num_hidden_layers=1, num_attention_heads=2),
    }
    for block in blocks:
        exec(compile(block, str(README), "exec"), names)
    assert names["scores"].token.shape == (2, 128)
    assert names["worst"].sum(1).tolist() == [8, 8]
    assert [len(answer) for answer in names["answers"]] == [64, 64]
    assert names["judged"].quality_head.out.weight.grad.abs().sum() > 0
    assert (names["result"].tokens != 19).all()
    assert names["answer"].shape == (1, 16)
    assert (names["answer"] != 19).all()


def test_readme_names_both_commands_and_existing_files() -> None:
    text = README.read_text()
    assert "make demo" in text
    assert "make test" in text
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (README.parent / link).exists(), link
