"""The trade-off explorer shows the rows that its controls ask for."""

import json

import ipywidgets
import numpy as np
import pandas as pd
import pytest
import torch

from sbtutor import close_up, data, diversity, results, tradeoff, twins
from sbtutor.explore import Clicks
from sbtutor.explore_tradeoff import NOBODY
from sbtutor.explore_tradeoff import tradeoff as explorer
from sbtutor.tradeoff_figure import tradeoff_figure

SETTINGS = [
    ("sgd", 0.1, 0.5, "paper"),  # rho and k stand there, but are not used
    ("sam", 0.1, 0.5, "paper"),
    ("sam", 0.2, 0.5, "paper"),
    ("sharpbalance", 0.1, 0.25, "paper"),
    ("sharpbalance", 0.2, 0.5, "paper"),
    ("sharpbalance", 0.2, 0.5, "random"),
]
NAMES = [
    "DE",
    "SAM 0.1",
    "SAM 0.2",
    "SharpBalance 0.1, k 0.25",
    "SharpBalance 0.2, k 0.5",
    "random 0.2, k 0.5",
]
COLUMNS = [
    *("worst_case_l2", "hessian_trace", "test_der", "shift_der", "test_kl"),
    *("test_accuracy", "shift_accuracy", "test_nll"),
]
IMAGES, CLASSES = 40, 3
TABLES = ("sweep", "ablation", "cifar10", "fashion", "explorer")


@pytest.fixture
def runs():
    source, rows = np.random.default_rng(0), []
    for seed in (0, 10, 20):
        for method, rho, k, split in SETTINGS:
            number = len(rows) // 3
            for members in (2, 3, 4):
                about = dict(method=method, rho=rho, sam_fraction=k, split=split)
                about |= dict(number=number, seed=seed, members=members)
                rows.append(about | dict(zip(COLUMNS, source.random(len(COLUMNS)))))
    return pd.DataFrame(rows)


@pytest.fixture
def kept(runs):
    source = np.random.default_rng(1)
    count = runs["number"].nunique()
    probs = source.dirichlet([0.3] * CLASSES, (count, 4, IMAGES))
    return close_up.CloseUps(
        (255 * probs).round().astype(np.uint8),
        source.normal(size=probs.shape[:3]).astype(np.float16),
        torch.from_numpy(source.integers(0, CLASSES, IMAGES)),
        torch.arange(IMAGES),
    )


@pytest.fixture
def images(kept):
    source = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (IMAGES, 1, 6, 6), generator=source)
    return data.Split(pixels.byte(), kept.labels, ("ant", "bee/wasp", "cow"))


def drawn(figure):
    """The points of single runs, by number: (x, y, colour, shape)."""
    return {
        number: (x, y, tint, trace.marker.symbol)
        for trace in figure.data
        if trace.customdata is not None
        for number, x, y, tint in zip(
            trace.customdata, trace.x, trace.y, trace.marker.color
        )
    }


def named(figure, name):
    return next(trace for trace in figure.data if trace.name == name)


def test_rows_are_named_by_method_split_rho_and_share(runs):
    about = tradeoff.describe(runs[runs["seed"] == 0])
    assert about["name"].tolist() == [name for name in NAMES for _ in range(3)]
    assert about["rho"][:3].tolist() == [0, 0, 0]
    assert about["k"].isna().sum() == 9


@pytest.mark.parametrize(
    ("asked", "query"),
    [
        (dict(members=4), "members == 4"),
        (dict(members=2, x="hessian_trace", y="shift_der"), "members == 2"),
        (dict(members=4, colour="shift_accuracy"), "members == 4"),
        (dict(members=3, rho=0.0), "members == 3 and method == 'sgd'"),
        (dict(members=3, rho=0.1), "members == 3 and (method == 'sgd' or rho <= 0.1)"),
        (
            dict(members=4, k=0.25),
            "members == 4 and (method != 'sharpbalance' or sam_fraction == 0.25)",
        ),
    ],
)
def test_the_figure_shows_the_rows_that_are_asked_for(asked, query, runs):
    columns = [
        asked.get("x", "worst_case_l2"),
        asked.get("y", "test_der"),
        asked.get("colour", "test_accuracy"),
    ]
    expected = runs.query(query).set_index("number")[columns]
    found = drawn(tradeoff_figure(runs, **asked))
    assert set(found) == set(expected.index)
    for number, values in found.items():
        assert values[:3] == pytest.approx(expected.loc[number].to_numpy(), rel=1e-4)


def test_shapes_tell_methods_apart_and_stay(runs):
    def shapes(figure):
        return {t.name: t.marker.symbol for t in figure.data if t.customdata}

    whole = shapes(tradeoff_figure(runs, members=4))
    assert set(whole) == {"DE", "SAM", "SharpBalance", "random"}
    assert len(set(whole.values())) == 4
    few = shapes(tradeoff_figure(runs, members=4, rho=0.0))
    assert few == {"DE": whole["DE"]}


def test_means_have_the_intervals_of_results(runs):
    figure = tradeoff_figure(runs, members=4)
    trace = named(figure, "means")
    part = runs[runs["members"] == 4].assign(name=tradeoff.describe(runs)["name"])
    assert sorted(trace.text) == sorted(NAMES)
    alt = figure.layout.meta["alt"]
    assert all(f"{name} at (" in alt for name in NAMES)
    assert f"DE at ({trace.x[0]:.3g} ± {trace.error_x.array[0]:.2g}, " in alt
    for i, name in enumerate(trace.text):
        rows = part[part["name"] == name]
        for values, at, error in (
            (rows["worst_case_l2"], trace.x, trace.error_x),
            (rows["test_der"], trace.y, trace.error_y),
        ):
            mean, _, high, _ = results.interval(values)
            assert at[i] == pytest.approx(mean, rel=1e-4)
            assert error.array[i] == pytest.approx(high - mean, rel=1e-4)


def test_one_run_a_method_gets_no_interval(runs):
    figure = tradeoff_figure(runs[runs["seed"] == 0], members=4)
    assert len(named(figure, "means").x) == 0
    assert len(drawn(figure)) == len(SETTINGS)


def test_the_line_goes_from_de_along_sam(runs):
    line = named(tradeoff_figure(runs, members=4), "from DE along SAM")
    part = runs[runs["members"] == 4].assign(name=tradeoff.describe(runs)["name"])
    means = part.groupby("name")["worst_case_l2"].mean()
    assert list(line.x) == pytest.approx(means[NAMES[:3]].to_numpy(), rel=1e-4)


def test_the_chosen_run_gets_a_ring_where_it_is(runs):
    figure = tradeoff_figure(runs, members=3, run=4)
    row = runs.query("members == 3 and number == 4").iloc[0]
    ring = figure.data[-1]
    assert ring.name == "chosen: SharpBalance 0.2, k 0.5"
    assert (ring.x[0], ring.y[0]) == pytest.approx(
        (row["worst_case_l2"], row["test_der"]), rel=1e-4
    )
    hidden = tradeoff_figure(runs, members=3, run=4, rho=0.1)
    assert len(hidden.data) == len(tradeoff_figure(runs, members=3, rho=0.1).data)


def test_axes_and_colours_do_not_move_with_the_choice(runs):
    whole, few = (
        tradeoff_figure(runs, members=2, rho=rho).layout for rho in (None, 0.0)
    )
    assert whole.xaxis.range == few.xaxis.range
    assert whole.yaxis.range == few.yaxis.range
    assert whole.coloraxis == few.coloraxis


def test_undefined_numbers_are_left_out(runs):
    runs.loc[runs["number"] == 2, "test_der"] = np.nan
    assert 2 not in drawn(tradeoff_figure(runs, members=4))


def test_no_run_left_is_said(runs):
    figure = tradeoff_figure(runs, members=7)
    assert "No run is left" in figure.layout.meta["alt"]


def test_a_column_that_is_not_there_is_named(runs):
    with pytest.raises(ValueError, match="no column test_der2; it has method"):
        tradeoff_figure(runs, y="test_der2")


@pytest.mark.parametrize("columns", [["method"], ["seed"]])
def test_a_table_of_no_runs_is_refused(columns, runs):
    rows = runs[columns][: 0 if "method" in columns else 5]
    with pytest.raises(ValueError, match="a table with one row a run"):
        explorer(rows)


@pytest.mark.parametrize(
    ("lost", "axis"), [("worst|hessian", "x"), ("der|kl", "y"), ("accuracy", "colour")]
)
def test_a_table_without_measures_is_refused(lost, axis, runs):
    rows = runs[[c for c in runs if not any(p in c for p in lost.split("|"))]]
    with pytest.raises(ValueError, match=f"nothing to show as {axis}: it needs"):
        explorer(rows)


def test_close_ups_need_numbers(runs, kept):
    with pytest.raises(ValueError, match="no column `number`"):
        explorer(runs.drop(columns="number"), kept)


def spec(output):
    return output.outputs[0]["data"]["application/vnd.plotly.v1+json"]


def below(box):
    """The words, and the outputs of matrix, calibration and gallery."""
    words, both, gallery = box.children[-3:]
    return words, *both.children, gallery


def test_each_control_redraws_the_figure(runs):
    box = explorer(runs)
    for name, value in dict(
        x="hessian_trace",
        y="test_kl",
        colour="shift_accuracy",
        k=0.25,
        rho=0.1,
        members=2,
        run=3,
    ).items():
        before = spec(box.figure)
        box.controls[name].value = value
        assert spec(box.figure) != before, name
    shown = {name: control.value for name, control in box.controls.items()}
    expected = tradeoff_figure(runs, **shown)
    assert spec(box.figure)["data"] == expected.to_plotly_json()["data"]


def test_a_click_and_the_choice_of_a_run_do_the_same(runs, kept, images):
    one, other = (explorer(runs, kept, images) for _ in range(2))
    (clicks,) = (w for w in one.children if isinstance(w, Clicks))
    clicks.value = json.dumps({"point": 5})
    other.controls["run"].value = 5
    assert one.controls["run"].value == 5
    for a, b in zip([one.figure, *below(one)[1:]], [other.figure, *below(other)[1:]]):
        assert spec(a) == spec(b)
    assert below(one)[0].value == below(other)[0].value
    assert "random 0.2, k 0.5, seed 0, 4 members" in below(one)[0].value


def test_the_close_up_is_that_of_the_run_and_its_members(runs, kept, images):
    box = explorer(runs, kept, images)
    box.controls["run"].value, box.controls["members"].value = 7, 3
    words, matrix, calibration, gallery = below(box)
    run = close_up.of_run(kept, 7, 3)
    pairs = diversity.pairwise_disagreement(close_up.logits(run))
    z = twins._short(spec(matrix)["data"][0]["z"])
    np.testing.assert_allclose(z, pairs, atol=1e-4)
    names = [trace["name"] for trace in spec(calibration)["data"]]
    assert names == ["member 0", "member 1", "member 2", "ensemble"]
    captions = spec(gallery)["data"][1]["text"]
    most = close_up.most_disputed(run, len(captions))
    short = ["ant", "bee", "cow"]
    assert [c.split("<br>")[0] for c in captions] == [
        f"<b>{short[label]}</b>" for label in kept.labels[most]
    ]
    assert f"{close_up.table(run).loc['ensemble', 'accuracy']:.3f}" in words.value


def test_no_run_and_no_members_are_said(runs, kept):
    box = explorer(runs, kept)
    box.controls["run"].value = NOBODY
    words, *outputs = below(box)
    assert "No run is chosen" in words.value
    assert [output.outputs for output in outputs] == [()] * 3
    words, *outputs = below(explorer(runs))
    assert "No members were kept" in words.value
    assert f"{runs.query('number == 0 and members == 4')['test_nll'].iloc[0]:.3f}" in (
        words.value
    )


def test_a_table_of_finished_runs_will_do(runs):
    """No number, members of one size, networks of two widths: each row is a run."""
    rows = runs.query("members == 4").drop(columns=["number", "split"])
    rows = pd.concat([rows.assign(width=4), rows.assign(width=8)])
    box = explorer(rows)
    assert set(box.controls) == {"x", "y", "colour", "rho", "k", "width", "run"}
    assert set(drawn(tradeoff_figure(rows, width=8))) == set(range(18, 36))
    assert ("SAM 0.1, width 4, seed 10", 7) in box.controls["run"].options


@pytest.mark.parametrize(
    "name", ["sweep", "ablation", "cifar10", "fashion", "explorer"]
)
def test_the_committed_tables_open(name, request):
    path = request.path.parents[1] / "notebooks" / "results" / f"{name}.csv"
    runs = pd.read_csv(path)
    box = explorer(runs)
    shown = {n: c.value for n, c in box.controls.items()}
    few = runs
    for column in ("members", "width"):
        if column in box.controls:
            few = few[few[column] == shown[column]]
    assert len(drawn(tradeoff_figure(runs, **shown))) == len(few)


def test_the_twin_has_few_figures_and_the_current_one(runs):
    box = explorer(runs)
    twin = twins.states(box.draw, box.controls, box.twin)
    assert 10 < len(twin["figures"]) <= 60
    for about, control in zip(twin["controls"], box.controls.values()):
        assert about["values"][about["at"]] == twins.spoken(control, control.value)


def test_controls_can_be_moved_by_keyboard(runs):
    kinds = (ipywidgets.Dropdown, ipywidgets.SelectionSlider)
    assert all(isinstance(c, kinds) for c in explorer(runs).controls.values())


def test_a_run_that_comes_twice_is_refused(runs):
    with pytest.raises(ValueError, match=r"several rows a run.* as in members=3"):
        tradeoff_figure(runs)
