#include "gates/encoder.h"

#include <math.h>
#include <stdio.h>

#include "base/alloc.h"

enum task { EMBED, SCORE, CLASSIFY, TASKS };
static const char *const task_names[TASKS] = {"embed", "score", "classify"};

struct reading {
    bool finite;
    uint32_t rank, label;
    double own, others, outputs[GATES_OUTPUTS_MAX];
};
struct encoder_record {
    enum task task;
    size_t n, n_outputs;
    struct reading *candidate, *baseline;
};

static struct interval point(double value) { return (struct interval){value, value, value}; }
#define RULE(g, ...) (void)snprintf((g)->rule, sizeof(g)->rule, __VA_ARGS__)

static double number(const struct json *v) { return json_type(v) == JSON_TYPE_INT || json_type(v) == JSON_TYPE_REAL ? json_real(v, NAN) : NAN; }

static int read_one(struct encoder_record *r, const struct json *passage, const char *side, size_t i, struct reading *out, struct error *err) {
    const struct json *o = json_get(passage, side), *outputs = json_get(o, "outputs");
    if (json_type(o) != JSON_TYPE_OBJECT) return error_set(err, E_INVALID, "encoder.passages[%zu] has no %s", i, side);
    int64_t rank = json_int(json_get(o, "rank"), -1), label = json_int(json_get(o, "label"), -1);
    out->finite = json_bool(json_get(o, "finite"), false);
    out->own = number(json_get(o, "own"));
    out->others = number(json_get(o, "others"));
    if (r->task != CLASSIFY && (rank < 1 || rank > GATES_PASSAGES_MAX)) return error_set(err, E_INVALID, "encoder.passages[%zu].%s.rank must be from 1 to %d", i, side, GATES_PASSAGES_MAX);
    if (r->task == CLASSIFY && (label < 0 || label > UINT32_MAX)) return error_set(err, E_INVALID, "encoder.passages[%zu].%s.label is no label", i, side);
    out->rank = r->task == CLASSIFY ? 0 : (uint32_t)rank;
    out->label = r->task == CLASSIFY ? (uint32_t)label : 0;
    if (r->task != CLASSIFY) {
        out->finite &= isfinite(out->own) && isfinite(out->others);
        return 0;
    }
    size_t n = json_size(outputs);
    if (n < 1 || n > GATES_OUTPUTS_MAX || (r->n_outputs && n != r->n_outputs)) return error_set(err, E_INVALID, "encoder.passages[%zu].%s needs 1 to %d outputs, as many as the others", i, side, GATES_OUTPUTS_MAX);
    r->n_outputs = n;
    for (size_t k = 0; k < n; k++) {
        out->outputs[k] = number(json_at(outputs, k));
        out->finite &= isfinite(out->outputs[k]) != 0;
    }
    return 0;
}

int encoder_record_parse(const struct json *encoder, bool baseline, struct encoder_record **record, struct error *err) {
    const struct json *passages = json_get(encoder, "passages");
    struct span task = json_string(json_get(encoder, "task"));
    struct encoder_record *r = mem_zalloc(sizeof *r);
    int code = r ? 0 : error_set(err, E_NOMEM, "no memory for an evaluation record");
    if (code == 0) {
        while (r->task < TASKS && !span_eq_str(task, task_names[r->task])) r->task++;
        if (r->task == TASKS) code = error_set(err, E_INVALID, "encoder.task must be embed, score or classify");
    }
    if (code == 0 && json_type(passages) != JSON_TYPE_ARRAY) code = error_set(err, E_INVALID, "encoder.passages must be an array, not %s", json_type_name(passages));
    if (code == 0 && json_size(passages) > GATES_PASSAGES_MAX) code = error_set(err, E_TOO_LARGE, "encoder.passages has %zu entries, more than %d", json_size(passages), GATES_PASSAGES_MAX);
    if (code == 0) {
        r->n = json_size(passages);
        r->candidate = mem_calloc(r->n + 1, sizeof *r->candidate);
        r->baseline = mem_calloc(r->n + 1, sizeof *r->baseline);
        if (!r->candidate || !r->baseline) code = error_set(err, E_NOMEM, "no memory for %zu passages", r->n);
    }
    for (size_t i = 0; code == 0 && i < r->n; i++) {
        code = read_one(r, json_at(passages, i), "candidate", i, &r->candidate[i], err);
        if (code == 0 && baseline) code = read_one(r, json_at(passages, i), "baseline", i, &r->baseline[i], err);
    }
    if (code == 0) *record = r;
    else encoder_record_free(r);
    return code;
}

void encoder_record_free(struct encoder_record *r) {
    if (!r) return;
    mem_free(r->candidate);
    mem_free(r->baseline);
    mem_free(r);
}

/* Of 0, 1 and more numbers. */
static double deviation(const double *x, size_t n) {
    double mean = 0, squares = 0;
    for (size_t i = 0; i < n; i++) mean += x[i] / (double)n;
    for (size_t i = 0; i < n; i++) squares += (x[i] - mean) * (x[i] - mean);
    return n > 1 ? sqrt(squares / (double)(n - 1)) : 0;
}

/* How far a cross-encoder's scores, or the outputs of a classifier that moves most, are apart between texts. */
static double spread(const struct encoder_record *r) {
    double all[2 * GATES_PASSAGES_MAX], most = 0;
    if (r->task == SCORE) {
        for (size_t i = 0; i < r->n; i++) {
            all[2 * i] = r->candidate[i].own;
            all[2 * i + 1] = r->candidate[i].others;
        }
        return deviation(all, 2 * r->n);
    }
    for (size_t k = 0; k < r->n_outputs; k++) {
        for (size_t i = 0; i < r->n; i++) all[i] = r->candidate[i].outputs[k];
        most = fmax(most, deviation(all, r->n));
    }
    return most;
}

static uint64_t found(const struct reading *readings, size_t n) {
    uint64_t first = 0;
    for (size_t i = 0; i < n; i++) first += readings[i].rank == 1;
    return first;
}

static void judge_distinct(const struct encoder_record *r, bool all_finite, const struct gate_limits *l, struct gate_verdict *v) {
    if (r->task == EMBED) {
        double own = 0, others = 0;
        for (size_t i = 0; all_finite && i < r->n; i++) {
            own += r->candidate[i].own / (double)r->n;
            others += r->candidate[i].others / (double)r->n;
        }
        if (!all_finite) own = others = 1;
        verdict_add_figure(v, "cosine_own_half", point(own), r->n);
        verdict_add_figure(v, "cosine_other_texts", point(others), r->n);
        struct gate_result *g = verdict_add_gate(v, "distinct", point(others), l->encoder_cosine_max, l->encoder_cosine_max - others, all_finite && others <= l->encoder_cosine_max, r->n);
        RULE(g, "mean cosine between texts about different things %.4f ≤ %.4f", others, l->encoder_cosine_max);
        return;
    }
    double apart = all_finite ? spread(r) : 0;
    verdict_add_figure(v, "output_deviation", point(apart), r->n);
    struct gate_result *g = verdict_add_gate(v, "distinct", point(apart), l->encoder_spread_min, apart - l->encoder_spread_min, all_finite && apart >= l->encoder_spread_min, r->n);
    RULE(g, "standard deviation of its outputs between texts %.4g ≥ %.4g", apart, l->encoder_spread_min);
}

static void judge_retrieval(const struct encoder_record *r, bool baseline, const struct gate_limits *l, struct gate_verdict *v) {
    struct interval c = stats_wilson((double)found(r->candidate, r->n), r->n), b = stats_wilson((double)found(r->baseline, r->n), r->n);
    double least = baseline ? b.value - l->encoder_recall_drop_max : l->encoder_recall_min;
    verdict_add_figure(v, "retrieval", c, r->n);
    if (baseline) verdict_add_figure(v, "retrieval_baseline", b, r->n);
    struct gate_result *g = verdict_add_gate(v, "retrieval", c, least, c.value - least, r->n > 0 && c.value >= least, r->n);
    if (baseline) RULE(g, "share of passages that find their other half first %.4f ≥ baseline's %.4f − %.2f", c.value, b.value, l->encoder_recall_drop_max);
    else RULE(g, "first version: share of passages that find their other half first %.4f ≥ %.4f", c.value, l->encoder_recall_min);
}

void encoder_judge(const struct encoder_record *r, bool baseline, const struct gate_limits *l, struct gate_verdict *v) {
    uint64_t finite = 0, same = 0;
    for (size_t i = 0; i < r->n; i++) {
        finite += r->candidate[i].finite;
        same += baseline && r->candidate[i].label == r->baseline[i].label;
    }
    double short_of = (double)r->n - (double)l->documents_min, share = r->n ? (double)finite / (double)r->n : 0;
    bool all_finite = r->n > 0 && finite == r->n;
    struct gate_result *g = verdict_add_gate(v, "evidence", point((double)r->n), (double)l->documents_min, short_of, short_of >= 0, r->n);
    RULE(g, "%zu passages of the prose that the platform ships ≥ %lld", r->n, (long long)l->documents_min);
    g = verdict_add_gate(v, "finite", point(share), 1, share - 1, all_finite, r->n);
    RULE(g, "share of texts for which every output is a number %.4f = 1", share);
    judge_distinct(r, all_finite, l, v);
    if (r->task != CLASSIFY) judge_retrieval(r, baseline, l, v);
    else if (baseline) verdict_add_figure(v, "agreement", stats_wilson((double)same, r->n), r->n);
}
