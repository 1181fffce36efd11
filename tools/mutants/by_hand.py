# ruff: noqa: E501
"""Bugs of the kind people make, by name: the file, what stands there, and what stands there with the bug.

The first part is a list of bugs that the suite once did not notice; the second was made afterwards, by the same rule.
"""

BUGS: dict[str, tuple[str, str, str]] = {
    # ---- bugs that were not noticed once ----
    "informed: no step in the noise": ("samplers/informed.py", "                step=state.step,\n", ""),
    "informed: no call in the noise": ("samplers/informed.py", "                call=correction,\n", ""),
    "rows stay settled after writes": (
        "samplers/part_steps.py", "(settled | correcting.mask) & ~written", "(settled | correcting.mask)",
    ),
    "a log-probability kept as commit score": (
        "samplers/part_steps.py", 'torch.where(corrected, scores["max_logprob"].exp(),',
        'torch.where(corrected, scores["max_logprob"],',
    ),
    "the share of eta without the prompt": (
        "samplers/remask.py", "n.float() / state.attention_mask.sum(1).clamp(min=1)",
        "n.float() / (~state.fixed).sum(1).clamp(min=1)",
    ),
    "NAVIRA: sign of the noise": ("samplers/verify.py", "/ self.temperature - noise", "/ self.temperature + noise"),
    "history: the last step remasks": (
        "samplers/verify.py", "(view.step + 1 < view.steps) & masked", "(view.step < view.steps) & masked",
    ),
    "T2M: remasked once less": (
        "samplers/edit.py", "state.commits <= self.per_position", "state.commits < self.per_position",
    ),
    "confidence_forbid forgets suppress": (
        "samplers/scoring.py", "[*how.suppress, *self.confidence_forbid]", "[*self.confidence_forbid]",
    ),
    "noise of the last step": ("samplers/pool.py", "(1 - (view.step + 1).float()", "(1 - (view.step).float()"),
    "ancestral: argmax instead of a draw": (
        "samplers/ancestral.py",
        '            scores["token"],\n            mask_id=view.mask_id,\n            fixed=state.fixed,\n'
        "            eligible=view.eligible,\n            commit=intent.commit,\n            remask=intent.remask,",
        '            scores.get("argmax", scores["token"]),\n            mask_id=view.mask_id,\n            fixed=state.fixed,\n'
        "            eligible=view.eligible,\n            commit=intent.commit,\n            remask=intent.remask,",
    ),
    "fixed steps: finish=False ignored": ("samplers/fixed.py", "closing=self.sampler.finish", "closing=True"),
    "the reviewer loses the condition": (
        "samplers/sampler.py", "self.review.forward(mask_id, self.name, condition)",
        "self.review.forward(mask_id, self.name, None)",
    ),
    "CoRe: no drop asked": ("samplers/correct.py", " & (drop > 0)", ""),
    "DFM: eps ignored": (
        "samplers/presets/ancestral.py", "Ancestral(Detour(self.scale, self.power), eps=self.eps)",
        "Ancestral(Detour(self.scale, self.power))",
    ),
    "history: order_temperature ignored": (
        "samplers/presets/revise.py", 'Unmask("confidence", CosineTarget(), temperature=self.order_temperature)',
        'Unmask("confidence", CosineTarget())',
    ),
    "attach: outputs that are tuples": (
        "attached.py", "states[0] if isinstance(states, (tuple, list)) and states else states", "states",
    ),
    "likelihood: the others' probability": (
        "likelihood.py", "torch.where(masked, read.current_logprob", "torch.where(~masked, read.current_logprob",
    ),
    "likelihood: scored where nothing is masked": ("likelihood.py", "rows=masked, want=", "rows=~masked, want="),
    "likelihood: fixed the wrong way round": ("likelihood.py", "fixed=~scored[row]", "fixed=scored[row]"),
    "ids of every other column": ("ops/_scoring.py", "value.reshape(-1).contiguous()", "value.view(-1)"),
    "Fast-dLLM: nothing under the threshold": (
        "compat/fast_dllm.py", '"threshold", threshold, eligible=mask_index, at_least=1',
        '"threshold", threshold, eligible=mask_index, at_least=0',
    ),
    "dLLM: floor of the steps": (
        "compat/dllm.py", "min(steps, settings.max_new_tokens // settings.minimal_topk)",
        "min(steps, -(-settings.max_new_tokens // settings.minimal_topk))",
    ),
    "diffusers: masks of the prompt": ("compat/diffusers.py", "(place >= prompt_length) & (place < first", "(place < first"),
    "MDLM: the other nucleus": ("compat/mdlm.py", 'top_p_rule="exclusive"', 'top_p_rule="inclusive"'),
    "Dream: temperature ignored with top_p": (
        "compat/dream.py", "        temperature=config.temperature,\n        top_p=config.top_p,",
        "        temperature=config.temperature if config.top_p is None else 0.0,\n        top_p=config.top_p,",
    ),
    "the grid's middle of odd steps": ("samplers/counts.py", "step < (steps + 1) // 2", "step < steps // 2"),
    "forwards of guided models": (
        "samplers/forward.py", "tally.count(rows, asked, output.forwards)", "tally.count(rows, asked, 1)",
    ),
    # ---- made afterwards ----
    "ends: the first, not what follows": (
        "samplers/part_steps.py", "ended if len(self.engine.eos_ids) == 1 else ended.long().cumsum(1) > 1", "ended",
    ),
    "ends: with masks before": ("samplers/part_steps.py", " & (unfilled == 0)", ""),
    "ends: given ones too": ("samplers/part_steps.py", "self._ends(state) & ~state.fixed &", "self._ends(state) &"),
    "commit score of what was remasked": (
        "samplers/part_steps.py", "torch.where(update.remasked, torch.nan, state.commit_score)", "state.commit_score",
    ),
    "edited tokens keep their commit score": (
        "samplers/part_steps.py", "new = update.committed if update.corrected is None else update.committed | update.corrected",
        "new = update.committed",
    ),
    "the last fill remasks": (
        "samplers/part_steps.py", "remasked=torch.where(last, remasked, update.remasked)", "remasked=update.remasked",
    ),
    "cache ignored": ("samplers/part_steps.py", "if not self.engine.cache:", "if self.engine.cache is None:"),
    "a correction of nothing": (
        "samplers/part_steps.py", "state.settled | ~state.committed(self.engine.mask_id).any(1)", "state.settled",
    ),
    "informed: the highest scores": ("samplers/informed.py", "largest=False", "largest=True"),
    "informed: margin to the best": (
        "samplers/informed.py", "torch.where(current >= highest, second, highest)", "highest",
    ),
    "informed: corrects in the first step": ("samplers/informed.py", "max(self.start, 1)", "max(self.start, 0)"),
    "informed: draws the step's again": ("samplers/informed.py", "rescore(tokens, rows, view.reach, correction)", "rescore(tokens, rows, view.reach, 1)"),
    "GIDD: what stands is replaced by itself": (
        "samplers/informed.py", '(scores["token"] != state.tokens) & (scores["token"] >= 0)', '(scores["token"] >= 0)',
    ),
    "constant: at the boundary": ("samplers/remask.py", "(count < committed) &", "(count <= committed) &"),
    "constant: at the other boundary": (
        "samplers/remask.py", "(committed < total - count)", "(committed <= total - count)",
    ),
    "centred: of two as near the later": ("samplers/remask.py", "+ (offset > 0)", "+ (offset < 0)"),
    "remask: stop is one later": ("samplers/remask.py", "on &= view.step < self.stop", "on &= view.step <= self.stop"),
    "remask: start is one later": ("samplers/remask.py", "on = view.step >= self.start", "on = view.step > self.start"),
    "remask: whom nobody saw goes first": (
        "samplers/remask.py", "state.commit_score.nan_to_num(nan=torch.inf)", "state.commit_score.nan_to_num(nan=0.0)",
    ),
    "remask: the order of commits again": (
        "samplers/remask.py", "state.uniform(rng.Purpose.ORDER, 1)", "state.uniform(rng.Purpose.ORDER)",
    ),
    "WINO: one accepted is enough": ("samplers/verify.py", "(accepted > 1)", "(accepted > 0)"),
    "WINO: doubt at the bound": ("samplers/verify.py", 'scores["quality"] < self.doubt', 'scores["quality"] <= self.doubt'),
    "WINO: as many as before": (
        "samplers/verify.py", "torch.where(again >= before, before - 1, again)", "torch.where(again > before, before, again)",
    ),
    "WINO: forgets in each window": (
        "samplers/verify.py", "        before = torch.where(view.step == 0, self.FIRST, before)\n", "",
    ),
    "WINO: least 5 is 6": ("samplers/verify.py", ".clamp(5, 20)", ".clamp(6, 20)"),
    "history: share at the bound": ("samplers/verify.py", "share < until", "share <= until"),
    "history: the sum, not the mean": ("samplers/verify.py", "keep_score=total / noted", "keep_score=total"),
    "history: kept after a commit": ("samplers/verify.py", "anew = committed | remasked", "anew = remasked"),
    "NAVIRA: fills in even steps": ("samplers/verify.py", "view.step % 2 == 1", "view.step % 2 == 0"),
    "editing at the threshold": (
        "samplers/edit.py", 'scores["confidence"] > self.threshold)\n        return differs',
        'scores["confidence"] >= self.threshold)\n        return differs',
    ),
    "T2M: doubt at the threshold": ("samplers/edit.py", "probability < self.threshold", "probability <= self.threshold"),
    "T2M: the room of the whole row": ("samplers/edit.py", "view.own.sum(1)", "view.layout.generated.sum(1)"),
    "editing: one step more": ("samplers/edit.py", "post < self.post_steps", "post <= self.post_steps"),
    "editing: counted across windows": (
        "samplers/edit.py", 'torch.where(view.step == 0, 0, state.memory.get("post", torch.zeros_like(view.step)))',
        'state.memory.get("post", torch.zeros_like(view.step))',
    ),
    "kappa: one step late": ("samplers/pool.py", "torch.minimum(view.step + 1, steps)", "torch.minimum(view.step, steps)"),
    "kappa: sine is cosine": ("samplers/pool.py", 'if self.schedule == "sine"', 'if self.schedule == "cosine"'),
    "noise: of the commits' order": ("samplers/pool.py", "state.uniform(rng.Purpose.ORDER, 1) - 0.5", "state.uniform(rng.Purpose.ORDER) - 0.5"),
    "pool: masked scores without noise": ("samplers/pool.py", "rank, keep_rank = rank + drawn, keep_rank + drawn", "keep_rank = keep_rank + drawn"),
    "pool: eta of masks": ("samplers/pool.py", "rank = self._score(self.masked, state, scores)", "rank = self._score(self.masked, state, scores) * self.eta"),
    "pool: strict at the cut": ("samplers/pool.py", "(padded < ranked.gather", "(padded <= ranked.gather"),
    "fixed order: one early": ("samplers/pool.py", "upto = (each * view.step)", "upto = (each * (view.step + 1))"),
    "fixed order: floor": ("samplers/pool.py", "-(-view.quota // (view.steps - 1).clamp(min=1))", "view.quota // (view.steps - 1).clamp(min=1)"),
    "ancestral: the posterior of t": ("samplers/ancestral.py", "gained / (1 - moment.alpha_t)", "gained / (1 - moment.alpha_s)"),
    "ancestral: one draw for both": ("samplers/ancestral.py", "rng.Purpose.REMASK, dtype", "rng.Purpose.COMMIT, dtype"),
    "ancestral: time of the step after": ("samplers/ancestral.py", "self.eps, self._at(view.step, view))", "self.eps, self._at(view.step + 1, view))"),
    "jumps: the power of the masks": ("samplers/ancestral.py", "before * u ** (1 / masks.float())", "before * u ** (1 / (masks + 1).float())"),
    "jumps: forgets the time": ("samplers/ancestral.py", 'memory={"time": time}', "memory={}"),
    "ProSeCo: phase": ("samplers/correct.py", "number = view.step + 1\n        return (number %", "number = view.step + 2\n        return (number %"),
    "ProSeCo: start is one later": ("samplers/correct.py", "(number >= self.start)", "(number > self.start)"),
    "ProSeCo: scores of the first pass": ("samplers/correct.py", "y, scores = again, revised.over(scores)", "y, scores = again, scores"),
    "CoRe: asks about the hidden": ("samplers/correct.py", "rescore(hidden, rows, shaky, 1, state.tokens)", "rescore(hidden, rows, shaky, 1)"),
    "CoRe: phase": ("samplers/correct.py", "((view.step + 1) % self.every == 0) & (view.step >= self.start)", "(view.step % self.every == 0) & (view.step >= self.start)"),
    "even split: remainder last": ("samplers/counts.py", "(view.step < view.quota % steps)", "(view.step >= steps - view.quota % steps)"),
    "ceil target: floor": ("samplers/counts.py", "-(-view.quota * (view.step + 1) // view.steps.clamp(min=1))", "view.quota * (view.step + 1) // view.steps.clamp(min=1)"),
    "factor: the last is asked": ("samplers/counts.py", "torch.where(count == masks - 1, masks, count) if self.last_free else count", "count"),
    "above mean: to the last end": ("samplers/counts.py", "ends.cumsum(1) - ends > 0", "ends.cumsum(1) > 0"),
    "unmask: Gumbel before the temperature": ("samplers/unmask.py", "rank / self.temperature + noise", "(rank + noise) / self.temperature"),
    "unmask: entropy, highest first": ("samplers/unmask.py", 'rank = -scores["entropy"]', 'rank = scores["entropy"]'),
    "windows: the remainder last": ("samplers/window.py", "(state.window < layout.more)", "(state.window >= layout.count - layout.more)"),
    "windows: extra ignored": ("samplers/window.py", "block_steps + self.extra if self.extra else block_steps", "block_steps"),
    "forward: positions of the call's rows": ("samplers/forward.py", "position_ids=take(state.positions)", "position_ids=state.positions[: len(asked)]"),
    "forward: time of the call's rows": ("samplers/forward.py", "time=take(time)", "time=time[: len(asked)]"),
    "forward: a condition of the call's rows": ("samplers/forward.py", "take(condition) if condition.ndim and condition.shape[0] == batch", "condition[: len(condition)] if condition.ndim and condition.shape[0] == batch"),
    "forward: corrections unnumbered": ("samplers/forward.py", "            correction=correction,\n", ""),
    "forward: draws of corrections are the step's": ("samplers/forward.py", "            call=request.correction,\n", "            call=0,\n"),
    "review: draft of what is given": ("samplers/review.py", 'return ~state.fixed if self.draft == "generated" else', 'return ~state.fixed if self.draft != "generated" else'),
    "cap: the larger": ("samplers/sigma.py", "return moment.limit.clamp(max=self.eta)", "return moment.limit.clamp(min=self.eta).clamp(max=1)"),
    "during: on at t_off": ("samplers/sigma.py", "(moment.t > self.t_off)", "(moment.t >= self.t_off)"),
    "during: off at t_on": ("samplers/sigma.py", "(moment.t <= self.t_on)", "(moment.t < self.t_on)"),
    "guided: the scale once": ("adapters.py", "return _halves(output, half, self.scale, rows)", "return _halves(output, half, self.scale - 1, rows)"),
    "guided: keeps what is hidden": ("adapters.py", "hidden & ~torch.isin(", "hidden & torch.isin("),
    "guided: forwards of one half": ("adapters.py", "        each[n] += more\n", "        each[n] += 0\n"),
    "condition guided: gamma": ("adapters.py", "_halves(output, half, self.gamma - 1)", "_halves(output, half, self.gamma)"),
    "condition guided: corrections too": ("adapters.py", "if request.correction and not self.in_corrections", "if request.correction and self.in_corrections"),
    "steered: scale": ("adapters.py", "output.logits + self.scale * other.logits", "output.logits + other.logits"),
    "shadow: sees what it stands for": ("adapters.py", "hides = stands_for[..., None] != place", "hides = stands_for[..., None] >= 0 * place"),
    "shadow: positions of the canvas": ("adapters.py", "request.position_ids.gather(1, stands_for)", "stands_for"),
    "combined: not moved": ("adapters.py", "pad(before[:, :-1], (0, 0, 1, 0))", "pad(before[:, 1:], (0, 0, 0, 1))"),
    "canvas: positions of columns": ("canvas.py", "(column - first).clamp(min=0)", "column.expand_as(real).clone()"),
    "canvas: padding on the wrong side": ("canvas.py", 'if padding == "left" else', 'if padding == "right" else'),
    "canvas: copies far apart": ("canvas.py", "value.repeat_interleave(num_return_sequences, dim=0)", "value.repeat(num_return_sequences, *[1] * (value.dim() - 1))"),
    "canvas: cut after the end": ("canvas.py", "row[real & (ends.long().cumsum(0) == 0)]", "row[real & (ends.long().cumsum(0) - ends.long() == 0)]"),
    "canvas: given ends cut": ("canvas.py", "device=row.device)) & ~fixed", "device=row.device))"),
    "LLaDA21: at_least ignored": ("samplers/presets/llada2.py", "strict=True, at_least=self.at_least)", "strict=True)"),
    "LLaDA2: not strict": ("samplers/presets/llada2.py", "Threshold(self.threshold, strict=True, at_least=BlockSplit", "Threshold(self.threshold, at_least=BlockSplit"),
    "Dream: batch_mean ranks masks alone": ("samplers/presets/dream.py", "WholeRow(unmask) if self.batch_mean else UnmaskThenRemask(unmask)", "UnmaskThenRemask(unmask)"),
    "InformedCorrector: rounds ignored": ("samplers/presets/ancestral.py", "self.position_temperature, self.rounds, self.correct_every)", "self.position_temperature, 1, self.correct_every)"),
    "presets: suppress ignored": ("samplers/presets/preset.py", "top_p=self.top_p, suppress=self.suppress, **settings", "top_p=self.top_p, **settings"),
    "presets: top_p_rule ignored": ("samplers/presets/preset.py", '            settings["top_p_rule"] = self.top_p_rule\n', "            pass\n"),
}  # fmt: skip
