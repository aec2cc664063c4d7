// The curve of a job's loss, as it comes: thin what was measured, thick its moving average. Drawn as SVG at the size that it has; at most a point for each half pixel, so that a long job costs no more than a short one.
import { fill, h, svg } from "./dom.js";
import { count, figure } from "./format.js";

const LEFT = 46, RIGHT = 10, TOP = 10, BOTTOM = 26, HEIGHT = 260, FEW = 40; // so few points are no cloud: the line goes through them

/** About n round numbers from least to most. */
function ticks(least, most, n) {
  const raw = (most - least) / n || 1, power = 10 ** Math.floor(Math.log10(raw)), step = [1, 2, 2.5, 5, 10].find((k) => k * power >= raw) * power, out = [];
  for (let v = Math.ceil(least / step) * step; v <= most + step * 1e-9; v += step) out.push(Math.abs(v) < step * 1e-9 ? 0 : v);
  return out;
}

/** {node, add(step, loss), steps(n), empty}: points come in the order of their steps; a step that comes again (the job went on from a checkpoint) takes the place of those from it on. */
export function loss_chart() {
  const points = [];
  let last_step = 0, width = 0, drawn = false, at = -1;
  const area = svg("svg", { class: "chart", role: "img", "aria-label": "Loss by step: no steps yet", height: HEIGHT });
  const readout = h("p", { class: "readout", "aria-live": "off" }, "\u00a0");
  const node = h("div", { class: "chart-box" }, area, readout);

  const reach = () => Math.max(points.length ? points.at(-1).step : last_step, 2);
  const smooth = () => {
    const keep = points.length < FEW ? 0 : 1 - 20 / points.length;
    let mean = points[0]?.loss ?? 0;
    return points.map((p, i) => ({ step: p.step, loss: (mean += (1 - Math.min(keep, i / (i + 4))) * (p.loss - mean)) })); // quick at first, where the loss falls fastest
  };

  function draw() {
    drawn = false;
    width = Math.max(240, node.clientWidth);
    area.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    area.setAttribute("width", width);
    area.dataset.points = points.length;
    const right = width - RIGHT, bottom = HEIGHT - BOTTOM, steps = reach(); // as far as it has come: of a long job one sees its beginning, not a line at the edge
    const losses = points.map((p) => p.loss), most = points.length ? Math.max(...losses) : 1, least = points.length ? Math.min(...losses) : 0, room = (most - least) * 0.06 || 0.5;
    const low = Math.max(0, least - room), high = most + room;
    const x = (s) => LEFT + ((right - LEFT) * (s - 1)) / (steps - 1 || 1), y = (v) => bottom - ((bottom - TOP) * (v - low)) / (high - low);
    const line = (list) => {
      const every = Math.max(1, Math.floor(list.length / (2 * (right - LEFT))));
      return list.filter((_, i) => i % every === 0 || i === list.length - 1).map((p, i) => `${i ? "L" : "M"}${x(p.step).toFixed(1)} ${y(p.loss).toFixed(1)}`).join("");
    };
    const shown = at >= 0 ? points[Math.min(at, points.length - 1)] : null;
    fill(area,
      ticks(low, high, 5).map((v) => [svg("line", { class: "grid", x1: LEFT, x2: right, y1: y(v), y2: y(v) }), svg("text", { class: "tick", x: LEFT - 8, y: y(v) + 4, "text-anchor": "end" }, figure(v))]),
      ticks(1, steps, width < 480 ? 3 : 6).filter((s) => s >= 1).map((s) => svg("text", { class: "tick", x: x(s), y: HEIGHT - 6, "text-anchor": s === steps && x(s) > right - 20 ? "end" : "middle" }, count(s))),
      points.length >= FEW && svg("path", { class: "raw", d: line(points) }),
      points.length > 1 && svg("path", { class: "mean", d: line(smooth()) }),
      points.length === 1 && svg("circle", { class: "spot", cx: x(points[0].step), cy: y(points[0].loss), r: 3 }),
      !points.length && svg("text", { class: "tick", x: (LEFT + right) / 2, y: HEIGHT / 2, "text-anchor": "middle" }, "Steps are drawn here as they come"),
      shown && [svg("line", { class: "cross", x1: x(shown.step), x2: x(shown.step), y1: TOP, y2: bottom }), svg("circle", { class: "spot", cx: x(shown.step), cy: y(shown.loss), r: 4 })]);
    const last = points.at(-1);
    area.setAttribute("aria-label", last ? `Loss by step: ${figure(points[0].loss)} at step ${count(points[0].step)}, ${figure(last.loss)} at step ${count(last.step)} of ${count(Math.max(last_step, last.step))}` : "Loss by step: no steps yet");
    const told = shown ?? last;
    readout.textContent = told ? `step ${count(told.step)} · loss ${figure(told.loss)}` : "\u00a0";
  }
  const later = () => {
    if (drawn) return;
    drawn = true;
    requestAnimationFrame(draw);
  };
  area.addEventListener("pointermove", (event) => {
    if (!points.length) return;
    const box = area.getBoundingClientRect(), steps = reach(), step = 1 + ((event.clientX - box.left - LEFT) / (width - LEFT - RIGHT)) * (steps - 1);
    at = points.reduce((best, p, i) => (Math.abs(p.step - step) < Math.abs(points[best].step - step) ? i : best), 0);
    later();
  });
  area.addEventListener("pointerleave", () => { at = -1; later(); });
  new ResizeObserver(later).observe(node);
  return {
    node,
    get empty() { return points.length === 0; },
    add(step, loss) {
      while (points.length && points.at(-1).step >= step) points.pop();
      points.push({ step, loss });
      later();
    },
    steps(n) {
      last_step = n;
      later();
    },
  };
}
