#include "remote.h"

#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"

enum { BODY_MAX = 8 << 20, SHOWN_MAX = 256, SHOWN_COUNT = 8, LABEL_WIDTH = 14, SETTLE_MS = 30000, SETTLE_STEP_MS = 150 };

static void remote_init(struct remote *x, struct cli *c) {
    *x = (struct remote){.cli = c};
    buf_init(&x->out, REMOTE_OUT_MAX);
    buf_init(&x->path, REMOTE_PATH_MAX);
    buf_init(&x->body, BODY_MAX);
    json_begin(&x->json, &x->out);
}

int remote_open(struct remote *x, struct cli *c) {
    remote_init(x, c);
    return client_open(&x->client, &x->err);
}

int remote_open_home(struct remote *x, struct cli *c, const char *home) {
    remote_init(x, c);
    return client_open_home(home, &x->client, &x->err);
}

int remote_close(struct remote *x, int r) {
    int code = CLI_DONE;
    if (r >= 0 && x->out.failed) r = error_set(&x->err, x->out.failed, "the output is too large to be held");
    if (x->out.len) {
        if (buf_span(&x->out).data[x->out.len - 1] != '\n') (void)buf_append_char(&x->out, '\n');
        code = cli_print(x->cli, buf_span(&x->out));
    }
    if (r < 0) code = cli_fail(x->cli, &x->err);
    client_close(x->client);
    json_free(x->answer);
    buf_fini(&x->out);
    buf_fini(&x->path);
    buf_fini(&x->body);
    return code;
}

/* ---- asking ---- */

void remote_path(struct remote *x, const char *literal) {
    buf_clear(&x->path);
    buf_clear(&x->body);
    (void)buf_append_str(&x->path, literal);
}

void remote_add(struct remote *x, const char *literal, const char *encoded) {
    (void)buf_append_str(&x->path, literal);
    client_encode(&x->path, span_str(encoded));
}

void remote_query(struct remote *x, const char *name, const char *value) {
    (void)buf_append_char(&x->path, span_find_char(buf_span(&x->path), '?') < 0 ? '?' : '&');
    (void)buf_printf(&x->path, "%s=", name);
    client_encode(&x->path, span_str(value));
}

struct json_out remote_body(struct remote *x) {
    struct json_out w;
    buf_clear(&x->body);
    json_begin(&w, &x->body);
    json_object(&w);
    return w;
}

static int make_request(struct remote *x, const char *method, bool again, struct client_request *q) {
    const char *path = x->path.failed ? NULL : buf_cstr(&x->path);
    if (!path) return error_set(&x->err, E_INVALID, "a name is too long for a request");
    if (x->body.failed) return error_set(&x->err, E_TOO_LARGE, "the request has more than %d MiB", BODY_MAX >> 20);
    *q = (struct client_request){.method = method, .path = path, .body = buf_span(&x->body), .again = again || strcmp(method, "GET") == 0};
    return 0;
}

int remote_call(struct remote *x, const char *method, bool again) {
    struct client_request q;
    int r = make_request(x, method, again, &q);
    json_free(x->answer);
    x->answer = NULL;
    return r == 0 ? client_call(x->client, &q, &x->answer, &x->err) : r;
}

int remote_get(struct remote *x) { return remote_call(x, "GET", true); }

int remote_stream(struct remote *x, const char *method, void *arg, int (*on_event)(void *arg, const struct json *event)) {
    struct client_request q;
    int r = make_request(x, method, true, &q);
    return r == 0 ? client_stream(x->client, &q, arg, on_event, &x->err) : r;
}

int remote_each(struct remote *x, const char *field, void *arg, int (*on_item)(void *arg, const struct json *item)) {
    char token[1024] = "", base[REMOTE_PATH_MAX];
    span_copy(base, sizeof base, buf_span(&x->path));
    do {
        remote_path(x, base);
        if (token[0]) remote_query(x, "page_token", token);
        int r = remote_get(x);
        if (r < 0) return r;
        const struct json *items = json_get(x->answer, field);
        struct span next = json_string(json_get(x->answer, "next_page_token"));
        if (next.len >= sizeof token || (next.len && span_eq_str(next, token))) return error_set(&x->err, E_UNKNOWN, "the gateway's pages lead nowhere");
        span_copy(token, sizeof token, next);
        for (size_t i = 0; i < json_size(items); i++) {
            r = on_item(arg, json_at(items, i));
            if (r != 0) return r == CLIENT_STREAM_DONE ? 0 : r;
        }
    } while (token[0]);
    return 0;
}

/* ---- showing ---- */

static char *next_text(void) {
    static char texts[SHOWN_COUNT][SHOWN_MAX];
    static unsigned at;
    return texts[at++ % SHOWN_COUNT];
}

const char *shown_enum(const struct json *v, const char *prefix) {
    struct span s = json_string(v);
    char *out = next_text();
    if (span_starts(s, span_str(prefix))) s = span_skip(s, strlen(prefix));
    span_copy(out, FIGURE_MAX, s);
    for (char *p = out; *p; p++) *p = *p == '_' ? ' ' : *p >= 'A' && *p <= 'Z' ? (char)(*p - 'A' + 'a') : *p;
    return out;
}

const char *shown_text(const struct json *v) {
    struct span s = json_string(v);
    if (s.len == 0) return "-";
    char *out = span_copy(next_text(), SHOWN_MAX, s);
    out[span_utf8_complete(span_str(out))] = '\0';
    return out;
}

static const char *shown_ms(int64_t at) {
    char *out = next_text();
    if (at <= 0) return "-";
    (void)time_format(at, out);
    out[10] = ' ';
    out[19] = '\0';
    return out;
}

const char *shown_time(const struct json *ms) { return shown_ms(json_int(ms, 0)); }
const char *shown_seconds(const struct json *s) { return shown_ms(json_int(s, 0) * 1000); }

const char *shown_name(const struct json *object) {
    char *out = next_text();
    (void)snprintf(out, SHOWN_MAX, "%.*s@%lld", SPAN_ARG(span_sub(json_string(json_get(object, "name")), 0, 200)), (long long)json_int(json_get(object, "version"), 0));
    return out;
}

void shown_line(struct buf *out, const char *label, const char *text) {
    if (!*text || strcmp(text, "-") == 0) return;
    (void)buf_printf(out, "%-*s %s\n", LABEL_WIDTH, label, text);
}

void shown_evaluation(struct buf *out, const struct json *evaluation) {
    const struct json *gates = json_get(evaluation, "gates"), *figures = json_get(evaluation, "figures");
    struct table t;
    (void)buf_printf(out, "evaluation %s of %s%s%s, %s: %s\n", shown_text(json_get(evaluation, "id")), shown_text(json_get(evaluation, "candidate")),
                     json_string(json_get(evaluation, "baseline")).len ? " against " : "", json_string(json_get(evaluation, "baseline")).len ? shown_text(json_get(evaluation, "baseline")) : "",
                     shown_time(json_get(evaluation, "event_time_ms")),
                     !json_bool(json_get(evaluation, "judged"), false) ? "not judged yet" : json_bool(json_get(evaluation, "passed"), false) ? "every gate passed" : "NOT passed");
    if (json_size(gates)) {
        table_init(&t, "  GATE|PASSED|>VALUE|>LOW|>HIGH|>MARGIN|RULE");
        for (size_t i = 0; i < json_size(gates); i++) {
            const struct json *g = json_at(gates, i);
            table_cell(&t, "  %s", shown_text(json_get(g, "gate")));
            table_cell(&t, "%s", json_bool(json_get(g, "passed"), false) ? "yes" : "NO");
            table_cell(&t, "%.4g", json_real(json_get(g, "value"), 0));
            table_cell(&t, "%.4g", json_real(json_get(g, "low"), 0));
            table_cell(&t, "%.4g", json_real(json_get(g, "high"), 0));
            table_cell(&t, "%+.4g", json_real(json_get(g, "margin"), 0));
            table_span(&t, json_string(json_get(g, "rule")));
        }
        (void)table_render(&t, out);
        table_fini(&t);
    }
    if (json_size(figures)) {
        table_init(&t, "  FIGURE|>VALUE|>LOW|>HIGH|>SAMPLES");
        for (size_t i = 0; i < json_size(figures); i++) {
            const struct json *f = json_at(figures, i);
            table_cell(&t, "  %s", shown_text(json_get(f, "name")));
            table_cell(&t, "%.5g", json_real(json_get(f, "value"), 0));
            table_cell(&t, "%.5g", json_real(json_get(f, "low"), 0));
            table_cell(&t, "%.5g", json_real(json_get(f, "high"), 0));
            table_cell(&t, "%lld", (long long)json_int(json_get(f, "samples"), 0));
        }
        (void)table_render(&t, out);
        table_fini(&t);
    }
}

/* ---- jobs ---- */

struct watching {
    struct remote *x;
    struct progress bar;
    struct buf job; /* the last state, as JSON */
    bool ended, begun, measures; /* measures: it is an evaluation */
    int64_t steps;
};

static bool job_has_ended(const struct json *job) {
    struct span s = json_string(json_get(job, "state"));
    return span_eq_str(s, "JOB_STATE_SUCCEEDED") || span_eq_str(s, "JOB_STATE_FAILED") || span_eq_str(s, "JOB_STATE_CANCELLED");
}

static void show_progress(struct watching *w, const struct json *p) {
    char note[80] = "", rate[FIGURE_MAX];
    int64_t step = json_int(json_get(p, "step"), 0), steps = json_int(json_get(p, "steps"), 0);
    double loss = json_real(json_get(p, "loss"), 0), tokens = json_real(json_get(p, "tokens_per_second"), 0);
    struct span phase = json_string(json_get(p, "phase"));
    size_t n = 0;
    if (!w->begun && steps > 0) progress_begin(&w->bar, w->measures ? "measured" : "step", (uint64_t)steps, "");
    w->begun |= steps > 0;
    if (steps != w->steps && steps > 0) progress_total(&w->bar, (uint64_t)steps);
    if (steps > 0) w->steps = steps;
    if (loss > 0) n += (size_t)snprintf(note, sizeof note, "loss %.4f", loss);
    if (tokens > 0) n += (size_t)snprintf(note + n, sizeof note - n, "%s%s tokens/s", n ? ", " : "", figure_count(tokens, rate));
    if (phase.len && !span_eq_str(phase, "train")) (void)snprintf(note + n, sizeof note - n, "%s%.*s", n ? ", " : "", (int)(phase.len < 20 ? phase.len : 20), phase.data);
    if (w->begun && step > 0) progress_set(&w->bar, (uint64_t)step, note);
}

static int on_job_event(void *arg, const struct json *event) {
    struct watching *w = arg;
    const struct json *job = json_get(event, "job"), *progress = json_get(event, "progress");
    if (!json_is_null(progress)) show_progress(w, progress);
    if (json_is_null(job)) return 0;
    w->measures = span_eq_str(json_string(json_get(job, "kind")), "JOB_KIND_EVALUATE");
    buf_clear(&w->job);
    if (json_write(&w->job, job) < 0) return error_set(&w->x->err, E_NOMEM, "no memory for a job");
    if (job_has_ended(job)) {
        w->ended = true;
        return CLIENT_STREAM_DONE;
    }
    return 0;
}

int remote_watch_job(struct remote *x, const char *id, struct json **job) {
    struct watching w = {.x = x};
    struct json *last = NULL;
    int r = 0;
    buf_init(&w.job, 4 << 20);
    while (r == 0 && !w.ended) { /* a trainer that leaves ends the stream; the job goes on at the next one */
        remote_path(x, "/v1/admin/jobs/");
        remote_add(x, "", id);
        (void)buf_append_str(&x->path, "/watch");
        r = remote_stream(x, "GET", &w, on_job_event);
    }
    if (r == 0) r = json_parse(buf_span(&w.job), &last, &x->err);
    struct span state = json_string(json_get(last, "state"));
    bool good = span_eq_str(state, "JOB_STATE_SUCCEEDED");
    if (r == 0 && good && w.begun) progress_set(&w.bar, (uint64_t)w.steps, "");
    progress_end(&w.bar, r == 0 && good);
    if (r == 0 && !good) {
        struct span why = json_string(json_get(last, "failure"));
        r = error_set(&x->err, E_STATE, "job %s %s%s%.*s", id, span_eq_str(state, "JOB_STATE_FAILED") ? "failed" : "was cancelled", why.len ? ": " : "", SPAN_ARG(why));
    }
    buf_fini(&w.job);
    if (last && job) *job = last;
    else json_free(last);
    return r;
}

void shown_job(struct buf *out, const struct json *job) {
    const struct json *figures = json_get(job, "figures"), *spec = json_get(job, "evaluate");
    char text[512];
    shown_line(out, "job", shown_text(json_get(job, "id")));
    shown_line(out, "kind", shown_enum(json_get(job, "kind"), "JOB_KIND_"));
    shown_line(out, "state", shown_enum(json_get(job, "state"), "JOB_STATE_"));
    if (json_int(json_get(job, "steps"), 0)) {
        (void)snprintf(text, sizeof text, "%lld of %lld", (long long)json_int(json_get(job, "step"), 0), (long long)json_int(json_get(job, "steps"), 0));
        shown_line(out, "step", text);
    }
    shown_line(out, "model", shown_text(json_get(job, "model")));
    shown_line(out, "base", shown_text(json_get(job, "base_model")));
    shown_line(out, "dataset", shown_text(json_get(job, "dataset")));
    if (!json_is_null(spec)) shown_line(out, "baseline", shown_text(json_get(spec, "baseline")));
    if (!json_is_null(spec)) shown_line(out, "measured on", shown_text(json_get(spec, "held_out")));
    shown_line(out, "asked by", shown_text(json_get(json_get(job, "actor"), "id")));
    shown_line(out, "reason", shown_text(json_get(job, "reason")));
    shown_line(out, "created", shown_time(json_get(job, "created_time_ms")));
    shown_line(out, "started", shown_time(json_get(job, "started_time_ms")));
    shown_line(out, "finished", shown_time(json_get(job, "finished_time_ms")));
    (void)snprintf(text, sizeof text, "%lld", (long long)json_int(json_get(job, "attempts"), 0));
    if (json_int(json_get(job, "attempts"), 0) > 1) shown_line(out, "attempts", text);
    shown_line(out, "failure", shown_text(json_get(job, "failure")));
    for (size_t i = 0; i < json_size(figures); i++) {
        const struct json *f = json_at(figures, i);
        (void)snprintf(text, sizeof text, "%.6g", json_real(json_get(f, "value"), 0));
        shown_line(out, shown_text(json_get(f, "name")), text);
    }
}

static void settle(void) {
    struct timespec step = {0, SETTLE_STEP_MS * 1000000L};
    (void)nanosleep(&step, NULL);
}

struct search {
    const char *job_id;
    char *found;
};

static int look_for_job(void *arg, const struct json *version) {
    struct search *s = arg;
    if (!span_eq_str(json_string(json_get(json_get(version, "lineage"), "job_id")), s->job_id)) return 0;
    (void)snprintf(s->found, SHOWN_MAX, "%s", shown_name(version));
    return CLIENT_STREAM_DONE;
}

int remote_version_of_job(struct remote *x, const char *job_id, char out[256]) {
    struct search s = {job_id, out};
    int64_t until = clock_mono_ms() + SETTLE_MS;
    out[0] = '\0';
    for (;;) {
        remote_path(x, "/v1/admin/models?limit=1000");
        int r = remote_each(x, "versions", &s, look_for_job);
        if (r < 0 || out[0]) return r;
        if (clock_mono_ms() > until) return error_set(&x->err, E_NOT_FOUND, "job %s is done, but the registry has no version of it yet: genloop models list", job_id);
        settle();
    }
}

int remote_judged(struct remote *x, const char *model, const char *id, struct json **evaluation) {
    int64_t until = clock_mono_ms() + SETTLE_MS;
    for (;;) {
        remote_path(x, "/v1/admin/models/");
        remote_add(x, "", model);
        int r = remote_get(x);
        if (r < 0) return r;
        const struct json *all = json_get(x->answer, "evaluations");
        for (size_t i = 0; i < json_size(all); i++) {
            const struct json *e = json_at(all, i);
            struct buf copy;
            if (!span_eq_str(json_string(json_get(e, "id")), id) || !json_bool(json_get(e, "judged"), false)) continue;
            buf_init(&copy, 4 << 20);
            r = json_write(&copy, e) < 0 ? error_set(&x->err, E_NOMEM, "no memory for an evaluation") : json_parse(buf_span(&copy), evaluation, &x->err);
            buf_fini(&copy);
            return r;
        }
        if (clock_mono_ms() > until) return error_set(&x->err, E_DEADLINE, "%s is measured, but not judged yet: genloop models show %s", model, model);
        settle();
    }
}
