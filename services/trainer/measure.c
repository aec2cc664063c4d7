#include "measure.h"

#include <math.h>
#include <stdio.h>

#include "base/alloc.h"
#include "base/arena.h"
#include "base/file.h"
#include "base/json.h"
#include "base/sha256.h"
#include "engine/engine.h"
#include "measure_rows.h"
#include "model/model_dir.h"
#include "train/data.h"

enum { PATH_SIZE = 4096, TEXTS_AT_ONCE = 256 /* scored in one go: their log-probabilities stand in memory meanwhile */, SPEC_ROWS_MAX = 20000, SAMPLE_TOKENS_MAX = 65536 };
enum { STEP_ROWS_MIN = 16, STEP_ROWS_MAX = 256 };
#define STEP_MULTIPLY_ADDS ((uint64_t)32 << 30) /* of two cores, half a second */
#define ROWS_BYTES_MAX ((size_t)2 << 30)
#define FILE_BYTES_MAX ((size_t)1 << 30)

/* One of the two models. */
struct side {
    const char *dir;
    const char *adapter; /* over it; NULL: none */
    const char *name; /* for messages: "candidate" */
    struct model_dir info; /* without weights */
    char tokenizer[SHA256_HEX_MAX];
    bool usable; /* the weights know every id of the tokenizer */
    double *nll, *chosen, *rejected;
    double *other;            /* halves: of the candidate's second ones, given another document's first */
    uint64_t *tokens;         /* of documents */
    uint8_t *answered;        /* pairs: both answers have a token within the context */
    struct engine_result *answers;
};

struct measuring {
    const struct measure_paths *paths;
    const Genloop__V1__EvaluateSpec *spec;
    struct measure_options options;
    struct arena arena;
    struct side sides[2]; /* candidate, baseline */
    int n_sides;
    uint32_t context; /* of both */
    bool chat, round_trip;
    bool halves; /* encoder-decoders: of a text the second half is measured, given the first */
    struct measure_document *documents;
    struct measure_prompt *prompts;
    struct measure_pair *pairs;
    size_t n_documents, n_prompts, n_pairs;
    uint64_t document_tokens; /* by the candidate's tokenizer */
    char documents_path[PATH_SIZE], pairs_path[PATH_SIZE];
    const char *phase;
    uint64_t done;
};

static uint64_t total(const struct measuring *m) { return (uint64_t)m->n_sides * (m->n_documents + m->n_pairs + m->n_prompts) + (m->halves ? m->n_documents : 0); }

static void tell(const struct measuring *m, uint64_t done) {
    if (m->options.on_progress) m->options.on_progress(m->options.arg, m->phase, done, total(m));
}

static void step(struct measuring *m, uint64_t units) {
    m->done += units;
    tell(m, m->done);
}

static void begin(struct measuring *m, const char *phase) {
    m->phase = phase;
    step(m, 0);
}

static bool stop_asked(void *arg) {
    struct measuring *m = arg;
    return m->options.should_stop && m->options.should_stop(m->options.arg);
}

static int go_on(struct measuring *m, struct error *err) { return stop_asked(m) ? error_set(err, E_CANCELLED, "the evaluation was stopped") : 0; }

static int check_spec(const Genloop__V1__EvaluateSpec *s, struct error *err) {
    if (s->documents_max > SPEC_ROWS_MAX) return error_set_param(err, E_INVALID, "documents_max", "documents_max is %u, more than %d", s->documents_max, SPEC_ROWS_MAX);
    if (s->prompts > SPEC_ROWS_MAX) return error_set_param(err, E_INVALID, "prompts", "prompts is %u, more than %d", s->prompts, SPEC_ROWS_MAX);
    if (s->sample_tokens == 0 || s->sample_tokens > SAMPLE_TOKENS_MAX)
        return error_set_param(err, E_INVALID, "sample_tokens", "sample_tokens must be from 1 to %d, not %u", SAMPLE_TOKENS_MAX, s->sample_tokens);
    if (!(s->temperature >= 0 && s->temperature <= 2)) return error_set_param(err, E_INVALID, "temperature", "temperature must be from 0 to 2, not %g", s->temperature);
    return 0;
}

/* ---- the models ---- */

/* Whether it is the tokenizer alone that the weights do not fit, which is a measurement and no error; the tokenizer is then in info. */
static bool tokenizer_too_large(struct side *s, const char *tokenizer_path) {
    char path[PATH_SIZE];
    struct model_config config;
    struct tokenizer *tokenizer = NULL;
    struct buf text;
    buf_init(&text, MODEL_CONFIG_FILE_MAX);
    bool is = snprintf(path, sizeof path, "%s/config.json", s->dir) < (int)sizeof path && file_read(path, &text, NULL) == 0 &&
              model_config_parse(buf_span(&text), &config, NULL) == 0 && tokenizer_load(tokenizer_path, &tokenizer, NULL) == 0 && tokenizer_vocab_size(tokenizer) > config.vocab;
    buf_fini(&text);
    if (!is) {
        tokenizer_free(tokenizer);
        return false;
    }
    s->info = (struct model_dir){.config = config, .tokenizer = tokenizer, .chat_template = mem_strdup(CHAT_TEMPLATE_CHATML)};
    return true;
}

static int open_side(struct side *s, bool candidate, struct error *err) {
    char path[PATH_SIZE];
    struct file_map map = {0};
    int r = snprintf(path, sizeof path, "%s/tokenizer.json", s->dir) < (int)sizeof path ? 0 : error_set(err, E_INVALID, "the path %.64s… is too long", s->dir);
    if (!r) r = model_dir_load(&s->info, s->dir, MODEL_WEIGHTS_MAP, MODEL_DIR_NO_WEIGHTS, err);
    if (r == E_INVALID && candidate && tokenizer_too_large(s, path)) {
        r = 0;
        if (err) *err = (struct error){0};
    }
    if (!r && !s->info.tokenizer) r = error_set(err, E_INVALID, "%s has no tokenizer.json: texts cannot be measured under it", s->dir);
    if (!r) r = file_map_open(&map, path, err);
    if (!r) {
        sha256_hex(span_of(map.data, map.len), s->tokenizer);
        s->usable = tokenizer_vocab_size(s->info.tokenizer) <= s->info.config.vocab;
    }
    file_map_close(&map);
    if (r) error_prefix(err, "%s", s->name);
    return r;
}

static void close_side(struct side *s, size_t n_prompts) {
    for (size_t i = 0; s->answers && i < n_prompts; i++) engine_result_fini(&s->answers[i]);
    mem_free(s->answers);
    mem_free(s->nll);
    mem_free(s->other);
    mem_free(s->chosen);
    mem_free(s->rejected);
    mem_free(s->tokens);
    mem_free(s->answered);
    model_dir_fini(&s->info);
}

/* What is measured of an encoder-decoder is of no other model. */
static int check_kinds(struct measuring *m, struct error *err) {
    const struct model_arch *c = m->sides[0].info.config.arch, *b = m->n_sides == 2 ? m->sides[1].info.config.arch : c;
    m->halves = c->kind == MODEL_ENCODER_DECODER;
    if (c->kind != b->kind)
        return error_set(err, E_INVALID, "the candidate is a %s model and the baseline a %s model: they are nothing to compare; give one of them another name", c->name, b->name);
    if (m->halves && m->paths->preferences && m->paths->preferences[0])
        return error_set_param(err, E_UNSUPPORTED, "preferences", "preferences are not measured of %s models, which are not trained here", c->name);
    return 0;
}

static int side_memory(struct side *s, const struct measuring *m, struct error *err) {
    s->nll = mem_calloc(m->n_documents, sizeof *s->nll);
    s->other = mem_calloc(m->n_documents, sizeof *s->other);
    s->tokens = mem_calloc(m->n_documents, sizeof *s->tokens);
    s->chosen = mem_calloc(m->n_pairs, sizeof *s->chosen);
    s->rejected = mem_calloc(m->n_pairs, sizeof *s->rejected);
    s->answered = mem_calloc(m->n_pairs, sizeof *s->answered);
    s->answers = mem_calloc(m->n_prompts, sizeof *s->answers);
    return s->nll && s->other && s->tokens && s->chosen && s->rejected && s->answered && s->answers ? 0 : error_set(err, E_NOMEM, "no memory for a measurement");
}

/* Prompts are chats where both models take chats. */
static bool takes_chat(const struct side *s) {
    const struct chat_message probe = {SPAN("user"), SPAN("?")};
    struct tokens ids = {0};
    int r = s->info.chat_template ? tokenizer_encode_chat(s->info.tokenizer, s->info.chat_template, &probe, 1, true, &ids, NULL, NULL) : E_UNSUPPORTED;
    tokens_fini(&ids);
    return r == 0;
}

/* ---- what is measured ---- */

/* Whether prompt and answer have room under the model that the candidate is held against; so another tokenizer does not change what is asked. */
static int prompt_fits(void *arg, struct measure_prompt *q, struct error *err) {
    struct measuring *m = arg;
    const struct side *s = &m->sides[m->n_sides - 1];
    struct tokens ids = {0};
    int r;
    if (q->messages && m->chat) r = tokenizer_encode_chat(s->info.tokenizer, s->info.chat_template, q->messages, q->message_count, true, &ids, NULL, err);
    else r = tokenizer_encode(s->info.tokenizer, q->messages ? q->messages[q->message_count - 1].content : q->text, TOKENIZER_ADD_SPECIAL, &ids, err);
    q->tokens = ids.len;
    int fits = ids.len > 0 && ids.len + m->spec->sample_tokens <= m->context;
    tokens_fini(&ids);
    return r ? r : fits;
}

static int there_and_back(const struct tokenizer *t, struct span from, bool skip_special, struct tokens *ids, struct buf *to, struct error *err) {
    tokens_clear(ids);
    buf_clear(to);
    int r = tokenizer_encode(t, from, TOKENIZER_NO_SPECIALS, ids, err);
    if (!r && tokenizer_decode(t, ids->ids, ids->len, skip_special, to)) r = error_set(err, E_NOMEM, "no memory for a text");
    return r;
}

static struct span next_word(struct span *rest) {
    struct span text = span_trim(*rest);
    size_t n = 0;
    while (n < text.len && !memchr(" \t\r\n", text.data[n], 4)) n++;
    *rest = span_skip(text, n);
    return span_sub(text, 0, n);
}

static bool same_words(struct span a, struct span b) {
    for (;;) {
        struct span x = next_word(&a), y = next_word(&b);
        if (!span_eq(x, y)) return false;
        if (!x.len) return true;
    }
}

/* A text comes back as it was. An encoder-decoder's tokenizer makes its texts simpler (SentencePiece: white space, compatible characters) and leaves out what it has no token for: there what came back
 * comes back again, and that is the most of it. */
static int check_round_trip(struct measuring *m, struct error *err) {
    const struct tokenizer *t = m->sides[0].info.tokenizer;
    struct tokens ids = {0}, again = {0};
    struct buf text, twice;
    size_t bytes = 0, kept = 0;
    buf_init(&text, FILE_BYTES_MAX);
    buf_init(&twice, FILE_BYTES_MAX);
    m->round_trip = m->sides[0].usable;
    m->document_tokens = 0;
    int r = 0;
    for (size_t i = 0; i < m->n_documents && !r; i++) {
        struct span whole = m->documents[i].text;
        r = there_and_back(t, whole, m->halves, &ids, &text, err);
        if (!r && m->halves) r = there_and_back(t, buf_span(&text), true, &again, &twice, err);
        if (!r) m->round_trip &= m->halves ? same_words(buf_span(&text), buf_span(&twice)) : span_eq(buf_span(&text), whole);
        m->document_tokens += ids.len;
        bytes += whole.len;
        kept += text.len;
    }
    if (m->halves && kept < bytes / 2) m->round_trip = false;
    tokens_fini(&ids);
    tokens_fini(&again);
    buf_fini(&text);
    buf_fini(&twice);
    return r;
}

/* The picked rows as files, which lib/train reads as it reads what is trained on. They may hold what people wrote: readable by us alone, and removed. */
static int write_rows(struct measuring *m, struct error *err) {
    struct buf out;
    struct json_out w;
    buf_init(&out, FILE_BYTES_MAX);
    for (size_t i = 0; i < m->n_documents; i++) {
        json_begin(&w, &out);
        json_object(&w);
        json_span(&w, "text", m->documents[i].text);
        json_object_end(&w);
        buf_append_char(&out, '\n');
    }
    int r = out.failed ? error_set(err, out.failed, "the held-out documents do not fit into memory") : file_write(m->documents_path, buf_span(&out), 0600, err);
    buf_clear(&out);
    for (size_t i = 0; i < m->n_pairs; i++) {
        buf_append_span(&out, m->pairs[i].line);
        buf_append_char(&out, '\n');
    }
    if (!r) r = out.failed ? error_set(err, out.failed, "the held-out pairs do not fit into memory") : file_write(m->pairs_path, buf_span(&out), 0600, err);
    buf_fini(&out);
    return r;
}

/* A token of a model takes as many multiply-adds as it has parameters, about: attention comes on top, and a table that is only looked up does not. */
static double multiply_adds(const struct measuring *m) {
    double tokens = (double)m->document_tokens, each = 0;
    for (size_t i = 0; i < m->n_prompts; i++) tokens += (double)(m->prompts[i].tokens + m->spec->sample_tokens);
    /* Of a pair the prompt is computed twice, and a token is some four bytes. */
    for (size_t i = 0; i < m->n_pairs; i++) tokens += (double)m->pairs[i].line.len / 2;
    for (int i = 0; i < m->n_sides; i++) each += (double)model_config_param_count(&m->sides[i].info.config);
    return tokens * each;
}

static size_t part_of(size_t n, double share, size_t least) {
    size_t part = (size_t)ceil((double)n * share);
    return part > least ? part : n < least ? n : least;
}

static int read_all(struct measuring *m, size_t document_bytes_max, struct error *err) {
    const struct measure_paths *p = m->paths;
    int r = measure_read_documents(p->documents, m->spec, document_bytes_max, &m->arena, &m->documents, &m->n_documents, err);
    if (!r && m->n_documents == 0) r = error_set(err, E_INVALID, "%s has no document to measure on", p->documents);
    if (!r) r = check_round_trip(m, err);
    if (!r) r = measure_read_prompts(p->prompts, m->spec, m->documents, m->n_documents, &m->arena, m, prompt_fits, &m->prompts, &m->n_prompts, err);
    if (!r) r = measure_read_pairs(p->preferences, m->spec, &m->arena, &m->pairs, &m->n_pairs, err);
    return r;
}

/* All that is asked for, or what the budget does for. */
static int read_rows(struct measuring *m, struct error *err) {
    const Genloop__V1__EvaluateSpec *s = m->spec;
    double budget = (double)s->multiply_adds_max;
    int r = read_all(m, MEASURE_DOCUMENT_BYTES_MAX, err);
    if (r || budget <= 0 || multiply_adds(m) <= budget) return r;
    if ((r = read_all(m, MEASURE_DOCUMENT_BYTES_SHORT, err)) != 0) return r;
    double share = fmin(1, budget / multiply_adds(m));
    m->n_documents = part_of(m->n_documents, share, s->documents_min > 0 ? s->documents_min : 1);
    m->n_prompts = part_of(m->n_prompts, share, s->prompts_min);
    m->n_pairs = part_of(m->n_pairs, share, s->prompts_min);
    return 0;
}

/* ---- likelihoods ---- */

/* What of a document has a likelihood. */
static struct span measured_text(const struct measuring *m, size_t i) {
    struct span first, text = m->documents[i].text;
    if (m->halves) measure_halve(text, &first, &text);
    return text;
}

/* The rows of a file as lib/train reads them: training and measuring take the same ids and labels for a text. */
static int open_rows(const struct measuring *m, const struct side *s, const char *path, enum data_kind kind, struct data **rows, struct error *err) {
    /* A window has one id more than inputs, and the engine holds no more ids than its context. */
    struct data_options o = {.kind = kind, .length = m->context > 1 ? m->context - 1 : 1, .vocab = s->info.config.vocab, .tokenizer = s->info.tokenizer, .chat_template = s->info.chat_template};
    return data_open(rows, path, &o, err);
}

/* What a side computes in one go, and how its units are told. */
struct go {
    struct measuring *m;
    size_t requests; /* in it */
    uint64_t units;  /* that they are */
};
static bool go_should_stop(void *arg) { return stop_asked(((struct go *)arg)->m); }
static void go_finished(void *arg, size_t finished) {
    const struct go *g = arg;
    tell(g->m, g->m->done + (g->requests ? g->units * finished / g->requests : 0));
}

static int compute(struct measuring *m, struct engine *engine, const struct engine_request *requests, size_t n, struct engine_result *results, uint64_t units, struct error *err) {
    struct go go = {m, n, units};
    const struct engine_watch watch = {&go, go_should_stop, go_finished};
    int r = engine_generate_watched(engine, requests, n, results, &watch, err);
    if (r == E_CANCELLED) return error_set(err, r, "the evaluation was stopped");
    if (!r) step(m, units);
    return r;
}

/* A text, or a part of one, under the engine. */
struct text {
    double *log_p;      /* the labels' log-probabilities are added to it */
    uint64_t *labels;   /* and their number */
    const uint8_t *is_label;
};
struct scoring {
    struct engine *engine;
    struct engine_request requests[TEXTS_AT_ONCE];
    struct engine_result results[TEXTS_AT_ONCE];
    struct text texts[TEXTS_AT_ONCE];
    size_t n;
    uint64_t units; /* documents or pairs that end with them */
};

static int score(struct measuring *m, struct scoring *c, struct error *err) {
    int r = compute(m, c->engine, c->requests, c->n, c->results, c->units, err);
    for (size_t i = 0; i < c->n; i++) {
        const struct engine_result *result = &c->results[i];
        const struct text *t = &c->texts[i];
        if (!r && result->error.code) {
            r = result->error.code;
            if (err) *err = result->error;
        }
        for (size_t k = 0; !r && k < result->prompt_count; k++)
            if (!t->is_label || t->is_label[k + 1]) {
                *t->log_p += (double)result->prompt_logprobs[k];
                (*t->labels)++;
            }
        engine_result_fini(&c->results[i]);
    }
    c->n = 0;
    c->units = 0;
    return r;
}

static struct engine_request *next_request(struct scoring *c, struct text text) {
    struct engine_request *q = &c->requests[c->n];
    engine_request_init(q);
    q->tokens_max = 0;
    q->prompt_logprobs = true;
    c->texts[c->n++] = text;
    return q;
}

/* Computed where there are enough of them. ends: it is the last of its unit. */
static int score_text(struct measuring *m, struct scoring *c, const struct data_sequence *ids, double *log_p, uint64_t *labels, bool ends, struct error *err) {
    if (ids->count > 0) { /* else there is no token behind another */
        struct engine_request *q = next_request(c, (struct text){log_p, labels, ids->is_label});
        q->tokens = ids->ids;
        q->token_count = (size_t)ids->count + 1;
    }
    c->units += ends;
    return c->n < TEXTS_AT_ONCE ? 0 : score(m, c, err);
}

/* At most `max` ids of a text, which stay until the measurement ends. */
static int half_ids(struct measuring *m, const struct side *s, struct span text, unsigned flags, size_t max, const uint32_t **kept, size_t *n, struct error *err) {
    struct tokens ids = {0};
    int r = tokenizer_encode(s->info.tokenizer, text, flags | TOKENIZER_NO_SPECIALS, &ids, err);
    if (!r) {
        *n = ids.len < max ? ids.len : max;
        uint32_t *copy = arena_calloc(&m->arena, *n + 1, sizeof *copy);
        if (copy && *n) memcpy(copy, ids.ids, *n * sizeof *copy);
        if (!(*kept = copy)) r = error_set(err, E_NOMEM, "no memory for a measurement");
    }
    tokens_fini(&ids);
    return r;
}

/* The encoder reads the first half as any prompt, the decoder is made to say the second; `apart` documents lie between the two. */
static int score_halves(struct measuring *m, struct side *s, struct scoring *c, size_t apart, double *log_p, uint64_t *tokens, struct error *err) {
    uint32_t context = engine_context(c->engine);
    int r = 0;
    for (size_t i = 0; i < m->n_documents && !r; i++) {
        struct span first, second, unused;
        measure_halve(m->documents[(i + apart) % m->n_documents].text, &first, &unused);
        measure_halve(m->documents[i].text, &unused, &second);
        struct engine_request *q = next_request(c, (struct text){&log_p[i], &tokens[i], NULL});
        r = half_ids(m, s, first, TOKENIZER_ADD_SPECIAL, context, &q->tokens, &q->token_count, err);
        if (!r) r = half_ids(m, s, second, 0, context - 1, &q->target, &q->target_count, err);
        if (!r && q->target_count == 0) c->n--; /* nothing that the tokenizer has a token for */
        c->units++;
        if (!r && c->n == TEXTS_AT_ONCE) r = score(m, c, err);
    }
    return r ? r : score(m, c, err);
}

static void negate(double *x, size_t n) {
    for (size_t i = 0; i < n; i++) x[i] = -x[i];
}

static int score_documents(struct measuring *m, struct side *s, struct scoring *c, struct error *err) {
    struct data *rows = NULL;
    int r = open_rows(m, s, m->documents_path, DATA_DOCUMENTS, &rows, err);
    for (size_t i = 0; i < m->n_documents && !r; i++) {
        uint32_t windows = data_sequences(rows, i);
        for (uint32_t k = 0; k < windows && !r; k++) {
            struct data_sequence ids = data_sequence(rows, i, k);
            r = score_text(m, c, &ids, &s->nll[i], &s->tokens[i], k + 1 == windows, err);
        }
    }
    if (!r) r = score(m, c, err);
    negate(s->nll, m->n_documents);
    data_close(rows);
    return r;
}

static int score_both_halves(struct measuring *m, struct side *s, struct scoring *c, struct error *err) {
    int r = score_halves(m, s, c, 0, s->nll, s->tokens, err);
    if (!r && s == &m->sides[0]) {
        uint64_t *unused = arena_calloc(&m->arena, m->n_documents, sizeof *unused);
        r = unused ? score_halves(m, s, c, 1, s->other, unused, err) : error_set(err, E_NOMEM, "no memory for a measurement");
    }
    negate(s->nll, m->n_documents);
    negate(s->other, m->n_documents);
    return r;
}

static int score_pairs(struct measuring *m, struct side *s, struct scoring *c, struct error *err) {
    struct data *rows = NULL;
    uint64_t *labels = mem_calloc(2 * m->n_pairs + 1, sizeof *labels);
    int r = labels ? open_rows(m, s, m->pairs_path, DATA_PAIRS, &rows, err) : error_set(err, E_NOMEM, "no memory for a measurement");
    for (size_t i = 0; i < m->n_pairs && !r; i++)
        for (uint32_t k = 0; k < 2 && !r; k++) {
            struct data_sequence ids = data_sequence(rows, i, k);
            r = score_text(m, c, &ids, k ? &s->rejected[i] : &s->chosen[i], &labels[2 * i + k], k == 1, err);
        }
    if (!r) r = score(m, c, err);
    for (size_t i = 0; i < m->n_pairs && !r; i++) s->answered[i] = labels[2 * i] > 0 && labels[2 * i + 1] > 0;
    mem_free(labels);
    data_close(rows);
    return r;
}

/* Nothing can be computed: each text counts by its tokens, and each probability as none. */
static int give_up(struct measuring *m, struct side *s, struct error *err) {
    struct tokens ids = {0};
    int r = 0;
    for (size_t i = 0; i < m->n_documents && !r; i++) {
        tokens_clear(&ids);
        r = tokenizer_encode(s->info.tokenizer, measured_text(m, i), TOKENIZER_NO_SPECIALS, &ids, err);
        s->nll[i] = s->other[i] = (double)NAN;
        s->tokens[i] = ids.len;
    }
    for (size_t i = 0; i < m->n_pairs; i++) {
        s->chosen[i] = s->rejected[i] = (double)NAN;
        s->answered[i] = 1;
    }
    for (size_t i = 0; i < m->n_prompts; i++) s->answers[i].finish = ENGINE_ERROR;
    tokens_fini(&ids);
    step(m, m->n_documents + m->n_pairs + m->n_prompts + (m->halves && s == &m->sides[0] ? m->n_documents : 0));
    return r;
}

/* ---- answers ---- */

static void make_request(const struct measuring *m, const struct measure_prompt *q, struct engine_request *r) {
    engine_request_init(r);
    if (q->messages && m->chat) {
        r->messages = q->messages;
        r->message_count = q->message_count;
    } else r->prompt = q->messages ? q->messages[q->message_count - 1].content : q->text;
    r->tokens_max = m->spec->sample_tokens;
    r->sampling.temperature = m->spec->temperature;
    r->sampling.seed = q->seed;
    r->seed_set = true;
}

/* What says something about the model (a logit that is no number, a prompt that its tokenizer makes too long) is an empty answer; the rest ends the measurement. */
static int check_answer(const struct engine_result *a, struct error *err) {
    if (a->error.code == 0 || a->error.code == E_RANGE || a->error.code == E_INTERNAL) return 0;
    if (err) *err = a->error;
    return a->error.code;
}

static int sample(struct measuring *m, struct side *s, struct engine *engine, struct error *err) {
    struct engine_request *requests = mem_calloc(m->n_prompts, sizeof *requests);
    if (!requests) return error_set(err, E_NOMEM, "no memory for a measurement");
    for (size_t i = 0; i < m->n_prompts; i++) make_request(m, &m->prompts[i], &requests[i]);
    int r = compute(m, engine, requests, m->n_prompts, s->answers, m->n_prompts, err);
    for (size_t i = 0; i < m->n_prompts && !r; i++) r = check_answer(&s->answers[i], err);
    mem_free(requests);
    return r;
}

/* Tokens of a step, so that one takes about a second at most and a stop is soon seen; fewer than these bring nothing. */
static uint32_t step_rows(const struct side *s) {
    uint64_t rows = STEP_MULTIPLY_ADDS / (model_config_param_count(&s->info.config) + 1);
    return rows < STEP_ROWS_MIN ? STEP_ROWS_MIN : rows > STEP_ROWS_MAX ? STEP_ROWS_MAX : (uint32_t)rows;
}

static int measure_side(struct measuring *m, struct side *s, struct error *err) {
    struct scoring *c = mem_zalloc(sizeof *c);
    const struct engine_options options = {.threads = (int)m->options.threads, .sequences_max = m->options.sequences, .context = m->context, .step_rows = step_rows(s), .adapter = s->adapter};
    int r = c ? go_on(m, err) : error_set(err, E_NOMEM, "no memory for a measurement");
    if (!r) begin(m, "documents");
    if (!r && s->usable) r = engine_new(&c->engine, s->dir, &options, err);
    if (!s->usable || r == E_INVALID || r == E_RANGE) { /* weights that no replica would load, though they could be read */
        if (err && r) *err = (struct error){0};
        r = give_up(m, s, err);
        goto out;
    }
    if (!r) r = m->halves ? score_both_halves(m, s, c, err) : score_documents(m, s, c, err);
    if (!r && m->n_pairs) {
        begin(m, "pairs");
        r = score_pairs(m, s, c, err);
    }
    if (!r && m->n_prompts) {
        begin(m, "samples");
        r = sample(m, s, c->engine, err);
    }
out:
    engine_free(c ? c->engine : NULL);
    mem_free(c);
    if (r) error_prefix(err, "%s", s->name);
    return r;
}

/* ---- the record ---- */

static void put_count(struct json_out *w, const char *key, uint64_t n) {
    json_key(w, key);
    json_put_uint(w, n);
}

static void put_spec(struct json_out *w, const Genloop__V1__EvaluateSpec *s) {
    json_key(w, "spec");
    json_object(w);
    json_str(w, "candidate", s->candidate);
    json_str(w, "baseline", s->baseline);
    json_str(w, "held_out", s->held_out);
    json_str(w, "preferences", s->preferences);
    put_count(w, "documents_max", s->documents_max);
    put_count(w, "prompts", s->prompts);
    put_count(w, "sample_tokens", s->sample_tokens);
    put_count(w, "multiply_adds_max", s->multiply_adds_max);
    put_count(w, "documents_min", s->documents_min);
    put_count(w, "prompts_min", s->prompts_min);
    put_count(w, "seed", s->seed);
    json_flt(w, "temperature", s->temperature);
    json_str(w, "trait", s->trait);
    json_str(w, "tokenizer", s->tokenizer);
    json_object_end(w);
}

static void put_answer(struct json_out *w, const char *key, const struct engine_result *a) {
    bool failed = a->error.code != 0 || a->finish == ENGINE_ERROR;
    /* The token that ended it has no text and is not part of the answer. */
    size_t n = failed ? 0 : a->token_count - (a->finish == ENGINE_STOP && a->token_count > 0);
    json_key(w, key);
    json_object(w);
    json_span(w, "text", failed ? SPAN("") : span_of(a->text, a->text_len));
    json_key(w, "tokens");
    json_array(w);
    for (size_t i = 0; i < n; i++) json_put_uint(w, a->tokens[i]);
    json_array_end(w);
    json_str(w, "finish", engine_finish_name(failed ? ENGINE_ERROR : a->finish));
    json_object_end(w);
}

static void put_likelihood(struct json_out *w, const char *key, double v) {
    json_key(w, key);
    json_put_real(w, v); /* nan: null */
}

static void put_documents(struct json_out *w, const struct measuring *m) {
    const struct side *c = &m->sides[0], *b = &m->sides[1];
    json_key(w, "documents");
    json_array(w);
    for (size_t i = 0; i < m->n_documents; i++) {
        json_object(w);
        json_span(w, "id", m->documents[i].id);
        put_count(w, "bytes", measured_text(m, i).len);
        put_count(w, "tokens_candidate", c->tokens[i]);
        put_likelihood(w, "nll_candidate", c->nll[i]);
        if (m->halves) put_likelihood(w, "nll_candidate_other", c->other[i]);
        if (m->n_sides == 2) {
            put_count(w, "tokens_baseline", b->tokens[i]);
            put_likelihood(w, "nll_baseline", b->nll[i]);
        }
        json_object_end(w);
    }
    json_array_end(w);
}

static void put_pairs(struct json_out *w, const struct measuring *m) {
    const struct side *c = &m->sides[0], *b = &m->sides[1];
    json_key(w, "pairs");
    json_array(w);
    for (size_t i = 0; i < m->n_pairs; i++) {
        if (!c->answered[i] || (m->n_sides == 2 && !b->answered[i])) continue; /* cut away by the context: it says nothing */
        json_object(w);
        json_span(w, "request_id", m->pairs[i].request_id);
        json_span(w, "prompt_id", m->pairs[i].prompt_id);
        put_likelihood(w, "candidate_chosen", c->chosen[i]);
        put_likelihood(w, "candidate_rejected", c->rejected[i]);
        if (m->n_sides == 2) {
            put_likelihood(w, "baseline_chosen", b->chosen[i]);
            put_likelihood(w, "baseline_rejected", b->rejected[i]);
        }
        json_object_end(w);
    }
    json_array_end(w);
}

static void put_samples(struct json_out *w, const struct measuring *m) {
    json_key(w, "samples");
    json_array(w);
    for (size_t i = 0; i < m->n_prompts; i++) {
        json_object(w);
        json_str(w, "prompt_id", m->prompts[i].id);
        json_key(w, "prompt");
        json_put_raw(w, m->prompts[i].json);
        put_count(w, "seed", m->prompts[i].seed);
        put_answer(w, "candidate", &m->sides[0].answers[i]);
        if (m->n_sides == 2) put_answer(w, "baseline", &m->sides[1].answers[i]);
        json_object_end(w);
    }
    json_array_end(w);
}

static int write_record(const struct measuring *m, struct buf *record, struct error *err) {
    size_t before = record->len;
    struct json_out w;
    json_begin(&w, record);
    json_object(&w);
    json_num(&w, "format", 1);
    put_spec(&w, m->spec);
    json_str(&w, "candidate", m->spec->candidate);
    json_str(&w, "baseline", m->n_sides == 2 ? m->spec->baseline : "");
    json_key(&w, "tokenizer");
    json_object(&w);
    json_str(&w, "candidate", m->sides[0].tokenizer);
    json_str(&w, "baseline", m->n_sides == 2 ? m->sides[1].tokenizer : "");
    json_flag(&w, "round_trip", m->round_trip);
    json_object_end(&w);
    if (m->halves) json_flag(&w, "halves", true);
    put_documents(&w, m);
    put_pairs(&w, m);
    put_samples(&w, m);
    json_object_end(&w);
    if (!record->failed) return 0;
    record->len = before;
    return error_set(err, record->failed, "the record of %zu documents, %zu pairs and %zu samples does not fit", m->n_documents, m->n_pairs, m->n_prompts);
}

int measure_evaluation(const struct measure_paths *paths, const Genloop__V1__EvaluateSpec *spec, const struct measure_options *options, struct buf *record, struct error *err) {
    struct measuring *m = mem_zalloc(sizeof *m);
    if (!m) return error_set(err, E_NOMEM, "no memory for a measurement");
    m->paths = paths;
    m->spec = spec;
    if (options) m->options = *options;
    arena_init(&m->arena, ROWS_BYTES_MAX);
    m->sides[0] = (struct side){.dir = paths->candidate, .adapter = paths->candidate_adapter, .name = "candidate"};
    m->sides[1] = (struct side){.dir = paths->baseline, .adapter = paths->baseline_adapter, .name = "baseline"};
    m->n_sides = paths->baseline ? 2 : 1;
    snprintf(m->documents_path, sizeof m->documents_path, "%s/measure-documents.jsonl", paths->work);
    snprintf(m->pairs_path, sizeof m->pairs_path, "%s/measure-pairs.jsonl", paths->work);
    m->chat = true;
    m->context = UINT32_MAX;
    int r = check_spec(spec, err);
    for (int i = 0; i < m->n_sides && !r; i++) {
        struct side *s = &m->sides[i];
        r = open_side(s, i == 0, err);
        if (r) break;
        m->chat &= takes_chat(s);
        if (s->info.config.context < m->context) m->context = s->info.config.context;
    }
    if (!r) r = check_kinds(m, err);
    if (!r) begin(m, "load");
    if (!r) r = read_rows(m, err);
    for (int i = 0; i < m->n_sides && !r; i++) r = side_memory(&m->sides[i], m, err);
    if (!r) r = write_rows(m, err);
    for (int i = 0; i < m->n_sides && !r; i++) r = measure_side(m, &m->sides[i], err);
    if (!r) r = write_record(m, record, err);
    remove(m->documents_path);
    remove(m->pairs_path);
    for (int i = 0; i < m->n_sides; i++) close_side(&m->sides[i], m->n_prompts);
    arena_fini(&m->arena);
    mem_free(m);
    return r;
}
