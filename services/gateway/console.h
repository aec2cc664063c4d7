/* The console's files over HTTP. What decides is pure: which form of a file a request gets. */
#ifndef GATEWAY_CONSOLE_H
#define GATEWAY_CONSOLE_H

#include <stdbool.h>

#include "base/span.h"
#include "console/asset.h"

/* The file of this name; NULL. */
const struct console_asset *console_find(struct span name);

struct console_form {
    const char *etag;
    struct span body;   /* borrows from the table */
    bool gzip;          /* Content-Encoding: gzip */
    bool unchanged;     /* 304: the client has it */
};
/* accept_encoding and if_none_match: the request's fields, data NULL where absent. */
struct console_form console_choose(const struct console_asset *a, struct span accept_encoding, struct span if_none_match);

#endif
