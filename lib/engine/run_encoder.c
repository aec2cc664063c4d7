/* `genloop run --task embed|score`. */
#include <stdio.h>

#include "base/alloc.h"
#include "base/json.h"
#include "engine/encoder.h"
#include "engine/run.h"

enum { OUT_MAX = 64 << 20 };

static int take_types(const struct engine_run_options *o, size_t count, uint8_t **types, struct error *err) {
    if (!o->token_types) return 0;
    if (o->token_type_count != count)
        return error_set_param(err, E_INVALID, "token_types", "there are %zu tokens and %zu token types", count, o->token_type_count);
    *types = mem_alloc(count);
    if (!*types) return error_set(err, E_NOMEM, "no memory for token types");
    for (size_t i = 0; i < count; i++) {
        if (o->token_types[i] > UINT8_MAX) return error_set_param(err, E_INVALID, "token_types", "%u is no token type", o->token_types[i]);
        (*types)[i] = (uint8_t)o->token_types[i];
    }
    return 0;
}

int engine_run_encoder(const struct engine_run_options *o, bool score, FILE *out, struct error *err) {
    struct encoder *e = NULL;
    struct tokens ids = {.ids = NULL};
    struct encoder_text text = {.ids = o->tokens, .count = o->token_count, .score = score, .normalize = !o->no_normalize};
    uint8_t *types = NULL;
    float *values = NULL;
    struct buf line;
    buf_init(&line, OUT_MAX);
    struct encoder_options options = {.threads = o->threads, .weights = o->weights, .packed = o->packed};
    int r = 0;
    if (o->pooling && encoder_pooling_parse(span_str(o->pooling), &text.pooling) != 0)
        r = error_set_param(err, E_INVALID, "pooling", "pooling \"%.40s\" is none of mean, cls, last", o->pooling);
    if (r == 0) r = encoder_new(&e, o->model, &options, err);
    if (r == 0 && !o->pooling) text.pooling = encoder_settings(e)->pooling;
    if (r == 0 && !o->tokens) {
        if (!encoder_tokenizer(e)) r = error_set_param(err, E_UNSUPPORTED, "prompt", "the model has no tokenizer: give tokens");
        else r = tokenizer_encode(encoder_tokenizer(e), o->prompt, TOKENIZER_ADD_SPECIAL, &ids, err);
        text.ids = ids.ids;
        text.count = ids.len;
    } else if (r == 0) r = take_types(o, o->token_count, &types, err);
    text.types = types;
    if (r == 0) r = encoder_check(e, &text, err);
    if (r != 0) goto out;
    size_t n = score ? encoder_model(e)->labels : encoder_model(e)->width;
    text.out = values = mem_calloc(n, sizeof *values);
    if (!values) {
        r = error_set(err, E_NOMEM, "no memory for the answer");
        goto out;
    }
    encoder_run(e, &text, 1);
    struct json_out w;
    json_begin(&w, &line);
    json_object(&w);
    json_key(&w, score ? "scores" : "embedding");
    json_array(&w);
    for (size_t i = 0; i < n; i++) json_put_real(&w, (double)values[i]);
    json_array_end(&w);
    json_object_end(&w);
    buf_append_char(&line, '\n');
    if (line.failed != 0) r = error_set(err, line.failed, "no memory for the answer");
    else if (fwrite(buf_span(&line).data, 1, line.len, out) != line.len || fflush(out) != 0) r = error_set(err, E_IO, "cannot write the answer");
out:
    mem_free(values);
    mem_free(types);
    tokens_fini(&ids);
    encoder_free(e);
    buf_fini(&line);
    return r;
}
