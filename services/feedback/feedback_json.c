#include "feedback_json.h"

#include <math.h>
#include <string.h>

#include "base/clock.h"
#include "base/json.h"

#define KIND(NAME) GENLOOP__V1__FEEDBACK_KIND__FEEDBACK_KIND_##NAME

static int check_text(struct span s, const char *name, size_t max, struct error *err) {
    if (s.len > max) return error_set_param(err, E_TOO_LARGE, name, "%s has %zu bytes, more than %zu", name, s.len, max);
    if (!span_is_utf8(s)) return error_set_param(err, E_INVALID, name, "%s is no UTF-8", name);
    return 0;
}

/* Ids stand in keys, headers and logs: printable ASCII. */
static int check_id(struct span s, const char *name, size_t max, struct error *err) {
    if (s.len > max) return error_set_param(err, E_TOO_LARGE, name, "%s has %zu characters, more than %zu", name, s.len, max);
    for (size_t i = 0; i < s.len; i++)
        if (s.data[i] <= ' ' || s.data[i] > '~') return error_set_param(err, E_INVALID, name, "%s may hold printable ASCII without spaces only", name);
    return 0;
}

int feedback_check(const struct feedback *f, struct error *err) {
    int r;
    if (f->id.len == 0) return error_set_param(err, E_INVALID, "id", "feedback needs an id");
    if ((r = check_id(f->id, "id", FEEDBACK_ID_MAX, err)) || (r = check_id(f->request_id, "request_id", FEEDBACK_ID_MAX, err)) ||
        (r = check_id(f->chosen_request_id, "chosen_request_id", FEEDBACK_ID_MAX, err)) || (r = check_id(f->rejected_request_id, "rejected_request_id", FEEDBACK_ID_MAX, err)) ||
        (r = check_id(f->model, "model", FEEDBACK_ID_MAX, err)) || (r = check_text(f->subject, "subject", FEEDBACK_SUBJECT_MAX, err)) ||
        (r = check_text(f->prompt, "prompt", FEEDBACK_TEXT_MAX, err)) || (r = check_text(f->chosen, "chosen", FEEDBACK_TEXT_MAX, err)) ||
        (r = check_text(f->rejected, "rejected", FEEDBACK_TEXT_MAX, err)) || (r = check_text(f->text, "text", FEEDBACK_TEXT_MAX, err)))
        return r;
    if (!(f->value >= -1 && f->value <= 1)) return error_set_param(err, E_INVALID, "value", "value must be from -1 to 1");
    bool about = f->request_id.len > 0;
    switch (f->kind) {
    case KIND(THUMB):
    case KIND(RATING):
        if (!about) return error_set_param(err, E_INVALID, "request_id", "a %s needs the request_id that it is about", f->kind == KIND(THUMB) ? "thumb" : "rating");
        if (f->kind == KIND(THUMB) && f->value == 0) return error_set_param(err, E_INVALID, "value", "a thumb is up (above 0) or down (below 0)");
        return 0;
    case KIND(PREFERENCE):
        if (f->chosen_request_id.len || f->rejected_request_id.len) {
            if (!f->chosen_request_id.len || !f->rejected_request_id.len)
                return error_set_param(err, E_INVALID, "rejected_request_id", "a preference between two requests needs chosen_request_id and rejected_request_id");
            if (span_eq(f->chosen_request_id, f->rejected_request_id)) return error_set_param(err, E_INVALID, "rejected_request_id", "a preference is between two different requests");
            return 0;
        }
        if (!about && !f->prompt.len) return error_set_param(err, E_INVALID, "prompt", "a preference needs a request_id or a prompt");
        if (!f->chosen.len) return error_set_param(err, E_INVALID, "chosen", "a preference needs chosen");
        if (!f->rejected.len) return error_set_param(err, E_INVALID, "rejected", "a preference needs rejected");
        return 0;
    case KIND(CORRECTION):
        if (!about && !f->prompt.len) return error_set_param(err, E_INVALID, "request_id", "a correction needs a request_id or a prompt");
        if (!f->text.len) return error_set_param(err, E_INVALID, "text", "a correction needs text");
        return 0;
    default:
        return error_set_param(err, E_INVALID, "kind", "kind must be thumb, rating, preference or correction");
    }
}

int feedback_json_parse(struct span json, struct arena *arena, struct feedback *feedback, struct error *err) {
    struct feedback f = {0};
    const struct {
        const char *key;
        struct span *to;
    } texts[] = {
        {"id", &f.id}, {"request_id", &f.request_id}, {"subject", &f.subject}, {"model", &f.model}, {"chosen_request_id", &f.chosen_request_id},
        {"rejected_request_id", &f.rejected_request_id}, {"prompt", &f.prompt}, {"chosen", &f.chosen}, {"rejected", &f.rejected}, {"text", &f.text},
    };
    static const char *const kinds[] = {"thumb", "rating", "preference", "correction"};
    struct json *root = NULL;
    int r = json_parse(json, &root, err);
    if (r == 0 && json_type(root) != JSON_TYPE_OBJECT) r = error_set(err, E_INVALID, "feedback is an object, not %s", json_type_name(root));
    void *iterator = NULL;
    struct span key;
    const struct json *value;
    bool has_value = false;
    while (r == 0 && json_next(root, &iterator, &key, &value)) {
        char name[ERROR_PARAM_MAX];
        span_copy(name, sizeof name, key);
        size_t t = 0;
        while (t < sizeof texts / sizeof texts[0] && !span_eq_str(key, texts[t].key)) t++;
        if (t < sizeof texts / sizeof texts[0]) {
            if (json_type(value) != JSON_TYPE_STRING)
                r = error_set_param(err, E_INVALID, name, "%s must be a string, not %s", name, json_type_name(value));
            else {
                struct span s = json_string(value);
                *texts[t].to = s.len ? arena_span(arena, s) : SPAN("");
                if (!texts[t].to->data) r = error_set(err, E_NOMEM, "no memory for feedback");
            }
        } else if (span_eq_str(key, "kind")) {
            int k = 0;
            while (k < 4 && !span_eq_str(json_string(value), kinds[k])) k++;
            if (k == 4)
                r = error_set_param(err, E_INVALID, "kind", "kind must be thumb, rating, preference or correction");
            else
                f.kind = (Genloop__V1__FeedbackKind)(k + 1);
        } else if (span_eq_str(key, "value")) {
            if (json_type(value) != JSON_TYPE_INT && json_type(value) != JSON_TYPE_REAL)
                r = error_set_param(err, E_INVALID, "value", "value must be a number, not %s", json_type_name(value));
            f.value = json_real(value, NAN);
            has_value = true;
        } else if (span_eq_str(key, "time")) {
            if (json_type(value) != JSON_TYPE_STRING || time_parse(json_string(value), &f.time_ms) != 0)
                r = error_set_param(err, E_INVALID, "time", "time must be as RFC 3339 has it: 2026-11-24T04:01:21Z");
        } else
            r = error_set_param(err, E_INVALID, name, "%s is no key of feedback", name);
    }
    if (r == 0 && (f.kind == KIND(THUMB) || f.kind == KIND(RATING)) && !has_value) r = error_set_param(err, E_INVALID, "value", "a thumb or a rating needs a value");
    json_free(root);
    if (r == 0) r = feedback_check(&f, err);
    if (r == 0) *feedback = f;
    return r;
}
