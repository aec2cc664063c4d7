/* The directory: each pair of tensors to the matrix of the base that it belongs to. */
#include "model/adapter.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>

#include "base/alloc.h"
#include "base/file.h"
#include "model/dir_files.h"

static const char PREFIX[] = "base_model.model.", HALF_A[] = ".lora_A.weight", HALF_B[] = ".lora_B.weight";

static int place_of(enum model_role role, enum adapter_place *place) {
    static const struct {
        enum model_role role;
        enum adapter_place place;
    } places[] = {{MODEL_ATTN_Q_W, ADAPTER_Q}, {MODEL_ATTN_K_W, ADAPTER_K}, {MODEL_ATTN_V_W, ADAPTER_V}, {MODEL_ATTN_O_W, ADAPTER_O}, {MODEL_MLP_GATE_W, ADAPTER_GATE}, {MODEL_MLP_UP_W, ADAPTER_UP}, {MODEL_MLP_DOWN_W, ADAPTER_DOWN}};
    for (size_t i = 0; i < sizeof places / sizeof *places; i++)
        if (places[i].role == role) {
            *place = places[i].place;
            return 0;
        }
    return E_NOT_FOUND;
}

static int join(char path[PATH_MAX], const char *dir, const char *name, struct error *err) {
    int n = snprintf(path, PATH_MAX, "%s/%s", dir, name);
    return n < 0 || n >= PATH_MAX ? error_set(err, E_INVALID, "%.200s: the path is too long", dir) : 0;
}

bool model_adapter_is(const char *dir) {
    char path[PATH_MAX];
    return join(path, dir, "adapter_config.json", NULL) == 0 && file_exists(path);
}

int model_adapter_config(const char *dir, struct adapter_config *c, struct error *err) {
    char path[PATH_MAX];
    struct buf text;
    buf_init(&text, ADAPTER_CONFIG_MAX);
    int r = join(path, dir, "adapter_config.json", err);
    if (r == 0) r = file_read(path, &text, err);
    if (r == 0 && (r = adapter_config_parse(buf_span(&text), c, err)) != 0) (void)error_prefix(err, "%s", path);
    buf_fini(&text);
    return r;
}

/* ---- tensors ---- */

struct loading {
    struct model_adapter *a;
    const struct model_config *base;
    const struct adapter_config *config;
    const struct safetensors *file;
    struct model_tensor *tensors; /* owned: of the base */
    size_t tensor_count, floats;
    const char *path;
};

/* The module of a tensor of the base: its name without .weight. */
static struct span module_of(const struct model_tensor *t) {
    struct span name = span_str(t->name);
    if (t->vector || !span_ends(name, SPAN(".weight"))) return SPAN("");
    name.len -= SPAN(".weight").len;
    return name;
}

/* Also by the name that it has in files saved from the body alone. */
static const struct model_tensor *find_module(const struct loading *l, struct span module) {
    struct span prefix = span_str(l->base->arch->base_prefix);
    for (size_t i = 0; module.len && i < l->tensor_count; i++) {
        struct span own = module_of(&l->tensors[i]);
        if (span_eq(own, module) || (own.len > prefix.len && span_starts(own, prefix) && span_eq(span_skip(own, prefix.len), module))) return &l->tensors[i];
    }
    return NULL;
}

static int refuse(const struct loading *l, int code, struct span name, const char *why, struct error *err) {
    return error_set(err, code, "%s: the tensor %.*s %s", l->path, SPAN_ARG(span_sub(name, 0, 200)), why);
}

/* Why a tensor that is no half of a pair is not taken. */
static const char *why_not(struct span name) {
    static const struct {
        const char *part, *why;
    } parts[] = {{"lora_magnitude_vector", "belongs to DoRA, which is not built"},
                 {"lora_embedding_", "is for embeddings; adapters of embeddings are not built"},
                 {"modules_to_save", "replaces a module of the base, which is not built"},
                 {".bias", "is a bias; adapters have none here: train with bias none"}};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (span_find(name, span_str(parts[i].part)) >= 0) return parts[i].why;
    return "is no half of a LoRA pair (base_model.model.….lora_A.weight, lora_B.weight)";
}

static int load_floats(const struct loading *l, const struct safetensors_view *v, float *out, struct error *err) {
    int r = safetensors_to_f32(v, 0, v->count, out, err);
    if (r != 0) return error_prefix(err, "%s", l->path), r;
    for (uint64_t i = 0; i < v->count; i++)
        if (!isfinite(out[i])) return refuse(l, E_INVALID, v->name, "has values that are not finite", err);
    return 0;
}

/* B [out, rank] of the tensor into its parts' own, transposed and scaled, at dst[part]. */
static int load_b(const struct loading *l, const struct model_tensor *t, const struct safetensors_view *v, uint32_t rank, float scaling, float *const dst[MODEL_PARTS_MAX], struct error *err) {
    float *all = mem_calloc(v->count, sizeof *all);
    int r = all ? load_floats(l, v, all, err) : error_set(err, E_NOMEM, "%s: no memory", l->path);
    for (uint32_t row = 0; r == 0 && row < t->rows; row++) {
        uint32_t part, at;
        model_tensor_row(l->base, t, row, &part, &at);
        for (uint32_t k = 0; k < rank; k++) {
            float value = scaling * all[(size_t)row * rank + k];
            if (!isfinite(value)) r = refuse(l, E_INVALID, v->name, "has values that are too large for its scaling", err);
            dst[part][(size_t)k * t->parts[part].rows + at] = value;
        }
    }
    mem_free(all);
    return r;
}

/* One pair. With a->data NULL it is checked, and its floats counted. */
static int load_pair(struct loading *l, const struct safetensors_view *va, struct error *err) {
    struct span name = va->name, module = span_skip(name, sizeof PREFIX - 1);
    module.len -= sizeof HALF_A - 1;
    char other[SAFETENSORS_NAME_MAX + 1];
    int n = snprintf(other, sizeof other, "%s%.*s%s", PREFIX, SPAN_ARG(module), HALF_B);
    const struct safetensors_view *vb = n < 0 || (size_t)n >= sizeof other ? NULL : safetensors_find(l->file, span_of(other, (size_t)n));
    if (!vb) return refuse(l, E_INVALID, name, "has no lora_B beside it", err);
    const struct model_tensor *t = find_module(l, module);
    if (!t) return refuse(l, E_INVALID, name, "belongs to no module of the base model: it was made for another one", err);
    enum adapter_place places[MODEL_PARTS_MAX];
    for (uint32_t i = 0; i < t->part_count; i++)
        if (place_of(t->parts[i].role, &places[i]) != 0)
            return error_set(err, E_UNSUPPORTED, "%s: the tensor %.*s adapts %s, which is not built; the matrices of attention and MLP are", l->path, SPAN_ARG(span_sub(name, 0, 200)), model_role_name(t->parts[i].role));
    uint32_t rank;
    double scaling;
    adapter_config_module(l->config, module, &rank, &scaling);
    if (va->dims != 2 || vb->dims != 2 || va->shape[0] != rank || va->shape[1] != t->cols || vb->shape[0] != t->rows || vb->shape[1] != rank)
        return error_set(err, E_INVALID, "%s: %.*s has not the shapes [%u, %u] and [%u, %u] that its rank and the base ask for", l->path, SPAN_ARG(span_sub(module, 0, 200)), rank, t->cols, t->rows, rank);
    float *a = l->a->data ? l->a->data + l->floats : NULL, *b[MODEL_PARTS_MAX] = {NULL};
    l->floats += va->count; /* counts of tensors that lie in the file: no overflow */
    for (uint32_t i = 0; i < t->part_count; i++) {
        struct adapter_term *term = &l->a->terms[(size_t)t->parts[i].layer * ADAPTER_PLACES + places[i]];
        b[i] = a ? l->a->data + l->floats : NULL;
        l->floats += (size_t)rank * t->parts[i].rows;
        if (!a && term->rank) return refuse(l, E_INVALID, name, "adapts a module that another one adapts too", err);
        *term = (struct adapter_term){.rank = rank, .in = t->cols, .out = t->parts[i].rows, .a = a, .b = b[i]};
    }
    if (rank > l->a->rank_max) l->a->rank_max = rank;
    if (!a) return 0;
    int r = load_floats(l, va, a, err);
    return r != 0 ? r : load_b(l, t, vb, rank, (float)scaling, b, err);
}

static int load_tensors(struct loading *l, struct error *err) {
    int r = 0;
    l->floats = 0;
    for (size_t i = 0; r == 0 && i < safetensors_count(l->file); i++) {
        const struct safetensors_view *v = safetensors_at(l->file, i);
        bool ours = span_starts(v->name, span_str(PREFIX)) && v->name.len > sizeof PREFIX + sizeof HALF_A, b = ours && span_ends(v->name, span_str(HALF_B));
        if (!ours || (!b && !span_ends(v->name, span_str(HALF_A)))) r = refuse(l, E_UNSUPPORTED, v->name, why_not(v->name), err);
        else if (!b) r = load_pair(l, v, err);
        else {
            char other[SAFETENSORS_NAME_MAX + 1];
            span_copy(other, sizeof other, v->name);
            other[v->name.len - (sizeof HALF_B - 1)] = 0;
            size_t at = strlen(other);
            (void)snprintf(other + at, sizeof other - at, "%s", HALF_A);
            if (!safetensors_find(l->file, span_str(other))) r = refuse(l, E_INVALID, v->name, "has no lora_A beside it", err);
        }
    }
    if (r == 0 && l->floats == 0) r = error_set(err, E_INVALID, "%s has no LoRA pair", l->path);
    return r;
}

static void digest(struct model_adapter *a) {
    struct sha256 h;
    sha256_init(&h);
    for (size_t i = 0; i < (size_t)a->layers * ADAPTER_PLACES; i++) {
        const struct adapter_term *t = &a->terms[i];
        const uint32_t sizes[] = {t->rank, t->in, t->out};
        sha256_update(&h, sizes, sizeof sizes);
        if (!t->rank) continue;
        sha256_update(&h, t->a, (size_t)t->rank * t->in * sizeof *t->a);
        sha256_update(&h, t->b, (size_t)t->rank * t->out * sizeof *t->b);
    }
    sha256_final(&h, a->digest);
}

int model_adapter_load(struct model_adapter **out, const char *dir, const struct model_config *base, struct error *err) {
    char path[PATH_MAX];
    struct adapter_config config = {.rank = 0};
    struct safetensors *file = NULL;
    struct loading l = {.base = base, .config = &config, .path = path};
    size_t flat_len;
    if (base->arch->kind != MODEL_DECODER) return error_set(err, E_UNSUPPORTED, "%s: adapters of %s models are not built; those of decoders are", dir, base->arch->name);
    int r = model_adapter_config(dir, &config, err);
    if (r == 0) r = join(path, dir, "adapter_model.safetensors", err);
    if (r == 0 && !file_exists(path)) r = error_set(err, E_NOT_FOUND, "%s is missing: save the adapter with safe_serialization", path);
    if (r == 0) r = safetensors_open(&file, path, err);
    if (r == 0) r = model_tensors(base, &l.tensors, &l.tensor_count, &flat_len, err);
    if (r != 0) goto out;
    l.file = file;
    r = E_NOMEM;
    if (!(l.a = mem_zalloc(sizeof *l.a)) || !(l.a->terms = mem_calloc((size_t)base->layers * ADAPTER_PLACES, sizeof *l.a->terms))) {
        error_set(err, r, "%s: no memory", dir);
        goto out;
    }
    l.a->layers = base->layers;
    if ((r = load_tensors(&l, err)) != 0) goto out; /* sizes only */
    l.a->size = l.floats * sizeof *l.a->data;
    if (!(l.a->data = mem_alloc_aligned(l.a->size))) {
        r = error_set(err, E_NOMEM, "%s: no memory for %zu MiB", path, l.a->size >> 20);
        goto out;
    }
    if ((r = load_tensors(&l, err)) != 0) goto out;
    l.a->parameters = l.floats;
    digest(l.a);
    *out = l.a;
    l.a = NULL;
out:
    model_adapter_free(l.a);
    mem_free(l.tensors);
    safetensors_close(file);
    adapter_config_fini(&config);
    return r;
}

void model_adapter_free(struct model_adapter *a) {
    if (!a) return;
    mem_free(a->terms);
    mem_free(a->data);
    mem_free(a);
}
