"""Figures of a close-up: many images in one picture, captions, calibration.

An explorer draws them anew while a slider moves, so each is made of few traces.
"""

import base64
import io
from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
import torch
from PIL import Image

from sbtutor import close_up, metrics, theme
from sbtutor.close_up import CloseUp
from sbtutor.plots import wilson

GAP = 0.12  # between tiles, in images
ROOM = 0.46  # for the three lines of a caption, in images
TILE = 122  # pixels from one image to the next on the page
TEMPLATE = theme.TEMPLATE.to_plotly_json()  # plain, as plotly copies objects slowly


def mosaic(
    images: np.ndarray, columns: int = 6
) -> tuple[str, np.ndarray, tuple[float, float]]:
    """Images side by side in one picture, with room for a caption above each.

    Args:
        images: uint8 (n, C, H, W), C = 1 or 3; not empty.
        columns: images in a row.

    Returns:
        The picture as a PNG in a data URL, transparent between the images; where each
        image's caption belongs, (n, 2), in images from the left and from the top; the
        picture's width and height, in images.
    """
    n, channels, high, wide = images.shape
    rows = -(-n // columns)
    pitch = np.array([1 + GAP, 1 + GAP + ROOM])
    size = round(rows * pitch[1] * high), round(columns * pitch[0] * wide)
    canvas = np.zeros((*size, channels + 1), np.uint8)
    at = np.stack(np.divmod(np.arange(n), columns)[::-1], 1) * pitch
    for image, (left, top) in zip(images, at):
        x, y = round(left * wide), round((top + ROOM) * high)
        tile = canvas[y : y + high, x : x + wide]
        tile[..., :-1] = image.transpose(1, 2, 0)
        tile[..., -1] = 255
    buffer = io.BytesIO()
    Image.fromarray(canvas).save(buffer, "png")
    source = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    size = (canvas.shape[1] / wide, canvas.shape[0] / high)
    return source, at + np.array([0.5, ROOM - 0.03]), size


def figure(
    traces: Sequence[dict], title: str, alt: str, x: str = "", y: str = "", **layout
) -> go.Figure:
    """A figure in the course's style, made in one stroke.

    Plotly looks at the whole figure after each change, which takes longer than all the
    rest: a figure made at once takes a tenth of the time.
    """
    given = dict(template=TEMPLATE, title=dict(text=title), meta={"alt": alt})
    axes = {"xaxis": dict(title=dict(text=x)), "yaxis": dict(title=dict(text=y))}
    for name in axes.keys() & layout:
        axes[name] |= layout.pop(name)
    size = dict(width=700, height=400)
    return go.Figure(data=list(traces), layout=given | size | axes | layout)


def tiles(
    images: np.ndarray,
    captions: Sequence[str],
    hover: Sequence[str],
    columns: int = 6,
    axis: str = "",
) -> tuple[list[dict], dict[str, dict]]:
    """A mosaic with captions, as two traces and the layout of their axes.

    Args:
        images: as in `mosaic`.
        captions: n texts of up to three lines (`<br>`).
        hover: n longer texts, shown when the mouse is at the caption.
        columns: images in a row.
        axis: "" for a figure's first pair of axes, "2" for the second.
    """
    source, at, (wide, high) = mosaic(images, columns)
    pixel = 1 / images.shape[-1]
    axes = dict(xaxis=f"x{axis}", yaxis=f"y{axis}")
    place = dict(x0=pixel / 2, y0=pixel / 2, dx=pixel, dy=pixel)
    hidden = dict(visible=False, fixedrange=True)
    return [
        dict(type="image", source=source, hoverinfo="skip", name="images")
        | place
        | axes,
        dict(
            type="scatter",
            mode="text",
            x=at[:, 0].round(3).tolist(),
            y=at[:, 1].round(3).tolist(),
            text=list(captions),
            hovertext=list(hover),
            hoverinfo="text",
            textposition="top center",
            textfont=dict(size=10),
            showlegend=False,
            name="captions",
        )
        | axes,
    ], {
        f"xaxis{axis}": hidden | dict(range=[0, wide]),
        f"yaxis{axis}": hidden | dict(range=[high, 0], scaleanchor=f"x{axis}"),
    }


def height(count: int, columns: int = 6) -> int:
    """Pixels that a mosaic of `count` images takes on a page."""
    return round(-(-count // columns) * TILE * (1 + GAP + ROOM) / (1 + GAP))


def gallery(
    images: np.ndarray,
    captions: Sequence[str],
    title: str,
    hover: Sequence[str] | None = None,
    columns: int = 6,
) -> go.Figure:
    """As `plots.gallery`, in a tenth of the time; captions have up to three lines."""
    told = "; ".join(map(spoken, captions))
    alt = f"{title}. {len(images)} images: {told or 'none'}."
    traces, layout = [], {"xaxis": dict(visible=False), "yaxis": dict(visible=False)}
    if len(images):
        traces, layout = tiles(images, captions, hover or captions, columns)
    layout["margin"] = dict(l=10, r=10, t=60, b=10)
    size = dict(width=columns * TILE + 20, height=80 + height(len(images), columns))
    return figure(traces, title, alt, **layout, **size)


def caption(
    label: int, counts: Sequence[int] | np.ndarray, classes: Sequence[str]
) -> str:
    """The true class, and below it the two classes with the most votes.

    Args:
        label: the true class.
        counts: how many members vote for each class.
        classes: the names of the classes.
    """
    best = np.argsort(-np.asarray(counts), kind="stable")
    best = [c for c in best if counts[c]]
    lines = [f"{briefly(classes[c])} {counts[c] / sum(counts):.0%}" for c in best[:2]]
    more = ", …" if len(best) > 2 else ""
    return f"<b>{briefly(classes[label])}</b><br>{'<br>'.join(lines)}{more}"


def spoken(caption: str) -> str:
    """A caption as plain words: `Shirt: Coat 75%, Shirt 25%`."""
    first, *rest = caption.split("<br>")
    first = first.removeprefix("<b>").removesuffix("</b>")
    return f"{first}: {', '.join(rest)}" if rest else first


def briefly(name: str) -> str:
    """A class's name, without what follows a slash."""
    return name.split("/")[0]


def ballot(run: CloseUp, image: int, classes: Sequence[str]) -> str:
    """What each member says about one image, a line each."""
    lines = [f"true class: {classes[run.labels[image]]}"]
    for m, probs in enumerate(run.probs[:, image]):
        sharp = run.log10_fisher[m, image]
        lines.append(
            f"member {m}: {classes[probs.argmax()]} ({probs.max():.0%}), "
            f"log10 Fisher trace {sharp:.1f}"
        )
    return "<br>".join(lines)


def reliability(bins: Mapping[str, metrics.Reliability], title: str) -> go.Figure:
    """Accuracy less confidence, bin by bin, with 95 % intervals; 0 is calibrated.

    The intervals are Wilson's for the accuracy, given the bin. Empty bins are left out.

    Args:
        bins: `metrics.reliability` by name; the last one is drawn on top.
        title: what the figure shows.
    """
    traces, told = [], []
    for i, (name, columns) in enumerate(bins.items()):
        confidence, accuracy, count = (c.double().numpy() for c in columns)
        full = count > 0
        sure, right, n = confidence[full], accuracy[full], count[full]
        low, high = wilson(right, n)
        over = n[right < sure].sum() / n.sum()
        told.append(f"{name}: {over:.0%} of the images in bins that are too sure")
        last = i == len(bins) - 1
        look = theme.look(i)
        traces.append(
            dict(
                type="scatter",
                x=sure.round(4).tolist(),
                y=(right - sure).round(4).tolist(),
                error_y=dict(
                    array=(high - right).round(4).tolist(),
                    arrayminus=(right - low).round(4).tolist(),
                    thickness=1.5 if last else 0.7,
                    width=3,
                ),
                text=[f"{k:.0f} images" for k in n],
                name=name,
                mode="lines+markers",
                opacity=1 if last else 0.6,
                line=look["line"] | dict(width=3 if last else 1),
                marker=look["marker"] | dict(size=9 if last else 6),
            )
        )
    return figure(
        traces,
        title,
        f"{title}. {'; '.join(told)}.",
        "confidence (top probability)",
        "accuracy - confidence",
        width=460,
        xaxis=dict(range=[0, 1.03]),
        yaxis=dict(zeroline=True, zerolinecolor=theme.GREY),
    )


def disputed(
    run: CloseUp, images: np.ndarray, classes: Sequence[str], count: int, title: str
) -> go.Figure:
    """The images on which most pairs of a run's members vote differently.

    Args:
        run: the members.
        images: uint8 (N, C, H, W), those of the close-up, in its order.
        classes: the names of the classes.
        count: how many images at most.
        title: what the figure shows.
    """
    at = close_up.most_disputed(run, count).tolist()
    votes = torch.nn.functional.one_hot(close_up.votes(run), len(classes)).sum(0)
    captions = [caption(int(run.labels[n]), votes[n].tolist(), classes) for n in at]
    hover = [ballot(run, n, classes) for n in at]
    return gallery(images[at], captions, title, hover)
