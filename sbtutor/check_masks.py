"""Checks of lesson 09's exercises on the split: whose samples, how many, at random."""

from collections.abc import Callable

import torch
from torch import Tensor

from sbtutor import sharpbalance
from sbtutor.feedback import as_tensor, exercise, of_generator, of_numbers


@exercise("09")
def sam_masks(answer: Callable[[Tensor, float], Tensor]) -> str | None:
    """Scores (M, N) and k to the paper's SAM masks (M, N)."""
    for members, samples, k in ((3, 12, 0.25), (5, 20, 0.2)):
        generator = torch.Generator().manual_seed(1)
        scores = torch.rand(members, samples, generator=generator)
        right = sharpbalance.sam_masks(scores, k)
        mine = answer(scores.clone(), k)
        problem = as_tensor(mine, right, "one True or False per member and sample")
        if problem is None and not torch.equal(mine, mine.bool().to(mine.dtype)):
            problem = "return True or False, not how many others nominate a sample."
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


_NOT_SHARES: dict[str, Callable[[int, float], float]] = {
    "a member does not nominate for itself: M - 1 others, not M.": (
        lambda members, k: 1 - (1 - k) ** members
    ),
    "this is the share that nobody else nominates; subtract it from 1.": (
        lambda members, k: (1 - k) ** (members - 1)
    ),
    "this counts a sample twice if two others nominate it; a union is no sum.": (
        lambda members, k: k * (members - 1)
    ),
    "this is the share that *all* others nominate; one is enough.": (
        lambda members, k: k ** (members - 1)
    ),
    "this is one member's nominations; join those of all others.": (
        lambda members, k: k
    ),
    "another member leaves a sample out with probability 1 - k, not k.": (
        lambda members, k: 1 - k ** (members - 1)
    ),
    "this is in percent; a share lies between 0 and 1.": (
        lambda members, k: 100 * _union_share(members, k)
    ),
}


def _union_share(members: int, k: float) -> float:
    return 1 - (1 - k) ** (members - 1)


@exercise("09")
def union_share(answer: Callable[[int, float], object]) -> str | None:
    """(members, k) to the share of samples with SAM, if ranks are independent."""

    def right(members: int, k: float) -> float:
        return _union_share(members, k)

    cases = [(5, 0.2), (3, 0.3), (4, 0.6)]
    return of_numbers(answer, cases, "the share", right, _NOT_SHARES)


@exercise("09")
def random_masks(
    answer: Callable[[Tensor, torch.Generator], object],
) -> str | None:
    """(masks (M, N), generator) to random masks with as many samples a member."""
    draw = torch.Generator().manual_seed(0)
    sizes = torch.tensor([12, 12, 20])
    given = torch.rand(3, 40, generator=draw).argsort(1) < sizes[:, None]

    def drawn(generator: torch.Generator) -> object:
        return answer(given.clone(), generator)

    mine = drawn(torch.Generator().manual_seed(1))
    problem = as_tensor(mine, given, "one True or False per member and sample")
    if problem is None and torch.equal(mine.bool(), given):
        problem = "these are the masks themselves; draw others, of the same sizes."
    return (
        problem
        or _sizes_problem(mine.bool(), sizes)
        or of_generator(drawn, "masks")
        or _together_problem(mine.bool(), given)
    )


def _sizes_problem(mine: Tensor, sizes: Tensor) -> str | None:
    found = mine.sum(1)
    if torch.equal(found, sizes):
        return None
    if torch.equal(found, mine.shape[1] - sizes):
        return "True and False are swapped: True marks the samples for SAM."
    if found.sum() == sizes.sum():
        return (
            "all members together have as many samples as before, but each one should: "
            "draw for each row on its own (the wrong axis?)."
        )
    return (
        f"member 0 had {sizes[0]} samples with SAM, and has {found[0]} now; a random "
        "number a sample gives about as many, so take the lowest ranks instead."
    )


def _together_problem(mine: Tensor, given: Tensor) -> str | None:
    """Whether members' sets have to do with each other."""
    if torch.equal(mine[0], mine[1]):
        return (
            "members 0 and 1 have one and the same set, as in the control `shared`; "
            "draw a permutation for each."
        )
    code = torch.tensor([1, 2, 4])[:, None]
    columns, before = ((masks * code).sum(0).sort().values for masks in (mine, given))
    if torch.equal(columns, before):
        return (
            "all members were shuffled by one permutation, so their sets overlap as "
            "before; draw a permutation for each."
        )
    return None
