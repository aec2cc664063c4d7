// The audit log, and its verification in this browser: signature of the head, every leaf and root, the gateway's proofs, and that today's log goes on from the one that was seen here last.
import { json } from "./api.js";
import { fill, h } from "./dom.js";
import { count, time, timeText, unit } from "./format.js";
import { code, digest, empty, facts, failed, heading, panel, say, show, table, waiting } from "./widgets.js";
import { can_verify, from_base64, from_hex, head_key, hex, leaf_hash, same, Tree, verify_consistency, verify_head, verify_inclusion } from "./merkle.js";
import { actor } from "./models.js";

const PAGE = 100, SEEN = "genloop.audit.seen", INCLUSIONS = 8;

// What was seen last, of this gateway: {size, root, key, time_ms}. Public figures; storage is this browser's, for this origin.
function seen() {
  try { return JSON.parse(localStorage.getItem(SEEN)); } catch { return null; }
}
function remember(head) {
  try { localStorage.setItem(SEEN, JSON.stringify({ size: head.tree_size, root: hex(from_base64(head.root_hash)), key: hex(from_base64(head.public_key)), time_ms: Date.now() })); } catch { /* it is not remembered, then */ }
}

/** The newest page, newest first; older ones by the index that they end before. */
async function page_before(size, before, signal) {
  const from = Math.max(0, Math.min(before, size) - PAGE);
  const page = await json(`/v1/audit?limit=${Math.min(before, size) - from}${from ? `&page_token=${from}` : ""}`, { signal });
  return { from, records: page.records.toReversed() };
}

/** Every check; tell(i, state, text) as it goes. Throws nothing that a check can say. */
async function verify(signal, tell) {
  const head = await json("/v1/audit/head", { signal }), root = from_base64(head.root_hash), public_key = from_base64(head.public_key), before = seen(), key = await head_key(public_key);
  let good = true;
  const say_of = (i, right, text) => { good &&= right !== false; tell(i, right === null ? "none" : right ? "good" : "bad", text); };

  if (!key) say_of(0, null, "This browser has no Ed25519: signatures are not checked here. genloop audit verify checks them.");
  else say_of(0, head.tree_size === 0 || await verify_head(key, head.tree_size, root, head.time_ms, from_base64(head.signature)), `The head of ${unit(head.tree_size, "record")} is signed by the registry's key ${hex(public_key).slice(0, 16)}…`);

  const tree = new Tree();
  let token = "", wrong = null, epoch = 0;
  while (!wrong && tree.size < head.tree_size) {
    const page = await json(`/v1/audit?limit=1000${token ? `&page_token=${encodeURIComponent(token)}` : ""}`, { signal });
    for (const r of page.records) {
      if (wrong || tree.size === head.tree_size) break;
      const leaf = await leaf_hash(r), claimed = from_base64(r.root_hash);
      if (r.index !== tree.size) wrong = `record ${r.index} stands where record ${tree.size} belongs`;
      else if (r.epoch < epoch) wrong = `record ${r.index} was written under an epoch that had ended`;
      else if (!same(leaf, from_base64(r.leaf_hash))) wrong = `record ${r.index} is not what its hash says`;
      await tree.append(leaf);
      if (!wrong && !same(await tree.root(), claimed)) wrong = `the root of record ${r.index} does not follow from the records before it`;
      if (!wrong && key && !(await verify_head(key, r.index + 1, claimed, r.event_time_ms, from_base64(r.signature)))) wrong = `the signature of record ${r.index} is not the registry's`;
      epoch = r.epoch;
      if (tree.size % 50 === 0) tell(1, "busy", `${count(tree.size)} of ${unit(head.tree_size, "record")} computed again`);
    }
    token = page.next_page_token;
    if (!token && tree.size < head.tree_size) wrong ??= `the log ends after ${unit(tree.size, "record")}`;
  }
  say_of(1, !wrong, wrong ? `Something was changed: ${wrong}` : `${unit(tree.size, "record")} computed again: every leaf, every root${key ? ", every signature" : ""}`);
  say_of(2, !wrong && same(await tree.root(), root), wrong ? "The root cannot be compared" : `The root over all of them is the signed one, ${hex(root).slice(0, 16)}…`);

  let proofs = true;
  const some = [...new Set(Array.from({ length: Math.min(INCLUSIONS, head.tree_size) }, (_, i) => Math.floor((i * (head.tree_size - 1)) / Math.max(1, Math.min(INCLUSIONS, head.tree_size) - 1))))];
  for (const index of some) {
    const p = await json(`/v1/audit/proof?index=${index}&tree_size=${head.tree_size}`, { signal });
    proofs &&= await verify_inclusion(await leaf_hash(p.record), index, head.tree_size, p.path.map(from_base64), root);
  }
  say_of(3, proofs, `${unit(some.length, "proof")} of inclusion ${some.length === 1 ? "leads" : "lead"} to the signed root`);

  if (!before) say_of(4, null, "This browser had not seen this log before: from now on it knows whether it goes on from here.");
  else if (before.key !== hex(public_key)) say_of(4, false, `The registry's key is another one than on ${timeText(before.time_ms)}. Where you know why (a new home), forget what was seen.`);
  else if (before.size > head.tree_size) say_of(4, false, `The log had ${unit(before.size, "record")} on ${timeText(before.time_ms)}, and has ${count(head.tree_size)} now: records are gone.`);
  else {
    const p = before.size === 0 ? null : await json(`/v1/audit/proof?from_size=${before.size}&tree_size=${head.tree_size}`, { signal });
    say_of(4, !p || await verify_consistency(before.size, from_hex(before.root), head.tree_size, root, p.path.map(from_base64)), `The log goes on from the ${unit(before.size, "record")} that were seen here on ${timeText(before.time_ms)}`);
  }
  if (good) remember(head);
  return { good, head };
}

const MARKS = { good: "✓", bad: "✗", none: "–", busy: "…", wait: "·" };

function verification(signal) {
  const lines = ["Signature of the head", "Every record", "Root", "Proofs of inclusion", "Consistency with what was seen before"].map((text) => {
    const mark = h("span", { class: "mark" }, MARKS.wait), said = h("span", {}, text);
    return { node: h("li", { "data-state": "wait" }, mark, said), set(state, now) {
      this.node.dataset.state = state;
      mark.textContent = MARKS[state];
      said.textContent = now;
    } };
  });
  const result = h("p", { class: "verdict", id: "audit-verdict", role: "status" }), trouble = h("div", {});
  const forget = h("button", { type: "button", class: "button small quiet", hidden: !seen(), onclick: () => { localStorage.removeItem(SEEN); forget.hidden = true; } }, "Forget what was seen");
  const button = h("button", { type: "button", class: "button primary", id: "audit-verify", onclick: async () => {
    button.disabled = true;
    fill(result);
    fill(trouble);
    try {
      const { good, head } = await verify(signal, (i, state, text) => lines[i].set(state, text));
      fill(result, h("strong", { class: good ? "good" : "bad" }, good ? `Whole: ${unit(head.tree_size, "record")}, verified in this browser.` : "Not whole. Keep a copy (genloop audit export) and find out who wrote to the log."));
      result.dataset.good = good;
      forget.hidden = !seen();
    } catch (why) {
      if (!signal.aborted) fill(trouble, failed(why));
    } finally {
      button.disabled = false;
    }
  } }, "Verify the log");
  if (!can_verify()) {
    return panel("Verification", h("p", {}, "A browser has SHA-256 only over HTTPS and on localhost. Open this page there, or let the command line do it:"), h("p", {}, code("genloop audit verify")));
  }
  return panel("Verification", h("p", { class: "muted" }, "Everything is computed again here, from the records, by RFC 6962; the gateway is believed nothing but its key at the first look."), h("ul", { class: "checks" }, lines.map((l) => l.node)), h("p", { class: "row" }, button, forget), result, trouble);
}

/** Of one record: its inclusion in the tree of now. */
function proof_button(record, signal) {
  const button = h("button", { type: "button", class: "button small quiet", "aria-label": `Prove record ${record.index}`, onclick: async () => {
    button.disabled = true;
    try {
      const p = await json(`/v1/audit/proof?index=${record.index}`, { signal }), root = from_base64(p.head.root_hash), key = await head_key(from_base64(p.head.public_key));
      const right = await verify_inclusion(await leaf_hash(record), record.index, p.head.tree_size, p.path.map(from_base64), root) && (!key || await verify_head(key, p.head.tree_size, root, p.head.time_ms, from_base64(p.head.signature)));
      const text = right ? `In the tree of ${count(p.head.tree_size)}, by ${unit(p.path.length, "hash").replace("hashs", "hashes")}` : "The proof does not hold";
      button.replaceWith(h("span", { class: right ? "good" : "bad", title: p.path.map((x) => hex(from_base64(x))).join("\n") }, `${right ? "✓" : "✗"} ${text}`));
      say(`Record ${record.index}: ${text}`);
    } catch (why) {
      button.disabled = false;
      button.textContent = `${why.message} Try again`;
    }
  } }, "Prove");
  return button;
}

export function open(main, _name, signal) {
  const head_box = h("div", {}), log = h("div", {}), more = h("p", {});
  let known = null;
  fill(main, heading("Audit", "Every decision, in the order in which it was made: signed leaves of a Merkle tree."), verification(signal), head_box, log, more);
  const draw_page = async (before) => {
    const { from, records } = await page_before(known.tree_size, before, signal);
    if (signal.aborted) return;
    log.append(table(`Records ${from} to ${from + records.length - 1}`, [
      { name: "No.", class: "num", cell: (r) => count(r.index) }, { name: "When", cell: (r) => time(r.event_time_ms) }, { name: "By", cell: (r) => actor(r.actor) }, { name: "Decision", class: "main", cell: (r) => h("span", { class: "two" }, h("span", { class: "nowrap" }, r.action), h("span", { class: "muted" }, r.object)) },
       { name: "State", cell: (r) => (r.from_state || r.to_state ? `${r.from_state.replaceAll("_", " ")} → ${r.to_state.replaceAll("_", " ")}` : "–") }, { name: "Reason", class: "rule", cell: (r) => r.reason || "–" },
      { name: "Proof", class: "proof", cell: (r) => (can_verify() ? proof_button(r, signal) : digest(hex(from_base64(r.leaf_hash)))) },
    ], records));
    fill(more, from > 0 && h("button", { type: "button", class: "button", onclick: () => draw_page(from).catch((why) => fill(more, failed(why))) }, "Show older records"));
  };
  fill(log, waiting(6));
  show(head_box, signal, async () => {
    known = await json("/v1/audit/head", { signal });
    fill(log);
    if (known.tree_size) await draw_page(known.tree_size);
    else fill(log, empty("Nothing was decided yet", "The first record is written when a job ends or somebody decides about a model."));
    return panel("Signed head", facts([["Records", count(known.tree_size)], ["Root", digest(hex(from_base64(known.root_hash)), 24)], ["Signed", time(known.time_ms)], ["Key", digest(hex(from_base64(known.public_key)), 24)]]));
  });
}
