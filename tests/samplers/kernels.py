"""Transition kernels of samplers on a world small enough to enumerate: three tokens and the mask, length three.

The model is exact: at every position it gives ``p(x_i | the visible tokens of the others)`` of one joint distribution,
masked or not. A kernel here is written from the paper's equations, by sums over states, and shares nothing with the
samplers.
"""

import functools
import itertools

import numpy as np
import torch

V, L, MASK = 3, 3, 3
STATES = list(itertools.product(range(V + 1), repeat=L))  # tokens 0, 1, 2 and the mask
INDEX = {state: number for number, state in enumerate(STATES)}
POWERS = torch.tensor([(V + 1) ** (L - 1 - i) for i in range(L)])
EMPTY = INDEX[(MASK,) * L]


def _joint():
    """A joint of three tokens in which neighbours differ more often than not, and the first is seldom 2."""
    generator = np.random.default_rng(5)
    weights = generator.gamma(1.0, size=(V,) * L) + 0.15
    weights[2] *= 0.6
    return weights / weights.sum()


JOINT = _joint()


def _conditional(state, i):
    """``p(x_i = v | x_j for visible j != i)``, [V]."""
    index = tuple(slice(None) if j == i or state[j] == MASK else slice(state[j], state[j] + 1) for j in range(L))
    return (weights := JOINT[index].sum(tuple(j for j in range(L) if j != i))) / weights.sum()


P = np.array([[_conditional(state, i) for i in range(L)] for state in STATES])  # [state, position, v]
_LOGITS = torch.cat([torch.from_numpy(np.log(P)).float(), torch.full((len(STATES), L, 1), 5.0)], -1)


WEIGHTS = (0.5, 2.0, 1.0)  # of a learned order


def exact_model(tokens):
    """Logits of every position given the others; the mask's own logit is the highest and must not matter."""
    return _LOGITS[(tokens * POWERS).sum(1)]


def product_kernel(step):
    """``K[a, b] = prod_i step(i, old_i, p_i, state)[new_i]`` for positions that move independently given the state."""
    kernel = np.zeros((len(STATES),) * 2)
    for a, old in enumerate(STATES):
        rows = [step(i, old[i], P[a, i], old) for i in range(L)]
        for b, new in enumerate(STATES):
            kernel[a, b] = np.prod([rows[i][new[i]] for i in range(L)])
    np.testing.assert_allclose(kernel.sum(1), 1, atol=1e-12)
    return kernel


def ancestral_kernel(alpha_t, alpha_s, sigma):
    """ReMDM's posterior, equation 6 of 2503.00307: sigma 0 is MDLM's."""
    gain = (alpha_s - (1 - sigma) * alpha_t) / (1 - alpha_t)

    def step(i, old, p, _):
        if old == MASK:
            return np.append(gain * p, 1 - gain)
        return np.append((1 - sigma) * np.eye(V)[old], sigma)

    return product_kernel(step)


def grid_kernels(steps, sigma_of, eps=1e-5, alpha=lambda t: 1 - t, before=None):
    """One kernel per step, then noise removal; ``sigma_of(t, s, alpha_t, alpha_s)``; ``before``: a kernel applied ahead
    of every step but the first."""
    kernels = []
    for number, (t, s) in enumerate(itertools.pairwise(np.linspace(1, eps, steps + 1))):
        step = ancestral_kernel(alpha(t), alpha(s), sigma_of(t, s, alpha(t), alpha(s)))
        kernels.append(before @ step if before is not None and number else step)
    return [*kernels, argmax_kernel()]


def corrected_kernels(steps, eps=1e-5):
    """ProSeCo with one pass per step: the model reads the canvas filled by its argmax; masks are drawn from what it
    says there, committed tokens become its argmax."""

    def kernel(t, s):
        gain = (t - s) / t

        def step(i, old, _, state):
            draft = tuple(int(P[INDEX[state], j].argmax()) if state[j] == MASK else state[j] for j in range(L))
            p = P[INDEX[draft], i]
            return np.append(gain * p, 1 - gain) if old == MASK else np.append(np.eye(V)[p.argmax()], 0)

        return product_kernel(step)

    times = np.linspace(1, eps, steps + 1)
    return [*(kernel(t, s) for t, s in itertools.pairwise(times)), argmax_kernel()]


def argmax_kernel():
    """Noise removal: masks take their most probable token, all at once."""
    return product_kernel(lambda i, old, p, _: np.append(np.eye(V)[p.argmax() if old == MASK else old], 0))


def subset_kernel(count, chosen_law, update):
    """Choose ``count(state)`` positions by ``chosen_law(state) -> {positions: probability}``, then redraw each of them
    independently by ``update(i, old, p) -> [V + 1]``."""
    kernel = np.zeros((len(STATES),) * 2)
    for a, old in enumerate(STATES):
        for chosen, weight in chosen_law(a, old, count(old)).items():
            rows = [update(i, old[i], P[a, i]) if i in chosen else np.eye(V + 1)[old[i]] for i in range(L)]
            for b, new in enumerate(STATES):
                kernel[a, b] += weight * np.prod([rows[i][new[i]] for i in range(L)])
    np.testing.assert_allclose(kernel.sum(1), 1, atol=1e-12)
    return kernel


def plackett_luce(weights, k):
    """{set of positions: probability} of k draws without replacement, ``weights`` a dict by position."""
    law = {}
    for order in itertools.permutations(weights, min(k, len(weights))):
        probability, left = 1.0, sum(weights.values())
        for i in order:
            probability, left = probability * weights[i] / left, left - weights[i]
        law[frozenset(order)] = law.get(frozenset(order), 0) + probability
    return law


def informed_kernel(k, temperature, margin):
    """k committed positions without replacement by softmax(-score / temperature), redrawn from p(x_i | x_-i)."""

    def chosen_law(a, old, count):
        score = {}
        for i in range(L):
            if old[i] != MASK:
                rest = np.log(np.delete(P[a, i], old[i]).max()) if margin else 0.0
                score[i] = np.log(P[a, i, old[i]]) - rest
        return plackett_luce({i: np.exp(-value / temperature) for i, value in score.items()}, count)

    return subset_kernel(lambda old: k, chosen_law, lambda i, old, p: np.append(p, 0))


def one_by_one_kernel():
    """One masked position, uniformly, drawn from the model (first-hitting); nothing where there is none."""

    def chosen_law(a, old, count):
        return plackett_luce({i: 1.0 for i in range(L) if old[i] == MASK}, count)

    return subset_kernel(lambda old: 1, chosen_law, lambda i, old, p: np.append(p, 0))


def pool_kernel(keep, eta):
    """Path planning: masks draw proposals; of all positions, scored by log p of proposal or eta log p of what stands
    there, the ``keep`` best hold a token."""
    kernel = np.zeros((len(STATES),) * 2)
    for a, old in enumerate(STATES):
        masked = [i for i in range(L) if old[i] == MASK]
        for proposal in itertools.product(range(V), repeat=len(masked)):
            token = list(old)
            for i, v in zip(masked, proposal, strict=True):
                token[i] = v
            log_p = [np.log(P[a, i, token[i]]) for i in range(L)]
            score = [log_p[i] * (1 if i in masked else eta) for i in range(L)]
            kept = sorted(range(L), key=lambda i: -score[i])[:keep]
            new = tuple(token[i] if i in kept else MASK for i in range(L))
            kernel[a, INDEX[new]] += np.exp(sum(log_p[i] for i in masked))
    np.testing.assert_allclose(kernel.sum(1), 1, atol=1e-12)
    return kernel


def learned_order_kernel(weights):
    """One masked position, drawn by its weight, filled from the model."""

    def chosen_law(a, old, count):
        return plackett_luce({i: weights[i] for i in range(L) if old[i] == MASK}, count)

    return subset_kernel(lambda old: 1, chosen_law, lambda i, old, p: np.append(p, 0))


def path_law(kernels, middle):
    """Probability [64, 64] of the state after ``middle`` steps and the state at the end, from a canvas of masks."""
    ahead = functools.reduce(np.matmul, kernels[:middle], np.eye(len(STATES)))[EMPTY]
    return ahead[:, None] * functools.reduce(np.matmul, kernels[middle:], np.eye(len(STATES)))


def path_counts(middle, end):
    """Counts [64, 64] of pairs of canvases [chains, 3]."""
    pair = (middle * POWERS).sum(1) * len(STATES) + (end * POWERS).sum(1)
    return np.bincount(pair.numpy(), minlength=len(STATES) ** 2).reshape((len(STATES),) * 2)
