/* Content codings of answers: whether the client takes gzip (RFC 9110, 12.5.3), and how a body is put into it. Pure. */
#ifndef GATEWAY_CODING_H
#define GATEWAY_CODING_H

#include "base/buf.h"
#include "base/span.h"

enum {
    CODING_MIN = 1024,       /* below it a packet is sent either way */
    CODING_MAX = 256 * 1024, /* what deflate does in some milliseconds; more would hold up everybody else on the loop */
};

bool coding_accepts_gzip(struct span accept_encoding);
/* Appends the gzip of `in`. E_FULL, E_NOMEM. */
int coding_gzip(struct span in, struct buf *out);

#endif
