#include "cors.h"

#include "http/parser.h"

/* scheme://host[:port], nothing behind it. */
static bool origin_ok(struct span s) {
    ptrdiff_t colon = span_find(s, SPAN("://"));
    if (colon < 1 || s.len > CORS_ORIGIN_MAX) return false;
    struct span host = span_skip(s, (size_t)colon + 3);
    if (host.len == 0) return false;
    for (size_t i = 0; i < s.len; i++)
        if ((uint8_t)s.data[i] <= 0x20 || (uint8_t)s.data[i] >= 0x7f) return false;
    for (size_t i = 0; i < host.len; i++)
        if (strchr("/?#@*\\", host.data[i])) return false;
    return true;
}

int cors_check(const char *trusted, struct error *err) {
    struct span rest = span_str(trusted), one;
    while (span_cut(&rest, ',', &one)) {
        one = span_trim(one);
        if (span_eq_str(one, "*") || origin_ok(one)) continue;
        return error_set(err, E_INVALID, "gateway.cors_origins: \"%.*s\" is no origin: write https://HOST[:PORT], several with commas between, or * for any", (int)(one.len < 100 ? one.len : 100), one.data);
    }
    return 0;
}

bool cors_trusts(const char *trusted, struct span origin) {
    struct span rest = span_str(trusted), one;
    if (!origin_ok(origin)) return false; /* also "null", which any sandboxed page can be */
    while (span_cut(&rest, ',', &one)) {
        one = span_trim(one);
        if (span_eq_str(one, "*") || span_eq_nocase(one, origin)) return true;
    }
    return false;
}

bool cors_own(struct span authority, struct span origin) {
    ptrdiff_t colon = span_find(origin, SPAN("://"));
    return colon > 0 && authority.len > 0 && span_eq_nocase(span_skip(origin, (size_t)colon + 3), authority);
}

bool cors_name_is_ours(struct span authority) {
    if (authority.len > 0 && authority.data[0] == '[') return true;
    ptrdiff_t colon = span_find_char(authority, ':');
    struct span host = colon >= 0 ? span_sub(authority, 0, (size_t)colon) : authority;
    if (span_eq_nocase(host, SPAN("localhost"))) return true;
    for (size_t i = 0; i < host.len; i++)
        if (host.data[i] != '.' && (host.data[i] < '0' || host.data[i] > '9')) return false; /* no top-level domain is a number */
    return host.len > 0;
}

bool cors_headers_ok(struct span names) {
    struct span one;
    if (names.len > CORS_HEADERS_MAX || span_find_char(names, '\n') >= 0 || span_find_char(names, '\r') >= 0) return false; /* which span_trim would take off */
    while (span_cut(&names, ',', &one))
        if (!http_is_token(span_trim(one))) return false;
    return true;
}
