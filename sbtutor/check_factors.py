"""Checks of lesson 04's exercises on what tells members of a batch ensemble apart."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from sbtutor.feedback import DOTS, as_number, as_tensor, exercise

Given = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]  # logits (M, B, O) and labels (B,)


@exercise("04")
def factor_gradient(answer: Callable[..., object]) -> str | None:
    """Lesson 04: (images, labels, weight, r, s) to the loss's gradient in r.

    Images (B, I), labels (B,), weight (O, I), r (M, I) and s (M, O) to (M, I). The loss
    is the cross-entropy of the layer's outputs, averaged over members and images.
    """
    generator = torch.Generator().manual_seed(0)
    shapes = (6, 5), (4, 5), (3, 5), (3, 4)
    images, weight, r, s = (
        torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes
    )
    given = (images, torch.tensor([0, 1, 2, 3, 0, 2]), weight, r, s)
    right = _gradient(_mean_loss, given)
    mine = answer(*(part.clone() for part in given))
    problem = as_tensor(mine, right, "a row for each member, a number for each input")
    if problem is not None or torch.allclose(mine.to(right), right, atol=1e-7):
        return problem
    wrong = _wrong_gradients(right, given)
    known = (t for t, v in wrong.items() if torch.allclose(mine.to(v), v, atol=1e-7))
    return next(known, "make the outputs, their mean cross-entropy, its gradient in r.")


def _gradient(loss: Loss, given: Given) -> Tensor:
    images, labels, weight, r, s = given
    leaf = r.clone().requires_grad_()
    logits = (images * leaf[:, None]) @ weight.T * s[:, None]
    return torch.autograd.grad(loss(logits, labels), leaf)[0]


def _mean_loss(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1), labels.repeat(len(logits)))


def _loss_of_mean(logits: Tensor, labels: Tensor) -> Tensor:
    return F.nll_loss(logits.softmax(-1).mean(0).log(), labels)


def _image_major(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1), labels.repeat_interleave(len(logits)))


def _wrong_gradients(right: Tensor, given: Given) -> dict[str, Tensor]:
    *others, r, s = given
    members, images = len(r), len(given[0])
    return {
        "this points downhill; a gradient points uphill.": -right,
        "you added over members; take the mean over all examples.": members * right,
        "you added over images; take the mean over all examples.": images * right,
        "you added over members and images; take the mean.": members * images * right,
        "this is of the loss of the mean; in training each member has its own loss.": (
            _gradient(_loss_of_mean, given)
        ),
        "labels meet the wrong examples: the batch is member-major, so repeat them by "
        "labels.repeat(M).": _gradient(_image_major, given),
        "s is missing; scale the outputs by it.": _gradient(
            _mean_loss, (*others, r, torch.ones_like(s))
        ),
    }


@exercise("04")
def twins(networks: object) -> str | None:
    """Lesson 04: how many networks three members become whose factors start at 1."""
    mine = as_number(networks, "how many different networks there are", DOTS)
    if isinstance(mine, str):
        return mine
    told = {
        1.0: None,
        3.0: "each has factors of its own, but equal ones, and equal gradients; what "
        "could ever tell the members apart?",
        2.0: "no two of the three differ at first; why should a step make them?",
        0.0: "there is a network, if only one.",
    }
    return told.get(mine, "the three members are three networks at most, one at least.")
