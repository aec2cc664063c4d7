#include "pages.h"

int page_read(struct span query, uint32_t limit, uint32_t most, struct page *page, struct error *err) {
    char text[QUERY_VALUE_MAX];
    struct span value;
    int64_t n = limit;
    *page = (struct page){.limit = limit};
    int r = query_get(query, "after", page->after, &value, err);
    if (r != 0) page->after[0] = 0;
    if (r != 0 && r != E_NOT_FOUND) return r;
    r = query_get(query, "limit", text, &value, err);
    if (r == 0 && (span_to_i64(value, &n) < 0 || n < 1 || n > most)) return error_set_param(err, E_INVALID, "limit", "'limit' must be a whole number from 1 to %u", most);
    if (r != 0 && r != E_NOT_FOUND) return r;
    page->limit = (uint32_t)n;
    r = query_get(query, "order", text, &value, err);
    if (r == 0) page->ascending = span_eq_str(value, "asc");
    if (r == 0 && !page->ascending && !span_eq_str(value, "desc")) return error_set_param(err, E_INVALID, "order", "'order' must be asc or desc");
    return r == E_NOT_FOUND ? 0 : r;
}

void page_begin(struct json_out *w, struct buf *body) {
    json_begin(w, body);
    json_object(w);
    json_str(w, "object", "list");
    json_key(w, "data");
    json_array(w);
}

void page_end_plain(struct json_out *w, bool has_more) {
    json_array_end(w);
    json_flag(w, "has_more", has_more);
    json_object_end(w);
}

static void put_id(struct json_out *w, const char *key, struct span id) {
    json_key(w, key);
    if (id.len) json_put_span(w, id);
    else json_put_null(w);
}

void page_end(struct json_out *w, struct span first, struct span last, bool has_more) {
    json_array_end(w);
    put_id(w, "first_id", first);
    put_id(w, "last_id", last);
    json_flag(w, "has_more", has_more);
    json_object_end(w);
}
