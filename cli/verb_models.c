/* models, evaluate, improve: the registry's versions, what they are measured by and where they come from. */
#include <stdio.h>

#include "base/alloc.h"
#include "base/file.h"
#include "base/random.h"
#include "gates/recompute.h"
#include "genloop/v1/services.pb-c.h"
#include "registry/trait.h"
#include "local.h"
#include "remote.h"
#include "wire/protojson.h"

enum { LINEAGE_MAX = 64, RECORD_MAX = GATES_RECORD_MAX, RECIPE_MAX = 1 << 20 };

static int get_model(struct remote *x, const char *model) {
    remote_path(x, "/v1/admin/models/");
    remote_add(x, "", model);
    return remote_get(x);
}

/* ---- list ---- */

struct listing {
    struct remote x;
    struct table table;
    struct buf versions; /* with --json: they come before the aliases */
    struct json_out w;
    const char *name;
    bool json;
};

static int list_one(void *arg, const struct json *v) {
    struct listing *l = arg;
    const struct json *lineage = json_get(v, "lineage");
    char n[FIGURE_MAX], share[FIGURE_MAX] = "";
    if (l->name && !span_eq_str(json_string(json_get(v, "name")), l->name)) return 0;
    if (l->json) {
        json_put_value(&l->w, v);
        return 0;
    }
    if (json_int(json_get(v, "canary_percent"), 0)) (void)snprintf(share, sizeof share, " %lld %%", (long long)json_int(json_get(v, "canary_percent"), 0));
    table_span(&l->table, span_str(shown_name(v)));
    table_cell(&l->table, "%s%s", shown_enum(json_get(v, "state"), "MODEL_STATE_"), share);
    table_cell(&l->table, "%s", figure_count((double)json_int(json_get(v, "parameters"), 0), n));
    table_cell(&l->table, "%s", shown_text(json_get(lineage, "base_model")));
    table_cell(&l->table, "%s", shown_text(json_get(lineage, "dataset")));
    table_cell(&l->table, "%s", shown_time(json_get(v, "event_time_ms")));
    table_cell(&l->table, "%s", shown_text(json_get(json_get(v, "actor"), "id")));
    table_cell(&l->table, "%s", shown_text(json_get(v, "reason")));
    return 0;
}

static int run_list(struct cli *c) {
    struct listing l = {.json = cli_json(c), .name = cli_operand(c, 0)};
    int r = remote_open(&l.x, c);
    buf_init(&l.versions, REMOTE_OUT_MAX);
    json_begin(&l.w, &l.versions);
    json_array(&l.w);
    table_init(&l.table, "VERSION|STATE|>PARAMETERS|BASE|DATASET|SINCE|BY|REASON");
    remote_path(&l.x, "/v1/admin/models?limit=1000");
    if (r == 0) r = remote_each(&l.x, "versions", &l, list_one);
    json_array_end(&l.w);
    const struct json *aliases = json_get(l.x.answer, "aliases"); /* of the last page: all pages have them */
    if (r == 0 && l.json) {
        json_object(&l.x.json);
        json_key(&l.x.json, "versions");
        json_put_raw(&l.x.json, buf_span(&l.versions));
        json_key(&l.x.json, "aliases");
        json_put_value(&l.x.json, aliases);
        json_object_end(&l.x.json);
    } else if (r == 0) {
        r = table_render(&l.table, &l.x.out);
        for (size_t i = 0; i < json_size(aliases); i++) {
            const struct json *a = json_at(aliases, i);
            if (!json_string(json_get(a, "name")).len || (l.name && !span_eq_str(json_string(json_get(a, "name")), l.name))) continue;
            (void)buf_printf(&l.x.out, "%s is %s", shown_text(json_get(a, "alias")), shown_name(a));
            if (json_int(json_get(a, "canary_version"), 0))
                (void)buf_printf(&l.x.out, ", and for %lld %% of its requests %s@%lld", (long long)json_int(json_get(a, "canary_percent"), 0), shown_text(json_get(a, "name")),
                                 (long long)json_int(json_get(a, "canary_version"), 0));
            (void)buf_append_char(&l.x.out, '\n');
        }
    }
    table_fini(&l.table);
    buf_fini(&l.versions);
    return remote_close(&l.x, r);
}

/* ---- show, card ---- */

static void show(struct remote *x) {
    const struct json *v = json_get(x->answer, "version"), *lineage = json_get(v, "lineage"), *history = json_get(x->answer, "history"), *evaluations = json_get(x->answer, "evaluations");
    const struct json *aliases = json_get(x->answer, "aliases");
    struct table t;
    char text[FIGURE_MAX];
    shown_line(&x->out, "version", shown_name(v));
    shown_line(&x->out, "state", shown_enum(json_get(v, "state"), "MODEL_STATE_"));
    for (size_t i = 0; i < json_size(aliases); i++) shown_line(&x->out, i ? "" : "known as", shown_text(json_at(aliases, i)));
    (void)snprintf(text, sizeof text, "%lld %%", (long long)json_int(json_get(v, "canary_percent"), 0));
    if (json_int(json_get(v, "canary_percent"), 0)) shown_line(&x->out, "share", text);
    shown_line(&x->out, "parameters", figure_count((double)json_int(json_get(v, "parameters"), 0), text));
    (void)snprintf(text, sizeof text, "%lld", (long long)json_int(json_get(v, "context"), 0));
    shown_line(&x->out, "context", text);
    shown_line(&x->out, json_bool(json_get(v, "adapter"), false) ? "adapter of" : "base", shown_text(json_get(lineage, "base_model")));
    shown_line(&x->out, "dataset", shown_text(json_get(lineage, "dataset")));
    shown_line(&x->out, "job", shown_text(json_get(lineage, "job_id")));
    shown_line(&x->out, "directory", shown_text(json_get(json_get(v, "directory"), "sha256")));
    (void)buf_append_char(&x->out, '\n');
    table_init(&t, "WHEN|STATE|BY|REASON");
    for (size_t i = 0; i < json_size(history); i++) {
        const struct json *h = json_at(history, i), *actor = json_get(h, "actor");
        struct span claim = json_string(json_get(actor, "claim"));
        table_cell(&t, "%s", shown_time(json_get(h, "event_time_ms")));
        table_cell(&t, "%s", shown_enum(json_get(h, "state"), "MODEL_STATE_"));
        table_cell(&t, "%s%s%.*s%s", shown_text(json_get(actor, "id")), claim.len ? " (" : "", SPAN_ARG(claim), claim.len ? ")" : "");
        table_span(&t, json_string(json_get(h, "reason")));
    }
    (void)table_render(&t, &x->out);
    table_fini(&t);
    for (size_t i = 0; i < json_size(evaluations); i++) {
        (void)buf_append_char(&x->out, '\n');
        shown_evaluation(&x->out, json_at(evaluations, i));
    }
}

static int run_show(struct cli *c) {
    struct remote x;
    int r = remote_open(&x, c);
    if (r == 0) r = get_model(&x, cli_operand(c, 0));
    if (r == 0 && cli_json(c)) json_put_value(&x.json, x.answer);
    else if (r == 0) show(&x);
    return remote_close(&x, r);
}

static int run_card(struct cli *c) {
    struct remote x;
    int r = remote_open(&x, c);
    if (r == 0) r = get_model(&x, cli_operand(c, 0));
    struct span card = r == 0 ? json_string(json_get(x.answer, "card")) : SPAN("");
    if (r == 0 && !card.len) r = error_set(&x.err, E_NOT_FOUND, "%s has no model card: there is no README.md in its directory", cli_operand(c, 0));
    if (r == 0) (void)buf_append_span(&x.out, card);
    return remote_close(&x, r);
}

/* ---- lineage ---- */

static int run_lineage(struct cli *c) {
    struct remote x;
    char name[512];
    int r = remote_open(&x, c), depth = 0;
    span_copy(name, sizeof name, span_str(cli_operand(c, 0)));
    if (cli_json(c)) {
        json_object(&x.json);
        json_key(&x.json, "lineage");
        json_array(&x.json);
    }
    for (; r == 0 && name[0] && depth < LINEAGE_MAX; depth++) {
        r = get_model(&x, name);
        if (r < 0) break;
        const struct json *v = json_get(x.answer, "version"), *l = json_get(v, "lineage");
        struct span base = json_string(json_get(l, "base_model"));
        if (cli_json(c)) {
            json_object(&x.json);
            json_str(&x.json, "version", shown_name(v));
            json_span(&x.json, "state", json_string(json_get(v, "state")));
            json_key(&x.json, "directory");
            json_put_value(&x.json, json_get(v, "directory"));
            json_key(&x.json, "lineage");
            json_put_value(&x.json, l);
            json_object_end(&x.json);
        } else {
            (void)buf_printf(&x.out, "%s%s  %s\n", depth ? "from " : "", shown_name(v), shown_enum(json_get(v, "state"), "MODEL_STATE_"));
            (void)buf_printf(&x.out, "    job %s on %s\n", shown_text(json_get(l, "job_id")), shown_text(json_get(l, "dataset")));
            if (!base.len) (void)buf_append_str(&x.out, "from nothing: trained from scratch, or imported\n");
        }
        span_copy(name, sizeof name, base);
    }
    if (r == 0 && name[0]) r = error_set(&x.err, E_TOO_LARGE, "the line goes back more than %d versions", LINEAGE_MAX);
    if (cli_json(c)) {
        json_array_end(&x.json);
        json_object_end(&x.json);
    }
    if (r < 0) buf_clear(&x.out);
    return remote_close(&x, r);
}

/* ---- evaluate ---- */

/* Fetches the evaluation and all bytes of its record. */
static int fetch_record(struct remote *x, const char *model, const char *id, Genloop__V1__EvaluationRecordReply **first, struct buf *record) {
    Genloop__V1__EvaluationRecordReply *m = NULL;
    char offset[32];
    *first = NULL;
    for (;;) {
        remote_path(x, "/v1/admin/models/");
        remote_add(x, "", model);
        (void)buf_append_str(&x->path, "/evaluation-record");
        (void)snprintf(offset, sizeof offset, "%zu", record->len);
        remote_query(x, "offset", offset);
        if (*first) remote_query(x, "id", (*first)->evaluation->id);
        else if (id) remote_query(x, "id", id);
        int r = remote_get(x);
        if (r == 0) r = protojson_read(x->answer, &genloop__v1__evaluation_record_reply__descriptor, (ProtobufCMessage **)(void *)&m, &x->err);
        if (r < 0) return r;
        bool usable = m->evaluation && m->evaluation->record && (m->data.len > 0 || record->len >= m->evaluation->record->size_bytes);
        uint64_t size = usable ? m->evaluation->record->size_bytes : 0;
        if (usable) r = buf_append(record, m->data.data, m->data.len);
        if (!*first && usable) *first = m;
        else protojson_free(&m->base);
        if (!usable) return error_set(&x->err, E_UNKNOWN, "the evaluation of %s has no record", model);
        if (r < 0) return error_set(&x->err, E_TOO_LARGE, "the record of %s has more than %d MiB", model, RECORD_MAX >> 20);
        if (record->len >= size) return 0;
    }
}

static int run_recompute(struct cli *c) {
    struct remote x;
    Genloop__V1__EvaluationRecordReply *m = NULL;
    struct recomputed *again = NULL;
    struct buf record;
    int r = remote_open(&x, c);
    buf_init(&record, RECORD_MAX);
    if (r == 0) r = fetch_record(&x, cli_operand(c, 0), cli_text(c, "--id"), &m, &record);
    if (r == 0 && !(again = mem_zalloc(sizeof *again))) r = error_set(&x.err, E_NOMEM, "no memory for figures");
    if (r == 0) r = gates_recompute(m->evaluation, buf_span(&record), span_of(m->public_key.data, m->public_key.len), again, &x.err);
    if (r == 0) r = cli_json(c) ? recomputed_write_json(m->evaluation, again, &x.out) : recomputed_write_text(m->evaluation, again, &x.out);
    if (r == 0 && again->different) r = error_set(&x.err, E_DATA_LOSS, "%zu of %zu numbers differ from what was told; the first: %s", again->different, again->compared, again->difference);
    mem_free(again);
    if (m) protojson_free(&m->base);
    buf_fini(&record);
    return remote_close(&x, r);
}

static int run_evaluate(struct cli *c) {
    struct remote x;
    struct json *job = NULL, *evaluation = NULL;
    char id[ID_TEXT_MAX], made[256], candidate[256];
    const char *trait = cli_text(c, "--trait");
    if (cli_given(c, "--weights")) {
        if (trait || cli_flag(c, "--wait") || cli_flag(c, "--recompute") || cli_given(c, "--id")) return cli_usage(c, "--weights compares the files of a model here: the other options are about a version of the platform");
        return run_compare(c);
    }
    if (cli_given(c, "--text") || cli_given(c, "--threads")) return cli_usage(c, "--text and --threads go with --weights");
    if (cli_flag(c, "--recompute")) {
        if (trait || cli_flag(c, "--wait")) return cli_usage(c, "--recompute looks at an evaluation that is there: --wait and --trait make a new one");
        return run_recompute(c);
    }
    if (cli_given(c, "--id")) return cli_usage(c, "--id goes with --recompute");
    if (trait && !trait_known(span_str(trait))) return cli_usage(c, "there is no trait \"%s\"", trait);
    int r = remote_open(&x, c);
    remote_path(&x, "/v1/admin/models/");
    remote_add(&x, "", cli_operand(c, 0));
    (void)buf_append_str(&x.path, "/evaluate");
    struct json_out w = remote_body(&x);
    json_str(&w, "id", id_make(id));
    if (trait) json_str(&w, "trait", trait);
    json_object_end(&w);
    if (r == 0) r = remote_call(&x, "POST", true);
    if (r == 0 && !cli_flag(c, "--wait")) {
        if (cli_json(c)) json_put_value(&x.json, x.answer);
        else shown_job(&x.out, x.answer);
        return remote_close(&x, r);
    }
    if (r == 0) {
        span_copy(made, sizeof made, json_string(json_get(x.answer, "id")));
        span_copy(candidate, sizeof candidate, json_string(json_get(x.answer, "model")));
        r = remote_watch_job(&x, made, &job);
    }
    if (r == 0) r = remote_judged(&x, candidate[0] ? candidate : cli_operand(c, 0), made, &evaluation);
    if (r == 0 && cli_json(c)) json_put_value(&x.json, evaluation);
    else if (r == 0) shown_evaluation(&x.out, evaluation);
    if (r == 0 && !json_bool(json_get(evaluation, "passed"), false)) r = error_set(&x.err, E_STATE, "%s did not pass its gates", shown_text(json_get(evaluation, "candidate")));
    json_free(job);
    json_free(evaluation);
    return remote_close(&x, r);
}

/* ---- improve ---- */

static int run_improve(struct cli *c) {
    struct remote x;
    struct json *job = NULL;
    struct buf recipe;
    char id[ID_TEXT_MAX], made[256], version[256] = "";
    const char *trait = cli_text(c, "--trait");
    if (trait && !trait_known(span_str(trait))) return cli_usage(c, "there is no trait \"%s\"", trait);
    int r = remote_open(&x, c);
    buf_init(&recipe, RECIPE_MAX);
    remote_path(&x, "/v1/admin/models/");
    remote_add(&x, "", cli_operand(c, 0));
    (void)buf_append_str(&x.path, "/improve");
    struct json_out w = remote_body(&x);
    json_str(&w, "id", cli_text(c, "--id") ? cli_text(c, "--id") : id_make(id));
    json_str(&w, "objective", cli_text(c, "--objective") ? cli_text(c, "--objective") : "dpo");
    if (trait) json_str(&w, "trait", trait);
    if (r == 0 && cli_text(c, "--recipe")) r = file_read(cli_text(c, "--recipe"), &recipe, &x.err);
    if (recipe.len) json_span(&w, "recipe", buf_span(&recipe));
    json_object_end(&w);
    buf_fini(&recipe);
    if (r == 0) r = remote_call(&x, "POST", true);
    if (r == 0 && !cli_flag(c, "--wait")) {
        if (cli_json(c)) json_put_value(&x.json, x.answer);
        else shown_job(&x.out, x.answer);
        return remote_close(&x, r);
    }
    if (r == 0) {
        span_copy(made, sizeof made, json_string(json_get(x.answer, "id")));
        r = remote_watch_job(&x, made, &job);
    }
    if (r == 0) r = remote_version_of_job(&x, made, version);
    if (job && cli_json(c)) {
        json_object(&x.json);
        json_key(&x.json, "job");
        json_put_value(&x.json, job);
        json_str(&x.json, "version", version[0] ? version : NULL);
        json_object_end(&x.json);
    } else if (job) {
        shown_job(&x.out, job);
        if (version[0]) (void)buf_printf(&x.out, "\n%s is there. The gates measure it: genloop models show %s\n", version, version);
    }
    json_free(job);
    return remote_close(&x, r);
}

static const struct cli_option EVALUATE_OPTIONS[] = {
    {.name = "--wait", .kind = CLI_FLAG, .doc = "Return when the gates have judged; exit code 1 where one did not pass"},
    {.name = "--trait", .kind = CLI_TEXT, .value = "TRAIT", .doc = "Count the share of a trait too: short, lists, numbers, or !NAME for its opposite"},
    {.name = "--recompute", .kind = CLI_FLAG, .doc = "Compute figures and verdict of the newest evaluation again, from its record, here"},
    {.name = "--id", .kind = CLI_TEXT, .value = "ID", .doc = "With --recompute: this evaluation"},
    {.name = "--weights", .kind = CLI_TEXT, .value = "KIND,KIND,...", .doc = "MODEL is a model directory or a GGUF file: what these kinds of weights (f32, bf16, f16, q8, q4, q4m) cost against what is stored there"},
    {.name = "--text", .kind = CLI_FILE, .value = "FILE", .doc = "With --weights: the text that is read; otherwise a short one that is built in"},
    {.name = "--threads", .kind = CLI_INT, .value = "N", .doc = "With --weights; 0: all CPUs", .min = 0, .max = 1024},
    {0},
};
static const struct cli_option IMPROVE_OPTIONS[] = {
    {.name = "--objective", .kind = CLI_TEXT, .value = "dpo|sft", .doc = "Learn from preferences (default) or from corrections"},
    {.name = "--trait", .kind = CLI_TEXT, .value = "TRAIT", .doc = "What the judges are after: the evaluation counts its share"},
    {.name = "--recipe", .kind = CLI_FILE, .value = "FILE", .doc = "A recipe in place of the policy's"},
    {.name = "--id", .kind = CLI_TEXT, .value = "ID", .doc = "Name the improvement: asked for again, the same id is the same set and the same job"},
    {.name = "--wait", .kind = CLI_FLAG, .doc = "Return when the new version is there, and show how it goes"},
    {0},
};

const struct verb VERBS_MODELS[] = {
    {.name = "models list", .operands = "[NAME]", .operands_max = 1, .summary = "Every version of every model, and what the aliases mean", .json = true, .run = run_list},
    {.name = "models show", .operands = "MODEL", .operands_min = 1, .operands_max = 1, .summary = "A version: its states with who and why, its evaluations", .json = true, .run = run_show,
     .help = "MODEL is NAME@VERSION, an alias (production, canary, or your own), or a NAME for its production version."},
    {.name = "models card", .operands = "MODEL", .operands_min = 1, .operands_max = 1, .summary = "Its model card, Markdown", .run = run_card},
    {.name = "models lineage", .operands = "MODEL", .operands_min = 1, .operands_max = 1, .summary = "Where it comes from: bases, datasets and jobs, back to the beginning", .json = true, .run = run_lineage},
    {.name = "evaluate", .operands = "MODEL", .operands_min = 1, .operands_max = 1, .summary = "Measure a version for the gates", .options = EVALUATE_OPTIONS, .json = true, .run = run_evaluate,
     .help = "With --weights no platform is asked: the model is loaded here as it is stored and with each kind, reads the text, and perplexity, the share of equal first choices and the mean difference of log-probabilities are told.\n\n"
             "With --recompute nothing is measured: the signed evaluation and the record that it rests on are fetched, and every figure, gate and verdict is computed again on this machine.\n"
             "The exit code is 0 where all of it came out as it was told.\n\n"
             "examples:\n"
             "  genloop evaluate guide@2 --wait\n"
             "  genloop evaluate guide@2 --recompute\n"
             "  genloop evaluate SmolLM2-135M-Instruct/ --weights q8,q4m --text chapter.txt"},
    {.name = "improve", .operands = "MODEL", .operands_min = 1, .operands_max = 1, .summary = "Fine-tune on the judgements so far", .options = IMPROVE_OPTIONS, .json = true, .run = run_improve,
     .help = "Builds a set from what people said of the model's answers and trains its production version on it. What comes out is a candidate like any other.\n\n"
             "example: genloop improve guide --trait short --wait"},
    {0},
};
