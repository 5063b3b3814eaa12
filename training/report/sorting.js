"use strict";
// Sorting: numbers before text, a second click reverses the order. #sort=KEY or #sort=KEY,descending sorts on opening.
function cellValue(row, column) {
  const cell = row.cells[column], text = cell.dataset.value ?? cell.textContent.trim();
  const number = Number(text.replaceAll(",", ""));
  return text === "" || Number.isNaN(number) ? text : number;
}
function compare(a, b) {
  if (typeof a === "number" && typeof b === "number") return a - b;
  if (typeof a === "number") return -1;
  if (typeof b === "number") return 1;
  return a.localeCompare(b, undefined, { numeric: true });
}
function sortBy(heading, descending) {
  const table = heading.closest("table"), body = table.tBodies[0], column = heading.cellIndex;
  const sign = descending ? -1 : 1;
  const rows = Array.from(body.rows);
  rows.sort((a, b) => sign * compare(cellValue(a, column), cellValue(b, column)));
  body.append(...rows);
  for (const cell of heading.parentElement.cells) cell.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
}
for (const heading of document.querySelectorAll("table[data-sortable] th[data-key]")) {
  heading.querySelector("button").addEventListener("click", () => sortBy(heading, heading.getAttribute("aria-sort") === "ascending"));
}
const request = /^#sort=([a-z0-9]+)(,descending)?$/.exec(location.hash);
if (request) {
  const heading = document.querySelector(`th[data-key="${request[1]}"]`);
  if (heading) sortBy(heading, Boolean(request[2]));
}
document.documentElement.dataset.ready = "true";
