/*
 * What a caller may take: requests and tokens a minute and streams at once, of his key and of his tenant (lib/cache/limits.h has the arithmetic). Kept in the cache's Redis, for all gateways
 * together; while that is away each gateway goes on for itself with the same figures, from where Redis was.
 *
 * quota_take stands between a request that is read and its handler; quota_release, at the end of the exchange, settles: what was taken for tokens that were not made is given back, what was
 * made beyond it is owed. A request is let in by what it may cost: its body's bytes / 4 for the prompt and the tokens that it asks for at most, where it says so. The owner's door has no limits.
 */
#ifndef GATEWAY_QUOTA_H
#define GATEWAY_QUOTA_H

#include "cache/limits.h"
#include "cache/link.h"
#include "gateway.h"

struct exchange;
struct quota;

/* Of an exchange; zero at first. */
struct quota_hold {
    struct limit_subject subjects[LIMITS_SUBJECTS];
    int n;
    bool taken;
    int64_t reserved;              /* tokens */
    char stream[96];               /* "": none; else its name in Redis */
    struct quota_hold *next, *previous; /* of streams */
    struct link_call *call;
    void (*on_done)(struct exchange *x);
};

int quota_open(struct gateway *g, struct quota **q, struct error *err);
void quota_close(struct quota *q);
/* on_done(x) when it is let in, now or later; otherwise the exchange ends: 429, or the client is gone. tokens: what it may cost, -1: none are made. */
void quota_take(struct exchange *x, int64_t tokens, bool stream, void (*on_done)(struct exchange *x));
/* used: the tokens that were made, -1: as many as were taken. */
void quota_release(struct exchange *x, int64_t used);

#endif
