/*
 * Files for fine-tuning as a version of a dataset. The build's id follows from the files, so the same files again are the same version, whoever asks and however often; of two that
 * build it at once both write the same event. Rows go from the mapped file through zstd into the store: nothing is held whole.
 */
#include "base/alloc.h"
#include "base/clock.h"
#include "services/ingest/file_rows.h"
#include "services/ingest/files.h"
#include "services/ingest/shards.h"
#include "store/rows_manifest.h"
#include "wire/unpack.h"

enum { VIEW_WAIT_MS = 10000,
       ROW_MAX = 3 * FILE_LINE_MAX,
       CLAIMS_MAX = 8 };

struct building {
    struct ingest *in;
    struct span tenant;
    const Genloop__V1__DatasetFromFilesRequest *request;
    Genloop__V1__File *training, *validation; /* owned; validation NULL: none */
    char build_id[SHA256_HEX_MAX + 8];
    struct shard_ref train, held_out;
    uint64_t text_bytes;
    uint32_t highest;
    Genloop__V1__Dataset *there; /* owned; NULL: not built yet */
};

static int look(void *arg, struct view_db *db, struct error *err) {
    struct building *b = arg;
    struct view_stmt *s;
    struct span packed;
    if (view_dataset_by_build(db, b->tenant, span_str(b->build_id), &s, &packed)) {
        b->there = MESSAGE_UNPACK(Dataset, dataset, packed);
        view_done(s);
    }
    b->highest = view_dataset_highest(db, b->tenant, span_str(b->training->id));
    return view_failed(db, err);
}

static int look_now(struct building *b, struct error *err) {
    if (b->there) message_free(&b->there->base);
    b->there = NULL;
    int r = view_wait(b->in->view, VIEW_WAIT_MS, err);
    return r ? r : view_read(b->in->view, b, look, err);
}

/* Which files. A file of another purpose or kind is refused by name, before anything is written. */
static int find_file(struct building *b, const char *id, const char *param, Genloop__V1__File **file, struct error *err) {
    bool dpo = b->request->kind == GENLOOP__V1__DATASET_KIND__DATASET_KIND_PREFERENCE;
    int r = files_find(b->in, b->tenant, id, param, file, err);
    if (r < 0) return r;
    if (strcmp((*file)->purpose, "fine-tune") != 0) return error_set_param(err, E_INVALID, param, "file %s has purpose %s: upload it with purpose fine-tune", id, (*file)->purpose);
    if ((*file)->rows != b->request->kind)
        return error_set_param(err, E_INVALID, param, "file %s holds %s; this method needs %s", id, file_rows_name(dpo ? FILE_ROWS_SUPERVISED : FILE_ROWS_PREFERENCE),
                               file_rows_name(dpo ? FILE_ROWS_PREFERENCE : FILE_ROWS_SUPERVISED));
    return 0;
}

static void name_build(struct building *b) {
    struct sha256 h;
    uint8_t digest[SHA256_SIZE];
    char hex[SHA256_HEX_MAX];
    sha256_init(&h);
    sha256_update(&h, b->training->id, strlen(b->training->id));
    sha256_update(&h, "", 1);
    if (b->validation) sha256_update(&h, b->validation->id, strlen(b->validation->id));
    sha256_final(&h, digest);
    hex_encode(digest, sizeof digest, hex);
    snprintf(b->build_id, sizeof b->build_id, "files-%.40s", hex);
}

static int write_rows(struct building *b, const Genloop__V1__File *file, struct shard_ref *ref, struct error *err) {
    struct file_map map = {0};
    struct rows *rows = NULL;
    struct buf row;
    struct span rest, line;
    uint64_t number = 0;
    buf_init(&row, ROW_MAX);
    int r = store_map(b->in->store, file->content->sha256, &map, err);
    if (!r) r = rows_open(b->in->store, &rows, err);
    rest = span_of(map.data, map.len);
    while (!r && file_line_next(&rest, &number, &line)) {
        enum file_rows kind;
        buf_clear(&row);
        r = file_row_read(line, &kind, &row, err);
        if (r < 0) (void)error_prefix(err, "file %s, line %llu", file->id, (unsigned long long)number);
        else r = rows_add(rows, buf_span(&row), err);
    }
    b->text_bytes += map.len;
    file_map_close(&map);
    if (!r) r = rows_finish(&rows, ref, err);
    rows_close(rows);
    buf_fini(&row);
    return r;
}

static int write_manifest(struct building *b, uint32_t version, struct object_ref *ref, struct error *err) {
    const struct rows_split splits[] = {{"train", b->train.object, b->train.count}, {"held_out", b->held_out.object, b->held_out.count}};
    const char *kind = b->request->kind == GENLOOP__V1__DATASET_KIND__DATASET_KIND_PREFERENCE ? "preference" : "supervised";
    return rows_manifest_put(b->in->store, b->training->id, version, kind, splits, b->validation ? 2 : 1, ref, err);
}

/* What a client named a file goes into a table: one line, whatever it is. */
static void put_name(struct buf *out, const char *name) {
    for (; *name; name++) {
        if (strchr("|\\`<>*_[]", *name)) buf_append_char(out, '\\');
        buf_append_char(out, (unsigned char)*name < ' ' ? ' ' : *name);
    }
}

static int write_card(struct building *b, uint32_t version, struct object_ref *ref, struct error *err) {
    const struct {
        const char *split;
        const Genloop__V1__File *file;
        uint64_t rows;
    } parts[] = {{"training", b->training, b->train.count}, {"held out", b->validation, b->held_out.count}};
    struct buf out;
    buf_init(&out, 64 * 1024);
    buf_printf(&out, "# %s, version %u\n\n%s uploaded for fine-tuning.\n\n| | file | name | rows |\n|---|---|---|---|\n", b->training->id, version,
               b->request->kind == GENLOOP__V1__DATASET_KIND__DATASET_KIND_PREFERENCE ? "Pairs of answers, one preferred to the other," : "Examples");
    for (size_t i = 0; i < 2; i++) {
        if (!parts[i].file) continue;
        buf_printf(&out, "| %s | %s, sha256:%s | ", parts[i].split, parts[i].file->id, parts[i].file->content->sha256);
        put_name(&out, parts[i].file->filename);
        buf_printf(&out, " | %llu |\n", (unsigned long long)parts[i].rows);
    }
    int r = out.failed ? error_set(err, out.failed, "no memory for a data card") : store_put(b->in->store, buf_span(&out), ref, err);
    buf_fini(&out);
    return r;
}

static void refer(Genloop__V1__ObjectRef *to, struct object_ref *ref, const char *media_type) {
    genloop__v1__object_ref__init(to);
    to->sha256 = ref->sha256;
    to->size_bytes = ref->size;
    to->media_type = (char *)(uintptr_t)media_type;
}

static int announce(struct building *b, uint32_t version, struct error *err) {
    Genloop__V1__Dataset d = GENLOOP__V1__DATASET__INIT;
    Genloop__V1__ObjectRef manifest_ref, card_ref;
    struct object_ref manifest, card;
    struct buf packed;
    char id[EVENT_ID_MAX], *tenant = span_dup(b->tenant);
    buf_init(&packed, EVENT_VALUE_MAX);
    int r = tenant ? write_manifest(b, version, &manifest, err) : error_set(err, E_NOMEM, "no memory for a dataset");
    if (!r) r = write_card(b, version, &card, err);
    if (!r) {
        refer(&manifest_ref, &manifest, "application/json");
        refer(&card_ref, &card, "text/markdown");
        d.name = b->training->id;
        d.tenant = tenant;
        d.version = version;
        d.state = GENLOOP__V1__DATASET_STATE__DATASET_STATE_READY;
        d.event_time_ms = clock_wall_ms();
        d.kind = b->request->kind;
        d.build_id = b->build_id;
        d.manifest = &manifest_ref;
        d.card = &card_ref;
        d.text_bytes = b->text_bytes;
        d.samples = b->train.count;
        d.samples_held_out = b->held_out.count;
        snprintf(id, sizeof id, "%.80s.%u.ready", b->build_id, version);
        struct event e = {.topic = TOPIC_DATASETS, .key = span_str(d.name), .id = span_str(id)};
        r = pack_message(&d.base, &packed);
        e.value = buf_span(&packed);
        r = r ? error_set(err, r, "no memory for a dataset") : eventlog_publish(b->in->log, &e, err);
    }
    buf_fini(&packed);
    mem_free(tenant);
    return r;
}

static int build(struct building *b, struct error *err) {
    int r = look_now(b, err);
    if (!r && b->there && b->there->state == GENLOOP__V1__DATASET_STATE__DATASET_STATE_REMOVED)
        return error_set_param(err, E_STATE, "training_file", "dataset %s@%u was built from these files and removed: upload them again", b->there->name, b->there->version);
    if (r || b->there) return r;
    r = write_rows(b, b->training, &b->train, err);
    if (!r && b->validation) r = write_rows(b, b->validation, &b->held_out, err);
    /* Another build of this name may claim the version first: then the next one. */
    for (int i = 0; !r && !b->there && i < CLAIMS_MAX; i++) {
        r = announce(b, b->highest + 1, err);
        if (!r) r = look_now(b, err);
    }
    if (!r && !b->there) r = error_set(err, E_ABORTED, "other datasets took the versions of %s: try again", b->training->id);
    return r;
}

int files_dataset(struct ingest *in, struct span tenant, struct span request, struct buf *out, struct error *err) {
    Genloop__V1__DatasetFromFilesRequest *q = MESSAGE_UNPACK(DatasetFromFilesRequest, dataset_from_files_request, request);
    struct building b = {.in = in, .tenant = tenant, .request = q};
    if (!q) return error_set(err, E_INVALID, "the request is no DatasetFromFilesRequest");
    int r = q->kind == GENLOOP__V1__DATASET_KIND__DATASET_KIND_SUPERVISED || q->kind == GENLOOP__V1__DATASET_KIND__DATASET_KIND_PREFERENCE
                ? view_wait(in->view, VIEW_WAIT_MS, err)
                : error_set_param(err, E_INVALID, "kind", "kind must be DATASET_KIND_SUPERVISED or DATASET_KIND_PREFERENCE");
    if (!r) r = find_file(&b, q->training_file, "training_file", &b.training, err);
    if (!r && q->validation_file[0]) r = find_file(&b, q->validation_file, "validation_file", &b.validation, err);
    if (!r) {
        name_build(&b);
        r = build(&b, err);
    }
    if (!r) r = pack_message(&b.there->base, out);
    if (b.there) message_free(&b.there->base);
    if (b.training) message_free(&b.training->base);
    if (b.validation) message_free(&b.validation->base);
    message_free(&q->base);
    return r;
}
