#include "model/quantize.h"

#include <math.h>
#include <stdio.h>

#include "base/alloc.h"
#include "model/dir_files.h"
#include "model/gguf_write.h"

static const struct {
    const char *name;
    enum tensor_type type;
} kinds[] = {{"f16", TENSOR_F16}, {"bf16", TENSOR_BF16}, {"q8_0", TENSOR_Q8_0}, {"q4_0", TENSOR_Q4_0}, {"q4_1", TENSOR_Q4_1}};
#define ARCHITECTURE "genloop"

int model_quantize_type(struct span name, enum tensor_type *type, struct error *err) {
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (span_eq_str(name, kinds[i].name)) {
            *type = kinds[i].type;
            return 0;
        }
    return error_set_param(err, E_INVALID, "quantize", "\"%.*s\" is no type that weights are turned into; there are f16, bf16, q8_0, q4_0 and q4_1", SPAN_ARG(span_sub(name, 0, 40)));
}

static const char *name_of(const struct model_config *c, const struct model_param *p, char name[MODEL_TENSOR_NAME_MAX]) {
    bool many = p->role == MODEL_EXPERT_GATE_W || p->role == MODEL_EXPERT_UP_W || p->role == MODEL_EXPERT_DOWN_W ||
                (c->qk_norm == MODEL_QK_NORM_LAYERS && (p->role == MODEL_ATTN_Q_NORM_W || p->role == MODEL_ATTN_K_NORM_W));
    if (many) (void)snprintf(name, MODEL_TENSOR_NAME_MAX, "layers.%u.%s.%u", p->layer, model_role_name(p->role), p->index);
    else if (model_role_in_layer(p->role)) (void)snprintf(name, MODEL_TENSOR_NAME_MAX, "layers.%u.%s", p->layer, model_role_name(p->role));
    else (void)snprintf(name, MODEL_TENSOR_NAME_MAX, "%s", model_role_name(p->role));
    return name;
}

/* ---- writing ---- */

static enum tensor_type type_of(const struct model_param *p, enum tensor_type stored, enum tensor_type wanted) {
    switch (p->role) {
    case MODEL_EMBED_TOKENS:
    case MODEL_LM_HEAD:
        if (wanted == TENSOR_Q4_0 || wanted == TENSOR_Q4_1) wanted = TENSOR_Q8_0;
        break;
    case MODEL_EMBED_IN_W:
    case MODEL_EMBED_OUT_W:
    case MODEL_HEAD_DENSE_W:
    case MODEL_ATTN_Q_W:
    case MODEL_ATTN_K_W:
    case MODEL_ATTN_V_W:
    case MODEL_ATTN_O_W:
    case MODEL_CROSS_Q_W:
    case MODEL_CROSS_K_W:
    case MODEL_CROSS_V_W:
    case MODEL_CROSS_O_W:
    case MODEL_MLP_GATE_W:
    case MODEL_MLP_UP_W:
    case MODEL_MLP_DOWN_W:
    case MODEL_EXPERT_GATE_W:
    case MODEL_EXPERT_UP_W:
    case MODEL_EXPERT_DOWN_W: break;
    default: return TENSOR_F32;
    }
    if (p->cols % tensor_block(wanted) == 0) return wanted;
    return tensor_block(stored) == 1 ? stored : TENSOR_F32;
}

static int write_param(struct gguf_writer *g, const struct model_view *v, enum tensor_type type, const char *name, struct error *err) {
    size_t size = 0;
    if (tensor_size(type, 1, v->cols, &size)) return error_set(err, E_INVALID, "%s has rows of no whole blocks", name);
    float *row = mem_calloc(v->cols, sizeof *row);
    uint8_t *out = mem_alloc(size);
    int r = row && out ? 0 : error_set(err, E_NOMEM, "no memory for a row of %u", v->cols);
    for (uint32_t i = 0; !r && i < v->rows; i++) {
        tensor_to_f32(v->type, model_view_row(v, i), v->cols, row);
        for (uint32_t k = 0; k < v->cols && !r; k++)
            if (!isfinite(row[k])) r = error_set(err, E_INVALID, "%s has a value that is no number", name);
        if (!r && v->type == type) { /* as it is: blocks made again from their values need not be the same */
            r = gguf_writer_write(g, model_view_row(v, i), size, err);
            continue;
        }
        if (!r && tensor_from_f32(type, row, v->cols, out)) r = error_set(err, E_UNSUPPORTED, "%s cannot be turned into %s", name, tensor_type_name(type));
        if (!r) r = gguf_writer_write(g, out, size, err);
    }
    mem_free(row);
    mem_free(out);
    return r;
}

int model_quantize(const char *dir, const char *path, enum tensor_type type, struct error *err) {
    struct model_dir m = {0};
    struct gguf_writer *g = NULL;
    char name[MODEL_TENSOR_NAME_MAX];
    int r = model_dir_load(&m, dir, MODEL_WEIGHTS_MAP, 0, err);
    if (!r) r = gguf_writer_new(&g, path, err);
    const struct model_weights *w = &m.weights;
    if (!r) gguf_put_string(g, "general.architecture", SPAN(ARCHITECTURE));
    for (size_t i = 0; !r && i < w->param_count; i++) {
        const struct model_param *p = &w->params[i];
        uint64_t shape[2] = {p->rows, p->cols};
        r = gguf_writer_add(g, span_str(name_of(&m.config, p, name)), type_of(p, w->views[i].type, type), shape, 2, err);
    }
    for (size_t i = 0; !r && i < w->param_count; i++)
        r = write_param(g, &w->views[i], type_of(&w->params[i], w->views[i].type, type), name_of(&m.config, &w->params[i], name), err);
    if (!r) r = gguf_writer_commit(g, err);
    gguf_writer_free(g);
    model_dir_fini(&m);
    return r;
}

/* ---- reading ---- */

/* The view of params[i]. */
static int find_view(const struct model_weights *w, const struct gguf *g, const char *path, size_t i, struct model_view *v, struct error *err) {
    const struct model_param *p = &w->params[i];
    char name[MODEL_TENSOR_NAME_MAX];
    size_t row = 0;
    const struct gguf_tensor *t = gguf_tensor_find(g, span_str(name_of(&w->config, p, name)));
    if (!t) return error_set(err, E_INVALID, "%s lacks the tensor %s", path, name);
    if (t->rows != p->rows || t->cols != p->cols)
        return error_set(err, E_INVALID, "%s: tensor %s is of shape [%llu, %llu], not [%u, %u] as config.json says", path, name, (unsigned long long)t->rows, (unsigned long long)t->cols, p->rows, p->cols);
    int r = tensor_size(t->type, 1, t->cols, &row); /* the reader has checked the whole */
    if (r) return error_set(err, r, "%s: tensor %s has rows of no whole blocks", path, name);
    *v = (struct model_view){.type = t->type, .data = t->data, .row_size = row, .rows = p->rows, .cols = p->cols, .mapped = true};
    return 0;
}

int model_weights_roles_head(const char *path, bool *has, struct error *err) {
    struct gguf *g = NULL;
    int r = gguf_open(&g, path, err);
    if (!r) *has = gguf_tensor_find(g, span_str(model_role_name(MODEL_LM_HEAD))) != NULL;
    gguf_close(g);
    return r;
}

int model_weights_load_roles(struct model_weights *out, const struct model_config *config, const char *path, enum model_weights_mode mode, struct error *err) {
    struct model_tensor *tensors = NULL;
    struct model_weights w = {0};
    struct gguf *g = NULL;
    size_t count = 0;
    int r = gguf_open(&g, path, err);
    if (!r && !span_eq_str(gguf_string(g, "general.architecture"), ARCHITECTURE)) r = error_set(err, E_INVALID, "%s: its general.architecture is not " ARCHITECTURE ": name a GGUF model from elsewhere model.gguf", path);
    if (!r) r = model_weights_layout(&w, config, &tensors, &count, err);
    mem_free(tensors);
    if (!r && gguf_tensor_count(g) != w.param_count) r = error_set(err, E_INVALID, "%s has %zu tensors, and the model that config.json describes %zu", path, gguf_tensor_count(g), w.param_count);
    struct model_view *views = r ? NULL : mem_calloc(w.param_count, sizeof *views);
    if (!r && !views) r = error_set(err, E_NOMEM, "%s: no memory", path);
    for (size_t i = 0; !r && i < w.param_count; i++) r = find_view(&w, g, path, i, &views[i], err);
    if (!r && mode == MODEL_WEIGHTS_FLAT) r = model_weights_flat(&w, err);
    for (size_t i = 0; !r && i < w.param_count; i++) {
        if (mode == MODEL_WEIGHTS_FLAT) {
            model_view_to_f32(&views[i], w.flat + w.params[i].offset);
            continue;
        }
        w.views[i] = views[i];
        if (views[i].type == TENSOR_F32 && (uintptr_t)views[i].data % sizeof(float) == 0) w.data[i] = (const float *)(const void *)views[i].data;
    }
    if (!r && mode == MODEL_WEIGHTS_MAP) {
        w.index->gguf = g;
        g = NULL;
    }
    mem_free(views);
    gguf_close(g);
    if (r) model_weights_fini(&w);
    else *out = w;
    return r;
}
