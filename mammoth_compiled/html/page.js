"use strict";
// A click on the head of a sortable table sorts its rows, the largest first.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const sort = () => {
      const ascending = head.getAttribute("aria-sort") === "descending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      const key = (row) => {
        const cell = row.cells[column];
        return "sort" in cell.dataset ? Number(cell.dataset.sort) : cell.textContent.trim();
      };
      const isEmpty = (value) => value === "" || value === "–";
      const rows = [...table.tBodies[0].rows].sort((a, b) => {
        const [x, y] = [key(a), key(b)];
        if (isEmpty(x) || isEmpty(y)) return isEmpty(x) - isEmpty(y); // without a value: last
        const order = typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y));
        return ascending ? order : -order;
      });
      table.tBodies[0].append(...rows);
    };
    head.tabIndex = 0;
    head.addEventListener("click", sort);
    head.addEventListener("keydown", (event) => event.key === "Enter" && sort());
  });
}
// Pointing at a method in the legend, or at its line, fades the others.
for (const group of document.querySelectorAll(".charts")) {
  const focus = (name) => {
    group.classList.toggle("focus", name !== undefined);
    for (const line of group.querySelectorAll(".series")) {
      line.classList.toggle("on", line.dataset.series === name);
    }
  };
  for (const item of group.querySelectorAll("[data-series]")) {
    item.addEventListener("pointerenter", () => focus(item.dataset.series));
    item.addEventListener("pointerleave", () => focus(undefined));
  }
}
