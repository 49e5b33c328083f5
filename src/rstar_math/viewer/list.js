// The list of problems: filters, search, order. Only visible rows are in the document.
const ROW_HEIGHT = 62; // pixels
const rows = [];
const list = {
  activeFilters: new Set(),
  query: "",
  order: "run",
  shown: [],
  active: -1,
  pair: [null, null], // keys of the displayed columns
  filters: [],
  onOpen: () => {},
};
const ORDERS = {
  run: ["as in the run", null],
  share: ["lowest vote share first", (a, b) => a.share - b.share],
  seconds: ["slowest first", (a, b) => b.seconds - a.seconds],
  failed: ["most failed programs first", (a, b) => b.failed - a.failed],
};

// Whether a row matches a filter. "gained" and "lost" compare the two displayed columns.
function matches(row, filter) {
  if (filter !== "gained" && filter !== "lost") return row.flags.includes(filter);
  const [first, second] = list.pair.map((key) => key && row.cells[key] && row.cells[key][0]);
  if (!first || !second || first === "waiting" || second === "waiting") return false;
  const [before, after] = filter === "gained" ? [first, second] : [second, first];
  return before !== "right" && after === "right";
}

function refilter() {
  const words = list.query.toLowerCase().split(/\s+/).filter(Boolean);
  const matching = rows.filter(
    (row) =>
      [...list.activeFilters].every((filter) => matches(row, filter)) &&
      words.every((word) => row.text.includes(word)),
  );
  const order = ORDERS[list.order][1];
  if (order) matching.sort((a, b) => order(a, b) || a.i - b.i);
  const active = list.shown[list.active];
  list.shown = matching;
  list.active = active ? matching.findIndex((row) => row.i === active.i) : -1;
  const all = matching.length === rows.length;
  const count = all ? `${rows.length}` : `${matching.length} of ${rows.length}`;
  byId("count").textContent = `${count} problem${rows.length === 1 ? "" : "s"}`;
  byId("rows").style.height = `${matching.length * ROW_HEIGHT}px`;
  drawFilters();
  drawRows();
}

function drawFilters() {
  const box = byId("filters");
  for (const [key, name, description] of list.filters) {
    const count = rows.filter((row) => matches(row, key)).length;
    let chip = box.querySelector(`[data-filter="${key}"]`);
    if (!chip) {
      const attributes = { "data-filter": key, title: description, class: "chip" };
      chip = make("button", { type: "button", ...attributes });
      chip.addEventListener("click", () => {
        if (!list.activeFilters.delete(key)) list.activeFilters.add(key);
        byId("list").scrollTop = 0;
        refilter();
      });
      box.append(chip);
    }
    const on = list.activeFilters.has(key);
    chip.setAttribute("aria-pressed", on);
    chip.textContent = `${name} ${count}`;
    chip.hidden = !count && !on && key !== "solved" && key !== "unsolved";
  }
}

function drawRows() {
  const box = byId("list");
  const from = Math.max(0, Math.floor(box.scrollTop / ROW_HEIGHT) - 6);
  const to = Math.min(list.shown.length, from + Math.ceil(box.clientHeight / ROW_HEIGHT) + 13);
  const holder = byId("rows");
  const existing = new Map([...holder.children].map((option) => [option.id, option]));
  const visible = list.shown.slice(from, to).map((row, at) => option(row, from + at, existing));
  for (const old of existing.values()) if (!visible.includes(old)) old.remove();
  visible.forEach((element, at) => {
    if (holder.children[at] !== element) holder.insertBefore(element, holder.children[at] || null);
  });
  const active = list.shown[list.active];
  if (active) box.setAttribute("aria-activedescendant", `option${active.i}`);
  else box.removeAttribute("aria-activedescendant");
}

// The element of a row. Reuses the existing element, so that clicks and screen readers are not
// interrupted.
function option(row, at, existing) {
  let element = existing.get(`option${row.i}`);
  if (!element) element = make("div", { role: "option", id: `option${row.i}` });
  if (element.row !== row) {
    element.innerHTML = row.html;
    element.row = row;
  }
  element.className = `row${at === list.active ? " active" : ""}`;
  element.dataset.at = at;
  element.style.top = `${at * ROW_HEIGHT}px`;
  element.setAttribute("aria-selected", row.i === view.problem);
  element.setAttribute("aria-posinset", at + 1);
  element.setAttribute("aria-setsize", list.shown.length);
  return element;
}

function activate(at) {
  if (!list.shown.length) return;
  list.active = Math.max(0, Math.min(list.shown.length - 1, at));
  const box = byId("list");
  const top = list.active * ROW_HEIGHT;
  const bottom = top + ROW_HEIGHT - box.clientHeight;
  if (top < box.scrollTop) box.scrollTop = top;
  else if (bottom > box.scrollTop) box.scrollTop = bottom;
  drawRows();
}

function openAt(at) {
  activate(at);
  const row = list.shown[list.active];
  if (row) list.onOpen(row.i);
}

function startList() {
  const box = byId("list");
  box.addEventListener("scroll", () => requestAnimationFrame(drawRows), { passive: true });
  new ResizeObserver(drawRows).observe(box);
  box.addEventListener("click", (event) => {
    const option = event.target.closest("[role=option]");
    if (option) openAt(Number(option.dataset.at));
  });
  box.addEventListener("focus", () => list.active < 0 && activate(0));
  box.addEventListener("keydown", (event) => {
    const page = Math.max(1, Math.floor(box.clientHeight / ROW_HEIGHT) - 1);
    const moves = {
      ArrowDown: list.active + 1,
      ArrowUp: list.active - 1,
      PageDown: list.active + page,
      PageUp: list.active - page,
      Home: 0,
      End: list.shown.length - 1,
    };
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key in moves) activate(moves[event.key]);
    else if (event.key === "Enter" || event.key === " ") openAt(list.active);
    else return;
    event.preventDefault();
  });
  byId("find").addEventListener("input", (event) => {
    list.query = event.target.value;
    box.scrollTop = 0;
    refilter();
  });
  byId("find").addEventListener("keydown", (event) => {
    if (event.key === "Enter") openAt(0);
    if (event.key === "ArrowDown") box.focus();
  });
  for (const [key, [name]] of Object.entries(ORDERS)) {
    byId("order").append(make("option", { value: key }, name));
  }
  byId("order").addEventListener("change", (event) => {
    list.order = event.target.value;
    refilter();
  });
}
