/*
 * Which row of the route table a request is for: a pure core. Patterns are literal segments and {parameters}; a parameter is one segment, percent-decoded, without
 * NUL, control characters and slashes. The first pattern that fits wins: literal ones stand before those with parameters. 404 and 405 follow
 * from the table, and the description of the API is written from it.
 */
#ifndef GATEWAY_ROUTER_H
#define GATEWAY_ROUTER_H

#include "base/buf.h"
#include "base/error.h"
#include "base/json.h"
#include "base/span.h"

enum { ROUTE_PARAMS_MAX = 3, ROUTE_PARAM_SIZE = 257, QUERY_VALUE_MAX = 4096 };

struct exchange;
enum scope { SCOPE_ANY, SCOPE_CLIENT, SCOPE_OPERATOR, SCOPE_APPROVER };
enum route_body { BODY_NONE, BODY_JSON, BODY_JSON_OR_EMPTY, BODY_STREAM };

struct route {
    const char *method, *pattern;
    enum scope scope;
    enum route_body body;
    void (*handle)(struct exchange *x, const struct json *body); /* body: an object or NULL */
    const char *summary;  /* for the description: one sentence */
    const void *relay;    /* of handlers that many rows share: what it is about */
};

struct route_match {
    const struct route *route;
    int n_params;
    char params[ROUTE_PARAMS_MAX][ROUTE_PARAM_SIZE];
    char allow[64]; /* of E_STATE: the methods that there are */
};

/* 0; E_NOT_FOUND: no such path; E_STATE: the path is there, not with this method (allow says which are); E_INVALID: a parameter that cannot be one. HEAD is GET. */
int router_match(const struct route *routes, size_t n, struct span method, struct span path, struct route_match *m);
const char *scope_name(enum scope s); /* "client" */

/* The value of a name in a query string: 0 and *value in text[QUERY_VALUE_MAX]; E_NOT_FOUND; E_INVALID (also where it stands twice). */
int query_get(struct span query, const char *name, char text[QUERY_VALUE_MAX], struct span *value, struct error *err);
/* Refuses names that are not in the NULL-terminated list. */
int query_check(struct span query, const char *const *names, struct error *err);

#endif
