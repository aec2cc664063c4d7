// Judgements, newest first: who judged which answer how. What people wrote is sealed in the store and is not shown here.
import { json } from "./api.js";
import { every, fill, h, icon } from "./dom.js";
import { signed, time, word } from "./format.js";
import { empty, heading, show, table } from "./widgets.js";
import { actor, model_link } from "./models.js";

const LIMIT = 200;

function judgement(e) {
  if (e.kind === "FEEDBACK_KIND_THUMB") return h("span", { class: `thumb-shown ${e.value > 0 ? "good" : "bad"}` }, icon(e.value > 0 ? "up" : "down"), e.value > 0 ? "good" : "bad");
  if (e.kind === "FEEDBACK_KIND_RATING") return signed(e.value);
  return e.kind === "FEEDBACK_KIND_CORRECTION" ? "another text" : "one over the other";
}

export function open(main, _name, signal) {
  const body = h("div", {});
  fill(main, heading("Feedback", "Judgements of answers, newest first. What people wrote is sealed and is not shown."), body);
  every(4000, signal, () => show(body, signal, async () => {
    const page = await json(`/v1/feedback?limit=${LIMIT}`, { signal });
    if (!page.events.length) return empty("No judgement yet", "Ask something in the chat and give the answer a thumb, or send one from your own application:", ["genloop feedback send --request ID --thumb up"], h("p", {}, h("a", { href: "#/chat", class: "button" }, "Open the chat")));
    return [table("Judgements", [
      { name: "When", cell: (e) => time(e.event_time_ms) },
      { name: "Kind", class: "main", cell: (e) => word(e.kind) },
      { name: "Judgement", cell: judgement },
      { name: "Model", cell: (e) => (e.model ? model_link(e.model) : "–") },
      { name: "Answer", cell: (e) => (e.request_id ? h("code", { title: e.request_id }, `…${e.request_id.slice(-12)}`) : "–") },
      { name: "By", cell: (e) => actor(e.actor) },
    ], page.events), page.next_page_token && h("p", { class: "muted" }, `The newest ${LIMIT} are shown; `, h("code", {}, "genloop feedback list --all"), " has them all.")];
  }));
}
