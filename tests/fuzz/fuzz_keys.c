/* What comes from outside about keys and the response cache: a bearer's text, a Cache-Control header, an entry of the cache that somebody else wrote. */
#include "cache/answers.h"
#include "registry/api_key.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct span s = span_of(data, size), item;
    char id[API_KEY_ID_MAX];
    struct cache_control control;
    struct answer_key key = {.name = "x"};
    struct buf items;
    int64_t made_ms;
    uint16_t source;
    bool whole = false;
    size_t total = 0;
    if (api_key_id(s, id) == 0) ASSERT(api_key_id_valid(span_str(id)) && s.len == API_KEY_TEXT_MAX - 1);
    cache_control_read(s, &control);
    ASSERT(control.age_max_ms >= -1 && (!control.no_store || control.past));
    buf_init(&items, 1 << 16);
    ASSERT(answer_open(&key, s, &items, &made_ms) < 0); /* nobody guesses a seal */
    buf_fini(&items);
    while (answer_next(&s, &source, &item, &whole)) total += item.len + 6;
    ASSERT(total <= size && whole == (s.len == 0));
    return 0;
}
