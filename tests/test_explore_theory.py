"""What the theory explorer shows is what `theory` computes."""

import math

import pytest

from sbtutor import explore, explore_theory, theory, widgets

SETTING = dict(eta=0.01, rho=0.25, k=3, ratio=20.0, blocks=10, rho0=0.01)


def named(figure, name):
    """The lines of one name, plot after plot."""
    return [trace for trace in figure.data if trace.name == name]


def test_lines_and_stars_are_direct_calls():
    figure = explore_theory.figure(**SETTING)
    radii = named(figure, "SAM")[0].x
    at = radii.index(0.24)
    model = (3, 20.0, 0.01, 0.24)
    low, high = theory.sam_sharpness_bounds(*model, 0.01, 15**0.5, "tight", 150)
    variance, upper, trade_off = named(figure, "SAM")
    assert variance.y[at] == theory.sam_variance(*model, 0.1)
    assert upper.y[at] == high
    assert named(figure, "SAM, lower bound")[0].y[at] == low
    assert (trade_off.x[at], trade_off.y[at]) == (high, variance.y[at])
    blocks, bound, _ = named(figure, "SharpBalance")
    assert blocks.y[at] == theory.sharpbalance_variance(*model, 0.1, 10, 150, 15**0.5)
    for form, line in (
        ("exact", bound),
        ("code", named(figure, "SharpBalance, published Q")[0]),
    ):
        assert line.y[at] == theory.sharpbalance_sharpness_bound(
            *model, 0.01, 15**0.5, 10, form
        )
    star = named(figure, "SAM, your rho")
    here = theory.sam_variance(3, 20.0, 0.01, 0.25, 0.1)
    assert [s.x[0] for s in star[:2]] == [0.25, 0.25]
    assert star[0].y[0] == star[2].y[0] == here
    assert figure.layout.title.text.startswith(f"rho 0.25: variance of SAM {here:.3g}")


def test_one_block_is_sam():
    figure = explore_theory.figure(**SETTING | {"blocks": 1})
    for sam, split in zip(named(figure, "SAM"), named(figure, "SharpBalance")):
        assert sam.y == pytest.approx(split.y)


@pytest.mark.parametrize(("ratio", "eta"), [(20.0, 0.01), (5.0, 0.02), (2.0, 0.1)])
def test_sam_overshoots_where_the_largest_factor_leaves_minus_one(ratio, eta):
    edge, top = explore_theory.overshoot_rho(ratio, eta), (math.sqrt(ratio) + 1) ** 2
    assert 1 - eta * top - eta * edge * top**2 == pytest.approx(-1)


def test_where_descent_itself_diverges_any_rho_overshoots():
    assert explore_theory.overshoot_rho(40.0, 0.1) == 0


def test_the_dotted_line_is_drawn_where_it_is_in_sight():
    near = explore_theory.figure(**SETTING)
    edge = explore_theory.overshoot_rho(20.0, 0.01)
    assert {shape.x0 for shape in near.layout.shapes} == {edge}
    assert not explore_theory.figure(**SETTING | {"eta": 0.001}).layout.shapes


def test_a_lower_bound_below_zero_has_no_place_on_a_logarithmic_axis():
    setting = SETTING | {"k": 8, "ratio": 2.0, "rho": 0.5, "eta": 0.02, "rho0": 0.001}
    low = [
        theory.sam_sharpness_bounds(8, 2.0, 0.02, r, 0.001, 15**0.5, "tight", 150)[0]
        for r in explore_theory.RADII
    ]
    shown = named(explore_theory.figure(**setting), "SAM, lower bound")[0].y
    assert [y is None for y in shown] == [value <= 0 for value in low]


def test_each_slider_moves_the_figure():
    box = widgets.theory()
    for name, value in dict(
        rho=0.3, eta=0.004, k=5, ratio=9.0, blocks=3, rho0=0.1
    ).items():
        before = box.figure.outputs[0]["data"][explore.PLOTLY]
        box.controls[name].value = value
        assert box.figure.outputs[0]["data"][explore.PLOTLY] != before
    assert box.figure.outputs[0]["data"][explore.PLOTLY]["layout"]["meta"]["alt"]


def test_the_twin_holds_the_first_values():
    box = widgets.theory()
    for name, values in box.twin.items():
        assert box.controls[name].value in values
