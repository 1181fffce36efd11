"""Caches of keys and values of every kind, and adapters that remember: what is kept is a run's and its rows'."""

import copy
import pickle
import threading
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mdmcorrect.adapters import DualCache, Guided, PrefixCache, RightShifted, Steered
from mdmcorrect.likelihood import log_likelihood
from mdmcorrect.model import Output
from mdmcorrect.samplers import Blocks, EntropyBounded, FastDLLM, FixedSteps, LLaDA, ProSeCo, Sampler, Unmask
from mdmcorrect.samplers.review import Review

transformers = pytest.importorskip("transformers")
MASK, V, PROMPT, LENGTH = 15, 16, 4, 14
WINDOW = Blocks(5, by="column", together=True)


def sampler(preset=None):
    return replace((FastDLLM(steps=8, block_length=5) if preset is None else preset).parts(), window=WINDOW)


def canvas(*prompts):
    tokens = torch.full((len(prompts), LENGTH), MASK)
    tokens[:, :PROMPT] = torch.tensor(prompts)
    return tokens


FIRST, SECOND = canvas([1, 2, 3, 4], [5, 6, 7, 8]), canvas([9, 9, 1, 0], [3, 11, 12, 2])


def llama(**changes):
    torch.manual_seed(0)
    settings = {
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "vocab_size": V,
        "is_causal": False,
        "initializer_range": 0.5,
    }
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**settings, **changes})).eval()


class Layers:
    """Llama with its cache as a tuple of layers; every call gets an object of its own, so nothing can grow."""

    def __init__(self, model):
        self.model = model

    def __call__(self, tokens, past_key_values=None, use_cache=False, attention_mask=None, position_ids=None):
        cache = transformers.DynamicCache()
        for index, (keys, values) in enumerate(past_key_values or ()):
            cache.update(keys, values, index)
        argument = "cache" if "cache" in self.model.forward.__wrapped__.__code__.co_varnames else "past_key_values"
        padding = {"attention_mask": attention_mask, "position_ids": position_ids}
        answer = self.model(tokens, use_cache=True, **{argument: cache}, **padding)
        return self.answer(answer.logits, tuple((layer.keys, layer.values) for layer in cache.layers))

    def answer(self, logits, layers):
        return SimpleNamespace(logits=logits, past_key_values=layers)


class Growing(Layers):
    """A cache object of its own kind, which holds layers, grows in place and is cut by ``crop(length)``."""

    class Cache:
        def __init__(self):
            self.layers = []

        def crop(self, length):
            self.layers = [tuple(part[..., :length, :] for part in layer) for layer in self.layers]

        def batch_select_indices(self, rows):
            self.layers = [tuple(part[rows] for part in layer) for layer in self.layers]

    def __call__(self, tokens, past_key_values=None, use_cache=False, attention_mask=None, position_ids=None):
        cache = self.Cache() if past_key_values is None else past_key_values
        answer = super().__call__(tokens, cache.layers, use_cache, attention_mask, position_ids)
        cache.layers = list(answer.past_key_values)
        return SimpleNamespace(logits=answer.logits, past_key_values=cache)


class Written(Layers):
    """A list of layers that the model writes into."""

    def __call__(self, tokens, past_key_values=None, use_cache=False):
        answer = super().__call__(tokens, past_key_values)
        if past_key_values is not None:
            past_key_values[:] = answer.past_key_values
        return SimpleNamespace(logits=answer.logits, past_key_values=list(answer.past_key_values))


class Static(Layers):
    """transformers' cache of a fixed size, a new one where none is given."""

    def __call__(self, tokens, past_key_values=None, use_cache=False, attention_mask=None, position_ids=None):
        if past_key_values is None:
            past_key_values = transformers.StaticCache(config=self.model.config, max_cache_len=LENGTH)
        argument = "cache" if "cache" in self.model.forward.__wrapped__.__code__.co_varnames else "past_key_values"
        padding = {"attention_mask": attention_mask, "position_ids": position_ids}
        answer = self.model(tokens, use_cache=True, **{argument: past_key_values}, **padding)
        return {"logits": answer.logits, "cache": past_key_values}


KINDS = {
    "transformers": lambda model: model,
    "in DataParallel": nn.DataParallel,
    "StaticCache": Static,
    "an object that grows": Growing,
    "a list that is written into": Written,
}


def plain(prompts=FIRST, **options):
    """What a run makes with a tuple of layers, which nothing can change."""
    return sampler()(PrefixCache(Layers(llama())), prompts, mask_id=MASK, **options).tokens


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_every_kind_of_cache(kind):
    adapter = PrefixCache(kind(llama()))
    result = sampler()(adapter, FIRST, mask_id=MASK)
    assert torch.equal(result.tokens, plain())
    assert not torch.equal(result.tokens, sampler()(llama(), FIRST, mask_id=MASK).tokens), "an approximation"
    for prompts in (SECOND, FIRST):
        assert torch.equal(sampler()(adapter, prompts, mask_id=MASK).tokens, plain(prompts)), "run after run"


@pytest.mark.parametrize("kind", [*KINDS.values(), Layers], ids=[*KINDS, "layers"])
def test_rows_that_end_early(kind):
    """Rows leave, and their neighbours' tokens are those they have alone."""
    tokens = canvas([1, 2, 3, 4], [5, 6, 7, 8], [9, 9, 1, 0])
    tokens[0, 5:9], tokens[2, 6:9] = 3, 4  # fewer masks in the first block
    tokens[1, 10:] = 7  # none left in the second but one
    whole = sampler()(PrefixCache(kind(llama())), tokens, mask_id=MASK, origin=PROMPT)
    assert len(set(whole.nfe.tolist())) > 1
    for row in range(3):
        alone = sampler()(PrefixCache(kind(llama())), tokens[row : row + 1], mask_id=MASK, origin=PROMPT)
        assert torch.equal(whole.tokens[row], alone.tokens[0])
    ended = int(plain()[0, PROMPT + 1])
    assert torch.equal(
        sampler()(PrefixCache(kind(llama())), FIRST, mask_id=MASK, eos_id=ended).tokens, plain(eos_id=ended)
    )


@pytest.mark.parametrize("kind", ["transformers", "StaticCache", "an object that grows"])
def test_what_is_given_is_passed_on(kind):
    """Prompts padded on the left: a row alone, without its padding, is the same."""
    tokens = torch.full((2, LENGTH), MASK)
    tokens[0, :PROMPT], tokens[1, :PROMPT] = torch.tensor([1, 2, 3, 4]), torch.tensor([0, 0, 5, 6])
    mask = torch.ones(2, LENGTH, dtype=torch.bool)
    mask[1, :2] = False
    together = sampler()(PrefixCache(KINDS[kind](llama())), tokens, mask_id=MASK, attention_mask=mask).tokens
    alone = sampler()(PrefixCache(Layers(llama())), tokens[1:, 2:], mask_id=MASK).tokens
    assert torch.equal(together[1, 2:], alone[0])
    assert torch.equal(together[:1], sampler()(PrefixCache(Layers(llama())), tokens[:1], mask_id=MASK).tokens)
    with pytest.raises(TypeError, match="condition: was given to the sampler"):
        sampler()(PrefixCache(llama()), tokens, mask_id=MASK, condition=torch.zeros(2))
    with pytest.raises(TypeError, match="attention_mask: was given to the sampler"):
        sampler()(PrefixCache(Written(llama())), tokens, mask_id=MASK, attention_mask=mask)


def context(tokens):
    """Logits of a position that depend on every token."""
    code = (tokens * (torch.arange(tokens.shape[1]) * 7 + 3)).sum(1)[:, None] + torch.arange(tokens.shape[1]) * 5
    return ((code[..., None] * 31 + torch.arange(V) * 17) % 23).float()


REMEMBERING = {
    "guidance": lambda: (Guided(context, 1.5, refresh=3), LLaDA(steps=8)),
    "a prefix": lambda: (PrefixCache(llama()), sampler()),
    "a prefix, guided": lambda: (Guided(PrefixCache(llama()), 0.5), sampler()),
    "a prefix, guided now and then": lambda: (Guided(PrefixCache(llama()), 0.5, refresh=3), sampler()),
    "a prefix, shifted": lambda: (RightShifted(PrefixCache(llama())), sampler()),
    "a prefix, steered": lambda: (
        (Steered(PrefixCache(llama()), lambda x, request: Output(context(x)[:, PROMPT:])),) * 0
        or (Steered(PrefixCache(llama()), PrefixCache(llama())), sampler())
    ),
}


def fresh(made, prompts, **options):
    adapter, method = made()
    return method(adapter, prompts, mask_id=MASK, seed=0, **options).tokens


@pytest.mark.parametrize("made", REMEMBERING.values(), ids=REMEMBERING)
def test_a_run_leaves_nothing_behind(made):
    adapter, method = made()

    def run(prompts, **options):
        return method(adapter, prompts, mask_id=MASK, seed=0, **options)

    assert torch.equal(run(FIRST).tokens, fresh(made, FIRST))
    assert torch.equal(run(SECOND).tokens, fresh(made, SECOND)), "after another prompt"
    for steps in (1, 2, 4):
        seen = []
        stopped = run(FIRST, callback=lambda event, seen=seen, steps=steps: seen.append(event) or len(seen) == steps)
        assert stopped.stopped == "callback"
        assert torch.equal(run(SECOND).tokens, fresh(made, SECOND)), "after a run that was stopped"
    shorter = SECOND[:1, :-2]
    assert torch.equal(run(shorter).tokens, fresh(made, shorter)), "of another shape"


@pytest.mark.parametrize("made", REMEMBERING.values(), ids=REMEMBERING)
def test_runs_at_once(made):
    """One adapter, two runs whose steps alternate."""
    adapter, method = made()
    turns = threading.Barrier(2, timeout=60)
    tokens = {}

    def run(name, prompts):
        def wait(event):
            if event.index < 3:
                turns.wait()

        tokens[name] = method(adapter, prompts, mask_id=MASK, seed=0, callback=wait).tokens

    threads = [threading.Thread(target=run, args=item) for item in (("first", FIRST), ("second", SECOND))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.equal(tokens["first"], fresh(made, FIRST))
    assert torch.equal(tokens["second"], fresh(made, SECOND))


def test_an_interrupted_run_leaks_nothing():
    for made in REMEMBERING.values():
        adapter, method = made()
        calls = []

        def interrupted(tokens, request, adapter=adapter, calls=calls):
            calls.append(None)
            if len(calls) == 3:
                raise KeyboardInterrupt
            return adapter(tokens, request)

        interrupted.reads_windows = adapter.reads_windows
        result = method(interrupted, FIRST, mask_id=MASK, seed=0)
        assert result.stopped == "interrupted"
        assert torch.equal(method(adapter, SECOND, mask_id=MASK, seed=0).tokens, fresh(made, SECOND))
        resumed = method(adapter, mask_id=MASK, state=result.state)
        again = method(made()[0], mask_id=MASK, state=result.state)
        assert torch.equal(resumed.tokens, again.tokens), "going on depends on the state alone"
        assert not (resumed.tokens == MASK).any()


def test_adapters_are_copied_and_pickled_with_nothing_in_them():
    for made in REMEMBERING.values():
        adapter, method = made()
        method(adapter, FIRST, mask_id=MASK, seed=0)
        for other in (copy.deepcopy(adapter), pickle.loads(pickle.dumps(adapter))):
            assert torch.equal(method(other, SECOND, mask_id=MASK, seed=0).tokens, fresh(made, SECOND))


def test_a_guided_prefix_is_two_prefixes():
    """Each half reads against keys and values of its own."""
    given, hidden = PrefixCache(llama()), PrefixCache(llama())

    def by_hand(tokens, request):
        one = given(tokens, request)
        other = hidden(torch.where(request.fixed, MASK, tokens), request)
        return replace(one, uncond_logits=other.logits, guidance=0.5, forwards=2)

    by_hand.reads_windows = True
    expected = sampler()(by_hand, FIRST, mask_id=MASK)
    result = sampler()(Guided(PrefixCache(llama()), 0.5), FIRST, mask_id=MASK)
    assert torch.equal(result.tokens, expected.tokens)
    assert torch.equal(result.nfe, expected.nfe)


def test_a_kept_half_does_not_see_the_batch():
    """Rows that skip steps, and so come to a half at other times, do as they do alone; each counts its own forwards."""
    tokens = torch.full((3, LENGTH), MASK)
    tokens[:, :3] = torch.tensor([[1, 2, 3], [4, 5, 6], [7, 8, 9]])
    tokens[1, 5:], tokens[2, 8:] = 2, 3
    method = LLaDA(steps=11)
    whole = method(Guided(context, 2.0, refresh=4), tokens, mask_id=MASK)
    for row in range(3):
        alone = method(Guided(context, 2.0, refresh=4), tokens[row : row + 1], mask_id=MASK)
        assert torch.equal(whole.tokens[row], alone.tokens[0])
        assert whole.nfe[row] == alone.nfe[0]


def test_guidance_around_guidance():
    """The inner one's answer is what the outer one mixes."""

    def inner(tokens, request):
        logits = context(tokens)
        hidden = context(torch.where(request.fixed, MASK, tokens))
        return Output(hidden + 1.5 * (logits - hidden))

    whole = LLaDA(steps=4)(Guided(Guided(context, 0.5), 2.0), FIRST, mask_id=MASK)
    assert torch.equal(whole.tokens, LLaDA(steps=4)(Guided(inner, 2.0), FIRST, mask_id=MASK).tokens)
    assert whole.nfe.tolist() == [16, 16]
    steered = LLaDA(steps=4)(Steered(Guided(context, 0.5), context, 0.25), FIRST, mask_id=MASK)
    plain = LLaDA(steps=4)(Steered(inner, context, 0.25), FIRST, mask_id=MASK)
    assert torch.equal(steered.tokens, plain.tokens)
    shifted = LLaDA(steps=4)(Steered(RightShifted(context), context), FIRST, mask_id=MASK)
    moved = lambda x: torch.cat([context(x)[:, :1], context(x)[:, :-1]], 1) + context(x)  # noqa: E731
    assert torch.equal(shifted.tokens, LLaDA(steps=4)(moved, FIRST, mask_id=MASK).tokens)


def test_models_without_a_cache_are_refused():
    with pytest.raises(TypeError, match="model: expected context to keep keys and values, but it takes no 'use_cache'"):
        PrefixCache(context)
    with pytest.raises(TypeError, match=r"model: expected LlamaForCausalLM .* takes no 'replace_position'"):
        DualCache(llama())
    with pytest.raises(TypeError, match="to return past_key_values when called with use_cache=True"):
        sampler()(PrefixCache(lambda tokens, **options: SimpleNamespace(logits=context(tokens))), FIRST, mask_id=MASK)

    def opaque(tokens, past_key_values=None, use_cache=False):
        return SimpleNamespace(logits=context(tokens), past_key_values=object())

    with pytest.raises(TypeError, match=r"cache: expected layers \(keys, values\) or an object with crop\(length\)"):
        sampler()(PrefixCache(opaque), FIRST, mask_id=MASK)

    def grows(tokens, replace_position=None, past_key_values=None, **others):
        return llama()(tokens, past_key_values=past_key_values, **others)

    with pytest.raises(ValueError, match="model: expected grows to replace columns of what is cached"):
        sampler()(DualCache(grows), FIRST, mask_id=MASK)
    one = transformers.DynamicCache()
    used = PrefixCache(lambda tokens, cache=None, use_cache=True: llama()(tokens, cache=cache or one))
    sampler()(used, FIRST, mask_id=MASK, callback=lambda event: True)
    with pytest.raises(ValueError, match="cache: expected a DynamicCache of the 14 positions of the canvas, got one"):
        sampler()(used, FIRST, mask_id=MASK)


def test_windows_where_there_are_none():
    for adapter in (PrefixCache(llama()), Guided(context, 1.0, refresh=2)):
        with pytest.raises(ValueError, match="needs the rows' windows, which only a sampler's main model is told"):
            log_likelihood(adapter, plain(), mask_id=MASK, samples=1)
        review = Sampler(steps=2, unmask=Unmask(), review=Review(adapter, reads="logprob"))
        with pytest.raises(ValueError, match="needs the rows' windows"):
            review(context, FIRST, mask_id=MASK)
        for around in (lambda model: model, RightShifted, lambda model: Guided(model, 1.0)):
            with pytest.raises(ValueError, match="model: it reads windows"):
                FixedSteps(LLaDA(steps=2), around(adapter), mask_id=MASK)


def test_a_step_cut_short_counts_nothing():
    """Counters belong to a step: a run after one that failed in its midst starts at 0."""
    calls = []

    def model(tokens):
        calls.append(None)
        if len(calls) == 3:
            raise RuntimeError("out of memory")
        return context(tokens)

    method = ProSeCo(steps=3, corrector_steps=2, correct_every=1)
    run = FixedSteps(method, model, mask_id=MASK)
    with pytest.raises(RuntimeError, match="out of memory"):
        run(FIRST, seed=torch.tensor([1, 2]))
    expected = method(context, FIRST, mask_id=MASK, seed=torch.tensor([1, 2]))
    again = run(FIRST, seed=torch.tensor([1, 2]))
    assert torch.equal(again.tokens, expected.tokens)
    assert torch.equal(again.nfe, expected.nfe)


def test_a_run_has_a_memory_of_its_own():
    seen = []

    def model(tokens, request):
        request.run.setdefault("steps", []).append(int(request.step[0]))
        seen.append(list(request.run["steps"]))
        return Output(context(tokens))

    for _ in range(2):
        seen.clear()
        EntropyBounded(gamma=1e-9)(model, FIRST[:1, :7], mask_id=MASK)
        assert seen == [[0], [0, 1], [0, 1, 2]]
    seen.clear()
    FixedSteps(LLaDA(steps=2), model, mask_id=MASK)(FIRST)
    assert seen == [[0], [1], [2]], "with fixed steps nothing outlasts a step"


def test_a_window_that_has_moved_on_cannot_be_cut():
    """Layers that keep the last positions only hold no prefix; a window wider than the canvas is none."""

    def mistral(window):
        torch.manual_seed(0)
        settings = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
        config = transformers.MistralConfig(
            **settings, num_key_value_heads=2, vocab_size=V, sliding_window=window, is_causal=False
        )
        return transformers.MistralForCausalLM(config).eval()

    with pytest.raises(ValueError, match=r"cache: a DynamicCache cannot be cut to its first 4 positions"):
        sampler()(PrefixCache(mistral(6)), FIRST, mask_id=MASK)
    assert not (sampler()(PrefixCache(mistral(64)), FIRST, mask_id=MASK).tokens == MASK).any()
