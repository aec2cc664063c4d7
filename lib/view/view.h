/*
 * A view: an SQLite file that one process folds from topics, its offsets in the same transaction as the rows. Delete the file and it
 * comes back. The view has a thread of its own that polls the log, folds up to VIEW_BATCH_MAX events per transaction and then tells the service
 * (on_change, from that thread). Other threads read through view_read, each call on a connection of its own from a small pool, seeing
 * whole transactions only (WAL). An event that the fold refuses goes to the dead letters with the fold's message, and the view goes on.
 *
 * sqlite3.h stays in view.c: statements are prepared, bound and stepped through the functions below.
 */
#ifndef GENLOOP_VIEW_VIEW_H
#define GENLOOP_VIEW_VIEW_H

#include <stdint.h>

#include "base/error.h"
#include "base/span.h"
#include "eventlog/eventlog.h"

struct view;
struct view_db;   /* a connection inside a transaction */
struct view_stmt; /* a prepared statement, cached per connection by its text's address */

enum { VIEW_BATCH_MAX = 500 };

struct view_spec {
    const char *name;          /* "feedback": for messages and the dead letters' group */
    int schema_version;        /* of schema and fold; another one in the file, or another log's offsets: the file is made anew from the topics */
    const char *schema;        /* SQL, run once */
    const enum topic *topics;
    int n_topics;
    /* Folds one event; 0, or a negative code for the dead letters. A database error is not the event's fault, unless it is a constraint that the event
     * breaks: return view_failed(db)'s code, and the view tells them apart. */
    int (*fold)(void *arg, struct view_db *db, const struct event *e, struct error *err);
    void (*on_change)(void *arg); /* after each transaction; NULL: not wanted */
    void (*on_caught_up)(void *arg); /* once, when the view first has all that was in the log at start; NULL: not wanted */
    void *arg;
};
/* path: of the SQLite file, ":memory:" for none. Starts its thread. Returns owned. */
int view_open(struct eventlog *log, const char *path, const struct view_spec *spec, struct view **v, struct error *err);
void view_close(struct view *v);
bool view_caught_up(struct view *v);
/* Waits until the view has folded everything that is in the log now; E_DEADLINE. Any thread but the view's own. */
int view_wait(struct view *v, int64_t timeout_ms, struct error *err);
/* Runs read(arg, db) inside a read transaction; returns what it returns. Any thread but the view's own. */
int view_read(struct view *v, void *arg, int (*read)(void *arg, struct view_db *db, struct error *err), struct error *err);
/* Runs write(arg, db) inside a write transaction between two batches, for what the service itself keeps beside the fold (e.g. seen commands); on the
 * disk when it returns 0, rolled back otherwise. It is in no topic, so it goes where the file goes: with a new schema_version, or damage. */
int view_write(struct view *v, void *arg, int (*write)(void *arg, struct view_db *db, struct error *err), struct error *err);
int64_t view_events(struct view *v); /* folded since open */
/* 0, or why the view stands still at present (the log is away, the disk is full, a statement of the fold is wrong): it goes on trying. */
int view_trouble(struct view *v, struct error *err);

/* sql must be a string literal (cached by address). Returns a statement ready to bind, NULL where it could not be prepared (view_failed says why). */
struct view_stmt *view_sql(struct view_db *db, const char *sql);
/* Indices from 1. */
void view_bind_span(struct view_stmt *s, int i, struct span text);
void view_bind_blob(struct view_stmt *s, int i, struct span bytes);
void view_bind_int(struct view_stmt *s, int i, int64_t v);
void view_bind_real(struct view_stmt *s, int i, double v);
void view_bind_null(struct view_stmt *s, int i);
bool view_step(struct view_stmt *s); /* a row is there; false at the end or on a failure */
struct span view_text(struct view_stmt *s, int column); /* columns from 0; borrowed until the next step */
struct span view_blob(struct view_stmt *s, int column);
int64_t view_int(struct view_stmt *s, int column);
double view_real(struct view_stmt *s, int column);
void view_done(struct view_stmt *s); /* resets; every view_sql is followed by one */
/* 0, or the code and message of the first database failure in this transaction. */
int view_failed(struct view_db *db, struct error *err);

#endif
