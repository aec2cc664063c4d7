/* train, jobs: what the trainer is asked for, and how it goes. `train --local` is the trainer in this process. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/random.h"
#include "local.h"
#include "remote.h"

enum { RECIPE_MAX = 1 << 20, JOBS_SHOWN_DEFAULT = 50 };

/* ---- train --local ---- */

static int run_local(struct cli *c) {
    static const char *const others[] = {"--dataset", "--base", "--name", "--reason", "--id", "--wait", "--dry-run"};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (cli_given(c, others[i])) return cli_usage(c, "%s does not go with --local: a local run is said by its recipe alone", others[i]);
    return local_train(c);
}

/* ---- train ---- */

/* A recipe is a file where there is one of that name; what looks like a path must be one. */
static int put_recipe(struct remote *x, struct json_out *w, const char *recipe) {
    struct buf text;
    bool path = strchr(recipe, '/') || span_ends(span_str(recipe), SPAN(".yaml")) || span_ends(span_str(recipe), SPAN(".yml"));
    if (!path && access(recipe, F_OK) != 0) {
        json_str(w, "preset", recipe);
        return 0;
    }
    buf_init(&text, RECIPE_MAX);
    int r = file_read(recipe, &text, &x->err);
    if (r == 0 && !span_is_utf8(buf_span(&text))) r = error_set(&x->err, E_INVALID, "%s is no text", recipe);
    if (r == 0) json_span(w, "recipe", buf_span(&text));
    buf_fini(&text);
    return r;
}

static void print_job(struct remote *x, const struct json *job) {
    if (cli_json(x->cli)) json_put_value(&x->json, job);
    else shown_job(&x->out, job);
}

/* Waits, and prints the job with the version that came of it. */
static int finish_training(struct remote *x, const char *id) {
    struct json *job = NULL;
    char version[256] = "";
    int r = remote_watch_job(x, id, &job);
    if (r == 0) r = remote_version_of_job(x, id, version);
    if (job && cli_json(x->cli)) {
        json_object(&x->json);
        json_key(&x->json, "job");
        json_put_value(&x->json, job);
        json_str(&x->json, "version", version[0] ? version : NULL);
        json_object_end(&x->json);
    } else if (job) {
        shown_job(&x->out, job);
        if (version[0]) (void)buf_printf(&x->out, "\n%s is there. The gates measure it: genloop models show %s\n", version, version);
    }
    json_free(job);
    return r;
}

static int run_train(struct cli *c) {
    struct remote x;
    char id[ID_TEXT_MAX];
    bool dry = cli_flag(c, "--dry-run");
    if (cli_flag(c, "--local")) return run_local(c);
    if (!cli_text(c, "--recipe")) return cli_usage(c, "--recipe FILE|PRESET is missing");
    if (cli_given(c, "--out")) return cli_usage(c, "--out goes with --local; a job's model goes into the registry under --name");
    if (!cli_text(c, "--name")) return cli_usage(c, "--name MODEL is missing: what comes out is a new version of it");
    if (dry && cli_flag(c, "--wait")) return cli_usage(c, "--dry-run makes no job that could be waited for");
    int r = remote_open(&x, c);
    remote_path(&x, "/v1/admin/jobs");
    struct json_out w = remote_body(&x);
    json_str(&w, "id", cli_text(c, "--id") ? cli_text(c, "--id") : id_make(id)); /* so that asking again is the same job */
    json_str(&w, "model", cli_text(c, "--name"));
    if (cli_text(c, "--dataset")) json_str(&w, "dataset", cli_text(c, "--dataset"));
    if (cli_text(c, "--base")) json_str(&w, "base_model", cli_text(c, "--base"));
    if (cli_text(c, "--reason")) json_str(&w, "reason", cli_text(c, "--reason"));
    if (dry) json_flag(&w, "dry_run", true);
    if (r == 0) r = put_recipe(&x, &w, cli_text(c, "--recipe"));
    json_object_end(&w);
    if (r == 0) r = remote_call(&x, "POST", true);
    if (r == 0 && cli_flag(c, "--wait")) {
        char made[256];
        span_copy(made, sizeof made, json_string(json_get(x.answer, "id")));
        if (!cli_json(c)) (void)fprintf(stderr, "job %s\n", made);
        r = finish_training(&x, made);
    } else if (r == 0) {
        print_job(&x, x.answer);
        if (!cli_json(c) && dry) (void)buf_printf(&x.out, "\nthe recipe as it would run:\n%.*s", SPAN_ARG(json_string(json_get(x.answer, "recipe"))));
        else if (!cli_json(c)) (void)buf_printf(&x.out, "\ngenloop jobs watch %s\n", shown_text(json_get(x.answer, "id")));
    }
    return remote_close(&x, r);
}

/* ---- jobs list ---- */

struct listing {
    struct remote x;
    struct table table;
    int64_t left;
    bool json;
};

static int list_one(void *arg, const struct json *j) {
    struct listing *l = arg;
    if (l->left-- <= 0) return CLIENT_STREAM_DONE;
    if (l->json) {
        json_put_value(&l->x.json, j);
        return 0;
    }
    int64_t steps = json_int(json_get(j, "steps"), 0);
    table_cell(&l->table, "%s", shown_text(json_get(j, "id")));
    table_cell(&l->table, "%s", shown_enum(json_get(j, "kind"), "JOB_KIND_"));
    table_cell(&l->table, "%s", shown_enum(json_get(j, "state"), "JOB_STATE_"));
    if (steps) table_cell(&l->table, "%lld/%lld", (long long)json_int(json_get(j, "step"), 0), (long long)steps);
    else table_cell(&l->table, "-");
    table_cell(&l->table, "%s", shown_text(json_get(j, "model")));
    table_cell(&l->table, "%s", shown_text(json_get(j, "dataset")));
    table_cell(&l->table, "%s", shown_time(json_get(j, "created_time_ms")));
    table_cell(&l->table, "%s", shown_text(json_get(j, "failure")));
    return 0;
}

static int run_list(struct cli *c) {
    struct listing l = {.json = cli_json(c), .left = cli_int(c, "--limit", JOBS_SHOWN_DEFAULT)};
    int r = remote_open(&l.x, c);
    table_init(&l.table, "JOB|KIND|STATE|>STEP|MODEL|DATASET|CREATED|FAILURE");
    if (l.json) {
        json_object(&l.x.json);
        json_key(&l.x.json, "jobs");
        json_array(&l.x.json);
    }
    remote_path(&l.x, "/v1/admin/jobs?limit=1000");
    if (r == 0) r = remote_each(&l.x, "jobs", &l, list_one);
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

/* ---- one job ---- */

static void job_path(struct remote *x, const char *id, const char *verb) {
    remote_path(x, "/v1/admin/jobs/");
    remote_add(x, "", id);
    (void)buf_append_str(&x->path, verb);
}

static int run_show(struct cli *c) {
    struct remote x;
    int r = remote_open(&x, c);
    job_path(&x, cli_operand(c, 0), "");
    if (r == 0) r = remote_get(&x);
    if (r == 0) print_job(&x, x.answer);
    if (r == 0 && !cli_json(c) && json_string(json_get(x.answer, "recipe")).len) (void)buf_printf(&x.out, "\n%.*s", SPAN_ARG(json_string(json_get(x.answer, "recipe"))));
    return remote_close(&x, r);
}

static int run_watch(struct cli *c) {
    struct remote x;
    struct json *job = NULL;
    int r = remote_open(&x, c);
    if (r == 0) r = remote_watch_job(&x, cli_operand(c, 0), &job);
    if (job) print_job(&x, job);
    json_free(job);
    return remote_close(&x, r);
}

static int change(struct cli *c, const char *verb) {
    struct remote x;
    int r = remote_open(&x, c);
    job_path(&x, cli_operand(c, 0), verb);
    if (r == 0) r = remote_call(&x, "POST", true); /* a wish twice is a wish */
    if (r == 0) print_job(&x, x.answer);
    return remote_close(&x, r);
}

static int run_pause(struct cli *c) { return change(c, "/pause"); }
static int run_resume(struct cli *c) { return change(c, "/resume"); }
static int run_cancel(struct cli *c) { return change(c, "/cancel"); }

/* A new job with all that the old one was asked for: its recipe, data and base are whole in it. */
static int run_retry(struct cli *c) {
    struct remote x;
    char id[ID_TEXT_MAX], made[256], reason[512];
    int r = remote_open(&x, c);
    job_path(&x, cli_operand(c, 0), "");
    if (r == 0) r = remote_get(&x);
    struct span state = r == 0 ? json_string(json_get(x.answer, "state")) : SPAN("");
    if (r == 0 && !span_eq_str(state, "JOB_STATE_FAILED") && !span_eq_str(state, "JOB_STATE_CANCELLED"))
        r = error_set(&x.err, E_STATE, "job %s is %s: only what failed or was cancelled is tried again", cli_operand(c, 0), shown_enum(json_get(x.answer, "state"), "JOB_STATE_"));
    struct json *old = x.answer;
    x.answer = NULL;
    if (r == 0) {
        static const char *const same[] = {"model", "recipe", "dataset", "base_model"};
        remote_path(&x, "/v1/admin/jobs");
        struct json_out w = remote_body(&x);
        (void)snprintf(reason, sizeof reason, "retry of %.200s", cli_operand(c, 0));
        json_str(&w, "id", id_make(id));
        json_str(&w, "reason", reason);
        json_span(&w, "kind", json_string(json_get(old, "kind")));
        for (size_t i = 0; i < sizeof same / sizeof *same; i++)
            if (json_string(json_get(old, same[i])).len) json_span(&w, same[i], json_string(json_get(old, same[i])));
        if (!json_is_null(json_get(old, "evaluate"))) {
            json_key(&w, "evaluate");
            json_put_value(&w, json_get(old, "evaluate"));
        }
        json_object_end(&w);
        r = remote_call(&x, "POST", true);
    }
    if (r == 0 && cli_flag(c, "--wait")) {
        struct json *job = NULL;
        span_copy(made, sizeof made, json_string(json_get(x.answer, "id")));
        r = remote_watch_job(&x, made, &job);
        if (job) print_job(&x, job);
        json_free(job);
    } else if (r == 0) {
        print_job(&x, x.answer);
    }
    json_free(old);
    return remote_close(&x, r);
}

static const struct cli_option TRAIN_OPTIONS[] = {
    {.name = "--recipe", .kind = CLI_FILE, .value = "FILE|PRESET", .doc = "The recipe, YAML, or the name of one that ships (needed)"},
    {.name = "--dataset", .kind = CLI_TEXT, .value = "NAME[@VERSION]", .doc = "What to train on; goes before the recipe's"},
    {.name = "--base", .kind = CLI_TEXT, .value = "MODEL", .doc = "The version to start from: NAME, NAME@VERSION or an alias; goes before the recipe's"},
    {.name = "--name", .kind = CLI_TEXT, .value = "MODEL", .doc = "What comes out is a new version of MODEL (needed)"},
    {.name = "--reason", .kind = CLI_TEXT, .value = "TEXT", .doc = "Why, for the records"},
    {.name = "--id", .kind = CLI_TEXT, .value = "ID", .doc = "Name the job: asked for again, the same id is the same job"},
    {.name = "--wait", .kind = CLI_FLAG, .doc = "Return when it has ended, and show how it goes"},
    {.name = "--dry-run", .kind = CLI_FLAG, .doc = "Check everything and say what would run; no job is made"},
    {.name = "--local", .kind = CLI_FLAG, .doc = "Train in this process, without a platform: one JSON line a step on stdout"},
    {.name = "--out", .kind = CLI_DIR, .value = "DIR", .doc = "With --local: the model directory; the same command goes on from its last checkpoint"},
    {0},
};
static const struct cli_option LIST_OPTIONS[] = {{.name = "--limit", .kind = CLI_INT, .value = "N", .doc = "How many, newest first; default 50", .min = 1, .max = 1000000}, {0}};
static const struct cli_option RETRY_OPTIONS[] = {{.name = "--wait", .kind = CLI_FLAG, .doc = "Return when it has ended, and show how it goes"}, {0}};

const struct verb VERBS_TRAIN[] = {
    {.name = "train", .operands = "", .summary = "Train a new version of a model", .options = TRAIN_OPTIONS, .json = true, .run = run_train,
     .help = "Makes a job; the trainer runs it from checkpoint to checkpoint, whatever is killed in between. What comes out is a candidate: it is measured by the gates, and a person approves it.\n"
             "With --wait the exit code says how the job ended.\n\n"
             "examples:\n"
             "  genloop train --dataset manuals --recipe pretrain-small --name guide --wait\n"
             "  genloop train --dataset manuals --recipe sft.yaml --base guide@1 --name guide --dry-run\n"
             "  genloop train --local --recipe recipe.yaml --out model/"},
    {.name = "jobs list", .operands = "", .summary = "Jobs, newest first", .options = LIST_OPTIONS, .json = true, .run = run_list},
    {.name = "jobs show", .operands = "JOB", .operands_min = 1, .operands_max = 1, .summary = "One job, with its recipe", .json = true, .run = run_show},
    {.name = "jobs watch", .operands = "JOB", .operands_min = 1, .operands_max = 1, .summary = "Follow a job until it has ended", .json = true, .run = run_watch,
     .help = "The exit code is 0 where it succeeded. Ctrl-C ends the watching, not the job."},
    {.name = "jobs pause", .operands = "JOB", .operands_min = 1, .operands_max = 1, .summary = "Stop at the next step, with a checkpoint", .json = true, .run = run_pause},
    {.name = "jobs resume", .operands = "JOB", .operands_min = 1, .operands_max = 1, .summary = "Go on with a paused job", .json = true, .run = run_resume},
    {.name = "jobs cancel", .operands = "JOB", .operands_min = 1, .operands_max = 1, .summary = "End a job for good", .json = true, .run = run_cancel},
    {.name = "jobs retry", .operands = "JOB", .operands_min = 1, .operands_max = 1, .summary = "A new job like one that failed or was cancelled", .options = RETRY_OPTIONS, .json = true, .run = run_retry},
    {0},
};
