/* Paths and queries: what matches has clean parameters; the first byte is the method, a '?' divides path and query. */
#include "base/error.h"
#include "services/gateway/router.h"

static void handle(struct exchange *x, const struct json *body) {
    (void)x;
    (void)body;
}
static const struct route routes[] = {
    {"GET", "/v1/models", SCOPE_CLIENT, BODY_NONE, handle, "", NULL},
    {"GET", "/v1/models/{model}", SCOPE_CLIENT, BODY_NONE, handle, "", NULL},
    {"POST", "/v1/models/{model}/{action}", SCOPE_CLIENT, BODY_NONE, handle, "", NULL},
    {"DELETE", "/{a}/{b}/{c}", SCOPE_CLIENT, BODY_NONE, handle, "", NULL},
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char *const methods[] = {"GET", "POST", "DELETE", "HEAD", "OPTIONS"};
    static const char *const names[] = {"limit", "page_token", NULL};
    if (size == 0) return 0;
    struct span text = span_of(data + 1, size - 1), path = text, query = {0};
    ptrdiff_t mark = span_find_char(text, '?');
    if (mark >= 0) {
        path = span_sub(text, 0, (size_t)mark);
        query = span_skip(text, (size_t)mark + 1);
    }
    struct route_match m;
    struct error err = {0};
    int r = router_match(routes, sizeof routes / sizeof *routes, span_str(methods[data[0] % 5]), path, &m);
    ASSERT(r == 0 || r == E_NOT_FOUND || r == E_STATE || r == E_INVALID);
    if (r == 0)
        for (int i = 0; i < m.n_params; i++) ASSERT(m.params[i][0] && span_is_utf8(span_str(m.params[i])) && !strchr(m.params[i], '/'));
    if (r == E_STATE) ASSERT(m.allow[0]);
    char value[QUERY_VALUE_MAX];
    struct span found;
    if (query_check(query, names, &err) < 0) ASSERT(span_is_utf8(span_str(err.message)));
    if (query_get(query, "limit", value, &found, &err) == 0) ASSERT(span_is_utf8(found) && found.len < QUERY_VALUE_MAX);
    return 0;
}
