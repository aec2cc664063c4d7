/*
 * Checkpoints of a run: one safetensors file each, work_dir/checkpoint-STEP.safetensors with weights and both moments, and in its metadata the format's version, the step, the
 * tokens so far, a digest of what the run is (recipe, data, first weights) and one of the arrays. Written durably and whole (temporary file, fsync, rename, fsync of
 * the folder), then older ones go. Chance and the order of the rows are functions of seed and step, so they need no state.
 * Format version 1. A reader refuses versions it does not know.
 */
#ifndef GENLOOP_TRAIN_CHECKPOINT_H
#define GENLOOP_TRAIN_CHECKPOINT_H

#include <stdint.h>

#include "base/error.h"
#include "base/sha256.h"

struct checkpoint {
    char run[SHA256_HEX_MAX]; /* digest of what the run is */
    uint64_t step, tokens;
    double loss;
    float *weights, *m, *v; /* flat_len each, the caller's */
    size_t flat_len;
};

/* Durable when it returns. keep: how many stay, this one included. */
int checkpoint_write(const char *work_dir, const struct checkpoint *c, uint32_t keep, struct error *err);
/* The newest one that is whole, into c's arrays; run and flat_len are the caller's word. E_NOT_FOUND: there is none; E_STATE: the newest belongs to another run. A
 * damaged one is passed over for the one before it; *damaged counts them (may be NULL). */
int checkpoint_read(const char *work_dir, struct checkpoint *c, uint32_t *damaged, struct error *err);

#endif
