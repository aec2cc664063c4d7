/*
 * Every round a worker announces us (every MEMBER_REFRESH_MS) and lists the services that we call. While somebody is still missing rounds follow each other
 * quickly: all services of a platform start at once, and each should find the others within a tenth of a second. One round is under way at a time.
 */
#include "service/members.h"

#include "base/alloc.h"
#include "base/log.h"
#include "base/metrics.h"
#include "cache/membership.h"
#include "genloop/v1/bus.pb-c.h"
#include "wire/unpack.h"

enum {
    ROUND_MS = 1000,
    EAGER_ROUND_MS = 100, EAGER_FOR_MS = 10000,
    REDIS_TIMEOUT_MS = 1000,
    LISTED_BYTES_MAX = 64 << 20, /* of one round: MEMBERS_MAX of the usual size */
};

struct member {
    struct member *next;
    struct members *all;
    char *id, *service, *endpoint;
    struct bus_peer *peer;
    struct buf record; /* packed Member, the newest from Redis or heartbeat */
    bool listed, alive, draining, leads;
};

/* What travels to the worker and back. */
struct round {
    struct members *m; /* NULL once members were closed */
    struct redis *redis;
    const char *const *peers;
    char *service, *id;
    bool announce, leave;
    struct buf record;
    struct buf listed; /* length (4 bytes) and packed Member, again and again */
    int result;
    struct error err;
};

struct members {
    struct members_config config;
    struct bus_client *bus;
    struct loop_timer *timer;
    struct round *round;
    bool under_way, again, redis_away, parted;
    int64_t opened_ms, announced_ms;
    struct member *list;
    int n;
    struct buf own;
    struct metric *known;
};

/* ---- the worker ---- */

static void listed_one(void *arg, struct span id, struct span member) {
    struct round *round = arg;
    uint32_t len = (uint32_t)member.len;
    (void)id;
    if (member.len > MEMBER_BYTES_MAX || buf_room(&round->listed) < sizeof len + member.len) return;
    (void)buf_append(&round->listed, &len, sizeof len);
    (void)buf_append_span(&round->listed, member);
}

static void work(void *arg) {
    struct round *round = arg;
    round->result = 0;
    if (round->leave) {
        (void)membership_leave(round->redis, span_str(round->service), span_str(round->id), NULL);
        return;
    }
    if (round->announce) round->result = membership_announce(round->redis, span_str(round->service), span_str(round->id), buf_span(&round->record), &round->err);
    for (size_t i = 0; round->result == 0 && round->peers && round->peers[i]; i++)
        round->result = membership_list(round->redis, span_str(round->peers[i]), round, listed_one, &round->err);
}

static void round_free(struct round *round) {
    if (!round) return;
    redis_free(round->redis);
    buf_fini(&round->record);
    buf_fini(&round->listed);
    mem_free(round->service);
    mem_free(round->id);
    mem_free(round);
}

/* ---- members ---- */

static void member_free(struct member *x) {
    buf_fini(&x->record);
    mem_free(x->id);
    mem_free(x->service);
    mem_free(x->endpoint);
    mem_free(x);
}

static void tell(struct member *x) {
    if (x->all->config.on_peer) x->all->config.on_peer(x->all->config.arg, x->peer, buf_span(&x->record), x->alive);
}

static void keep_record(struct member *x, struct span record, const Genloop__V1__Member *said) {
    buf_clear(&x->record);
    (void)buf_append_span(&x->record, record);
    x->draining = said->draining;
    x->leads = said->leads;
}

static bool wanted(const struct members *m, const char *service) {
    for (size_t i = 0; m->config.peers && m->config.peers[i]; i++)
        if (strcmp(m->config.peers[i], service) == 0) return true;
    return false;
}

/* A record from Redis. What does not hold the platform's key is nobody of ours. */
static void listed(struct members *m, struct span record) {
    Genloop__V1__Member *said = MESSAGE_UNPACK(Member, member, record);
    struct error err = {0};
    if (!said) return;
    bool ours = said->public_key.len == sizeof m->config.keys->public_key && memcmp(said->public_key.data, m->config.keys->public_key, said->public_key.len) == 0;
    if (!ours || !wanted(m, said->service) || !said->id[0] || (span_eq_str(m->config.id, said->id) && span_eq_str(m->config.service, said->service))) goto out;
    struct member *x = m->list;
    while (x && (strcmp(x->id, said->id) != 0 || strcmp(x->service, said->service) != 0)) x = x->next;
    if (x && strcmp(x->endpoint, said->endpoint) == 0) {
        x->listed = true;
        if (!x->alive) keep_record(x, record, said); /* a heartbeat knows better */
        goto out;
    }
    char *endpoint = mem_strdup(said->endpoint);
    if (!x && m->n < MEMBERS_MAX && endpoint && (x = mem_zalloc(sizeof *x))) {
        x->all = m;
        x->id = mem_strdup(said->id);
        x->service = mem_strdup(said->service);
        buf_init(&x->record, MEMBER_BYTES_MAX);
        if (!x->id || !x->service) {
            member_free(x);
            x = NULL;
        } else {
            x->next = m->list;
            m->list = x;
            m->n++;
        }
    }
    if (!x || !endpoint) {
        mem_free(endpoint);
        goto out;
    }
    if (x->peer) { /* it came back elsewhere */
        bool was_alive = x->alive;
        x->alive = false;
        if (was_alive) tell(x);
        bus_peer_disconnect(x->peer);
    }
    mem_free(x->endpoint);
    x->endpoint = endpoint;
    x->listed = true;
    keep_record(x, record, said);
    x->peer = bus_peer_connect(m->bus, endpoint, m->config.keys->public_key, x, &err);
    if (!x->peer) log_warn("service.peer", "%s cannot be reached: %s", x->id, err.message);
out:
    genloop__v1__member__free_unpacked(said, NULL);
}

static void count_lost(const struct member *x) {
    char label[96];
    (void)snprintf(label, sizeof label, "service=\"%.64s\"", x->service);
    metric_add(metric_counter("genloop_members_lost_total", label, "Instances of the services that this one calls whose connection broke or that fell silent."), 1);
}

static void on_heartbeat(void *arg, struct bus_peer *peer, struct span record) {
    struct members *m = arg;
    struct member *x = bus_peer_arg(peer);
    if (record.len > MEMBER_BYTES_MAX) return;
    Genloop__V1__Member *said = record.len ? MESSAGE_UNPACK(Member, member, record) : NULL;
    if (said && strcmp(said->id, x->id) == 0) keep_record(x, record, said);
    if (said) genloop__v1__member__free_unpacked(said, NULL);
    if (!x->alive) log_info("service.peer", "%s lives", x->id);
    x->alive = true;
    (void)m;
    tell(x);
}

static void on_lost(void *arg, struct bus_peer *peer) {
    struct member *x = bus_peer_arg(peer);
    (void)arg;
    if (!x->alive) return;
    x->alive = false;
    count_lost(x);
    log_warn("service.peer", "%s is lost", x->id);
    tell(x);
}

static bool all_found(const struct members *m) {
    for (size_t i = 0; m->config.peers && m->config.peers[i]; i++) {
        bool found = false;
        for (const struct member *x = m->list; x; x = x->next) found |= x->alive && strcmp(x->service, m->config.peers[i]) == 0;
        if (!found) return false;
    }
    return true;
}

/* ---- rounds ---- */

static void start_round(struct members *m);

static void round_done(void *arg) {
    struct round *round = arg;
    struct members *m = round->m;
    if (!m) {
        round_free(round);
        return;
    }
    m->under_way = false;
    if (round->result < 0) {
        if (!m->redis_away && loop_now_ms(m->config.loop) - m->opened_ms > ROUND_MS * 3) {
            log_warn("service.membership", "going on with what is known: %s", round->err.message);
            m->redis_away = true;
        }
    } else {
        if (m->redis_away) log_info("service.membership", "Redis is back");
        m->redis_away = false;
        if (round->announce) m->announced_ms = loop_now_ms(m->config.loop);
        for (struct member *x = m->list; x; x = x->next) x->listed = false;
        struct span rest = buf_span(&round->listed);
        while (rest.len >= sizeof(uint32_t)) {
            uint32_t len;
            memcpy(&len, rest.data, sizeof len);
            rest = span_skip(rest, sizeof len);
            listed(m, span_sub(rest, 0, len));
            rest = span_skip(rest, len);
        }
        for (struct member **at = &m->list; *at;) {
            struct member *x = *at;
            if (x->listed || x->alive) {
                at = &x->next;
                continue;
            }
            *at = x->next;
            m->n--;
            if (x->peer) bus_peer_disconnect(x->peer);
            member_free(x);
        }
        metric_set(m->known, m->n);
    }
    bool eager = loop_now_ms(m->config.loop) - m->opened_ms < EAGER_FOR_MS && (round->result < 0 || !all_found(m));
    if (m->again) start_round(m);
    else loop_timer_start(m->timer, eager ? EAGER_ROUND_MS : ROUND_MS, 0);
}

static void start_round(struct members *m) {
    struct round *round = m->round;
    m->again = true;
    if (m->under_way) return;
    int64_t now = loop_now_ms(m->config.loop);
    round->announce = m->own.len > 0 && (m->announced_ms == 0 || now - m->announced_ms >= MEMBER_REFRESH_MS);
    buf_clear(&round->listed);
    buf_clear(&round->record);
    (void)buf_append_span(&round->record, buf_span(&m->own));
    m->again = false;
    m->under_way = true;
    if (loop_work(m->config.loop, work, round_done, round) < 0) {
        m->under_way = false;
        loop_timer_start(m->timer, ROUND_MS, 0);
    }
}

static void on_timer(void *arg) { start_round(arg); }

/* ---- the surface ---- */

int members_open(const struct members_config *config, struct members **out, struct error *err) {
    int r = 0;
    struct members *m = mem_zalloc(sizeof *m);
    if (!m) return error_set(err, E_NOMEM, "no memory for the membership");
    m->config = *config;
    m->opened_ms = loop_now_ms(config->loop);
    m->known = metric_gauge("genloop_members", "", "Instances of the services that this one calls, as far as known.");
    buf_init(&m->own, MEMBER_BYTES_MAX);
    struct round *round = m->round = mem_zalloc(sizeof *round);
    m->timer = loop_timer_new(config->loop, m, on_timer);
    if (!round || !m->timer) {
        r = error_set(err, E_NOMEM, "no memory for the membership");
        goto out;
    }
    round->m = m;
    round->peers = config->peers;
    buf_init(&round->record, MEMBER_BYTES_MAX);
    buf_init(&round->listed, LISTED_BYTES_MAX);
    round->service = span_dup(config->service);
    round->id = span_dup(config->id);
    if (!round->service || !round->id) {
        r = error_set(err, E_NOMEM, "no memory for the membership");
        goto out;
    }
    if ((r = redis_new(config->redis_url, REDIS_TIMEOUT_MS, &round->redis, err)) < 0) goto out;
    if ((r = bus_client_open(config->loop, config->keys, m, on_heartbeat, on_lost, &m->bus, err)) < 0) goto out;
    start_round(m);
    *out = m;
    m = NULL;
out:
    members_close(m);
    return r;
}

void members_announce(struct members *m, struct span member, bool now) {
    buf_clear(&m->own);
    (void)buf_append_span(&m->own, member);
    if (!now) return;
    m->announced_ms = 0;
    start_round(m);
}

struct bus_client *members_bus(struct members *m) { return m->bus; }

struct bus_peer *members_least_busy(struct members *m, const char *service) {
    struct member *best = NULL;
    for (struct member *x = m->list; x; x = x->next) {
        if (!x->alive || x->draining || strcmp(x->service, service) != 0) continue;
        bool better = !best || (x->leads != best->leads ? x->leads : bus_peer_open_calls(x->peer) < bus_peer_open_calls(best->peer));
        if (better) best = x;
    }
    return best ? best->peer : NULL;
}

void members_each(struct members *m, void *arg, void (*on_member)(void *arg, struct bus_peer *peer, struct span member, bool alive)) {
    if (m->own.len) on_member(arg, NULL, buf_span(&m->own), true);
    for (struct member *x = m->list; x; x = x->next) on_member(arg, x->peer, buf_span(&x->record), x->alive);
}

void members_part(struct members *m) {
    for (struct member *x = m->list; x; x = x->next) {
        if (!x->alive) continue;
        x->alive = false;
        tell(x);
    }
    while (m->list) {
        struct member *x = m->list;
        m->list = x->next;
        if (x->peer) bus_peer_disconnect(x->peer);
        member_free(x);
    }
    m->parted = true;
}

void members_close(struct members *m) {
    if (!m) return;
    bus_client_close(m->bus);
    loop_timer_close(m->timer);
    while (m->list) {
        struct member *x = m->list;
        m->list = x->next;
        member_free(x);
    }
    buf_fini(&m->own);
    if (m->under_way) {
        m->round->m = NULL; /* its end frees it; our key in Redis expires by itself */
    } else if (m->round) {
        m->round->leave = true;
        if (m->announced_ms) work(m->round); /* the process is leaving: a second for Redis blocks nobody */
        round_free(m->round);
    }
    mem_free(m);
}
