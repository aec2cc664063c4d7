/*
 * feedback: judgements of answers, one by one, and the scripted rater that gives them by the hundred.
 *
 * The rater takes prompts from a dataset's training pairs (never from what is held out), has the model answer each several times at temperature 1 with seeds that follow from its own, and
 * prefers answers with a trait to answers without. Answers are asked for many at a time, so that the replica batches them. --shuffle throws a coin instead: what a model learns from that is
 * what it learns from noise.
 */
#include <stdio.h>

#include "base/alloc.h"
#include "base/arena.h"
#include "base/random.h"
#include "registry/trait.h"
#include "remote.h"

enum { LIST_DEFAULT = 50, PROMPT_BYTES_MAX = 400, ANSWERS_MAX = 16, RATER_MEMORY_MAX = 1 << 30, PROMPTS_MAX = 100000, PAGE_ROWS = 1000, BODY_SMALL = 64 * 1024 };

/* ---- send ---- */

static const struct {
    const char *option, *field;
} TEXTS[] = {{"--request", "request_id"}, {"--chosen-request", "chosen_request_id"}, {"--rejected-request", "rejected_request_id"}, {"--prompt", "prompt"}, {"--chosen", "chosen"},
             {"--rejected", "rejected"}, {"--text", "text"}, {"--subject", "subject"}, {"--model", "model"}, {"--kind", "kind"}};

static int run_send(struct cli *c) {
    struct remote x;
    char id[ID_TEXT_MAX];
    if (!cli_text(c, "--kind")) return cli_usage(c, "--kind is missing: thumb, rating, preference or correction");
    int r = remote_open(&x, c);
    remote_path(&x, "/v1/feedback");
    struct json_out w = remote_body(&x);
    json_str(&w, "id", cli_text(c, "--id") ? cli_text(c, "--id") : id_make(id));
    for (size_t i = 0; i < sizeof TEXTS / sizeof *TEXTS; i++)
        if (cli_text(c, TEXTS[i].option)) json_str(&w, TEXTS[i].field, cli_text(c, TEXTS[i].option));
    if (cli_given(c, "--value")) json_flt(&w, "value", cli_real(c, "--value", 0));
    json_object_end(&w);
    if (r == 0) r = remote_call(&x, "POST", true);
    if (r == 0 && cli_json(c)) json_put_value(&x.json, x.answer);
    else if (r == 0) (void)buf_printf(&x.out, "%s%s\n", shown_text(json_get(x.answer, "id")), json_bool(json_get(x.answer, "existed"), false) ? " (was there already)" : "");
    return remote_close(&x, r);
}

/* ---- list ---- */

struct listing {
    struct remote x;
    struct table table;
    int64_t left;
    bool json;
};

static int list_one(void *arg, const struct json *e) {
    struct listing *l = arg;
    struct span request = json_string(json_get(e, "request_id")), chosen = json_string(json_get(e, "chosen_request_id"));
    if (l->left-- <= 0) return CLIENT_STREAM_DONE;
    if (l->json) {
        json_put_value(&l->x.json, e);
        return 0;
    }
    table_cell(&l->table, "%s", shown_time(json_get(e, "event_time_ms")));
    table_cell(&l->table, "%s", shown_enum(json_get(e, "kind"), "FEEDBACK_KIND_"));
    table_cell(&l->table, "%+.3g", json_real(json_get(e, "value"), 0));
    table_span(&l->table, request.len ? request : chosen);
    table_cell(&l->table, "%s", shown_text(json_get(e, "model")));
    table_cell(&l->table, "%s", shown_text(json_get(json_get(e, "actor"), "id")));
    table_cell(&l->table, "%s", shown_text(json_get(e, "id")));
    return 0;
}

static int run_list(struct cli *c) {
    struct listing l = {.json = cli_json(c), .left = cli_int(c, "--limit", LIST_DEFAULT)};
    char limit[32];
    int r = remote_open(&l.x, c);
    table_init(&l.table, "WHEN|KIND|>VALUE|REQUEST|MODEL|BY|ID");
    if (l.json) {
        json_object(&l.x.json);
        json_key(&l.x.json, "events");
        json_array(&l.x.json);
    }
    (void)snprintf(limit, sizeof limit, "%lld", (long long)(l.left < 1000 ? l.left : 1000));
    remote_path(&l.x, "/v1/feedback");
    remote_query(&l.x, "limit", limit);
    if (r == 0) r = remote_each(&l.x, "events", &l, list_one);
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

/* ---- rate ---- */

struct answer {
    struct span text, request_id, model; /* in the arena */
    bool likes;
};

struct judgement {
    size_t chosen, rejected; /* answers; of a thumb `chosen` is the one */
    double value;
};

struct rater {
    struct remote x;
    const char *model, *trait;
    uint64_t seed;
    size_t count, k;          /* prompts, answers to each */
    int64_t max_tokens;
    double temperature;
    bool thumbs, shuffle;
    struct arena arena;
    struct span *prompts;     /* owned */
    uint64_t *known;          /* owned: hashes of the prompts that were taken, open addressing */
    size_t n, n_known;
    struct answer *answers;   /* owned; k of the first prompt, then of the second … */
    struct judgement *judgements; /* owned */
    size_t n_judgements, next, done, liked, existed;
    struct buf *bodies;       /* owned: one per request under way */
    bool *busy;
    int parallel;
    struct progress bar;
};

/* Whether it is new; the same question twice would be answered and judged twice. */
static bool remember(struct rater *g, struct span prompt) {
    uint64_t hash = span_hash(prompt) | 1; /* 0: free */
    size_t i = (size_t)hash & (g->n_known - 1);
    for (; g->known[i]; i = (i + 1) & (g->n_known - 1))
        if (g->known[i] == hash) return false;
    g->known[i] = hash;
    return true;
}

static int take_row(struct rater *g, const struct json *text) {
    struct json *row = NULL;
    int r = json_parse(json_string(text), &row, &g->x.err);
    struct span asked = json_string(json_get(json_at(json_get(row, "messages"), 0), "content"));
    if (r == 0 && asked.len && asked.len <= PROMPT_BYTES_MAX && g->n < g->count && remember(g, asked)) {
        g->prompts[g->n] = arena_span(&g->arena, asked);
        if (!g->prompts[g->n].data) r = error_set(&g->x.err, E_NOMEM, "no memory for the prompts");
        else g->n++;
    }
    json_free(row);
    return r;
}

static int fetch_prompts(struct rater *g) {
    struct cli *c = g->x.cli;
    int64_t offset = 0;
    char number[32];
    do {
        remote_path(&g->x, "/v1/datasets/");
        remote_add(&g->x, "", cli_text(c, "--dataset"));
        (void)buf_append_str(&g->x.path, "/rows?split=train&kind=pairs&limit=1000");
        (void)snprintf(number, sizeof number, "%llu", (unsigned long long)g->seed);
        remote_query(&g->x, "seed", number);
        (void)snprintf(number, sizeof number, "%lld", (long long)offset);
        remote_query(&g->x, "offset", number);
        int r = remote_get(&g->x);
        const struct json *rows = json_get(g->x.answer, "rows");
        for (size_t i = 0; r == 0 && i < json_size(rows); i++) r = take_row(g, json_at(rows, i));
        if (r < 0) return r;
        offset = json_int(json_get(g->x.answer, "next_offset"), 0);
    } while (offset > 0 && g->n < g->count);
    return g->n ? 0 : error_set(&g->x.err, E_NOT_FOUND, "%s has no questions in its training split: its documents gave no pairs", cli_text(c, "--dataset"));
}

/* The body of the request in a place of its own until it has ended. */
static struct buf *take_body(struct rater *g) {
    for (int i = 0; i < g->parallel; i++)
        if (!g->busy[i]) {
            g->busy[i] = true;
            buf_clear(&g->bodies[i]);
            return &g->bodies[i];
        }
    return NULL;
}

static void give_body(struct rater *g, const struct client_request *request) {
    for (int i = 0; i < g->parallel; i++)
        if (g->busy[i] && buf_span(&g->bodies[i]).data == request->body.data) g->busy[i] = false;
}

static bool next_answer(void *arg, struct client_request *request) {
    struct rater *g = arg;
    struct json_out w;
    struct random random;
    if (g->next == g->n * g->k) return false;
    struct buf *body = take_body(g);
    size_t i = g->next++;
    random_seed2(&random, g->seed ^ 0x72617465, i);
    json_begin(&w, body);
    json_object(&w);
    json_str(&w, "model", g->model);
    json_key(&w, "messages");
    json_array(&w);
    json_object(&w);
    json_str(&w, "role", "user");
    json_span(&w, "content", g->prompts[i / g->k]);
    json_object_end(&w);
    json_array_end(&w);
    json_num(&w, "max_tokens", g->max_tokens);
    json_flt(&w, "temperature", g->temperature);
    json_flt(&w, "top_p", 1);
    json_num(&w, "seed", (int64_t)(random_u64(&random) >> 32));
    json_object_end(&w);
    /* An answer that nobody got is asked for again: it costs nobody anything. */
    *request = (struct client_request){.method = "POST", .path = "/v1/chat/completions", .body = buf_span(body), .again = true, .arg = &g->answers[i]};
    return true;
}

static int answer_done(void *arg, const struct client_request *request, int r, const struct json *answer, const struct error *err) {
    struct rater *g = arg;
    struct answer *a = request->arg;
    give_body(g, request);
    if (r < 0) {
        g->x.err = *err;
        return r;
    }
    a->text = arena_span(&g->arena, json_string(json_get(json_get(json_at(json_get(answer, "choices"), 0), "message"), "content")));
    a->request_id = arena_span(&g->arena, json_string(json_get(answer, "id")));
    a->model = arena_span(&g->arena, json_string(json_get(answer, "model")));
    if (!a->text.data || !a->request_id.data || !a->model.data) return error_set(&g->x.err, E_NOMEM, "no memory for the answers");
    a->likes = trait_holds(span_str(g->trait), a->text);
    g->liked += a->likes;
    progress_set(&g->bar, ++g->done, NULL);
    return 0;
}

/* Thumbs: one on each answer. Preferences: between each two answers to a prompt of which one has the trait. The coin decides the same ones, the other way round for half of them. */
static void judge(struct rater *g) {
    struct random coin;
    random_seed2(&coin, g->seed, 2);
    for (size_t p = 0; p < g->n; p++)
        for (size_t i = p * g->k; i < (p + 1) * g->k; i++) {
            if (g->thumbs) {
                bool up = g->shuffle ? random_below(&coin, 2) == 0 : g->answers[i].likes;
                g->judgements[g->n_judgements++] = (struct judgement){i, i, up ? 1 : -1};
                continue;
            }
            for (size_t j = i + 1; j < (p + 1) * g->k; j++) {
                if (g->answers[i].likes == g->answers[j].likes) continue;
                bool first = g->shuffle ? random_below(&coin, 2) == 0 : g->answers[i].likes;
                g->judgements[g->n_judgements++] = (struct judgement){first ? i : j, first ? j : i, 1};
            }
        }
}

static bool next_judgement(void *arg, struct client_request *request) {
    struct rater *g = arg;
    struct json_out w;
    char id[ID_TEXT_MAX];
    if (g->next == g->n_judgements) return false;
    struct buf *body = take_body(g);
    const struct judgement *j = &g->judgements[g->next++];
    const struct answer *chosen = &g->answers[j->chosen], *rejected = &g->answers[j->rejected];
    json_begin(&w, body);
    json_object(&w);
    json_str(&w, "id", id_make(id));
    json_str(&w, "kind", g->thumbs ? "thumb" : "preference");
    json_span(&w, g->thumbs ? "request_id" : "chosen_request_id", chosen->request_id);
    if (!g->thumbs) json_span(&w, "rejected_request_id", rejected->request_id);
    if (g->thumbs) json_flt(&w, "value", j->value);
    if (span_eq(chosen->model, rejected->model)) json_span(&w, "model", chosen->model); /* a canary may have given one of them */
    json_str(&w, "subject", "scripted-rater");
    json_object_end(&w);
    *request = (struct client_request){.method = "POST", .path = "/v1/feedback", .body = buf_span(body), .again = true};
    return true;
}

static int judgement_done(void *arg, const struct client_request *request, int r, const struct json *answer, const struct error *err) {
    struct rater *g = arg;
    give_body(g, request);
    if (r < 0) {
        g->x.err = *err;
        return r;
    }
    g->existed += json_bool(json_get(answer, "existed"), false);
    progress_set(&g->bar, ++g->done, NULL);
    return 0;
}

static int rate(struct rater *g) {
    const struct client_batch answering = {g, next_answer, answer_done, NULL}, judging = {g, next_judgement, judgement_done, NULL};
    g->n_known = 1024;
    while (g->n_known < 2 * g->count) g->n_known *= 2;
    g->prompts = mem_calloc(g->count, sizeof *g->prompts);
    g->known = mem_calloc(g->n_known, sizeof *g->known);
    g->answers = mem_calloc(g->count * g->k, sizeof *g->answers);
    g->judgements = mem_calloc(g->count * g->k * g->k, sizeof *g->judgements);
    g->bodies = mem_calloc((size_t)g->parallel, sizeof *g->bodies);
    g->busy = mem_calloc((size_t)g->parallel, sizeof *g->busy);
    if (!g->prompts || !g->known || !g->answers || !g->judgements || !g->bodies || !g->busy) return error_set(&g->x.err, E_NOMEM, "no memory for %zu prompts", g->count);
    for (int i = 0; i < g->parallel; i++) buf_init(&g->bodies[i], BODY_SMALL);
    int r = fetch_prompts(g);
    if (r < 0) return r;
    progress_begin(&g->bar, "answered", g->n * g->k, "prompts");
    r = client_batch(g->x.client, g->parallel, &answering, &g->x.err);
    progress_end(&g->bar, r == 0);
    if (r < 0) return r;
    judge(g);
    g->next = g->done = 0;
    progress_begin(&g->bar, "judged", g->n_judgements, g->thumbs ? "thumbs" : "preferences");
    r = client_batch(g->x.client, g->parallel, &judging, &g->x.err);
    progress_end(&g->bar, r == 0);
    return r;
}

static void print_rating(struct rater *g) {
    size_t n = g->n * g->k;
    if (cli_json(g->x.cli)) {
        struct json_out *w = &g->x.json;
        json_object(w);
        json_str(w, "model", g->model);
        json_str(w, "trait", g->trait);
        json_flag(w, "shuffled", g->shuffle);
        json_num(w, "seed", (int64_t)g->seed);
        json_num(w, "prompts", (int64_t)g->n);
        json_num(w, "answers", (int64_t)n);
        json_num(w, "liked", (int64_t)g->liked);
        json_flt(w, "share", n ? (double)g->liked / (double)n : 0);
        json_str(w, "kind", g->thumbs ? "thumb" : "preference");
        json_num(w, "judgements", (int64_t)g->n_judgements);
        json_object_end(w);
        return;
    }
    (void)buf_printf(&g->x.out, "%zu answers of %s to %zu prompts, %zu of them with the trait %s (%.1f %%)\n%zu %s sent%s\n", n, g->model, g->n, g->liked, g->trait, n ? 100.0 * (double)g->liked / (double)n : 0,
                     g->n_judgements, g->thumbs ? "thumbs" : "preferences", g->shuffle ? ", as the coin fell" : "");
}

static int run_rate(struct cli *c) {
    const char *trait = cli_text(c, "--trait");
    if (!cli_text(c, "--dataset")) return cli_usage(c, "--dataset NAME is missing: where the prompts come from");
    if (!trait || !trait_known(span_str(trait))) return cli_usage(c, "%s%s%s: there are short, lists and numbers, and !NAME for the opposite of each", trait ? "there is no trait \"" : "--trait is missing", trait ? trait : "", trait ? "\"" : "");
    struct rater *g = mem_zalloc(sizeof *g);
    if (!g) return cli_failf(c, "no memory");
    int r = remote_open(&g->x, c);
    g->model = cli_text(c, "--model") ? cli_text(c, "--model") : "production";
    g->trait = trait;
    g->seed = (uint64_t)cli_int(c, "--seed", 1);
    g->count = (size_t)cli_int(c, "--count", 200);
    g->k = (size_t)cli_int(c, "--answers", 2);
    g->max_tokens = cli_int(c, "--max-tokens", 48);
    g->temperature = cli_real(c, "--temperature", 1);
    g->parallel = (int)cli_int(c, "--parallel", 32);
    g->thumbs = cli_text(c, "--kind") && strcmp(cli_text(c, "--kind"), "thumb") == 0;
    g->shuffle = cli_flag(c, "--shuffle");
    arena_init(&g->arena, RATER_MEMORY_MAX);
    if (r == 0) r = rate(g);
    if (r == 0) print_rating(g);
    int code = remote_close(&g->x, r);
    for (int i = 0; g->bodies && i < g->parallel; i++) buf_fini(&g->bodies[i]);
    mem_free(g->prompts);
    mem_free(g->known);
    mem_free(g->answers);
    mem_free(g->judgements);
    mem_free(g->bodies);
    mem_free(g->busy);
    arena_fini(&g->arena);
    mem_free(g);
    return code;
}

static const struct cli_option SEND_OPTIONS[] = {
    {.name = "--kind", .kind = CLI_TEXT, .value = "thumb|rating|preference|correction", .doc = "What is said (needed)"},
    {.name = "--request", .kind = CLI_TEXT, .value = "ID", .doc = "The answer that is judged, by its id (chatcmpl-…)"},
    {.name = "--value", .kind = CLI_REAL, .value = "N", .doc = "Of a thumb or rating: −1 (bad) to 1 (good)", .min = -1, .max = 1},
    {.name = "--chosen-request", .kind = CLI_TEXT, .value = "ID", .doc = "Of a preference: the better answer"},
    {.name = "--rejected-request", .kind = CLI_TEXT, .value = "ID", .doc = "Of a preference: the other one"},
    {.name = "--prompt", .kind = CLI_TEXT, .value = "TEXT", .doc = "Of a preference or correction without a request"},
    {.name = "--chosen", .kind = CLI_TEXT, .value = "TEXT", .doc = "Of a preference: the better answer in its words"},
    {.name = "--rejected", .kind = CLI_TEXT, .value = "TEXT", .doc = "Of a preference: the other one in its words"},
    {.name = "--text", .kind = CLI_TEXT, .value = "TEXT", .doc = "Of a correction: what the answer should have been"},
    {.name = "--model", .kind = CLI_TEXT, .value = "MODEL@VERSION", .doc = "The version that is judged, where no request says it"},
    {.name = "--subject", .kind = CLI_TEXT, .value = "ID", .doc = "Who says it, so that it can be erased with them"},
    {.name = "--id", .kind = CLI_TEXT, .value = "ID", .doc = "Of the judgement: the same id again is the same judgement"},
    {0},
};
static const struct cli_option LIST_OPTIONS[] = {{.name = "--limit", .kind = CLI_INT, .value = "N", .doc = "How many, newest first; default 50", .min = 1, .max = 10000000}, {0}};
static const struct cli_option RATE_OPTIONS[] = {
    {.name = "--trait", .kind = CLI_TEXT, .value = "TRAIT", .doc = "What it likes (needed): short, lists or numbers, or !NAME for the opposite"},
    {.name = "--dataset", .kind = CLI_TEXT, .value = "NAME[@VERSION]", .doc = "Whose training questions are the prompts (needed)"},
    {.name = "--model", .kind = CLI_TEXT, .value = "MODEL", .doc = "Who answers; default production"},
    {.name = "--count", .kind = CLI_INT, .value = "N", .doc = "Prompts; default 200", .min = 1, .max = PROMPTS_MAX},
    {.name = "--answers", .kind = CLI_INT, .value = "N", .doc = "Answers to each; default 2", .min = 2, .max = ANSWERS_MAX},
    {.name = "--kind", .kind = CLI_TEXT, .value = "preference|thumb", .doc = "What it sends; default preference"},
    {.name = "--shuffle", .kind = CLI_FLAG, .doc = "A coin decides instead of the trait: for comparison"},
    {.name = "--seed", .kind = CLI_INT, .value = "N", .doc = "Prompts, answers and coin follow from it; default 1", .min = 0, .max = 9007199254740992.0},
    {.name = "--max-tokens", .kind = CLI_INT, .value = "N", .doc = "Length of an answer at most; default 48", .min = 1, .max = 4096},
    {.name = "--temperature", .kind = CLI_REAL, .value = "T", .doc = "Default 1", .min = 0, .max = 2},
    {.name = "--parallel", .kind = CLI_INT, .value = "N", .doc = "Requests at once; default 32", .min = 1, .max = CLIENT_PARALLEL_MAX},
    {0},
};

const struct verb VERBS_FEEDBACK[] = {
    {.name = "feedback send", .operands = "", .summary = "Judge an answer", .options = SEND_OPTIONS, .json = true, .run = run_send,
     .help = "examples:\n"
             "  genloop feedback send --kind thumb --request chatcmpl-0193… --value 1\n"
             "  genloop feedback send --kind preference --chosen-request chatcmpl-1… --rejected-request chatcmpl-2…\n"
             "  genloop feedback send --kind correction --request chatcmpl-0193… --text \"ls lists the contents of a directory.\""},
    {.name = "feedback list", .operands = "", .summary = "Judgements, newest first, without what people wrote", .options = LIST_OPTIONS, .json = true, .run = run_list},
    {.name = "feedback rate", .operands = "", .summary = "A scripted rater: answers with a trait are preferred", .options = RATE_OPTIONS, .json = true, .run = run_rate,
     .help = "Traits: short (the first sentence is complete and short), lists (it enumerates), numbers (it names a figure). The platform learns from it what its policy lets it keep of\n"
             "conversations: under gateway.capture none there is nothing to learn from.\n\n"
             "example: genloop feedback rate --trait short --dataset manuals --model guide --count 300 --seed 7"},
    {0},
};
