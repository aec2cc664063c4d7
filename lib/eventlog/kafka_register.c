#include "eventlog/kafka_register.h"

#include <inttypes.h>
#include <stdio.h>

#include "base/alloc.h"

enum { RECENT_MAX = 8 }; /* a hold comes a third of a ttl after the one that it names; between them only those that want the lease */

struct lease_record {
    enum lease_what what;
    char holder[EVENTLOG_GROUP_NAME_MAX + 1], session[ID_TEXT_MAX];
    int64_t ttl_ms, n, p;
    int64_t offset;
};

static const char *const words[] = {[LEASE_TAKE] = "take", [LEASE_ANEW] = "anew", [LEASE_HOLD] = "hold", [LEASE_FREE] = "free"};

static bool parse(struct span text, int64_t offset, struct lease_record *r) {
    struct span version, what, holder, session, ttl, n;
    if (!span_cut(&text, ' ', &version) || !span_eq_str(version, "1") || !span_cut(&text, ' ', &what) || !span_cut(&text, ' ', &holder) || !span_cut(&text, ' ', &session) ||
        !span_cut(&text, ' ', &ttl) || !span_cut(&text, ' ', &n))
        return false;
    if (span_empty(holder) || holder.len > EVENTLOG_GROUP_NAME_MAX || span_empty(session) || session.len >= ID_TEXT_MAX) return false;
    if (span_to_i64(ttl, &r->ttl_ms) != 0 || r->ttl_ms < 0 || span_to_i64(n, &r->n) != 0 || r->n < -1 || span_to_i64(text, &r->p) != 0 || r->p < -1) return false;
    span_copy(r->holder, sizeof r->holder, holder);
    span_copy(r->session, sizeof r->session, session);
    r->offset = offset;
    for (int w = LEASE_TAKE; w <= LEASE_FREE; w++)
        if (span_eq_str(what, words[w])) {
            r->what = (enum lease_what)w;
            return true;
        }
    return false;
}

static struct lease_entry *find(const struct lease_register *r, struct span name) {
    for (size_t i = 0; i < r->n; i++)
        if (span_eq_str(name, r->entries[i].name)) return &r->entries[i];
    return NULL;
}

/* NULL without memory. */
static struct lease_entry *find_or_add(struct lease_register *r, struct span name) {
    struct lease_entry *e = find(r, name);
    if (e) return e;
    struct lease_record *recent = r->whole ? NULL : mem_calloc(RECENT_MAX, sizeof *recent);
    if (!r->whole && !recent) return NULL;
    if (r->n < LEASES_MAX) {
        if (array_reserve(&r->entries, &r->capacity, r->n + 1, sizeof *r->entries) != 0) {
            mem_free(recent);
            return NULL;
        }
        e = &r->entries[r->n++];
    } else {
        e = &r->entries[0];
        for (size_t i = 1; i < r->n; i++)
            if (r->entries[i].heard < e->heard) e = &r->entries[i];
        mem_free(e->recent);
    }
    *e = (struct lease_entry){.known = r->whole, .recent = recent, .epoch = -1, .offset = -1, .heard = -1, .before = -1};
    span_copy(e->name, sizeof e->name, name);
    return e;
}

static void hold_by(struct lease_entry *e, const char *holder, const char *session, int64_t epoch, int64_t offset) {
    span_copy(e->holder, sizeof e->holder, span_str(holder));
    span_copy(e->session, sizeof e->session, span_str(session));
    e->held = true;
    e->epoch = epoch;
    e->offset = offset;
}

static void judge(struct lease_entry *e, const struct lease_record *r) {
    bool same = e->held && strcmp(r->session, e->session) == 0;
    switch (r->what) {
    case LEASE_TAKE:
    case LEASE_ANEW:
        if (e->held && e->offset > r->n && (r->what == LEASE_TAKE || same || strcmp(r->holder, e->holder) != 0)) return;
        hold_by(e, r->holder, r->session, r->offset + 1, r->offset);
        break;
    case LEASE_HOLD:
        if (!same) return;
        e->offset = r->offset;
        break;
    case LEASE_FREE:
        if (!same) return;
        e->held = false;
        e->offset = r->offset;
        break;
    case LEASE_WAIT: return;
    }
    e->ttl_ms = r->ttl_ms;
}

static void become_known(struct lease_entry *e) {
    e->known = true;
    mem_free(e->recent);
    e->recent = NULL;
    e->n_recent = 0;
}

/* Until it is known: r may say of one of those before it that it was valid. */
static void learn(struct lease_entry *e, const struct lease_record *r) {
    if (e->n_recent == RECENT_MAX) memmove(e->recent, e->recent + 1, (size_t)--e->n_recent * sizeof *e->recent);
    e->recent[e->n_recent++] = *r;
    if (r->ttl_ms > e->ttl_ms) e->ttl_ms = r->ttl_ms;
    if ((r->what != LEASE_HOLD && r->what != LEASE_FREE) || r->p < 0) return;
    for (int i = 0; i < e->n_recent - 1; i++) {
        if (e->recent[i].offset != r->p) continue;
        hold_by(e, r->holder, r->session, r->n, r->p);
        e->ttl_ms = e->recent[i].ttl_ms;
        for (i++; i < e->n_recent; i++) judge(e, &e->recent[i]);
        become_known(e);
        return;
    }
}

void lease_register_fini(struct lease_register *r) {
    for (size_t i = 0; i < r->n; i++) mem_free(r->entries[i].recent);
    mem_free(r->entries);
}

int lease_register_read(struct lease_register *r, struct span key, struct span value, int64_t offset, int64_t now_ms) {
    struct lease_record record = {0};
    if (offset < r->next) return 0;
    r->next = offset + 1;
    if (span_empty(key) || key.len > EVENTLOG_GROUP_NAME_MAX || !parse(value, offset, &record)) return 0;
    struct lease_entry *e = find_or_add(r, key);
    if (!e) return E_NOMEM;
    if (e->known) judge(e, &record);
    else learn(e, &record);
    e->before = e->heard;
    e->heard = offset;
    e->seen_ms = now_ms;
    return 0;
}

static bool is_of(const struct lease_entry *e, const struct lease_candidate *c) { return e && e->known && e->held && strcmp(e->session, c->session) == 0; }

bool lease_register_is_held_by(struct lease_register *r, const struct lease_candidate *c) { return is_of(find(r, span_str(c->name)), c); }

enum lease_what lease_register_decide(struct lease_register *r, const struct lease_candidate *c, int64_t now_ms, int64_t *n, int64_t *p) {
    const struct lease_entry *e = find(r, span_str(c->name));
    *n = r->next - 1;
    *p = -1;
    if (!e || (e->known && !e->held)) return LEASE_TAKE;
    if (is_of(e, c)) {
        *n = e->epoch;
        *p = e->offset;
        return LEASE_HOLD;
    }
    /* Only before it was ever ours may it be taken from our name: of two that live under one name the newer wins, once. */
    if (e->known && c->epoch == 0 && strcmp(e->holder, c->holder) == 0) return LEASE_ANEW;
    return now_ms - e->seen_ms >= e->ttl_ms ? LEASE_TAKE : LEASE_WAIT;
}

void lease_record_write(const struct lease_candidate *c, enum lease_what what, int64_t n, int64_t p, char text[LEASE_TEXT_MAX]) {
    snprintf(text, LEASE_TEXT_MAX, "1 %s %s %s %" PRId64 " %" PRId64 " %" PRId64, words[what], c->holder, c->session, c->ttl_ms, n, p);
}

void lease_register_let_go(struct lease_register *r, const struct lease_candidate *c, char text[LEASE_TEXT_MAX]) {
    const struct lease_entry *e = find(r, span_str(c->name));
    bool ours = is_of(e, c);
    lease_record_write(c, LEASE_FREE, ours ? e->epoch : -1, ours ? e->offset : -1, text); /* also where it does not know of its take, which may land yet */
}

int lease_register_verdict(struct lease_register *r, struct lease_candidate *c, enum lease_what what, int64_t n, int64_t offset, uint64_t *epoch) {
    struct lease_entry *e = find(r, span_str(c->name));
    if (!e) return E_AGAIN;
    if (!e->known && what == LEASE_TAKE && e->heard == offset && e->before <= n) {
        hold_by(e, c->holder, c->session, offset + 1, offset);
        e->ttl_ms = c->ttl_ms;
        become_known(e);
    }
    if (!is_of(e, c)) return E_AGAIN;
    c->epoch = e->epoch;
    *epoch = (uint64_t)e->epoch;
    return 0;
}
