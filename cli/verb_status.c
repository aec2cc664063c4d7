/*
 * status: the platform at a glance, from two who know: the supervisor (processes: pid, restarts, memory; it knows also when the gateway is down) and the gateway (what the services tell it:
 * readiness, lag, load; models; jobs). Processes are matched with members by their pid.
 */
#include <curl/curl.h>
#include <limits.h>
#include <stdio.h>

#include "base/clock.h"
#include "cli.h"
#include "client.h"
#include "control.h"
#include "output.h"

enum { ANSWER_MAX = 64 << 20, CONNECT_MS = 1000, GATEWAY_MS = 5000, JOBS_SHOWN = 5, MODELS_SHOWN = 12, OUTPUT_MAX = 128 << 20 };

struct picture {
    struct json *platform, *gateway; /* owned; NULL where nobody answered */
    char url[256], home[PATH_MAX];
    struct error gateway_error, platform_error;
};

/* ---- asking ---- */

static size_t on_body(char *data, size_t size, size_t n, void *arg) { return buf_append(arg, data, size * n) == 0 ? size * n : 0; }

/* It is our home's gateway, and it asks for keys: its owner needs none. */
static int get_status_as_owner(struct picture *p, struct error *err) {
    static const struct client_request request = {.method = "GET", .path = "/v1/admin/status", .again = true};
    struct client *c;
    int r = client_open_home(p->home, &c, err);
    if (r < 0) return r;
    r = client_call(c, &request, &p->gateway, err);
    client_close(c);
    return r;
}

static int get_status(struct picture *p, struct error *err) {
    const char *key = getenv("GENLOOP_API_KEY");
    char address[320], authorization[1024];
    struct buf body;
    struct curl_slist *headers = NULL;
    long status = 0;
    CURL *curl = curl_easy_init();
    if (!curl) return error_set(err, E_NOMEM, "no memory for a request");
    buf_init(&body, ANSWER_MAX);
    (void)snprintf(address, sizeof address, "%s/v1/admin/status", p->url);
    if (key && *key) {
        (void)snprintf(authorization, sizeof authorization, "Authorization: Bearer %s", key);
        headers = curl_slist_append(headers, authorization);
    }
    (void)curl_easy_setopt(curl, CURLOPT_URL, address);
    (void)curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
    (void)curl_easy_setopt(curl, CURLOPT_NOPROXY, "127.0.0.1,localhost,::1");
    (void)curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    (void)curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT_MS, (long)CONNECT_MS);
    (void)curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, (long)GATEWAY_MS);
    (void)curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
    (void)curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_body);
    (void)curl_easy_setopt(curl, CURLOPT_WRITEDATA, &body);
    CURLcode code = curl_easy_perform(curl);
    (void)curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
    int r = 0;
    if (status == 401 && !(key && *key) && p->platform) r = get_status_as_owner(p, err);
    else if (code != CURLE_OK) r = error_set(err, E_UNAVAILABLE, "the gateway at %s does not answer: %s", p->url, curl_easy_strerror(code));
    else if (status != 200) r = error_set(err, E_UNAVAILABLE, "the gateway at %s answers with status %ld%s", p->url, status, status == 401 ? ": set GENLOOP_API_KEY" : "");
    else if (json_parse(buf_span(&body), &p->gateway, err) != 0) r = error_prefix(err, "what %s answered", p->url);
    curl_slist_free_all(headers);
    curl_easy_cleanup(curl);
    buf_fini(&body);
    return r;
}

static void ask(struct picture *p) {
    const char *url = getenv("GENLOOP_URL");
    struct span own;
    if (control_call(p->home, SPAN("{\"do\":\"status\"}"), NULL, NULL, &p->platform, &p->platform_error) != 0) p->platform = NULL;
    own = json_string(json_get(p->platform, "url"));
    if (url && *url) {
        span_copy(p->url, sizeof p->url, span_str(url));
        size_t n = strlen(p->url);
        if (n && p->url[n - 1] == '/') p->url[n - 1] = '\0';
        if (p->platform && !span_eq_str(own, p->url)) { /* another platform was asked for */
            json_free(p->platform);
            p->platform = NULL;
        }
    } else {
        span_copy(p->url, sizeof p->url, p->platform ? own : SPAN("http://127.0.0.1:8080"));
    }
    if (get_status(p, &p->gateway_error) != 0) p->gateway = NULL;
}

/* ---- merging ---- */

static const struct json *member_of(const struct picture *p, const struct json *process) {
    const struct json *members = json_get(p->gateway, "services");
    int64_t pid = json_int(json_get(process, "pid"), 0);
    for (size_t i = 0; pid && i < json_size(members); i++)
        if (json_int(json_get(json_at(members, i), "pid"), 0) == pid) return json_at(members, i);
    return NULL;
}

static bool supervised(const struct picture *p, const struct json *member) {
    const struct json *processes = json_get(p->platform, "processes");
    int64_t pid = json_int(json_get(member, "pid"), 0);
    for (size_t i = 0; i < json_size(processes); i++)
        if (json_int(json_get(json_at(processes, i), "pid"), 0) == pid) return true;
    return false;
}

/* Members that our supervisor has started under a pid that is no more are the past of one that it has: Redis and the gateway forget them within seconds. */
static bool foreign(const struct picture *p, const struct json *member) {
    if (!p->platform) return true;
    return !supervised(p, member) && span_find(json_string(json_get(member, "endpoint")), span_str(p->home)) < 0 && !span_empty(json_string(json_get(member, "endpoint")));
}

/* Calls for each service once: what the supervisor knows (or NULL), what the gateway knows (or NULL). */
static void each_service(const struct picture *p, void *arg, void (*on_service)(void *arg, const struct json *process, const struct json *member)) {
    const struct json *processes = json_get(p->platform, "processes"), *members = json_get(p->gateway, "services");
    for (size_t i = 0; i < json_size(processes); i++) on_service(arg, json_at(processes, i), member_of(p, json_at(processes, i)));
    for (size_t i = 0; i < json_size(members); i++)
        if (foreign(p, json_at(members, i))) on_service(arg, NULL, json_at(members, i));
}

static const struct json *first_of(const struct json *a, const struct json *b, const char *key) {
    const struct json *v = json_get(a, key);
    return json_is_null(v) ? json_get(b, key) : v;
}

/* ---- JSON ---- */

static void copy(struct json_out *w, const char *key, const struct json *v) {
    json_key(w, key);
    if (v) json_put_value(w, v);
    else json_put_null(w);
}

static void write_service(void *arg, const struct json *process, const struct json *member) {
    struct json_out *w = arg;
    json_object(w);
    json_key(w, "name");
    json_put_span(w, process ? json_string(json_get(process, "name")) : json_string(json_get(member, "id")));
    copy(w, "id", json_get(member, "id"));
    static const char *const both[] = {"service", "state", "pid", "admin", "resident_bytes", "started_time_ms", NULL};
    static const char *const of_process[] = {"restarts", "ready_after_ms", "last_end", "last_error", "log", NULL};
    static const char *const of_member[] = {"version", "endpoint", "heartbeat_time_ms", "lag_events", "load", NULL};
    for (const char *const *k = both; *k; k++) copy(w, *k, first_of(process, member, *k));
    for (const char *const *k = of_process; *k; k++) copy(w, *k, json_get(process, *k));
    for (const char *const *k = of_member; *k; k++) copy(w, *k, json_get(member, *k));
    json_object_end(w);
}

static void write_json(const struct picture *p, struct buf *out) {
    struct json_out w;
    json_begin(&w, out);
    json_object(&w);
    json_str(&w, "object", "status");
    json_key(&w, "state");
    if (p->platform) json_put_value(&w, json_get(p->platform, "state"));
    else json_put_str(&w, "running"); /* its gateway answers */
    json_str(&w, "url", p->url);
    json_str(&w, "home", p->platform ? p->home : NULL);
    json_key(&w, "supervisor");
    if (p->platform) {
        static const char *const keys[] = {"pid", "version", "resident_bytes", "started_time_ms", NULL};
        json_object(&w);
        for (const char *const *k = keys; *k; k++) copy(&w, *k, json_get(p->platform, *k));
        copy(&w, "replicas_wanted", json_get(p->platform, "replicas"));
        json_object_end(&w);
    } else {
        json_put_null(&w);
    }
    json_key(&w, "gateway");
    json_object(&w);
    json_flag(&w, "reachable", p->gateway != NULL);
    json_str(&w, "error", p->gateway ? NULL : p->gateway_error.message);
    json_object_end(&w);
    json_key(&w, "services");
    json_array(&w);
    each_service(p, &w, write_service);
    json_array_end(&w);
    static const char *const of_gateway[] = {"lag_events", "replicas", "models", "aliases", "jobs", NULL};
    for (const char *const *k = of_gateway; *k; k++) copy(&w, *k, json_get(p->gateway, *k));
    json_object_end(&w);
    (void)buf_append_char(out, '\n');
}

/* ---- for people ---- */

static struct span without(struct span name, const char *prefix) { return span_starts(name, span_str(prefix)) ? span_skip(name, strlen(prefix)) : name; }

/* "MODEL_STATE_ROLLED_BACK" → "rolled back" */
static void enum_cell(struct table *t, const struct json *v, const char *prefix) {
    char text[64];
    struct span name = without(json_string(v), prefix);
    span_copy(text, sizeof text, name);
    for (char *c = text; *c; c++) *c = *c == '_' ? ' ' : *c >= 'A' && *c <= 'Z' ? (char)(*c + 32) : *c;
    table_cell(t, "%s", text);
}

static void service_row(void *arg, const struct json *process, const struct json *member) {
    struct table *t = arg;
    char figure[FIGURE_MAX];
    int64_t started = json_int(first_of(process, member, "started_time_ms"), 0), pid = json_int(first_of(process, member, "pid"), 0);
    uint64_t bytes = (uint64_t)json_int(first_of(process, member, "resident_bytes"), 0);
    struct span admin = json_string(first_of(process, member, "admin")), end = json_string(json_get(process, "last_end"));
    table_span(t, process ? json_string(json_get(process, "name")) : json_string(json_get(member, "id")));
    table_span(t, json_string(first_of(process, member, "state")));
    if (pid) table_cell(t, "%lld", (long long)pid);
    else table_cell(t, "-");
    table_cell(t, "%s", started ? figure_ms(clock_wall_ms() - started, figure) : "-");
    if (process) table_cell(t, "%lld", (long long)json_int(json_get(process, "restarts"), 0));
    else table_cell(t, "-");
    table_cell(t, "%s", bytes ? figure_bytes(bytes, figure) : "-");
    if (member) table_cell(t, "%lld", (long long)json_int(json_get(member, "lag_events"), 0));
    else table_cell(t, "-");
    if (span_empty(admin)) table_cell(t, "-");
    else table_span(t, admin);
    table_span(t, end);
}

static void replica_row(void *arg, const struct json *process, const struct json *member) {
    struct table *t = arg;
    char figure[FIGURE_MAX];
    const struct json *load = json_get(member, "load"), *models = json_get(load, "models"), *loading = json_get(load, "loading"), *failed = json_get(load, "failed"), *asleep = json_get(load, "asleep");
    struct buf names;
    if (!span_eq_str(json_string(first_of(process, member, "service")), "inference")) return;
    buf_init(&names, 4096);
    for (size_t i = 0; i < json_size(models); i++) (void)buf_printf(&names, "%s%.*s", names.len ? " " : "", SPAN_ARG(json_string(json_at(models, i))));
    for (size_t i = 0; i < json_size(loading); i++) (void)buf_printf(&names, "%s%.*s (loading)", names.len ? " " : "", SPAN_ARG(json_string(json_at(loading, i))));
    for (size_t i = 0; i < json_size(asleep); i++) (void)buf_printf(&names, "%s%.*s (asleep)", names.len ? " " : "", SPAN_ARG(json_string(json_at(asleep, i))));
    for (size_t i = 0; i < json_size(failed); i++) (void)buf_printf(&names, "%s%.*s (failed)", names.len ? " " : "", SPAN_ARG(json_string(json_at(failed, i))));
    int64_t total = json_int(json_get(load, "kv_blocks_total"), 0), unused = json_int(json_get(load, "kv_blocks_free"), 0);
    table_span(t, process ? json_string(json_get(process, "name")) : json_string(json_get(member, "id")));
    table_cell(t, "%lld", (long long)json_int(json_get(load, "running"), 0));
    table_cell(t, "%lld", (long long)json_int(json_get(load, "queued"), 0));
    table_cell(t, "%s", figure_count(json_real(json_get(load, "tokens_per_second"), 0), figure));
    if (total) table_cell(t, "%.0f%%", 100.0 * (double)(total - unused) / (double)total);
    else table_cell(t, "-");
    if (names.len) table_span(t, buf_span(&names));
    else table_cell(t, "none");
    buf_fini(&names);
}

static void render(struct table *t, struct buf *out) {
    (void)buf_append_char(out, '\n');
    (void)table_render(t, out);
    table_fini(t);
}

static void models_table(const struct picture *p, struct buf *out) {
    const struct json *models = json_get(p->gateway, "models"), *aliases = json_get(p->gateway, "aliases");
    char figure[FIGURE_MAX];
    struct table t;
    size_t n = json_size(models), from = n > MODELS_SHOWN ? n - MODELS_SHOWN : 0;
    if (n == 0) {
        (void)buf_append_str(out, "\nno models yet: genloop ingest, then genloop train\n");
        return;
    }
    table_init(&t, "MODEL|STATE|ALIASES|>PARAMETERS|>SINCE");
    for (size_t i = from; i < n; i++) {
        const struct json *m = json_at(models, i);
        struct span name = json_string(json_get(m, "name"));
        int64_t version = json_int(json_get(m, "version"), 0);
        struct buf names;
        buf_init(&names, 1024);
        for (size_t k = 0; k < json_size(aliases); k++) {
            const struct json *a = json_at(aliases, k);
            if (!span_eq(json_string(json_get(a, "name")), name)) continue;
            if (json_int(json_get(a, "version"), 0) == version) (void)buf_printf(&names, "%s%.*s", names.len ? " " : "", SPAN_ARG(json_string(json_get(a, "alias"))));
            if (json_int(json_get(a, "canary_version"), 0) == version && json_int(json_get(a, "canary_percent"), 0) > 0)
                (void)buf_printf(&names, "%s%lld%% of %.*s", names.len ? " " : "", (long long)json_int(json_get(a, "canary_percent"), 0), SPAN_ARG(json_string(json_get(a, "alias"))));
        }
        table_cell(&t, "%.*s@%lld", SPAN_ARG(name), (long long)version);
        enum_cell(&t, json_get(m, "state"), "MODEL_STATE_");
        if (names.len) table_span(&t, buf_span(&names));
        else table_cell(&t, "-");
        table_cell(&t, "%s", figure_count((double)json_int(json_get(m, "parameters"), 0), figure));
        table_cell(&t, "%s", figure_ms(clock_wall_ms() - json_int(json_get(m, "event_time_ms"), clock_wall_ms()), figure));
        buf_fini(&names);
    }
    render(&t, out);
    if (from) (void)buf_printf(out, "and %zu older: genloop models list\n", from);
}

static void jobs_table(const struct picture *p, struct buf *out) {
    const struct json *answer = json_get(p->gateway, "jobs"), *jobs = json_get(answer, "jobs");
    char figure[FIGURE_MAX];
    struct table t;
    if (json_is_null(answer)) {
        (void)buf_append_str(out, "\njobs are not known: no trainer answers\n");
        return;
    }
    if (json_size(jobs) == 0) {
        (void)buf_append_str(out, "\nno jobs\n");
        return;
    }
    table_init(&t, "JOB|KIND|MODEL|STATE|>STEP|>SINCE|WHY");
    for (size_t i = 0; i < json_size(jobs) && i < JOBS_SHOWN; i++) {
        const struct json *j = json_at(jobs, i);
        int64_t steps = json_int(json_get(j, "steps"), 0);
        table_span(&t, json_string(json_get(j, "id")));
        enum_cell(&t, json_get(j, "kind"), "JOB_KIND_");
        table_span(&t, json_string(json_get(j, "model")));
        enum_cell(&t, json_get(j, "state"), "JOB_STATE_");
        if (steps) table_cell(&t, "%lld/%lld", (long long)json_int(json_get(j, "step"), 0), (long long)steps);
        else table_cell(&t, "-");
        table_cell(&t, "%s", figure_ms(clock_wall_ms() - json_int(json_get(j, "event_time_ms"), clock_wall_ms()), figure));
        table_span(&t, span_sub(json_string(json_get(j, "failure")), 0, 100));
    }
    render(&t, out);
    if (json_size(jobs) > JOBS_SHOWN) (void)buf_append_str(out, "older ones: genloop jobs list\n");
}

static void write_text(const struct picture *p, struct buf *out) {
    char figure[FIGURE_MAX];
    struct table t;
    if (p->platform) {
        (void)buf_printf(out, "genloop %.*s at %s, %.*s for %s, home %s\n", SPAN_ARG(json_string(json_get(p->platform, "version"))), p->url, SPAN_ARG(json_string(json_get(p->platform, "state"))),
                         figure_ms(clock_wall_ms() - json_int(json_get(p->platform, "started_time_ms"), clock_wall_ms()), figure), p->home);
    } else {
        (void)buf_printf(out, "genloop at %s\n", p->url);
    }
    table_init(&t, "SERVICE|STATE|>PID|>UP|>RESTARTS|>MEMORY|>LAG|ADMIN|LAST END");
    each_service(p, &t, service_row);
    render(&t, out);
    if (!p->gateway) {
        (void)buf_printf(out, "\n%s\nWithout it lag, models and jobs are not known.\n", p->gateway_error.message);
        return;
    }
    table_init(&t, "REPLICA|>RUNNING|>QUEUED|>TOKENS/S|>CACHE|MODELS");
    each_service(p, &t, replica_row);
    render(&t, out);
    models_table(p, out);
    jobs_table(p, out);
    (void)buf_printf(out, "\nlag: %lld events\n", (long long)json_int(json_get(p->gateway, "lag_events"), 0));
}

static int run_status(struct cli *c) {
    struct picture *p = &(struct picture){0};
    struct buf out;
    int code = cli_home(c, p->home, sizeof p->home);
    if (code != CLI_DONE) return code;
    ask(p);
    if (!p->platform && !p->gateway) {
        code = getenv("GENLOOP_URL") ? cli_fail(c, &p->gateway_error) : cli_failf(c, "%s; and %s", p->platform_error.message, p->gateway_error.message);
    } else {
        buf_init(&out, OUTPUT_MAX);
        if (cli_json(c)) write_json(p, &out);
        else write_text(p, &out);
        code = out.failed ? cli_failf(c, "no memory") : cli_print(c, buf_span(&out));
        buf_fini(&out);
    }
    json_free(p->platform);
    json_free(p->gateway);
    return code;
}

static const struct cli_option OPTIONS[] = {
    {.name = "--home", .kind = CLI_DIR, .value = "DIR", .doc = "The platform's home; otherwise $GENLOOP_HOME, then ~/.genloop"},
    {0},
};
const struct verb VERBS_STATUS[] = {
    {.name = "status", .operands = "", .summary = "Services, replicas, models, jobs and lag at a glance", .options = OPTIONS, .json = true, .run = run_status,
     .help = "Of the platform in the home, also while its gateway is down; of another where $GENLOOP_URL names its gateway. ADMIN is where a service answers /livez, /readyz and /metrics;\n"
             "LAG is how many events of the topics it has still to take in. Exit code 1 where nobody answers."},
    {0},
};
