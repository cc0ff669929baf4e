"""The member explorer sorts images as it says, and shows them."""

import base64
import io

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy import stats

from sbtutor import album, close_up, data, describe, sharp_images, twins
from sbtutor.explore_members import members, members_figure

RUNS, MEMBERS, IMAGES = 4, 3, 50
CLASSES = ("ant", "bee/wasp", "cow", "dog")


@pytest.fixture
def kept():
    source = np.random.default_rng(0)
    probs = source.dirichlet([0.4] * len(CLASSES), (RUNS, MEMBERS, IMAGES))
    return close_up.CloseUps(
        (255 * probs).round().astype(np.uint8),
        source.normal(size=probs.shape[:3]).astype(np.float16),
        torch.from_numpy(source.integers(0, len(CLASSES), IMAGES)),
        torch.from_numpy(source.permutation(2 * IMAGES)[:IMAGES]),
    )


@pytest.fixture
def images(kept):
    """A test split in which each image has a grey of its own."""
    pixels = torch.arange(2 * IMAGES).byte()[:, None, None, None].expand(-1, 1, 4, 4)
    labels = torch.zeros(2 * IMAGES, dtype=torch.long)
    labels[kept.places] = kept.labels
    return data.Split(pixels.clone(), labels, CLASSES)


@pytest.fixture
def runs():
    methods = ["sgd", "sam", "sgd", "sam"]
    rows = [
        dict(number=n, method=m, rho=0.1, members=size, seed=n // 2)
        for n, m in enumerate(methods)
        for size in (2, 3)
    ]
    return pd.DataFrame(rows)


@pytest.fixture
def given(kept):
    return sharp_images.scores(kept, [0, 2])


def test_scores_are_means_over_the_runs(given, kept):
    fisher = kept.log10_fisher.astype(float)[[0, 2]].mean((0, 1))
    np.testing.assert_allclose(given.sharp, fisher, atol=1e-5)
    two = [close_up.of_run(kept, n) for n in (0, 2)]
    for name, measure in (
        ("js", close_up.js_divergence),
        ("votes", close_up.vote_disagreement),
    ):
        expected = (measure(two[0]) + measure(two[1])) / 2
        np.testing.assert_allclose(getattr(given, name), expected, rtol=1e-5)
    votes = kept.probs[[0, 2]].argmax(-1).reshape(-1, IMAGES)
    for n in range(IMAGES):
        counted = np.bincount(votes[:, n], minlength=len(CLASSES))
        assert given.counts[n].tolist() == counted.tolist()


def test_no_runs_have_no_scores(kept):
    with pytest.raises(ValueError, match="means over runs, and there are none"):
        sharp_images.scores(kept, [])


@pytest.mark.parametrize("measure", ["js", "votes"])
@pytest.mark.parametrize("by", ["sharpness", "disagreement", "beyond"])
def test_images_are_in_order(by, measure, given):
    value = dict(sharpness=given.sharp, disagreement=getattr(given, measure)).get(by)
    if by == "beyond":
        value = getattr(given, measure).copy()
        for tenth in np.split(np.argsort(given.sharp), 10):
            value[tenth] = value[tenth] - value[tenth].mean()
    kept = np.arange(0, IMAGES, 2)
    expected = sorted(kept, key=lambda n: (-round(float(value[n]), 5), n))
    found = sharp_images.order(given, by, measure, kept)
    rounded = [[round(float(value[n]), 5) for n in at] for at in (found, expected)]
    assert rounded[0] == rounded[1]
    assert sorted(found) == list(kept)


def test_a_window_is_the_top_the_middle_or_the_bottom():
    ranked = np.arange(10)[::-1]
    assert sharp_images.window(ranked, "top", 3).tolist() == [9, 8, 7]
    assert sharp_images.window(ranked, "middle", 4).tolist() == [6, 5, 4, 3]
    assert sharp_images.window(ranked, "bottom", 3).tolist() == [2, 1, 0]
    for where in sharp_images.WHERE:
        assert sharp_images.window(ranked, where, 99).tolist() == ranked.tolist()


def test_rank_correlation_is_spearmans_and_its_interval_covers():
    source = np.random.default_rng(0)
    a = source.normal(size=300)
    b = a + source.normal(size=300)
    rank, low, high = sharp_images.rank_correlation(a, b)
    assert rank == pytest.approx(stats.spearmanr(a, b).statistic)
    # Fisher's approximate standard error of a rank correlation, 1.03 / sqrt(n - 3)
    near = np.tanh(np.arctanh(rank) + 1.96 * 1.03 / 297**0.5 * np.array([-1, 1]))
    assert (low, high) == pytest.approx(near, abs=0.02)


@pytest.mark.parametrize("b", [[1.0, 1.0, 1.0, 1.0], [1.0, 2.0]])
def test_rank_correlation_can_be_undefined(b):
    found = sharp_images.rank_correlation(np.arange(len(b)), np.array(b))
    assert np.isnan(found).all()


def pixels(trace):
    """The picture of an image trace."""
    content = base64.b64decode(trace.source.split(",")[1])
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGBA"))


def shown(figure):
    """The greys in a mosaic, row by row, and the captions."""
    picture, captions = figure.data[-2:]
    whole = pixels(picture)
    greys = []
    for x, y in zip(captions.x, captions.y):
        column = round(x / picture.dx)
        row = round((y + 0.5) / picture.dy)
        assert whole[row, column, 3] == 255
        greys.append(int(whole[row, column, 0]))
    return greys, list(captions.text)


@pytest.mark.parametrize("where", ["top", "middle", "bottom"])
def test_the_gallery_shows_the_images_in_order(where, given, kept, images):
    at = sharp_images.order(given, "sharpness", "js", np.arange(IMAGES))
    at = sharp_images.window(at, where, 7)
    figure = members_figure(
        given,
        images.images[kept.places].numpy(),
        kept.labels.numpy(),
        CLASSES,
        where=where,
        count=7,
    )
    greys, captions = shown(figure)
    assert greys == kept.places[at].tolist()
    short = ("ant", "bee", "cow", "dog")
    for n, caption in zip(at, captions):
        true, most, *_ = caption.split("<br>")
        assert true == f"<b>{short[kept.labels[n]]}</b>"
        best = given.counts[n].argmax()
        share = given.counts[n][best] / given.counts[n].sum()
        assert most == f"{short[best]} {share:.0%}"
    told = describe.table(figure.to_plotly_json())
    assert told[0] == ["image", "caption"]
    assert [row[1] for row in told[1:]] == [
        album.spoken(caption).replace(": ", ", ", 1) for caption in captions
    ]
    ring = figure.data[1]
    assert list(ring.x) == pytest.approx(given.sharp[at], abs=1e-3)
    assert list(ring.y) == pytest.approx(given.js[at], abs=1e-4)


def test_one_class_shows_its_images_only(given, kept, images):
    labels = kept.labels.numpy()
    figure = members_figure(
        given,
        images.images[kept.places].numpy(),
        labels,
        CLASSES,
        measure="votes",
        of_class="bee/wasp",
        count=30,
    )
    _, captions = shown(figure)
    of_class = labels == 1
    assert len(captions) == of_class.sum() == len(figure.data[0].x)
    assert {caption.split("<br>")[0] for caption in captions} == {"<b>bee</b>"}
    rank = stats.spearmanr(given.sharp[of_class], given.votes[of_class]).statistic
    assert f"rank correlation {rank:.2f} [" in figure.layout.title.text
    assert f"rank correlation {rank:.2f} [" in figure.layout.meta["alt"]


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (dict(by="colour"), "unknown by 'colour' or measure 'js'"),
        (dict(measure="kl"), "measure is one of|measure one of js, votes"),
        (dict(where="left"), "unknown where 'left': choose one of top"),
        (dict(of_class="owl"), "unknown class 'owl': choose one of all, ant"),
    ],
)
def test_an_unknown_choice_is_refused(choice, message, given, kept, images):
    with pytest.raises(ValueError, match=message):
        members_figure(
            given, images.images.numpy(), kept.labels.numpy(), CLASSES, **choice
        )


def spec(box):
    return box.figure.outputs[0]["data"]["application/vnd.plotly.v1+json"]


def test_each_control_redraws_the_figure(runs, kept, images):
    box = members(runs, kept, images)
    for name, value in dict(
        by="beyond",
        measure="votes",
        where="bottom",
        of_class="cow",
        count=6,
        method="SAM 0.1",
    ).items():
        before = spec(box)
        box.controls[name].value = value
        assert spec(box) != before, name
    choices = {name: control.value for name, control in box.controls.items()}
    expected = members_figure(
        sharp_images.scores(kept, [1, 3]),
        images.images[kept.places].numpy(),
        kept.labels.numpy(),
        CLASSES,
        **choices,
    )
    assert spec(box)["data"] == expected.to_plotly_json()["data"]


def test_members_need_numbers(runs, kept, images):
    with pytest.raises(ValueError, match="no column `number`"):
        members(runs.drop(columns="number"), kept, images)


def test_the_twin_is_small(runs, kept, images):
    box = members(runs, kept, images, twin={"of_class": ["all", "cow"]})
    twin = twins.states(box.draw, box.controls, box.twin)
    assert len(twin["figures"]) == 3 * 3 * 2 * 2


def test_a_mosaic_keeps_the_pixels_of_colour_images():
    source = np.random.default_rng(0)
    images = source.integers(0, 2, (5, 3, 8, 8), dtype=np.uint8) * 255
    source_url, at, (wide, high) = album.mosaic(images, columns=3)
    content = base64.b64decode(source_url.split(",")[1])
    whole = np.asarray(Image.open(io.BytesIO(content)).convert("RGBA"))
    assert whole.shape[:2] == (round(high * 8), round(wide * 8))
    for image, (x, y) in zip(images, at):
        left, top = round((x - 0.5) * 8), round((y + 0.03) * 8)
        tile = whole[top : top + 8, left : left + 8]
        np.testing.assert_array_equal(tile[..., :3], image.transpose(1, 2, 0))
        assert (tile[..., 3] == 255).all()


def test_an_empty_gallery_says_so():
    figure = album.gallery(np.zeros((0, 1, 4, 4), np.uint8), [], "Nothing")
    assert figure.layout.meta["alt"] == "Nothing. 0 images: none."
    assert len(figure.data) == 0


def test_wilsons_interval_is_scipys():
    for right, n in ((0, 3), (7, 9), (50, 50)):
        low, high = album.wilson(np.array([right / n]), np.array([n]))
        expected = stats.binomtest(right, n).proportion_ci(method="wilson")
        assert (low[0], high[0]) == pytest.approx((expected.low, expected.high))


def test_calibration_shows_each_full_bin_with_its_interval(kept):
    bins = close_up.calibration(close_up.of_run(kept, 0), bins=5)
    figure = album.reliability(bins, "Calibration")
    assert [trace.name for trace in figure.data] == list(bins)
    for trace, columns in zip(figure.data, bins.values()):
        full = columns.count > 0
        gap = (columns.accuracy - columns.confidence)[full]
        assert list(trace.y) == pytest.approx(gap.numpy(), abs=1e-4)
        low, high = album.wilson(
            columns.accuracy[full].double().numpy(), columns.count[full].numpy()
        )
        assert [y + e for y, e in zip(trace.y, trace.error_y.array)] == pytest.approx(
            high - columns.confidence[full].numpy(), abs=2e-4
        )
        assert (np.array(trace.error_y.arrayminus) >= 0).all()
        assert low.min() >= 0


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ([0, 4, 0, 0], "<b>cow</b><br>bee 100%"),
        ([1, 0, 3, 0], "<b>cow</b><br>cow 75%<br>ant 25%"),
        ([1, 0, 1, 2], "<b>cow</b><br>dog 50%<br>ant 25%, …"),
    ],
)
def test_a_caption_names_the_truth_and_the_most_votes(counts, expected):
    assert album.caption(2, counts, CLASSES) == expected
    words = album.spoken(expected)
    assert words == expected.replace("<b>cow</b><br>", "cow: ").replace("<br>", ", ")
