/*
 * Renders the tree. Scopes as jinja2 has them: a loop's pass, a macro, a call block, a with and a generation block each have their own, an if has none; what
 * is not found in them is undefined, which prints as nothing and fails where it is asked for anything.
 * Every node counts a step and nesting counts depth: a template ends, whatever it says.
 */
#include <math.h>
#include <stdarg.h>

#include "base/alloc.h"
#include "tokenizer/template_internal.h"

enum { FLOW_BREAK = 1, FLOW_CONTINUE = 2 }; /* beside 0 and the errors, of statements */

static int evaluate(struct eval *e, const struct node *n, struct value *out);
static int run(struct eval *e, const struct node *n);

/* ---- errors and limits ---- */

int eval_fail(struct eval *e, const char *format, ...) {
    va_list args;
    char what[ERROR_MESSAGE_MAX];
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    return error_set(e->err, E_INVALID, "chat template line %u: %s", e->line, what);
}
int eval_no_memory(struct eval *e) {
    if (e->arena.used > TEMPLATE_MEMORY_MAX / 2) return error_set(e->err, E_TOO_LARGE, "the chat template needs more than %d bytes of memory", TEMPLATE_MEMORY_MAX);
    return error_set(e->err, E_NOMEM, "no memory to render a chat template");
}
int eval_steps(struct eval *e, uint64_t n) {
    if (n > TEMPLATE_STEPS_MAX - e->steps) return error_set(e->err, E_TOO_LARGE, "chat template line %u: it takes more than %d steps", e->line, TEMPLATE_STEPS_MAX);
    e->steps += n;
    return 0;
}

/* ---- scopes ---- */

static struct span name_of(const struct eval *e, uint32_t name) { return e->template->names[name]; }

static struct scope *scope_new(struct eval *e, struct scope *parent) {
    struct scope *s = arena_alloc(&e->arena, sizeof *s);
    if (s) s->parent = parent;
    return s;
}
static int scope_set(struct eval *e, struct scope *s, uint32_t name, const struct value *value) {
    for (size_t i = 0; i < s->count; i++)
        if (s->bindings[i].name == name) {
            s->bindings[i].value = *value;
            return 0;
        }
    if (s->count == s->capacity) {
        size_t more = s->capacity ? s->capacity * 2 : 4;
        struct binding *b = arena_calloc(&e->arena, more, sizeof *b);
        if (!b) return eval_no_memory(e);
        if (s->count) memcpy(b, s->bindings, s->count * sizeof *b);
        s->bindings = b;
        s->capacity = more;
    }
    s->bindings[s->count++] = (struct binding){name, *value};
    return 0;
}
static void scope_get(struct eval *e, uint32_t name, struct value *out) {
    for (const struct scope *s = e->scope; s; s = s->parent)
        for (size_t i = 0; i < s->count; i++)
            if (s->bindings[i].name == name) {
                *out = s->bindings[i].value;
                return;
            }
    const struct builtin *f = builtin_function(name_of(e, name));
    *out = f ? (struct value){.kind = VALUE_FUNCTION, .builtin = f} : (struct value){.kind = VALUE_UNDEFINED, .missing = &e->template->names[name]};
}

/* ---- attributes and items ---- */

static int undefined_asked(struct eval *e, const struct value *v) {
    if (!v->missing) return eval_fail(e, "a value is undefined");
    return eval_fail(e, "'%.*s' is undefined", (int)(v->missing->len < 100 ? v->missing->len : 100), v->missing->data);
}

static int missing(struct eval *e, struct span name, struct value *out) {
    struct span *kept = arena_alloc(&e->arena, sizeof *kept);
    if (!kept) return eval_no_memory(e);
    *kept = name;
    *out = (struct value){.kind = VALUE_UNDEFINED, .missing = kept};
    return 0;
}

static bool loop_attribute(const struct loop *l, struct span name, struct value *out) {
    size_t at = l->at, n = l->items->count;
    const struct {
        const char *name;
        struct value value;
    } attributes[] = {
        {"index", value_int((int64_t)at + 1)}, {"index0", value_int((int64_t)at)}, {"revindex", value_int((int64_t)(n - at))}, {"revindex0", value_int((int64_t)(n - at) - 1)},
        {"first", value_bool(at == 0)}, {"last", value_bool(at + 1 == n)}, {"length", value_int((int64_t)n)}, {"depth", value_int(1)}, {"depth0", value_int(0)} /* of recursive calls, not of nesting */,
        {"previtem", at ? l->items->items[at - 1] : value_undefined()}, {"nextitem", at + 1 < n ? l->items->items[at + 1] : value_undefined()},
    };
    for (size_t i = 0; i < sizeof attributes / sizeof attributes[0]; i++)
        if (span_eq_str(name, attributes[i].name)) {
            *out = attributes[i].value;
            return true;
        }
    return false;
}

static int bind_method(struct eval *e, const struct value *object, struct span name, struct value *out, bool *found) {
    const struct builtin *b = builtin_method(object, name);
    *found = b != NULL;
    if (!b) return 0;
    struct method *m = arena_alloc(&e->arena, sizeof *m);
    if (!m) return eval_no_memory(e);
    *m = (struct method){b, *object};
    *out = (struct value){.kind = VALUE_METHOD, .method = m};
    return 0;
}

int eval_attribute(struct eval *e, const struct value *object, struct span name, struct value *out) {
    if (object->kind == VALUE_UNDEFINED) return undefined_asked(e, object);
    bool found = false;
    int r = eval_steps(e, object->kind == VALUE_DICT ? object->dict->count / 8 : 0);
    if (r) return r;
    if (object->kind == VALUE_LOOP) found = loop_attribute(object->loop, name, out);
    if (!found) r = bind_method(e, object, name, out, &found); /* an object's own attributes go before its keys */
    if (r || found) return r;
    if (object->kind == VALUE_DICT || object->kind == VALUE_NAMESPACE) {
        const struct value *v = dict_find_name(object->dict, name);
        if (v) {
            *out = *v;
            return 0;
        }
    }
    return missing(e, name, out);
}

int eval_item(struct eval *e, const struct value *object, const struct value *key, struct value *out) {
    if (object->kind == VALUE_UNDEFINED) return undefined_asked(e, object);
    if (object->kind == VALUE_DICT) {
        const struct value *v;
        int r = dict_find(e, object->dict, key, &v);
        if (r) return r;
        if (v) {
            *out = *v;
            return 0;
        }
    }
    bool index = key->kind == VALUE_INT || key->kind == VALUE_BOOL;
    if (index && (value_is_list(object) || object->kind == VALUE_STRING)) {
        size_t n = 0;
        int r = value_length(e, object, &n);
        if (r) return r;
        int64_t i = value_integer(key);
        if (i < 0) i += (int64_t)n;
        if (i < 0 || (uint64_t)i >= n) {
            *out = value_undefined();
            return 0;
        }
        if (value_is_list(object)) {
            *out = object->list->items[i];
            return 0;
        }
        size_t from = utf8_offset(object->string->text, (size_t)i);
        return string_part(e, object->string, from, utf8_offset(span_skip(object->string->text, from), 1), out);
    }
    if (key->kind != VALUE_STRING) {
        *out = value_undefined();
        return 0;
    }
    bool found = object->kind == VALUE_LOOP && loop_attribute(object->loop, key->string->text, out);
    int r = found ? 0 : bind_method(e, object, key->string->text, out, &found);
    if (r || found) return r;
    if (object->kind == VALUE_NAMESPACE) {
        const struct value *v = dict_find_name(object->dict, key->string->text);
        if (v) {
            *out = *v;
            return 0;
        }
    }
    return missing(e, key->string->text, out);
}

/* Python's slice.indices. */
static int slice(struct eval *e, const struct node *n, const struct value *object, struct value *out) {
    struct value part[3] = {value_none(), value_none(), value_none()};
    const struct node *nodes[3] = {n->b, n->c, n->d};
    size_t length = 0;
    int r = 0;
    if (object->kind == VALUE_UNDEFINED) return undefined_asked(e, object);
    if (!value_is_list(object) && object->kind != VALUE_STRING) { /* not subscriptable by a slice: jinja2 makes that undefined */
        *out = value_undefined();
        return 0;
    }
    for (size_t i = 0; !r && i < 3; i++) {
        if (nodes[i]) r = evaluate(e, nodes[i], &part[i]);
        if (!r && part[i].kind != VALUE_NONE && part[i].kind != VALUE_INT && part[i].kind != VALUE_BOOL)
            r = eval_fail(e, "slice indices must be integers or None, not %s", value_type_name(&part[i]));
    }
    if (!r) r = value_length(e, object, &length);
    if (r) return r;
    int64_t len = (int64_t)length, step = part[2].kind == VALUE_NONE ? 1 : value_integer(&part[2]);
    if (step == 0) return eval_fail(e, "slice step cannot be zero");
    int64_t low = step < 0 ? -1 : 0, high = step < 0 ? len - 1 : len, edge[2] = {step < 0 ? high : low, step < 0 ? low : high};
    for (size_t i = 0; i < 2; i++) {
        if (part[i].kind == VALUE_NONE) continue;
        int64_t v = value_integer(&part[i]);
        if (v < 0) v = v < -len ? low : v + len < low ? low : v + len;
        edge[i] = v > high ? high : v;
    }
    if (step > len) step = len + 1; /* beyond the end in one step, without overflow */
    if (step < -len) step = -len - 1;
    size_t count = 0;
    if (step > 0 && edge[0] < edge[1]) count = (size_t)((edge[1] - edge[0] - 1) / step + 1);
    if (step < 0 && edge[0] > edge[1]) count = (size_t)((edge[0] - edge[1] - 1) / -step + 1);
    if (value_is_list(object)) {
        struct value *items;
        r = list_new(e, object->kind, count, &items, out);
        for (size_t i = 0; !r && i < count; i++) items[i] = object->list->items[edge[0] + (int64_t)i * step];
        return r;
    }
    struct span text = object->string->text;
    if (step == 1) {
        size_t from = utf8_offset(text, (size_t)edge[0]);
        return string_part(e, object->string, from, count ? utf8_offset(span_skip(text, from), count) : 0, out);
    }
    struct list characters;
    struct text_builder b;
    r = value_items(e, object, &characters);
    if (r) return r;
    text_builder_init(&b);
    for (size_t i = 0; i < count; i++) builder_add_string(&b, characters.items[edge[0] + (int64_t)i * step].string);
    return text_builder_take(e, &b, out);
}

/* ---- operators ---- */

static int floor_division(struct eval *e, int64_t a, int64_t b, int64_t *quotient, int64_t *rest) {
    if (b == 0) return eval_fail(e, "integer division or modulo by zero");
    if (a == INT64_MIN && b == -1) return eval_fail(e, "a number is too large");
    *quotient = a / b;
    *rest = a % b;
    if (*rest && (*rest < 0) != (b < 0)) {
        --*quotient;
        *rest += b;
    }
    return 0;
}

static int power(struct eval *e, int64_t base, int64_t exponent, int64_t *out) {
    int64_t result = 1;
    if (base == 0 || base == 1) {
        *out = exponent == 0 ? 1 : base;
        return 0;
    }
    for (int64_t i = 0; i < exponent; i++)
        if (__builtin_mul_overflow(result, base, &result)) return eval_fail(e, "a number is too large");
    *out = result;
    return 0;
}

static int arithmetic(struct eval *e, enum operator op, const struct value *a, const struct value *b, struct value *out) {
    int64_t i = 0, rest = 0;
    int r = 0;
    bool whole = a->kind != VALUE_FLOAT && b->kind != VALUE_FLOAT && op != OP_DIV && !(op == OP_POW && value_integer(b) < 0), over = false;
    double x = value_real(a), y = value_real(b), d = 0;
    if (whole) {
        int64_t p = value_integer(a), q = value_integer(b);
        switch (op) {
        case OP_ADD: over = __builtin_add_overflow(p, q, &i); break;
        case OP_SUB: over = __builtin_sub_overflow(p, q, &i); break;
        case OP_MUL: over = __builtin_mul_overflow(p, q, &i); break;
        case OP_FLOOR_DIV: r = floor_division(e, p, q, &i, &rest); break;
        case OP_MOD: r = floor_division(e, p, q, &rest, &i); break;
        default: r = power(e, p, q, &i);
        }
        *out = value_int(i);
    } else {
        if (y == 0 && (op == OP_DIV || op == OP_FLOOR_DIV || op == OP_MOD)) return eval_fail(e, "division by zero");
        switch (op) {
        case OP_ADD: d = x + y; break;
        case OP_SUB: d = x - y; break;
        case OP_MUL: d = x * y; break;
        case OP_DIV: d = x / y; break;
        case OP_FLOOR_DIV: d = floor(x / y); break;
        case OP_MOD:
            d = fmod(x, y);
            if (d != 0 && (d < 0) != (y < 0)) d += y;
            break;
        default: d = pow(x, y);
        }
        *out = value_float(d);
    }
    out->tainted = a->tainted || b->tainted;
    return r ? r : over ? eval_fail(e, "a number is too large") : 0;
}

static int repeat(struct eval *e, const struct value *what, int64_t times, struct value *out) {
    int r = 0;
    if (times < 0) times = 0;
    if (what->kind == VALUE_STRING) {
        struct text_builder b;
        text_builder_init(&b);
        for (int64_t i = 0; !r && !b.failed && what->string->text.len && i < times; i++) {
            builder_add_string(&b, what->string);
            r = eval_steps(e, 1);
        }
        if (!r) return text_builder_take(e, &b, out);
        text_builder_fini(&b);
        return r;
    }
    size_t count;
    struct value *items = NULL;
    if (!size_mul(what->list->count, (size_t)times, &count)) return eval_fail(e, "a list is too long");
    r = list_new(e, what->kind, count, &items, out);
    for (size_t i = 0; !r && i < count; i++) items[i] = what->list->items[i % what->list->count];
    return r;
}

static int binary(struct eval *e, enum operator op, const struct value *a, const struct value *b, struct value *out) {
    if (a->kind == VALUE_UNDEFINED) return undefined_asked(e, a);
    if (b->kind == VALUE_UNDEFINED) return undefined_asked(e, b);
    if (value_is_number(a) && value_is_number(b)) return arithmetic(e, op, a, b, out);
    if (op == OP_ADD && a->kind == VALUE_STRING && b->kind == VALUE_STRING) {
        struct text_builder s;
        text_builder_init(&s);
        builder_add_string(&s, a->string);
        builder_add_string(&s, b->string);
        return text_builder_take(e, &s, out);
    }
    if (op == OP_ADD && value_is_list(a) && a->kind == b->kind) {
        struct value *items;
        int r = list_new(e, a->kind, a->list->count + b->list->count, &items, out);
        if (r) return r;
        if (a->list->count) memcpy(items, a->list->items, a->list->count * sizeof *items);
        if (b->list->count) memcpy(items + a->list->count, b->list->items, b->list->count * sizeof *items);
        return 0;
    }
    if (op == OP_MUL && (value_is_list(a) || a->kind == VALUE_STRING) && (b->kind == VALUE_INT || b->kind == VALUE_BOOL)) return repeat(e, a, value_integer(b), out);
    if (op == OP_MUL && (value_is_list(b) || b->kind == VALUE_STRING) && (a->kind == VALUE_INT || a->kind == VALUE_BOOL)) return repeat(e, b, value_integer(a), out);
    if (op == OP_ADD && a->kind == VALUE_STRING) return eval_fail(e, "can only concatenate str (not \"%s\") to str", value_type_name(b));
    static const char *const signs[] = {[OP_ADD] = "+", [OP_SUB] = "-", [OP_MUL] = "*", [OP_DIV] = "/", [OP_FLOOR_DIV] = "//", [OP_MOD] = "%", [OP_POW] = "**"};
    return eval_fail(e, "unsupported operand type(s) for %s: '%s' and '%s'", signs[op], value_type_name(a), value_type_name(b));
}

static int compare(struct eval *e, enum operator op, const struct value *a, const struct value *b, bool *result) {
    int order = 0, r;
    switch (op) {
    case OP_EQ:
    case OP_NE:
        r = value_equal(e, a, b, result);
        *result ^= op == OP_NE;
        return r;
    case OP_IN:
    case OP_NOT_IN:
        r = value_contains(e, b, a, result);
        *result ^= op == OP_NOT_IN;
        return r;
    default:
        if (a->kind == VALUE_UNDEFINED) return undefined_asked(e, a);
        if (b->kind == VALUE_UNDEFINED) return undefined_asked(e, b);
        if ((a->kind == VALUE_FLOAT && isnan(a->real)) || (b->kind == VALUE_FLOAT && isnan(b->real))) {
            *result = false;
            return 0;
        }
        r = value_order(e, a, b, false, &order);
        *result = op == OP_LT ? order < 0 : op == OP_LE ? order <= 0 : op == OP_GT ? order > 0 : order >= 0;
        return r;
    }
}

/* ---- calls ---- */

/* The arguments of a call, a filter or a test, evaluated into the arena. */
static int arguments(struct eval *e, const struct node *n, struct args *args) {
    struct value *given = n->count ? arena_calloc(&e->arena, n->count, sizeof *given) : NULL;
    struct keyword_value *keywords = n->keyword_count ? arena_calloc(&e->arena, n->keyword_count, sizeof *keywords) : NULL;
    if ((n->count && !given) || (n->keyword_count && !keywords)) return eval_no_memory(e);
    int r = 0;
    for (uint32_t i = 0; !r && i < n->count; i++) r = evaluate(e, n->items[i], &given[i]);
    for (uint32_t i = 0; !r && i < n->keyword_count; i++) {
        keywords[i].name = name_of(e, n->keywords[i].name);
        r = evaluate(e, n->keywords[i].value, &keywords[i].value);
    }
    *args = (struct args){.given = given, .count = n->count, .keywords = keywords, .keyword_count = n->keyword_count};
    return r;
}

/* What a body prints, as a value, in a scope of its own or in the one that there is. */
static int capture(struct eval *e, const struct node *body, struct scope *scope, struct value *out) {
    struct text_builder b, *old_out = e->out;
    struct scope *old_scope = e->scope;
    text_builder_init(&b);
    e->out = &b;
    e->scope = scope;
    int r = run(e, body);
    e->out = old_out;
    e->scope = old_scope;
    if (!r) return text_builder_take(e, &b, out);
    text_builder_fini(&b);
    return r;
}

static int name_index(const struct eval *e, struct span name, uint32_t *out) {
    for (size_t i = 0; i < e->template->name_count; i++)
        if (span_eq(e->template->names[i], name)) {
            *out = (uint32_t)i;
            return 0;
        }
    return E_NOT_FOUND;
}

static int call_macro(struct eval *e, const struct macro *m, const struct args *args, struct value *out) {
    const struct node *n = m->node;
    struct scope *scope = scope_new(e, m->scope), *old = e->scope;
    size_t used = 0, parameters = (size_t)n->count + n->keyword_count;
    if (!scope) return eval_no_memory(e);
    if (args->count > parameters) return eval_fail(e, "a macro takes no more than %zu arguments", parameters);
    int r = 0;
    e->scope = scope; /* a default may name the parameters before it */
    for (size_t i = 0; !r && i < parameters; i++) {
        uint32_t name = i < n->count ? n->items[i]->name : n->keywords[i - n->count].name;
        struct value v = {.kind = VALUE_UNDEFINED, .missing = &e->template->names[name]};
        const struct value *given = i < args->count ? &args->given[i] : NULL;
        for (size_t k = 0; k < args->keyword_count; k++)
            if (span_eq(args->keywords[k].name, name_of(e, name))) {
                if (given) r = eval_fail(e, "a macro got two values for one argument");
                given = &args->keywords[k].value;
                used++;
            }
        if (!r && given) v = *given;
        else if (!r && i >= n->count) r = evaluate(e, n->keywords[i - n->count].value, &v);
        if (!r) r = scope_set(e, scope, name, &v);
    }
    for (size_t k = 0; !r && k < args->keyword_count; k++) /* what a call block hands over */
        if (span_eq(args->keywords[k].name, SPAN("caller"))) {
            uint32_t name;
            if (name_index(e, SPAN("caller"), &name) == 0) r = scope_set(e, scope, name, &args->keywords[k].value);
            used++;
        }
    if (!r && used < args->keyword_count) r = eval_fail(e, "a macro takes no such keyword argument");
    e->scope = old;
    return r ? r : capture(e, n->d, scope, out);
}

static int call(struct eval *e, const struct value *callee, struct args *args, struct value *out) {
    switch (callee->kind) {
    case VALUE_FUNCTION: return builtin_call(e, callee->builtin, NULL, args, out);
    case VALUE_METHOD: return builtin_call(e, callee->method->builtin, &callee->method->self, args, out);
    case VALUE_MACRO: return call_macro(e, callee->macro, args, out);
    case VALUE_UNDEFINED: return undefined_asked(e, callee);
    default: return eval_fail(e, "'%s' object is not callable", value_type_name(callee));
    }
}

int eval_call(struct eval *e, const struct value *callee, const struct value *given, size_t count, struct value *out) {
    struct args args = {.given = given, .count = count};
    return call(e, callee, &args, out);
}

/* ---- expressions ---- */

static int evaluate_builtin(struct eval *e, const struct node *n, struct value *out) {
    struct value self;
    struct args args;
    if (!n->builtin) return eval_fail(e, "there is no %s named '%.*s'", n->kind == NODE_FILTER ? "filter" : "test", SPAN_ARG(name_of(e, n->name)));
    int r = evaluate(e, n->a, &self);
    if (!r) r = arguments(e, n, &args);
    if (!r) r = builtin_call(e, n->builtin, &self, &args, out);
    if (!r && n->kind == NODE_TEST && n->negated) *out = value_bool(!value_true(out));
    return r;
}

static int evaluate_compare(struct eval *e, const struct node *n, struct value *out) {
    struct value left, right;
    bool result = true;
    int r = evaluate(e, n->a, &left);
    for (uint32_t i = 0; !r && result && i < n->count; i++) {
        r = evaluate(e, n->items[i]->a, &right);
        if (!r) r = compare(e, n->items[i]->op, &left, &right, &result);
        left = right;
    }
    *out = value_bool(result);
    return r;
}

static int evaluate_items(struct eval *e, const struct node *n, struct value *out) {
    struct value *items = NULL;
    int r = 0;
    if (n->kind != NODE_DICT) {
        r = list_new(e, n->kind == NODE_LIST ? VALUE_LIST : VALUE_TUPLE, n->count, &items, out);
        for (uint32_t i = 0; !r && i < n->count; i++) r = evaluate(e, n->items[i], &items[i]);
        return r;
    }
    r = dict_new(e, n->count / 2, VALUE_DICT, out);
    struct dict *d = r ? NULL : out->dict;
    for (uint32_t i = 0; !r && i < n->count; i += 2) {
        struct value key, value;
        r = evaluate(e, n->items[i], &key);
        if (!r) r = evaluate(e, n->items[i + 1], &value);
        if (!r) r = dict_set(e, d, &key, &value);
    }
    return r;
}

static int evaluate_concat(struct eval *e, const struct node *n, struct value *out) {
    struct text_builder b;
    int r = 0;
    text_builder_init(&b);
    for (uint32_t i = 0; !r && i < n->count; i++) {
        struct value v;
        r = evaluate(e, n->items[i], &v);
        if (!r) r = builder_add_value(e, &b, &v);
    }
    if (!r) return text_builder_take(e, &b, out);
    text_builder_fini(&b);
    return r;
}

static int negate(struct eval *e, const struct value *v, bool negative, struct value *out) {
    if (v->kind == VALUE_UNDEFINED) return undefined_asked(e, v);
    if (!value_is_number(v)) return eval_fail(e, "bad operand type for unary %c: '%s'", negative ? '-' : '+', value_type_name(v));
    if (v->kind == VALUE_FLOAT) *out = value_float(negative ? -v->real : v->real);
    else if (negative && value_integer(v) == INT64_MIN) return eval_fail(e, "a number is too large");
    else *out = value_int(negative ? -value_integer(v) : value_integer(v));
    out->tainted = v->tainted;
    return 0;
}

static int evaluate_inner(struct eval *e, const struct node *n, struct value *out) {
    struct value a = value_undefined(), b = value_undefined();
    struct args args;
    int r = 0;
    switch (n->kind) {
    case NODE_CONSTANT: *out = n->constant; return 0;
    case NODE_NAME: scope_get(e, n->name, out); return 0;
    case NODE_LIST:
    case NODE_TUPLE:
    case NODE_DICT: return evaluate_items(e, n, out);
    case NODE_CONCAT: return evaluate_concat(e, n, out);
    case NODE_COMPARE: return evaluate_compare(e, n, out);
    case NODE_FILTER:
    case NODE_TEST: return evaluate_builtin(e, n, out);
    case NODE_CHOICE:
        r = evaluate(e, n->b, &b);
        if (r) return r;
        if (value_true(&b)) return evaluate(e, n->a, out);
        if (n->c) return evaluate(e, n->c, out);
        *out = value_undefined();
        return 0;
    default: break;
    }
    r = evaluate(e, n->a, &a);
    if (r) return r;
    switch (n->kind) {
    case NODE_ATTRIBUTE: return eval_attribute(e, &a, name_of(e, n->name), out);
    case NODE_ITEM:
        r = evaluate(e, n->b, &b);
        return r ? r : eval_item(e, &a, &b, out);
    case NODE_SLICE: return slice(e, n, &a, out);
    case NODE_CALL:
        r = arguments(e, n, &args);
        e->line = n->line;
        return r ? r : call(e, &a, &args, out);
    case NODE_NOT: *out = value_bool(!value_true(&a)); return 0;
    case NODE_NEGATIVE: return negate(e, &a, true, out);
    case NODE_POSITIVE: return negate(e, &a, false, out);
    case NODE_AND:
    case NODE_OR:
        if (value_true(&a) == (n->kind == NODE_OR)) {
            *out = a;
            return 0;
        }
        return evaluate(e, n->b, out);
    default:
        r = evaluate(e, n->b, &b);
        return r ? r : binary(e, n->op, &a, &b, out);
    }
}

static int deeper(struct eval *e, const struct node *n) {
    e->line = n->line;
    if (++e->depth > TEMPLATE_EVAL_DEPTH_MAX) return error_set(e->err, E_TOO_LARGE, "chat template line %u: nested deeper than %d", e->line, TEMPLATE_EVAL_DEPTH_MAX);
    return eval_steps(e, 1);
}

static int evaluate(struct eval *e, const struct node *n, struct value *out) {
    struct value v = value_undefined();
    int r = deeper(e, n);
    if (!r) r = evaluate_inner(e, n, &v);
    e->depth--;
    *out = v;
    return r;
}

/* ---- statements ---- */

static int assign(struct eval *e, const struct node *target, const struct value *v) {
    if (target->kind == NODE_NAME) return scope_set(e, e->scope, target->name, v);
    if (target->kind == NODE_ATTRIBUTE) {
        struct value object;
        int r = evaluate(e, target->a, &object);
        if (r) return r;
        if (object.kind != VALUE_NAMESPACE) return eval_fail(e, "cannot assign attribute on non-namespace object");
        struct string *s = arena_alloc(&e->arena, sizeof *s);
        if (!s) return eval_no_memory(e);
        *s = (struct string){.text = name_of(e, target->name), .trusted = true};
        struct value key = {.kind = VALUE_STRING, .string = s};
        return dict_set(e, object.dict, &key, v);
    }
    struct list items;
    int r = value_items(e, v, &items);
    if (!r && items.count != target->count) r = eval_fail(e, "%s values to unpack (expected %u)", items.count > target->count ? "too many" : "not enough", target->count);
    for (uint32_t i = 0; !r && i < target->count; i++) r = scope_set(e, e->scope, target->items[i]->name, &items.items[i]);
    return r;
}

/* The items that the loop's condition lets through: loop.length and loop.last are of these. */
static int filtered(struct eval *e, const struct node *n, struct list *list) {
    struct scope *old = e->scope;
    struct value *kept = arena_calloc(&e->arena, list->count ? list->count : 1, sizeof *kept);
    size_t count = 0;
    int r = kept ? 0 : eval_no_memory(e);
    for (size_t i = 0; !r && i < list->count; i++) {
        struct value v;
        if (!(e->scope = scope_new(e, old))) r = eval_no_memory(e);
        if (!r) r = assign(e, n->a, &list->items[i]);
        if (!r) r = evaluate(e, n->c, &v);
        if (!r && value_true(&v)) kept[count++] = list->items[i];
    }
    e->scope = old;
    *list = (struct list){kept, count};
    return r;
}

static int run_for(struct eval *e, const struct node *n) {
    struct scope *old = e->scope;
    struct value over;
    struct list list;
    uint32_t loop_name;
    int r = evaluate(e, n->b, &over);
    if (!r) r = value_items(e, &over, &list);
    if (!r && n->c) r = filtered(e, n, &list);
    if (r) return r;
    if (!list.count) return n->e ? run(e, n->e) : 0;
    struct list *kept = arena_alloc(&e->arena, sizeof *kept);
    struct loop *loop = arena_alloc(&e->arena, sizeof *loop);
    if (!kept || !loop) return eval_no_memory(e);
    *kept = list;
    *loop = (struct loop){kept, 0};
    struct value self = {.kind = VALUE_LOOP, .loop = loop};
    bool named = name_index(e, SPAN("loop"), &loop_name) == 0;
    for (size_t i = 0; !r && i < list.count; i++) {
        loop->at = i;
        if (!(e->scope = scope_new(e, old))) r = eval_no_memory(e);
        if (!r && named) r = scope_set(e, e->scope, loop_name, &self);
        if (!r) r = assign(e, n->a, &list.items[i]);
        if (!r) r = run(e, n->d);
        if (r == FLOW_CONTINUE) r = 0;
    }
    e->scope = old;
    return r == FLOW_BREAK ? 0 : r;
}

static int run_if(struct eval *e, const struct node *n) {
    for (uint32_t i = 0; i < n->count; i += 2) {
        struct value v = value_bool(true);
        int r = n->items[i] ? evaluate(e, n->items[i], &v) : 0;
        if (r) return r;
        if (value_true(&v)) return run(e, n->items[i + 1]);
    }
    return 0;
}

/* A FILTER chain whose innermost operand is what a block printed. */
static int apply_filters(struct eval *e, const struct node *n, struct value *v) {
    if (!n) return 0;
    struct args args;
    int r = deeper(e, n);
    if (!r) r = apply_filters(e, n->a, v);
    if (!r && n->kind != NODE_FILTER) r = eval_fail(e, "a block takes filters only");
    if (!r && !n->builtin) r = eval_fail(e, "there is no filter named '%.*s'", SPAN_ARG(name_of(e, n->name)));
    if (!r) r = arguments(e, n, &args);
    struct value self = *v;
    if (!r) r = builtin_call(e, n->builtin, &self, &args, v);
    e->depth--;
    return r;
}

static int run_call_block(struct eval *e, const struct node *n) {
    struct macro *m = arena_alloc(&e->arena, sizeof *m);
    struct value callee, v;
    struct args args;
    if (!m) return eval_no_memory(e);
    *m = (struct macro){n, e->scope};
    int r = evaluate(e, n->a->a, &callee);
    if (!r) r = arguments(e, n->a, &args);
    if (r) return r;
    struct keyword_value *keywords = arena_calloc(&e->arena, args.keyword_count + 1, sizeof *keywords);
    if (!keywords) return eval_no_memory(e);
    if (args.keyword_count) memcpy(keywords, args.keywords, args.keyword_count * sizeof *keywords);
    keywords[args.keyword_count++] = (struct keyword_value){SPAN("caller"), {.kind = VALUE_MACRO, .macro = m}};
    args.keywords = keywords;
    r = call(e, &callee, &args, &v);
    return r ? r : builder_add_value(e, e->out, &v);
}

static int run_with(struct eval *e, const struct node *n) {
    struct scope *old = e->scope, *inner = scope_new(e, old);
    int r = inner ? 0 : eval_no_memory(e);
    for (uint32_t i = 0; !r && i < n->count; i += 2) { /* the values are of the scope outside */
        struct value v;
        r = evaluate(e, n->items[i + 1], &v);
        e->scope = inner;
        if (!r) r = assign(e, n->items[i], &v);
        e->scope = old;
    }
    e->scope = inner;
    if (!r) r = run(e, n->d);
    e->scope = old;
    return r;
}

static int run_generation(struct eval *e, const struct node *n) {
    struct scope *old = e->scope;
    size_t start = e->out->text.len;
    if (!(e->scope = scope_new(e, old))) {
        e->scope = old;
        return eval_no_memory(e);
    }
    int r = run(e, n->d);
    e->scope = old;
    if (r || e->out != e->main_out || e->out->text.len == start) return r; /* what a macro returns has no place in the text yet */
    struct template_output *o = e->result;
    if (array_reserve(&o->generated, &o->generated_capacity, o->generated_count + 1, sizeof *o->generated)) return eval_no_memory(e);
    o->generated[o->generated_count++] = (struct template_range){start, e->out->text.len};
    return 0;
}

static int run_inner(struct eval *e, const struct node *n) {
    struct value v;
    struct macro *m;
    int r = 0;
    switch (n->kind) {
    case NODE_TEXT: return builder_add_value(e, e->out, &n->constant);
    case NODE_OUTPUT:
        r = evaluate(e, n->a, &v);
        return r ? r : builder_add_value(e, e->out, &v);
    case NODE_BLOCK:
        for (uint32_t i = 0; !r && i < n->count; i++) r = run(e, n->items[i]);
        return r;
    case NODE_IF: return run_if(e, n);
    case NODE_FOR: return run_for(e, n);
    case NODE_SET:
        r = evaluate(e, n->b, &v);
        return r ? r : assign(e, n->a, &v);
    case NODE_SET_BLOCK:
    case NODE_FILTER_BLOCK: {
        struct scope *inner = scope_new(e, e->scope);
        r = inner ? capture(e, n->d, inner, &v) : eval_no_memory(e);
        if (!r) r = apply_filters(e, n->b, &v);
        return r ? r : n->kind == NODE_SET_BLOCK ? assign(e, n->a, &v) : builder_add_value(e, e->out, &v);
    }
    case NODE_MACRO:
        if (!(m = arena_alloc(&e->arena, sizeof *m))) return eval_no_memory(e);
        *m = (struct macro){n, e->scope};
        v = (struct value){.kind = VALUE_MACRO, .macro = m};
        return scope_set(e, e->scope, n->name, &v);
    case NODE_CALL_BLOCK: return run_call_block(e, n);
    case NODE_WITH: return run_with(e, n);
    case NODE_GENERATION: return run_generation(e, n);
    case NODE_BREAK: return FLOW_BREAK;
    default: return FLOW_CONTINUE;
    }
}

static int run(struct eval *e, const struct node *n) {
    int r = deeper(e, n);
    if (!r) r = run_inner(e, n);
    e->depth--;
    return r;
}

/* ---- a rendering ---- */

void template_output_init(struct template_output *o) {
    *o = (struct template_output){.pieces = NULL};
    buf_init(&o->text, TEMPLATE_OUTPUT_MAX);
}
void template_output_fini(struct template_output *o) {
    buf_fini(&o->text);
    mem_free(o->pieces);
    mem_free(o->generated);
    *o = (struct template_output){.pieces = NULL};
}

int template_render(const struct template *t, const struct template_var *vars, size_t count, int64_t now_ms, struct template_output *out, struct error *err) {
    struct text_builder b;
    struct template_output result;
    struct eval e = {.template = t, .err = err, .out = &b, .main_out = &b, .result = &result, .line = 1, .now_ms = now_ms};
    arena_init(&e.arena, TEMPLATE_MEMORY_MAX);
    text_builder_init(&b);
    template_output_init(&result);
    e.scope = scope_new(&e, NULL);
    int r = e.scope ? 0 : eval_no_memory(&e);
    for (size_t i = 0; !r && i < count; i++) {
        struct value v = vars[i].none ? value_none() : value_bool(vars[i].flag);
        uint32_t name;
        if (name_index(&e, vars[i].name, &name)) continue; /* the template never asks for it */
        if (vars[i].json) r = value_from_json(&e, vars[i].json, &v);
        else if (vars[i].text.data) r = string_new(&e, vars[i].text, true, &v);
        if (!r) r = scope_set(&e, e.scope, name, &v);
    }
    if (!r) r = run(&e, t->root);
    if (!r && b.failed) r = b.failed == E_FULL ? error_set(err, E_TOO_LARGE, "the chat template made a text of more than %d bytes", TEMPLATE_OUTPUT_MAX) : eval_no_memory(&e);
    if (!r) {
        buf_fini(&result.text);
        result.text = b.text;
        result.pieces = b.pieces;
        result.piece_count = b.piece_count;
        result.piece_capacity = b.piece_capacity;
        b = (struct text_builder){.failed = 0};
        template_output_fini(out);
        *out = result;
        result = (struct template_output){.pieces = NULL};
    }
    text_builder_fini(&b);
    template_output_fini(&result);
    arena_fini(&e.arena);
    return r;
}
