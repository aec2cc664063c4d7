/*
 * Chat templates: the part of Jinja that published templates use, parsed once and rendered as often as one likes, with the results of jinja2 in the
 * environment that transformers sets up (trim_blocks, lstrip_blocks, loop controls, {% generation %}, its own tojson, raise_exception, strftime_now).
 *
 *   text ─template_lex.c→ tokens ─template_parse.c→ tree ─template_eval.c→ pieces
 *                         template_value.c: values and their Python semantics · template_json.c: JSON to values and back
 *                         template_builtins.c: filters, tests, functions · template_methods.c: methods of strings and dictionaries
 * To add a filter, test, function or method: a row in its table.
 *
 * What people wrote is tainted: a string carries for each of its bytes whether it came from the template (trusted) or from what was given to it, through every
 * operation, so that the output is a list of pieces and no message can spell a special token (tokenizer_encode_pieces).
 * A template is code out of a downloaded file: it cannot reach anything but its inputs, and its steps, nesting, memory and output have limits, each with its error.
 * struct template is immutable after parse: any thread may render it; a rendering belongs to one thread.
 */
#ifndef GENLOOP_TOKENIZER_TEMPLATE_H
#define GENLOOP_TOKENIZER_TEMPLATE_H

#include "base/buf.h"
#include "base/error.h"
#include "base/json.h"
#include "base/span.h"

enum {
    TEMPLATE_TEXT_MAX = 1 << 20,          /* bytes of a template; the longest published have 20 kB */
    TEMPLATE_PARSE_DEPTH_MAX = 96,        /* nesting of blocks and parentheses; published ones have 12 */
    TEMPLATE_EVAL_DEPTH_MAX = 400,        /* of the tree with its macro calls: bounds our C stack at about 300 kB */
    TEMPLATE_STEPS_MAX = 20000000,        /* nodes evaluated and items or 64-byte pieces handled: about a second; 4,096 messages take a million */
    TEMPLATE_OUTPUT_MAX = 64 << 20,       /* bytes: eight times the largest request */
    TEMPLATE_MEMORY_MAX = 512 << 20,      /* bytes of all values of one rendering, which are freed at its end */
};

struct template;

/* Returns owned in *t. E_INVALID: no template, with the line; E_UNSUPPORTED: a tag that this interpreter has not, by name; E_TOO_LARGE, E_NOMEM. */
int template_parse(struct span text, struct template **t, struct error *err);
void template_free(struct template *t); /* NULL is accepted */
/* Whether the template's code says this name, as a variable, an attribute or a string: what it never says it does not know. */
bool template_says(const struct template *t, const char *name);

/* A global of one rendering; what it has is borrowed. */
struct template_var {
    struct span name;
    const struct json *json; /* tainted; or, where NULL, */
    struct span text;        /* a trusted string, as bos_token; or, where data is NULL, */
    bool none;               /* None; or else */
    bool flag;
};

struct template_piece {
    size_t end; /* of the text; it begins where the one before ended */
    bool trusted;
};
struct template_range {
    size_t start, end; /* bytes of the text */
};
struct template_output {
    struct buf text;
    struct template_piece *pieces; /* neighbours differ in trust */
    size_t piece_count, piece_capacity;
    struct template_range *generated; /* what stood within {% generation %} */
    size_t generated_count, generated_capacity;
};
void template_output_init(struct template_output *o);
void template_output_fini(struct template_output *o); /* safe on a zeroed struct and twice */

/* E_INVALID: what raise_exception said, or what Python would have raised, with the line; E_TOO_LARGE: a limit; E_NOMEM. now_ms is what strftime_now tells (UTC). */
int template_render(const struct template *t, const struct template_var *vars, size_t count, int64_t now_ms, struct template_output *out, struct error *err);

#endif
