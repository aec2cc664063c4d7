#include "engine/embedder.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "tensor/kernels.h"

enum { PASS_TEXTS_MAX = 256 };

/* One text (or pair) to be computed. */
struct item {
    struct span text, pair;
    uint32_t *ids;   /* owned once `ready`, of tokens from the start */
    uint8_t *types;  /* owned */
    size_t count;
    bool ready, cached; /* cached: its numbers are those of the item before it */
    float *out;
};
struct job {
    struct job *next;
    uint64_t id;
    enum embedder_task task;
    uint32_t dimensions;
    bool truncate, score;
    int64_t deadline_ms;
    atomic_bool cancelled;
    struct item *items;
    size_t item_count, taken, done; /* taken: into a pass */
    size_t inputs, width;           /* of an item's numbers */
    float *values, *cosines;        /* owned; cosines: [inputs], of a score by vectors */
    char *texts; /* owned, what the spans point to */
    size_t bytes;
    uint64_t tokens;
    struct error error;
    void *arg;
    void (*on_answer)(void *arg, const struct embedder_answer *answer);
};
struct embedder {
    struct encoder *encoder;
    uint32_t queue_max;
    pthread_t thread;
    bool started;
    struct encoder_text pass[PASS_TEXTS_MAX]; /* of the thread alone, as the next two */
    struct job *pass_job[PASS_TEXTS_MAX];
    struct job *active; /* changed by the thread alone, under the lock; so it may walk it without */
    pthread_mutex_t lock; /* of what follows */
    pthread_cond_t wake;
    struct job *incoming, **incoming_end;
    bool stop;
    uint64_t next_id;
    size_t bytes;
    struct embedder_stats stats;
};

static void job_free(struct job *j) {
    if (!j) return;
    for (size_t i = 0; j->items && i < j->item_count; i++) {
        mem_free(j->items[i].ids);
        mem_free(j->items[i].types);
    }
    mem_free(j->items);
    mem_free(j->values);
    mem_free(j->cosines);
    mem_free(j->texts);
    mem_free(j);
}

/* --- what was asked for, of what was computed --- */

static void finish_embed(struct job *j) {
    size_t n = j->dimensions;
    if (n == 0 || n == j->width) return;
    for (size_t i = 0; i < j->inputs; i++) {
        float *to = j->values + i * n;
        memmove(to, j->values + i * j->width, n * sizeof *to);
        double length = sqrt(kernels()->sum_squares(to, n));
        kernels()->scale((float)(1 / (length > 1e-12 ? length : 1e-12)), to, n);
    }
    j->width = n;
}

/* Cosines of pairs of vectors of length 1. */
static void finish_cosines(struct job *j) {
    const float *first = NULL;
    for (size_t i = 0; i < j->inputs; i++) {
        if (!j->items[2 * i].cached) first = j->items[2 * i].out;
        j->cosines[i] = kernels()->dot(first, j->items[2 * i + 1].out, j->width);
    }
    j->width = 1;
}

static void answer(struct embedder *e, struct job *j) {
    struct embedder_answer a = {.error = j->error.code ? &j->error : NULL, .tokens = j->tokens};
    if (!a.error) {
        if (j->task == EMBEDDER_EMBED) finish_embed(j);
        else if (j->score)
            for (size_t i = 0; i < j->inputs; i++) encoder_probabilities(e->encoder, j->values + i * j->width);
        else finish_cosines(j);
        a.values = j->cosines ? j->cosines : j->values;
        a.rows = j->inputs;
        a.cols = j->width;
    }
    j->on_answer(j->arg, &a);
}

/* --- the thread --- */

static int make_ready(struct embedder *e, struct job *j, struct item *it, struct encoder_text *t) {
    struct tokens ids = {.ids = NULL};
    if (!it->ready) {
        int r = tokenizer_encode_pair(encoder_tokenizer(e->encoder), it->text, it->pair, TOKENIZER_ADD_SPECIAL | TOKENIZER_NO_SPECIALS, j->truncate ? encoder_tokens_max(e->encoder) : 0, &ids,
                                      &it->types, &j->error);
        it->ids = ids.ids;
        it->count = ids.len;
        mem_free(ids.offsets);
        if (r != 0) return r;
        it->ready = true;
    } else if (j->truncate && it->count > encoder_tokens_max(e->encoder)) it->count = encoder_tokens_max(e->encoder);
    *t = (struct encoder_text){.ids = it->ids, .types = encoder_model(e->encoder)->types ? it->types : NULL, .count = it->count, .score = j->score, .pooling = encoder_settings(e->encoder)->pooling,
                               .normalize = true, .out = it->out};
    int r = encoder_check(e->encoder, t, &j->error);
    if (r != 0 && j->inputs > 1) (void)error_prefix(&j->error, "input %zu", (size_t)(it - j->items) / (j->item_count / j->inputs));
    return r;
}

/* One text of each request in turn, as many as a pass takes. */
static size_t fill_pass(struct embedder *e) {
    size_t n = 0, rows = 0, rows_max = encoder_pass_rows(e->encoder);
    bool more = true;
    while (more && n < PASS_TEXTS_MAX) {
        more = false;
        for (struct job *j = e->active; j && n < PASS_TEXTS_MAX; j = j->next) {
            while (j->taken < j->item_count && j->items[j->taken].cached) {
                j->taken++;
                j->done++;
            }
            if (j->error.code || j->taken == j->item_count) continue;
            if (make_ready(e, j, &j->items[j->taken], &e->pass[n]) != 0) continue;
            if (n > 0 && rows + e->pass[n].count > rows_max) continue; /* its turn is in the next pass; shorter ones of others may still fit */
            rows += e->pass[n].count;
            j->tokens += e->pass[n].count;
            j->taken++;
            e->pass_job[n++] = j;
            more = rows < rows_max;
        }
    }
    return n;
}

/* Ends what is complete, failed, cancelled or late. */
static void sweep(struct embedder *e, bool all) {
    int64_t now = clock_mono_ms();
    for (struct job **at = &e->active; *at;) {
        struct job *j = *at;
        if (!j->error.code && j->done < j->item_count) {
            if (all || atomic_load(&j->cancelled)) (void)error_set(&j->error, E_CANCELLED, "the request was cancelled");
            else if (j->deadline_ms && now >= j->deadline_ms) (void)error_set(&j->error, E_DEADLINE, "the deadline has passed");
        }
        if (!j->error.code && j->done < j->item_count) {
            at = &j->next;
            continue;
        }
        pthread_mutex_lock(&e->lock);
        *at = j->next;
        e->bytes -= j->bytes;
        e->stats.waiting--;
        e->stats.requests++;
        pthread_mutex_unlock(&e->lock);
        answer(e, j);
        job_free(j);
    }
}

/* Moves what came in behind what is active. False: the end. */
static bool take_incoming(struct embedder *e) {
    pthread_mutex_lock(&e->lock);
    while (!e->stop && !e->incoming && !e->active) pthread_cond_wait(&e->wake, &e->lock);
    struct job **end = &e->active;
    while (*end) end = &(*end)->next;
    *end = e->incoming;
    e->incoming = NULL;
    e->incoming_end = &e->incoming;
    bool go_on = !e->stop;
    pthread_mutex_unlock(&e->lock);
    return go_on;
}

static void *run(void *arg) {
    struct embedder *e = arg;
    while (take_incoming(e)) {
        sweep(e, false);
        size_t n = fill_pass(e);
        if (n > 0) {
            uint64_t tokens = 0;
            encoder_run(e->encoder, e->pass, n);
            for (size_t i = 0; i < n; i++) {
                e->pass_job[i]->done++;
                tokens += e->pass[i].count;
            }
            pthread_mutex_lock(&e->lock);
            e->stats.tokens += tokens;
            e->stats.texts += n;
            e->stats.passes++;
            pthread_mutex_unlock(&e->lock);
        }
        sweep(e, false);
    }
    sweep(e, true);
    return NULL;
}

int embedder_new_from(struct embedder **out, struct encoder *encoder, uint32_t queue_max, struct error *err) {
    struct embedder *e = mem_zalloc(sizeof *e);
    if (!e) {
        encoder_free(encoder);
        return error_set(err, E_NOMEM, "no memory for a model");
    }
    e->encoder = encoder;
    e->queue_max = queue_max ? queue_max : EMBEDDER_QUEUE_DEFAULT;
    e->incoming_end = &e->incoming;
    e->next_id = 1;
    pthread_mutex_init(&e->lock, NULL);
    pthread_cond_init(&e->wake, NULL);
    e->started = pthread_create(&e->thread, NULL, run, e) == 0;
    if (!e->started) {
        embedder_free(e);
        return error_set(err, E_NOMEM, "no thread for a model");
    }
    *out = e;
    return 0;
}

int embedder_new(struct embedder **out, const char *dir, const struct embedder_options *options, struct error *err) {
    struct encoder *encoder = NULL;
    struct encoder_options o = {.threads = options->threads, .weights = options->weights, .packed = options->packed};
    int r = encoder_new(&encoder, dir, &o, err);
    return r == 0 ? embedder_new_from(out, encoder, options->queue_max, err) : r;
}

void embedder_free(struct embedder *e) {
    if (!e) return;
    pthread_mutex_lock(&e->lock);
    e->stop = true;
    pthread_cond_signal(&e->wake);
    pthread_mutex_unlock(&e->lock);
    if (e->started) pthread_join(e->thread, NULL);
    pthread_cond_destroy(&e->wake);
    pthread_mutex_destroy(&e->lock);
    encoder_free(e->encoder);
    mem_free(e);
}

/* --- submitting --- */

static int check_request(const struct embedder *e, const struct embedder_request *r, struct error *err) {
    const struct model_config *c = encoder_model(e->encoder);
    if (r->count < 1 || r->count > EMBEDDER_INPUTS_MAX) return error_set_param(err, E_INVALID, "input", "a request has 1 to %d inputs, not %zu", EMBEDDER_INPUTS_MAX, r->count);
    if (r->dimensions > c->width) return error_set_param(err, E_INVALID, "dimensions", "dimensions is %u, and the model's vectors have %u", r->dimensions, c->width);
    if (r->task == EMBEDDER_CLASSIFY && !c->labels) return error_set_param(err, E_UNSUPPORTED, "model", "the model has no classifier: it embeds");
    if (r->task == EMBEDDER_SCORE && c->labels > 1) return error_set_param(err, E_UNSUPPORTED, "model", "the model classifies into %u labels; pairs are scored by one label, or by vectors", c->labels);
    for (size_t i = 0; i < r->count; i++) {
        if (r->inputs[i].tokens ? r->task == EMBEDDER_SCORE : !encoder_tokenizer(e->encoder))
            return error_set_param(err, E_UNSUPPORTED, "input", "%s", r->inputs[i].tokens ? "pairs are given as texts" : "the model has no tokenizer: give token ids");
        if (r->task == EMBEDDER_SCORE && !r->inputs[i].pair.data) return error_set_param(err, E_INVALID, "input", "a pair has one text only");
        if (r->inputs[i].tokens && (r->inputs[i].token_count == 0 || r->inputs[i].token_count > ENCODER_TOKENS_MAX))
            return error_set_param(err, r->inputs[i].token_count ? E_RANGE : E_INVALID, "input", "input %zu has %zu tokens; this model takes 1 to %u", i, r->inputs[i].token_count, encoder_tokens_max(e->encoder));
    }
    return 0;
}

static int job_new(const struct embedder *e, const struct embedder_request *r, struct job **out, struct error *err) {
    const struct model_config *c = encoder_model(e->encoder);
    bool cosines = r->task == EMBEDDER_SCORE && !c->labels;
    size_t bytes = 0, width = r->task == EMBEDDER_EMBED || cosines ? c->width : c->labels, each = cosines ? 2 : 1;
    struct job *j = mem_zalloc(sizeof *j);
    for (size_t i = 0; i < r->count; i++) bytes += r->inputs[i].text.len + r->inputs[i].pair.len + r->inputs[i].token_count * sizeof(uint32_t);
    if (!j) goto no_memory;
    j->task = r->task;
    j->dimensions = r->dimensions;
    j->truncate = r->truncate;
    j->score = !cosines && r->task != EMBEDDER_EMBED;
    j->deadline_ms = r->deadline_ms;
    j->inputs = r->count;
    j->width = width;
    j->item_count = r->count * each;
    j->bytes = bytes + j->item_count * (width * sizeof(float) + sizeof *j->items);
    j->items = mem_calloc(j->item_count, sizeof *j->items);
    j->values = mem_calloc(j->item_count, width * sizeof *j->values);
    j->texts = mem_alloc(bytes);
    if (cosines) j->cosines = mem_calloc(r->count, sizeof *j->cosines);
    if (!j->items || !j->values || !j->texts || (cosines && !j->cosines)) goto no_memory;
    char *at = j->texts;
    for (size_t i = 0; i < r->count; i++) {
        const struct embedder_input *in = &r->inputs[i];
        struct item *it = &j->items[i * each];
        struct span text = span_of(at, in->text.len), pair = span_of(NULL, 0);
        if (in->text.len) memcpy(at, in->text.data, in->text.len);
        at += in->text.len;
        if (in->pair.data) {
            if (in->pair.len) memcpy(at, in->pair.data, in->pair.len);
            pair = span_of(at, in->pair.len);
            at += in->pair.len;
        }
        it->text = text;
        if (cosines) {
            it[0].cached = i > 0 && span_eq(in->text, r->inputs[i - 1].text); /* a query with all its documents is computed once */
            it[1].text = pair;
        } else it->pair = pair;
        for (size_t k = 0; k < each; k++) it[k].out = j->values + (i * each + k) * width;
        if (!in->tokens) continue;
        if (!(it->ids = mem_calloc(in->token_count, sizeof *it->ids))) goto no_memory;
        memcpy(it->ids, in->tokens, in->token_count * sizeof *it->ids);
        it->count = in->token_count;
        it->ready = true;
    }
    *out = j;
    return 0;
no_memory:
    job_free(j);
    return error_set(err, E_NOMEM, "no memory for a request");
}

int embedder_submit(struct embedder *e, const struct embedder_request *r, void *arg, void (*on_answer)(void *arg, const struct embedder_answer *answer), uint64_t *id, struct error *err) {
    struct job *j = NULL;
    int result = check_request(e, r, err);
    if (result == 0) result = job_new(e, r, &j, err);
    if (result != 0) return result;
    j->arg = arg;
    j->on_answer = on_answer;
    pthread_mutex_lock(&e->lock);
    if (e->stop) result = error_set(err, E_STATE, "the model is being let go");
    else if (e->stats.waiting >= e->queue_max) result = error_set(err, E_FULL, "%u requests wait already: try again in a moment", e->stats.waiting);
    else if (e->stats.waiting > 0 && e->bytes + j->bytes > EMBEDDER_BYTES_MAX) result = error_set(err, E_FULL, "the requests that wait have %zu MiB already: try again in a moment", e->bytes >> 20);
    else {
        *id = j->id = e->next_id++;
        e->bytes += j->bytes;
        e->stats.waiting++;
        *e->incoming_end = j;
        e->incoming_end = &j->next;
        pthread_cond_signal(&e->wake);
    }
    pthread_mutex_unlock(&e->lock);
    if (result != 0) job_free(j);
    return result;
}

void embedder_cancel(struct embedder *e, uint64_t id) {
    pthread_mutex_lock(&e->lock);
    for (int list = 0; list < 2; list++)
        for (struct job *j = list ? e->active : e->incoming; j; j = j->next)
            if (j->id == id) atomic_store(&j->cancelled, true);
    pthread_mutex_unlock(&e->lock);
}

const struct encoder *embedder_encoder(const struct embedder *e) { return e->encoder; }
void embedder_set_threads(struct embedder *e, int threads) { encoder_set_threads(e->encoder, threads); }
void embedder_get_stats(struct embedder *e, struct embedder_stats *s) {
    pthread_mutex_lock(&e->lock);
    *s = e->stats;
    s->bytes = e->bytes;
    pthread_mutex_unlock(&e->lock);
}
