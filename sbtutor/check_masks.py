"""Checks of lesson 09's exercises."""

from collections.abc import Callable

import torch
from torch import Tensor

from sbtutor import sharpbalance
from sbtutor.feedback import as_tensor, exercise


@exercise("09")
def sam_masks(answer: Callable[[Tensor, float], Tensor]) -> str | None:
    """Scores (M, N) and k to the paper's SAM masks (M, N)."""
    for members, samples, k in ((3, 12, 0.25), (5, 20, 0.2)):
        generator = torch.Generator().manual_seed(1)
        scores = torch.rand(members, samples, generator=generator)
        right = sharpbalance.sam_masks(scores, k)
        mine = answer(scores.clone(), k)
        problem = as_tensor(mine, right, "one True or False per member and sample")
        if problem is None and not torch.equal(mine.bool(), right):
            problem = _sam_masks_problem(mine.bool(), scores, k)
        if problem is not None:
            return problem
    return None


def _sam_masks_problem(mine: Tensor, scores: Tensor, k: float) -> str:
    top = scores >= scores.topk(int(k * scores.shape[1]), dim=1).values[:, -1:]
    members = range(len(top))
    others = [[j for j in members if j != i] for i in members]
    wrong = {
        "each member got its own sharpest samples; it should get those that the "
        "*other* members nominate.": top,
        "every member got the union of all nominations; leave out its own.": top.any(
            0
        ).expand_as(top),
        "you joined the nominations by AND; one nomination is enough.": torch.stack(
            [top[rest].all(0) for rest in others]
        ),
        "these are the flattest samples; the paper takes the sharpest (the published "
        "code takes the flattest).": sharpbalance.sam_masks(-scores, k),
        "True and False are swapped: True marks the samples for SAM.": torch.stack(
            [~top[rest].any(0) for rest in others]
        ),
    }
    for text, value in wrong.items():
        if torch.equal(mine, value):
            return text
    return (
        "member i's row should be True where some other member has the sample among "
        "its k N sharpest, for any number of members and any k."
    )
