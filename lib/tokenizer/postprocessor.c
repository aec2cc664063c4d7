/* Stage 5: ids around the text's. Only what a single text gets is used; pairs are for encoders, whose stages are not built. */
#include "tokenizer/internal.h"

static int parse_byte_level(const struct json *v, struct postprocessor *p, struct error *err) {
    (void)v, (void)p, (void)err; /* trims offsets, and ours are always of the whole token: no effect on ids */
    return 0;
}

static int push_ids(const struct json *specials, struct span name, uint32_t *ids, uint32_t *count, struct error *err) {
    const struct json *list = json_get(json_get_span(specials, name), "ids");
    if (json_size(list) == 0)
        return error_set(err, E_INVALID, "post_processor: the special token %.*s has no ids", SPAN_ARG(span_sub(name, 0, 60)));
    for (size_t i = 0; i < json_size(list); i++) {
        int64_t id = json_int(json_at(list, i), -1);
        if (id < 0 || id >= TOKENIZER_VOCAB_MAX) return error_set(err, E_INVALID, "post_processor: an id is out of range");
        if (*count == POSTPROCESSOR_IDS_MAX) return error_set(err, E_UNSUPPORTED, "post_processor: more than %d ids on one side", POSTPROCESSOR_IDS_MAX);
        ids[(*count)++] = (uint32_t)id;
    }
    return 0;
}

static int parse_template(const struct json *v, struct postprocessor *p, struct error *err) {
    const struct json *single = json_get(v, "single");
    if (json_type(single) != JSON_TYPE_ARRAY) return error_set(err, E_INVALID, "post_processor: TemplateProcessing without a list \"single\"");
    bool behind = false;
    int r = 0;
    for (size_t i = 0; !r && i < json_size(single); i++) {
        const struct json *item = json_at(single, i), *special = json_get(item, "SpecialToken"), *sequence = json_get(item, "Sequence");
        if (special) {
            r = push_ids(json_get(v, "special_tokens"), json_string(json_get(special, "id")), behind ? p->after : p->before,
                         behind ? &p->after_count : &p->before_count, err);
        } else if (sequence && span_eq_str(json_string(json_get(sequence, "id")), "A") && !behind) {
            behind = true;
        } else {
            r = error_set(err, E_INVALID, "post_processor: a template has an item that is neither a special token nor the one text");
        }
    }
    if (!r && !behind) r = error_set(err, E_INVALID, "post_processor: a template without the text");
    return r;
}

static const struct {
    const char *type;
    int (*parse)(const struct json *v, struct postprocessor *p, struct error *err);
} kinds[] = {{"ByteLevel", parse_byte_level}, {"TemplateProcessing", parse_template}};

static int parse_one(const struct json *v, struct postprocessor *p, struct error *err) {
    struct span type = json_string(json_get(v, "type"));
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        if (span_eq_str(type, kinds[i].type)) return kinds[i].parse(v, p, err);
    return error_set(err, E_UNSUPPORTED, "post_processor: type %.*s is not built", SPAN_ARG(span_sub(type, 0, 60)));
}

int postprocessor_parse(const struct json *v, struct postprocessor *p, struct error *err) {
    *p = (struct postprocessor){.before_count = 0};
    if (json_is_null(v)) return 0;
    if (!span_eq_str(json_string(json_get(v, "type")), "Sequence")) return parse_one(v, p, err);
    const struct json *list = json_get(v, "processors");
    int r = 0;
    unsigned templates = 0;
    for (size_t i = 0; !r && i < json_size(list); i++) {
        templates += span_eq_str(json_string(json_get(json_at(list, i), "type")), "TemplateProcessing");
        if (templates > 1) return error_set(err, E_UNSUPPORTED, "post_processor: more than one template");
        r = parse_one(json_at(list, i), p, err);
    }
    return r;
}
