// A tree as an outline. Only expanded lines are in the document; lines and steps load in blocks.
const PAGE_CHILDREN = 200; // children displayed per "Show more"
const MAX_OPEN_LINES = 600; // maximum number of lines that "Expand all" opens
let outlines = 0;

class Outline {
  constructor(path, shape) {
    this.path = path; // PROBLEM/COLUMN
    this.name = `t${outlines++}`;
    this.setShape(shape);
    this.displayed = new Map(); // number of displayed children by node
    this.root = make("ul", { role: "tree", "aria-label": "Steps of the search", class: "outline" });
    this.root.addEventListener("keydown", (event) => this.key(event));
    this.root.addEventListener("click", (event) => this.click(event));
  }

  setShape(shape) {
    this.shape = shape;
    this.children = shape.parents.map(() => []);
    shape.parents.forEach((parent, node) => parent >= 0 && this.children[parent].push(node));
    this.level = [0];
    for (let node = 1; node < shape.parents.length; node++) {
      this.level[node] = this.level[shape.parents[node]] + 1;
    }
    this.blocks = new Map();
  }

  // Whether a shape is that of this tree with more nodes.
  isGrown(shape) {
    const old = this.shape.parents;
    return shape.parents.length >= old.length && old.every((p, at) => p === shape.parents[at]);
  }

  // Adds the new nodes of a grown tree to the displayed lists, and redraws the displayed lines. A
  // node that had no children is expanded; everything else stays as the reader left it.
  async grow(shape) {
    const leaf = (node) => !this.children[node]?.length;
    const displayed = () => [...this.root.querySelectorAll("[data-node]")];
    const leaves = displayed().map((item) => Number(item.dataset.node)).filter(leaf);
    const size = this.shape.parents.length;
    this.setShape(shape);
    for (const item of displayed()) {
      const node = Number(item.dataset.node);
      const line = item.querySelector(":scope > .line");
      const html = await this.html("lines", node);
      const twist = line.querySelector(".twist");
      line.innerHTML = html;
      line.prepend(twist);
      item.setAttribute("aria-setsize", this.children[shape.parents[node]].length);
      if (!leaf(node) && !item.hasAttribute("aria-expanded")) {
        item.className = item.className.replace("leaf", "inner");
        item.setAttribute("aria-expanded", false);
      }
    }
    for (const group of [this.root, ...this.root.querySelectorAll("[role=group]")]) {
      const item = group.closest("[role=treeitem]");
      const node = Number(item?.dataset.node || 0);
      const present = new Set([...group.children].map((child) => child.dataset.node));
      const items = await this.list(node);
      group.querySelector(":scope > .more")?.remove();
      group.append(...items.filter((child) => !present.has(child.dataset.node)));
    }
    for (const node of leaves) {
      if (!leaf(node) && displayed().length < MAX_OPEN_LINES) await this.expand(node);
    }
    for (const item of displayed()) {
      item.classList.toggle("new", Number(item.dataset.node) >= size);
    }
    if (!this.root.querySelector("[tabindex='0']")) {
      this.tabStop(this.root.querySelector("[role=treeitem]"));
    }
  }

  block(kind, number) {
    const name = `${kind}/${this.path}/${number}`;
    if (!this.blocks.has(name)) this.blocks.set(name, fragmentJson(name));
    return this.blocks.get(name);
  }

  async html(kind, node) {
    const size = this.shape[kind];
    return (await this.block(kind, Math.floor(node / size)))[node % size];
  }

  item(node) {
    return document.getElementById(`${this.name}-${node}`);
  }

  // The displayed children of a node; always includes the child `target`.
  displayedChildren(node, target) {
    const all = this.children[node];
    const shown = all.slice(0, this.displayed.get(node) || PAGE_CHILDREN);
    if (target !== undefined && !shown.includes(target)) shown.push(target);
    return shown;
  }

  async list(node, target) {
    const shown = this.displayedChildren(node, target);
    const lines = await Promise.all(shown.map((child) => this.html("lines", child)));
    const items = shown.map((child, at) => this.line(child, lines[at]));
    const rest = this.children[node].length - shown.length;
    if (rest > 0) {
      const more = make("li", { role: "treeitem", class: "more", tabindex: -1, "data-more": node });
      more.textContent = `Show ${Math.min(PAGE_CHILDREN, rest)} of ${rest} more`;
      items.push(more);
    }
    return items;
  }

  line(node, html) {
    const siblings = this.children[this.shape.parents[node]];
    const inner = this.children[node].length > 0;
    const item = make("li", {
      role: "treeitem",
      id: `${this.name}-${node}`,
      class: inner ? "inner" : "leaf",
      tabindex: -1,
      "data-node": node,
      "aria-level": this.level[node],
      "aria-setsize": siblings.length,
      "aria-posinset": siblings.indexOf(node) + 1,
      "aria-expanded": inner ? false : null,
      "aria-labelledby": `${this.name}-${node}-line`,
    });
    const line = make("div", { class: "line", id: `${this.name}-${node}-line` });
    line.innerHTML = html;
    line.prepend(make("span", { class: "twist", "aria-hidden": true }));
    item.append(line);
    return item;
  }

  async start() {
    this.root.replaceChildren(...(await this.list(0, this.shape.chosen[0])));
    for (const node of this.shape.chosen) await this.expand(node);
    this.tabStop(this.root.querySelector("[role=treeitem]"));
  }

  async expand(node, target) {
    const item = this.item(node);
    if (!item || !this.children[node].length) return;
    const group = item.querySelector(":scope > [role=group]");
    if (group && (target === undefined || this.item(target))) return;
    const nextChosen = this.shape.chosen.includes(node)
      ? this.shape.chosen[this.shape.chosen.indexOf(node) + 1]
      : undefined;
    const items = await this.list(node, target === undefined ? nextChosen : target);
    const newGroup = make("ul", { role: "group" });
    newGroup.append(...items);
    item.querySelector(":scope > [role=group]")?.remove();
    item.append(newGroup);
    item.setAttribute("aria-expanded", true);
  }

  collapse(node) {
    const item = this.item(node);
    item?.querySelector(":scope > [role=group]")?.remove();
    if (item?.hasAttribute("aria-expanded")) item.setAttribute("aria-expanded", false);
  }

  async toggle(node) {
    if (this.item(node).getAttribute("aria-expanded") === "true") this.collapse(node);
    else await this.expand(node);
  }

  // Shows or hides the complete step below its line; toggles it without `show`.
  async detail(node, show) {
    const item = this.item(node);
    const existing = item.querySelector(":scope > .detail");
    if (existing && show !== true) existing.remove();
    else if (!existing && show !== false) {
      const html = await this.html("steps", node);
      if (item.querySelector(":scope > .detail")) return;
      const box = make("div", { class: "detail" });
      box.innerHTML = html;
      item.querySelector(":scope > .line").after(box);
    }
    item.classList.toggle("opened", Boolean(item.querySelector(":scope > .detail")));
  }

  async reveal(node, detail) {
    const path = [];
    for (let at = node; at > 0; at = this.shape.parents[at]) path.unshift(at);
    if (path.length && !this.item(path[0])) {
      this.root.replaceChildren(...(await this.list(0, path[0])));
    }
    for (let at = 0; at + 1 < path.length; at++) await this.expand(path[at], path[at + 1]);
    if (detail) await this.detail(node, true);
    this.focus(this.item(node));
  }

  // Moves to the next node with a mark after the focused one; wraps around at the end.
  async next(mark) {
    const current = this.root.querySelector("[tabindex='0']");
    const from = Number(current?.dataset.node || 0);
    const marks = this.shape.marks;
    let node = marks.indexOf(mark, from + 1);
    if (node < 0) node = marks.indexOf(mark);
    if (node > 0) await this.reveal(node);
  }

  async expandAll() {
    let open = this.root.querySelectorAll("[role=treeitem]").length;
    const queue = [...this.children[0]];
    for (let at = 0; at < queue.length && open < MAX_OPEN_LINES; at++) {
      const node = queue[at];
      if (!this.item(node)) continue;
      await this.expand(node);
      open += Math.min(this.children[node].length, PAGE_CHILDREN);
      queue.push(...this.children[node]);
    }
    return open >= MAX_OPEN_LINES;
  }

  collapseAll() {
    for (const node of this.children[0]) this.collapse(node);
    this.tabStop(this.root.querySelector("[role=treeitem]"));
  }

  tabStop(item) {
    this.root.querySelector("[tabindex='0']")?.setAttribute("tabindex", -1);
    item?.setAttribute("tabindex", 0);
  }

  focus(item) {
    if (!item) return;
    this.tabStop(item);
    item.focus({ preventScroll: true });
    (item.querySelector(":scope > .line") || item).scrollIntoView({ block: "nearest" });
  }

  async more(item) {
    const node = Number(item.dataset.more);
    const before = item.previousElementSibling;
    this.displayed.set(node, (this.displayed.get(node) || PAGE_CHILDREN) + PAGE_CHILDREN);
    const present = new Set([...item.parentElement.children].map((child) => child.dataset.node));
    const items = await this.list(node);
    const isNew = (child) => !child.dataset.node || !present.has(child.dataset.node);
    item.replaceWith(...items.filter(isNew));
    this.focus(before.nextElementSibling);
  }

  async click(event) {
    const item = event.target.closest("[role=treeitem]");
    if (!item || event.target.closest(".detail")) return;
    if (item.dataset.more !== undefined) return this.more(item);
    const node = Number(item.dataset.node);
    this.focus(item);
    if (event.target.closest(".twist") && this.children[node].length) await this.toggle(node);
    else await this.detail(node);
  }

  async key(event) {
    const item = event.target.closest("[role=treeitem]");
    if (!item || event.ctrlKey || event.metaKey || event.altKey) return;
    const node = Number(item.dataset.node);
    const open = item.getAttribute("aria-expanded");
    const all = () => [...this.root.querySelectorAll("[role=treeitem]")];
    const step = (by) => this.focus(all()[all().indexOf(item) + by]);
    const actions = {
      ArrowDown: () => step(1),
      ArrowUp: () => step(-1),
      Home: () => this.focus(all()[0]),
      End: () => this.focus(all().at(-1)),
      ArrowRight: () => (open === "false" ? this.expand(node) : open === "true" && step(1)),
      ArrowLeft: () =>
        open === "true"
          ? this.collapse(node)
          : this.focus(item.parentElement.closest("[role=treeitem]")),
      Enter: () => (item.dataset.more === undefined ? this.detail(node) : this.more(item)),
      "*": () => Promise.all(this.children[this.shape.parents[node]].map((n) => this.expand(n))),
      a: () => this.next("a"),
      x: () => this.next("x"),
      c: () => this.shape.chosen.length && this.reveal(this.shape.chosen.at(-1)),
    };
    actions[" "] = actions.Enter;
    if (!(event.key in actions)) return;
    event.preventDefault();
    event.stopPropagation();
    await actions[event.key]();
  }

  // The expanded nodes and the focus, to restore them after the tree has grown.
  state() {
    const items = [...this.root.querySelectorAll("[data-node]")];
    const nodes = (elements) => elements.map((item) => Number(item.dataset.node));
    return {
      open: nodes(items.filter((item) => item.getAttribute("aria-expanded") === "true")),
      details: nodes(items.filter((item) => item.classList.contains("opened"))),
      tab: Number(this.root.querySelector("[tabindex='0']")?.dataset.node || 0),
      focused: this.root.contains(document.activeElement),
      displayed: this.displayed,
    };
  }

  async restore(state) {
    this.displayed = state.displayed;
    for (const node of state.open) await this.expand(node);
    for (const node of state.details) if (this.item(node)) await this.detail(node, true);
    if (this.item(state.tab)) this.tabStop(this.item(state.tab));
    if (state.focused) this.item(state.tab)?.focus({ preventScroll: true });
  }
}
