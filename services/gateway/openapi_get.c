/* GET /openapi.json: the description of ROUTES, by the table itself. */
#include "exchange.h"
#include "openapi.h"
#include "routes.h"

static const struct request_shape *unbuilt_of(const struct route *r) {
    bool later = r->handle == unbuilt_call || r->handle == unbuilt_form;
    return later ? r->relay : NULL;
}

/* Whoever answers: what the other rows are about are messages. */
static const struct relay *relay_of(const struct route *r) { return unbuilt_of(r) ? NULL : r->relay; }

void openapi_get(struct exchange *x, const struct json *body) {
    const struct openapi_source source = {ROUTES, ROUTES_COUNT, relay_of, unbuilt_of};
    struct error err = {0};
    struct buf out;
    (void)body;
    buf_init(&out, OPENAPI_MAX);
    if (openapi_write(&source, GENLOOP_VERSION, &out, &err) < 0) exchange_error(x, &err);
    else exchange_json(x, 200, &out);
    buf_fini(&out);
}
