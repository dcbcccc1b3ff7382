// Endless music: played while it is made, each stretch right behind the one before.

import { call } from "/page/api.js";

const HEADER = 44; // bytes before the samples
const LEAD = 0.2; // seconds from the arrival of music, where nothing was left to play, to its sound

export class Stream {
  /** `told(stream)` is called a few times a second while it plays, and at its end. */
  constructor(rate, told) {
    Object.assign(this, { rate, told, id: null, context: null });
  }

  get playing() {
    return this.context !== null;
  }

  /** Seconds that are here and not heard yet. */
  get ahead() {
    return this.playing ? Math.max(0, this.next - this.context.currentTime) : 0;
  }

  get heard() {
    return this.given - this.ahead;
  }

  /** The largest sample of what is heard just now, 0 to 1. */
  get level() {
    const samples = new Float32Array(this.meter.fftSize);
    this.meter.getFloatTimeDomainData(samples);
    return samples.reduce((most, sample) => Math.max(most, Math.abs(sample)), 0);
  }

  /** Plays until the server's longest stream is over, or `stop`. */
  async start(body) {
    const context = (this.context = new AudioContext({ sampleRate: this.rate })); // at the music's rate stretches join without a seam
    this.meter = context.createAnalyser();
    this.meter.connect(context.destination);
    this.next = this.given = 0;
    const clock = setInterval(() => this.told(this), 250);
    this.told(this);
    try {
      const answer = await call("POST", "/v1/streams", { ...body, format: "wav" });
      const id = answer.headers.get("X-Stream-Id");
      if (this.context !== context) return end(id); // stopped meanwhile
      this.id = id;
      const reader = answer.body.getReader();
      let rest = new Uint8Array(0), skipped = 0;
      while (this.context === context) {
        const { value, done } = await reader.read();
        if (done) break;
        const fresh = value.subarray(Math.min(value.length, HEADER - skipped));
        skipped += value.length - fresh.length;
        rest = joined(rest, fresh);
        const whole = rest.length - (rest.length % 2);
        if (whole && this.context === context) this.#play(rest.slice(0, whole));
        rest = rest.slice(whole);
      }
      if (this.context === context) this.id = null; // over, but not heard to its end
      while (this.context === context && this.ahead) await new Promise((resume) => setTimeout(resume, 100));
    } finally {
      clearInterval(clock);
      if (this.context === context) this.stop();
      this.told(this);
    }
  }

  /** Other words, controls or settings, from the next stretch on that is made. */
  change(body) {
    return call("PATCH", `/v1/streams/${this.id}`, body);
  }

  stop() {
    const { context, id } = this;
    Object.assign(this, { context: null, id: null });
    context.close();
    if (id) end(id);
  }

  #play(bytes) {
    const samples = Float32Array.from(new Int16Array(bytes.buffer), (sample) => sample / 32768);
    const stretch = this.context.createBuffer(1, samples.length, this.rate), source = this.context.createBufferSource();
    stretch.copyToChannel(samples, 0);
    source.buffer = stretch;
    source.connect(this.meter);
    if (!this.ahead) this.next = this.context.currentTime + LEAD;
    source.start(this.next);
    this.next += stretch.duration;
    this.given += stretch.duration;
  }
}

function end(id) {
  call("DELETE", `/v1/streams/${id}`).catch(() => {}); // it may be over already
}

function joined(first, second) {
  const both = new Uint8Array(first.length + second.length);
  both.set(first);
  both.set(second, first.length);
  return both;
}
