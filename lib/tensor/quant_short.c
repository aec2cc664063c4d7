/*
 * bf16 in 12 bits, without loss. A trained matrix's values are spread like a bell: their signs and mantissas are all equally likely, but nearly all exponents lie within a dozen powers of two,
 * so that the upper byte (the sign, and the exponent but for its last bit) of nearly all values of a panel is one of 16. It becomes a code of 4 bits; the lower byte stays as it is. What has
 * another upper byte, one in some thousand, is kept whole in the panel's head, its patches; in its place stands the panel's stand-in, as small as codes allow. Where patches are more than there is
 * room for, the matrix stays bf16.
 * Source of the idea: the exponents' entropy, of 2 to 3 bits: Zhang et al., "70 % Size, 100 % Accuracy" (DFloat11), 2025; a code of one length is undone by one shuffle of bytes.
 */
#include <math.h>

#include "base/alloc.h"
#include "tensor/quant_internal.h"

enum { BF16_INFINITE = 0x7f80, NO_CODE = 255 };

int quant_short_panel(size_t cols, size_t *size) {
    if (quant_block_count(cols) * QUANT_SHORT_PATCHES > UINT16_MAX) return E_RANGE;
    *size = quant_short_head(cols) + QUANT_LANES * quant_lane_size(PACKED_SHORT, cols);
    return 0;
}

enum { STRETCH = TENSOR_BLOCK_MAX };
static size_t stretch_length(const void *row, size_t cols, size_t k) { return !row ? 0 : cols - k < STRETCH ? cols - k : STRETCH; }
/* A stretch of a row as bf16. What lies behind its end becomes whatever the first code stands for: x is 0 there, and rows that there are not are nobody's. E_RANGE: not finite. */
static int stretch(enum tensor_type type, const void *row, size_t cols, size_t k, uint16_t padding, uint16_t to[STRETCH]) {
    size_t count = stretch_length(row, cols, k);
    unsigned bad = 0;
    for (size_t i = count; i < STRETCH; i++) to[i] = padding;
    if (!row) return 0;
    if (type == TENSOR_BF16) memcpy(to, (const uint8_t *)row + k * sizeof *to, count * sizeof *to);
    else {
        float x[STRETCH];
        tensor_to_f32(type, (const uint8_t *)row + k / tensor_block(type) * tensor_block_bytes(type), count, x);
        for (size_t i = 0; i < count; i++) {
            bad |= (unsigned)!isfinite(x[i]);
            to[i] = quant_bf16_from_f32(x[i]);
        }
    }
    for (size_t i = 0; i < count; i++) bad |= (unsigned)((to[i] & BF16_INFINITE) == BF16_INFINITE);
    return bad ? E_RANGE : 0;
}

/* The most frequent upper bytes to the head, the one of the least magnitude last: what has no code is given that. code: of each, or NO_CODE. */
static void choose_codes(const uint32_t counts[256], uint8_t *head, uint8_t code[256]) {
    memset(code, NO_CODE, 256);
    for (uint8_t c = 0; c < QUANT_SHORT_CODES; c++) {
        size_t best = 256;
        for (size_t i = 0; i < 256; i++)
            if (code[i] == NO_CODE && (best == 256 || counts[i] > counts[best])) best = i;
        code[best] = c;
        head[c] = (uint8_t)best;
    }
    uint8_t least = 0, last = QUANT_SHORT_CODES - 1, was = head[last];
    for (uint8_t c = 1; c < QUANT_SHORT_CODES; c++)
        if ((head[c] & 127) < (head[least] & 127)) least = c;
    head[last] = head[least];
    head[least] = was;
    code[was] = least;
    code[head[last]] = last;
}

/* A row's block into its tile; whether any value of it has no code. */
static bool put_block(const uint16_t v[QUANT_BLOCK], const uint8_t code[256], struct quant_short_steps s, size_t r, uint8_t *tile) {
    uint8_t codes[QUANT_BLOCK], all = 0;
    for (size_t k = 0; k < QUANT_BLOCK; k++) {
        codes[k] = code[v[k] >> 8];
        all |= codes[k];
    }
    for (size_t k = 0; k < QUANT_BLOCK; k += 2) { /* two neighbours are two bytes of their line */
        size_t at = quant_short_place(s, r, k);
        tile[at] = codes[k] == NO_CODE ? 0 : (uint8_t)v[k];
        tile[at + 1] = codes[k + 1] == NO_CODE ? 0 : (uint8_t)v[k + 1];
    }
    for (size_t k = 0; k < QUANT_BLOCK; k += k % 4 ? 6 : 2) { /* with those four columns on, the upper half */
        uint8_t *at = tile + quant_short_code(s, r, k);
        at[0] = (uint8_t)((codes[k] & 15) | (codes[k + 4] & 15) << 4);
        at[1] = (uint8_t)((codes[k + 1] & 15) | (codes[k + 5] & 15) << 4);
    }
    return all == NO_CODE;
}

/* Behind `count` patches those of row r's block. How many there are then; more than `room`: there was no room. */
static size_t put_patches(const uint16_t v[QUANT_BLOCK], const uint8_t code[256], size_t r, uint8_t *patches, size_t count, size_t room) {
    for (size_t k = 0; k < QUANT_BLOCK; k++) {
        if (code[v[k] >> 8] != NO_CODE) continue;
        if (count == room) return room + 1;
        size_t place = ((r / QUANT_SIDE * (QUANT_BLOCK / 2) + k / 2) * QUANT_SIDE + r % QUANT_SIDE) * 2 + k % 2;
        uint32_t patch = (uint32_t)place << 16 | v[k];
        memcpy(patches + count++ * sizeof patch, &patch, sizeof patch);
    }
    return count;
}

int quant_short_fill(const struct packed *w, uint8_t *panel, enum tensor_type type, const void *const *rows) {
    uint16_t values[STRETCH];
    uint32_t counts[2][256] = {{0}}; /* two, so that an equal neighbour's count is not waited for */
    uint8_t code[256];
    for (size_t r = 0; r < PACKED_FLOAT_PANEL; r++)
        for (size_t k = 0; k < w->cols; k += STRETCH) {
            size_t n = stretch_length(rows[r], w->cols, k), i = 0;
            if (stretch(type, rows[r], w->cols, k, 0, values) != 0) return E_RANGE;
            for (; i + 2 <= n; i += 2) {
                counts[0][values[i] >> 8]++;
                counts[1][values[i + 1] >> 8]++;
            }
            if (i < n) counts[0][values[i] >> 8]++;
        }
    for (size_t i = 0; i < 256; i++) counts[0][i] += counts[1][i];
    size_t blocks = quant_block_count(w->cols), room = blocks * QUANT_SHORT_PATCHES, patches = 0;
    memset(panel, 0, quant_short_head(w->cols));
    panel[QUANT_SHORT_CODES] = quant_kernels()->short_in_a_run ? QUANT_SHORT_IN_A_RUN : QUANT_SHORT_IN_LANES;
    const struct quant_short_steps s = quant_short_steps(panel, w->cols);
    choose_codes(counts[0], panel, code);
    const uint16_t padding = (uint16_t)(panel[0] << 8);
    for (size_t k0 = 0; k0 < w->cols; k0 += STRETCH) {
        size_t first = k0 / QUANT_BLOCK, end = first + STRETCH / QUANT_BLOCK < blocks ? first + STRETCH / QUANT_BLOCK : blocks;
        uint64_t patched[STRETCH / QUANT_BLOCK] = {0}; /* rows, a bit each */
        for (size_t r = 0; r < PACKED_FLOAT_PANEL; r++) {
            uint8_t *tile = panel + quant_short_head(w->cols) + r / QUANT_SIDE * s.tile;
            (void)stretch(type, rows[r], w->cols, k0, padding, values);
            for (size_t b = first; b < end; b++)
                if (put_block(values + (b - first) * QUANT_BLOCK, code, s, r % QUANT_SIDE, tile + b * s.block)) patched[b - first] |= UINT64_C(1) << r;
        }
        for (size_t b = first; b < end; b++) {
            for (uint64_t left = patched[b - first]; left; left &= left - 1) {
                size_t r = (size_t)__builtin_ctzll(left);
                (void)stretch(type, rows[r], w->cols, k0, padding, values);
                patches = put_patches(values + (b - first) * QUANT_BLOCK, code, r, panel + quant_short_patches_at(w->cols), patches, room);
                if (patches > room) return E_FULL;
            }
            uint16_t so_far = (uint16_t)patches;
            memcpy(panel + QUANT_SHORT_SPANS + (b + 1) * sizeof so_far, &so_far, sizeof so_far);
        }
    }
    return 0;
}

void quant_short_row(const uint8_t *panel, size_t cols, size_t r, float *out) {
    const struct quant_short_steps s = quant_short_steps(panel, cols);
    const uint8_t *tile = panel + quant_short_head(cols) + r / QUANT_SIDE * s.tile, *from;
    for (size_t k = 0; k < cols; k += 8) { /* a part: of two pairs of columns the codes, and of each pair of four the lower bytes, lie together */
        const uint8_t *part = tile + k / QUANT_BLOCK * s.block + quant_short_code(s, r % QUANT_SIDE, k % QUANT_BLOCK);
        float eight[8];
        for (size_t i = 0; i < 8; i++) {
            size_t at = i / 2 % 2 * 8 + i % 2;
            eight[i] = quant_bf16_to_f32((uint16_t)(panel[i < 4 ? part[at] & 15 : part[at] >> 4] << 8 | part[(1 + i / 4) * 64 + at]));
        }
        memcpy(out + k, eight, (cols - k < 8 ? cols - k : 8) * sizeof *out);
    }
    for (size_t b = 0; b < quant_block_count(cols); b++)
        for (size_t i = 0, n = quant_short_patches(panel, cols, b, &from); i < n; i++) {
            struct quant_patch p = quant_patch_at(from, i);
            if (quant_patch_row(p) == r && b * QUANT_BLOCK + quant_patch_column(p) < cols) out[b * QUANT_BLOCK + quant_patch_column(p)] = quant_bf16_to_f32(p.value);
        }
}

void quant_short_patch(const uint8_t *panel, size_t cols, size_t block, size_t first, size_t rows, size_t step, float *to) {
    const uint8_t *from;
    for (size_t i = 0, n = quant_short_patches(panel, cols, block, &from); i < n; i++) {
        struct quant_patch p = quant_patch_at(from, i);
        size_t row = quant_patch_row(p) - first; /* wraps */
        if (row < rows) to[quant_patch_column(p) * step + row] = quant_bf16_to_f32(p.value);
    }
}

void quant_short_multiply(const uint8_t *panel, size_t cols, const float *x, size_t rows, float *tile) {
    const struct quant_kernels *kernels = quant_kernels();
    _Alignas(64) float wide[QUANT_BLOCK * PACKED_FLOAT_PANEL];
    const uint8_t *from;
    for (size_t b = 0; b < quant_block_count(cols); b++) {
        size_t k = b * QUANT_BLOCK, count = cols - k < QUANT_BLOCK ? cols - k : QUANT_BLOCK;
        if (rows <= kernels->short_few && count == QUANT_BLOCK && quant_short_patches(panel, cols, b, &from) == 0) {
            kernels->short_block(panel, cols, b, x + k, cols, rows, b > 0, tile);
            continue;
        }
        kernels->lengthen(panel, cols, b, wide);
        quant_short_patch(panel, cols, b, 0, PACKED_FLOAT_PANEL, PACKED_FLOAT_PANEL, wide);
        for (size_t i = 0; i < rows; i += QUANT_TILE_ROWS)
            kernels->f32(wide, count, x + i * cols + k, cols, rows - i < QUANT_TILE_ROWS ? rows - i : QUANT_TILE_ROWS, b > 0, tile + i * PACKED_FLOAT_PANEL);
    }
}
