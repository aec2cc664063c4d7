/*
 * JSON in, as a read-only tree (duplicate keys are refused, NUL in strings is allowed, nesting and size are
 * capped), and JSON out, as a writer onto a struct buf. YAML (configuration, recipes) is read into the same tree, so that one
 * set of accessors and one set of error messages serves both. Trees are immutable once parsed: any thread may read.
 */
#ifndef GENLOOP_BASE_JSON_H
#define GENLOOP_BASE_JSON_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/error.h"
#include "base/span.h"

struct json; /* a value in a tree; borrowed from the root */

enum json_type { JSON_TYPE_NULL, JSON_TYPE_BOOL, JSON_TYPE_INT, JSON_TYPE_REAL, JSON_TYPE_STRING, JSON_TYPE_ARRAY, JSON_TYPE_OBJECT };

enum { JSON_DEPTH_MAX = 128 }; /* nesting; nobody's request needs more, and the stack must hold it */

/* Returns owned in *root (json_free). E_INVALID with line and column in err. */
int json_parse(struct span text, struct json **root, struct error *err);
/* YAML 1.1 core: mappings, sequences, scalars (quoted ones are strings; plain ones null, bool, int, real or string).
 * No anchors, tags or several documents: E_INVALID. Also reads JSON. */
int yaml_parse(struct span text, struct json **root, struct error *err);
void json_free(struct json *root); /* NULL is accepted */

enum json_type json_type(const struct json *v); /* JSON_TYPE_NULL for NULL */
const char *json_type_name(const struct json *v); /* "an object", for messages */
/* Member of an object, NULL where absent or no object. */
const struct json *json_get(const struct json *object, const char *key);
const struct json *json_get_span(const struct json *object, struct span key);
size_t json_size(const struct json *v); /* of an array or object; 0 of others */
const struct json *json_at(const struct json *array, size_t index);
/* Objects in order of their keys in the text: start with *iterator NULL; false at the end. */
bool json_next(const struct json *object, void **iterator, struct span *key, const struct json **value);
struct span json_string(const struct json *v); /* empty where it is none */
int64_t json_int(const struct json *v, int64_t otherwise); /* a real without fraction counts too */
double json_real(const struct json *v, double otherwise);  /* an int counts too */
bool json_bool(const struct json *v, bool otherwise);
bool json_is_null(const struct json *v); /* absent or null */
/* Writes a value and all below it. */
int json_write(struct buf *out, const struct json *v);

/* The writer: commas and quoting are its work. Failures stay in out->failed. */
struct json_out {
    struct buf *out;
    uint64_t has_item; /* one bit per level: something stands before */
    int depth;
    bool after_key;
};
void json_begin(struct json_out *w, struct buf *out);
void json_object(struct json_out *w);
void json_object_end(struct json_out *w);
void json_array(struct json_out *w);
void json_array_end(struct json_out *w);
void json_key(struct json_out *w, const char *key);
void json_key_span(struct json_out *w, struct span key);
void json_put_span(struct json_out *w, struct span s); /* a string; bytes that are no UTF-8 become U+FFFD */
void json_put_str(struct json_out *w, const char *s);  /* null where s is NULL */
void json_put_int(struct json_out *w, int64_t v);
void json_put_uint(struct json_out *w, uint64_t v);
void json_put_real(struct json_out *w, double v); /* shortest that reads back the same; null for nan and inf */
void json_put_bool(struct json_out *w, bool v);
void json_put_null(struct json_out *w);
void json_put_raw(struct json_out *w, struct span text); /* text that is JSON already */
void json_put_value(struct json_out *w, const struct json *v);
/* key and value in one */
void json_str(struct json_out *w, const char *key, const char *s);
void json_span(struct json_out *w, const char *key, struct span s);
void json_num(struct json_out *w, const char *key, int64_t v);
void json_flt(struct json_out *w, const char *key, double v);
void json_flag(struct json_out *w, const char *key, bool v);

#endif
