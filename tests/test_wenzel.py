"""What is measured for Wenzel et al.'s claims, on networks whose answers are known."""

import itertools
import sys
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from torch import nn

from sbtutor import data, loguniform
from sbtutor.hyper import Ensemble
from sbtutor.pool import Pool
from sbtutor.predict import Predictions
from sbtutor.trial import Trial

sys.path.append(str(Path(__file__).parents[1] / "notebooks" / "results"))

import claims_wenzel
import wenzel

LABELS = torch.tensor([0, 1])


def pool_of(*true_probs):
    """A pool of two classes; one row of true-class probabilities a network."""
    true = torch.tensor(true_probs)
    probs = torch.stack([true, 1 - true], dim=-1)
    probs[:, 1] = probs[:, 1].flip(-1)  # the second label is class 1
    seen = Predictions(probs.log(), LABELS)
    trials = [Trial(settings={}, init=0, order=i) for i in range(len(true))]
    return Pool(trials, seen, seen, [Path()] * len(true), [0.0] * len(true))


def test_an_ensembles_row_tells_shares_and_whether_it_is_the_top():
    """Greedy takes A and C of the worked example, not the two best."""
    pool = pool_of((0.90, 0.30), (0.85, 0.30), (0.40, 0.60))
    assert wenzel.pool_order(pool) == [0, 1, 2]
    row = wenzel.ensemble_row(Ensemble(pool, [0, 2, 0], 7), size=2)
    assert row["trainings"] == 7
    assert row["members"] == 2
    assert row["largest_share"] == pytest.approx(2 / 3)
    assert row["is_top"] == 0
    assert row["largest_rise"] == pytest.approx(0.615 - 0.655, abs=1e-3)
    truth = torch.tensor([(2 * 0.9 + 0.4) / 3, (2 * 0.3 + 0.6) / 3])
    assert row["nll"] == pytest.approx(float(-truth.log().mean()), abs=1e-5)
    top = wenzel.ensemble_row(Ensemble(pool, [0, 1], 3), size=2)
    assert top["is_top"] == 1


class Reader(nn.Module):
    """Says class 0 or 1 by the first pixel, this surely."""

    def __init__(self, logit):
        super().__init__()
        self.logit = nn.Parameter(torch.tensor(logit))

    def forward(self, images):
        is_one = images[:, 0, 0, 0] > 0.5
        one = torch.where(is_one, self.logit, -self.logit)
        return torch.stack([-one / 2, one / 2], dim=1)


def split_of(first_pixels, labels):
    images = torch.zeros(len(labels), 1, 2, 2, dtype=torch.uint8)
    images[:, 0, 0, 0] = torch.tensor(first_pixels, dtype=torch.uint8)
    return data.Split(images, torch.tensor(labels), ("a", "b"))


def test_the_worst_corruption_is_that_with_the_least_accuracy():
    seen = {
        ("clean", 0): split_of([0, 255], [0, 1]),
        ("fog", 1): split_of([0, 255], [0, 1]),
        ("frost", 1): split_of([0, 255], [1, 1]),
        ("snow", 1): split_of([0, 255], [1, 0]),
        ("digits", 0): split_of([0, 255], [0, 1]),
    }
    for severity in wenzel.SEVERITIES[1:]:
        seen["fog", severity] = seen["frost", 1]
    row, rows = wenzel.kind_rows([Reader(2.0)], torch.ones(1), seen)
    assert row["accuracy"] == row["member_accuracy"] == 1
    assert row["digits_auroc"] == 0.5  # as sure of them as of its own images
    assert [r["severity"] for r in rows] == list(wenzel.SEVERITIES)
    assert rows[0]["accuracy"] == pytest.approx(0.5)
    assert rows[0]["worst_accuracy"] == 0
    assert rows[1]["worst_accuracy"] == rows[1]["accuracy"] == 0.5
    right = torch.tensor(2.0).sigmoid()
    wrong = -(1 - right).log()
    assert rows[0]["worst_nll"] == pytest.approx(float(wrong), rel=1e-5)


def test_members_count_by_their_shares():
    """Shares 3/4 and 1/4 of two members that say the opposite."""
    seen = {(k, 0): split_of([0, 255], [0, 1]) for k in ("clean", "digits")}
    seen |= {("fog", s): seen["clean", 0] for s in wenzel.SEVERITIES}
    shares = torch.tensor([0.75, 0.25])
    row, _ = wenzel.kind_rows([Reader(3.0), Reader(-3.0)], shares, seen)
    sure = torch.tensor(3.0).sigmoid()
    truth = 0.75 * sure + 0.25 * (1 - sure)
    assert row["accuracy"] == 1
    assert row["member_accuracy"] == 0.5
    assert row["nll"] == pytest.approx(float(-truth.log()), rel=1e-5)


def test_ranges_are_told_as_powers_of_ten():
    low = torch.tensor([[0.01], [0.1]]).log()
    high = torch.tensor([[1.0], [10.0]]).log()
    permitted = torch.tensor([[1e-3], [100.0]]).log()
    ensemble = SimpleNamespace(
        names=("l2_head",), least=permitted[0], most=permitted[1]
    )
    ranges = torch.stack([low, high])[None]
    rows = wenzel.range_rows(SimpleNamespace(ensemble=ensemble, ranges=ranges), 0.1)
    assert [r["member"] for r in rows] == [0, 1]
    found = [(r["low"], r["high"], r["least"], r["most"]) for r in rows]
    assert found[0] == pytest.approx((-2, 0, -3, 2), abs=1e-6)
    assert found[1] == pytest.approx((-1, 1, -3, 2), abs=1e-6)
    mean = loguniform.mean(low, high).flatten()  # where such a member predicts
    assert mean.tolist() == pytest.approx([0.99 / 4.60517, 9.9 / 4.60517], rel=1e-4)


def signed(method, seed, value):
    """A row in which each quantity of a method is `value`, apart from its seed's."""
    return dict(network="mlp", method=method, seed=seed, size=2, severity=1,
                accuracy=value, nll=value + seed, brier=0, ece=0, val_nll=0, members=2,
                largest_share=0.6, is_top=0, largest_rise=-0.1, member_accuracy=0.1,
                member_nll=9, digits_auroc=value, worst_accuracy=value, parameters=2,
                one_network=1)  # fmt: skip


def test_differences_have_the_sign_that_their_names_say():
    """Values rise from hyper-deep on, so that no sign can be swapped."""
    order = ["hyper-deep", "deep", claims_wenzel.TUNED, "batch", "single"]
    kinds = [signed(m, s, 0.1 * (i + 1)) for i, m in enumerate(order) for s in (1, 2)]
    frame = pd.DataFrame(kinds)
    shift = pd.concat([frame.assign(severity=s) for s in claims_wenzel.SEVERITIES])
    rows = {r.quantity: r for r in claims_wenzel.of_kinds("mlp", frame, shift)}
    for a, b in itertools.pairwise(order):
        assert rows[f"NLL: {a} - {b}"].values.tolist() == pytest.approx([-0.1, -0.1])
    worst = f"worst accuracy, points: {claims_wenzel.TUNED} - batch, severity 3"
    assert rows[worst].values.tolist() == pytest.approx([-10, -10])
    auroc = "AUROC of digits: hyper-deep - deep"
    assert rows[auroc].values.tolist() == pytest.approx([-0.1, -0.1])
    gain = f"accuracy, points: {claims_wenzel.TUNED} - its mean member"
    assert rows[gain].values.tolist() == pytest.approx([20, 20])

    names = ["hyper-deep", "deep", "deep, same cost", "fixed-init", "top"]
    names.append("fixed-init, same cost")
    sizes = [signed(m, s, 0.1 * (i + 1)) for i, m in enumerate(names) for s in (1, 2)]
    sizes = [row | {"size": k} for row in sizes for k in claims_wenzel.SIZES]
    frame = pd.DataFrame(sizes)
    found = {r.quantity: r for r in claims_wenzel.of_sizes("mlp", frame)}

    def mean(name):
        return found[name].values.mean()

    assert mean("NLL: 3 members, hyper-deep - deep") == pytest.approx(-0.1)
    points = "accuracy, points: 3 members, hyper-deep - deep, same cost"
    assert mean(points) == pytest.approx(-20)
    assert mean("NLL: 2 members, greedy - the best") == pytest.approx(-0.1)
    assert mean("NLL: 5 members, fixed-init - deep") == pytest.approx(0.2)
    assert mean("NLL: 5 members, hyper-deep - fixed-init") == pytest.approx(-0.3)
    cost = "NLL: 4 members, fixed-init at the same cost - hyper-deep"
    assert mean(cost) == pytest.approx(0.5)
    assert mean("2 members, share of searches with unequal weights") == 1
    others = "2 members, share of searches in which greedy takes others than the best"
    assert mean(others) == 1

    inits = frame[frame["method"] == "deep"]
    again = {r.quantity: r for r in claims_wenzel.of_inits("mlp", frame, inits)}
    name = "NLL: 2 members, random inits at the same cost - hyper-deep"
    assert again[name].values.mean() == pytest.approx(0.1)


def ranges(widths, shift):
    """Two members whose ranges lie `shift` apart, for each tau one width."""
    return pd.DataFrame(
        [
            dict(network="mlp", seed=s, tau=tau, member=k, name="l2_head",
                 low=-width / 2 + k * shift, high=width / 2 + k * shift,
                 least=-2.0, most=2.0)
            for s in (1, 2)
            for tau, width in widths.items()
            for k in (0, 1)
        ]
    )  # fmt: skip


def test_widths_and_distances_of_ranges_are_shares():
    frame = ranges({0.0: 0.6, 1e-4: 2.4}, shift=0.4)
    rows = {row.quantity: row for row in claims_wenzel.of_ranges("mlp", frame)}
    found = {name: row.values.tolist() for name, row in rows.items()}
    start = "width of the ranges, in the end / at first"
    assert found[f"{start}: tau 0"] == pytest.approx([0.25, 0.25])
    assert found[f"{start}: tau 0.0001"] == pytest.approx([1, 1])
    apart = "distance of two members' ranges, share of the permitted range, tau 0.0001"
    assert found[apart] == pytest.approx([0.1, 0.1])
    more = "width of the ranges / at first: tau 0.0001 - tau 0"
    assert found[more] == pytest.approx([0.75, 0.75])


def test_no_seed_is_used_twice():
    """And none with which settings were chosen."""
    seeds = [*wenzel.SEEDS.values(), *wenzel.TAU_SEEDS.values()]
    used = [seed for part in seeds for seed in part]
    assert len(used) == len(set(used))
    assert not {900, 910} & set(used)
    tasks = wenzel.tasks(Path("runs"), wenzel.SEEDS)
    assert {task.folder.name for task in tasks} == set(wenzel.SEEDS)
