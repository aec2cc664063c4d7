/*
 * JSON becomes packed bytes first: every kind of field (oneof, map, repeated, nested) is then a tag and a value, and protobuf-c's own unpack makes the
 * struct. The other way reads the struct through the offsets of its descriptor.
 */
#include "wire/protojson.h"

#include <math.h>
#include <stdlib.h>

#include "base/alloc.h"
#include "wire/unpack.h"

void protojson_free(ProtobufCMessage *message) { message_free(message); }

/* protobuf-c does not say which fields are maps: they are repeated messages NameEntry of key = 1 and value = 2. */
static bool is_map(const ProtobufCFieldDescriptor *f) {
    if (f->label != PROTOBUF_C_LABEL_REPEATED || f->type != PROTOBUF_C_TYPE_MESSAGE) return false;
    const ProtobufCMessageDescriptor *d = f->descriptor;
    return d->n_fields == 2 && d->fields[0].id == 1 && d->fields[1].id == 2 && strcmp(d->fields[0].name, "key") == 0 && strcmp(d->fields[1].name, "value") == 0 &&
           span_ends(span_str(d->short_name), SPAN("Entry"));
}

/* ---- base64 ---- */

int base64_encode(struct buf *out, struct span bytes) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (size_t i = 0; i < bytes.len; i += 3) {
        size_t n = bytes.len - i < 3 ? bytes.len - i : 3;
        uint32_t v = 0;
        for (size_t k = 0; k < 3; k++) v = v << 8 | (k < n ? (uint8_t)bytes.data[i + k] : 0);
        char four[4] = {digits[v >> 18 & 63], digits[v >> 12 & 63], n > 1 ? digits[v >> 6 & 63] : '=', n > 2 ? digits[v & 63] : '='};
        int r = buf_append(out, four, 4);
        if (r < 0) return r;
    }
    return 0;
}

static int base64_digit(char c) {
    if (c >= 'A' && c <= 'Z') return c - 'A';
    if (c >= 'a' && c <= 'z') return c - 'a' + 26;
    if (c >= '0' && c <= '9') return c - '0' + 52;
    return c == '+' || c == '-' ? 62 : c == '/' || c == '_' ? 63 : -1;
}

int base64_decode(struct buf *out, struct span text) {
    if (text.len % 4 == 0) /* padding belongs only there */
        for (int pads = 0; pads < 2 && text.len && text.data[text.len - 1] == '='; pads++) text.len--;
    if (text.len % 4 == 1) return E_INVALID;
    for (size_t i = 0; i < text.len; i += 4) {
        size_t n = text.len - i < 4 ? text.len - i : 4;
        uint32_t v = 0;
        for (size_t k = 0; k < 4; k++) {
            int digit = k < n ? base64_digit(text.data[i + k]) : 0;
            if (digit < 0) return E_INVALID;
            v = v << 6 | (uint32_t)digit;
        }
        char three[3] = {(char)(v >> 16), (char)(v >> 8), (char)v};
        int r = buf_append(out, three, n - 1);
        if (r < 0) return r;
    }
    return 0;
}

/* ---- JSON to packed bytes ---- */

struct packer {
    struct error *err;
    char path[ERROR_PARAM_MAX];
    size_t path_len;
};

static int wrong(struct packer *p, const char *expected, const struct json *got) {
    return error_set_param(p->err, E_INVALID, p->path, "%s must be %s, not %s", p->path[0] ? p->path : "the body", expected, json_type_name(got));
}

/* Goes one name deeper; what is too long for a parameter's name is cut. Returns the length to go back to. */
static size_t path_push(struct packer *p, struct span name) {
    size_t before = p->path_len;
    int n = snprintf(p->path + before, sizeof p->path - before, "%s%.*s", before ? "." : "", (int)(name.len < 64 ? name.len : 64), name.data);
    p->path_len = before + (size_t)n < sizeof p->path ? before + (size_t)n : sizeof p->path - 1;
    p->path[span_utf8_complete(span_of(p->path, p->path_len))] = 0;
    return before;
}
static void path_pop(struct packer *p, size_t before) {
    p->path_len = before;
    p->path[before] = 0;
}

static void put_varint(struct buf *out, uint64_t v) {
    char bytes[10];
    size_t n = 0;
    do {
        bytes[n++] = (char)((v & 0x7f) | (v > 0x7f ? 0x80 : 0));
        v >>= 7;
    } while (v);
    (void)buf_append(out, bytes, n);
}
static void put_tag(struct buf *out, const ProtobufCFieldDescriptor *f, unsigned wire) { put_varint(out, (uint64_t)f->id << 3 | wire); }
static void put_bytes(struct buf *out, const ProtobufCFieldDescriptor *f, struct span bytes) {
    put_tag(out, f, 2);
    put_varint(out, bytes.len);
    (void)buf_append_span(out, bytes);
}

static bool whole_number(const struct json *v, int64_t *out) {
    double real;
    switch (json_type(v)) {
    case JSON_TYPE_INT: *out = json_int(v, 0); return true;
    case JSON_TYPE_REAL:
        real = json_real(v, NAN);
        if (!(fabs(real) < 9007199254740992.0) || real != floor(real)) return false; /* beyond 2^53 a real does not say which number it means */
        *out = (int64_t)real;
        return true;
    case JSON_TYPE_STRING: return span_to_i64(json_string(v), out) == 0;
    default: return false;
    }
}

static int pack_integer(struct packer *p, const ProtobufCFieldDescriptor *f, const struct json *v, struct buf *out) {
    int64_t n = 0, low = INT64_MIN, high = INT64_MAX;
    uint64_t u = 0;
    bool is_unsigned = f->type == PROTOBUF_C_TYPE_UINT64 || f->type == PROTOBUF_C_TYPE_FIXED64, ok = whole_number(v, &n);
    if (!ok && is_unsigned && json_type(v) == JSON_TYPE_STRING && span_to_u64(json_string(v), &u) == 0) n = (int64_t)u; /* above INT64_MAX only a string can say it */
    else if (!ok) return wrong(p, "a whole number", v);
    switch (f->type) {
    case PROTOBUF_C_TYPE_INT32: case PROTOBUF_C_TYPE_SINT32: case PROTOBUF_C_TYPE_SFIXED32: low = INT32_MIN, high = INT32_MAX; break;
    case PROTOBUF_C_TYPE_UINT32: case PROTOBUF_C_TYPE_FIXED32: low = 0, high = UINT32_MAX; break;
    case PROTOBUF_C_TYPE_UINT64: case PROTOBUF_C_TYPE_FIXED64: low = ok ? 0 : INT64_MIN; break;
    default: break;
    }
    if (n < low || n > high) return error_set_param(p->err, E_INVALID, p->path, "%s must lie between %lld and %lld", p->path, (long long)low, (long long)high);
    switch (f->type) {
    case PROTOBUF_C_TYPE_SINT32: case PROTOBUF_C_TYPE_SINT64:
        put_tag(out, f, 0);
        put_varint(out, ((uint64_t)n << 1) ^ (uint64_t)(n >> 63));
        break;
    case PROTOBUF_C_TYPE_FIXED32: case PROTOBUF_C_TYPE_SFIXED32:
        put_tag(out, f, 5);
        (void)buf_append(out, &(uint32_t){(uint32_t)n}, 4);
        break;
    case PROTOBUF_C_TYPE_FIXED64: case PROTOBUF_C_TYPE_SFIXED64:
        put_tag(out, f, 1);
        (void)buf_append(out, &n, 8);
        break;
    default:
        put_tag(out, f, 0);
        put_varint(out, (uint64_t)n);
    }
    return 0;
}

static int pack_real(struct packer *p, const ProtobufCFieldDescriptor *f, const struct json *v, struct buf *out) {
    double d = 0;
    struct span text = json_string(v);
    if (json_type(v) == JSON_TYPE_INT || json_type(v) == JSON_TYPE_REAL) d = json_real(v, 0);
    else if (span_eq_str(text, "NaN")) d = NAN;
    else if (span_eq_str(text, "Infinity")) d = INFINITY;
    else if (span_eq_str(text, "-Infinity")) d = -INFINITY;
    else if (json_type(v) != JSON_TYPE_STRING || span_to_f64(text, &d) < 0) return wrong(p, "a number", v);
    if (f->type == PROTOBUF_C_TYPE_FLOAT) {
        if (isfinite(d) && fabs(d) > (double)3.4028234663852886e38) return error_set_param(p->err, E_INVALID, p->path, "%s is beyond a 32-bit float", p->path);
        float single = (float)d;
        put_tag(out, f, 5);
        (void)buf_append(out, &single, 4);
    } else {
        put_tag(out, f, 1);
        (void)buf_append(out, &d, 8);
    }
    return 0;
}

static int pack_enum(struct packer *p, const ProtobufCFieldDescriptor *f, const struct json *v, struct buf *out) {
    const ProtobufCEnumDescriptor *d = f->descriptor;
    const ProtobufCEnumValue *value = NULL;
    int64_t number;
    if (json_type(v) == JSON_TYPE_STRING) {
        char name[128];
        if (json_string(v).len < sizeof name) value = protobuf_c_enum_descriptor_get_value_by_name(d, span_copy(name, sizeof name, json_string(v)));
    } else if (whole_number(v, &number) && number >= INT32_MIN && number <= INT32_MAX) {
        value = protobuf_c_enum_descriptor_get_value(d, (int)number);
    }
    if (!value) return error_set_param(p->err, E_INVALID, p->path, "%s must be one of %s … (%u names of %s)", p->path, d->values[d->n_values > 1 ? 1 : 0].name, d->n_values, d->short_name);
    put_tag(out, f, 0);
    put_varint(out, (uint64_t)(int64_t)value->value);
    return 0;
}

static int pack_message(struct packer *p, const struct json *v, const ProtobufCMessageDescriptor *type, int depth, struct buf *out);

static int pack_value(struct packer *p, const ProtobufCFieldDescriptor *f, const struct json *v, int depth, struct buf *out) {
    struct buf inner;
    int r = 0;
    switch (f->type) {
    case PROTOBUF_C_TYPE_BOOL:
        if (json_type(v) != JSON_TYPE_BOOL) return wrong(p, "true or false", v);
        put_tag(out, f, 0);
        put_varint(out, json_bool(v, false));
        return 0;
    case PROTOBUF_C_TYPE_FLOAT: case PROTOBUF_C_TYPE_DOUBLE: return pack_real(p, f, v, out);
    case PROTOBUF_C_TYPE_ENUM: return pack_enum(p, f, v, out);
    case PROTOBUF_C_TYPE_STRING:
        if (json_type(v) != JSON_TYPE_STRING) return wrong(p, "a string", v);
        if (span_find_char(json_string(v), 0) >= 0) return error_set_param(p->err, E_INVALID, p->path, "%s contains the character U+0000", p->path);
        put_bytes(out, f, json_string(v));
        return 0;
    case PROTOBUF_C_TYPE_BYTES:
        if (json_type(v) != JSON_TYPE_STRING) return wrong(p, "a string of base64", v);
        buf_init(&inner, PROTOJSON_BYTES_MAX);
        r = base64_decode(&inner, json_string(v));
        if (r == 0) put_bytes(out, f, buf_span(&inner));
        else r = error_set_param(p->err, r == E_INVALID ? E_INVALID : E_TOO_LARGE, p->path, "%s is not base64", p->path);
        buf_fini(&inner);
        return r;
    case PROTOBUF_C_TYPE_MESSAGE:
        buf_init(&inner, PROTOJSON_BYTES_MAX);
        r = pack_message(p, v, f->descriptor, depth + 1, &inner);
        if (r == 0) put_bytes(out, f, buf_span(&inner));
        buf_fini(&inner);
        return r;
    default: return pack_integer(p, f, v, out);
    }
}

/* {"key": value} as repeated entries. The key of an object is text: a number in it is read as one. */
static int pack_map(struct packer *p, const ProtobufCFieldDescriptor *f, const struct json *v, int depth, struct buf *out) {
    const ProtobufCMessageDescriptor *entry = f->descriptor;
    const ProtobufCFieldDescriptor *key_field = &entry->fields[0];
    void *iterator = NULL;
    struct span key;
    const struct json *value;
    if (json_type(v) != JSON_TYPE_OBJECT) return wrong(p, "an object", v);
    while (json_next(v, &iterator, &key, &value)) {
        struct buf inner;
        int r = 0;
        int64_t n;
        uint64_t u;
        size_t before = path_push(p, key);
        buf_init(&inner, PROTOJSON_BYTES_MAX);
        switch (key_field->type) {
        case PROTOBUF_C_TYPE_STRING:
            if (span_find_char(key, 0) >= 0) r = error_set_param(p->err, E_INVALID, p->path, "a name contains the character U+0000");
            else put_bytes(&inner, key_field, key);
            break;
        case PROTOBUF_C_TYPE_UINT32: case PROTOBUF_C_TYPE_UINT64:
            if (span_to_u64(key, &u) < 0 || (key_field->type == PROTOBUF_C_TYPE_UINT32 && u > UINT32_MAX)) {
                r = error_set_param(p->err, E_INVALID, p->path, "%s: the name must be a whole number from 0", p->path);
            } else {
                put_tag(&inner, key_field, 0);
                put_varint(&inner, u);
            }
            break;
        case PROTOBUF_C_TYPE_INT32: case PROTOBUF_C_TYPE_INT64:
            if (span_to_i64(key, &n) < 0 || (key_field->type == PROTOBUF_C_TYPE_INT32 && (n < INT32_MIN || n > INT32_MAX))) {
                r = error_set_param(p->err, E_INVALID, p->path, "%s: the name must be a whole number", p->path);
            } else {
                put_tag(&inner, key_field, 0);
                put_varint(&inner, (uint64_t)n);
            }
            break;
        default: r = error_set_param(p->err, E_UNSUPPORTED, p->path, "%s: no names of this type", p->path);
        }
        if (r == 0 && json_is_null(value)) r = wrong(p, "a value", value);
        if (r == 0) r = pack_value(p, &entry->fields[1], value, depth, &inner);
        if (r == 0 && inner.failed) r = error_set_param(p->err, E_TOO_LARGE, p->path, "%s is too large", p->path);
        if (r == 0) put_bytes(out, f, buf_span(&inner));
        buf_fini(&inner);
        path_pop(p, before);
        if (r < 0) return r;
    }
    return 0;
}

static int pack_field(struct packer *p, const ProtobufCFieldDescriptor *f, const struct json *v, int depth, struct buf *out) {
    if (is_map(f)) return pack_map(p, f, v, depth, out);
    if (f->label != PROTOBUF_C_LABEL_REPEATED) return pack_value(p, f, v, depth, out);
    if (json_type(v) != JSON_TYPE_ARRAY) return wrong(p, "a list", v);
    for (size_t i = 0; i < json_size(v); i++) {
        char index[24];
        (void)snprintf(index, sizeof index, "%zu", i);
        size_t before = path_push(p, span_str(index));
        int r = json_is_null(json_at(v, i)) ? wrong(p, "a value", NULL) : pack_value(p, f, json_at(v, i), depth, out);
        path_pop(p, before);
        if (r < 0) return r;
    }
    return 0;
}

/* Recursion follows the message types, which do not recurse. */
static int pack_message(struct packer *p, const struct json *v, const ProtobufCMessageDescriptor *type, int depth, struct buf *out) {
    uint32_t groups_set[8] = {0}; /* of oneofs, by the offset of their quantifier */
    int n_groups = 0;
    void *iterator = NULL;
    struct span key;
    const struct json *value;
    if (depth > PROTOJSON_DEPTH_MAX) return error_set_param(p->err, E_INVALID, p->path, "%s is nested too deep", p->path);
    if (json_type(v) != JSON_TYPE_OBJECT) return wrong(p, "an object", v);
    while (json_next(v, &iterator, &key, &value)) {
        char name[64];
        size_t before = path_push(p, key);
        const ProtobufCFieldDescriptor *f = NULL;
        int r = 0;
        if (key.len < sizeof name && span_find_char(key, 0) < 0) f = protobuf_c_message_descriptor_get_field_by_name(type, span_copy(name, sizeof name, key));
        if (!f) {
            r = error_set_param(p->err, E_INVALID, p->path, "unknown name %s", p->path);
        } else if (!json_is_null(value)) {
            if (f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) {
                for (int i = 0; i < n_groups; i++)
                    if (groups_set[i] == f->quantifier_offset) r = error_set_param(p->err, E_INVALID, p->path, "%s: another one of its kind is given already", p->path);
                if (n_groups < 8) groups_set[n_groups++] = f->quantifier_offset;
            }
            if (r == 0) r = pack_field(p, f, value, depth, out);
            if (r == 0 && out->failed) r = error_set_param(p->err, out->failed == E_FULL ? E_TOO_LARGE : out->failed, p->path, "%s is too large", p->path);
        }
        path_pop(p, before);
        if (r < 0) return r;
    }
    return 0;
}

int protojson_pack(const struct json *value, const ProtobufCMessageDescriptor *type, struct buf *out, struct error *err) {
    struct packer p = {.err = err};
    size_t before = out->len;
    int r = pack_message(&p, value, type, 0, out);
    if (r < 0 && out->len > before) out->len = before;
    return r;
}

int protojson_read(const struct json *value, const ProtobufCMessageDescriptor *type, ProtobufCMessage **message, struct error *err) {
    struct buf packed;
    buf_init(&packed, PROTOJSON_BYTES_MAX);
    int r = protojson_pack(value, type, &packed, err);
    if (r == 0) {
        ProtobufCMessage *m = message_unpack(type, buf_span(&packed));
        if (m) *message = m;
        else r = error_set(err, E_NOMEM, "no memory for a %s", type->short_name);
    }
    buf_fini(&packed);
    return r;
}

/* ---- messages to JSON ---- */

static void write_real(struct json_out *out, double d) {
    if (isnan(d)) json_put_str(out, "NaN");
    else if (isinf(d)) json_put_str(out, d > 0 ? "Infinity" : "-Infinity");
    else json_put_real(out, d);
}

static void write_single(struct json_out *out, float v) {
    char text[32];
    if (!isfinite(v)) {
        write_real(out, (double)v);
        return;
    }
    (void)snprintf(text, sizeof text, "%.9g", (double)v); /* nine digits name every float; the locale is C */
    json_put_raw(out, span_str(text));
}

static void write_bytes(struct json_out *out, const ProtobufCBinaryData *b) {
    struct buf text;
    buf_init(&text, PROTOJSON_BYTES_MAX * 2);
    if (base64_encode(&text, span_of(b->data, b->len)) == 0) json_put_span(out, buf_span(&text));
    else json_put_null(out);
    buf_fini(&text);
}

static void write_message(struct json_out *out, const ProtobufCMessage *m, bool defaults, int depth);

/* One value at `at`, where a field of this type keeps it. */
static void write_value(struct json_out *out, const ProtobufCFieldDescriptor *f, const void *at, bool defaults, int depth) {
    switch (f->type) {
    case PROTOBUF_C_TYPE_INT32: case PROTOBUF_C_TYPE_SINT32: case PROTOBUF_C_TYPE_SFIXED32: json_put_int(out, *(const int32_t *)at); break;
    case PROTOBUF_C_TYPE_INT64: case PROTOBUF_C_TYPE_SINT64: case PROTOBUF_C_TYPE_SFIXED64: json_put_int(out, *(const int64_t *)at); break;
    case PROTOBUF_C_TYPE_UINT32: case PROTOBUF_C_TYPE_FIXED32: json_put_uint(out, *(const uint32_t *)at); break;
    case PROTOBUF_C_TYPE_UINT64: case PROTOBUF_C_TYPE_FIXED64: json_put_uint(out, *(const uint64_t *)at); break;
    case PROTOBUF_C_TYPE_FLOAT: write_single(out, *(const float *)at); break;
    case PROTOBUF_C_TYPE_DOUBLE: write_real(out, *(const double *)at); break;
    case PROTOBUF_C_TYPE_BOOL: json_put_bool(out, *(const protobuf_c_boolean *)at != 0); break;
    case PROTOBUF_C_TYPE_ENUM: {
        const ProtobufCEnumValue *value = protobuf_c_enum_descriptor_get_value(f->descriptor, *(const int *)at);
        if (value) json_put_str(out, value->name);
        else json_put_int(out, *(const int *)at);
        break;
    }
    case PROTOBUF_C_TYPE_STRING: {
        const char *s = *(char *const *)at;
        json_put_str(out, s ? s : "");
        break;
    }
    case PROTOBUF_C_TYPE_BYTES: write_bytes(out, at); break;
    case PROTOBUF_C_TYPE_MESSAGE: write_message(out, *(ProtobufCMessage *const *)at, defaults, depth + 1); break;
    }
}

static size_t value_size(ProtobufCType type) {
    switch (type) {
    case PROTOBUF_C_TYPE_INT64: case PROTOBUF_C_TYPE_SINT64: case PROTOBUF_C_TYPE_SFIXED64: case PROTOBUF_C_TYPE_UINT64: case PROTOBUF_C_TYPE_FIXED64: case PROTOBUF_C_TYPE_DOUBLE: return 8;
    case PROTOBUF_C_TYPE_BOOL: return sizeof(protobuf_c_boolean);
    case PROTOBUF_C_TYPE_STRING: case PROTOBUF_C_TYPE_MESSAGE: return sizeof(void *);
    case PROTOBUF_C_TYPE_BYTES: return sizeof(ProtobufCBinaryData);
    default: return 4;
    }
}

static bool is_default(const ProtobufCFieldDescriptor *f, const void *at) {
    static const char zero[sizeof(ProtobufCBinaryData)];
    if (f->type == PROTOBUF_C_TYPE_STRING) return !*(char *const *)at || !**(char *const *)at;
    if (f->type == PROTOBUF_C_TYPE_BYTES) return ((const ProtobufCBinaryData *)at)->len == 0;
    return memcmp(at, zero, value_size(f->type)) == 0;
}

/* What is no UTF-8 is one name for all of its kind, so that no two entries are written under the same. */
static struct span map_key(const char *s) { return !s ? SPAN("") : span_is_utf8(span_str(s)) ? span_str(s) : SPAN("\xef\xbf\xbd"); }

static void write_key(struct json_out *out, const ProtobufCFieldDescriptor *f, const void *at) {
    char text[24];
    if (f->type == PROTOBUF_C_TYPE_STRING) {
        const char *s = *(char *const *)at;
        json_key_span(out, map_key(s));
        return;
    }
    if (f->type == PROTOBUF_C_TYPE_UINT64) (void)snprintf(text, sizeof text, "%llu", (unsigned long long)*(const uint64_t *)at);
    else if (f->type == PROTOBUF_C_TYPE_INT64) (void)snprintf(text, sizeof text, "%lld", (long long)*(const int64_t *)at);
    else if (f->type == PROTOBUF_C_TYPE_UINT32) (void)snprintf(text, sizeof text, "%u", *(const uint32_t *)at);
    else (void)snprintf(text, sizeof text, "%d", *(const int32_t *)at);
    json_key(out, text);
}

/* An entry of a map by its key: the text, or the number's 8 bytes. */
struct map_entry {
    struct span text;
    uint64_t number;
    size_t at;
};
static int by_key(const void *a, const void *b) {
    const struct map_entry *x = a, *y = b;
    int c = span_compare(x->text, y->text);
    if (c == 0) c = (x->number > y->number) - (x->number < y->number);
    return c ? c : (x->at > y->at) - (x->at < y->at);
}

/* A peer may send a key of a map more than once: the last one counts (the protobuf specification's word), and a JSON object has each name once. Returns owned: whether entry i
 * gives way to a later one; NULL without memory. */
static bool *map_superseded(const ProtobufCMessage *const *entries, size_t n) {
    struct map_entry *sorted = mem_calloc(n, sizeof *sorted);
    bool *gone = mem_calloc(n, sizeof *gone);
    if (!sorted || !gone) {
        mem_free(sorted);
        mem_free(gone);
        return NULL;
    }
    for (size_t i = 0; i < n; i++) {
        const ProtobufCFieldDescriptor *key = &entries[i]->descriptor->fields[0];
        const char *at = (const char *)entries[i] + key->offset;
        sorted[i].at = i;
        if (key->type == PROTOBUF_C_TYPE_STRING) sorted[i].text = map_key(*(char *const *)(const void *)at);
        else memcpy(&sorted[i].number, at, value_size(key->type));
    }
    qsort(sorted, n, sizeof *sorted, by_key);
    for (size_t i = 0; i + 1 < n; i++) gone[sorted[i].at] = span_eq(sorted[i].text, sorted[i + 1].text) && sorted[i].number == sorted[i + 1].number;
    mem_free(sorted);
    return gone;
}

static void write_repeated(struct json_out *out, const ProtobufCFieldDescriptor *f, const char *items, size_t n, bool defaults, int depth) {
    bool map = is_map(f), *gone = NULL;
    if (map && n > 1 && !(gone = map_superseded((const ProtobufCMessage *const *)(const void *)items, n))) out->out->failed = E_NOMEM;
    if (map) json_object(out);
    else json_array(out);
    for (size_t i = 0; i < n; i++) {
        const void *at = items + i * value_size(f->type);
        if (gone && gone[i]) continue;
        if (map) {
            const ProtobufCMessage *entry = *(ProtobufCMessage *const *)at;
            const ProtobufCFieldDescriptor *parts = entry->descriptor->fields;
            write_key(out, &parts[0], (const char *)entry + parts[0].offset);
            write_value(out, &parts[1], (const char *)entry + parts[1].offset, defaults, depth);
        } else {
            write_value(out, f, at, defaults, depth);
        }
    }
    if (map) json_object_end(out);
    else json_array_end(out);
    mem_free(gone);
}

static void write_message(struct json_out *out, const ProtobufCMessage *m, bool defaults, int depth) {
    json_object(out);
    if (m && depth <= PROTOJSON_DEPTH_MAX) {
        for (unsigned i = 0; i < m->descriptor->n_fields; i++) {
            const ProtobufCFieldDescriptor *f = &m->descriptor->fields[i];
            const char *at = (const char *)m + f->offset;
            if (f->label == PROTOBUF_C_LABEL_REPEATED) {
                size_t n = *(const size_t *)(const void *)((const char *)m + f->quantifier_offset);
                if (n == 0 && !defaults) continue;
                json_key(out, f->name);
                write_repeated(out, f, *(char *const *)(const void *)at, n, defaults, depth);
                continue;
            }
            if (f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) {
                if (*(const uint32_t *)(const void *)((const char *)m + f->quantifier_offset) != f->id) continue;
            } else if (f->type == PROTOBUF_C_TYPE_MESSAGE ? !*(ProtobufCMessage *const *)(const void *)at : !defaults && is_default(f, at)) {
                continue;
            }
            json_key(out, f->name);
            write_value(out, f, at, defaults, depth);
        }
    }
    json_object_end(out);
}

void protojson_write(struct json_out *out, const ProtobufCMessage *message, bool defaults) { write_message(out, message, defaults, 0); }

int protojson_write_packed(struct json_out *out, const ProtobufCMessageDescriptor *type, struct span bytes, bool defaults, struct error *err) {
    ProtobufCMessage *m = message_unpack(type, bytes);
    if (!m) return error_set(err, E_INVALID, "not a %s", type->short_name);
    write_message(out, m, defaults, 0);
    protojson_free(m);
    return 0;
}
