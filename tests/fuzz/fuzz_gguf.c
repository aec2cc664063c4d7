/* GGUF files: whatever opens has values and tensors that lie inside the bytes, and can be read to the last element; what its metadata and tensors say of a model is refused with a word, or is a model of
 * which every row can be read; what it says of a vocabulary likewise, or is a tokenizer that gives its own ids. */
#include "base/alloc.h"
#include "model/dir_files.h"
#include "model/gguf.h"

static void check_value(const struct gguf_value *v) {
    struct span rest = v->elements;
    if (v->type != GGUF_ARRAY) return;
    for (uint64_t i = 0; i < v->count; i++)
        if (v->of == GGUF_STRING) (void)gguf_next_string(&rest);
        else (void)gguf_number(v, i);
    ASSERT(v->of != GGUF_STRING || rest.len == 0);
}

static void check_tokenizer(const struct tokenizer *t) {
    struct tokens ids = {0};
    if (!t) return;
    int r = tokenizer_encode(t, SPAN("a  z \xC3\xA9\xE2\x96\x81"), TOKENIZER_ADD_SPECIAL, &ids, NULL);
    for (size_t i = 0; r == 0 && i < ids.len; i++) ASSERT(ids.ids[i] < tokenizer_vocab_size(t));
    tokens_fini(&ids);
}

/* Of each parameter the first and the last row: the bytes in between are the tensor's. */
static void check_model(const struct gguf *g) {
    struct model_dir m = {0};
    struct error err = {0};
    int r = model_config_from_gguf(g, "fuzz", &m.config, &err);
    if (!r && m.config.arch->kind == MODEL_ENCODER) r = gguf_encoder_read_use(g, "fuzz", &m, &err);
    if (!r) r = model_weights_load_gguf(&m.weights, &m.config, g, "fuzz", MODEL_WEIGHTS_MAP, &err);
    ASSERT(r == 0 || err.message[0]);
    struct error why = {0};
    int q = gguf_load_tokenizer(g, "fuzz", &m.tokenizer, &why);
    ASSERT(q == 0 ? !why.message[0] : why.message[0] && !m.tokenizer);
    check_tokenizer(m.tokenizer);
    for (size_t i = 0; !r && i < m.weights.param_count; i++) {
        struct model_view v = m.weights.views[i];
        float *row = mem_calloc(v.cols, sizeof *row);
        if (row) tensor_to_f32(v.type, model_view_row(&v, 0), v.cols, row);
        if (row) tensor_to_f32(v.type, model_view_row(&v, v.rows - 1), v.cols, row);
        mem_free(row);
    }
    model_dir_fini(&m);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct gguf *g = NULL;
    struct error err = {0};
    int r = gguf_open_bytes(&g, span_of(data, size), "fuzz", &err);
    if (r < 0) {
        ASSERT(!g && err.code == r && err.message[0]);
        return 0;
    }
    for (size_t i = 0; i < gguf_value_count(g); i++) {
        const struct gguf_value *v = gguf_value_at(g, i);
        check_value(v);
    }
    for (size_t i = 0; i < gguf_tensor_count(g); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(g, i);
        float values[TENSOR_BLOCK_MAX];
        size_t bytes = 0;
        ASSERT(tensor_size(t->type, t->rows, t->cols, &bytes) == 0 && bytes == t->size);
        ASSERT((const uint8_t *)t->data >= data && (const uint8_t *)t->data + t->size <= data + size);
        uint32_t block = tensor_block(t->type);
        tensor_to_f32(t->type, t->data, block, values);
        tensor_to_f32(t->type, (const uint8_t *)t->data + t->size - tensor_block_bytes(t->type), block, values);
        ASSERT(gguf_tensor_find(g, t->name) == t);
    }
    check_model(g);
    gguf_close(g);
    return 0;
}
