#include "engine/kv_cache.h"

#include "base/alloc.h"
#include "tensor/quant.h"

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
    return size_mul((size_t)s->head_dim * KV_BLOCK_TOKENS, s->half ? 2 : 4, head) && size_mul(*head, s->kv_heads, block) &&
           size_mul(*block, 2, block) && size_mul(*block, s->layers, block);
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

void kv_cache_put(struct kv_cache *c, const uint32_t *table, uint32_t layer, uint32_t position, const float *key, const float *value) {
    size_t D = c->shape.head_dim, t = position % KV_BLOCK_TOKENS;
    uint8_t *block = kv_cache_base(c, layer, 0) + table[position / KV_BLOCK_TOKENS] * c->block_size;
    for (uint32_t h = 0; h < c->shape.kv_heads; h++, key += D, value += D) {
        void *k = block + h * c->head_size, *v = block + (c->shape.kv_heads + h) * c->head_size;
        if (c->shape.half) {
            for (size_t d = 0; d < D; d++) ((uint16_t *)k)[d * KV_BLOCK_TOKENS + t] = quant_f16_from_f32(key[d]);
            for (size_t d = 0; d < D; d++) ((uint16_t *)v)[t * D + d] = quant_f16_from_f32(value[d]);
        } else {
            for (size_t d = 0; d < D; d++) ((float *)k)[d * KV_BLOCK_TOKENS + t] = key[d];
            memcpy((float *)v + t * D, value, D * sizeof *value);
        }
    }
}
