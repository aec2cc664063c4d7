#include "idempotency_record.h"

int idempotency_write(const struct idempotency_record *r, struct buf *out) {
    (void)buf_printf(out, "%c %.*s %.*s", r->answered ? 'a' : 'r', SPAN_ARG(r->owner), SPAN_ARG(r->fingerprint));
    if (r->answered) (void)buf_printf(out, " %d", r->status);
    (void)buf_append_char(out, '\n');
    if (r->answered) (void)buf_append_span(out, r->body);
    return out->failed;
}

static bool is_hex(struct span s, size_t len) {
    for (size_t i = 0; i < s.len; i++)
        if (!((s.data[i] >= '0' && s.data[i] <= '9') || (s.data[i] >= 'a' && s.data[i] <= 'f'))) return false;
    return s.len == len;
}

int idempotency_read(struct span text, struct idempotency_record *r) {
    struct idempotency_record found = {0};
    struct span line, kind;
    ptrdiff_t end = span_find_char(text, '\n');
    if (end < 0) return E_INVALID;
    line = span_sub(text, 0, (size_t)end);
    if (!span_cut(&line, ' ', &kind) || !span_cut(&line, ' ', &found.owner) || !span_cut(&line, ' ', &found.fingerprint)) return E_INVALID;
    found.answered = span_eq_str(kind, "a");
    if ((!found.answered && !span_eq_str(kind, "r")) || !is_hex(found.owner, IDEMPOTENCY_OWNER_MAX - 1) || !is_hex(found.fingerprint, SHA256_HEX_MAX - 1)) return E_INVALID;
    found.body = span_skip(text, (size_t)end + 1);
    if (found.answered) {
        uint64_t status;
        if (span_to_u64(line, &status) < 0 || status < 200 || status > 599) return E_INVALID;
        found.status = (int)status;
    } else if (line.len || found.body.len)
        return E_INVALID;
    *r = found;
    return 0;
}
