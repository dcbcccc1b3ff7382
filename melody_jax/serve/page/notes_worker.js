// What sounds when: levels in bands of a third of a semitone, long windows for low notes and short ones for high notes.

const LOWEST = 55, PER_OCTAVE = 36, DEPTH = 70;

onmessage = ({ data: { samples, rate, id } }) => {
  const bands = Math.floor(PER_OCTAVE * Math.log2(Math.min(rate / 2, 7040) / LOWEST));
  const columns = Math.max(20, Math.min(900, Math.round((samples.length / rate) * 50)));
  const centres = Float64Array.from({ length: bands }, (_, band) => LOWEST * 2 ** ((band + 0.5) / PER_OCTAVE));
  const power = new Float32Array(columns * bands);
  for (const [seconds, low, high] of [[0.25, 0, 300], [0.12, 300, 1200], [0.06, 1200, Infinity]]) {
    const chosen = [...centres.keys()].filter((band) => centres[band] >= low && centres[band] < high);
    if (chosen.length) measure(samples, rate, columns, seconds, chosen, centres, power, bands);
  }
  let loudest = 1e-6;
  for (const value of power) loudest = Math.max(loudest, value);
  const levels = new Uint8ClampedArray(columns * bands);
  for (let i = 0; i < power.length; i++) levels[i] = 255 * (1 + (20 * Math.log10(power[i] / loudest + 1e-9)) / DEPTH);
  postMessage({ id, levels, columns, bands, lowest: LOWEST, perOctave: PER_OCTAVE }, [levels.buffer]);
};

function measure(samples, rate, columns, seconds, chosen, centres, power, bands) {
  const size = Math.round(seconds * rate), fft = 2 ** Math.ceil(Math.log2(2 * size - 1));
  const window = Float64Array.from({ length: size }, (_, i) => 0.5 - 0.5 * Math.cos((2 * Math.PI * (i + 1)) / (size + 1)));
  const plan = planned(fft), real = new Float64Array(fft), imaginary = new Float64Array(fft);
  for (let column = 0; column < columns; column++) {
    const begin = Math.round(((column + 0.5) * samples.length) / columns - size / 2);
    real.fill(0);
    imaginary.fill(0);
    for (let i = 0; i < size; i++) real[i] = window[i] * (samples[begin + i] || 0);
    transform(real, imaginary, plan);
    for (const band of chosen) {
      const at = (centres[band] * fft) / rate, low = Math.floor(at), part = at - low;
      const [one, two] = [Math.hypot(real[low], imaginary[low]), Math.hypot(real[low + 1], imaginary[low + 1])];
      power[column * bands + band] = ((1 - part) * one + part * two) / size;
    }
  }
}

function planned(size) {
  const angles = Float64Array.from({ length: size / 2 }, (_, i) => (-2 * Math.PI * i) / size);
  const bits = Math.log2(size), order = new Uint32Array(size);
  for (let i = 0; i < size; i++) order[i] = (order[i >> 1] >> 1) | ((i & 1) << (bits - 1));
  return { order, cosines: angles.map(Math.cos), sines: angles.map(Math.sin) };
}

/** Cooley and Tukey's transform, in place. */
function transform(real, imaginary, { order, cosines, sines }) {
  const size = real.length;
  for (let i = 0; i < size; i++) {
    const j = order[i];
    if (j > i) {
      [real[i], real[j]] = [real[j], real[i]];
      [imaginary[i], imaginary[j]] = [imaginary[j], imaginary[i]];
    }
  }
  for (let half = 1; half < size; half *= 2) {
    const stride = size / (2 * half);
    for (let start = 0; start < size; start += 2 * half) {
      for (let k = 0; k < half; k++) {
        const c = cosines[k * stride], s = sines[k * stride], i = start + k, j = i + half;
        const a = c * real[j] - s * imaginary[j], b = c * imaginary[j] + s * real[j];
        real[j] = real[i] - a;
        imaginary[j] = imaginary[i] - b;
        real[i] += a;
        imaginary[i] += b;
      }
    }
  }
}
