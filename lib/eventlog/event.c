/* What an event looks like on the wire: CloudEvents 1.0, binary mode, the same names as Kafka headers and as fields of a stream's entry. */
#include <inttypes.h>

#include "eventlog/backend.h"

const char *const event_header_names[EVENT_HEADERS] = {"ce_id", "ce_source", "ce_type", "ce_time", "ce_subject", "content-type", "traceparent"};

void event_headers(const struct event *e, char time_text[TIME_TEXT_MAX], struct span values[EVENT_HEADERS]) {
    values[HEADER_ID] = e->id;
    values[HEADER_SOURCE] = e->source;
    values[HEADER_TYPE] = e->type;
    values[HEADER_TIME] = span_str(time_format(e->time_ms, time_text));
    values[HEADER_SUBJECT] = e->subject;
    values[HEADER_CONTENT_TYPE] = e->content_type;
    values[HEADER_TRACEPARENT] = e->traceparent;
}

void event_take_header(struct event *e, struct span name, struct span value) {
    struct span *const field[EVENT_HEADERS] = {&e->id, &e->source, &e->type, NULL, &e->subject, &e->content_type, &e->traceparent};
    for (int i = 0; i < EVENT_HEADERS; i++) {
        if (!span_eq_str(name, event_header_names[i])) continue;
        if (i == HEADER_TIME) {
            int64_t ms = 0;
            if (time_parse(value, &ms) == 0 && ms > 0) e->time_ms = ms;
        } else {
            *field[i] = span_sub(value, 0, i == HEADER_ID ? EVENT_ID_MAX : EVENT_HEADER_MAX);
        }
    }
}

void event_complete(struct event *e, char id[EVENT_ID_MAX + 1]) {
    const struct topic_info *t = topic_info(e->topic);
    if (span_empty(e->type)) e->type = span_str(t->type);
    if (span_empty(e->content_type)) e->content_type = SPAN("application/protobuf");
    if (span_empty(e->id)) {
        snprintf(id, EVENT_ID_MAX + 1, "%s/%d/%s", t->name, e->partition, e->offset);
        e->id = span_str(id);
    }
}

/* "12" or "1700000000000-3"; anything else, and "", stands before all. */
static void offset_parts(const char *text, uint64_t parts[3]) {
    struct span s = span_str(text);
    ptrdiff_t dash = span_find_char(s, '-');
    parts[0] = parts[1] = parts[2] = 0;
    if (span_to_u64(dash < 0 ? s : span_sub(s, 0, (size_t)dash), &parts[1]) != 0) return;
    if (dash >= 0 && span_to_u64(span_skip(s, (size_t)dash + 1), &parts[2]) != 0) return;
    parts[0] = 1;
}

int eventlog_offset_compare(const char *a, const char *b) {
    uint64_t x[3], y[3];
    offset_parts(a, x);
    offset_parts(b, y);
    for (int i = 0; i < 3; i++)
        if (x[i] != y[i]) return x[i] < y[i] ? -1 : 1;
    return 0;
}
