/*
 * Which web pages may use the gateway from a browser: a pure core. Nobody but its own pages, unless gateway.cors_origins names them. Cookies are nobody's here, so credentials are never allowed: a page
 * that is trusted sends its key itself.
 *
 * A page of another origin can send some requests without asking first (a form, a body of no type); its browser only hides the answer from it. So what changes something is refused
 * where the Origin is neither ours nor trusted, whether or not the browser would have asked.
 */
#ifndef GATEWAY_CORS_H
#define GATEWAY_CORS_H

#include "base/error.h"
#include "base/span.h"

enum { CORS_ORIGIN_MAX = 300, CORS_HEADERS_MAX = 1024 }; /* a host name of 253 with scheme and port; names that a preflight asks for */

/* Whether the setting is well formed: origins (https://chat.example.org) between commas, or * for any. */
int cors_check(const char *trusted, struct error *err);
/* Whether the Origin of a request is in that list. */
bool cors_trusts(const char *trusted, struct span origin);
/* Whether it is the gateway itself, which answers as `authority` (the scheme is not looked at: a proxy may have taken TLS off). */
bool cors_own(struct span authority, struct span origin);
/*
 * Whether a gateway that asks for no key may trust pages that it seems to serve itself under this name. Of an address or localhost it may. A name in the DNS can be made to mean 127.0.0.1 by whoever owns it
 * (DNS rebinding), and his page would then pass for our own.
 */
bool cors_name_is_ours(struct span authority);
/* Whether this is what Access-Control-Request-Headers may be: names with commas between. */
bool cors_headers_ok(struct span names);

#endif
