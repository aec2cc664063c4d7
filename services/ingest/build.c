#include "services/ingest/build.h"

#include "base/alloc.h"
#include "base/arena.h"
#include "base/json.h"
#include "base/log.h"
#include "base/pool.h"
#include "base/random.h"
#include "registry/fold.h"
#include "services/ingest/manifest.h"
#include "services/ingest/pairs.h"
#include "services/ingest/text.h"
#include "tokenizer/chat.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/train.h"
#include "wire/unpack.h"

struct doc { /* an accepted document; strings are the arena's */
    struct span id, title, source, language;
    char sha256[SHA256_HEX_MAX];
    enum media media;
};
struct piece { /* a record of one: what becomes a document of the version */
    uint32_t doc, start, len, number;
    bool held, several; /* several: its document has more records than this */
    uint64_t order;     /* of the hash: decides the split */
};
struct seen {
    uint64_t a, b; /* half a SHA-256 of the text without case and white space */
};

struct build {
    struct ingest *in;
    const struct build_request *request;
    void *arg;
    int (*on_progress)(void *arg, const char *phase, double fraction);
    struct arena arena;
    struct doc *docs;
    size_t n_docs, docs_capacity;
    struct piece *pieces;
    size_t n_pieces, pieces_capacity;
    struct seen *seen;
    size_t seen_slots, n_seen;
    struct tokenizer_trainer *trainer;
    bool trainer_full;
    struct tokenizer *tokenizer;
    struct pool *pool;
    struct dataset_facts facts;
    struct split train, held_out;
    struct buf scratch;
};

static int progress(struct build *b, const char *phase, double fraction) { return b->on_progress(b->arg, phase, fraction); }

/* ---- the documents ---- */

static int list_documents(void *arg, struct view_db *db, struct error *err) {
    struct build *b = arg;
    int r = 0;
    struct dataset_counts counts;
    view_dataset_counts(db, span_str(b->request->tenant), span_str(b->request->dataset), &counts);
    b->facts.received = counts.received;
    b->facts.rejected = counts.rejected;
    for (int i = 0; i < REASON_COUNT; i++) b->facts.reasons[i] = counts.reasons[i];
    struct view_stmt *s = view_sql(db, "SELECT packed FROM documents WHERE tenant = ?1 AND dataset = ?2 AND state = 2 ORDER BY id");
    if (!s) return view_failed(db, err);
    view_bind_span(s, 1, span_str(b->request->tenant));
    view_bind_span(s, 2, span_str(b->request->dataset));
    while (r == 0 && view_step(s)) {
        struct span packed = view_blob(s, 0);
        Genloop__V1__Document *d = MESSAGE_UNPACK(Document, document, packed);
        if (!d || !d->text) {
            if (d) genloop__v1__document__free_unpacked(d, NULL);
            continue; /* the fold has let in only what unpacks; without a text there is nothing to take */
        }
        if (array_reserve(&b->docs, &b->docs_capacity, b->n_docs + 1, sizeof *b->docs)) r = error_set(err, E_NOMEM, "no memory for %zu documents", b->n_docs + 1);
        else {
            struct doc *o = &b->docs[b->n_docs];
            *o = (struct doc){.id = arena_span(&b->arena, span_str(d->id)), .title = arena_span(&b->arena, span_str(d->title)), .source = arena_span(&b->arena, span_str(d->source)),
                              .language = arena_span(&b->arena, span_str(d->language))};
            span_copy(o->sha256, sizeof o->sha256, span_str(d->text->sha256));
            for (int m = 0; m < MEDIA_COUNT; m++)
                if (!strcmp(media_type((enum media)m), d->media_type)) {
                    o->media = (enum media)m;
                    break;
                }
            if (!o->id.data || !o->title.data || !o->source.data || !o->language.data) r = error_set(err, E_FULL, "the dataset has too many documents for one build");
            b->n_docs++;
            b->facts.redactions += d->redactions;
            tag_table_add(&b->facts.media, d->media_type, d->text_bytes);
            tag_table_add(&b->facts.languages, d->language, d->text_bytes);
            for (size_t i = 0; i < d->n_metadata; i++)
                if (!strcmp(d->metadata[i]->key, "license") || !strcmp(d->metadata[i]->key, "licence")) tag_table_add(&b->facts.licences, d->metadata[i]->value, d->text_bytes);
        }
        genloop__v1__document__free_unpacked(d, NULL);
    }
    view_done(s);
    if (!r) r = view_failed(db, err);
    b->facts.accepted = b->n_docs;
    tag_table_sort(&b->facts.media);
    tag_table_sort(&b->facts.languages);
    tag_table_sort(&b->facts.licences);
    return r;
}

/* ---- exact duplicates and the split ---- */

/* SHA-256 of the text, ASCII letters in lower case, runs of white space as one space. */
static void text_digest(struct span s, uint8_t digest[SHA256_SIZE]) {
    struct sha256 h;
    unsigned char block[4096];
    size_t n = 0;
    bool space = true;
    sha256_init(&h);
    for (size_t i = 0; i < s.len; i++) {
        unsigned char c = (unsigned char)s.data[i];
        if (c == ' ' || c == '\n' || c == '\t') {
            if (space) continue;
            c = ' ';
            space = true;
        } else {
            space = false;
            if (c >= 'A' && c <= 'Z') c = (unsigned char)(c + 32);
        }
        block[n++] = c;
        if (n == sizeof block) {
            sha256_update(&h, block, n);
            n = 0;
        }
    }
    while (n && block[n - 1] == ' ') n--;
    sha256_update(&h, block, n);
    sha256_final(&h, digest);
}

static int seen_before(struct build *b, struct seen key, bool *before) {
    if (b->n_seen * 2 >= b->seen_slots) {
        size_t slots = b->seen_slots ? b->seen_slots * 2 : 1024;
        struct seen *grown = mem_calloc(slots, sizeof *grown);
        if (!grown) return E_NOMEM;
        for (size_t i = 0; i < b->seen_slots; i++) {
            if (!b->seen[i].a && !b->seen[i].b) continue;
            size_t k = (size_t)b->seen[i].a & (slots - 1);
            while (grown[k].a || grown[k].b) k = (k + 1) & (slots - 1);
            grown[k] = b->seen[i];
        }
        mem_free(b->seen);
        b->seen = grown;
        b->seen_slots = slots;
    }
    size_t k = (size_t)key.a & (b->seen_slots - 1);
    while (b->seen[k].a || b->seen[k].b) {
        if (b->seen[k].a == key.a && b->seen[k].b == key.b) {
            *before = true;
            return 0;
        }
        k = (k + 1) & (b->seen_slots - 1);
    }
    b->seen[k] = key;
    b->n_seen++;
    *before = false;
    return 0;
}

/* A record as it is read and trained on: the turns of a conversation become paragraphs. Borrowed until the next call. */
static struct span record_text(struct buf *scratch, struct span record) {
    record = span_trim(record);
    if (!memchr(record.data ? record.data : "", TEXT_TURN, record.len)) return record;
    buf_clear(scratch);
    struct span turn;
    while (span_cut(&record, TEXT_TURN, &turn)) {
        if (scratch->len) buf_append_str(scratch, "\n\n");
        buf_append_span(scratch, span_trim(turn));
    }
    return buf_span(scratch);
}

static int take_record(struct build *b, size_t doc, struct span text, struct span record, uint32_t number, struct error *err) {
    uint8_t digest[SHA256_SIZE];
    struct seen key;
    bool before;
    b->facts.records++;
    text_digest(record, digest);
    memcpy(&key, digest, sizeof key);
    int r = seen_before(b, key, &before);
    if (r) return error_set(err, r, "no memory to find duplicates");
    if (before) {
        b->facts.duplicates++;
        return 0;
    }
    if (array_reserve(&b->pieces, &b->pieces_capacity, b->n_pieces + 1, sizeof *b->pieces)) return error_set(err, E_NOMEM, "no memory for %zu records", b->n_pieces + 1);
    /* Which side a text is on depends on itself and the seed alone, so versions that grow keep what they held out. */
    struct random random;
    uint64_t of_text;
    memcpy(&of_text, digest + 16, sizeof of_text);
    random_seed2(&random, of_text, b->request->seed);
    uint64_t order = random_u64(&random);
    b->pieces[b->n_pieces++] = (struct piece){.doc = (uint32_t)doc, .start = (uint32_t)(record.data - text.data), .len = (uint32_t)record.len, .number = number, .several = number > 0,
                                              .held = (double)(order >> 11) * 0x1p-53 < b->request->held_out, .order = order};
    return 0;
}

static int deduplicate(struct build *b, struct error *err) {
    int r = 0;
    for (size_t i = 0; i < b->n_docs && !r; i++) {
        struct file_map map;
        if (i % BUILD_BATCH == 0 && (r = progress(b, "deduplicating", (double)i / (double)b->n_docs))) return r;
        r = store_map(b->in->store, b->docs[i].sha256, &map, err);
        if (r) return error_prefix(err, "document %.*s", SPAN_ARG(b->docs[i].id));
        struct span text = span_of(map.data, map.len), rest = text, record;
        size_t first = b->n_pieces;
        for (uint32_t number = 0; !r && span_cut(&rest, TEXT_RECORD, &record); number++)
            if (span_trim(record).len) r = take_record(b, i, text, record, number, err);
        for (size_t k = first; k < b->n_pieces; k++) b->pieces[k].several |= b->n_pieces - first > 1;
        file_map_close(&map);
    }
    if (r) return r;
    if (!b->n_pieces) return error_set(err, E_STATE, "dataset %s has no accepted document", b->request->dataset);
    /* Both sides have something where there are two. */
    size_t held = 0, lowest = 0, highest = 0;
    for (size_t i = 0; i < b->n_pieces; i++) {
        held += b->pieces[i].held;
        if (b->pieces[i].order < b->pieces[lowest].order) lowest = i;
        if (b->pieces[i].order > b->pieces[highest].order) highest = i;
    }
    if (held == 0 && b->n_pieces > 1) b->pieces[lowest].held = true;
    if (held == b->n_pieces) b->pieces[highest].held = false;
    return 0;
}

/* ---- the tokenizer ---- */

static int on_merge(void *arg, uint32_t done, uint32_t wanted) { return progress(arg, "tokenizer", 0.5 + 0.5 * (double)done / (double)(wanted ? wanted : 1)); }

static int train_tokenizer(struct build *b, struct error *err) {
    struct tokenizer_train_options options = {.vocab_size = b->request->vocab};
    int r = tokenizer_trainer_new(&b->trainer, &options, err);
    struct file_map map = {0};
    size_t mapped = SIZE_MAX;
    for (size_t i = 0; i < b->n_pieces && !r; i++) {
        const struct piece *p = &b->pieces[i];
        if (p->held || b->trainer_full) continue;
        if (i % BUILD_BATCH == 0 && (r = progress(b, "tokenizer", 0.5 * (double)i / (double)b->n_pieces))) break;
        if (mapped != p->doc) {
            file_map_close(&map);
            map = (struct file_map){0};
            if ((r = store_map(b->in->store, b->docs[p->doc].sha256, &map, err))) break;
            mapped = p->doc;
        }
        r = tokenizer_trainer_feed(b->trainer, record_text(&b->scratch, span_sub(span_of(map.data, map.len), p->start, p->len)), err);
        if (r == E_FULL) { /* the language's words are known well enough by now */
            log_warn("ingest.tokenizer", "%s", err->message);
            b->trainer_full = true;
            r = 0;
        }
    }
    file_map_close(&map);
    if (!r) r = tokenizer_trainer_finish(b->trainer, &b->tokenizer, b, on_merge, err);
    return r;
}

/* name@version, an alias or a name → the sha256 of its tokenizer.json, by the signed records of the registry. */
static int model_tokenizer(struct build *b, struct span model, char sha256[SHA256_HEX_MAX], struct error *err) {
    char path[4096];
    struct registry_key key;
    struct fold *fold = NULL;
    struct eventlog_view *view = NULL;
    struct buf manifest;
    struct json *json = NULL;
    buf_init(&manifest, 16 << 20);
    int r = registry_key_load(service_path(b->in->service, "keys", path, sizeof path), false, &key, err);
    enum topic topics[] = {TOPIC_MODELS, TOPIC_ALIASES};
    if (!r && !(fold = fold_new(key.public_key))) r = error_set(err, E_NOMEM, "no memory");
    if (!r) r = eventlog_view_open(b->in->log, topics, 2, NULL, 0, &view, err);
    while (!r && !eventlog_view_caught_up(view)) {
        struct event e;
        enum fold_result result;
        int polled = eventlog_view_poll(view, 100, &e, err);
        if (polled == 0) r = fold_event(fold, &e, &result, err);
        else if (polled != E_AGAIN) r = polled;
        else r = progress(b, "tokenizer", 0);
    }
    const Genloop__V1__ModelVersion *version = NULL;
    if (!r) r = fold_resolve(fold, model, 0, &version, NULL, err);
    if (!r && !version->directory) r = error_set(err, E_NOT_FOUND, "model %.*s has no files", SPAN_ARG(model));
    if (!r) r = store_get(b->in->store, version->directory->sha256, &manifest, err);
    if (!r) r = json_parse(buf_span(&manifest), &json, err);
    if (!r) {
        struct span found = json_string(json_get(json_get(json_get(json, "files"), "tokenizer.json"), "sha256"));
        if (found.len == 64) span_copy(sha256, SHA256_HEX_MAX, found);
        else r = error_set(err, E_NOT_FOUND, "model %.*s has no tokenizer.json", SPAN_ARG(model));
    }
    json_free(json);
    buf_fini(&manifest);
    if (view) eventlog_view_close(view);
    fold_free(fold);
    return r;
}

static int take_tokenizer(struct build *b, struct error *err) {
    struct span wanted = span_str(b->request->tokenizer);
    char sha256[SHA256_HEX_MAX];
    uint8_t digest[SHA256_SIZE];
    struct buf text;
    buf_init(&text, 256 << 20);
    int r = 0;
    if (wanted.len == 64 && !hex_decode(wanted, digest)) span_copy(sha256, sizeof sha256, wanted);
    else r = model_tokenizer(b, wanted, sha256, err);
    if (!r) r = store_get(b->in->store, sha256, &text, err);
    if (!r) r = tokenizer_parse(buf_span(&text), &b->tokenizer, err);
    buf_fini(&text);
    return r;
}

static int store_tokenizer(struct build *b, struct error *err) {
    struct buf text;
    buf_init(&text, 256 << 20);
    int r = tokenizer_write(b->tokenizer, &text);
    if (!r) r = store_put(b->in->store, buf_span(&text), &b->facts.tokenizer, err);
    buf_clear(&text);
    if (!r) r = tokenizer_write_config(b->tokenizer, CHAT_TEMPLATE_CHATML, 0, &text);
    if (!r) r = store_put(b->in->store, buf_span(&text), &b->facts.tokenizer_config, err);
    buf_fini(&text);
    if (r && err && !err->code) (void)error_set(err, r, "the tokenizer could not be written");
    return r;
}

/* ---- tokens ---- */

struct encoding { /* one document of a batch */
    const struct piece *piece;
    struct file_map map;
    struct span text;
    struct buf joined;
    struct tokens ids;
    int r;
    struct error err;
};
struct batch {
    struct build *b;
    struct encoding items[BUILD_BATCH];
    size_t n;
};

static void encode(void *arg, size_t item, int thread) {
    struct batch *batch = arg;
    struct encoding *e = &batch->items[item];
    (void)thread;
    tokens_clear(&e->ids);
    e->r = store_map(batch->b->in->store, batch->b->docs[e->piece->doc].sha256, &e->map, &e->err);
    if (e->r) return;
    e->text = record_text(&e->joined, span_sub(span_of(e->map.data, e->map.len), e->piece->start, e->piece->len));
    /* What a document says can be no special token. */
    e->r = tokenizer_encode(batch->b->tokenizer, e->text, TOKENIZER_NO_SPECIALS, &e->ids, &e->err);
}

struct pair_sink {
    struct split *split;
    struct error *err;
};
static int on_pair(void *arg, const struct span *turns, int n) {
    struct pair_sink *sink = arg;
    return split_add_pair(sink->split, turns, n, sink->err);
}

static int write_batch(struct build *b, struct batch *batch, uint32_t end_of_text, struct error *err) {
    int r = 0;
    pool_run(b->pool, batch->n, batch, encode);
    for (size_t i = 0; i < batch->n; i++) {
        struct encoding *e = &batch->items[i];
        const struct doc *d = &b->docs[e->piece->doc];
        struct split *split = e->piece->held ? &b->held_out : &b->train;
        if (!r && e->r) {
            r = e->r;
            if (err) *err = e->err;
        }
        if (!r) {
            char id[96];
            if (e->piece->several) snprintf(id, sizeof id, "%.*s#%u", SPAN_ARG(d->id), e->piece->number);
            else span_copy(id, sizeof id, d->id);
            r = split_add(split, e->ids.ids, e->ids.len, end_of_text, span_str(id), e->text, d->title, d->source, d->language, err);
        }
        if (!r) {
            struct pair_sink sink = {split, err};
            r = pairs_draw(d->title, span_sub(span_of(e->map.data, e->map.len), e->piece->start, e->piece->len), d->media, &sink, on_pair);
        }
        file_map_close(&e->map);
        e->map = (struct file_map){0};
    }
    batch->n = 0;
    return r;
}

static int write_tokens(struct build *b, struct error *err) {
    uint32_t end_of_text = tokenizer_find(b->tokenizer, SPAN(TOKENIZER_END_OF_TEXT));
    if (end_of_text == TOKEN_NONE) end_of_text = tokenizer_eos(b->tokenizer);
    if (end_of_text == TOKEN_NONE) return error_set(err, E_INVALID, "the tokenizer has no %s to part documents with", TOKENIZER_END_OF_TEXT);
    bool wide = tokenizer_vocab_size(b->tokenizer) > 65536;
    struct batch *batch = mem_zalloc(sizeof *batch);
    if (!batch) return error_set(err, E_NOMEM, "no memory");
    batch->b = b;
    for (size_t i = 0; i < BUILD_BATCH; i++) buf_init(&batch->items[i].joined, 64 << 20);
    int r = split_open(&b->train, b->in->store, wide, err);
    if (!r) r = split_open(&b->held_out, b->in->store, wide, err);
    for (size_t i = 0; i < b->n_pieces && !r; i++) {
        batch->items[batch->n++].piece = &b->pieces[i];
        if (batch->n < BUILD_BATCH && i + 1 < b->n_pieces) continue;
        r = write_batch(b, batch, end_of_text, err);
        if (!r) r = progress(b, "tokens", (double)(i + 1) / (double)b->n_pieces);
    }
    if (!r) r = progress(b, "writing", 0);
    if (!r) r = split_finish(&b->train, err);
    if (!r) r = split_finish(&b->held_out, err);
    for (size_t i = 0; i < BUILD_BATCH; i++) {
        buf_fini(&batch->items[i].joined);
        tokens_fini(&batch->items[i].ids);
    }
    mem_free(batch);
    return r;
}

/* ---- the whole ---- */

int build_version(struct ingest *in, const struct build_request *request, uint32_t version, int64_t created_time_ms, void *arg,
                  int (*on_progress)(void *arg, const char *phase, double fraction), struct build_result *result, struct error *err) {
    struct build *b = mem_zalloc(sizeof *b);
    if (!b) return error_set(err, E_NOMEM, "no memory");
    *b = (struct build){.in = in, .request = request, .arg = arg, .on_progress = on_progress};
    arena_init(&b->arena, (size_t)BUILD_MEMORY_MAX_MIB << 20);
    buf_init(&b->scratch, 64 << 20);
    struct buf text;
    buf_init(&text, 64 << 20);
    int r = view_read(in->view, b, list_documents, err);
    if (!r) r = deduplicate(b, err);
    if (!r) r = request->tokenizer[0] ? take_tokenizer(b, err) : train_tokenizer(b, err);
    if (!r) r = store_tokenizer(b, err);
    if (!r && !(b->pool = pool_new((int)in->settings->threads))) r = error_set(err, E_NOMEM, "no threads to encode with");
    if (!r) r = write_tokens(b, err);
    if (!r) {
        struct dataset_facts *f = &b->facts;
        f->name = request->dataset;
        f->tenant = request->tenant;
        f->build_id = request->build_id;
        f->version = version;
        f->vocab = tokenizer_vocab_size(b->tokenizer);
        f->created_time_ms = created_time_ms;
        f->train = &b->train;
        f->held_out = &b->held_out;
        f->tokenizer_trained = !request->tokenizer[0];
        f->held_out_share = request->held_out;
        f->seed = request->seed;
        f->reasons[REASON_DUPLICATE] += f->duplicates;
        r = manifest_write(f, &text);
        if (!r) r = store_put(in->store, buf_span(&text), &result->manifest, err);
        buf_clear(&text);
        if (!r) r = dataset_card_write(f, &text);
        if (!r) r = store_put(in->store, buf_span(&text), &result->card, err);
        result->tokenizer = f->tokenizer;
        result->documents = b->train.documents + b->held_out.documents;
        result->held_out = b->held_out.documents;
        result->rejected = f->rejected + f->duplicates;
        result->text_bytes = b->train.text_bytes + b->held_out.text_bytes;
        result->tokens = b->train.tokens_count;
        result->tokens_held_out = b->held_out.tokens_count;
        result->pairs = b->train.pairs_count;
        result->pairs_held_out = b->held_out.pairs_count;
        memcpy(result->reasons, f->reasons, sizeof result->reasons);
    }
    if (r && err && !err->code) (void)error_set(err, r, "the dataset could not be built (%s)", error_kind(r)->name);
    split_close(&b->train);
    split_close(&b->held_out);
    tokenizer_trainer_free(b->trainer);
    tokenizer_free(b->tokenizer);
    pool_free(b->pool);
    mem_free(b->seen);
    mem_free(b->pieces);
    mem_free(b->docs);
    buf_fini(&text);
    buf_fini(&b->scratch);
    arena_fini(&b->arena);
    mem_free(b);
    return r;
}
