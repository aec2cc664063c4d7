/* Documents → what a dataset version of services/ingest has, as plain files. The same cleaning, the same pairs, the same tokenizer; a document is held out by a hash of its text. */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "base/alloc.h"
#include "base/file.h"
#include "base/json.h"
#include "base/pool.h"
#include "base/sha256.h"
#include "lab.h"
#include "services/ingest/clean.h"
#include "services/ingest/pairs.h"
#include "tokenizer/chat.h"
#include "tokenizer/train.h"

enum { FILE_MAX = 1 << 20, DEPTH_MAX = 16, HELD_OUT_PERCENT = 10, FILES_AT_ONCE = 256 };

struct document {
    char *source, title[TEXT_TITLE_MAX];
    struct buf text;
    enum media media;
    bool held;
};
struct corpus {
    char **files;
    size_t n_files, files_capacity;
    struct document *texts;
    size_t n, capacity;
    uint64_t *seen; /* halves of digests, open addressing */
    size_t seen_slots;
    size_t bytes, bytes_max;
    struct clean_result results[FILES_AT_ONCE];
    size_t first; /* file of results[0] */
    struct buf train_tokens, train_pairs, held_documents, held_pairs;
    size_t n_pairs[2];
};

static int add_file(struct corpus *c, const char *path) {
    if (array_reserve(&c->files, &c->files_capacity, c->n_files + 1, sizeof *c->files)) return E_NOMEM;
    return (c->files[c->n_files++] = mem_strdup(path)) ? 0 : E_NOMEM;
}

struct walk {
    struct corpus *corpus;
    const char *dir;
    int depth;
};
static int visit(struct corpus *c, const char *path, int depth);
static int on_entry(void *arg, const char *name) {
    struct walk *w = arg;
    char path[LAB_PATH_MAX];
    snprintf(path, sizeof path, "%s/%s", w->dir, name);
    return visit(w->corpus, path, w->depth);
}
static int visit(struct corpus *c, const char *path, int depth) {
    struct stat st;
    struct walk w = {c, path, depth + 1};
    if (lstat(path, &st) < 0) return 0;
    if (S_ISDIR(st.st_mode)) return depth < DEPTH_MAX ? dir_list(path, &w, on_entry, NULL) : 0;
    return S_ISREG(st.st_mode) && st.st_size <= FILE_MAX ? add_file(c, path) : 0;
}

static void clean(void *arg, size_t item, int thread) {
    struct corpus *c = arg;
    struct buf bytes;
    (void)thread;
    clean_init(&c->results[item]);
    buf_init(&bytes, FILE_MAX);
    const char *path = c->files[c->first + item];
    if (file_read(path, &bytes, NULL) || clean_document(buf_span(&bytes), span_str(path), SPAN(""), &c->results[item])) c->results[item].reason = REASON_BINARY;
    buf_fini(&bytes);
}

static bool seen_before(struct corpus *c, uint64_t key) {
    size_t k = (size_t)key & (c->seen_slots - 1);
    for (; c->seen[k]; k = (k + 1) & (c->seen_slots - 1))
        if (c->seen[k] == key) return true;
    c->seen[k] = key;
    return false;
}

static int take(struct corpus *c, struct clean_result *r, const char *source) {
    uint8_t digest[SHA256_SIZE];
    uint64_t key = 0;
    if (r->reason != REASON_NONE || strcmp(r->language, "en") != 0 || c->bytes >= c->bytes_max) return 0;
    sha256_of(buf_span(&r->text), digest);
    for (int i = 0; i < 8; i++) key = key << 8 | digest[i];
    if (seen_before(c, key | 1)) return 0;
    if (array_reserve(&c->texts, &c->capacity, c->n + 1, sizeof *c->texts)) return E_NOMEM;
    struct document *t = &c->texts[c->n++];
    *t = (struct document){.source = (char *)(uintptr_t)source, .text = r->text, .media = r->media, .held = (key >> 1) % 100 < HELD_OUT_PERCENT};
    memcpy(t->title, r->title, sizeof t->title);
    buf_init(&r->text, CLEAN_TEXT_MAX);
    c->bytes += t->text.len;
    return 0;
}

static int clean_all(struct corpus *c) {
    struct pool *pool = pool_new(0);
    int r = pool ? 0 : E_NOMEM;
    for (c->first = 0; !r && c->first < c->n_files && c->bytes < c->bytes_max; c->first += FILES_AT_ONCE) {
        size_t n = c->n_files - c->first < FILES_AT_ONCE ? c->n_files - c->first : FILES_AT_ONCE;
        pool_run(pool, n, c, clean);
        for (size_t i = 0; i < n; i++) {
            if (!r) r = take(c, &c->results[i], c->files[c->first + i]);
            clean_fini(&c->results[i]);
        }
    }
    pool_free(pool);
    return r;
}

struct pair_sink {
    struct corpus *corpus;
    bool held;
};
static int on_pair(void *arg, const struct span *turns, int n) {
    struct pair_sink *sink = arg;
    struct buf *out = sink->held ? &sink->corpus->held_pairs : &sink->corpus->train_pairs;
    struct json_out w;
    json_begin(&w, out);
    json_object(&w);
    json_key(&w, "messages");
    json_array(&w);
    for (int i = 0; i < n; i++) {
        json_object(&w);
        json_str(&w, "role", i % 2 ? "assistant" : "user");
        json_span(&w, "content", turns[i]);
        json_object_end(&w);
    }
    json_array_end(&w);
    json_object_end(&w);
    buf_append_char(out, '\n');
    sink->corpus->n_pairs[sink->held]++;
    return 0;
}

static int encode_all(struct corpus *c, const struct tokenizer *t, struct error *err) {
    struct tokens ids = {0};
    uint32_t end = tokenizer_find(t, SPAN(TOKENIZER_END_OF_TEXT));
    int r = 0;
    for (size_t i = 0; i < c->n && !r; i++) {
        struct document *x = &c->texts[i];
        struct pair_sink sink = {c, x->held};
        pairs_draw(span_str(x->title), buf_span(&x->text), x->media, &sink, on_pair);
        if (x->held) {
            struct json_out w;
            json_begin(&w, &c->held_documents);
            json_object(&w);
            json_str(&w, "id", x->source);
            json_span(&w, "text", buf_span(&x->text));
            json_object_end(&w);
            buf_append_char(&c->held_documents, '\n');
            continue;
        }
        tokens_clear(&ids);
        r = tokenizer_encode(t, buf_span(&x->text), TOKENIZER_NO_SPECIALS, &ids, err);
        for (size_t k = 0; k <= ids.len && !r; k++) {
            uint32_t id = k < ids.len ? ids.ids[k] : end;
            unsigned char two[2] = {(unsigned char)id, (unsigned char)(id >> 8)};
            buf_append(&c->train_tokens, two, 2);
        }
    }
    tokens_fini(&ids);
    return r;
}

static int make_tokenizer(const struct corpus *c, uint32_t vocab, const char *dir, struct tokenizer **t, struct error *err) {
    struct tokenizer_trainer *trainer = NULL;
    struct tokenizer_train_options options = {.vocab_size = vocab};
    struct buf text;
    char path[LAB_PATH_MAX];
    buf_init(&text, LAB_FILE_MAX);
    int r = tokenizer_trainer_new(&trainer, &options, err);
    for (size_t i = 0; i < c->n && !r; i++)
        if (!c->texts[i].held) r = tokenizer_trainer_feed(trainer, buf_span(&c->texts[i].text), err);
    if (!r) r = tokenizer_trainer_finish(trainer, t, NULL, NULL, err);
    if (!r) r = dir_make(lab_path(path, dir, "tokenizer"), err);
    if (!r) r = tokenizer_write(*t, &text);
    if (!r) r = lab_write(path, "tokenizer.json", &text, err);
    buf_clear(&text);
    if (!r) r = tokenizer_write_config(*t, CHAT_TEMPLATE_CHATML, 0, &text);
    if (!r) r = lab_write(path, "tokenizer_config.json", &text, err);
    tokenizer_trainer_free(trainer);
    buf_fini(&text);
    return r;
}

int lab_corpus(const struct lab_args *a, struct error *err) {
    const char *out = lab_option(a, "out", NULL);
    struct corpus *c = mem_zalloc(sizeof *c);
    struct tokenizer *t = NULL;
    if (!c) return error_set(err, E_NOMEM, "no memory");
    c->bytes_max = (size_t)lab_number(a, "bytes", 12e6);
    c->seen_slots = 1 << 18;
    c->seen = mem_calloc(c->seen_slots, sizeof *c->seen);
    struct buf *all[] = {&c->train_tokens, &c->train_pairs, &c->held_documents, &c->held_pairs};
    for (int i = 0; i < 4; i++) buf_init(all[i], LAB_FILE_MAX);
    int r = c->seen ? dir_make(out, err) : E_NOMEM;
    for (int i = 0; i < a->count && !r; i++) {
        if (strncmp(a->values[i], "--", 2) == 0) i++;
        else r = visit(c, a->values[i], 0);
    }
    if (!r) r = clean_all(c);
    if (!r && c->n == 0) r = error_set(err, E_INVALID, "no document of English prose in what was named");
    if (!r) r = make_tokenizer(c, (uint32_t)lab_number(a, "vocab", 4096), out, &t, err);
    if (!r) r = encode_all(c, t, err);
    static const char *const names[] = {"train.bin", "train-pairs.jsonl", "held-documents.jsonl", "held-pairs.jsonl"};
    for (int i = 0; i < 4 && !r; i++) r = lab_write(out, names[i], all[i], err);
    if (!r) printf("%zu documents of %zu files, %zu bytes, %zu tokens to train on, %zu pairs, %zu pairs held out\n", c->n, c->n_files, c->bytes, c->train_tokens.len / 2, c->n_pairs[0], c->n_pairs[1]);
    else if (err && !err->code) (void)error_set(err, r, "the corpus could not be made");
    tokenizer_free(t);
    for (int i = 0; i < 4; i++) buf_fini(all[i]);
    for (size_t i = 0; i < c->n; i++) buf_fini(&c->texts[i].text);
    for (size_t i = 0; i < c->n_files; i++) mem_free(c->files[i]);
    mem_free(c->files);
    mem_free(c->texts);
    mem_free(c->seen);
    mem_free(c);
    return r;
}
