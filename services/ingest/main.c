/* genloop-ingest: see ingest.h for what is where. */
#include <stddef.h>

#include "base/alloc.h"
#include "services/ingest/batches.h"

static const struct config_row rows[] = {
    {"ingest", "threads", CONFIG_INT, offsetof(struct ingest_settings, threads), "0", 0, 256, "Threads that clean and encode documents; 0: as many as CPUs."},
    {"ingest", "document_max", CONFIG_BYTES, offsetof(struct ingest_settings, document_max), "64MiB", 1024, 1099511627776.0, "The largest document."},
    {"ingest", "file_max", CONFIG_BYTES, offsetof(struct ingest_settings, file_max), "512MiB", 1024, 1099511627776.0, "The largest file of /v1/files."},
    {"ingest", "model_file_max", CONFIG_BYTES, offsetof(struct ingest_settings, model_file_max), "64GiB", 1024, 1099511627776.0, "The largest file of purpose model: one file of a model that is imported."},
    {"ingest", "vocab", CONFIG_INT, offsetof(struct ingest_settings, vocab), "4096", 512, 262144, "Ids of a tokenizer that is trained where the build names no number."},
    {"ingest", "held_out", CONFIG_REAL, offsetof(struct ingest_settings, held_out), "0.05", 0, 0.5, "Share of documents that is held out where the build names none."},
};

static void on_caught_up(void *arg) { service_ready(arg, true); }

/* From the view's thread: the service is ready once its view knows what the log has. */
static void view_caught_up_first(void *arg) {
    struct ingest *in = arg;
    (void)loop_post(in->loop, on_caught_up, in->service);
}

static void view_changed(void *arg) { calls_changed(arg); }

static int start(struct service *s, void **arg, struct error *err) {
    static const enum topic topics[] = {TOPIC_DOCUMENTS, TOPIC_DATASETS, TOPIC_FILES, TOPIC_BATCHES};
    char path[4096];
    struct ingest *in = mem_zalloc(sizeof *in);
    if (!in) return error_set(err, E_NOMEM, "no memory");
    *arg = in;
    *in = (struct ingest){.service = s, .settings = service_settings(s), .loop = service_loop(s), .log = service_log(s), .store = service_store(s)};
    struct view_spec spec = {.name = "ingest", .schema_version = INGEST_SCHEMA_VERSION, .schema = INGEST_SCHEMA, .topics = topics, .n_topics = sizeof topics / sizeof *topics, .fold = ingest_fold,
                             .on_change = view_changed, .on_caught_up = view_caught_up_first, .arg = in};
    int r = calls_open(in, err);
    if (!r) r = dir_make(service_path(s, "views", path, sizeof path), err);
    if (!r) r = view_open(in->log, service_path(s, "views/ingest.sqlite", path, sizeof path), &spec, &in->view, err);
    if (!r) r = uploads_open(in, err);
    if (!r) r = worker_open(in, err);
    if (!r) r = builder_open(in, err);
    if (!r) r = batches_open(in, err);
    return r;
}

static void drain(struct service *s, void *arg) {
    struct ingest *in = arg;
    (void)s;
    in->draining = true; /* calls_open's timer says when the last is done */
}

void ingest_reply_end(struct ingest *in, struct bus_reply *reply, int code, const struct error *err, struct span last) {
    if (!in->closed) bus_reply_end(reply, code, err, last);
}

void ingest_unref(struct ingest *in) {
    if (!in->closed || uploads_count(in) || calls_count(in)) return;
    calls_close(in);
    uploads_close(in);
    mem_free(in);
}

static void stop(struct service *s, void *arg) {
    struct ingest *in = arg;
    (void)s;
    if (!in) return;
    in->closed = true;
    batches_stop(in);
    builder_close(in);
    worker_close(in);
    /* After a drain nothing is left; in a hurry, what other threads do for calls ends first (the store's write, the log's word): they use what is closed below. */
    while (atomic_load(&in->abroad) > 0) nanosleep(&(struct timespec){.tv_nsec = 5 * 1000 * 1000}, NULL);
    batches_close(in);
    if (in->view) view_close(in->view);
    in->view = NULL;
    ingest_unref(in);
}

int main(int argc, char **argv) {
    static const struct service_spec spec = {.name = "ingest", .rows = rows, .n_rows = sizeof rows / sizeof *rows, .settings_size = sizeof(struct ingest_settings), .wants_log = true,
                                             .wants_store = true, .wants_bus_server = true, .bus = &ingest_bus_events, .start = start, .drain = drain, .stop = stop};
    return service_main(argc, argv, &spec);
}
