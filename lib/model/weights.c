/*
 * Parameters by (role, layer), and the way between them and the tensors of a file: transposed ones, fused ones and other number types are undone here and
 * nowhere else.
 */
#include <limits.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/file.h"
#include "model/dir_files.h"
#include "model/gguf.h"
#include "model/model_dir.h"
#include "model/quantize.h"

static int no_memory(struct error *err) { return error_set(err, E_NOMEM, "no memory for the model's weights"); }

ptrdiff_t model_weights_find(const struct model_weights *w, enum model_role role, uint32_t layer) {
    if (role == MODEL_LM_HEAD && w->config.tie_embeddings) role = MODEL_EMBED_TOKENS;
    if (role >= MODEL_ROLES) return -1;
    if (!model_role_in_layer(role)) return w->index->once[role];
    return layer < model_config_layers(&w->config) ? w->index->layers[(size_t)layer * MODEL_ROLES + role] : -1;
}

const struct model_view *model_weights_view(const struct model_weights *w, enum model_role role, uint32_t layer) {
    ptrdiff_t i = model_weights_find(w, role, layer);
    return i < 0 ? NULL : &w->views[i];
}

void model_view_to_f32(const struct model_view *v, float *out) {
    for (uint32_t r = 0; r < v->rows; r++) tensor_to_f32(v->type, model_view_row(v, r), v->cols, out + (size_t)r * v->cols);
}

void model_view_release(const struct model_view *v) {
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), from = ((uintptr_t)v->data + page - 1) & ~(page - 1), to = ((uintptr_t)v->data + (size_t)v->rows * v->row_size) & ~(page - 1);
    /* whole pages only, and only of a mapped file: private memory would read as zeros afterwards */
    if (v->mapped && from < to) (void)madvise((void *)from, to - from, MADV_DONTNEED); /* NOLINT(performance-no-int-to-ptr) */
}

const float *model_weights_get(const struct model_weights *w, enum model_role role, uint32_t layer) {
    ptrdiff_t i = model_weights_find(w, role, layer);
    return i < 0 ? NULL : w->data[i];
}

void model_weights_fini(struct model_weights *w) {
    struct model_weights_index *x = w->index;
    if (x) {
        for (size_t i = 0; i < x->converted_count; i++) mem_free(x->converted[i]);
        for (size_t i = 0; i < x->file_count; i++) safetensors_close(x->files[i]);
        gguf_close(x->gguf);
        mem_free(x->converted);
        mem_free(x->files);
        mem_free(x->layers);
    }
    mem_free(x);
    mem_free(w->params);
    mem_free(w->views);
    mem_free(w->data);
    mem_free(w->flat);
    *w = (struct model_weights){.params = NULL};
}

/* Everything but the numbers. */
int model_weights_layout(struct model_weights *w, const struct model_config *config, struct model_tensor **tensors, size_t *count, struct error *err) {
    *w = (struct model_weights){.config = *config};
    int r = model_config_check(config, err);
    if (!r) r = model_tensors(config, tensors, count, &w->flat_len, err);
    if (r) return r;
    for (size_t i = 0; i < *count; i++) w->param_count += (*tensors)[i].part_count;
    w->params = mem_calloc(w->param_count, sizeof w->params[0]);
    w->views = mem_calloc(w->param_count, sizeof w->views[0]);
    w->data = mem_calloc(w->param_count, sizeof w->data[0]);
    w->index = mem_zalloc(sizeof *w->index);
    if (w->index) w->index->layers = mem_calloc((size_t)model_config_layers(config) * MODEL_ROLES, sizeof w->index->layers[0]);
    if (!w->params || !w->views || !w->data || !w->index || !w->index->layers) return no_memory(err);
    for (size_t i = 0; i < MODEL_ROLES; i++) w->index->once[i] = -1;
    for (size_t i = 0; i < (size_t)model_config_layers(config) * MODEL_ROLES; i++) w->index->layers[i] = -1;
    size_t n = 0;
    for (size_t i = 0; i < *count; i++)
        for (uint32_t k = 0; k < (*tensors)[i].part_count; k++, n++) {
            const struct model_param *p = &(*tensors)[i].parts[k];
            w->params[n] = *p;
            if (p->index > 0) continue; /* behind the first of its role */
            if (model_role_in_layer(p->role)) w->index->layers[(size_t)p->layer * MODEL_ROLES + p->role] = (ptrdiff_t)n;
            else w->index->once[p->role] = (ptrdiff_t)n;
        }
    return 0;
}

void model_weights_put_f32(struct model_weights *w, size_t i, const float *data) {
    const struct model_param *p = &w->params[i];
    w->data[i] = data;
    w->views[i] = (struct model_view){.type = TENSOR_F32, .data = (const uint8_t *)data, .row_size = p->cols * sizeof(float), .rows = p->rows, .cols = p->cols};
}

int model_weights_copy(struct model_weights *w, size_t floats, float **out, struct error *err) {
    struct model_weights_index *x = w->index;
    size_t bytes;
    if (!size_mul(floats, sizeof(float), &bytes) || array_reserve(&x->converted, &x->converted_capacity, x->converted_count + 1, sizeof x->converted[0])) return no_memory(err);
    float *copy = mem_alloc_aligned(bytes);
    if (!copy) return no_memory(err);
    x->converted[x->converted_count++] = copy;
    w->converted_bytes += bytes;
    *out = copy;
    return 0;
}

int model_weights_flat(struct model_weights *w, struct error *err) {
    w->flat = mem_alloc_aligned(w->flat_len * sizeof(float)); /* model_tensors has checked the product */
    if (!w->flat) return error_set(err, E_NOMEM, "no memory for the model's %zu parameters", w->flat_len);
    for (size_t i = 0; i < w->param_count; i++) model_weights_put_f32(w, i, w->flat + w->params[i].offset);
    return 0;
}

int model_weights_new(struct model_weights *w, const struct model_config *config, struct error *err) {
    struct model_tensor *tensors = NULL;
    struct model_weights made = {0};
    size_t count = 0;
    int r = model_weights_layout(&made, config, &tensors, &count, err);
    if (!r) r = model_weights_flat(&made, err);
    if (!r) memset(made.flat, 0, made.flat_len * sizeof(float));
    mem_free(tensors);
    if (r) model_weights_fini(&made);
    else *w = made;
    return r;
}

void model_tensor_row(const struct model_config *c, const struct model_tensor *t, uint32_t row, uint32_t *part, uint32_t *part_row) {
    if (t->fusing == MODEL_FUSED_PER_HEAD) { /* q, k and v of one head follow each other; there are as many of each */
        uint32_t d = c->head_dim;
        *part = row / d % t->part_count;
        *part_row = row / (d * t->part_count) * d + row % d;
        return;
    }
    uint32_t p = 0;
    while (row >= (t->vector ? t->parts[p].cols : t->parts[p].rows)) {
        row -= t->vector ? t->parts[p].cols : t->parts[p].rows;
        p++;
    }
    *part = p;
    *part_row = row;
}

/* The file's tensor into its parts at dst[part]. */
static int convert(const struct model_config *c, const struct model_tensor *t, const struct safetensors_view *v, float *const dst[MODEL_PARTS_MAX],
                   struct error *err) {
    uint32_t out = t->vector ? t->cols : t->rows, in = t->vector ? 1 : t->cols;
    int r = 0;
    if (!t->transposed) {
        for (uint32_t row = 0; !r && row < out;) {
            uint32_t part, at, run = 1;
            model_tensor_row(c, t, row, &part, &at);
            if (t->fusing == MODEL_FUSED_STACKED) run = (t->vector ? t->parts[part].cols : t->parts[part].rows) - at;
            r = safetensors_to_f32(v, (uint64_t)row * in, (uint64_t)run * in, dst[part] + (size_t)at * in, err);
            row += run;
        }
        return r;
    }
    /* [in, out] to [out, in] by bands of input rows: a band of 16 fills whole cache lines of the destination */
    enum { BAND = 16 };
    float *band = mem_alloc((size_t)BAND * out * sizeof(float));
    if (!band) return no_memory(err);
    for (uint32_t i = 0; !r && i < in; i += BAND) {
        uint32_t n = in - i < BAND ? in - i : BAND;
        r = safetensors_to_f32(v, (uint64_t)i * out, (uint64_t)n * out, band, err);
        for (uint32_t row = 0; !r && row < out; row++) {
            uint32_t part, at;
            model_tensor_row(c, t, row, &part, &at);
            float *to = dst[part] + (size_t)at * in + i;
            for (uint32_t k = 0; k < n; k++) to[k] = band[(size_t)k * out + row];
        }
    }
    mem_free(band);
    return r;
}

static bool shape_is(const struct model_tensor *t, const struct safetensors_view *v) {
    if (t->vector) return v->dims == 1 && v->shape[0] == t->cols;
    return v->dims == 2 && v->shape[0] == (t->transposed ? t->cols : t->rows) && v->shape[1] == (t->transposed ? t->rows : t->cols);
}

static bool dtype_is_weight(enum safetensors_dtype d) { return d == DTYPE_F32 || d == DTYPE_F16 || d == DTYPE_BF16 || d == DTYPE_F64; }

static const struct safetensors_view *find(const struct model_weights *w, const char *name) {
    for (size_t i = 0; i < w->index->file_count; i++) {
        const struct safetensors_view *v = safetensors_find(w->index->files[i], span_str(name));
        if (v) return v;
    }
    return NULL;
}

/* A file saved from the body of a model has no base prefix. */
static const struct safetensors_view *find_either(const struct model_weights *w, const struct model_tensor *t) {
    const struct safetensors_view *v = find(w, t->name);
    size_t prefix = strlen(w->config.arch->base_prefix);
    if (!v && strncmp(t->name, w->config.arch->base_prefix, prefix) == 0) v = find(w, t->name + prefix);
    return v;
}

/* Before any memory is taken for the numbers: it is as much as config.json says, and the file must bear that out. */
static int check_tensor(const struct model_weights *w, const struct model_tensor *t, const char *dir, struct error *err) {
    const struct safetensors_view *v = find_either(w, t);
    if (!v) return error_set(err, E_INVALID, "%s: the weights lack the tensor %s", dir, t->name);
    if (!shape_is(t, v) && t->vector) return error_set(err, E_INVALID, "%s: tensor %s is not of shape [%u], as config.json says", dir, t->name, t->cols);
    if (!shape_is(t, v))
        return error_set(err, E_INVALID, "%s: tensor %s is not of shape [%u, %u], as config.json says", dir, t->name, t->transposed ? t->cols : t->rows,
                         t->transposed ? t->rows : t->cols);
    if (!dtype_is_weight(v->dtype)) return error_set(err, E_UNSUPPORTED, "%s: tensor %s is of type %s, which is not built for weights", dir, t->name, dtype_name(v->dtype));
    return 0;
}

static int take_tensor(struct model_weights *w, const struct model_tensor *t, size_t first, enum model_weights_mode mode, struct error *err) {
    const struct safetensors_view *v = find_either(w, t);
    float *dst[MODEL_PARTS_MAX] = {NULL};
    if (mode == MODEL_WEIGHTS_FLAT) {
        for (uint32_t k = 0; k < t->part_count; k++) dst[k] = w->flat + t->parts[k].offset;
        return convert(&w->config, t, v, dst, err);
    }
    bool floats = v->dtype == DTYPE_F32 || v->dtype == DTYPE_F16 || v->dtype == DTYPE_BF16;
    if (floats && !t->transposed && t->fusing == MODEL_FUSED_STACKED) {
        const uint8_t *at = v->data;
        for (uint32_t k = 0; k < t->part_count; k++) {
            const struct model_param *p = &t->parts[k];
            size_t row = p->cols * dtype_size(v->dtype);
            w->views[first + k] = (struct model_view){.type = v->dtype == DTYPE_F32 ? TENSOR_F32 : v->dtype == DTYPE_F16 ? TENSOR_F16 : TENSOR_BF16,
                                                      .data = at, .row_size = row, .rows = p->rows, .cols = p->cols, .mapped = true};
            if (v->dtype == DTYPE_F32 && (uintptr_t)at % sizeof(float) == 0) w->data[first + k] = (const float *)(const void *)at;
            at += row * p->rows;
        }
        return 0;
    }
    float *copy;
    int r = model_weights_copy(w, (size_t)v->count, &copy, err);
    if (r) return r;
    for (uint32_t k = 0; k < t->part_count; k++) {
        dst[k] = copy;
        model_weights_put_f32(w, first + k, copy);
        copy += model_param_size(&t->parts[k]);
    }
    return convert(&w->config, t, v, dst, err);
}

/* What the files have beyond the model is a sign of a wrong config.json: such a model would run and be another. */
static int check_surplus(const struct model_weights *w, const struct model_tensor *tensors, size_t count, const char *dir, struct error *err) {
    size_t prefix = strlen(w->config.arch->base_prefix), used = 0, seen = 0;
    for (size_t i = 0; i < count; i++) used += find_either(w, &tensors[i]) != NULL;
    struct span stranger = {NULL, 0};
    for (size_t f = 0; f < w->index->file_count; f++)
        for (size_t i = 0; i < safetensors_count(w->index->files[f]); i++) {
            struct span name = safetensors_at(w->index->files[f], i)->name;
            if (model_tensor_ignored(&w->config, name)) continue;
            seen++;
            /* named in the message only: look for it only when the counts differ */
            stranger = name;
        }
    if (seen == used) return 0;
    for (size_t f = 0; f < w->index->file_count; f++)
        for (size_t i = 0; i < safetensors_count(w->index->files[f]); i++) {
            struct span name = safetensors_at(w->index->files[f], i)->name;
            bool known = model_tensor_ignored(&w->config, name);
            for (size_t k = 0; !known && k < count; k++)
                known = span_eq_str(name, tensors[k].name) || (strlen(tensors[k].name) > prefix && span_eq_str(name, tensors[k].name + prefix));
            if (!known) return error_set(err, E_INVALID, "%s: the weights have a tensor %.*s that config.json does not speak of", dir, SPAN_ARG(span_sub(name, 0, 120)));
        }
    return error_set(err, E_INVALID, "%s: a tensor is there twice; one of them is %.*s", dir, SPAN_ARG(span_sub(stranger, 0, 120)));
}

int model_weights_load(struct model_weights *w, const struct model_config *config, const char *dir, enum model_weights_mode mode, struct error *err) {
    struct model_tensor *tensors = NULL;
    struct model_weights made = {0};
    size_t count = 0, first = 0;
    char path[PATH_MAX];
    if (snprintf(path, sizeof path, "%s/" MODEL_WEIGHTS_FILE, dir) >= (int)sizeof path) return error_set(err, E_INVALID, "%.200s: the path is too long", dir);
    if (file_exists(path)) return model_weights_load_roles(w, config, path, mode, err);
    int r = model_weights_layout(&made, config, &tensors, &count, err);
    if (!r) r = model_dir_open_shards(dir, &made.index->files, &made.index->file_count, err);
    if (!r) r = check_surplus(&made, tensors, count, dir, err);
    for (size_t i = 0; !r && i < count; i++) r = check_tensor(&made, &tensors[i], dir, err);
    if (!r && mode == MODEL_WEIGHTS_FLAT) r = model_weights_flat(&made, err);
    for (size_t i = 0; !r && i < count; i++) {
        r = take_tensor(&made, &tensors[i], first, mode, err);
        first += tensors[i].part_count;
    }
    if (!r && mode == MODEL_WEIGHTS_FLAT) { /* nothing borrows */
        for (size_t i = 0; i < made.index->file_count; i++) safetensors_close(made.index->files[i]);
        made.index->file_count = 0;
    }
    mem_free(tensors);
    if (r) model_weights_fini(&made);
    else *w = made;
    return r;
}

int model_weights_write(const struct model_weights *w, const char *path, enum safetensors_dtype dtype, struct error *err) {
    if (dtype != DTYPE_F32 && dtype != DTYPE_F16 && dtype != DTYPE_BF16) return error_set(err, E_INVALID, "weights are written as F32, F16 or BF16");
    enum { PIECE = 1 << 16 }; /* floats converted and written at a time */
    struct model_tensor *tensors = NULL;
    struct safetensors_writer *writer = NULL;
    size_t count = 0, flat_len, n = 0, first = 0;
    float *piece = mem_alloc(PIECE * sizeof(float));
    uint16_t *half = mem_alloc(PIECE * sizeof(uint16_t));
    int r = piece && half ? 0 : no_memory(err);
    if (!r) r = model_tensors(&w->config, &tensors, &count, &flat_len, err);
    if (!r) r = safetensors_writer_new(&writer, path, err);
    if (!r) r = safetensors_writer_metadata(writer, "format", "pt", err);
    for (size_t i = 0; !r && i < count; i++) {
        const struct model_tensor *t = &tensors[i];
        uint64_t shape[2] = {t->transposed ? t->cols : t->rows, t->transposed ? t->rows : t->cols};
        r = t->vector ? safetensors_writer_add(writer, span_str(t->name), dtype, &shape[1], 1, err)
                      : safetensors_writer_add(writer, span_str(t->name), dtype, shape, 2, err);
    }
    for (size_t i = 0; !r && i < count; i++) {
        const struct model_tensor *t = &tensors[i];
        uint32_t out = t->vector ? t->cols : t->rows, in = t->vector ? 1 : t->cols;
        uint64_t total = (uint64_t)out * in;
        for (uint64_t at = 0; !r && at < total; at++) {
            uint32_t row = (uint32_t)(t->transposed ? at % out : at / in), col = (uint32_t)(t->transposed ? at / out : at % in), part, part_row;
            model_tensor_row(&w->config, t, row, &part, &part_row);
            const float *src = w->data[first + part] + (size_t)part_row * in + col;
            uint32_t run = 1; /* elements that lie together in both */
            if (!t->transposed) run = in - col < PIECE - n ? in - col : (uint32_t)(PIECE - n);
            memcpy(piece + n, src, run * sizeof(float));
            n += run;
            at += run - 1;
            if (n == PIECE || at + 1 == total) {
                if (dtype == DTYPE_F32) {
                    r = safetensors_writer_write(writer, piece, n * sizeof(float), err);
                } else {
                    for (size_t k = 0; k < n; k++) half[k] = dtype == DTYPE_F16 ? f32_to_f16(piece[k]) : f32_to_bf16(piece[k]);
                    r = safetensors_writer_write(writer, half, n * sizeof(uint16_t), err);
                }
                n = 0;
            }
        }
        first += t->part_count;
    }
    if (!r) r = safetensors_writer_commit(writer, err);
    safetensors_writer_free(writer);
    mem_free(tensors);
    mem_free(piece);
    mem_free(half);
    return r;
}
