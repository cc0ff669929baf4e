"""Close-ups say what the arrays beside a table say, and refuse broken ones."""

import numpy as np
import pytest
import torch

from sbtutor import close_up, diversity, files, metrics

RUNS, MEMBERS, IMAGES, CLASSES = 3, 4, 60, 5


def some_arrays(seed=0):
    """Random probabilities in steps of 1/255, many of them 0, and Fisher traces."""
    source = np.random.default_rng(seed)
    logits = 4 * source.normal(size=(RUNS, MEMBERS, IMAGES, CLASSES))
    probs = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    return {
        "probs": (255 * probs).round().astype(np.uint8),
        "log10_fisher": source.normal(size=probs.shape[:3]).astype(np.float16),
        "labels": source.integers(0, CLASSES, IMAGES).astype(np.uint8),
        "places": source.permutation(IMAGES).astype(np.int16),
    }


@pytest.fixture
def arrays():
    return some_arrays()


@pytest.fixture
def kept(arrays, tmp_path):
    files.save_arrays(tmp_path / "kept.npz", **arrays)
    return close_up.load(tmp_path / "kept.npz")


def test_a_run_has_the_first_members_of_its_arrays(kept, arrays):
    run = close_up.of_run(kept, 1, 3)
    probs = arrays["probs"][1, :3].astype(float)
    torch.testing.assert_close(run.probs.sum(-1), torch.ones(3, IMAGES))
    expected = probs / probs.sum(-1, keepdims=True)
    np.testing.assert_allclose(run.probs.numpy(), expected, rtol=1e-6)
    np.testing.assert_array_equal(run.log10_fisher, arrays["log10_fisher"][1, :3])
    np.testing.assert_array_equal(run.places, arrays["places"])
    assert len(close_up.of_run(kept, 2).probs) == MEMBERS


def test_disagreement_is_that_of_the_votes(kept, arrays):
    """Counted pair by pair from the integers, with no logarithm."""
    run = close_up.of_run(kept, 0)
    votes = arrays["probs"][0].argmax(-1)
    np.testing.assert_array_equal(close_up.votes(run), votes)
    pairs = [[(a != b).mean() for b in votes] for a in votes]
    matrix = close_up.disagreement_matrix(run)
    np.testing.assert_allclose(matrix, pairs, rtol=1e-6)
    by_image = close_up.vote_disagreement(run)
    off = [
        np.mean(
            [votes[i, n] != votes[j, n] for i in range(4) for j in range(4) if i != j]
        )
        for n in range(IMAGES)
    ]
    np.testing.assert_allclose(by_image, off, rtol=1e-6)
    torch.testing.assert_close(
        by_image.mean(), diversity.disagreement(close_up.logits(run))
    )


def test_a_probability_of_0_adds_nothing_to_js(kept):
    """JS = H(mean) - mean H, where 0 log 0 = 0."""
    run = close_up.of_run(kept, 0)
    assert (run.probs == 0).any()
    p = run.probs.double()

    def entropy(q):
        return -torch.xlogy(q, q).sum(-1)

    expected = entropy(p.mean(0)) - entropy(p).mean(0)
    found = close_up.js_divergence(run).double()
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(
        found.mean().float(), diversity.js_divergence(close_up.logits(run))
    )


def test_the_most_disputed_images_come_first(kept):
    run = close_up.of_run(kept, 2)
    differ, js = close_up.vote_disagreement(run), close_up.js_divergence(run)
    keys = [(-float(differ[n]), -float(js[n]), n) for n in range(IMAGES) if differ[n]]
    expected = [n for *_, n in sorted(keys)]
    assert close_up.most_disputed(run, IMAGES).tolist() == expected
    assert close_up.most_disputed(run, 5).tolist() == expected[:5]


def test_members_that_agree_dispute_no_image(kept):
    run = close_up.of_run(kept, 0)
    alike = run._replace(probs=run.probs[:1].expand(3, -1, -1))
    assert len(close_up.most_disputed(alike, 10)) == 0


def test_sharpness_beyond_the_tenth_has_mean_0_in_each_tenth():
    sharp = torch.randperm(100, generator=torch.Generator().manual_seed(0)).float()
    disputed = 2 * sharp + (sharp % 3)
    beyond = close_up.beyond_equally_sharp(sharp, disputed)
    for low in range(0, 100, 10):
        tenth = (sharp >= low) & (sharp < low + 10)
        expected = disputed[tenth] - disputed[tenth].mean()
        torch.testing.assert_close(beyond[tenth], expected)


def test_the_table_and_the_bins_are_those_of_metrics(kept):
    run = close_up.of_run(kept, 0, 2)
    table, bins = close_up.table(run), close_up.calibration(run)
    assert list(table.index) == list(bins) == ["member 0", "member 1", "ensemble"]
    for name, probs in zip(table.index, [*run.probs, run.probs.mean(0)]):
        for measure in ("accuracy", "brier", "ece"):
            expected = float(getattr(metrics, measure)(probs, run.labels))
            assert table.loc[name, measure] == pytest.approx(expected)
        right = (probs.argmax(-1) == run.labels).sum()
        found = bins[name]
        assert (found.accuracy.nan_to_num() * found.count).sum() == pytest.approx(right)
    assert table["log10_fisher_trace"].isna().tolist() == [False, False, True]
    np.testing.assert_allclose(
        table["log10_fisher_trace"][:2], run.log10_fisher.mean(1), rtol=1e-6
    )


def test_rounding_to_255_steps_moves_js_little():
    """Against unrounded probabilities: less than 1 % of the mean."""
    source = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(4, 500, 10, generator=source)
    probs = logits.softmax(-1)
    rounded = (255 * probs).round() / 255
    run = close_up.CloseUp(
        rounded / rounded.sum(-1, keepdim=True),
        torch.zeros(4, 500),
        torch.zeros(500, dtype=torch.long),
        torch.arange(500),
    )
    exact = diversity.js_divergence(logits)
    assert abs(close_up.js_divergence(run).mean() / exact - 1) < 0.01


def test_a_missing_file_says_what_to_run(tmp_path):
    with pytest.raises(ValueError, match=r"no close-ups at .*recompute.py explorer"):
        close_up.load(tmp_path / "none.npz")


def test_a_file_cut_short_is_refused(arrays, tmp_path):
    path = tmp_path / "kept.npz"
    files.save_arrays(path, **arrays)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match="cut short or altered"):
        close_up.load(path)


def test_other_arrays_are_refused(arrays, tmp_path):
    del arrays["places"]
    files.save_arrays(tmp_path / "kept.npz", **arrays)
    with pytest.raises(ValueError, match=r"close-ups are \['labels', 'log10_fisher'"):
        close_up.load(tmp_path / "kept.npz")


@pytest.mark.parametrize("name", ["labels", "log10_fisher", "probs"])
def test_arrays_of_other_sizes_are_refused(name, arrays, tmp_path):
    arrays[name] = arrays[name][:-1]
    files.save_arrays(tmp_path / "kept.npz", **arrays)
    with pytest.raises(ValueError, match="do not fit together"):
        close_up.load(tmp_path / "kept.npz")


@pytest.mark.parametrize("number", [-1, RUNS])
def test_a_run_out_of_range_is_refused(number, kept):
    with pytest.raises(ValueError, match=f"runs 0 to 2, got number {number}"):
        close_up.of_run(kept, number)


@pytest.mark.parametrize("members", [0, MEMBERS + 1])
def test_more_members_than_were_kept_are_refused(members, kept):
    with pytest.raises(ValueError, match=f"1 to 4, .* got {members}"):
        close_up.of_run(kept, 0, members)
