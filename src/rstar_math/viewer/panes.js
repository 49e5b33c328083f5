// A problem's answers: one column, or two side by side, each with its tree.

// Which columns are shown, where there are several.
function compareBar() {
  const bar = make("div", { class: "compare", role: "group", "aria-label": "Strategies shown" });
  if (view.columns.length < 2) return bar;
  ["Shown", "beside"].forEach((word, at) => {
    const label = make("label", {}, word + " ");
    const select = make("select", { "data-side": at });
    if (at === 1) select.append(make("option", { value: "" }, "nothing"));
    for (const column of view.columns) {
      select.append(make("option", { value: column.key }, column.label));
    }
    select.value = list.pair[at] || "";
    select.addEventListener("change", () =>
      guarded(async () => {
        list.pair[at] = select.value || null;
        refilter();
        place(view.problem);
        await drawPanes();
      }),
    );
    label.append(select);
    bar.append(label);
  });
  return bar;
}

// Puts the panes of the pair in place; one that shows what it should is left alone.
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
    const stamp = rows[number].cells[key]?.[1] || 0;
    const old = view.panes.get(key);
    if (!old || old.stamp !== stamp) {
      const state = old?.outline?.state();
      const pane = await makePane(number, key, stamp);
      if (view.problem !== number) return;
      const before = scrollY;
      if (old) old.element.replaceWith(pane.element);
      view.panes.set(key, pane);
      if (!old) box.append(pane.element);
      if (state && pane.outline) await pane.outline.restore(state);
      scrollTo(0, before);
    }
  }
  keys.forEach((key, at) => {
    const element = view.panes.get(key)?.element;
    if (element && box.children[at] !== element) box.insertBefore(element, box.children[at] || null);
  });
}

async function makePane(number, key, stamp) {
  const label = columnLabel(key);
  const about = { "data-problem": number, "data-key": key };
  const element = make("section", { class: "pane", "aria-label": label, ...about });
  if (view.columns.length > 1) element.append(make("h3", { class: "column" }, label));
  if (!stamp) {
    element.append(make("p", { class: "dim" }, "Not yet searched."));
    return { element, stamp, outline: null };
  }
  const where = `${number}/${key}`;
  const [html, shape] = await Promise.all([piece(`result/${where}`), pieceJson(`tree/${where}`)]);
  const result = make("div", { class: "result" });
  result.innerHTML = html;
  const outline = new Outline(where, shape);
  element.append(result, treeBox(outline));
  result.querySelector(".picture")?.addEventListener("click", (event) => {
    const dot = event.target.closest("[data-node]");
    if (dot && dot.dataset.node !== "0") guarded(() => outline.reveal(Number(dot.dataset.node), true));
  });
  const holder = make("div", { hidden: "" });
  holder.append(element);
  document.body.append(holder); // ids are looked up in the document
  await outline.start();
  element.remove();
  holder.remove();
  return { element, stamp, outline };
}

function treeBox(outline) {
  const box = make("section", { class: "tree-box", "aria-label": "Tree" });
  const count = outline.shape.parents.length - 1;
  box.append(make("h3", {}, `Tree: ${count} step${count === 1 ? "" : "s"}`));
  const bar = make("div", { class: "buttons", role: "toolbar", "aria-label": "Tree" });
  const has = (mark) => outline.shape.marks.includes(mark);
  const buttons = [
    ["Chosen path", outline.shape.chosen.length, () => outline.reveal(outline.shape.chosen.at(-1))],
    ["Next answer", has("a"), () => outline.next("a")],
    ["Next dead end", has("x"), () => outline.next("x")],
    ["Expand all", count > outline.children[0].length, () => expandAll(outline, said)],
    ["Collapse", count > outline.children[0].length, () => outline.collapseAll()],
  ];
  const said = make("span", { class: "dim", role: "status" });
  for (const [words, wanted, action] of buttons) {
    if (!wanted) continue;
    const button = make("button", { type: "button" }, words);
    button.addEventListener("click", () => guarded(action));
    bar.append(button);
  }
  bar.append(said);
  box.append(bar, outline.root);
  return box;
}

async function expandAll(outline, said) {
  const cut = await outline.expandAll();
  said.textContent = cut ? `The first ${MOST} lines or so are open.` : "";
}
