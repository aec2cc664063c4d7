// A conversation that streams. It lives as long as the page is open, and nowhere else: what the platform keeps of it is its own policy (gateway.capture).
import { events, Failure, json, post, randomId } from "./api.js";
import { fill, h, icon } from "./dom.js";
import { count, duration, short } from "./format.js";
import { copy_button, empty, failed, field, heading, note, question, say, waiting } from "./widgets.js";

// Kept while one looks at another page.
const talk = { messages: [], session: randomId(), model: null, context: 0, parameters: { system: "", temperature: "0.7", top_p: "", max_tokens: "", seed: "" } };

const NUMBERS = [["temperature", "Temperature", "0 to 2; 0 always takes the likeliest token", { min: 0, max: 2, step: "any" }], ["top_p", "Top p", "0 to 1; empty: all tokens", { min: 0, max: 1, step: "any" }],
  ["max_tokens", "Most tokens", "of an answer", { min: 1, step: 1 }], ["seed", "Seed", "empty: another answer each time", { min: 0, step: 1 }]];

function request() {
  const p = talk.parameters, body = { model: talk.model, stream: true, stream_options: { include_usage: true }, messages: [] };
  if (p.system.trim()) body.messages.push({ role: "system", content: p.system });
  for (const m of talk.messages) if (m.text && !m.failure && !m.left_out) body.messages.push({ role: m.role, content: m.text });
  for (const [name] of NUMBERS) if (p[name] !== "") body[name] = Number(p[name]);
  body.max_tokens ??= most_tokens();
  return body;
}

/** Where nothing is said: enough to read, and room for some turns in a small context. */
const most_tokens = () => Math.max(16, Math.min(256, Math.floor((talk.context || 1024) / 4)));
const outgrown = (message) => message.failure?.code === "context_length_exceeded";

const ENDS = { length: "stopped at the most tokens", stopped: "stopped by you", content_filter: "stopped by a filter" };

/** The judgement of an answer: the newest counts. */
async function judge(message, body) {
  await post("/v1/feedback", { id: `console-${randomId()}`, request_id: message.id, model: message.model, ...body });
}

function thumbs(message) {
  const make = (value, name, label) => h("button", { type: "button", class: "button quiet icon-only thumb", "aria-label": label, title: label, "aria-pressed": String(message.thumb === value), onclick: async () => {
    if (message.thumb === value) return;
    const before = message.thumb;
    mark(value);
    try {
      await judge(message, { kind: "thumb", value });
      note(value > 0 ? "Kept: a good answer" : "Kept: a bad answer");
    } catch (why) {
      mark(before);
      note(`${why.message} ${why.remedy ?? ""}`, "bad");
    }
  } }, icon(name));
  const up = make(1, "up", "Good answer"), down = make(-1, "down", "Bad answer");
  const mark = (value) => {
    message.thumb = value;
    up.setAttribute("aria-pressed", String(value === 1));
    down.setAttribute("aria-pressed", String(value === -1));
  };
  return [up, down];
}

function correct(message) {
  return h("button", { type: "button", class: "button quiet small", onclick: async () => {
    const text = h("textarea", { name: "text", rows: 8, required: true, value: message.text });
    const done = await question({ title: "Correct this answer", text: "What it should have said. Corrections are what supervised fine-tuning learns from.", fields: [field("The answer as it should be", text)], action: "Send the correction",
      submit: ({ text: given }) => judge(message, { kind: "correction", text: given }).then(() => ({ given })) });
    if (done) note("Kept: the correction");
  } }, icon("pen"), "Correct");
}

function footer(message) {
  const facts = [message.model, message.tokens && `${count(message.tokens)} tokens`, message.ms && duration(message.ms), message.tokens && message.ms && `${short((1000 * message.tokens) / message.ms)} tokens/s`,
    message.first_ms && `first after ${duration(message.first_ms)}`, ENDS[message.end]].filter(Boolean);
  return h("div", { class: "answer-foot" }, message.id && !message.failure && h("div", { class: "judge", role: "group", "aria-label": "Judge this answer" }, thumbs(message), correct(message), copy_button(() => message.text, "Copy the answer")),
    h("p", { class: "answer-facts" }, facts.join(" · ")));
}

function bubble(message) {
  const text = h("div", { class: "text" }, message.text), foot = h("div", {}), trouble = h("div", {});
  const node = h("article", { class: `message ${message.role}`, "aria-label": message.role === "user" ? "You" : "Answer" }, text, trouble, foot);
  let waits = false;
  message.node = node;
  if (message.left_out) node.classList.add("left-out");
  return {
    node,
    more() { // many pieces, one drawing
      if (waits) return;
      waits = true;
      requestAnimationFrame(() => { waits = false; text.textContent = message.text; });
    },
    end(retry) {
      text.textContent = message.text;
      text.hidden = !message.text && Boolean(message.failure);
      node.classList.remove("streaming");
      if (message.failure) fill(trouble, failed(message.failure, retry, outgrown(message) ? "Ask without the oldest turn" : "Try again"));
      if (message.role === "assistant") fill(foot, footer(message));
    },
  };
}

export function open(main, _name, signal) {
  const log = h("div", { class: "log", tabindex: "0", role: "region", "aria-label": "Conversation" });
  const select = h("select", { name: "model", "aria-label": "Model", onchange: () => choose(select.value) });
  const input = h("textarea", { name: "message", rows: 1, placeholder: "Ask something", "aria-label": "Message", autocomplete: "off" });
  const go = h("button", { type: "submit", class: "button primary icon-only send", "aria-label": "Send", title: "Send (Enter)" }, icon("send"));
  const stop = h("button", { type: "button", class: "button icon-only send", "aria-label": "Stop", title: "Stop (Escape)", hidden: true }, icon("stop"));
  const fresh = h("button", { type: "button", class: "button", onclick: () => {
    running?.abort();
    talk.messages = [];
    talk.session = randomId();
    draw();
    input.focus();
  } }, "New conversation");
  const parameters = h("details", { class: "parameters panel" }, h("summary", {}, "Parameters"),
    field("System prompt", h("textarea", { rows: 3, value: talk.parameters.system, oninput: (e) => { talk.parameters.system = e.target.value; } }), "what the model is told before the conversation"),
    NUMBERS.map(([name, label, hint, limits]) => field(label, h("input", { name, type: "number", inputmode: "decimal", ...limits, value: talk.parameters[name], oninput: (e) => { talk.parameters[name] = e.target.value; } }), hint)));
  parameters.open = matchMedia("(min-width: 72rem)").matches;
  let running = null, models = [];

  const choose = (id) => {
    talk.model = select.value = id;
    talk.context = models.find((m) => m.id === id)?.context_length ?? 0;
    parameters.querySelector("[name=max_tokens]").placeholder = most_tokens();
  };
  const at_end = () => log.scrollHeight - log.scrollTop - log.clientHeight < 80;
  const to_end = () => { log.scrollTop = log.scrollHeight; };

  async function answer() {
    const message = { role: "assistant", text: "" }, view = bubble(message), began = performance.now();
    const body = request();
    talk.messages.push(message);
    view.node.classList.add("streaming");
    log.append(view.node);
    to_end();
    const own = running = new AbortController();
    const leave = () => own.abort();
    signal.addEventListener("abort", leave);
    go.hidden = true;
    stop.hidden = false;
    say("The answer begins");
    try {
      await events("/v1/chat/completions", { method: "POST", body, signal: own.signal, headers: { "x-genloop-session": talk.session },
        on_open: (got) => { message.id = got.headers.get("x-request-id"); message.model = got.headers.get("x-genloop-model"); },
        on_event: (event) => {
          const choice = event.choices?.[0], follow = at_end();
          if (choice?.delta?.content) {
            message.first_ms ??= performance.now() - began;
            message.text += choice.delta.content;
            view.more();
            if (follow) requestAnimationFrame(to_end);
          }
          if (choice?.finish_reason) message.end = choice.finish_reason;
          if (event.usage) message.tokens = event.usage.completion_tokens;
        } });
      say(`The answer is complete: ${count(message.tokens ?? 0)} tokens`);
    } catch (why) {
      if (own.signal.aborted) {
        message.end = "stopped";
        say("Stopped");
      } else message.failure = why instanceof Failure ? why : new Failure(0, null, "The stream broke off before its end.");
    } finally {
      signal.removeEventListener("abort", leave);
      message.ms = performance.now() - began;
      if (running === own) running = null;
      go.hidden = false;
      stop.hidden = true;
      const follow = at_end();
      view.end(() => {
        const oldest = talk.messages.findIndex((m) => !m.left_out);
        if (outgrown(message)) for (const m of talk.messages.slice(oldest, oldest + 2)) if (m !== talk.messages.at(-2)) leave_out(m);
        talk.messages.splice(talk.messages.indexOf(message), 1);
        view.node.remove();
        answer();
      });
      if (follow) to_end();
      input.focus({ preventScroll: true });
    }
  }

  function leave_out(m) {
    m.left_out = true;
    m.node.classList.add("left-out");
    m.node.title = "Not sent any more: the conversation has outgrown the model's context";
  }

  function draw() {
    if (!talk.messages.length) {
      fill(log, h("div", { class: "empty plain" }, h("h2", {}, "Talk to what was trained here"), h("p", {}, "Answers stream from a replica. A thumb or a correction below an answer goes to the platform's feedback, and from there into the next version.")));
      return;
    }
    fill(log, talk.messages.map((m) => {
      const one = bubble(m);
      one.end(null);
      return one.node;
    }));
    to_end();
  }

  const grow = () => {
    input.style.height = "auto";
    input.style.height = `${Math.min(200, input.scrollHeight + 2)}px`;
  };
  const composer = h("form", { class: "composer", onsubmit: (event) => {
    event.preventDefault();
    const text = input.value.trim();
    if (!text || running || !talk.model) return;
    const bad = parameters.querySelector("input:invalid");
    if (bad) {
      parameters.open = true;
      bad.reportValidity();
      return;
    }
    if (!talk.messages.length) fill(log);
    const message = { role: "user", text }, view = bubble(message);
    talk.messages.push(message);
    log.append(view.node);
    input.value = "";
    grow();
    answer();
  } }, input, h("div", { class: "composer-foot" }, h("div", { class: "model-choice" }, select), go, stop));
  input.addEventListener("input", grow);
  input.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    composer.requestSubmit();
  });
  stop.addEventListener("click", () => running?.abort());
  main.addEventListener("keydown", (event) => { if (event.key === "Escape") running?.abort(); }, { signal });

  async function load() {
    const body = h("div", { class: "chat-body" }, waiting(3));
    fill(main, heading("Chat", null, fresh), body);
    try {
      models = (await json("/v1/models", { signal })).data;
      if (signal.aborted) return;
      if (!models.length) {
        fill(body, empty("No model is released yet", "A model answers here once it has passed its gates, a person has approved it and it was promoted. Train one first:", ["genloop ingest PATH --dataset NAME", "genloop train --dataset NAME --recipe pretrain-small --name MODEL --wait"],
          h("p", {}, "Is one waiting for approval? ", h("a", { href: "#/models" }, "Look at the models"), ".")));
        return;
      }
      fill(select, models.map((m) => h("option", { value: m.id }, m.id === m.version ? m.id : `${m.id} (${m.version})`)));
      choose((models.find((m) => m.id === talk.model) ?? models.find((m) => m.id === "production") ?? models[0]).id);
      fill(body, h("div", { class: "chat-main" }, log, composer), parameters);
      draw();
      if (matchMedia("(pointer: fine)").matches) input.focus({ preventScroll: true });
    } catch (why) {
      if (!signal.aborted) fill(body, failed(why, load));
    }
  }
  load();
}
