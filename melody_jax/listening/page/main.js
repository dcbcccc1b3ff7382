// A pair after the other: hear both pieces, choose, go on.

import { json } from "/shared/api.js";

const find = (id) => document.getElementById(id);
const CHOICES = { first: "First", same: "The same", second: "Second" };
const SIDES = ["first", "second"];
const listener = (localStorage["melody-listener"] ??= [...crypto.getRandomValues(new Uint8Array(12))]
  .map((byte) => byte.toString(36).padStart(2, "0")).join(""));
let pair = null, heard = new Set();

start().catch(complain);

async function start() {
  const questions = await json("GET", "/v1/questions");
  find("questions").append(...Object.entries(questions).map(([name, words]) => question(name, words)));
  for (const side of SIDES) {
    find(side).addEventListener("playing", () => (find(SIDES.find((other) => other !== side)).pause(), heard.add(side), check()));
  }
  find("pair").addEventListener("change", check);
  find("pair").addEventListener("submit", (event) => (event.preventDefault(), answer().catch(complain)));
  show(await json("GET", `/v1/next?listener=${listener}`));
}

function question(name, words) {
  const field = document.createElement("fieldset"), legend = document.createElement("legend");
  legend.textContent = words;
  field.append(legend);
  for (const [value, text] of Object.entries(CHOICES)) {
    const label = document.createElement("label"), input = document.createElement("input");
    Object.assign(input, { type: "radio", name, value, required: true });
    label.append(input, text);
    field.append(label);
  }
  return field;
}

function show(next) {
  pair = next.pair;
  heard = new Set();
  find("pair").reset();
  find("pair").hidden = pair === null;
  find("thanks").hidden = pair !== null;
  find("status").textContent = pair === null ? `${next.of} of ${next.of}` : `${next.done + 1} of ${next.of}`;
  for (const side of SIDES) {
    if (pair === null) find(side).pause();
    else find(side).src = `/v1/sounds/${listener}/${pair}/${side}`;
  }
  find("prompt").textContent = next.prompt ?? "";
  check();
}

function check() {
  const complete = find("pair").checkValidity();
  find("next").disabled = heard.size < 2 || !complete;
  find("hint").textContent = heard.size < 2 ? "Hear both pieces first." : complete ? "" : "Answer all three questions.";
}

async function answer() {
  find("next").disabled = true;
  find("problem").hidden = true;
  const choices = Object.fromEntries(new FormData(find("pair")));
  try {
    show(await json("POST", "/v1/answers", { listener, pair, choices }));
    window.scrollTo(0, 0);
  } catch (problem) {
    check();
    throw problem;
  }
}

function complain(problem) {
  find("problem").textContent = problem.message;
  find("problem").hidden = false;
}
