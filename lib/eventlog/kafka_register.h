/*
 * The register of leases: what the records of a log of one partition say about who holds which lease. A pure core: records and times in, verdicts out; kafka_lease.c
 * does the reading and writing. Whoever reads the log comes to the same verdict; the order of the log decides. The epoch of a take is its offset + 1: a log gives each
 * offset once and only ever higher ones, so that no two holders ever have the same epoch and epochs only rise.
 *
 * A record is keyed by the lease's name: "1 WHAT HOLDER SESSION TTL N P" (a session is one life of a holder; a number that says nothing is -1).
 *   take N    "I have read the log through N." Valid where the lease is free, where no valid record of it stands behind N, or, as `anew`, from a former life of the
 *             same holder. Valid: SESSION holds it, with the record's offset + 1 as its epoch.
 *   hold N P  Renews the lease of epoch N, whose last valid record stands at P. Valid from the session that holds it.
 *   free N P  Lets go. Likewise.
 *
 *            take (free)                 hold
 *     free ───────────────► held by S ◄──────┐        take by S' with N ≥ the last valid record: held by S', a higher epoch
 *       ▲                     │   └──────────┘
 *       └────── free ─────────┘
 *
 * Time. No clock but one's own monotonic one, and only by its owner: a candidate may write its take when, by its own clock, no record of the lease has come for the
 * ttl that the holder stated. The holder counts the same ttl from before its last successful hold was sent. The candidate starts counting when it reads that hold,
 * which is later; so the holder has stopped before the candidate's take is written. A hold that was on its way makes the take invalid, since it stands behind N.
 * A record that a broken connection has delayed is judged when it lands, by the same rules: a late take names an old N, a late hold an old session.
 *
 * Start. Records are kept for much longer than any ttl, not for ever, and a process reads what is kept. Where the log begins at 0 it knows everything. Else it knows nothing of
 * a lease until a hold or a free tells it that the record at P was valid, and whose: from there on it judges as everybody does. (Only one who knows writes such a
 * record; it may have been superseded behind P, which the judging then shows.) Until then it waits, or takes after a silence, and believes that only where no other record
 * stands between N and its take: then nothing can have made it invalid.
 */
#ifndef GENLOOP_EVENTLOG_KAFKA_REGISTER_H
#define GENLOOP_EVENTLOG_KAFKA_REGISTER_H

#include "base/random.h"
#include "eventlog/eventlog.h"

enum { LEASES_MAX = 4096 };   /* names in what is kept; beyond it the one heard of longest ago is forgotten */
enum { LEASE_TEXT_MAX = 2 * EVENTLOG_GROUP_NAME_MAX + 128 };

enum lease_what { LEASE_TAKE, LEASE_ANEW, LEASE_HOLD, LEASE_FREE, LEASE_WAIT /* of a verdict only */ };

struct lease_record;
struct lease_entry {
    char name[EVENTLOG_GROUP_NAME_MAX + 1], holder[EVENTLOG_GROUP_NAME_MAX + 1], session[ID_TEXT_MAX];
    bool known;      /* else nothing is but heard, before, ttl_ms and seen_ms */
    bool held;
    int64_t ttl_ms;
    int64_t epoch;   /* of the last valid take */
    int64_t offset;  /* of the last valid record */
    int64_t heard;   /* of the last record, valid or not */
    int64_t before;  /* of the record before that one */
    int64_t seen_ms; /* when we read the last one, by our clock */
    struct lease_record *recent; /* the last ones, until it is known; NULL then */
    int n_recent;
};

struct lease_register {
    bool whole;   /* the log began at 0 */
    int64_t next; /* everything before this offset has been read */
    struct lease_entry *entries;
    size_t n, capacity;
};

/* One who wants a lease. */
struct lease_candidate {
    char name[EVENTLOG_GROUP_NAME_MAX + 1], holder[EVENTLOG_GROUP_NAME_MAX + 1], session[ID_TEXT_MAX];
    int64_t ttl_ms;
    int64_t epoch; /* that it was given last, 0: none */
};

void lease_register_fini(struct lease_register *r);
/* A record was read; what is none is passed over. E_NOMEM. */
int lease_register_read(struct lease_register *r, struct span key, struct span value, int64_t offset, int64_t now_ms);
/* What c is to write, having read everything there is, its N and its P; LEASE_WAIT: another holds it. */
enum lease_what lease_register_decide(struct lease_register *r, const struct lease_candidate *c, int64_t now_ms, int64_t *n, int64_t *p);
/* The record by which c lets go of what it may hold. */
void lease_register_let_go(struct lease_register *r, const struct lease_candidate *c, char text[LEASE_TEXT_MAX]);
void lease_record_write(const struct lease_candidate *c, enum lease_what what, int64_t n, int64_t p, char text[LEASE_TEXT_MAX]);
/* c's record `what` with `n` stands at offset, and the log has been read through it. 0 and the epoch where c holds the lease, E_AGAIN where not. */
int lease_register_verdict(struct lease_register *r, struct lease_candidate *c, enum lease_what what, int64_t n, int64_t offset, uint64_t *epoch);
/* Whether c holds it as far as has been read. */
bool lease_register_is_held_by(struct lease_register *r, const struct lease_candidate *c);

#endif
