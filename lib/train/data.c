#include "train/data.h"

#include "base/alloc.h"
#include "base/file.h"
#include "base/json.h"
#include "base/random.h"
#include "tokenizer/chat.h"

struct piece { /* a sequence */
    uint64_t at; /* of its first token in ids */
    uint32_t tokens;
};

struct data {
    struct data_options options;
    struct chat_template *chat_template; /* parsed at the first chat */
    struct file_map map; /* token file */
    const uint16_t *ids16;
    uint32_t *ids;
    uint8_t *is_label;
    size_t ids_len, ids_capacity, labels_capacity;
    struct piece *pieces;
    size_t piece_count, piece_capacity;
    uint64_t *first; /* of each row: its first piece; one more at the end */
    size_t row_count, first_capacity;
    uint64_t *bytes; /* of each row's text */
    size_t bytes_capacity;
    uint64_t windows; /* DATA_WINDOWS */
    uint64_t tokens, labels_cut;
};

void data_close(struct data *d) {
    if (!d) return;
    chat_template_free(d->chat_template);
    file_map_close(&d->map);
    mem_free(d->ids);
    mem_free(d->is_label);
    mem_free(d->pieces);
    mem_free(d->first);
    mem_free(d->bytes);
    mem_free(d);
}

/* ---- growing ---- */

static int push_id(struct data *d, uint32_t id, bool is_label) {
    if (array_reserve(&d->ids, &d->ids_capacity, d->ids_len + 1, sizeof *d->ids)) return E_NOMEM;
    if (array_reserve(&d->is_label, &d->labels_capacity, d->ids_len + 1, 1)) return E_NOMEM;
    d->is_label[d->ids_len] = is_label;
    d->ids[d->ids_len++] = id;
    return 0;
}

/* What stands behind `at` is a sequence. Cut to the length; a document goes on in another. */
static int end_sequence(struct data *d, size_t at) {
    size_t n = d->ids_len - at, most = (size_t)d->options.length + (d->options.kind == DATA_DOCUMENTS);
    do {
        if (array_reserve(&d->pieces, &d->piece_capacity, d->piece_count + 1, sizeof *d->pieces)) return E_NOMEM;
        size_t take = n < most ? n : most;
        d->pieces[d->piece_count++] = (struct piece){at, (uint32_t)take};
        d->tokens += take ? take - 1 : 0;
        if (d->options.kind != DATA_DOCUMENTS || n <= most) break;
        at += take - 1; /* the last label is the first input of the next window */
        n -= take - 1;
    } while (n > 1);
    return 0;
}

static int end_row(struct data *d, size_t first_piece, uint64_t text_bytes) {
    if (array_reserve(&d->first, &d->first_capacity, d->row_count + 2, sizeof *d->first)) return E_NOMEM;
    if (array_reserve(&d->bytes, &d->bytes_capacity, d->row_count + 1, sizeof *d->bytes)) return E_NOMEM;
    d->first[d->row_count] = first_piece;
    d->bytes[d->row_count++] = text_bytes;
    d->first[d->row_count] = d->piece_count;
    bool any = false;
    for (size_t p = first_piece; p < d->piece_count; p++)
        for (uint32_t i = 1; i < d->pieces[p].tokens; i++) any |= d->is_label[d->pieces[p].at + i];
    d->labels_cut += !any;
    return 0;
}

/* ---- what a value of a row says, as ids ---- */

static int add_ids(struct data *d, const struct json *array, bool is_label, struct error *err) {
    for (size_t i = 0; i < json_size(array); i++) {
        int64_t id = json_int(json_at(array, i), -1);
        if (id < 0 || id >= d->options.vocab)
            return error_set(err, E_INVALID, "id %zu is no whole number below the vocabulary's %u", i, d->options.vocab);
        if (push_id(d, (uint32_t)id, is_label)) return error_set(err, E_NOMEM, "no memory for the rows");
    }
    return 0;
}

static int need_tokenizer(const struct data *d, struct error *err) {
    return d->options.tokenizer ? 0 : error_set(err, E_INVALID, "is text, but there is no tokenizer: the base model has none and data.tokenizer is not set");
}

static int add_tokens(struct data *d, const struct tokens *ids, bool is_label, struct error *err) {
    for (size_t i = 0; i < ids->len; i++) {
        if (ids->ids[i] >= d->options.vocab)
            return error_set(err, E_INVALID, "the tokenizer gives id %u, the model's vocabulary has %u", ids->ids[i], d->options.vocab);
        if (push_id(d, ids->ids[i], is_label)) return error_set(err, E_NOMEM, "no memory for the rows");
    }
    return 0;
}

/* `special`: what the tokenizer puts before a text (bos). `end`: its end-of-text behind it. */
static int add_text(struct data *d, struct span text, bool special, bool end, bool is_label, struct error *err) {
    struct tokens ids = {0};
    int r = need_tokenizer(d, err);
    if (!r) r = tokenizer_encode(d->options.tokenizer, text, TOKENIZER_NO_SPECIALS | (special ? TOKENIZER_ADD_SPECIAL : 0), &ids, err);
    if (!r) r = add_tokens(d, &ids, is_label, err);
    tokens_fini(&ids);
    uint32_t eos = r || !end ? TOKEN_NONE : tokenizer_eos(d->options.tokenizer);
    if (eos != TOKEN_NONE && (d->ids_len == 0 || d->ids[d->ids_len - 1] != eos) && push_id(d, eos, is_label))
        return error_set(err, E_NOMEM, "no memory for the rows");
    return r;
}

struct turns {
    struct chat_message *messages; /* owned */
    size_t count, capacity;
};

static int chat_add_message(struct turns *c, struct span role, struct span content, struct error *err) {
    if (c->count >= CHAT_MESSAGES_MAX) return error_set(err, E_TOO_LARGE, "more than %d messages", CHAT_MESSAGES_MAX);
    if (array_reserve(&c->messages, &c->capacity, c->count + 1, sizeof *c->messages)) return error_set(err, E_NOMEM, "no memory for the rows");
    c->messages[c->count++] = (struct chat_message){role, content};
    return 0;
}

static int chat_add(struct turns *c, const struct json *messages, struct error *err) {
    for (size_t i = 0; i < json_size(messages); i++) {
        const struct json *m = json_at(messages, i), *role = json_get(m, "role"), *content = json_get(m, "content");
        if (json_type(role) != JSON_TYPE_STRING || json_type(content) != JSON_TYPE_STRING)
            return error_set(err, E_INVALID, "message %zu needs role and content, both strings", i);
        int r = chat_add_message(c, json_string(role), json_string(content), err);
        if (r) return r;
    }
    return 0;
}

/* The chat as ids; labels: the assistants' words in messages [from, count). */
static int add_chat(struct data *d, const struct turns *c, size_t from, struct error *err) {
    struct tokens ids = {0}, before = {0};
    uint8_t *answers = NULL;
    int r = need_tokenizer(d, err);
    if (!r && !d->chat_template) r = chat_template_new(d->options.chat_template, d->options.tokenizer, &d->chat_template, err);
    if (!r && from) r = chat_template_encode(d->chat_template, d->options.tokenizer, c->messages, from, false, &before, NULL, err);
    if (!r) r = chat_template_encode(d->chat_template, d->options.tokenizer, c->messages, c->count, false, &ids, &answers, err);
    for (size_t i = 0; !r && i < ids.len; i++) {
        if (ids.ids[i] >= d->options.vocab)
            r = error_set(err, E_INVALID, "the tokenizer gives id %u, the model's vocabulary has %u", ids.ids[i], d->options.vocab);
        else if (push_id(d, ids.ids[i], answers[i] && i >= before.len)) r = error_set(err, E_NOMEM, "no memory for the rows");
    }
    mem_free(answers);
    tokens_fini(&ids);
    tokens_fini(&before);
    return r;
}

/* prompt and completion: texts, messages, ids; or messages and the text that the assistant answered. */
static int add_prompted(struct data *d, const struct json *row, const char *prompt_key, const char *completion_key, struct error *err) {
    const struct json *prompt = json_get(row, prompt_key), *completion = json_get(row, completion_key);
    if (!prompt || !completion) return error_set(err, E_INVALID, "needs %s and %s", prompt_key, completion_key);
    int r;
    if (json_type(prompt) == JSON_TYPE_STRING && json_type(completion) == JSON_TYPE_STRING) {
        r = add_text(d, json_string(prompt), true, false, false, err);
        return r ? r : add_text(d, json_string(completion), false, true, true, err);
    }
    bool answer = json_type(completion) == JSON_TYPE_STRING && json_type(json_at(prompt, 0)) == JSON_TYPE_OBJECT;
    if (json_type(prompt) != JSON_TYPE_ARRAY || (json_type(completion) != JSON_TYPE_ARRAY && !answer))
        return error_set(err, E_INVALID, "%s and %s must both be texts, both messages, messages and a text, or both ids", prompt_key, completion_key);
    bool chat = answer || json_type(json_at(json_size(completion) ? completion : prompt, 0)) == JSON_TYPE_OBJECT;
    if (chat) {
        struct turns c = {0};
        r = chat_add(&c, prompt, err);
        size_t from = c.count;
        if (!r && answer) r = chat_add_message(&c, SPAN("assistant"), json_string(completion), err);
        if (!r && !answer) r = chat_add(&c, completion, err);
        if (!r) r = add_chat(d, &c, from, err);
        mem_free(c.messages);
        return r;
    }
    r = add_ids(d, prompt, false, err);
    return r ? r : add_ids(d, completion, true, err);
}

static uint64_t text_bytes_of(const struct json *row) {
    return json_string(json_get(row, "text")).len + json_string(json_get(row, "completion")).len;
}

static int add_row(struct data *d, const struct json *row, struct error *err) {
    size_t at = d->ids_len, first = d->piece_count;
    int r;
    if (json_type(row) != JSON_TYPE_OBJECT) return error_set(err, E_INVALID, "a row must be an object, not %s", json_type_name(row));
    if (d->options.kind == DATA_PAIRS) {
        if (!json_get(row, "prompt") || !json_get(row, "chosen") || !json_get(row, "rejected"))
            return error_set(err, E_INVALID, "a pair needs prompt, chosen and rejected");
        r = add_prompted(d, row, "prompt", "chosen", err);
        if (!r && end_sequence(d, at)) r = error_set(err, E_NOMEM, "no memory for the rows");
        size_t second = d->ids_len;
        if (!r) r = add_prompted(d, row, "prompt", "rejected", err);
        if (!r && end_sequence(d, second)) r = error_set(err, E_NOMEM, "no memory for the rows");
    } else {
        const struct json *ids = json_get(row, "ids"), *messages = json_get(row, "messages"), *text = json_get(row, "text");
        if (json_type(ids) == JSON_TYPE_ARRAY) {
            r = add_ids(d, ids, true, err);
            int64_t from = json_int(json_get(row, "labels_from"), 0);
            for (size_t i = at; !r && i < d->ids_len && (int64_t)(i - at) < from; i++) d->is_label[i] = 0;
        } else if (json_type(messages) == JSON_TYPE_ARRAY) {
            struct turns c = {0};
            r = chat_add(&c, messages, err);
            if (!r) r = add_chat(d, &c, 0, err);
            mem_free(c.messages);
        } else if (json_type(text) == JSON_TYPE_STRING) {
            r = add_text(d, json_string(text), true, true, true, err);
        } else if (json_get(row, "prompt") && d->options.kind != DATA_WINDOWS) {
            r = add_prompted(d, row, "prompt", "completion", err);
        } else {
            r = error_set(err, E_INVALID, d->options.kind == DATA_WINDOWS ? "a row needs text or ids" : "a row needs ids, messages, prompt and completion, or text");
        }
        if (!r && d->options.kind != DATA_WINDOWS && end_sequence(d, at)) r = error_set(err, E_NOMEM, "no memory for the rows");
    }
    if (!r && d->options.kind != DATA_WINDOWS && end_row(d, first, text_bytes_of(row))) r = error_set(err, E_NOMEM, "no memory for the rows");
    return r;
}

static int read_lines(struct data *d, const char *path, struct error *err) {
    if (d->map.len > DATA_FILE_MAX) return error_set(err, E_TOO_LARGE, "%s has %zu bytes, more than the %d that are read", path, d->map.len, DATA_FILE_MAX);
    struct span rest = span_of(d->map.data, d->map.len), line;
    for (uint64_t number = 1; span_cut(&rest, '\n', &line); number++) {
        line = span_trim(line);
        if (span_empty(line)) continue;
        if (d->options.rows_max && d->row_count >= d->options.rows_max) break;
        if (d->row_count >= DATA_ROWS_MAX) return error_set(err, E_TOO_LARGE, "%s has more than %d rows", path, DATA_ROWS_MAX);
        struct json *row = NULL;
        int r = line.len > DATA_LINE_MAX ? error_set(err, E_TOO_LARGE, "more than %d bytes", DATA_LINE_MAX) : json_parse(line, &row, err);
        if (!r) r = add_row(d, row, err);
        json_free(row);
        if (r) {
            error_prefix(err, "%s, line %llu", path, (unsigned long long)number);
            return r;
        }
    }
    return 0;
}

static bool is_jsonl(const char *path) {
    return span_ends(span_str(path), SPAN(".jsonl")) || span_ends(span_str(path), SPAN(".json")) || span_ends(span_str(path), SPAN(".ndjson"));
}

int data_open(struct data **out, const char *path, const struct data_options *options, struct error *err) {
    ASSERT(options->length > 0 && options->vocab > 0);
    struct data *d = mem_zalloc(sizeof *d);
    if (!d) return error_set(err, E_NOMEM, "no memory");
    d->options = *options;
    int r = file_map_open(&d->map, path, err);
    if (r) goto fail;
    if (is_jsonl(path)) {
        r = read_lines(d, path, err);
        file_map_close(&d->map);
        d->map = (struct file_map){0};
        if (r) goto fail;
    } else {
        if (options->kind != DATA_WINDOWS && options->kind != DATA_DOCUMENTS) {
            r = error_set(err, E_INVALID, "%s: rows of this objective are lines of JSON, in a file that ends in .jsonl", path);
            goto fail;
        }
        if (d->map.len % 2) {
            r = error_set(err, E_INVALID, "%s has %zu bytes: no whole number of uint16 tokens", path, d->map.len);
            goto fail;
        }
        d->ids16 = d->map.data;
        d->ids_len = d->map.len / 2;
        for (size_t i = 0; i < d->ids_len; i++)
            if (d->ids16[i] >= options->vocab) {
                r = error_set(err, E_INVALID, "%s: token %zu is %u, the model's vocabulary has %u", path, i, d->ids16[i], options->vocab);
                goto fail;
            }
    }
    if (options->kind == DATA_WINDOWS || d->ids16) {
        d->windows = d->ids_len / ((size_t)options->length + 1);
        if (options->rows_max && d->windows > options->rows_max) d->windows = options->rows_max;
        d->tokens = d->windows * options->length;
    }
    if (data_rows(d) == 0) {
        r = d->ids_len ? error_set(err, E_INVALID, "%s has %zu tokens, not one row of %u", path, d->ids_len, options->length + 1)
                       : error_set(err, E_INVALID, "%s has no rows", path);
        goto fail;
    }
    *out = d;
    return 0;
fail:
    data_close(d);
    return r;
}

static bool windowed(const struct data *d) { return d->options.kind == DATA_WINDOWS || d->ids16; }

uint64_t data_rows(const struct data *d) { return windowed(d) ? d->windows : d->row_count; }
uint64_t data_tokens(const struct data *d) { return d->tokens; }
uint64_t data_labels_cut(const struct data *d) { return d->labels_cut; }
uint64_t data_text_bytes(const struct data *d, uint64_t row) { return windowed(d) ? 0 : d->bytes[row]; }
uint32_t data_sequences(const struct data *d, uint64_t row) { return windowed(d) ? 1 : (uint32_t)(d->first[row + 1] - d->first[row]); }

struct data_sequence data_sequence(const struct data *d, uint64_t row, uint32_t index) {
    if (windowed(d)) {
        size_t at = row * ((size_t)d->options.length + 1);
        return (struct data_sequence){d->ids ? d->ids + at : NULL, d->ids16 ? d->ids16 + at : NULL, NULL, d->options.length};
    }
    const struct piece *p = &d->pieces[d->first[row] + index];
    if (!p->tokens) return (struct data_sequence){0}; /* of a set without a token there is no list either */
    return (struct data_sequence){d->ids + p->at, NULL, d->is_label + p->at, p->tokens - 1};
}

int data_order_init(struct data_order *o, uint64_t rows, bool shuffle, uint64_t seed, struct error *err) {
    *o = (struct data_order){.rows = rows, .seed = seed, .shuffle = shuffle, .pass = UINT64_MAX};
    if (!shuffle) return 0;
    if (rows > UINT32_MAX) return error_set(err, E_TOO_LARGE, "too many rows to shuffle");
    o->order = mem_calloc(rows, sizeof *o->order);
    return o->order ? 0 : error_set(err, E_NOMEM, "no memory to shuffle the rows");
}

void data_order_fini(struct data_order *o) {
    mem_free(o->order);
    o->order = NULL;
}

uint64_t data_order_row(struct data_order *o, uint64_t position) {
    uint64_t pass = position / o->rows, at = position % o->rows;
    if (!o->shuffle) return at;
    if (o->pass != pass) { /* Fisher and Yates, from the seed and the pass alone: a resumed run finds the same order */
        struct random random;
        random_seed2(&random, o->seed ^ 0x6f72646572u, pass);
        for (uint64_t i = 0; i < o->rows; i++) o->order[i] = (uint32_t)i;
        for (uint64_t i = o->rows - 1; i > 0; i--) {
            uint64_t j = random_below(&random, i + 1);
            uint32_t swap = o->order[i];
            o->order[i] = o->order[j];
            o->order[j] = swap;
        }
        o->pass = pass;
    }
    return o->order[at];
}
