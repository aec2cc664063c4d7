#include "measure_rows.h"

#include <string.h>

#include "base/alloc.h"
#include "base/file.h"
#include "base/json.h"
#include "base/random.h"
#include "base/sha256.h"
#include "measure.h"

/* What each choice mixes into the spec's seed, so that none of them is another's. */
enum { SALT_DOCUMENTS = 1, SALT_PROMPTS, SALT_PAIRS, SALT_STRETCH, SALT_BEGINNING };
enum { PROMPT_JSON_MAX = 256 * 1024, BEGINNING_WORDS = 12, BEGINNING_WORDS_MIN = 4, BEGINNING_TRIES = 8, LINE_SEARCH_MAX = 512 };

/* ---- lines ---- */

struct line {
    struct span text;
    size_t number; /* from 1 */
};
struct lines {
    const char *path;
    struct file_map map;
    struct line *items;
    size_t n, capacity;
    uint32_t *order; /* a permutation of them */
};

static void lines_close(struct lines *l) {
    file_map_close(&l->map);
    mem_free(l->items);
    mem_free(l->order);
}

static int lines_shuffle(struct lines *l, uint64_t seed, int salt, struct error *err) {
    struct random random;
    if (!(l->order = mem_calloc(l->n + 1, sizeof *l->order))) return error_set(err, E_NOMEM, "no memory for the rows of %s", l->path);
    random_seed2(&random, seed, (uint64_t)salt);
    for (size_t i = 0; i < l->n; i++) l->order[i] = (uint32_t)i;
    for (size_t i = l->n; i > 1; i--) { /* Fisher and Yates */
        size_t k = random_below(&random, i);
        uint32_t swap = l->order[i - 1];
        l->order[i - 1] = l->order[k];
        l->order[k] = swap;
    }
    return 0;
}

static int lines_open(struct lines *l, const char *path, uint64_t seed, int salt, struct error *err) {
    *l = (struct lines){.path = path};
    if (!path || !path[0]) return lines_shuffle(l, seed, salt, err);
    int r = file_map_open(&l->map, path, err);
    if (r) return r;
    if (l->map.len > MEASURE_FILE_MAX) return error_set(err, E_TOO_LARGE, "%s has %zu bytes, more than the %d that are read", path, l->map.len, MEASURE_FILE_MAX);
    struct span rest = span_of(l->map.data, l->map.len), text;
    for (size_t number = 1; span_cut(&rest, '\n', &text); number++) {
        text = span_trim(text);
        if (!text.len) continue;
        if (l->n == MEASURE_ROWS_MAX) return error_set(err, E_TOO_LARGE, "%s has more than %d rows", path, MEASURE_ROWS_MAX);
        if (array_reserve(&l->items, &l->capacity, l->n + 1, sizeof *l->items)) return error_set(err, E_NOMEM, "no memory for the rows of %s", path);
        l->items[l->n++] = (struct line){text, number};
    }
    return lines_shuffle(l, seed, salt, err);
}

/* The i-th in the picked order; *row owned. */
static int lines_row(const struct lines *l, size_t i, const struct line **line, struct json **row, struct error *err) {
    *line = &l->items[l->order[i]];
    int r = json_parse((*line)->text, row, err);
    if (r == 0 && json_type(*row) != JSON_TYPE_OBJECT) {
        r = error_set(err, E_INVALID, "a row must be an object, not %s", json_type_name(*row));
        json_free(*row);
        *row = NULL;
    }
    if (r) error_prefix(err, "%s, line %zu", l->path, (*line)->number);
    return r;
}

static int keep(struct arena *arena, struct span from, struct span *to, struct error *err) {
    *to = from.len ? arena_span(arena, from) : SPAN("");
    return to->data ? 0 : error_set(err, E_NOMEM, "the held-out rows do not fit into memory");
}

/* ---- documents ---- */

/* A stretch of a long text: from the begin of a line that chance picks. */
static struct span stretch(struct span text, size_t bytes_max, struct random *random) {
    if (text.len <= bytes_max) return text;
    size_t at = random_below(random, text.len - bytes_max + 1);
    ptrdiff_t line = at ? span_find_char(span_sub(text, at, LINE_SEARCH_MAX), '\n') : -1;
    if (line >= 0) at += (size_t)line + 1;
    while (at > 0 && at < text.len && ((unsigned char)text.data[at] & 0xc0) == 0x80) at--; /* inside a character */
    text = span_sub(text, at, bytes_max);
    return span_sub(text, 0, span_utf8_complete(text));
}

void measure_halve(struct span text, struct span *first, struct span *second) {
    text = span_trim(text);
    size_t middle = text.len / 2, at = middle;
    while (at < text.len && !memchr(" \t\r\n", text.data[at], 4)) at++;
    if (at == text.len) /* one long word: between two characters */
        for (at = middle; at > 0 && ((unsigned char)text.data[at] & 0xc0) == 0x80; at--) {}
    *first = span_trim(span_sub(text, 0, at));
    *second = span_trim(span_skip(text, at));
}

int measure_read_documents(const char *path, const Genloop__V1__EvaluateSpec *spec, size_t bytes_max, struct arena *arena, struct measure_document **documents, size_t *n, struct error *err) {
    struct lines lines;
    int r = lines_open(&lines, path, spec->seed, SALT_DOCUMENTS, err);
    size_t most = lines.n < spec->documents_max ? lines.n : spec->documents_max, count = 0;
    struct measure_document *all = r ? NULL : arena_calloc(arena, most + 1, sizeof *all);
    if (!r && !all) r = error_set(err, E_NOMEM, "no memory for %zu documents", most);
    for (size_t i = 0; !r && i < lines.n && count < most; i++) {
        const struct line *line;
        struct json *row = NULL;
        if ((r = lines_row(&lines, i, &line, &row, err))) break;
        const struct json *text = json_get(row, "text");
        struct random random;
        random_seed2(&random, spec->seed ^ SALT_STRETCH, line->number);
        struct span part = span_trim(json_string(text)).len ? stretch(json_string(text), bytes_max, &random) : SPAN("");
        if (json_type(text) != JSON_TYPE_STRING) r = error_set(err, E_INVALID, "%s, line %zu: a document needs text, a string", path, line->number);
        else if (span_trim(part).len) {
            r = keep(arena, part, &all[count].text, err);
            if (!r) r = keep(arena, json_string(json_get(row, "id")), &all[count].id, err);
            count++;
        }
        json_free(row);
    }
    lines_close(&lines);
    if (r) return r;
    *documents = all;
    *n = count;
    return 0;
}

/* ---- prompts ---- */

struct prompts {
    const Genloop__V1__EvaluateSpec *spec;
    struct arena *arena;
    struct measure_prompt *items;
    size_t n;
    void *arg;
    int (*fits)(void *arg, struct measure_prompt *prompt, struct error *err);
    struct buf json;
};

static int add_messages(struct prompts *p, const struct json *messages, struct measure_prompt *q, struct error *err) {
    size_t n = json_size(messages);
    /* What is asked: all before the last answer. */
    if (n && span_eq_str(json_string(json_get(json_at(messages, n - 1), "role")), "assistant")) n--;
    if (n == 0) return error_set(err, E_INVALID, "there is nothing before the answer");
    if (n > CHAT_MESSAGES_MAX) return error_set(err, E_TOO_LARGE, "more than %d messages", CHAT_MESSAGES_MAX);
    if (!(q->messages = arena_calloc(p->arena, n, sizeof *q->messages))) return error_set(err, E_NOMEM, "the held-out rows do not fit into memory");
    q->message_count = n;
    struct json_out w;
    json_begin(&w, &p->json);
    json_array(&w);
    for (size_t i = 0; i < n; i++) {
        const struct json *m = json_at(messages, i), *role = json_get(m, "role"), *content = json_get(m, "content");
        if (json_type(role) != JSON_TYPE_STRING || json_type(content) != JSON_TYPE_STRING) return error_set(err, E_INVALID, "message %zu needs role and content, both strings", i);
        int r = keep(p->arena, json_string(role), &q->messages[i].role, err);
        if (!r) r = keep(p->arena, json_string(content), &q->messages[i].content, err);
        if (r) return r;
        json_object(&w);
        json_span(&w, "role", q->messages[i].role);
        json_span(&w, "content", q->messages[i].content);
        json_object_end(&w);
    }
    json_array_end(&w);
    return 0;
}

static int add_text(struct prompts *p, struct span text, struct measure_prompt *q, struct error *err) {
    struct json_out w;
    json_begin(&w, &p->json);
    json_put_span(&w, text);
    return keep(p->arena, text, &q->text, err);
}

/* Takes the prompt whose JSON is in p->json where it is new, short and fits. */
static int take(struct prompts *p, struct measure_prompt *q, struct error *err) {
    uint8_t digest[SHA256_SIZE];
    uint64_t mixed = 0;
    struct random random;
    if (p->json.failed == E_FULL || p->json.len > MEASURE_PROMPT_BYTES_MAX) return 0; /* far too long to be asked */
    if (p->json.failed) return error_set(err, p->json.failed, "no memory for a prompt");
    sha256_of(buf_span(&p->json), digest);
    hex_encode(digest, (MEASURE_ID_MAX - 1) / 2, q->id);
    for (size_t i = 0; i < p->n; i++)
        if (memcmp(p->items[i].id, q->id, MEASURE_ID_MAX) == 0) return 0;
    for (int i = 0; i < 8; i++) mixed = mixed << 8 | digest[i];
    random_seed2(&random, p->spec->seed, mixed);
    q->seed = random_u64(&random) >> 11; /* exact as a double, so that any reader of JSON keeps it */
    int fits = p->fits(p->arg, q, err);
    if (fits <= 0) return fits;
    int r = keep(p->arena, buf_span(&p->json), &q->json, err);
    if (!r) p->items[p->n++] = *q;
    return r;
}

static int take_row(struct prompts *p, const struct json *row, struct error *err) {
    struct measure_prompt q = {0};
    const struct json *messages = json_get(row, "messages"), *prompt = json_get(row, "prompt");
    buf_clear(&p->json);
    int r;
    if (json_type(messages) == JSON_TYPE_ARRAY || json_type(prompt) == JSON_TYPE_ARRAY) r = add_messages(p, messages ? messages : prompt, &q, err);
    else if (json_type(prompt) == JSON_TYPE_STRING) r = add_text(p, json_string(prompt), &q, err);
    else return error_set(err, E_INVALID, "a row needs messages, or a prompt");
    return r ? r : take(p, &q, err);
}

/* Where questions are missing: some words from the begin of a line, to be gone on with. */
static int take_beginning(struct prompts *p, struct span text, struct random *random, struct error *err) {
    struct measure_prompt q = {0};
    size_t at = random_below(random, text.len);
    ptrdiff_t line = at ? span_find_char(span_skip(text, at), '\n') : -1;
    struct span rest = line >= 0 ? span_skip(text, at + (size_t)line + 1) : text, sentence = {0};
    while (span_cut(&rest, '\n', &sentence) && !(sentence = span_trim(sentence)).len) {}
    size_t end = 0, words = 0;
    for (size_t i = 0; i <= sentence.len && words < BEGINNING_WORDS; i++)
        if ((i == sentence.len || sentence.data[i] == ' ') && i > 0 && sentence.data[i - 1] != ' ') {
            words++;
            end = i;
        }
    if (words < BEGINNING_WORDS_MIN) return 0;
    buf_clear(&p->json);
    int r = add_text(p, span_sub(sentence, 0, end), &q, err);
    return r ? r : take(p, &q, err);
}

int measure_read_prompts(const char *path, const Genloop__V1__EvaluateSpec *spec, const struct measure_document *documents, size_t n_documents, struct arena *arena, void *arg,
                         int (*fits)(void *arg, struct measure_prompt *prompt, struct error *err), struct measure_prompt **prompts, size_t *n, struct error *err) {
    struct prompts p = {.spec = spec, .arena = arena, .arg = arg, .fits = fits};
    struct lines lines;
    buf_init(&p.json, PROMPT_JSON_MAX);
    int r = lines_open(&lines, path, spec->seed, SALT_PROMPTS, err);
    if (!r && !(p.items = arena_calloc(arena, (size_t)spec->prompts + 1, sizeof *p.items))) r = error_set(err, E_NOMEM, "no memory for %u prompts", spec->prompts);
    for (size_t i = 0; !r && i < lines.n && p.n < spec->prompts; i++) {
        const struct line *line;
        struct json *row = NULL;
        r = lines_row(&lines, i, &line, &row, err);
        if (!r && (r = take_row(&p, row, err))) error_prefix(err, "%s, line %zu", path, line->number);
        json_free(row);
    }
    struct random random;
    random_seed2(&random, spec->seed, SALT_BEGINNING);
    size_t tries = n_documents ? (size_t)spec->prompts * BEGINNING_TRIES : 0;
    for (size_t i = 0; !r && i < tries && p.n < spec->prompts; i++) r = take_beginning(&p, documents[i % n_documents].text, &random, err);
    lines_close(&lines);
    buf_fini(&p.json);
    if (r) return r;
    *prompts = p.items;
    *n = p.n;
    return 0;
}

/* ---- pairs ---- */

enum { PROMPT_ID_BYTES = 16, PROMPT_MAX = 64 << 20 };

static int keep_prompt_id(struct arena *arena, const struct json *prompt, struct span *id, struct error *err) {
    uint8_t hash[SHA256_SIZE];
    char hex[2 * PROMPT_ID_BYTES + 1];
    struct buf text;
    buf_init(&text, PROMPT_MAX);
    int r = json_write(&text, prompt);
    if (r == 0) {
        sha256_of(buf_span(&text), hash);
        hex_encode(hash, PROMPT_ID_BYTES, hex);
        r = keep(arena, span_str(hex), id, err);
    } else {
        r = error_set(err, r, "no memory for a prompt");
    }
    buf_fini(&text);
    return r;
}

int measure_read_pairs(const char *path, const Genloop__V1__EvaluateSpec *spec, struct arena *arena, struct measure_pair **pairs, size_t *n, struct error *err) {
    struct lines lines;
    int r = lines_open(&lines, path, spec->seed, SALT_PAIRS, err);
    size_t most = lines.n < MEASURE_PAIRS_MAX ? lines.n : MEASURE_PAIRS_MAX;
    struct measure_pair *all = r ? NULL : arena_calloc(arena, most + 1, sizeof *all);
    if (!r && !all) r = error_set(err, E_NOMEM, "no memory for %zu pairs", most);
    for (size_t i = 0; !r && i < most; i++) {
        const struct line *line;
        struct json *row = NULL;
        if ((r = lines_row(&lines, i, &line, &row, err))) break;
        if (!json_get(row, "prompt") || !json_get(row, "chosen") || !json_get(row, "rejected"))
            r = error_set(err, E_INVALID, "%s, line %zu: a pair needs prompt, chosen and rejected", path, line->number);
        if (!r) r = keep(arena, line->text, &all[i].line, err);
        if (!r) r = keep(arena, json_string(json_get(row, "request_id")), &all[i].request_id, err);
        if (!r) r = keep_prompt_id(arena, json_get(row, "prompt"), &all[i].prompt_id, err);
        json_free(row);
    }
    lines_close(&lines);
    if (r) return r;
    *pairs = all;
    *n = most;
    return 0;
}
