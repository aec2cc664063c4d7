/*
 * What is inside of requests: percent-encoding, query strings and forms, and multipart/form-data (RFC 7578) as a pure
 * incremental parser. Plain data, one thread at a time.
 */
#ifndef GENLOOP_HTTP_QUERY_H
#define GENLOOP_HTTP_QUERY_H

#include "base/buf.h"
#include "base/span.h"

/* Appends s decoded; plus: '+' is a space (queries and forms, not paths). E_INVALID for a broken escape or a decoded NUL, E_FULL, E_NOMEM. */
int http_percent_decode(struct span s, bool plus, struct buf *out);
/* Takes the next name=value from the front of *query, still encoded; false at the end. Empty pairs are skipped. */
bool http_query_next(struct span *query, struct span *name, struct span *value);
/* The decoded value of the first parameter of this name appended to out. 0, E_NOT_FOUND, or as http_percent_decode. */
int http_query_get(struct span query, const char *name, struct buf *out);
/* The value of a parameter of a field such as `form-data; name="a"` or `text/plain; charset=utf-8`, quotes removed, appended to out. 0, E_NOT_FOUND, E_INVALID, E_FULL, E_NOMEM. */
int http_field_parameter(struct span field, const char *name, struct buf *out);
/* Whether a Content-Type is this media type, whatever its parameters. */
bool http_media_type_is(struct span content_type, const char *type);

enum { MULTIPART_BOUNDARY_MAX = 70 };  /* RFC 2046, 5.1.1 */
enum { MULTIPART_HEAD_MAX = 8 * 1024 }; /* the fields of one part: a disposition with a file name, a type */
enum { MULTIPART_PARTS_MAX = 1024 };   /* the largest forms of the API have about ten */

enum multipart_event {
    MULTIPART_NEED,    /* all input was taken */
    MULTIPART_PART,    /* a part begins: name, file_name, content_type are set */
    MULTIPART_DATA,    /* *data is a piece of it, borrowed from the input or the parser until the next call */
    MULTIPART_PART_END,
    MULTIPART_END,     /* the closing boundary was seen; what follows is ignored */
    MULTIPART_REFUSED, /* multipart_reason */
};

struct multipart {
    char delimiter[MULTIPART_BOUNDARY_MAX + 8]; /* CR LF -- boundary */
    size_t delimiter_len;
    size_t matched, unseen; /* bytes of the delimiter held back; of them, those that did not come as data */
    int state;
    size_t parts;
    struct buf line, name, file_name, content_type;
    size_t head_len;
    bool has_name;
    const char *reason;
};
/* From the request's Content-Type. E_INVALID where it is no multipart/form-data with a valid boundary. */
int multipart_init(struct multipart *m, struct span content_type);
void multipart_fini(struct multipart *m); /* safe on a zeroed struct and twice */
enum multipart_event multipart_next(struct multipart *m, struct span *input, struct span *data);
const char *multipart_reason(const struct multipart *m);

#endif
