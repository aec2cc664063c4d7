// What several pages are made of: headings, tables, badges, dialogs, failures, empty states, cards.
import { Failure, key } from "./api.js";
import { fill, h, icon, svg } from "./dom.js";
import { figure, word } from "./format.js";

/** Says something to who cannot see it change. */
export function say(text) {
  document.getElementById("said").textContent = text;
}

/** A note at the corner, gone after a while. */
export function note(text, kind = "good") {
  const one = h("p", { class: `note ${kind}` }, icon(kind === "bad" ? "cross" : "check"), h("span", {}, text));
  document.getElementById("notes").append(one);
  setTimeout(() => one.remove(), 6000);
}

export function heading(title, lead, ...actions) {
  return h("div", { class: "heading" }, h("div", {}, h("h1", { tabindex: "-1" }, title), lead && h("p", { class: "lead" }, lead)), actions.length ? h("div", { class: "actions" }, actions) : null);
}

export function crumb(href, text) {
  return h("p", { class: "crumb" }, h("a", { href }, icon("back"), text));
}

const KINDS = {
  candidate: "info", evaluated: "violet", approved: "violet", canary: "warn", production: "good", retired: "idle", rejected: "bad", "rolled back": "bad",
  queued: "info", running: "violet", filling: "info", paused: "warn", succeeded: "good", failed: "bad", cancelled: "idle", building: "violet", ready: "good", removed: "idle",
  starting: "info", draining: "warn", lost: "bad", passed: "good",
};
export function badge(name) {
  const text = word(name);
  return h("span", { class: `badge ${KINDS[text] ?? "idle"}` }, text);
}

export function panel(title, ...children) {
  const id = title && `p-${title.toLowerCase().replace(/[^a-z0-9]+/g, "-")}`;
  return h("section", { class: "panel", "aria-labelledby": id }, title && h("h2", { id }, title), children);
}

export function facts(rows) {
  return h("dl", { class: "facts" }, rows.filter((r) => r && r[1] !== "" && r[1] !== false && r[1] !== null && r[1] !== undefined).map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
}

export function code(text, title) {
  return h("code", { title }, text);
}
/** The head of a digest; the whole on hover. */
export function digest(text, length = 12) {
  return text ? h("code", { title: text }, `${text.slice(0, length)}…`) : "–";
}

/**
 * A table; on a phone its rows become cards, so the roles are said explicitly (display: block would take them away). columns: [{name, class, cell: (row) => node, wide}].
 */
export function table(caption, columns, rows, kind = "") {
  const head = h("tr", { role: "row" }, columns.map((c) => h("th", { role: "columnheader", scope: "col", class: c.class }, c.name || h("span", { class: "hidden" }, c.label))));
  const body = rows.map((row) => h("tr", { role: "row" }, columns.map((c) => h("td", { role: "cell", class: c.class, "data-label": c.name || null }, c.cell(row)))));
  return h("div", { class: `table ${kind}`.trim() }, h("table", { role: "table" }, h("caption", { class: "hidden" }, caption), h("thead", { role: "rowgroup" }, head), h("tbody", { role: "rowgroup" }, body)));
}

export function empty(title, text, commands = [], ...more) {
  return h("div", { class: "empty" }, h("h2", {}, title), h("p", {}, text), commands.map(command), more);
}

export function command(text) {
  return h("div", { class: "command" }, h("pre", { tabindex: "0", "aria-label": "Command" }, text), copy_button(() => text, "Copy the command"));
}

export function copy_button(text, label, words = null) {
  const button = h("button", { type: "button", class: words ? "button small quiet" : "button quiet icon-only", "aria-label": words ? null : label, title: label, onclick: async () => {
    try {
      await navigator.clipboard.writeText(text());
      note("Copied");
    } catch {
      note("The browser does not let this page copy: mark the text and copy it yourself.", "bad");
    }
  } }, icon("copy"), words);
  return button;
}

export function failed(why, retry, label = "Try again") {
  const known = why instanceof Failure ? why : new Failure(-1, null, why.message);
  return h("div", { class: "failure", role: "alert" }, h("p", { class: "failure-what" }, known.message), h("p", {}, why instanceof Failure ? known.remedy : "This is a fault of the console: load the page again."),
    known.status === 403 && retry && h("p", {}, h("button", { type: "button", class: "button", onclick: async () => { if (await key.ask("", null)) retry(); } }, "Use another key")),
    known.status !== 403 && retry && h("p", {}, h("button", { type: "button", class: "button", onclick: retry }, label)));
}

export function waiting(lines = 4) {
  return h("div", { class: "waiting", "aria-hidden": "true" }, Array.from({ length: lines }, () => h("div", { class: "bone" })));
}

const looks = (node) => node.outerHTML.replaceAll(' open=""', "");
const mark_of = (node) => ["href", "data-move", "id", "title"].map((name) => node.getAttribute(name) && `${node.localName}[${name}="${CSS.escape(node.getAttribute(name))}"]`).find((s) => s);

/** Puts what is made anew into node, but leaves the children that look the same as they are; who stands on one that is replaced stands on the new one, and what was opened stays open. */
function refresh(node, made) {
  const fresh = [...fill(document.createElement("div"), made).childNodes], old = [...node.childNodes];
  const focus = node.contains(document.activeElement) ? mark_of(document.activeElement) : null;
  const kept = fresh.map((one, i) => {
    const was = old[i];
    if (!(was instanceof Element) || !(one instanceof Element)) return one;
    if (looks(was) === looks(one)) return was;
    const before = was.querySelectorAll("details");
    one.querySelectorAll("details").forEach((d, k) => { d.open = before[k]?.open ?? d.open; });
    return one;
  });
  kept.forEach((one, i) => { if (old[i] !== one) old[i] ? old[i].replaceWith(one) : node.append(one); });
  old.slice(kept.length).forEach((one) => one.remove());
  if (focus && !node.contains(document.activeElement)) node.querySelector(focus)?.focus({ preventScroll: true });
}

/** Shows what load() returns in node: bones first, a failure with a way to go on instead. Later turns leave what is there until the new is. title: of a page that is
 *  known by its name alone until it has come. */
export async function show(node, signal, load, title) {
  const turn = async () => {
    try {
      const made = await load();
      if (!signal.aborted) refresh(node, made);
    } catch (why) {
      if (!signal.aborted) fill(node, title && heading(title), failed(why, () => { fill(node, title && heading(title), waiting()); turn(); }));
    } finally {
      if (!signal.aborted) node.removeAttribute("aria-busy");
    }
  };
  if (!node.firstChild) {
    fill(node, title && heading(title), waiting());
    node.setAttribute("aria-busy", "true");
  }
  await turn();
}

/** A modal question: fields in a form; resolves with the form's values, or null. submit(values) may throw: its failure is shown and the question stays. */
export function question({ title, text, fields, action, danger, submit }) {
  return new Promise((resolve) => {
    const id = `d-${Math.random().toString(36).slice(2)}`;
    const trouble = h("div", {});
    const go = h("button", { type: "submit", class: `button ${danger ? "danger" : "primary"}` }, action);
    let result = null;
    const form = h("form", { method: "dialog", onsubmit: async (event) => {
      event.preventDefault();
      const values = Object.fromEntries([...form.elements].filter((e) => e.name).map((e) => [e.name, e.value.trim()]));
      go.disabled = true;
      try {
        result = (await submit(values)) ?? values;
        dialog.close();
      } catch (why) {
        fill(trouble, failed(why));
      } finally {
        go.disabled = false;
      }
    } }, h("h2", { id: `${id}-t` }, title), text && h("p", { class: "lead" }, text), fields, trouble,
      h("div", { class: "dialog-foot" }, h("button", { type: "button", class: "button quiet", onclick: () => dialog.close() }, "Cancel"), go));
    const dialog = h("dialog", { class: "dialog", "aria-labelledby": `${id}-t` }, form);
    dialog.addEventListener("close", () => { dialog.remove(); resolve(result); });
    document.body.append(dialog);
    dialog.showModal();
  });
}

export function field(label, input, hint) {
  const id = `f-${Math.random().toString(36).slice(2)}`;
  input.id = id;
  const about = hint && h("span", { class: "hint", id: `${id}-h` }, hint);
  if (about) input.setAttribute("aria-describedby", about.id);
  return h("div", { class: "field" }, h("label", { for: id }, label), input, about);
}

export function meter(share, label) {
  const at = Math.max(0, Math.min(1, share || 0));
  return svg("svg", { class: "meter", role: "img", "aria-label": label, viewBox: "0 0 100 6", preserveAspectRatio: "none" },
    svg("rect", { class: "meter-back", width: 100, height: 6 }), svg("rect", { class: "meter-full", width: 100 * at, height: 6 }));
}

/** A figure with its 95 % interval on the scale of its threshold. */
export function interval({ value, low, high, threshold, passed }) {
  const points = [value, low, high, threshold].filter(Number.isFinite), least = Math.min(...points), most = Math.max(...points);
  const span = most - least || Math.abs(most) || 1, from = least - 0.12 * span, x = (v) => (200 * (v - from)) / (1.24 * span);
  return svg("svg", { class: `interval ${passed ? "good" : "bad"}`, viewBox: "0 0 200 22", role: "img", "aria-label": `${figure(value)}, interval ${figure(low)} to ${figure(high)}, threshold ${figure(threshold)}` },
    svg("line", { class: "interval-axis", x1: 0, x2: 200, y1: 11, y2: 11 }),
    svg("line", { class: "interval-limit", x1: x(threshold), x2: x(threshold), y1: 1, y2: 21 }),
    svg("rect", { class: "interval-range", x: Math.min(x(low), x(high) - 1), y: 8, width: Math.max(2, x(high) - x(low)), height: 6, rx: 3 }),
    svg("circle", { class: "interval-value", cx: x(value), cy: 11, r: 4 }));
}
