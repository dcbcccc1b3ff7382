// The page: what is asked for, what is made, what is done with it next.

import { call, follow, json, save } from "/page/api.js";
import { Player } from "/page/player.js";
import { Stream } from "/page/stream.js";
import { Takes, factsOf } from "/page/takes.js";

const find = (id) => document.getElementById(id);
const STEPS = { prompt: "reading the sentence", "language model": "writing the tokens", diffusion: "painting", decoder: "making it sound", choice: "listening" };
const player = new Player(find, showSpan);
const takes = new Takes(find("takes"), showTake);
let about, stream, running = null, shown = 0;

start().catch(complain);

async function start() {
  dress(localStorage.getItem("melody-theme"));
  about = await json("GET", "/v1/about");
  find("status").textContent = `${about.sample_rate / 1000} kHz`;
  stream = new Stream(about.sample_rate, tellLive);
  const { settings, limits, controls } = about;
  for (const name of ["seconds", "temperature", "guidance", "lm_guidance", "steps"]) find(name).value = settings[name];
  find("seconds").max = find("more").max = limits.seconds;
  find("candidates").max = limits.candidates;
  find("candidates").value = settings.candidates;
  find("steps").max = limits.steps;
  find("prompt").maxLength = find("wish").maxLength = find("negative").maxLength = limits.text;
  find("format").append(...about.formats.map((name) => new Option(name)));
  find("controls").hidden = !controls;
  find("edit").hidden = !about.edits;
  if (controls) {
    [find("bpm").min, find("bpm").max] = controls.bpm;
    find("key").append(...controls.keys.map((name) => new Option(name)));
    find("metre").append(...controls.metres.map((name) => new Option(name)));
    find("instrument-names").append(...controls.instruments.map((name) => new Option(name)));
  }
  await takes.restore((id) => json("GET", `/v1/takes/${id}`).catch(() => null));
}

function composed() {
  const settings = {};
  for (const name of ["seconds", "candidates", "temperature", "guidance", "lm_guidance", "steps"]) {
    if (find(name).value !== "") settings[name] = Number(find(name).value);
  }
  return { prompt: find("prompt").value, ...common(settings), controls: about.controls ? controls() : {} };
}

function common(settings) {
  const body = { settings, controls: {} };
  const negative = find("negative").value.trim(), seed = find("seed").value;
  if (negative) {
    body.negative = negative;
    if (settings.lm_guidance === undefined || settings.lm_guidance === 1) settings.lm_guidance = 3; // it leads away from it
  }
  if (seed !== "") body.seed = Number(seed);
  return body;
}

function controls() {
  const asked = {}, players = find("instruments").value.split(",").map((name) => name.trim()).filter(Boolean);
  if (find("bpm").value) asked.bpm = Number(find("bpm").value);
  for (const name of ["key", "metre"]) if (find(name).value) asked[name] = find(name).value;
  if (players.length) asked.instruments = players;
  if (find("drums").value) asked.drums = find("drums").value === "yes";
  return asked;
}

/** Settings of an edit: those of the form that matter for it. */
function edited(more = {}) {
  const settings = { ...more };
  for (const name of ["temperature", "guidance", "lm_guidance", "steps"]) if (find(name).value !== "") settings[name] = Number(find(name).value);
  const prompt = find("wish").value.trim();
  return { take: takes.current, ...(prompt ? { prompt } : {}), ...common(settings) };
}

async function make(verb, body) {
  if (running) return;
  quiet();
  busy(true, "asking");
  try {
    running = await json("POST", `/v1/${verb}`, body);
    const job = await follow(running.id, tell);
    if (job.state === "failed") throw new Error(job.error);
    if (job.state === "cancelled" && job.error) throw new Error(job.error);
    for (const id of job.takes) takes.add(await json("GET", `/v1/takes/${id}`));
    if (job.takes.length) takes.choose(job.takes[0]);
    if (job.notes.length) complain(new Error(job.notes.join(" ")));
  } catch (problem) {
    complain(problem);
  } finally {
    running = null;
    busy(false);
  }
}

function tell(job) {
  const text = job.state === "waiting" ? "waiting for its turn" : STEPS[job.step] ? `${STEPS[job.step]}: done` : "at work";
  find("work-text").textContent = text;
  find("work-bar").value = job.done / job.total;
}

function busy(is, text = "") {
  find("work").hidden = !is;
  find("work-text").textContent = text;
  find("work-bar").value = 0;
  for (const id of ["make", "continue", "vary"]) find(id).disabled = is;
  find("cancel").disabled = false;
  find("repaint").disabled = is || !player.span;
}

async function listen() {
  if (!find("compose").reportValidity()) return;
  quiet();
  find("audio").pause();
  const body = composed();
  find("live-text").textContent = body.prompt;
  try {
    await stream.start(body);
  } catch (problem) {
    complain(problem);
  }
}

async function changeStream() {
  if (!find("compose").reportValidity()) return;
  quiet();
  const { prompt, negative, controls, settings } = composed();
  try {
    await stream.change({ prompt, negative, controls, settings });
    find("live-text").textContent = prompt;
  } catch (problem) {
    complain(problem);
  }
}

function tellLive() {
  const { playing, id, heard, ahead } = stream;
  find("live").hidden = !playing;
  find("stream").disabled = playing;
  find("live-change").disabled = !id;
  if (!playing) return;
  find("live-level").value = stream.level;
  find("live-time").textContent = ahead ? `${heard.toFixed(0)} s · ${ahead.toFixed(0)} s ahead` : "being made";
}

async function showTake(take) {
  const turn = ++shown;
  try {
    const file = await (await call("GET", `/v1/takes/${take.id}/audio`)).arrayBuffer();
    if (turn !== shown) return; // another one was chosen meanwhile
    find("player").hidden = find("history").hidden = false;
    find("title").textContent = take.title || "music";
    find("facts").textContent = factsOf(take);
    find("undo").disabled = !takes.before;
    find("redo").disabled = !takes.after;
    find("from").max = find("to").max = take.seconds;
    player.show(take.id, file, true);
  } catch (problem) {
    if (problem.status === 404) takes.drop(take.id);
    complain(problem);
  }
}

function showSpan(span) {
  find("repaint").disabled = !span || Boolean(running);
  find("clear").disabled = !span;
  find("from").value = span ? span.from.toFixed(2) : "";
  find("to").value = span ? span.to.toFixed(2) : "";
}

function typedSpan() {
  const [from, to] = ["from", "to"].map((id) => Math.max(0, Math.min(player.seconds, Number(find(id).value))));
  if (find("from").value !== "" && find("to").value !== "" && from < to) player.select({ from, to });
}

function complain(problem) {
  find("problem").textContent = problem.message;
  find("problem").hidden = false;
}

function quiet() {
  find("problem").hidden = true;
}

function dress(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
  player.redraw();
}

find("compose").addEventListener("submit", (event) => {
  event.preventDefault();
  make("generate", { ...composed(), keep_all: true });
});
find("edit").addEventListener("submit", (event) => event.preventDefault());
find("repaint").onclick = () => {
  const { from, to } = player.span; // beginnings rounded up and ends down stay inside the music
  make("inpaint", { ...edited(), spans: [[Math.ceil(from * 1000) / 1000, Math.floor(to * 1000) / 1000]] });
};
find("continue").onclick = () => make("continue", edited({ seconds: Number(find("more").value) }));
find("vary").onclick = () => make("vary", { ...edited(), strength: Number(find("strength").value) });
find("strength").oninput = () => (find("how-much").value = `${Math.round(100 * find("strength").value)} %`);
find("cancel").onclick = () => {
  find("cancel").disabled = true;
  if (running) call("DELETE", `/v1/jobs/${running.id}`).catch(complain);
};
find("stream").onclick = listen;
find("live-change").onclick = changeStream;
find("live-stop").onclick = () => stream.stop();
find("undo").onclick = () => takes.undo();
find("redo").onclick = () => takes.redo();
find("dice").onclick = () => (find("seed").value = "");
find("clear").onclick = () => player.select(null);
find("from").onchange = find("to").onchange = typedSpan;
find("loop").onchange = () => (player.loop = find("loop").checked);
find("download").onclick = () => save(`/v1/takes/${takes.current}/audio?format=${find("format").value}`).catch(complain);
find("json").onclick = () => save(`/v1/takes/${takes.current}/json`).catch(complain);
find("file").onchange = async ({ target }) => {
  const [file] = target.files;
  target.value = "";
  if (!file) return;
  quiet();
  try {
    const title = encodeURIComponent(file.name.slice(0, 200));
    const take = await json("POST", `/v1/takes?title=${title}`, file, file.type || "application/octet-stream");
    takes.add(take);
    takes.choose(take.id);
  } catch (problem) {
    complain(problem);
  }
};
find("theme").onclick = () => {
  const dark = getComputedStyle(document.documentElement).getPropertyValue("--ground").trim() === "#121019";
  localStorage.setItem("melody-theme", dark ? "light" : "dark");
  dress(dark ? "light" : "dark");
};
document.addEventListener("keydown", (event) => {
  if (/^(INPUT|TEXTAREA|SELECT|BUTTON|SUMMARY)$/.test(event.target.tagName)) return;
  if (event.key === " ") player.toggle();
  else if (event.key.toLowerCase() === "z" && (event.ctrlKey || event.metaKey)) event.shiftKey ? takes.redo() : takes.undo();
  else return;
  event.preventDefault();
});
