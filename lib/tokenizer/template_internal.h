/* What the files of the template interpreter share: tokens, the tree, values, and the state of one rendering. Not for other libraries. */
#ifndef GENLOOP_TOKENIZER_TEMPLATE_INTERNAL_H
#define GENLOOP_TOKENIZER_TEMPLATE_INTERNAL_H

#include "base/arena.h"
#include "tokenizer/template.h"

/* ---- values ---- */
enum value_kind {
    VALUE_UNDEFINED, VALUE_NONE, VALUE_BOOL, VALUE_INT, VALUE_FLOAT, VALUE_STRING, VALUE_LIST, VALUE_TUPLE, VALUE_DICT, VALUE_NAMESPACE, VALUE_LOOP, VALUE_MACRO,
    VALUE_FUNCTION, /* a row of the functions' table */
    VALUE_METHOD,   /* a row of a methods' table with its object */
};
struct value {
    uint8_t kind;
    bool tainted; /* a number that came from the inputs; a string knows it byte by byte */
    union {
        bool boolean;
        int64_t integer;
        double real;
        const struct string *string;
        const struct list *list; /* LIST, TUPLE */
        struct dict *dict;       /* DICT, NAMESPACE (only that one changes) */
        const struct loop *loop;
        const struct macro *macro;
        const struct builtin *builtin;
        const struct method *method;
        const struct span *missing; /* UNDEFINED: its name, for messages; may be NULL */
    };
};
/* Immutable. Without runs all of it is `trusted` or all is not. */
struct string {
    struct span text; /* UTF-8 */
    bool trusted;
    const struct template_piece *runs;
    size_t run_count;
};
struct list {
    const struct value *items;
    size_t count;
};
struct entry {
    struct value key, value;
};
struct dict {
    struct entry *entries;
    size_t count, capacity;
};
struct loop {
    const struct list *items;
    size_t at;
};
struct macro {
    const struct node *node; /* MACRO or CALL_BLOCK: parameters, defaults, body */
    struct scope *scope;     /* where it was defined */
};
struct method {
    const struct builtin *builtin;
    struct value self;
};

/* ---- tokens (template_lex.c) ---- */
enum token_kind { TOKEN_DATA, TOKEN_BLOCK_BEGIN, TOKEN_BLOCK_END, TOKEN_OUTPUT_BEGIN, TOKEN_OUTPUT_END, TOKEN_NAME, TOKEN_STRING, TOKEN_INTEGER, TOKEN_REAL, TOKEN_OPERATOR, TOKEN_FINISH };
enum operator {
    OP_NONE, OP_ADD, OP_SUB, OP_MUL, OP_DIV, OP_FLOOR_DIV, OP_MOD, OP_POW, OP_TILDE, OP_EQ, OP_NE, OP_LT, OP_LE, OP_GT, OP_GE, OP_IN, OP_NOT_IN,
    OP_ASSIGN, OP_DOT, OP_COLON, OP_PIPE, OP_COMMA, OP_LPAREN, OP_RPAREN, OP_LBRACKET, OP_RBRACKET, OP_LBRACE, OP_RBRACE,
};
struct token {
    uint8_t kind, op;
    uint32_t line;
    struct span text; /* DATA, NAME, STRING (decoded) */
    int64_t integer;
    double real;
};
/* The text's tokens, in the arena; the last is TOKEN_FINISH. */
int template_lex(struct span text, struct arena *arena, const struct token **tokens, struct error *err);

/* ---- the tree (template_parse.c) ---- */
enum node_kind {
    NODE_CONSTANT, NODE_NAME, NODE_LIST, NODE_TUPLE, NODE_DICT, NODE_ATTRIBUTE, NODE_ITEM, NODE_SLICE, NODE_CALL, NODE_FILTER, NODE_TEST, NODE_NOT, NODE_NEGATIVE, NODE_POSITIVE,
    NODE_AND, NODE_OR, NODE_BINARY, NODE_CONCAT, NODE_COMPARE, NODE_CHOICE,
    NODE_TEXT, NODE_OUTPUT, NODE_BLOCK, NODE_IF, NODE_FOR, NODE_SET, NODE_SET_BLOCK, NODE_MACRO, NODE_CALL_BLOCK, NODE_FILTER_BLOCK, NODE_WITH, NODE_GENERATION, NODE_BREAK,
    NODE_CONTINUE,
};
struct keyword {
    uint32_t name;
    struct node *value;
};
struct node {
    uint8_t kind, op;  /* op: BINARY; of COMPARE's items each its own */
    bool negated;      /* TEST: is not */
    uint32_t line;
    uint32_t name;     /* NAME, ATTRIBUTE, FILTER, TEST, MACRO: index in names */
    struct value constant; /* CONSTANT, TEXT */
    /* ATTRIBUTE, ITEM, SLICE, CALL, FILTER, TEST, unary: a is the operand; ITEM: b the key; SLICE: b c d; AND, OR, BINARY: a b; CHOICE: a if b else c (may be NULL);
     * COMPARE: a and items; OUTPUT: a; FOR: for a in b if c: d else e; SET: a = b; SET_BLOCK: a, body d, FILTER chain b over NULL; MACRO, CALL_BLOCK: items
     * (NAME) parameters with keywords as defaults, body d, CALL_BLOCK: a the call; FILTER_BLOCK: b as SET_BLOCK, body d; WITH: items targets and values alternating, body d */
    struct node *a, *b, *c, *d, *e;
    struct node **items; /* LIST, TUPLE, CONCAT, COMPARE, BLOCK; DICT: keys and values alternating; CALL, FILTER, TEST: arguments; IF: conditions (NULL: else) and bodies alternating */
    uint32_t count;
    struct keyword *keywords;
    uint32_t keyword_count;
    const struct builtin *builtin; /* FILTER, TEST: NULL where there is none of that name, which matters only when it is used */
};
struct template {
    struct arena arena;
    struct node *root;
    struct span *names; /* interned; borrowed from the arena */
    size_t name_count;
    struct span text; /* the arena's copy */
};

/* ---- one rendering (template_eval.c) ---- */
struct binding {
    uint32_t name;
    struct value value;
};
struct scope {
    struct scope *parent;
    struct binding *bindings;
    size_t count, capacity;
};
/* Text under construction; owned heap memory. A failure is remembered. */
struct text_builder {
    struct buf text;
    struct template_piece *pieces;
    size_t piece_count, piece_capacity;
    int failed;
};
struct eval {
    const struct template *template;
    struct arena arena;
    struct error *err;
    struct scope *scope;
    struct text_builder *out, *main_out;
    struct template_output *result;
    uint64_t steps;
    unsigned depth;
    uint32_t line; /* of what is evaluated, for messages */
    int64_t now_ms;
};
/* E_INVALID with "template line N: ". */
int eval_fail(struct eval *e, const char *format, ...) __attribute__((format(printf, 2, 3)));
int eval_no_memory(struct eval *e);
int eval_steps(struct eval *e, uint64_t n); /* counts; E_TOO_LARGE at the limit */
/* obj.name and obj[key] as jinja2 resolves them: never fails for what is not there, that is undefined. */
int eval_attribute(struct eval *e, const struct value *object, struct span name, struct value *out);
int eval_item(struct eval *e, const struct value *object, const struct value *key, struct value *out);
int eval_call(struct eval *e, const struct value *callee, const struct value *args, size_t count, struct value *out);

/* ---- builders and strings (template_value.c) ---- */
void text_builder_init(struct text_builder *b);
void text_builder_fini(struct text_builder *b);
void text_builder_add(struct text_builder *b, struct span text, bool trusted);
void builder_add_part(struct text_builder *b, const struct string *s, size_t from, size_t len); /* clamped */
static inline void builder_add_string(struct text_builder *b, const struct string *s) { builder_add_part(b, s, 0, s->text.len); }
/* str(value), as {{ value }} prints it. */
int builder_add_value(struct eval *e, struct text_builder *b, const struct value *v);
int text_builder_take(struct eval *e, struct text_builder *b, struct value *out); /* a string value of what is built; the builder is done with */
int string_new(struct eval *e, struct span text, bool trusted, struct value *out); /* copies */
int string_part(struct eval *e, const struct string *s, size_t from, size_t len, struct value *out); /* shares the bytes */
int value_to_string(struct eval *e, const struct value *v, const struct string **out); /* str(value); itself where it is one */
bool space_at(struct span s, size_t at, size_t *len); /* what Python's strip takes away */
size_t utf8_length(struct span s); /* characters */
size_t utf8_offset(struct span s, size_t characters); /* bytes of so many characters, the whole where there are fewer */

/* ---- Python semantics (template_value.c) ---- */
static inline struct value value_undefined(void) { return (struct value){.kind = VALUE_UNDEFINED}; }
static inline struct value value_none(void) { return (struct value){.kind = VALUE_NONE}; }
static inline struct value value_bool(bool b) { return (struct value){.kind = VALUE_BOOL, .boolean = b}; }
static inline struct value value_int(int64_t i) { return (struct value){.kind = VALUE_INT, .integer = i}; }
static inline struct value value_float(double d) { return (struct value){.kind = VALUE_FLOAT, .real = d}; }
static inline bool value_is_list(const struct value *v) { return v->kind == VALUE_LIST || v->kind == VALUE_TUPLE; }
static inline bool value_is_number(const struct value *v) { return v->kind == VALUE_INT || v->kind == VALUE_FLOAT || v->kind == VALUE_BOOL; }
const char *value_type_name(const struct value *v);
bool value_true(const struct value *v);
double value_real(const struct value *v);   /* of a number */
int64_t value_integer(const struct value *v); /* of an int or bool */
int value_equal(struct eval *e, const struct value *a, const struct value *b, bool *equal);
int value_order(struct eval *e, const struct value *a, const struct value *b, bool ignore_case, int *order); /* fails where Python has no order */
int value_contains(struct eval *e, const struct value *in, const struct value *what, bool *found);
int value_length(struct eval *e, const struct value *v, size_t *length);
/* The items of iterating over it: a list's own, characters, keys. */
int value_items(struct eval *e, const struct value *v, struct list *out);
int value_repr(struct eval *e, struct text_builder *b, const struct value *v);
int list_new(struct eval *e, uint8_t kind, size_t count, struct value **items, struct value *out); /* items to be filled */
int dict_new(struct eval *e, size_t capacity, uint8_t kind, struct value *out);
int dict_set(struct eval *e, struct dict *d, const struct value *key, const struct value *value);
int dict_find(struct eval *e, const struct dict *d, const struct value *key, const struct value **found); /* *found NULL: not there */
const struct value *dict_find_name(const struct dict *d, struct span name);
void real_format(double d, char text[40]); /* Python's repr */

/* ---- JSON (template_json.c) ---- */
int value_from_json(struct eval *e, const struct json *v, struct value *out);
struct json_style {
    bool ascii, sort_keys;
    int indent; /* -1: one line */
    const char *item_separator, *key_separator; /* NULL: json.dumps' default */
};
int value_to_json(struct eval *e, struct text_builder *b, const struct value *v, const struct json_style *style);

/* ---- filters, tests, functions, methods (template_builtins.c, template_methods.c) ---- */
enum { ARGS_MAX = 6 };
struct args {
    const struct value *p[ARGS_MAX]; /* by the names of `params`; NULL where not given */
    const struct value *given;       /* as they stood */
    size_t count;
    const struct keyword_value {
        struct span name;
        struct value value;
    } *keywords;
    size_t keyword_count;
};
typedef int (*builtin_run)(struct eval *e, const struct value *self, const struct args *a, struct value *out);
struct builtin {
    const char *name;
    builtin_run run;
    const char *params; /* "a b c"; "*": takes what comes */
};
int builtin_call(struct eval *e, const struct builtin *b, const struct value *self, struct args *args, struct value *out);
const struct builtin *builtin_filter(struct span name);
const struct builtin *builtin_test(struct span name); /* gives a bool */
const struct builtin *builtin_function(struct span name);
const struct builtin *builtin_method(const struct value *object, struct span name); /* NULL: has none of that name */
int string_replace(struct eval *e, const struct string *s, const struct string *old, const struct string *with, int64_t most, struct value *out);
int string_strip(struct eval *e, const struct string *s, const struct string *characters, bool left, bool right, struct value *out);
int string_join(struct eval *e, const struct string *separator, const struct list *items, struct value *out);
enum string_case { CASE_LOWER, CASE_UPPER, CASE_CAPITALIZE, CASE_TITLE, CASE_TITLE_WORDS, CASE_SWAP };
int string_case(struct eval *e, const struct string *s, enum string_case to, struct value *out);

#endif
