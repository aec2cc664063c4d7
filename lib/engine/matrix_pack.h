/* Parameters of a model, one below the other, as one packed matrix (tensor/quant.h); for decoders and encoders. */
#ifndef GENLOOP_ENGINE_MATRIX_PACK_H
#define GENLOOP_ENGINE_MATRIX_PACK_H

#include "base/error.h"
#include "base/pool.h"
#include "model/model_dir.h"
#include "tensor/quant.h"

enum { MATRIX_PARTS_MAX = 3 };

struct matrix_source {
    const struct model_view *part[MATRIX_PARTS_MAX]; /* of one type; the first that is NULL ends them */
    size_t part_rows[MATRIX_PARTS_MAX], cols;
    const char *name; /* for an error */
    uint32_t layer;
};
/*
 * At memory + *used, which grows by the size; with memory NULL only the size is counted and w stays. The matrix borrows its bytes from memory; the
 * file's pages of what was packed are let go. E_RANGE: too large; E_INVALID: a value that is not finite, or that the kind cannot hold.
 */
int matrix_pack(const struct matrix_source *from, enum packed_kind kind, struct pool *pool, uint8_t *memory, size_t *used, struct packed *w, struct error *err);

#endif
