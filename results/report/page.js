"use strict";
(() => {
  const make = (tag, set = {}, ...inside) => { const e = Object.assign(document.createElement(tag), set); e.append(...inside); return e; };
  const tip = document.body.appendChild(make("div", { id: "tip", hidden: true }));
  tip.setAttribute("role", "tooltip");

  // What is to know of a figure: a mark's title, or a cell's interval with the grade and the command of its row.
  const hintOf = element => {
    const mark = element.matches("svg a");
    const row = mark ? document.getElementById(element.getAttribute("href").slice(1)) : element.closest("tr");
    const how = row && row.querySelector("details"), command = how && (how.querySelector("code") || {}).textContent;
    return [mark ? element.getAttribute("aria-label") : element.dataset.t, !mark && how && how.dataset.v, command].filter(Boolean).join("\n");
  };
  const show = element => {
    const text = hintOf(element);
    if (!text) return;
    tip.textContent = text;
    tip.hidden = false;
    const at = element.getBoundingClientRect(), own = tip.getBoundingClientRect();
    tip.style.left = Math.max(4, Math.min(at.left, innerWidth - own.width - 4)) + "px";
    tip.style.top = (at.bottom + own.height + 8 < innerHeight ? at.bottom + 6 : Math.max(4, at.top - own.height - 6)) + "px";
    element.setAttribute("aria-describedby", "tip");
  };
  const hide = () => {
    tip.hidden = true;
    document.querySelectorAll("[aria-describedby=tip]").forEach(e => e.removeAttribute("aria-describedby"));
  };
  const FIGURES = "td.f, figure svg a";
  for (const [on, off] of [["mouseover", "mouseout"], ["focusin", "focusout"]]) {
    document.addEventListener(on, event => { const e = event.target.closest && event.target.closest(FIGURES); if (e) show(e); });
    document.addEventListener(off, hide);
  }

  // One stop of the Tab key for each chart and table; arrows go from figure to figure.
  for (const svg of document.querySelectorAll("figure svg")) {
    svg.querySelectorAll("a").forEach((link, number) => {
      const title = link.querySelector("title");
      if (title) { link.setAttribute("aria-label", title.textContent); title.remove(); }
      link.setAttribute("tabindex", number ? "-1" : "0");
    });
  }
  for (const table of document.querySelectorAll("table")) {
    table.querySelectorAll("td.f").forEach((cell, number) => { cell.tabIndex = number ? -1 : 0; });
  }
  const move = (from, to) => { if (to) { from.setAttribute("tabindex", "-1"); to.setAttribute("tabindex", "0"); to.focus(); } };
  const inCharts = (element, key) => {
    const all = [...element.closest("svg").querySelectorAll("a")], at = all.indexOf(element);
    return { ArrowRight: all[at + 1], ArrowDown: all[at + 1], ArrowLeft: all[at - 1], ArrowUp: all[at - 1], Home: all[0], End: all.at(-1) }[key];
  };
  const inTables = (element, key) => {
    const cells = [...element.parentElement.querySelectorAll("td.f")], at = cells.indexOf(element);
    if (key === "ArrowRight" || key === "ArrowLeft") return cells[at + (key === "ArrowRight" ? 1 : -1)];
    let row = element.parentElement;
    do row = key === "ArrowDown" ? row.nextElementSibling : key === "ArrowUp" ? row.previousElementSibling : null; while (row && row.hidden);
    return row && row.querySelectorAll("td.f")[at];
  };
  document.addEventListener("keydown", event => {
    if (event.key === "Escape") hide();
    const element = event.target.closest && event.target.closest(FIGURES);
    if (!element || event.ctrlKey || event.metaKey || event.altKey) return;
    const next = element.matches("svg a") ? inCharts(element, event.key) : inTables(element, event.key);
    if (next) { event.preventDefault(); move(element, next); }
  });

  // Sorting by a click on a heading; what is missing stays last.
  const valueOf = cell => cell.dataset.n !== undefined ? parseFloat(cell.dataset.n) : cell.textContent.trim();
  const missing = value => value === "" || value === "–";
  const compare = (a, b) => typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
  const sort = (table, head, index) => {
    const up = head.getAttribute("aria-sort") !== "ascending", body = table.tBodies[0];
    table.querySelectorAll("th").forEach(th => th.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const rows = [...body.rows].map(row => [valueOf(row.cells[index]), row]);
    rows.sort(([a], [b]) => missing(a) - missing(b) || (up ? compare(a, b) : compare(b, a)));
    body.append(...rows.map(([, row]) => row));
  };
  for (const table of document.querySelectorAll("table.sorts")) {
    table.querySelectorAll("thead th").forEach((head, index) => {
      const button = make("button", { type: "button" }, ...head.childNodes);
      button.addEventListener("click", () => sort(table, head, index));
      head.append(button);
    });
  }

  // Filters: any text, and the values of the columns that have few.
  for (const table of document.querySelectorAll("table.filters-here")) {
    const rows = [...table.tBodies[0].rows], bar = make("div", { className: "filters" }), chosen = new Map();
    const count = make("span", { className: "note" });
    count.setAttribute("role", "status");
    const texts = rows.map(row => row.textContent.toLowerCase());
    const search = make("input", { type: "search" });
    const apply = () => {
      const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      rows.forEach((row, at) => {
        row.hidden = !words.every(word => texts[at].includes(word)) || [...chosen].some(([index, value]) => value && row.cells[index].textContent.trim() !== value);
        shown += !row.hidden;
      });
      count.textContent = `${shown} of ${rows.length} rows`;
    };
    search.addEventListener("input", apply);
    bar.append(make("label", {}, "search ", search));
    [...table.tHead.rows[0].cells].forEach((head, index) => {
      if (!head.dataset.choose) return;
      const values = [...new Set(rows.map(row => row.cells[index].textContent.trim()))].sort();
      if (values.length < 2) return;
      const select = make("select", {}, make("option", { value: "" }, "all"), ...values.map(value => make("option", { value }, value)));
      select.addEventListener("change", () => { chosen.set(index, select.value); apply(); });
      bar.append(make("label", {}, head.dataset.choose + " ", select));
    });
    bar.append(count);
    table.closest(".scroll").before(bar);
    table.showAll = () => { search.value = ""; chosen.clear(); bar.querySelectorAll("select").forEach(one => { one.value = ""; }); apply(); };
    apply();
  }

  // A link to a row shows it, whatever is filtered, and how it is measured again.
  const follow = () => {
    const row = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!row || row.tagName !== "TR") return;
    if (row.hidden) row.closest("table").showAll();
    const how = row.querySelector("details");
    if (how) how.open = true;
    row.scrollIntoView({ block: "center" });
  };
  addEventListener("hashchange", follow);
  follow();
  document.documentElement.dataset.ready = Math.round(performance.now());
})();
