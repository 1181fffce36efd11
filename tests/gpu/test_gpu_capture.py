"""FixedSteps(capture=True) on a device: the same states as without, whatever is current, and one clear refusal."""

from __future__ import annotations

import threading

import pytest
import torch
from combinations import MASK, PRESETS, canvas
from devices import busy_stream, no_synchronisation
from test_capture import Net, same
from test_fixed_steps import LENGTH, V, plain, steps_of
from torch import nn

from mdmcorrect.model import Output
from mdmcorrect.samplers import MDLM, FixedSteps, LLaDA

pytestmark = pytest.mark.gpu

CUDA = torch.device("cuda", 0)
DRAWN = LLaDA(steps=3, temperature=0.7)


class Layers(Net):
    """With products of matrices, which a library makes with a workspace of its own."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(V, 64), nn.GELU(), nn.Linear(64, V))

    def forward(self, tokens, request):
        output = super().forward(tokens, request)
        return Output(logits=self.layers(output.logits), quality=output.quality)


def pair(preset=DRAWN, net=None, **options):
    net = Net().to(CUDA) if net is None else net
    return tuple(FixedSteps(preset, net, mask_id=MASK, capture=capture, **options) for capture in (True, False))


def inputs(turn=0, rows=3):
    return canvas(rows, LENGTH).roll(turn, 1).to(CUDA), torch.arange(rows, device=CUDA) + 10 * turn


@pytest.mark.parametrize("preset", [p for p in PRESETS.values() if plain(p)], ids=lambda p: p.parts().name)
def test_a_replay_is_the_run(preset):
    captured, run = pair(preset)
    for turn in range(3):
        tokens, seed = inputs(turn)
        given = {"seed": seed, "steps": steps_of(preset)}
        same(captured(tokens, **given), run(tokens, **given))
    assert len(captured._graphs) == 1


def test_a_replay_waits_for_nothing():
    captured, _ = pair()
    tokens, seed = inputs()
    captured(tokens, seed=seed)
    with no_synchronisation(CUDA):
        state = captured(tokens, seed=seed)
    assert not (state.tokens == MASK).any()


def test_calls_on_other_streams_and_threads():
    captured, run = pair(MDLM(steps=4))
    expected = [run(tokens, seed=seed) for tokens, seed in map(inputs, range(6))]
    with busy_stream(CUDA):
        same(captured(inputs(1)[0], seed=inputs(1)[1]), expected[1])
    states = [None] * 6

    def call(turn):
        with torch.cuda.device(CUDA), torch.cuda.stream(torch.cuda.Stream(CUDA)):
            tokens, seed = inputs(turn)
            states[turn] = captured(tokens, seed=seed)
            torch.cuda.current_stream().synchronize()

    threads = [threading.Thread(target=call, args=(turn,)) for turn in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for state, wanted in zip(states, expected, strict=True):
        same(state, wanted)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float16], ids=str)
def test_autocast_and_weights_written_in_place(dtype):
    net = Layers().to(CUDA)
    captured, run = pair(net=net)
    tokens, seed = inputs()
    for _ in range(2):
        with torch.autocast("cuda", dtype=dtype, enabled=dtype is not None):
            state, expected = captured(tokens, seed=seed), run(tokens, seed=seed)
        same(state, expected)
        with torch.no_grad():
            net.layers[0].weight.mul_(-3)
    assert len(captured._graphs) == 1


def test_five_shapes_keep_four_graphs():
    captured, run = pair(net=Layers().to(CUDA))
    for rows in (1, 2, 3, 4, 5, 1, 2):
        tokens, seed = inputs(rows=rows)
        same(captured(tokens, seed=seed), run(tokens, seed=seed))
    assert len(captured._graphs) == 4


def test_a_model_that_waits_is_named_and_nothing_is_left_behind():
    class Asking(Net):
        reads = True

        def forward(self, tokens, request):
            output = super().forward(tokens, request)
            return Output(logits=output.logits + output.logits.sum().item() * 0) if self.reads else output

    net = Asking().to(CUDA)
    captured, run = pair(net=net)
    tokens, seed = inputs()
    before = torch.cuda.current_stream()
    with pytest.raises(RuntimeError, match=r"^capture: expected a run that a CUDA graph can record.*the model Asking"):
        captured(tokens, seed=seed)
    assert torch.cuda.current_stream() == before
    torch.rand(3, device=CUDA)
    net.reads = False
    same(captured(tokens, seed=seed), run(tokens, seed=seed))


def test_refuses_to_be_within_another_graph():
    captured, run = pair()
    tokens, seed = inputs()
    run(tokens, seed=seed)
    with torch.cuda.graph(torch.cuda.CUDAGraph()):
        tokens + 1
        with pytest.raises(RuntimeError, match=r"^capture: expected a call outside a CUDA graph"):
            captured(tokens, seed=seed)
