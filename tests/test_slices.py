"""Planes and paths between small networks, where the answers are known."""

import sys
from pathlib import Path

import pytest
import torch

from sbtutor import data, landscape, models, paths, stack
from sbtutor.config import ModelConfig

sys.path.append(str(Path(__file__).parents[1] / "notebooks" / "results"))


import planes as study


@pytest.fixture
def kind(monkeypatch):
    """Three untrained networks on 30 images, a grid of 5 x 5."""
    monkeypatch.setattr(study, "IMAGES", 20)
    monkeypatch.setattr(study, "GRID", 5)
    monkeypatch.setattr(study, "STEPS", 5)
    fit = paths.fit_bend

    def quick(*args, epochs, **settings):
        return fit(*args, epochs=1, **settings)

    monkeypatch.setattr(study.paths, "fit_bend", quick)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (30, 1, 8, 8), generator=generator).byte()
    split = data.Split(images, torch.arange(30) % 3, tuple("abc"))
    config = ModelConfig(name="small_cnn", norm="none", width=4)
    networks = [models.build(config, (1, 8, 8), 3, seed) for seed in range(3)]
    return study.Kind(networks, split, split)


def test_places_hold_all_points_and_a_margin():
    x, y = study.ticks(torch.tensor([[0.0, 1.0], [10.0, 3.0], [4.0, 2.0]]))
    assert len(x) == len(y) == study.GRID
    assert (x[0], x[-1]) == pytest.approx((-3, 13))
    assert (y[0], y[-1]) == pytest.approx((-2, 6))


def test_slices_are_those_of_direct_calls(kind):
    arrays, rows = study.measure("three", kind)
    a, b, c = stack.points_of(kind.members)
    few = data.subset(kind.test, 20, seed=0)
    assert arrays["loss"].shape == arrays["accuracy"].shape == (2, 5, 5)
    assert arrays["path_disagreement"].shape == (2, 5, 2)
    line = landscape.survey(kind.members[0], paths.line(a, b, 5), few)
    assert arrays["path_loss"][0] == pytest.approx(line.loss.numpy())
    assert arrays["path_accuracy"][0] == pytest.approx(line.accuracy.numpy())
    # The corner of the grid, as a network of its own.
    plane = study.planes.plane_through(a, b, c)
    corner = plane.points(*(torch.tensor(arrays[n][0, -1:]) for n in "xy"))
    alone = landscape.survey(kind.members[0], corner, few)
    assert arrays["loss"][0, -1, -1] == pytest.approx(float(alone.loss), rel=1e-4)
    length = float((b - a).norm())
    assert rows[0]["length"] == pytest.approx(length, rel=1e-4)
    assert arrays["marks"][:, 1] == pytest.approx(
        torch.tensor([[length, 0.0]] * 2).numpy(), abs=1e-4
    )
    assert rows[0]["barrier"] == pytest.approx(float(paths.barrier(line.loss)))
    assert [row["path"] for row in rows] == list(study.PATHS)


def test_the_ends_of_both_paths_are_the_networks(kind):
    arrays, _ = study.measure("three", kind)
    for end in (0, -1):
        assert arrays["path_loss"][0, end] == pytest.approx(
            arrays["path_loss"][1, end], rel=1e-4
        )
        assert arrays["way"][:, end] == pytest.approx(
            arrays["marks"][:, 0 if end == 0 else 1], abs=1e-4
        )
        assert (arrays["path_disagreement"][:, end, 0 if end == 0 else 1] == 0).all()
