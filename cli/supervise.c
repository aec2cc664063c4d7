#include "supervise.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>

/* What starts before and stops after what. */
static int stage(enum supervise_kind kind) {
    switch (kind) {
    case SUPERVISE_LOG:
    case SUPERVISE_CACHE: return 0;
    case SUPERVISE_GATEWAY: return 2;
    case SUPERVISE_FEEDBACK:
    case SUPERVISE_INGEST:
    case SUPERVISE_TRAINER:
    case SUPERVISE_INFERENCE:
    case SUPERVISE_KINDS: break;
    }
    return 1;
}

const char *supervise_kind_name(enum supervise_kind kind) {
    static const char *const names[] = {"log", "cache", "feedback", "ingest", "trainer", "inference", "gateway"};
    ASSERT(kind < SUPERVISE_KINDS);
    return names[kind];
}

const char *supervise_state_name(const struct supervise *s, const struct supervise_child *c) {
    switch (c->state) {
    case SUPERVISE_WAITING: return s->phase >= SUPERVISE_STOPS ? "stopped" : "waiting";
    case SUPERVISE_RUNNING: return c->ready ? "ready" : "starting";
    case SUPERVISE_STOPPING: return "stopping";
    case SUPERVISE_GONE: break;
    }
    return "stopped";
}

static bool running(const struct supervise_child *c) { return c->state == SUPERVISE_RUNNING || c->state == SUPERVISE_STOPPING; }

static void add(struct supervise *s, enum supervise_kind kind, int index, int64_t now_ms) {
    ASSERT(s->n < SUPERVISE_CHILDREN_MAX);
    struct supervise_child *c = &s->children[s->n++];
    *c = (struct supervise_child){.kind = kind, .index = index, .wanted = true, .tokens = RESTART_BURST, .tokens_ms = now_ms, .due_ms = now_ms};
    if (index) (void)snprintf(c->name, sizeof c->name, "%s-%d", supervise_kind_name(kind), index);
    else (void)snprintf(c->name, sizeof c->name, "%s", supervise_kind_name(kind));
}

void supervise_init(struct supervise *s, unsigned kinds, int replicas, int64_t drain_ms, int64_t now_ms) {
    ASSERT(replicas >= 0 && replicas <= SUPERVISE_REPLICAS_MAX);
    *s = (struct supervise){.drain_ms = drain_ms};
    for (int k = 0; k < SUPERVISE_KINDS; k++) {
        if (!(kinds >> k & 1)) continue;
        if (k == SUPERVISE_INFERENCE)
            for (int i = 1; i <= replicas; i++) add(s, SUPERVISE_INFERENCE, i, now_ms);
        else add(s, (enum supervise_kind)k, 0, now_ms);
    }
}

/* ---- what is to be done ---- */

static bool servers_ready(const struct supervise *s) {
    for (size_t i = 0; i < s->n; i++)
        if (stage(s->children[i].kind) == 0 && !s->children[i].ready) return false;
    return true;
}

/* While the platform stops: only what no longer has anybody above it is asked to go. */
static int stopping_stage(const struct supervise *s) {
    int top = -1;
    for (size_t i = 0; i < s->n; i++)
        if (running(&s->children[i]) && stage(s->children[i].kind) > top) top = stage(s->children[i].kind);
    return top;
}

static void update_phase(struct supervise *s) {
    bool all_ready = true, any_running = false;
    for (size_t i = 0; i < s->n; i++) {
        const struct supervise_child *c = &s->children[i];
        if (c->wanted && !(c->state == SUPERVISE_RUNNING && c->ready)) all_ready = false;
        any_running |= running(c);
    }
    if (s->phase == SUPERVISE_STARTS && all_ready) s->phase = SUPERVISE_RUNS;
    if (s->phase == SUPERVISE_STOPS && !any_running) s->phase = SUPERVISE_STOPPED;
}

static int64_t patience(const struct supervise *s, const struct supervise_child *c) {
    return s->hurry ? STOP_HURRY_MS : stage(c->kind) == 0 ? STOP_SERVER_MS : s->drain_ms + STOP_GRACE_MS;
}

/* The verb that this child needs now, or -1. */
static int needs(const struct supervise *s, const struct supervise_child *c, int64_t now_ms) {
    switch (c->state) {
    case SUPERVISE_WAITING:
        if (s->phase >= SUPERVISE_STOPS || !c->wanted) return -1;
        return c->due_ms <= now_ms && (stage(c->kind) == 0 || servers_ready(s)) ? SUPERVISE_START : -1;
    case SUPERVISE_RUNNING:
        if (s->phase >= SUPERVISE_STOPS) return stage(c->kind) == stopping_stage(s) ? SUPERVISE_TERM : -1;
        return c->wanted ? -1 : SUPERVISE_TERM;
    case SUPERVISE_STOPPING: return !c->killed && c->stop_ms <= now_ms ? SUPERVISE_KILL : -1;
    case SUPERVISE_GONE: return SUPERVISE_FORGET;
    }
    return -1;
}

bool supervise_next(struct supervise *s, int64_t now_ms, struct supervise_action *a) {
    for (size_t i = 0; i < s->n; i++) {
        struct supervise_child *c = &s->children[i];
        int verb = needs(s, c, now_ms);
        if (verb < 0) continue;
        *a = (struct supervise_action){(enum supervise_verb)verb, i};
        switch (a->verb) {
        case SUPERVISE_START:
            if (c->ended) c->restarts++;
            c->ended = false;
            c->state = SUPERVISE_RUNNING;
            c->ready = c->was_ready = c->killed = false;
            c->started_ms = now_ms;
            break;
        case SUPERVISE_TERM:
            c->state = SUPERVISE_STOPPING;
            c->ready = false;
            c->stop_ms = now_ms + patience(s, c);
            break;
        case SUPERVISE_KILL: c->killed = true; break;
        case SUPERVISE_FORGET: *c = s->children[--s->n]; break;
        }
        update_phase(s);
        return true;
    }
    update_phase(s);
    return false;
}

int64_t supervise_wake_ms(const struct supervise *s) {
    int64_t wake = INT64_MAX;
    for (size_t i = 0; i < s->n; i++) {
        const struct supervise_child *c = &s->children[i];
        bool starts = c->state == SUPERVISE_WAITING && c->wanted && s->phase < SUPERVISE_STOPS && (stage(c->kind) == 0 || servers_ready(s));
        if (starts && c->due_ms < wake) wake = c->due_ms;
        if (c->state == SUPERVISE_STOPPING && !c->killed && c->stop_ms < wake) wake = c->stop_ms;
    }
    return wake;
}

/* ---- what happened ---- */

void supervise_ready(struct supervise *s, size_t child, bool ready, int64_t now_ms) {
    ASSERT(child < s->n);
    struct supervise_child *c = &s->children[child];
    if (c->state != SUPERVISE_RUNNING) return; /* said before it heard that it shall go */
    c->ready = ready;
    if (ready && !c->was_ready) {
        c->was_ready = true;
        c->ready_ms = now_ms;
        c->failures = 0;
    }
    update_phase(s);
}

static int64_t delay_of(struct supervise_child *c, int64_t now_ms) {
    if (c->was_ready) {
        int64_t gained = (now_ms - c->tokens_ms) / RESTART_REFILL_MS;
        c->tokens_ms += gained * RESTART_REFILL_MS;
        if (gained > RESTART_BURST) gained = RESTART_BURST;
        c->tokens += (int)gained;
        if (c->tokens > RESTART_BURST) c->tokens = RESTART_BURST;
        if (c->tokens == 0) return RESTART_LOOP_MS;
        c->tokens--;
        return 0;
    }
    c->failures++;
    if (c->last_status == 2) return RESTART_MAX_MS;
    if (c->failures == 1) return 0;
    int64_t delay = RESTART_FIRST_MS;
    for (int i = 2; i < c->failures && delay < RESTART_MAX_MS; i++) delay *= 2;
    return delay < RESTART_MAX_MS ? delay : RESTART_MAX_MS;
}

void supervise_exited(struct supervise *s, size_t child, int status, int64_t now_ms) {
    ASSERT(child < s->n);
    struct supervise_child *c = &s->children[child];
    ASSERT(running(c));
    bool asked = c->state == SUPERVISE_STOPPING;
    c->ready = false;
    c->state = c->wanted ? SUPERVISE_WAITING : SUPERVISE_GONE;
    c->due_ms = now_ms;
    if (!asked) {
        c->ended = true;
        c->last_status = status;
        c->due_ms = now_ms + delay_of(c, now_ms);
    }
    update_phase(s);
}

int supervise_scale(struct supervise *s, int replicas, int64_t now_ms, struct error *err) {
    if (replicas < 0 || replicas > SUPERVISE_REPLICAS_MAX) return error_set(err, E_INVALID, "inference=%d: a machine runs 0 to %d replicas", replicas, SUPERVISE_REPLICAS_MAX);
    if (s->phase >= SUPERVISE_STOPS) return error_set(err, E_STATE, "the platform is stopping");
    struct supervise_child *by_index[SUPERVISE_REPLICAS_MAX + 1] = {NULL};
    int wanted = supervise_replicas(s);
    for (size_t i = 0; i < s->n; i++)
        if (s->children[i].kind == SUPERVISE_INFERENCE) by_index[s->children[i].index] = &s->children[i];
    for (int i = SUPERVISE_REPLICAS_MAX; i > 0 && wanted > replicas; i--) {
        struct supervise_child *c = by_index[i];
        if (!c || !c->wanted) continue;
        c->wanted = false;
        if (c->state == SUPERVISE_WAITING) c->state = SUPERVISE_GONE;
        wanted--;
    }
    for (int i = 1; i <= SUPERVISE_REPLICAS_MAX && wanted < replicas; i++) {
        struct supervise_child *c = by_index[i];
        if (c && c->wanted) continue;
        if (!c) {
            add(s, SUPERVISE_INFERENCE, i, now_ms);
        } else { /* it is on its way out, and comes back when it is */
            c->wanted = true;
            if (c->state == SUPERVISE_GONE) c->state = SUPERVISE_WAITING;
        }
        wanted++;
    }
    return 0;
}

int supervise_drain(struct supervise *s, const char *name, struct error *err) {
    if (s->phase >= SUPERVISE_STOPS) return error_set(err, E_STATE, "the platform is stopping");
    for (size_t i = 0; i < s->n; i++) {
        struct supervise_child *c = &s->children[i];
        if (c->kind != SUPERVISE_INFERENCE || strcmp(c->name, name) != 0) continue;
        c->wanted = false;
        if (c->state == SUPERVISE_WAITING) c->state = SUPERVISE_GONE;
        return 0;
    }
    return error_set(err, E_NOT_FOUND, "there is no replica \"%s\": genloop status lists them", name);
}

void supervise_down(struct supervise *s, bool hurry, int64_t now_ms) {
    if (s->phase < SUPERVISE_STOPS) s->phase = SUPERVISE_STOPS;
    if (hurry && !s->hurry) {
        s->hurry = true;
        for (size_t i = 0; i < s->n; i++) {
            struct supervise_child *c = &s->children[i];
            if (c->state == SUPERVISE_STOPPING && c->stop_ms > now_ms + STOP_HURRY_MS) c->stop_ms = now_ms + STOP_HURRY_MS;
        }
    }
    update_phase(s);
}

int supervise_replicas(const struct supervise *s) {
    int n = 0;
    for (size_t i = 0; i < s->n; i++) n += s->children[i].kind == SUPERVISE_INFERENCE && s->children[i].wanted;
    return n;
}

const struct supervise_child *supervise_hopeless(const struct supervise *s) {
    if (s->phase != SUPERVISE_STARTS) return NULL;
    for (size_t i = 0; i < s->n; i++) {
        const struct supervise_child *c = &s->children[i];
        if (c->failures >= START_FAILURES_MAX || (c->failures > 0 && c->last_status == 2)) return c;
    }
    return NULL;
}
