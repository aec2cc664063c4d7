/*
 * A connection to Redis: our own socket (TCP, Unix, TLS by OpenSSL) that feeds hiredis' reader and is fed by its formatter, so that
 * TLS works where Debian's hiredis has none. Blocking, with a timeout per call; pipelining by redis_append and redis_reply.
 * One thread at a time per connection. Reconnects on the next call after a failure.
 */
#ifndef GENLOOP_CACHE_REDIS_H
#define GENLOOP_CACHE_REDIS_H

#include <stdint.h>

#include "base/error.h"
#include "base/span.h"

struct redis;
struct redis_reply; /* owned by the caller: redis_reply_free */
enum redis_type { REDIS_NIL, REDIS_STRING, REDIS_STATUS, REDIS_ERROR, REDIS_INTEGER, REDIS_ARRAY };

/* url: "unix:/path", "redis+unix:/path", "redis://[:password@]host:port[/db]", "rediss://…". Does not connect yet; E_INVALID for another form. Returns owned. */
int redis_new(const char *url, int64_t timeout_ms, struct redis **r, struct error *err);
void redis_free(struct redis *r);
int redis_connect(struct redis *r, struct error *err);
/* Sends argc arguments as one command and waits for its reply. An error reply of the server is E_UNKNOWN with its text in err, unless it
 * begins with a word below: LOADING, BUSY → E_UNAVAILABLE; OOM → E_FULL. */
int redis_command(struct redis *r, int argc, const struct span *argv, struct redis_reply **reply, struct error *err);
/* The same with C strings, NULL-terminated. */
int redis_commandl(struct redis *r, struct redis_reply **reply, struct error *err, const char *word, ...) __attribute__((sentinel));
/* Pipelining: append any number, then read as many replies. Error replies come back as REDIS_ERROR here. */
int redis_append(struct redis *r, int argc, const struct span *argv, struct error *err);
int redis_next(struct redis *r, struct redis_reply **reply, struct error *err);
int redis_fd(const struct redis *r); /* -1 while not connected */

enum redis_type redis_type(const struct redis_reply *reply);
struct span redis_str(const struct redis_reply *reply);     /* STRING, STATUS, ERROR */
int64_t redis_int(const struct redis_reply *reply);         /* INTEGER; or a numeric STRING; 0 otherwise */
size_t redis_size(const struct redis_reply *reply);         /* ARRAY */
const struct redis_reply *redis_at(const struct redis_reply *reply, size_t i); /* NULL beyond */
void redis_reply_free(struct redis_reply *reply); /* NULL is accepted */

#endif
