// The page: what is open, side by side, kept up to date while a run is written.
const view = { problem: null, columns: [], panes: new Map(), edition: 0, wanted: 0 };

function notice(words) {
  byId("notice").textContent = words;
  byId("notice").hidden = !words;
}

// Runs what may fail for the reader to see.
async function guarded(work) {
  try {
    notice("");
    await work();
  } catch (error) {
    notice(error.message);
  }
}

function columnLabel(key) {
  return view.columns.find((column) => column.key === key)?.label || "";
}

async function openOverview() {
  const html = await piece("overview");
  if (view.problem === null) byId("content").innerHTML = html;
}

async function openProblem(number, focus = true) {
  const mine = ++view.wanted;
  view.problem = number;
  drawRows();
  const html = await piece(`problem/${number}`);
  if (mine !== view.wanted) return;
  const main = byId("content");
  main.innerHTML = html;
  const panes = make("div", { class: "panes" });
  main.append(compareBar(), panes);
  view.panes.clear();
  document.body.dataset.view = "problem";
  place(number);
  if (focus) {
    main.querySelector("h2").focus({ preventScroll: true });
    scrollTo(0, 0);
  }
  await drawPanes();
}

function place(number) {
  const cell = rows[number]?.cells[list.pair[0]];
  if (!cell) return;
  try {
    history.replaceState(null, "", "#" + cell[2]);
  } catch {
    // A page in a sandbox has no address to change.
  }
}

// Takes in a list of problems that is newer; the reader stays where they are.
async function update(news) {
  const first = view.edition === 0 && !view.columns.length;
  view.edition = news.edition;
  if (news.rows) {
    view.columns = news.columns;
    list.filters = news.filters;
    for (const row of news.rows) rows[row.i] = row;
    choosePair();
    refilter();
  }
  drawState(news);
  if (!news.rows || first) return;
  if (view.problem === null) await openOverview();
  else {
    document.querySelector(".compare")?.replaceWith(compareBar());
    await drawPanes();
  }
}

// With two runs, the first strategy of one beside the same of the other.
function choosePair() {
  const [first] = view.columns;
  if (!first) return;
  if (!list.pair[0]) list.pair[0] = first.key;
  if (list.pair[1] || view.comparing) return;
  const others = view.columns.filter((column) => column.run === 1);
  const same = others.find((column) => column.strategy === first.strategy);
  if (others.length) {
    list.pair[1] = (same || others[0]).key;
    view.comparing = true;
  }
}

function drawState(news) {
  const total = rows.length;
  const parts = view.columns.map((column) => `${column.label} ${column.done}/${total}`);
  const words = news.writing ? "Running" : live ? "Not running" : "";
  const few = parts.length <= 6 ? parts.join(", ") : `${parts.length} strategies`;
  const text = [words, few].filter(Boolean).join(": ");
  if (byId("state").textContent !== text) byId("state").textContent = text;
  document.body.dataset.writing = news.writing ? "1" : "0";
}

async function poll() {
  let wait = 1000;
  if (!document.hidden) {
    const began = performance.now();
    try {
      await update(await index(view.edition));
      wait = Math.max(wait, 4 * (performance.now() - began)); // large runs are asked for less often
      if (view.lost) notice("");
      view.lost = false;
    } catch {
      view.lost = true;
      wait = 4000;
      notice("The viewer does not answer; start it again with rstar view.");
    }
  }
  setTimeout(poll, wait);
}

function keys(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
  if (event.target.closest("input, select, textarea")) {
    if (event.key === "Escape") byId("list").focus();
    return;
  }
  const at = list.shown.findIndex((row) => row.i === view.problem);
  const actions = {
    "/": () => showList("find"),
    j: () => openAt(at + 1),
    k: () => openAt(at - 1),
    l: () => showList("list"),
    Escape: () => showList("list"),
    t: () => document.querySelector(".outline [tabindex='0']")?.focus(),
    o: () => home(),
  };
  if (!(event.key in actions)) return;
  event.preventDefault();
  actions[event.key]();
}

function showList(focus) {
  document.body.dataset.view = "list";
  drawRows();
  byId(focus).focus();
}

function home() {
  view.problem = null;
  view.wanted++;
  document.body.dataset.view = "problem";
  try {
    history.replaceState(null, "", "#");
  } catch {
    // As in place().
  }
  drawRows();
  guarded(() => openOverview());
}

// The problem and column that the address names.
function named() {
  const name = location.hash.slice(1);
  for (const row of name ? rows : []) {
    const found = Object.entries(row.cells).find(([, cell]) => cell[2] === name);
    if (found) return [row.i, found[0]];
  }
  return null;
}

function follow() {
  const found = named();
  if (!found) return false;
  if (rows[found[0]].cells[list.pair[0]]?.[2] !== location.hash.slice(1)) list.pair[0] = found[1];
  guarded(() => openProblem(found[0]));
  return true;
}

async function begin() {
  startList();
  list.onOpen = (number) => guarded(() => openProblem(number));
  document.addEventListener("keydown", keys);
  byId("home").addEventListener("click", home);
  byId("back").addEventListener("click", () => showList("list"));
  addEventListener("hashchange", follow);
  await update(await index(0));
  if (!follow()) {
    if (rows.length === 1) await openProblem(0, false);
    else await openOverview();
  }
  if (live) setTimeout(poll, 1000);
}

guarded(begin);
