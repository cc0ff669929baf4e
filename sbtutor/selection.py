"""Greedy selection of an ensemble from a pool; pure functions on tensors."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sbtutor import metrics


class GreedyPath(NamedTuple):
    """A greedy selection, step by step."""

    chosen: list[int]
    """The member that each of T steps added; one can be added more than once."""
    nll: Float[Tensor, " T"]
    """NLL of the ensemble after each step, in nats: it falls."""
    candidates: Float[Tensor, "S P"]
    """NLL with each member added, at each step. S = T, or T + 1 if the last step found
    no member that lowers it."""


def greedy_path(
    probs: Float[Tensor, "P N C"], labels: Int[Tensor, " N"], size: int
) -> GreedyPath:
    """Greedy selection with replacement, `hyper_ens` of Wenzel et al. 2020.

    Starting from nothing, each step looks for the member j of the whole pool that
    gives the least NLL of the uniform average with those t chosen before,

        NLL_j = -1/N sum_n log((t mean[n, y_n] + probs[j, n, y_n]) / (t + 1)),

    and adds it if that lowers the NLL strictly, else stops. It stops, too, with `size`
    different members. Of equal members the lowest index is taken. The method is Caruana
    et al.'s (2004). The paper's pseudo-code stops one member later than its code does;
    we follow the code.

    Args:
        probs: one row of C class probabilities per member (P) and sample (N); those of
            validation samples, which no member was trained on.
        labels: class index of each sample, in [0, C).
        size: K, the most different members; fewer if no further one helps.

    Raises:
        ValueError: size < 1; wrong shapes; a member with NaN (names it) or rows that
            are no distributions; a label outside [0, C).
    """
    _check(probs, labels, size)
    index = labels.long()[None, :, None].expand(len(probs), -1, 1)
    true = probs.gather(2, index).squeeze(2).double()  # (P, N): all that NLL needs
    least = torch.finfo(probs.dtype).tiny  # as in metrics.nll
    total = torch.zeros_like(true[0])
    chosen, path, candidates = [], [], []
    while len(set(chosen)) < size:
        means = (total + true) / (len(chosen) + 1)
        nll = -means.clamp(min=least).log().mean(1)
        candidates.append(nll)
        best = int(nll.argmin())
        if path and not nll[best] < path[-1]:
            break
        chosen.append(best)
        path.append(nll[best])
        total = total + true[best]
    return GreedyPath(chosen, torch.stack(path), torch.stack(candidates))


def greedy_ensemble(
    probs: Float[Tensor, "P N C"], labels: Int[Tensor, " N"], size: int
) -> list[int]:
    """The members that `greedy_path` adds, in order, with repeats."""
    return greedy_path(probs, labels, size).chosen


def _check(probs: Tensor, labels: Tensor, size: int) -> None:
    if size < 1:
        raise ValueError(f"an ensemble has at least one member, got size={size}")
    if probs.dim() != 3 or len(probs) == 0:
        raise ValueError(
            f"probs must be (P, N, C), one row a member, got {tuple(probs.shape)}"
        )
    for p, member in enumerate(probs):
        if member.isnan().any():
            raise ValueError(
                f"member {p} of the pool holds NaN, as if its training had diverged; "
                "leave it out, as pool.finite() does"
            )
        try:
            metrics.nll(member, labels)
        except ValueError as error:
            raise ValueError(f"member {p} of the pool: {error}") from None


def mixing_weights(chosen: Sequence[int], members: int) -> Float[Tensor, " P"]:
    """Each member's share of the choices; sums to 1.

    Raises:
        ValueError: nothing chosen, or a member that the pool does not have.
    """
    if not chosen or not 0 <= min(chosen) <= max(chosen) < members:
        raise ValueError(
            f"chosen must be members from 0 to {members - 1}, got {list(chosen)}"
        )
    counts = torch.tensor(list(chosen)).bincount(minlength=members)
    return counts / len(chosen)


def mixed_probs(
    logits: Float[Tensor, "P N C"], chosen: Sequence[int]
) -> Float[Tensor, "N C"]:
    """The probabilities of the ensemble: the chosen members' mean, with repeats."""
    weights = mixing_weights(chosen, len(logits)).to(logits)
    used = weights.nonzero().flatten()
    probs = logits[used].softmax(-1)
    return (weights[used, None, None] * probs).sum(0)
