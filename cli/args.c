/* What was given on the command line, checked against a verb's row. Pure: no I/O. */
#include "base/alloc.h"
#include "cli.h"

static const struct cli_option JSON_OPTION = {.name = "--json", .kind = CLI_FLAG, .doc = "Print JSON"};

struct given {
    const struct cli_option *option;
    const char *text;
    int64_t integer;
    double real;
};

struct cli {
    const struct verb *verb;
    struct given given[CLI_OPTIONS_MAX];
    size_t n_given;
    const char **operands; /* owned array of borrowed strings */
    size_t n_operands;
};

static const struct cli_option *find_option(const struct verb *verb, struct span name, char letter) {
    for (const struct cli_option *o = verb->options; o && o->name; o++)
        if (letter ? o->letter == letter : span_eq_str(name, o->name)) return o;
    if (verb->json && !letter && span_eq_str(name, JSON_OPTION.name)) return &JSON_OPTION;
    return NULL;
}

bool cli_is_choice(const char *value) {
    if (!strchr(value, '|')) return false;
    for (const char *p = value; *p; p++)
        if (*p >= 'A' && *p <= 'Z') return false;
    return true;
}

static int check_value(struct given *g, struct error *err) {
    const struct cli_option *o = g->option;
    struct span text = span_str(g->text);
    bool limited = o->min != 0 || o->max != 0;
    switch (o->kind) {
    case CLI_FLAG: return 0;
    case CLI_TEXT:
    case CLI_FILE:
    case CLI_DIR: {
        if (!cli_is_choice(o->value)) return 0;
        struct span rest = span_str(o->value), choice;
        while (span_cut(&rest, '|', &choice))
            if (span_eq(choice, text)) return 0;
        return error_set(err, E_INVALID, "%s must be one of %s, not \"%s\"", o->name, o->value, g->text);
    }
    case CLI_INT:
        if (span_to_i64(text, &g->integer) != 0) return error_set(err, E_INVALID, "%s must be a whole number, not \"%s\"", o->name, g->text);
        g->real = (double)g->integer;
        break;
    case CLI_REAL:
        if (span_to_f64(text, &g->real) != 0) return error_set(err, E_INVALID, "%s must be a number, not \"%s\"", o->name, g->text);
        break;
    }
    if (limited && !(g->real >= o->min && g->real <= o->max)) return error_set(err, E_INVALID, "%s must be from %.15g to %.15g, not %s", o->name, o->min, o->max, g->text);
    return 0;
}

static int take_option(struct cli *c, int argc, char *const *argv, int *i, struct error *err) {
    const char *text = argv[*i], *equals = strchr(text, '=');
    bool is_long = text[1] == '-';
    struct span name = is_long && equals ? span_of(text, (size_t)(equals - text)) : span_str(text);
    if (!is_long && text[2]) return error_set(err, E_INVALID, "unknown option \"%s\" (a letter stands alone; names begin with --)", text);
    const struct cli_option *o = find_option(c->verb, name, is_long ? 0 : text[1]);
    if (!o) return error_set(err, E_INVALID, "unknown option \"%.*s\"", SPAN_ARG(span_sub(name, 0, 80)));
    if (c->n_given == CLI_OPTIONS_MAX) return error_set(err, E_INVALID, "more than %d options", CLI_OPTIONS_MAX);
    struct given *g = &c->given[c->n_given];
    *g = (struct given){.option = o};
    if (o->kind == CLI_FLAG) {
        if (is_long && equals) return error_set(err, E_INVALID, "%s takes no value", o->name);
    } else if (is_long && equals) {
        g->text = equals + 1;
    } else {
        if (*i + 1 >= argc) return error_set(err, E_INVALID, "%s needs a value: %s", o->name, o->value);
        g->text = argv[++*i];
        /* `--home --detach` is a value that was forgotten, or an empty variable of a script. */
        if (strncmp(g->text, "--", 2) == 0) return error_set(err, E_INVALID, "%s needs a value: %s (one that begins with -- is written %s=%s)", o->name, o->value, o->name, g->text);
    }
    c->n_given++;
    return check_value(g, err);
}

int cli_parse(const struct verb *verb, int argc, char *const *argv, struct cli **out, struct error *err) {
    struct cli *c = mem_zalloc(sizeof *c);
    int r = 0;
    if (c) c->operands = mem_calloc((size_t)argc + 1, sizeof *c->operands);
    if (!c || !c->operands) r = error_set(err, E_NOMEM, "no memory for the command line");
    else c->verb = verb;
    bool options_end = false;
    for (int i = 0; r == 0 && i < argc; i++) {
        const char *text = argv[i];
        if (!options_end && strcmp(text, "--") == 0) options_end = true;
        else if (!options_end && (strcmp(text, "--help") == 0 || (strcmp(text, "-h") == 0 && !find_option(verb, SPAN(""), 'h')))) r = E_CANCELLED;
        else if (!options_end && text[0] == '-' && text[1]) r = take_option(c, argc, argv, &i, err);
        else if (c->n_operands == CLI_OPERANDS_MAX) r = error_set(err, E_INVALID, "more than %d arguments", CLI_OPERANDS_MAX);
        else c->operands[c->n_operands++] = text;
    }
    if (r == 0 && c->n_operands < verb->operands_min) r = error_set(err, E_INVALID, "something is missing: %s", verb->operands);
    if (r == 0 && c->n_operands > verb->operands_max)
        r = error_set(err, E_INVALID, "\"%s\" is too much%s%s", c->operands[verb->operands_max], verb->operands[0] ? ": expected is " : ": nothing is expected", verb->operands);
    if (r != 0) {
        cli_free(c);
        return r;
    }
    *out = c;
    return 0;
}

void cli_free(struct cli *c) {
    if (!c) return;
    mem_free(c->operands);
    mem_free(c);
}

const struct verb *cli_verb(const struct cli *c) { return c->verb; }
size_t cli_operands(const struct cli *c) { return c->n_operands; }
const char *cli_operand(const struct cli *c, size_t index) { return index < c->n_operands ? c->operands[index] : NULL; }

/* A name that the row does not have is a mistake in the verb, and would silently read as "not given". */
static const struct given *last_given(const struct cli *c, const char *option) {
    ASSERT(find_option(c->verb, span_str(option), 0));
    for (size_t i = c->n_given; i-- > 0;)
        if (strcmp(c->given[i].option->name, option) == 0) return &c->given[i];
    return NULL;
}

bool cli_json(const struct cli *c) { return c->verb->json && last_given(c, JSON_OPTION.name); }
bool cli_given(const struct cli *c, const char *option) { return last_given(c, option) != NULL; }
bool cli_flag(const struct cli *c, const char *option) { return last_given(c, option) != NULL; }

const char *cli_text(const struct cli *c, const char *option) {
    const struct given *g = last_given(c, option);
    return g ? g->text : NULL;
}

const char *cli_text_at(const struct cli *c, const char *option, size_t index) {
    ASSERT(find_option(c->verb, span_str(option), 0));
    for (size_t i = 0; i < c->n_given; i++)
        if (strcmp(c->given[i].option->name, option) == 0 && index-- == 0) return c->given[i].text;
    return NULL;
}

int64_t cli_int(const struct cli *c, const char *option, int64_t otherwise) {
    const struct given *g = last_given(c, option);
    ASSERT(!g || g->option->kind == CLI_INT);
    return g ? g->integer : otherwise;
}

double cli_real(const struct cli *c, const char *option, double otherwise) {
    const struct given *g = last_given(c, option);
    ASSERT(!g || g->option->kind == CLI_REAL || g->option->kind == CLI_INT);
    return g ? g->real : otherwise;
}
