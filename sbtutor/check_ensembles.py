"""Checks of lesson 01's exercises."""

from collections.abc import Callable

import torch
from torch import Tensor

from sbtutor.feedback import as_tensor, say


def ensemble_probs(answer: Callable[[Tensor], Tensor]) -> bool:
    """Lesson 01: logits (M, N, C) to the ensemble's probabilities (N, C)."""
    logits = 3 * torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))
    right = logits.softmax(-1).mean(0)
    mine = answer(logits.clone())
    problem = as_tensor(mine, right, "one row of C probabilities per sample")
    if problem is not None or torch.allclose(mine.to(right), right, atol=1e-5):
        return say(problem)
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
            return say(text)
    return say("the rows should be the mean over members of softmax(logits).")


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
    problem = as_tensor(mine, right, "one class per sample")
    if problem is not None or torch.equal(mine, right):
        return say(problem)
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
            return say(text)
    return say("each member's vote is the class of its largest logit.")
