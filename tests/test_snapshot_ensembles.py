"""SSE and StarSSE: where each cycle starts, its learning rates and its file."""

import dataclasses
import functools
import itertools
import math

import pytest
import torch

from sbtutor import basin, cycles, data, models, snapshot_ensembles, stack, subspace
from sbtutor.config import DataConfig, ModelConfig, TrainConfig
from sbtutor.cycles import train_cycle
from sbtutor.recipe import Recipe
from sbtutor.snapshot_ensembles import grid, scaled, sse, star_sse, trajectory

CYCLE = TrainConfig(
    epochs=2, batch_size=20, lr=0.05, schedule="cosine", seed=7, device="cpu"
)
METHODS = {"sse": sse, "star": functools.partial(star_sse, jobs=1)}
both = pytest.mark.parametrize("method", METHODS)


pytestmark = pytest.mark.usefixtures("quiet")


@pytest.fixture(scope="module")
def split():
    return data.load(DataConfig(name="digits", limit=60)).train


@pytest.fixture
def histories(monkeypatch):
    """What `cycles.train` says of how its cycles went, call by call."""
    seen, real = [], cycles.train

    def recorded(*call, **settings):
        found = real(*call, **settings)
        seen.append([each.history for each in found])
        return found

    monkeypatch.setattr(snapshot_ensembles, "train", recorded)
    return seen


def network(name="small_cnn", norm="batch", seed=0):
    config = ModelConfig(name=name, width=3, norm=norm)
    return models.build(config, (1, 8, 8), 10, seed)


def vary(**settings):
    return dataclasses.replace(CYCLE, **settings)


def state(model):
    return {name: t.detach().clone() for name, t in model.state_dict().items()}


def alike(a, b):
    """Bit for bit."""
    a, b = (x if isinstance(x, dict) else x.state_dict() for x in (a, b))
    return a.keys() == b.keys() and all(torch.equal(t, b[k]) for k, t in a.items())


def all_alike(found, expected):
    return all(alike(a, b) for a, b in zip(found, expected, strict=True))


def test_in_an_sse_each_cycle_starts_where_the_one_before_ended(split, trained):
    """Bit for bit; member m draws from seed + m."""
    first = network()
    members = sse(first, split, CYCLE, 4)
    assert members[0] is first
    starts, configs = zip(*trained)
    assert all_alike(starts, members[:3])
    assert [config.seed for config in configs] == [8, 9, 10]
    for m in range(1, 4):
        alone, _ = train_cycle(members[m - 1], split, vary(seed=7 + m))
        assert alike(members[m], alone)


def test_in_a_star_each_cycle_starts_from_the_first_model(split, trained):
    """Bit for bit; member m draws from seed + m."""
    first = network()
    members = star_sse(first, split, CYCLE, 4, jobs=1)
    assert members[0] is first
    starts, configs = zip(*trained)
    assert all_alike(starts, [first] * 3)
    assert [config.seed for config in configs] == [8, 9, 10]
    for m in range(1, 4):
        alone, _ = train_cycle(first, split, vary(seed=7 + m))
        assert alike(members[m], alone)


def test_second_members_are_equal_and_share_their_file(split, tmp_path, trained):
    """Of the cycles of three members each, one is common to both."""
    first = network()
    chain = sse(first, split, CYCLE, 3, tmp_path)
    star = star_sse(first, split, CYCLE, 3, tmp_path, jobs=1)
    assert alike(chain[1], star[1])
    assert not alike(chain[2], star[2])
    assert len(trained) == len([*tmp_path.iterdir()]) == 3


@both
def test_a_larger_ensemble_begins_with_the_smaller_one(split, method, trained):
    small, large = (METHODS[method](network(), split, CYCLE, m) for m in (2, 4))
    assert all_alike(small, large[:2])
    assert not any(alike(a, b) for a, b in itertools.pairwise(large))


def test_a_stars_cycles_run_side_by_side_and_nothing_changes(split, tmp_path):
    first = network()
    found = [
        star_sse(first, split, CYCLE, 3, tmp_path / str(jobs), jobs=jobs)
        for jobs in (1, 2)
    ]
    assert all_alike(*found)
    names = [{p.name for p in (tmp_path / str(jobs)).iterdir()} for jobs in (1, 2)]
    assert names[0] == names[1]


@both
def test_a_second_call_trains_nothing(split, tmp_path, method, monkeypatch):
    first = network()
    members = METHODS[method](first, split, CYCLE, 3, tmp_path)
    monkeypatch.delattr(cycles, "train_cycle")
    assert all_alike(METHODS[method](first, split, CYCLE, 3, tmp_path), members)


@both
def test_the_first_model_is_left_alone_and_the_others_evaluate(split, method):
    first = network().train()
    first.norm1.eval()
    before, modes = state(first), [m.training for m in first.modules()]
    random = torch.random.get_rng_state()
    _, *others = METHODS[method](first, split, CYCLE, 3)
    assert alike(first, before)
    assert modes == [m.training for m in first.modules()]
    assert torch.equal(torch.random.get_rng_state(), random)
    assert not any(m.training for net in others for m in net.modules())


@both
def test_a_recipe_reaches_each_cycle(split, method):
    first, how = network(), Recipe(label_smoothing=0.3, clip_norm=0.1)
    members = METHODS[method](first, split, CYCLE, 3, recipe=how)
    start = first if method == "star" else members[1]
    assert alike(members[2], train_cycle(start, split, vary(seed=9), how)[0])
    assert not alike(members[2], train_cycle(start, split, vary(seed=9))[0])


def formula(e, epochs, lr, cycle_epochs, cycle_lr):
    """Paper-facts' rule, epoch by epoch, from 0 on."""
    if e < epochs:
        return lr * 0.5 * (1 + math.cos(math.pi * e / epochs))
    c = (e - epochs) % cycle_epochs
    return cycle_lr * 0.5 * (1 + math.cos(math.pi * c / cycle_epochs))


# Of 25 epochs and a learning rate of 0.05, as the published scripts round them.
LENGTHS = {0.5: 12, 1.0: 25, 2.0: 50, 4.0: 100}
RATES = {0.25: 0.0125, 0.5: 0.025, 1.0: 0.05, 2.0: 0.1, 4.0: 0.2}


def test_the_grid_is_the_published_one():
    assert list(snapshot_ensembles.LR_FACTORS) == [*RATES]
    assert list(snapshot_ensembles.EPOCH_FACTORS) == [*LENGTHS]


@pytest.mark.parametrize("lr_factor", RATES)
@pytest.mark.parametrize("epoch_factor", LENGTHS)
def test_learning_rates_follow_the_published_rule(lr_factor, epoch_factor):
    fine = TrainConfig(epochs=25, lr=0.05, schedule="cosine")
    cycle = scaled(fine, lr_factor, epoch_factor)
    assert cycle.epochs == LENGTHS[epoch_factor]
    assert cycle.lr == pytest.approx(RATES[lr_factor])
    assert dataclasses.replace(cycle, epochs=25, lr=0.05) == fine
    found = snapshot_ensembles.learning_rates(fine, cycle, 5)
    assert len(found) == snapshot_ensembles.budget(fine, cycle, 5)
    assert len(found) == 25 + 4 * LENGTHS[epoch_factor]
    expected = [
        formula(e, 25, 0.05, LENGTHS[epoch_factor], RATES[lr_factor])
        for e in range(len(found))
    ]
    assert found == pytest.approx(expected)
    for m in range(4):
        assert found[25 + m * cycle.epochs] == cycle.lr  # exactly, at each restart
    assert min(found) > 0


@both
def test_a_grids_cycles_are_trained_with_these_learning_rates(split, histories, method):
    """All 20 cells, as their networks' histories tell."""
    few = data.subset(split, 10, seed=0)
    fine = vary(epochs=5, lr=0.008)
    grid(method, network("mlp"), few, fine, 3, jobs=1)
    (found,) = histories
    flat = [lr for history in found for lr in history.lr]
    expected = []
    for lr_factor in RATES:
        for epochs in (2, 5, 10, 20):  # 0.5 x 5 = 2.5 is rounded down
            for e in range(5, 5 + 2 * epochs):
                expected.append(formula(e, 5, 0.008, epochs, 0.008 * lr_factor))
    assert flat == pytest.approx(expected)


def test_a_warm_up_comes_at_the_start_of_fine_tuning_and_of_each_cycle(
    split, histories
):
    """From 0.01 in a straight line for two epochs, then the cosine of those left."""
    fine, cycle = vary(epochs=6, lr=0.05), vary(epochs=4, lr=0.2)
    how = Recipe(warmup_epochs=2, warmup_lr=0.01)
    found = snapshot_ensembles.learning_rates(fine, cycle, 3, how)
    cosine = [(1 + math.cos(math.pi * e / 4)) / 2 for e in range(4)]
    expected = [0.01, 0.03, *(0.05 * x for x in cosine)]
    expected += [0.01, 0.105, 0.2, 0.1] * 2
    assert found == pytest.approx(expected)
    star_sse(network("mlp"), split, cycle, 3, recipe=how, jobs=1)
    used = [lr for history in histories[0] for lr in history.lr]
    assert used == pytest.approx(expected[6:])


def test_a_cycle_has_one_epoch_at_least():
    assert scaled(vary(epochs=3), epochs=0.1).epochs == 1
    assert scaled(vary(epochs=3), epochs=0.9).epochs == 2
    assert scaled(CYCLE) == CYCLE


@both
def test_a_grid_is_each_of_its_ensembles(split, tmp_path, method, trained):
    first, lrs, lengths = network(), (0.5, 2.0), (0.5, 1.0)
    how = Recipe(label_smoothing=0.1)
    found = grid(
        method, first, split, CYCLE, 3, lrs, lengths, tmp_path, jobs=1, recipe=how
    )
    assert list(found) == [(0.5, 0.5), (0.5, 1.0), (2.0, 0.5), (2.0, 1.0)]
    assert len(trained) == 8
    for cell, members in found.items():
        cycle = scaled(CYCLE, *cell)
        again = METHODS[method](first, split, cycle, 3, tmp_path, recipe=how)
        assert all_alike(members, again)
        assert members[0] is first
    assert len(trained) == 8  # the same files


@both
def test_an_ensemble_over_its_budget_is_refused(split, trained, method):
    message = (
        "4 cycles of 2 epochs take 8, more than the budget of 7; write cycles of 1 ep"
    )
    with pytest.raises(ValueError, match=message):
        METHODS[method](network(), split, CYCLE, 5, limit=7)
    assert not trained
    METHODS[method](network(), split, CYCLE, 2, limit=2)


def test_a_budget_of_less_than_a_cycle_an_epoch_asks_for_fewer_members(split):
    message = "4 cycles of 2 epochs take 8, more than the budget of 3; write fewer mem"
    with pytest.raises(ValueError, match=message):
        sse(network(), split, CYCLE, 5, limit=3)


CALLS = [sse, star_sse, functools.partial(grid, "sse"), functools.partial(grid, "star")]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("members", [1, 0, -3])
def test_an_ensemble_without_cycles_is_refused(split, call, members):
    message = f"members must be >= 2, got {members}"
    with pytest.raises(ValueError, match=message):
        call(network(), split, CYCLE, members)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"schedule": "multistep"}, r"falls as a cosine, got 'multistep'; write Train"),
        ({"method": "sam"}, "takes plain steps, method='sgd', got 'sam'"),
    ],
)
def test_another_schedule_or_method_is_refused(split, call, settings, message):
    with pytest.raises(ValueError, match=message):
        call(network(), split, vary(**settings))


@pytest.mark.parametrize(
    "factors",
    [("lr", x) for x in (0.0, -1.0, math.nan, math.inf)]
    + [("epochs", x) for x in (0.0, -0.5, math.nan, math.inf)],
)
def test_factors_that_are_not_positive_are_refused(split, factors):
    name, value = factors
    message = f"factors must be positive and finite, got .*{name}={value}"
    with pytest.raises(ValueError, match=message):
        scaled(CYCLE, **{name: value})
    given = {"lr": "lr_factors", "epochs": "epoch_factors"}[name]
    with pytest.raises(ValueError, match=message):
        grid("sse", network(), split, CYCLE, **{given: (1.0, value)})


def test_unknown_methods_and_empty_grids_are_refused(split):
    with pytest.raises(ValueError, match="unknown method 'starsse': write 'sse' or 's"):
        grid("starsse", network(), split, CYCLE)
    with pytest.raises(ValueError, match="there is nothing to train"):
        grid("sse", network(), split, CYCLE, lr_factors=())


@both
def test_images_that_do_not_fit_the_first_model_are_refused(split, method):
    few = data.only(split, ["1", "7"])
    with pytest.raises(ValueError, match="10 classes apart, the images have 2; give"):
        METHODS[method](network(), few, CYCLE)


@both
def test_a_cycle_that_diverges_names_its_learning_rate(split, tmp_path, method):
    message = r"no longer finite after epoch 0 of a cycle, learning rate 1e\+30"
    with pytest.raises(FloatingPointError, match=message):
        METHODS[method](network("mlp"), split, vary(lr=1e30), 2, tmp_path)
    assert not [*tmp_path.iterdir()]


def test_a_trajectory_is_of_networks_one_epoch_apart(split, histories, tmp_path):
    """At one learning rate, each epoch with a new optimizer and seed + epoch."""
    first = network()
    found = trajectory(first, split, vary(epochs=3), tmp_path)
    model = first
    for e, each in enumerate(found):
        one = vary(epochs=1, seed=7 + e, schedule="multistep", milestones=())
        model, _ = train_cycle(model, split, one)
        assert alike(each, model)
    assert len(found) == len([*tmp_path.iterdir()]) == 3
    assert histories[0][0].lr.tolist() == [0.05] * 3


@pytest.mark.parametrize("schedule", ["cosine", "multistep"])
def test_a_trajectory_keeps_its_learning_rate_whatever_the_schedule(split, schedule):
    config = vary(epochs=2, schedule=schedule, milestones=(1,))
    constant = vary(epochs=2, schedule="multistep", milestones=(5,))
    found = [trajectory(network(), split, c) for c in (config, constant)]
    assert all_alike(*found)


def test_a_swag_ensemble_without_spread_is_the_trajectorys_soup(split):
    """`members` times, with BatchNorm's statistics of the split."""
    networks = trajectory(network(), split, vary(epochs=3))
    before = [state(m) for m in networks]
    found = snapshot_ensembles.swag_ensemble(
        networks, split, 2, 0.0, torch.Generator().manual_seed(0)
    )
    soup = basin.soup(networks, split).state_dict()
    for member in found:
        for name, tensor in member.state_dict().items():
            torch.testing.assert_close(tensor, soup[name], rtol=1e-4, atol=1e-5)
        assert not any(m.training for m in member.modules())
    assert len(found) == 2
    assert all(alike(m, kept) for m, kept in zip(networks, before, strict=True))


def test_a_swag_ensemble_has_the_weights_that_swag_draws(split):
    networks = trajectory(network(norm="group"), split, vary(epochs=3))
    found = snapshot_ensembles.swag_ensemble(
        networks, split, 4, 1.5, torch.Generator().manual_seed(3)
    )
    points = stack.points_of(networks)
    drawn = subspace.swag(
        points, torch.full((4,), 1.5), torch.Generator().manual_seed(3)
    )
    assert torch.equal(stack.points_of(found), drawn)
    assert (drawn.diff(dim=0).abs().amax(1) > 1e-3).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"members": 0}, "draw at least 1 member, got members=0"),
        ({"members": -2}, "draw at least 1 member, got members=-2"),
        ({"scale": -1.0}, r"scales must be in \[0, inf\), got -1"),
        ({"networks": [network()]}, r"T >= 2, got \(1, "),
        ({"networks": []}, "at least one member, got an empty list"),
    ],
)
def test_a_swag_ensemble_that_cannot_be_is_refused(split, change, message):
    settings = {"networks": [network(), network(seed=1)], "members": 3, "scale": 1.0}
    generator = torch.Generator()
    with pytest.raises(ValueError, match=message):
        snapshot_ensembles.swag_ensemble(
            split=split, generator=generator, **settings | change
        )


def test_members_that_are_loaded_can_be_trained_on(split, tmp_path):
    """A star of a star: the files' networks are as good as those in memory."""
    first = network()
    made, loaded = (star_sse(first, split, CYCLE, 2, tmp_path) for _ in range(2))
    again = [star_sse(m[1], split, CYCLE, 2)[1] for m in (made, loaded)]
    assert alike(*again)
