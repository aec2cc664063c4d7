/*
 * A replica. What it is made of, each a file:
 *   models.c    desired state (the registry's released versions) against what is loaded; loading and freeing on workers
 *   budget.c    which of the models are in memory: pure
 *   waiting.c   calls for models that are not
 *   draft_setting.c  which model guesses for which: pure
 *   request.c   a GenerateRequest as the engine's request: pure
 *   encode.c    calls to encoders: from a model's embedder to replies
 *   calls.c     the bus' calls: from the engine's events to replies, with credit, cancel and deadline
 * All of it is on the loop's thread, but the follower's own (lib/registry) and the engine's callback in calls.c.
 */
#ifndef GENLOOP_INFERENCE_H
#define GENLOOP_INFERENCE_H

#include <pthread.h>

#include "base/arena.h"
#include "base/metrics.h"
#include "engine/embedder.h"
#include "engine/engine.h"
#include "registry/fold.h"
#include "registry/follow.h"
#include "service/service.h"

struct inference_settings {
    struct service_settings shared;
    int64_t threads, sequences, queue, kv_cache, context, step_tokens, step_tokens_mixed, packed_cache, memory_budget, draft_tokens;
    char *weights, *activations, *kv_type, *speculation, *draft;
};

struct model;
struct call;
struct encode_call;
struct waiting_call;
/* The first member of all three, by which what the bus hands back is told apart. */
struct call_kind {
    bool encode, waiting;
};

struct inference {
    struct service *service;
    const struct inference_settings *settings;
    struct fold *fold;
    struct follow *follow;
    bool caught_up; /* with the registry, once */
    bool stopped;
    struct loop_timer *tick, *open_follow;

    struct model *models; /* a list */
    uint64_t budget;      /* bytes that they may take together */
    int working;          /* workers under way: loading, freeing */
    int share;            /* threads that compute per model; 0 before the first look */

    struct call *calls;
    uint32_t call_count; /* open, those that wait too */
    struct waiting_call *waiting; /* in the order in which they came */
    uint32_t waiting_count;
    size_t waiting_bytes;
    pthread_mutex_t dirty_lock; /* of the next two: calls about which an engine has said something since the last flush */
    struct call *dirty;
    bool posted;
    struct encode_call *encoded; /* under the same lock: calls that have their answer */
    bool encoded_posted;
    struct arena arena; /* of one reply */
};

/* --- models.c --- */
enum model_stage { MODEL_LOADING, MODEL_READY, MODEL_FAILED, MODEL_LEAVING, MODEL_ASLEEP };
struct model {
    struct model *next;
    struct inference *inference;
    char name[MODEL_FULL_NAME_MAX];   /* name@version */
    char manifest[SHA256_HEX_MAX];
    char draft_name[MODEL_FULL_NAME_MAX], draft_manifest[SHA256_HEX_MAX]; /* of its draft model; "": none. Set before it is loaded */
    enum model_stage stage;
    bool wanted, freeing, remove_files;
    bool released;                    /* else it is wanted as the base of adapters alone, and answers nothing by its own name */
    struct engine *engine;            /* READY and LEAVING */
    struct embedder *embedder;        /* the same of an encoder, which has no engine */
    /* The worker's alone, while there is one: what it has loaded, or is to free. */
    struct engine *worker_engine;
    struct embedder *worker_embedder;
    struct model_adapter *worker_adapter;
    uint32_t calls;                   /* open on it */
    /* An adapter has no engine: it is computed by that of its base, which stays as long as somebody holds it. */
    char base[MODEL_FULL_NAME_MAX];   /* name@version of the base; "": this is no adapter */
    struct model *over;               /* the base, held from the beginning of loading until it is freed */
    struct model_config base_config;  /* LOADING: what the worker checks it against */
    enum packed_kind base_adapters;   /* and packs it as */
    struct model_adapter *adapter;
    uint32_t adapters;                /* that hold this one as their base */
    int threads;                      /* of its engine, of which inference.share compute */
    struct error error;               /* FAILED, and what the worker met */
    int result;
    int64_t retry_at_ms, retry_delay_ms;
    /* the memory budget */
    uint64_t bytes, expected; /* that it takes, once that is known; what it is expected to until then */
    bool favoured;            /* production points to it */
    bool yields;              /* READY: takes no further call, others wait for its memory */
    bool woken;               /* LOADING: it was asleep before, and calls wait for it */
    int64_t used_ms;          /* when it last took a call */
};
/* Who computes it; NULL: an encoder, or nobody yet. */
static inline struct engine *model_engine(const struct model *m) { return m->over ? m->over->engine : m->engine; }
/* Brings what is loaded nearer to what the registry wants: after each change of it, when a worker is done, when a call ends, and now and then. */
void models_reconcile(struct inference *inf);
/* Takes this replica's share of the machine's cores: at start and now and then. */
void models_share(struct inference *inf);
/* The model that a request means; E_NOT_FOUND, E_UNAVAILABLE while it loads for the first time, E_AGAIN where it is not in memory and a call is to wait for it (*m is set then too). hash: of what should stay on one side of a canary. */
int models_find(struct inference *inf, struct span name, uint64_t hash, struct model **m, struct error *err);
/* The same, of a model that generates (encoder false) or of one that embeds; E_UNSUPPORTED where it is the other. */
int models_find_kind(struct inference *inf, struct span name, uint64_t hash, bool encoder, struct model **m, struct error *err);
bool models_settled(const struct inference *inf); /* everything wanted is loaded, or has failed */
bool models_on_the_way(const struct inference *inf, struct span name); /* name@version is released, and not in memory, or about to leave it: it comes back */
void models_report(struct inference *inf, bool now); /* load into heartbeats, and metrics */
void models_free(struct inference *inf); /* at stop, the bus being closed: ends what runs, and the calls with it */

/* --- calls.c --- */
void calls_on_call(void *arg, struct bus_reply *reply, struct span method, const struct bus_context *context, struct span request, void **call_arg);
void calls_on_credit(void *call_arg, struct bus_reply *reply);
void calls_on_cancel(void *call_arg, struct bus_reply *reply, int code);
void calls_flush(void *inference); /* tells what the engines have said since */
void calls_init_metrics(void);
void calls_refuse(struct bus_reply *reply, int code, const struct error *err);

/* --- waiting.c --- */
/* Takes the call in (what it has is copied) to wait for the model; E_FULL, E_NOMEM. */
int waiting_add(struct inference *inf, const struct model *m, struct bus_reply *reply, struct span method, const struct bus_context *context, struct span request, void **call_arg, struct error *err);
int64_t waiting_since(const struct inference *inf, const struct model *m); /* when the first of its calls came; 0: none waits */
void waiting_wake(struct inference *inf); /* hands on what need not wait any more: after each change of the models, and to refuse all at a drain and at the stop */
void waiting_on_cancel(struct waiting_call *w); /* its reply has ended */

/* --- encode.c --- */
void encode_on_call(struct inference *inf, struct bus_reply *reply, const struct bus_context *context, struct span request, void **call_arg);
void encode_on_cancel(struct encode_call *c);
void encode_flush(void *inference); /* tells what the embedders have answered since */

#endif
