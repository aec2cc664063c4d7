/*
 * Tokens to a tree, by descent with jinja2's precedence: if-else, or, and, not, comparisons (chained), + -, ~, * / // %, **, unary, postfix, filters and tests.
 * Descent is as deep as the template nests, which TEMPLATE_PARSE_DEPTH_MAX bounds. What jinja2 refuses as syntax is refused here; a filter or test that does
 * not exist is an error only where it is used.
 */
#include "base/alloc.h"
#include "tokenizer/template_internal.h"

enum {
    TEMPLATE_ARENA_MAX = 256 << 20,
    ITEMS_MAX = 1 << 16,
    NAMES_MAX = 2048, /* looked up one after another; published templates have 60 */
};

struct parser {
    struct template *t;
    const struct token *at;
    struct error *err;
    unsigned depth, loops;
    size_t names_capacity;
    struct span *names; /* heap while parsing */
};
/* Nodes that are being collected; heap. */
struct nodes {
    struct node **items;
    size_t count, capacity;
};

static int parse_expression(struct parser *p, bool with_choice, struct node **out);
static int parse_unary(struct parser *p, bool with_filter, struct node **out);
static int parse_body(struct parser *p, const char *const *ends, struct node **out);

static int fail(struct parser *p, const char *what) { return error_set(p->err, E_INVALID, "template line %u: %s", p->at->line, what); }
static int no_memory(struct parser *p) { return error_set(p->err, E_NOMEM, "no memory for a template"); }

static struct node *node_new(struct parser *p, enum node_kind kind) {
    struct node *n = arena_alloc(&p->t->arena, sizeof *n);
    if (n) {
        n->kind = (uint8_t)kind;
        n->line = p->at->line;
    }
    return n;
}
static int nodes_push(struct parser *p, struct nodes *list, struct node *n) {
    if (list->count >= ITEMS_MAX) return fail(p, "too many items");
    if (array_reserve(&list->items, &list->capacity, list->count + 1, sizeof *list->items)) return no_memory(p);
    list->items[list->count++] = n;
    return 0;
}
/* Into the node, in the arena. */
static int nodes_keep(struct parser *p, const struct nodes *list, struct node *n) {
    if (!list->count) return 0;
    n->items = arena_calloc(&p->t->arena, list->count, sizeof *n->items);
    if (!n->items) return no_memory(p);
    memcpy(n->items, list->items, list->count * sizeof *n->items);
    n->count = (uint32_t)list->count;
    return 0;
}
static int intern(struct parser *p, struct span name, uint32_t *out) {
    for (size_t i = 0; i < p->t->name_count; i++)
        if (span_eq(p->names[i], name)) {
            *out = (uint32_t)i;
            return 0;
        }
    if (p->t->name_count >= NAMES_MAX) return fail(p, "too many names");
    if (array_reserve(&p->names, &p->names_capacity, p->t->name_count + 1, sizeof *p->names)) return no_memory(p);
    p->names[p->t->name_count] = name;
    *out = (uint32_t)p->t->name_count++;
    return 0;
}

static int enter(struct parser *p) {
    if (p->depth >= TEMPLATE_PARSE_DEPTH_MAX) return error_set(p->err, E_TOO_LARGE, "template line %u: nested deeper than %d", p->at->line, TEMPLATE_PARSE_DEPTH_MAX);
    p->depth++;
    return 0;
}
static bool is_op(const struct parser *p, enum operator op) { return p->at->kind == TOKEN_OPERATOR && p->at->op == op; }
static bool is_name(const struct parser *p, const char *name) { return p->at->kind == TOKEN_NAME && span_eq_str(p->at->text, name); }
static bool skip_op(struct parser *p, enum operator op) {
    bool is = is_op(p, op);
    p->at += is;
    return is;
}
static bool skip_name(struct parser *p, const char *name) {
    bool is = is_name(p, name);
    p->at += is;
    return is;
}
static int expect_op(struct parser *p, enum operator op, const char *what) { return skip_op(p, op) ? 0 : fail(p, what); }
static int expect_end(struct parser *p) {
    if (p->at->kind != TOKEN_BLOCK_END) return fail(p, "expected %}");
    p->at++;
    return 0;
}

static int unary_node(struct parser *p, enum node_kind kind, struct node *a, struct node **out) {
    struct node *n = node_new(p, kind);
    if (!n) return no_memory(p);
    n->a = a;
    *out = n;
    return 0;
}
static int binary_node(struct parser *p, enum node_kind kind, enum operator op, struct node *a, struct node *b, struct node **out) {
    int r = unary_node(p, kind, a, out);
    if (!r) {
        (*out)->op = (uint8_t)op;
        (*out)->b = b;
    }
    return r;
}

/* ---- primaries ---- */

static int constant(struct parser *p, struct value v, struct node **out) {
    struct node *n = node_new(p, NODE_CONSTANT);
    if (!n) return no_memory(p);
    n->constant = v;
    *out = n;
    return 0;
}
static int string_constant(struct parser *p, struct span text, struct value *v) {
    struct string *s = arena_alloc(&p->t->arena, sizeof *s);
    if (!s) return no_memory(p);
    *s = (struct string){.text = text, .trusted = true};
    *v = (struct value){.kind = VALUE_STRING, .string = s};
    return 0;
}

/* Items up to `close`, which is taken; of DICT key and value alternate. */
static int parse_items(struct parser *p, enum operator close, bool pairs, struct node *n, bool *comma) {
    struct nodes list = {0};
    int r = 0;
    *comma = false;
    while (!r && !skip_op(p, close)) {
        struct node *item = NULL;
        if (list.count && !(*comma = skip_op(p, OP_COMMA))) {
            r = fail(p, "expected a comma or a closing bracket");
            break;
        }
        if (list.count && skip_op(p, close)) break;
        r = parse_expression(p, true, &item);
        if (!r) r = nodes_push(p, &list, item);
        if (!r && pairs) {
            r = expect_op(p, OP_COLON, "expected a colon");
            if (!r) r = parse_expression(p, true, &item);
            if (!r) r = nodes_push(p, &list, item);
        }
    }
    if (!r) r = nodes_keep(p, &list, n);
    mem_free(list.items);
    return r;
}

static int parse_parentheses(struct parser *p, struct node **out) {
    struct node *n = node_new(p, NODE_TUPLE);
    bool comma;
    if (!n) return no_memory(p);
    int r = parse_items(p, OP_RPAREN, false, n, &comma);
    if (!r) *out = n->count == 1 && !comma ? n->items[0] : n;
    return r;
}

static int parse_literal(struct parser *p, struct node **out) {
    const struct token *t = p->at;
    static const struct {
        const char *name;
        struct value value;
    } words[] = {{"true", {.kind = VALUE_BOOL, .boolean = true}}, {"True", {.kind = VALUE_BOOL, .boolean = true}}, {"false", {.kind = VALUE_BOOL}}, {"False", {.kind = VALUE_BOOL}},
                 {"none", {.kind = VALUE_NONE}}, {"None", {.kind = VALUE_NONE}}};
    struct value v = value_none();
    int r = 0;
    if (t->kind == TOKEN_INTEGER || t->kind == TOKEN_REAL) {
        p->at++;
        return constant(p, t->kind == TOKEN_INTEGER ? value_int(t->integer) : value_float(t->real), out);
    }
    if (t->kind == TOKEN_STRING) { /* neighbours are one */
        size_t len = 0;
        for (const struct token *s = t; s->kind == TOKEN_STRING; s++) len += s->text.len;
        char *all = arena_alloc(&p->t->arena, len + 1);
        if (!all) return no_memory(p);
        for (len = 0; p->at->kind == TOKEN_STRING; p->at++) {
            if (p->at->text.len) memcpy(all + len, p->at->text.data, p->at->text.len);
            len += p->at->text.len;
        }
        r = string_constant(p, span_of(all, len), &v);
        return r ? r : constant(p, v, out);
    }
    if (t->kind != TOKEN_NAME) return fail(p, "expected an expression");
    p->at++;
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        if (span_eq_str(t->text, words[i].name)) return constant(p, words[i].value, out);
    struct node *n = node_new(p, NODE_NAME);
    if (!n) return no_memory(p);
    *out = n;
    return intern(p, t->text, &n->name);
}

static int parse_primary(struct parser *p, struct node **out) {
    struct node *n = NULL;
    bool comma;
    if (skip_op(p, OP_LPAREN)) return parse_parentheses(p, out);
    if (is_op(p, OP_LBRACKET) || is_op(p, OP_LBRACE)) {
        bool dict = is_op(p, OP_LBRACE);
        p->at++;
        n = node_new(p, dict ? NODE_DICT : NODE_LIST);
        if (!n) return no_memory(p);
        *out = n;
        return parse_items(p, dict ? OP_RBRACE : OP_RBRACKET, dict, n, &comma);
    }
    return parse_literal(p, out);
}

/* (a, b=c): behind the opening parenthesis. */
static int parse_arguments(struct parser *p, struct node *n) {
    struct nodes list = {0}, values = {0};
    uint32_t *names = NULL;
    size_t names_capacity = 0;
    int r = 0;
    for (bool first = true; !r && !skip_op(p, OP_RPAREN); first = false) {
        struct node *item = NULL;
        if (!first && !skip_op(p, OP_COMMA)) r = fail(p, "expected a comma or a closing parenthesis");
        if (!r && !first && skip_op(p, OP_RPAREN)) break;
        if (r) break;
        if (is_op(p, OP_MUL) || is_op(p, OP_POW)) {
            r = error_set(p->err, E_UNSUPPORTED, "template line %u: * and ** in a call are not built", p->at->line);
        } else if (p->at->kind == TOKEN_NAME && p->at[1].kind == TOKEN_OPERATOR && p->at[1].op == OP_ASSIGN) {
            if (array_reserve(&names, &names_capacity, values.count + 1, sizeof *names)) r = no_memory(p);
            if (!r) r = intern(p, p->at->text, &names[values.count]);
            p->at += 2;
            if (!r) r = parse_expression(p, true, &item);
            if (!r) r = nodes_push(p, &values, item);
        } else {
            if (values.count) r = fail(p, "an argument without a name stands behind one with a name");
            if (!r) r = parse_expression(p, true, &item);
            if (!r) r = nodes_push(p, &list, item);
        }
    }
    if (!r) r = nodes_keep(p, &list, n);
    if (!r && values.count) {
        n->keywords = arena_calloc(&p->t->arena, values.count, sizeof *n->keywords);
        if (n->keywords) {
            for (size_t i = 0; i < values.count; i++) n->keywords[i] = (struct keyword){names[i], values.items[i]};
            n->keyword_count = (uint32_t)values.count;
        } else r = no_memory(p);
    }
    mem_free(names);
    mem_free(values.items);
    mem_free(list.items);
    return r;
}

static int parse_call(struct parser *p, struct node **io) {
    struct node *n = NULL;
    int r = unary_node(p, NODE_CALL, *io, &n);
    if (!r) r = parse_arguments(p, n);
    if (!r) *io = n;
    return r;
}

/* [key] or [from:to:step]: behind the opening bracket. */
static int parse_subscript(struct parser *p, struct node **io) {
    struct node *n = NULL, *part[3] = {NULL, NULL, NULL};
    bool slice = false;
    int r = 0;
    for (size_t i = 0; !r && i < 3; i++) {
        if (!is_op(p, OP_COLON) && !is_op(p, OP_RBRACKET)) r = parse_expression(p, true, &part[i]);
        if (r || !skip_op(p, OP_COLON)) break;
        if (i == 2) return fail(p, "a slice has more than three parts");
        slice = true;
    }
    if (!r) r = expect_op(p, OP_RBRACKET, "expected ]");
    if (!r && !slice && !part[0]) r = fail(p, "a subscript is empty");
    if (!r) r = unary_node(p, slice ? NODE_SLICE : NODE_ITEM, *io, &n);
    if (r) return r;
    n->b = part[0];
    n->c = part[1];
    n->d = part[2];
    *io = n;
    return 0;
}

static int parse_postfix(struct parser *p, struct node **io) {
    for (int r = 0;;) {
        if (skip_op(p, OP_DOT)) {
            struct node *n = NULL;
            if (p->at->kind == TOKEN_INTEGER) { /* a.0 is a[0] */
                struct node *key = NULL;
                r = parse_literal(p, &key);
                if (!r) r = binary_node(p, NODE_ITEM, OP_NONE, *io, key, io);
            } else {
                if (p->at->kind != TOKEN_NAME) return fail(p, "expected a name behind the dot");
                r = unary_node(p, NODE_ATTRIBUTE, *io, &n);
                if (!r) r = intern(p, p->at->text, &n->name);
                if (!r) *io = n;
                p->at++;
            }
        } else if (skip_op(p, OP_LBRACKET)) r = parse_subscript(p, io);
        else if (skip_op(p, OP_LPAREN)) r = parse_call(p, io);
        else return 0;
        if (r) return r;
    }
}

/* name.name of a filter or a test. */
static int parse_builtin_name(struct parser *p, struct node *n, bool filter) {
    if (p->at->kind != TOKEN_NAME) return fail(p, filter ? "expected a filter's name" : "expected a test's name");
    int r = intern(p, p->at->text, &n->name);
    n->builtin = filter ? builtin_filter(p->at->text) : builtin_test(p->at->text);
    p->at++;
    return r;
}

static int parse_filter(struct parser *p, struct node **io) {
    struct node *n = NULL;
    int r = unary_node(p, NODE_FILTER, *io, &n);
    if (!r) r = parse_builtin_name(p, n, true);
    if (!r && skip_op(p, OP_LPAREN)) r = parse_arguments(p, n);
    if (!r) *io = n;
    return r;
}

static int parse_test(struct parser *p, struct node **io) {
    struct node *n = NULL, *argument = NULL;
    struct nodes list = {0};
    int r = unary_node(p, NODE_TEST, *io, &n);
    if (r) return r;
    n->negated = skip_name(p, "not");
    r = parse_builtin_name(p, n, false);
    if (r) return r;
    uint8_t kind = p->at->kind;
    if (skip_op(p, OP_LPAREN)) r = parse_arguments(p, n);
    else if (kind == TOKEN_STRING || kind == TOKEN_INTEGER || kind == TOKEN_REAL || is_op(p, OP_LBRACKET) || is_op(p, OP_LBRACE) ||
             (kind == TOKEN_NAME && !is_name(p, "else") && !is_name(p, "or") && !is_name(p, "and") && !is_name(p, "is") && !is_name(p, "if") && !is_name(p, "in") &&
              !is_name(p, "not"))) {
        r = parse_primary(p, &argument);
        if (!r) r = parse_postfix(p, &argument);
        if (!r) r = nodes_push(p, &list, argument);
        if (!r) r = nodes_keep(p, &list, n);
        mem_free(list.items);
    }
    if (!r) *io = n;
    return r;
}

static int parse_filters(struct parser *p, struct node **io) {
    for (int r = 0;;) {
        if (skip_op(p, OP_PIPE)) r = parse_filter(p, io);
        else if (skip_name(p, "is")) r = parse_test(p, io);
        else if (skip_op(p, OP_LPAREN)) r = parse_call(p, io);
        else return 0;
        if (r) return r;
    }
}

/* ---- operators, from the tightest ---- */

static int parse_unary(struct parser *p, bool with_filter, struct node **out) {
    struct node *n = NULL;
    int r = enter(p);
    if (r) return r;
    if (is_op(p, OP_SUB) || is_op(p, OP_ADD)) {
        enum node_kind kind = is_op(p, OP_SUB) ? NODE_NEGATIVE : NODE_POSITIVE;
        p->at++;
        r = parse_unary(p, false, &n);
        if (!r) r = unary_node(p, kind, n, &n);
    } else r = parse_primary(p, &n);
    if (!r) r = parse_postfix(p, &n);
    if (!r && with_filter) r = parse_filters(p, &n);
    if (!r) *out = n;
    p->depth--;
    return r;
}

/* Left-associative levels above: each is a row of operators, from the loosest to the tightest. */
static const struct level {
    enum operator ops[4];
} levels[] = {{{OP_ADD, OP_SUB}}, {{OP_TILDE}}, {{OP_MUL, OP_DIV, OP_FLOOR_DIV, OP_MOD}}, {{OP_POW}}};
enum { LEVELS = sizeof levels / sizeof levels[0] };

static enum operator level_op(const struct parser *p, size_t level) {
    for (size_t i = 0; i < 4 && levels[level].ops[i] != OP_NONE; i++)
        if (is_op(p, levels[level].ops[i])) return levels[level].ops[i];
    return OP_NONE;
}

static int parse_level(struct parser *p, size_t level, struct node **out) {
    if (level == LEVELS) return parse_unary(p, true, out);
    struct node *n = NULL, *right = NULL;
    int r = parse_level(p, level + 1, &n);
    enum operator op = r ? OP_NONE : level_op(p, level);
    if (!r && op == OP_TILDE) { /* a ~ b ~ c is one node: a template's long chains cost no depth */
        struct nodes list = {0};
        r = nodes_push(p, &list, n);
        while (!r && skip_op(p, OP_TILDE)) {
            r = parse_level(p, level + 1, &right);
            if (!r) r = nodes_push(p, &list, right);
        }
        if (!r && !(n = node_new(p, NODE_CONCAT))) r = no_memory(p);
        if (!r) r = nodes_keep(p, &list, n);
        mem_free(list.items);
    }
    while (!r && (op = level_op(p, level)) != OP_NONE) {
        p->at++;
        r = parse_level(p, level + 1, &right);
        if (!r) r = binary_node(p, NODE_BINARY, op, n, right, &n);
    }
    if (!r) *out = n;
    return r;
}

static enum operator compare_op(struct parser *p) {
    static const enum operator ops[] = {OP_EQ, OP_NE, OP_LT, OP_LE, OP_GT, OP_GE};
    for (size_t i = 0; i < sizeof ops / sizeof ops[0]; i++)
        if (skip_op(p, ops[i])) return ops[i];
    if (skip_name(p, "in")) return OP_IN;
    if (is_name(p, "not") && p->at[1].kind == TOKEN_NAME && span_eq_str(p->at[1].text, "in")) {
        p->at += 2;
        return OP_NOT_IN;
    }
    return OP_NONE;
}

static int parse_compare(struct parser *p, struct node **out) {
    struct node *first = NULL, *n = NULL;
    struct nodes list = {0};
    int r = parse_level(p, 0, &first);
    for (enum operator op; !r && (op = compare_op(p)) != OP_NONE;) {
        struct node *right = NULL, *operand = NULL;
        r = parse_level(p, 0, &right);
        if (!r) r = binary_node(p, NODE_BINARY, op, right, NULL, &operand); /* holds the operator of its operand */
        if (!r) r = nodes_push(p, &list, operand);
    }
    if (!r && list.count) {
        r = unary_node(p, NODE_COMPARE, first, &n);
        if (!r) r = nodes_keep(p, &list, n);
        first = n;
    }
    mem_free(list.items);
    if (!r) *out = first;
    return r;
}

static int parse_not(struct parser *p, struct node **out) {
    unsigned nots = 0;
    while (skip_name(p, "not")) nots++;
    int r = parse_compare(p, out);
    if (nots > TEMPLATE_PARSE_DEPTH_MAX) return fail(p, "too many not");
    while (!r && nots--) r = unary_node(p, NODE_NOT, *out, out);
    return r;
}
static int parse_and(struct parser *p, struct node **out) {
    struct node *right = NULL;
    int r = parse_not(p, out);
    while (!r && skip_name(p, "and")) {
        r = parse_not(p, &right);
        if (!r) r = binary_node(p, NODE_AND, OP_NONE, *out, right, out);
    }
    return r;
}
static int parse_or(struct parser *p, struct node **out) {
    struct node *right = NULL;
    int r = parse_and(p, out);
    while (!r && skip_name(p, "or")) {
        r = parse_and(p, &right);
        if (!r) r = binary_node(p, NODE_OR, OP_NONE, *out, right, out);
    }
    return r;
}

static int parse_expression(struct parser *p, bool with_choice, struct node **out) {
    struct node *value = NULL, *condition = NULL, *otherwise = NULL;
    int r = enter(p);
    if (r) return r;
    r = parse_or(p, &value);
    if (!r && with_choice && skip_name(p, "if")) { /* an if-else in the else is one frame deeper */
        r = parse_or(p, &condition);
        if (!r && skip_name(p, "else")) r = parse_expression(p, true, &otherwise);
        if (!r) r = binary_node(p, NODE_CHOICE, OP_NONE, value, condition, &value);
        if (!r) value->c = otherwise;
    }
    if (!r) *out = value;
    p->depth--;
    return r;
}

/* a, b without parentheses is a tuple; alone it is itself. */
static int parse_tuple(struct parser *p, bool with_choice, bool targets, struct node **out) {
    struct nodes list = {0};
    struct node *n = NULL;
    bool comma = false;
    int r = 0;
    do {
        if (list.count && (p->at->kind == TOKEN_BLOCK_END || p->at->kind == TOKEN_OUTPUT_END || is_op(p, OP_ASSIGN) || is_name(p, "in"))) break;
        r = targets ? parse_unary(p, false, &n) : parse_expression(p, with_choice, &n);
        if (!r) r = nodes_push(p, &list, n);
    } while (!r && (skip_op(p, OP_COMMA) && (comma = true)));
    if (!r && comma) {
        n = node_new(p, NODE_TUPLE);
        r = n ? nodes_keep(p, &list, n) : no_memory(p);
    }
    mem_free(list.items);
    if (!r) *out = n;
    return r;
}

/* ---- statements ---- */

/* What can be assigned to: names, tuples of them, and an attribute of a namespace. */
static int check_target(struct parser *p, const struct node *n, bool attribute) {
    if (n->kind == NODE_TUPLE || n->kind == NODE_LIST) {
        for (uint32_t i = 0; i < n->count; i++)
            if (n->items[i]->kind != NODE_NAME) return fail(p, "this cannot be assigned to");
        return n->count ? 0 : fail(p, "this cannot be assigned to");
    }
    return n->kind == NODE_NAME || (attribute && n->kind == NODE_ATTRIBUTE && n->a->kind == NODE_NAME) ? 0 : fail(p, "this cannot be assigned to");
}

static int parse_for(struct parser *p, struct node *n) {
    static const char *const ends[] = {"else", "endfor", NULL}, *const last[] = {"endfor", NULL};
    int r = parse_tuple(p, false, true, &n->a);
    if (!r) r = check_target(p, n->a, false);
    if (!r && !skip_name(p, "in")) r = fail(p, "expected in");
    if (!r) r = parse_tuple(p, false, false, &n->b);
    if (!r && skip_name(p, "if")) r = parse_expression(p, true, &n->c);
    if (!r && is_name(p, "recursive")) r = error_set(p->err, E_UNSUPPORTED, "template line %u: recursive loops are not built", p->at->line);
    if (!r) r = expect_end(p);
    p->loops++;
    if (!r) r = parse_body(p, ends, &n->d);
    p->loops--;
    if (!r && skip_name(p, "else")) {
        r = expect_end(p);
        if (!r) r = parse_body(p, last, &n->e);
    }
    p->at++;
    return r;
}

static int parse_if(struct parser *p, struct node *n) {
    static const char *const ends[] = {"elif", "else", "endif", NULL}, *const last[] = {"endif", NULL};
    struct nodes list = {0};
    struct node *part = NULL;
    int r = 0;
    for (bool more = true; !r && more;) {
        r = parse_tuple(p, true, false, &part);
        if (!r) r = nodes_push(p, &list, part);
        if (!r) r = expect_end(p);
        if (!r) r = parse_body(p, ends, &part);
        if (!r) r = nodes_push(p, &list, part);
        more = !r && skip_name(p, "elif");
    }
    if (!r && skip_name(p, "else")) {
        r = nodes_push(p, &list, NULL);
        if (!r) r = expect_end(p);
        if (!r) r = parse_body(p, last, &part);
        if (!r) r = nodes_push(p, &list, part);
    }
    p->at++;
    if (!r) r = nodes_keep(p, &list, n);
    mem_free(list.items);
    return r;
}

static int parse_set(struct parser *p, struct node *n) {
    static const char *const ends[] = {"endset", NULL};
    int r = parse_tuple(p, false, true, &n->a);
    if (!r) r = check_target(p, n->a, true);
    if (!r && skip_op(p, OP_ASSIGN)) return parse_tuple(p, true, false, &n->b);
    n->kind = NODE_SET_BLOCK;
    if (!r) r = parse_filters(p, &n->b);
    if (!r) r = expect_end(p);
    if (!r) r = parse_body(p, ends, &n->d);
    p->at++;
    return r;
}

/* (a, b=default): behind the opening parenthesis. */
static int parse_parameters(struct parser *p, struct node *n) {
    int r = parse_arguments(p, n);
    for (uint32_t i = 0; !r && i < n->count; i++)
        if (n->items[i]->kind != NODE_NAME) r = fail(p, "a parameter is no name");
    return r;
}

/* A macro's loops are its own: break and continue do not leave it. */
static int parse_macro_body(struct parser *p, const char *const *ends, struct node *n) {
    unsigned loops = p->loops;
    p->loops = 0;
    int r = expect_end(p);
    if (!r) r = parse_body(p, ends, &n->d);
    p->loops = loops;
    p->at++;
    return r;
}

static int parse_macro(struct parser *p, struct node *n) {
    static const char *const ends[] = {"endmacro", NULL};
    if (p->at->kind != TOKEN_NAME) return fail(p, "expected the macro's name");
    int r = intern(p, p->at->text, &n->name);
    p->at++;
    if (!r) r = expect_op(p, OP_LPAREN, "expected (");
    if (!r) r = parse_parameters(p, n);
    return r ? r : parse_macro_body(p, ends, n);
}

static int parse_call_block(struct parser *p, struct node *n) {
    static const char *const ends[] = {"endcall", NULL};
    int r = 0;
    if (skip_op(p, OP_LPAREN)) r = parse_parameters(p, n);
    if (!r) r = parse_expression(p, true, &n->a);
    if (!r && n->a->kind != NODE_CALL) r = fail(p, "expected a call");
    return r ? r : parse_macro_body(p, ends, n);
}

static int parse_filter_block(struct parser *p, struct node *n) {
    static const char *const ends[] = {"endfilter", NULL};
    int r = parse_filter(p, &n->b);
    if (!r) r = parse_filters(p, &n->b);
    if (!r) r = expect_end(p);
    if (!r) r = parse_body(p, ends, &n->d);
    p->at++;
    return r;
}

static int parse_with(struct parser *p, struct node *n) {
    static const char *const ends[] = {"endwith", NULL};
    struct nodes list = {0};
    struct node *part = NULL;
    int r = 0;
    while (!r && p->at->kind != TOKEN_BLOCK_END) {
        if (list.count) r = expect_op(p, OP_COMMA, "expected a comma");
        if (!r) r = parse_unary(p, false, &part);
        if (!r) r = check_target(p, part, false);
        if (!r) r = nodes_push(p, &list, part);
        if (!r) r = expect_op(p, OP_ASSIGN, "expected =");
        if (!r) r = parse_expression(p, true, &part);
        if (!r) r = nodes_push(p, &list, part);
    }
    if (!r) r = nodes_keep(p, &list, n);
    mem_free(list.items);
    if (!r) r = expect_end(p);
    if (!r) r = parse_body(p, ends, &n->d);
    p->at++;
    return r;
}

static int parse_generation(struct parser *p, struct node *n) {
    static const char *const ends[] = {"endgeneration", NULL};
    return parse_macro_body(p, ends, n);
}

static int parse_jump(struct parser *p, struct node *n) {
    (void)n;
    return p->loops ? 0 : fail(p, "break and continue stand in loops");
}

static const struct {
    const char *word;
    enum node_kind kind;
    int (*parse)(struct parser *p, struct node *n);
} statements[] = {
    {"for", NODE_FOR, parse_for}, {"if", NODE_IF, parse_if}, {"set", NODE_SET, parse_set}, {"macro", NODE_MACRO, parse_macro}, {"call", NODE_CALL_BLOCK, parse_call_block},
    {"filter", NODE_FILTER_BLOCK, parse_filter_block}, {"with", NODE_WITH, parse_with}, {"generation", NODE_GENERATION, parse_generation}, {"break", NODE_BREAK, parse_jump},
    {"continue", NODE_CONTINUE, parse_jump},
};

/* Behind {%: the statement, to its %}. */
static int parse_statement(struct parser *p, struct node **out) {
    if (p->at->kind != TOKEN_NAME) return fail(p, "expected a tag's name");
    for (size_t i = 0; i < sizeof statements / sizeof statements[0]; i++) {
        if (!skip_name(p, statements[i].word)) continue;
        struct node *n = node_new(p, statements[i].kind);
        if (!n) return no_memory(p);
        int r = enter(p);
        if (r) return r;
        r = statements[i].parse(p, n);
        p->depth--;
        *out = n;
        return r ? r : expect_end(p);
    }
    return error_set(p->err, E_UNSUPPORTED, "template line %u: there is no tag {%% %.*s %%} here", p->at->line, (int)(p->at->text.len < 64 ? p->at->text.len : 64), p->at->text.data);
}

/* Up to a block tag with one of the words `ends`, on which the parser then stands; NULL: to the end of the text. */
static int parse_body(struct parser *p, const char *const *ends, struct node **out) {
    struct nodes list = {0};
    struct node *n = NULL, *block = node_new(p, NODE_BLOCK);
    int r = block ? enter(p) : no_memory(p);
    if (r) return r;
    for (bool done = false; !r && !done;) {
        const struct token *t = p->at;
        switch (t->kind) {
        case TOKEN_DATA:
            n = node_new(p, NODE_TEXT);
            r = n ? string_constant(p, t->text, &n->constant) : no_memory(p);
            p->at++;
            break;
        case TOKEN_OUTPUT_BEGIN:
            n = node_new(p, NODE_OUTPUT);
            if (!n) r = no_memory(p);
            p->at++;
            if (!r) r = parse_tuple(p, true, false, &n->a);
            if (!r && p->at->kind != TOKEN_OUTPUT_END) r = fail(p, "expected }}");
            if (!r) p->at++;
            break;
        case TOKEN_BLOCK_BEGIN:
            p->at++;
            for (const char *const *end = ends; end && *end; end++) done |= is_name(p, *end);
            if (!done) r = parse_statement(p, &n);
            break;
        default:
            if (ends) r = error_set(p->err, E_INVALID, "template line %u: {%% %s %%} is missing", t->line, ends[0]);
            done = true;
        }
        if (!r && !done) r = nodes_push(p, &list, n);
    }
    if (!r) r = nodes_keep(p, &list, block);
    mem_free(list.items);
    if (!r) *out = block;
    p->depth--;
    return r;
}

int template_parse(struct span text, struct template **out, struct error *err) {
    if (text.len > TEMPLATE_TEXT_MAX) return error_set(err, E_TOO_LARGE, "the chat template has more than %d bytes", TEMPLATE_TEXT_MAX);
    if (!span_is_utf8(text)) return error_set(err, E_INVALID, "the chat template is no UTF-8");
    struct template *t = mem_zalloc(sizeof *t);
    if (!t) return error_set(err, E_NOMEM, "no memory for a template");
    arena_init(&t->arena, TEMPLATE_ARENA_MAX);
    struct parser p = {.t = t, .err = err};
    t->text = arena_span(&t->arena, text);
    int r = t->text.data ? template_lex(t->text, &t->arena, &p.at, err) : error_set(err, E_NOMEM, "no memory for a template");
    if (!r) r = parse_body(&p, NULL, &t->root);
    if (!r && t->name_count) {
        t->names = arena_calloc(&t->arena, t->name_count, sizeof *t->names);
        if (t->names) memcpy(t->names, p.names, t->name_count * sizeof *t->names);
        else r = error_set(err, E_NOMEM, "no memory for a template");
    }
    mem_free(p.names);
    if (r) template_free(t);
    else *out = t;
    return r;
}

void template_free(struct template *t) {
    if (!t) return;
    arena_fini(&t->arena);
    mem_free(t);
}

bool template_says(const struct template *t, const char *name) { return span_find(t->text, span_str(name)) >= 0; }
