/*
 * ingest: files, folders and URLs into a dataset. Upload side by side, wait until every document is accepted or rejected, build a version.
 *
 * Nothing is remembered here: the same file with the same content is the same document, so the same command again goes on where the last one was killed, and the version that it asks for is named
 * by what went into it, so that nothing is built twice either.
 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/random.h"
#include "base/sha256.h"
#include "remote.h"
#include "walk.h"

enum { PARALLEL_DEFAULT = 16, TOLD_MAX = 10, URL_BYTES_MAX = 1 << 30, TARGET_MAX = 8192, REASONS_MAX = 64, SEEN_FIRST = 1024 };

struct counts {
    uint64_t received, accepted, rejected, pending;
    struct {
        char reason[40];
        uint64_t count;
    } reasons[REASONS_MAX];
    size_t n_reasons;
};

struct slot {
    char target[TARGET_MAX], fetched[PATH_MAX], media_type[CLIENT_MEDIA_TYPE_MAX];
    struct error err;
    size_t file;
    bool taken;
};

struct ingest {
    struct remote x;
    const char *dataset, *subject;
    struct walk walk;
    struct slot *slots; /* owned; one per upload under way */
    int n_slots;
    size_t next, told;
    uint64_t uploaded, existed, refused, unreadable, documents; /* documents: new ones, each once */
    uint8_t ids[SHA256_SIZE]; /* of all documents, in no order: their exclusive or */
    uint64_t *seen;           /* owned: a table of those that this command has sent, by their ids folded to a word; 0: free */
    size_t seen_size, n_seen; /* seen_size: a power of two */
    struct progress bar;
    struct counts before, now;
    struct buf version;
    bool built;
};

/* What is left out is told, the first ones by name. */
static void tell(struct ingest *g, const char *what, const struct error *why) {
    if (g->told++ >= TOLD_MAX) return;
    if (g->bar.open && g->bar.terminal) (void)fprintf(stderr, "\r\033[K");
    (void)fprintf(stderr, "genloop ingest: %s%s\n", what, why->message);
    if (g->told == TOLD_MAX) (void)fprintf(stderr, "genloop ingest: further ones are counted only\n");
}

static void on_unreadable(void *arg, const struct error *why) {
    struct ingest *g = arg;
    g->unreadable++;
    tell(g, "left out: ", why);
}

/* ---- counts ---- */

static void read_counts(const struct json *p, struct counts *c) {
    void *iterator = NULL;
    struct span reason;
    const struct json *count;
    c->received = (uint64_t)json_int(json_get(p, "received"), 0);
    c->accepted = (uint64_t)json_int(json_get(p, "accepted"), 0);
    c->rejected = (uint64_t)json_int(json_get(p, "rejected"), 0);
    c->pending = (uint64_t)json_int(json_get(p, "pending"), 0);
    c->n_reasons = 0;
    while (c->n_reasons < REASONS_MAX && json_next(json_get(p, "rejected_by_reason"), &iterator, &reason, &count)) {
        span_copy(c->reasons[c->n_reasons].reason, sizeof c->reasons[0].reason, reason);
        c->reasons[c->n_reasons++].count = (uint64_t)json_int(count, 0);
    }
}

static int on_first(void *arg, const struct json *event) {
    read_counts(event, arg);
    return CLIENT_STREAM_DONE;
}

/* All that was acknowledged has been seen, and all that was seen is decided. */
static int on_processing(void *arg, const struct json *event) {
    struct ingest *g = arg;
    read_counts(event, &g->now);
    uint64_t expected = g->before.received + g->documents;
    if (g->bar.open) progress_total(&g->bar, g->now.received > expected ? g->now.received : expected);
    progress_set(&g->bar, g->now.accepted + g->now.rejected, NULL);
    return g->now.pending == 0 && g->now.received >= expected ? CLIENT_STREAM_DONE : 0;
}

static void watch_path(struct ingest *g) {
    remote_path(&g->x, "/v1/datasets/");
    remote_add(&g->x, "", g->dataset);
    (void)buf_append_str(&g->x.path, "/watch");
}

static int process(struct ingest *g) {
    watch_path(g);
    progress_begin(&g->bar, "cleaned", 0, "documents");
    int r = remote_stream(&g->x, "GET", g, on_processing);
    progress_end(&g->bar, r == 0);
    return r;
}

/* ---- uploads ---- */

static struct slot *free_slot(struct ingest *g) {
    for (int i = 0; i < g->n_slots; i++)
        if (!g->slots[i].taken) return &g->slots[i];
    return NULL;
}

/* The file of a URL lies in a temporary one until it is sent. */
static int fetch(struct ingest *g, struct slot *s, const struct walk_file *f, struct error *err) {
    const char *folder = getenv("TMPDIR");
    int n = snprintf(s->fetched, sizeof s->fetched, "%s/genloop-ingest-XXXXXX", folder && *folder ? folder : "/tmp");
    int fd = n > 0 && (size_t)n < sizeof s->fetched ? mkstemp(s->fetched) : -1;
    if (fd < 0) {
        s->fetched[0] = '\0';
        return error_errno(err, errno, "a temporary file in %s", folder && *folder ? folder : "/tmp");
    }
    (void)close(fd);
    int r = client_fetch(g->x.client, f->path, s->fetched, URL_BYTES_MAX, s->media_type, err);
    if (r < 0) {
        (void)unlink(s->fetched);
        s->fetched[0] = '\0';
    }
    return r;
}

static bool next_upload(void *arg, struct client_request *request) {
    struct ingest *g = arg;
    while (g->next < g->walk.n) {
        struct error err = {0};
        const struct walk_file *f = &g->walk.files[g->next];
        struct slot *s = free_slot(g);
        struct buf target;
        *s = (struct slot){.file = g->next++, .taken = true};
        if (f->url && fetch(g, s, f, &err) < 0) {
            s->taken = false;
            on_unreadable(g, &err);
            continue;
        }
        buf_init(&target, sizeof s->target - 1);
        (void)buf_append_str(&target, "/v1/documents?dataset=");
        client_encode(&target, span_str(g->dataset));
        (void)buf_append_str(&target, "&source=");
        client_encode(&target, span_str(f->source));
        if (g->subject) {
            (void)buf_append_str(&target, "&subject=");
            client_encode(&target, span_str(g->subject));
        }
        bool fits = !target.failed;
        if (fits) span_copy(s->target, sizeof s->target, buf_span(&target));
        buf_fini(&target);
        *request = (struct client_request){.method = "POST", .path = s->target, .file = f->url ? s->fetched : f->path, .media_type = s->media_type[0] ? s->media_type : NULL, .again = true, .arg = s};
        if (fits) return true;
        (void)error_set(&err, E_INVALID, "%s: the name is too long", f->path);
        s->taken = false;
        on_unreadable(g, &err);
    }
    return false;
}

/* Puts a key where it belongs; false where it is there already. */
static bool seen_put(uint64_t *table, size_t size, uint64_t key) {
    size_t at = (size_t)key & (size - 1);
    for (; table[at]; at = (at + 1) & (size - 1))
        if (table[at] == key) return false;
    table[at] = key;
    return true;
}

/*
 * Whether this command sends a document of these bytes for the first time: 1, 0, E_NOMEM. Of two files with the same bytes that are sent at once ingest may find both to be new, and one document
 * comes of them: who waited for two would wait for ever.
 */
static int first_time(struct ingest *g, const uint8_t id[SHA256_SIZE]) {
    uint64_t key;
    if (g->n_seen >= g->seen_size / 2) {
        size_t size = g->seen_size ? 2 * g->seen_size : SEEN_FIRST;
        uint64_t *larger = mem_calloc(size, sizeof *larger);
        if (!larger) return E_NOMEM;
        for (size_t i = 0; i < g->seen_size; i++)
            if (g->seen[i]) (void)seen_put(larger, size, g->seen[i]);
        mem_free(g->seen);
        g->seen = larger;
        g->seen_size = size;
    }
    uint64_t words[SHA256_SIZE / sizeof key];
    memcpy(words, id, sizeof words);
    key = words[0] ^ words[1] ^ words[2] ^ words[3];
    bool first = seen_put(g->seen, g->seen_size, key ? key : 1);
    g->n_seen += first;
    return first;
}

/* Ends everything, where it is not about this one document. */
static bool is_general(int r) { return r != E_INVALID && r != E_TOO_LARGE && r != E_NOT_FOUND && r != E_UNSUPPORTED; }

static int upload_done(void *arg, const struct client_request *request, int r, const struct json *answer, const struct error *err) {
    struct ingest *g = arg;
    struct slot *s = request->arg;
    const struct walk_file *f = &g->walk.files[s->file];
    struct error why = err ? *err : (struct error){0};
    uint8_t id[SHA256_SIZE];
    if (s->fetched[0]) (void)unlink(s->fetched);
    s->taken = false;
    if (r == 0 && (json_string(json_get(answer, "document_id")).len != 2 * SHA256_SIZE || hex_decode(json_string(json_get(answer, "document_id")), id) != 0))
        r = error_set(&why, E_UNKNOWN, "the gateway acknowledged %s without a document's id", f->path);
    if (r == 0) {
        int first = first_time(g, id);
        if (first < 0) return error_set(&g->x.err, first, "no memory to remember what was sent");
        for (size_t i = 0; first && i < sizeof id; i++) g->ids[i] ^= id[i];
        g->uploaded++;
        if (!first || json_bool(json_get(answer, "existed"), false)) g->existed++;
        else g->documents++;
        return 0;
    }
    bool readable = f->url || access(f->path, R_OK) == 0;
    if (r == E_IO || !readable) {
        on_unreadable(g, &why);
        return 0;
    }
    if (!is_general(r)) {
        g->refused++;
        (void)error_prefix(&why, "%s", f->path);
        tell(g, "refused: ", &why);
        return 0;
    }
    g->x.err = why;
    (void)error_prefix(&g->x.err, "%s", f->path);
    return r;
}

static void upload_tick(void *arg, uint64_t sent) {
    struct ingest *g = arg;
    char note[80];
    (void)snprintf(note, sizeof note, "%llu of %zu files", (unsigned long long)(g->uploaded + g->refused + g->unreadable), g->walk.n);
    progress_set(&g->bar, sent, note);
}

static int upload(struct ingest *g, int parallel) {
    const struct client_batch batch = {g, next_upload, upload_done, upload_tick};
    g->n_slots = parallel;
    g->slots = mem_calloc((size_t)parallel, sizeof *g->slots);
    if (!g->slots) return error_set(&g->x.err, E_NOMEM, "no memory for %d uploads at once", parallel);
    progress_begin(&g->bar, "sent", g->walk.bytes, "B");
    int r = client_batch(g->x.client, parallel, &batch, &g->x.err);
    if (r == 0) upload_tick(g, g->walk.bytes);
    progress_end(&g->bar, r == 0);
    for (int i = 0; i < parallel; i++)
        if (g->slots[i].taken && g->slots[i].fetched[0]) (void)unlink(g->slots[i].fetched);
    return r;
}

/* ---- the version ---- */

static int on_building(void *arg, const struct json *event) {
    struct ingest *g = arg;
    const struct json *version = json_get(event, "version");
    uint64_t all = (uint64_t)json_int(json_get(event, "received"), 0);
    double fraction = json_real(json_get(event, "fraction"), 0);
    if (g->bar.open && all) progress_total(&g->bar, all);
    if (json_string(json_get(event, "phase")).len) progress_set(&g->bar, (uint64_t)(fraction * (double)all), shown_text(json_get(event, "phase")));
    read_counts(event, &g->now);
    if (span_eq_str(json_string(json_get(version, "state")), "DATASET_STATE_READY")) {
        progress_set(&g->bar, all, "");
        buf_clear(&g->version);
        g->built = json_write(&g->version, version) == 0;
    }
    return 0;
}

/* Names what would go into the version: the same documents and options are the same build. */
static void build_id(struct ingest *g, char id[SHA256_HEX_MAX]) {
    struct cli *c = g->x.cli;
    struct buf text;
    buf_init(&text, 64 * 1024);
    (void)buf_append(&text, g->ids, sizeof g->ids);
    (void)buf_printf(&text, "%s\n%llu %llu %llu\n%lld %s %.17g %lld", g->dataset, (unsigned long long)g->now.received, (unsigned long long)g->now.accepted, (unsigned long long)g->now.rejected,
                     (long long)cli_int(c, "--vocab", 0), cli_text(c, "--tokenizer") ? cli_text(c, "--tokenizer") : "", cli_real(c, "--held-out", 0), (long long)cli_int(c, "--seed", 0));
    (void)sha256_hex(buf_span(&text), id);
    buf_fini(&text);
}

static int build_as(struct ingest *g, const char *id) {
    struct cli *c = g->x.cli;
    remote_path(&g->x, "/v1/datasets/");
    remote_add(&g->x, "", g->dataset);
    (void)buf_append_str(&g->x.path, "/versions");
    struct json_out w = remote_body(&g->x);
    json_str(&w, "build_id", id);
    if (cli_given(c, "--vocab")) json_num(&w, "vocab", cli_int(c, "--vocab", 0));
    if (cli_given(c, "--tokenizer")) json_str(&w, "tokenizer", cli_text(c, "--tokenizer"));
    if (cli_given(c, "--held-out")) json_flt(&w, "held_out", cli_real(c, "--held-out", 0));
    if (cli_given(c, "--seed")) json_num(&w, "seed", cli_int(c, "--seed", 0));
    json_object_end(&w);
    progress_begin(&g->bar, "building", 0, "documents");
    int r = remote_stream(&g->x, "POST", g, on_building);
    progress_end(&g->bar, r == 0);
    if (r == 0 && !g->built) r = error_set(&g->x.err, E_UNKNOWN, "the build of %s ended without a version", g->dataset);
    return r;
}

static int build(struct ingest *g) {
    char id[SHA256_HEX_MAX], fresh[ID_TEXT_MAX];
    build_id(g, id);
    int r = build_as(g, id);
    /* That very build failed once, or its version was removed: this is another wish for it. */
    if (r == E_STATE) {
        g->x.err = (struct error){0};
        r = build_as(g, id_make(fresh));
    }
    return r;
}

/* ---- what came of it ---- */

static void print_json(struct ingest *g) {
    struct json_out *w = &g->x.json;
    json_object(w);
    json_str(w, "dataset", g->dataset);
    json_key(w, "upload");
    json_object(w);
    json_num(w, "files", (int64_t)g->walk.n);
    json_num(w, "bytes", (int64_t)g->walk.bytes);
    json_num(w, "received", (int64_t)g->documents);
    json_num(w, "existed", (int64_t)g->existed);
    json_num(w, "refused", (int64_t)g->refused);
    json_num(w, "unreadable", (int64_t)g->unreadable);
    json_num(w, "skipped", (int64_t)g->walk.skipped);
    json_object_end(w);
    json_key(w, "documents");
    json_object(w);
    json_num(w, "received", (int64_t)g->now.received);
    json_num(w, "accepted", (int64_t)g->now.accepted);
    json_num(w, "rejected", (int64_t)g->now.rejected);
    json_key(w, "rejected_by_reason");
    json_object(w);
    for (size_t i = 0; i < g->now.n_reasons; i++) json_num(w, g->now.reasons[i].reason, (int64_t)g->now.reasons[i].count);
    json_object_end(w);
    json_object_end(w);
    if (g->built) {
        json_key(w, "version");
        json_put_raw(w, buf_span(&g->version));
    }
    json_object_end(w);
}

static void print_text(struct ingest *g) {
    struct buf *out = &g->x.out;
    struct json *v = NULL;
    char bytes[FIGURE_MAX], tokens[FIGURE_MAX];
    (void)buf_printf(out, "%llu new documents, %llu known before", (unsigned long long)g->documents, (unsigned long long)g->existed);
    if (g->refused) (void)buf_printf(out, ", %llu refused", (unsigned long long)g->refused);
    if (g->unreadable) (void)buf_printf(out, ", %llu could not be read", (unsigned long long)g->unreadable);
    (void)buf_printf(out, "\n%s holds %llu accepted and %llu rejected documents", g->dataset, (unsigned long long)g->now.accepted, (unsigned long long)g->now.rejected);
    for (size_t i = 0; i < g->now.n_reasons; i++) (void)buf_printf(out, "%s%s %llu", i ? ", " : ": ", g->now.reasons[i].reason, (unsigned long long)g->now.reasons[i].count);
    (void)buf_append_char(out, '\n');
    if (!g->built || json_parse(buf_span(&g->version), &v, NULL) < 0) return;
    (void)buf_printf(out, "%s: %lld documents, %s of text, %s tokens to train on, %lld documents held out, %lld questions and answers\n", shown_name(v), (long long)json_int(json_get(v, "documents"), 0),
                     figure_bytes((uint64_t)json_int(json_get(v, "text_bytes"), 0), bytes), figure_count((double)json_int(json_get(v, "tokens"), 0), tokens),
                     (long long)json_int(json_get(v, "documents_held_out"), 0), (long long)json_int(json_get(v, "samples"), 0));
    json_free(v);
}

static int run_ingest(struct cli *c) {
    struct ingest *g = mem_zalloc(sizeof *g);
    if (!g) return cli_failf(c, "no memory");
    int r = remote_open(&g->x, c);
    g->dataset = cli_text(c, "--dataset");
    g->subject = cli_text(c, "--subject");
    walk_init(&g->walk);
    buf_init(&g->version, 1 << 20);
    if (!g->dataset || !*g->dataset) {
        (void)remote_close(&g->x, 0);
        walk_fini(&g->walk);
        buf_fini(&g->version);
        mem_free(g);
        return cli_usage(c, "--dataset NAME is missing: the dataset that the documents go into");
    }
    for (size_t i = 0; r == 0 && i < cli_operands(c); i++) r = walk_add(&g->walk, cli_operand(c, i), g, on_unreadable, &g->x.err);
    if (r == 0 && g->walk.n == 0) r = error_set(&g->x.err, E_NOT_FOUND, "there is no file with anything in it to ingest");
    if (r == 0) {
        watch_path(g);
        r = remote_stream(&g->x, "GET", &g->before, on_first);
    }
    if (r == 0) r = upload(g, (int)cli_int(c, "--parallel", PARALLEL_DEFAULT));
    if (r == 0) r = process(g);
    if (r == 0 && !cli_flag(c, "--no-build")) r = build(g);
    if (r == 0 && cli_json(c)) print_json(g);
    else if (r == 0) print_text(g);
    int code = remote_close(&g->x, r);
    walk_fini(&g->walk);
    buf_fini(&g->version);
    mem_free(g->slots);
    mem_free(g->seen);
    mem_free(g);
    return code;
}

static const struct cli_option OPTIONS[] = {
    {.name = "--dataset", .kind = CLI_TEXT, .value = "NAME", .doc = "The dataset that the documents go into (needed); made where it is new"},
    {.name = "--no-build", .kind = CLI_FLAG, .doc = "Only upload and clean; without it a version is built at the end"},
    {.name = "--vocab", .kind = CLI_INT, .value = "N", .doc = "Tokens of the tokenizer that is trained for the version; default 4,096", .min = 512, .max = 262144},
    {.name = "--tokenizer", .kind = CLI_TEXT, .value = "MODEL@VERSION|SHA256", .doc = "Take this tokenizer instead of training one"},
    {.name = "--held-out", .kind = CLI_REAL, .value = "SHARE", .doc = "Share of the documents that no training sees; default 0.05", .min = 0.000001, .max = 0.5},
    {.name = "--seed", .kind = CLI_INT, .value = "N", .doc = "Which documents are held out", .min = 0, .max = 9007199254740992.0},
    {.name = "--subject", .kind = CLI_TEXT, .value = "ID", .doc = "Whom the documents are about, so that they can be erased with them"},
    {.name = "--parallel", .kind = CLI_INT, .value = "N", .doc = "Uploads at once; default 16", .min = 1, .max = CLIENT_PARALLEL_MAX},
    {0},
};

const struct verb VERBS_INGEST[] = {
    {.name = "ingest", .operands = "PATH|URL...", .operands_min = 1, .operands_max = CLI_OPERANDS_MAX, .summary = "Documents into a dataset", .options = OPTIONS, .json = true, .run = run_ingest,
     .help = "Folders are walked with all below them; links in them and names that begin with a dot are left out. Manual pages, plain text, Markdown, HTML, source code, JSONL and CSV are\n"
             "read, each also in gzip; what else comes is rejected with its reason. The command returns when every document is accepted or rejected and a version is built: the tokens,\n"
             "the held-out split, questions and answers drawn from the texts, the data card. The same command again sends what is missing and builds nothing that is there already.\n\n"
             "examples:\n"
             "  genloop ingest /usr/share/man /usr/share/doc --dataset manuals\n"
             "  genloop ingest notes.md https://example.org/guide.html --dataset notes --no-build\n"
             "  genloop ingest corpus/ --dataset corpus --vocab 8192 --held-out 0.1"},
    {0},
};
