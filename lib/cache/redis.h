/*
 * A connection to Redis: our own socket (TCP, Unix, TLS by OpenSSL) that feeds hiredis' reader and is fed by its formatter, so that
 * TLS works where Debian's hiredis has none. Blocking, with a timeout per call; pipelining by redis_append and redis_next.
 * One thread at a time per connection. Reconnects on the next call after a failure; what was appended and not answered by then is
 * lost, and redis_next says so with E_UNAVAILABLE: whether the server ran it is not known.
 */
#ifndef GENLOOP_CACHE_REDIS_H
#define GENLOOP_CACHE_REDIS_H

#include <stdint.h>

#include "base/error.h"
#include "base/span.h"

struct redis;
struct redis_reply; /* owned by the caller: redis_reply_free */
enum redis_type { REDIS_NIL, REDIS_STRING, REDIS_STATUS, REDIS_ERROR, REDIS_INTEGER, REDIS_ARRAY };

enum { REDIS_WRITE_MAX = 64 * 1024 * 1024 }; /* appended and not sent yet: a batch of the event log is at most an eighth of it */
enum { REDIS_READ_MAX = 128 * 1024 * 1024 }; /* bytes of one reply: 64 of the largest events, twice over; beyond it the peer is no Redis of ours */
enum { REDIS_ELEMENTS_MAX = 4 * 1024 * 1024 }; /* of one array: a hash of a million members, four times over; what announces more is answered with E_UNAVAILABLE */
enum { REDIS_PENDING_MAX = 100000 };         /* commands without a reply yet */

/* url: "unix:/path", "redis+unix:/path", "redis://[[user]:password@]host[:port][/db]", "rediss://…" (the system's certificate authorities, or
 * those that SSL_CERT_FILE names). Does not connect yet; E_INVALID for another form. Returns owned. */
int redis_new(const char *url, int64_t timeout_ms, struct redis **r, struct error *err);
void redis_free(struct redis *r);
/* Another timeout for the calls that follow, for commands that block in the server. */
void redis_set_timeout(struct redis *r, int64_t timeout_ms);
int redis_connect(struct redis *r, struct error *err); /* fine where it is connected; E_UNAVAILABLE, E_UNAUTHENTICATED */
void redis_disconnect(struct redis *r);                /* forgets what was appended and not answered; the next call connects anew */
/* Sends argc arguments as one command and waits for its reply. An error reply of the server is E_UNKNOWN with its text in err, unless it
 * begins with a word below: LOADING, BUSY, MASTERDOWN, READONLY → E_UNAVAILABLE; OOM → E_FULL; NOAUTH, WRONGPASS → E_UNAUTHENTICATED. */
int redis_command(struct redis *r, int argc, const struct span *argv, struct redis_reply **reply, struct error *err);
/* The same with C strings, NULL-terminated. */
int redis_commandl(struct redis *r, struct redis_reply **reply, struct error *err, const char *word, ...) __attribute__((sentinel));
/* Pipelining: append any number, then read as many replies. Error replies come back as REDIS_ERROR here. */
int redis_append(struct redis *r, int argc, const struct span *argv, struct error *err);
int redis_next(struct redis *r, struct redis_reply **reply, struct error *err);
int redis_fd(const struct redis *r); /* -1 while not connected */
/* The code and message of a REDIS_ERROR reply, as redis_command gives it; 0 for any other. */
int redis_reply_failed(const struct redis_reply *reply, struct error *err);

enum redis_type redis_type(const struct redis_reply *reply);
struct span redis_str(const struct redis_reply *reply);     /* STRING, STATUS, ERROR */
int64_t redis_int(const struct redis_reply *reply);         /* INTEGER; or a numeric STRING; 0 otherwise */
size_t redis_size(const struct redis_reply *reply);         /* ARRAY */
const struct redis_reply *redis_at(const struct redis_reply *reply, size_t i); /* NULL beyond */
void redis_reply_free(struct redis_reply *reply); /* NULL is accepted */

#endif
