// Where the pieces of the page come from: the server that sent it, or the page itself.
const live = document.body.dataset.live === "1";
const directory = live ? null : JSON.parse(document.getElementById("directory").textContent);
const packs = new Map();

// A piece as text, by its name (see book.py).
async function piece(name) {
  if (live) {
    const answer = await fetch("piece/" + name);
    if (!answer.ok) throw new Error((await answer.json()).error.message);
    return answer.text();
  }
  const number = directory[name];
  if (number === undefined) throw new Error("This page does not hold " + name + ".");
  if (!packs.has(number)) {
    packs.set(number, unpacked(document.getElementById("pack" + number).textContent));
    if (packs.size > 12) packs.delete(packs.keys().next().value);
  }
  return (await packs.get(number))[name];
}

async function pieceJson(name) {
  return JSON.parse(await piece(name));
}

// The list of problems, as far as it is newer than an edition.
async function index(since) {
  if (!live) return JSON.parse(document.getElementById("index").textContent);
  const answer = await fetch("index?since=" + since);
  if (!answer.ok) throw new Error((await answer.json()).error.message);
  return answer.json();
}

async function unpacked(text) {
  const bytes = Uint8Array.from(atob(text), (sign) => sign.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return JSON.parse(await new Response(stream).text());
}

// An element. Words go in as text; only pieces, which Python has escaped, go in as HTML.
function make(tag, attributes = {}, words = "") {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== false) element.setAttribute(name, value);
  }
  element.textContent = words;
  return element;
}

function byId(id) {
  return document.getElementById(id);
}
