// The services and what the replicas carry just now.
import { json } from "./api.js";
import { every, fill, h, svg } from "./dom.js";
import { bytes, count, duration, short, time, unit } from "./format.js";
import { badge, empty, facts, heading, meter, show, table } from "./widgets.js";
import { model_link } from "./models.js";

const HISTORY = 60, EVERY_MS = 2000;

function spark(values, label) {
  const most = Math.max(...values, 1e-9), points = values.map((v, i) => `${(100 * (i + HISTORY - values.length)) / (HISTORY - 1)} ${23 - (21 * v) / most}`);
  return svg("svg", { class: "spark", viewBox: "0 0 100 24", preserveAspectRatio: "none", role: "img", "aria-label": label }, svg("path", { class: "spark-base", d: "M0 23.500H100" }), values.length > 1 && svg("path", { class: "spark-line", d: `M${points.join("L")}` }));
}

function replica(s, speeds) {
  const l = s.load, used = l.kv_blocks_total - l.kv_blocks_free;
  return h("section", { class: "panel replica", "aria-label": `Replica ${s.id}` },
    h("div", { class: "replica-head" }, h("h3", {}, s.id), badge(s.state)),
    h("dl", { class: "figures" }, [["Running", count(l.running)], ["Waiting", count(l.queued)], ["Tokens waiting", short(l.queued_tokens)], ["Speed", `${short(l.tokens_per_second)} tokens/s`]].map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value)))),
    spark(speeds, `Speed over the last ${duration(speeds.length * EVERY_MS)}, at most ${short(Math.max(0, ...speeds))} tokens/s`),
    h("p", { class: "meter-line" }, h("span", {}, "KV cache"), meter(l.kv_blocks_total ? used / l.kv_blocks_total : 0, `${count(used)} of ${count(l.kv_blocks_total)} blocks in use`), h("span", { class: "muted" }, `${count(used)} / ${unit(l.kv_blocks_total, "block")}`)),
    facts([["Serves", l.models.length ? l.models.map((m, i) => [i ? ", " : "", model_link(m)]) : "nothing: no model is released"], ["Loads", l.loading.length > 0 && l.loading.join(", ")], ["Failed", l.failed.length > 0 && h("span", { class: "bad" }, l.failed.join("; "))]]));
}

export function open(main, _name, signal) {
  const body = h("div", {}), speeds = new Map();
  fill(main, heading("Services", "What runs, and what it carries; every two seconds anew."), body);
  every(EVERY_MS, signal, () => show(body, signal, async () => {
    const status = await json("/v1/admin/status", { signal }), replicas = status.services.filter((s) => s.load);
    for (const s of replicas) speeds.set(s.id, [...(speeds.get(s.id) ?? []), s.load.tokens_per_second].slice(-HISTORY));
    return [
      h("h2", {}, "Replicas"),
      replicas.length ? h("div", { class: "replicas" }, replicas.map((s) => replica(s, speeds.get(s.id)))) : empty("No replica", "Nothing answers requests. On one machine start one with:", ["genloop scale inference=1"]),
      h("h2", {}, "Services"),
      table("Services", [
        { name: "Service", class: "main", cell: (s) => s.id },
        { name: "State", cell: (s) => badge(s.state) },
        { name: "Memory", class: "num", cell: (s) => bytes(s.resident_bytes) },
        { name: "Behind", class: "num", cell: (s) => unit(s.lag_events, "event") },
        { name: "Up for", class: "num", cell: (s) => duration(Math.max(0, status.time_ms - s.started_time_ms)) },
        { name: "Since", cell: (s) => time(s.started_time_ms) },
        { name: "Version", cell: (s) => s.version },
        { name: "Metrics at", cell: (s) => h("code", {}, s.admin || "–") },
      ], status.services.toSorted((a, b) => a.id.localeCompare(b.id))),
    ];
  }));
}
