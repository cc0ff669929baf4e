"""SharpBalance's choice: which samples of which member are trained with SAM."""

import math
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Split = Literal["paper", "code", "code_boost", "flattest", "random", "shared"]


def _top(scores: Float[Tensor, "M N"], count: int) -> Bool[Tensor, "M N"]:
    """Each member's `count` samples of highest score; ties go to the lower index."""
    order = scores.argsort(dim=1, descending=True, stable=True)[:, :count]
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(1, order, True)


def _union_of_others(nominated: Bool[Tensor, "M N"]) -> Bool[Tensor, "M N"]:
    """For member i the samples that some member j != i has nominated."""
    votes = nominated.sum(0, keepdim=True)
    return votes - nominated.long() > 0


def _code_masks(nominated: Bool[Tensor, "M N"], boost: bool) -> Bool[Tensor, "M N"]:
    """Union of the others, plus a share of the samples that nobody nominated.

    The samples that nobody nominated are dealt round-robin in index order: member i
    is dealt the i-th, (i + M)-th, ... one. Without boost a member takes the cards
    it was dealt, with boost all the others.
    """
    members = len(nominated)
    rest = ~nominated.any(0)
    dealt_to = (rest.cumsum(0) - 1) % members
    dealt = rest & (dealt_to == torch.arange(members, device=rest.device)[:, None])
    return _union_of_others(nominated) | (rest & ~dealt if boost else dealt)


def _random_masks(
    sizes: Int[Tensor, " M"], samples: int, generator: torch.Generator | None
) -> Bool[Tensor, "M N"]:
    """An independent random set for each member, of the given sizes."""
    ranks = torch.stack([torch.randperm(samples, generator=generator) for _ in sizes])
    return ranks < sizes.cpu()[:, None]


def sam_masks(
    scores: Float[Tensor, "M N"],
    sam_fraction: float,
    split: Split = "paper",
    generator: torch.Generator | None = None,
) -> Bool[Tensor, "M N"]:
    """Which samples each member trains with SAM; the others it trains with SGD.

    With Top_k(j) the k N samples that are sharpest for member j, Bot_k(j) the
    flattest, U_i the union of the *other* members' picks, R the samples that no
    member picked and R_i every M-th of them, from the i-th on:

        paper       U_i of Top_k (Lu et al. 2024, Figure 6)
        code        U_i of Bot_k, and R_i       (official code, CIFAR-100)
        code_boost  U_i of Bot_k, and R without R_i  (official code, CIFAR-10)
        flattest    U_i of Bot_k: paper's rule turned round, a control
        random      a random set for each member, as large as paper's
        shared      one random set, the same for all members

    Paper's sets differ a little in size; the one set of `shared` has their mean size.

    Args:
        scores: per-sample sharpness of each member; higher is sharper.
        sam_fraction: k in (0, 1), the share that each member nominates; floor(k N)
            samples, ties in index order.
        split: one of the six rules above.
        generator: draws the sets of `random` and `shared` (CPU).

    Returns:
        True where member i perturbs its weights for sample n.

    Raises:
        ValueError: unknown split, k outside (0, 1), k N below 1, fewer than two
            members, scores that are not finite.
    """
    _check(scores, sam_fraction, split)
    # 0.29 * 100 is 28.999... in floating point: round away what is not meant.
    count = math.floor(round(sam_fraction * scores.shape[1], 6))
    if count == 0:
        raise ValueError(
            f"sam_fraction={sam_fraction} of {scores.shape[1]} samples is less than "
            "one sample, so nobody would nominate any; write a larger fraction"
        )
    if split in ("code", "code_boost"):
        return _code_masks(_top(-scores, count), boost=split == "code_boost")
    if split == "flattest":
        return _union_of_others(_top(-scores, count))
    paper = _union_of_others(_top(scores, count))
    if split == "paper":
        return paper
    sizes = paper.sum(1)
    if split == "shared":
        mean = sizes.double().mean().round().long()
        masks = _random_masks(mean[None], scores.shape[1], generator)
        masks = masks.expand(len(scores), -1).clone()
    else:
        masks = _random_masks(sizes, scores.shape[1], generator)
    return masks.to(scores.device)


def _check(scores: Tensor, sam_fraction: float, split: str) -> None:
    known = get_args(Split)
    if split not in known:
        raise ValueError(f"unknown split {split!r}: choose one of {', '.join(known)}")
    if not 0 < sam_fraction < 1:
        raise ValueError(
            f"sam_fraction must lie in (0, 1), got {sam_fraction}; "
            "all samples is SAM, none is SGD, and neither needs a split"
        )
    if scores.dim() != 2 or len(scores) < 2:
        raise ValueError(
            "a split needs the scores of at least two members, shape (M, N) with "
            f"M >= 2, got shape {tuple(scores.shape)}"
        )
    if not scores.isfinite().all():
        raise ValueError(
            "scores must be finite, got NaN or infinity: the members have diverged; "
            "lower lr or rho"
        )
