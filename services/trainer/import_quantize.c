#include "services/trainer/import_quantize.h"

#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/file.h"
#include "engine/compare.h"
#include "engine/encoder.h"
#include "model/quantize.h"
#include "services/trainer/prose.h"

enum { PATH_SIZE = 4608, CARD_MAX = 16 << 20, TEXTS = 16 };

/* ---- the directory ---- */

struct copying {
    const char *from, *to;
    uint64_t bytes; /* of weights */
    bool inside;    /* of a folder of the directory */
    struct error *err;
};

static bool is_weights(struct span name) { return span_ends(name, SPAN(".safetensors")) || span_ends(name, SPAN(".gguf")) || span_eq_str(name, "model.safetensors.index.json"); }

/* Links of what is no file of weights; a folder is one level deep, as request.c takes them. */
static int copy_entry(void *arg, const char *name) {
    struct copying *c = arg;
    char from[PATH_SIZE], to[PATH_SIZE];
    struct stat st;
    if (snprintf(from, sizeof from, "%s/%s", c->from, name) >= (int)sizeof from || snprintf(to, sizeof to, "%s/%s", c->to, name) >= (int)sizeof to)
        return error_set(c->err, E_INVALID, "the path of %.100s is too long", name);
    if (stat(from, &st) != 0) return error_errno(c->err, errno, "%s", name);
    if (S_ISDIR(st.st_mode) && c->inside) return error_set(c->err, E_INVALID, "%s lies deeper than a model's files do", name);
    if (S_ISDIR(st.st_mode)) {
        struct copying inner = {.from = from, .to = to, .inside = true, .err = c->err};
        int r = dir_make(to, c->err);
        return r ? r : dir_list(from, &inner, copy_entry, c->err); /* one level: below it are files alone */
    }
    if (is_weights(span_str(name))) {
        c->bytes += (uint64_t)st.st_size;
        return 0;
    }
    if (strcmp(name, "README.md") == 0) return 0; /* written anew */
    return link(from, to) == 0 ? 0 : error_errno(c->err, errno, "%s", name);
}

/* ---- what it costs ---- */

static int decoder_cost(const char *dir, const char *out, int threads, struct quantize_cost *cost, struct error *err) {
    const struct compare_side sides[2] = {{dir, PACKED_STORED}, {out, PACKED_STORED}};
    struct compare_result results[2];
    int r = engine_compare_sides(sides, 2, span_str(COMPARE_TEXT), threads, results, err);
    if (r) return r;
    cost->perplexity_before = results[0].perplexity;
    cost->perplexity = results[1].perplexity;
    cost->agreement = results[1].agreement;
    cost->samples = results[1].tokens;
    return 0;
}

/* Vectors of the first passages of the prose, one behind the other. */
static int read_vectors(const char *dir, int threads, float **vectors, uint32_t *width, struct error *err) {
    struct encoder *e = NULL;
    struct encoder_options options = {.threads = threads};
    int r = encoder_new(&e, dir, &options, err);
    if (r) return r;
    *width = encoder_model(e)->width;
    *vectors = mem_calloc(TEXTS * (size_t)*width, sizeof **vectors);
    if (!*vectors) r = error_set(err, E_NOMEM, "no memory for vectors");
    for (int i = 0; i < TEXTS && !r; i++) {
        struct tokens ids = {0};
        r = tokenizer_encode_pair(encoder_tokenizer(e), span_str(PROSE[i]), span_of(NULL, 0), TOKENIZER_ADD_SPECIAL | TOKENIZER_NO_SPECIALS, encoder_tokens_max(e), &ids, NULL, err);
        struct encoder_text text = {.ids = ids.ids, .count = ids.len, .pooling = encoder_settings(e)->pooling, .normalize = true, .out = *vectors + (size_t)i * *width};
        if (!r) r = encoder_check(e, &text, err);
        if (!r) encoder_run(e, &text, 1);
        tokens_fini(&ids);
    }
    encoder_free(e);
    return r;
}

static int encoder_cost(const char *dir, const char *out, int threads, struct quantize_cost *cost, struct error *err) {
    float *before = NULL, *after = NULL;
    uint32_t width = 0;
    double sum = 0;
    int r = read_vectors(dir, threads, &before, &width, err);
    if (!r) r = read_vectors(out, threads, &after, &width, err);
    for (size_t i = 0; !r && i < TEXTS * (size_t)width; i++) sum += (double)before[i] * (double)after[i];
    cost->cosine = sum / TEXTS;
    cost->samples = TEXTS;
    mem_free(before);
    mem_free(after);
    return r;
}

/* ---- the model card ---- */

static int write_card(const char *dir, const char *out, const char *type, const struct quantize_cost *c, struct error *err) {
    char path[PATH_SIZE];
    struct buf text;
    int r = 0;
    buf_init(&text, CARD_MAX);
    (void)snprintf(path, sizeof path, "%s/README.md", dir);
    if (file_exists(path)) r = file_read(path, &text, err);
    if (!r) {
        (void)buf_printf(&text, "%s## Quantized at import\n\nThe weights were turned into %s when this model was imported; their files take %.1f MiB in place of %.1f.\n", text.len ? "\n\n" : "", type, (double)c->bytes / (1 << 20),
                         (double)c->bytes_before / (1 << 20));
        if (c->encoder)
            (void)buf_printf(&text, "On %llu texts the mean cosine between its vectors and those of the weights as they came is %.6f.\n", (unsigned long long)c->samples, c->cosine);
        else
            (void)buf_printf(&text, "On %llu tokens of prose its perplexity is %.4g, that of the weights as they came %.4g; the first choice of the next token is the same in %.2f %% of places.\n", (unsigned long long)c->samples,
                             c->perplexity, c->perplexity_before, 100 * c->agreement);
        (void)snprintf(path, sizeof path, "%s/README.md", out);
        r = text.failed ? error_set(err, text.failed, "the model card does not fit") : file_write(path, buf_span(&text), 0644, err);
    }
    buf_fini(&text);
    return r;
}

int import_quantize(const char *dir, const char *out, const char *type, int threads, struct quantize_cost *cost, struct error *err) {
    enum tensor_type wanted;
    struct model_config config;
    struct stat st;
    char path[PATH_SIZE];
    struct copying c = {.from = dir, .to = out, .err = err};
    *cost = (struct quantize_cost){0};
    int r = model_quantize_type(span_str(type), &wanted, err);
    if (!r) r = dir_make(out, err);
    if (!r) r = dir_list(dir, &c, copy_entry, err);
    (void)snprintf(path, sizeof path, "%s/" MODEL_WEIGHTS_FILE, out);
    if (!r) r = model_quantize(dir, path, wanted, err);
    if (!r && stat(path, &st) != 0) r = error_errno(err, errno, MODEL_WEIGHTS_FILE);
    if (!r) r = model_dir_config(dir, &config, err);
    if (r) return r;
    cost->bytes_before = c.bytes;
    cost->bytes = (uint64_t)st.st_size;
    cost->encoder = config.arch->kind == MODEL_ENCODER;
    r = cost->encoder ? encoder_cost(dir, out, threads, cost, err) : decoder_cost(dir, out, threads, cost, err);
    return r ? r : write_card(dir, out, type, cost, err);
}
