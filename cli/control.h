/*
 * The supervisor's door: one request a connection, JSON lines on HOME/run/supervisor.sock.
 *   {"do":"status"}                      → the platform, one line
 *   {"do":"wait"}                        → when everything is ready
 *   {"do":"scale","inference":3}         → when it is so
 *   {"do":"drain","replica":"inference-2"} → when it has gone
 *   {"do":"down"}                        → when all have ended; then the supervisor goes too
 * Lines with "event" may come before ({"event":"inference-2 is ready after 41 ms"}); the last has "object":"platform", or "error":{"code":…,"message":…}.
 */
#ifndef GENLOOP_CLI_CONTROL_H
#define GENLOOP_CLI_CONTROL_H

#include "base/error.h"
#include "base/json.h"

enum { CONTROL_LINE_MAX = 1 << 20, CONTROL_REQUEST_MAX = 4096 };

/* Blocking. The last line in *answer (json_free). E_NOT_FOUND where no supervisor runs in the home; else the supervisor's error. */
int control_call(const char *home, struct span request, void *arg, void (*on_event)(void *arg, struct span text), struct json **answer, struct error *err);
/* Waits until the supervisor has let go of its home. E_DEADLINE. */
int control_await_end(const char *home, int64_t patience_ms, struct error *err);

#endif
