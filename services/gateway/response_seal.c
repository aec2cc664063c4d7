#include "response_seal.h"

#include "cache/answers.h"

enum { SOURCE_RECORD, SOURCE_SUBJECT, SOURCE_SEALED };

int response_subjects_add(struct response_subjects *s, struct span id) {
    if (id.len != SEAL_KEY_ID_MAX - 1 || memchr(id.data, 0, id.len)) return E_INVALID;
    for (size_t i = 0; i < s->n; i++)
        if (span_eq_str(id, s->ids[i])) return 0;
    if (s->n == RESPONSE_SUBJECTS_MAX) return E_FULL;
    span_copy(s->ids[s->n++], SEAL_KEY_ID_MAX, id);
    return 0;
}

int response_subjects_take(struct response_subjects *s, const struct json *record) {
    const struct json *list = json_get(record, "subjects");
    int r = 0;
    for (size_t i = 0; r == 0 && i < json_size(list); i++) r = response_subjects_add(s, json_string(json_at(list, i)));
    return r == E_INVALID ? E_DATA_LOSS : r;
}

int response_seal(struct keyring *k, const struct response_subjects *s, struct span record, struct buf *items, struct error *err) {
    struct buf layers[2]; /* one is sealed into the other, in turns */
    struct span text = record;
    int r = 0;
    for (size_t i = 0; i < 2; i++) buf_init(&layers[i], record.len + RESPONSE_SEAL_OVERHEAD);
    for (size_t i = 0; r == 0 && i < s->n; i++) {
        struct buf *to = &layers[i % 2];
        buf_clear(to);
        r = answer_item(items, SOURCE_SUBJECT, span_str(s->ids[i]));
        if (r) (void)error_set(err, r, "no room for the response's subjects");
        else r = keyring_seal(k, s->ids[i], text, to, err);
        text = buf_span(to);
    }
    if (r == 0 && (r = answer_item(items, s->n ? SOURCE_SEALED : SOURCE_RECORD, text)) != 0) (void)error_set(err, r, "no room for the response");
    for (size_t i = 0; i < 2; i++) buf_fini(&layers[i]);
    return r;
}

int response_items_read(struct span items, struct response_subjects *s, struct span *text) {
    uint16_t source;
    struct span bytes;
    bool whole;
    *s = (struct response_subjects){.n = 0};
    while (answer_next(&items, &source, &bytes, &whole)) {
        if (source == SOURCE_SUBJECT) {
            if (response_subjects_add(s, bytes) != 0) return E_DATA_LOSS;
            continue;
        }
        if (source != (s->n ? SOURCE_SEALED : SOURCE_RECORD) || items.len) return E_DATA_LOSS;
        *text = bytes;
        return 0;
    }
    return E_DATA_LOSS;
}

int response_unseal(struct keyring *k, const struct response_subjects *s, struct span sealed, struct buf *record, struct error *err) {
    struct buf layers[2];
    struct span text = sealed;
    int r = 0;
    for (size_t i = 0; i < 2; i++) buf_init(&layers[i], sealed.len + 1);
    for (size_t i = s->n; r == 0 && i > 0; i--) { /* the last seal is the outermost */
        struct buf *to = i == 1 ? record : &layers[i % 2];
        buf_clear(to);
        r = keyring_open_sealed(k, s->ids[i - 1], text, to, err);
        text = buf_span(to);
    }
    for (size_t i = 0; i < 2; i++) buf_fini(&layers[i]);
    return r;
}
