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
    }
  };
  const controls = () => {
    for (const box of document.querySelectorAll(".jupyter-widgets")) {
      const label = box.querySelector(":scope > .widget-label")?.textContent.trim();
      const readout = box.querySelector(":scope > .widget-readout");
      for (const handle of box.querySelectorAll(":scope .noUi-handle")) {
        name(handle, label);
        const said = readout?.textContent;
        if (said && handle.getAttribute("aria-valuetext") !== said)
          handle.setAttribute("aria-valuetext", said);
      }
      if (readout?.isContentEditable) {
        readout.setAttribute("role", "textbox");
        name(readout, label && label + ", typed");
      }
      for (const field of box.querySelectorAll(":scope > :is(input, select, textarea)"))
        if (!field.labels?.length) name(field, label ?? field.placeholder);
    }
    for (const button of document.querySelectorAll("button.jupyter-button"))
      if (!button.textContent.trim()) name(button, button.title || "button");
  };
  let waiting;
  const soon = () => {
    waiting ??= setTimeout(() => {
      waiting = undefined;
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
