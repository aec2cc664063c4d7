#include "engine/encoder_settings.h"

#include <limits.h>
#include <stdio.h>

#include "base/alloc.h"
#include "base/file.h"
#include "base/json.h"

enum { LABEL_BYTES_MAX = 1024 };

int encoder_pooling_parse(struct span name, enum encoder_pooling *pooling) {
    static const char *const names[] = {[ENCODER_MEAN] = "mean", [ENCODER_CLS] = "cls", [ENCODER_LAST] = "last"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (span_eq_str(name, names[i])) {
            *pooling = (enum encoder_pooling)i;
            return 0;
        }
    return E_INVALID;
}

int encoder_parse_modules(struct span text, char folder[ENCODER_FOLDER_MAX], struct error *err) {
    struct json *root = NULL;
    int r = json_parse(text, &root, err);
    if (r) return r;
    folder[0] = 0;
    if (json_type(root) != JSON_TYPE_ARRAY) r = error_set(err, E_INVALID, "modules.json is %s, not a list", json_type_name(root));
    for (size_t i = 0; !r && i < json_size(root); i++) {
        const struct json *one = json_at(root, i);
        struct span type = json_string(json_get(one, "type")), path = json_string(json_get(one, "path"));
        if (span_ends(type, SPAN(".Transformer")) || span_ends(type, SPAN(".Normalize"))) continue;
        if (!span_ends(type, SPAN(".Pooling"))) {
            r = error_set(err, E_UNSUPPORTED, "modules.json: a module of type %.*s is not built; there are Transformer, Pooling and Normalize", SPAN_ARG(span_sub(type, 0, 80)));
        } else if (!path.len || path.len >= ENCODER_FOLDER_MAX || path.data[0] == '.' || span_find_char(path, '/') >= 0 || memchr(path.data, 0, path.len)) {
            r = error_set(err, E_INVALID, "modules.json: the path of Pooling is no folder beside it");
        } else span_copy(folder, ENCODER_FOLDER_MAX, path);
    }
    json_free(root);
    return r;
}

int encoder_parse_pooling(struct span text, enum encoder_pooling *pooling, struct error *err) {
    static const struct {
        const char *key;
        enum encoder_pooling pooling;
    } built[] = {{"pooling_mode_cls_token", ENCODER_CLS}, {"pooling_mode_mean_tokens", ENCODER_MEAN}, {"pooling_mode_lasttoken", ENCODER_LAST}};
    static const char *const other[] = {"pooling_mode_max_tokens", "pooling_mode_mean_sqrt_len_tokens", "pooling_mode_weightedmean_tokens"};
    struct json *root = NULL;
    int r = json_parse(text, &root, err);
    if (r) return r;
    int found = 0;
    struct span mode = json_string(json_get(root, "pooling_mode"));
    if (mode.len) {
        if (span_eq_str(mode, "lasttoken")) mode = SPAN("last");
        found = encoder_pooling_parse(mode, pooling) == 0;
    }
    for (size_t i = 0; i < sizeof built / sizeof *built; i++)
        if (json_bool(json_get(root, built[i].key), false)) {
            *pooling = built[i].pooling;
            found++;
        }
    for (size_t i = 0; i < sizeof other / sizeof *other; i++) found += json_bool(json_get(root, other[i]), false) ? 2 : 0;
    if (found != 1) r = error_set(err, E_UNSUPPORTED, "the Pooling module is none of mean, cls and last token alone; no other is built");
    json_free(root);
    return r;
}

int encoder_parse_sentence(struct span text, uint32_t *tokens_max, struct error *err) {
    struct json *root = NULL;
    int r = json_parse(text, &root, err);
    if (r) return r;
    const struct json *v = json_get(root, "max_seq_length");
    int64_t n = json_int(v, -1);
    if (!json_is_null(v)) {
        if (n < 1 || n > UINT32_MAX) r = error_set_param(err, E_RANGE, "max_seq_length", "sentence_bert_config.json: max_seq_length is not between 1 and %u", UINT32_MAX);
        else *tokens_max = (uint32_t)n;
    }
    json_free(root);
    return r;
}

int encoder_parse_labels(struct span text, uint32_t label_count, struct encoder_settings *s, struct error *err) {
    struct json *root = NULL;
    int r = json_parse(text, &root, err);
    if (r) return r;
    const struct json *names = json_get(root, "id2label"), *value;
    s->multi_label = span_eq_str(json_string(json_get(root, "problem_type")), "multi_label_classification");
    void *it = NULL;
    struct span key;
    if (label_count && json_type(names) == JSON_TYPE_OBJECT) {
        s->labels = mem_calloc(label_count, sizeof *s->labels);
        if (!s->labels) r = error_set(err, E_NOMEM, "no memory for labels");
        else s->label_count = label_count;
    }
    while (!r && s->labels && json_next(names, &it, &key, &value)) {
        uint64_t id;
        struct span name = json_string(value);
        if (span_to_u64(key, &id) != 0 || id >= label_count || !name.len || name.len > LABEL_BYTES_MAX || memchr(name.data, 0, name.len) || s->labels[id])
            r = error_set_param(err, E_INVALID, "id2label", "id2label: \"%.*s\" is no id of the %u labels, is there twice or has no name", SPAN_ARG(span_sub(key, 0, 40)), label_count);
        else if (!(s->labels[id] = span_dup(name))) r = error_set(err, E_NOMEM, "no memory for labels");
    }
    for (uint32_t i = 0; !r && s->labels && i < label_count; i++)
        if (!s->labels[i]) r = error_set_param(err, E_INVALID, "id2label", "id2label names no label %u", i);
    json_free(root);
    return r;
}

/* Appends DIR/NAME to an emptied buffer; *found false where there is none. */
static int read_beside(const char *dir, const char *name, struct buf *out, bool *found, struct error *err) {
    char path[PATH_MAX];
    int n = snprintf(path, sizeof path, "%s/%s", dir, name);
    if (n < 0 || (size_t)n >= sizeof path) return error_set(err, E_INVALID, "%.200s: the path is too long", dir);
    buf_clear(out);
    *found = file_exists(path);
    return *found ? file_read(path, out, err) : 0;
}

static int copy_labels(char **names, uint32_t count, char ***out, struct error *err) {
    char **made = mem_calloc(count, sizeof *made);
    *out = made;
    for (uint32_t i = 0; made && i < count; i++)
        if (!(made[i] = span_dup(span_str(names[i])))) return error_set(err, E_NOMEM, "no memory for labels");
    return made ? 0 : error_set(err, E_NOMEM, "no memory for labels");
}

int encoder_settings_load(struct encoder_settings *out, const char *dir, const struct model_dir *m, struct error *err) {
    struct encoder_settings s = {.pooling = m->pooling == MODEL_POOLING_CLS ? ENCODER_CLS : m->pooling == MODEL_POOLING_LAST ? ENCODER_LAST : ENCODER_MEAN};
    char folder[ENCODER_FOLDER_MAX] = "", pooling[ENCODER_FOLDER_MAX + 16];
    struct buf text;
    bool found = false;
    buf_init(&text, ENCODER_SETTINGS_FILE_MAX);
    int r = read_beside(dir, "modules.json", &text, &found, err);
    if (!r && found) r = encoder_parse_modules(buf_span(&text), folder, err);
    if (!r && folder[0]) {
        snprintf(pooling, sizeof pooling, "%s/config.json", folder);
        r = read_beside(dir, pooling, &text, &found, err);
        if (!r && !found) r = error_set(err, E_NOT_FOUND, "%s/%s is missing, and modules.json names it", dir, pooling);
        if (!r) r = encoder_parse_pooling(buf_span(&text), &s.pooling, err);
    }
    if (!r) r = read_beside(dir, "sentence_bert_config.json", &text, &found, err);
    if (!r && found) r = encoder_parse_sentence(buf_span(&text), &s.tokens_max, err);
    if (!r) r = read_beside(dir, "config.json", &text, &found, err);
    if (!r && found) r = encoder_parse_labels(buf_span(&text), m->config.labels, &s, err);
    if (!r && !s.labels && m->labels) {
        s.label_count = m->label_count;
        r = copy_labels(m->labels, m->label_count, &s.labels, err);
    }
    buf_fini(&text);
    if (r) {
        encoder_settings_fini(&s);
        return error_prefix(err, "%s", dir), r;
    }
    *out = s;
    return 0;
}

void encoder_settings_fini(struct encoder_settings *s) {
    for (uint32_t i = 0; s->labels && i < s->label_count; i++) mem_free(s->labels[i]);
    mem_free(s->labels);
    *s = (struct encoder_settings){.labels = NULL};
}

int encoder_settings_tell(const struct encoder_settings *s, struct model_dir *m, struct error *err) {
    if (s->multi_label) return error_set(err, E_UNSUPPORTED, "a GGUF file cannot say that several of a classifier's labels may hold at once: export it as it is");
    m->pooling = s->pooling == ENCODER_CLS ? MODEL_POOLING_CLS : s->pooling == ENCODER_LAST ? MODEL_POOLING_LAST : MODEL_POOLING_MEAN;
    if (m->labels || !s->labels) return 0;
    m->label_count = s->label_count;
    return copy_labels(s->labels, s->label_count, &m->labels, err);
}

static int write_beside(const char *dir, const char *name, const struct buf *text, struct error *err) {
    char path[PATH_MAX];
    int n = snprintf(path, sizeof path, "%s/%s", dir, name);
    if (n < 0 || (size_t)n >= sizeof path) return error_set(err, E_INVALID, "%.200s: the path is too long", dir);
    if (text->failed) return error_set(err, text->failed, "no memory for %s", name);
    return file_write(path, buf_span(text), 0644, err);
}

static int write_pooling(const char *dir, enum model_pooling pooling, struct error *err) {
    char folder[PATH_MAX];
    struct buf text;
    struct json_out w;
    int n = snprintf(folder, sizeof folder, "%s/1_Pooling", dir);
    if (n < 0 || (size_t)n >= sizeof folder) return error_set(err, E_INVALID, "%.200s: the path is too long", dir);
    buf_init(&text, ENCODER_SETTINGS_FILE_MAX);
    (void)buf_append_str(&text, "[{\"idx\":0,\"name\":\"0\",\"path\":\"\",\"type\":\"sentence_transformers.models.Transformer\"},"
                                "{\"idx\":1,\"name\":\"1\",\"path\":\"1_Pooling\",\"type\":\"sentence_transformers.models.Pooling\"}]\n");
    int r = dir_make(folder, err);
    if (!r) r = write_beside(dir, "modules.json", &text, err);
    buf_clear(&text);
    json_begin(&w, &text);
    json_object(&w);
    json_flag(&w, "pooling_mode_cls_token", pooling == MODEL_POOLING_CLS);
    json_flag(&w, "pooling_mode_lasttoken", pooling == MODEL_POOLING_LAST);
    json_flag(&w, "pooling_mode_mean_tokens", pooling == MODEL_POOLING_MEAN);
    json_object_end(&w);
    if (!r) r = write_beside(folder, "config.json", &text, err);
    buf_fini(&text);
    return r;
}

/* config.json again, with what it lacks before its own first key. */
static int write_labels(const char *dir, const struct model_dir *m, struct buf *config, struct error *err) {
    struct buf text;
    struct json_out w;
    char id[16];
    ptrdiff_t at = span_find_char(buf_span(config), '{');
    if (at < 0) return error_set(err, E_INVALID, "config.json is no object");
    buf_init(&text, ENCODER_SETTINGS_FILE_MAX);
    (void)buf_append_str(&text, "{\"id2label\":");
    json_begin(&w, &text);
    json_object(&w);
    for (uint32_t i = 0; i < m->label_count; i++) {
        (void)snprintf(id, sizeof id, "%u", i);
        json_str(&w, id, m->labels[i]);
    }
    json_object_end(&w);
    (void)buf_append_char(&text, ',');
    (void)buf_append_span(&text, span_skip(buf_span(config), (size_t)at + 1));
    int r = write_beside(dir, "config.json", &text, err);
    buf_fini(&text);
    return r;
}

int encoder_settings_write(const char *dir, const struct model_dir *m, struct error *err) {
    struct buf text;
    struct json *root = NULL;
    bool found = false;
    buf_init(&text, ENCODER_SETTINGS_FILE_MAX);
    int r = m->pooling == MODEL_POOLING_UNSAID ? 0 : read_beside(dir, "modules.json", &text, &found, err);
    if (!r && m->pooling != MODEL_POOLING_UNSAID && !found) r = write_pooling(dir, m->pooling, err);
    if (!r && m->labels) r = read_beside(dir, "config.json", &text, &found, err);
    if (!r && m->labels && found) r = json_parse(buf_span(&text), &root, err);
    if (!r && root && json_is_null(json_get(root, "id2label"))) r = write_labels(dir, m, &text, err);
    json_free(root);
    buf_fini(&text);
    return r;
}
