// Jobs, and of one job the curve of its loss while it runs.
import { events, Failure, json, post } from "./api.js";
import { every, fill, h, while_shown } from "./dom.js";
import { bytes, count, duration, figure, short, time, word } from "./format.js";
import { badge, crumb, digest, empty, facts, failed, heading, meter, note, panel, question, say, show, table } from "./widgets.js";
import { loss_chart } from "./chart.js";
import { actor, dataset_link, model_link } from "./models.js";

const figure_of = (job, name) => job.figures?.find((f) => f.name === name)?.value;
const ended = (job) => ["JOB_STATE_SUCCEEDED", "JOB_STATE_FAILED", "JOB_STATE_CANCELLED"].includes(job.state);
const took = (job) => (job.started_time_ms ? (job.finished_time_ms || Date.now()) - job.started_time_ms : NaN);
const link = (id) => h("a", { href: `#/jobs/${encodeURIComponent(id)}` }, id);

function list(main, signal) {
  const body = h("div", {});
  let most = 100;
  fill(main, heading("Jobs", "Training and evaluation, newest first."), body);
  const draw = () => show(body, signal, async () => {
    const page = await json(`/v1/admin/jobs?limit=${most}`, { signal });
    if (!page.jobs.length) return empty("No job yet", "A job trains a model on a dataset, or measures one for the gates. Make a dataset first, then:", ["genloop train --dataset NAME --recipe pretrain-small --name MODEL"]);
    return [table("Jobs", [
      { name: "Job", class: "main", cell: (j) => link(j.id) },
      { name: "State", cell: (j) => badge(j.state) },
      { name: "Kind", cell: (j) => word(j.kind) },
      { name: "Model", cell: (j) => (j.model.includes("@") ? model_link(j.model) : j.model) },
      { name: "Steps", class: "progress", cell: (j) => (j.steps ? [meter(j.step / j.steps, `${count(j.step)} of ${count(j.steps)} steps`), h("span", { class: "muted" }, `${count(j.step)} / ${count(j.steps)}`)] : "–") },
      { name: "Loss", class: "num", cell: (j) => figure(figure_of(j, "loss") ?? NaN) },
      { name: "Took", class: "num", cell: (j) => (ended(j) ? duration(took(j)) : "–") },
      { name: "Asked", cell: (j) => time(j.created_time_ms) },
    ], page.jobs), page.next_page_token && h("p", {}, h("button", { type: "button", class: "button", onclick: () => { most += 200; draw(); } }, "Show more"))];
  });
  every(3000, signal, draw);
}

const WISHES = {
  pause: ["Pause", (j) => ["JOB_STATE_QUEUED", "JOB_STATE_RUNNING"].includes(j.state) && j.kind === "JOB_KIND_TRAIN" && j.wish === "JOB_WISH_RUN"],
  resume: ["Resume", (j) => j.state === "JOB_STATE_PAUSED" || (!ended(j) && j.wish === "JOB_WISH_PAUSE")],
  cancel: ["Cancel", (j) => !ended(j) && j.wish !== "JOB_WISH_CANCEL"],
};

function detail(main, id, signal) {
  const head = h("div", {}), about = h("div", {}), trouble = h("div", {}), chart = loss_chart(), shown = {};
  const figures = h("dl", { class: "figures" }, [["step", "Step"], ["loss", "Loss"], ["rate", "Speed"], ["lr", "Learning rate"], ["norm", "Gradient norm"], ["left", "Left"]].map(([name, label]) => h("div", {}, h("dt", {}, label), shown[name] = h("dd", {}, "–"))));
  const curve = h("section", { class: "panel", "aria-labelledby": "p-loss" }, h("h2", { id: "p-loss" }, "Loss"), figures, chart.node);
  let job = null, was = null, first = null, phase = "";

  const wish = async (name) => {
    if (name === "cancel" && !(await question({ title: `Cancel ${id}?`, text: "What it has learnt is thrown away; this cannot be undone. A job that is paused goes on later.", fields: [], action: "Cancel the job", danger: true, submit: () => post(`/v1/admin/jobs/${encodeURIComponent(id)}/cancel`) }))) return;
    try {
      if (name !== "cancel") job = await post(`/v1/admin/jobs/${encodeURIComponent(id)}/${name}`);
      note(`Asked: ${name}`);
      draw();
    } catch (why) {
      note(`${why.message} ${why.remedy ?? ""}`, "bad");
    }
  };

  function draw() {
    const j = job;
    if (was !== null && was !== j.state) say(`The job is ${word(j.state)}`);
    was = j.state;
    fill(head, h("div", { class: "heading" }, h("div", {}, h("h1", { tabindex: "-1" }, j.id), h("p", { class: "lead" }, badge(j.state), h("span", {}, `${word(j.kind)} of `, j.model.includes("@") ? model_link(j.model) : j.model), j.wish !== "JOB_WISH_RUN" && !ended(j) && h("span", { class: "muted" }, `asked to ${word(j.wish)}`),
      !ended(j) && phase && h("span", { class: "muted" }, phase))), h("div", { class: "actions" }, Object.entries(WISHES).filter(([, [, may]]) => may(j)).map(([name, [label]]) => h("button", { type: "button", class: `button ${name === "cancel" ? "danger-quiet" : ""}`, "data-move": name, onclick: () => wish(name) }, label)))));
    curve.hidden = j.kind !== "JOB_KIND_TRAIN";
    chart.steps(j.steps);
    fill(about, j.failure && h("div", { class: "failure" }, h("p", { class: "failure-what" }, j.failure), h("p", {}, "The log of the trainer says more: ", h("code", {}, "genloop logs trainer"), ".")),
      panel("About", facts([
        ["Asked", [time(j.created_time_ms), " by ", actor(j.actor), j.reason && `: ${j.reason}`]], ["Began", j.started_time_ms > 0 && time(j.started_time_ms)], ["Ended", j.finished_time_ms > 0 && time(j.finished_time_ms)],
        ["Took", Number.isFinite(took(j)) && ended(j) && duration(took(j))], ["Attempts", j.attempts > 1 && count(j.attempts)], ["Base", j.base_model && model_link(j.base_model)], ["Dataset", j.dataset && dataset_link(j.dataset)],
        ["Candidate", j.evaluate?.candidate && model_link(j.evaluate.candidate)], ["Baseline", j.evaluate?.baseline && model_link(j.evaluate.baseline)],
        ...(j.figures ?? []).map((f) => f.name === "seconds" ? ["Training alone", duration(1000 * f.value)] : [f.name.replaceAll("_", " "), figure(f.value)]),
        ["Output", j.output && [digest(j.output.sha256), ` ${bytes(j.output.size_bytes)}`]],
      ])),
      j.recipe && panel("Recipe", h("pre", { class: "block", tabindex: "0" }, j.recipe)));
  }

  const put = (name, value) => { shown[name].textContent = value; };
  function step(p) {
    if (p.phase !== phase) {
      phase = p.phase;
      if (job && !ended(job)) draw();
    }
    if (p.phase !== "train" || !Number.isFinite(p.loss)) return;
    chart.steps(p.steps);
    chart.add(p.step, p.loss);
    put("step", `${count(p.step)} / ${count(p.steps)}`);
    put("loss", figure(p.loss));
    put("rate", `${short(p.tokens_per_second)} tokens/s`);
    put("lr", figure(p.learning_rate));
    put("norm", figure(p.grad_norm));
    first ??= p;
    const pace = (p.event_time_ms - first.event_time_ms) / (p.step - first.step);
    put("left", p.step >= p.steps ? duration(0) : Number.isFinite(pace) ? duration(pace * (p.steps - p.step)) : "–");
  }

  fill(main, crumb("#/jobs", "Jobs"), head, trouble, curve, about);
  curve.hidden = true;
  let from = 0, over = false;
  const watch = async (shown_signal) => { // from the first step; a stream that breaks off begins again where it was
    for (let rest = 500; !shown_signal.aborted && !over; rest = Math.min(15000, 2 * rest)) {
      try {
        await events(`/v1/admin/jobs/${encodeURIComponent(id)}/watch${from ? `?from_step=${from}` : ""}`, { signal: shown_signal, on_event: (event) => {
          rest = 500;
          fill(trouble);
          if (event.job) {
            job = event.job;
            draw();
          }
          if (event.progress) {
            step(event.progress);
            from = event.progress.step;
          }
        } });
        if (job && ended(job)) {
          put("left", "–");
          over = true;
          return;
        }
      } catch (why) {
        if (shown_signal.aborted) return;
        const known = why instanceof Failure ? why : new Failure(0, null, "The stream broke off.");
        fill(trouble, failed(known, known.status === 404 ? null : () => watch(shown_signal)));
        if (known.status > 0 && known.status < 500) {
          if (!job) fill(head, heading(id));
          return;
        }
      }
      await new Promise((done) => setTimeout(done, rest));
    }
  };
  fill(head, heading(id, "\u00a0"));
  while_shown(signal, watch);
}

export function open(main, name, signal) {
  if (name) detail(main, name, signal);
  else list(main, signal);
}
