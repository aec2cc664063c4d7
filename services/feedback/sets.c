#include "sets.h"

#include <string.h>
#include <zstd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "store/rows_manifest.h"

enum { ZSTD_LEVEL = 3 };

struct split {
    struct object_ref ref;
    uint64_t rows, text_bytes;
};

static int write_split(struct store *store, const struct pair_row *rows, size_t n, bool supervised, bool held_out, struct split *split, struct error *err) {
    struct buf lines;
    buf_init(&lines, SETS_ROWS_BYTES_MAX);
    int r = 0;
    for (size_t i = 0; i < n && r == 0; i++) {
        if (rows[i].held_out != held_out) continue;
        r = pairs_write_row(&rows[i], supervised, &lines);
        split->rows++;
    }
    split->text_bytes = lines.len;
    size_t room = ZSTD_compressBound(lines.len);
    void *packed = r == 0 ? mem_alloc(room) : NULL;
    if (r == 0 && !packed) r = E_NOMEM;
    if (r != 0)
        error_set(err, r, "the rows of this set cannot be held");
    else {
        size_t size = ZSTD_compress(packed, room, buf_span(&lines).data, lines.len, ZSTD_LEVEL);
        r = ZSTD_isError(size) ? error_set(err, E_INTERNAL, "zstd: %s", ZSTD_getErrorName(size)) : store_put(store, span_of(packed, size), &split->ref, err);
    }
    mem_free(packed);
    buf_fini(&lines);
    return r;
}

static int write_manifest(struct store *store, const struct set_built *b, bool supervised, const struct split *train, const struct split *held_out, struct object_ref *ref,
                          struct error *err) {
    const struct rows_split splits[] = {{"train", train->ref, train->rows}, {"held_out", held_out->ref, held_out->rows}};
    return rows_manifest_put(store, b->name, b->version, supervised ? "supervised" : "preference", splits, 2, ref, err);
}

static int write_card(struct store *store, const struct set_built *b, bool supervised, struct span model, const struct pair_set *set, uint64_t closed, int64_t now_ms,
                      struct object_ref *ref, struct error *err) {
    struct buf out;
    char when[TIME_TEXT_MAX];
    buf_init(&out, 64 * 1024);
    buf_printf(&out, "# %s, version %u\n\n", b->name, b->version);
    buf_printf(&out, "%s drawn from what people said of the answers of %.*s, built %s.\n\n", supervised ? "Corrected answers" : "Pairs of answers, one preferred to the other,",
               SPAN_ARG(model), time_format(now_ms, when));
    buf_printf(&out, "| | rows |\n|---|---|\n| training | %llu |\n| held out (by a hash of the prompt) | %llu |\n\n", (unsigned long long)b->rows, (unsigned long long)b->rows_held_out);
    buf_printf(&out, "From %lld judgements. Not used, by reason: interaction not known %llu, prompts differ %llu, answers are the same %llu, incomplete %llu, repeated %llu, "
                     "content hashed only, expired or erased %llu.\n",
               (long long)b->judgements, (unsigned long long)set->unknown_interaction, (unsigned long long)set->different_prompts, (unsigned long long)set->same_answers,
               (unsigned long long)set->incomplete, (unsigned long long)set->repeated, (unsigned long long)closed);
    int r = out.failed ? error_set(err, out.failed, "no memory for a data card") : store_put(store, buf_span(&out), ref, err);
    buf_fini(&out);
    return r;
}

static void refer(Genloop__V1__ObjectRef *to, struct object_ref *ref, const char *media_type) {
    genloop__v1__object_ref__init(to);
    to->sha256 = ref->sha256;
    to->size_bytes = ref->size;
    to->media_type = (char *)(uintptr_t)media_type;
}

static int announce(struct eventlog *log, struct set_built *b, bool supervised, struct span build_id, const char *tenant, int64_t now_ms, struct object_ref *manifest,
                    struct object_ref *card, uint64_t text_bytes, struct error *err) {
    Genloop__V1__Dataset d = GENLOOP__V1__DATASET__INIT;
    Genloop__V1__ObjectRef manifest_ref, card_ref;
    char id[SETS_NAME_MAX + 16], *build = span_dup(build_id);
    if (!build) return error_set(err, E_NOMEM, "no memory for a data set");
    refer(&manifest_ref, manifest, "application/json");
    refer(&card_ref, card, "text/markdown");
    d.name = b->name;
    d.tenant = (char *)(uintptr_t)tenant;
    d.version = b->version;
    d.state = GENLOOP__V1__DATASET_STATE__DATASET_STATE_READY;
    d.event_time_ms = now_ms;
    d.kind = supervised ? GENLOOP__V1__DATASET_KIND__DATASET_KIND_SUPERVISED : GENLOOP__V1__DATASET_KIND__DATASET_KIND_PREFERENCE;
    d.build_id = build;
    d.manifest = &manifest_ref;
    d.card = &card_ref;
    d.text_bytes = text_bytes;
    d.samples = b->rows;
    d.samples_held_out = b->rows_held_out;
    snprintf(id, sizeof id, "%s@%u", b->name, b->version);
    struct buf packed;
    buf_init(&packed, EVENT_VALUE_MAX);
    int r = record_pack(&d.base, &packed);
    struct event e = {.topic = TOPIC_DATASETS, .key = span_str(b->name), .value = buf_span(&packed), .id = span_str(id)};
    r = r ? error_set(err, r, "no memory for a data set") : eventlog_publish(log, &e, err);
    buf_fini(&packed);
    mem_free(build);
    return r;
}

static int build_rows(struct facts *facts, struct eventlog *log, struct span model, bool supervised, struct span build_id, const char *tenant, int64_t now_ms,
                      struct arena *arena, struct set_built *b, struct error *err) {
    struct facts_material m;
    struct pair_set set;
    int r = facts_material(facts, model, arena, &m, err);
    if (r == 0) r = pairs_build(m.interactions, m.n_interactions, m.judgements, m.n_judgements, arena, &set, err);
    if (r != 0) return r;
    const struct pair_row *rows = supervised ? set.supervised : set.preferences;
    size_t n = supervised ? set.n_supervised : set.n_preferences;
    b->judgements = m.seen;
    b->rows_held_out = supervised ? set.n_supervised_held_out : set.n_preferences_held_out;
    b->rows = n - b->rows_held_out;
    if (b->rows == 0)
        return error_set(err, E_STATE,
                         "there is nothing to learn from yet: %lld judgements of %.*s gave %zu rows, %zu of them held out (interaction not known %llu, content not open %llu, prompts "
                         "differ %llu, same answers %llu, incomplete %llu)",
                         (long long)m.seen, SPAN_ARG(model), n, (size_t)b->rows_held_out, (unsigned long long)set.unknown_interaction, (unsigned long long)m.closed,
                         (unsigned long long)set.different_prompts, (unsigned long long)set.same_answers, (unsigned long long)set.incomplete);
    r = facts_dataset_highest(facts, span_str(b->name), &b->version, err);
    if (r != 0) return r;
    b->version++;
    struct split train = {0}, held_out = {0};
    struct object_ref manifest, card;
    r = write_split(facts->store, rows, n, supervised, false, &train, err);
    if (r == 0) r = write_split(facts->store, rows, n, supervised, true, &held_out, err);
    if (r == 0) r = write_manifest(facts->store, b, supervised, &train, &held_out, &manifest, err);
    if (r == 0) r = write_card(facts->store, b, supervised, model, &set, m.closed, now_ms, &card, err);
    if (r == 0) r = announce(log, b, supervised, build_id, tenant, now_ms, &manifest, &card, train.text_bytes + held_out.text_bytes, err);
    return r;
}

int sets_build(struct facts *facts, struct eventlog *log, struct span model, bool supervised, struct span build_id, const char *tenant, int64_t now_ms,
               struct set_built *built, struct error *err) {
    struct set_built b = {0};
    Genloop__V1__Dataset *there = NULL;
    snprintf(b.name, sizeof b.name, "%.*s-%s", (int)(model.len < MODEL_NAME_MAX ? model.len : MODEL_NAME_MAX - 1), model.data, supervised ? "supervised" : "preferences");
    /* All that was published before this call is to be seen: judgements that were acknowledged, and a former version of this set. */
    int r = view_wait(facts->view, 10000, err);
    if (r != 0) return r;
    r = facts_dataset_by_build(facts, span_str(b.name), build_id, &there, NULL);
    if (r == 0) {
        b.version = there->version;
        b.rows = there->samples;
        b.rows_held_out = there->samples_held_out;
        b.existed = true;
        record_free(&there->base);
        r = facts_judgements(facts, model, &b.judgements, err);
    } else {
        struct arena arena;
        arena_init(&arena, SETS_MEMORY_MAX);
        r = build_rows(facts, log, model, supervised, build_id, tenant, now_ms, &arena, &b, err);
        arena_fini(&arena);
    }
    if (r == 0) *built = b;
    return r;
}
