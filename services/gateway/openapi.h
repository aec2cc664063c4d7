/*
 * The description of the API (OpenAPI 3.1), from the table that routes: pure. A row gives method, path, scope and summary. What its request and answer are comes
 *   of relays             from the descriptors of their messages, as lib/wire reads and writes them
 *   of doors to come      from the table that their requests are checked by
 *   of the others         from DOORS below, in a short notation for schemas
 * A row that none of these knows is described without them, never left out.
 */
#ifndef GATEWAY_OPENAPI_H
#define GATEWAY_OPENAPI_H

#include "relay.h"
#include "router.h"
#include "request_shape.h"

enum { OPENAPI_MAX = 4 << 20 };

struct openapi_source {
    const struct route *routes;
    size_t n_routes;
    const struct relay *(*relay_of)(const struct route *r);     /* NULL: it is no relay */
    const struct request_shape *(*unbuilt_of)(const struct route *r); /* NULL: it is built */
};
/* Writes the document. E_INVALID: DOORS describes something that no row has, or names a schema that there is not. E_FULL, E_NOMEM. */
int openapi_write(const struct openapi_source *source, const char *version, struct buf *out, struct error *err);

/*
 * A door's own description. Schemas are written as fields, separated by spaces: NAME:TYPE, with ! behind it where it is required, ? where it may be null.
 *   TYPE   string, integer, number, boolean, object, any; a|b: one of these words; =a: this word; @Name: another schema; [TYPE]: a list of it
 */
struct openapi_door {
    const char *method, *pattern;
    const char *query;   /* fields; NULL: none */
    const char *request; /* name of a schema; NULL: none */
    const char *answer;  /* name of a schema, or a media type ("text/html"); NULL: nothing that can be said */
    bool events;         /* it answers with events too, where the request says "stream": true */
};
struct openapi_schema {
    const char *name, *fields;
};
extern const struct openapi_door OPENAPI_DOORS[];
extern const size_t OPENAPI_DOORS_COUNT;
extern const struct openapi_schema OPENAPI_SCHEMAS[];
extern const size_t OPENAPI_SCHEMAS_COUNT;

#endif
