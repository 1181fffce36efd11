"""What the guided samplers read of the originals' Diffusion class: two positions, three tokens and a mask, two classes.

The backbone's logits at either position depend on the other's token and on the condition; its hidden states are what an
embedding gives. The originals' own methods run on it too, which is how the recorded counts were made.
"""

import math
from types import SimpleNamespace

import torch

MASK, V = 3, 4
SAMPLING = {
    "steps": 3,
    "use_cache": True,
    "use_float64": True,
    "nucleus_p": 1.0,
    "corrector_steps": 0,
    "corrector_every_n_steps": 1,
    "corrector_start_iter": 0,
    "corrector_prior_is_argmax": True,
    "corrector_sampling": "argmax",
    "corrector_top_k": 0,
}
BASE = torch.tensor([[1.0, 0.2, -0.5, 0.4], [-0.3, 0.7, 0.3, -0.8]])
PULL = torch.tensor([[1.2, -0.6, 0.1, 0.0], [-0.9, 0.8, 0.6, 0.0], [0.3, 0.5, -1.1, 0.0], [0.0, 0.1, 0.0, 0.0]])
BY_CLASS = torch.tensor([[0.8, -0.4, 0.0, 0.0], [-0.5, 0.0, 0.9, 0.0], [0.0, 0.0, 0.0, 0.0]])  # the last is none


class Toy:
    """Stands for Diffusion; the methods it lacks are the originals' or the drop-ins'."""

    def __init__(
        self, rows, *, sampling=(), guidance=None, diffusion="absorbing_state", parameterization="subs", **more
    ):
        settings = {**SAMPLING, **dict(sampling), "batch_size": rows}
        self.config = SimpleNamespace(
            sampling=SimpleNamespace(**settings),
            model=SimpleNamespace(length=2),
            noise=SimpleNamespace(type="loglinear"),
            data=SimpleNamespace(num_classes=2),
            backbone="dit",
        )
        if guidance is not None:
            self.config.guidance = guidance
        self.diffusion, self.parameterization = diffusion, parameterization
        self.subs_masking, self.T = more.get("subs_masking", False), more.get("T", 0)
        self.mask_index, self.vocab_size, self.neg_infinity = MASK, V, -1e6
        self.device, self.time_conditioning, self.limiting_distribution = "cpu", False, torch.full((V,), 1 / V)
        self.calls = 0

    def noise(self, t):
        return -torch.log1p(-(1 - 1e-3) * t), (1 - 1e-3) / (1 - (1 - 1e-3) * t)

    def backbone(self, x, sigma, cond=None, x_emb=None, return_hidden_states=False):
        self.calls += 1
        hidden = PULL[x.flip(1)] if x_emb is None else x_emb
        logits = BASE + (1 + torch.arange(2)[:, None]) * hidden
        if cond is not None:
            logits = logits + BY_CLASS[cond][:, None]
        return (logits, [hidden]) if return_hidden_states else logits

    def _sample_prior(self, *shape):
        if self.diffusion == "uniform":
            return torch.randint(0, V, shape)
        return torch.full(shape, MASK)

    def _process_sigma(self, sigma):
        return torch.zeros_like(sigma).reshape(-1)

    def forward(self, x, sigma, cond=None, x_emb=None):
        logits = self.backbone(x, self._process_sigma(sigma), cond, x_emb)
        if self.parameterization == "subs":
            return self._subs_parameterization(logits, x)
        return logits.log_softmax(-1)

    def _subs_parameterization(self, logits, xt):
        logits = torch.where(torch.arange(V) == MASK, self.neg_infinity, logits)
        stands = torch.nn.functional.one_hot(xt, V).float().log().clamp(min=self.neg_infinity)
        return torch.where((xt == MASK)[..., None], logits, stands).log_softmax(-1)

    def _compute_posterior(self, x, xt, alpha_s, alpha_t):
        """Of uniform corruption: ``q(x_s | x_t, x)`` for a distribution x, by Bayes' rule."""
        between = alpha_t / alpha_s
        here = torch.nn.functional.one_hot(xt, V).float()
        joint = (between * here + (1 - between) / V) * (alpha_s * x + (1 - alpha_s) / V)
        return joint / joint.sum(-1, keepdim=True)

    def _ddpm_denoise(self, xt, time_conditioning, move_chance_t, move_chance_s, cache=None):
        log_p = self.forward(xt, time_conditioning) if cache is None else cache["log_x_theta"]
        q = log_p.exp() * (1 - move_chance_s / move_chance_t)
        q[..., MASK] = (move_chance_s / move_chance_t)[..., 0]
        drawn = torch.multinomial(q.reshape(-1, V).float(), 1).view_as(xt)
        return torch.where(xt == MASK, drawn, xt), q, {"log_x_theta": log_p}

    def _corrector_denoise(self, *, corrector_xt, corrector_cache, **_settings):
        """The argmax of the network on the canvas."""
        assert corrector_cache is None or torch.equal(corrector_cache["of"], corrector_xt)
        log_p = (self.backbone(corrector_xt, None) + self.neg_infinity * (torch.arange(V) == MASK)).log_softmax(-1)
        return log_p.argmax(-1), log_p.exp(), {"corrector_log_x_theta": log_p, "of": corrector_xt}


class Judge:
    """A classifier of tokens ``[n, 2]``, of one-hot vectors ``[n, 2, V]``, or of hidden states."""

    WEIGHT = torch.tensor([[0.9, -0.7, 0.2, 0.1], [-0.4, 1.1, 0.5, 0.0]])

    def __init__(self):
        self.rows = 0

    def get_log_probs(self, x, sigma, x_emb=None):
        assert len(x) == len(sigma)
        self.rows += len(x)
        if x_emb is not None:
            score = (x_emb * self.WEIGHT).sum((1, 2))
        elif x.dim() == 2:
            score = self.WEIGHT[torch.arange(2), x].sum(1)
        else:
            score = (x * self.WEIGHT).sum((1, 2))
        score = score - math.log(2.0)
        return torch.stack([-score, score], 1).log_softmax(-1)
