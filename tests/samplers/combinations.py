"""Every preset beside the parts it is made of, and a canvas for them."""

from dataclasses import replace

import torch

from mdmcorrect.samplers import (
    DFM,
    GIDD,
    KLASS,
    MDLM,
    NAVIRA,
    P2,
    PRISM,
    WINO,
    AboveMean,
    Ancestral,
    Annealed,
    BeforeEnd,
    BlockPRISM,
    BlockProSeCo,
    Blocks,
    BoundedCanvas,
    Cap,
    CeilTarget,
    Centred,
    Confidence,
    Constant,
    CoRe,
    CosineTarget,
    Detour,
    DraftAndVerify,
    Dream,
    During,
    Edit,
    EntropyBound,
    EntropyBounded,
    EntropyCanvas,
    EvenSplit,
    Factor,
    FastDLLM,
    FillThenRefine,
    FirstHitting,
    FixedOrder,
    FixedPoint,
    ForwardBackward,
    HideAndAsk,
    HistoryRemask,
    HistoryRemasking,
    InfoGain,
    InformationGain,
    Informed,
    InformedCorrector,
    JumpTimes,
    Kappa,
    LearnedOrder,
    LLaDA,
    LLaDA2,
    LLaDA21,
    Looped,
    MaskGIT,
    MDiff4STR,
    Noise,
    Overwrite,
    P2Plus,
    Plateau,
    Pool,
    ProSeCo,
    Remask,
    RemaskDoubtful,
    ReMDM,
    RemeDi,
    Resample,
    Rescale,
    Review,
    Sampler,
    ScoreThenFill,
    Scoring,
    Steady,
    SteadyFirst,
    Threshold,
    TimeGrid,
    TokenCritic,
    Tolerator,
    Unmask,
    UnmaskThenRemask,
)
from mdmcorrect.samplers.presets.llada2 import BlockSplit

MASK = 11


def critic(tokens, request):
    """Quality alone, of attended tokens only."""
    attended = torch.ones_like(tokens) if request.attention_mask is None else request.attention_mask.long()
    context = (tokens * attended).sum(1, keepdim=True) + 5 * request.position_ids + 7 * tokens
    return torch.sin(context.float()) / 2 + 0.5


def planner(tokens, request):
    """A second model, which sees attended tokens only."""
    attended = torch.ones_like(tokens) if request.attention_mask is None else request.attention_mask.long()
    context = (tokens * attended).sum(1, keepdim=True) + 3 * request.position_ids + tokens
    return torch.sin(context[..., None] * (torch.arange(12, device=tokens.device).float() + 1)) * 3


LLADA_SCORING = Scoring(temperature=0.7, mask_token="forbid", confidence_dtype="logits")
DREAM_SCORING = Scoring(
    top_p_rule="inclusive",
    filter_order="top_p_first",
    law="proposal",
    mask_token="forbid",
    confidence_dtype="logits",
)
EDIT_SCORING = replace(DREAM_SCORING, filter_order="top_k_first")
COMBINATIONS = {
    "mdlm": (
        MDLM(steps=9, top_p=0.9),
        Sampler(steps=9, plan=Ancestral(), scoring=Scoring(temperature=1.0, top_p=0.9, top_p_rule="exclusive")),
    ),
    "remdm-cap": (
        ReMDM(steps=9, eta=0.2),
        Sampler(steps=9, plan=Ancestral(sigma=Cap(0.2)), scoring=Scoring(temperature=1.0)),
    ),
    "remdm-conf": (
        ReMDM(steps=9, rule="conf"),
        Sampler(steps=9, plan=Ancestral(sigma=Confidence()), scoring=Scoring(temperature=1.0)),
    ),
    "remdm-switch": (
        ReMDM(steps=9, rule="rescale", eta=0.5, t_on=0.8, t_off=0.2),
        Sampler(steps=9, plan=Ancestral(sigma=During(Rescale(0.5), 0.8, 0.2)), scoring=Scoring(temperature=1.0)),
    ),
    "remdm-loop": (
        ReMDM(steps=9, eta=0.2, t_on=0.55, t_off=0.05, alpha_on=0.9),
        Sampler(
            steps=9,
            plan=Ancestral(sigma=During(Cap(0.2), 0.55, 0.05), alpha=Plateau(0.55, 0.05, 0.9)),
            scoring=Scoring(temperature=1.0),
        ),
    ),
    "forward-backward": (
        ForwardBackward(steps=9),
        Sampler(steps=9, plan=Ancestral(sigma=Detour()), scoring=Scoring(temperature=1.0)),
    ),
    "dfm": (
        DFM(steps=9, top_p=0.9),
        Sampler(
            steps=9,
            plan=Ancestral(sigma=Detour(10.0, 0.25)),
            scoring=Scoring(temperature=1.0, top_p=0.9, top_p_rule="exclusive"),
        ),
    ),
    "first-hitting": (
        FirstHitting(),
        Sampler(steps=1, plan=JumpTimes(), window=Blocks(until_filled=True), scoring=Scoring(temperature=1.0)),
    ),
    "informed": (
        InformedCorrector(steps=7, count=2, by="margin", rounds=2, correct_every=3),
        Sampler(
            steps=7,
            plan=Ancestral(),
            correct=Informed(2, by="margin", rounds=2, every=3),
            scoring=Scoring(temperature=1.0),
        ),
    ),
    "p2": (
        P2(steps=6, eta=1.5, kappa="sine"),
        Sampler(
            steps=6,
            plan=Pool(Kappa("sine"), masked="logprob", committed="current_logprob", eta=1.5),
            scoring=Scoring(temperature=1.0),
        ),
    ),
    "p2-planner": (
        P2(steps=6, planner=planner, temperature=0.0, kappa=(0.2, 0.4, 0.5, 0.8, 0.9, 1.0)),
        Sampler(
            steps=6,
            plan=Pool(Kappa((0.2, 0.4, 0.5, 0.8, 0.9, 1.0)), committed="review"),
            review=Review(planner, reads="logprob"),
        ),
    ),
    "p2-plus": (P2Plus(steps=6), Sampler(steps=6, plan=FixedOrder(), scoring=Scoring(temperature=1.0))),
    "maskgit": (
        MaskGIT(steps=6, top_k=5),
        Sampler(
            steps=6,
            plan=Pool(Kappa("cosine", advance=True), masked="logprob", committed="stays", noise=Noise(4.5)),
            scoring=Scoring(temperature=1.0, top_k=5),
        ),
    ),
    "token-critic": (
        TokenCritic(steps=6, critic=critic),
        Sampler(
            steps=6,
            plan=Pool(Kappa("cosine"), masked="review", committed="review", noise=Noise(1.0, "uniform")),
            review=Review(critic),
            scoring=Scoring(temperature=1.0),
        ),
    ),
    "learned-order": (
        LearnedOrder(steps=6),
        Sampler(
            steps=6,
            plan=Pool(Kappa(), masked="log_quality", committed="stays", noise=Noise(1.0, annealed=False)),
            scoring=Scoring(temperature=1.0),
        ),
    ),
    "klass": (
        KLASS(steps=10, block_length=5, threshold=0.2, kl_threshold=0.7),  # of any quality, were it one
        Sampler(
            steps=10,
            unmask=SteadyFirst("confidence", Steady(0.2, 0.7)),
            window=Blocks(5),
            scoring=Scoring(mask_token="forbid"),
        ),
    ),
    "info-gain": (
        InfoGain(steps=6, block_length=5, candidates=4, temperature=0.7, position_temperature=0.5),
        Sampler(
            steps=6,
            unmask=Unmask("confidence", EvenSplit()),
            window=Blocks(5),
            correct=InformationGain(EvenSplit(), 4, 0.5),
            scoring=Scoring(temperature=0.7, mask_token="forbid"),
        ),
    ),
    "tolerator": (
        Tolerator(steps=9, refine_steps=5, temperature=0.7),
        Sampler(steps=9, plan=FillThenRefine(refine=5), scoring=LLADA_SCORING),
    ),
    "entropy-canvas": (
        EntropyCanvas(vocab=12, steps=7, gamma=1.5, sure=1.0, stable=0),
        Sampler(
            steps=8,
            plan=BoundedCanvas(12, 1.5, 0, 1.0),
            scoring=Annealed(temperature=1.0, high=0.8, low=0.4, over=7),
        ),
    ),
    "gidd": (
        GIDD(steps=7, count=2),
        Sampler(
            steps=7,
            unmask=Unmask("random", CeilTarget()),
            correct=Resample(2),
            scoring=Scoring(temperature=0.1),
        ),
    ),
    "proseco-sampled": (
        ProSeCo(steps=6, corrector_steps=2, corrector="sample"),
        Sampler(steps=6, plan=Ancestral(), correct=FixedPoint(2, update="sample"), scoring=Scoring(temperature=1.0)),
    ),
    "proseco-top-k": (
        ProSeCo(steps=6, corrector_steps=3, corrector="top_k", corrector_top_k=2),
        Sampler(
            steps=6,
            plan=Ancestral(),
            correct=FixedPoint(3, update="top_k", top_k=2),
            scoring=Scoring(temperature=1.0),
        ),
    ),
    "llada": (
        LLaDA(steps=6, block_length=5, temperature=0.7),
        Sampler(steps=6, unmask=Unmask("confidence", EvenSplit()), window=Blocks(5), scoring=LLADA_SCORING),
    ),
    "fast-dllm": (
        FastDLLM(block_length=5, factor=1.5),
        Sampler(
            steps=1,
            unmask=Unmask("confidence", Factor(1.5)),
            window=Blocks(5, until_filled=True),
            scoring=Scoring(mask_token="forbid"),
        ),
    ),
    "entropy-bounded": (
        EntropyBounded(gamma=0.7, block_length=5, temperature=0.7),
        Sampler(
            steps=1,
            unmask=Unmask("entropy", EntropyBound(0.7)),
            window=Blocks(5, until_filled=True),
            scoring=Scoring(temperature=0.7),
        ),
    ),
    "dream": (
        Dream(steps=7, alg="topk_margin", temperature=0.7, top_p=0.9, alg_temp=0.4),
        Sampler(
            steps=7,
            unmask=Unmask("margin", TimeGrid(), temperature=0.4),
            scoring=replace(DREAM_SCORING, temperature=0.7, top_p=0.9),
        ),
    ),
    "dream-origin": (
        Dream(steps=7, temperature=0.7, top_k=4),
        Sampler(
            steps=7,
            plan=Ancestral(eps=1e-3, complete=True),
            scoring=replace(DREAM_SCORING, temperature=0.7, top_k=4),
        ),
    ),
    "llada2": (
        LLaDA2(steps=3, block_length=4, threshold=0.3),
        Sampler(
            steps=3,
            unmask=Unmask("confidence", Threshold(0.3, strict=True, at_least=BlockSplit(4, 3))),
            window=Blocks(4, steps=3, by="column"),
            scoring=EDIT_SCORING,
        ),
    ),
    "llada2.1": (
        LLaDA21(block_length=5, threshold=0.25, editing_threshold=0.2, post_steps=4),
        Sampler(
            steps=1,
            plan=Edit(unmask=Unmask("confidence", Threshold(0.25, strict=True)), edit=Overwrite(0.2), post_steps=4),
            window=Blocks(5, until_filled=True, extra=4, by="column"),
            scoring=EDIT_SCORING,
        ),
    ),
    "t2m": (
        LLaDA21(block_length=8, threshold=0.25, remask="low_prob", remask_threshold=0.1, per_position=2, post_steps=3),
        Sampler(
            steps=1,
            plan=Edit(
                unmask=Unmask("confidence", Threshold(0.25, strict=True)),
                edit=RemaskDoubtful("low_prob", 0.1, 2),
                post_steps=3,
            ),
            window=Blocks(8, until_filled=True, extra=19, by="column"),
            scoring=EDIT_SCORING,
        ),
    ),
    "wino": (
        WINO(block_length=15, accept=0.2, doubt=0.4),
        Sampler(
            steps=1,
            plan=DraftAndVerify(unmask=Unmask("confidence", Threshold(0.2, strict=True)), doubt=0.4),
            window=Blocks(15, until_filled=True, extra=30),
            scoring=Scoring(mask_token="forbid"),
        ),
    ),
    "remedi": (
        RemeDi(steps=9, block_length=5),
        Sampler(
            steps=9,
            plan=Pool(masked="quality", committed="quality"),
            window=Blocks(5),
            scoring=Scoring(mask_token="forbid"),
        ),
    ),
    "core": (
        CoRe(steps=9, correct_every=2, candidates=3),
        Sampler(
            steps=9,
            correct=HideAndAsk(3, every=2),
            scoring=replace(LLADA_SCORING, temperature=0.0),
        ),
    ),
    "history": (
        HistoryRemasking(steps=9, numbers=((0.3, 0), (1.0, 2))),
        Sampler(
            steps=9,
            plan=HistoryRemask(unmask=Unmask("confidence", CosineTarget()), numbers=((0.3, 0), (1.0, 2))),
            scoring=Scoring(temperature=1.0),
        ),
    ),
    "navira": (
        NAVIRA(steps=7, remask_count=2),
        Sampler(
            steps=14,
            plan=ScoreThenFill(unmask=Unmask("random", CeilTarget()), count=Constant(2)),
            scoring=Scoring(temperature=1.0),
        ),
    ),
    "mdiff4str": (
        MDiff4STR(eos_id=2),
        Sampler(
            steps=2,
            plan=UnmaskThenRemask(BeforeEnd("confidence", AboveMean(2), eos_id=2)),
            scoring=Scoring(),
        ),
    ),
    "prism": (
        PRISM(steps=9, remask_count=2, unmask="max_probability", step_off=8),
        Sampler(
            steps=9,
            unmask=Unmask("max_probability", CeilTarget()),
            remask=Remask("quality", Constant(2), stop=8),
            scoring=Scoring(temperature=1.0),
        ),
    ),
    "prism-loop": (
        PRISM(steps=8, remask_count=2, loop_start=5, loop_steps=4, loop_count=3),
        Sampler(
            steps=12,
            plan=Looped(
                Unmask("random", CeilTarget()), Remask("quality", Constant(2)), loop_start=5, loops=4, loop_count=3
            ),
            scoring=Scoring(temperature=1.0),
        ),
    ),
    "block-prism": (
        BlockPRISM(steps=8, block_length=7, remask_count=5, temperature=0.7),
        Sampler(
            steps=8,
            plan=UnmaskThenRemask(Unmask("confidence", EvenSplit()), Remask("quality", Centred(5)), refill="never"),
            window=Blocks(7),
            scoring=LLADA_SCORING,
        ),
    ),
    "proseco": (
        ProSeCo(steps=8, corrector_steps=3, correct_every=2),
        Sampler(steps=8, plan=Ancestral(), correct=FixedPoint(3, every=2), scoring=Scoring(temperature=1.0)),
    ),
    "block-proseco": (
        BlockProSeCo(block_length=7, threshold=0.3),
        Sampler(
            steps=1,
            unmask=Unmask("confidence", Threshold(0.3)),
            window=Blocks(7, until_filled=True),
            correct=FixedPoint(4, every=2, revisits=False),
            scoring=Scoring(mask_token="forbid"),
        ),
    ),
}
PRESETS = {name: preset for name, (preset, _) in COMBINATIONS.items()}


def canvas(batch=4, length=16, prompt=3):
    tokens = torch.full((batch, length), MASK)
    tokens[:, 0], tokens[:, 1], tokens[:, 2:prompt] = torch.arange(batch) % MASK, torch.arange(batch) // MASK, 3
    tokens[:, length // 2] = 4  # a given token inside
    return tokens
