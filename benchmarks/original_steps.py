"""One step of eight samplers outside the model, written plainly in torch, at the cost their authors' code has.

Each takes the canvas ``x [B, L]`` and what the model returned, and gives the new canvas: the same passes over the
vocabulary in the same dtypes, the same loops over rows, the same questions to the host. What a step would be told by
its loop (counts, times, the block's columns) is an argument. The mathematics is that of the papers named; nothing here
is meant to be good.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import Categorical


def exponential_noise(logits: Tensor, temperature: float, dtype: torch.dtype = torch.float64) -> Tensor:
    """Gumbel noise in its exponential form, ``exp(l) / (-log u)^T``, over the whole vocabulary."""
    if temperature == 0:
        return logits
    logits = logits.to(dtype)
    noise = torch.rand_like(logits)
    return logits.exp() / (-noise.log()) ** temperature


def llada(x: Tensor, logits: Tensor, *, mask_id: int, temperature: float, end: int, count: Tensor) -> Tensor:
    """LLaDA, low confidence (arXiv 2502.09992): softmax in the logits' dtype, ``topk`` row by row."""
    x, masked = x.clone(), x == mask_id
    token = exponential_noise(logits, temperature).argmax(-1)
    confidence = logits.softmax(-1).gather(-1, token[..., None])[..., 0]
    confidence[:, end:] = -torch.inf
    token = torch.where(masked, token, x)
    confidence = torch.where(masked, confidence, -torch.inf)
    chosen = torch.zeros_like(masked)
    for row in range(len(x)):
        chosen[row, confidence[row].topk(int(count[row])).indices] = True
    x[chosen] = token[chosen]
    return x


def dream(x: Tensor, logits: Tensor, *, mask_id: int, temperature: float, share: Tensor) -> Tensor:
    """Dream, maskgit_plus (arXiv 2508.15487): masked rows gathered, one count for the batch."""
    x, masked = x.clone(), x == mask_id
    logits = torch.cat([logits[:, :1], logits[:, :-1]], 1)[masked]
    if temperature > 0:
        probabilities = (logits / temperature).softmax(-1)
        try:
            token = Categorical(probs=probabilities).sample()
            confidence = probabilities.gather(-1, token[:, None])[:, 0]
        except ValueError:  # bfloat16 probabilities whose sum is not 1: the argmax then, without a word
            confidence, token = probabilities.max(-1)
    else:
        confidence, token = logits.softmax(-1).max(-1)
    count = int(masked.sum() / len(x) * share)
    ranked = torch.full_like(x, -torch.inf, dtype=logits.dtype)
    ranked[masked] = confidence
    if count > 0:
        chosen = ranked.topk(count).indices
        filled = torch.full_like(x, mask_id)
        filled[masked] = token
        rows = torch.arange(len(x), device=x.device)[:, None].expand_as(chosen)
        x[rows, chosen] = filled[rows, chosen]
    return x


def fast_dllm(x: Tensor, logits: Tensor, *, mask_id: int, temperature: float, end: int, threshold: float) -> Tensor:
    """Fast-dLLM with a threshold (arXiv 2505.22618): softmax in float64."""
    x, masked = x.clone(), x == mask_id
    masked[:, end:] = False
    token, confidence = _proposed(x, logits, masked, temperature)
    best = torch.zeros_like(masked).scatter(1, confidence.argmax(1, keepdim=True), True)
    chosen = ((confidence >= threshold) | best) & masked
    x[chosen] = token[chosen]
    (x[:, :end] == mask_id).sum().item()  # the block's loop asks whether it is done
    return x


def mdlm(x: Tensor, logits: Tensor, *, mask_id: int, t: Tensor, s: Tensor) -> Tensor:
    """MDLM's cached ancestral step (arXiv 2406.07524): SUBS, then every row drawn with float32 noise."""
    p = _subs(x, logits, mask_id).exp()
    q = p * (t - s)[:, None, None]
    q[..., mask_id] = s[:, None]
    new = torch.where(x == mask_id, _raced(q, torch.float32), x)
    torch.allclose(new, x)  # whether the cache still holds
    return new


def remdm(x: Tensor, logits: Tensor, *, mask_id: int, t: Tensor, s: Tensor, eta: float) -> Tensor:
    """ReMDM-cap (arXiv 2503.00307): both posteriors at every row, drawn with float64 noise."""
    p = _subs(x, logits, mask_id).exp()
    alpha_t, alpha_s = (1 - t[0]).item(), (1 - s[0]).item()
    sigma = min(eta, (1 - alpha_s) / alpha_t)
    committed = p * (1 - sigma)
    committed[..., mask_id] = sigma
    masked = p * ((alpha_s - (1 - sigma) * alpha_t) / (1 - alpha_t))
    masked[..., mask_id] = (1 - alpha_s - sigma * alpha_t) / (1 - alpha_t)
    new = _raced(torch.where((x != mask_id)[..., None], committed, masked), torch.float64)
    torch.allclose(new, x)
    return new


def p2(x: Tensor, logits: Tensor, fixed: Tensor, *, mask_id: int, temperature: float, kept: Tensor) -> Tensor:
    """P2 with itself as planner (arXiv 2502.03540): float64, scores of noisy logits, a strict cut-off by sorting."""
    x, masked = x.clone(), x == mask_id
    logits = logits.double()
    if temperature > 0:
        noise = torch.rand_like(logits)
        logits = logits / temperature - ((-(noise + 1e-8).log()) + 1e-8).log()
    token = logits.argmax(-1)
    score = logits.log_softmax(-1).gather(-1, token[..., None])[..., 0]
    score = score.masked_fill(fixed, torch.inf)
    count = ((~fixed).sum(1, keepdim=True) * (1 - kept)).long()
    cut = score.sort(1).values.gather(1, count)
    low = score < cut
    x[low] = mask_id
    filled = masked & ~low
    x[filled] = token[filled]
    return x


def proseco(
    x: Tensor,
    model: Callable[[Tensor], Tensor],
    *,
    mask_id: int,
    temperature: float,
    start: int,
    end: int,
    count: Tensor,
    passes: int,
) -> Tensor:
    """ProSeCo on LLaDA (arXiv 2602.11590): argmax passes to a fixed point, then commits by float64 confidence."""
    x, masked = x.clone(), x == mask_id
    y = torch.where(masked, model(x).argmax(-1), x)
    for _ in range(passes):
        logits = model(y)
        again = y.clone()
        again[:, start:end] = logits[:, start:end].argmax(-1)
        if torch.allclose(again, y):
            break
        y = again
    x[:, start:end] = torch.where(masked, x, y)[:, start:end]
    masked[:, end:] = False
    token, confidence = _proposed(x, logits, masked, temperature)
    order = confidence.sort(1, descending=True).indices
    first = torch.arange(x.shape[1], device=x.device) < count[:, None]
    chosen = torch.zeros_like(masked).scatter(1, order, first) & masked
    x[chosen] = token[chosen]
    (x[:, :end] == mask_id).sum().item()
    return x


def prism(
    x: Tensor,
    logits: Tensor,
    quality: Tensor,
    *,
    mask_id: int,
    temperature: float,
    start: int,
    end: int,
    count: Tensor,
    remask: Tensor,
) -> Tensor:
    """PRISM on LLaDA (arXiv 2510.01384): float32 noise, remasking then unmasking, row by row, counts on the host."""
    x, block = x.clone(), torch.zeros_like(x, dtype=torch.bool)
    block[:, start:end] = True
    masked, clean = (x == mask_id) & block, (x != mask_id) & block
    token = exponential_noise(logits, temperature, torch.float32).argmax(-1)
    confidence = logits.softmax(-1).gather(-1, token[..., None])[..., 0]
    confidence = torch.where(masked, confidence, -torch.inf)
    doubt = torch.where(clean, -quality, -torch.inf)
    for row in range(len(x)):
        again = min(int(remask[row].item()), int(clean[row].sum().item()))
        x[row, doubt[row].topk(again).indices] = mask_id
        chosen = confidence[row].topk(int(count[row].item()) + again).indices
        x[row, chosen] = token[row, chosen]
    return x


def _proposed(x: Tensor, logits: Tensor, masked: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Fast-dLLM's token and its float64 probability, least where nothing is masked."""
    token = exponential_noise(logits, temperature).argmax(-1)
    confidence = logits.double().softmax(-1).gather(-1, token[..., None])[..., 0]
    return torch.where(masked, token, x), torch.where(masked, confidence, torch.finfo(torch.float64).min)


def _subs(x: Tensor, logits: Tensor, mask_id: int) -> Tensor:
    """Log-probabilities without the mask token, one-hot where a token stands (MDLM's SUBS parameterisation)."""
    logits[..., mask_id] += -1e6  # in place, as there: what the model returned is the sampler's
    logits = logits - logits.logsumexp(-1, keepdim=True)
    committed = x != mask_id
    logits[committed] = -torch.inf
    logits[committed, x[committed]] = 0
    return logits


def _raced(q: Tensor, dtype: torch.dtype) -> Tensor:
    """A categorical draw at every row, ``argmax q / E`` with exponentials of truncated uniforms."""
    q = q.to(dtype)
    noise = 1e-10 - (torch.rand_like(q) + 1e-10).log()
    return (q / noise).argmax(-1)
