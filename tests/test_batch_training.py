"""Training of batch and hyper-batch ensembles: its steps, its seeds, its file."""

import copy
import dataclasses
import signal

import jaxtyping
import pytest
import torch
from torch import nn

from sbtutor import batch_ensemble, batch_training, data, models, predict, tuning
from sbtutor.batch_training import fit
from sbtutor.batches import Batches
from sbtutor.config import DataConfig, Experiment, ModelConfig, TrainConfig
from sbtutor.files import BrokenFileError
from sbtutor.space import Space
from sbtutor.tuning import Tuning

TOY = Experiment(
    data=DataConfig(name="digits", limit=60),
    model=ModelConfig(name="mlp", width=6, dropout=0.5),
    train=TrainConfig(
        members=2, epochs=3, batch_size=20, milestones=(2,), device="cpu"
    ),
)
STEPS = 3  # an epoch
L2 = {"l2_hidden1": 0.03, "l2_hidden2": 0.2, "l2_head": 0.07}
SETTINGS = L2 | {"dropout": 0.3, "label_smoothing": 0.1}
TUNING = Tuning(start=0.5, every=2, lr=0.1)
STILL = 1e-30  # a learning rate too small to change a number of order 1
KINDS = {"batch": SETTINGS, "hyper": TUNING}
every_kind = pytest.mark.parametrize("how", KINDS.values(), ids=KINDS)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """Both kinds, trained once, and their folder."""
    out = tmp_path_factory.mktemp("fitted")
    return {kind: fit(TOY, how, out) for kind, how in KINDS.items()}, out


@pytest.fixture(scope="module")
def splits():
    return data.load(TOY.data)


def vary(**train):
    return dataclasses.replace(TOY, train=dataclasses.replace(TOY.train, **train))


def plain(**train):
    """Without dropout."""
    network = dataclasses.replace(TOY.model, dropout=0.0)
    return dataclasses.replace(vary(**train), model=network)


def assert_same(a, b):
    for ours, theirs in zip(
        a.ensemble.state_dict().values(), b.ensemble.state_dict().values(), strict=True
    ):
        assert torch.equal(ours, theirs)
    assert a.history.equals(b.history)
    assert (a.ranges is None) == (b.ranges is None)
    assert a.ranges is None or torch.equal(a.ranges, b.ranges)


def untrained(experiment, splits, **options):
    """The ensemble before its first step."""
    config, shape = experiment.train, tuple(splits.train.images.shape[1:])
    model = models.build(experiment.model, shape, 10, config.seed)
    model.normalize.set(*data.channel_statistics(splits.train.images))
    members, seed = config.members, config.seed
    return batch_ensemble.convert(model, members, seed=seed, **options)


def test_steps_are_those_of_sgd_with_half_the_rate_for_the_factors(splits, tmp_path):
    """Nine steps with momentum by hand, at lr 0.1, 0.1, 0.01; all see all images."""
    experiment, samples = plain(momentum=0.8, seed=4), len(splits.train.labels)
    ensemble = untrained(experiment, splits)
    settings = L2 | {"label_smoothing": 0.1}
    row = torch.tensor([settings[name] for name in ensemble.names]).log()
    params = dict(ensemble.named_parameters())
    speed = {name: torch.zeros_like(param) for name, param in params.items()}
    config = dataclasses.replace(experiment.train, members=1)
    batches = Batches(splits.train, config, torch.device("cpu"))
    losses = []
    for epoch, lr in enumerate((0.1, 0.1, 0.01)):
        for batch in batches.epoch(epoch):
            images, labels = batch.images[0], batch.labels[0]
            rows = row.expand(2 * len(labels), -1)
            loss = tuning.training_loss(ensemble, images, labels, rows, samples)
            losses.append(float(loss.detach()))
            slopes = torch.autograd.grad(loss, list(params.values()))
            with torch.no_grad():
                for (name, param), slope in zip(params.items(), slopes):
                    speed[name].mul_(0.8).add_(slope)
                    is_factor = name.split(".")[-1] in ("r", "s")
                    param.sub_(lr * (0.5 if is_factor else 1) * speed[name])
    found = fit(experiment, settings, tmp_path)
    for name, param in found.ensemble.named_parameters():
        torch.testing.assert_close(param, params[name])
    expected = torch.tensor(losses).view(3, STEPS).mean(1)
    torch.testing.assert_close(torch.tensor(found.history["loss"]).float(), expected)
    assert found.history["lr"].tolist() == pytest.approx([0.1, 0.1, 0.01])
    assert len(losses) == 3 * STEPS


def moved(a, b):
    """Names of the parameters that differ by more than a rate of STILL allows."""
    pairs = zip(a.named_parameters(), b.parameters(), strict=True)
    return {name for (name, x), y in pairs if (x - y).abs().max() > 1e-20}


def test_a_training_step_moves_no_range_and_a_tuning_step_nothing_else(
    splits, tmp_path
):
    network = ModelConfig(name="small_cnn", width=2)
    experiment = dataclasses.replace(vary(lr=STILL), model=network)
    how = dataclasses.replace(TUNING, tied=True)
    before = untrained(experiment, splits, hyper=True, tied=True).network
    tuned = fit(experiment, how, tmp_path)
    assert moved(tuned.ensemble.network, before) == set()
    assert (tuned.ranges[-1] != tuned.ranges[0]).all()
    experiment = dataclasses.replace(experiment, train=vary(lr=0.01).train)
    trained = fit(experiment, dataclasses.replace(how, lr=STILL), tmp_path)
    everything = {name for name, _ in before.named_parameters()}
    assert moved(trained.ensemble.network, before) == everything
    assert torch.equal(trained.ranges[-1], trained.ranges[0])


@pytest.mark.parametrize("every", [1, 2, 3, 4])
def test_a_tuning_step_follows_every_few_training_steps(tmp_path, monkeypatch, every):
    """Counted through all epochs; in eval mode, on as many images."""
    found, expected = [], []
    for name in ("training_loss", "tuning_loss"):
        real = getattr(tuning, name)

        def noted(*args, name=name, real=real):
            found.append((name, args[0].training, len(args[1])))
            return real(*args)

        monkeypatch.setattr(tuning, name, noted)
    fit(TOY, dataclasses.replace(TUNING, every=every), tmp_path)
    for step in range(1, 3 * STEPS + 1):
        expected.append(("training_loss", True, 20))
        if step % every == 0:
            expected.append(("tuning_loss", False, 20))
    assert found == expected


def test_training_and_tuning_see_their_own_images_with_their_labels(
    splits, tmp_path, monkeypatch
):
    """Training each training image once an epoch; tuning some validation images."""
    seen = {"training_loss": [], "tuning_loss": []}
    for name, pairs in seen.items():
        real = getattr(tuning, name)

        def noted(ensemble, images, labels, *args, real=real, pairs=pairs):
            pairs.extend((x.numpy().tobytes(), int(y)) for x, y in zip(images, labels))
            return real(ensemble, images, labels, *args)

        monkeypatch.setattr(tuning, name, noted)
    fit(vary(epochs=1), TUNING, tmp_path)
    train, val = (
        [
            (x.numpy().tobytes(), int(y))
            for x, y in zip(data.to_float(split.images), split.labels)
        ]
        for split in (splits.train, splits.val)
    )
    assert sorted(seen["training_loss"]) == sorted(train)
    assert set(seen["tuning_loss"]) <= set(val)
    assert len(set(seen["tuning_loss"])) > 10


def test_hyperparameters_are_drawn_anew_for_each_example_step_epoch_and_seed(
    tmp_path, monkeypatch
):
    """From ranges that never move: uniform on [0, 1) there, mean within 4 errors."""
    seen, real = [], tuning.training_loss

    def noted(ensemble, images, labels, log_lambda, samples):
        low, high = (bound.detach() for bound in (ensemble.low, ensemble.high))
        low, high = (b.repeat_interleave(len(labels), 0) for b in (low, high))
        seen.append((log_lambda - low) / (high - low))
        return real(ensemble, images, labels, log_lambda, samples)

    monkeypatch.setattr(tuning, "training_loss", noted)
    for seed in (0, 1):
        fit(vary(seed=seed), dataclasses.replace(TUNING, lr=STILL), tmp_path)
    u = torch.cat(seen)
    assert len(u) == 2 * 3 * 60 * 2  # seeds, epochs, images, members
    assert len(u.unique(dim=0)) == len(u)
    assert u.min() >= -1e-6
    assert u.max() <= 1 + 1e-6
    error = 12**-0.5 / len(u) ** 0.5
    assert ((u.mean(0) - 0.5).abs() < 4 * error).all()


def test_ranges_are_kept_from_the_start_and_stay_in_the_space(fitted):
    """At first the middle half of the permitted ranges, on a log scale."""
    found = fitted[0]["hyper"]
    least, most = found.ensemble.least, found.ensemble.most
    assert found.ranges.shape == (1 + 3, 2, 2, 5)
    for low, high in zip(*found.ranges[0]):
        torch.testing.assert_close(low, least + (most - least) / 4)
        torch.testing.assert_close(high, most - (most - least) / 4)
    low, high = found.ranges.unbind(1)
    assert (low >= least).all()
    assert (high <= most).all()
    assert (low < high).all()
    assert (found.ranges[1:] != found.ranges[:-1]).any((1, 2, 3)).all()
    assert torch.equal(low[-1], found.ensemble.low)
    assert torch.equal(high[-1], found.ensemble.high)


def test_adams_first_step_moves_each_bound_by_its_learning_rate(tmp_path):
    """|step| = lr |g| / (|g| + 1e-8), which is lr where tau is large; one step."""
    how = dataclasses.replace(TUNING, every=3, lr=0.02, tau=1.0)
    found = fit(plain(epochs=1), how, tmp_path)
    moved = (found.ranges[1] - found.ranges[0]).abs()
    torch.testing.assert_close(moved, torch.full_like(moved, 0.02), rtol=1e-3, atol=0)


def test_ranges_at_the_border_are_projected_back(tmp_path):
    """Steps far larger than the ranges leave them inside the space, and in order."""
    space = Space(l2=(0.1, 10.0), dropout=(0.01, 0.5))
    how = dataclasses.replace(TUNING, space=space, start=1.0, lr=100.0)
    ensemble = fit(TOY, how, tmp_path).ensemble
    assert ensemble.least[0].exp() == pytest.approx(0.1)
    assert ensemble.most[0].exp() == pytest.approx(10.0)
    assert (ensemble.low >= ensemble.least).all()
    assert (ensemble.high <= ensemble.most).all()
    assert (ensemble.low < ensemble.high).all()


def with_splits(monkeypatch, **changed):
    real = data.load

    def load(config):
        return real(config)._replace(**changed)

    monkeypatch.setattr(data, "load", load)


def flipped(split):
    return dataclasses.replace(split, images=split.images.flip(0))


@pytest.mark.parametrize(
    "how", [SETTINGS, dataclasses.replace(TUNING, lr=STILL)], ids=KINDS
)
def test_validation_images_move_nothing_but_the_ranges(
    how, splits, tmp_path, monkeypatch
):
    first = fit(TOY, how, tmp_path / "a")
    with_splits(monkeypatch, val=flipped(splits.val), test=flipped(splits.test))
    second = fit(TOY, how, tmp_path / "b")
    for ours, theirs in zip(
        first.ensemble.state_dict().values(), second.ensemble.state_dict().values()
    ):
        assert torch.equal(ours, theirs)


def test_other_validation_images_give_other_ranges(
    fitted, splits, tmp_path, monkeypatch
):
    with_splits(monkeypatch, val=flipped(splits.val))
    assert not torch.equal(fit(TOY, TUNING, tmp_path).ranges, fitted[0]["hyper"].ranges)


@every_kind
def test_the_seed_decides_everything(how, fitted, tmp_path):
    """The global generator has no part in it, and stays where it was."""
    kind = "hyper" if how is TUNING else "batch"
    with torch.random.fork_rng():
        torch.manual_seed(77)
        state = torch.get_rng_state()
        again = fit(TOY, how, tmp_path)
        assert torch.equal(torch.get_rng_state(), state)
    assert_same(again, fitted[0][kind])
    other = fit(vary(seed=1), how, tmp_path)
    for name, param in other.ensemble.network.named_parameters():
        own = again.ensemble.network.get_parameter(name)
        assert not torch.equal(param, own), name


def test_a_batch_ensembles_dropout_rate_is_its_setting(fitted):
    for member in fitted[0]["batch"].members:
        rates = [m.p for m in member.modules() if isinstance(m, nn.Dropout)]
        assert rates == [0.3, 0.3]


def test_fort_et_als_networks_keep_their_own_dropout_rate(tmp_path):
    network = ModelConfig(name="small_cnn", width=2, norm="none")
    experiment = dataclasses.replace(vary(epochs=1, lr=0.001), model=network)
    groups = ("conv1", "conv2", "conv3", "head")
    settings = {f"l2_{group}": 0.1 for group in groups} | {"label_smoothing": 0.01}
    (member, _) = fit(experiment, settings, tmp_path).members
    rates = [m.p for m in member.modules() if isinstance(m, nn.Dropout)]
    assert rates == [0.1] * 3


@pytest.mark.parametrize("kind", KINDS)
def test_members_are_the_ensembles_slices_in_eval_mode(fitted, splits, kind):
    found = fitted[0][kind]
    assert not found.ensemble.training
    logits = predict.predict(found.members, splits.test).logits
    images = data.to_float(splits.test.images)
    with torch.no_grad():
        expected = found.ensemble(found.ensemble.tile(images))
    torch.testing.assert_close(logits.flatten(0, 1), expected)


@pytest.mark.parametrize("tied", [None, False, True])
def test_members_learn(splits, tmp_path, tied):
    """Each is right on most of the digits it was not trained on; by chance on 10 %."""
    experiment = dataclasses.replace(
        plain(epochs=8, lr=0.05, milestones=(6,)),
        data=DataConfig(name="digits", limit=400),
        model=ModelConfig(name="mlp", width=32),
    )
    weak = Space(l2=(1e-3, 1.0), label_smoothing=(1e-5, 0.1))
    how = L2 | {"label_smoothing": 0.01}
    if tied is not None:
        how = Tuning(space=weak, tied=tied)
    found = fit(experiment, how, tmp_path)
    predictions = predict.predict(found.members, splits.test)
    right = predictions.logits.argmax(-1) == predictions.labels
    assert (right.double().mean(1) > 0.6).all()
    assert found.history["loss"].iloc[-1] < found.history["loss"].iloc[0]


def test_history_has_a_row_an_epoch(fitted):
    for kind, columns in (("batch", []), ("hyper", ["tuning_loss"])):
        history = fitted[0][kind].history
        assert list(history) == ["epoch", "lr", "loss", *columns]
        assert history["epoch"].tolist() == [0, 1, 2]
        assert fitted[0][kind].seconds > 0
    assert fitted[0]["batch"].ranges is None


@every_kind
def test_a_finished_training_is_loaded(how, fitted, monkeypatch):
    found, out = fitted
    monkeypatch.setattr(batch_training, "_epoch", pytest.fail)
    kind = "hyper" if how is TUNING else "batch"
    loaded = fit(TOY, copy.deepcopy(how), out)
    assert_same(loaded, found[kind])
    assert loaded.seconds == found[kind].seconds


@every_kind
def test_without_resume_it_is_trained_again(how, fitted, tmp_path, monkeypatch):
    real, epochs = batch_training._epoch, []

    def counted(*args):
        epochs.append(1)
        return real(*args)

    monkeypatch.setattr(batch_training, "_epoch", counted)
    fit(vary(epochs=1), how, tmp_path)
    again = fit(vary(epochs=1), how, tmp_path, resume=False)
    assert len(epochs) == 2
    assert_same(fit(vary(epochs=1), how, tmp_path), again)
    assert len(epochs) == 2


@pytest.mark.parametrize(("kind", "moment"), [("batch", 3), ("hyper", 1), ("hyper", 2)])
def test_a_killed_training_goes_on_and_ends_as_an_unbroken_one(
    kind, fitted, tmp_path, monkeypatch, dying, moment
):
    """Killed just before the file of an epoch, counted from 1, is put in place."""
    how = KINDS[kind]
    code = "batch_training.fit(experiment, how, out)"
    process = dying(code, moment, experiment=TOY, how=how, out=tmp_path)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    real, epochs = batch_training._epoch, []

    def noted(state, *args):
        epochs.append(len(state.history))
        return real(state, *args)

    monkeypatch.setattr(batch_training, "_epoch", noted)
    assert_same(fit(TOY, how, tmp_path), fitted[0][kind])
    assert epochs == list(range(moment - 1, 3))


def test_all_that_changes_the_result_changes_the_file(splits, tmp_path, monkeypatch):
    """Another setting, tuning, experiment, or other images."""
    short = vary(epochs=1)
    fit(short, SETTINGS, tmp_path)
    fit(short, SETTINGS | {"l2_head": 0.08}, tmp_path)
    fit(vary(epochs=1, seed=1), SETTINGS, tmp_path)
    fit(vary(epochs=1, members=3), SETTINGS, tmp_path)
    fit(short, TUNING, tmp_path)
    fit(short, dataclasses.replace(TUNING, tau=0.1), tmp_path)
    with_splits(monkeypatch, train=flipped(splits.train))
    fit(short, SETTINGS, tmp_path)
    kinds = sorted(path.name.rpartition("-")[0] for path in tmp_path.iterdir())
    assert kinds == ["batch"] * 5 + ["hyper-batch"] * 2


def test_what_does_not_change_the_result_does_not_change_the_file(
    tmp_path, monkeypatch
):
    whole = SETTINGS | {"l2_head": 1.0}
    fit(vary(epochs=1), whole, tmp_path)
    monkeypatch.setattr(batch_training, "_epoch", pytest.fail)
    fit(vary(epochs=1, weight_decay=0.0, snapshots=True), whole, tmp_path)
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    fit(vary(epochs=1, device="auto"), whole | {"l2_head": 1}, tmp_path)
    assert len(list(tmp_path.iterdir())) == 1


@every_kind
def test_a_broken_file_is_named(how, tmp_path):
    fit(vary(epochs=1), how, tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-100])
    message = f"{path.name} was cut short or altered.*delete it and run again"
    with pytest.raises(BrokenFileError, match=message):
        fit(vary(epochs=1), how, tmp_path)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"method": "sam"}, "plain SGD, got method='sam', optimizer='sgd'; write"),
        ({"optimizer": "adam"}, "got method='sgd', optimizer='adam'; write 'sgd'"),
    ],
)
@every_kind
def test_only_plain_sgd_trains_batch_ensembles(how, tmp_path, changed, message):
    with pytest.raises(ValueError, match=message):
        fit(vary(**changed), how, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "sets l2_hidden1, .*label_smoothing; got nothing"),
        (L2, "sets l2_hidden1, .*; got l2_hidden1, l2_hidden2, l2_head"),
        (SETTINGS | {"l2_conv1": 1.0}, "got l2_hidden1.*l2_conv1"),
        (SETTINGS | {"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1"),
    ],
)
def test_a_batch_ensemble_needs_its_networks_hyperparameters(
    tmp_path, settings, message
):
    with pytest.raises(ValueError, match=message):
        fit(TOY, settings, tmp_path)


@pytest.mark.parametrize(
    ("rate", "batch_size"), [(1e30, 20), (torch.inf, 100)], ids=["losses", "weights"]
)
@every_kind
def test_a_diverged_training_says_so_and_keeps_the_last_good_epoch(
    how, tmp_path, monkeypatch, rate, batch_size
):
    """By a step of the second epoch; a batch of all images makes it the only one."""
    experiment, usual = vary(batch_size=batch_size), batch_training.learning_rate
    with monkeypatch.context() as patch:
        patch.setattr(
            batch_training,
            "learning_rate",
            lambda config, epoch: rate if epoch == 1 else usual(config, epoch),
        )
        with pytest.raises(FloatingPointError, match=r"finite in epoch 1.*lower lr"):
            fit(experiment, how, tmp_path)
    recovered = fit(experiment, how, tmp_path)
    assert all(p.isfinite().all() for p in recovered.ensemble.parameters())
    assert_same(recovered, fit(experiment, how, tmp_path / "unbroken"))
