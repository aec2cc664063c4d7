#include "gates/recompute.h"

#include <math.h>
#include <stdio.h>

#include "base/json.h"
#include "base/sha256.h"
#include "registry/record.h"

/* exp and log differ in their last bits between C libraries; a figure that differs by more was computed from something else. */
#define TOLERANCE 1e-9

static bool same(double a, double b) {
    if (isnan(a) || isnan(b)) return isnan(a) && isnan(b);
    return a == b || fabs(a - b) <= TOLERANCE * fmax(fabs(a), fabs(b));
}

static void differs(struct recomputed *r, const char *kind, const char *name, const char *part, double told, double computed) {
    r->compared++;
    if (same(told, computed)) return;
    if (r->different++ == 0) snprintf(r->difference, sizeof r->difference, "%s %s: %s was told as %.10g and comes out as %.10g", kind, name, part, told, computed);
}

/* Something that only one of the two has. */
static void lacks(struct recomputed *r, const char *kind, const char *name, bool told) {
    r->compared++;
    if (r->different++ == 0) snprintf(r->difference, sizeof r->difference, "%s %s %s", kind, name, told ? "was told, and does not come out of the record" : "comes out of the record, and was not told");
}

static void compare_figures(const Genloop__V1__Evaluation *e, struct recomputed *r) {
    const struct gate_verdict *v = &r->verdict;
    size_t found = 0;
    for (size_t i = 0; i < v->n_figures; i++) {
        const struct gate_figure *f = &v->figures[i];
        const Genloop__V1__Figure *told = NULL;
        for (size_t k = 0; k < e->n_figures && !told; k++)
            if (strcmp(e->figures[k]->name, f->name) == 0) told = e->figures[k];
        if (!told) {
            lacks(r, "figure", f->name, false);
            continue;
        }
        found++;
        differs(r, "figure", f->name, "value", told->value, f->value);
        differs(r, "figure", f->name, "low", told->low, f->low);
        differs(r, "figure", f->name, "high", told->high, f->high);
        differs(r, "figure", f->name, "samples", (double)told->samples, (double)f->samples);
    }
    if (found != e->n_figures) lacks(r, "figure", "beside those of the record", true);
}

static void compare_gates(const Genloop__V1__Evaluation *e, struct recomputed *r) {
    const struct gate_verdict *v = &r->verdict;
    size_t found = 0;
    for (size_t i = 0; i < v->n_gates; i++) {
        const struct gate_result *g = &v->gates[i];
        const Genloop__V1__GateResult *told = NULL;
        for (size_t k = 0; k < e->n_gates && !told; k++)
            if (strcmp(e->gates[k]->gate, g->gate) == 0) told = e->gates[k];
        if (!told) {
            lacks(r, "gate", g->gate, false);
            continue;
        }
        found++;
        differs(r, "gate", g->gate, "passed", told->passed, g->passed);
        differs(r, "gate", g->gate, "value", told->value, g->value);
        differs(r, "gate", g->gate, "low", told->low, g->low);
        differs(r, "gate", g->gate, "high", told->high, g->high);
        differs(r, "gate", g->gate, "threshold", told->threshold, g->threshold);
        differs(r, "gate", g->gate, "margin", told->margin, g->margin);
        differs(r, "gate", g->gate, "samples", (double)told->samples, (double)g->samples);
    }
    if (found != e->n_gates) lacks(r, "gate", "beside those of the record", true);
    differs(r, "verdict", "of all gates", "passed", e->passed, v->passed);
}

static int take_limits(const Genloop__V1__Evaluation *e, struct gate_limits *limits, struct error *err) {
    *limits = GATE_LIMITS_DEFAULT; /* of a verdict that was given before thresholds were kept with it */
    for (size_t i = 0; i < e->n_limits; i++) {
        int r = gate_limit_set(limits, span_str(e->limits[i]->name), e->limits[i]->value);
        if (r == E_RANGE) return error_set(err, E_INVALID, "evaluation %s: the limit %s is %g, which is no count", e->id, e->limits[i]->name, e->limits[i]->value);
        if (r != 0) return error_set(err, E_UNSUPPORTED, "evaluation %s was judged by the limit %s, which this build does not know: use the build that judged it, or a newer one", e->id, e->limits[i]->name);
    }
    return 0;
}

int gates_recompute(const Genloop__V1__Evaluation *e, struct span record, struct span public_key, struct recomputed *out, struct error *err) {
    char hex[SHA256_HEX_MAX];
    struct evaluation_record *parsed = NULL;
    struct recomputed r = {0};
    if (!e->judged) return error_set(err, E_STATE, "evaluation %s is not judged yet", e->id);
    if (!e->record) return error_set(err, E_INVALID, "evaluation %s names no record", e->id);
    if (public_key.len && public_key.len != RECORD_PUBLIC_SIZE) return error_set(err, E_INVALID, "a public key has %d bytes, not %zu", RECORD_PUBLIC_SIZE, public_key.len);
    int code = public_key.len ? record_verify((const uint8_t *)public_key.data, &e->base, err) : 0;
    if (code == 0 && (record.len != e->record->size_bytes || strcmp(sha256_hex(record, hex), e->record->sha256) != 0))
        code = error_set(err, E_DATA_LOSS, "the record of evaluation %s has not the digest that the evaluation names", e->id);
    if (code == 0) code = take_limits(e, &r.limits, err);
    if (code == 0) code = evaluation_record_parse(record, SPAN(""), &parsed, err);
    if (code == 0 && (!span_eq_str(evaluation_record_candidate(parsed), e->candidate) || !span_eq_str(evaluation_record_baseline(parsed), e->baseline)))
        code = error_set(err, E_INVALID, "the record of evaluation %s is of %.*s against \"%.*s\", not of %s against \"%s\"", e->id, SPAN_ARG(evaluation_record_candidate(parsed)),
                         SPAN_ARG(evaluation_record_baseline(parsed)), e->candidate, e->baseline);
    if (code == 0) code = gates_judge(parsed, &r.limits, &r.verdict, err);
    evaluation_record_free(parsed);
    if (code != 0) return code;
    compare_figures(e, &r);
    compare_gates(e, &r);
    *out = r;
    return 0;
}

int recomputed_write_text(const Genloop__V1__Evaluation *e, const struct recomputed *r, struct buf *out) {
    const struct gate_verdict *v = &r->verdict;
    buf_printf(out, "evaluation %s of %s", e->id, e->candidate);
    if (e->baseline[0]) buf_printf(out, " against %s", e->baseline);
    buf_printf(out, "\n\n%-30s %12s %12s %12s %8s\n", "figure", "value", "low", "high", "samples");
    for (size_t i = 0; i < v->n_figures; i++) {
        const struct gate_figure *f = &v->figures[i];
        buf_printf(out, "%-30s %12.5f %12.5f %12.5f %8llu\n", f->name, f->value, f->low, f->high, (unsigned long long)f->samples);
    }
    buf_printf(out, "\n%-12s %-7s %10s  %s\n", "gate", "", "margin", "rule");
    for (size_t i = 0; i < v->n_gates; i++) {
        const struct gate_result *g = &v->gates[i];
        buf_printf(out, "%-12s %-7s %+10.5f  %s\n", g->gate, g->passed ? "passed" : "FAILED", g->margin, g->rule);
    }
    buf_printf(out, "\n%s; ", v->passed ? "all gates passed" : "rejected");
    if (r->different) buf_printf(out, "%zu of %zu numbers are not as they were told: %s\n", r->different, r->compared, r->difference);
    else buf_printf(out, "all %zu numbers come out of the record as they were told\n", r->compared);
    return out->failed;
}

static void put_bounds(struct json_out *w, double value, double low, double high, uint64_t samples) {
    json_flt(w, "value", value);
    json_flt(w, "low", low);
    json_flt(w, "high", high);
    json_num(w, "samples", (int64_t)samples);
}

int recomputed_write_json(const Genloop__V1__Evaluation *e, const struct recomputed *r, struct buf *out) {
    const struct gate_verdict *v = &r->verdict;
    struct json_out w;
    json_begin(&w, out);
    json_object(&w);
    json_str(&w, "evaluation", e->id);
    json_str(&w, "candidate", e->candidate);
    json_str(&w, "baseline", e->baseline);
    json_flag(&w, "passed", v->passed);
    json_flag(&w, "same", r->different == 0);
    json_num(&w, "compared", (int64_t)r->compared);
    json_num(&w, "different", (int64_t)r->different);
    json_str(&w, "difference", r->difference);
    json_key(&w, "figures");
    json_array(&w);
    for (size_t i = 0; i < v->n_figures; i++) {
        const struct gate_figure *f = &v->figures[i];
        json_object(&w);
        json_str(&w, "name", f->name);
        put_bounds(&w, f->value, f->low, f->high, f->samples);
        json_object_end(&w);
    }
    json_array_end(&w);
    json_key(&w, "gates");
    json_array(&w);
    for (size_t i = 0; i < v->n_gates; i++) {
        const struct gate_result *g = &v->gates[i];
        json_object(&w);
        json_str(&w, "gate", g->gate);
        json_flag(&w, "passed", g->passed);
        put_bounds(&w, g->value, g->low, g->high, g->samples);
        json_flt(&w, "threshold", g->threshold);
        json_flt(&w, "margin", g->margin);
        json_str(&w, "rule", g->rule);
        json_object_end(&w);
    }
    json_array_end(&w);
    json_key(&w, "limits");
    json_object(&w);
    for (int i = 0; i < GATE_LIMITS_COUNT; i++) json_flt(&w, gate_limit_name(i), gate_limit_get(&r->limits, i));
    json_object_end(&w);
    json_object_end(&w);
    return out->failed;
}
