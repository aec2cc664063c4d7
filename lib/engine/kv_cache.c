#include "engine/kv_cache.h"

#include "base/alloc.h"
#include "engine/attention.h"
#include "engine/rounding.h"
#include "tensor/quant.h"

static const char *const TYPES[KV_TYPES] = {[KV_F32] = "f32", [KV_F16] = "f16", [KV_INT8] = "int8"};

const char *kv_type_name(enum kv_type type) { return TYPES[type]; }

int kv_type_find(const char *name, enum kv_type *type, struct error *err) {
    for (enum kv_type t = 0; t < KV_TYPES; t++)
        if (strcmp(TYPES[t], name) == 0) {
            *type = t;
            return 0;
        }
    return error_set(err, E_INVALID, "\"%.20s\" is no type of keys and values: f32, f16 or int8", name);
}

int kv_blocks_init(struct kv_blocks *b, uint32_t total) {
    *b = (struct kv_blocks){0};
    if (total == 0 || total > KV_BLOCKS_MAX) return E_RANGE;
    b->free = mem_calloc(total, sizeof *b->free);
    b->refs = mem_calloc(total, sizeof *b->refs);
    if (!b->free || !b->refs) {
        kv_blocks_fini(b);
        return E_NOMEM;
    }
    b->total = b->free_count = total;
    for (uint32_t i = 0; i < total; i++) b->free[i] = total - 1 - i; /* block 0 goes first */
    return 0;
}

void kv_blocks_fini(struct kv_blocks *b) {
    mem_free(b->free);
    mem_free(b->refs);
    *b = (struct kv_blocks){0};
}

int kv_blocks_alloc(struct kv_blocks *b, uint32_t n, uint32_t *out) {
    if (n > b->free_count) return E_FULL;
    for (uint32_t i = 0; i < n; i++) {
        out[i] = b->free[--b->free_count];
        b->refs[out[i]] = 1;
    }
    return 0;
}

void kv_blocks_ref(struct kv_blocks *b, const uint32_t *blocks, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        ASSERT(blocks[i] < b->total && b->refs[blocks[i]] > 0 && b->refs[blocks[i]] < UINT16_MAX);
        b->refs[blocks[i]]++;
    }
}

void kv_blocks_unref(struct kv_blocks *b, const uint32_t *blocks, uint32_t n) {
    for (uint32_t i = n; i-- > 0;) { /* backwards: the next sequence gets them in the order in which this one did */
        ASSERT(blocks[i] < b->total && b->refs[blocks[i]] > 0);
        if (--b->refs[blocks[i]] == 0) b->free[b->free_count++] = blocks[i];
    }
}

static bool sizes(const struct kv_shape *s, size_t *head, size_t *block) {
    size_t values = (size_t)s->head_dim * KV_BLOCK_TOKENS;
    *head = kv_scales_offset(s->head_dim) + kv_scales(s->head_dim) * KV_BLOCK_TOKENS * sizeof(uint16_t);
    if (s->type != KV_INT8 && !size_mul(values, kv_value_size(s->type), head)) return false;
    return size_mul(*head, s->kv_heads, block) && size_mul(*block, 2, block) && size_mul(*block, s->layers, block);
}

size_t kv_block_size(const struct kv_shape *s) {
    size_t head, block;
    return sizes(s, &head, &block) ? block : 0;
}

int kv_cache_init(struct kv_cache *c, const struct kv_shape *shape, uint32_t blocks, struct error *err) {
    struct kv_cache n = {.shape = *shape};
    if (!sizes(shape, &n.head_size, &n.block_size) || !size_mul(n.block_size, blocks, &n.data_size) || n.data_size == 0)
        return error_set(err, E_RANGE, "a KV cache of %u blocks does not fit the address space", blocks);
    n.data = quant_map(n.data_size);
    if (!n.data) return error_set(err, E_NOMEM, "no memory for a KV cache of %zu MiB", n.data_size >> 20);
    *c = n;
    return 0;
}

void kv_cache_fini(struct kv_cache *c) {
    quant_unmap(c->data, c->data_size);
    *c = (struct kv_cache){0};
}

uint16_t kv_quantize(const float *x, size_t n, int8_t *q) {
    uint32_t most = rounding_absmax(x, n);
    if (most >= ROUNDING_INFINITE) { /* as f16 would: what is not a number stays none */
        memset(q, 0, n);
        return 0x7e00;
    }
    float scale = rounding_float(most) / KV_INT8_MAX;
    uint16_t stored = quant_f16_from_f32(scale < 65504 ? scale : 65504);
    scale = quant_f16_to_f32(stored); /* what it is multiplied by again */
    if (scale == 0) memset(q, 0, n);
    else /* a subnormal scale is a coarse one, and 65504 may be too small: the largest values stay the largest */
        for (size_t i = 0; i < n; i++) q[i] = (int8_t)rounding_nearest(rounding_clamp(x[i] / scale, KV_INT8_MAX));
    return stored;
}

/* One head of a token. */
static void put_int8(const struct kv_cache *c, uint8_t *k, uint8_t *v, size_t t, const float *key, const float *value) {
    size_t D = c->shape.head_dim, scales = kv_scales_offset(D);
    int8_t q[KV_SCALED];
    for (size_t from = 0, s = 0; from < D; from += KV_SCALED, s++) {
        size_t n = D - from < KV_SCALED ? D - from : KV_SCALED, at = scales + (s * KV_BLOCK_TOKENS + t) * sizeof(uint16_t);
        uint16_t scale = kv_quantize(key + from, n, q);
        memcpy(k + at, &scale, sizeof scale);
        for (size_t i = 0; i < n; i++) k[((from + i) / 2 * KV_BLOCK_TOKENS + t) * 2 + i % 2] = (uint8_t)q[i];
        if (n % 2) k[((from + n) / 2 * KV_BLOCK_TOKENS + t) * 2 + 1] = 0; /* the other of the last pair */
        scale = kv_quantize(value + from, n, q);
        memcpy(v + at, &scale, sizeof scale);
        memcpy(v + t * D + from, q, n);
    }
}

void kv_cache_ask(const struct kv_cache *c, const uint32_t *table, uint32_t layer, uint32_t position) {
    size_t t = position % KV_BLOCK_TOKENS, token = c->shape.head_dim * kv_value_size(c->shape.type);
    const uint8_t *block = kv_cache_base(c, layer, 0) + table[position / KV_BLOCK_TOKENS] * c->block_size;
    for (uint32_t h = 0; h < c->shape.kv_heads; h++) {
        const uint8_t *k = block + h * c->head_size, *v = block + (c->shape.kv_heads + h) * c->head_size + t * token;
        for (size_t at = 0; at < token * KV_BLOCK_TOKENS; at += 64) __builtin_prefetch(k + at, 1, 3);
        for (size_t at = 0; at < token; at += 64) __builtin_prefetch(v + at, 1, 3);
    }
}

void kv_cache_put(struct kv_cache *c, const uint32_t *table, uint32_t layer, uint32_t position, const float *key, const float *value) {
    size_t D = c->shape.head_dim, t = position % KV_BLOCK_TOKENS;
    uint8_t *block = kv_cache_base(c, layer, 0) + table[position / KV_BLOCK_TOKENS] * c->block_size;
    const struct attention_kernels *kernels = attention_kernels();
    for (uint32_t h = 0; h < c->shape.kv_heads; h++, key += D, value += D) {
        void *k = block + h * c->head_size, *v = block + (c->shape.kv_heads + h) * c->head_size;
        if (c->shape.type == KV_INT8) put_int8(c, k, v, t, key, value);
        else if (c->shape.type == KV_F16) {
            uint16_t halves[MODEL_HEAD_DIM_MAX];
            kernels->halves(key, D, halves);
            for (size_t d = 0; d < D; d++) ((uint16_t *)k)[d * KV_BLOCK_TOKENS + t] = halves[d];
            kernels->halves(value, D, (uint16_t *)v + t * D);
        } else {
            for (size_t d = 0; d < D; d++) ((float *)k)[d * KV_BLOCK_TOKENS + t] = key[d];
            memcpy((float *)v + t * D, value, D * sizeof *value);
        }
    }
}

void kv_cache_copy(struct kv_cache *c, uint32_t from, uint32_t to) { memcpy(c->data + to * c->block_size, c->data + from * c->block_size, c->block_size); }
