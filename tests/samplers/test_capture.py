"""FixedSteps(capture=True) on a made-up torch.cuda: what is recorded, when it is replayed, and what is refused."""

from __future__ import annotations

import contextlib
import copy
import functools
import pickle
import threading
from dataclasses import dataclass, field

import pytest
import torch
from combinations import MASK, PRESETS, canvas
from recorded_cuda import ENDING, RecordedCuda
from test_fixed_steps import LENGTH, V, model, plain, steps_of
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from mdmcorrect.adapters import Guided, RightShifted
from mdmcorrect.model import Output
from mdmcorrect.samplers import MDLM, PRISM, FixedSteps, LLaDA, Sampler, Scores, TokenCritic, Unmask, UnmaskThenRemask
from mdmcorrect.samplers import capture as capturing

DRAWN = LLaDA(steps=3, temperature=0.7)
SEED = torch.tensor([4, 5, 6])


@pytest.fixture
def cuda(monkeypatch):
    return RecordedCuda().install(monkeypatch)


class Net(nn.Module):
    """The exact model of the tests of fixed steps, with a weight and a buffer."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1, 1, V))
        self.register_buffer("shift", torch.zeros(V))
        self.dropout = nn.Dropout(0.0)
        self.calls = 0

    def forward(self, tokens, request):
        self.calls += 1
        output = model(tokens, request)
        logits = self.dropout(output.logits + self.weight + self.shift)
        return Output(logits=logits, quality=output.quality)


def pair(preset=DRAWN, net=None, **options):
    """The same run with and without graphs."""
    net = Net() if net is None else net
    return tuple(FixedSteps(preset, net, mask_id=MASK, capture=capture, **options) for capture in (True, False))


def same(one, other):
    for name in ("tokens", "nfe", "seed", "step", "done", "commits", "commit_score", "positions", "fixed", "origin"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=0, atol=0, equal_nan=True)
    assert (one.padded, one.placed, one.sampler) == (other.padded, other.placed, other.sampler)
    return True


@pytest.mark.parametrize("preset", [p for p in PRESETS.values() if plain(p)], ids=lambda p: p.parts().name)
def test_a_replay_is_the_run(preset, cuda):
    """Other canvases, seeds and padding of the same shapes are what the run makes of them, from one graph."""
    captured, run = pair(preset, model)
    for first in (0, 1, 3):
        tokens = canvas(3, LENGTH).roll(first, 1)
        layout = {"attention_mask": torch.arange(LENGTH) >= torch.tensor([0, first, 4])[:, None], "seed": SEED + first}
        given = {"steps": steps_of(preset), **layout}
        same(captured(tokens, **given), run(tokens, **given))
    assert len(cuda.graphs) == 1
    assert cuda.replays == 3


@pytest.mark.parametrize(
    "seed", [7, torch.tensor(7), SEED, torch.tensor(3).expand(3)], ids=["int", "0-d", "rows", "one"]
)
def test_seeds_are_tensors_of_the_graph(seed, cuda):
    captured, run = pair()
    tokens = canvas(3, LENGTH)
    for more in (0, 1, 2**40):
        same(captured(tokens, seed=seed + more), run(tokens, seed=seed + more))
    assert len(cuda.graphs) == 1


def test_a_seed_that_is_not_given_is_drawn_for_each_call(cuda):
    captured, run = pair()
    tokens = canvas(3, LENGTH)
    torch.manual_seed(0)
    states = [captured(tokens), captured(tokens), captured(tokens, seed=torch.Generator().manual_seed(3))]
    torch.manual_seed(0)
    for state, seed in zip(states, [None, None, torch.Generator().manual_seed(3)], strict=True):
        same(state, run(tokens, seed=seed))
    assert not torch.equal(states[0].seed, states[1].seed)
    assert len(cuda.graphs) == 1


def test_origins_and_positions(cuda):
    captured, run = pair(LLaDA(steps=4, block_length=4))
    tokens = canvas(3, LENGTH)
    for origin in (0, 2, torch.tensor(1), torch.tensor([0, 1, 2])):
        same(captured(tokens, origin=origin), run(tokens, origin=origin))
    assert len(cuda.graphs) == 1, "a number is one for each row"
    positions = torch.arange(LENGTH).expand(3, -1)
    same(captured(tokens, positions=positions + 3), run(tokens, positions=positions + 3))
    lengths = torch.tensor([12, 9, 10])
    same(captured(tokens, lengths=lengths), run(tokens, lengths=lengths))
    assert len(cuda.graphs) == 3


def test_what_was_returned_stays(cuda):
    captured, run = pair()
    tokens = canvas(3, LENGTH)
    first = captured(tokens, seed=SEED)
    tokens[:, -1] = 3
    second = captured(tokens, seed=SEED + 1)
    assert not torch.equal(first.tokens, second.tokens)
    same(first, run(canvas(3, LENGTH), seed=SEED))
    first.tokens.zero_()
    same(captured(tokens, seed=SEED + 1), second)
    assert torch.equal(tokens, tokens.clone().index_fill_(1, torch.tensor([LENGTH - 1]), 3)), (
        "the canvas is not written"
    )


def test_the_order_of_streams(cuda):
    captured, _ = pair()
    captured(canvas(3, LENGTH), seed=SEED)
    record = "record_stream"
    assert cuda.log == [
        "device cpu",
        "device cpu",
        "preload cpu",
        "side 1 waits for main",  # the warm-ups come after what made the canvas
        "main waits for side 1",
        "recording on side 1",
        "recorded",
        record,
        record,
        "replay",
        "main records event 1",
    ]
    cuda.log.clear()
    other = cuda.new_stream("cpu")
    with cuda.stream(other):
        captured(canvas(3, LENGTH), seed=SEED)
    assert cuda.log == [
        "device cpu",
        "device cpu",
        "side 2 waits for event 1 of main",  # the copies out, before others are copied in
        record,
        record,
        "replay",
        "side 2 records event 2",
    ]


def test_warm_ups_are_short_and_each_graph_has_an_engine(cuda):
    net = Net()
    captured, _ = pair(LLaDA(steps=9), net)
    captured(canvas(3, LENGTH), seed=SEED)
    closing = 1
    assert net.calls == capturing.WARM_UPS * (capturing.WARM_UP_STEPS + closing) + 9 + closing
    captured(canvas(3, LENGTH), seed=SEED)
    assert net.calls == 19, "a replay runs no Python of the model"
    assert captured.engine.forward._rows is None, "what an engine keeps is let go with the next shape"


def changes():
    """By name: what to do to a run before its next call, and to the call; each makes another kind of call."""

    def swap(run, net):
        net.weight = nn.Parameter(net.weight.detach() * -2)

    def memory(run, net):
        net.weight.data = net.weight.data * -2

    def buffer(run, net):
        net.shift = torch.linspace(2, 0, V)

    def evaluated(run, net):
        net.dropout.eval()

    return {
        "a parameter": (swap, {}),
        "a parameter's memory": (memory, {}),
        "a buffer": (buffer, {}),
        "eval": (evaluated, {}),
        "the steps": (None, {"steps": 2}),
        "the batch": (None, {"tokens": canvas(2, LENGTH), "seed": SEED[:2]}),
        "the length": (None, {"tokens": canvas(3, LENGTH)[:, :9]}),
        "padding": (None, {"attention_mask": torch.ones(3, LENGTH, dtype=torch.bool)}),
        "a mask's dtype": (None, {"attention_mask": torch.ones(3, LENGTH, dtype=torch.int64)}),
        "what is fixed": (None, {"fixed": canvas(3, LENGTH) != MASK}),
        "a seed's shape": (None, {"seed": 3}),
    }


@pytest.mark.parametrize("name", changes())
def test_another_kind_of_call_is_another_graph(name, cuda):
    change, given = changes()[name]
    net = Net()
    captured, run = pair(net=net)
    first = {"tokens": canvas(3, LENGTH), "seed": SEED}
    captured(**first)
    captured(**first)
    assert len(cuda.graphs) == 1
    if change is not None:
        change(captured, net)
    for _ in range(2):
        same(captured(**first | given), run(**first | given))
    assert len(cuda.graphs) == 2
    if change is None:
        captured(**first)
        assert len(cuda.graphs) == 2, "the first one is still there"


def test_weights_written_in_place_are_seen(cuda):
    net = Net()
    captured, run = pair(net=net)
    tokens = canvas(3, LENGTH)
    before = captured(tokens, seed=SEED)
    with torch.no_grad():
        net.weight.mul_(-3)
    net.load_state_dict({"weight": net.weight.detach().clone(), "shift": torch.linspace(3, 0, V)})
    after = captured(tokens, seed=SEED)
    same(after, run(tokens, seed=SEED))
    assert not torch.equal(before.tokens, after.tokens)
    assert len(cuda.graphs) == 1


MODES = {
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "autocast to float16": lambda: torch.autocast("cpu", dtype=torch.float16),
    "a backend of attention": lambda: nn.attention.sdpa_kernel(nn.attention.SDPBackend.MATH),
    "TF32": lambda: tf32(),
}


@contextlib.contextmanager
def tf32():
    """By the newer of torch's two switches, after which the older ones raise where they are read."""
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    try:
        yield
    finally:
        torch.backends.cuda.matmul.fp32_precision = before


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_modes_of_torch_are_another_graph(mode, cuda):
    captured, _ = pair()
    tokens = canvas(3, LENGTH)
    for _ in range(2):
        captured(tokens, seed=SEED)
        with mode():
            captured(tokens, seed=SEED)
    assert len(cuda.graphs) == 2


def test_autocast_keeps_no_copies_of_weights(cuda):
    """A graph that read them would outlive them and would not see weights change."""

    class Cast(Net):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(V, V)

        def forward(self, tokens, request):
            output = super().forward(tokens, request)
            return Output(logits=self.layer(output.logits), quality=output.quality)

    net = Cast()
    captured, run = pair(net=net)
    tokens = canvas(3, LENGTH)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        captured(tokens, seed=SEED)
        assert torch.is_autocast_cache_enabled()
    with torch.no_grad():
        net.layer.weight.copy_(torch.eye(V)[torch.arange(V) - 5] * 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        after = captured(tokens, seed=SEED)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        same(after, run(tokens, seed=SEED))
    assert len(cuda.graphs) == 1


def test_inference_mode_in_and_out(cuda):
    captured, run = pair()
    tokens = canvas(3, LENGTH)
    with torch.inference_mode():
        captured(tokens.clone(), seed=SEED.clone())
    after = captured(tokens, seed=SEED)
    after.tokens.zero_()
    with torch.inference_mode():
        same(captured(tokens, seed=SEED), run(tokens, seed=SEED))
    assert len(cuda.graphs) == 1


def test_four_graphs_are_kept_and_the_least_recently_used_goes(cuda):
    captured, _ = pair()

    def call(length):
        before = len(cuda.graphs)
        captured(canvas(3, LENGTH)[:, :length], seed=SEED)
        return len(cuda.graphs) > before

    assert [call(length) for length in (5, 6, 7, 8)] == [True] * 4
    assert not call(5)
    assert call(9), "the fifth kind"
    assert "host waits for event" in " ".join(cuda.log), "a graph goes when nothing reads its memory"
    assert [call(length) for length in (5, 7, 8, 9)] == [False] * 4
    assert call(6), "the one that was used longest ago"
    assert len(captured._graphs) == capturing.MOST_GRAPHS == 4


# What the footprint of a model sees, and what the model does to itself.


def test_a_models_own_notes_are_no_change(cuda):
    """Counters, lists that grow and tensors that it remembers."""

    class Noting(Net):
        def __init__(self):
            super().__init__()
            self.seen, self.last, self.cache = [], None, {}

        def forward(self, tokens, request):
            self.seen.append(tokens.shape[0])
            self.last = super().forward(tokens, request)
            if "positions" not in self.cache:
                self.cache["positions"] = torch.arange(tokens.shape[1])
            return self.last

    captured, _ = pair(net=Noting())
    for _ in range(3):
        captured(canvas(3, LENGTH), seed=SEED)
    assert len(cuda.graphs) == 1


def test_weights_made_at_the_first_call_are_seen(cuda):
    class Late(Net):
        def forward(self, tokens, request):
            if not hasattr(self, "late"):
                self.late = nn.Parameter(torch.linspace(0, 2, V))
                self.table = [torch.linspace(0, 1, V)]
            output = super().forward(tokens, request)
            return Output(logits=output.logits + self.late * self.table[0], quality=output.quality)

    net = Late()
    captured, run = pair(net=net)
    tokens = canvas(3, LENGTH)

    def check(graphs):
        for _ in range(2):
            same(captured(tokens, seed=SEED), run(tokens, seed=SEED))
        assert len(cuda.graphs) == graphs

    check(1)
    net.late = nn.Parameter(net.late.detach() * -1)
    check(2)
    net.table[0] = torch.linspace(3, 0, V)  # as a table of positions that a longer canvas made anew
    check(3)


def test_settings_of_a_model_are_seen(cuda):
    class Set(Net):
        def __init__(self):
            super().__init__()
            self.scale, self.adapters = 1.0, {"active": ["first"]}

        def forward(self, tokens, request):
            output = super().forward(tokens, request)
            sign = 1 if "first" in self.adapters["active"] else -1
            return Output(logits=output.logits * (sign * self.scale), quality=output.quality)

    net = Set()
    captured, run = pair(net=net)
    tokens = canvas(3, LENGTH)
    same(captured(tokens, seed=SEED), run(tokens, seed=SEED))
    net.scale = 2.0
    same(captured(tokens, seed=SEED), run(tokens, seed=SEED))
    net.adapters["active"] = ["second"]
    same(captured(tokens, seed=SEED), run(tokens, seed=SEED))
    assert len(cuda.graphs) == 3


def test_an_object_that_holds_its_own_run(cuda):
    """The graphs that it keeps are no part of the model."""

    class Pipeline:
        def __init__(self):
            self.net = Net()
            self.runs = [FixedSteps(DRAWN, self.__call__, mask_id=MASK, capture=capture) for capture in (True, False)]

        def __call__(self, tokens, request):
            return self.net(tokens, request)

    pipeline = Pipeline()
    captured, run = pipeline.runs
    for rows in (3, 2, 3):
        tokens, seed = canvas(rows, LENGTH), SEED[:rows]
        same(captured(tokens, seed=seed), run(tokens, seed=seed))
    assert len(cuda.graphs) == 2
    pipeline.net = Net()
    captured(tokens, seed=seed)
    assert len(cuda.graphs) == 3


def closed_over(net):
    return lambda tokens, request: net(tokens, request)


WRAPPED = {
    "a function": closed_over,
    "a partial": lambda net: functools.partial(lambda held, tokens, request: held(tokens, request), net),
    "a method": lambda net: net.forward,
    "DataParallel": lambda net: nn.DataParallel(net),
    "an instance": lambda net: Caller(net),
    "a function of a function": lambda net: closed_over(closed_over(net)),
    "an adapter": lambda net: RightShifted(net),
    "adapters": lambda net: Guided(RightShifted(net), 1.5),
}


class Caller:
    def __init__(self, net):
        self.nets = [net]

    def __call__(self, tokens, request):
        return self.nets[0](tokens, request)


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
def test_weights_are_seen_through_what_stands_around(wrap, cuda):
    net = Net()
    captured, run = pair(net=wrap(net))
    tokens = canvas(3, LENGTH)
    captured(tokens, seed=SEED)
    net.weight = nn.Parameter(net.weight.detach() * -2)
    same(captured(tokens, seed=SEED), run(tokens, seed=SEED))
    captured(tokens, seed=SEED)
    assert len(cuda.graphs) == 2


GLOBAL_NET = Net()


def through_a_global(tokens, request):
    return GLOBAL_NET(tokens, request)


def test_a_model_that_is_a_global_of_its_module(cuda, monkeypatch):
    captured, run = pair(net=through_a_global)
    tokens = canvas(3, LENGTH)
    captured(tokens, seed=SEED)
    other = Net()
    other.shift += torch.linspace(5, 0, V)
    monkeypatch.setitem(globals(), "GLOBAL_NET", other)
    same(captured(tokens, seed=SEED), run(tokens, seed=SEED))
    assert len(cuda.graphs) == 2


def test_a_condition(cuda):
    def conditioned(tokens, request):
        output = model(tokens, request)
        return Output(logits=output.logits + request.condition["bias"] * request.condition["scale"])

    condition = {"bias": torch.linspace(0, 2, V), "scale": 1.0}
    captured, run = pair(DRAWN, conditioned, condition=condition)
    tokens = canvas(3, LENGTH)
    captured(tokens, seed=SEED)
    condition["bias"].mul_(-1)
    same(captured(tokens, seed=SEED), run(tokens, seed=SEED))
    assert len(cuda.graphs) == 1, "written in place"
    condition["scale"] = 2.5
    same(captured(tokens, seed=SEED), run(tokens, seed=SEED))
    condition["bias"] = torch.linspace(1, 0, V)
    same(captured(tokens, seed=SEED), run(tokens, seed=SEED))
    assert len(cuda.graphs) == 3


def test_a_second_model(cuda):
    class Critic(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.linspace(-1, 1, V))

        def forward(self, tokens):
            return (self.weight[tokens] * tokens.cumsum(1) % 1).sigmoid()

    critic = Critic()
    captured, run = pair(TokenCritic(steps=4, critic=critic))
    tokens = canvas(3, LENGTH)
    for _ in range(2):
        same(captured(tokens, seed=SEED), run(tokens, seed=SEED))
    critic.weight = nn.Parameter(critic.weight.detach() * -2)
    same(captured(tokens, seed=SEED), run(tokens, seed=SEED))
    assert len(cuda.graphs) == 2


def test_a_tensor_of_a_callers_own_part(cuda):
    @dataclass(frozen=True)
    class Biased(UnmaskThenRemask):
        bias: list[torch.Tensor] = field(default_factory=list)

        def __call__(self, state, view, intent, scores):
            return super().__call__(
                state, view, intent, Scores({**scores, "confidence": scores["confidence"] * self.bias[0]})
            )

    plan = Biased(Unmask(), bias=[torch.linspace(0, 1, LENGTH)])
    captured, run = pair(Sampler(steps=3, plan=plan))
    tokens = canvas(3, LENGTH)
    same(captured(tokens, seed=SEED), run(tokens, seed=SEED))
    plan.bias[0] = plan.bias[0].flip(0)
    same(captured(tokens, seed=SEED), run(tokens, seed=SEED))
    assert len(cuda.graphs) == 2


def test_a_logits_processor_and_stop(cuda):
    bias = torch.linspace(0, 3, V)
    processors = {
        "logits_processor": lambda tokens, logits: logits + bias,
        "stop": lambda tokens, fixed: (tokens == 3).any(1),
    }
    captured, run = pair(**processors)
    tokens = canvas(3, LENGTH)
    for seed in (SEED, SEED + 1):
        same(captured(tokens, seed=seed), run(tokens, seed=seed))
    assert len(cuda.graphs) == 1


# What is refused, and what is left then.


def refused(run, error, words, *given, **named):
    """The message of an error, which is one sentence."""
    with pytest.raises(error) as raised:
        run(*given, **named)
    message = str(raised.value)
    for word in words:
        assert word in message, message
    assert "\n" not in message
    return raised.value


def test_refuses_the_cpu():
    captured, _ = pair()
    words = ["capture: expected tokens on a CUDA device, got cpu; use capture=False"]
    refused(captured, ValueError, words, canvas(3, LENGTH), seed=SEED)
    assert captured.step(captured.start(canvas(3, LENGTH), seed=SEED)).step.tolist() == [1, 1, 1], "steps are not"
    with pytest.raises(TypeError, match=r"^capture: expected a bool"):
        FixedSteps(DRAWN, model, mask_id=MASK, capture="yes")


def test_refuses_to_be_within_another_graph(cuda, monkeypatch):
    captured, _ = pair()
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    refused(captured, RuntimeError, ["capture:", "while a graph is recorded"], canvas(3, LENGTH), seed=SEED)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    refused(captured, RuntimeError, ["capture:", "outside torch.compile"], canvas(3, LENGTH), seed=SEED)


def test_refuses_tensors_that_are_not_what_they_seem(cuda):
    captured, _ = pair()
    with FakeTensorMode() as fake:
        tokens = fake.from_tensor(canvas(3, LENGTH))
        refused(captured, ValueError, ["capture: expected plain tensors"], tokens, seed=3)
    assert not cuda.graphs


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"tokens": torch.zeros(4, dtype=torch.int64)}, ValueError, "tokens: expected [B, L]"),
        ({"tokens": [[1, 2]]}, TypeError, "tokens: expected an int64 tensor"),
        ({"seed": 1.5}, TypeError, "seed: expected"),
        ({"seed": SEED[:2]}, ValueError, "seed: expected shape [3]"),
        ({"origin": -1}, ValueError, "origin: "),
        ({"steps": -1}, ValueError, "steps: "),
        ({"lengths": [1, 2, 3]}, ValueError, "lengths: expected int64"),
        ({"attention_mask": torch.ones(3, LENGTH)}, TypeError, "attention_mask: expected a bool tensor"),
    ],
    ids=lambda value: str(value)[:20] if isinstance(value, str) else "",
)
def test_arguments_are_checked_as_without(given, error, words, cuda):
    for run in pair():
        refused(run, error, [words], **{"tokens": canvas(3, LENGTH), "seed": SEED} | given)
    assert not cuda.graphs


def test_an_empty_canvas_needs_no_graph(cuda):
    for run in pair():
        assert run(canvas(3, LENGTH)[:0], seed=SEED[:0]).tokens.shape == (0, LENGTH)
    assert not cuda.graphs


READERS = {
    "item": lambda logits: logits + float(logits.sum().item() * 0),
    "a boolean index": lambda logits: logits + logits[logits > 0].sum() * 0,
    "nonzero": lambda logits: logits + logits.nonzero().shape[0] * 0,
    "a branch": lambda logits: logits if (logits > 0).any() else -logits,
}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_a_model_that_asks_the_host_is_named(read, cuda):
    class Asking(Net):
        reads = True

        def forward(self, tokens, request):
            output = super().forward(tokens, request)
            return Output(logits=read(output.logits), quality=output.quality) if self.reads else output

    net = Asking()
    captured, run = pair(net=net)
    tokens = canvas(3, LENGTH)
    words = ["capture: ", "most likely because the model Asking asks the host", "not permitted", "use capture=False"]
    error = refused(captured, RuntimeError, words, tokens, seed=SEED)
    assert isinstance(error.__cause__, RuntimeError)
    assert "not permitted when stream is capturing" in str(error.__cause__)
    assert cuda.current is cuda.main, "the stream that recorded is not left current"
    assert len(captured._graphs) == 0
    assert torch.is_autocast_cache_enabled()
    net.reads = False
    same(captured(tokens, seed=SEED), run(tokens, seed=SEED))


def test_a_processor_that_asks_the_host_is_named_too(cuda):
    captured, _ = pair(stop=lambda tokens, fixed: (tokens == 3).any(1) & (tokens.sum().item() > 0))
    refused(captured, RuntimeError, ["because the model Net or stop asks the host"], canvas(3, LENGTH), seed=SEED)


class Failing(Net):
    """Fails in call `fail_at`."""

    def __init__(self, error, fail_at):
        super().__init__()
        self.error, self.fail_at = error, fail_at

    def forward(self, tokens, request):
        if self.calls + 1 == self.fail_at:
            self.calls += 1
            raise self.error
        return super().forward(tokens, request)


FIRST, RECORDED = 1, capturing.WARM_UPS * (capturing.WARM_UP_STEPS + 1) + 2
ERRORS = {
    "out of memory": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    "a library's memory": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"),
    "Ctrl-C": KeyboardInterrupt(),
}


@pytest.mark.parametrize("when", [FIRST, RECORDED], ids=["warm-up", "recording"])
@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)
def test_what_is_not_the_models_fault_stays_what_it_is(error, when, cuda):
    """And the next call is served."""
    captured, run = pair(net=Failing(error, when))
    tokens = canvas(3, LENGTH)
    with pytest.raises(type(error)) as raised:
        captured(tokens, seed=SEED)
    assert raised.value is error
    assert cuda.current is cuda.main
    assert ("recording on side 1" in cuda.log) == (when == RECORDED)
    same(captured(tokens, seed=SEED), run(tokens, seed=SEED))


def test_an_error_of_the_model_outside_a_recording_is_its_own(cuda):
    captured, _ = pair(net=Failing(ArithmeticError("mine"), FIRST))
    with pytest.raises(ArithmeticError, match=r"^mine$"):
        captured(canvas(3, LENGTH), seed=SEED)


@pytest.mark.parametrize("stuck", [True, False], ids=["before torch 2.13", "since"])
def test_torchs_generator_draws_on_after_a_failure(stuck, cuda):
    """As if nothing had been recorded."""
    captured, _ = pair()
    (generator,) = torch.cuda.default_generators
    cuda.stuck, cuda.ending = stuck, RuntimeError(ENDING)
    with pytest.raises(RuntimeError, match=r"^capture: expected a run"):
        captured(canvas(3, LENGTH), seed=SEED)
    assert generator.offset == 8
    generator.draw()


@pytest.mark.parametrize(
    ("ending", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), "CUDA out of memory."),
        (RuntimeError(ENDING), "capture: expected a run that a CUDA graph can record"),
    ],
    ids=["memory", "invalid"],
)
def test_a_recording_that_fails_where_it_ends(ending, expected, cuda):
    captured, run = pair()
    cuda.ending = ending
    with pytest.raises(type(ending), match=expected):
        captured(canvas(3, LENGTH), seed=SEED)
    assert cuda.current is cuda.main
    cuda.ending = None
    same(captured(canvas(3, LENGTH), seed=SEED), run(canvas(3, LENGTH), seed=SEED))


def spread():
    """By name: models whose weights are not, or do not stay, on the one device."""

    class FullyShardedDataParallel(Net):
        __module__ = "torch.distributed.fsdp.fully_sharded_data_parallel"

    parallel = nn.DataParallel(Net())
    parallel.device_ids = [0, 1]
    two = Net()
    two.shift = torch.zeros(V, device="meta")
    elsewhere = nn.Linear(2, 2, device="meta")
    return {
        "FSDP": (FullyShardedDataParallel(), "FSDP"),
        "DataParallel": (parallel, "DataParallel over devices [0, 1]"),
        "two devices": (two, "model: expected one on cpu alone with capture=True, got Net on"),
        "another device": (elsewhere, "model: expected one on cpu alone with capture=True, got Linear on meta"),
        "in a function": (closed_over(two), "model: expected one on cpu alone with capture=True, got Net on"),
    }


@pytest.mark.parametrize("name", spread())
def test_refuses_models_that_leave_the_device(name, cuda):
    net, words = spread()[name]
    captured, _ = pair(net=net)
    refused(captured, ValueError, [words, "use capture=False"], canvas(3, LENGTH), seed=SEED)
    assert "recording on side 1" not in cuda.log


def test_refuses_a_second_model_elsewhere(cuda):
    captured, _ = pair(TokenCritic(steps=2, critic=nn.Embedding(V, 1, device="meta")))
    words = ["model: expected one on cpu alone with capture=True, got Embedding on meta"]
    refused(captured, ValueError, words, canvas(3, LENGTH), seed=SEED)


def test_weights_that_require_gradients(cuda):
    captured, _ = pair()
    state = captured(canvas(3, LENGTH), seed=SEED)
    assert torch.is_grad_enabled()
    assert not any(value.requires_grad for value in state.state_dict().values() if isinstance(value, torch.Tensor))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda run: pickle.loads(pickle.dumps(run))], ids=["copy", "pickle"])
def test_a_copy_starts_without_graphs(copied, cuda):
    captured, run = pair()
    tokens = canvas(3, LENGTH)
    captured(tokens, seed=SEED)
    other = copied(captured)
    same(other(tokens, seed=SEED), run(tokens, seed=SEED))
    assert len(cuda.graphs) == 2
    captured(tokens, seed=SEED)
    other(tokens, seed=SEED)
    assert len(cuda.graphs) == 2


def test_threads_take_turns(cuda, monkeypatch):
    """Each gets what its own canvas and seed make, although all use the same buffers."""
    captured, run = pair(MDLM(steps=3))
    canvases = [canvas(3, LENGTH).roll(turn, 1) for turn in range(6)]
    expected = [run(tokens, seed=SEED + turn) for turn, tokens in enumerate(canvases)]
    states, start = [None] * 6, threading.Barrier(6)

    def call(turn):
        start.wait()
        states[turn] = captured(canvases[turn], seed=SEED + turn)

    threads = [threading.Thread(target=call, args=(turn,)) for turn in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for state, wanted in zip(states, expected, strict=True):
        same(state, wanted)
    assert len(cuda.graphs) == 1
    order = [line for line in cuda.log if line in ("replay",) or line.startswith("main records")]
    assert [line == "replay" for line in order] == [True, False] * 6, "nobody copies in before another has copied out"


def test_prism_from_step_to_step_keeps_working(cuda):
    """What is not recorded: the steps one by one."""
    captured, run = pair(PRISM(steps=3, remask_count=1))
    tokens = canvas(3, LENGTH)
    state = captured.start(tokens, seed=SEED)
    for _ in range(3):
        state = captured.step(state)
    assert torch.equal(captured.step(state, closing=True).tokens, run(tokens, seed=SEED).tokens)
    assert not cuda.log
