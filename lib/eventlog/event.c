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
            int64_t ms = event_time_parse(value);
            if (ms > 0) e->time_ms = ms;
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

/* Exactly n digits at *at, which moves behind them; -1 where there are others. */
static int digits(struct span s, size_t *at, size_t n) {
    int v = 0;
    for (size_t i = 0; i < n; i++) {
        if (*at >= s.len || s.data[*at] < '0' || s.data[*at] > '9') return -1;
        v = v * 10 + (s.data[(*at)++] - '0');
    }
    return v;
}

static bool literal(struct span s, size_t *at, const char *any_of) {
    if (*at >= s.len || !strchr(any_of, s.data[*at]) || s.data[*at] == '\0') return false;
    (*at)++;
    return true;
}

/* Days since 1970-01-01 of a date of the proleptic Gregorian calendar (years start in March, so that the leap day is the last). */
static int64_t days_from_civil(int64_t y, int64_t m, int64_t d) {
    y -= m <= 2;
    int64_t era = y / 400, year_of_era = y - era * 400;
    int64_t day_of_year = (153 * (m > 2 ? m - 3 : m + 9) + 2) / 5 + d - 1;
    return era * 146097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719468;
}

int64_t event_time_parse(struct span s) {
    size_t at = 0;
    int year = digits(s, &at, 4);
    if (year < 1970 || !literal(s, &at, "-")) return 0;
    int month = digits(s, &at, 2);
    if (month < 1 || month > 12 || !literal(s, &at, "-")) return 0;
    int day = digits(s, &at, 2);
    if (day < 1 || day > 31 || !literal(s, &at, "Tt ")) return 0;
    int hour = digits(s, &at, 2);
    if (hour < 0 || hour > 23 || !literal(s, &at, ":")) return 0;
    int minute = digits(s, &at, 2);
    if (minute < 0 || minute > 59 || !literal(s, &at, ":")) return 0;
    int second = digits(s, &at, 2);
    if (second < 0 || second > 60) return 0;
    int ms = 0;
    if (literal(s, &at, ".")) {
        int scale = 100, seen = 0;
        for (; at < s.len && s.data[at] >= '0' && s.data[at] <= '9'; at++, seen++) {
            ms += scale * (s.data[at] - '0');
            scale /= 10;
        }
        if (seen == 0) return 0;
    }
    int64_t zone = 0;
    if (!literal(s, &at, "Zz")) {
        int sign = at < s.len && s.data[at] == '-' ? -1 : 1;
        if (!literal(s, &at, "+-")) return 0;
        int hours = digits(s, &at, 2);
        if (hours < 0 || hours > 23 || !literal(s, &at, ":")) return 0;
        int minutes = digits(s, &at, 2);
        if (minutes < 0 || minutes > 59) return 0;
        zone = sign * (hours * 60 + minutes) * 60;
    }
    if (at != s.len) return 0;
    return ((days_from_civil(year, month, day) * 24 + hour) * 3600 + minute * 60 + second - zone) * 1000 + ms;
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
