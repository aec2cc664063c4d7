// Cards are Markdown that the platform wrote, partly from what people gave: it becomes elements one by one, and HTML in it stays text.
import { h } from "./dom.js";

function inline(text) {
  const out = [], pattern = /`([^`]+)`|\*\*([^*]+)\*\*|\*([^*\s][^*]*)\*|\[([^\]]+)\]\((https?:\/\/[^)\s]+)\)/g;
  let at = 0;
  for (const m of text.matchAll(pattern)) {
    if (m.index > at) out.push(text.slice(at, m.index));
    if (m[1]) out.push(h("code", {}, m[1]));
    else if (m[2]) out.push(h("strong", {}, m[2]));
    else if (m[3]) out.push(h("em", {}, m[3]));
    else out.push(h("a", { href: m[5], rel: "noreferrer noopener" }, m[4]));
    at = m.index + m[0].length;
  }
  if (at < text.length) out.push(text.slice(at));
  return out;
}

const cells = (line) => line.trim().replace(/^\||\|$/g, "").split("|").map((c) => c.trim());
const is_rule = (line) => /^\s*\|?\s*:?-{3,}/.test(line ?? "") && line.includes("|");

function md_table(lines, i) {
  const head = cells(lines[i]), rows = [];
  for (i += 2; i < lines.length && lines[i].includes("|"); i++) rows.push(cells(lines[i]));
  const numeric = head.map((_, k) => rows.length > 0 && rows.every((r) => !r[k] || /^[\d.,]+( ?[a-zA-Z%]{0,5})?$/.test(r[k])) && rows.some((r) => r[k]));
  const named = head.some((c) => c);
  const cell = (r, k) => (named || k ? h("td", { class: numeric[k] ? "num" : null }, inline(r[k] ?? "")) : h("th", { scope: "row" }, inline(r[k] ?? "")));
  const top = named && h("thead", {}, h("tr", {}, head.map((c, k) => h("th", { scope: "col", class: numeric[k] ? "num" : null }, inline(c)))));
  const body = h("tbody", {}, rows.map((r) => h("tr", {}, head.map((_, k) => cell(r, k)))));
  return [h("div", { class: "md-table", tabindex: "0", role: "group", "aria-label": named ? `Table: ${head.filter((c) => c).join(", ")}` : "Table" }, h("table", {}, top, body)), i];
}

/** Elements of a card; its title is left out, as the page has one, and its headings begin at level 3, as a panel's is 2. */
export function markdown(text) {
  const lines = text.replace(/^---\n[\s\S]*?\n---\n/, "").replace(/^\s*# .*\n/, "").split("\n"), out = [];
  let i = 0;
  while (i < lines.length) {
    const line = lines[i];
    let m;
    if (!line.trim()) i++;
    else if ((m = /^(`{3,}|~{3,})/.exec(line))) {
      const body = [];
      for (i++; i < lines.length && !lines[i].startsWith(m[1]); i++) body.push(lines[i]);
      i++;
      out.push(h("pre", { class: "block", tabindex: "0" }, body.join("\n")));
    } else if ((m = /^(#{1,6})\s+(.*)/.exec(line))) {
      out.push(h(`h${Math.min(6, m[1].length + 1)}`, {}, inline(m[2])));
      i++;
    } else if (line.includes("|") && is_rule(lines[i + 1])) {
      const [made, next] = md_table(lines, i);
      out.push(made);
      i = next;
    } else if ((m = /^\s*([-*]|\d+\.)\s+/.exec(line))) {
      const ordered = /\d/.test(m[1]), items = [];
      for (; i < lines.length && (m = /^\s*(?:[-*]|\d+\.)\s+(.*)/.exec(lines[i])); i++) items.push(h("li", {}, inline(m[1])));
      out.push(h(ordered ? "ol" : "ul", {}, items));
    } else {
      const body = [];
      for (; i < lines.length && lines[i].trim() && !/^(#{1,6}\s|`{3}|\s*[-*]\s)/.test(lines[i]) && !(lines[i].includes("|") && is_rule(lines[i + 1])); i++) body.push(lines[i].trim());
      if (body.length === 0) body.push(lines[i++]);
      out.push(h("p", {}, inline(body.join(" "))));
    }
  }
  return h("div", { class: "md" }, out);
}
