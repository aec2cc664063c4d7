/* What lies in Redis of a kept response, opened: whatever is an entry names at most so many subjects, each by a key's id, and its text lies in the bytes; a record's own list likewise. */
#include "base/error.h"
#include "services/gateway/response_seal.h"

static void check_subjects(const struct response_subjects *s) {
    ASSERT(s->n <= RESPONSE_SUBJECTS_MAX);
    for (size_t i = 0; i < s->n; i++) {
        ASSERT(strlen(s->ids[i]) == SEAL_KEY_ID_MAX - 1);
        for (size_t k = 0; k < i; k++) ASSERT(strcmp(s->ids[i], s->ids[k]) != 0);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct span items = span_of(data, size), text = SPAN("");
    struct response_subjects s;
    struct json *v = NULL;
    int r = response_items_read(items, &s, &text);
    ASSERT(r == 0 || r == E_DATA_LOSS);
    check_subjects(&s);
    if (r == 0) ASSERT(text.data >= items.data && text.data + text.len <= items.data + items.len);
    if (r == 0 && json_parse(text, &v, NULL) == 0) {
        r = response_subjects_take(&s, v);
        ASSERT(r == 0 || r == E_DATA_LOSS || r == E_FULL);
        check_subjects(&s);
    }
    json_free(v);
    return 0;
}
