#include "base/config.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>

#include "base/alloc.h"
#include "base/file.h"
#include "base/json.h"

enum { CONFIG_FILE_MAX = 1 << 20 };   /* a person writes this file */
enum { CONFIG_SECRET_MAX = 64 << 10 }; /* a key or a certificate chain */

static const struct {
    const char *name, *expected;
} types[] = {
    [CONFIG_STRING] = {"text", "a text"},
    [CONFIG_SECRET] = {"secret", "a text"},
    [CONFIG_INT] = {"integer", "an integer"},
    [CONFIG_REAL] = {"number", "a number"},
    [CONFIG_BOOL] = {"boolean", "true or false"},
    [CONFIG_DURATION_MS] = {"duration", "a duration such as 250ms, 5s, 10m, 24h or 7d"},
    [CONFIG_BYTES] = {"size", "a size such as 64KiB, 8MiB or 1GiB"},
};

struct unit {
    const char *name;
    int64_t factor;
};
static const struct unit duration_units[] = {{"ms", 1}, {"s", 1000}, {"m", 60000}, {"h", 3600000}, {"d", 86400000}, {NULL, 0}};
static const struct unit byte_units[] = {{"", 1}, {"B", 1}, {"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", (int64_t)1 << 40}, {NULL, 0}};

static int unit_parse(struct span text, const struct unit *units, int64_t *out) {
    size_t digits = 0;
    while (digits < text.len && text.data[digits] >= '0' && text.data[digits] <= '9') digits++;
    int64_t n;
    int r = span_to_i64(span_sub(text, 0, digits), &n);
    if (r) return r;
    struct span unit = span_skip(text, digits);
    for (; units->name; units++)
        if (span_eq_str(unit, units->name) || (n == 0 && !unit.len)) {
            if (__builtin_mul_overflow(n, units->factor, &n)) return E_RANGE;
            *out = n;
            return 0;
        }
    return E_INVALID;
}

int duration_parse(struct span text, int64_t *ms) { return unit_parse(text, duration_units, ms); }
int bytes_parse(struct span text, int64_t *bytes) { return unit_parse(text, byte_units, bytes); }

/* The largest unit that says v without a fraction. */
static void unit_print(struct buf *out, int64_t v, const struct unit *units) {
    const struct unit *best = units;
    for (const struct unit *u = units; u->name; u++)
        if (v != 0 && v % u->factor == 0) best = u;
    buf_printf(out, "%lld%s", (long long)(v / best->factor), best->name);
}

union value {
    char *text;
    int64_t integer;
    double real;
    bool boolean;
};

static bool is_text(const struct config_row *row) { return row->type == CONFIG_STRING || row->type == CONFIG_SECRET; }

/* How the key is called in messages. */
static const char *row_name(const struct config_row *row, char name[96]) {
    snprintf(name, 96, "%s%s%s", row->section, row->section[0] ? "." : "", row->key);
    return name;
}

static void free_text(const struct config_row *row, char *text) {
    if (text && row->type == CONFIG_SECRET) explicit_bzero(text, strlen(text));
    mem_free(text);
}

/* source: what to name in a message, e.g. the file or the variable. Never quotes a secret. */
static int parse_value(const struct config_row *row, struct span text, const char *source, union value *out, struct error *err) {
    union value v = {0};
    double number = 0;
    int r = 0;
    char name[96];
    switch (row->type) {
    case CONFIG_STRING:
    case CONFIG_SECRET:
        if (text.len && memchr(text.data, 0, text.len)) return error_set_param(err, E_INVALID, row_name(row, name), "%s: %s must not contain a NUL", source, name);
        v.text = span_dup(text);
        if (!v.text) return error_set(err, E_NOMEM, "%s: no memory", source);
        if (out->text) free_text(row, out->text);
        *out = v;
        return 0;
    case CONFIG_INT: r = span_to_i64(text, &v.integer), number = (double)v.integer; break;
    case CONFIG_REAL: r = span_to_f64(text, &v.real), number = v.real; break;
    case CONFIG_BOOL:
        v.boolean = span_eq_str(text, "true");
        if (!v.boolean && !span_eq_str(text, "false")) r = E_INVALID;
        break;
    case CONFIG_DURATION_MS: r = duration_parse(text, &v.integer), number = (double)v.integer; break;
    case CONFIG_BYTES: r = bytes_parse(text, &v.integer), number = (double)v.integer; break;
    }
    if (r) return error_set_param(err, E_INVALID, row_name(row, name), "%s: %s must be %s, not \"%.*s\"", source, name, types[row->type].expected, text.len > 100 ? 100 : (int)text.len, text.data);
    if ((row->min != 0 || row->max != 0) && row->type != CONFIG_BOOL && (number < row->min || number > row->max)) {
        struct buf limits;
        buf_init(&limits, 128);
        if (row->type == CONFIG_DURATION_MS || row->type == CONFIG_BYTES) {
            const struct unit *units = row->type == CONFIG_BYTES ? byte_units : duration_units;
            unit_print(&limits, (int64_t)row->min, units);
            buf_append_str(&limits, " to ");
            unit_print(&limits, (int64_t)row->max, units);
        } else {
            buf_printf(&limits, "%.15g to %.15g", row->min, row->max);
        }
        r = error_set_param(err, E_INVALID, row_name(row, name), "%s: %s must be %.*s, not %.*s", source, name, SPAN_ARG(buf_span(&limits)), (int)text.len, text.data);
        buf_fini(&limits);
        return r;
    }
    *out = v;
    return 0;
}

static int from_json(const struct config_row *row, const struct json *v, const char *path, union value *out, struct error *err) {
    char number[64], name[96];
    struct span text = json_string(v);
    switch (json_type(v)) {
    case JSON_TYPE_STRING: break;
    case JSON_TYPE_INT:
        snprintf(number, sizeof number, "%lld", (long long)json_int(v, 0));
        text = span_str(number);
        break;
    case JSON_TYPE_REAL:
        snprintf(number, sizeof number, "%.17g", json_real(v, 0));
        text = span_str(number);
        if (is_text(row)) return error_set_param(err, E_INVALID, row_name(row, name), "%s: %s must be a text: put it in quotes", path, name);
        break;
    case JSON_TYPE_BOOL:
        text = json_bool(v, false) ? SPAN("true") : SPAN("false");
        if (is_text(row)) return error_set_param(err, E_INVALID, row_name(row, name), "%s: %s must be a text: put it in quotes", path, name);
        break;
    case JSON_TYPE_NULL:
    case JSON_TYPE_ARRAY:
    case JSON_TYPE_OBJECT:
        return error_set_param(err, E_INVALID, row_name(row, name), "%s: %s must be %s, not %s", path, name, types[row->type].expected, json_type_name(v));
    }
    return parse_value(row, text, path, out, err);
}

static const struct config_row *find_row(const struct config_row *rows, size_t n, const char *section, struct span key, size_t *at) {
    for (size_t i = 0; i < n; i++)
        if (strcmp(rows[i].section, section) == 0 && span_eq_str(key, rows[i].key)) {
            *at = i;
            return &rows[i];
        }
    return NULL;
}

struct load {
    const char *path;
    const struct config_row *rows;
    size_t n;
    const char *const *sections;
    union value *values;
    bool *set;
    struct error *err;
};

static int read_key(struct load *l, const char *section, struct span key, const struct json *v) {
    size_t at;
    const struct config_row *row = find_row(l->rows, l->n, section, key, &at);
    if (!row)
        return error_set(l->err, E_INVALID, "%s: unknown key %s%s%.*s: see the configuration reference", l->path, section, section[0] ? "." : "", key.len > 100 ? 100 : (int)key.len, key.data);
    int r = from_json(row, v, l->path, &l->values[at], l->err);
    if (!r) l->set[at] = true;
    return r;
}

static const char *own_section(const struct load *l, struct span name) {
    for (size_t i = 0; i < l->n; i++)
        if (l->rows[i].section[0] && span_eq_str(name, l->rows[i].section)) return l->rows[i].section;
    return NULL;
}

static int read_section(struct load *l, const char *section, const struct json *v) {
    if (json_is_null(v)) return 0; /* "gateway:" with nothing below it */
    if (json_type(v) != JSON_TYPE_OBJECT) return error_set_param(l->err, E_INVALID, section, "%s: section %s must be a mapping, not %s", l->path, section, json_type_name(v));
    void *it = NULL;
    struct span key;
    const struct json *value;
    int r = 0;
    while (!r && json_next(v, &it, &key, &value)) r = read_key(l, section, key, value);
    return r;
}

static int read_file(struct load *l) {
    struct buf text;
    buf_init(&text, CONFIG_FILE_MAX);
    struct json *root = NULL;
    int r = file_read(l->path, &text, l->err);
    if (r) error_prefix(l->err, "configuration");
    if (!r && (r = yaml_parse(buf_span(&text), &root, l->err))) error_prefix(l->err, "%s", l->path);
    if (!r && json_type(root) != JSON_TYPE_OBJECT && !json_is_null(root)) r = error_set(l->err, E_INVALID, "%s: must be a mapping of keys and sections, not %s", l->path, json_type_name(root));
    void *it = NULL;
    struct span key;
    const struct json *value;
    while (!r && json_next(root, &it, &key, &value)) {
        const char *section = own_section(l, key);
        size_t at;
        if (section && !find_row(l->rows, l->n, "", key, &at)) {
            r = read_section(l, section, value);
            continue;
        }
        bool foreign = false;
        for (const char *const *s = l->sections; s && *s; s++) foreign |= span_eq_str(key, *s);
        if (!foreign) r = read_key(l, "", key, value);
    }
    json_free(root);
    if (text.data) explicit_bzero(text.data, text.capacity);
    buf_fini(&text);
    return r;
}

static void variable_name(const struct config_row *row, const char *suffix, char name[128]) {
    snprintf(name, 128, "GENLOOP_%s%s%s%s", row->section, row->section[0] ? "_" : "", row->key, suffix);
    for (char *p = name; *p; p++) *p = isalnum((unsigned char)*p) ? (char)toupper((unsigned char)*p) : '_';
}

static int read_environment(struct load *l, size_t i) {
    const struct config_row *row = &l->rows[i];
    char name[128];
    variable_name(row, "", name);
    const char *value = getenv(name);
    int r = 0;
    if (value) {
        r = parse_value(row, span_str(value), name, &l->values[i], l->err);
        if (!r) l->set[i] = true;
        return r;
    }
    if (row->type != CONFIG_SECRET) return 0;
    variable_name(row, "_FILE", name);
    const char *path = getenv(name);
    if (!path || !path[0]) return 0;
    struct buf text;
    buf_init(&text, CONFIG_SECRET_MAX);
    r = file_read(path, &text, l->err);
    if (r) error_prefix(l->err, "%s", name);
    if (!r) {
        r = parse_value(row, span_trim(buf_span(&text)), name, &l->values[i], l->err);
        if (!r) l->set[i] = true;
    }
    if (text.data) explicit_bzero(text.data, text.capacity);
    buf_fini(&text);
    return r;
}

static void *field(const struct config_row *row, void *settings) { return (char *)settings + row->offset; }

int config_load(const char *path, const struct config_row *rows, size_t n, const char *const *sections, void *settings, struct error *err) {
    struct load l = {.path = path, .rows = rows, .n = n, .sections = sections, .err = err};
    l.values = mem_calloc(n, sizeof *l.values);
    l.set = mem_calloc(n, sizeof *l.set);
    int r = l.values && l.set ? 0 : error_set(err, E_NOMEM, "configuration: no memory");
    for (size_t i = 0; !r && i < n; i++)
        if (rows[i].default_text) {
            r = parse_value(&rows[i], span_str(rows[i].default_text), "built-in default", &l.values[i], err);
            l.set[i] = !r;
        }
    if (!r && path && path[0]) r = read_file(&l);
    for (size_t i = 0; !r && i < n; i++) r = read_environment(&l, i);
    for (size_t i = 0; !r && i < n; i++)
        if (!l.set[i]) {
            char name[96], variable[128];
            variable_name(&rows[i], "", variable);
            r = error_set_param(err, E_INVALID, row_name(&rows[i], name), "%s is required: set it in the configuration file or as %s", name, variable);
        }
    for (size_t i = 0; l.values && i < n; i++) {
        if (r) {
            if (is_text(&rows[i])) free_text(&rows[i], l.values[i].text);
            continue;
        }
        void *to = field(&rows[i], settings);
        switch (rows[i].type) {
        case CONFIG_STRING:
        case CONFIG_SECRET: memcpy(to, &l.values[i].text, sizeof(char *)); break;
        case CONFIG_REAL: memcpy(to, &l.values[i].real, sizeof(double)); break;
        case CONFIG_BOOL: memcpy(to, &l.values[i].boolean, sizeof(bool)); break;
        case CONFIG_INT:
        case CONFIG_DURATION_MS:
        case CONFIG_BYTES: memcpy(to, &l.values[i].integer, sizeof(int64_t)); break;
        }
    }
    mem_free(l.values);
    mem_free(l.set);
    return r;
}

void config_free(const struct config_row *rows, size_t n, void *settings) {
    for (size_t i = 0; i < n; i++) {
        if (!is_text(&rows[i])) continue;
        char *text = NULL;
        memcpy(&text, field(&rows[i], settings), sizeof text);
        free_text(&rows[i], text);
        memset(field(&rows[i], settings), 0, sizeof text);
    }
}

static void describe_limits(const struct config_row *row, struct buf *out) {
    if (row->min == 0 && row->max == 0) return;
    bool units = row->type == CONFIG_DURATION_MS || row->type == CONFIG_BYTES;
    const struct unit *table = row->type == CONFIG_BYTES ? byte_units : duration_units;
    buf_append_str(out, ", ");
    if (units) unit_print(out, (int64_t)row->min, table);
    else buf_printf(out, "%.15g", row->min);
    buf_append_str(out, " to ");
    if (units) unit_print(out, (int64_t)row->max, table);
    else buf_printf(out, "%.15g", row->max);
}

int config_describe(const struct config_row *rows, size_t n, struct buf *out) {
    int before = out->failed;
    out->failed = 0;
    buf_append_str(out, "| Key | Environment | Type | Default | Meaning |\n|---|---|---|---|---|\n");
    for (size_t i = 0; i < n; i++) {
        char name[96], variable[128];
        variable_name(&rows[i], "", variable);
        buf_printf(out, "| `%s` | `%s` | %s", row_name(&rows[i], name), variable, types[rows[i].type].name);
        describe_limits(&rows[i], out);
        if (!rows[i].default_text) buf_append_str(out, " | required | ");
        else if (!rows[i].default_text[0]) buf_append_str(out, " | empty | ");
        else buf_printf(out, " | `%s` | ", rows[i].default_text);
        buf_printf(out, "%s |\n", rows[i].doc ? rows[i].doc : "");
    }
    int r = out->failed;
    if (before) out->failed = before;
    return r;
}

/* YAML reads JSON's quoting, but takes some characters for the end of a line and refuses others where they stand as they are. */
static void show_text(struct buf *out, const char *text) {
    struct buf quoted;
    struct json_out w;
    buf_init(&quoted, out->cap);
    json_begin(&w, &quoted);
    json_put_str(&w, text);
    struct span s = buf_span(&quoted);
    for (size_t i = 0, n; i < s.len; i += n) {
        uint32_t c = 0;
        n = span_utf8_decode(span_skip(s, i), &c);
        if (n == 0) n = 1; /* not met: the writer writes UTF-8 */
        bool plain = c < 0x7f || (c >= 0xa0 && c != 0x2028 && c != 0x2029 && c != 0xfeff && c < 0xfffe) || c > 0xffff;
        if (plain) buf_append(out, s.data + i, n);
        else buf_printf(out, "\\u%04x", c);
    }
    if (quoted.failed) out->failed = quoted.failed;
    buf_fini(&quoted);
}

static void show_value(const struct config_row *row, const void *settings, struct buf *out) {
    const void *from = (const char *)settings + row->offset;
    union value v = {0};
    struct json_out w;
    json_begin(&w, out);
    switch (row->type) {
    case CONFIG_STRING:
        memcpy(&v.text, from, sizeof v.text);
        show_text(out, v.text ? v.text : "");
        break;
    case CONFIG_SECRET:
        memcpy(&v.text, from, sizeof v.text);
        json_put_str(&w, v.text && v.text[0] ? "***" : "");
        break;
    case CONFIG_INT:
        memcpy(&v.integer, from, sizeof v.integer);
        json_put_int(&w, v.integer);
        break;
    case CONFIG_REAL:
        memcpy(&v.real, from, sizeof v.real);
        json_put_real(&w, v.real);
        break;
    case CONFIG_BOOL:
        memcpy(&v.boolean, from, sizeof v.boolean);
        json_put_bool(&w, v.boolean);
        break;
    case CONFIG_DURATION_MS:
    case CONFIG_BYTES:
        memcpy(&v.integer, from, sizeof v.integer);
        unit_print(out, v.integer, row->type == CONFIG_BYTES ? byte_units : duration_units);
        break;
    }
    buf_append_char(out, '\n');
}

int config_show(const struct config_row *rows, size_t n, const void *settings, struct buf *out) {
    int before = out->failed;
    out->failed = 0;
    for (size_t i = 0; i < n; i++) {
        if (rows[i].section[0]) continue;
        buf_printf(out, "%s: ", rows[i].key);
        show_value(&rows[i], settings, out);
    }
    for (size_t i = 0; i < n; i++) {
        bool shown = !rows[i].section[0];
        for (size_t j = 0; j < i; j++) shown |= strcmp(rows[j].section, rows[i].section) == 0;
        if (shown) continue;
        buf_printf(out, "%s:\n", rows[i].section);
        for (size_t j = i; j < n; j++) {
            if (strcmp(rows[j].section, rows[i].section) != 0) continue;
            buf_printf(out, "  %s: ", rows[j].key);
            show_value(&rows[j], settings, out);
        }
    }
    int r = out->failed;
    if (before) out->failed = before;
    return r;
}
