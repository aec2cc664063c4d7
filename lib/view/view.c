/*
 * One thread folds, on the one connection that writes; readers have connections of their own (WAL: they see the last whole transaction
 * and never wait for the writer). What goes wrong:
 *
 *   the fold refuses an event      its savepoint is rolled back, it goes to the dead letters, the batch goes on
 *   the database fails             the transaction is rolled back, the log is read again from the offsets that are in the file
 *   the file is no database, is damaged, has another schema, or belongs to another log: it is deleted and made anew from the topics
 *
 * Locks: `write` is held around each transaction of the writing connection; `lock` guards the fields below it, and is the inner one.
 */
#include "view/view.h"

#include <errno.h>
#include <pthread.h>
#include <sqlite3.h>
#include <stdatomic.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/metrics.h"

enum {
    VIEW_READERS_MAX = 8,  /* connections for readers: as many as threads of a service that ask at once; more wait for one */
    VIEW_POLL_MS = 250,    /* how long view_close and a rebuild wait at most for the thread to look up */
    VIEW_RETRY_MS = 500,   /* after a failure that may pass: a full disk, a log that does not take the dead letter */
    BUSY_TIMEOUT_MS = 10000,
    WAIT_RECHECK_MS = 1000,
    CACHE_KIB = 1024,      /* pages that a connection keeps: a platform has a dozen of them */
};

struct view_stmt {
    struct view_db *db;
    sqlite3_stmt *statement;
    const char *sql; /* its address is the key of the cache */
    bool in_use;
};

struct view_db {
    sqlite3 *sqlite;
    struct view_stmt **statements;
    size_t n, capacity;
    struct view_db *next; /* in the pool */
    int failed;           /* SQLite's code of the first failure in this transaction */
    char message[256];
};

struct view {
    struct eventlog *log;
    char *path, *name;
    struct view_spec spec;
    enum topic topics[TOPIC_COUNT];
    bool in_memory;
    pthread_t thread;

    pthread_mutex_t write;
    struct view_db db; /* the writer's */

    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct view_db *pool;
    int readers, readers_busy;
    bool stopping, rebuilding, damaged, caught_up;
    int64_t events;
    struct error trouble; /* why it stands still, code 0 while it does not */
    struct eventlog_position folded[EVENTLOG_PARTITIONS_MAX];
    int n_folded;

    struct metric *metric_events, *metric_dead, *metric_rebuilt;
};

/* ---- connections ---- */

static bool is_damage(int code) { return (code & 0xff) == SQLITE_CORRUPT || (code & 0xff) == SQLITE_NOTADB; }

/* A refusal of what the event would write, as against a database that cannot write: that is the event's fault. */
static bool is_refusal(int code) {
    int c = code & 0xff;
    return c == SQLITE_CONSTRAINT || c == SQLITE_MISMATCH || c == SQLITE_TOOBIG;
}

static void db_failed(struct view_db *db, int code) {
    if (db->failed != 0) return;
    db->failed = code;
    snprintf(db->message, sizeof db->message, "%s", db->sqlite ? sqlite3_errmsg(db->sqlite) : sqlite3_errstr(code));
}

static void db_close(struct view_db *db) {
    for (size_t i = 0; i < db->n; i++) {
        sqlite3_finalize(db->statements[i]->statement);
        mem_free(db->statements[i]);
    }
    mem_free(db->statements);
    sqlite3_close(db->sqlite);
    *db = (struct view_db){0};
}

/* Runs SQL without results; SQLite's code. */
static int run(struct view_db *db, const char *sql) {
    int code = sqlite3_exec(db->sqlite, sql, NULL, NULL, NULL);
    if (code != SQLITE_OK) db_failed(db, code);
    return code;
}

static int db_open(struct view_db *db, const char *path, bool writer) {
    char pragma[64];
    *db = (struct view_db){0};
    int flags = SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_READWRITE | (writer ? SQLITE_OPEN_CREATE : 0);
    int code = sqlite3_open_v2(path, &db->sqlite, flags, NULL);
    if (code != SQLITE_OK) {
        db_failed(db, code);
        return code;
    }
    sqlite3_extended_result_codes(db->sqlite, 1);
    sqlite3_busy_timeout(db->sqlite, BUSY_TIMEOUT_MS);
    snprintf(pragma, sizeof pragma, "PRAGMA cache_size=-%d", CACHE_KIB);
    if ((code = run(db, pragma)) == SQLITE_OK && writer) code = run(db, "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA foreign_keys=ON");
    if (code == SQLITE_OK && !writer) code = run(db, "PRAGMA query_only=ON");
    return code;
}

static int error_of(struct view_db *db, struct error *err) {
    int code = is_refusal(db->failed) ? E_INVALID : is_damage(db->failed) ? E_DATA_LOSS : (db->failed & 0xff) == SQLITE_NOMEM ? E_NOMEM : (db->failed & 0xff) == SQLITE_FULL ? E_NO_SPACE : E_IO;
    return error_set(err, code, "SQLite: %s", db->message);
}

int view_failed(struct view_db *db, struct error *err) { return db->failed == 0 ? 0 : error_of(db, err); }

/* ---- statements ---- */

struct view_stmt *view_sql(struct view_db *db, const char *sql) {
    for (size_t i = 0; i < db->n; i++)
        if (db->statements[i]->sql == sql) {
            ASSERT(!db->statements[i]->in_use); /* a statement ends by view_done before its text is used again */
            db->statements[i]->in_use = true;
            return db->statements[i];
        }
    struct view_stmt *s = mem_zalloc(sizeof *s);
    if (!s || array_reserve(&db->statements, &db->capacity, db->n + 1, sizeof *db->statements) != 0) {
        mem_free(s);
        db_failed(db, SQLITE_NOMEM);
        return NULL;
    }
    int code = sqlite3_prepare_v3(db->sqlite, sql, -1, SQLITE_PREPARE_PERSISTENT, &s->statement, NULL);
    if (code != SQLITE_OK) {
        db_failed(db, code);
        mem_free(s);
        return NULL;
    }
    s->db = db;
    s->sql = sql;
    s->in_use = true;
    db->statements[db->n++] = s;
    return s;
}

static void bound(struct view_stmt *s, int code) {
    if (code != SQLITE_OK) db_failed(s->db, code);
}

void view_bind_span(struct view_stmt *s, int i, struct span text) {
    if (s) bound(s, sqlite3_bind_text64(s->statement, i, text.data ? text.data : "", text.len, SQLITE_TRANSIENT, SQLITE_UTF8));
}
void view_bind_blob(struct view_stmt *s, int i, struct span bytes) {
    if (s) bound(s, sqlite3_bind_blob64(s->statement, i, bytes.data ? bytes.data : "", bytes.len, SQLITE_TRANSIENT));
}
void view_bind_int(struct view_stmt *s, int i, int64_t v) {
    if (s) bound(s, sqlite3_bind_int64(s->statement, i, v));
}
void view_bind_real(struct view_stmt *s, int i, double v) {
    if (s) bound(s, sqlite3_bind_double(s->statement, i, v));
}
void view_bind_null(struct view_stmt *s, int i) {
    if (s) bound(s, sqlite3_bind_null(s->statement, i));
}

bool view_step(struct view_stmt *s) {
    if (!s || s->db->failed != 0) return false; /* after a failure nothing of this transaction counts */
    int code = sqlite3_step(s->statement);
    if (code != SQLITE_ROW && code != SQLITE_DONE) db_failed(s->db, code);
    return code == SQLITE_ROW;
}

struct span view_text(struct view_stmt *s, int column) {
    if (!s) return SPAN("");
    const unsigned char *text = sqlite3_column_text(s->statement, column); /* before its length: the call may convert */
    return text ? span_of(text, (size_t)sqlite3_column_bytes(s->statement, column)) : SPAN("");
}
struct span view_blob(struct view_stmt *s, int column) {
    if (!s) return SPAN("");
    const void *bytes = sqlite3_column_blob(s->statement, column);
    return bytes ? span_of(bytes, (size_t)sqlite3_column_bytes(s->statement, column)) : SPAN("");
}
int64_t view_int(struct view_stmt *s, int column) { return s ? sqlite3_column_int64(s->statement, column) : 0; }
double view_real(struct view_stmt *s, int column) { return s ? sqlite3_column_double(s->statement, column) : 0; }

void view_done(struct view_stmt *s) {
    if (!s) return;
    sqlite3_reset(s->statement); /* its code repeats the step's */
    sqlite3_clear_bindings(s->statement);
    s->in_use = false;
}

/* ---- transactions ---- */

static int begin(struct view_db *db, const char *sql, struct error *err) {
    db->failed = 0;
    db->message[0] = '\0';
    return run(db, sql) == SQLITE_OK ? 0 : error_of(db, err);
}

static int commit(struct view_db *db, struct error *err) { return db->failed == 0 && run(db, "COMMIT") == SQLITE_OK ? 0 : error_of(db, err); }

static void rollback(struct view_db *db) {
    if (db->sqlite && !sqlite3_get_autocommit(db->sqlite)) (void)sqlite3_exec(db->sqlite, "ROLLBACK", NULL, NULL, NULL);
}

/* ---- the file ---- */

static void remove_file(const char *path) {
    static const char *const parts[] = {"", "-wal", "-shm"};
    char name[4096];
    for (size_t i = 0; i < 3; i++) {
        snprintf(name, sizeof name, "%s%s", path, parts[i]);
        (void)unlink(name);
    }
}

/* Whether the file is this view's: same schema, same log. Reads the offsets. */
static bool load_state(struct view *v) {
    struct view_db *db = &v->db;
    bool ours = false;
    struct view_stmt *s = view_sql(db, "SELECT schema_version, log FROM genloop_view");
    if (view_step(s)) ours = view_int(s, 0) == v->spec.schema_version && span_eq_str(view_text(s, 1), eventlog_identity(v->log));
    view_done(s);
    v->n_folded = 0;
    s = view_sql(db, "SELECT topic, partition, position FROM genloop_view_offset");
    while (view_step(s) && v->n_folded < EVENTLOG_PARTITIONS_MAX) {
        struct eventlog_position *p = &v->folded[v->n_folded];
        int topic = topic_from_name(view_text(s, 0));
        if (topic < 0) continue;
        p->topic = (enum topic)topic;
        p->partition = (int)view_int(s, 1);
        span_copy(p->offset, sizeof p->offset, view_text(s, 2));
        v->n_folded++;
    }
    view_done(s);
    /* A topic that the file has not seen from its beginning on would be missing: the set is part of the schema. */
    for (int t = 0; t < v->spec.n_topics && ours; t++) {
        struct view_stmt *topic = view_sql(db, "SELECT 1 FROM genloop_view_topic WHERE name = ?1");
        view_bind_span(topic, 1, span_str(topic_info(v->topics[t])->name));
        ours = view_step(topic);
        view_done(topic);
    }
    return ours && db->failed == 0;
}

static int make_schema(struct view *v, struct error *err) {
    struct view_db *db = &v->db;
    int r = begin(db, "BEGIN IMMEDIATE", err);
    if (r != 0) return r;
    (void)run(db, "CREATE TABLE genloop_view (schema_version INTEGER NOT NULL, log TEXT NOT NULL);"
                  "CREATE TABLE genloop_view_topic (name TEXT PRIMARY KEY) WITHOUT ROWID;"
                  "CREATE TABLE genloop_view_offset (topic TEXT NOT NULL, partition INTEGER NOT NULL, position TEXT NOT NULL,"
                  " PRIMARY KEY (topic, partition)) WITHOUT ROWID;");
    if (db->failed == 0) (void)run(db, v->spec.schema);
    if (db->failed == 0) {
        struct view_stmt *s = view_sql(db, "INSERT INTO genloop_view VALUES (?1, ?2)");
        view_bind_int(s, 1, v->spec.schema_version);
        view_bind_span(s, 2, span_str(eventlog_identity(v->log)));
        (void)view_step(s);
        view_done(s);
    }
    for (int t = 0; t < v->spec.n_topics && db->failed == 0; t++) {
        struct view_stmt *s = view_sql(db, "INSERT INTO genloop_view_topic VALUES (?1)");
        view_bind_span(s, 1, span_str(topic_info(v->topics[t])->name));
        (void)view_step(s);
        view_done(s);
    }
    r = commit(db, err);
    if (r != 0) rollback(db);
    return r;
}

/* Opens the writer's connection onto a file that is this view's, making it anew where it is none. fresh: make it anew in any case. */
static int open_file(struct view *v, bool fresh, struct error *err) {
    for (int attempt = 0; attempt < 2; attempt++) {
        if (fresh && !v->in_memory) {
            remove_file(v->path);
            metric_add(v->metric_rebuilt, attempt > 0 ? 1 : 0);
        }
        int code = db_open(&v->db, v->path, true);
        int64_t tables = -1;
        if (code == SQLITE_OK) {
            struct view_stmt *s = view_sql(&v->db, "SELECT count(*) FROM sqlite_schema");
            if (view_step(s)) tables = view_int(s, 0);
            view_done(s);
        }
        if (tables == 0) {
            int r = make_schema(v, err);
            pthread_mutex_lock(&v->lock);
            v->n_folded = 0;
            pthread_mutex_unlock(&v->lock);
            if (r != 0) db_close(&v->db);
            return r;
        }
        if (tables > 0 && load_state(v)) return 0;
        bool is_ours_to_remove = tables > 0 || is_damage(v->db.failed);
        int r = error_of(&v->db, err);
        db_close(&v->db);
        if (!is_ours_to_remove || fresh) return error_prefix(err, "the view %s at %s", v->name, v->path), r;
        fresh = true;
    }
    return error_set(err, E_INTERNAL, "the view %s could not be made", v->name);
}

/* ---- readers ---- */

static int reader_take(struct view *v, struct view_db **out, struct error *err) {
    pthread_mutex_lock(&v->lock);
    while (v->rebuilding || (!v->pool && v->readers >= VIEW_READERS_MAX)) pthread_cond_wait(&v->changed, &v->lock);
    struct view_db *db = v->pool;
    if (db) v->pool = db->next;
    else v->readers++;
    v->readers_busy++;
    pthread_mutex_unlock(&v->lock);
    int r = 0;
    if (!db) {
        db = mem_zalloc(sizeof *db);
        r = !db ? error_set(err, E_NOMEM, "no memory for a reader of the view %s", v->name) : db_open(db, v->path, false) == SQLITE_OK ? 0 : error_of(db, err);
    }
    if (r == 0) {
        *out = db;
        return 0;
    }
    if (db) db_close(db);
    mem_free(db);
    pthread_mutex_lock(&v->lock);
    v->readers--;
    v->readers_busy--;
    pthread_cond_broadcast(&v->changed);
    pthread_mutex_unlock(&v->lock);
    return r;
}

static void reader_give(struct view *v, struct view_db *db) {
    pthread_mutex_lock(&v->lock);
    if (is_damage(db->failed)) v->damaged = true; /* the thread makes the file anew */
    db->next = v->pool;
    v->pool = db;
    v->readers_busy--;
    pthread_cond_broadcast(&v->changed);
    pthread_mutex_unlock(&v->lock);
}

static void pool_close(struct view *v) {
    while (v->pool) {
        struct view_db *db = v->pool;
        v->pool = db->next;
        db_close(db);
        mem_free(db);
        v->readers--;
    }
}

static int read_with(struct view_db *db, void *arg, int (*read)(void *arg, struct view_db *db, struct error *err), struct error *err) {
    int r = begin(db, "BEGIN", err);
    if (r != 0) return r;
    r = read(arg, db, err);
    if (db->failed != 0) r = error_of(db, err);
    rollback(db);
    return r;
}

int view_read(struct view *v, void *arg, int (*read)(void *arg, struct view_db *db, struct error *err), struct error *err) {
    struct view_db *db;
    if (v->in_memory) {
        pthread_mutex_lock(&v->write);
        int r = read_with(&v->db, arg, read, err);
        pthread_mutex_unlock(&v->write);
        return r;
    }
    int r = reader_take(v, &db, err);
    if (r != 0) return r;
    r = read_with(db, arg, read, err);
    reader_give(v, db);
    return r;
}

int view_write(struct view *v, void *arg, int (*write)(void *arg, struct view_db *db, struct error *err), struct error *err) {
    pthread_mutex_lock(&v->write);
    struct view_db *db = &v->db;
    int r = db->sqlite ? 0 : error_set(err, E_UNAVAILABLE, "the view %s is being made anew", v->name);
    /* Unlike what the fold writes, this is in no topic behind an offset: it is on the disk before the caller goes on. */
    if (r == 0 && !v->in_memory) (void)sqlite3_exec(db->sqlite, "PRAGMA synchronous=FULL", NULL, NULL, NULL);
    if (r == 0) r = begin(db, "BEGIN IMMEDIATE", err);
    if (r == 0) {
        r = write(arg, db, err);
        if (r == 0) r = commit(db, err);
        else if (db->failed != 0) r = error_of(db, err);
        rollback(db);
    }
    if (db->sqlite && !v->in_memory) (void)sqlite3_exec(db->sqlite, "PRAGMA synchronous=NORMAL", NULL, NULL, NULL);
    if (is_damage(db->failed)) {
        pthread_mutex_lock(&v->lock);
        v->damaged = true;
        pthread_mutex_unlock(&v->lock);
    }
    pthread_mutex_unlock(&v->write);
    return r;
}

/* ---- the fold ---- */

static struct eventlog_position *find(struct eventlog_position *list, int n, enum topic topic, int partition) {
    for (int i = 0; i < n; i++)
        if (list[i].topic == topic && list[i].partition == partition) return &list[i];
    return NULL;
}

static struct eventlog_position *find_or_add(struct eventlog_position *list, int *n, enum topic topic, int partition) {
    struct eventlog_position *there = find(list, *n, topic, partition);
    if (there) return there;
    ASSERT(*n < EVENTLOG_PARTITIONS_MAX); /* what the log has no more of */
    list[*n] = (struct eventlog_position){.topic = topic, .partition = partition};
    return &list[(*n)++];
}

/* Folds one event inside the batch's transaction. Fails only where the batch cannot go on. */
static int fold_one(struct view *v, const struct event *e, struct error *err) {
    struct view_db *db = &v->db;
    if (run(db, "SAVEPOINT event") != SQLITE_OK) return error_of(db, err);
    struct error why = {0};
    int r = v->spec.fold(v->spec.arg, db, e, &why);
    if (db->failed != 0 && !is_refusal(db->failed)) return error_of(db, err);
    if (r == 0 && db->failed != 0) r = error_of(db, &why);
    if (r == 0) return run(db, "RELEASE event") == SQLITE_OK ? 0 : error_of(db, err);
    db->failed = 0;
    if (run(db, "ROLLBACK TO event; RELEASE event") != SQLITE_OK) return error_of(db, err);
    metric_add(v->metric_dead, 1);
    return eventlog_dead_letter(v->log, e, v->name, why.message[0] ? why.message : error_kind(r)->name, err);
}

static int save_positions(struct view *v, const struct eventlog_position *list, int n, struct error *err) {
    for (int i = 0; i < n; i++) {
        struct view_stmt *s = view_sql(&v->db, "INSERT INTO genloop_view_offset VALUES (?1, ?2, ?3) ON CONFLICT DO UPDATE SET position = excluded.position");
        view_bind_span(s, 1, span_str(topic_info(list[i].topic)->name));
        view_bind_int(s, 2, list[i].partition);
        view_bind_span(s, 3, span_str(list[i].offset));
        (void)view_step(s);
        view_done(s);
    }
    return view_failed(&v->db, err);
}

/* The event that was polled and those that are there without waiting, in one transaction. */
static int fold_batch(struct view *v, struct eventlog_view *reader, struct event *e, struct error *err) {
    struct eventlog_position moved[EVENTLOG_PARTITIONS_MAX];
    int n_moved = 0, n = 0;
    pthread_mutex_lock(&v->write);
    int r = begin(&v->db, "BEGIN IMMEDIATE", err);
    while (r == 0) {
        const struct eventlog_position *folded = find(v->folded, v->n_folded, e->topic, e->partition); /* only this thread changes them */
        const char *done = folded ? folded->offset : "";
        struct eventlog_position *at = find_or_add(moved, &n_moved, e->topic, e->partition);
        /* What was folded already (the log may deliver twice) is not folded again. */
        if (eventlog_offset_compare(e->offset, at->offset[0] ? at->offset : done) > 0) {
            r = fold_one(v, e, err);
            span_copy(at->offset, sizeof at->offset, span_str(e->offset));
            n += r == 0;
        } else if (at->offset[0] == '\0') {
            span_copy(at->offset, sizeof at->offset, span_str(done));
        }
        if (r != 0 || n >= VIEW_BATCH_MAX || eventlog_view_poll(reader, 0, e, NULL) != 0) break;
    }
    if (r == 0) r = save_positions(v, moved, n_moved, err);
    if (r == 0) r = commit(&v->db, err);
    if (r != 0) rollback(&v->db);
    if (r == 0) {
        pthread_mutex_lock(&v->lock);
        for (int i = 0; i < n_moved; i++) *find_or_add(v->folded, &v->n_folded, moved[i].topic, moved[i].partition) = moved[i];
        v->events += n;
        pthread_cond_broadcast(&v->changed);
        pthread_mutex_unlock(&v->lock);
        metric_add(v->metric_events, n);
    } else if (is_damage(v->db.failed)) {
        pthread_mutex_lock(&v->lock);
        v->damaged = true;
        pthread_mutex_unlock(&v->lock);
    }
    pthread_mutex_unlock(&v->write);
    return r;
}

/* The file anew. Readers wait meanwhile, and see it grow afterwards. */
static int rebuild(struct view *v, struct error *err) {
    pthread_mutex_lock(&v->write);
    pthread_mutex_lock(&v->lock);
    v->rebuilding = true;
    while (v->readers_busy > 0) pthread_cond_wait(&v->changed, &v->lock);
    pool_close(v);
    pthread_mutex_unlock(&v->lock);
    db_close(&v->db);
    int r = open_file(v, true, err);
    pthread_mutex_lock(&v->lock);
    v->damaged = r != 0; /* then it is tried again; readers find no file meanwhile */
    v->rebuilding = false;
    pthread_cond_broadcast(&v->changed);
    pthread_mutex_unlock(&v->lock);
    pthread_mutex_unlock(&v->write);
    if (r == 0) metric_add(v->metric_rebuilt, 1);
    return r;
}

static bool is_stopping(struct view *v) {
    pthread_mutex_lock(&v->lock);
    bool yes = v->stopping;
    pthread_mutex_unlock(&v->lock);
    return yes;
}

static bool is_damaged(struct view *v) {
    pthread_mutex_lock(&v->lock);
    bool yes = v->damaged;
    pthread_mutex_unlock(&v->lock);
    return yes;
}

static void pause_a_little(struct view *v) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    at.tv_sec += (at.tv_nsec + VIEW_RETRY_MS * 1000000L) / 1000000000;
    at.tv_nsec = (at.tv_nsec + VIEW_RETRY_MS * 1000000L) % 1000000000;
    pthread_mutex_lock(&v->lock);
    while (!v->stopping && pthread_cond_timedwait(&v->changed, &v->lock, &at) != ETIMEDOUT) continue;
    pthread_mutex_unlock(&v->lock);
}

static void note_trouble(struct view *v, int r, const struct error *err) {
    pthread_mutex_lock(&v->lock);
    if (r != 0) v->trouble = *err;
    v->trouble.code = r;
    pthread_mutex_unlock(&v->lock);
}

static void note_caught_up(struct view *v, struct eventlog_view *reader) {
    if (v->caught_up || !eventlog_view_caught_up(reader)) return; /* only this thread sets it */
    pthread_mutex_lock(&v->lock);
    v->caught_up = true;
    pthread_cond_broadcast(&v->changed);
    pthread_mutex_unlock(&v->lock);
    if (v->spec.on_caught_up) v->spec.on_caught_up(v->spec.arg);
}

/* One turn of the thread. E_AGAIN: nothing came; others: it stands still, and *reader is closed where it has to read again from what the file has. */
static int turn(struct view *v, struct eventlog_view **reader, struct error *err) {
    struct event e;
    int r = 0;
    if (is_damaged(v)) {
        eventlog_view_close(*reader);
        *reader = NULL;
        r = rebuild(v, err);
    }
    if (r == 0 && !*reader) r = eventlog_view_open(v->log, v->topics, v->spec.n_topics, v->folded, v->n_folded, reader, err);
    if (r != 0) return r;
    note_caught_up(v, *reader);
    r = eventlog_view_poll(*reader, VIEW_POLL_MS, &e, err);
    if (r != 0) return r; /* also where the log is away: the reader goes on where it was */
    r = fold_batch(v, *reader, &e, err);
    if (r == 0) {
        if (v->spec.on_change) v->spec.on_change(v->spec.arg);
        return 0;
    }
    eventlog_view_close(*reader); /* the batch was rolled back */
    *reader = NULL;
    return r;
}

static void *thread_main(void *arg) {
    struct view *v = arg;
    struct eventlog_view *reader = NULL;
    while (!is_stopping(v)) {
        struct error err = {0};
        int r = turn(v, &reader, &err);
        note_trouble(v, r == E_AGAIN ? 0 : r, &err);
        if (r != 0 && r != E_AGAIN && !is_stopping(v)) pause_a_little(v);
    }
    eventlog_view_close(reader);
    return NULL;
}

/* ---- open, close, wait ---- */

static void view_free(struct view *v) {
    pool_close(v);
    db_close(&v->db);
    pthread_cond_destroy(&v->changed);
    pthread_mutex_destroy(&v->lock);
    pthread_mutex_destroy(&v->write);
    mem_free(v->path);
    mem_free(v->name);
    mem_free(v);
}

int view_open(struct eventlog *log, const char *path, const struct view_spec *spec, struct view **out, struct error *err) {
    if (spec->n_topics < 1 || spec->n_topics > TOPIC_COUNT || !spec->fold || !spec->schema || !spec->name)
        return error_set(err, E_INVALID, "a view has a name, a schema, a fold and 1 to %d topics", TOPIC_COUNT);
    struct view *v = mem_zalloc(sizeof *v);
    if (!v) return error_set(err, E_NOMEM, "no memory for the view %s", spec->name);
    v->log = log;
    v->spec = *spec;
    memcpy(v->topics, spec->topics, (size_t)spec->n_topics * sizeof *v->topics);
    v->path = mem_strdup(path);
    v->name = mem_strdup(spec->name);
    v->in_memory = strcmp(path, ":memory:") == 0;
    pthread_mutex_init(&v->write, NULL);
    pthread_mutex_init(&v->lock, NULL);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&v->changed, &attr);
    pthread_condattr_destroy(&attr);
    char label[96];
    snprintf(label, sizeof label, "view=\"%.64s\"", spec->name);
    v->metric_events = metric_counter("genloop_view_events_total", label, "Events folded into a view.");
    v->metric_dead = metric_counter("genloop_view_dead_letters_total", label, "Events that a view's fold refused.");
    v->metric_rebuilt = metric_counter("genloop_view_rebuilt_total", label, "Times that a view's file was made anew because it was damaged or another's.");
    int r = v->path && v->name ? open_file(v, false, err) : error_set(err, E_NOMEM, "no memory for the view %s", spec->name);
    if (r == 0 && pthread_create(&v->thread, NULL, thread_main, v) != 0) r = error_set(err, E_NOMEM, "no thread for the view %s", spec->name);
    if (r != 0) {
        view_free(v);
        return r;
    }
    *out = v;
    return 0;
}

void view_close(struct view *v) {
    if (!v) return;
    pthread_mutex_lock(&v->lock);
    v->stopping = true;
    pthread_cond_broadcast(&v->changed);
    pthread_mutex_unlock(&v->lock);
    pthread_join(v->thread, NULL);
    view_free(v);
}

bool view_caught_up(struct view *v) {
    pthread_mutex_lock(&v->lock);
    bool yes = v->caught_up;
    pthread_mutex_unlock(&v->lock);
    return yes;
}

int view_trouble(struct view *v, struct error *err) {
    pthread_mutex_lock(&v->lock);
    int r = v->trouble.code;
    if (r != 0 && err) *err = v->trouble;
    pthread_mutex_unlock(&v->lock);
    return r;
}

int64_t view_events(struct view *v) {
    pthread_mutex_lock(&v->lock);
    int64_t n = v->events;
    pthread_mutex_unlock(&v->lock);
    return n;
}

/* Under v->lock. */
static bool has_folded(struct view *v, const struct eventlog_position *ends, int n) {
    for (int i = 0; i < n; i++) {
        if (ends[i].offset[0] == '\0') continue;
        const char *at = "";
        for (int k = 0; k < v->n_folded; k++)
            if (v->folded[k].topic == ends[i].topic && v->folded[k].partition == ends[i].partition) at = v->folded[k].offset;
        if (eventlog_offset_compare(at, ends[i].offset) < 0) return false;
    }
    return true;
}

int view_wait(struct view *v, int64_t timeout_ms, struct error *err) {
    struct eventlog_position ends[EVENTLOG_PARTITIONS_MAX], now[EVENTLOG_PARTITIONS_MAX];
    int n, n_now;
    int64_t deadline = clock_mono_ms() + timeout_ms;
    int r = eventlog_ends(v->log, v->topics, v->spec.n_topics, ends, &n, err);
    if (r != 0) return r;
    for (;;) {
        int64_t recheck = clock_mono_ms() + WAIT_RECHECK_MS;
        pthread_mutex_lock(&v->lock);
        bool done = has_folded(v, ends, n);
        while (!done && clock_mono_ms() < deadline && clock_mono_ms() < recheck) {
            int64_t ms = (deadline < recheck ? deadline : recheck) - clock_mono_ms();
            struct timespec at;
            clock_gettime(CLOCK_MONOTONIC, &at);
            at.tv_sec += (at.tv_nsec / 1000000 + ms) / 1000;
            at.tv_nsec = (at.tv_nsec / 1000000 + ms) % 1000 * 1000000;
            (void)pthread_cond_timedwait(&v->changed, &v->lock, &at);
            done = has_folded(v, ends, n);
        }
        pthread_mutex_unlock(&v->lock);
        if (done) return 0;
        if (clock_mono_ms() >= deadline) return error_set(err, E_DEADLINE, "the view %s has not caught up within %lld ms", v->name, (long long)timeout_ms);
        /* An end that was trimmed or compacted away meanwhile is never folded: the log ends before it now. */
        if (eventlog_ends(v->log, v->topics, v->spec.n_topics, now, &n_now, NULL) != 0) continue;
        for (int i = 0; i < n && i < n_now; i++)
            if (eventlog_offset_compare(now[i].offset, ends[i].offset) < 0) ends[i] = now[i];
    }
}
