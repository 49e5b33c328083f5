// The page: the open problem, and updates while a run is being written.
const view = { problem: null, columns: [], panes: new Map(), edition: 0, request: 0 };

function notice(text) {
  byId("notice").textContent = text;
  byId("notice").hidden = !text;
}

// Runs an action and shows its error as a notice.
async function withNotice(work) {
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
  const html = await fragment("overview");
  if (view.problem === null) byId("content").innerHTML = html;
}

async function openProblem(number, focus = true) {
  const request = ++view.request;
  view.problem = number;
  drawRows();
  const html = await fragment(`problem/${number}`);
  if (request !== view.request) return; // another problem was opened meanwhile
  const main = byId("content");
  main.innerHTML = html;
  const panes = make("div", { class: "panes" });
  main.append(compareBar(), panes);
  view.panes.clear();
  document.body.dataset.view = "problem";
  updateAddress(number);
  if (focus) {
    main.querySelector("h2").focus({ preventScroll: true });
    scrollTo(0, 0);
  }
  await drawPanes();
}

// Writes the displayed problem and column into the address.
function updateAddress(number) {
  const cell = rows[number]?.cells[list.pair[0]];
  if (!cell) return;
  try {
    history.replaceState(null, "", "#" + cell[2]);
  } catch {
    // A sandboxed page cannot change its address.
  }
}

// Applies a new problem list; the scroll position and the focus are kept.
async function update(index) {
  const first = view.edition === 0 && !view.columns.length;
  view.edition = index.edition;
  if (index.rows) {
    view.columns = index.columns;
    list.filters = index.filters;
    for (const row of index.rows) rows[row.i] = row;
    choosePair();
    refilter();
  }
  drawState(index);
  if (!index.rows || first) return;
  if (view.problem === null) await openOverview();
  else {
    document.querySelector(".compare")?.replaceWith(compareBar());
    await drawPanes();
  }
}

// Selects the displayed columns; with two runs, the same strategy of both.
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

function drawState(index) {
  const total = rows.length;
  const parts = view.columns.map((column) => `${column.label} ${column.done}/${total}`);
  const state = index.writing ? "Running" : live ? "Not running" : "";
  const columns = parts.length <= 6 ? parts.join(", ") : `${parts.length} strategies`;
  const text = [state, columns].filter(Boolean).join(": ");
  if (byId("state").textContent !== text) byId("state").textContent = text;
  document.body.dataset.writing = index.writing ? "1" : "0";
}

async function poll() {
  let wait = document.body.dataset.writing === "1" ? 500 : 1000;
  if (!document.hidden) {
    const started = performance.now();
    try {
      await update(await index(view.edition));
      wait = Math.max(wait, 4 * (performance.now() - started)); // polls large runs less often
      if (view.lost) notice("");
      view.lost = false;
    } catch {
      view.lost = true;
      wait = 4000;
      notice("The viewer's server does not respond; run rstar view again.");
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
  view.request++;
  document.body.dataset.view = "problem";
  try {
    history.replaceState(null, "", "#");
  } catch {
    // See updateAddress.
  }
  drawRows();
  withNotice(() => openOverview());
}

// The problem and column in the address, or null.
function fromAddress() {
  const name = location.hash.slice(1);
  for (const row of name ? rows : []) {
    const found = Object.entries(row.cells).find(([, cell]) => cell[2] === name);
    if (found) return [row.i, found[0]];
  }
  return null;
}

// Opens the problem in the address; returns whether there is one.
function openAddress() {
  const found = fromAddress();
  if (!found) return false;
  if (rows[found[0]].cells[list.pair[0]]?.[2] !== location.hash.slice(1)) list.pair[0] = found[1];
  withNotice(() => openProblem(found[0]));
  return true;
}

// Opens the most instructive finished tree, or the overview if no search is finished.
async function openStart(start) {
  if (!start && rows.length !== 1) return openOverview();
  const [number, key] = start || [0, list.pair[0]];
  if (!list.pair[1]) list.pair[0] = key;
  await openProblem(number, false);
  if (rows.length > 1) document.body.dataset.view = "list"; // a narrow screen shows one of the two
}

async function start() {
  startList();
  list.onOpen = (number) => withNotice(() => openProblem(number));
  document.addEventListener("keydown", keys);
  byId("home").addEventListener("click", home);
  byId("back").addEventListener("click", () => showList("list"));
  addEventListener("hashchange", openAddress);
  const first = await index(0);
  await update(first);
  if (!openAddress()) await openStart(first.start);
  if (live) setTimeout(poll, 1000);
}

withNotice(start);
