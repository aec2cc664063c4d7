// Numbers with their units, times local with UTC on hover.
import { h } from "./dom.js";

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const three = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });
const four = new Intl.NumberFormat("en", { maximumSignificantDigits: 4 });
const NARROW = "\u202f"; // between a number and its unit

export const count = (n) => whole.format(n);
export const unit = (n, word) => `${count(n)}\u00a0${n === 1 ? word : `${word}s`}`;

/** A figure as people read it: four digits that count; very small ones with a power of ten. */
export function figure(n) {
  if (!Number.isFinite(n)) return "–";
  if (n !== 0 && (Math.abs(n) < 1e-3 || Math.abs(n) >= 1e9)) return n.toExponential(2).replace("e-", " × 10⁻").replace("e+", " × 10^").replace(/⁻(\d+)/, (_, d) => `⁻${[...d].map((c) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[c]).join("")}`);
  return Math.abs(n) >= 1e4 ? count(n) : four.format(n);
}
export const signed = (n) => `${n > 0 ? "+" : n < 0 ? "−" : "±"}${figure(Math.abs(n))}`;

/** 16,540 → 16.5 k: where room is short. */
export function short(n, word = "") {
  const [value, scale] = n >= 1e9 ? [n / 1e9, "G"] : n >= 1e6 ? [n / 1e6, "M"] : n >= 1e4 ? [n / 1e3, "k"] : [n, ""];
  return `${scale ? three.format(value) : value >= 100 ? count(value) : figure(value)}${scale || word ? NARROW : ""}${scale}${scale && word ? " " : ""}${word}`;
}

export function bytes(n) {
  const scale = n >= 1e9 ? ["GB", 1e9] : n >= 1e6 ? ["MB", 1e6] : n >= 1e3 ? ["kB", 1e3] : ["B", 1];
  return `${three.format(n / scale[1])}${NARROW}${scale[0]}`;
}

export function duration(ms) {
  if (!Number.isFinite(ms) || ms < 0) return "–";
  if (ms < 1000) return `${Math.round(ms)}${NARROW}ms`;
  const s = ms / 1000;
  if (s < 100) return `${three.format(s)}${NARROW}s`;
  const m = Math.round(s / 60);
  if (m < 120) return `${m}${NARROW}min`;
  const hours = Math.round(s / 3600);
  return hours < 72 ? `${hours}${NARROW}h` : `${Math.round(hours / 24)}${NARROW}days`;
}

export const percent = (share) => `${three.format(100 * share)}${NARROW}%`;

const day = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });
const dayYear = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short", year: "numeric" });
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });

export function timeText(ms) {
  const t = new Date(ms);
  return `${(t.getFullYear() === new Date().getFullYear() ? day : dayYear).format(t)}, ${clock.format(t)}`;
}
export function time(ms) {
  if (!ms) return "–";
  const iso = new Date(ms).toISOString();
  return h("time", { datetime: iso, title: `${iso.slice(0, 10)} ${iso.slice(11, 23)} UTC` }, timeText(ms));
}

/** JOB_STATE_RUNNING → running */
export const word = (name) => String(name ?? "").replace(/^[A-Z]+_(STATE|KIND|WISH)_/, "").toLowerCase().replaceAll("_", " ");
