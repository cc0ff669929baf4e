"""A pool's networks are trained once, kept, found again, whatever is killed."""

import dataclasses
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from sbtutor import files, pool, predict
from sbtutor.config import DataConfig, Experiment, ModelConfig, TrainConfig
from sbtutor.space import Space
from sbtutor.trial import Trial

TOY = Experiment(
    data=DataConfig(name="digits", limit=60),
    model=ModelConfig(name="mlp", width=5, dropout=0.5),
    train=TrainConfig(
        members=1, epochs=2, batch_size=20, milestones=(2,), device="cpu"
    ),
)


pytestmark = pytest.mark.usefixtures("quiet")


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A search of six."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SBTUTOR_PROGRESS", "off")
        return pool.search(TOY, 6, tmp_path_factory.mktemp("pool"), jobs=1)


@pytest.fixture
def trained(monkeypatch):
    """The trials that are really trained from now on, in this process."""
    seen, real = [], pool.train_one

    def counted(experiment, split, trial):
        seen.append(trial)
        return real(experiment, split, trial)

    monkeypatch.setattr(pool, "train_one", counted)
    return seen


def vary(part, **settings):
    changed = dataclasses.replace(getattr(TOY, part), **settings)
    return dataclasses.replace(TOY, **{part: changed})


def with_l2(trial, value):
    changed = {n: value if n[:2] == "l2" else x for n, x in trial.settings.items()}
    return dataclasses.replace(trial, settings=changed)


def same(a, b):
    """Bit for bit; NaN is like NaN."""
    pairs = ((a.val, b.val), (a.test, b.test))
    return a.trials == b.trials and all(
        torch.equal(x.logits.nan_to_num(7e7), y.logits.nan_to_num(7e7))
        and torch.equal(x.labels, y.labels)
        for x, y in pairs
    )


def test_a_pools_logits_are_those_of_its_networks(searched):
    splits = pool.data.load(TOY.data)
    models = [searched.model(i) for i in range(len(searched))]
    for part in ("val", "test"):
        found = getattr(searched, part)
        expected = predict.predict(models, getattr(splits, part))
        torch.testing.assert_close(found.logits, expected.logits.cpu())
        assert torch.equal(found.labels, expected.labels)
    assert not any(module.training for model in models for module in model.modules())
    assert all(seconds > 0 for seconds in searched.seconds)


def test_a_search_has_one_init_and_for_each_network_its_own_rest(searched):
    assert {trial.init for trial in searched.trials} == {0}
    assert len({trial.order for trial in searched.trials}) == 6
    rates = {trial.settings["dropout"] for trial in searched.trials}
    assert len(rates) == 6
    logits = searched.val.logits
    assert not any(torch.equal(logits[0], other) for other in logits[1:])


def test_its_networks_start_from_the_same_weights_bit_for_bit(tmp_path):
    """Trained for no step at all, by a learning rate too small to count."""
    still = dataclasses.replace(TOY, train=dataclasses.replace(TOY.train, lr=1e-30))
    found = pool.search(still, 3, tmp_path, seed=4, jobs=1)
    first, *others = (found.model(i).state_dict() for i in range(3))
    start = pool.models.build(TOY.model, (1, 8, 8), 10, 4).state_dict()
    for name, tensor in first.items():
        assert all(torch.equal(tensor, other[name]) for other in others)
        if not name.startswith("normalize"):
            assert torch.equal(tensor.cpu(), start[name])


def test_without_fixed_init_each_network_has_its_own(tmp_path, trained):
    found = pool.search(TOY, 3, tmp_path, jobs=1, fixed_init=False)
    assert len({trial.init for trial in found.trials}) == 3
    fixed = pool.search(TOY, 3, tmp_path, jobs=1)
    settings = [[t.settings for t in p.trials] for p in (found, fixed)]
    assert settings[0] == settings[1]
    assert len(trained) == 6


def test_a_search_begins_with_every_smaller_one(searched, trained):
    """Of the same seed; nothing is trained twice."""
    small = pool.search(TOY, 4, searched.folder, jobs=1)
    assert same(small, searched.take(range(4)))
    assert not trained
    large = pool.search(TOY, 7, searched.folder, jobs=1)
    assert same(large.take(range(6)), searched)
    assert len(trained) == 1


def test_seed_and_space_decide_what_is_drawn(tmp_path):
    space = Space(l2=(1.0, 2.0), dropout=(0.1, 0.2), label_smoothing=(0.05, 0.06))
    tiny = vary("train", epochs=1)
    a, b = (pool.search(tiny, 3, tmp_path, space, seed, jobs=1) for seed in (1, 2))
    for trial in (*a.trials, *b.trials):
        for name, value in trial.settings.items():
            low, high = space.range_of(name)
            assert low <= value <= high
    assert not {str(t.settings) for t in a.trials} & {str(t.settings) for t in b.trials}
    assert [a.trials[0].init, b.trials[0].init] == [1, 2]
    assert not {t.order for t in a.trials} & {t.order for t in b.trials}


def test_the_number_of_processes_changes_nothing(searched, tmp_path):
    """Bit for bit, though this process uses two threads and each of the others one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        here = pool.search(TOY, 6, tmp_path / "here", jobs=1)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    there = pool.train(TOY, searched.trials[::-1], tmp_path / "there", jobs=2)
    assert same(here, searched)
    assert same(there.take(range(5, -1, -1)), searched)
    names = [[path.name for path in p.paths] for p in (here, searched)]
    assert names[0] == names[1]


def test_a_trial_that_is_asked_for_twice_is_trained_once(tmp_path, searched, trained):
    a, b = searched.trials[:2]
    found = pool.train(TOY, [a, b, a], tmp_path, jobs=1)
    assert trained == [a, b]
    assert same(found, searched.take([0, 1, 0]))
    pool.train(TOY, [b], tmp_path, jobs=1)
    assert len(trained) == 2


@pytest.mark.parametrize(
    "other",
    [
        vary("data", limit=61),
        vary("data", seed=1),
        vary("model", width=6),
        vary("train", lr=0.05),
        vary("train", epochs=3),
    ],
    ids=["images", "seed of images", "width", "lr", "epochs"],
)
def test_another_experiments_networks_lie_in_files_of_their_own(searched, other):
    found = pool.locate(other, searched.trials, searched.folder)
    assert not any(path.exists() for path in found)
    assert not {*found} & {*searched.paths}


@pytest.mark.parametrize(
    "other",
    [
        vary("train", seed=5, members=3, weight_decay=1.0, rho=2.0, device="auto"),
        vary("model", dropout=0.1),
        vary("data", root="elsewhere"),
    ],
    ids=["what a trial does not obey", "rate to be replaced", "place of the data"],
)
def test_what_makes_no_other_network_makes_no_other_file(searched, other):
    assert pool.locate(other, searched.trials, searched.folder) == searched.paths


@pytest.mark.parametrize("moment", [1, 4])
def test_a_killed_search_goes_on_where_it_stopped(
    searched, tmp_path, trained, dying, moment
):
    """Killed before the first file, and before the fourth, is in place."""
    code = "pool.search(experiment, 6, out, jobs=1)"
    process = dying(code, moment, experiment=TOY, out=tmp_path)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    kept = [path for path in searched.paths if (tmp_path / path.name).exists()]
    assert kept == searched.paths[: moment - 1]
    found = pool.search(TOY, 6, tmp_path, jobs=1)
    assert same(found, searched)
    assert trained == searched.trials[moment - 1 :]


@pytest.fixture
def part_diverged(searched, tmp_path):
    """Network 1 of three, by an L2 strength at which steps overshoot."""
    trials = searched.trials[:3]
    trials[1] = with_l2(trials[1], 1e20)
    return pool.train(TOY, trials, tmp_path, jobs=1)


def test_a_diverged_network_is_kept_as_nan(part_diverged, searched, trained):
    assert part_diverged.diverged == [1]
    for part in ("val", "test"):
        assert getattr(part_diverged, part).logits[1].isnan().all()
    finite = part_diverged.finite()
    assert finite.diverged == []
    assert same(finite, searched.take([0, 2]))
    pool.train(TOY, part_diverged.trials, part_diverged.folder, jobs=1)
    assert not trained  # it would diverge again


def test_one_infinite_logit_is_divergence_too(searched, tmp_path, monkeypatch):
    """Softmax would make NaN of it; all of the network's logits become NaN."""
    real = pool.predict

    def overflowing(members, split):
        found = real(members, split)
        found.logits[0, 3, 1] = torch.inf
        return found

    monkeypatch.setattr(pool, "predict", overflowing)
    found = pool.train(TOY, searched.trials[:1], tmp_path, jobs=1)
    assert found.diverged == [0]
    assert found.val.logits.isnan().all()
    assert found.test.logits.isnan().all()


def test_images_that_changed_under_their_name_are_trained_on_anew(
    searched, tmp_path, trained, monkeypatch
):
    trials = searched.trials[:1]
    before = pool.train(TOY, trials, tmp_path, jobs=1)
    splits = pool.data.load(TOY.data)
    other = dataclasses.replace(splits.train, images=255 - splits.train.images)
    monkeypatch.setattr(pool.data, "load", lambda _: splits._replace(train=other))
    after = pool.train(TOY, trials, tmp_path, jobs=1)
    assert len(trained) == 2
    assert before.paths != after.paths
    assert not torch.equal(before.val.logits, after.val.logits)
    monkeypatch.undo()
    assert same(pool.train(TOY, trials, tmp_path, jobs=1), before)


def test_a_pool_that_diverged_as_a_whole_says_so(part_diverged):
    with pytest.raises(
        ValueError, match="all 1 networks of the pool diverged; lower l"
    ):
        part_diverged.take([1]).finite()


def test_take_keeps_all_that_belongs_to_a_network_together(searched):
    taken = searched.take([4, 1])
    assert taken.trials == [searched.trials[4], searched.trials[1]]
    assert taken.paths == [searched.paths[4], searched.paths[1]]
    assert taken.seconds == [searched.seconds[4], searched.seconds[1]]
    assert torch.equal(taken.test.logits, searched.test.logits[[4, 1]])
    assert taken.folder == searched.folder
    assert len(taken) == 2


def test_a_damaged_file_is_named_with_what_to_do(tmp_path, searched, trained):
    trials = searched.trials[:2]
    made = pool.train(TOY, trials, tmp_path, jobs=1)
    content = made.paths[1].read_bytes()
    made.paths[1].write_bytes(content[:-100])
    message = f"{made.paths[1].name} was cut short.*delete it and run the same again"
    with pytest.raises(files.BrokenFileError, match=message):
        pool.train(TOY, trials, tmp_path, jobs=1)
    made.paths[1].unlink()
    assert same(pool.train(TOY, trials, tmp_path, jobs=1), made)
    assert trained == [*trials, trials[1]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda out: pool.search(TOY, 0, out), "at least one network, got size=0"),
        (lambda out: pool.train(TOY, [], out), "at least one trial, got none"),
        (
            lambda out: pool.search(vary("train", method="sam"), 1, out),
            "method='sgd', got 'sam'",
        ),
        (
            lambda out: pool.train(TOY, [Trial(settings={}, init=0, order=0)], out),
            "sets l2_hidden1, .*; got nothing",
        ),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_is(tmp_path, call, message):
    with pytest.raises(ValueError, match=message):
        call(tmp_path / "pool")
    assert not (tmp_path / "pool").exists()


def test_processes_divide_the_networks_among_them(searched, tmp_path, trained):
    """One network is being trained elsewhere, and ready when ours are."""
    held = tmp_path / searched.paths[1].name
    lock, real = held.with_suffix(".lock"), pool.train_one

    def ready(experiment, split, trial):
        shutil.copy(searched.paths[1], held)
        return real(experiment, split, trial)

    with files.locked(lock), pytest.MonkeyPatch.context() as patch:
        patch.setattr(pool, "train_one", ready)
        found = pool.search(TOY, 3, tmp_path, jobs=1)
    assert [trial.order for trial in trained] == [
        searched.trials[i].order for i in (0, 2)
    ]
    assert same(found, searched.take([0, 1, 2]))


def test_a_network_whose_process_died_is_trained_by_those_who_wait(
    searched, tmp_path, trained
):
    """The lock is let go of while we wait, without a network."""
    path = tmp_path / searched.paths[0].name
    with ThreadPoolExecutor(1) as threads:
        with files.locked(path.with_suffix(".lock")):
            waiting = threads.submit(pool.search, TOY, 2, tmp_path, jobs=1)
            while not trained and not waiting.done():
                time.sleep(0.01)
        found = waiting.result()
    assert len(trained) == 2
    assert same(found, searched.take([0, 1]))
    assert not [*tmp_path.glob("*.lock")]
