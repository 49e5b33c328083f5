// A tree as an outline. Only what is open is in the document; lines and steps come in blocks.
const FAN = 200; // children shown at once
const MOST = 600; // lines that "expand all" opens at most
let outlines = 0;

class Outline {
  constructor(where, shape) {
    this.where = where; // PROBLEM/COLUMN
    this.shape = shape;
    this.name = `t${outlines++}`;
    this.children = shape.parents.map(() => []);
    shape.parents.forEach((parent, node) => parent >= 0 && this.children[parent].push(node));
    this.level = [0];
    for (let node = 1; node < shape.parents.length; node++) {
      this.level[node] = this.level[shape.parents[node]] + 1;
    }
    this.blocks = new Map();
    this.fans = new Map();
    this.root = make("ul", { role: "tree", "aria-label": "Steps of the search", class: "outline" });
    this.root.addEventListener("keydown", (event) => this.key(event));
    this.root.addEventListener("click", (event) => this.click(event));
  }

  block(kind, number) {
    const name = `${kind}/${this.where}/${number}`;
    if (!this.blocks.has(name)) this.blocks.set(name, pieceJson(name));
    return this.blocks.get(name);
  }

  async html(kind, node) {
    const size = this.shape[kind];
    return (await this.block(kind, Math.floor(node / size)))[node % size];
  }

  item(node) {
    return document.getElementById(`${this.name}-${node}`);
  }

  // The children that are shown, those on the way to `target` among them.
  fan(node, target) {
    const all = this.children[node];
    const shown = all.slice(0, this.fans.get(node) || FAN);
    if (target !== undefined && !shown.includes(target)) shown.push(target);
    return shown;
  }

  async list(node, target) {
    const shown = this.fan(node, target);
    const lines = await Promise.all(shown.map((child) => this.html("lines", child)));
    const items = shown.map((child, at) => this.line(child, lines[at]));
    const rest = this.children[node].length - shown.length;
    if (rest > 0) {
      const more = make("li", { role: "treeitem", class: "more", tabindex: -1, "data-more": node });
      more.textContent = `Show ${Math.min(FAN, rest)} of ${rest} more`;
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
    const twist = make("span", { class: "twist", "aria-hidden": true });
    line.prepend(twist);
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
    const next = this.shape.chosen.includes(node)
      ? this.shape.chosen[this.shape.chosen.indexOf(node) + 1]
      : undefined;
    const items = await this.list(node, target === undefined ? next : target);
    const fresh = make("ul", { role: "group" });
    fresh.append(...items);
    item.querySelector(":scope > [role=group]")?.remove();
    item.append(fresh);
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

  // The whole step below its line, or away with it.
  async detail(node, show) {
    const item = this.item(node);
    const there = item.querySelector(":scope > .detail");
    if (there && show !== true) there.remove();
    else if (!there && show !== false) {
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

  // To the next node with a mark after the one in focus, all around.
  async next(mark) {
    const held = this.root.querySelector("[tabindex='0']");
    const from = Number(held?.dataset.node || 0);
    const marks = this.shape.marks;
    let node = marks.indexOf(mark, from + 1);
    if (node < 0) node = marks.indexOf(mark);
    if (node > 0) await this.reveal(node);
  }

  async expandAll() {
    let open = this.root.querySelectorAll("[role=treeitem]").length;
    const queue = [...this.children[0]];
    for (let at = 0; at < queue.length && open < MOST; at++) {
      const node = queue[at];
      if (!this.item(node)) continue;
      await this.expand(node);
      open += Math.min(this.children[node].length, FAN);
      queue.push(...this.children[node]);
    }
    return open >= MOST;
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
    this.fans.set(node, (this.fans.get(node) || FAN) + FAN);
    const known = new Set([...item.parentElement.children].map((one) => one.dataset.node));
    const items = await this.list(node);
    item.replaceWith(...items.filter((one) => !one.dataset.node || !known.has(one.dataset.node)));
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

  // What is open and where the reader is, to come back to after the tree has grown.
  state() {
    const items = [...this.root.querySelectorAll("[data-node]")];
    const of = (chosen) => chosen.map((item) => Number(item.dataset.node));
    return {
      open: of(items.filter((item) => item.getAttribute("aria-expanded") === "true")),
      details: of(items.filter((item) => item.classList.contains("opened"))),
      tab: Number(this.root.querySelector("[tabindex='0']")?.dataset.node || 0),
      focused: this.root.contains(document.activeElement),
      fans: this.fans,
    };
  }

  async restore(state) {
    this.fans = state.fans;
    for (const node of state.open) await this.expand(node);
    for (const node of state.details) if (this.item(node)) await this.detail(node, true);
    if (this.item(state.tab)) this.tabStop(this.item(state.tab));
    if (state.focused) this.item(state.tab)?.focus({ preventScroll: true });
  }
}
