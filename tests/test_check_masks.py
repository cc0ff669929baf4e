"""Lesson 09's exercises: solutions pass, each mistake gets its message."""

import numpy as np
import pytest
import torch
from answers import said_to

from sbtutor import check, sharpbalance


def top(scores, k):
    count = int(k * scores.shape[1])
    return scores >= scores.topk(count, dim=1).values[:, -1:]


def joined_by_and(scores, k):
    marks = top(scores, k)
    return torch.stack(
        [torch.cat([marks[:i], marks[i + 1 :]]).all(0) for i in range(len(marks))]
    )


def random_masks(masks, generator):
    """A permutation for each member; its lowest ranks are taken."""
    rows = []
    for row in masks:
        order = torch.randperm(len(row), generator=generator)
        rows.append(order < row.sum())
    return torch.stack(rows)


def by_shuffling(masks, generator):
    shape = masks.shape[1]
    return torch.stack([m[torch.randperm(shape, generator=generator)] for m in masks])


def shared(masks, generator):
    order = torch.randperm(masks.shape[1], generator=generator)
    return order < masks.sum(1, keepdim=True)


def together(masks, generator):
    return masks[:, torch.randperm(masks.shape[1], generator=generator)]


def bernoulli(masks, generator):
    share = masks.float().mean(1, keepdim=True)
    return torch.rand(masks.shape, generator=generator) < share


def all_at_once(masks, generator):
    order = torch.randperm(masks.numel(), generator=generator)
    return masks.flatten()[order].reshape(masks.shape)


def first_ones(masks, generator):
    return torch.arange(masks.shape[1]) < masks.sum(1, keepdim=True)


def without_generator(masks, generator):
    return random_masks(masks, None)


def height(x, y, line_x, line_y):
    return y - np.interp(x, line_x, line_y)


def by_hand(x, y, line_x, line_y):
    if x <= line_x[0]:
        return y - line_y[0]
    if x >= line_x[-1]:
        return y - line_y[-1]
    i = next(i for i, end in enumerate(line_x) if x <= end)
    t = (x - line_x[i - 1]) / (line_x[i] - line_x[i - 1])
    return y - (1 - t) * line_y[i - 1] - t * line_y[i]


def going_on(x, y, line_x, line_y):
    """The outer pieces go on in their direction."""
    inside = np.interp(x, line_x, line_y)
    side = slice(0, 2) if x < line_x[0] else slice(-2, None)
    beyond = np.polyval(np.polyfit(line_x[side], line_y[side], 1), x)
    return y - (inside if line_x[0] <= x <= line_x[-1] else beyond)


def to_nearest(x, y, line_x, line_y):
    return y - line_y[np.abs(np.array(line_x) - x).argmin()]


def mixed(w, grad_n, grad_s, share, rho):
    g = grad_s(w)
    return (1 - share) * grad_n(w) + share * grad_s(w + rho * g / g.norm())


def ahead(w, g, rho):
    return w + rho * g / g.norm()


def mixed_in_place(w, grad_n, grad_s, share, rho):
    slow = (1 - share) * grad_n(w)
    w += rho * grad_s(w) / grad_s(w).norm()
    return slow + share * grad_s(w)


def both_perturbed(w, grad_n, grad_s, share, rho):
    above = ahead(w, grad_s(w), rho)
    return (1 - share) * grad_n(above) + share * grad_s(above)


def up_both(w, grad_n, grad_s, share, rho):
    g = (1 - share) * grad_n(w) + share * grad_s(w)
    return (1 - share) * grad_n(w) + share * grad_s(ahead(w, g, rho))


def up_the_other(w, grad_n, grad_s, share, rho):
    return (1 - share) * grad_n(w) + share * grad_s(ahead(w, grad_n(w), rho))


def weighed(slow, fast):
    """The two parts with other weights, given as functions of the share."""

    def answer(w, grad_n, grad_s, share, rho):
        up = grad_s(ahead(w, grad_s(w), rho))
        return slow(share) * grad_n(w) + fast(share) * up

    return answer


def not_normalised(w, grad_n, grad_s, share, rho):
    return (1 - share) * grad_n(w) + share * grad_s(w + rho * grad_s(w))


SOLUTIONS = [
    (check.sam_masks, sharpbalance.sam_masks),
    (check.union_share, lambda members, k: 1 - (1 - k) ** (members - 1)),
    (check.random_masks, random_masks),
    (check.random_masks, by_shuffling),
    (check.missing_control, "c"),
    (check.height_above, height),
    (check.height_above, by_hand),
    (check.mixed_gradient, mixed),
]
EXERCISES = [
    check.height_above,
    check.missing_control,
    check.mixed_gradient,
    check.random_masks,
    check.sam_masks,
    check.union_share,
]
FUNCTIONS = [one for one in EXERCISES if one is not check.missing_control]
MISTAKES = [
    (check.sam_masks, top, "the *other* members"),
    (check.sam_masks, lambda s, k: top(s, k).any(0).expand(s.shape), "its own"),
    (check.sam_masks, lambda s, k: sharpbalance.sam_masks(-s, k), "flattest"),
    (check.sam_masks, lambda s, k: ~sharpbalance.sam_masks(s, k), "swapped"),
    (check.sam_masks, lambda s, k: top(s, k).sum(0) - top(s, k).int(), "not how many"),
    (check.sam_masks, lambda s, k: s > 2, "among its k N sharpest"),
    (check.sam_masks, joined_by_and, "one nomination is enough"),
    (check.sam_masks, lambda s, k: sharpbalance.sam_masks(s, 0.25), "any k"),
    (check.union_share, lambda m, k: 1 - (1 - k) ** m, "M - 1 others"),
    (check.union_share, lambda m, k: (1 - k) ** (m - 1), "that nobody else nominates"),
    (check.union_share, lambda m, k: k * (m - 1), "counts a sample twice"),
    (check.union_share, lambda m, k: k ** (m - 1), "that *all* others nominate"),
    (check.union_share, lambda m, k: k, "one member's nominations"),
    (check.union_share, lambda m, k: 1 - k ** (m - 1), "with probability 1 - k"),
    (check.union_share, lambda m, k: 100 - 100 * (1 - k) ** (m - 1), "in percent"),
    (check.union_share, lambda m, k: 0.59, "members = 5, k = 0.2 it should be 0.5904"),
    (check.random_masks, lambda masks, g: masks, "the masks themselves"),
    (check.random_masks, lambda masks, g: ~random_masks(masks, g), "are swapped"),
    (check.random_masks, bernoulli, "take the lowest ranks"),
    (check.random_masks, all_at_once, "draw for each row"),
    (check.random_masks, first_ones, "each call gives the same masks"),
    (check.random_masks, without_generator, "equal generators should give equal masks"),
    (check.random_masks, shared, "as in the control `shared`"),
    (check.random_masks, together, "shuffled by one permutation"),
    (check.random_masks, lambda masks, g: masks.sum(1), "the shape should be (3, 40)"),
    (check.missing_control, "a", "how much diversity SAM has cost"),
    (check.missing_control, "b", "a smaller rho gives"),
    (check.missing_control, "d", "more seeds make"),
    (check.missing_control, "random", "choose one of a, b, c, d"),
    (check.height_above, lambda *a: -height(*a), "the sign is wrong"),
    (check.height_above, lambda x, y, a, b: np.interp(x, a, b), "the line itself"),
    (check.height_above, to_nearest, "with the nearest point"),
    (
        check.height_above,
        lambda x, y, a, b: y - np.interp(x, a[::2], b[::2]),
        "you join the ends only",
    ),
    (check.height_above, going_on, "goes on horizontally"),
    (check.height_above, lambda x, y, a, b: height(y, x, b, a), "are swapped"),
    (check.height_above, lambda x, y, a, b: y - sum(b) / 3, "the mean of the points"),
    (check.height_above, lambda x, y, a, b: y / np.interp(x, a, b) - 1, "relative to"),
    (check.height_above, lambda x, y, a, b: 0.5, "x = 100.0, y = 0.55, line_x = [60.0"),
    (check.mixed_gradient, both_perturbed, "at the perturbed weights, too"),
    (check.mixed_gradient, mixed_in_place, "the perturbation is not undone"),
    (check.mixed_gradient, up_both, "looks at the SAM part alone"),
    (check.mixed_gradient, up_the_other, "not the SGD part's"),
    (check.mixed_gradient, weighed(lambda r: r, lambda r: 1 - r), "shares are swapped"),
    (check.mixed_gradient, weighed(lambda r: 1, lambda r: 1), "its share of the batch"),
    (check.mixed_gradient, weighed(lambda r: 0.5, lambda r: 0.5), "not by halves"),
    (check.mixed_gradient, weighed(lambda r: 0, lambda r: r), "on its part alone"),
    (
        check.mixed_gradient,
        lambda w, n, s, r, rho: (1 - r) * n(w) + r * s(w),
        "plain gradient descent on all",
    ),
    (check.mixed_gradient, lambda *a: mixed(*a[:4], -a[4]), "the sign is wrong"),
    (check.mixed_gradient, not_normalised, "is not normalised"),
    (check.mixed_gradient, lambda *a: 2 * mixed(*a), "it should be (1 - r) grad_n(w)"),
    (check.mixed_gradient, lambda *a: mixed(*a)[:2], "the shape should be (3,)"),
]


@pytest.mark.parametrize("exercise", FUNCTIONS)
@pytest.mark.parametrize("nothing", [None, ...])
def test_a_function_that_returns_nothing_is_told_so(exercise, nothing, capsys):
    assert "returns nothing so far" in said_to(exercise, lambda *_: nothing, capsys)


@pytest.mark.parametrize("nothing", [None, ...])
def test_a_choice_that_is_not_made_is_told_so(nothing, capsys):
    assert "replace the dots by" in said_to(check.missing_control, nothing, capsys)
