"""A small transformer that reads a Sudoku board: every token sees its row, its column, its box and the whole board.

The block is weight-shared and applied `loops` times, so depth of reasoning costs no parameters; the board's embedding
is added again before each round, so late rounds still know what is given and what is blank.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .puzzles import Geometry

__all__ = ["SudokuConfig", "SudokuOutput", "SudokuTransformer"]


@dataclass(frozen=True)
class SudokuConfig:
    """Sizes of a `SudokuTransformer`; stored with each checkpoint.

    `box_height` and `box_width` define the board: 3 x 3 for the 9x9 game, 2 x 3 for 6x6. `sees_givens`: the model is
    told which cells were given. They are right whatever the rest of the board says, so a model that judges or corrects
    its own tokens needs to know; plain MDM training shows only right tokens and does without.
    """

    box_height: int = 3
    box_width: int = 3
    width: int = 128
    heads: int = 4
    layers: int = 2
    loops: int = 3
    mlp_ratio: int = 3
    sees_givens: bool = False

    @property
    def geometry(self) -> Geometry:
        return Geometry(self.box_height, self.box_width)

    def to_dict(self) -> dict[str, int | bool]:
        return dataclasses.asdict(self)


@dataclass
class SudokuOutput:
    """What one forward gives: logits [B, L, V], hidden states [B, L, width], and the quality [B, L] if a head is on."""

    logits: Tensor
    hidden: Tensor
    quality: Tensor | None = None


class Layer(nn.Module):
    """Pre-norm attention and GELU MLP. Heads take turns: row, column, box, whole board."""

    def __init__(self, width: int, heads: int, mlp_ratio: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm_mlp = nn.LayerNorm(width)
        self.up = nn.Linear(width, mlp_ratio * width)
        self.down = nn.Linear(mlp_ratio * width, width)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:  # x [B, L, width], bias [heads, L, L] or [B, heads, L, L]
        B, L, C = x.shape
        q, k, v = self.qkv(self.norm_attention(x)).view(B, L, 3, self.heads, C // self.heads).permute(2, 0, 3, 1, 4)
        # Boards are short (81 cells): plain products over contiguous heads beat the blocked CPU attention by half.
        q, k, v = (q * (C // self.heads) ** -0.5).contiguous(), k.contiguous(), v.contiguous()
        with torch.autocast(x.device.type, enabled=False):
            attended = (q @ k.transpose(-1, -2) + bias.to(q.dtype)).softmax(-1) @ v
        x = x + self.out(attended.transpose(1, 2).reshape(B, L, C))
        return x + self.down(F.gelu(self.up(self.norm_mlp(x)), approximate="tanh"))


class SudokuTransformer(nn.Module):
    """`tokens [B, L] -> SudokuOutput`; token 0 is the mask, token d the digit d, so V = side + 1 and L = side^2.

    `condition`, bool [B, L], marks the givens; without `config.sees_givens` it is ignored. Tokens beyond the board's, a
    shadow of it, have the cells they stand for in `position_ids` [B, L + W], and `attention_mask` [B, 1, L + W, L + W]
    says who sees whom; each head looks where it looks, as far as that goes.
    """

    def __init__(self, config: SudokuConfig) -> None:
        super().__init__()
        self.config = config
        side, width = config.geometry.side, config.width
        self.token = nn.Embedding(side + 1, width)
        if config.sees_givens:
            # Neither zero, from which it would grow too slowly, nor constant, which the norms would remove.
            self.given = nn.Parameter(torch.tensor([1.0, -1.0]).repeat(width // 2))
        self.row, self.column, self.box = (nn.Embedding(side, width) for _ in range(3))
        self.layers = nn.ModuleList(Layer(width, config.heads, config.mlp_ratio) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, side + 1)
        rows, columns, boxes = config.geometry.units()
        same = torch.stack([rows[:, None] == rows, columns[:, None] == columns, boxes[:, None] == boxes])
        everywhere = torch.ones_like(same[:1])
        views = torch.cat([same, everywhere]).repeat(-(-config.heads // 4), 1, 1)[: config.heads]
        self.register_buffer("bias", torch.zeros(views.shape).masked_fill(~views, float("-inf")), persistent=False)
        self.register_buffer("units", torch.stack([rows, columns, boxes]), persistent=False)

    def forward(
        self,
        tokens: Tensor,
        condition: Tensor | None = None,
        *,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
    ) -> SudokuOutput:
        (row, column, box), bias = self.units, self.bias
        if position_ids is not None:
            row, column, box = self.units[:, position_ids]
            bias = self.bias[:, position_ids[:, :, None], position_ids[:, None]].transpose(0, 1)
        if attention_mask is not None:
            bias = bias.masked_fill(~attention_mask, float("-inf"))
        board = self.token(tokens) + self.row(row) + self.column(column) + self.box(box)
        if condition is not None and self.config.sees_givens:
            given = F.pad(condition, (0, tokens.shape[1] - condition.shape[1]))
            board = board + given.unsqueeze(-1) * self.given
        hidden = torch.zeros_like(board)
        for _ in range(self.config.loops):
            hidden = hidden + board
            for layer in self.layers:
                hidden = layer(hidden, bias)
        hidden = self.norm(hidden)
        return SudokuOutput(logits=self.head(hidden), hidden=hidden)
