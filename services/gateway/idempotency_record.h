/*
 * What Redis keeps of a request under an Idempotency-Key: pure. A line that a person can read, so that it is seen in Redis how far a request is:
 *
 *   r OWNER FINGERPRINT NL                   it runs: OWNER is drawn for each attempt
 *   a OWNER FINGERPRINT STATUS NL BODY       it was answered; BODY is sealed, FINGERPRINT a keyed hash of the request (lib/cache/answers.h)
 */
#ifndef GATEWAY_IDEMPOTENCY_RECORD_H
#define GATEWAY_IDEMPOTENCY_RECORD_H

#include "base/buf.h"
#include "base/error.h"
#include "base/sha256.h"
#include "base/span.h"

enum { IDEMPOTENCY_OWNER_MAX = 33 }; /* 32 hex digits */

struct idempotency_record {
    bool answered;
    struct span owner, fingerprint;
    int status;       /* of an answer */
    struct span body; /* borrowed from the text */
};
int idempotency_write(const struct idempotency_record *r, struct buf *out);
/* E_INVALID: another release's, or nobody's. */
int idempotency_read(struct span text, struct idempotency_record *r);

#endif
