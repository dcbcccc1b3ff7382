// The takes of this tab, each with what it was made of: a tree that one walks back and forth in. Kept until the tab closes.

const KEY = "melody-takes";

export class Takes {
  constructor(list, chosen) {
    Object.assign(this, { list, chosen, takes: new Map(), current: null, ahead: [] });
  }

  /** Those of before, without what the server has forgotten. `exists(id)` gives a take or null. */
  async restore(exists) {
    const { ids = [], current } = JSON.parse(sessionStorage.getItem(KEY) || "{}");
    for (const take of await Promise.all(ids.map(exists))) if (take) this.takes.set(take.id, take);
    if (this.takes.size) this.choose(this.takes.has(current) ? current : [...this.takes.keys()].at(-1));
  }

  add(take) {
    this.takes.set(take.id, take);
  }

  drop(id) {
    this.takes.delete(id);
    if (this.current === id) this.current = null;
    this.show();
  }

  choose(id, keepAhead = false) {
    if (!keepAhead) this.ahead = [];
    this.current = id;
    this.show();
    this.chosen(this.takes.get(id));
  }

  get take() {
    return this.takes.get(this.current);
  }

  get before() {
    return this.take && this.takes.get(this.take.parent);
  }

  /** Where redo leads: where undo came from, else to the last take made of this one. */
  get after() {
    const children = [...this.takes.values()].filter((take) => take.parent === this.current);
    return this.takes.get(this.ahead.at(-1)) || children.at(-1);
  }

  undo() {
    if (!this.before) return;
    this.ahead.push(this.current);
    this.choose(this.before.id, true);
  }

  redo() {
    const next = this.after;
    if (!next) return;
    this.ahead.pop();
    this.choose(next.id, true);
  }

  show() {
    const rows = [];
    const under = (parent, depth) => {
      for (const take of this.takes.values()) {
        const here = this.takes.has(take.parent) ? take.parent : null;
        if (here !== parent) continue;
        rows.push(this.#row(take, depth));
        under(take.id, depth + 1);
      }
    };
    under(null, 0);
    this.list.replaceChildren(...rows);
    sessionStorage.setItem(KEY, JSON.stringify({ ids: [...this.takes.keys()], current: this.current }));
  }

  #row(take, depth) {
    const row = document.createElement("li"), button = document.createElement("button");
    const name = document.createElement("b"), facts = document.createElement("span");
    name.textContent = `${depth ? "↳ " : ""}${NAMES[take.verb]} · ${take.title || "music"}`;
    facts.textContent = factsOf(take);
    button.type = "button";
    button.append(name, facts);
    button.dataset.take = take.id;
    button.setAttribute("aria-current", String(take.id === this.current));
    button.style.paddingLeft = `${0.55 + 0.8 * Math.min(depth, 6)}rem`;
    button.onclick = () => this.choose(take.id);
    row.append(button);
    return row;
  }
}

const NAMES = { generate: "New", continue: "Continued", inpaint: "Repainted", vary: "Varied", upload: "Opened" };

export function factsOf(take) {
  const facts = [`${take.seconds.toFixed(1)} s`];
  if (take.seed !== null) facts.push(`seed ${take.seed}`);
  if (take.similarity !== null) facts.push(`nearness ${take.similarity.toFixed(3)}`);
  const { tempo, key, metre, instruments } = take.controls || {};
  if (tempo) facts.push(`${Math.round(tempo)} bpm`);
  return [...facts, key, metre, instruments && instruments.join(", ")].filter(Boolean).join(" · ");
}
