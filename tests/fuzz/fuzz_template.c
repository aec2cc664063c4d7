/* A chat template: parsed and rendered without harm and within its limits, with whole pieces. The input up to its first NUL is the template, the rest the chat's JSON
 * where it is some. */
#include "tokenizer/template.h"

static const char chat[] = "{\"messages\":[{\"role\":\"system\",\"content\":\"Be brief.\"},{\"role\":\"user\",\"content\":\" <b>\\u00e9\\n\"},{\"role\":\"assistant\",\"content\":null,"
                           "\"tool_calls\":[{\"id\":\"c1\",\"type\":\"function\",\"function\":{\"name\":\"w\",\"arguments\":{\"a\":[1,2.5,true]}}}]}],\"tools\":[{\"function\":{\"name\":\"w\"}}],\"n\":7}";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct span all = span_of(data, size);
    ptrdiff_t nul = span_find_char(all, 0);
    struct span text = nul < 0 ? all : span_sub(all, 0, (size_t)nul);
    struct template *t = NULL;
    struct json *object = NULL;
    struct template_var vars[16];
    struct template_output out;
    struct error err;
    size_t n = 0;
    if (template_parse(text, &t, &err)) return 0;
    if (nul < 0 || json_parse(span_skip(all, (size_t)nul + 1), &object, &err) || json_type(object) != JSON_TYPE_OBJECT) {
        json_free(object);
        object = NULL;
        ASSERT(json_parse(span_str(chat), &object, &err) == 0);
    }
    void *iterator = NULL;
    struct span key;
    const struct json *value;
    while (n < 14 && json_next(object, &iterator, &key, &value)) vars[n++] = (struct template_var){.name = key, .json = value};
    vars[n++] = (struct template_var){.name = SPAN("bos_token"), .text = SPAN("<s>")};
    vars[n++] = (struct template_var){.name = SPAN("add_generation_prompt"), .flag = true};
    template_output_init(&out);
    if (template_render(t, vars, n, 0, &out, &err) == 0) {
        ASSERT(span_is_utf8(buf_span(&out.text)));
        for (size_t i = 0, at = 0; i < out.piece_count; at = out.pieces[i++].end) ASSERT(out.pieces[i].end > at);
        ASSERT((out.piece_count ? out.pieces[out.piece_count - 1].end : 0) == out.text.len);
        for (size_t i = 0; i < out.generated_count; i++) ASSERT(out.generated[i].start < out.generated[i].end && out.generated[i].end <= out.text.len);
    }
    template_output_fini(&out);
    template_free(t);
    json_free(object);
    return 0;
}
