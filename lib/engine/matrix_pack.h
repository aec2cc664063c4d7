/*
 * Parameters of a model, one below the other, as packed matrices (tensor/quant.h) in one run of memory; for decoders and encoders. A loader goes through its
 * matrices twice, by the same calls: the first time sizes are counted and what is asked for is noted (the plan), then memory is taken, the second time the
 * matrices are packed; or they are there already, from a packed copy of the same source and the same plan (packed_cache.h).
 */
#ifndef GENLOOP_ENGINE_MATRIX_PACK_H
#define GENLOOP_ENGINE_MATRIX_PACK_H

#include "base/error.h"
#include "base/pool.h"
#include "engine/packed_cache.h"
#include "model/model_dir.h"
#include "tensor/quant.h"

enum { MATRIX_PARTS_MAX = 3 };

struct matrix_memory {
    struct pool *pool;
    uint8_t *data; /* NULL: sizes are counted */
    size_t size, used; /* bytes at most, and those that matrices have taken */
    bool filled;       /* from a copy */
    struct sha256 plan;
    struct packed_copy_key key;
    struct packed_writer *writer; /* of a copy, under way */
};
void matrix_memory_init(struct matrix_memory *m, struct pool *pool);
/* Takes memory for what has been counted, and fills it from a packed copy where there is one. cache: borrowed for the call; NULL: none. E_NOMEM. */
int matrix_memory_take(struct matrix_memory *m, const struct packed_cache *cache, struct error *err);
/* All is packed: a copy is written, where there was none. */
void matrix_memory_keep(struct matrix_memory *m, const struct packed_cache *cache);
void matrix_memory_fini(struct matrix_memory *m); /* safe on a zeroed struct */

struct matrix_source {
    const struct model_view *part[MATRIX_PARTS_MAX]; /* those of several types go by way of f32; the first that is NULL ends them */
    size_t part_rows[MATRIX_PARTS_MAX], cols;
    const char *name; /* for an error */
    uint32_t layer;
};
/*
 * Behind what is packed already; while sizes are counted w stays as it is. PACKED_BF16 becomes PACKED_SHORT where its values allow it, without loss. The matrix borrows its bytes from the memory; the file's pages of what was packed are let
 * go. E_RANGE: too large; E_INVALID: a value that is not finite, or that the kind cannot hold.
 */
int matrix_pack(struct matrix_memory *m, const struct matrix_source *from, enum packed_kind kind, struct packed *w, struct error *err);

#endif
