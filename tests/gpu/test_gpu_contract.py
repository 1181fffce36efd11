"""What every operator promises on a device: the current stream, the tensors' device, no waiting, CUDA graphs, one graph
under torch.compile, and a sentence where tensors are on different devices."""

from __future__ import annotations

import re

import pytest
import torch
from crossings import Crossings, pretended
from devices import Captured, busy_stream, no_synchronisation
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from mdmcorrect import _kernels
from mdmcorrect.selfcheck.cases import Case, assert_same_bits, moved, overwrite, returned, run
from mdmcorrect.selfcheck.families import BY_NAME

# Of each operator what has the most to go wrong: draws, filters, workspaces, several launches.
CHOSEN = [
    "score_tokens: draw, bfloat16",
    "score_tokens: both filters, float32",
    "score_tokens: suppressed and forbidden ids, bfloat16",
    "score_tokens: guidance, bfloat16",
    "score_tokens: dense noise, float16",
    "score_tokens: 50257 ids, bfloat16",
    "score_hidden: draw, bfloat16",
    "score_hidden: both filters, float32",
    "score_hidden: some rows",
    "score_quality: layer norm, [3, 40, 1000] bfloat16",
    "uniform: [2, 1025] float32",
    "select_positions: drawn, [2, 1025] float32",
    "select_positions: drawn, [1, 20000] float32",
    "count_positions: factor, [2, 4097] float32",
    "count_positions: threshold, [5, 257] bfloat16",
    "remask_step: two bands, [2, 1025] float32",
    "remask_step: one pool, [2, 4097] bfloat16",
    "sampler_step: quality, [2, 300]",
    "sampler_step: posterior by confidence, [2, 4100]",
    "sampler_step: strict pool, [2, 4100]",
    "linear_cross_entropy: [300, 16, 1700] bfloat16",
    "bidirectional_attention: blocks of 5, bfloat16",
    "bidirectional_attention: width 128, float16",
]
CASES = [BY_NAME[name] for name in CHOSEN]
each_case = pytest.mark.parametrize("case", CASES, ids=str)
each_operator = pytest.mark.parametrize("case", {case.op: case for case in CASES}.values(), ids=str)


@each_case
def test_twice_the_same_bits(case, device):
    arguments = moved(case.make(0), device)
    assert_same_bits(run(case, arguments), run(case, arguments))


@each_case
def test_runs_after_what_its_stream_has_to_do(case, device):
    """Its arguments arrive late on that stream; on any other it would read what they were before."""
    arguments = moved(case.make(1), device)
    expected = run(case, arguments)
    late = moved(case.make(0), device)
    with busy_stream(device):
        overwrite(late, arguments)
        results = run(case, late)
    assert_same_bits(results, expected)


@each_case
def test_runs_on_the_device_of_its_tensors(case, elsewhere):
    arguments = case.make(0)
    results = run(case, moved(arguments, elsewhere))
    assert all(value.device == elsewhere for value in results.values())
    case.check(returned(results), arguments)
    assert not torch.cuda.is_available() or torch.cuda.current_device() == 0


@each_case
def test_never_waits_for_the_device(case, device):
    arguments = moved(case.make(0), device)
    run(case, arguments)  # what is set up once may wait
    with no_synchronisation(device):
        run(case, arguments)


@each_case
def test_a_captured_graph_takes_new_values(case, device):
    """Seeds, steps and all other tensors are read when the graph is replayed, not when it was captured."""
    arguments = moved(case.make(0), device)
    captured = Captured(lambda: run(case, arguments), device)
    for seed in (1, 2):
        changed = moved(case.make(seed), device)
        overwrite(arguments, changed)
        assert_same_bits(captured.replay(), run(case, changed))


@each_operator
def test_compiles_to_one_graph(case, device):
    torch._dynamo.reset()
    arguments = moved(case.make(0), device)
    backend = "inductor" if device.type == "cuda" else "aot_eager"
    compiled = torch.compile(case.call, fullgraph=True, backend=backend)
    assert_same_bits(run(case, arguments, compiled), run(case, arguments))


@each_case
def test_a_tensor_on_another_device_is_named(case, device):
    """Each argument in turn left behind. Numbers for all rows, and seeds, follow by themselves."""
    if case.op == "sampler_step":
        pytest.skip("no user calls it: a sampler's tensors are where its tokens are")
    arguments = moved(case.make(0), device)
    arguments.pop("upstream", None)
    _, *others = (name for name, value in arguments.items() if isinstance(value, Tensor))
    for name in others:
        if arguments[name].dim() == 0 or name == "seed":
            continue
        elsewhere = arguments[name].to("cpu" if device.type == "cuda" else "meta")
        with pytest.raises(ValueError, match=rf"^{name}: expected device {re.escape(str(device))} as .* has it, got"):
            case.call(**{**arguments, name: elsewhere})


DRAW = {"temperature": 0.7, "top_k": 5, "top_p": 0.9, "suppress": (3, 5), "forbid": 2, "seed": 1, "step": 2}
NUMBERS = {  # plain numbers where a user may write them
    "score_tokens": DRAW,
    "score_hidden": DRAW,
    "uniform": {"positions": 7, "step": 2, "call": 1},
    "select_positions": {"k": 3, "seed": 1, "step": 2, "call": 1},
    "count_positions": {"bound": 0.9},
    "remask_step": {},
    "sampler_step": {},
    "linear_cross_entropy": {"suppress": (3, 5)},
    "score_quality": {},
    "bidirectional_attention": {"lengths": 5},
}


@each_case
def test_the_host_is_not_asked(case: Case, monkeypatch):
    """On tensors of a CUDA device that is made up, so this needs none: only shapes are computed, and every operation is
    seen."""
    of_rows = {"score_tokens"}  # score_hidden's, where there are filters
    monkeypatch.setattr(_kernels, "CUDA_OPS", frozenset({case.op, f"{case.op}_backward"} | of_rows))

    arguments = {name: value for name, value in case.make(0).items() if name != "upstream"}
    with FakeTensorMode():
        on_device = pretended(arguments)
        with Crossings():
            case.call(**on_device)
            case.call(**{**on_device, **NUMBERS[case.op]})


def test_a_copy_from_the_host_would_be_seen():
    with FakeTensorMode(), Crossings(), pytest.raises(AssertionError, match="_to_copy"):
        torch.tensor([1, 2], device="cuda")
