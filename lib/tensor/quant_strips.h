/*
 * quant.h's products of floats with many rows of x, for vectors of any width. The file that includes this has included vectors_*.h and defined
 *     load_two         2 · W rows of the panel at one k (W is how many floats a vector holds; lane: bytes of a lane of bf16)
 *     lengthen_strip   of short: a block of 2 · W rows, to [32 columns][2 · W]
 *     DEPTH_MAX        columns of a strip that the first level of the cache has room for
 *     STRIP_ROWS       (a macro) rows of x at once, 6 or 12: with two vectors of the panel each they fill the registers
 * A strip, 2 · W rows of the panel, is widened once, for DEPTH_MAX columns at most, and all rows of x pass over it.
 * Between two such stretches of columns the sums lie in `sums`, exactly, so that each remains the one chain that it is in a tile.
 */
enum { STRIP = 2 * W, ROWS_MAX = 96 };

/* y = sum + bias (+ y) */
INLINE void put(vf a, vf b, float *y, const float *bias, bool add) {
    if (bias) {
        a = v_add(a, v_load_all(bias));
        b = v_add(b, v_load_all(bias + W));
    }
    if (add) {
        a = v_add(v_load_all(y), a);
        b = v_add(v_load_all(y + W), b);
    }
    v_store_all(y, a);
    v_store_all(y + W, b);
}

/* What is asked for while rows of x pass over a strip: the next strip, a column's `lines` lines, `apart` bytes from each other, for each `every` columns of a tile. */
struct ahead {
    const char *at;
    size_t lines, apart, step, every;
};

/* n rows of x times the strip: sums go on from where they stood, and to where they belong once they are whole. */
INLINE void strip_tile(const float *strip, size_t step, size_t depth, const float *x, size_t stride, const int n, bool first, bool last, float *sums,
                       const struct packed_output *out, float *y, const float *bias, struct ahead *ahead) {
    vf acc[STRIP_ROWS][2];
    const float *base[STRIP_ROWS / 3]; /* three rows to a register */
    for (int j = 0; j < STRIP_ROWS / 3; j++) base[j] = x + 3 * (size_t)j * stride;
#pragma GCC unroll 12
    for (int i = 0; i < n; i++) {
        acc[i][0] = first ? v_set(0) : v_load_all(sums + i * STRIP);
        acc[i][1] = first ? v_set(0) : v_load_all(sums + i * STRIP + W);
    }
    if (last)
#pragma GCC unroll 12
        for (int i = 0; i < n; i++) _mm_prefetch((const char *)(y + (size_t)i * out->stride), _MM_HINT_T0);
    for (const float *end = strip + depth * step; strip < end;) {
        const float *pause = (size_t)(end - strip) < ahead->every * step ? end : strip + ahead->every * step;
        for (size_t line = 0; line < ahead->lines; line++) _mm_prefetch(ahead->at + line * ahead->apart, _MM_HINT_T1);
        ahead->at += ahead->step;
        for (; strip < pause; strip += step) {
            vf a = v_load_all(strip), b = v_load_all(strip + W);
#pragma GCC unroll 12
            for (int i = 0; i < n; i++) {
                vf xk = v_set(base[i / 3][(size_t)(i % 3) * stride]);
                acc[i][0] = v_fma(xk, a, acc[i][0]);
                acc[i][1] = v_fma(xk, b, acc[i][1]);
            }
#pragma GCC unroll 4
            for (int j = 0; j < STRIP_ROWS / 3; j++) base[j]++;
        }
    }
#pragma GCC unroll 12
    for (int i = 0; i < n; i++) {
        if (last) put(acc[i][0], acc[i][1], y + (size_t)i * out->stride, bias, out->add);
        else {
            v_store_all(sums + i * STRIP, acc[i][0]);
            v_store_all(sums + i * STRIP + W, acc[i][1]);
        }
    }
}

static void strip_tiles(const float *strip, size_t step, size_t depth, const float *x, size_t stride, size_t n, bool first, bool last, float *sums,
                        const struct packed_output *out, float *y, const float *bias, struct ahead ahead) {
    size_t tiles = (n + STRIP_ROWS - 1) / STRIP_ROWS, some = (n + tiles - 1) / tiles; /* alike: a tile of few rows has too few sums to keep the adders busy */
    for (; n; n -= some, x += some * stride, sums += some * STRIP, y += some * out->stride) {
        some = n < some ? n : some;
        switch (some) {
        case 1: strip_tile(strip, step, depth, x, stride, 1, first, last, sums, out, y, bias, &ahead); break;
        case 2: strip_tile(strip, step, depth, x, stride, 2, first, last, sums, out, y, bias, &ahead); break;
        case 3: strip_tile(strip, step, depth, x, stride, 3, first, last, sums, out, y, bias, &ahead); break;
        case 4: strip_tile(strip, step, depth, x, stride, 4, first, last, sums, out, y, bias, &ahead); break;
        case 5: strip_tile(strip, step, depth, x, stride, 5, first, last, sums, out, y, bias, &ahead); break;
        case 6: strip_tile(strip, step, depth, x, stride, 6, first, last, sums, out, y, bias, &ahead); break;
#if STRIP_ROWS > 6
        case 7: strip_tile(strip, step, depth, x, stride, 7, first, last, sums, out, y, bias, &ahead); break;
        case 8: strip_tile(strip, step, depth, x, stride, 8, first, last, sums, out, y, bias, &ahead); break;
        case 9: strip_tile(strip, step, depth, x, stride, 9, first, last, sums, out, y, bias, &ahead); break;
        case 10: strip_tile(strip, step, depth, x, stride, 10, first, last, sums, out, y, bias, &ahead); break;
        case 11: strip_tile(strip, step, depth, x, stride, 11, first, last, sums, out, y, bias, &ahead); break;
#endif
        default: strip_tile(strip, step, depth, x, stride, STRIP_ROWS, first, last, sums, out, y, bias, &ahead); break;
        }
    }
}

/* Rows c … c + STRIP − 1 of the panel at the columns [from, to). */
INLINE void widen_strip(const void *panel, const enum format format, size_t cols, size_t lane, size_t c, size_t from, size_t to, float *strip) {
    if (format == SHORT) { /* a stretch begins with a block */
        for (size_t k = from; k < to; k += QUANT_BLOCK, strip += QUANT_BLOCK * STRIP) lengthen_strip(panel, cols, c, k / QUANT_BLOCK, strip);
        return;
    }
    for (size_t k2 = from; k2 < to; k2 += 2) /* a stretch begins with a pair */
        for (size_t odd = 0; odd < 2 && k2 + odd < to; odd++, strip += STRIP) {
            vf a, b;
            load_two(panel, format, lane, k2 + odd, odd, c, &a, &b);
            v_store_all(strip, a);
            v_store_all(strip + W, b);
        }
}

/* At most ROWS_MAX rows. */
INLINE void float_rows_some(const void *panel, const enum format format, size_t cols, const float *x, size_t n, const struct packed_output *out, float *y, size_t count) {
    _Alignas(64) float strip[STRIP * DEPTH_MAX], sums[PACKED_FLOAT_PANEL / STRIP][STRIP * ROWS_MAX];
    const size_t together = format == BF16 || format == SHORT ? 2 : 1, size = format == F16 ? sizeof(uint16_t) : sizeof(uint32_t); /* columns that lie in one word, and its bytes */
    const size_t lane = quant_lane_size(format == SHORT ? PACKED_SHORT : PACKED_BF16, cols);
    const bool in_place = format == F32 && STRIP == PACKED_FLOAT_PANEL / 2; /* half of all lines: they do not crowd each other out of the cache */
    size_t pieces = (cols + DEPTH_MAX - 1) / DEPTH_MAX, least = format == SHORT ? QUANT_BLOCK : 2, depth = ((cols + pieces - 1) / pieces + least - 1) / least * least;
    for (size_t from = 0; from < cols; from += depth) {
        size_t to = cols - from < depth ? cols : from + depth;
        for (size_t c = 0; c < count; c += STRIP) {
            bool last = to == cols && c + STRIP <= count;
            float *part = sums[c / STRIP];
            const float *bias = out->bias ? out->bias + c : NULL;
            /* the next strip, or the first one of the next columns, which in the last stretch are the next panel's */
            size_t c_next = c + STRIP < count ? c + STRIP : 0, k_next = c_next ? from : to;
            struct ahead ahead = {(const char *)panel + (k_next / together * PACKED_FLOAT_PANEL + c_next) * size, STRIP * size / 64, 64, PACKED_FLOAT_PANEL * size,
                                  (n < STRIP_ROWS ? 1 : n / STRIP_ROWS) * together};
            if (format == BF16) {
                ahead.at = (const char *)panel + (k_next == cols ? QUANT_LANES * lane : c_next / QUANT_SIDE * lane + k_next / 2 * 64);
                ahead.lines = STRIP / QUANT_SIDE;
                ahead.apart = lane;
                ahead.step = 64;
            }
            if (format == SHORT) {
                const struct quant_short_steps steps = quant_short_steps(panel, cols);
                ahead.at = (const char *)panel + quant_short_head(cols) + (k_next == cols ? QUANT_LANES * lane : c_next / QUANT_SIDE * steps.tile + k_next / QUANT_BLOCK * steps.block);
                ahead.lines = STRIP / QUANT_SIDE;
                ahead.apart = steps.tile;
                ahead.step = steps.block * 2 / QUANT_BLOCK; /* in lanes less than a line: some are asked for twice; in a run more: the CPU's own prefetcher has those between */
            }
            const float *w = strip;
            if (in_place) w = (const float *)panel + from * PACKED_FLOAT_PANEL + c;
            else widen_strip(panel, format, cols, lane, c, from, to, strip);
            strip_tiles(w, in_place ? PACKED_FLOAT_PANEL : STRIP, to - from, x + from, cols, n, from == 0, last, part, out, y + c, bias, ahead);
        }
    }
    size_t whole = count / STRIP * STRIP;
    for (size_t i = 0; i < n && whole < count; i++)
        for (size_t r = whole; r < count; r++) {
            float sum = sums[whole / STRIP][i * STRIP + r - whole];
            if (out->bias) sum += out->bias[r];
            y[i * out->stride + r] = out->add ? y[i * out->stride + r] + sum : sum;
        }
}

INLINE void float_rows(const void *panel, const enum format format, size_t cols, const float *x, size_t n, const struct packed_output *out, size_t count) {
    for (size_t i = 0; i < n; i += ROWS_MAX)
        float_rows_some(panel, format, cols, x + i * cols, n - i < ROWS_MAX ? n - i : ROWS_MAX, out, out->y + i * out->stride, count);
}
