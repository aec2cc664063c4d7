#include "pairs.h"

#include <stdlib.h>
#include <string.h>

#include "base/json.h"

static int order(struct span a, struct span b) {
    size_t n = a.len < b.len ? a.len : b.len;
    int c = n ? memcmp(a.data, b.data, n) : 0;
    return c ? c : (a.len > b.len) - (a.len < b.len);
}

static const struct pair_interaction *find(const struct pair_interaction *all, size_t n, struct span request_id) {
    size_t low = 0, high = n;
    while (request_id.len && low < high) {
        size_t mid = low + (high - low) / 2;
        int c = order(all[mid].request_id, request_id);
        if (c == 0) return &all[mid];
        if (c < 0)
            low = mid + 1;
        else
            high = mid;
    }
    return NULL;
}

static void add_row(struct pair_row *rows, size_t *n, struct span prompt, struct span chosen, struct span rejected, struct span request_id, struct span judgement_id) {
    struct pair_row *row = &rows[(*n)++];
    *row = (struct pair_row){.prompt = prompt, .chosen = chosen, .rejected = rejected, .request_id = request_id, .judgement_id = judgement_id};
    sha256_of(prompt, row->prompt_hash);
    uint64_t h = 0;
    for (int i = 0; i < 8; i++) h = h << 8 | row->prompt_hash[i];
    row->held_out = h % 100 < PAIRS_HELD_OUT_PERCENT;
}

static int row_order(const void *a, const void *b) {
    const struct pair_row *x = a, *y = b;
    int c = memcmp(x->prompt_hash, y->prompt_hash, SHA256_SIZE);
    if (c == 0) c = order(x->chosen, y->chosen);
    if (c == 0) c = order(x->rejected, y->rejected);
    return c ? c : order(x->judgement_id, y->judgement_id);
}

/* Sorts, keeps each row once; returns how many are left. */
static size_t tidy(struct pair_row *rows, size_t n, uint64_t *repeated, size_t *held_out) {
    size_t kept = 0;
    if (n) qsort(rows, n, sizeof *rows, row_order);
    for (size_t i = 0; i < n; i++) {
        if (kept && span_eq(rows[kept - 1].prompt, rows[i].prompt) && span_eq(rows[kept - 1].chosen, rows[i].chosen) && span_eq(rows[kept - 1].rejected, rows[i].rejected)) {
            (*repeated)++;
            continue;
        }
        *held_out += rows[i].held_out;
        rows[kept++] = rows[i];
    }
    return kept;
}

/* One opinion on one interaction. */
struct opinion {
    const struct pair_interaction *interaction;
    const struct pair_judgement *judgement;
};

static int by_request_then_time(const void *a, const void *b) {
    const struct opinion *x = a, *y = b;
    int c = order(x->interaction->request_id, y->interaction->request_id);
    if (c == 0) c = (x->judgement->time_ms > y->judgement->time_ms) - (x->judgement->time_ms < y->judgement->time_ms);
    return c ? c : order(x->judgement->id, y->judgement->id);
}

/* Of one prompt together, the liked first, each by request id. */
static int by_prompt(const void *a, const void *b) {
    const struct opinion *x = a, *y = b;
    int c = order(x->interaction->prompt, y->interaction->prompt);
    if (c == 0) c = (y->judgement->value > 0) - (x->judgement->value > 0);
    return c ? c : order(x->interaction->request_id, y->interaction->request_id);
}

static void join_opinions(struct opinion *all, size_t n, struct pair_set *set) {
    size_t kept = 0;
    if (n) qsort(all, n, sizeof *all, by_request_then_time);
    for (size_t i = 0; i < n; i++) /* the last word on each */
        if (i + 1 == n || all[i + 1].interaction != all[i].interaction) all[kept++] = all[i];
    if (kept) qsort(all, kept, sizeof *all, by_prompt);
    for (size_t from = 0, to; from < kept; from = to) {
        size_t liked = 0;
        for (to = from; to < kept && span_eq(all[to].interaction->prompt, all[from].interaction->prompt); to++) liked += all[to].judgement->value > 0;
        size_t disliked = to - from - liked, most = liked > disliked ? liked : disliked;
        if (!liked || !disliked) continue;
        for (size_t i = 0; i < most; i++) {
            const struct opinion *up = &all[from + i % liked], *down = &all[from + liked + i % disliked];
            if (span_eq(up->interaction->answer, down->interaction->answer))
                set->same_answers++;
            else
                add_row(set->preferences, &set->n_preferences, up->interaction->prompt, up->interaction->answer, down->interaction->answer, up->interaction->request_id,
                        up->judgement->id);
        }
    }
}

static void take_preference(const struct pair_interaction *all, size_t n, const struct pair_judgement *j, struct pair_set *set) {
    if (j->chosen_request_id.len || j->rejected_request_id.len) {
        const struct pair_interaction *a = find(all, n, j->chosen_request_id), *b = find(all, n, j->rejected_request_id);
        if (!a || !b)
            set->unknown_interaction++;
        else if (!span_eq(a->prompt, b->prompt))
            set->different_prompts++;
        else if (span_eq(a->answer, b->answer))
            set->same_answers++;
        else
            add_row(set->preferences, &set->n_preferences, a->prompt, a->answer, b->answer, a->request_id, j->id);
        return;
    }
    const struct pair_interaction *i = find(all, n, j->request_id);
    struct span prompt = j->prompt.len ? j->prompt : i ? i->prompt : SPAN("");
    if (!prompt.len)
        set->unknown_interaction++;
    else if (!j->chosen.len || !j->rejected.len)
        set->incomplete++;
    else if (span_eq(j->chosen, j->rejected))
        set->same_answers++;
    else
        add_row(set->preferences, &set->n_preferences, prompt, j->chosen, j->rejected, j->request_id, j->id);
}

static void take_correction(const struct pair_interaction *all, size_t n, const struct pair_judgement *j, struct pair_set *set) {
    const struct pair_interaction *i = find(all, n, j->request_id);
    struct span prompt = j->prompt.len ? j->prompt : i ? i->prompt : SPAN("");
    if (!prompt.len)
        set->unknown_interaction++;
    else if (!j->text.len)
        set->incomplete++;
    else
        add_row(set->supervised, &set->n_supervised, prompt, j->text, SPAN(""), j->request_id, j->id);
}

int pairs_build(const struct pair_interaction *interactions, size_t n_interactions, const struct pair_judgement *judgements, size_t n_judgements,
                struct arena *arena, struct pair_set *set, struct error *err) {
    if (n_judgements > PAIRS_JUDGEMENTS_MAX) return error_set(err, E_TOO_LARGE, "%zu judgements are more than the %d that one set is built from", n_judgements, PAIRS_JUDGEMENTS_MAX);
    struct pair_set s = {0};
    /* Each judgement gives at most one row: opinions give max(liked, disliked) of each prompt. */
    s.preferences = arena_calloc(arena, n_judgements + 1, sizeof *s.preferences);
    s.supervised = arena_calloc(arena, n_judgements + 1, sizeof *s.supervised);
    struct opinion *opinions = arena_calloc(arena, n_judgements + 1, sizeof *opinions);
    if (!s.preferences || !s.supervised || !opinions) return error_set(err, E_NOMEM, "no memory for a set of %zu judgements", n_judgements);
    size_t n_opinions = 0;
    for (size_t i = 0; i < n_judgements; i++) {
        const struct pair_judgement *j = &judgements[i];
        if (j->kind == PAIR_PREFERENCE)
            take_preference(interactions, n_interactions, j, &s);
        else if (j->kind == PAIR_CORRECTION)
            take_correction(interactions, n_interactions, j, &s);
        else {
            const struct pair_interaction *about = find(interactions, n_interactions, j->request_id);
            if (!about)
                s.unknown_interaction++;
            else if (j->value == 0)
                s.incomplete++; /* neither liked nor disliked */
            else
                opinions[n_opinions++] = (struct opinion){about, j};
        }
    }
    join_opinions(opinions, n_opinions, &s);
    s.n_preferences = tidy(s.preferences, s.n_preferences, &s.repeated, &s.n_preferences_held_out);
    s.n_supervised = tidy(s.supervised, s.n_supervised, &s.repeated, &s.n_supervised_held_out);
    *set = s;
    return 0;
}

int pairs_write_row(const struct pair_row *row, bool supervised, struct buf *out) {
    struct json_out w;
    json_begin(&w, out);
    json_object(&w);
    bool messages = row->prompt.len && row->prompt.data[0] == '[';
    if (supervised && messages) {
        /* The prompt's array, open again for the answer; a prompt of messages has at least one. */
        json_key(&w, "messages");
        json_put_raw(&w, span_sub(row->prompt, 0, row->prompt.len - 1));
        buf_append_str(out, ",{\"role\":\"assistant\",\"content\":");
        struct json_out text;
        json_begin(&text, out);
        json_put_span(&text, row->chosen);
        buf_append_str(out, "}]");
    } else {
        json_key(&w, "prompt");
        json_put_raw(&w, row->prompt);
        json_span(&w, supervised ? "completion" : "chosen", row->chosen);
        if (!supervised) json_span(&w, "rejected", row->rejected);
    }
    json_span(&w, "request_id", row->request_id);
    json_span(&w, "feedback_id", row->judgement_id);
    json_object_end(&w);
    buf_append_char(out, '\n');
    return out->failed;
}

/* A string, or messages of role and content: written anew, so that the same prompt is the same bytes. */
static int write_prompt(const struct json *content, struct buf *out, struct error *err) {
    const struct json *messages = json_get(content, "messages"), *prompt = json_get(content, "prompt");
    struct json_out w;
    json_begin(&w, out);
    if (json_type(prompt) == JSON_TYPE_STRING && !messages) {
        json_put_span(&w, json_string(prompt));
        return out->failed;
    }
    if (json_type(messages) != JSON_TYPE_ARRAY || json_size(messages) == 0 || prompt) return error_set(err, E_INVALID, "the content of an interaction needs either messages or a prompt");
    json_array(&w);
    for (size_t i = 0; i < json_size(messages); i++) {
        const struct json *m = json_at(messages, i), *role = json_get(m, "role"), *text = json_get(m, "content");
        if (json_type(role) != JSON_TYPE_STRING || !text) return error_set(err, E_INVALID, "message %zu of an interaction needs role and content", i);
        json_object(&w);
        json_span(&w, "role", json_string(role));
        json_key(&w, "content");
        json_put_value(&w, text);
        json_object_end(&w);
    }
    json_array_end(&w);
    return out->failed;
}

int pairs_read_content(struct span json, struct arena *arena, struct span *prompt, struct span *answer, struct error *err) {
    struct json *root = NULL;
    struct buf b;
    buf_init(&b, 64 * 1024 * 1024);
    int r = json_parse(json, &root, err);
    if (r == 0 && json_type(json_get(root, "answer")) != JSON_TYPE_STRING) r = error_set(err, E_INVALID, "the content of an interaction needs an answer");
    if (r == 0) r = write_prompt(root, &b, err);
    if (r == 0) {
        struct span p = arena_span(arena, buf_span(&b)), a = arena_span(arena, json_string(json_get(root, "answer")));
        if (!p.data || (!a.data && a.len))
            r = error_set(err, E_NOMEM, "no memory for the content of an interaction");
        else
            *prompt = p, *answer = a;
    }
    buf_fini(&b);
    json_free(root);
    return r;
}
