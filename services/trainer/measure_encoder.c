#include "services/trainer/measure_encoder.h"

#include <math.h>
#include <stdio.h>

#include "base/alloc.h"
#include "base/file.h"
#include "base/json.h"
#include "base/sha256.h"
#include "engine/encoder.h"
#include "gates/gates.h"
#include "services/trainer/prose.h"

enum { N = PROSE_PASSAGES, OTHERS_SCORED = 9, OTHERS_STEP = 4, TEXTS_AT_ONCE = 16 /* between two looks at should_stop */, PATH_SIZE = 4096 };
_Static_assert(1 + (OTHERS_SCORED - 1) * OTHERS_STEP < N, "the others of a passage are not itself, and none comes twice");

enum task { EMBED, SCORE, CLASSIFY };
static const char *const task_names[] = {"embed", "score", "classify"};

struct passage {
    bool finite;
    uint32_t rank;          /* from 1; 0 of a classifier */
    double own, others;     /* cosines or scores */
    uint32_t label;         /* the highest output */
    double outputs[GATES_OUTPUTS_MAX]; /* of a classifier: the first ones */
};

struct side {
    const char *dir, *name; /* for messages: "candidate" */
    struct encoder *encoder; /* NULL: weights that are not finite, which is a measurement */
    struct model_config config;
    enum task task;
    char tokenizer[SHA256_HEX_MAX];
    struct passage passages[N];
    bool encodes; /* each passage has tokens */
};

struct measuring {
    const struct measure_options *options;
    struct side sides[2];
    int n_sides;
    uint64_t done, total;
};

static int step(struct measuring *m, uint64_t units, struct error *err) {
    const struct measure_options *o = m->options;
    m->done += units;
    if (o && o->on_progress) o->on_progress(o->arg, "samples", m->done, m->total);
    return o && o->should_stop && o->should_stop(o->arg) ? error_set(err, E_CANCELLED, "the evaluation was stopped") : 0;
}

bool measure_is_encoder(const char *dir) {
    struct model_config config;
    struct error err = {0};
    return model_dir_config(dir, &config, &err) == 0 && config.arch->kind == MODEL_ENCODER;
}

static int open_side(struct side *s, int threads, struct error *err) {
    char path[PATH_SIZE];
    struct file_map map = {0};
    struct encoder_options options = {.threads = threads};
    int r = snprintf(path, sizeof path, "%s/tokenizer.json", s->dir) < (int)sizeof path ? 0 : error_set(err, E_INVALID, "the path %.64s… is too long", s->dir);
    if (r == 0) r = model_dir_config(s->dir, &s->config, err);
    if (r == 0 && s->config.arch->kind != MODEL_ENCODER) r = error_set(err, E_INVALID, "it generates text, and the other is an encoder: they are nothing to compare; give one of them another name");
    if (r == 0) r = file_map_open(&map, path, err);
    if (r == 0) sha256_hex(span_of(map.data, map.len), s->tokenizer);
    file_map_close(&map);
    s->task = r != 0 || s->config.labels == 0 ? EMBED : s->config.labels == 1 ? SCORE : CLASSIFY;
    if (r == 0) {
        r = encoder_new(&s->encoder, s->dir, &options, err);
        if (r == E_INVALID || r == E_RANGE) { /* no replica would load it: no output is a number */
            if (err) *err = (struct error){0};
            return 0;
        }
    }
    if (r == 0 && !encoder_tokenizer(s->encoder)) r = error_set(err, E_INVALID, "it has no tokenizer: texts cannot be measured under it");
    if (r != 0) (void)error_prefix(err, "%s", s->name);
    return r;
}

/* ---- texts ---- */

struct text {
    struct span first, second; /* second: data NULL, or a cross-encoder's other text */
    float *out;
};

static int run_texts(struct measuring *m, struct side *s, const struct text *texts, size_t n, bool score, struct error *err) {
    struct encoder_text made[TEXTS_AT_ONCE];
    struct tokens ids[TEXTS_AT_ONCE];
    uint8_t *types[TEXTS_AT_ONCE];
    int r = 0;
    for (size_t at = 0; r == 0 && at < n; at += TEXTS_AT_ONCE) {
        size_t count = n - at < TEXTS_AT_ONCE ? n - at : TEXTS_AT_ONCE;
        memset(ids, 0, sizeof ids);
        memset(types, 0, sizeof types);
        for (size_t i = 0; r == 0 && i < count; i++) {
            const struct text *t = &texts[at + i];
            r = tokenizer_encode_pair(encoder_tokenizer(s->encoder), t->first, t->second, TOKENIZER_ADD_SPECIAL | TOKENIZER_NO_SPECIALS, encoder_tokens_max(s->encoder), &ids[i], &types[i], err);
            s->encodes &= ids[i].len > 0;
            made[i] = (struct encoder_text){.ids = ids[i].ids, .types = s->config.types ? types[i] : NULL, .count = ids[i].len, .score = score, .pooling = encoder_settings(s->encoder)->pooling,
                                            .normalize = !score, .out = t->out};
            if (r == 0) r = encoder_check(s->encoder, &made[i], err);
        }
        if (r == 0) encoder_run(s->encoder, made, count);
        for (size_t i = 0; i < TEXTS_AT_ONCE; i++) {
            tokens_fini(&ids[i]);
            mem_free(types[i]);
        }
        if (r == 0) r = step(m, count, err);
    }
    return r;
}

/* Its own among the others: what is as good as its own stands before it, so that a model for which all is one finds nothing. A value that is no number is worth nothing. */
static void judge_passage(struct passage *p, double own, const double *others, size_t n) {
    double sum = 0;
    p->finite = isfinite(own);
    p->rank = 1;
    for (size_t i = 0; i < n; i++) {
        p->finite &= isfinite(others[i]) != 0;
        p->rank += !(own > others[i]);
        sum += others[i];
    }
    p->own = own;
    p->others = sum / (double)n;
}

static int embed(struct measuring *m, struct side *s, struct error *err) {
    size_t width = s->config.width;
    float *vectors = mem_calloc(2 * N * width, sizeof *vectors);
    struct text texts[2 * N];
    if (!vectors) return error_set(err, E_NOMEM, "no memory for vectors");
    for (int i = 0; i < N; i++) {
        prose_halves(i, &texts[i].first, &texts[N + i].first);
        texts[i].second = texts[N + i].second = span_of(NULL, 0);
        texts[i].out = vectors + (size_t)i * width;
        texts[N + i].out = vectors + (size_t)(N + i) * width;
    }
    int r = run_texts(m, s, texts, 2 * N, false, err);
    for (int i = 0; r == 0 && i < N; i++) {
        double cosines[N], own = 0;
        size_t n = 0;
        for (int k = 0; k < N; k++) {
            double dot = 0;
            for (size_t c = 0; c < width; c++) dot += (double)texts[i].out[c] * (double)texts[N + k].out[c];
            if (k == i) own = dot;
            else cosines[n++] = dot;
        }
        judge_passage(&s->passages[i], own, cosines, n);
    }
    mem_free(vectors);
    return r;
}

static int score(struct measuring *m, struct side *s, struct error *err) {
    struct text texts[OTHERS_SCORED + 1];
    float scores[OTHERS_SCORED + 1];
    int r = 0;
    for (int i = 0; r == 0 && i < N; i++) {
        struct span first, second, unused;
        double others[OTHERS_SCORED];
        prose_halves(i, &first, &second);
        for (int k = 0; k <= OTHERS_SCORED; k++) {
            if (k > 0) prose_halves((i + 1 + (k - 1) * OTHERS_STEP) % N, &unused, &second);
            texts[k] = (struct text){first, second, &scores[k]};
        }
        r = run_texts(m, s, texts, OTHERS_SCORED + 1, true, err);
        for (int k = 0; k < OTHERS_SCORED; k++) others[k] = (double)scores[k + 1];
        if (r == 0) judge_passage(&s->passages[i], (double)scores[0], others, OTHERS_SCORED);
    }
    return r;
}

static int classify(struct measuring *m, struct side *s, struct error *err) {
    size_t labels = s->config.labels;
    float *outputs = mem_calloc(N * labels, sizeof *outputs);
    struct text texts[N];
    if (!outputs) return error_set(err, E_NOMEM, "no memory for the outputs of %zu labels", labels);
    for (int i = 0; i < N; i++) texts[i] = (struct text){span_str(PROSE[i]), span_of(NULL, 0), outputs + (size_t)i * labels};
    int r = run_texts(m, s, texts, N, true, err);
    for (int i = 0; r == 0 && i < N; i++) {
        struct passage *p = &s->passages[i];
        p->finite = true;
        for (size_t k = 0; k < labels; k++) {
            double v = (double)texts[i].out[k];
            p->finite &= isfinite(v) != 0;
            if (v > (double)texts[i].out[p->label]) p->label = (uint32_t)k;
            if (k < GATES_OUTPUTS_MAX) p->outputs[k] = v;
        }
    }
    mem_free(outputs);
    return r;
}

static uint64_t texts_of(const struct side *s) { return s->task == EMBED ? 2 * N : s->task == SCORE ? (OTHERS_SCORED + 1) * N : N; }

static int measure_side(struct measuring *m, struct side *s, struct error *err) {
    s->encodes = true;
    if (!s->encoder) { /* all as it stands: not finite, found by nobody */
        for (int i = 0; i < N; i++) s->passages[i] = (struct passage){.rank = s->task == CLASSIFY ? 0 : N};
        return step(m, texts_of(s), err);
    }
    int r = s->task == EMBED ? embed(m, s, err) : s->task == SCORE ? score(m, s, err) : classify(m, s, err);
    if (r != 0) (void)error_prefix(err, "%s", s->name);
    return r;
}

/* ---- the record ---- */

static void put_passage(struct json_out *w, const char *key, const struct side *s, const struct passage *p) {
    json_key(w, key);
    json_object(w);
    json_flag(w, "finite", p->finite);
    if (s->task == CLASSIFY) {
        json_num(w, "label", p->label);
        json_key(w, "outputs");
        json_array(w);
        for (uint32_t k = 0; k < s->config.labels && k < GATES_OUTPUTS_MAX; k++) json_put_real(w, p->outputs[k]);
        json_array_end(w);
    } else {
        json_num(w, "rank", p->rank);
        json_key(w, "own");
        json_put_real(w, p->own);
        json_key(w, "others");
        json_put_real(w, p->others);
    }
    json_object_end(w);
}

static int write_record(const struct measuring *m, const Genloop__V1__EvaluateSpec *spec, struct buf *record, struct error *err) {
    const struct side *c = &m->sides[0], *b = &m->sides[1];
    size_t before = record->len;
    struct json_out w;
    char id[32];
    json_begin(&w, record);
    json_object(&w);
    json_num(&w, "format", 1);
    json_key(&w, "spec");
    json_object(&w);
    json_str(&w, "candidate", spec->candidate);
    json_str(&w, "baseline", spec->baseline);
    json_str(&w, "held_out", EVALUATION_PROSE);
    json_str(&w, "tokenizer", spec->tokenizer);
    json_object_end(&w);
    json_str(&w, "candidate", spec->candidate);
    json_str(&w, "baseline", m->n_sides == 2 ? spec->baseline : "");
    json_key(&w, "tokenizer");
    json_object(&w);
    json_str(&w, "candidate", c->tokenizer);
    json_str(&w, "baseline", m->n_sides == 2 ? b->tokenizer : "");
    json_flag(&w, "round_trip", c->encodes);
    json_object_end(&w);
    json_key(&w, "encoder");
    json_object(&w);
    json_str(&w, "task", task_names[c->task]);
    json_num(&w, "width", c->config.width);
    json_num(&w, "labels", c->config.labels);
    json_key(&w, "passages");
    json_array(&w);
    for (int i = 0; i < N; i++) {
        (void)snprintf(id, sizeof id, "prose-%d", i);
        json_object(&w);
        json_str(&w, "id", id);
        put_passage(&w, "candidate", c, &c->passages[i]);
        if (m->n_sides == 2) put_passage(&w, "baseline", b, &b->passages[i]);
        json_object_end(&w);
    }
    json_array_end(&w);
    json_object_end(&w);
    json_object_end(&w);
    if (!record->failed) return 0;
    record->len = before;
    return error_set(err, record->failed, "the record of an encoder does not fit");
}

int measure_encoder(const struct measure_paths *paths, const Genloop__V1__EvaluateSpec *spec, const struct measure_options *options, struct buf *record, struct error *err) {
    struct measuring *m = mem_zalloc(sizeof *m);
    int threads = options ? (int)options->threads : 0, r = 0;
    if (!m) return error_set(err, E_NOMEM, "no memory for a measurement");
    m->options = options;
    m->n_sides = paths->baseline ? 2 : 1;
    m->sides[0] = (struct side){.dir = paths->candidate, .name = "candidate"};
    m->sides[1] = (struct side){.dir = paths->baseline, .name = "baseline"};
    for (int i = 0; i < m->n_sides && r == 0; i++) {
        r = open_side(&m->sides[i], threads, err);
        m->total += texts_of(&m->sides[i]);
    }
    if (r == 0 && m->n_sides == 2 && (m->sides[0].task != m->sides[1].task || (m->sides[0].task == CLASSIFY && m->sides[0].config.labels != m->sides[1].config.labels)))
        r = error_set(err, E_INVALID, "the candidate's task is to %s (%u labels), the baseline's to %s (%u labels): they are nothing to compare; give one of them another name",
                      task_names[m->sides[0].task], m->sides[0].config.labels, task_names[m->sides[1].task], m->sides[1].config.labels);
    if (r == 0) r = step(m, 0, err);
    for (int i = 0; i < m->n_sides && r == 0; i++) r = measure_side(m, &m->sides[i], err);
    if (r == 0) r = write_record(m, spec, record, err);
    for (int i = 0; i < m->n_sides; i++) encoder_free(m->sides[i].encoder);
    mem_free(m);
    return r;
}
