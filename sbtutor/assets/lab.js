(() => {
  const name = (el, text) => {
    if (text && el.ariaLabel !== text) el.ariaLabel = text;
  };
  const figures = () => {
    for (const plot of document.querySelectorAll(".js-plotly-plot")) {
      const layout = plot.layout ?? {};
      name(plot, layout.meta?.alt ?? layout.title?.text ?? "figure");
      // An img would hide its tool bar's buttons.
      plot.setAttribute("role", "figure");
      listen(plot);
    }
  };
  // Saved pages have white, mute pictures where figures were. Draw each, and just once.
  const pictures = () => {
    for (const el of document.querySelectorAll(".jp-RenderedPlotly > .plot-img")) {
      if (!el.src || el.sbtutorWoken || el.parentElement.querySelector(".plot-container"))
        continue;
      el.sbtutorWoken = true;
      el.dispatchEvent(new MouseEvent("mouseenter"));
    }
  };
  // A point that is clicked goes to the kernel through its explorer's hidden field.
  const listen = (plot) => {
    if (plot.sbtutorHears || !plot.on) return;
    plot.sbtutorHears = true;
    plot.on("plotly_click", ({ points }) => {
      const point = points.find((p) => p.customdata !== undefined)?.customdata;
      const explorer = plot.closest(".sbtutor-explorer");
      const field = explorer?.querySelector(".sbtutor-clicks input");
      if (point === undefined || !field) return;
      field.value = JSON.stringify({ point, at: Date.now() });
      field.dispatchEvent(new Event("change", { bubbles: true }));
    });
  };
  const controls = () => {
    for (const label of document.querySelectorAll("label.widget-label")) {
      const box = label.parentElement, text = label.textContent.trim();
      const readout = box.querySelector(":scope > .widget-readout");
      for (const handle of box.querySelectorAll(":scope > * .noUi-handle")) {
        name(handle, text);
        const said = readout?.textContent;
        if (said && handle.getAttribute("aria-valuetext") !== said)
          handle.setAttribute("aria-valuetext", said);
      }
      if (readout?.isContentEditable) {
        readout.setAttribute("role", "textbox");
        name(readout, text && text + ", typed");
      }
      for (const field of box.querySelectorAll(":scope > :is(input, select, textarea)"))
        if (!field.labels?.length) name(field, text);
    }
    for (const button of document.querySelectorAll("button.jupyter-button"))
      if (!button.textContent.trim()) name(button, button.title || "button");
  };
  // Plain keys belong to the focused control; else "x" in a list of choices cuts the cell.
  const keys = (event) => {
    const { target, ctrlKey, metaKey, altKey, shiftKey } = event;
    if (!target.closest?.(".jp-OutputArea .jupyter-widgets")) return;
    const plain = !(ctrlKey || metaKey || altKey || shiftKey);
    target.toggleAttribute("data-lm-suppress-shortcuts", plain);
  };
  window.removeEventListener("keydown", window.sbtutorKeys, true);
  window.addEventListener("keydown", (window.sbtutorKeys = keys), true);
  // Plotly's extension fits a figure to its place even when it has just been replaced.
  const unhandled = (event) => {
    if (/^Resize must be passed a displayed plot/.test(event.reason?.message))
      event.preventDefault();
  };
  window.removeEventListener("unhandledrejection", window.sbtutorUnhandled);
  window.addEventListener("unhandledrejection", (window.sbtutorUnhandled = unhandled));
  let waiting;
  const soon = () => {
    waiting ??= setTimeout(() => {
      waiting = undefined;
      pictures();
      figures();
      controls();
    }, 100);
  };
  const style = document.getElementById("sbtutor-style") ?? document.createElement("style");
  style.id = "sbtutor-style";
  style.textContent = STYLE;
  document.head.append(style);
  window.sbtutorWatch?.disconnect();
  window.sbtutorWatch = new MutationObserver(soon);
  const what = { childList: true, subtree: true, characterData: true };
  window.sbtutorWatch.observe(document.body, what);
  soon();
})();
