/*
 * Uploads: a body, or the file of a form (multipart/form-data, RFC 7578), passed on to ingest as it comes. Nothing is held but what is on its way: without credit from ingest the body is
 * paused, and TCP slows the client. Ingest's acknowledgement follows its durable write; only then is the client answered. Fields of a form may stand before its file or behind it.
 */
#ifndef GATEWAY_UPLOAD_H
#define GATEWAY_UPLOAD_H

#include "exchange.h"

enum upload_field { UPLOAD_DATASET,
                    UPLOAD_SOURCE,
                    UPLOAD_MEDIA_TYPE,
                    UPLOAD_SUBJECT,
                    UPLOAD_PURPOSE,
                    UPLOAD_ANCHOR,
                    UPLOAD_SECONDS,
                    UPLOAD_FIELDS };
/* The names that a form and a query give them, in this order. */
extern const char *const UPLOAD_NAMES[UPLOAD_FIELDS];

struct upload_door {
    const char *method; /* "Ingest/Upload" */
    const char *what;   /* "document" */
    unsigned fields;    /* bits of upload_field: what may be said, in the query or in the form */
    enum upload_field required;
    const char *remedy; /* of what is required and missing */
    bool form_only;     /* a raw body is refused */
    /* Ends the exchange. packed: ingest's reply; r and err: why there is none. */
    void (*answer)(struct exchange *x, struct span packed, int r, const struct error *err);
};
void upload_begin(struct exchange *x, const struct upload_door *door);

#endif
