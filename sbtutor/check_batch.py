"""Checks of lesson 04's exercises."""

from collections.abc import Callable

import torch
from torch import Tensor

from sbtutor import loguniform, metrics
from sbtutor.feedback import NOTHING, as_tensor, say


def batch_linear(
    answer: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor],
) -> bool:
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
            break
    return say(problem)


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


def log_uniform_mean(answer: Callable[[Tensor, Tensor], Tensor]) -> bool:
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
    return say(problem)


def ensemble_nll(answer: Callable[[Tensor, Tensor], Tensor]) -> bool:
    """Lesson 04: logits (M, N, C) and labels (N,) to the loss of the mean."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(3, 20, 4, generator=generator, dtype=torch.float64)
    labels = torch.randint(4, (20,), generator=generator)
    probs = logits.softmax(-1)
    right = metrics.nll(probs.mean(0), labels)
    mine = answer(logits.clone(), labels.clone())
    problem = as_tensor(mine, right, "a single number")
    one = probs[:, torch.arange(20), labels]  # (M, N), of the truth
    of_logits = metrics.nll(logits.mean(0).softmax(-1), labels)
    wrong = {
        "this is the mean of the members' losses; average probabilities before the "
        "log.": -one.log().mean(),
        "average probabilities, not logits.": of_logits,
        "a loss needs a minus sign.": -right,
        "this is the sum over images; take the mean.": 20 * right,
        "the members' probabilities are added; divide by M.": -one.sum(0).log().mean(),
        "take the log of each image's probability, then the mean over images.": (
            -one.mean().log()
        ),
        "the log is missing.": -one.mean(),
    }
    if problem is None and not torch.allclose(mine.to(right), right, atol=1e-6):
        known = (t for t, v in wrong.items() if torch.allclose(mine.to(right), v))
        problem = next(known, "-log of the members' mean probability of the truth.")
    return say(problem)


def batch_parameters(answer: Callable[[int, int, int], int]) -> bool:
    """Lesson 04: (inputs I, outputs O, members M) to a batch-linear layer's numbers."""
    problem = None
    for inputs, outputs, members in ((128, 10, 3), (4, 7, 5)):
        mine = answer(inputs, outputs, members)
        problem = NOTHING if mine is None or mine is ... else None
        if problem is None and mine != inputs * outputs + members * (
            inputs + 2 * outputs
        ):
            problem = _count_problem(mine, inputs, outputs, members)
        if problem is not None:
            break
    return say(problem)


def _count_problem(mine: object, inputs: int, outputs: int, members: int) -> str:
    matrix, pair = inputs * outputs, inputs + outputs
    wrong = {
        "the biases are missing, O numbers a member.": matrix + members * pair,
        "each member has a bias of its own; you counted one for all.": (
            matrix + members * pair + outputs
        ),
        "this is a deep ensemble; here W is shared.": members * (matrix + outputs),
        "r and s are missing, I + O numbers a member.": matrix + members * outputs,
        "each member has r and s of its own; you counted one pair.": (
            matrix + pair + members * outputs
        ),
        "W is counted once for each member; it is shared.": (
            members * (matrix + pair + outputs)
        ),
    }
    known = (text for text, value in wrong.items() if value == mine)
    given = f"I = {inputs}, O = {outputs} and M = {members}"
    return next(
        known, f"{mine} for {given}: count W once, and r, s and b for each member."
    )
