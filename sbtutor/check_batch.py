"""Checks of lesson 04's exercises."""

from collections.abc import Callable

import torch
from torch import Tensor

from sbtutor import loguniform, metrics
from sbtutor.feedback import as_tensor, exercise, of_numbers


@exercise("04")
def batch_linear(
    answer: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], object],
) -> str | None:
    """Lesson 04: (x, weight, r, s, bias) to a batch-linear layer's output.

    x (M B, I) member-major, weight (O, I), r (M, I), s (M, O), bias (M, O).
    """
    for members, inputs, outputs in ((3, 4, 4), (2, 5, 3)):  # square: swaps go unseen
        generator = torch.Generator().manual_seed(0)

        def draw(*shape: int, source: torch.Generator = generator) -> Tensor:
            return torch.randn(shape, generator=source, dtype=torch.float64)

        given = (
            *(draw(members * 4, inputs), draw(outputs, inputs)),
            *(draw(members, inputs), draw(members, outputs), draw(members, outputs)),
        )
        right = _by_member(*given)
        mine = answer(*(part.clone() for part in given))
        problem = as_tensor(mine, right, "a row of outputs for each example")
        if problem is None and not torch.allclose(mine.to(right), right, atol=1e-6):
            problem = _linear_problem(mine.to(right), *given)
        if problem is not None:
            return problem
    return None


def _by_member(x: Tensor, weight: Tensor, r: Tensor, s: Tensor, bias: Tensor) -> Tensor:
    """The layer, member by member, with each one's own weights."""
    own = zip(x.chunk(len(r)), r, s, bias, strict=True)
    return torch.cat([part @ (weight * b[:, None] * a).T + c for part, a, b, c in own])


def _linear_problem(
    mine: Tensor, x: Tensor, weight: Tensor, r: Tensor, s: Tensor, bias: Tensor
) -> str:
    members, order = len(r), torch.arange(len(x))
    turned = order.view(-1, members).T.flatten()  # as if image-major
    image_major = _by_member(x[turned], weight, r, s, bias)[turned.argsort()]
    none, ones = torch.zeros_like(bias), torch.ones_like
    wrong = {
        "r is missing; scale the inputs by it.": (x, weight, ones(r), s, bias),
        "s is missing; scale the outputs by it.": (x, weight, r, ones(s), bias),
        "the bias is missing; add each member's own.": (x, weight, r, s, none),
        "s scales the bias too; add the bias afterwards.": (x, weight, r, s, s * bias),
        "all examples get member 0's bias; each member has its own.": (
            *(x, weight, r, s),
            bias[:1].expand_as(bias),
        ),
    }
    if weight.shape[0] == weight.shape[1]:
        swapped = "r and s are swapped; r scales inputs, s outputs."
        wrong[swapped] = (x, weight, s, r, bias)
        untransposed = "transpose the weight; its rows are outputs."
        wrong[untransposed] = (x, weight.T, r, s, bias)
    for text, parts in wrong.items():
        if torch.allclose(mine, _by_member(*parts), atol=1e-6):
            return text
    if torch.allclose(mine, image_major, atol=1e-6):
        return (
            "rows of r and s meet the wrong examples: the first B examples are "
            "member 0's, so repeat each row B times in a row (repeat_interleave)."
        )
    return "output o of member k should be s_ko sum_i W_oi r_ki x_i + b_ko."


@exercise("04")
def log_uniform_mean(answer: Callable[[Tensor, Tensor], object]) -> str | None:
    """Lesson 04: bounds a and b to the mean of the log-uniform distribution."""
    low = torch.tensor([0.1, 1.0, 1e-3], dtype=torch.float64)
    high = torch.tensor([100.0, 5.0, 0.9], dtype=torch.float64)
    right = loguniform.mean(low.log(), high.log())
    mine = answer(low.clone(), high.clone())
    problem = as_tensor(mine, right, "one mean for each pair of bounds")
    wrong = {
        "this is the midpoint, the mean of a uniform distribution; small values are "
        "more likely here.": (low + high) / 2,
        "this is the median, sqrt(a b); large values pull the mean above it.": (
            low * high
        ).sqrt(),
        "this is the mean of log lambda; lambda itself is asked for.": (
            (low * high).log() / 2
        ),
        "use the natural logarithm, not log10.": (high - low) / (high / low).log10(),
        "this is the logarithm of the mean; leave the last log out.": right.log(),
        "the sign is wrong: b - a over log b - log a.": -right,
    }
    if problem is None and not torch.allclose(mine.to(right), right, rtol=1e-5):
        known = (t for t, v in wrong.items() if torch.allclose(mine.to(right), v))
        asked = "integrate lambda times its density, 1 / (lambda log(b / a)), from a to"
        problem = next(known, f"{asked} b.")
    return problem


@exercise("04")
def ensemble_nll(answer: Callable[[Tensor, Tensor], object]) -> str | None:
    """Lesson 04: logits (M, N, C) and labels (N,) to the loss of the mean."""

    def right(logits: Tensor, labels: Tensor) -> Tensor:
        return metrics.nll(logits.softmax(-1).mean(0), labels)

    def one(logits: Tensor, labels: Tensor) -> Tensor:
        return logits.softmax(-1)[:, torch.arange(len(labels)), labels]  # (M, N)

    wrong = {
        "this is the mean of the members' losses; average probabilities before the "
        "log.": lambda z, y: -one(z, y).log().mean(),
        "average probabilities, not logits.": lambda z, y: metrics.nll(
            z.mean(0).softmax(-1), y
        ),
        "a loss needs a minus sign.": lambda z, y: -right(z, y),
        "this is the sum over images; take the mean.": lambda z, y: (
            len(y) * right(z, y)
        ),
        "the members' probabilities are added; divide by M.": lambda z, y: (
            -one(z, y).sum(0).log().mean()
        ),
        "take the log of each image's probability, then the mean over images.": (
            lambda z, y: -one(z, y).mean().log()
        ),
        "the log is missing.": lambda z, y: -one(z, y).mean(),
    }
    small = torch.tensor([[[2.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [3.0, 0.0]]])
    generator = torch.Generator().manual_seed(0)
    more = 2 * torch.randn(3, 20, 4, generator=generator)
    labels = torch.randint(4, (20,), generator=generator)
    cases = (small, torch.tensor([0, 1])), (more, labels)
    return of_numbers(answer, cases, "the loss", right, wrong)


@exercise("04")
def batch_parameters(answer: Callable[[int, int, int], object]) -> str | None:
    """Lesson 04: (inputs I, outputs O, members M) to a batch-linear layer's numbers."""

    def right(inputs: int, outputs: int, members: int) -> int:
        return inputs * outputs + members * (inputs + 2 * outputs)

    wrong = {
        "the biases are missing, O numbers a member.": lambda i, o, m: (
            right(i, o, m) - m * o
        ),
        "each member has a bias of its own; you counted one for all.": (
            lambda i, o, m: right(i, o, m) - m * o + o
        ),
        "this is a deep ensemble; here W is shared.": lambda i, o, m: m * (i * o + o),
        "r and s are missing, I + O numbers a member.": lambda i, o, m: i * o + m * o,
        "each member has r and s of its own; you counted one pair.": (
            lambda i, o, m: i * o + i + o + m * o
        ),
        "W is counted once for each member; it is shared.": lambda i, o, m: (
            right(i, o, m) + (m - 1) * i * o
        ),
    }
    cases = (128, 10, 3), (4, 7, 5)
    return of_numbers(answer, cases, "how many numbers there are", right, wrong)
