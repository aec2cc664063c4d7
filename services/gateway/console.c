/*
 * GET / and GET /console/{file}: the page and what it is made of, from constants of this executable. They hold no secret and ask for no key: the page asks for one where the API does.
 * Nothing foreign is ever loaded, run or framed: the policy below names this host and nothing else, no inline script or style, and no way to make HTML from text (Trusted Types).
 */
#include "console.h"

#include "exchange.h"
#include "routes.h"

static const struct {
    const char *name, *value;
} FIELDS[] = {
    {"Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
                                "require-trusted-types-for 'script'; trusted-types 'none'"},
    {"X-Content-Type-Options", "nosniff"},
    {"X-Frame-Options", "DENY"}, /* for browsers that know no frame-ancestors */
    {"Referrer-Policy", "no-referrer"},
    {"Cross-Origin-Opener-Policy", "same-origin"},
    {"Cross-Origin-Resource-Policy", "same-origin"},
    {"Permissions-Policy", "camera=(), geolocation=(), microphone=(), payment=(), usb=()"},
    {"Cache-Control", "no-cache"}, /* asked for again each time and answered with 304: a new gateway never meets an old page */
    {"Vary", "Accept-Encoding"},
};

void console_get(struct exchange *x, const struct json *body) {
    struct error err = {0};
    const char *name = x->match.n_params ? exchange_param(x, 0) : "index.html";
    const struct console_asset *a = console_find(span_str(name));
    (void)body;
    if (!a) {
        (void)error_set(&err, E_NOT_FOUND, "the console has no file %s", name);
        exchange_error(x, &err);
        return;
    }
    struct console_form form = console_choose(a, http_header(x->http, "accept-encoding"), http_header(x->http, "if-none-match"));
    for (size_t i = 0; i < sizeof FIELDS / sizeof *FIELDS; i++) (void)http_header_add(x->http, FIELDS[i].name, span_str(FIELDS[i].value));
    (void)http_header_add(x->http, "ETag", span_str(form.etag));
    if (form.unchanged) {
        exchange_respond(x, 304, NULL, SPAN(""));
        return;
    }
    if (form.gzip) (void)http_header_add(x->http, "Content-Encoding", SPAN("gzip"));
    exchange_respond(x, 200, a->type, form.body);
}
