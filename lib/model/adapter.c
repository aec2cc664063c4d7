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

const enum adapter_input ADAPTER_INPUT_OF[ADAPTER_PLACES] = {[ADAPTER_Q] = ADAPTER_OF_QKV, [ADAPTER_K] = ADAPTER_OF_QKV, [ADAPTER_V] = ADAPTER_OF_QKV, [ADAPTER_O] = ADAPTER_OF_O,
                                                             [ADAPTER_GATE] = ADAPTER_OF_MLP, [ADAPTER_UP] = ADAPTER_OF_MLP, [ADAPTER_DOWN] = ADAPTER_OF_DOWN};

enum packed_kind model_adapter_kind(enum packed_kind weights) {
    return packed_kind_is_blocks(weights) ? PACKED_Q8 : weights == PACKED_BF16 || weights == PACKED_F16 ? PACKED_F16 : PACKED_F32;
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

/* Where the two halves of a term lie in the file. */
struct pair {
    const struct safetensors_view *a, *b;
    const struct model_tensor *tensor; /* the whole that B belongs to, */
    uint32_t part;                     /* and this one's rows in it */
    float scaling;
};
struct loading {
    struct model_adapter *a;
    const struct model_config *base;
    const struct adapter_config *config;
    const struct safetensors *file;
    struct model_tensor *tensors; /* owned: of the base */
    size_t tensor_count;
    struct pair *pairs;           /* owned, as terms */
    const char *path;
    size_t used; /* bytes of data, that have their place */
    float *room; /* owned: of the pairs in hand */
    size_t room_size;
    struct sha256 hash;
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

/* One pair: checked, and noted at each of its terms. */
static int find_pair(struct loading *l, const struct safetensors_view *va, struct error *err) {
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
    for (uint32_t i = 0; i < t->part_count; i++) {
        size_t at = (size_t)t->parts[i].layer * ADAPTER_PLACES + places[i];
        if (l->pairs[at].a) return refuse(l, E_INVALID, name, "adapts a module that another one adapts too", err);
        l->pairs[at] = (struct pair){va, vb, t, i, (float)scaling};
        l->a->terms[at].rank = rank;
    }
    l->a->parameters += va->count + vb->count; /* of tensors that lie in the file: no overflow */
    return 0;
}

/* Floats for the pairs in hand. NULL without memory. */
static float *room_of(struct loading *l, size_t n) {
    if (n > l->room_size) {
        mem_free(l->room);
        l->room = mem_calloc(n, sizeof *l->room);
        l->room_size = l->room ? n : 0;
    }
    return l->room;
}

/* values [rows, cols] as the next matrix of data; where that is not there yet its size alone is counted. */
static int pack(struct loading *l, const float *values, size_t rows, size_t cols, enum packed_kind kind, struct packed *w, struct span name, struct error *err) {
    size_t size, width = packed_panel_rows(kind);
    if (packed_size(kind, rows, cols, &size) != 0 || !size_add(l->used, size, &size)) return refuse(l, E_RANGE, name, "is too large", err);
    uint8_t *at = l->a->data ? l->a->data + l->used : NULL;
    l->used = size;
    if (!at) return 0;
    int r = packed_init(w, kind, rows, cols, at);
    for (size_t p = 0; r == 0 && p < w->panels; p++) {
        const void *panel[PACKED_PANEL_MAX] = {NULL};
        for (size_t i = 0; i < width && p * width + i < rows; i++) panel[i] = values + (p * width + i) * cols;
        if (packed_fill(w, p, TENSOR_F32, panel) != 0) r = refuse(l, E_INVALID, name, "has values that are too large; weights of f32 beside it would hold them", err);
    }
    return r;
}

/* The A of all terms with one input. */
static int load_lower(struct loading *l, uint32_t layer, enum adapter_input input, struct error *err) {
    struct adapter_term *terms = &l->a->terms[(size_t)layer * ADAPTER_PLACES];
    const struct pair *pairs = &l->pairs[(size_t)layer * ADAPTER_PLACES], *last = NULL;
    size_t rows = 0, cols = 0;
    for (enum adapter_place place = 0; place < ADAPTER_PLACES; place++) {
        const struct pair *before = NULL;
        if (ADAPTER_INPUT_OF[place] != input || !terms[place].rank) continue;
        for (enum adapter_place k = 0; k < place; k++)
            if (pairs[k].a == pairs[place].a) {
                before = &pairs[k];
                terms[place].first = terms[k].first;
            }
        if (before) continue;
        last = &pairs[place];
        terms[place].first = (uint32_t)rows;
        rows += terms[place].rank;
        cols = last->tensor->cols;
    }
    if (!last) return 0;
    if (l->a->data && !room_of(l, rows * cols)) return error_set(err, E_NOMEM, "%s: no memory", l->path);
    int r = 0;
    for (enum adapter_place place = 0; l->a->data && r == 0 && place < ADAPTER_PLACES; place++)
        if (ADAPTER_INPUT_OF[place] == input && terms[place].rank) r = load_floats(l, pairs[place].a, l->room + terms[place].first * cols, err);
    if (r == 0 && l->a->data) sha256_update(&l->hash, l->room, rows * cols * sizeof *l->room);
    return r != 0 ? r : pack(l, l->room, rows, cols, l->a->kind, &l->a->lower[(size_t)layer * ADAPTER_INPUTS + input], last->a->name, err);
}

/* B's rows of one term, scaled. */
static int load_b(struct loading *l, size_t at, struct error *err) {
    struct adapter_term *term = &l->a->terms[at];
    const struct pair *pair = &l->pairs[at];
    const struct model_tensor *t = pair->tensor;
    size_t rank = term->rank, out = t->parts[pair->part].rows, all = (size_t)t->rows * rank;
    float *b = NULL;
    if (l->a->data) {
        if (!room_of(l, all + out * rank)) return error_set(err, E_NOMEM, "%s: no memory", l->path);
        int r = load_floats(l, pair->b, l->room, err);
        if (r != 0) return r;
        b = l->room + all;
        for (uint32_t row = 0; row < t->rows; row++) {
            uint32_t part, own;
            model_tensor_row(l->base, t, row, &part, &own);
            for (size_t k = 0; part == pair->part && k < rank; k++) {
                float value = pair->scaling * l->room[row * rank + k];
                if (!isfinite(value)) return refuse(l, E_INVALID, pair->b->name, "has values that are too large for its scaling", err);
                b[own * rank + k] = value;
            }
        }
        const uint32_t sizes[] = {(uint32_t)at, term->first, term->rank};
        sha256_update(&l->hash, sizes, sizeof sizes);
        sha256_update(&l->hash, b, out * rank * sizeof *b);
    }
    return pack(l, b, out, rank, packed_kind_is_blocks(l->a->kind) ? PACKED_F16 : l->a->kind, &term->b, pair->b->name, err);
}

/* With data NULL sizes are counted. */
static int load_all(struct loading *l, struct error *err) {
    int r = 0;
    l->used = 0;
    for (uint32_t layer = 0; r == 0 && layer < l->a->layers; layer++) {
        for (enum adapter_input input = 0; r == 0 && input < ADAPTER_INPUTS; input++) r = load_lower(l, layer, input, err);
        for (size_t place = 0; r == 0 && place < ADAPTER_PLACES; place++)
            if (l->a->terms[(size_t)layer * ADAPTER_PLACES + place].rank) r = load_b(l, (size_t)layer * ADAPTER_PLACES + place, err);
    }
    return r;
}

static int find_pairs(struct loading *l, struct error *err) {
    int r = 0;
    for (size_t i = 0; r == 0 && i < safetensors_count(l->file); i++) {
        const struct safetensors_view *v = safetensors_at(l->file, i);
        bool ours = span_starts(v->name, span_str(PREFIX)) && v->name.len > sizeof PREFIX + sizeof HALF_A, b = ours && span_ends(v->name, span_str(HALF_B));
        if (!ours || (!b && !span_ends(v->name, span_str(HALF_A)))) r = refuse(l, E_UNSUPPORTED, v->name, why_not(v->name), err);
        else if (!b) r = find_pair(l, v, err);
        else {
            char other[SAFETENSORS_NAME_MAX + 1];
            span_copy(other, sizeof other, v->name);
            other[v->name.len - (sizeof HALF_B - 1)] = 0;
            size_t at = strlen(other);
            (void)snprintf(other + at, sizeof other - at, "%s", HALF_A);
            if (!safetensors_find(l->file, span_str(other))) r = refuse(l, E_INVALID, v->name, "has no lora_A beside it", err);
        }
    }
    if (r == 0 && l->a->parameters == 0) r = error_set(err, E_INVALID, "%s has no LoRA pair", l->path);
    return r;
}

int model_adapter_load(struct model_adapter **out, const char *dir, const struct model_config *base, enum packed_kind kind, struct error *err) {
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
    size_t terms = (size_t)base->layers * ADAPTER_PLACES;
    if (!(l.a = mem_zalloc(sizeof *l.a)) || !(l.a->terms = mem_calloc(terms, sizeof *l.a->terms)) || !(l.a->lower = mem_calloc((size_t)base->layers * ADAPTER_INPUTS, sizeof *l.a->lower)) ||
        !(l.pairs = mem_calloc(terms, sizeof *l.pairs))) {
        error_set(err, r, "%s: no memory", dir);
        goto out;
    }
    l.a->layers = base->layers;
    l.a->kind = kind;
    if ((r = find_pairs(&l, err)) != 0 || (r = load_all(&l, err)) != 0) goto out; /* sizes only */
    l.a->size = l.used;
    if (!(l.a->data = quant_map(l.a->size))) {
        r = error_set(err, E_NOMEM, "%s: no memory for %zu MiB", path, l.a->size >> 20);
        goto out;
    }
    sha256_init(&l.hash);
    sha256_update(&l.hash, &kind, sizeof kind);
    if ((r = load_all(&l, err)) != 0) goto out;
    sha256_final(&l.hash, l.a->digest);
    *out = l.a;
    l.a = NULL;
out:
    model_adapter_free(l.a);
    mem_free(l.room);
    mem_free(l.pairs);
    mem_free(l.tensors);
    safetensors_close(file);
    adapter_config_fini(&config);
    return r;
}

void model_adapter_free(struct model_adapter *a) {
    if (!a) return;
    quant_unmap(a->data, a->size);
    mem_free(a->terms);
    mem_free(a->lower);
    mem_free(a);
}
