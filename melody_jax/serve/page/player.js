// One piece: heard, seen, and a span of it selected by mouse, finger or keyboard.

const MAGMA = [[0, 0, 4], [28, 16, 68], [79, 18, 123], [129, 37, 129], [181, 54, 122], [229, 80, 100], [251, 135, 97], [254, 194, 135], [252, 253, 191]];
const EDGE = 14; // pixels around an edge of the span in which it is taken hold of

export class Player {
  /** `selected(span)` is told of every change of the span: {from, to} in seconds, or null. */
  constructor(find, selected) {
    Object.assign(this, { find, selected, samples: new Float32Array(1), rate: 24000, span: null, loop: false });
    this.audio = find("audio");
    this.stage = find("stage");
    this.worker = new Worker("/page/notes_worker.js");
    this.worker.onmessage = ({ data }) => data.id === this.id && this.#drawNotes(data);
    find("play").onclick = () => this.toggle();
    for (const event of ["play", "pause", "ended"]) this.audio.addEventListener(event, () => this.#tick());
    this.stage.addEventListener("pointerdown", (event) => this.#drag(event));
    this.stage.addEventListener("keydown", (event) => this.#key(event));
    new ResizeObserver(() => (this.#drawWave(), this.#drawRuler())).observe(this.stage);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#drawWave());
  }

  get seconds() {
    return this.samples.length / this.rate;
  }

  /** Shows another piece; what plays goes on at the same place, so that takes can be compared. */
  show(id, file, goOn) {
    const { audio } = this, playing = goOn && !audio.paused, at = goOn ? audio.currentTime : 0;
    this.id = id;
    [this.samples, this.rate] = read(file);
    URL.revokeObjectURL(audio.src);
    audio.src = URL.createObjectURL(new Blob([file], { type: "audio/wav" }));
    audio.currentTime = at < this.seconds ? at : 0;
    if (playing) audio.play();
    this.stage.setAttribute("aria-valuemax", this.seconds.toFixed(1));
    this.select(this.span && this.span.to <= this.seconds ? this.span : null);
    this.#drawWave();
    this.#drawRuler();
    const canvas = this.find("notes");
    canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
    this.find("pitches").replaceChildren();
    this.worker.postMessage({ id, samples: this.samples, rate: this.rate });
    this.#tick();
  }

  toggle() {
    if (!this.audio.paused) return this.audio.pause();
    if (this.span && this.loop && !this.#inside()) this.audio.currentTime = this.span.from;
    this.audio.play();
  }

  select(span) {
    this.span = span;
    const box = this.find("span");
    box.hidden = !span;
    if (span) {
      box.style.left = `${(100 * span.from) / this.seconds}%`;
      box.style.width = `${(100 * (span.to - span.from)) / this.seconds}%`;
    }
    this.selected(span);
  }

  redraw() {
    this.#drawWave();
  }

  #inside() {
    return this.audio.currentTime >= this.span.from && this.audio.currentTime < this.span.to;
  }

  #tick() {
    const { audio } = this;
    if (this.loop && this.span && !audio.paused && !this.#inside()) audio.currentTime = this.span.from;
    const button = this.find("play");
    button.textContent = audio.paused ? "▶" : "❚❚";
    button.setAttribute("aria-label", audio.paused ? "Play" : "Pause");
    this.find("cursor").style.left = `${(100 * Math.min(audio.currentTime, this.seconds)) / this.seconds}%`;
    this.find("time").textContent = `${audio.currentTime.toFixed(1)} / ${this.seconds.toFixed(1)} s`;
    this.stage.setAttribute("aria-valuenow", audio.currentTime.toFixed(1));
    if (!audio.paused) requestAnimationFrame(() => this.#tick());
  }

  #drag(event) {
    if (event.button) return;
    const box = this.stage.getBoundingClientRect();
    const place = (x) => Math.max(0, Math.min(1, (x - box.left) / box.width)) * this.seconds;
    const near = (second) => Math.abs((second / this.seconds) * box.width - (event.clientX - box.left)) < EDGE;
    let anchor = place(event.clientX), moved = false;
    if (this.span && near(this.span.from)) anchor = this.span.to;
    else if (this.span && near(this.span.to)) anchor = this.span.from;
    this.stage.setPointerCapture(event.pointerId);
    const move = ({ clientX }) => {
      moved ||= Math.abs(clientX - event.clientX) > 4;
      const here = place(clientX);
      if (moved && here !== anchor) this.select({ from: Math.min(anchor, here), to: Math.max(anchor, here) });
    };
    const up = ({ type, clientX }) => {
      for (const name of ["pointermove", "pointerup", "pointercancel"]) this.stage.removeEventListener(name, name === "pointermove" ? move : up);
      if (!moved && type === "pointerup") this.audio.currentTime = place(clientX);
      this.#tick();
    };
    this.stage.addEventListener("pointermove", move);
    this.stage.addEventListener("pointerup", up);
    this.stage.addEventListener("pointercancel", up);
  }

  #key(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step) this.audio.currentTime = Math.max(0, Math.min(this.seconds, this.audio.currentTime + step * (event.shiftKey ? 0.1 : 1)));
    else if (event.key === "Escape") this.select(null);
    else return;
    event.preventDefault();
    this.#tick();
  }

  /** Seconds below the picture, as close as they can be read. */
  #drawRuler() {
    const step = [0.5, 1, 2, 5, 10, 20, 30, 60].find((each) => (50 * this.seconds) / each <= this.stage.clientWidth) ?? 120;
    const marks = [];
    for (let at = 0; at < this.seconds - step / 4; at += step) {
      const mark = document.createElement("span");
      mark.textContent = at ? at : "0 s";
      mark.style.left = `${(100 * at) / this.seconds}%`;
      marks.push(mark);
    }
    this.find("ruler").replaceChildren(...marks);
  }

  #drawWave() {
    const canvas = this.find("wave"), scale = devicePixelRatio || 1;
    const width = (canvas.width = Math.max(1, Math.round(this.stage.clientWidth * scale)));
    const height = (canvas.height = Math.round(110 * scale)), pen = canvas.getContext("2d");
    pen.fillStyle = getComputedStyle(canvas).getPropertyValue("--wave");
    for (let x = 0; x < width; x++) {
      const begin = Math.floor((x * this.samples.length) / width);
      const end = Math.max(begin + 1, Math.floor(((x + 1) * this.samples.length) / width));
      let low = 0, high = 0;
      for (let i = begin; i < end; i++) {
        if (this.samples[i] < low) low = this.samples[i];
        else if (this.samples[i] > high) high = this.samples[i];
      }
      const top = (0.5 - 0.48 * high) * height;
      pen.fillRect(x, top, 1, Math.max(scale, 0.48 * (high - low) * height));
    }
  }

  #drawNotes({ levels, columns, bands, lowest, perOctave }) {
    const canvas = this.find("notes"), pen = canvas.getContext("2d");
    Object.assign(canvas, { width: columns, height: bands });
    const image = pen.createImageData(columns, bands);
    for (let column = 0; column < columns; column++) {
      for (let band = 0; band < bands; band++) {
        const at = (levels[column * bands + band] / 255) * (MAGMA.length - 1), low = Math.min(Math.floor(at), MAGMA.length - 2);
        const pixel = 4 * ((bands - 1 - band) * columns + column);
        for (let c = 0; c < 3; c++) image.data[pixel + c] = MAGMA[low][c] + (at - low) * (MAGMA[low + 1][c] - MAGMA[low][c]);
        image.data[pixel + 3] = 255;
      }
    }
    pen.putImageData(image, 0, 0);
    const octaves = [2, 3, 4, 5, 6, 7].map((octave) => [octave, perOctave * Math.log2((261.626 * 2 ** (octave - 4)) / lowest)]);
    this.find("pitches").replaceChildren(...octaves.filter(([, band]) => band < bands - 4).map(([octave, band]) => {
      const label = document.createElement("span");
      label.textContent = `C${octave}`;
      label.style.bottom = `${(100 * band) / bands}%`;
      return label;
    }));
  }
}

/** [samples, rate] of a 16-bit mono WAV. */
function read(file) {
  const view = new DataView(file);
  let at = 12, rate = 24000;
  for (;;) {
    const kind = String.fromCharCode(...new Uint8Array(file, at, 4)), size = view.getUint32(at + 4, true);
    if (kind === "fmt ") rate = view.getUint32(at + 12, true);
    if (kind === "data") {
      const whole = new Int16Array(file.slice(at + 8, at + 8 + 2 * Math.floor(Math.min(size, file.byteLength - at - 8) / 2)));
      return [Float32Array.from(whole, (sample) => sample / 32768), rate];
    }
    at += 8 + size + (size % 2);
  }
}
