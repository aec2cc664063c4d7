/*
 * A client of the gateway: HTTP by libcurl, JSON out and in. It talks to $GENLOOP_URL (default http://127.0.0.1:8080) and shows $GENLOOP_API_KEY as its bearer. Without a key, where
 * one is asked for by a gateway on this machine, the owner of its home goes through the home's own door: HOME/run/INSTANCE.door, of $GENLOOP_HOME (default ~/.genloop).
 *
 * Three ways to ask: one call with one answer (client_call), one call that is answered by a stream of events (client_stream), and many calls side by side (client_batch).
 * What is harmless to ask twice (`again`) is asked again with growing pauses where the gateway is full, restarting, or was cut off in the middle: for CLIENT_PATIENCE_MS since the
 * last sign of life. A gateway that has never answered is waited for a second, as it may be starting; then the message says that it is not there.
 * Blocking; one thread at a time.
 */
#ifndef GENLOOP_CLI_CLIENT_H
#define GENLOOP_CLI_CLIENT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/error.h"
#include "base/json.h"
#include "base/span.h"

enum {
    CLIENT_PATIENCE_MS = 60000,  /* a gateway that is started again is back in a second; a busy machine takes longer */
    CLIENT_ANSWER_MAX = 64 << 20, /* as the gateway's own */
    CLIENT_PARALLEL_MAX = 256,   /* calls at once: as many uploads as ingest has open */
};

struct client;
/* Reads the environment. Returns owned. E_INVALID for a GENLOOP_URL that is none. */
int client_open(struct client **c, struct error *err);
/* The same through the door of this home, whatever the environment says. E_UNAVAILABLE where no gateway of it answers there. */
int client_open_home(const char *home, struct client **c, struct error *err);
void client_close(struct client *c); /* NULL is accepted */
const char *client_url(const struct client *c);

struct client_request {
    const char *method, *path; /* path: encoded, with its query ("/v1/datasets/a%20b") */
    struct span body;          /* JSON; empty: none */
    const char *file;          /* instead of a body: what lies there, read as it is sent. NULL: none */
    const char *media_type;    /* of the file; NULL: not known */
    const char *purpose;       /* the file goes as a form with this beside it, as /v1/files wants it; NULL: as it is */
    const char *to;            /* the body of a 2xx answer is written here and not read as JSON; NULL: as usual */
    bool again;                /* it does no harm twice */
    void *arg;
};

/* *answer: the JSON of a 2xx answer, owned (json_free); may be NULL. Errors carry the gateway's own words. */
int client_call(struct client *c, const struct client_request *request, struct json **answer, struct error *err);

/* on_event gets each event's JSON, borrowed for the call; CLIENT_STREAM_DONE ends the stream as wanted, a negative code as failed. 0 where the stream came to its end by itself. With
 * `again` a stream that was cut is opened anew (the events begin anew with it). An event with an error is the call's error. */
enum { CLIENT_STREAM_DONE = 1 };
int client_stream(struct client *c, const struct client_request *request, void *arg, int (*on_event)(void *arg, const struct json *event), struct error *err);

struct client_batch {
    void *arg;
    /* Fills in the next request, whose strings stay until its `done`; false: there is none now. */
    bool (*next)(void *arg, struct client_request *request);
    /* Each request once, in the order in which they end. A result other than 0 stops all and is returned. */
    int (*done)(void *arg, const struct client_request *request, int r, const struct json *answer, const struct error *err);
    /* Some times a second; sent: bytes of bodies so far, of requests that are under way too. NULL: not wanted. */
    void (*tick)(void *arg, uint64_t sent);
};
/* `parallel` calls at a time until there is none left. */
int client_batch(struct client *c, int parallel, const struct client_batch *batch, struct error *err);

/* Fetches a URL of anybody's into a file (no key is shown). media_type: as its server says, "" where it does not. E_TOO_LARGE above size_max. */
enum { CLIENT_MEDIA_TYPE_MAX = 128 };
int client_fetch(struct client *c, const char *url, const char *to_path, uint64_t size_max, char media_type[CLIENT_MEDIA_TYPE_MAX], struct error *err);

/* Appends text, percent-encoded: one segment of a path, or a value of a query. */
void client_encode(struct buf *path, struct span text);

/* ---- pure parts, for tests ---- */

/* The code of an HTTP status that is no success. */
int client_status_code(long status);
/* The error in an answer's body: OpenAI's error object, or what can be said of anything else. Returns the code. */
int client_read_error(long status, struct span body, struct error *err);
/* Whether asking again may help. */
bool client_worth_again(int code);
int64_t client_pause_ms(int attempt, int64_t retry_after_ms);

#endif
