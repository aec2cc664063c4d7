#include "gates/gates.h"

#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/json.h"
#include "registry/state.h"
#include "registry/trait.h"
#include "gates/encoder.h"
#include "gates/stats.h"

const struct gate_limits GATE_LIMITS_DEFAULT = {
    .perplexity_ratio_max = 1.05,
    .win_rate_min = 0.5,
    .win_rate_pairs_min = 20,
    .mean_length_ratio_min = 0.5,
    .mean_length_ratio_max = 2.0,
    .repetition_rise_max = 0.1,
    .empty_max = 0.05,
    .empty_rise_max = 0.05,
    .distinct_3_ratio_min = 0.8,
    .first_bits_per_byte_max = 3.0,
    .first_repetition_max = 0.3,
    .first_distinct_3_min = 0.3,
    .documents_min = 10,
    .samples_min = 100,
    .source_min = 0.5,
    .encoder_cosine_max = 0.98,
    .encoder_spread_min = 0.01,
    .encoder_recall_min = 0.25,
    .encoder_recall_drop_max = 0.1,
};

#define REAL(FIELD) {#FIELD, offsetof(struct gate_limits, FIELD), false}
#define COUNT(FIELD) {#FIELD, offsetof(struct gate_limits, FIELD), true}
static const struct {
    const char *name;
    size_t at;
    bool count;
} limit_rows[GATE_LIMITS_COUNT] = {
    REAL(perplexity_ratio_max), REAL(win_rate_min), COUNT(win_rate_pairs_min), REAL(mean_length_ratio_min), REAL(mean_length_ratio_max), REAL(repetition_rise_max), REAL(empty_max),
    REAL(empty_rise_max), REAL(distinct_3_ratio_min), REAL(first_bits_per_byte_max), REAL(first_repetition_max), REAL(first_distinct_3_min), COUNT(documents_min), COUNT(samples_min), REAL(source_min),
    REAL(encoder_cosine_max), REAL(encoder_spread_min), REAL(encoder_recall_min), REAL(encoder_recall_drop_max),
};
_Static_assert(GATE_LIMITS_COUNT * sizeof(double) == sizeof(struct gate_limits), "each limit has a row");

const char *gate_limit_name(int i) { return limit_rows[i].name; }

double gate_limit_get(const struct gate_limits *limits, int i) {
    const char *at = (const char *)limits + limit_rows[i].at;
    return limit_rows[i].count ? (double)*(const int64_t *)(const void *)at : *(const double *)(const void *)at;
}

int gate_limit_set(struct gate_limits *limits, struct span name, double value) {
    for (int i = 0; i < GATE_LIMITS_COUNT; i++) {
        if (!span_eq_str(name, limit_rows[i].name)) continue;
        char *at = (char *)limits + limit_rows[i].at;
        if (limit_rows[i].count && !(value >= 0 && value <= 1e15 && value == floor(value))) return E_RANGE;
        if (limit_rows[i].count) *(int64_t *)(void *)at = (int64_t)value;
        else *(double *)(void *)at = value;
        return 0;
    }
    return E_NOT_FOUND;
}

/* Bits that a token costs under a model that has no finite probability for it: far beyond any vocabulary, yet summable. */
#define WORST_NLL (64 * 0.69314718055994530942)
#define LN2 0.69314718055994530942
/* One seed for all bootstraps: part of the definition of the figures. */
#define BOOTSTRAP_SEED UINT64_C(0x67656e6c6f6f7031)

struct answer {
    struct span text;
    uint32_t *tokens;
    size_t n_tokens;
};

struct evaluation_record {
    struct json *root;
    struct encoder_record *encoder; /* NULL: it generates text */
    struct span candidate, held_out, baseline, tokenizer_candidate, tokenizer_baseline, tokenizer_claimed, trait;
    bool round_trip; /* true where the record does not say */
    bool halves;     /* of documents the second halves were measured, given the first */
    size_t n_documents, n_pairs, n_samples;
    double *bytes, *tokens_candidate, *nll_candidate, *tokens_baseline, *nll_baseline;
    double *nll_other; /* halves: of the candidate, given another document's first half */
    double *margin_candidate, *margin_baseline;
    uint64_t *pair_prompt; /* whose pairs belong together: a hash */
    struct answer *answers_candidate, *answers_baseline;
    uint32_t *ids; /* of all answers */
};

void evaluation_record_free(struct evaluation_record *r) {
    if (!r) return;
    json_free(r->root);
    encoder_record_free(r->encoder);
    mem_free(r->bytes);
    mem_free(r->tokens_candidate);
    mem_free(r->nll_candidate);
    mem_free(r->tokens_baseline);
    mem_free(r->nll_baseline);
    mem_free(r->nll_other);
    mem_free(r->margin_candidate);
    mem_free(r->margin_baseline);
    mem_free(r->pair_prompt);
    mem_free(r->answers_candidate);
    mem_free(r->answers_baseline);
    mem_free(r->ids);
    mem_free(r);
}

struct span evaluation_record_candidate(const struct evaluation_record *r) { return r->candidate; }
struct span evaluation_record_baseline(const struct evaluation_record *r) { return r->baseline; }

static bool is_model(struct span s) {
    struct span name;
    uint32_t version;
    return model_name_parse(s, &name, &version) == 0 && version != 0;
}

static bool is_number(const struct json *v) { return json_type(v) == JSON_TYPE_INT || json_type(v) == JSON_TYPE_REAL; }

/* A count: a whole number from 0 to max. */
static int get_count(const struct json *object, const char *key, const char *where, size_t i, double max, double *out, struct error *err) {
    const struct json *v = json_get(object, key);
    double d = json_real(v, -1);
    if (!is_number(v) || !(d >= 0 && d <= max) || d != floor(d))
        return error_set(err, E_INVALID, "%s[%zu].%s must be a whole number from 0 to %.0f, not %s", where, i, key, max, json_type_name(v));
    *out = d;
    return 0;
}

static int get_nll(const struct json *document, const char *key, size_t i, double tokens, double *out, struct error *err) {
    const struct json *v = json_get(document, key);
    if (!v || (!is_number(v) && !json_is_null(v))) return error_set(err, E_INVALID, "documents[%zu].%s must be a number, not %s", i, key, json_type_name(v));
    double d = json_real(v, NAN), worst = tokens * WORST_NLL;
    if (d < 0) return error_set(err, E_INVALID, "documents[%zu].%s is negative", i, key);
    *out = isfinite(d) && d < worst ? d : worst;
    return 0;
}

static int get_logprob(const struct json *pair, const char *key, size_t i, double *out, struct error *err) {
    const struct json *v = json_get(pair, key);
    if (!v || (!is_number(v) && !json_is_null(v))) return error_set(err, E_INVALID, "pairs[%zu].%s must be a number, not %s", i, key, json_type_name(v));
    double d = json_real(v, -INFINITY);
    if (d > 0) return error_set(err, E_INVALID, "pairs[%zu].%s is no log-probability: it is above 0", i, key);
    *out = d < -1e12 ? -1e12 : d;
    return 0;
}

static int get_array(const struct json *root, const char *key, size_t max, const struct json **array, size_t *n, struct error *err) {
    const struct json *v = json_get(root, key);
    if (v && json_type(v) != JSON_TYPE_ARRAY) return error_set(err, E_INVALID, "%s must be an array, not %s", key, json_type_name(v));
    if (json_size(v) > max) return error_set(err, E_TOO_LARGE, "%s has %zu entries, more than %zu", key, json_size(v), max);
    *array = v;
    *n = json_size(v);
    return 0;
}

static int read_documents(struct evaluation_record *r, struct error *err) {
    const struct json *array;
    int code = get_array(r->root, "documents", GATES_DOCUMENTS_MAX, &array, &r->n_documents, err);
    if (code != 0) return code;
    size_t n = r->n_documents;
    r->bytes = mem_calloc(n, sizeof *r->bytes);
    r->tokens_candidate = mem_calloc(n, sizeof *r->bytes);
    r->nll_candidate = mem_calloc(n, sizeof *r->bytes);
    r->tokens_baseline = mem_calloc(n, sizeof *r->bytes);
    r->nll_baseline = mem_calloc(n, sizeof *r->bytes);
    r->nll_other = mem_calloc(r->halves ? n : 0, sizeof *r->bytes);
    if (!r->bytes || !r->tokens_candidate || !r->nll_candidate || !r->tokens_baseline || !r->nll_baseline || !r->nll_other)
        return error_set(err, E_NOMEM, "no memory for %zu documents", n);
    for (size_t i = 0; i < n && code == 0; i++) {
        const struct json *d = json_at(array, i);
        code = get_count(d, "bytes", "documents", i, 1e12, &r->bytes[i], err);
        if (code == 0) code = get_count(d, "tokens_candidate", "documents", i, 1e12, &r->tokens_candidate[i], err);
        if (code == 0) code = get_nll(d, "nll_candidate", i, r->tokens_candidate[i], &r->nll_candidate[i], err);
        if (code == 0 && r->halves) code = get_nll(d, "nll_candidate_other", i, r->tokens_candidate[i], &r->nll_other[i], err);
        if (code == 0 && r->baseline.len) {
            code = get_count(d, "tokens_baseline", "documents", i, 1e12, &r->tokens_baseline[i], err);
            if (code == 0) code = get_nll(d, "nll_baseline", i, r->tokens_baseline[i], &r->nll_baseline[i], err);
        }
    }
    return code;
}

static int read_pairs(struct evaluation_record *r, struct error *err) {
    const struct json *array;
    int code = get_array(r->root, "pairs", GATES_PAIRS_MAX, &array, &r->n_pairs, err);
    if (code != 0) return code;
    r->margin_candidate = mem_calloc(r->n_pairs, sizeof *r->margin_candidate);
    r->margin_baseline = mem_calloc(r->n_pairs, sizeof *r->margin_baseline);
    r->pair_prompt = mem_calloc(r->n_pairs, sizeof *r->pair_prompt);
    if (!r->margin_candidate || !r->margin_baseline || !r->pair_prompt) return error_set(err, E_NOMEM, "no memory for %zu pairs", r->n_pairs);
    for (size_t i = 0; i < r->n_pairs && code == 0; i++) {
        const struct json *p = json_at(array, i);
        double chosen = 0, rejected = 0;
        struct span prompt = json_string(json_get(p, "prompt_id"));
        r->pair_prompt[i] = prompt.len ? span_hash(prompt) : i; /* a record that does not say: each stands alone */
        code = get_logprob(p, "candidate_chosen", i, &chosen, err);
        if (code == 0) code = get_logprob(p, "candidate_rejected", i, &rejected, err);
        r->margin_candidate[i] = chosen - rejected;
        if (code == 0 && r->baseline.len) {
            code = get_logprob(p, "baseline_chosen", i, &chosen, err);
            if (code == 0) code = get_logprob(p, "baseline_rejected", i, &rejected, err);
            r->margin_baseline[i] = chosen - rejected;
        }
    }
    return code;
}

static int check_answer(const struct json *answer, const char *side, size_t i, size_t *total, struct error *err) {
    const struct json *tokens = json_get(answer, "tokens");
    if (json_type(json_get(answer, "text")) != JSON_TYPE_STRING || json_type(tokens) != JSON_TYPE_ARRAY)
        return error_set(err, E_INVALID, "samples[%zu].%s needs text and tokens", i, side);
    if (json_size(tokens) > GATES_TOKENS_MAX) return error_set(err, E_TOO_LARGE, "samples[%zu].%s has %zu tokens, more than %d", i, side, json_size(tokens), GATES_TOKENS_MAX);
    for (size_t k = 0; k < json_size(tokens); k++) {
        const struct json *id = json_at(tokens, k);
        if (json_type(id) != JSON_TYPE_INT || json_int(id, -1) < 0 || json_int(id, -1) > UINT32_MAX)
            return error_set(err, E_INVALID, "samples[%zu].%s.tokens[%zu] is no token id", i, side, k);
    }
    *total += json_size(tokens);
    return 0;
}

static uint32_t *take_answer(const struct json *answer, struct answer *out, uint32_t *ids) {
    const struct json *tokens = json_get(answer, "tokens");
    out->text = json_string(json_get(answer, "text"));
    out->tokens = ids;
    out->n_tokens = json_size(tokens);
    for (size_t k = 0; k < out->n_tokens; k++) *ids++ = (uint32_t)json_int(json_at(tokens, k), 0);
    return ids;
}

static int read_samples(struct evaluation_record *r, struct error *err) {
    const struct json *array;
    size_t total = 0;
    int code = get_array(r->root, "samples", GATES_SAMPLES_MAX, &array, &r->n_samples, err);
    for (size_t i = 0; i < r->n_samples && code == 0; i++) {
        code = check_answer(json_get(json_at(array, i), "candidate"), "candidate", i, &total, err);
        if (code == 0 && r->baseline.len) code = check_answer(json_get(json_at(array, i), "baseline"), "baseline", i, &total, err);
    }
    if (code != 0) return code;
    r->answers_candidate = mem_calloc(r->n_samples, sizeof *r->answers_candidate);
    r->answers_baseline = mem_calloc(r->n_samples, sizeof *r->answers_baseline);
    r->ids = mem_calloc(total, sizeof *r->ids);
    if (!r->answers_candidate || !r->answers_baseline || !r->ids) return error_set(err, E_NOMEM, "no memory for %zu samples", r->n_samples);
    uint32_t *ids = r->ids;
    for (size_t i = 0; i < r->n_samples; i++) {
        ids = take_answer(json_get(json_at(array, i), "candidate"), &r->answers_candidate[i], ids);
        if (r->baseline.len) ids = take_answer(json_get(json_at(array, i), "baseline"), &r->answers_baseline[i], ids);
    }
    return 0;
}

int evaluation_record_parse(struct span json, struct span tokenizer, struct evaluation_record **record, struct error *err) {
    if (json.len > GATES_RECORD_MAX) return error_set(err, E_TOO_LARGE, "a record of %zu bytes is above the limit of %d", json.len, GATES_RECORD_MAX);
    struct evaluation_record *r = mem_zalloc(sizeof *r);
    if (!r) return error_set(err, E_NOMEM, "no memory for an evaluation record");
    int code = json_parse(json, &r->root, err);
    if (code == 0 && json_type(r->root) != JSON_TYPE_OBJECT) code = error_set(err, E_INVALID, "an evaluation record is an object, not %s", json_type_name(r->root));
    if (code == 0 && json_int(json_get(r->root, "format"), 0) != 1) code = error_set(err, E_INVALID, "the format of this evaluation record is not 1");
    if (code == 0) {
        const struct json *spec = json_get(r->root, "spec"), *tokenizers = json_get(r->root, "tokenizer");
        r->candidate = json_string(json_get(r->root, "candidate"));
        r->baseline = json_string(json_get(r->root, "baseline"));
        r->tokenizer_candidate = json_string(json_get(tokenizers, "candidate"));
        r->tokenizer_baseline = json_string(json_get(tokenizers, "baseline"));
        r->round_trip = json_bool(json_get(tokenizers, "round_trip"), true);
        r->halves = json_bool(json_get(r->root, "halves"), false);
        r->tokenizer_claimed = json_string(json_get(spec, "tokenizer"));
        if (r->tokenizer_claimed.len == 0) r->tokenizer_claimed = tokenizer;
        r->held_out = json_string(json_get(spec, "held_out"));
        r->trait = json_string(json_get(spec, "trait"));
        if (!is_model(r->candidate)) code = error_set(err, E_INVALID, "candidate must be NAME@VERSION");
        if (code == 0 && r->baseline.len && !is_model(r->baseline)) code = error_set(err, E_INVALID, "baseline must be NAME@VERSION or empty");
        if (code == 0 && r->trait.len && !trait_known(r->trait)) code = error_set(err, E_INVALID, "spec.trait %.*s is not known", (int)(r->trait.len < 64 ? r->trait.len : 64), r->trait.data);
    }
    if (code == 0 && json_get(r->root, "encoder")) code = encoder_record_parse(json_get(r->root, "encoder"), r->baseline.len > 0, &r->encoder, err);
    if (code == 0) code = read_documents(r, err);
    if (code == 0) code = read_pairs(r, err);
    if (code == 0) code = read_samples(r, err);
    if (code != 0)
        evaluation_record_free(r);
    else
        *record = r;
    return code;
}

/* ---- figures ---- */

void verdict_add_figure(struct gate_verdict *v, const char *name, struct interval i, uint64_t samples) {
    ASSERT(v->n_figures < GATES_FIGURES_MAX);
    v->figures[v->n_figures++] = (struct gate_figure){name, i.value, i.low, i.high, samples};
}

static struct interval point(double value) { return (struct interval){value, value, value}; }

struct gate_result *verdict_add_gate(struct gate_verdict *v, const char *gate, struct interval i, double threshold, double margin, bool passed, uint64_t samples) {
    ASSERT(v->n_gates < GATES_MAX);
    struct gate_result *g = &v->gates[v->n_gates++];
    *g = (struct gate_result){.gate = gate, .passed = passed, .value = i.value, .low = i.low, .high = i.high, .threshold = threshold, .margin = margin, .samples = samples};
    return g;
}

#define RULE(g, ...) snprintf((g)->rule, sizeof(g)->rule, __VA_ARGS__)

static double sum(const double *x, size_t n) {
    double total = 0;
    for (size_t i = 0; i < n; i++) total += x[i];
    return total;
}

/* Σ numerator / Σ denominator, mapped through exp where `exponent`. */
static int ratio(const double *numerator, const double *denominator, size_t n, bool exponent, struct interval *out, struct error *err) {
    int r = stats_ratio(numerator, denominator, n, BOOTSTRAP_SEED, out);
    if (r != 0) return error_set(err, r, "no memory for the bootstrap");
    if (exponent) *out = (struct interval){exp(out->value), exp(out->low), exp(out->high)};
    return 0;
}

static int judge_perplexity(const struct evaluation_record *r, const struct gate_limits *l, struct gate_verdict *v, struct error *err) {
    size_t n = r->n_documents;
    const char *given = r->halves ? " of second halves, given the first," : "";
    struct interval i;
    double *scratch = mem_calloc(n, sizeof *scratch);
    if (!scratch) return error_set(err, E_NOMEM, "no memory for %zu documents", n);
    int code = ratio(r->nll_candidate, r->tokens_candidate, n, true, &i, err);
    if (code == 0) verdict_add_figure(v, "perplexity", i, n);
    for (size_t k = 0; k < n; k++) scratch[k] = r->nll_candidate[k] / LN2;
    if (code == 0) code = ratio(scratch, r->bytes, n, false, &i, err);
    if (code == 0) verdict_add_figure(v, "bits_per_byte", i, n);
    if (code == 0 && r->baseline.len == 0) {
        bool passed = i.high <= l->first_bits_per_byte_max; /* NAN, of no documents, does not pass */
        struct gate_result *g = verdict_add_gate(v, "perplexity", i, l->first_bits_per_byte_max, l->first_bits_per_byte_max - i.high, passed, n);
        RULE(g, "first version: high end of bits per byte%s %.4f ≤ %.4f", given, i.high, l->first_bits_per_byte_max);
    }
    if (code == 0 && r->baseline.len) {
        struct interval b;
        code = ratio(r->nll_baseline, r->tokens_baseline, n, true, &b, err);
        if (code == 0) verdict_add_figure(v, "perplexity_baseline", b, n);
        for (size_t k = 0; k < n; k++) scratch[k] = r->nll_baseline[k] / LN2;
        if (code == 0) code = ratio(scratch, r->bytes, n, false, &b, err);
        if (code == 0) verdict_add_figure(v, "bits_per_byte_baseline", b, n);
        /* The same bytes, whatever the tokenizers: what the candidate's surprise at the documents is per token of the baseline. */
        for (size_t k = 0; k < n; k++) scratch[k] = r->nll_candidate[k] - r->nll_baseline[k];
        if (code == 0) code = ratio(scratch, r->tokens_baseline, n, true, &i, err);
        if (code == 0) {
            verdict_add_figure(v, "perplexity_ratio", i, n);
            struct gate_result *g = verdict_add_gate(v, "perplexity", i, l->perplexity_ratio_max, l->perplexity_ratio_max - i.high, i.high <= l->perplexity_ratio_max, n);
            RULE(g, "high end of perplexity%s / baseline's %.4f ≤ %.4f (%.2f and %.2f)", given, i.high, l->perplexity_ratio_max,
                 exp(sum(r->nll_candidate, n) / sum(r->tokens_candidate, n)), exp(sum(r->nll_baseline, n) / sum(r->tokens_baseline, n)));
        }
    }
    mem_free(scratch);
    return code;
}

/* An encoder-decoder that does not heed what its encoder reads foretells a text as well from any other. */
static void judge_source(const struct evaluation_record *r, const struct gate_limits *l, struct gate_verdict *v) {
    size_t n = r->n_documents, own = 0;
    if (!r->halves) return;
    for (size_t i = 0; i < n; i++) own += r->nll_candidate[i] < r->nll_other[i];
    struct interval i = stats_wilson((double)own, n);
    verdict_add_figure(v, "source", i, n);
    struct gate_result *g = verdict_add_gate(v, "source", i, l->source_min, i.low - l->source_min, n > 0 && i.low >= l->source_min, n);
    RULE(g, "low end of the share of second halves that are likelier given their own first half than another's %.4f ≥ %.4f", i.low, l->source_min);
}

struct win {
    uint64_t prompt;
    double value; /* 1, 0, or a half */
};

static int by_prompt(const void *a, const void *b) {
    const struct win *x = a, *y = b;
    return (x->prompt > y->prompt) - (x->prompt < y->prompt);
}

/* Answers to one prompt resemble each other, and so do the pairs that are made of them: a prompt is one observation, with the share of its pairs that were won. Any step of training
 * moves every margin a little, in directions that many pairs share: what moves by less than GATES_WIN_NATS is a tie. */
static int judge_wins(const struct evaluation_record *r, const struct gate_limits *l, struct gate_verdict *v, struct error *err) {
    if (r->baseline.len == 0 || r->n_pairs == 0) return 0;
    struct win *wins = mem_calloc(r->n_pairs, sizeof *wins);
    if (!wins) return error_set(err, E_NOMEM, "no memory for %zu pairs", r->n_pairs);
    for (size_t i = 0; i < r->n_pairs; i++) {
        double moved = r->margin_candidate[i] - r->margin_baseline[i];
        wins[i] = (struct win){r->pair_prompt[i], moved > GATES_WIN_NATS ? 1 : moved < -GATES_WIN_NATS ? 0 : 0.5};
    }
    qsort(wins, r->n_pairs, sizeof *wins, by_prompt);
    double won = 0;
    size_t prompts = 0;
    for (size_t from = 0, to; from < r->n_pairs; from = to, prompts++) {
        double here = 0;
        for (to = from; to < r->n_pairs && wins[to].prompt == wins[from].prompt; to++) here += wins[to].value;
        won += here / (double)(to - from);
    }
    mem_free(wins);
    struct interval i = stats_wilson(won, prompts);
    verdict_add_figure(v, "win_rate", i, prompts);
    if ((int64_t)prompts < l->win_rate_pairs_min) return 0; /* too few to say anything: a figure, no gate */
    struct gate_result *g = verdict_add_gate(v, "win_rate", i, l->win_rate_min, i.low - l->win_rate_min, i.low > l->win_rate_min, prompts);
    RULE(g, "low end of the share of held-out preferences, by prompts, that it follows more than the baseline %.4f > %.4f", i.low, l->win_rate_min);
    return 0;
}

static int id_order(const void *a, const void *b) { return memcmp(a, b, 3 * sizeof(uint32_t)); }

static size_t trigrams(const struct answer *answers, size_t n) {
    size_t total = 0;
    for (size_t i = 0; i < n; i++)
        if (answers[i].n_tokens >= 3) total += answers[i].n_tokens - 2;
    return total;
}

/* Share of distinct ones among the first `budget` runs of three tokens: of as many on either side, as the share falls with the length of a text. */
static int distinct_3(const struct answer *answers, size_t n, size_t budget, double *share, struct error *err) {
    *share = 0;
    if (budget == 0) return 0;
    uint32_t(*runs)[3] = mem_calloc(budget, sizeof *runs);
    if (!runs) return error_set(err, E_NOMEM, "no memory for %zu runs of tokens", budget);
    size_t count = 0, distinct = 0;
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k + 3 <= answers[i].n_tokens && count < budget; k++) memcpy(runs[count++], answers[i].tokens + k, sizeof *runs);
    qsort(runs, count, sizeof *runs, id_order);
    for (size_t i = 0; i < count; i++) distinct += i == 0 || memcmp(runs[i], runs[i - 1], sizeof *runs) != 0;
    mem_free(runs);
    *share = (double)distinct / (double)count;
    return 0;
}

/* Whether a run of GATES_REPEAT_TOKENS occurs twice. Answers are some dozens of tokens: quadratic, bounded by looking at the first REPEAT_WITHIN. */
enum { REPEAT_WITHIN = 512 };
static bool repeats(const struct answer *a) {
    size_t n = a->n_tokens < REPEAT_WITHIN ? a->n_tokens : REPEAT_WITHIN;
    for (size_t i = 0; i + GATES_REPEAT_TOKENS <= n; i++)
        for (size_t k = i + 1; k + GATES_REPEAT_TOKENS <= n; k++)
            if (memcmp(a->tokens + i, a->tokens + k, GATES_REPEAT_TOKENS * sizeof(uint32_t)) == 0) return true;
    return false;
}

static bool is_empty(const struct answer *a) { return a->n_tokens == 0 || span_empty(span_trim(a->text)); }

struct shape {
    double repeated, empty, tokens, distinct;
};

static int measure(const struct answer *answers, size_t n, size_t budget, struct shape *s, struct error *err) {
    *s = (struct shape){0};
    for (size_t i = 0; i < n; i++) {
        s->repeated += repeats(&answers[i]);
        s->empty += is_empty(&answers[i]);
        s->tokens += (double)answers[i].n_tokens;
    }
    return distinct_3(answers, n, budget, &s->distinct, err);
}

static int mean_lengths(const struct evaluation_record *r, struct interval *mean, struct interval *mean_baseline, struct interval *of_both, struct error *err) {
    size_t n = r->n_samples;
    double *candidate = mem_calloc(n, sizeof *candidate), *baseline = mem_calloc(n, sizeof *baseline), *one = mem_calloc(n, sizeof *one);
    int code = candidate && baseline && one ? 0 : error_set(err, E_NOMEM, "no memory for %zu samples", n);
    for (size_t i = 0; i < n && code == 0; i++) {
        candidate[i] = (double)r->answers_candidate[i].n_tokens;
        baseline[i] = (double)r->answers_baseline[i].n_tokens;
        one[i] = 1;
    }
    if (code == 0) code = ratio(candidate, one, n, false, mean, err);
    if (code == 0) code = ratio(baseline, one, n, false, mean_baseline, err);
    if (code == 0) code = ratio(candidate, baseline, n, false, of_both, err);
    mem_free(candidate);
    mem_free(baseline);
    mem_free(one);
    return code;
}

static int judge_shape(const struct evaluation_record *r, const struct gate_limits *l, struct gate_verdict *v, struct error *err) {
    size_t n = r->n_samples, budget = trigrams(r->answers_candidate, n), other = trigrams(r->answers_baseline, n);
    bool first = r->baseline.len == 0;
    if (!first && other < budget) budget = other;
    struct shape c, b;
    struct interval mean, mean_baseline, lengths;
    int code = measure(r->answers_candidate, n, budget, &c, err);
    if (code == 0) code = measure(r->answers_baseline, first ? 0 : n, first ? 0 : budget, &b, err);
    if (code == 0) code = mean_lengths(r, &mean, &mean_baseline, &lengths, err);
    if (code != 0) return code;
    struct interval repeated = stats_wilson(c.repeated, n), empty = stats_wilson(c.empty, n), repeated_b = stats_wilson(b.repeated, n), empty_b = stats_wilson(b.empty, n);
    struct gate_result *g;

    if (n > 0) verdict_add_figure(v, "mean_length_tokens", mean, n);
    if (!first && n > 0) {
        verdict_add_figure(v, "mean_length_tokens_baseline", mean_baseline, n);
        if (isfinite(lengths.value)) verdict_add_figure(v, "mean_length_ratio", lengths, n);
    }
    if (!first) {
        double value = isfinite(lengths.value) ? lengths.value : 0;
        double low = value - l->mean_length_ratio_min, high = l->mean_length_ratio_max - value;
        bool long_side = high < low;
        g = verdict_add_gate(v, "mean_length", isfinite(lengths.value) ? lengths : point(0), long_side ? l->mean_length_ratio_max : l->mean_length_ratio_min,
                     long_side ? high : low, low >= 0 && high >= 0, n);
        RULE(g, "%.2f ≤ mean length / baseline's %.4f ≤ %.2f", l->mean_length_ratio_min, value, l->mean_length_ratio_max);
    }

    verdict_add_figure(v, "repetition", repeated, n);
    if (!first) verdict_add_figure(v, "repetition_baseline", repeated_b, n);
    double most = first ? l->first_repetition_max : repeated_b.value + l->repetition_rise_max;
    g = verdict_add_gate(v, "repetition", repeated, most, most - repeated.value, n > 0 && repeated.value <= most, n);
    if (first)
        RULE(g, "first version: share of answers with a loop %.4f ≤ %.4f", repeated.value, most);
    else
        RULE(g, "share of answers with a loop %.4f ≤ baseline's %.4f + %.2f", repeated.value, repeated_b.value, l->repetition_rise_max);

    verdict_add_figure(v, "empty", empty, n);
    if (!first) verdict_add_figure(v, "empty_baseline", empty_b, n);
    most = first ? l->empty_max : fmax(l->empty_max, empty_b.value + l->empty_rise_max);
    g = verdict_add_gate(v, "empty", empty, most, most - empty.value, n > 0 && empty.value <= most, n);
    if (first)
        RULE(g, "first version: share of empty answers %.4f ≤ %.4f", empty.value, most);
    else
        RULE(g, "share of empty answers %.4f ≤ max(%.2f, baseline's %.4f + %.2f)", empty.value, l->empty_max, empty_b.value, l->empty_rise_max);

    verdict_add_figure(v, "distinct_3", point(c.distinct), budget);
    if (!first) verdict_add_figure(v, "distinct_3_baseline", point(b.distinct), budget);
    double least = first ? l->first_distinct_3_min : l->distinct_3_ratio_min * b.distinct;
    /* Nothing to count (all answers shorter than three tokens on one side) is no evidence of variety. */
    g = verdict_add_gate(v, "distinct_3", point(c.distinct), least, c.distinct - least, budget > 0 && c.distinct >= least, budget);
    if (first)
        RULE(g, "first version: share of distinct runs of three tokens %.4f ≥ %.4f", c.distinct, least);
    else
        RULE(g, "share of distinct runs of three tokens %.4f ≥ %.2f × baseline's %.4f", c.distinct, l->distinct_3_ratio_min, b.distinct);
    return 0;
}

static void judge_trait(const struct evaluation_record *r, struct gate_verdict *v) {
    if (r->trait.len == 0) return;
    size_t n = r->n_samples;
    uint64_t have = 0, have_baseline = 0, only = 0, only_baseline = 0;
    for (size_t i = 0; i < n; i++) {
        bool c = trait_holds(r->trait, r->answers_candidate[i].text), b = r->baseline.len && trait_holds(r->trait, r->answers_baseline[i].text);
        have += c;
        have_baseline += b;
        only += c && !b;
        only_baseline += b && !c;
    }
    verdict_add_figure(v, "trait_candidate", stats_wilson((double)have, n), n);
    if (r->baseline.len == 0) return;
    verdict_add_figure(v, "trait_baseline", stats_wilson((double)have_baseline, n), n);
    verdict_add_figure(v, "trait_difference", stats_paired_difference(only, only_baseline, n), n);
}

static void judge_evidence(const struct evaluation_record *r, const struct gate_limits *l, struct gate_verdict *v) {
    double documents = (double)r->n_documents - (double)l->documents_min, samples = (double)r->n_samples - (double)l->samples_min;
    bool by_documents = documents < 0;
    struct gate_result *g = verdict_add_gate(v, "evidence", point(by_documents ? (double)r->n_documents : (double)r->n_samples),
                                     by_documents ? (double)l->documents_min : (double)l->samples_min, by_documents ? documents : samples, documents >= 0 && samples >= 0, r->n_samples);
    RULE(g, "%zu %s ≥ %lld, %zu sampled prompts ≥ %lld", r->n_documents, span_eq_str(r->held_out, EVALUATION_PROSE) ? "passages of the prose that the platform ships, for want of a data set of texts," : "held-out documents", (long long)l->documents_min, r->n_samples, (long long)l->samples_min);
}

static void judge_tokenizer(const struct evaluation_record *r, struct gate_verdict *v) {
    struct span claimed = r->tokenizer_claimed.len ? r->tokenizer_claimed : r->tokenizer_baseline;
    bool same = claimed.len == 0 || span_eq(claimed, r->tokenizer_candidate);
    /* an encoder's may fold case, an encoder-decoder's makes texts simpler */
    const char *ids = r->encoder ? "every text has ids" : r->halves ? "what comes back from ids does so again" : "a text comes back from its ids";
    struct gate_result *g = verdict_add_gate(v, "tokenizer", point(same && r->round_trip), 1, same && r->round_trip ? 0 : -1, same && r->round_trip, 1);
    if (claimed.len == 0)
        RULE(g, "no base and no data set claims a tokenizer; %s: %s", ids, r->round_trip ? "yes" : "no");
    else
        RULE(g, "tokenizer %.12s… = %.12s… of what it was made from: %s; %s: %s", r->tokenizer_candidate.len >= 12 ? r->tokenizer_candidate.data : "none",
             claimed.len >= 12 ? claimed.data : "?", same ? "yes" : "no", ids, r->round_trip ? "yes" : "no");
}

int gates_judge(const struct evaluation_record *r, const struct gate_limits *l, struct gate_verdict *verdict, struct error *err) {
    struct gate_verdict v = {0};
    if (r->encoder) {
        encoder_judge(r->encoder, r->baseline.len > 0, l, &v);
        judge_tokenizer(r, &v);
    } else {
        judge_evidence(r, l, &v);
        judge_tokenizer(r, &v);
        int code = judge_perplexity(r, l, &v, err);
        if (code == 0) judge_source(r, l, &v);
        if (code == 0) code = judge_wins(r, l, &v, err);
        if (code == 0) code = judge_shape(r, l, &v, err);
        if (code != 0) return code;
        judge_trait(r, &v);
    }
    v.passed = true;
    for (size_t i = 0; i < v.n_gates; i++) v.passed &= v.gates[i].passed;
    *verdict = v;
    return 0;
}

const struct gate_result *gates_first_failed(const struct gate_verdict *v) {
    for (size_t i = 0; i < v->n_gates; i++)
        if (!v->gates[i].passed) return &v->gates[i];
    return NULL;
}
