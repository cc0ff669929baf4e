"""Each exercise: the stub fails, the solution passes, each mistake gets its message."""

import pytest
import torch

from sbtutor import check, sharpbalance


def top(scores, k):
    count = int(k * scores.shape[1])
    return scores >= scores.topk(count, dim=1).values[:, -1:]


SOLUTIONS = {
    check.ensemble_probs: lambda z: z.softmax(-1).mean(0),
    check.sam_step: lambda w, g, rho: w + rho * g / g.norm(),
    check.sam_masks: sharpbalance.sam_masks,
}


@pytest.mark.parametrize("exercise", SOLUTIONS, ids=lambda f: f.__name__)
def test_solution_passes(exercise, capsys):
    assert exercise(SOLUTIONS[exercise])
    assert capsys.readouterr().out == "Right.\n"


@pytest.mark.parametrize("exercise", SOLUTIONS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("nothing", [None, ...])
def test_stub_fails(exercise, nothing, capsys):
    assert not exercise(lambda *_: nothing)
    assert "returns nothing so far" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("exercise", "mistake", "message"),
    [
        (check.ensemble_probs, lambda z: z.mean(0).softmax(-1), "averaged the logits"),
        (check.ensemble_probs, lambda z: z.mean(0), "not probabilities"),
        (check.ensemble_probs, lambda z: z.softmax(0).mean(0), "wrong axis"),
        (
            check.ensemble_probs,
            lambda z: z.softmax(-1).sum(0),
            "divide by their number",
        ),
        (check.ensemble_probs, lambda z: z.softmax(-1), "the shape should be"),
        (check.ensemble_probs, lambda z: 0.5, "a float"),
        (check.ensemble_probs, lambda z: z.softmax(-1)[0], "the mean over members"),
        (check.sam_step, lambda w, g, rho: w - rho * g / g.norm(), "downhill"),
        (check.sam_step, lambda w, g, rho: w + rho * g, "not normalised"),
        (check.sam_step, lambda w, g, rho: rho * g / g.norm(), "the step alone"),
        (check.sam_step, lambda w, g, rho: w + rho * g / g.norm() ** 2, "square"),
        (check.sam_step, lambda w, g, rho: w + rho * g.sign(), "the sign of each"),
        (check.sam_step, lambda w, g, rho: w, "should be w + rho"),
        (check.sam_step, lambda w, g, rho: w.add_(rho * g / g.norm()), "in place"),
        (check.sam_masks, top, "the \\*other\\* members"),
        (check.sam_masks, lambda s, k: top(s, k).any(0).expand(s.shape), "its own"),
        (check.sam_masks, lambda s, k: sharpbalance.sam_masks(-s, k), "flattest"),
        (check.sam_masks, lambda s, k: ~sharpbalance.sam_masks(s, k), "swapped"),
        (check.sam_masks, lambda s, k: s > 2, "among its k N sharpest"),
    ],
)
def test_mistake_gets_its_message(exercise, mistake, message, capsys):
    assert not exercise(mistake)
    said = capsys.readouterr().out
    assert said.startswith("Not yet: ")
    assert message.replace("\\", "") in said


def test_scores_of_the_exercise_tell_the_mistakes_apart():
    """The wrong answers of sam_masks differ from the right one on its small input."""
    scores = torch.rand(3, 12, generator=torch.Generator().manual_seed(1))
    right = sharpbalance.sam_masks(scores, 0.25)
    for wrong in (top(scores, 0.25), top(scores, 0.25).any(0).expand_as(right)):
        assert not torch.equal(wrong, right)
