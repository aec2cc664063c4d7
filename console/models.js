// The registry: every version with its state, and of one version what speaks for it, where it comes from, what happened to it, and what may be done now.
import { events, json, post, randomId } from "./api.js";
import { every, fill, h, while_shown } from "./dom.js";
import { bytes, count, figure, short, signed, time, unit } from "./format.js";
import { badge, command, crumb, digest, empty, facts, field, heading, interval, note, panel, question, say, show, table } from "./widgets.js";
import { markdown } from "./markdown.js";
import { can_verify, from_base64, hex, sha256 } from "./merkle.js";

export const full_name = (v) => `${v.name}@${v.version}`;
export const model_link = (full) => (full ? h("a", { href: `#/models/${encodeURIComponent(full)}` }, full) : "–");
// A long name may break behind what kind it is.
const actor_id = (id) => id.split(/(?<=:)/).flatMap((part) => [h("wbr", {}), h("span", { class: "nowrap" }, part)]);
export const actor = (a) => (a?.id ? h("span", {}, actor_id(a.id), a.claim && h("span", { class: "muted" }, ` (says: ${a.claim})`)) : "–");

// ---- the list ----

function list(main, signal) {
  const body = h("div", {});
  fill(main, heading("Models", "Every version that a job has made, and which of them are served."), body);
  const names = (aliases, v) => aliases.filter((a) => a.name === v.name && a.version === v.version).map((a) => h("span", { class: "tag" }, a.alias));
  const draw = () => show(body, signal, async () => {
    const versions = [], aliases = [];
    let token = "";
    do {
      const page = await json(`/v1/admin/models?limit=1000${token ? `&page_token=${encodeURIComponent(token)}` : ""}`, { signal });
      versions.push(...page.versions);
      aliases.push(...page.aliases);
      token = page.next_page_token;
    } while (token);
    if (!versions.length) return empty("No model yet", "A training job makes the first version. Give the platform documents, then train:", ["genloop ingest PATH --dataset NAME", "genloop train --dataset NAME --recipe pretrain-small --name MODEL --wait"]);
    versions.sort((a, b) => a.name.localeCompare(b.name) || b.version - a.version);
    const wait = versions.filter((v) => v.state === "MODEL_STATE_EVALUATED");
    return [
      wait.length > 0 && h("p", { class: "callout" }, h("strong", {}, `${unit(wait.length, "version")} passed the gates and wait${wait.length === 1 ? "s" : ""} for a person: `), wait.slice(0, 8).map((v, i) => [i ? ", " : "", model_link(full_name(v))])),
      table("Model versions", [
        { name: "Version", cell: (v) => h("span", { class: "named" }, model_link(full_name(v)), names(aliases, v)), class: "main" },
        { name: "State", cell: (v) => [badge(v.state), v.canary_percent > 0 && h("span", { class: "muted" }, ` ${v.canary_percent} %`)] },
        { name: "Parameters", class: "num", cell: (v) => short(v.parameters) },
        { name: "Context", class: "num", cell: (v) => (v.context ? unit(v.context, "token") : "–") },
        { name: "From", cell: (v) => [v.lineage?.base_model && [model_link(v.lineage.base_model), " + "], dataset_link(v.lineage?.dataset)] },
        { name: "Changed", cell: (v) => time(v.event_time_ms) },
      ], versions),
    ];
  });
  every(5000, signal, draw);
}

export const dataset_link = (full) => (full ? h("a", { href: `#/datasets/${encodeURIComponent(full.split("@")[0])}` }, full) : "–");

// ---- what may be done ----

const MOVES = {
  approve: { word: "Approve", primary: true, text: "A person says that this version may be served. The decision and the reason go into the audit log under your name.", done: "is approved" },
  canary: { word: "Canary", text: "It gets a share of the requests that ask for production, beside the version that is there.", done: "gets its share" },
  end_canary: { word: "End the canary", path: "canary", body: { end_canary: true }, text: "Its share goes back to the production version, and it to approved.", done: "gets no share any more" },
  promote: { word: "Promote", primary: true, text: "It becomes what production means; the version that is there now is retired and can be rolled back to.", done: "is in production" },
  rollback: { word: "Roll back", danger: true, text: "The version that was in production before comes back at once. This one does not come back.", done: "is rolled back" },
  reject: { word: "Reject", danger: true, text: "A rejected version can never be released. This cannot be undone.", done: "is rejected" },
  retire: { word: "Retire", danger: true, text: "It is taken out of service. Where it is in production, production means nothing until another version is promoted.", done: "is retired" },
};

function buttons(full, moves, again) {
  return Object.entries(MOVES).filter(([move]) => moves.includes(move)).map(([move, m]) => h("button", { type: "button", class: `button ${m.primary ? "primary" : m.danger ? "danger-quiet" : ""}`, "data-move": move, onclick: async () => {
    const reason = h("textarea", { name: "reason", rows: 3, required: true, maxlength: 1024 });
    const share = move === "canary" && h("input", { name: "percent", type: "number", min: 1, max: 100, step: 1, value: "10", required: true });
    const id = `console-${randomId()}`; /* the same question asked twice is one command */
    const done = await question({ title: `${m.word}: ${full}`, text: m.text, fields: [share && field("Share of the requests, in percent", share), field("Reason", reason, "for whoever reads the audit log")], action: m.word, danger: m.danger,
      submit: ({ reason: why, percent }) => post(`/v1/admin/models/${encodeURIComponent(full)}/${m.path ?? move}`, { reason: why, id, ...m.body, ...(percent ? { canary_percent: Number(percent) } : {}) }) });
    if (!done) return;
    note(`${full} ${m.done}`);
    await again();
  } }, m.word));
}

// ---- evidence ----

/** The record, whole, with its digest computed here. */
async function fetch_record(full, id, signal) {
  const parts = [];
  let at = 0, size = 1, evaluation = null;
  while (at < size) {
    const page = await json(`/v1/admin/models/${encodeURIComponent(full)}/evaluation-record?id=${encodeURIComponent(id)}&offset=${at}`, { signal }), data = from_base64(page.data ?? "");
    if (!data.length) throw new Error("the record ends before its size");
    evaluation = page.evaluation;
    size = evaluation.record.size_bytes;
    parts.push(data);
    at += data.length;
  }
  return { blob: new Blob(parts, { type: "application/json" }), parts, evaluation };
}

function record_check(full, e) {
  const out = h("p", { class: "check-line", role: "status" });
  const button = h("button", { type: "button", class: "button small", onclick: async () => {
    button.disabled = true;
    try {
      const { blob, parts, evaluation } = await fetch_record(full, e.id);
      const right = can_verify() ? hex(await sha256(...parts)) === evaluation.record.sha256 : null;
      const url = URL.createObjectURL(blob);
      fill(out, right === null ? "The digest can be checked over HTTPS or on localhost only. " : h("strong", { class: right ? "good" : "bad" }, right ? "SHA-256 is the one that was signed. " : "SHA-256 differs from the one that was signed: do not trust this record. "),
        h("a", { href: url, download: `${e.id}.json` }, `Save the record (${bytes(blob.size)})`), ". ", h("code", {}, `genloop evaluate ${full} --recompute`), " computes the verdict again.");
    } catch (why) {
      fill(out, h("strong", { class: "bad" }, why.message), " ", why.remedy ?? "");
    } finally {
      button.disabled = false;
    }
  } }, "Fetch and check the record");
  return [button, out];
}

function evaluation_panel(full, e, first) {
  const shown = e.figures.filter((f) => !f.name.endsWith("_baseline")), base = new Map(e.figures.filter((f) => f.name.endsWith("_baseline")).map((f) => [f.name.slice(0, -9), f]));
  const range = (f) => (f ? h("span", { title: `95 % interval; ${unit(f.samples, "sample")}` }, figure(f.value), f.low !== f.high && h("span", { class: "muted" }, ` ${figure(f.low)} … ${figure(f.high)}`)) : "–");
  const inside = [
    h("p", { class: "verdict" }, badge(!e.judged ? "not judged yet" : e.passed ? "passed" : "failed"), " ", e.baseline ? ["against ", model_link(e.baseline)] : "a first version, without a baseline", ", ", time(e.event_time_ms)),
    e.gates.length > 0 && table("Gates", [
      { name: "Gate", class: "main", cell: (g) => [h("span", { class: `mark ${g.passed ? "good" : "bad"}` }, g.passed ? "✓" : "✗", h("span", { class: "hidden" }, g.passed ? " passed" : " failed")), " ", g.gate.replaceAll("_", " ")] },
      { name: "Interval and threshold", cell: (g) => interval(g), class: "wide" },
      { name: "Value", class: "num", cell: (g) => figure(g.value) },
      { name: "Margin", class: "num", cell: (g) => h("span", { class: g.margin < 0 ? "bad" : "" }, signed(g.margin)) },
      { name: "Samples", class: "num", cell: (g) => count(g.samples) },
      { name: "Rule", class: "rule", cell: (g) => g.rule },
    ], e.gates, "gates"),
    h("details", { class: "more" }, h("summary", {}, `All ${unit(shown.length, "figure")}`), table("Figures", [
      { name: "Figure", class: "main", cell: (f) => f.name.replaceAll("_", " ") }, { name: "This version", class: "num", cell: range }, { name: "Baseline", class: "num", cell: (f) => range(base.get(f.name)) },
      { name: "Samples", class: "num", cell: (f) => count(f.samples) }], shown)),
    facts([["Evaluation", h("a", { href: `#/jobs/${encodeURIComponent(e.id)}` }, e.id)], ["Record", [digest(e.record?.sha256), e.record && ` ${bytes(e.record.size_bytes)}`]]]),
    e.record && record_check(full, e),
  ];
  return first ? panel("Evidence", inside) : h("details", { class: "panel more" }, h("summary", {}, `Earlier evaluation, ${e.passed ? "passed" : "failed"}`), inside);
}

// ---- one version ----

function lineage_panel(v) {
  const l = v.lineage ?? {}, step = (kind, what) => h("li", {}, h("span", { class: "step-kind" }, kind), what);
  return panel("Lineage",
    h("ol", { class: "lineage" }, l.dataset && step("dataset", dataset_link(l.dataset)), l.base_model && step("base", model_link(l.base_model)), l.job_id && step("job", h("a", { href: `#/jobs/${encodeURIComponent(l.job_id)}` }, l.job_id)),
      step("version", h("strong", {}, full_name(v)))),
    facts([["Directory", [digest(v.directory?.sha256), h("span", { class: "muted" }, " manifest of its files")]], ["Made", time(v.created_time_ms)]]),
    l.recipe && h("details", { class: "more" }, h("summary", {}, "Recipe"), h("pre", { class: "block", tabindex: "0" }, l.recipe)));
}

function detail(main, name, signal) {
  const body = h("div", {});
  fill(main, crumb("#/models", "Models"), body);
  let shown = null, waits = false;
  const draw = () => show(body, signal, async () => {
    const d = await json(`/v1/admin/models/${encodeURIComponent(name)}`, { signal }), v = d.version, full = full_name(v), evaluations = d.evaluations.toReversed();
    if (shown !== null && shown !== v.state) say(`${full} is ${v.state.replace("MODEL_STATE_", "").toLowerCase()}`);
    shown = v.state;
    return [
      h("div", { class: "heading" }, h("div", {}, h("h1", { tabindex: "-1" }, full), h("p", { class: "lead" }, badge(v.state), d.aliases.map((a) => h("span", { class: "tag" }, a)), v.canary_percent > 0 && h("span", {}, `${v.canary_percent} % of the requests`),
        h("span", {}, `${short(v.parameters)} parameters`), v.context > 0 && h("span", {}, `context ${unit(v.context, "token")}`))),
        h("div", { class: "actions", role: "group", "aria-label": "What may be done" }, buttons(full, d.moves ?? [], draw))),
      h("p", { class: "muted reason" }, time(v.event_time_ms), " by ", actor(v.actor), v.reason && [": ", v.reason]),
      evaluations.length ? evaluation_panel(full, evaluations[0], true) : panel("Evidence", h("p", {}, "It has not been measured yet. An evaluation starts by itself after training; to start one now:"), command(`genloop evaluate ${full}`)),
      evaluations.slice(1).map((e) => evaluation_panel(full, e, false)),
      lineage_panel(v),
      panel("Transitions", table("Transitions", [
        { name: "When", cell: (t) => time(t.event_time_ms) }, { name: "State", cell: (t) => badge(t.state) }, { name: "By", cell: (t) => actor(t.actor) }, { name: "Reason", class: "rule", cell: (t) => t.reason || "–" },
        { name: "Evidence", cell: (t) => t.evidence || "–" }], d.history.toReversed())),
      d.card && panel("Card", markdown(d.card)),
    ];
  }, name);
  draw().then(() => while_shown(signal, async (shown_signal) => { // and again whenever the registry says that something has changed
    const base = name.split("@")[0];
    for (let rest = 1000; !shown_signal.aborted; rest = Math.min(30000, 2 * rest)) {
      try {
        await events(`/v1/admin/models/${encodeURIComponent(base)}/watch`, { signal: shown_signal, on_event: () => {
          if (waits) return;
          waits = true;
          setTimeout(() => { waits = false; if (!signal.aborted && !document.querySelector("dialog[open]")) draw(); }, 300);
        } });
      } catch { /* the page shows what it knows; it is asked again */ }
      await new Promise((done) => setTimeout(done, rest));
    }
  }));
}

export function open(main, name, signal) {
  if (name) detail(main, name, signal);
  else list(main, signal);
}
