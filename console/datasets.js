// Datasets with their cards, and how one fills: documents received, cleaned, rejected and why.
import { events, json, pages } from "./api.js";
import { every, fill, h, while_shown } from "./dom.js";
import { bytes, count, percent, short, time, unit, word } from "./format.js";
import { badge, command, crumb, digest, empty, facts, failed, heading, meter, panel, show, table } from "./widgets.js";
import { markdown } from "./markdown.js";

const link = (full, text = full) => h("a", { href: `#/datasets/${encodeURIComponent(full)}` }, text);
const rows = (d) => (d.kind === "DATASET_KIND_TEXT" ? [short(d.tokens), " tokens"] : [count(d.samples), " rows"]);
/** Names that have documents and no version yet. */
const begun = async (signal) => (await json("/v1/datasets?limit=1", { signal })).filling ?? [];
const first_steps = ["genloop ingest PATH --dataset NAME"];

function list(main, signal) {
  const body = h("div", {});
  fill(main, heading("Datasets", "What documents and judgements have become: versions that jobs train on."), body);
  every(5000, signal, () => show(body, signal, async () => {
    const [found, filling_now] = await Promise.all([pages("/v1/datasets", "datasets", signal), begun(signal)]);
    found.push(...filling_now.map((name) => ({ name, version: 0, state: "filling", kind: "" })));
    if (!found.length) return empty("No dataset yet", "A dataset begins with its first document: files, folders or addresses. Give it some, and it is built when they are cleaned:", first_steps);
    found.sort((a, b) => a.name.localeCompare(b.name) || b.version - a.version);
    return table("Dataset versions", [
      { name: "Dataset", class: "main", cell: (d) => link(d.version ? `${d.name}@${d.version}` : d.name) },
      { name: "State", cell: (d) => badge(d.state) },
      { name: "Kind", cell: (d) => word(d.kind) || "–" },
      { name: "Documents", class: "num", cell: (d) => (d.kind === "DATASET_KIND_TEXT" ? count(d.documents) : "–") },
      { name: "Training split", class: "num", cell: (d) => (d.version ? rows(d) : "–") },
      { name: "Held out", class: "num", cell: (d) => (!d.version ? "–" : d.kind === "DATASET_KIND_TEXT" ? `${short(d.tokens_held_out)} tokens` : `${count(d.samples_held_out)} rows`) },
      { name: "Built", cell: (d) => time(d.event_time_ms) },
    ], found);
  }));
}

const PHASES = { waiting: "waits for documents to be cleaned", deduplicating: "removes duplicates", tokenizer: "trains the tokenizer", tokens: "makes tokens", writing: "writes" };

/** How it fills, as the watch says it. */
function filling(name, signal) {
  const body = h("div", { class: "fill-box" });
  const draw = (p) => {
    const done = p.accepted + p.rejected, reasons = Object.entries(p.rejected_by_reason ?? {}).sort((a, b) => b[1] - a[1]);
    fill(body,
      h("dl", { class: "figures" }, [["Received", p.received], ["Accepted", p.accepted], ["Rejected", p.rejected], ["Waiting", p.pending]].map(([label, n]) => h("div", {}, h("dt", {}, label), h("dd", {}, count(n))))),
      meter(p.received ? done / p.received : 0, `${count(done)} of ${count(p.received)} documents are cleaned`),
      h("p", { class: "muted" }, p.phase ? `A version is being built: ${PHASES[p.phase] ?? p.phase}, ${percent(p.fraction)}` : p.pending ? `${unit(p.pending, "document")} to be cleaned` : "Everything that was received is cleaned."),
      reasons.length > 0 && table("Why documents were rejected", [{ name: "Rejected because", class: "main", cell: ([why]) => why.replaceAll("_", " ") }, { name: "Documents", class: "num", cell: ([, n]) => count(n) }], reasons));
  };
  while_shown(signal, async (shown_signal) => {
    for (let rest = 1000; !shown_signal.aborted; rest = Math.min(30000, 2 * rest)) {
      try {
        await events(`/v1/datasets/${encodeURIComponent(name)}/watch`, { signal: shown_signal, on_event: draw });
      } catch (why) {
        if (shown_signal.aborted) return;
        if (why.status === 404 || why.status === 403) return;
        if (!body.firstChild) fill(body, failed(why));
      }
      await new Promise((done) => setTimeout(done, rest));
    }
  });
  return body;
}

async function documents(name, signal) {
  const page = await json(`/v1/documents?dataset=${encodeURIComponent(name)}&limit=50`, { signal });
  return [table("Documents", [
    { name: "Source", class: "main", cell: (d) => h("span", { title: d.id }, d.source || d.title || d.id.slice(0, 12)) },
    { name: "State", cell: (d) => [badge(word(d.state)), d.reject_reason && h("span", { class: "muted" }, ` ${d.reject_reason.replaceAll("_", " ")}`)] },
    { name: "Language", cell: (d) => d.language || "–" }, { name: "Kind", cell: (d) => d.media_type || "–" }, { name: "Text", class: "num", cell: (d) => (d.text_bytes ? bytes(d.text_bytes) : "–") },
  ], page.documents), page.next_page_token && h("p", { class: "muted" }, "The first 50 are shown; ", h("code", {}, `genloop dataset show ${name}`), " lists them all.")];
}

function detail(main, name, signal) {
  const body = h("div", {}), base = name.split("@")[0], live = filling(base, signal);
  fill(main, crumb("#/datasets", "Datasets"), body);
  show(body, signal, async () => {
    if ((await begun(signal)).includes(name)) {
      return [heading(name, badge("filling")), panel("How it fills", live), panel("No version yet", h("p", {}, "What is cleaned becomes a version, with its tokens, held-out split and card, once it is built:"), command(`genloop ingest PATH --dataset ${name}`))];
    }
    const { dataset: d, card, manifest } = await json(`/v1/datasets/${encodeURIComponent(name)}`, { signal }), others = (await pages("/v1/datasets", "datasets", signal)).filter((o) => o.name === d.name && o.version !== d.version && o.version > 0);
    const text = d.kind === "DATASET_KIND_TEXT", list_of = h("div", {}), full = d.version ? `${d.name}@${d.version}` : d.name;
    const more = text && h("details", { class: "panel more", ontoggle: (event) => { if (event.target.open && !list_of.firstChild) show(list_of, signal, () => documents(d.name, signal)); } }, h("summary", {}, "Documents"), list_of);
    return [
      h("div", { class: "heading" }, h("div", {}, h("h1", { tabindex: "-1" }, full), h("p", { class: "lead" }, badge(d.state), h("span", {}, word(d.kind)), h("span", {}, rows(d)), h("span", {}, time(d.event_time_ms)),
        others.length > 0 && h("span", {}, "other versions: ", others.map((o, i) => [i ? ", " : "", link(`${o.name}@${o.version}`, String(o.version))]))))),
      d.failure && h("div", { class: "failure" }, h("p", { class: "failure-what" }, d.failure)),
      text && panel("How it fills", live),
      panel("In this version", facts([["Documents", text && count(d.documents)], ["Held out", text && unit(d.documents_held_out, "document")], ["Rejected", text && count(d.documents_rejected)], ["Text", d.text_bytes > 0 && bytes(d.text_bytes)],
        ["Tokens", d.tokens > 0 && count(d.tokens)], ["Tokens held out", d.tokens_held_out > 0 && count(d.tokens_held_out)], ["Rows", d.samples > 0 && count(d.samples)], ["Rows held out", d.samples_held_out > 0 && count(d.samples_held_out)],
        ["Manifest", d.manifest && digest(d.manifest.sha256)], ["Tokenizer", d.tokenizer && digest(d.tokenizer.sha256)]])),
      more,
      card && panel("Card", markdown(card)),
      manifest && h("details", { class: "panel more" }, h("summary", {}, "Manifest (Croissant)"), h("pre", { class: "block", tabindex: "0" }, JSON.stringify(JSON.parse(manifest), null, 2))),
    ];
  }, name);
}

export function open(main, name, signal) {
  if (name) detail(main, name, signal);
  else list(main, signal);
}
