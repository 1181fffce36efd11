"""What is streamed is the result's text, each token once; a stop string ends its row and no other."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from mdmcorrect.samplers import MDLM, PRISM, BlockPRISM, LLaDA
from mdmcorrect.streaming import StopStrings, Streamer

sys.path.append(str(Path(__file__).parent / "samplers"))
from toys import Toy

MASK = 11


class Letters:
    def decode(self, ids: list[int]) -> str:
        return "".join("abcdefghijk_"[token] for token in ids)


def canvas() -> torch.Tensor:
    tokens = torch.full((2, 20), MASK)
    tokens[:, :4] = torch.tensor([[1, 2, 3, 4], [4, 3, 2, 1]])
    return tokens


CASES = {
    "blocks": (LLaDA(steps=16, block_length=4), {"block_length": 4, "revises": False}),
    "no blocks": (MDLM(steps=6), {"revises": False}),
    "revising": (PRISM(steps=8, remask_count=2, temperature=1.0), {}),
    "revising in blocks": (BlockPRISM(steps=16, block_length=8, remask_count=2), {"block_length": 8}),
}


@pytest.mark.parametrize("row", [0, 1])
@pytest.mark.parametrize("name", CASES)
def test_the_stream_is_the_result(name: str, row: int) -> None:
    sampler, options = CASES[name]
    parts: list[list[int]] = []
    streamer = Streamer(lambda ids: parts.append(ids.tolist()), mask_id=MASK, row=row, **options)
    result = sampler(Toy(), canvas(), mask_id=MASK, seed=2, callback=streamer)
    before = len(parts)
    assert streamer.end(result) is result
    assert [token for part in parts for token in part] == result.tokens[row, 4:].tolist()
    assert before >= {"blocks": 4, "no blocks": 1, "revising": 0, "revising in blocks": 1}[name]
    if name == "revising in blocks":
        assert len(parts[0]) == 8
    if name == "revising":
        assert before == 0  # nothing is settled before the end


def test_a_streamer_of_transformers_is_put_to_and_ended() -> None:
    class Kept:
        def __init__(self) -> None:
            self.ids: list[int] = []
            self.ended = 0

        def put(self, ids: torch.Tensor) -> None:
            self.ids += ids.tolist()

        def end(self) -> None:
            self.ended += 1

    kept = Kept()
    with Streamer(kept, mask_id=MASK, revises=False) as streamer:
        result = streamer.end(MDLM(steps=6)(Toy(), canvas(), mask_id=MASK, seed=2, callback=streamer))
    assert kept.ids == result.tokens[0, 4:].tolist()
    assert kept.ended == 1


def test_a_stop_string_ends_its_row() -> None:
    sampler = LLaDA(steps=16, block_length=1)  # from left to right
    whole = sampler(Toy(), canvas(), mask_id=MASK, seed=2).tokens
    text = [Letters().decode(row) for row in whole[:, 4:].tolist()]
    string = text[0][5:8]
    assert string not in text[1]
    stop = StopStrings(Letters(), [string, "never"], mask_id=MASK)
    result = sampler(Toy(), canvas(), mask_id=MASK, seed=2, stop=stop)
    assert result.steps.tolist() == [text[0].index(string) + 3, 16]
    assert torch.equal(result.tokens[1], whole[1])
    assert (result.tokens[0, 4 + int(result.steps[0]) :] == MASK).all()
    assert stop.cut(text[0]) == text[0][: text[0].index(string)]
    assert stop.cut(text[1]) == text[1]


def test_a_prompt_and_what_lies_behind_a_mask_stop_nothing() -> None:
    stop = StopStrings(Letters(), "bc", mask_id=MASK)
    tokens = torch.tensor([[1, 2, MASK, 1, 2], [1, 2, 1, 2, MASK], [1, 2, 0, 1, MASK]])
    fixed = torch.zeros(3, 5, dtype=torch.bool)
    fixed[:, :2] = True
    assert stop(tokens, fixed).tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("strings", "error"), [([], ValueError), ("", ValueError), ([""], ValueError), ([3], TypeError)], ids=repr
)
def test_wrong_strings(strings: object, error: type[Exception]) -> None:
    with pytest.raises(error, match="strings"):
        StopStrings(Letters(), strings, mask_id=MASK)  # type: ignore[arg-type]


def test_wrong_arguments() -> None:
    with pytest.raises(TypeError, match="tokenizer"):
        StopStrings(3, "a", mask_id=MASK)
    with pytest.raises(TypeError, match="to"):
        Streamer(3, mask_id=MASK)
    with pytest.raises(ValueError, match="block_length"):
        Streamer(print, mask_id=MASK, block_length=0)
