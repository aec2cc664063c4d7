// Elements as expressions. Text is always text: nothing here, and nothing in the console, makes HTML from a string.

const SVG = "http://www.w3.org/2000/svg";

function put(node, child) {
  if (child === null || child === undefined || child === false) return;
  if (Array.isArray(child)) for (const one of child) put(node, one);
  else node.append(child instanceof Node ? child : String(child));
}

function set(node, name, value) {
  if (value === null || value === undefined || value === false) return;
  if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
  else if (name === "value" || name === "checked" || name === "disabled") node[name] = value;
  else node.setAttribute(name, value === true ? "" : value);
}

/** h("p", {class: "note", onclick: f}, "text", [more]) */
export function h(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) set(node, name, value);
  put(node, children);
  return node;
}

export function svg(tag, attributes, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes ?? {})) set(node, name, value);
  put(node, children);
  return node;
}

export function fill(node, ...children) {
  const made = document.createDocumentFragment();
  put(made, children);
  node.replaceChildren(made);
  return node;
}

// Drawn on 20 × 20, strokes of 1.6.
const ICONS = {
  chat: "M3.5 5.5a2 2 0 0 1 2-2h9a2 2 0 0 1 2 2v6a2 2 0 0 1-2 2H9l-4 3.2v-3.4a2 2 0 0 1-1.5-1.9zM7 7.2h6M7 10h4",
  models: "M10 2.8 17 6.3l-7 3.5-7-3.5zM3.2 10l6.8 3.4L16.800 10M3.2 13.700 10 17.100l6.800-3.400",
  jobs: "M2.800 3v12.500a1.500 1.500 0 0 0 1.500 1.500h13M5.800 5.500c1.200 5.500 3 7.500 11 8.200",
  datasets: "M3.500 5.200c0-3.200 13-3.200 13 0s-13 3.200-13 0v9.600c0 3.200 13 3.200 13 0V5.200M3.500 10c0 3.200 13 3.200 13 0",
  feedback: "M6.500 9 9.600 3.300c1.500 0 2.300 1 2 2.500L11.200 8h3.900a1.600 1.600 0 0 1 1.600 2l-1.300 5.200a2 2 0 0 1-1.900 1.500h-7zM3.300 9h3.200v7.700H3.300z",
  services: "M3.500 3.500h13v5h-13zM3.500 11.500h13v5h-13zM6.500 6h.010M6.500 14h.010M10 6h3.500M10 14h3.500",
  audit: "M10 2.500 16.500 5v4.800c0 3.700-2.600 6.500-6.500 7.700-3.900-1.200-6.500-4-6.500-7.700V5zM7.200 10l2 2 3.700-4",
  up: "M6.500 9 9.600 3.300c1.500 0 2.300 1 2 2.500L11.200 8h3.900a1.600 1.600 0 0 1 1.600 2l-1.300 5.200a2 2 0 0 1-1.900 1.500h-7zM3.300 9h3.200v7.700H3.300z",
  down: "M6.500 11l3.100 5.700c1.500 0 2.300-1 2-2.500L11.200 12h3.900a1.600 1.600 0 0 0 1.600-2l-1.300-5.200a2 2 0 0 0-1.900-1.500h-7zM3.300 11h3.200V3.300H3.300z",
  pen: "M12.700 4.300l3 3L7.200 15.800l-3.700.700.700-3.700zM11 6l3 3",
  copy: "M7 7h9.500v9.500H7zM13 7V3.500H3.500V13H7",
  check: "M4 10.500l4 4 8-9",
  cross: "M5 5l10 10M15 5 5 15",
  send: "M10 16.500v-13M4.500 9 10 3.500 15.500 9",
  stop: "M5.500 5.500h9v9h-9z",
  system: "M3 4h14v9.500H3zM7.500 17h5M10 13.500V17",
  light: "M10 6.500a3.500 3.500 0 1 0 0 7 3.500 3.500 0 0 0 0-7zM10 2v1.800M10 16.200V18M2 10h1.800M16.200 10H18M4.300 4.300l1.300 1.300M14.400 14.400l1.300 1.300M4.300 15.700l1.300-1.300M14.400 5.600l1.300-1.300",
  dark: "M16.500 11.800A7 7 0 0 1 8.200 3.500a7 7 0 1 0 8.300 8.300z",
  back: "M12 4.500 6.500 10l5.500 5.500",
};
export function icon(name) {
  return svg("svg", { viewBox: "0 0 20 20", class: "icon", "aria-hidden": "true" }, svg("path", { d: ICONS[name] }));
}

/** Runs f(signal) while the page is looked at: a page that lies in the background holds no stream open, of which a browser gives a host six over HTTP/1.1. */
export function while_shown(signal, f) {
  let run = null;
  const turn = () => {
    if (document.hidden || signal.aborted) run?.abort();
    else if (!run || run.signal.aborted) {
      run = new AbortController();
      f(run.signal);
    }
  };
  document.addEventListener("visibilitychange", turn, { signal });
  signal.addEventListener("abort", turn);
  turn();
}

/** Calls f now and every ms while the page is looked at, until the signal. One call at a time. */
export function every(ms, signal, f) {
  let timer = 0, running = false;
  const turn = async () => {
    if (signal.aborted || running) return;
    running = true;
    clearTimeout(timer);
    try { if (!document.hidden) await f(); } finally { running = false; }
    if (!signal.aborted) timer = setTimeout(turn, ms);
  };
  const shown = () => { if (!document.hidden) turn(); };
  document.addEventListener("visibilitychange", shown);
  signal.addEventListener("abort", () => { clearTimeout(timer); document.removeEventListener("visibilitychange", shown); });
  return turn();
}
