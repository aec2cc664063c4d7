/* Form is checked here; what a judgement of each kind needs is services/feedback's to say, for judgements from everywhere. */
#include "feedback_request.h"

#include <math.h>

#include "genloop/v1/services.pb-c.h"
#include "wire/protojson.h"

enum { ID_SIZE_MAX = 128, TEXT_SIZE_MAX = 1 << 20, REQUEST_JSON_MAX = 8 << 20 };

static const struct {
    const char *word, *name;
    bool needs_value;
} KINDS[] = {
    {"thumb", "FEEDBACK_KIND_THUMB", true}, {"rating", "FEEDBACK_KIND_RATING", true}, {"preference", "FEEDBACK_KIND_PREFERENCE", false}, {"correction", "FEEDBACK_KIND_CORRECTION", false},
};

static int text_of(const struct json *body, const char *name, size_t size_max, struct span *text, struct error *err) {
    const struct json *v = json_get(body, name);
    *text = SPAN("");
    if (json_is_null(v)) return 0;
    if (json_type(v) != JSON_TYPE_STRING) return error_set_param(err, E_INVALID, name, "'%s' must be a string, not %s", name, json_type_name(v));
    if (json_string(v).len > size_max) return error_set_param(err, E_INVALID, name, "'%s' must have at most %zu bytes", name, size_max);
    *text = json_string(v);
    return 0;
}

/* The id of an answer is the request's behind a word of OpenAI's. */
static struct span bare_id(struct span id) {
    static const char *const prefixes[] = {"chatcmpl-", "cmpl-"};
    for (int i = 0; i < 2; i++)
        if (span_starts(id, span_str(prefixes[i]))) return span_skip(id, strlen(prefixes[i]));
    return id;
}

static bool digits(struct span s, size_t at, size_t n, int64_t *out) { return span_to_i64(span_sub(s, at, n), out) == 0 && s.data[at] >= '0' && s.data[at] <= '9'; }

/* RFC 3339; days since 1970 by Howard Hinnant's civil calendar. */
static bool time_of(struct span s, int64_t *ms) {
    int64_t y, mo, d, h, mi, sec, fraction = 0, offset_h = 0, offset_m = 0;
    if (s.len < 20 || s.data[4] != '-' || s.data[7] != '-' || (s.data[10] != 'T' && s.data[10] != 't' && s.data[10] != ' ') || s.data[13] != ':' || s.data[16] != ':') return false;
    if (!digits(s, 0, 4, &y) || !digits(s, 5, 2, &mo) || !digits(s, 8, 2, &d) || !digits(s, 11, 2, &h) || !digits(s, 14, 2, &mi) || !digits(s, 17, 2, &sec)) return false;
    if (mo < 1 || mo > 12 || d < 1 || d > 31 || h > 23 || mi > 59 || sec > 60) return false;
    s = span_skip(s, 19);
    if (s.len && s.data[0] == '.') {
        size_t n = 1;
        int64_t unit = 100;
        while (n < s.len && s.data[n] >= '0' && s.data[n] <= '9') {
            fraction += unit * (s.data[n++] - '0');
            unit /= 10;
        }
        if (n == 1) return false;
        s = span_skip(s, n);
    }
    if (s.len == 1 && (s.data[0] == 'Z' || s.data[0] == 'z')) {
        offset_h = 0;
    } else if (s.len == 6 && (s.data[0] == '+' || s.data[0] == '-') && s.data[3] == ':' && digits(s, 1, 2, &offset_h) && digits(s, 4, 2, &offset_m)) {
        if (s.data[0] == '-') offset_h = -offset_h, offset_m = -offset_m;
    } else {
        return false;
    }
    int64_t year = mo <= 2 ? y - 1 : y, era = year / 400, of_era = year - era * 400;
    int64_t day_of_year = (153 * (mo + (mo > 2 ? -3 : 9)) + 2) / 5 + d - 1, day_of_era = of_era * 365 + of_era / 4 - of_era / 100 + day_of_year;
    int64_t days = era * 146097 + day_of_era - 719468;
    *ms = ((days * 24 + h - offset_h) * 60 + mi - offset_m) * 60000 + sec * 1000 + fraction;
    return true;
}

int feedback_request_pack(const struct json *body, int64_t now_ms, struct buf *out, struct error *err) {
    static const char *const known[] = {"id", "request_id", "kind", "value", "prompt", "chosen", "rejected", "text", "subject", "time", "chosen_request_id", "rejected_request_id", "model"};
    struct span id, request_id, kind, prompt, chosen, rejected, text, subject, time, chosen_id, rejected_id, model, name;
    const struct json *v;
    void *iterator = NULL;
    int64_t event_time_ms = now_ms;
    double value = 0;
    size_t k = 0;
    int r = 0;
    while (json_next(body, &iterator, &name, &v)) {
        bool ok = false;
        for (size_t i = 0; i < sizeof known / sizeof *known; i++) ok |= span_eq_str(name, known[i]);
        if (!ok) {
            char param[ERROR_PARAM_MAX];
            return error_set_param(err, E_INVALID, span_copy(param, sizeof param, name), "unrecognized parameter '%s'", param);
        }
    }
    const struct {
        const char *name;
        size_t size_max;
        struct span *text;
    } texts[] = {
        {"id", ID_SIZE_MAX, &id}, {"request_id", ID_SIZE_MAX + 16, &request_id}, {"kind", 32, &kind}, {"prompt", TEXT_SIZE_MAX, &prompt}, {"chosen", TEXT_SIZE_MAX, &chosen},
        {"rejected", TEXT_SIZE_MAX, &rejected}, {"text", TEXT_SIZE_MAX, &text}, {"subject", 512, &subject}, {"time", 64, &time}, {"chosen_request_id", ID_SIZE_MAX + 16, &chosen_id},
        {"rejected_request_id", ID_SIZE_MAX + 16, &rejected_id}, {"model", 256, &model},
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        if ((r = text_of(body, texts[i].name, texts[i].size_max, texts[i].text, err)) < 0) return r;
    while (k < 4 && !span_eq_str(kind, KINDS[k].word)) k++;
    if (k == 4) return error_set_param(err, E_INVALID, "kind", "'kind' must be thumb, rating, preference or correction");
    const struct json *given = json_get(body, "value");
    if (!json_is_null(given)) {
        value = json_real(given, NAN);
        if ((json_type(given) != JSON_TYPE_INT && json_type(given) != JSON_TYPE_REAL) || !(value >= -1 && value <= 1)) return error_set_param(err, E_INVALID, "value", "'value' must be a number from -1 to 1");
    } else if (KINDS[k].needs_value) {
        return error_set_param(err, E_INVALID, "value", "'value' is required of a %s: a number from -1 to 1", KINDS[k].word);
    }
    if (time.len && !time_of(time, &event_time_ms)) return error_set_param(err, E_INVALID, "time", "'time' must be as in RFC 3339: 2026-11-24T04:01:21Z");

    struct buf json_text;
    struct json_out w;
    struct json *root = NULL;
    buf_init(&json_text, REQUEST_JSON_MAX);
    json_begin(&w, &json_text);
    json_object(&w);
    json_key(&w, "event");
    json_object(&w);
    json_span(&w, "id", id);
    json_span(&w, "request_id", bare_id(request_id));
    json_str(&w, "kind", KINDS[k].name);
    json_flt(&w, "value", value);
    json_num(&w, "event_time_ms", event_time_ms);
    json_span(&w, "subject", subject);
    json_span(&w, "chosen_request_id", bare_id(chosen_id));
    json_span(&w, "rejected_request_id", bare_id(rejected_id));
    json_span(&w, "model", model);
    json_object_end(&w);
    json_span(&w, "prompt", prompt);
    json_span(&w, "chosen", chosen);
    json_span(&w, "rejected", rejected);
    json_span(&w, "text", text);
    json_object_end(&w);
    r = json_text.failed ? error_set(err, E_TOO_LARGE, "the judgement is too large") : json_parse(buf_span(&json_text), &root, err);
    if (r == 0) r = protojson_pack(root, &genloop__v1__submit_feedback_request__descriptor, out, err);
    json_free(root);
    buf_fini(&json_text);
    return r;
}
