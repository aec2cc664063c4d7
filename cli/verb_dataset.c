/* dataset: what there is, what a version says of itself, why documents were rejected. */
#include <stdio.h>

#include "remote.h"

enum { EXAMPLES_DEFAULT = 3, REASONS_MAX = 64 };

/* ---- list ---- */

struct listing {
    struct remote x;
    struct table table;
    bool json;
};

static int list_one(void *arg, const struct json *d) {
    struct listing *l = arg;
    char bytes[FIGURE_MAX], tokens[FIGURE_MAX];
    if (l->json) {
        json_put_value(&l->x.json, d);
        return 0;
    }
    bool text = span_eq_str(json_string(json_get(d, "kind")), "DATASET_KIND_TEXT");
    table_span(&l->table, span_str(shown_name(d)));
    table_cell(&l->table, "%s", shown_enum(json_get(d, "kind"), "DATASET_KIND_"));
    table_cell(&l->table, "%s", shown_enum(json_get(d, "state"), "DATASET_STATE_"));
    if (text) table_cell(&l->table, "%lld", (long long)json_int(json_get(d, "documents"), 0));
    else table_cell(&l->table, "-");
    table_cell(&l->table, "%lld", (long long)json_int(json_get(d, "samples"), 0));
    table_cell(&l->table, "%s", figure_bytes((uint64_t)json_int(json_get(d, "text_bytes"), 0), bytes));
    table_cell(&l->table, "%s", text ? figure_count((double)json_int(json_get(d, "tokens"), 0), tokens) : "-");
    table_cell(&l->table, "%s", shown_time(json_get(d, "event_time_ms")));
    return 0;
}

static int run_list(struct cli *c) {
    struct listing l = {.json = cli_json(c)};
    int r = remote_open(&l.x, c);
    table_init(&l.table, "DATASET|KIND|STATE|>DOCUMENTS|>SAMPLES|>TEXT|>TOKENS|SINCE");
    if (l.json) {
        json_object(&l.x.json);
        json_key(&l.x.json, "datasets");
        json_array(&l.x.json);
    }
    remote_path(&l.x, "/v1/datasets?limit=1000");
    if (r == 0) r = remote_each(&l.x, "datasets", &l, list_one);
    if (r == 0 && l.json) {
        json_array_end(&l.x.json);
        json_object_end(&l.x.json);
    } else if (r == 0) {
        r = table_render(&l.table, &l.x.out);
    } else {
        buf_clear(&l.x.out);
    }
    table_fini(&l.table);
    return remote_close(&l.x, r);
}

/* ---- show, card, rm ---- */

static int get(struct remote *x, const char *name) {
    remote_path(x, "/v1/datasets/");
    remote_add(x, "", name);
    return remote_get(x);
}

static void show(struct buf *out, const struct json *d) {
    const struct json *reasons = json_get(d, "rejected_by_reason"), *count;
    char text[512], bytes[FIGURE_MAX];
    void *iterator = NULL;
    struct span reason;
    shown_line(out, "dataset", shown_name(d));
    shown_line(out, "kind", shown_enum(json_get(d, "kind"), "DATASET_KIND_"));
    shown_line(out, "state", shown_enum(json_get(d, "state"), "DATASET_STATE_"));
    shown_line(out, "since", shown_time(json_get(d, "event_time_ms")));
    shown_line(out, "failure", shown_text(json_get(d, "failure")));
    if (span_eq_str(json_string(json_get(d, "kind")), "DATASET_KIND_TEXT")) {
        (void)snprintf(text, sizeof text, "%lld, %lld of them held out", (long long)json_int(json_get(d, "documents"), 0), (long long)json_int(json_get(d, "documents_held_out"), 0));
        shown_line(out, "documents", text);
        (void)snprintf(text, sizeof text, "%lld to train on, %lld held out", (long long)json_int(json_get(d, "tokens"), 0), (long long)json_int(json_get(d, "tokens_held_out"), 0));
        shown_line(out, "tokens", text);
    }
    shown_line(out, "text", figure_bytes((uint64_t)json_int(json_get(d, "text_bytes"), 0), bytes));
    (void)snprintf(text, sizeof text, "%lld to train on, %lld held out", (long long)json_int(json_get(d, "samples"), 0), (long long)json_int(json_get(d, "samples_held_out"), 0));
    shown_line(out, "samples", text);
    (void)snprintf(text, sizeof text, "%lld", (long long)json_int(json_get(d, "documents_rejected"), 0));
    if (json_int(json_get(d, "documents_rejected"), 0)) shown_line(out, "rejected", text);
    while (json_next(reasons, &iterator, &reason, &count)) (void)buf_printf(out, "%-14s %.*s %lld\n", "", SPAN_ARG(reason), (long long)json_int(count, 0));
    shown_line(out, "tokenizer", shown_text(json_get(json_get(d, "tokenizer"), "sha256")));
    shown_line(out, "manifest", shown_text(json_get(json_get(d, "manifest"), "sha256")));
}

static int run_show(struct cli *c) {
    struct remote x;
    int r = remote_open(&x, c);
    if (r == 0) r = get(&x, cli_operand(c, 0));
    if (r == 0 && cli_json(c)) { /* the manifest is JSON itself: a member, and no text */
        struct span manifest = json_string(json_get(x.answer, "manifest"));
        json_object(&x.json);
        json_key(&x.json, "dataset");
        json_put_value(&x.json, json_get(x.answer, "dataset"));
        json_key(&x.json, "manifest");
        if (manifest.len) json_put_raw(&x.json, manifest);
        else json_put_null(&x.json);
        json_span(&x.json, "card", json_string(json_get(x.answer, "card")));
        json_object_end(&x.json);
    } else if (r == 0) {
        show(&x.out, json_get(x.answer, "dataset"));
    }
    return remote_close(&x, r);
}

static int run_card(struct cli *c) {
    struct remote x;
    int r = remote_open(&x, c);
    if (r == 0) r = get(&x, cli_operand(c, 0));
    struct span card = r == 0 ? json_string(json_get(x.answer, "card")) : SPAN("");
    if (r == 0 && card.len == 0) r = error_set(&x.err, E_STATE, "%s has no card: it is %s", cli_operand(c, 0), shown_enum(json_get(json_get(x.answer, "dataset"), "state"), "DATASET_STATE_"));
    if (r == 0) (void)buf_append_span(&x.out, card);
    return remote_close(&x, r);
}

static int run_rm(struct cli *c) {
    struct remote x;
    int r = remote_open(&x, c);
    remote_path(&x, "/v1/datasets/");
    remote_add(&x, "", cli_operand(c, 0));
    if (r == 0) r = remote_call(&x, "DELETE", false);
    if (r == 0 && cli_json(c)) json_put_value(&x.json, x.answer);
    else if (r == 0) (void)buf_printf(&x.out, "%s is removed; what was trained on it keeps its name in the records\n", cli_operand(c, 0));
    return remote_close(&x, r);
}

/* ---- report ---- */

struct report {
    struct remote x;
    bool json;
    size_t examples_max;
    struct {
        char reason[40];
        size_t told;
    } reasons[REASONS_MAX];
    size_t n_reasons;
    struct table table;
    struct buf counts; /* the progress, as JSON */
};

static int on_counts(void *arg, const struct json *event) {
    struct report *p = arg;
    return json_write(&p->counts, event) < 0 ? error_set(&p->x.err, E_NOMEM, "no memory for a report") : CLIENT_STREAM_DONE;
}

/* Some of each reason are enough to see what it means. */
static bool wanted(struct report *p, struct span reason) {
    for (size_t i = 0; i < p->n_reasons; i++)
        if (span_eq_str(reason, p->reasons[i].reason)) return p->reasons[i].told++ < p->examples_max;
    if (p->n_reasons == REASONS_MAX) return false;
    span_copy(p->reasons[p->n_reasons].reason, sizeof p->reasons[0].reason, reason);
    p->reasons[p->n_reasons++].told = 1;
    return p->examples_max > 0;
}

static int on_rejected(void *arg, const struct json *d) {
    struct report *p = arg;
    if (!wanted(p, json_string(json_get(d, "reject_reason")))) return 0;
    if (p->json) {
        json_put_value(&p->x.json, d);
        return 0;
    }
    table_cell(&p->table, "  %s", shown_text(json_get(d, "reject_reason")));
    table_span(&p->table, json_string(json_get(d, "source")));
    table_span(&p->table, json_string(json_get(d, "reject_detail")));
    return 0;
}

static int run_report(struct cli *c) {
    struct report p = {.json = cli_json(c), .examples_max = cli_flag(c, "--all") ? SIZE_MAX : (size_t)cli_int(c, "--examples", EXAMPLES_DEFAULT)};
    struct json *counts = NULL;
    int r = remote_open(&p.x, c);
    buf_init(&p.counts, 4 << 20);
    table_init(&p.table, "  REASON|SOURCE|DETAIL");
    remote_path(&p.x, "/v1/datasets/");
    remote_add(&p.x, "", cli_operand(c, 0));
    (void)buf_append_str(&p.x.path, "/watch");
    if (r == 0) r = remote_stream(&p.x, "GET", &p, on_counts);
    if (r == 0) r = json_parse(buf_span(&p.counts), &counts, &p.x.err);
    if (r == 0 && json_int(json_get(counts, "received"), 0) == 0) r = error_set(&p.x.err, E_NOT_FOUND, "no documents have come into a dataset %s", cli_operand(c, 0));
    if (r == 0 && p.json) {
        json_object(&p.x.json);
        json_key(&p.x.json, "progress");
        json_put_value(&p.x.json, counts);
        json_key(&p.x.json, "rejected");
        json_array(&p.x.json);
    } else if (r == 0) {
        const struct json *reasons = json_get(counts, "rejected_by_reason"), *count;
        void *iterator = NULL;
        struct span reason;
        (void)buf_printf(&p.x.out, "%s: %lld documents received, %lld accepted, %lld rejected, %lld wait\n", cli_operand(c, 0), (long long)json_int(json_get(counts, "received"), 0),
                         (long long)json_int(json_get(counts, "accepted"), 0), (long long)json_int(json_get(counts, "rejected"), 0), (long long)json_int(json_get(counts, "pending"), 0));
        while (json_next(reasons, &iterator, &reason, &count)) (void)buf_printf(&p.x.out, "  %-16.*s %lld\n", SPAN_ARG(reason), (long long)json_int(count, 0));
    }
    remote_path(&p.x, "/v1/documents?limit=1000&state=DOCUMENT_STATE_REJECTED");
    remote_query(&p.x, "dataset", cli_operand(c, 0));
    if (r == 0) r = remote_each(&p.x, "documents", &p, on_rejected);
    if (r == 0 && p.json) {
        json_array_end(&p.x.json);
        json_object_end(&p.x.json);
    } else if (r == 0 && p.n_reasons && p.examples_max) {
        (void)buf_append_str(&p.x.out, cli_flag(c, "--all") ? "\nrejected:\n" : "\nsome of them:\n");
        r = table_render(&p.table, &p.x.out);
    } else if (r < 0) {
        buf_clear(&p.x.out);
    }
    json_free(counts);
    table_fini(&p.table);
    buf_fini(&p.counts);
    return remote_close(&p.x, r);
}

static const struct cli_option REPORT_OPTIONS[] = {
    {.name = "--examples", .kind = CLI_INT, .value = "N", .doc = "Documents shown of each reason; default 3", .min = 0, .max = 1000000},
    {.name = "--all", .kind = CLI_FLAG, .doc = "Every rejected document"},
    {0},
};

const struct verb VERBS_DATASET[] = {
    {.name = "dataset list", .operands = "", .summary = "Datasets and their versions", .json = true, .run = run_list},
    {.name = "dataset show", .operands = "NAME[@VERSION]", .operands_min = 1, .operands_max = 1, .summary = "One version: what is in it", .json = true, .run = run_show,
     .help = "Without @VERSION the newest that is ready. With --json the manifest is in it: every shard by its digest, with Croissant's keys."},
    {.name = "dataset card", .operands = "NAME[@VERSION]", .operands_min = 1, .operands_max = 1, .summary = "Its data card, Markdown", .run = run_card},
    {.name = "dataset report", .operands = "NAME", .operands_min = 1, .operands_max = 1, .summary = "What became of its documents, and why some were rejected", .options = REPORT_OPTIONS, .json = true,
     .run = run_report, .help = "example: genloop dataset report manuals --examples 10"},
    {.name = "dataset rm", .operands = "NAME[@VERSION]", .operands_min = 1, .operands_max = 1, .summary = "Remove a dataset, or one version of it", .json = true, .run = run_rm},
    {0},
};
