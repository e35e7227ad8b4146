"use strict";
(() => {
  const ROWS_SHOWN = 50;
  const { columns, rows } = JSON.parse(document.getElementById("data").textContent);
  const section = document.getElementById("images");
  const [body, filter, status] = ["tbody", "input", "[role=status]"].map((name) => section.querySelector(name));
  const [previous, next] = section.querySelectorAll(".pager button");
  const buttons = [...section.querySelectorAll("th button")];
  const collator = new Intl.Collator(undefined, { numeric: true });

  // A row is [image id, caption, references, scores]; the first two columns are text, the others are scores.
  const shown = (row, column) => (column < 2 ? String(row[column]) : row[3][column - 2]);
  const texts = rows.map(([id, caption, references]) => [String(id), caption, ...references].map((t) => t.toLowerCase()));

  let order = rows.map((_, index) => index); // indices of all rows, sorted
  let found = order; // indices of the rows that match the filter
  let start = 0; // the first row shown, in `found`
  let sorted = { column: -1, descending: false };

  const make = (name, properties, ...children) => {
    const element = Object.assign(document.createElement(name), properties);
    element.append(...children);
    return element;
  };

  const makeRow = (index, query) => {
    const [id, caption, references, scores] = rows[index];
    const list = make("ul", {}, ...references.map((text) => make("li", { dir: "auto", textContent: text })));
    const details = make("details", {}, make("summary", { dir: "auto", textContent: caption.trim() }), list);
    details.open = query !== "" && !texts[index].slice(0, 2).some((text) => text.includes(query));
    const cells = [make("td", { className: "quiet", textContent: id }), make("td", { className: "text" }, details)];
    cells.push(...scores.map((score) => make("td", { className: "number", textContent: score === null ? "–" : score.toFixed(1) })));
    cells.forEach((cell, column) => (cell.dataset.label = columns[column]));
    return make("tr", {}, ...cells);
  };

  const render = () => {
    const end = Math.min(start + ROWS_SHOWN, found.length);
    const query = filter.value.trim().toLowerCase();
    body.replaceChildren(...found.slice(start, end).map((index) => makeRow(index, query)));
    const of = found.length === rows.length ? "" : ` (of all ${rows.length.toLocaleString("en")})`;
    status.textContent = found.length
      ? `${(start + 1).toLocaleString("en")}–${end.toLocaleString("en")} of ${found.length.toLocaleString("en")}${of}`
      : `None of ${rows.length.toLocaleString("en")}`;
    previous.disabled = start === 0;
    next.disabled = end >= found.length;
  };

  const select = () => {
    const query = filter.value.trim().toLowerCase();
    found = query ? order.filter((index) => texts[index].some((text) => text.includes(query))) : order;
    start = 0;
    render();
  };

  const sortBy = (column) => {
    const again = sorted.column === column;
    sorted = { column, descending: again ? !sorted.descending : column >= 2 }; // the best scores first
    const sign = sorted.descending ? -1 : 1;
    const values = rows.map((row) => shown(row, column));
    const compare = column < 2 ? collator.compare : (a, b) => a - b;
    const unknown = (index) => (values[index] === null ? 1 : 0); // these come last
    order.sort((a, b) => unknown(a) - unknown(b) || sign * compare(values[a], values[b]) || a - b);
    buttons.forEach((button, index) => {
      const direction = sorted.descending ? "descending" : "ascending";
      button.parentElement.setAttribute("aria-sort", index === column ? direction : "none");
    });
    select();
  };

  const turn = (by) => {
    start += by * ROWS_SHOWN;
    render();
    section.scrollIntoView();
  };

  buttons.forEach((button, column) => button.addEventListener("click", () => sortBy(column)));
  filter.addEventListener("input", select);
  previous.addEventListener("click", () => turn(-1));
  next.addEventListener("click", () => turn(1));
  section.querySelector("[hidden]").hidden = false;
  section.querySelector(".scriptless").remove();
  render();
})();
