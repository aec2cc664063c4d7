/*
 * audit: the log of every decision, and the proof that it is whole. `verify` believes nobody: each record is hashed again, the tree is built again here, every signed head along it is checked,
 * the gateway's proofs are checked against it, and the head of the last time must be a beginning of this one. What it has seen is kept in the home (audit/ADDRESS.json), so that a log
 * that was rewritten between two looks is found out.
 */
#include <limits.h>
#include <stdio.h>

#include "base/clock.h"
#include "base/file.h"
#include "genloop/v1/services.pb-c.h"
#include "registry/merkle.h"
#include "remote.h"
#include "wire/protojson.h"

enum { LIST_DEFAULT = 50, INCLUSIONS = 8, SEEN_MAX = 64 * 1024, SEEN_FORMAT = 1 };

/* ---- list ---- */

struct listing {
    struct remote x;
    struct table table;
    int64_t skip;
    bool json;
};

static int list_one(void *arg, const struct json *a) {
    struct listing *l = arg;
    const struct json *actor = json_get(a, "actor");
    struct span from = json_string(json_get(a, "from_state")), to = json_string(json_get(a, "to_state"));
    if (l->skip-- > 0) return 0;
    if (l->json) {
        json_put_value(&l->x.json, a);
        return 0;
    }
    table_cell(&l->table, "%lld", (long long)json_int(json_get(a, "index"), 0));
    table_cell(&l->table, "%s", shown_time(json_get(a, "event_time_ms")));
    table_cell(&l->table, "%s", shown_text(json_get(actor, "id")));
    table_cell(&l->table, "%s", shown_text(json_get(a, "action")));
    table_cell(&l->table, "%s", shown_text(json_get(a, "object")));
    table_cell(&l->table, "%.*s%s%.*s", SPAN_ARG(from), from.len && to.len ? " > " : "", SPAN_ARG(to));
    table_cell(&l->table, "%s", shown_text(json_get(a, "reason")));
    return 0;
}

/* The newest ones are at the end, and a token is the number of the first: so it is known where to begin. */
static int begin_at(struct remote *x, int64_t limit) {
    char from[32];
    remote_path(x, "/v1/audit/head");
    int r = remote_get(x);
    int64_t size = r == 0 ? json_int(json_get(x->answer, "tree_size"), 0) : 0;
    remote_path(x, "/v1/audit?limit=1000");
    if (r == 0 && size > limit) {
        (void)snprintf(from, sizeof from, "%lld", (long long)(size - limit));
        remote_query(x, "page_token", from);
    }
    return r;
}

/* remote_each puts its own token behind the first page's: pages that begin in the middle are walked here. */
static int each_from(struct listing *l) {
    struct remote *x = &l->x;
    for (;;) {
        char token[64];
        int r = remote_get(x);
        if (r < 0) return r;
        const struct json *records = json_get(x->answer, "records");
        span_copy(token, sizeof token, json_string(json_get(x->answer, "next_page_token")));
        for (size_t i = 0; i < json_size(records); i++)
            if ((r = list_one(l, json_at(records, i))) != 0) return r;
        if (!token[0]) return 0;
        remote_path(x, "/v1/audit?limit=1000");
        remote_query(x, "page_token", token);
    }
}

static int run_list(struct cli *c) {
    struct listing l = {.json = cli_json(c)};
    int r = remote_open(&l.x, c);
    table_init(&l.table, ">INDEX|WHEN|BY|ACTION|OBJECT|STATE|REASON");
    if (l.json) {
        json_object(&l.x.json);
        json_key(&l.x.json, "records");
        json_array(&l.x.json);
    }
    if (r == 0) r = begin_at(&l.x, cli_flag(c, "--all") ? INT64_MAX : cli_int(c, "--limit", LIST_DEFAULT));
    if (r == 0) r = each_from(&l);
    if (r == 0 && l.json) {
        json_array_end(&l.x.json);
        json_object_end(&l.x.json);
    } else if (r == 0) {
        r = table_render(&l.table, &l.x.out);
    } else {
        buf_clear(&l.x.out);
    }
    table_fini(&l.table);
    return remote_close(&l.x, r);
}

/* ---- export ---- */

struct export {
    struct remote x;
    struct buf line;
    FILE *out;
    uint64_t records;
};

static int export_one(void *arg, const struct json *record) {
    struct export *e = arg;
    buf_clear(&e->line);
    if (json_write(&e->line, record) < 0 || buf_append_char(&e->line, '\n') < 0) return error_set(&e->x.err, E_NOMEM, "no memory for a record");
    if (fwrite(buf_span(&e->line).data, 1, e->line.len, e->out) != e->line.len) return error_set(&e->x.err, E_IO, "the records cannot be written");
    e->records++;
    return 0;
}

static int run_export(struct cli *c) {
    struct export e = {.out = stdout};
    const char *path = cli_text(c, "--out");
    char part[PATH_MAX] = "";
    int r = remote_open(&e.x, c);
    buf_init(&e.line, 64 << 20);
    if (r == 0 && path) { /* whole or not at all */
        int n = snprintf(part, sizeof part, "%s.part", path);
        e.out = n > 0 && (size_t)n < sizeof part ? fopen(part, "we") : NULL;
        if (!e.out) r = error_set(&e.x.err, E_IO, "%s cannot be written", path);
    }
    remote_path(&e.x, "/v1/audit?limit=1000");
    if (r == 0) r = remote_each(&e.x, "records", &e, export_one);
    remote_path(&e.x, "/v1/audit/head"); /* the last line: the head of what is above, or of a little more */
    if (r == 0) r = remote_get(&e.x);
    if (r == 0) r = export_one(&e, e.x.answer);
    if (e.out && e.out != stdout && fclose(e.out) != 0 && r == 0) r = error_set(&e.x.err, E_IO, "%s cannot be written", path);
    if (e.out == stdout && fflush(stdout) != 0 && r == 0) r = error_set(&e.x.err, E_IO, "the records cannot be written");
    if (r == 0 && path && rename(part, path) != 0) r = error_set(&e.x.err, E_IO, "%s cannot be written", path);
    if (r < 0 && part[0]) (void)remove(part);
    if (r == 0 && path) (void)buf_printf(&e.x.out, "%llu records and the head are in %s\n", (unsigned long long)e.records - 1, path);
    buf_fini(&e.line);
    return remote_close(&e.x, r);
}

/* ---- verify ---- */

/* What the last verify saw. */
struct seen {
    bool any;
    uint64_t size;
    uint8_t root[SHA256_SIZE], key[RECORD_PUBLIC_SIZE];
    char when[TIME_TEXT_MAX];
};

struct verify {
    struct remote x;
    struct merkle tree;
    struct seen before;
    uint8_t key[RECORD_PUBLIC_SIZE], root[SHA256_SIZE];
    const char *key_from;
    uint64_t size, epoch;
    int64_t time_ms;
    size_t inclusions;
    struct progress bar;
    char path[PATH_MAX]; /* of what is remembered */
};

/* HOME/audit/127.0.0.1_8080.json: one memory per gateway. */
static int seen_path(struct verify *v, const char *home) {
    char name[256];
    const char *url = client_url(v->x.client), *host = strstr(url, "://");
    size_t n = 0;
    for (const char *p = host ? host + 3 : url; *p && n + 1 < sizeof name; p++) {
        bool plain = (*p >= '0' && *p <= '9') || (*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') || *p == '-' || (*p == '.' && n > 0);
        name[n++] = plain ? *p : '_';
    }
    name[n] = '\0';
    int len = snprintf(v->path, sizeof v->path, "%s/audit/%s.json", home, name);
    return len > 0 && (size_t)len < sizeof v->path ? 0 : error_set(&v->x.err, E_INVALID, "the home %s is too long", home);
}

static int seen_read(struct verify *v) {
    struct buf text;
    struct json *root = NULL;
    struct seen *s = &v->before;
    if (!file_exists(v->path)) return 0;
    buf_init(&text, SEEN_MAX);
    int r = file_read(v->path, &text, &v->x.err);
    if (r == 0) r = json_parse(buf_span(&text), &root, &v->x.err);
    struct span root_hash = json_string(json_get(root, "root_hash")), key = json_string(json_get(root, "public_key"));
    if (r == 0 && (json_int(json_get(root, "format"), 0) != SEEN_FORMAT || root_hash.len != 2 * SHA256_SIZE || hex_decode(root_hash, s->root) != 0 || key.len != 2 * RECORD_PUBLIC_SIZE ||
                   hex_decode(key, s->key) != 0 || json_int(json_get(root, "tree_size"), -1) < 0))
        r = error_set(&v->x.err, E_INVALID, "no memory of a verification");
    if (r < 0) (void)error_prefix(&v->x.err, "%s: remove it to begin anew, if you know why it is broken", v->path);
    s->size = (uint64_t)json_int(json_get(root, "tree_size"), 0);
    span_copy(s->when, sizeof s->when, json_string(json_get(root, "verified")));
    s->any = r == 0;
    json_free(root);
    buf_fini(&text);
    return r;
}

static int seen_write(struct verify *v) {
    struct buf text;
    struct json_out w;
    char hex[2 * SHA256_SIZE + 1], when[TIME_TEXT_MAX], folder[PATH_MAX];
    buf_init(&text, SEEN_MAX);
    json_begin(&w, &text);
    json_object(&w);
    json_num(&w, "format", SEEN_FORMAT);
    json_str(&w, "gateway", client_url(v->x.client));
    hex_encode(v->key, sizeof v->key, hex);
    json_str(&w, "public_key", hex);
    json_num(&w, "tree_size", (int64_t)v->size);
    hex_encode(v->root, sizeof v->root, hex);
    json_str(&w, "root_hash", hex);
    json_str(&w, "verified", time_format(clock_wall_ms(), when));
    json_object_end(&w);
    span_copy(folder, sizeof folder, span_str(v->path));
    *strrchr(folder, '/') = '\0';
    int r = text.failed ? error_set(&v->x.err, text.failed, "no memory") : dir_make(folder, &v->x.err);
    if (r == 0) r = file_write_durable(v->path, buf_span(&text), 0600, &v->x.err);
    buf_fini(&text);
    return r;
}

static int read_message(struct verify *v, const ProtobufCMessageDescriptor *type, void *message) {
    int r = remote_get(&v->x);
    return r == 0 ? protojson_read(v->x.answer, type, message, &v->x.err) : r;
}

/* Which key counts: the one given, the one of the last time, or the one that the gateway shows the first time. */
static int choose_key(struct verify *v, const ProtobufCBinaryData *told) {
    const char *given = cli_text(v->x.cli, "--key");
    struct buf file;
    int r = 0;
    if (told->len != RECORD_PUBLIC_SIZE) return error_set(&v->x.err, E_DATA_LOSS, "the gateway shows no public key of its registry");
    if (given) {
        buf_init(&file, 4096);
        r = file_read(given, &file, &v->x.err);
        if (r == 0 && file.len != RECORD_PUBLIC_SIZE) r = error_set(&v->x.err, E_INVALID, "%s is no public key: a registry.pub has %d bytes", given, RECORD_PUBLIC_SIZE);
        if (r == 0) memcpy(v->key, buf_span(&file).data, RECORD_PUBLIC_SIZE);
        buf_fini(&file);
        v->key_from = given;
    } else if (v->before.any) {
        memcpy(v->key, v->before.key, RECORD_PUBLIC_SIZE);
        v->key_from = "the last verification";
    } else {
        memcpy(v->key, told->data, RECORD_PUBLIC_SIZE);
        v->key_from = "the gateway, seen for the first time";
    }
    if (r == 0 && memcmp(v->key, told->data, RECORD_PUBLIC_SIZE) != 0)
        r = error_set(&v->x.err, E_DENIED, "the registry's key is another one than that of %s: this is not the log that it signed", v->key_from);
    return r;
}

static int check_head(struct verify *v) {
    Genloop__V1__AuditHead *h = NULL;
    remote_path(&v->x, "/v1/audit/head");
    int r = read_message(v, &genloop__v1__audit_head__descriptor, &h);
    if (r < 0) return r;
    r = choose_key(v, &h->public_key);
    v->size = h->tree_size;
    v->time_ms = h->time_ms;
    if (r == 0 && h->root_hash.len != SHA256_SIZE) r = error_set(&v->x.err, E_DATA_LOSS, "the head's root is no SHA-256");
    if (r == 0) memcpy(v->root, h->root_hash.data, SHA256_SIZE);
    if (r == 0 && v->size) r = audit_head_verify(v->key, h->tree_size, h->root_hash.data, h->time_ms, span_of(h->signature.data, h->signature.len), &v->x.err);
    protojson_free(&h->base);
    return r;
}

static int follow_one(void *arg, const struct json *record) {
    struct verify *v = arg;
    Genloop__V1__AuditRecord *m = NULL;
    if (merkle_size(&v->tree) == v->size) return CLIENT_STREAM_DONE; /* what came since the head is the next one's */
    int r = protojson_read(record, &genloop__v1__audit_record__descriptor, (ProtobufCMessage **)(void *)&m, &v->x.err);
    if (r == 0) r = audit_follow(&v->tree, &v->epoch, v->key, m, &v->x.err);
    if (m) protojson_free(&m->base);
    progress_set(&v->bar, merkle_size(&v->tree), NULL);
    return r;
}

static int check_records(struct verify *v) {
    uint8_t root[SHA256_SIZE];
    remote_path(&v->x, "/v1/audit?limit=1000");
    progress_begin(&v->bar, "checked", v->size, "records");
    int r = remote_each(&v->x, "records", v, follow_one);
    progress_end(&v->bar, r == 0);
    if (r == 0 && merkle_size(&v->tree) < v->size)
        r = error_set(&v->x.err, E_DATA_LOSS, "the head is over %llu records, and only %llu are there", (unsigned long long)v->size, (unsigned long long)merkle_size(&v->tree));
    if (r == 0) r = merkle_root(&v->tree, v->size, root);
    if (r == 0 && memcmp(root, v->root, SHA256_SIZE) != 0) r = error_set(&v->x.err, E_DATA_LOSS, "the records give another root than the signed head");
    return r;
}

/* A proof of the gateway's, checked against the tree that was built here. */
static int fetch_path(struct verify *v, const char *name, uint64_t value, Genloop__V1__AuditProof **proof, uint8_t path[MERKLE_PROOF_MAX][SHA256_SIZE]) {
    char number[32];
    remote_path(&v->x, "/v1/audit/proof");
    (void)snprintf(number, sizeof number, "%llu", (unsigned long long)value);
    remote_query(&v->x, name, number);
    (void)snprintf(number, sizeof number, "%llu", (unsigned long long)v->size);
    remote_query(&v->x, "tree_size", number);
    int r = read_message(v, &genloop__v1__audit_proof__descriptor, proof);
    if (r < 0) return r;
    if ((*proof)->n_path > MERKLE_PROOF_MAX) return error_set(&v->x.err, E_DATA_LOSS, "a proof of the gateway's has %zu steps: none has so many", (*proof)->n_path);
    for (size_t i = 0; i < (*proof)->n_path; i++) {
        if ((*proof)->path[i].len != SHA256_SIZE) return error_set(&v->x.err, E_DATA_LOSS, "a step of a proof is no SHA-256");
        memcpy(path[i], (*proof)->path[i].data, SHA256_SIZE);
    }
    return 0;
}

static int check_inclusion(struct verify *v, uint64_t index) {
    Genloop__V1__AuditProof *p = NULL;
    uint8_t path[MERKLE_PROOF_MAX][SHA256_SIZE], leaf[SHA256_SIZE], own[SHA256_SIZE];
    int r = fetch_path(v, "index", index, &p, path);
    if (r == 0 && !p->record) r = error_set(&v->x.err, E_DATA_LOSS, "the proof of record %llu is without the record", (unsigned long long)index);
    if (r == 0) r = audit_leaf(p->record, leaf, &v->x.err);
    if (r == 0) r = merkle_leaf(&v->tree, index, own);
    if (r == 0 && memcmp(leaf, own, SHA256_SIZE) != 0) r = error_set(&v->x.err, E_DATA_LOSS, "record %llu reads differently when it is asked for alone", (unsigned long long)index);
    if (r == 0 && !merkle_verify_inclusion(leaf, index, v->size, (const uint8_t(*)[SHA256_SIZE])path, p->n_path, v->root))
        r = error_set(&v->x.err, E_DATA_LOSS, "the proof that record %llu is in the log does not hold", (unsigned long long)index);
    if (r == 0) v->inclusions++;
    if (p) protojson_free(&p->base);
    return r;
}

/* The log goes on from where it was: nothing that was seen has been changed or taken away. */
static int check_consistency(struct verify *v) {
    Genloop__V1__AuditProof *p = NULL;
    uint8_t path[MERKLE_PROOF_MAX][SHA256_SIZE], own[SHA256_SIZE];
    const struct seen *s = &v->before;
    if (!s->any || s->size == 0) return 0;
    if (s->size > v->size)
        return error_set(&v->x.err, E_DATA_LOSS, "the log had %llu records at %s, and has %llu now: records are gone", (unsigned long long)s->size, s->when, (unsigned long long)v->size);
    int r = merkle_root(&v->tree, s->size, own);
    if (r == 0 && memcmp(own, s->root, SHA256_SIZE) != 0)
        return error_set(&v->x.err, E_DATA_LOSS, "the first %llu records are not those that were verified at %s: the log was rewritten", (unsigned long long)s->size, s->when);
    if (r == 0) r = fetch_path(v, "from_size", s->size, &p, path);
    if (r == 0 && !merkle_verify_consistency(s->size, s->root, v->size, v->root, (const uint8_t(*)[SHA256_SIZE])path, p->n_path))
        r = error_set(&v->x.err, E_DATA_LOSS, "the proof that the log goes on from its %llu records of %s does not hold", (unsigned long long)s->size, s->when);
    if (p) protojson_free(&p->base);
    return r;
}

static int run_verify(struct cli *c) {
    struct verify v = {.key_from = ""};
    char home[PATH_MAX], hex[2 * SHA256_SIZE + 1], when[TIME_TEXT_MAX];
    int code = cli_home(c, home, sizeof home);
    if (code != CLI_DONE) return code;
    int r = remote_open(&v.x, c);
    merkle_init(&v.tree);
    if (r == 0) r = seen_path(&v, home);
    if (r == 0) r = seen_read(&v);
    if (r == 0) r = check_head(&v);
    if (r == 0) r = check_records(&v);
    if (r == 0) r = check_consistency(&v);
    /* The last one, and some spread over the rest. */
    for (uint64_t i = 0; r == 0 && v.size && i < INCLUSIONS; i++) {
        uint64_t index = i + 1 == INCLUSIONS ? v.size - 1 : v.size * i / INCLUSIONS;
        if (i == 0 || index != v.size * (i - 1) / INCLUSIONS) r = check_inclusion(&v, index);
    }
    if (r == 0) r = seen_write(&v);
    hex_encode(v.root, sizeof v.root, hex);
    if (cli_json(c)) {
        json_object(&v.x.json);
        json_flag(&v.x.json, "verified", r == 0);
        if (r < 0) json_str(&v.x.json, "failure", v.x.err.message);
        json_num(&v.x.json, "tree_size", (int64_t)v.size);
        json_num(&v.x.json, "checked", (int64_t)merkle_size(&v.tree));
        json_str(&v.x.json, "root_hash", hex);
        json_num(&v.x.json, "inclusion_proofs", (int64_t)v.inclusions);
        json_num(&v.x.json, "consistent_with", v.before.any ? (int64_t)v.before.size : 0);
        hex_encode(v.key, sizeof v.key, hex);
        json_str(&v.x.json, "public_key", hex);
        json_str(&v.x.json, "key_from", v.key_from);
        json_object_end(&v.x.json);
    } else if (r == 0) {
        (void)buf_printf(&v.x.out, "%llu records, root %s, head signed %s\n", (unsigned long long)v.size, hex, v.size ? time_format(v.time_ms, when) : "never");
        (void)buf_printf(&v.x.out, "every leaf, root and signature holds, and %zu proofs of inclusion\n", v.inclusions);
        if (v.before.any) (void)buf_printf(&v.x.out, "goes on from the %llu records that were verified at %s\n", (unsigned long long)v.before.size, v.before.when);
        (void)buf_printf(&v.x.out, "the registry's key is that of %s\n", v.key_from);
    }
    merkle_fini(&v.tree);
    return remote_close(&v.x, r);
}

static const struct cli_option LIST_OPTIONS[] = {
    {.name = "--limit", .kind = CLI_INT, .value = "N", .doc = "How many of the newest; default 50", .min = 1, .max = 10000000},
    {.name = "--all", .kind = CLI_FLAG, .doc = "From the beginning"},
    {0},
};
static const struct cli_option VERIFY_OPTIONS[] = {
    {.name = "--key", .kind = CLI_FILE, .value = "FILE", .doc = "The registry's public key (registry.pub) from a source that you trust"},
    {.name = "--home", .kind = CLI_DIR, .value = "DIR", .doc = "Where the head of this time is kept for the next; otherwise $GENLOOP_HOME, then ~/.genloop"},
    {0},
};
static const struct cli_option EXPORT_OPTIONS[] = {{.name = "--out", .kind = CLI_FILE, .value = "FILE", .doc = "Otherwise standard output"}, {0}};

const struct verb VERBS_AUDIT[] = {
    {.name = "audit list", .operands = "", .summary = "Who did what to which version, and why", .options = LIST_OPTIONS, .json = true, .run = run_list},
    {.name = "audit verify", .operands = "", .summary = "Prove that the audit log is whole and was not rewritten", .options = VERIFY_OPTIONS, .json = true, .run = run_verify,
     .help = "Fetches the signed head and all records, computes the Merkle tree (RFC 6962) again, checks every signature, proofs of inclusion, and that the log goes on from what it was at the\n"
             "last verification. Exit code 1, and what does not hold, where something does not.\n\n"
             "example: genloop audit verify --key registry.pub"},
    {.name = "audit export", .operands = "", .summary = "All records, and the head in the last line, as JSON lines", .options = EXPORT_OPTIONS, .run = run_export},
    {0},
};
