"""What a page of JupyterLab shows, and a learner's hands on it."""

import time
from pathlib import Path


def broken(page) -> list[str]:
    """What cells show that no learner should see."""
    return page.evaluate(
        """() => [...document.querySelectorAll(".jp-OutputArea-output")].filter((out) =>
            /(displaying|creating|Loading) widget|model not found|Javascript Error/i
              .test(out.textContent) ||
            /jupyter\\.(error|stderr)$/.test(out.dataset.mimeType ?? ""))
          .map((out) => out.textContent.trim().slice(0, 300))"""
    )


# What a plotly figure shows; the rest is looks.
FIGURE = """(plot) => ({
  title: plot.layout?.title?.text ?? "",
  notes: (plot.layout?.annotations ?? []).map((note) => note.text),
  data: JSON.parse(JSON.stringify(plot.data, (key, value) =>
    key.startsWith("_") ? undefined : value)),
  drawn: !!plot.querySelector(".main-svg"),
  role: plot.getAttribute("role"),
  label: plot.getAttribute("aria-label"),
})"""

# A control's value in words: its readout, or what is chosen in it.
ROWS = ":is(.widget-slider, .widget-dropdown, .widget-toggle-buttons, .widget-radio, "
ROWS += ".widget-checkbox, .widget-select, .widget-text:not(.sbtutor-clicks))"
VALUE = """(row) => row.querySelector(".widget-readout")?.textContent ??
  [...row.querySelectorAll("option:checked, .mod-active, input")].map(
    (part) => part.matches("input") ? part.value + part.checked : part.textContent
  ).join() """
PARTS = ".noUi-handle, select, input, button:not(.mod-active)"
KEYS = ("ArrowRight", "ArrowLeft", "ArrowDown", "ArrowUp", "Space", "1")
EXPLORER = ".sbtutor-explorer:has(.sbtutor-clicks)"


def figures(page) -> list[dict]:
    """All plotly figures of the page, in order."""
    return page.evaluate(
        f"""() => [...document.querySelectorAll(".jp-OutputArea .js-plotly-plot")]
          .map({FIGURE})"""
    )


def sliders(page) -> list[str | None]:
    """The label that each slider's handle has for those who do not see it."""
    return page.evaluate(
        """() => [...document.querySelectorAll(".jp-OutputArea .noUi-handle")]
          .map((handle) => handle.ariaLabel)"""
    )


def explorers(page) -> list[dict]:
    """Each explorer's figures, and its controls' values in words, in order."""
    return page.evaluate(
        f"""() => [...document.querySelectorAll("{EXPLORER}")].map((box) => ({{
          figures: [...box.querySelectorAll(".js-plotly-plot")].map({FIGURE}),
          controls: [...box.querySelectorAll("{ROWS}")].map({VALUE}),
        }}))"""
    )


def move(page, row, until: float) -> bool:
    """Change a control by keyboard; False if no key does it before a time.

    One that another control enables has to wait until the kernel has said so.
    """
    before = row.evaluate(VALUE)
    while True:
        row.locator(PARTS).first.focus()
        for key in KEYS:
            page.keyboard.press(key)
            page.wait_for_timeout(50)
            if row.evaluate(VALUE) != before:
                return True
        if time.monotonic() > until:
            return False


# Where a point that can be clicked lies on the screen; null if there is none.
POINT = """(plot) => {
  plot.scrollIntoView({ block: "center" });
  const box = plot.getBoundingClientRect(), { _fullData, _fullLayout } = plot;
  for (const trace of _fullData) {
    const shown = trace.visible === true && trace.customdata?.length;
    if (!shown || !trace._length || !trace.xaxis) continue;
    const axis = (name) => _fullLayout[name[0] + "axis" + name.slice(1)];
    const x = axis(trace.xaxis), y = axis(trace.yaxis);
    return [box.left + x._offset + x.d2p(trace.x[0]),
      box.top + y._offset + y.d2p(trace.y[0])];
  }
  return null;
}"""


def click_point(page, explorer) -> bool:
    """Click the first point of an explorer that carries `customdata`, if one does."""
    for plot in explorer.locator(".js-plotly-plot").all():
        at = plot.evaluate(POINT)
        if at is not None:
            page.mouse.move(at[0] - 2, at[1] - 2)
            page.mouse.move(*at)  # plotly clicks what it hovers over
            page.wait_for_timeout(200)
            page.mouse.click(*at)
            return True
    return False


def picture(page, path: Path) -> None:
    """A picture of the whole notebook, which scrolls inside the page."""
    height = page.evaluate(
        """() => document.querySelector(".jp-WindowedPanel-outer").scrollHeight"""
    )
    page.set_viewport_size({"width": 1200, "height": min(height + 150, 16_000)})
    page.wait_for_timeout(500)
    page.screenshot(path=path)
