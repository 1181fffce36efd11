"""Closed forms of the drop-ins' draws, and the model they are about: per position and jointly over two.

A canvas of one given token and two masks, three tokens, and a model whose logits at either mask depend on what stands
at the other. A law is a sum over drafts, written from the methods' rules; it shares nothing with the samplers.
"""

import itertools
from types import SimpleNamespace

import numpy as np
import torch

MASK, V = 3, 3
BASE = torch.tensor([[1.1, 0.2, -0.6, 0.3], [-0.2, 0.8, 0.3, -0.9]])  # the mask has a logit like any other
PULL = torch.tensor([[0.9, -0.4, 0.1, 0.0], [-0.7, 0.6, 0.5, 0.0], [0.2, 0.5, -0.8, 0.0], [0.0, 0.0, 0.0, 0.0]])


ASIDE = torch.tensor([0.7, 0.1, -0.5, 0.0])


def logits_of(position, other):
    return BASE[position] + (1 + position) * PULL[other]


TABLE = torch.stack([torch.stack([logits_of(i, other) for other in range(4)]) for i in range(2)])  # [i, other, id]


def model(tokens, *_, attention_mask=None, attention_bias=None, position_ids=None):
    """Logits at columns 1 and 2 and, where Dream's steps need a third mask, one that says and hears nothing."""
    pair = tokens[:, 1:3].clamp(max=MASK)
    logits = ASIDE.expand(*tokens.shape, 4).clone()
    logits[:, 1:3] = TABLE[torch.arange(2), pair.flip(1)]
    return SimpleNamespace(logits=logits)


def shifted(input_ids, *_, **__):
    """The same, each column's logits those of the next token."""
    logits = model(input_ids).logits
    return SimpleNamespace(logits=torch.cat([logits[:, 1:], logits[:, :1]], 1))


def filtered(logits, temperature, top_k=None):
    weights = np.exp(logits[:V].double().numpy() / temperature)
    if top_k:
        weights[weights < np.sort(weights)[-top_k]] = 0
    return weights / weights.sum()


def p(position, other, temperature=1.0, top_k=None):
    """Probabilities of tokens."""
    return filtered(TABLE[position, other], temperature, top_k)


T = 0.7


def draft(top_k=None):
    """(a, b, probability) of the two proposals on an empty canvas."""
    both = [p(i, MASK, T, top_k) for i in (0, 1)]
    return [(a, b, both[0][a] * both[1][b]) for a, b in itertools.product(range(V), repeat=2)]


def probability(position, token, other=MASK):
    """LLaDA's confidence: at temperature 1, the mask's mass counted."""
    return TABLE[position, other].double().softmax(-1)[token].item()


def one_by_one(score):
    """One proposal stands, that of the higher ``score(position, token)``; the other position is drawn given it."""
    law = np.zeros((V, V))
    for a, b, weight in draft():
        if score(0, a) >= score(1, b):
            law[a] += weight * p(1, a, T)
        else:
            law[:, b] += weight * p(0, b, T)
    return law


def at_once():
    return np.outer(p(0, MASK, T), p(1, MASK, T))


def any_order():
    return (one_by_one(lambda i, _: i) + one_by_one(lambda i, _: -i)) / 2


def by_confidence():
    return one_by_one(probability)


def by_threshold(threshold, *, masks=False):
    """Both at once if both reach it, else the more confident one first.

    With ``masks`` the mask is drawn like any other id, and what it was drawn for is drawn again in the next step.
    """
    law = np.zeros((V, V))
    for a, b, weight in draft_with_masks() if masks else draft():
        if a == MASK:
            law[:, b] += weight * p(0, b, T)
            continue
        if b == MASK:
            law[a] += weight * p(1, a, T)
            continue
        first, second = probability(0, a), probability(1, b)
        if min(first, second) >= threshold:
            law[a, b] += weight
        elif first >= second:
            law[a] += weight * p(1, a, T)
        else:
            law[:, b] += weight * p(0, b, T)
    return law


def draft_with_masks():
    """(a, b, probability) of the two draws on an empty canvas, one of which is a token."""
    drawn = [torch.softmax(TABLE[i, MASK].double() / T, -1).numpy() for i in (0, 1)]
    once = 1 - drawn[0][MASK] * drawn[1][MASK]
    pairs = itertools.product(range(V + 1), repeat=2)
    return [(a, b, drawn[0][a] * drawn[1][b] / once) for a, b in pairs if not a == b == MASK]


def dreams(alg, alg_temp=0.0, top_k=None):
    """Two steps for three masks: Dream's ``int(3 (1 - s / t))`` is one, and the other two follow at once.

    Its scores are of the distribution after temperature and filters, the mask's mass left out.
    """

    def score(probs, token):
        if alg == "entropy":
            return (probs[probs > 0] * np.log(probs[probs > 0])).sum()
        return probs[token] if alg == "maskgit_plus" else np.sort(probs)[-1] - np.sort(probs)[-2]

    law = np.zeros((V, V))
    third = filtered(ASIDE, T, top_k)
    alone = [p(i, MASK, T, top_k=top_k) for i in (0, 1)]
    for a, b, weight in draft(top_k=top_k):
        for c, chance in enumerate(third):
            scores = np.array([score(alone[0], a), score(alone[1], b), score(third, c)])
            keys = np.exp(scores / alg_temp) if alg_temp else np.arange(3) == scores.argmax()
            first, second, neither = weight * chance * keys / keys.sum()
            law[a] += first * p(1, a, T, top_k=top_k)
            law[:, b] += second * p(0, b, T, top_k=top_k)
            law += neither * np.outer(*alone)
    return law


def dreams_origin(eps=1e-3):
    """Each mask with probability 1 - s / t, the rest at the last of two steps."""
    early = 1 - (1 + eps) / 2
    return (early**2 + (1 - early) ** 2) * at_once() + 2 * early * (1 - early) * any_order()


def corrected():
    """ProSeCo, one pass per step: commits are drawn given the argmax draft, what stands is made the argmax."""
    best = {(i, other): int(p(i, other).argmax()) for i in (0, 1) for other in (*range(V), MASK)}
    law = np.zeros((V, V))
    filled = (best[0, MASK], best[1, MASK])
    for a, b in itertools.product(range(V), repeat=2):
        weight = p(0, filled[1], T)[a] * p(1, filled[0], T)[b]
        if probability(0, a, filled[1]) >= probability(1, b, filled[0]):
            law[best[0, best[1, a]]] += weight * p(1, a, T)
        else:
            law[:, best[1, best[0, b]]] += weight * p(0, b, T)
    return law


def exchanged():
    """PRISM on LLaDA: one commit; it is masked again as the other is drawn; an argmax fills it at the end."""
    law = np.zeros((V, V))
    for a, b, weight in draft():
        if probability(0, a) >= probability(1, b):
            for v, chance in enumerate(p(1, a, T)):
                law[p(0, v).argmax(), v] += weight * chance
        else:
            for v, chance in enumerate(p(0, b, T)):
                law[v, p(1, v).argmax()] += weight * chance
    return law


def replanned():
    """P2 by random scores, keeping one, one and two tokens: at the second step either position may be the one kept."""
    law = np.zeros((V, V))
    for a, b, weight in draft():
        for i, token in ((0, a), (1, b)):
            other = 1 - i
            for v, chance in enumerate(p(other, token, T)):  # the other is kept in its place, drawn given it
                kept = [(i, token, 0.5), (other, v, 0.5)]
                for j, stands, share in kept:
                    row = p(1 - j, stands, T)
                    if j == 0:
                        law[stands] += weight / 2 * chance * share * row
                    else:
                        law[:, stands] += weight / 2 * chance * share * row
    return law


def edited(editing):
    """LLaDA2.1: the more confident proposal stands; the next forward draws the other and may replace it."""
    law = np.zeros((V, V))
    for a, b, weight in draft():
        for i, token in ((0, a),) if p(0, MASK, T)[a] >= p(1, MASK, T)[b] else ((1, b),):
            again, fresh = p(i, MASK, T), p(1 - i, token, T)
            for u, v in itertools.product(range(V), repeat=2):
                now = u if u != token and again[u] > editing else token
                law[(now, v) if i == 0 else (v, now)] += weight * again[u] * fresh[v]
    return law
