/* Stage 5: ids around the texts' own, as a template for one text and one for a pair. */
#include "tokenizer/internal.h"

static int add(struct postprocessor_template *t, struct postprocessor_item item, struct error *err) {
    if (t->count == POSTPROCESSOR_ITEMS_MAX) return error_set(err, E_UNSUPPORTED, "post_processor: more than %d items", POSTPROCESSOR_ITEMS_MAX);
    t->items[t->count++] = item;
    return 0;
}

static int parse_byte_level(const struct json *v, struct postprocessor *p, struct error *err) {
    (void)v, (void)p, (void)err; /* trims offsets, and ours are always of the whole token: no effect on ids */
    return 0;
}

static int parse_id(const struct json *v, uint32_t *id, struct error *err) {
    int64_t n = json_int(v, -1);
    if (n < 0 || n >= TOKENIZER_VOCAB_MAX) return error_set(err, E_INVALID, "post_processor: an id is out of range");
    *id = (uint32_t)n;
    return 0;
}

static int parse_items(const struct json *v, const char *key, unsigned texts, struct postprocessor_template *t, struct error *err) {
    const struct json *items = json_get(v, key);
    unsigned seen = 0;
    int r = 0;
    if (json_type(items) != JSON_TYPE_ARRAY) return error_set(err, E_INVALID, "post_processor: TemplateProcessing without a list \"%s\"", key);
    for (size_t i = 0; !r && i < json_size(items); i++) {
        const struct json *item = json_at(items, i), *special = json_get(item, "SpecialToken"), *sequence = json_get(item, "Sequence");
        struct span name = json_string(json_get(special ? special : sequence, "id"));
        int64_t type = json_int(json_get(special ? special : sequence, "type_id"), 0);
        if (type < 0 || type > 255) return error_set(err, E_INVALID, "post_processor: a type_id is out of range");
        if (special) {
            const struct json *ids = json_get(json_get_span(json_get(v, "special_tokens"), name), "ids");
            if (json_size(ids) == 0) return error_set(err, E_INVALID, "post_processor: the special token %.*s has no ids", SPAN_ARG(span_sub(name, 0, 60)));
            for (size_t k = 0; !r && k < json_size(ids); k++) {
                struct postprocessor_item it = {.type = (uint8_t)type};
                r = parse_id(json_at(ids, k), &it.id, err);
                if (!r) r = add(t, it, err);
            }
        } else {
            unsigned text = span_eq_str(name, "A") ? 0 : span_eq_str(name, "B") ? 1 : 2;
            if (!sequence || text >= texts || (seen & 1u << text))
                return error_set(err, E_INVALID, "post_processor: a template has an item that is neither a special token nor one of its texts");
            seen |= 1u << text;
            r = add(t, (struct postprocessor_item){.id = TOKEN_NONE, .text = (uint8_t)text, .type = (uint8_t)type}, err);
        }
    }
    if (!r && seen != (1u << texts) - 1) r = error_set(err, E_INVALID, "post_processor: a template without the text");
    return r;
}

static int parse_template(const struct json *v, struct postprocessor *p, struct error *err) {
    int r = parse_items(v, "single", 1, &p->single, err);
    /* "pair" may be missing, or be for one text alone: then the two texts follow each other */
    if (!r && json_size(json_get(v, "pair")) && parse_items(v, "pair", 2, &p->pair, NULL)) {
        p->pair.count = 0;
        bool both = false;
        const struct json *items = json_get(v, "pair");
        for (size_t i = 0; i < json_size(items); i++) both |= span_eq_str(json_string(json_get(json_get(json_at(items, i), "Sequence"), "id")), "B");
        if (both) r = parse_items(v, "pair", 2, &p->pair, err);
    }
    return r;
}

/* BertProcessing and RobertaProcessing: "cls" and "sep" are [text, id]. */
static int parse_cls_sep(const struct json *v, bool roberta, struct postprocessor *p, struct error *err) {
    uint32_t cls = 0, sep = 0;
    int r = parse_id(json_at(json_get(v, "cls"), 1), &cls, err);
    if (!r) r = parse_id(json_at(json_get(v, "sep"), 1), &sep, err);
    if (r) return r;
    p->single = (struct postprocessor_template){.items = {{.id = cls}, {.id = TOKEN_NONE}, {.id = sep}}, .count = 3};
    if (roberta) p->pair = (struct postprocessor_template){.items = {{.id = cls}, {.id = TOKEN_NONE}, {.id = sep}, {.id = sep}, {.id = TOKEN_NONE, .text = 1}, {.id = sep}}, .count = 6};
    else p->pair = (struct postprocessor_template){.items = {{.id = cls}, {.id = TOKEN_NONE}, {.id = sep}, {.id = TOKEN_NONE, .text = 1, .type = 1}, {.id = sep, .type = 1}}, .count = 5};
    return 0;
}
static int parse_bert(const struct json *v, struct postprocessor *p, struct error *err) { return parse_cls_sep(v, false, p, err); }
static int parse_roberta(const struct json *v, struct postprocessor *p, struct error *err) { return parse_cls_sep(v, true, p, err); }

static const struct {
    const char *type;
    int (*parse)(const struct json *v, struct postprocessor *p, struct error *err);
} kinds[] = {{"ByteLevel", parse_byte_level}, {"TemplateProcessing", parse_template}, {"BertProcessing", parse_bert}, {"RobertaProcessing", parse_roberta}};

static int parse_one(const struct json *v, struct postprocessor *p, struct error *err) {
    struct span type = json_string(json_get(v, "type"));
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        if (span_eq_str(type, kinds[i].type)) {
            if (kinds[i].parse != parse_byte_level && p->single.count) return error_set(err, E_UNSUPPORTED, "post_processor: more than one template");
            return kinds[i].parse(v, p, err);
        }
    return error_set(err, E_UNSUPPORTED, "post_processor: type %.*s is not built", SPAN_ARG(span_sub(type, 0, 60)));
}

int postprocessor_parse(const struct json *v, struct postprocessor *p, struct error *err) {
    *p = (struct postprocessor){.single = {.count = 0}};
    if (json_is_null(v)) return 0;
    if (!span_eq_str(json_string(json_get(v, "type")), "Sequence")) return parse_one(v, p, err);
    const struct json *list = json_get(v, "processors");
    int r = 0;
    for (size_t i = 0; !r && i < json_size(list); i++) r = parse_one(json_at(list, i), p, err);
    return r;
}
