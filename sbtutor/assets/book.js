// Draws a page's figures, lets the controls of twins move theirs, and makes what is
// wider than the page reachable by keys.
"use strict";

const CONFIG = { responsive: true, displayModeBar: false };

// On a narrow page the title takes several lines, and the legend goes below.
function fit(layout, data, width) {
  if (width > 520) return layout;
  const { title, margin, legend, height } = layout;
  const text = title?.text ?? "";
  const line = new RegExp(`(.{1,${Math.floor(width / 8.5)}})(?: +|$)`, "g");
  const lines = text.includes("<") ? [text] : [...text.matchAll(line)].map((m) => m[1]);
  const named = data.filter((trace) => trace.name && trace.showlegend !== false);
  const below = { orientation: "h", x: 0, y: 0, yref: "container", yanchor: "bottom" };
  return {
    ...layout,
    title: { ...title, text: lines.join("<br>") },
    margin: { ...margin, t: 35 + 18 * lines.length },
    legend: { ...legend, ...below },
    height: height + 18 * (lines.length + named.length),
  };
}

function draw(plot, { data, layout, frames }) {
  const { width, ...rest } = layout;
  layout = fit({ height: 420, ...rest }, data, plot.clientWidth);
  Plotly.react(plot, { data, layout, frames, config: CONFIG });
}

// See `twins.pack`.
function unpack(pool, place) {
  const { has, list, is } = pool[place];
  if (list) return list.map((item) => unpack(pool, item));
  if (!has) return structuredClone(is);
  const items = Object.entries(has).map(([key, item]) => [key, unpack(pool, item)]);
  return Object.fromEntries(items);
}

function short(text) {
  return text.length > 250 ? text.slice(0, text.lastIndexOf(" ", 250)) + " …" : text;
}

function move(box, { controls, pool, figures, words }) {
  const places = controls.map(() => 0);
  const inputs = box.querySelectorAll("[data-control]");
  const [plot, live, said] = [".plot", "[aria-live]", ".words"].map((part) =>
    box.querySelector(part),
  );
  let soon;

  function read(input) {
    const { control } = input.dataset;
    const place = input.selectedIndex ?? Number(input.value);
    places[control] = place;
    if (input.type !== "range") return;
    const word = controls[control].values[place];
    input.setAttribute("aria-valuetext", word);
    input.closest(".control").querySelector("output").value = word;
  }

  function show() {
    const at = controls.reduce(
      (sum, { values }, i) => sum * values.length + places[i],
      0,
    );
    draw(plot, unpack(pool, figures[at]));
    const open = said.querySelector("details")?.open;
    said.innerHTML = unpack(pool, words[at]);
    const details = said.querySelector("details");
    details.open = open;
    plot.ariaLabel = details.querySelector("p").textContent;
  }

  for (const input of inputs) {
    read(input);
    input.addEventListener("input", () => {
      read(input);
      show();
      clearTimeout(soon); // one sentence when it comes to rest, not one a step
      soon = setTimeout(() => (live.textContent = short(plot.ariaLabel)), 400);
    });
  }
  show();
  box.querySelector("fieldset").hidden = false;
}

// Tables are worth a landmark; others would be too many.
const WIDE = {
  ".table": ["region", "Table"],
  ".formula": ["group", "Formula"],
  "p, li": ["group", "Text"],
  pre: ["group", "Code or printed text"],
};

function reach() {
  for (const [part, [role, name]] of Object.entries(WIDE)) {
    document.querySelectorAll(part).forEach((box, i) => {
      const wide = box.scrollWidth > box.clientWidth + 1 && box.clientWidth > 0;
      if (wide === box.hasAttribute("tabindex")) return;
      if (wide) {
        box.tabIndex = 0;
        box.setAttribute("role", role);
        box.ariaLabel = `${name} ${i + 1}, wider than the page`;
      } else {
        for (const name of ["tabindex", "role", "aria-label"]) {
          box.removeAttribute(name);
        }
      }
    });
  }
}

for (const box of document.querySelectorAll(".figure")) {
  const data = JSON.parse(box.querySelector("script").textContent);
  if (data.pool) move(box, data);
  else draw(box.querySelector(".plot"), data);
}
reach();
addEventListener("resize", reach);
addEventListener("toggle", reach, true);
addEventListener("beforeprint", () => {
  for (const part of document.querySelectorAll("details")) part.open = true;
});
