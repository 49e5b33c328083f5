// The list of problems: filters, search, order; only the rows in sight are in the document.
const ROW = 62;
const rows = [];
const list = {
  pressed: new Set(),
  words: "",
  order: "run",
  shown: [],
  active: -1,
  pair: [null, null],
  filters: [],
  onOpen: () => {},
};
const ORDERS = {
  run: ["as in the run", null],
  share: ["least agreed first", (a, b) => a.share - b.share],
  seconds: ["slowest first", (a, b) => b.seconds - a.seconds],
  failed: ["most failed programs first", (a, b) => b.failed - a.failed],
};

// Whether a row passes a filter; the two that compare are worked out from the two columns shown.
function passes(row, filter) {
  if (filter !== "gained" && filter !== "lost") return row.flags.includes(filter);
  const [first, second] = list.pair.map((key) => key && row.cells[key] && row.cells[key][0]);
  if (!first || !second || first === "waiting" || second === "waiting") return false;
  const [then, now] = filter === "gained" ? [first, second] : [second, first];
  return then !== "right" && now === "right";
}

function refilter() {
  const words = list.words.toLowerCase().split(/\s+/).filter(Boolean);
  const kept = rows.filter(
    (row) =>
      [...list.pressed].every((filter) => passes(row, filter)) &&
      words.every((word) => row.text.includes(word)),
  );
  const order = ORDERS[list.order][1];
  if (order) kept.sort((a, b) => order(a, b) || a.i - b.i);
  const held = list.shown[list.active];
  list.shown = kept;
  list.active = held ? kept.findIndex((row) => row.i === held.i) : -1;
  const all = kept.length === rows.length;
  const count = all ? `${rows.length}` : `${kept.length} of ${rows.length}`;
  byId("count").textContent = `${count} problem${rows.length === 1 ? "" : "s"}`;
  byId("rows").style.height = `${kept.length * ROW}px`;
  drawFilters();
  drawRows();
}

function drawFilters() {
  const box = byId("filters");
  for (const [key, name, what] of list.filters) {
    const count = rows.filter((row) => passes(row, key)).length;
    let chip = box.querySelector(`[data-filter="${key}"]`);
    if (!chip) {
      chip = make("button", { type: "button", "data-filter": key, title: what, class: "chip" });
      chip.addEventListener("click", () => {
        if (!list.pressed.delete(key)) list.pressed.add(key);
        byId("list").scrollTop = 0;
        refilter();
      });
      box.append(chip);
    }
    const on = list.pressed.has(key);
    chip.setAttribute("aria-pressed", on);
    chip.textContent = `${name} ${count}`;
    chip.hidden = !count && !on && key !== "solved" && key !== "unsolved";
  }
}

function drawRows() {
  const box = byId("list");
  const from = Math.max(0, Math.floor(box.scrollTop / ROW) - 6);
  const to = Math.min(list.shown.length, from + Math.ceil(box.clientHeight / ROW) + 13);
  const holder = byId("rows");
  const there = new Map([...holder.children].map((option) => [option.id, option]));
  const wanted = list.shown.slice(from, to).map((row, at) => option(row, from + at, there));
  for (const old of there.values()) if (!wanted.includes(old)) old.remove();
  wanted.forEach((one, at) => {
    if (holder.children[at] !== one) holder.insertBefore(one, holder.children[at] || null);
  });
  const active = list.shown[list.active];
  if (active) box.setAttribute("aria-activedescendant", `option${active.i}`);
  else box.removeAttribute("aria-activedescendant");
}

// A row's element: the one that is there, so that a click or a reader is not interrupted.
function option(row, at, there) {
  let one = there.get(`option${row.i}`);
  if (!one) one = make("div", { role: "option", id: `option${row.i}` });
  if (one.row !== row) {
    one.innerHTML = row.html;
    one.row = row;
  }
  one.className = `row${at === list.active ? " active" : ""}`;
  one.dataset.at = at;
  one.style.top = `${at * ROW}px`;
  one.setAttribute("aria-selected", row.i === view.problem);
  one.setAttribute("aria-posinset", at + 1);
  one.setAttribute("aria-setsize", list.shown.length);
  return one;
}

function activate(at) {
  if (!list.shown.length) return;
  list.active = Math.max(0, Math.min(list.shown.length - 1, at));
  const box = byId("list");
  const top = list.active * ROW;
  if (top < box.scrollTop) box.scrollTop = top;
  else if (top + ROW > box.scrollTop + box.clientHeight) box.scrollTop = top + ROW - box.clientHeight;
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
    const page = Math.max(1, Math.floor(box.clientHeight / ROW) - 1);
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
    list.words = event.target.value;
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
