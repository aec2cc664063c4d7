#include "routing.h"

#include "base/alloc.h"
#include "base/error.h"

enum { ID_MAX = 65 };

struct replica {
    void *peer;
    int number;
    char id[ID_MAX];
    uint64_t id_hash;
    uint32_t reported;       /* running and queued, as it last said */
    uint32_t in_flight;      /* sent by us and not done */
    uint32_t reported_ours;  /* of ours, those that `reported` counts already */
    bool draining;
    char *models[ROUTING_MODELS_MAX], *loading[ROUTING_MODELS_MAX], *asleep[ROUTING_MODELS_MAX];
    size_t n_models, n_loading, n_asleep;
    uint64_t chosen; /* when it was last chosen */
    struct circuit *circuit; /* NULL: nothing was ever wrong */
};

struct circuit {
    uint64_t id_hash; /* 0: free */
    uint32_t faults;  /* in a row */
    int64_t open_until_ms;
};

struct routing {
    struct replica *replicas[ROUTING_REPLICAS_MAX]; /* in the order in which they came */
    size_t n;
    uint64_t numbers[ROUTING_REPLICAS_MAX / 64]; /* in use */
    uint64_t turn;
    struct circuit circuits[ROUTING_REPLICAS_MAX];
    struct prefixes *prefixes; /* NULL: prompts are not compared */
    uint32_t prefix_share, prefix_slack;
    uint64_t prefix_secret;
};
_Static_assert(ROUTING_REPLICAS_MAX <= (int)PREFIX_REPLICAS, "each replica's number is one of the table's");

struct routing *routing_new(void) { return mem_zalloc(sizeof(struct routing)); }

static void free_names(char **names, size_t *n) {
    for (size_t i = 0; i < *n; i++) mem_free(names[i]);
    *n = 0;
}

static void replica_free(struct replica *p) {
    if (!p) return;
    free_names(p->models, &p->n_models);
    free_names(p->loading, &p->n_loading);
    free_names(p->asleep, &p->n_asleep);
    mem_free(p);
}

void routing_free(struct routing *r) {
    if (!r) return;
    for (size_t i = 0; i < r->n; i++) replica_free(r->replicas[i]);
    prefixes_free(r->prefixes);
    mem_free(r);
}

int routing_compare_prefixes(struct routing *r, uint32_t share_percent, uint32_t slack, uint64_t secret) {
    if (!r->prefixes && !(r->prefixes = prefixes_new())) return E_NOMEM;
    r->prefix_share = share_percent;
    r->prefix_slack = slack;
    r->prefix_secret = secret;
    return 0;
}

void routing_prefix_begin(const struct routing *r, struct prefix_chain *c, struct span tenant, struct span model) { prefix_begin(c, r->prefix_secret, tenant, model); }

static struct replica *replica_of(struct routing *r, const void *peer, size_t *at) {
    for (size_t i = 0; i < r->n; i++)
        if (r->replicas[i]->peer == peer) {
            if (at) *at = i;
            return r->replicas[i];
        }
    return NULL;
}

/* ---- circuits ---- */

static struct circuit *circuit_find(struct routing *r, uint64_t id_hash) {
    for (int i = 0; i < ROUTING_REPLICAS_MAX; i++)
        if (r->circuits[i].id_hash == id_hash && id_hash) return &r->circuits[i];
    return NULL;
}

/* One for a replica that had none: a free one, or that of a replica that is gone and had the fewest faults. */
static struct circuit *circuit_make(struct routing *r, uint64_t id_hash) {
    struct circuit *best = NULL;
    for (int i = 0; i < ROUTING_REPLICAS_MAX; i++) {
        struct circuit *c = &r->circuits[i];
        bool used = false;
        for (size_t k = 0; k < r->n && !used; k++) used = r->replicas[k]->circuit == c;
        if (used) continue;
        if (!best || c->faults < best->faults) best = c;
    }
    if (best) *best = (struct circuit){.id_hash = id_hash};
    return best; /* NULL: as many replicas as there are circuits, and this one is no longer among them: it is forgotten */
}

static void note_fault(struct routing *r, struct replica *p, int64_t now_ms) {
    if (!p->circuit && !(p->circuit = circuit_find(r, p->id_hash)) && !(p->circuit = circuit_make(r, p->id_hash))) return;
    struct circuit *c = p->circuit;
    int64_t open_ms = ROUTING_OPEN_MS;
    if (c->faults < UINT32_MAX) c->faults++;
    for (uint32_t i = ROUTING_FAULTS; i < c->faults && open_ms < ROUTING_OPEN_MAX_MS; i++) open_ms *= 2;
    if (c->faults >= ROUTING_FAULTS) c->open_until_ms = now_ms + (open_ms < ROUTING_OPEN_MAX_MS ? open_ms : ROUTING_OPEN_MAX_MS);
}

void routing_fault(struct routing *r, void *peer, int64_t now_ms) {
    struct replica *p = replica_of(r, peer, NULL);
    if (p) note_fault(r, p, now_ms);
}

void routing_worked(struct routing *r, void *peer) {
    struct replica *p = replica_of(r, peer, NULL);
    if (!p || !p->circuit) return;
    *p->circuit = (struct circuit){0};
    p->circuit = NULL;
}

bool replica_open(const struct replica *p, int64_t now_ms) {
    const struct circuit *c = p->circuit;
    return c && c->faults >= ROUTING_FAULTS && (now_ms < c->open_until_ms || p->in_flight > 0); /* behind its time one call tries it */
}

static int keep_names(char **names, size_t *n, const char *const *said, size_t n_said) {
    if (n_said > ROUTING_MODELS_MAX) n_said = ROUTING_MODELS_MAX;
    bool same = *n == n_said;
    for (size_t i = 0; same && i < n_said; i++) same = strcmp(names[i], said[i]) == 0;
    if (same) return 0; /* as almost every heartbeat is */
    free_names(names, n);
    for (size_t i = 0; i < n_said; i++) {
        if (!(names[i] = mem_strdup(said[i]))) return E_NOMEM;
        *n = i + 1;
    }
    return 0;
}

int routing_report(struct routing *r, void *peer, const struct routing_report *report) {
    struct replica *p = replica_of(r, peer, NULL);
    if (!p) {
        int number = 0;
        while (number < ROUTING_REPLICAS_MAX && r->numbers[number / 64] >> (number % 64) & 1) number++;
        if (r->n == ROUTING_REPLICAS_MAX || number == ROUTING_REPLICAS_MAX) return E_FULL;
        if (!(p = mem_zalloc(sizeof *p))) return E_NOMEM;
        p->peer = peer;
        p->number = number;
        span_copy(p->id, sizeof p->id, report->id);
        p->id_hash = span_hash(report->id);
        p->circuit = circuit_find(r, p->id_hash);
        r->numbers[number / 64] |= 1ull << (number % 64);
        r->replicas[r->n++] = p;
    }
    p->reported = report->running > UINT32_MAX - report->queued ? UINT32_MAX : report->running + report->queued;
    p->reported_ours = p->in_flight;
    p->draining = report->draining;
    int result = keep_names(p->models, &p->n_models, report->models, report->n_models);
    int second = keep_names(p->loading, &p->n_loading, report->loading, report->n_loading);
    int third = keep_names(p->asleep, &p->n_asleep, report->asleep, report->n_asleep);
    return result < 0 ? result : second < 0 ? second : third;
}

void routing_lost(struct routing *r, void *peer, int64_t now_ms) {
    size_t at;
    struct replica *p = replica_of(r, peer, &at);
    if (!p) return;
    if (!p->draining) note_fault(r, p, now_ms);
    r->numbers[p->number / 64] &= ~(1ull << (p->number % 64));
    memmove(&r->replicas[at], &r->replicas[at + 1], (r->n - at - 1) * sizeof *r->replicas);
    r->n--;
    if (r->prefixes) prefixes_forget(r->prefixes, p->number); /* the number may become another's */
    replica_free(p);
}

uint32_t replica_load(const struct replica *p) {
    uint32_t since = p->in_flight > p->reported_ours ? p->in_flight - p->reported_ours : 0;
    uint32_t gone = p->reported_ours > p->in_flight ? p->reported_ours - p->in_flight : 0;
    uint32_t said = p->reported > gone ? p->reported - gone : 0;
    return said > UINT32_MAX - since ? UINT32_MAX : said + since;
}

static bool among(char *const *names, size_t n, struct span name) {
    for (size_t i = 0; i < n; i++)
        if (span_eq_str(name, names[i])) return true;
    return false;
}
bool replica_holds(const struct replica *p, struct span model) { return among(p->models, p->n_models, model); }

static bool was_tried(const struct replica *p, const struct routing_tried *tried) { return tried && tried->bits[p->number / 64] >> (p->number % 64) & 1; }

/* Who has seen the most of it, of those who are not too busy; among equals as ever. best: the least loaded. */
static enum routing_prefix pick_seen(const struct routing *r, struct span model, const struct prefix_chain *prefix, const struct routing_tried *tried, int64_t now_ms, struct replica **best) {
    uint16_t seen[PREFIX_REPLICAS];
    uint32_t least = replica_load(*best);
    struct replica *found = NULL;
    enum routing_prefix decided = ROUTING_PREFIX_NEW;
    prefixes_seen(r->prefixes, prefix, seen);
    for (size_t i = 0; i < r->n; i++) {
        struct replica *p = r->replicas[i];
        uint32_t blocks = seen[p->number], load = replica_load(p);
        if (p->draining || was_tried(p, tried) || !replica_holds(p, model) || replica_open(p, now_ms)) continue;
        if (blocks == 0 || blocks * 100 < r->prefix_share * prefix->count) continue;
        if (decided == ROUTING_PREFIX_NEW) decided = ROUTING_PREFIX_BUSY;
        if (load - least > (blocks < r->prefix_slack ? blocks : r->prefix_slack)) continue;
        decided = ROUTING_PREFIX_SEEN;
        uint32_t most = found ? seen[found->number] : 0;
        if (blocks > most || (blocks == most && (load < replica_load(found) || (load == replica_load(found) && p->chosen < found->chosen)))) found = p;
    }
    if (found) *best = found;
    return decided;
}

enum routing_answer routing_pick(struct routing *r, struct span model, uint64_t session_hash, const struct prefix_chain *prefix, const struct routing_tried *tried, int64_t now_ms, struct replica **out,
                                 enum routing_prefix *out_decided) {
    enum routing_prefix decided = ROUTING_PREFIX_NOT_ASKED;
    struct replica *best = NULL, *preferred = NULL, *sleeper = NULL, *last = NULL; /* last: of those whose circuit is open the one that is tried first */
    uint64_t preference = 0;
    bool loading = false, compares = r->prefixes && prefix && prefix->count > 0;
    for (size_t i = 0; i < r->n; i++) {
        struct replica *p = r->replicas[i];
        if (p->draining || was_tried(p, tried)) continue;
        if (!replica_holds(p, model)) {
            loading |= among(p->loading, p->n_loading, model);
            if (!replica_open(p, now_ms) && among(p->asleep, p->n_asleep, model) && (!sleeper || replica_load(p) < replica_load(sleeper))) sleeper = p;
            continue;
        }
        if (replica_open(p, now_ms)) {
            if (!last || p->circuit->open_until_ms < last->circuit->open_until_ms) last = p;
            continue;
        }
        uint32_t load = replica_load(p), least = best ? replica_load(best) : 0;
        if (!best || load < least || (load == least && p->chosen < best->chosen)) best = p;
        uint64_t score = hash_mix(session_hash ^ p->id_hash);
        if (session_hash && (!preferred || score > preference)) {
            preferred = p;
            preference = score;
        }
    }
    if (best && compares && !session_hash) decided = pick_seen(r, model, prefix, tried, now_ms, &best);
    if (!best) best = last;
    if (!best && sleeper) {
        best = sleeper;
        preferred = NULL;
    }
    if (!best) return loading ? ROUTING_LOADING : ROUTING_NONE;
    if (preferred && replica_load(preferred) - replica_load(best) <= ROUTING_SLACK) best = preferred;
    best->chosen = ++r->turn;
    if (compares) prefixes_note(r->prefixes, prefix, best->number);
    if (out_decided) *out_decided = decided;
    *out = best;
    return ROUTING_FOUND;
}

void routing_sent(struct replica *p, struct routing_tried *tried) {
    p->in_flight++;
    tried->bits[p->number / 64] |= 1ull << (p->number % 64);
    tried->n++;
}

void routing_done(struct routing *r, void *peer) {
    struct replica *p = replica_of(r, peer, NULL);
    if (p && p->in_flight > 0) p->in_flight--;
}

bool routing_may_retry(int code, bool begun, const struct routing_tried *tried) {
    if (begun || tried->n >= ROUTING_ATTEMPTS_MAX) return false;
    return code == E_UNAVAILABLE || code == E_FULL || code == E_NOMEM || code == E_IO || code == E_NOT_FOUND; /* NOT_FOUND: it has just unloaded it */
}

void *replica_peer(const struct replica *p) { return p->peer; }
const char *replica_id(const struct replica *p) { return p->id; }
struct replica *routing_at(struct routing *r, size_t i) { return i < r->n ? r->replicas[i] : NULL; }
