/*
 * Generation/Encode: texts to a model's embedder, its answer as one reply. The embedder's thread keeps the numbers in the call and posts to the loop.
 *
 * A call has two ends, as in calls.c: the reply (ours to end, also after on_cancel) and the embedder's answer. It is freed when both are over.
 */
#include "base/alloc.h"
#include "base/clock.h"
#include "genloop/v1/generation.pb-c.h"
#include "inference.h"
#include "wire/unpack.h"

struct encode_call {
    struct call_kind kind; /* first */
    struct inference *inference;
    struct model *model;
    struct bus_reply *reply; /* NULL: ended */
    uint64_t id;             /* at the embedder */
    bool classify;
    /* what the embedder has said */
    struct encode_call *next_encoded;
    struct error error;
    float *values;
    size_t rows, cols;
    uint64_t tokens;
};

/* --- the embedder's thread --- */

static void on_answer(void *arg, const struct embedder_answer *a) {
    struct encode_call *c = arg;
    struct inference *inf = c->inference;
    if (a->error) c->error = *a->error;
    else if ((c->values = mem_calloc(a->rows, a->cols * sizeof *c->values)) == NULL) (void)error_set(&c->error, E_NOMEM, "no memory for an answer");
    else {
        memcpy(c->values, a->values, a->rows * a->cols * sizeof *c->values);
        c->rows = a->rows;
        c->cols = a->cols;
        c->tokens = a->tokens;
    }
    pthread_mutex_lock(&inf->dirty_lock);
    c->next_encoded = inf->encoded;
    inf->encoded = c;
    if (!inf->encoded_posted) inf->encoded_posted = loop_post(service_loop(inf->service), encode_flush, inf) == 0; /* without memory: the tick tells it */
    pthread_mutex_unlock(&inf->dirty_lock);
}

/* --- on the loop --- */

static int pack_reply(struct encode_call *c, struct span *packed) {
    struct arena *a = &c->inference->arena;
    Genloop__V1__EncodeReply r;
    Genloop__V1__Usage usage;
    genloop__v1__encode_reply__init(&r);
    genloop__v1__usage__init(&usage);
    usage.prompt_tokens = c->tokens < UINT32_MAX ? (uint32_t)c->tokens : UINT32_MAX;
    r.usage = &usage;
    r.model = c->model->name;
    r.replica = (char *)(uintptr_t)service_instance(c->inference->service);
    Genloop__V1__Embedding *rows = arena_calloc(a, c->rows, sizeof *rows);
    r.output = arena_calloc(a, c->rows, sizeof *r.output);
    if (!rows || !r.output) return E_TOO_LARGE;
    for (; r.n_output < c->rows; r.n_output++) {
        Genloop__V1__Embedding *row = r.output[r.n_output] = &rows[r.n_output];
        genloop__v1__embedding__init(row);
        row->values = c->values + r.n_output * c->cols;
        row->n_values = c->cols;
    }
    if (c->classify) {
        const struct encoder_settings *s = encoder_settings(embedder_encoder(c->model->embedder));
        if (!(r.labels = arena_calloc(a, c->cols, sizeof *r.labels))) return E_TOO_LARGE;
        for (; r.n_labels < c->cols; r.n_labels++)
            if (!(r.labels[r.n_labels] = s->labels ? s->labels[r.n_labels] : arena_printf(a, "LABEL_%zu", r.n_labels))) return E_TOO_LARGE;
    }
    size_t size = genloop__v1__encode_reply__get_packed_size(&r);
    uint8_t *bytes = size <= BUS_MESSAGE_MAX ? arena_alloc(a, size ? size : 1) : NULL;
    if (!bytes) return E_TOO_LARGE;
    *packed = span_of(bytes, genloop__v1__encode_reply__pack(&r, bytes));
    return 0;
}

static void finish(struct encode_call *c) {
    struct inference *inf = c->inference;
    struct span packed = SPAN("");
    int r = c->error.code;
    if (r == 0 && !c->model->embedder) r = error_set(&c->error, E_UNAVAILABLE, "the replica ends"); /* its labels are gone */
    if (c->reply && r == 0 && (r = pack_reply(c, &packed)) != 0) (void)error_set(&c->error, r, "the answer is larger than one reply can be: ask for fewer inputs at once, or fewer dimensions");
    if (c->reply) bus_reply_end(c->reply, r, r ? &c->error : NULL, packed);
    arena_clear(&inf->arena);
    inf->call_count--;
    c->model->calls--;
    mem_free(c->values);
    mem_free(c);
    if (service_draining(inf->service) && inf->call_count == 0) service_drained(inf->service);
    models_reconcile(inf); /* a model may have waited for its last call */
}

void encode_flush(void *arg) {
    struct inference *inf = arg;
    pthread_mutex_lock(&inf->dirty_lock);
    struct encode_call *c = inf->encoded, *next;
    inf->encoded = NULL;
    inf->encoded_posted = false;
    pthread_mutex_unlock(&inf->dirty_lock);
    for (; c; c = next) {
        next = c->next_encoded;
        finish(c);
    }
}

void encode_on_call(struct inference *inf, struct bus_reply *reply, const struct bus_context *context, struct span request, void **call_arg) {
    static const enum embedder_task tasks[] = {[GENLOOP__V1__ENCODE_TASK__ENCODE_TASK_EMBED] = EMBEDDER_EMBED, [GENLOOP__V1__ENCODE_TASK__ENCODE_TASK_SCORE] = EMBEDDER_SCORE,
                                               [GENLOOP__V1__ENCODE_TASK__ENCODE_TASK_CLASSIFY] = EMBEDDER_CLASSIFY};
    Genloop__V1__EncodeRequest *m = MESSAGE_UNPACK(EncodeRequest, encode_request, request);
    struct span side = !span_empty(context->session) ? context->session : context->request_id;
    struct embedder_request r = {0};
    struct embedder_input *inputs = NULL;
    struct encode_call *c = NULL;
    struct model *model = NULL;
    struct error err = {0};
    int result = 0;
    if (!m) result = error_set(&err, E_INVALID, "the request is no EncodeRequest");
    else if (m->task < GENLOOP__V1__ENCODE_TASK__ENCODE_TASK_EMBED || m->task > GENLOOP__V1__ENCODE_TASK__ENCODE_TASK_CLASSIFY) result = error_set_param(&err, E_INVALID, "task", "task %d is not known", (int)m->task);
    else if (m->n_input > EMBEDDER_INPUTS_MAX) result = error_set_param(&err, E_INVALID, "input", "%zu inputs, at most %d are taken", m->n_input, EMBEDDER_INPUTS_MAX);
    if (result == 0) result = models_find_kind(inf, span_str(m->model), span_hash(side), true, &model, &err);
    if (result == E_AGAIN) {
        result = waiting_add(inf, model, reply, SPAN("Generation/Encode"), context, request, call_arg, &err);
        goto out;
    }
    if (result == 0 && (!(inputs = arena_calloc(&inf->arena, m->n_input + 1, sizeof *inputs)) || !(c = mem_zalloc(sizeof *c)))) result = error_set(&err, E_NOMEM, "no memory for a call");
    if (result != 0) goto out;
    for (size_t i = 0; i < m->n_input; i++) {
        const Genloop__V1__EncodeInput *in = m->input[i];
        inputs[i] = (struct embedder_input){.text = span_str(in->text), .pair = in->paired ? span_str(in->pair) : span_of(NULL, 0), .tokens = in->n_tokens ? in->tokens : NULL, .token_count = in->n_tokens};
    }
    r = (struct embedder_request){.task = tasks[m->task], .inputs = inputs, .count = m->n_input, .dimensions = m->dimensions, .truncate = m->truncate,
                                  .deadline_ms = context->deadline_ms > 0 ? clock_mono_ms() + context->deadline_ms : 0};
    c->kind.encode = true;
    c->inference = inf;
    c->model = model;
    c->reply = reply;
    c->classify = r.task == EMBEDDER_CLASSIFY;
    if ((result = embedder_submit(model->embedder, &r, c, on_answer, &c->id, &err)) != 0) {
        mem_free(c);
        goto out;
    }
    /* its answer may lie in the list already, and is told by the loop only after this */
    inf->call_count++;
    model->calls++;
    *call_arg = c;
out:
    if (result != 0) calls_refuse(reply, result, &err);
    if (m) genloop__v1__encode_request__free_unpacked(m, NULL);
    arena_clear(&inf->arena);
}

void encode_on_cancel(struct encode_call *c) {
    c->reply = NULL;
    embedder_cancel(c->model->embedder, c->id);
}
