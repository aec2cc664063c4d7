/*
 * Desired state. Every version that the registry has released is to be loaded, and nothing else is.
 *
 *   (released) ─► LOADING ─► READY ─(not released any more)─► LEAVING ─(last call over)─► freed
 *            ▲ │    │  ▲   └─(no room, and nobody runs on it)─► ASLEEP
 *                   ▼  │ after a pause that doubles
 *                  FAILED
 *
 * What is released and not loaded for lack of room (budget.h) is ASLEEP, from the start or later; a call for it waits (waiting.c), which makes it go back to LOADING.
 *
 * Loading and freeing are done by workers; a model under a worker's hands stays in the list. The new version is loaded beside the old, which goes on
 * answering until the registry takes it back.
 *
 * An adapter is a version too, and goes the same way over its base: it is loaded when the base is ready, and held by an adapter the base stays, released or
 * not, with one engine and one copy of its weights for all of them (the memory budget counts both as one, and they are unloaded and come back together). A release or a rollback of an adapter touches no other.
 *
 * A draft model is no entry of this list: the engine that it guesses for has a copy of its own, which is loaded, counted and freed with that engine, whatever becomes of the version of that name.
 */
#include "base/alloc.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/machine.h"
#include "base/pool.h"
#include "budget.h"
#include "draft_setting.h"
#include "genloop/v1/bus.pb-c.h"
#include "inference.h"
#include "wire/unpack.h"

enum { RETRY_FIRST_MS = 1000, RETRY_MAX_MS = 60000, LOAD_MAX = 200 * 1024 };
enum { BUDGET_MODELS_MAX = 1024 /* released at once; further ones are not loaded */ };
enum { PACKED_MIN = 16 << 20 /* bytes of weights: packing fewer takes no time that anybody would see */ };

static void on_loaded(void *arg);
static void on_freed(void *arg);

/* --- on workers --- */

/* Where a model's files are laid out; the replicas of a machine share them. */
static const char *directory(const struct inference *inf, const char *manifest, char *out, size_t size) {
    char relative[32 + SHA256_HEX_MAX];
    (void)snprintf(relative, sizeof relative, "work/models/%s", manifest);
    return service_path(inf->service, relative, out, size);
}

static int lay_out(const struct inference *inf, const char *manifest, char *dir, size_t size, struct error *err) {
    int r = 0;
    directory(inf, manifest, dir, size);
    if (!file_exists(dir)) r = store_get_dir(service_store(inf->service), manifest, dir, err);
    return r == E_EXISTS ? 0 : r; /* another replica of this machine was first */
}

/* The engine, with its draft model where it has one; without it where that cannot be had: it is there for speed alone. */
static int new_engine(struct model *m, const char *dir, struct engine_options *o, struct error *err) {
    char draft[4096];
    struct error why = {0};
    if (m->draft_manifest[0]) {
        int r = lay_out(m->inference, m->draft_manifest, draft, sizeof draft, &why);
        o->draft = draft;
        if (r == 0 && engine_new(&m->worker_engine, dir, o, &why) == 0) return 0;
        o->draft = NULL;
    }
    int r = engine_new(&m->worker_engine, dir, o, err);
    if (r == 0 && m->draft_manifest[0]) log_warn("model.draft", "%s: %s cannot be its draft model, which it goes without: %s", m->name, m->draft_name, why.message);
    return r;
}

static const char *packed_directory(const struct inference *inf, char *out, size_t size) { return service_path(inf->service, "work/packed", out, size); }

static void on_packed(void *arg, enum packed_cache_news news, const char *path, const struct error *why) {
    const struct model *m = arg;
    if (news == PACKED_CACHE_READ) log_info("model.packed", "%s: weights read from %s", m->name, path);
    else if (news == PACKED_CACHE_WRITTEN) log_info("model.packed", "%s: weights kept in %s", m->name, path);
    else if (news == PACKED_CACHE_REFUSED) log_warn("model.packed", "%s: the copy of its weights is of no use, they are packed anew: %s", m->name, why->message);
    else log_warn("model.packed", "%s: no copy of its packed weights is kept: %s", m->name, why->message);
}

/* What its config.json says; of a directory that has none, or one that is not understood, the engine says what is wrong. */
static bool is_encoder(const char *dir) {
    struct model_config config;
    struct error err;
    return model_dir_config(dir, &config, &err) == 0 && config.arch->kind == MODEL_ENCODER;
}

static void load_model(void *arg) {
    struct model *m = arg;
    const struct inference_settings *s = m->inference->settings;
    char dir[4096], packed[4096];
    m->error = (struct error){0};
    int r = lay_out(m->inference, m->manifest, dir, sizeof dir, &m->error);
    if (m->base[0]) {
        m->result = r != 0 ? r : model_adapter_load(&m->worker_adapter, dir, &m->base_config, m->base_adapters, &m->error);
        return;
    }
    struct engine_options o = {.threads = m->threads,
                               .sequences_max = (uint32_t)s->sequences,
                               .queue_max = (uint32_t)s->queue,
                               .kv_bytes = (size_t)s->kv_cache,
                               .context = (uint32_t)s->context,
                               .step_rows = (uint32_t)s->step_tokens,
                               .step_rows_mixed = (uint32_t)s->step_tokens_mixed,
                               .packed = {.identity = m->manifest, .size_max = (uint64_t)s->packed_cache, .size_min = PACKED_MIN, .background = true, .arg = m, .on_news = on_packed},
                               .guessing = strcmp(s->speculation, "lookup") == 0 ? ENGINE_GUESS_LOOKUP : ENGINE_GUESS_OFF,
                               .draft_tokens = (uint32_t)s->draft_tokens};
    if (s->packed_cache > 0) o.packed.dir = packed_directory(m->inference, packed, sizeof packed);
    if (r == 0) r = packed_kind_find(s->weights, &o.weights, &m->error);
    if (r == 0) r = packed_activations_find(s->activations, &o.activations, &m->error);
    if (r == 0) r = kv_type_find(s->kv_type, &o.kv_type, &m->error);
    if (r == 0 && is_encoder(dir)) {
        struct embedder_options e = {.threads = m->threads, .queue_max = (uint32_t)s->queue, .weights = o.weights, .packed = o.packed};
        r = embedder_new(&m->worker_embedder, dir, &e, &m->error);
    } else if (r == 0) r = new_engine(m, dir, &o, &m->error);
    m->result = r;
}

static void free_model(void *arg) {
    struct model *m = arg;
    char dir[4096];
    engine_free(m->worker_engine);
    m->worker_engine = NULL;
    embedder_free(m->worker_embedder);
    m->worker_embedder = NULL;
    model_adapter_free(m->worker_adapter);
    m->worker_adapter = NULL;
    /* The store has it still. A neighbour that was just about to read it fails, and lays it out again. */
    if (m->remove_files) (void)dir_remove(directory(m->inference, m->manifest, dir, sizeof dir), NULL);
    if (m->remove_files && m->inference->settings->packed_cache > 0) packed_cache_forget(packed_directory(m->inference, dir, sizeof dir), m->manifest);
}

/* --- on the loop --- */

struct neighbours {
    int count;
};
static void count_replica(void *arg, struct bus_peer *peer, struct span member, bool alive) {
    struct neighbours *n = arg;
    (void)peer;
    if (!alive) return;
    Genloop__V1__Member *m = MESSAGE_UNPACK(Member, member, member);
    if (m && strcmp(m->service, "inference") == 0 && span_starts(span_str(m->endpoint), SPAN("ipc:"))) n->count++; /* ipc: of this machine */
    if (m) genloop__v1__member__free_unpacked(m, NULL);
}

/* Replicas side by side share the cores: two that each spin on all of them would both crawl. */
static int share_of_cores(struct inference *inf) {
    struct neighbours n = {0};
    service_members(inf->service, &n, count_replica);
    if (n.count < 1) n.count = 1;
    uint64_t memory = machine_memory("");
    inf->budget = inf->settings->memory_budget > 0 ? (uint64_t)inf->settings->memory_budget : memory / 10 * 8 / (uint64_t)n.count;
    if (inf->budget == 0) inf->budget = UINT64_MAX; /* a machine that does not say what it has */
    if (inf->settings->threads > 0) return (int)inf->settings->threads;
    int share = cpu_count() / n.count;
    return share > 0 ? share : 1;
}

static void set_threads(struct model *m, int threads) {
    if (m->engine) engine_set_threads(m->engine, threads);
    if (m->embedder) embedder_set_threads(m->embedder, threads);
}

static struct model *find_exact(struct inference *inf, const char *name) {
    for (struct model *m = inf->models; m; m = m->next)
        if (strcmp(m->name, name) == 0) return m;
    return NULL;
}

/* Neighbours come and go: an engine has a thread for every core that may become its own, and as many of them work as are. */
void models_share(struct inference *inf) {
    int share = share_of_cores(inf);
    if (share == inf->share) return;
    if (inf->share) log_info("models.share", "%d threads", share);
    inf->share = share;
    for (struct model *m = inf->models; m; m = m->next)
        if (!m->freeing && m->stage != MODEL_LOADING) set_threads(m, share);
}

/* An adapter's base, where it is ready. */
static struct model *ready_base(const struct model *m) {
    struct model *b = find_exact(m->inference, m->base);
    return b && b->stage == MODEL_READY ? b : NULL;
}

static void hold_base(struct model *m, struct model *base) {
    m->over = base;
    base->adapters++;
}
static void let_go_of_base(struct model *m) {
    if (m->over) m->over->adapters--;
    m->over = NULL;
}

/* The released version that guesses for one of this name@version, as the settings say; NULL: none. said: as they call it, empty where they name none. */
static const Genloop__V1__ModelVersion *draft_of(const struct inference *inf, const char *model, struct span *said) {
    const Genloop__V1__ModelVersion *v;
    *said = (struct span){0};
    if (strcmp(inf->settings->speculation, "off") == 0 || !draft_setting_find(span_str(inf->settings->draft), span_str(model), said)) return NULL;
    return fold_resolve(inf->fold, *said, 0, &v, NULL, NULL) == 0 && fold_released(v) && v->directory ? v : NULL;
}

/* What is released later is taken when the model is loaded the next time. */
static void find_draft(struct model *m) {
    struct span said;
    const Genloop__V1__ModelVersion *v = draft_of(m->inference, m->name, &said);
    m->draft_manifest[0] = m->draft_name[0] = '\0';
    if (!v && said.len > 0) log_warn("model.draft", "%s goes without a draft model: %.*s is not released", m->name, SPAN_ARG(said));
    if (!v) return;
    model_name_format(span_str(v->name), v->version, m->draft_name);
    if (strcmp(m->draft_name, m->name) != 0) span_copy(m->draft_manifest, sizeof m->draft_manifest, span_str(v->directory->sha256));
}

static void start_loading(struct model *m) {
    struct inference *inf = m->inference;
    struct model *base = m->base[0] ? ready_base(m) : NULL;
    if (m->base[0] && !base) return; /* when that is there */
    if (base && !base->engine) {
        m->retry_delay_ms = RETRY_MAX_MS;
        m->retry_at_ms = clock_mono_ms() + m->retry_delay_ms;
        (void)error_set(&m->error, E_UNSUPPORTED, "%s is an encoder: adapters of encoders are not built", m->base);
        return;
    }
    if (base) {
        m->base_config = *engine_model(base->engine);
        m->base_adapters = engine_adapter_kind(base->engine);
    }
    else find_draft(m);
    m->threads = inf->settings->threads > 0 ? (int)inf->settings->threads : cpu_count();
    if (loop_work(service_loop(inf->service), load_model, on_loaded, m) != 0) {
        m->stage = MODEL_FAILED; /* the workers' queue is full: later */
        m->retry_at_ms = clock_mono_ms() + RETRY_FIRST_MS;
        return;
    }
    m->stage = MODEL_LOADING;
    if (base) hold_base(m, base);
    inf->working++;
    log_info("model.load", "%s", m->name);
}

static void drop(struct model *m) {
    struct model **at = &m->inference->models;
    while (*at != m) at = &(*at)->next;
    *at = m->next;
    engine_free(m->engine);
    embedder_free(m->embedder);
    model_adapter_free(m->adapter);
    mem_free(m);
}

static size_t memory_of(const struct model *m) { return m->adapter ? m->adapter->size : m->engine ? engine_memory(m->engine) : encoder_memory(embedder_encoder(m->embedder)); }

/* What the loop has goes to the worker, which is to come or has just ended, and the other way round: neither ever sees what the other has. */
static void exchange_with_worker(struct model *m) {
    struct engine *engine = m->engine;
    struct embedder *embedder = m->embedder;
    struct model_adapter *adapter = m->adapter;
    m->engine = m->worker_engine;
    m->embedder = m->worker_embedder;
    m->adapter = m->worker_adapter;
    m->worker_engine = engine;
    m->worker_embedder = embedder;
    m->worker_adapter = adapter;
}

static void on_loaded(void *arg) {
    struct model *m = arg;
    struct inference *inf = m->inference;
    inf->working--;
    exchange_with_worker(m);
    if (inf->stopped) {
        drop(m);
        return;
    }
    m->woken = false;
    if (m->result == 0) {
        m->stage = MODEL_READY;
        m->bytes = memory_of(m);
        set_threads(m, inf->share);
        m->retry_delay_ms = 0;
        if (m->adapter) log_info("model.ready", "%s, %zu KiB beside the weights of %s", m->name, memory_of(m) >> 10, m->base);
        else log_info("model.ready", "%s, %zu MiB%s", m->name, memory_of(m) >> 20, m->engine ? " with its cache" : " with its activations");
    } else {
        m->stage = MODEL_FAILED;
        let_go_of_base(m);
        m->retry_delay_ms = m->retry_delay_ms ? m->retry_delay_ms * 2 : RETRY_FIRST_MS;
        if (m->retry_delay_ms > RETRY_MAX_MS) m->retry_delay_ms = RETRY_MAX_MS;
        m->retry_at_ms = clock_mono_ms() + m->retry_delay_ms;
        log_error("model.failed", "%s: %s; again in %lld ms", m->name, m->error.message, (long long)m->retry_delay_ms);
    }
    models_reconcile(inf);
    models_report(inf, true);
}

static void on_freed(void *arg) {
    struct model *m = arg;
    struct inference *inf = m->inference;
    inf->working--;
    m->freeing = false;
    if (m->stage != MODEL_ASLEEP) m->stage = MODEL_FAILED; /* gone, or wanted again and loaded anew */
    m->retry_at_ms = m->retry_delay_ms = 0;
    if (inf->stopped) {
        drop(m);
        return;
    }
    let_go_of_base(m);
    log_info("model.freed", "%s", m->name);
    models_reconcile(inf);
    models_report(inf, true);
}

/* False: the workers' queue is full, and it is to be tried later. */
static bool start_freeing(struct model *m, bool remove_files) {
    m->remove_files = remove_files;
    models_report(m->inference, false); /* what it has counted since the last time would go with it */
    exchange_with_worker(m);
    m->freeing = loop_work(service_loop(m->inference->service), free_model, on_freed, m) == 0;
    if (m->freeing) m->inference->working++;
    else exchange_with_worker(m);
    return m->freeing;
}

static void want(struct inference *inf, const Genloop__V1__ModelVersion *v, bool released) {
    char name[MODEL_FULL_NAME_MAX];
    model_name_format(span_str(v->name), v->version, name);
    struct model *m = find_exact(inf, name);
    if (!m && (m = mem_zalloc(sizeof *m))) {
        m->inference = inf;
        m->stage = MODEL_FAILED; /* loaded below */
        m->next = inf->models;
        inf->models = m;
        span_copy(m->name, sizeof m->name, span_str(name));
        span_copy(m->manifest, sizeof m->manifest, span_str(v->directory->sha256));
        if (v->adapter) span_copy(m->base, sizeof m->base, span_str(v->lineage->base_model));
    }
    if (!m) return;
    m->wanted = true;
    m->released |= released;
    if (!m->bytes) {
        struct span said;
        const Genloop__V1__ModelVersion *draft = draft_of(inf, m->name, &said); /* it is loaded and freed with the model, a part of its engine */
        m->expected = (v->parameters + (draft ? draft->parameters : 0)) * 2; /* as most are stored */
    }
    const Genloop__V1__Alias *alias = fold_alias(inf->fold, SPAN(ALIAS_PRODUCTION));
    m->favoured = alias && strcmp(alias->name, v->name) == 0 && (alias->version == v->version || alias->canary_version == v->version);
}

/* The base of an adapter, which is no adapter itself; NULL where the registry has none, and the adapter waits for it. */
static const Genloop__V1__ModelVersion *base_of(const struct inference *inf, const Genloop__V1__ModelVersion *v) {
    const Genloop__V1__ModelVersion *base;
    if (!v->lineage || fold_resolve(inf->fold, span_str(v->lineage->base_model), 0, &base, NULL, NULL) != 0) return NULL;
    return base->adapter || !base->directory ? NULL : base;
}

static void want_released(struct inference *inf) {
    for (struct model *m = inf->models; m; m = m->next) m->wanted = m->released = false;
    for (size_t i = 0; inf->caught_up && i < fold_versions(inf->fold); i++) {
        const Genloop__V1__ModelVersion *v = fold_version_at(inf->fold, i), *base = v->adapter ? base_of(inf, v) : NULL;
        if (!fold_released(v) || !v->directory || (v->adapter && !base)) continue;
        if (base) want(inf, base, false);
        want(inf, v, true);
    }
}

/* Whether nobody else in the list is made of the same files. */
static bool files_are_its_own(const struct inference *inf, const struct model *m) {
    for (const struct model *o = inf->models; o; o = o->next)
        if (o != m && strcmp(o->manifest, m->manifest) == 0) return false;
    return true;
}

static bool holds_model(const struct model *m) { return m->engine || m->embedder || m->adapter; }

static enum budget_state budget_state(const struct model *m, int64_t now) {
    if (m->freeing || m->stage == MODEL_LEAVING || (!m->wanted && holds_model(m))) return BUDGET_GOING;
    if (m->stage == MODEL_LOADING) return BUDGET_LOADING;
    if (m->stage == MODEL_READY) return BUDGET_READY;
    return m->wanted && m->retry_at_ms <= now && !service_draining(m->inference->service) ? BUDGET_AWAY : BUDGET_BARRED;
}

/* True where it goes; a base goes after its adapters, and until then takes no further call. */
static bool unload(struct model *m) {
    struct inference *inf = m->inference;
    if (m->adapters > 0) {
        bool was = m->yields;
        m->yields = true;
        for (struct model *a = inf->models; a; a = a->next)
            if (a->over == m && a->stage == MODEL_READY && a->calls == 0 && !a->freeing) (void)unload(a);
        return !was;
    }
    if (!start_freeing(m, false)) return false;
    m->stage = MODEL_ASLEEP;
    m->yields = false;
    if (m->base[0]) return true; /* with its base, which says so */
    metric_add(metric_counter("genloop_inference_unloads_total", "", "Models that were unloaded to make room for another one."), 1);
    log_info("model.unload", "%s makes room: %llu MiB, the budget is %llu MiB", m->name, (unsigned long long)(m->bytes >> 20), (unsigned long long)(inf->budget >> 20));
    return true;
}

/* Loads, unloads and holds back, as budget.h says. True: something changed that others should know. */
static bool keep_to_budget(struct inference *inf, int64_t now) {
    struct budget_model models[BUDGET_MODELS_MAX];
    struct model *of[BUDGET_MODELS_MAX];
    size_t n = 0;
    bool changed = false, asked = false;
    for (struct model *m = inf->models; m && n < BUDGET_MODELS_MAX; m = m->next) {
        if (m->base[0]) continue; /* comes and goes with its base */
        of[n] = m;
        models[n] = (struct budget_model){.state = budget_state(m, now), .bytes = m->bytes ? m->bytes : m->expected + (uint64_t)inf->settings->kv_cache, .favoured = m->favoured, .calls = m->calls,
                                          .used_ms = m->used_ms, .asked_ms = waiting_since(inf, m)};
        for (const struct model *a = inf->models; a; a = a->next) {
            if (strcmp(a->base, m->name) != 0) continue;
            int64_t since_ms = waiting_since(inf, a);
            models[n].calls += a->calls;
            models[n].favoured |= a->favoured;
            if (a->used_ms > models[n].used_ms) models[n].used_ms = a->used_ms;
            if (since_ms && (!models[n].asked_ms || since_ms < models[n].asked_ms)) models[n].asked_ms = since_ms;
        }
        asked |= models[n].asked_ms != 0 && (models[n].state != BUDGET_READY || m->yields);
        n++;
    }
    for (size_t i = 0; i < n; i++) {
        if (!asked) of[i]->yields = false; /* whoever waited has gone */
        models[i].yields = of[i]->yields;
    }
    budget_plan(models, n, inf->budget, now);
    for (size_t i = 0; i < n; i++) {
        struct model *m = of[i];
        if (models[i].action == BUDGET_LOAD) {
            bool woken = m->stage == MODEL_ASLEEP;
            start_loading(m);
            m->woken = woken && m->stage == MODEL_LOADING;
            changed = true;
        } else if (models[i].action == BUDGET_UNLOAD) changed |= unload(m);
        else if (models[i].action == BUDGET_YIELD) changed = m->yields = true;
        else if (m->stage == MODEL_FAILED && models[i].state == BUDGET_AWAY) {
            m->stage = MODEL_ASLEEP; /* there is no room, and nobody asks for it */
            m->retry_at_ms = m->retry_delay_ms = 0;
            changed = true;
            log_info("model.asleep", "%s stays out of memory until somebody asks for it: the budget is %llu MiB", m->name, (unsigned long long)(inf->budget >> 20));
        }
    }
    for (struct model *m = inf->models; m; m = m->next) {
        const struct model *base = m->base[0] ? ready_base(m) : NULL;
        if (!base || base->yields || !m->wanted || m->freeing || (m->stage != MODEL_FAILED && m->stage != MODEL_ASLEEP) || m->retry_at_ms > now || service_draining(inf->service)) continue;
        bool woken = m->stage == MODEL_ASLEEP;
        start_loading(m);
        m->woken = woken && m->stage == MODEL_LOADING;
    }
    return changed;
}

void models_reconcile(struct inference *inf) {
    if (inf->stopped) return;
    int64_t now = clock_mono_ms();
    bool changed = false;
    want_released(inf);
    for (struct model **at = &inf->models; *at;) {
        struct model *m = *at;
        if (m->wanted && m->stage == MODEL_LEAVING && !m->freeing && holds_model(m)) {
            m->stage = MODEL_READY; /* wanted again before it was gone */
            changed = true;
        } else if (!m->wanted && m->stage == MODEL_READY) {
            m->stage = MODEL_LEAVING;
            changed = true;
        }
        if (m->stage == MODEL_LEAVING && m->calls == 0 && m->adapters == 0 && !m->freeing && holds_model(m)) (void)start_freeing(m, files_are_its_own(inf, m));
        bool gone = !m->wanted && !m->freeing && !holds_model(m) && m->stage != MODEL_LOADING;
        if (gone) {
            *at = m->next;
            mem_free(m);
        } else at = &m->next;
    }
    waiting_wake(inf); /* before anything is taken away again: what has just been loaded answers those who waited for it */
    changed |= keep_to_budget(inf, now);
    if (changed) models_report(inf, true);
    waiting_wake(inf);
    if (inf->caught_up && models_settled(inf) && !service_draining(inf->service)) service_ready(inf->service, true);
}

/* Its base cannot be loaded: nor can it, until that is tried again. */
static bool waits_in_vain(const struct model *m) {
    const struct model *base = m->base[0] ? find_exact(m->inference, m->base) : NULL;
    return base && (base->stage == MODEL_ASLEEP || (base->stage == MODEL_FAILED && base->retry_delay_ms > 0));
}

bool models_settled(const struct inference *inf) {
    for (const struct model *m = inf->models; m; m = m->next)
        if (m->wanted && !waits_in_vain(m) && (m->stage == MODEL_LOADING || m->freeing || (m->stage == MODEL_FAILED && m->retry_delay_ms == 0))) return false;
    return true;
}

/* Out of memory, or about to leave it, and comes back when a call waits; an adapter with its base. */
static bool is_on_the_way(const struct model *m) {
    const struct model *base = m->base[0] ? find_exact(m->inference, m->base) : NULL;
    if (!m->wanted) return false;
    if (base && base->wanted && (base->stage == MODEL_ASLEEP || base->yields || (base->stage == MODEL_LOADING && base->woken))) return true;
    return m->stage == MODEL_ASLEEP || m->yields || (m->stage == MODEL_LOADING && m->woken);
}
bool models_on_the_way(const struct inference *inf, struct span name) {
    for (const struct model *m = inf->models; m; m = m->next)
        if (span_eq_str(name, m->name)) return is_on_the_way(m);
    return false;
}

int models_find(struct inference *inf, struct span name, uint64_t hash, struct model **out, struct error *err) {
    const Genloop__V1__ModelVersion *v;
    if (!inf->caught_up) return error_set(err, E_UNAVAILABLE, "the replica has not read the registry yet");
    int r = fold_resolve(inf->fold, name, hash, &v, NULL, err);
    if (r != 0) return r;
    char full[MODEL_FULL_NAME_MAX];
    model_name_format(span_str(v->name), v->version, full);
    if (!fold_released(v)) return error_set_param(err, E_NOT_FOUND, "model", "model %s is not released", full);
    struct model *m = find_exact(inf, full);
    if (m && is_on_the_way(m)) {
        *out = m;
        return E_AGAIN;
    }
    if (!m || m->stage == MODEL_LOADING || m->stage == MODEL_LEAVING) return error_set(err, E_UNAVAILABLE, "model %s is being loaded", full);
    if (m->stage == MODEL_FAILED && m->retry_delay_ms == 0) return error_set(err, E_UNAVAILABLE, "model %s is being loaded%s%s", full, m->base[0] ? " after its base " : "", m->base);
    if (m->stage == MODEL_FAILED) return error_set(err, E_UNAVAILABLE, "model %s cannot be loaded here: %s", full, m->error.message);
    m->used_ms = clock_mono_ms();
    *out = m;
    return 0;
}

int models_find_kind(struct inference *inf, struct span name, uint64_t hash, bool encoder, struct model **out, struct error *err) {
    struct model *m;
    int r = models_find(inf, name, hash, &m, err);
    if (r == E_AGAIN) *out = m;
    if (r != 0) return r;
    if (encoder && !m->embedder) return error_set_param(err, E_UNSUPPORTED, "model", "%s generates text; embeddings, scores and classes are for encoders", m->name);
    if (!encoder && !model_engine(m)) return error_set_param(err, E_UNSUPPORTED, "model", "%s is an encoder: it embeds, ranks or classifies, and generates no text", m->name);
    *out = m;
    return 0;
}

/* --- telling --- */

void models_report(struct inference *inf, bool now) {
    static struct metric *asleep, *memory, *budget, *waiting;
    static struct metric *queued, *running, *queued_tokens, *blocks_free, *blocks_cached, *blocks_total, *rate, *loaded, *adapters, *adapter_bytes, *threads;
    static struct metric *prompt_tokens, *completion_tokens, *cached_tokens, *preempted, *guessed, *guessed_right, *drafted, *drafted_right;
    static double told_prompt, told_completion, told_cached, told_preempted, told_guessed, told_right, told_drafted, told_drafted_right;
    if (!queued) {
        queued = metric_gauge("genloop_inference_queued_requests", "", "Requests that wait for a slot.");
        running = metric_gauge("genloop_inference_running_requests", "", "Sequences in the running batch.");
        queued_tokens = metric_gauge("genloop_inference_queued_tokens", "", "Tokens that queued requests may take.");
        blocks_free = metric_gauge("genloop_inference_kv_blocks_free", "", "KV blocks that no sequence holds.");
        blocks_cached = metric_gauge("genloop_inference_kv_blocks_cached", "", "Of the free KV blocks: those that hold a prefix which a request may take up again.");
        blocks_total = metric_gauge("genloop_inference_kv_blocks", "", "KV blocks in all.");
        rate = metric_gauge("genloop_inference_tokens_per_second", "", "Tokens produced in about the last second.");
        threads = metric_gauge("genloop_inference_threads", "", "Threads that compute per model: this replica's share of the machine's cores.");
        loaded = metric_gauge("genloop_inference_models", "", "Models that answer.");
        adapters = metric_gauge("genloop_inference_adapters", "", "Of the models that answer: adapters, computed beside the weights of their bases.");
        adapter_bytes = metric_gauge("genloop_inference_adapter_bytes", "", "Memory of the adapters that answer.");
        asleep = metric_gauge("genloop_inference_models_asleep", "", "Released models that are not in memory: a call for one waits until it is loaded.");
        memory = metric_gauge("genloop_inference_memory_bytes", "", "What the loaded models take with the whole of their caches.");
        budget = metric_gauge("genloop_inference_memory_budget_bytes", "", "What they may take; 0: the machine does not say what it has.");
        waiting = metric_gauge("genloop_inference_waiting_calls", "", "Calls that wait for a model to be loaded.");
        prompt_tokens = metric_counter("genloop_inference_prompt_tokens_total", "", "Prompt tokens computed.");
        completion_tokens = metric_counter("genloop_inference_completion_tokens_total", "", "Tokens produced.");
        cached_tokens = metric_counter("genloop_inference_prefix_hit_tokens_total", "", "Prompt tokens taken from the prefix cache.");
        guessed = metric_counter("genloop_inference_guessed_tokens_total", "", "Tokens that were computed as guesses of what comes next (speculative decoding).");
        guessed_right = metric_counter("genloop_inference_guessed_right_tokens_total", "", "Of the guesses: those that came out, and cost no step of their own.");
        drafted = metric_counter("genloop_inference_drafted_tokens_total", "", "Of the guesses: those of draft models.");
        drafted_right = metric_counter("genloop_inference_drafted_right_tokens_total", "", "Of the draft models' guesses: those that came out.");
        preempted = metric_counter("genloop_inference_preemptions_total", "", "Sequences that gave way to a request of higher priority, to go on later.");
    }
    struct engine_stats sum = {0};
    Genloop__V1__ReplicaLoad load;
    genloop__v1__replica_load__init(&load);
    size_t count = 0, adapters_ready = 0, adapters_size = 0;
    for (struct model *m = inf->models; m; m = m->next) count++;
    char **names = mem_calloc(4 * (count + 1), sizeof *names);
    char *failed = mem_calloc(count + 1, MODEL_FULL_NAME_MAX + ERROR_MESSAGE_MAX + 2);
    if (!names || !failed) goto out; /* the last load that was told stands a little longer */
    load.models = names;
    load.loading = names + count;
    load.failed = names + 2 * count;
    load.asleep = names + 3 * count;
    for (struct model *m = inf->models; m; m = m->next) {
        if (m->stage != MODEL_ASLEEP) load.memory_bytes += m->bytes * (holds_model(m) || m->freeing);
        if (is_on_the_way(m) && m->released) load.asleep[load.n_asleep++] = m->name;
        else if (m->stage == MODEL_READY && m->released) load.models[load.n_models++] = m->name;
        else if (m->stage == MODEL_LOADING) load.loading[load.n_loading++] = m->name;
        else if (m->stage == MODEL_FAILED && m->wanted) {
            char *at = failed + load.n_failed * (MODEL_FULL_NAME_MAX + ERROR_MESSAGE_MAX + 2);
            (void)snprintf(at, MODEL_FULL_NAME_MAX + ERROR_MESSAGE_MAX + 2, "%s: %s", m->name, m->error.message);
            load.failed[load.n_failed++] = at;
        }
        if (m->freeing || m->stage == MODEL_LOADING) continue;
        if (m->adapter) {
            adapters_ready += m->stage == MODEL_READY;
            adapters_size += memory_of(m);
        }
        if (m->embedder) {
            struct embedder_stats s;
            embedder_get_stats(m->embedder, &s);
            sum.running += s.waiting; /* all of them have their turns */
            sum.prompt_tokens += s.tokens;
        }
        if (!m->engine) continue;
        struct engine_stats s;
        engine_get_stats(m->engine, &s);
        sum.queued += s.queued;
        sum.running += s.running;
        sum.queued_tokens += s.queued_tokens;
        sum.kv_blocks_free += s.kv_blocks_free;
        sum.kv_blocks_cached += s.kv_blocks_cached;
        sum.preempted += s.preempted;
        sum.guessed += s.guessed;
        sum.guessed_right += s.guessed_right;
        sum.drafted += s.drafted;
        sum.drafted_right += s.drafted_right;
        sum.kv_blocks_total += s.kv_blocks_total;
        sum.tokens_per_second += s.tokens_per_second;
        sum.prompt_tokens += s.prompt_tokens;
        sum.completion_tokens += s.completion_tokens;
        sum.cached_tokens += s.cached_tokens;
    }
    load.queued = sum.queued;
    load.running = sum.running;
    load.queued_tokens = sum.queued_tokens;
    load.kv_blocks_free = sum.kv_blocks_free;
    load.kv_blocks_total = sum.kv_blocks_total;
    load.tokens_per_second = sum.tokens_per_second;
    load.memory_budget_bytes = inf->budget;
    metric_set(threads, inf->share);
    metric_set(asleep, (double)load.n_asleep);
    metric_set(memory, (double)load.memory_bytes);
    metric_set(budget, inf->budget == UINT64_MAX ? 0 : (double)inf->budget);
    metric_set(waiting, inf->waiting_count);
    metric_set(queued, sum.queued);
    metric_set(running, sum.running);
    metric_set(queued_tokens, (double)sum.queued_tokens);
    metric_set(blocks_free, sum.kv_blocks_free);
    metric_set(blocks_cached, sum.kv_blocks_cached);
    metric_set(blocks_total, sum.kv_blocks_total);
    metric_set(rate, sum.tokens_per_second);
    metric_set(loaded, (double)load.n_models);
    metric_set(adapters, (double)adapters_ready);
    metric_set(adapter_bytes, (double)adapters_size);
    /* a model that was freed takes its figures with it: the counters only ever rise */
    if ((double)sum.prompt_tokens > told_prompt) metric_add(prompt_tokens, (double)sum.prompt_tokens - told_prompt);
    if ((double)sum.completion_tokens > told_completion) metric_add(completion_tokens, (double)sum.completion_tokens - told_completion);
    if ((double)sum.cached_tokens > told_cached) metric_add(cached_tokens, (double)sum.cached_tokens - told_cached);
    if ((double)sum.preempted > told_preempted) metric_add(preempted, (double)sum.preempted - told_preempted);
    if ((double)sum.guessed > told_guessed) metric_add(guessed, (double)sum.guessed - told_guessed);
    if ((double)sum.guessed_right > told_right) metric_add(guessed_right, (double)sum.guessed_right - told_right);
    if ((double)sum.drafted > told_drafted) metric_add(drafted, (double)sum.drafted - told_drafted);
    if ((double)sum.drafted_right > told_drafted_right) metric_add(drafted_right, (double)sum.drafted_right - told_drafted_right);
    told_drafted = (double)sum.drafted;
    told_drafted_right = (double)sum.drafted_right;
    told_preempted = (double)sum.preempted;
    told_guessed = (double)sum.guessed;
    told_right = (double)sum.guessed_right;
    told_prompt = (double)sum.prompt_tokens;
    told_completion = (double)sum.completion_tokens;
    told_cached = (double)sum.cached_tokens;
    struct buf packed;
    buf_init(&packed, LOAD_MAX);
    size_t size = genloop__v1__replica_load__get_packed_size(&load);
    char *at = buf_reserve(&packed, size);
    if (at) {
        buf_commit(&packed, genloop__v1__replica_load__pack(&load, (uint8_t *)at));
        service_load(inf->service, buf_span(&packed), now);
    }
    buf_fini(&packed);
out:
    mem_free(names);
    mem_free(failed);
}

void models_free(struct inference *inf) {
    inf->stopped = true;
    for (struct model *m = inf->models; m; m = m->next)
        if (m->stage != MODEL_LOADING && !m->freeing) {
            engine_free(m->engine); /* tells every request its last */
            m->engine = NULL;
            embedder_free(m->embedder);
            m->embedder = NULL;
        }
    waiting_wake(inf);
    calls_flush(inf);
    encode_flush(inf);
    for (struct model *m = inf->models, *next; m; m = next) {
        next = m->next;
        if (m->stage != MODEL_LOADING && !m->freeing) drop(m); /* the others when their worker comes back: the loop waits for it */
    }
}
