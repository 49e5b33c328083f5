// A problem's answers: one column, or two side by side, each with its tree.

// The selection of the displayed columns; empty if there is only one column.
function compareBar() {
  const bar = make("div", { class: "compare", role: "group", "aria-label": "Strategies shown" });
  if (view.columns.length < 2) return bar;
  ["Show", "next to"].forEach((word, at) => {
    const label = make("label", {}, word + " ");
    const select = make("select", { "data-side": at });
    if (at === 1) select.append(make("option", { value: "" }, "nothing"));
    for (const column of view.columns) {
      select.append(make("option", { value: column.key }, column.label));
    }
    select.value = list.pair[at] || "";
    select.addEventListener("change", () =>
      withNotice(async () => {
        list.pair[at] = select.value || null;
        refilter();
        updateAddress(view.problem);
        await drawPanes();
      }),
    );
    label.append(select);
    bar.append(label);
  });
  return bar;
}

// Draws the panes of the pair. Panes that are up to date are kept.
async function drawPanes() {
  const number = view.problem;
  const box = document.querySelector(".panes");
  if (number === null || !box) return;
  const keys = [...new Set(list.pair.filter(Boolean))];
  box.classList.toggle("two", keys.length > 1);
  for (const [key, pane] of view.panes) {
    if (!keys.includes(key)) {
      pane.element.remove();
      view.panes.delete(key);
    }
  }
  for (const key of keys) {
    const version = rows[number].cells[key]?.[1] || 0;
    const old = view.panes.get(key);
    if (old?.outline && version && old.version !== version) {
      if (await growPane(old, number, key, version)) continue;
    }
    if (!old || old.version !== version) {
      const state = old?.outline?.state();
      const pane = await makePane(number, key, version);
      if (view.problem !== number) return;
      const scroll = scrollY;
      if (old) old.element.replaceWith(pane.element);
      view.panes.set(key, pane);
      if (!old) box.append(pane.element);
      if (state && pane.outline) await pane.outline.restore(state);
      scrollTo(0, scroll);
    }
  }
  keys.forEach((key, at) => {
    const element = view.panes.get(key)?.element;
    if (element && box.children[at] !== element) box.insertBefore(element, box.children[at] || null);
  });
}

async function makePane(number, key, version) {
  const label = columnLabel(key);
  const data = { "data-problem": number, "data-key": key };
  const element = make("section", { class: "pane", "aria-label": label, ...data });
  if (view.columns.length > 1) element.append(make("h3", { class: "column" }, label));
  if (!version) {
    element.append(make("p", { class: "dim" }, "Not yet searched."));
    return { element, version, outline: null };
  }
  const name = `${number}/${key}`;
  const [html, shape] = await Promise.all([
    fragment(`result/${name}`),
    fragmentJson(`tree/${name}`),
  ]);
  const result = make("div", { class: "result" });
  result.innerHTML = html;
  const outline = new Outline(name, shape);
  element.append(result, treeBox(outline));
  result.addEventListener("click", (event) => {
    const dot = event.target.closest(".picture [data-node]");
    const node = Number(dot?.dataset.node || 0);
    if (node) withNotice(() => outline.reveal(node, true));
  });
  const holder = make("div", { hidden: "" });
  holder.append(element);
  document.body.append(holder); // the outline finds its elements by id in the document
  await outline.start();
  element.remove();
  holder.remove();
  return { element, version, outline };
}

// Adds new nodes to a displayed tree; returns false if it is another tree.
async function growPane(pane, number, key, version) {
  const name = `${number}/${key}`;
  const [html, shape] = await Promise.all([
    fragment(`result/${name}`),
    fragmentJson(`tree/${name}`),
  ]);
  if (view.problem !== number || !pane.outline.isGrown(shape)) return false;
  pane.element.querySelector(".result").innerHTML = html;
  await pane.outline.grow(shape);
  drawTools(pane.element.querySelector(".tree-box"), pane.outline);
  pane.version = version;
  return true;
}

function treeBox(outline) {
  const box = make("section", { class: "tree-box", "aria-label": "Tree" });
  const bar = make("div", { class: "buttons", role: "toolbar", "aria-label": "Tree" });
  const status = make("span", { class: "dim", role: "status" });
  const buttons = [
    ["Chosen path", () => outline.reveal(outline.shape.chosen.at(-1))],
    ["Next answer", () => outline.next("a")],
    ["Next failed path", () => outline.next("x")],
    ["Expand all", () => expandAll(outline, status)],
    ["Collapse", () => outline.collapseAll()],
  ];
  for (const [text, action] of buttons) {
    const button = make("button", { type: "button" }, text);
    button.addEventListener("click", () => withNotice(action));
    bar.append(button);
  }
  bar.append(status);
  box.append(make("h3"), bar, outline.root);
  drawTools(box, outline);
  return box;
}

// Writes the number of steps, and hides the buttons that have nothing to do.
function drawTools(box, outline) {
  const count = outline.shape.parents.length - 1;
  box.querySelector("h3").textContent = `Tree: ${count} step${count === 1 ? "" : "s"}`;
  const has = (mark) => outline.shape.marks.includes(mark);
  const deep = count > outline.children[0].length;
  const useful = [outline.shape.chosen.length, has("a"), has("x"), deep, deep];
  box.querySelectorAll(".buttons button").forEach((button, at) => (button.hidden = !useful[at]));
}

async function expandAll(outline, status) {
  const truncated = await outline.expandAll();
  const text = `About ${MAX_OPEN_LINES} lines are expanded; the rest is not.`;
  status.textContent = truncated ? text : "";
}
