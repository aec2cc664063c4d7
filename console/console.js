// The shell: which page is shown, the key, the colours, the health of the gateway.
import { key } from "./api.js";
import { every, fill, h, icon } from "./dom.js";
import { field, question } from "./widgets.js";
import * as audit from "./audit.js";
import * as chat from "./chat.js";
import * as datasets from "./datasets.js";
import * as feedback from "./feedback.js";
import * as jobs from "./jobs.js";
import * as models from "./models.js";
import * as services from "./services.js";

// A page: open(main, name, signal) draws into main and stops all that it began when the signal comes. name: what stands behind #/page/, or "".
const PAGES = [
  ["chat", "Chat", chat], ["models", "Models", models], ["jobs", "Jobs", jobs], ["datasets", "Datasets", datasets], ["feedback", "Feedback", feedback], ["services", "Services", services],
  ["audit", "Audit", audit],
];

const $ = (id) => document.getElementById(id), main = $("main");

// ---- pages ----

let leaving = null;
function open(moved) {
  const [, path, name = ""] = /^#\/([a-z]+)(?:\/(.+))?$/.exec(location.hash) ?? ["", "chat"];
  const page = PAGES.find(([p]) => p === path) ?? PAGES[0];
  leaving?.abort();
  leaving = new AbortController();
  for (const a of $("pages").querySelectorAll("a")) {
    if (a.dataset.page === page[0]) a.setAttribute("aria-current", "page");
    else a.removeAttribute("aria-current");
  }
  let shown = name;
  try { shown = decodeURIComponent(name); } catch { /* a name that is none: the page says that it is not there */ }
  document.title = `${shown ? `${shown} · ` : ""}${page[1]} · genloop`;
  main.className = `page-${page[0]}`;
  fill(main);
  scrollTo(0, 0);
  page[2].open(main, shown, leaving.signal);
  menu(false);
  if (moved) (main.querySelector("h1") ?? main).focus({ preventScroll: true });
}

function menu(on) {
  $("menu").setAttribute("aria-expanded", on);
  document.body.classList.toggle("menu-open", on);
}

fill($("pages"), PAGES.map(([path, title]) => h("li", {}, h("a", { href: `#/${path}`, "data-page": path }, icon(path), title))));
$("menu").addEventListener("click", () => menu($("menu").getAttribute("aria-expanded") !== "true"));
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || !document.body.classList.contains("menu-open")) return;
  menu(false);
  $("menu").focus();
});
$("skip").addEventListener("click", (event) => {
  event.preventDefault();
  (main.querySelector("h1") ?? main).focus();
});
addEventListener("hashchange", () => open(true));

// ---- the key ----

let asked = null;
key.ask = (why, refused) => asked ??= question({ // refused: whether one was given; null: one was given and may too little
  title: refused === null ? "Give another API key" : refused ? "This key is not accepted" : "This gateway asks for an API key",
  text: refused ? why : "Everything here is done under its name. It is kept for this tab only and forgotten when the tab is closed.",
  fields: [field("API key", h("input", { name: "key", type: "password", autocomplete: "off", required: true, spellcheck: "false" }), "genloop keys create --scope approver makes one that may all of this; it is shown once.")],
  action: "Use this key",
  submit: async ({ key: given }) => key.set(given),
}).then((given) => { asked = null; return Boolean(given); });
key.changed = () => { $("key-held").hidden = !key.held; };
$("key-forget").addEventListener("click", () => { key.set(null); open(false); });
key.changed();

// ---- colours ----

const THEMES = [["system", "As the system"], ["light", "Light"], ["dark", "Dark"]];
$("themes").append(...THEMES.map(([name, label]) => h("label", { title: label }, h("input", { type: "radio", name: "theme", value: name, checked: (document.documentElement.dataset.theme ?? "system") === name, onchange: () => {
  if (name === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
  try { name === "system" ? localStorage.removeItem("genloop.theme") : localStorage.setItem("genloop.theme", name); } catch { /* for this page's life only */ }
} }), icon(name), h("span", { class: "hidden" }, label))));

// ---- health ----

every(10000, new AbortController().signal, async () => {
  let state = "lost", text = "The gateway does not answer";
  try {
    const answer = await fetch("/readyz", { cache: "no-store" }), words = (await answer.text()).trim();
    [state, text] = answer.ok ? ["ready", "The gateway is ready"] : ["wait", `The gateway is ${words || "not ready"}`];
  } catch { /* as it stands */ }
  $("health").dataset.state = state;
  $("health-text").textContent = text;
});

open(false);
