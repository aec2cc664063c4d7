/*
 * The access log: one line of JSON on stderr for each request that was answered, and nothing of what was in it. Lines are gathered and written some times a second, in pieces that a pipe takes whole, so
 * that a line costs no system call of its own. gateway.access_log: false leaves them out.
 *
 *     {"time":…,"service":"gateway","event":"gateway.access","request_id":…,"method":"POST","route":"/v1/chat/completions","status":200,"ms":41,"bytes":512,"key":"key_…","tenant":"default",
 *      "model":"guide@2","replica":"inference-1","cache":"miss","tokens":37}
 *
 * key is the caller's id (never a key's text), "" where nobody was let in; model, replica, cache and tokens are there where a model answered.
 */
#ifndef GATEWAY_ACCESS_H
#define GATEWAY_ACCESS_H

#include "gateway.h"

struct exchange;
struct access_log;

int access_open(struct gateway *g, struct access_log **a, struct error *err);
void access_close(struct access_log *a); /* writes what has gathered. NULL is accepted */
void access_add(struct access_log *a, const struct exchange *x, int status);

#endif
