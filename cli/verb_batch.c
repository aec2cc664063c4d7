/*
 * batch: requests from a file, answered when there is nothing more urgent to do (/v1/batches). `batch run` is the whole way: the file goes up, the batch is made and waited for, and its
 * answers come down.
 */
#include <stdio.h>
#include <time.h>

#include "remote.h"

enum { POLL_MS = 500 };

static const char *counts_of(const struct json *b, char out[96]) {
    const struct json *c = json_get(b, "request_counts");
    (void)snprintf(out, 96, "%lld of %lld, %lld failed", (long long)json_int(json_get(c, "completed"), 0), (long long)json_int(json_get(c, "total"), 0), (long long)json_int(json_get(c, "failed"), 0));
    return out;
}

static bool has_ended(const struct json *b) {
    static const char *const ends[] = {"completed", "failed", "expired", "cancelled"};
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++)
        if (span_eq_str(json_string(json_get(b, "status")), ends[i])) return true;
    return false;
}

static void show(struct buf *out, const struct json *b) {
    char counts[96];
    const struct json *errors = json_get(json_get(b, "errors"), "data");
    shown_line(out, "batch", shown_text(json_get(b, "id")));
    shown_line(out, "status", shown_text(json_get(b, "status")));
    shown_line(out, "endpoint", shown_text(json_get(b, "endpoint")));
    shown_line(out, "model", shown_text(json_get(b, "model")));
    shown_line(out, "lines", counts_of(b, counts));
    shown_line(out, "created", shown_seconds(json_get(b, "created_at")));
    shown_line(out, "input", shown_text(json_get(b, "input_file_id")));
    shown_line(out, "output", shown_text(json_get(b, "output_file_id")));
    shown_line(out, "errors", shown_text(json_get(b, "error_file_id")));
    for (size_t i = 0; i < json_size(errors); i++) {
        int64_t line = json_int(json_get(json_at(errors, i), "line"), 0);
        if (line) (void)buf_printf(out, "line %lld: %s\n", (long long)line, shown_text(json_get(json_at(errors, i), "message")));
        else (void)buf_printf(out, "%s\n", shown_text(json_get(json_at(errors, i), "message")));
    }
}

static int get(struct remote *x, const char *id) {
    remote_path(x, "/v1/batches/");
    remote_add(x, "", id);
    return remote_get(x);
}

static int run_show(struct cli *c) {
    struct remote x;
    int r = remote_open(&x, c);
    if (r == 0) r = get(&x, cli_operand(c, 0));
    if (r == 0 && cli_json(c)) json_put_value(&x.json, x.answer);
    else if (r == 0) show(&x.out, x.answer);
    return remote_close(&x, r);
}

static int run_cancel(struct cli *c) {
    struct remote x;
    int r = remote_open(&x, c);
    remote_path(&x, "/v1/batches/");
    remote_add(&x, "", cli_operand(c, 0));
    (void)buf_append_str(&x.path, "/cancel");
    if (r == 0) r = remote_call(&x, "POST", true);
    if (r == 0 && cli_json(c)) json_put_value(&x.json, x.answer);
    else if (r == 0) (void)buf_printf(&x.out, "%s: %s\n", shown_text(json_get(x.answer, "id")), shown_text(json_get(x.answer, "status")));
    return remote_close(&x, r);
}

static int run_list(struct cli *c) {
    struct remote x;
    struct table table;
    char after[128] = "", counts[96];
    bool more = true;
    int r = remote_open(&x, c);
    table_init(&table, "BATCH|STATUS|LINES|ENDPOINT|MODEL|CREATED");
    if (cli_json(c)) json_array(&x.json);
    while (r == 0 && more) {
        remote_path(&x, "/v1/batches?limit=100");
        if (after[0]) remote_query(&x, "after", after);
        if ((r = remote_get(&x)) < 0) break;
        const struct json *data = json_get(x.answer, "data");
        for (size_t i = 0; i < json_size(data); i++) {
            const struct json *b = json_at(data, i);
            if (cli_json(c)) {
                json_put_value(&x.json, b);
                continue;
            }
            table_span(&table, json_string(json_get(b, "id")));
            table_span(&table, json_string(json_get(b, "status")));
            table_cell(&table, "%s", counts_of(b, counts));
            table_span(&table, json_string(json_get(b, "endpoint")));
            table_cell(&table, "%s", shown_text(json_get(b, "model")));
            table_cell(&table, "%s", shown_seconds(json_get(b, "created_at")));
        }
        more = json_bool(json_get(x.answer, "has_more"), false);
        span_copy(after, sizeof after, json_string(json_get(x.answer, "last_id")));
    }
    if (cli_json(c)) json_array_end(&x.json);
    if (r < 0) buf_clear(&x.out);
    else if (!cli_json(c)) (void)table_render(&table, &x.out);
    table_fini(&table);
    return remote_close(&x, r);
}

/* ---- run ---- */

static int upload(struct remote *x, const char *path, char file_id[128]) {
    struct client_request q = {.method = "POST", .path = "/v1/files", .file = path, .purpose = "batch"};
    struct json *answer = NULL;
    int r = client_call(x->client, &q, &answer, &x->err);
    if (r == 0) span_copy(file_id, 128, json_string(json_get(answer, "id")));
    json_free(answer);
    return r;
}

static int download(struct remote *x, const char *file_id, const char *to) {
    struct buf path;
    buf_init(&path, REMOTE_PATH_MAX);
    (void)buf_append_str(&path, "/v1/files/");
    client_encode(&path, span_str(file_id));
    (void)buf_append_str(&path, "/content");
    struct client_request q = {.method = "GET", .path = buf_cstr(&path), .to = to, .again = true};
    int r = q.path ? client_call(x->client, &q, NULL, &x->err) : error_set(&x->err, E_NOMEM, "no memory");
    buf_fini(&path);
    return r;
}

static int create(struct remote *x, const char *file_id, const char *endpoint) {
    remote_path(x, "/v1/batches");
    struct json_out w = remote_body(x);
    json_str(&w, "input_file_id", file_id);
    json_str(&w, "endpoint", endpoint);
    json_str(&w, "completion_window", "24h");
    json_object_end(&w);
    int r = remote_call(x, "POST", false);
    buf_clear(&x->body);
    return r;
}

static int wait_for(struct remote *x, const char *id, bool quiet) {
    struct progress progress = {0};
    int r = get(x, id);
    if (!quiet) progress_begin(&progress, "answered", 0, "lines");
    while (r == 0 && !has_ended(x->answer)) {
        const struct json *c = json_get(x->answer, "request_counts");
        int64_t done = json_int(json_get(c, "completed"), 0) + json_int(json_get(c, "failed"), 0);
        if (!quiet) {
            progress_total(&progress, (uint64_t)json_int(json_get(c, "total"), 0));
            progress_set(&progress, (uint64_t)done, shown_text(json_get(x->answer, "status")));
        }
        (void)nanosleep(&(struct timespec){.tv_nsec = POLL_MS * 1000000L}, NULL);
        r = get(x, id);
    }
    if (!quiet) progress_end(&progress, r == 0);
    return r;
}

static int run_run(struct cli *c) {
    struct remote x;
    char file_id[128], id[128], output[128] = "", errors[128] = "";
    const char *endpoint = cli_text(c, "--endpoint") ? cli_text(c, "--endpoint") : "/v1/chat/completions";
    int r = remote_open(&x, c);
    bool completed = false;
    if (r == 0) r = upload(&x, cli_operand(c, 0), file_id);
    if (r == 0) r = create(&x, file_id, endpoint);
    if (r == 0) {
        span_copy(id, sizeof id, json_string(json_get(x.answer, "id")));
        if (!cli_flag(c, "--no-wait")) r = wait_for(&x, id, cli_json(c));
    }
    if (r == 0) {
        completed = span_eq_str(json_string(json_get(x.answer, "status")), "completed") || cli_flag(c, "--no-wait");
        span_copy(output, sizeof output, json_string(json_get(x.answer, "output_file_id")));
        span_copy(errors, sizeof errors, json_string(json_get(x.answer, "error_file_id")));
        if (cli_json(c)) json_put_value(&x.json, x.answer);
        else show(&x.out, x.answer);
    }
    if (r == 0 && output[0] && cli_text(c, "--out")) r = download(&x, output, cli_text(c, "--out"));
    if (r == 0 && errors[0] && cli_text(c, "--errors")) r = download(&x, errors, cli_text(c, "--errors"));
    if (r == 0 && !completed) r = error_set(&x.err, E_STATE, "batch %s did not complete", id);
    return remote_close(&x, r);
}

static const struct cli_option RUN_OPTIONS[] = {
    {.name = "--endpoint", .kind = CLI_TEXT, .value = "/v1/chat/completions|/v1/completions|/v1/responses|/v1/embeddings", .doc = "What every line asks; default /v1/chat/completions"},
    {.name = "--out", .kind = CLI_FILE, .value = "FILE", .doc = "Where the answers go"},
    {.name = "--errors", .kind = CLI_FILE, .value = "FILE", .doc = "Where the answers go that are errors"},
    {.name = "--no-wait", .kind = CLI_FLAG, .doc = "Only begin: batch show says how far it is"},
    {0},
};

const struct verb VERBS_BATCH[] = {
    {.name = "batch run", .operands = "FILE", .operands_min = 1, .operands_max = 1, .summary = "Answer the requests of a file", .options = RUN_OPTIONS, .json = true, .run = run_run,
     .help = "FILE has a request on each line, in OpenAI's format: {\"custom_id\": …, \"method\": \"POST\", \"url\": …, \"body\": {…}}. They are answered when there is nothing more urgent to do, each once; "
             "exit code 1 where the file is no batch, with the lines that are wrong.\n\n"
             "example: genloop batch run requests.jsonl --out answers.jsonl --errors errors.jsonl"},
    {.name = "batch list", .operands = "", .summary = "Batches, newest first", .json = true, .run = run_list},
    {.name = "batch show", .operands = "ID", .operands_min = 1, .operands_max = 1, .summary = "A batch, and how far it is", .json = true, .run = run_show},
    {.name = "batch cancel", .operands = "ID", .operands_min = 1, .operands_max = 1, .summary = "Cancel a batch: what is answered already is in its files", .json = true, .run = run_cancel},
    {0},
};
