/*
 * What the verbs that talk to the gateway share: one conversation with it, from opening to the exit code; lists in pages; jobs that are waited for. A verb opens a remote, calls, writes what
 * it wants to print into `out`, and returns remote_close, which prints it or says what went wrong. One thread.
 */
#ifndef GENLOOP_CLI_REMOTE_H
#define GENLOOP_CLI_REMOTE_H

#include "cli.h"
#include "client.h"
#include "output.h"

enum { REMOTE_PATH_MAX = 8192, REMOTE_OUT_MAX = 512 << 20 };

struct remote {
    struct cli *cli;
    struct client *client;
    struct buf out, path, body;
    struct json_out json; /* onto `out`, with --json */
    struct json *answer;  /* of the last remote_call; owned */
    struct error err;
};

int remote_open_home(struct remote *x, struct cli *c, const char *home); /* through the home's own door; otherwise as: */
int remote_open(struct remote *x, struct cli *c); /* 0, or a code: then x->err says why and remote_close is still to be called */
/* r 0: prints what is in `out` and returns CLI_DONE; else says x->err and returns CLI_FAILED, after printing what is there already. Frees. */
int remote_close(struct remote *x, int r);

/* The path in pieces: remote_path begins it, remote_add appends text encoded, remote_query "?name=value" or "&name=value". */
void remote_path(struct remote *x, const char *literal);
void remote_add(struct remote *x, const char *literal, const char *encoded);
void remote_query(struct remote *x, const char *name, const char *value);
/* Begins a JSON object in x->body. */
struct json_out remote_body(struct remote *x);
/* Asks at x->path, with x->body where that is not empty; the answer is x->answer. `again`: see client.h; GET always is. */
int remote_call(struct remote *x, const char *method, bool again);
int remote_get(struct remote *x);
int remote_stream(struct remote *x, const char *method, void *arg, int (*on_event)(void *arg, const struct json *event));
/* Every item of the list `field` at x->path, page by page; on_item's result other than 0 stops: CLIENT_STREAM_DONE as wanted. */
int remote_each(struct remote *x, const char *field, void *arg, int (*on_item)(void *arg, const struct json *item));

/* ---- how things are shown ---- */

/* "JOB_STATE_RUNNING" → "running" in a buffer of FIGURE_MAX, for prefix "JOB_STATE_". Borrowed until the eighth call from now. */
const char *shown_enum(const struct json *v, const char *prefix);
/* A string, "-" where it is empty. Terminated; borrowed until the eighth call from now; cut at 255 bytes. */
const char *shown_text(const struct json *v);
const char *shown_time(const struct json *ms); /* "2026-11-24 04:01:21" in UTC; "-" for 0 */
const char *shown_seconds(const struct json *s); /* the same of Unix seconds, as OpenAI's objects have them */
const char *shown_name(const struct json *object); /* "name@version" of an object with these fields */
/* Appends "label   text\n" with the label in a column of its own; nothing where text is empty or "-". */
void shown_line(struct buf *out, const char *label, const char *text);
/* Gates and figures of an Evaluation, as tables. */
void shown_evaluation(struct buf *out, const struct json *evaluation);

/* ---- jobs ---- */

/* Watches a job until it has ended, with progress on stderr; *job is its last state, owned (json_free). With --json each event of the stream is not printed: the caller prints the job.
 * 0 where it SUCCEEDED; E_STATE where it failed or was cancelled, with its reason in x->err. */
int remote_watch_job(struct remote *x, const char *id, struct json **job);
void shown_job(struct buf *out, const struct json *job);
/* The version that a training job brought forth, once the registry has it: "name@version", or E_NOT_FOUND after a while. */
int remote_version_of_job(struct remote *x, const char *job_id, char out[256]);
/* Waits until the evaluation of this id (of its job) is judged; *evaluation owned. */
int remote_judged(struct remote *x, const char *model, const char *id, struct json **evaluation);

#endif
