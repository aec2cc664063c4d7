/*
 * A model directory, broken in a known way:
 *   noise      to every matrix normal noise of --amount times its own deviation is added
 *   layer      one layer (--layer, from 0) does nothing any more: all its matrices are zero
 *   tokenizer  the ids of the tokenizer's merged tokens are turned round: the same texts, other ids
 */
#include <math.h>
#include <stdio.h>

#include "base/alloc.h"
#include "base/file.h"
#include "base/json.h"
#include "base/random.h"
#include "lab.h"
#include "model/model_dir.h"

static void add_noise(struct model_weights *w, double amount, uint64_t seed) {
    struct random random;
    random_seed(&random, seed);
    for (size_t p = 0; p < w->param_count; p++) {
        const struct model_param *param = &w->params[p];
        float *at = w->flat + param->offset;
        size_t n = model_param_size(param);
        double sum = 0;
        if (!model_param_is_matrix(param)) continue;
        for (size_t i = 0; i < n; i++) sum += (double)at[i] * (double)at[i];
        double deviation = sqrt(sum / (double)n);
        for (size_t i = 0; i < n; i++) at[i] += (float)(amount * deviation * random_normal(&random));
    }
}

static void drop_layer(struct model_weights *w, uint32_t layer) {
    for (size_t p = 0; p < w->param_count; p++) {
        const struct model_param *param = &w->params[p];
        if (param->layer == layer && model_param_is_matrix(param) && strncmp(model_role_name(param->role), "embed", 5) != 0 && strcmp(model_role_name(param->role), "lm_head") != 0)
            memset(w->flat + param->offset, 0, model_param_size(param) * sizeof *w->flat);
    }
}

/* vocab of tokenizer.json with the ids of its merged tokens in the opposite order. The merges stay: they name texts, not ids. */
static int turn_tokenizer(const char *path, struct error *err) {
    struct buf text, out;
    struct json *root = NULL;
    struct json_out w;
    buf_init(&text, LAB_FILE_MAX);
    buf_init(&out, LAB_FILE_MAX);
    int r = file_read(path, &text, err);
    if (!r) r = json_parse(buf_span(&text), &root, err);
    json_begin(&w, &out);
    json_object(&w);
    void *top = NULL;
    struct span key;
    const struct json *value;
    while (!r && json_next(root, &top, &key, &value)) {
        json_key_span(&w, key);
        if (!span_eq_str(key, "model")) {
            json_put_value(&w, value);
            continue;
        }
        json_object(&w);
        void *in_model = NULL, *in_vocab = NULL;
        struct span name;
        const struct json *part, *id;
        int64_t first = (int64_t)(json_size(json_get(value, "vocab")) - json_size(json_get(value, "merges"))), last = (int64_t)json_size(json_get(value, "vocab")) - 1;
        while (json_next(value, &in_model, &key, &part)) {
            json_key_span(&w, key);
            if (!span_eq_str(key, "vocab")) {
                json_put_value(&w, part);
                continue;
            }
            json_object(&w);
            while (json_next(part, &in_vocab, &name, &id)) {
                int64_t n = json_int(id, 0);
                json_key_span(&w, name);
                json_put_int(&w, n < first ? n : first + last - n);
            }
            json_object_end(&w);
        }
        json_object_end(&w);
    }
    json_object_end(&w);
    if (!r) r = out.failed ? error_set(err, out.failed, "the tokenizer does not fit") : file_write(path, buf_span(&out), 0600, err);
    json_free(root);
    buf_fini(&text);
    buf_fini(&out);
    return r;
}

int lab_spoil(const struct lab_args *a, struct error *err) {
    const char *how = lab_option(a, "how", NULL), *out = lab_option(a, "out", NULL);
    char path[LAB_PATH_MAX];
    struct model_dir m = {0};
    int r = model_dir_load(&m, lab_option(a, "model", NULL), MODEL_WEIGHTS_FLAT, 0, err);
    if (r) return r;
    if (strcmp(how, "noise") == 0) add_noise(&m.weights, lab_number(a, "amount", 0.3), (uint64_t)lab_number(a, "seed", 1));
    else if (strcmp(how, "layer") == 0) drop_layer(&m.weights, (uint32_t)lab_number(a, "layer", m.config.layers / 2));
    else if (strcmp(how, "tokenizer") != 0) r = error_set(err, E_INVALID, "--how is none of noise, layer, tokenizer");
    struct model_dir_parts parts = {.weights = &m.weights, .dtype = DTYPE_F32, .tokenizer = m.tokenizer, .chat_template = m.chat_template, .generation = &m.generation};
    if (!r) r = model_dir_write(out, &parts, err);
    if (!r && strcmp(how, "tokenizer") == 0) r = turn_tokenizer(lab_path(path, out, "tokenizer.json"), err);
    model_dir_fini(&m);
    return r;
}
