"""Deep, fixed-init and hyper-deep ensembles: what they hold and what they cost."""

import dataclasses
import shutil

import pytest
import torch

from sbtutor import hyper, metrics, predict
from sbtutor.config import DataConfig, Experiment, ModelConfig, TrainConfig
from sbtutor.space import Space

TOY = Experiment(
    data=DataConfig(name="digits", limit=200),
    model=ModelConfig(name="mlp", width=16, dropout=0.5),
    train=TrainConfig(
        members=1, epochs=6, batch_size=10, milestones=(2,), device="cpu"
    ),
)
MILD = Space(l2=(1e-3, 1.0), dropout=(1e-3, 0.3))  # where several settings are good
KAPPA, K = 8, 3


pytestmark = pytest.mark.usefixtures("quiet")


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SBTUTOR_PROGRESS", "off")
        out = tmp_path_factory.mktemp("pool")
        return hyper.search(TOY, KAPPA, out, MILD, jobs=1)


@pytest.fixture
def pool(searched, tmp_path):
    """The search alone, in a folder of its own: each file there is one training."""
    paths = [tmp_path / path.name for path in searched.paths]
    for old, new in zip(searched.paths, paths):
        shutil.copy(old, new)
    return dataclasses.replace(searched, paths=paths)


def trainings(pool):
    return len(list(pool.folder.iterdir()))


def nll(probs, labels):
    return metrics.nll(probs, labels).item()


def single_nll(pool):
    return [nll(x.softmax(-1), pool.val.labels) for x in pool.val.logits]


def test_a_hyper_ensemble_is_the_greedy_choice_and_trains_nothing(pool):
    found = hyper.hyper_ensemble(pool, K)
    probs = pool.val.logits.softmax(-1)
    assert found.chosen == hyper.greedy_ensemble(probs, pool.val.labels, K)
    assert len(set(found.chosen)) > 1  # or the tests here would say little
    assert found.trainings == trainings(pool) == KAPPA
    assert len({found.pool.trials[i].init for i in found.chosen}) == 1


def test_a_deep_ensemble_is_the_best_setting_from_k_inits(pool):
    """kappa + K - 1 trainings, by its account and by the files."""
    found = hyper.deep_ensemble(TOY, pool, K, jobs=1)
    scores = single_nll(pool)
    best = pool.trials[scores.index(min(scores))]
    assert found.pool.trials[0] == best
    assert {str(trial.settings) for trial in found.pool.trials} == {str(best.settings)}
    for name in ("init", "order"):
        assert len({getattr(trial, name) for trial in found.pool.trials}) == K
    assert found.chosen == [0, 1, 2]
    assert found.trainings == trainings(pool) == KAPPA + K - 1


@pytest.mark.parametrize("k", [2, 3, 7])
def test_a_hyper_deep_ensemble_crosses_settings_and_inits(pool, k):
    """kappa + U (K - 1) trainings, by its account and by the files; U < K = 7."""
    first = hyper.hyper_ensemble(pool, k)
    found = hyper.hyper_deep_ensemble(TOY, pool, k, jobs=1)
    u = len(first.unique)
    assert 1 < u <= k
    assert (u < k) == (k == 7)
    crossed = {(str(t.settings), t.init) for t in found.pool.trials}
    assert len(crossed) == len(found.pool) == u * k
    assert len({settings for settings, _ in crossed}) == u
    assert len({init for _, init in crossed}) == k
    assert len({trial.order for trial in found.pool.trials}) == u * k
    assert found.trainings == trainings(pool) == KAPPA + u * (k - 1)
    probs = found.pool.val.logits.softmax(-1)
    assert found.chosen == hyper.greedy_ensemble(probs, pool.val.labels, k)


def test_stratified_pools_begin_with_the_searched_networks(pool):
    made = hyper.stratify(TOY, pool, [5, 2, 5], 2, jobs=1)
    assert [made.trials[0], made.trials[2]] == [pool.trials[5], pool.trials[2]]
    assert torch.equal(made.val.logits[[0, 2]], pool.val.logits[[5, 2]])
    assert trainings(pool) == KAPPA + 2


def test_the_deep_ensembles_networks_serve_the_hyper_deep_one(pool):
    """The best setting is the first that greedy selection takes."""
    hyper.hyper_deep_ensemble(TOY, pool, K, jobs=1)
    before = trainings(pool)
    hyper.deep_ensemble(TOY, pool, K, jobs=1)
    assert trainings(pool) == before


def test_inits_are_nested_and_shared_by_trials_that_share_the_first(searched):
    a, b = (hyper.inits_of(trial, 5) for trial in searched.trials[:2])
    assert hyper.inits_of(searched.trials[0], 3) == a[:3]
    assert a[0] == searched.trials[0]
    assert [t.init for t in a] == [t.init for t in b]
    assert len({t.init for t in a}) == 5
    assert len({t.order for t in (*a, *b)}) == 10


def test_an_ensembles_probabilities_are_the_mean_over_its_choices(searched):
    ensemble = hyper.Ensemble(searched, chosen=[4, 1, 4], trainings=KAPPA)
    for part in ("val", "test"):
        probs = getattr(searched, part).logits.softmax(-1)
        expected = (2 * probs[4] + probs[1]) / 3
        torch.testing.assert_close(ensemble.probs(part), expected)
    assert ensemble.unique == [4, 1]
    weights = torch.tensor([0, 1, 0, 0, 2, 0, 0, 0]) / 3
    torch.testing.assert_close(ensemble.weights, weights)


def test_an_ensembles_members_are_its_different_networks(searched):
    ensemble = hyper.Ensemble(searched, chosen=[4, 1, 4], trainings=KAPPA)
    test = predict.data.load(TOY.data).test
    logits = predict.predict(ensemble.members(), test).logits
    torch.testing.assert_close(logits, searched.test.logits[[4, 1]])


@pytest.fixture
def part_diverged(pool):
    """The search, with a ninth network that diverged in front."""
    lost = dataclasses.replace(
        pool.trials[0], settings=pool.trials[0].settings | {"l2_head": 1e20}
    )
    return hyper.train(TOY, [lost, *pool.trials], pool.folder, jobs=1)


def test_a_network_that_diverged_is_passed_over_but_was_paid_for(pool, part_diverged):
    assert part_diverged.diverged == [0]
    whole, part = (hyper.hyper_ensemble(p, K) for p in (pool, part_diverged))
    assert part.pool.trials == pool.trials
    assert part.chosen == whole.chosen
    assert part.trainings == KAPPA + 1
    u = len(whole.unique)
    deep = hyper.deep_ensemble(TOY, part_diverged, K, jobs=1)
    both = hyper.hyper_deep_ensemble(TOY, part_diverged, K, jobs=1)
    assert [deep.trainings, both.trainings] == [KAPPA + K, KAPPA + 1 + u * (K - 1)]
    assert trainings(pool) == both.trainings
    assert torch.isfinite(torch.cat([deep.probs(), both.probs()])).all()


def test_an_init_that_diverges_leaves_a_smaller_deep_ensemble(pool, monkeypatch):
    """Its training counts all the same."""
    real = hyper.stratify

    def spoilt(*call):
        made = real(*call)
        made.val.logits[1] = torch.nan
        return made

    monkeypatch.setattr(hyper, "stratify", spoilt)
    found = hyper.deep_ensemble(TOY, pool, K, jobs=1)
    assert found.chosen == [0, 1]
    assert found.trainings == KAPPA + K - 1
    assert found.probs().isfinite().all()


def test_the_papers_example_50_searched_and_5_by_5_take_70():
    assert hyper.search_size(budget=70, size=5) == 50
    assert 50 + 5 * 4 == 70


@pytest.mark.parametrize("size", range(1, 7))
def test_the_search_gets_what_the_worst_stratification_leaves(size):
    """All K settings differ: kappa + K (K - 1) = B; the least kappa is K."""
    for budget in range(size**2, size**2 + 5):
        assert hyper.search_size(budget, size) + size * (size - 1) == budget
    assert hyper.search_size(size**2, size) == size


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: hyper.hyper_ensemble(p, 0), "at least one member, got size=0"),
        (lambda p: hyper.deep_ensemble(TOY, p, 0), "one initialisation, got size=0"),
        (lambda p: hyper.hyper_deep_ensemble(TOY, p, 0), "one member, got size=0"),
        (lambda p: hyper.stratify(TOY, p, [0], 0), "one initialisation, got size=0"),
        (
            lambda p: hyper.deep_ensemble(
                dataclasses.replace(TOY, data=DataConfig(name="digits")), p, K
            ),
            "searched with another experiment, or on other images; give the experiment",
        ),
        (lambda p: hyper.search_size(5, 0), "at least one member, got size=0"),
        (
            lambda p: hyper.search_size(24, 5),
            r"at least 25 trainings \(5 searched, 20 for other first.*budget=24",
        ),
    ],
)
def test_what_cannot_be_is_refused(pool, call, message):
    with pytest.raises(ValueError, match=message):
        call(pool)
    assert trainings(pool) == KAPPA
