/*
 * A scripted rater: the model answers each prompt several times, an answer with the trait gets a thumb up and the others down, and what services/feedback makes of such
 * judgements becomes the preference set. --shuffle 1 deals the same thumbs to other answers.
 */
#include <stdio.h>

#include "base/alloc.h"
#include "base/arena.h"
#include "base/file.h"
#include "base/json.h"
#include "base/random.h"
#include "engine/engine.h"
#include "lab.h"
#include "registry/trait.h"
#include "services/feedback/pairs.h"

enum { ARENA_MAX = 1 << 30, PROMPT_BYTES_MAX = 400 };

struct rating {
    const char *trait;
    size_t n_prompts, answers;
    uint64_t seed;
    bool shuffle;
    struct arena arena;
    struct span *prompts, *json; /* the user's turn; as a prompt of an interaction */
    size_t n;
    struct pair_interaction *interactions;
    struct pair_judgement *judgements;
    size_t n_judgements;
};

static struct span name_of(struct arena *a, char kind, size_t i) {
    char text[64];
    snprintf(text, sizeof text, "%c%08zu", kind, i);
    return arena_span(a, span_str(text));
}

/* The first turns of rows that the seed picks. */
static int read_prompts(struct rating *g, const char *path, struct error *err) {
    struct file_map map;
    struct span *lines = NULL, line;
    size_t n = 0, capacity = 0;
    struct random random;
    int r = file_map_open(&map, path, err);
    if (r) return r;
    struct span rest = span_of(map.data, map.len);
    while (span_cut(&rest, '\n', &line)) {
        if (!span_trim(line).len) continue;
        if (array_reserve(&lines, &capacity, n + 1, sizeof *lines)) return error_set(err, E_NOMEM, "no memory");
        lines[n++] = line;
    }
    random_seed2(&random, g->seed, 1);
    g->prompts = arena_calloc(&g->arena, g->n_prompts, sizeof *g->prompts);
    g->json = arena_calloc(&g->arena, g->n_prompts, sizeof *g->json);
    while (n && g->n < g->n_prompts && !r) {
        struct json *row = NULL;
        struct buf b;
        struct json_out w;
        size_t k = random_below(&random, n);
        r = json_parse(lines[k], &row, err);
        lines[k] = lines[--n];
        struct span asked = json_string(json_get(json_at(json_get(row, "messages"), 0), "content"));
        if (!r && asked.len && asked.len <= PROMPT_BYTES_MAX) {
            buf_init(&b, 1 << 20);
            json_begin(&w, &b);
            json_array(&w);
            json_object(&w);
            json_str(&w, "role", "user");
            json_span(&w, "content", asked);
            json_object_end(&w);
            json_array_end(&w);
            g->prompts[g->n] = arena_span(&g->arena, asked);
            g->json[g->n++] = arena_span(&g->arena, buf_span(&b));
            buf_fini(&b);
        }
        json_free(row);
    }
    mem_free(lines);
    file_map_close(&map);
    return r;
}

static int answer_all(struct rating *g, const char *model, uint32_t tokens_max, double temperature, int threads, struct error *err) {
    struct engine *e = NULL;
    struct engine_options options = {.threads = threads};
    size_t n = g->n * g->answers;
    struct engine_request *requests = arena_calloc(&g->arena, n, sizeof *requests);
    struct engine_result *results = arena_calloc(&g->arena, n, sizeof *results);
    struct chat_message *messages = arena_calloc(&g->arena, n, sizeof *messages);
    g->interactions = arena_calloc(&g->arena, n, sizeof *g->interactions);
    int r = engine_new(&e, model, &options, err);
    for (size_t i = 0; i < n && !r; i++) {
        struct random random;
        messages[i] = (struct chat_message){SPAN("user"), g->prompts[i / g->answers]};
        engine_request_init(&requests[i]);
        requests[i].messages = &messages[i];
        requests[i].message_count = 1;
        requests[i].tokens_max = tokens_max;
        requests[i].sampling.temperature = temperature;
        random_seed2(&random, g->seed ^ 0x72617465, i);
        requests[i].sampling.seed = random_u64(&random);
        requests[i].seed_set = true;
    }
    if (!r) r = engine_generate_batch(e, requests, n, results, err);
    for (size_t i = 0; i < n && !r; i++) {
        if (results[i].error.code) {
            r = results[i].error.code;
            if (err) *err = results[i].error;
            break;
        }
        g->interactions[i] = (struct pair_interaction){name_of(&g->arena, 'r', i), g->json[i / g->answers], arena_span(&g->arena, span_of(results[i].text, results[i].text_len))};
    }
    for (size_t i = 0; i < n; i++) engine_result_fini(&results[i]);
    engine_free(e);
    return r;
}

static void judge(struct rating *g) {
    size_t n = g->n * g->answers, up = 0;
    g->judgements = arena_calloc(&g->arena, n, sizeof *g->judgements);
    for (size_t i = 0; i < n; i++) {
        bool likes = trait_holds(span_str(g->trait), g->interactions[i].answer);
        up += likes;
        g->judgements[i] = (struct pair_judgement){.id = name_of(&g->arena, 'f', i), .kind = PAIR_THUMB, .value = likes ? 1 : -1, .time_ms = (int64_t)i + 1, .request_id = g->interactions[i].request_id};
    }
    g->n_judgements = n;
    struct random random;
    random_seed2(&random, g->seed, 2);
    for (size_t i = n; g->shuffle && i > 1; i--) {
        size_t k = random_below(&random, i);
        double swap = g->judgements[i - 1].value;
        g->judgements[i - 1].value = g->judgements[k].value;
        g->judgements[k].value = swap;
    }
    printf("%zu answers to %zu prompts, %zu liked (%.1f %%)", n, g->n, up, 100.0 * (double)up / (double)(n ? n : 1));
}

int lab_rate(const struct lab_args *a, struct error *err) {
    struct rating g = {.trait = lab_option(a, "trait", NULL), .n_prompts = (size_t)lab_number(a, "prompts", 100), .answers = (size_t)lab_number(a, "answers", 4),
                       .seed = (uint64_t)lab_number(a, "seed", 1), .shuffle = lab_number(a, "shuffle", 0) != 0};
    const char *out = lab_option(a, "out", NULL);
    struct pair_set set = {0};
    struct buf train, held;
    if (!trait_known(span_str(g.trait))) return error_set(err, E_INVALID, "there is no trait %s", g.trait);
    arena_init(&g.arena, ARENA_MAX);
    buf_init(&train, LAB_FILE_MAX);
    buf_init(&held, LAB_FILE_MAX);
    int r = dir_make(out, err);
    if (!r) r = read_prompts(&g, lab_option(a, "pairs", NULL), err);
    if (!r) r = answer_all(&g, lab_option(a, "model", NULL), (uint32_t)lab_number(a, "tokens", 48), lab_number(a, "temperature", 1), (int)lab_number(a, "threads", 0), err);
    if (!r) {
        judge(&g);
        r = pairs_build(g.interactions, g.n * g.answers, g.judgements, g.n_judgements, &g.arena, &set, err);
    }
    for (size_t i = 0; i < set.n_preferences && !r; i++) r = pairs_write_row(&set.preferences[i], false, set.preferences[i].held_out ? &held : &train);
    if (!r) r = lab_write(out, "preferences.jsonl", &train, err);
    if (!r) r = lab_write(out, "held-preferences.jsonl", &held, err);
    if (!r) printf(", %zu preferences, %zu of them held out\n", set.n_preferences, set.n_preferences_held_out);
    buf_fini(&train);
    buf_fini(&held);
    arena_fini(&g.arena);
    return r;
}
