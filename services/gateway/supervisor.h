/*
 * The supervisor of a one-machine platform, asked at its door (cli/control.h: one request a connection, JSON lines on HOME/run/supervisor.sock), without blocking the loop.
 */
#ifndef GATEWAY_SUPERVISOR_H
#define GATEWAY_SUPERVISOR_H

#include "base/json.h"
#include "base/loop.h"

struct supervisor_call;
/* request: one line of JSON, without its end. on_answer, once: 0; or the supervisor's error; E_UNAVAILABLE where it goes away. NULL and err: E_STATE where no supervisor runs in the
 * home. Returns owned. */
struct supervisor_call *supervisor_ask(struct loop *l, const char *home, struct span request, void *arg, void (*on_answer)(void *arg, const struct error *err), struct error *err);
/* on_answer is not called any more; what was asked for goes on. NULL is accepted. */
void supervisor_close(struct supervisor_call *c);

#endif
