"""Checks of the exercises: each says what is wrong, not only that it is.

A check takes the learner's function, calls it on small inputs and prints one line. It
returns True only for a right answer, so that a cell can also assert it.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from sbtutor import sharpbalance

NOTHING = "the function returns nothing so far; replace the dots."


def _say(problem: str | None) -> bool:
    print("Right." if problem is None else f"Not yet: {problem}")
    return problem is None


def _as_tensor(value: object, like: Tensor, what: str) -> str | None:
    """Why a value cannot be the answer at all; None if its kind and shape are right."""
    if value is None or value is Ellipsis:
        return NOTHING
    if not isinstance(value, Tensor):
        return f"return a tensor, {what}; this is a {type(value).__name__}."
    if value.shape != like.shape:
        return (
            f"the shape should be {tuple(like.shape)}, {what}; "
            f"this is {tuple(value.shape)}."
        )
    return None


def ensemble_probs(answer: Callable[[Tensor], Tensor]) -> bool:
    """Lesson 01: logits (M, N, C) to the ensemble's probabilities (N, C)."""
    logits = 3 * torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))
    right = logits.softmax(-1).mean(0)
    mine = answer(logits.clone())
    problem = _as_tensor(mine, right, "one row of C probabilities per sample")
    if problem is not None or torch.allclose(mine.to(right), right, atol=1e-5):
        return _say(problem)
    wrong = {
        "you averaged the logits; turn each member's logits into probabilities first, "
        "then average over members.": logits.mean(0).softmax(-1),
        "these are averaged logits, not probabilities; apply softmax to each member's "
        "logits before the mean.": logits.mean(0),
        "softmax runs over the wrong axis; classes are the last one.": logits.softmax(
            0
        ).mean(0),
        "you summed over members; divide by their number.": logits.softmax(-1).sum(0),
    }
    for text, value in wrong.items():
        if torch.allclose(mine.to(value), value, atol=1e-5):
            return _say(text)
    return _say("the rows should be the mean over members of softmax(logits).")


def vote(answer: Callable[[Tensor], Tensor]) -> bool:
    """Lesson 01: logits (M, N, C) to the class with most votes (N,)."""
    logits = 3 * torch.randn(5, 60, 3, generator=torch.Generator().manual_seed(0))
    votes = logits.argmax(-1)
    counts = torch.stack([(votes == c).sum(0) for c in range(3)], dim=1)
    first, second = counts.topk(2).values.unbind(1)
    clear = first > second  # how ties are broken is left open
    logits, counts, votes = logits[:, clear], counts[clear], votes[:, clear]
    right = counts.argmax(1)
    mine = answer(logits.clone())
    problem = _as_tensor(mine, right, "one class per sample")
    if problem is not None or torch.equal(mine, right):
        return _say(problem)
    wrong = {
        "this is the class of the largest mean probability; count votes "
        "instead.": logits.softmax(-1).mean(0).argmax(-1),
        "this is the class of the largest mean logit; count votes "
        "instead.": logits.mean(0).argmax(-1),
        "this is the number of votes; return the class that got them.": counts.amax(1),
        "this is one member's answer; let all of them vote.": votes[0],
    }
    for text, value in wrong.items():
        if torch.equal(mine, value):
            return _say(text)
    return _say("each member's vote is the class of its largest logit.")


def sam_step(answer: Callable[[Tensor, Tensor, float], Tensor]) -> bool:
    """Lesson 07: SAM's step, (w, gradient, rho) to w + rho g / ||g||."""
    w, g = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([3.0, 0.0, -4.0])
    for rho in (0.1, 0.25):  # a second radius, so that rho is really used
        before = w.clone()
        mine = answer(w, g.clone(), rho)
        problem = _as_tensor(mine, before, "the perturbed weights")
        if problem is None and not torch.equal(w, before):
            problem = (
                "you changed w in place; SAM still needs the old weights, so return a "
                "new tensor."
            )
        problem = problem or _sam_step_problem(mine, before, g, rho)
        if problem is not None:
            break
    return _say(problem)


def _sam_step_problem(mine: Tensor, w: Tensor, g: Tensor, rho: float) -> str | None:
    if torch.allclose(mine.to(w), w + rho * g / g.norm(), atol=1e-6):
        return None
    wrong = {
        "this goes downhill; SAM looks uphill, so add the step.": w - rho * g / 5,
        "the step is not normalised; divide the gradient by its length, so that the "
        "step is rho long.": w + rho * g,
        "this is the step alone; add it to the weights.": rho * g / 5,
        "divide by the length ||g||, not by its square.": w + rho * g / 25,
        "the length is the root of the sum of squares, not the sum of absolute "
        "values.": w + rho * g / 7,
        "use the length over all entries together, not the sign of each.": w
        + rho * g.sign(),
    }
    for text, value in wrong.items():
        if torch.allclose(mine.to(value), value, atol=1e-6):
            return text
    return "the result should be w + rho * g / ||g||, for any rho."


def sam_masks(answer: Callable[[Tensor, float], Tensor]) -> bool:
    """Lesson 09: scores (M, N) and k to the paper's SAM masks (M, N)."""
    for members, samples, k in ((3, 12, 0.25), (5, 20, 0.2)):
        generator = torch.Generator().manual_seed(1)
        scores = torch.rand(members, samples, generator=generator)
        right = sharpbalance.sam_masks(scores, k)
        mine = answer(scores.clone(), k)
        problem = _as_tensor(mine, right, "one True or False per member and sample")
        if problem is None and not torch.equal(mine.bool(), right):
            problem = _sam_masks_problem(mine.bool(), scores, k)
        if problem is not None:
            break
    return _say(problem)


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


def linear_sam_step(
    answer: Callable[[Tensor, Tensor, Tensor, float, float], Tensor],
) -> bool:
    """Lesson 08: (w, A, y, eta, rho) to w - eta grad f(w + rho grad f(w))."""
    generator = torch.Generator().manual_seed(0)
    a, w = torch.randn(4, 3, generator=generator), torch.tensor([1.0, -2.0, 0.5])
    y = torch.randn(4, generator=generator)
    for eta, rho in ((0.1, 0.3), (0.2, 0.05)):  # a second pair, so that both are used
        before = w.clone()
        mine = answer(w, a.clone(), y.clone(), eta, rho)
        problem = _as_tensor(mine, before, "the new weights")
        if problem is None and not torch.equal(w, before):
            problem = "you changed w in place; return a new tensor."
        problem = problem or _linear_sam_step_problem(mine, w, a, y, eta, rho)
        if problem is not None:
            break
    return _say(problem)


def _linear_sam_step_problem(
    mine: Tensor, w: Tensor, a: Tensor, y: Tensor, eta: float, rho: float
) -> str | None:
    def slope(at: Tensor) -> Tensor:
        return a.T @ (a @ at - y)

    g = slope(w)
    ahead = w + rho * g
    if torch.allclose(mine.to(w), w - eta * slope(ahead), atol=1e-5):
        return None
    wrong = {
        "this is plain gradient descent; take the gradient at w + rho grad f(w).": w
        - eta * g,
        "the step starts at the perturbed weights; go back and start it at w.": ahead
        - eta * slope(ahead),
        "these are the perturbed weights; take the gradient there, and step with it "
        "from w.": ahead,
        "you perturbed downhill; SAM looks uphill, at w + rho grad f(w).": w
        - eta * slope(w - rho * g),
        "you normalised the perturbation; in this lesson SAM is not normalised.": w
        - eta * slope(w + rho * g / g.norm()),
        "this steps uphill; subtract the gradient.": w + eta * slope(ahead),
        "this is the gradient alone; the new weights are w - eta times it.": slope(
            ahead
        ),
        "there is a factor 2 too many; f has 1/2 in front, so its gradient is "
        "A'(A w - y).": w - eta * 2 * slope(w + rho * 2 * g),
        "you divided by the number of samples; f is a sum, not a mean.": w
        - eta * slope(w + rho * g / len(a)) / len(a),
    }
    for text, value in wrong.items():
        if torch.allclose(mine.to(value), value, atol=1e-5):
            return text
    return (
        "the result should be w - eta * grad f(w + rho * grad f(w)), for any A and y."
    )


def overshoot_rho(answer: Callable[[float, float], float]) -> bool:
    """Lesson 08: (n / d, eta) to the rho from which the top eigenvalue overshoots."""
    for ratio, eta in ((20.0, 0.01), (4.0, 0.1)):
        mine = answer(ratio, eta)
        if mine is None or mine is Ellipsis:
            return _say(NOTHING)
        try:
            mine = float(mine)
        except (TypeError, ValueError):
            return _say(f"return one number; this is a {type(mine).__name__}.")
        problem = _overshoot_problem(mine, ratio, eta)
        if problem is not None:
            return _say(problem)
    return _say(None)


def _overshoot_problem(mine: float, ratio: float, eta: float) -> str | None:
    def solved(top: float, total: float = 2.0) -> float:
        return (total - eta * top) / (eta * top**2)

    root = math.sqrt(ratio)
    top = (root + 1) ** 2
    if math.isclose(mine, solved(top), rel_tol=1e-3):
        return None
    wrong = {
        "this is where the factor becomes 0; the error grows once it is below -1, so "
        "set eta l + eta rho l^2 to 2.": solved(top, 1.0),
        "you took the mean eigenvalue n / d; the largest overshoots first.": solved(
            ratio
        ),
        "you took the smallest eigenvalue; the largest overshoots first.": solved(
            (root - 1) ** 2
        ),
        "the largest eigenvalue is (sqrt(n / d) + 1)^2; you forgot the square.": solved(
            root + 1
        ),
        "the largest eigenvalue is (sqrt(n / d) + 1)^2; you forgot the root.": solved(
            (ratio + 1) ** 2
        ),
        "you left out eta l; both terms shrink the error.": 2 / (eta * top**2),
        "the perturbation's term has l^2, not l.": (2 - eta * top) / (eta * top),
        "you left out eta in front of rho l^2.": (2 - eta * top) / top**2,
    }
    for text, value in wrong.items():
        if math.isclose(mine, value, rel_tol=1e-3):
            return text
    return (
        "solve eta l + eta rho l^2 = 2 for rho, with l the largest eigenvalue, for any "
        "n / d and eta."
    )


def top_eigenvalue(
    answer: Callable[[Callable[[Tensor], Tensor], int, int], Tensor],
) -> bool:
    """Lesson 06: (v -> H v, size of v, steps) to the eigenvalue farthest from 0."""
    draw = torch.Generator().manual_seed(0)
    for values in ((4.0, 2.0, 1.0, 0.5, -1.0), (-6.0, 3.0, 2.0, 1.0, -0.5, 0.1, 0.2)):
        size = len(values)
        vectors = torch.linalg.qr(torch.randn(size, size, generator=draw)).Q
        matrix, calls = vectors @ torch.tensor(values).diag() @ vectors.T, []

        def product(v: Tensor, matrix: Tensor = matrix, calls: list = calls) -> Tensor:
            calls.append(len(calls))
            return matrix @ v

        mine = answer(product, size, 80)
        problem = _top_eigenvalue_problem(mine, values, vectors[:, 0], len(calls))
        if problem is not None:
            return _say(problem)
    return _say(None)


def _top_eigenvalue_problem(
    mine: object, values: tuple[float, ...], top: Tensor, calls: int
) -> str | None:
    if mine is None or mine is Ellipsis:
        return NOTHING
    try:
        mine = torch.as_tensor(mine, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError):
        return f"return one number; this is a {type(mine).__name__}."
    if mine.shape == top.shape:
        return "this is a vector; return the eigenvalue, v' H v with v of length 1."
    if mine.shape != ():
        return f"return one number; the shape of this is {tuple(mine.shape)}."
    mine, right = float(mine), values[0]
    if math.isclose(mine, right, rel_tol=1e-3):
        return None
    if calls < 80:
        return (
            f"80 steps were asked for, but H v was taken {calls} times; apply H and "
            "normalise once a step."
        )
    if not math.isfinite(mine) or abs(mine) > 1e6:
        return "the numbers explode; divide v by its length after each product."
    wrong = {
        "the sign is lost; a length is never negative, so return v' H v.": -right,
        "this is the length of v; return v' H v.": 1.0,
        "0 is no eigenvalue of this H; start from a random v, since a v of zeros "
        "stays zero.": 0.0,
        "v is not a unit vector; divide by the root of its sum of squares, not by its "
        "sum of absolute values.": right / float(top.abs().sum()) ** 2,
        "v is not a unit vector; divide by the root of its sum of squares, not by its "
        "largest entry.": right / float(top.abs().max()) ** 2,
        "this is the trace, the sum of all eigenvalues.": sum(values),
        "this is the eigenvalue squared; apply H once more to the unit vector, not "
        "twice.": right**2,
        "this is the largest eigenvalue by sign; power iteration finds the one that is "
        "farthest from 0.": max(values),
    }
    for text, value in wrong.items():
        if math.isclose(mine, value, rel_tol=1e-3, abs_tol=1e-6):
            return text
    return "the result should be the eigenvalue of H that is farthest from 0, any H."
