"use strict";
(() => {
  const value = (row, column) => {
    const cell = row.cells[column];
    return cell.dataset.v ?? cell.textContent.trim();
  };
  const compare = (a, b, numeric) => {
    if (!numeric) return a.localeCompare(b, undefined, { numeric: true });
    return Number(a) - Number(b);
  };

  // Sorting: a button in each header, absent without scripts. Rows without a value stay last either way.
  for (const table of document.querySelectorAll("table.sortable")) {
    const body = table.tBodies[0];
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const numeric = head.classList.contains("n");
        const now = head.getAttribute("aria-sort");
        const down = now ? now === "ascending" : numeric && column > 0;
        const keyed = [...body.rows].map((row) => [value(row, column), row]);
        const filled = keyed.filter(([key]) => key !== "");
        const empty = keyed.filter(([key]) => key === "");
        filled.sort(([a], [b]) => compare(a, b, numeric) * (down ? -1 : 1));
        body.append(...[...filled, ...empty].map(([, row]) => row));
        for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
      });
    });
  }

  const clearers = [];
  for (const form of document.querySelectorAll("form.filters")) {
    const rows = [...document.getElementById(form.dataset.for).tBodies[0].rows];
    const texts = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));
    const output = form.querySelector("output");
    const apply = () => {
      const terms = form.elements.text.value.toLowerCase().split(/\s+/).filter(Boolean);
      const chosen = ["status", "step", "group"]
        .filter((name) => form.elements[name] && form.elements[name].value)
        .map((name) => [name, form.elements[name].value]);
      let shown = 0;
      for (const row of rows) {
        const fits =
          chosen.every(([name, want]) =>
            want.startsWith("!") ? row.dataset[name] !== want.slice(1) : row.dataset[name] === want) &&
          terms.every((term) => texts.get(row).includes(term));
        row.hidden = !fits;
        shown += fits;
      }
      output.textContent = shown === rows.length ? `${rows.length} rows` : `${shown} of ${rows.length} rows`;
    };
    form.hidden = false;
    form.addEventListener("input", apply);
    form.addEventListener("reset", () => setTimeout(apply));
    form.addEventListener("submit", (event) => event.preventDefault());
    clearers.push(() => { form.reset(); apply(); });
    apply();
  }

  // The rows behind one part of the model at a time; without scripts all parts stand one below the other.
  const panel = document.getElementById("panel");
  const show = (id) => {
    const part = panel && document.getElementById(id);
    if (!part || !part.matches(".panel .part")) return null;
    for (const other of panel.querySelectorAll(".part")) other.classList.toggle("is-shown", other === part);
    for (const link of document.querySelectorAll(".drawing a")) {
      if (link.getAttribute("href") === `#${id}`) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
    return part;
  };
  if (panel) {
    document.documentElement.classList.add("scripted");
    show("part-overview");
    let last = null;
    document.addEventListener("click", (event) => {
      const link = event.target.closest('a[href^="#part-"]');
      if (!link) return;
      const part = show(link.getAttribute("href").slice(1));
      if (!part) return;
      event.preventDefault();
      history.replaceState(null, "", link.getAttribute("href"));
      const back = part.id === "part-overview";
      if (!back) last = link;
      const target = back && last ? last : part;
      target.focus({ preventScroll: true });
      target.scrollIntoView({ block: "nearest" });
    });
  }

  // A link to a row that is folded away, or that a filter hides, would lead nowhere.
  const reveal = () => {
    const id = decodeURIComponent(location.hash.slice(1));
    if (show(id)) return;
    const row = id && document.getElementById(id);
    if (!row) return;
    let moved = row.hidden;
    if (row.hidden) clearers.forEach((clear) => clear());
    const folds = [...(row.closest("section") || row).querySelectorAll("details.fold")];
    for (const fold of folds) {
      if (!fold.open && (fold.contains(row) || row.tagName === "H2")) moved = fold.open = true;
    }
    if (moved) row.scrollIntoView({ block: row.tagName === "H2" ? "start" : "center" });
  };
  addEventListener("hashchange", reveal);
  reveal();

  for (const map of document.querySelectorAll("figure.map")) {
    const stack = map.querySelector(".stack");
    const readout = map.querySelector(".readout");
    const rows = Number(map.dataset.rows);
    const columns = Number(map.dataset.columns);
    const values = map.dataset.values.split(" ");
    const label = map.querySelector(".opacity");
    label.hidden = false;
    label.querySelector("input").addEventListener("input", (event) => {
      for (const part of stack.querySelectorAll(".overlay, .lines")) part.style.opacity = event.target.value / 100;
    });
    const read = (event) => {
      const box = stack.getBoundingClientRect();
      const row = Math.floor(((event.clientY - box.top) / box.height) * rows);
      const column = Math.floor(((event.clientX - box.left) / box.width) * columns);
      if (row < 0 || column < 0 || row >= rows || column >= columns) return;
      const found = values[row * columns + column];
      readout.textContent = `row ${row}, column ${column}: ${found === "-" ? "not measured" : `${found} ${map.dataset.unit}`}`;
    };
    stack.addEventListener("pointermove", read);
    stack.addEventListener("pointerdown", read);
    stack.addEventListener("pointerleave", () => { readout.textContent = ""; });
  }
})();
