/*
 * JSON read once from front to back, without a tree: for files of many megabytes of which most is one long list (a tokenizer's vocabulary, the header of a
 * checkpoint). The caller says what it expects; what is not wanted is skipped, checked all the same. Strings without escapes are borrowed from the text.
 * The text must be UTF-8 (span_is_utf8) and outlive what was read from it. Duplicate keys are the caller's to refuse. One thread at a time.
 */
#ifndef GENLOOP_BASE_JSON_READER_H
#define GENLOOP_BASE_JSON_READER_H

#include "base/error.h"
#include "base/json.h"
#include "base/span.h"

struct json_reader {
    const char *begin, *at, *end;
    bool started; /* an object or a list was entered, and no member of it has been read */
};

void json_reader_init(struct json_reader *r, struct span text);
/* What comes next; JSON_TYPE_REAL for every number, JSON_TYPE_NULL also where nothing sensible comes. */
enum json_type json_reader_peek(struct json_reader *r);
/* All return E_INVALID with the byte's number in err where the text is no JSON or is not what was expected. */
int json_reader_enter(struct json_reader *r, char open, struct error *err); /* '{' or '[' */
/* 1 where an item follows, 0 where the list has ended. */
int json_reader_item(struct json_reader *r, struct error *err);
/* 1 and the key where a member follows, 0 where the object has ended. As json_reader_string for `room`. */
int json_reader_key(struct json_reader *r, char *room, size_t room_size, struct span *key, struct error *err);
/* A string; where it has escapes it is written to room, else borrowed. E_TOO_LARGE where room is needed and too small. */
int json_reader_string(struct json_reader *r, char *room, size_t room_size, struct span *s, struct error *err);
/* The digits of a number: span_to_i64 and span_to_f64 read them. */
int json_reader_number(struct json_reader *r, struct span *digits, struct error *err);
/* Over one value, whatever it is; *value (NULL is accepted) is its text. */
int json_reader_skip(struct json_reader *r, struct span *value, struct error *err);
/* Nothing but white space may follow. */
int json_reader_end(struct json_reader *r, struct error *err);

#endif
