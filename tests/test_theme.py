"""The palette can be told apart, on light pages and on dark, by colour-blind eyes."""

import itertools

import numpy as np
import pytest
from plotly.offline import get_plotlyjs

from sbtutor import maps, plots, theme

PAGES = ("#ffffff", "#111111", "#14171b")  # paper, JupyterLab's dark, the book's dark

# Machado, Oliveira and Fernandes (2009): severity 1, linear RGB.
VIEWERS = {
    "typical": np.eye(3),
    "protan": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deutan": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritan": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
TO_XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)


def lab(colour, viewer="typical"):
    """CIE L*a*b* of a colour as a viewer sees it."""
    value = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    seen = np.clip(VIEWERS[viewer] @ linear, 0, 1)
    ratio = TO_XYZ @ seen / TO_XYZ.sum(axis=1)
    f = np.where(ratio > 216 / 24389, np.cbrt(ratio), 841 / 108 * ratio + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def nearest(colours, viewer):
    """The smallest difference of any two colours (CIE 1976; 2.3 is just noticeable)."""
    pairs = itertools.combinations([lab(c, viewer) for c in colours], 2)
    return min(np.linalg.norm(a - b) for a, b in pairs)


def test_contrast_is_that_of_wcag():
    assert theme.contrast("#000000", "#ffffff") == pytest.approx(21)
    assert theme.contrast("#ffffff", "#777777") == pytest.approx(4.48, abs=0.005)
    assert theme.contrast("#777777", "#ffffff") == theme.contrast("#ffffff", "#777777")
    assert theme.contrast("#123456", "#123456") == 1


@pytest.mark.parametrize("colour", ["red", "#fff", "#1234567", "rgb(1,2,3)"])
def test_colours_written_otherwise_are_refused(colour):
    with pytest.raises(ValueError, match=r"is not as in '#0072B2'; write it in hex"):
        theme.luminance(colour)


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("colour", [*theme.COLOURS, theme.GREY, theme.AXIS])
def test_all_that_is_drawn_stands_out_from_each_page(colour, page):
    assert theme.contrast(colour, page) >= 3


def test_words_can_be_read():
    assert theme.contrast(theme.INK, theme.PAPER) >= 4.5
    assert all(theme.contrast(theme.DARK_INK, page) >= 4.5 for page in PAGES[1:])


@pytest.mark.parametrize("viewer", VIEWERS)
def test_each_viewer_can_tell_the_colours_apart(viewer):
    assert nearest(theme.COLOURS, viewer) >= 14


def test_the_simulation_sees_what_is_hard_to_tell_apart():
    red_and_green = ["#c02020", "#668000"]
    assert nearest(red_and_green, "typical") > 60
    assert nearest(red_and_green, "deutan") < 14


def test_colours_shapes_and_dashes_say_the_same():
    looks = [theme.look(i) for i in range(len(theme.COLOURS))]
    assert len({look["marker"]["color"] for look in looks}) == len(looks)
    assert len({look["marker"]["symbol"] for look in looks}) == len(looks)
    assert all(look["line"]["color"] == look["marker"]["color"] for look in looks)
    assert len({look["line"]["dash"] for look in looks}) == len(looks) - 1
    assert theme.look(len(looks)) == looks[0]


def test_the_stylesheet_turns_only_dark_pages_dark():
    screen = theme.stylesheet('body[data-jp-theme-light="false"]')
    for line in screen.splitlines():
        parts, _, look = line.partition("{")
        begins = 'body[data-jp-theme-light="false"] .js-plotly-plot '
        assert all(part.startswith(begins) for part in parts.split(","))
        assert "!important" in look
    book = theme.stylesheet("@media (prefers-color-scheme: dark)", "#14171b")
    assert book.startswith("@media (prefers-color-scheme: dark){.js-plotly-plot ")
    assert "#14171b" in book
    assert "#14171b" not in screen


def drawn():
    """A figure of each kind that has words, lines or paper of its own."""
    a = [0.0, 1.0]
    z = np.eye(4)
    yield plots.lines(a, {"one": a, "two": a}, "T", "x", "y")
    yield plots.matrix(z, list("abcd"), "T", "share")
    yield plots.surface(a, a, [a, a], "T", "x", "y", "z", {"mark": (0.5, 0.5)})
    yield maps.heatmaps({"a": z, "b": z}, ["r", "s"], "T", "epoch")
    yield plots.gallery(np.zeros((2, 1, 4, 4), np.uint8), ["a", "b"], "T")


LOOK = """() => {
  const look = (selector, what) => [...document.querySelectorAll(selector)]
    .filter((part) => getComputedStyle(part).fillOpacity > 0)
    .map((part) => getComputedStyle(part)[what]);
  return {
    words: look("text:not(.heatmap-label text)", "fill"),
    cells: look(".heatmap-label text", "fill"),
    paper: look(".main-svg:first-of-type", "backgroundColor"),
    boxes: look(".bg", "fill"),
    grid: look(".gridlayer path", "stroke"),
    lines: look(".trace .js-line", "stroke"),
  };
}"""


def looks(browser, scheme):
    """What a browser makes of the figures, as sets of colours."""
    page = browser.new_page(color_scheme=scheme)
    style = theme.stylesheet("@media (prefers-color-scheme: dark)")
    page.set_content(f"<style>{style}</style>")
    page.add_script_tag(content=get_plotlyjs())
    for figure in drawn():
        page.evaluate(
            """async (spec) => {
              const { data, layout } = JSON.parse(spec);
              await Plotly.newPlot(document.body.appendChild(
                document.createElement("div")), data, layout);
            }""",
            figure.to_json(),
        )
    found = page.evaluate(LOOK)
    page.close()
    return {part: set(colours) for part, colours in found.items()}


def rgb(colour):
    """A colour as browsers say it."""
    return "rgb" + str(tuple(bytes.fromhex(colour[1:])))


def test_a_browser_turns_all_but_the_data_dark(browser):
    light, dark = looks(browser, "light"), looks(browser, "dark")
    assert all(light.values()), "each kind of part occurs"
    assert dark["words"] == {rgb(theme.DARK_INK)}
    assert dark["paper"] == dark["boxes"] == {rgb(theme.DARK_PAPER)}
    assert dark["grid"] == {rgb(theme.DARK_GRID)}
    assert light["words"] == {rgb(theme.INK)}
    assert light["paper"] == {rgb(theme.PAPER)}
    assert light["lines"] == dark["lines"] == {rgb(c) for c in theme.COLOURS[:2]}
    assert light["cells"] == dark["cells"], "words in cells suit their cells"
