#include "console.h"

#include "coding.h"

const struct console_asset *console_find(struct span name) {
    for (size_t i = 0; i < CONSOLE_ASSETS_COUNT; i++)
        if (span_eq_str(name, CONSOLE_ASSETS[i].name)) return &CONSOLE_ASSETS[i];
    return NULL;
}

/* Whether a list of entity tags holds one of ours: by the weak comparison (RFC 9110, 13.1.2). Ours have no commas. */
static bool holds(struct span list, const char *etag) {
    struct span one;
    while (span_cut(&list, ',', &one)) {
        one = span_trim(one);
        if (span_eq_str(one, "*")) return true;
        if (span_starts(one, SPAN("W/"))) one = span_skip(one, 2);
        if (span_eq_str(one, etag)) return true;
    }
    return false;
}

struct console_form console_choose(const struct console_asset *a, struct span accept_encoding, struct span if_none_match) {
    struct console_form form = {.gzip = a->gzip && coding_accepts_gzip(accept_encoding)};
    form.etag = form.gzip ? a->gzip_etag : a->etag;
    form.body = form.gzip ? span_of(a->gzip, a->gzip_size) : span_of(a->plain, a->plain_size);
    form.unchanged = holds(if_none_match, form.etag);
    return form;
}
