/* Form is checked here; what a judgement of each kind needs is services/feedback's to say, for judgements from everywhere. */
#include "feedback_request.h"

#include <math.h>

#include "base/clock.h"
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
    static const char *const prefixes[] = {"chatcmpl-", "cmpl-", "resp_"};
    for (int i = 0; i < 3; i++)
        if (span_starts(id, span_str(prefixes[i]))) return span_skip(id, strlen(prefixes[i]));
    return id;
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
    if (time.len && time_parse(time, &event_time_ms) < 0) return error_set_param(err, E_INVALID, "time", "'time' must be as in RFC 3339: 2026-11-24T04:01:21Z");

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
