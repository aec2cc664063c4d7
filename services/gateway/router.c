#include "router.h"

#include "http/query.h"

/* Terminated text of at most out_size - 1 bytes. */
static int decode(struct span s, bool plus, char *out, size_t out_size) {
    struct buf text;
    buf_init(&text, out_size - 1);
    int r = http_percent_decode(s, plus, &text);
    if (r == 0) span_copy(out, out_size, buf_span(&text));
    int len = (int)text.len;
    buf_fini(&text);
    return r < 0 ? r : len;
}

static bool is_parameter(struct span segment) { return segment.len > 2 && segment.data[0] == '{'; }

/* A parameter as it may be: visible UTF-8 without slashes. */
static bool parameter_ok(const char *s) {
    if (!*s || !span_is_utf8(span_str(s)) || strcmp(s, ".") == 0 || strcmp(s, "..") == 0) return false;
    for (; *s; s++)
        if ((uint8_t)*s < 0x20 || *s == 0x7f || *s == '/' || *s == '\\') return false;
    return true;
}

/* 1: fits; 0: does not; E_INVALID: it would, but a parameter is none. */
static int fits(struct span pattern, struct span path, struct route_match *m) {
    struct span want, have;
    bool bad = false;
    m->n_params = 0;
    while (true) {
        bool more_want = span_cut(&pattern, '/', &want), more_have = span_cut(&path, '/', &have);
        if (!more_want || !more_have) return more_want || more_have ? 0 : bad ? E_INVALID : 1;
        if (!is_parameter(want)) {
            if (!span_eq(want, have)) return 0;
            continue;
        }
        ASSERT(m->n_params < ROUTE_PARAMS_MAX);
        char *text = m->params[m->n_params++];
        if (decode(have, false, text, ROUTE_PARAM_SIZE) < 0 || !parameter_ok(text)) bad = true;
    }
}

static void allow(struct route_match *m, const char *method) {
    size_t len = strlen(m->allow);
    if (strstr(m->allow, method)) return;
    (void)snprintf(m->allow + len, sizeof m->allow - len, "%s%s%s", len ? ", " : "", method, strcmp(method, "GET") == 0 ? ", HEAD" : "");
}

int router_match(const struct route *routes, size_t n, struct span method, struct span path, struct route_match *m) {
    struct span wanted = span_eq_str(method, "HEAD") ? SPAN("GET") : method;
    int result = E_NOT_FOUND;
    struct span literal = {0}; /* the pattern that the path fits first: rows of other patterns do not count any more */
    m->route = NULL;
    m->allow[0] = 0;
    if (path.len > 1 && path.data[path.len - 1] == '/') return E_NOT_FOUND;
    for (size_t i = 0; i < n; i++) {
        struct span pattern = span_str(routes[i].pattern);
        if (literal.data && !span_eq(pattern, literal)) continue;
        int r = fits(pattern, path, m);
        if (r == 0) continue;
        if (r < 0) {
            result = E_INVALID;
            continue;
        }
        literal = pattern;
        if (span_eq_str(wanted, routes[i].method)) {
            m->route = &routes[i];
            return 0;
        }
        allow(m, routes[i].method);
        result = E_STATE;
    }
    return result;
}

const char *scope_name(enum scope s) { return s == SCOPE_APPROVER ? "approver" : s == SCOPE_OPERATOR ? "operator" : "client"; }

/* ---- queries ---- */

int query_get(struct span query, const char *name, char text[QUERY_VALUE_MAX], struct span *value, struct error *err) {
    struct span found_name, found;
    bool seen = false;
    while (http_query_next(&query, &found_name, &found)) {
        if (!span_eq_str(found_name, name)) continue;
        if (seen) return error_set_param(err, E_INVALID, name, "'%s' stands twice in the query", name);
        int n = decode(found, true, text, QUERY_VALUE_MAX);
        if (n < 0 || !span_is_utf8(span_of(text, (size_t)n))) return error_set_param(err, E_INVALID, name, "'%s' in the query is malformed or too long", name);
        *value = span_of(text, (size_t)n);
        seen = true;
    }
    return seen ? 0 : E_NOT_FOUND;
}

int query_check(struct span query, const char *const *names, struct error *err) {
    struct span name, value;
    while (http_query_next(&query, &name, &value)) {
        bool known = false;
        for (size_t i = 0; names[i]; i++) known |= span_eq_str(name, names[i]);
        if (!known) {
            char param[ERROR_PARAM_MAX];
            span_copy(param, sizeof param, name);
            return error_set_param(err, E_INVALID, param, "unrecognized parameter '%s' in the query", param);
        }
    }
    return 0;
}
