// Loads fragments from the viewer's server, or from the exported page itself.
const live = document.body.dataset.live === "1";
const directory = live ? null : JSON.parse(document.getElementById("directory").textContent);
const packs = new Map();

// The text of a fragment; pages.py lists the names.
async function fragment(name) {
  if (live) {
    const answer = await fetch("fragment/" + name);
    if (!answer.ok) throw new Error((await answer.json()).error.message);
    return answer.text();
  }
  const number = directory[name];
  if (number === undefined) throw new Error("This page does not contain " + name + ".");
  if (!packs.has(number)) {
    packs.set(number, decompress(document.getElementById("pack" + number).textContent));
    if (packs.size > 12) packs.delete(packs.keys().next().value);
  }
  return (await packs.get(number))[name];
}

async function fragmentJson(name) {
  return JSON.parse(await fragment(name));
}

// The problem list, with only the rows that changed after the edition `since`.
async function index(since) {
  if (!live) return JSON.parse(document.getElementById("index").textContent);
  const answer = await fetch("index?since=" + since);
  if (!answer.ok) throw new Error((await answer.json()).error.message);
  return answer.json();
}

async function decompress(text) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return JSON.parse(await new Response(stream).text());
}

// A new element with plain text. Only fragments, which Python has escaped, are inserted as HTML.
function make(tag, attributes = {}, text = "") {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== false) element.setAttribute(name, value);
  }
  element.textContent = text;
  return element;
}

function byId(id) {
  return document.getElementById(id);
}
