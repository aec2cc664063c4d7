#include "engine/sampler.h"

#include <math.h>

#include "base/alloc.h"
#include "base/random.h"
#include "tensor/kernels.h"

enum {
    BLOCK = KERNELS_MAXIMA_BLOCK, /* logits whose highest is known */
    CHUNK = 8 * BLOCK,      /* weights that are made together, while they are in the first cache */
    LIKELY = 256,           /* of a distribution, those that mostly hold its share top_p */
    BINS = 1024,            /* of weights, where these do not: 32 to a factor of e, the last one for all that is below */
    BINS_PER_E = 32,
};

void sampler_params_default(struct sampler_params *p) {
    *p = (struct sampler_params){.temperature = 1, .top_p = 1, .repetition_penalty = 1, .typical_p = 1, .dry_base = 1.75, .dry_allowed_length = 2, .xtc_threshold = 0.1, .mirostat_tau = 5, .mirostat_eta = 0.1};
}

int sampler_params_check(const struct sampler_params *p, uint32_t vocab, struct error *err) {
    const struct {
        const char *name;
        double value, min, max;
    } rows[] = {
        {"temperature", p->temperature, 0, 2},
        {"min_p", p->min_p, 0, 1},
        {"frequency_penalty", p->frequency_penalty, -2, 2},
        {"presence_penalty", p->presence_penalty, -2, 2},
        {"top_n_sigma", p->top_n_sigma, -1, 1000},
        {"dry_multiplier", p->dry_multiplier, 0, 100},
        {"dry_base", p->dry_base, 1, 100},
        {"xtc_probability", p->xtc_probability, 0, 1},
        {"xtc_threshold", p->xtc_threshold, 0, 1},
        {"mirostat", p->mirostat, 0, 2},
        {"mirostat_tau", p->mirostat_tau, 0, 100},
        {"mirostat_eta", p->mirostat_eta, 0, 1},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (!(rows[i].value >= rows[i].min && rows[i].value <= rows[i].max))
            return error_set_param(err, E_INVALID, rows[i].name, "%s must be between %g and %g", rows[i].name, rows[i].min, rows[i].max);
    if (!(p->top_p > 0 && p->top_p <= 1)) return error_set_param(err, E_INVALID, "top_p", "top_p must be above 0 and at most 1");
    if (!(p->typical_p > 0 && p->typical_p <= 1)) return error_set_param(err, E_INVALID, "typical_p", "typical_p must be above 0 and at most 1");
    if (!(p->repetition_penalty > 0 && p->repetition_penalty <= 10))
        return error_set_param(err, E_INVALID, "repetition_penalty", "repetition_penalty must be above 0 and at most 10");
    if (p->bias_count > SAMPLER_BIAS_MAX)
        return error_set_param(err, E_INVALID, "logit_bias", "logit_bias has %zu entries, at most %d are taken", p->bias_count, SAMPLER_BIAS_MAX);
    for (size_t i = 0; i < p->bias_count; i++) {
        if (p->bias[i].token >= vocab)
            return error_set_param(err, E_INVALID, "logit_bias", "logit_bias names token %u; the vocabulary has %u", p->bias[i].token, vocab);
        if (!(p->bias[i].value >= -100 && p->bias[i].value <= 100))
            return error_set_param(err, E_INVALID, "logit_bias", "logit_bias of token %u must be between -100 and 100", p->bias[i].token);
    }
    return 0;
}

/* --- counts --- */

void sampler_counts_fini(struct sampler_counts *c) {
    mem_free(c->items);
    *c = (struct sampler_counts){0};
}

static int compare_u32(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

int sampler_counts_prompt(struct sampler_counts *c, const uint32_t *tokens, size_t n) {
    ASSERT(c->len == 0);
    if (n == 0) return 0;
    uint32_t *sorted = mem_calloc(n, sizeof *sorted);
    if (!sorted) return E_NOMEM;
    memcpy(sorted, tokens, n * sizeof *sorted);
    qsort(sorted, n, sizeof *sorted, compare_u32);
    size_t distinct = 1;
    for (size_t i = 1; i < n; i++)
        if (sorted[i] != sorted[i - 1]) sorted[distinct++] = sorted[i];
    int r = array_reserve(&c->items, &c->capacity, distinct, sizeof *c->items);
    if (r == 0) {
        for (size_t i = 0; i < distinct; i++) c->items[i] = (struct sampler_count){sorted[i], 0};
        c->len = distinct;
    }
    mem_free(sorted);
    return r;
}

int sampler_counts_add(struct sampler_counts *c, uint32_t token) {
    size_t low = 0, high = c->len;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (c->items[mid].token < token) low = mid + 1;
        else high = mid;
    }
    if (low == c->len || c->items[low].token != token) {
        int r = array_reserve(&c->items, &c->capacity, c->len + 1, sizeof *c->items);
        if (r != 0) return r;
        memmove(c->items + low + 1, c->items + low, (c->len - low) * sizeof *c->items);
        c->items[low] = (struct sampler_count){token, 0};
        c->len++;
    }
    c->items[low].answer++;
    return 0;
}

/* --- order --- */

static uint32_t blocks_of(uint32_t vocab) { return (uint32_t)(((uint64_t)vocab + BLOCK - 1) / BLOCK); }

int sampler_scratch_init(struct sampler_scratch *s, uint32_t vocab) {
    *s = (struct sampler_scratch){.vocab = vocab};
    s->candidates = mem_calloc((size_t)vocab + 1, sizeof *s->candidates);
    s->values = mem_calloc(vocab, sizeof *s->values);
    s->maxima = mem_calloc(blocks_of(vocab), sizeof *s->maxima);
    s->sums = mem_calloc(blocks_of(vocab), sizeof *s->sums);
    s->raw = mem_calloc(vocab, sizeof *s->raw);
    if (s->candidates && s->values && s->maxima && s->sums && s->raw) return 0;
    sampler_scratch_fini(s);
    return E_NOMEM;
}

void sampler_scratch_fini(struct sampler_scratch *s) {
    mem_free(s->candidates);
    mem_free(s->values);
    mem_free(s->maxima);
    mem_free(s->sums);
    mem_free(s->raw);
    *s = (struct sampler_scratch){0};
}

static inline bool before(struct sampler_candidate a, struct sampler_candidate b) {
    return a.logit > b.logit || (a.logit == b.logit && a.token < b.token);
}

static int compare_candidates(const void *a, const void *b) {
    const struct sampler_candidate *x = a, *y = b;
    return before(*x, *y) ? -1 : before(*y, *x);
}

static void swap_if_after(struct sampler_candidate *c, size_t a, size_t b) {
    if (!before(c[b], c[a])) return;
    struct sampler_candidate t = c[a];
    c[a] = c[b];
    c[b] = t;
}

/* Brings the k first of the order to the front, unsorted: quickselect with Hoare's partition. The order is total, so that the set is one. */
static void select_first(struct sampler_candidate *c, size_t n, size_t k) {
    size_t low = 0, high = n;
    while (high - low > 1 && k > low && k < high) {
        size_t mid = low + (high - low - 1) / 2, last = high - 1;
        swap_if_after(c, low, mid); /* median of three into the middle: never the last one, so that both sides shrink */
        swap_if_after(c, mid, last);
        swap_if_after(c, low, mid);
        struct sampler_candidate pivot = c[mid];
        size_t i = low, j = last;
        for (;; i++, j--) {
            while (before(c[i], pivot)) i++;
            while (before(pivot, c[j])) j--;
            if (i >= j) break;
            struct sampler_candidate t = c[i];
            c[i] = c[j];
            c[j] = t;
        }
        if (k <= j) high = j + 1; /* [low, j] goes before [j + 1, high) */
        else if (k > j + 1) low = j + 1;
        else break;
    }
}

/* The first k in order, sorted. */
static void sort_first(struct sampler_candidate *c, size_t n, size_t k) {
    if (k < n) select_first(c, n, k);
    qsort(c, k < n ? k : n, sizeof *c, compare_candidates);
}

/* --- passes over all logits --- */

static void fill_candidates(struct sampler_scratch *s, const float *logits) {
    for (uint32_t i = 0; i < s->vocab; i++) s->candidates[i] = (struct sampler_candidate){logits[i], i};
}

/* The highest of each block, given or to be looked for. False: a logit is not finite. */
static bool block_maxima(const float *logits, const float *maxima, struct sampler_scratch *s) {
    if (maxima) memcpy(s->maxima, maxima, blocks_of(s->vocab) * sizeof *maxima);
    else kernels()->maxima(logits, s->maxima, s->vocab);
    return isfinite(kernels()->sum_squares(s->maxima, blocks_of(s->vocab)));
}

/* The k-th highest of the blocks' maxima: at least k logits are at or above it. -inf where there are fewer blocks. */
static float maximum_of_rank(struct sampler_scratch *s, uint32_t k) {
    uint32_t n = blocks_of(s->vocab);
    float least = INFINITY;
    if (k > n) return -INFINITY;
    for (uint32_t b = 0; b < n; b++) s->candidates[b] = (struct sampler_candidate){s->maxima[b], b};
    select_first(s->candidates, n, k);
    for (uint32_t i = 0; i < k; i++) least = s->candidates[i].logit < least ? s->candidates[i].logit : least;
    return least;
}

/* Candidates: the logits at or above `least`, in order of ids. Returns how many. */
static size_t collect(const float *logits, float least, struct sampler_scratch *s) {
    size_t n = 0;
    for (uint32_t b = 0, from = 0; from < s->vocab; b++, from += BLOCK) {
        if (s->maxima[b] < least) continue;
        uint32_t end = s->vocab - from < BLOCK ? s->vocab : from + BLOCK;
        for (uint32_t i = from; i < end; i++) {
            s->candidates[n] = (struct sampler_candidate){logits[i], i};
            n += logits[i] >= least;
        }
    }
    return n;
}

/* In four sums, that vectors can hold. */
static double sum_of(const float *x, size_t n) {
    double a[4] = {0};
    size_t i = 0;
    for (; i + 4 <= n; i += 4)
        for (size_t k = 0; k < 4; k++) a[k] += (double)x[i + k];
    for (; i < n; i++) a[0] += (double)x[i];
    return (a[0] + a[1]) + (a[2] + a[3]);
}

/* The lowest float at or above x: floats are compared with it as doubles are with x. */
static float float_from(double x) {
    float f = (float)x;
    return (double)f < x ? nextafterf(f, INFINITY) : f;
}

/* 1 / temperature as weights use it; of one that is nearly 0 nothing is left but the highest, and 0 · inf must not come to be. */
static float inverse(double temperature) { return temperature > 1e-30 ? (float)(1 / temperature) : 1e30f; }

/* values = e^((logits - max) / temperature), with the sum of each block; returns the sum of all. */
static double weigh(const float *logits, float max, double temperature, struct sampler_scratch *s) {
    float factor = inverse(temperature);
    double total = 0;
    for (uint32_t from = 0; from < s->vocab; from += CHUNK) {
        uint32_t n = s->vocab - from < CHUNK ? s->vocab - from : CHUNK;
        float *x = s->values + from;
        for (uint32_t i = 0; i < n; i++) x[i] = (logits[from + i] - max) * factor;
        kernels()->exp(x, x, n);
        for (uint32_t at = 0; at < n; at += BLOCK) total += s->sums[(from + at) / BLOCK] = sum_of(x + at, n - at < BLOCK ? n - at : BLOCK);
    }
    return total;
}

uint32_t sampler_argmax(const float *logits, uint32_t vocab) {
    float max = kernels()->max(logits, vocab);
    uint32_t i = 0;
    while (i + 1 < vocab && logits[i] != max) i++;
    return i;
}

double sampler_log_sum(const float *logits, struct sampler_scratch *s) {
    float max = kernels()->max(logits, s->vocab);
    return (double)max + log(weigh(logits, max, 1, s));
}

void sampler_top(const float *logits, uint32_t k, struct sampler_scratch *s, struct sampler_candidate *out) {
    size_t want = k < s->vocab ? k : s->vocab, n = s->vocab;
    if (block_maxima(logits, NULL, s)) n = collect(logits, maximum_of_rank(s, k), s);
    else fill_candidates(s, logits); /* some are no numbers: they have a place too */
    sort_first(s->candidates, n, want);
    memcpy(out, s->candidates, want * sizeof *out);
}

void sampler_logprobs(const float *logits, uint32_t token, uint32_t top, struct sampler_scratch *s, float *chosen, struct sampler_logprob *out) {
    double log_sum = sampler_log_sum(logits, s);
    *chosen = (float)((double)logits[token] - log_sum);
    if (top == 0) return;
    struct sampler_candidate best[SAMPLER_TOP_LOGPROBS_MAX];
    ASSERT(top <= SAMPLER_TOP_LOGPROBS_MAX && top <= s->vocab);
    sampler_top(logits, top, s, best);
    for (uint32_t i = 0; i < top; i++) out[i] = (struct sampler_logprob){best[i].token, (float)((double)best[i].logit - log_sum)};
}

/* --- the draw --- */

/* This and apply_dry: whether they changed any. */
static bool apply_penalties(const struct sampler_params *p, const struct sampler_counts *counts, float *logits, uint32_t vocab) {
    for (size_t i = 0; i < p->bias_count; i++) logits[p->bias[i].token] += p->bias[i].value;
    if (!counts || (p->repetition_penalty == 1 && p->frequency_penalty == 0 && p->presence_penalty == 0)) return p->bias_count > 0;
    for (size_t i = 0; i < counts->len; i++) {
        struct sampler_count c = counts->items[i];
        if (c.token >= vocab) continue;
        double logit = (double)logits[c.token];
        if (p->repetition_penalty != 1) logit = logit > 0 ? logit / p->repetition_penalty : logit * p->repetition_penalty;
        if (c.answer > 0) logit -= p->frequency_penalty * c.answer + p->presence_penalty;
        logits[c.token] = (float)logit;
    }
    return p->bias_count > 0 || counts->len > 0;
}

/* [0, 1), of the n-th token. */
static double chance(uint64_t seed, uint64_t n) {
    struct random r;
    random_seed2(&r, seed, n);
    return random_f64(&r);
}

/* Index of the value at which the running sum passes u · total. Values ≥ 0. */
static size_t pick(const float *values, size_t n, double total, double u) {
    double target = u * total, sum = 0;
    size_t last = 0;
    for (size_t i = 0; i < n; i++) {
        if (values[i] <= 0) continue;
        sum += (double)values[i];
        last = i;
        if (sum > target) return i;
    }
    return last; /* rounding left the target at the end */
}

/* As pick, of all values by the sums of their blocks. */
static uint32_t pick_of_all(const struct sampler_scratch *s, double total, double u) {
    double target = u * total, sum = 0;
    uint32_t last = 0;
    for (uint32_t b = 0, from = 0; from < s->vocab; b++, from += BLOCK) {
        uint32_t end = s->vocab - from < BLOCK ? s->vocab : from + BLOCK;
        if (s->sums[b] <= 0) continue;
        if (sum + s->sums[b] <= target && end < s->vocab) {
            sum += s->sums[b];
            last = from;
            continue;
        }
        for (uint32_t i = from; i < end; i++) {
            if (s->values[i] <= 0) continue;
            sum += (double)s->values[i];
            last = i;
            if (sum > target) return i;
        }
    }
    while (s->values[last] <= 0) last++; /* rounding left the target at the end */
    return last;
}

static double weights_of(const struct sampler_candidate *c, size_t n, float max, double temperature, float *values) {
    float factor = inverse(temperature);
    for (size_t i = 0; i < n; i++) values[i] = (c[i].logit - max) * factor;
    kernels()->exp(values, values, n);
    return sum_of(values, n);
}

/* How far the end of the text agrees with the text before each place, by the Z algorithm on the text read backwards (Gusfield 1997): runs[i] of the place i + 1 tokens before the end. */
static bool apply_dry(const struct sampler_params *p, uint64_t n, float *logits, struct sampler_scratch *s) {
    const struct sampler_memory *m = p->memory;
    bool changed = false;
    if (!m || !m->tokens || p->dry_multiplier == 0) return false;
    size_t len = (p->dry_answer_only ? 0 : m->prompt) + n, most = 0, left = 0, right = 0;
    const uint32_t *end = m->tokens + m->prompt + n; /* end[-1 - i] is the i-th from behind */
    while (most < len && !(end[-1 - (ptrdiff_t)most] < s->vocab && m->breakers[end[-1 - (ptrdiff_t)most] / 64] >> (end[-1 - (ptrdiff_t)most] % 64) & 1)) most++;
    if (len < 2 || most == 0) return false;
    for (size_t i = 1; i < len; i++) {
        size_t z = i < right ? (m->runs[i - left] < right - i ? m->runs[i - left] : right - i) : 0;
        while (i + z < len && end[-1 - (ptrdiff_t)z] == end[-1 - (ptrdiff_t)(i + z)]) z++;
        if (i + z > right) {
            left = i;
            right = i + z;
        }
        m->runs[i] = (uint32_t)z;
    }
    /* What followed each run, end[-i], would make it one longer: of several the longest counts. values holds it meanwhile. */
    for (size_t i = 1; i < len; i++)
        if (end[-(ptrdiff_t)i] < s->vocab) s->values[end[-(ptrdiff_t)i]] = 0;
    for (size_t i = 1; i < len; i++) {
        size_t run = m->runs[i] < most ? m->runs[i] : most;
        uint32_t next = end[-(ptrdiff_t)i];
        if (next < s->vocab && (float)run > s->values[next]) s->values[next] = (float)run;
    }
    for (size_t i = 1; i < len; i++) {
        uint32_t next = end[-(ptrdiff_t)i];
        if (next >= s->vocab || s->values[next] < 1 || s->values[next] < (float)p->dry_allowed_length) continue;
        double power = (double)s->values[next] - p->dry_allowed_length;
        double penalty = p->dry_multiplier * pow(p->dry_base, power);
        logits[next] -= (float)(penalty < 1e6 ? penalty : 1e6);
        s->values[next] = 0; /* once */
        changed = true;
    }
    return changed;
}

/* Candidates [0, len) by what they are from `keys` in place of their logits, as many as have `share` of the weight `total`; the logits come back. Sorted as far as needed. */
static size_t keep_share(struct sampler_candidate *c, size_t len, double share, double total, const float *logits, float max, double temperature) {
    double sum = 0;
    size_t kept = 0, sorted = 0;
    while (kept < len && sum < share * total) {
        if (kept == sorted) {
            sorted = sorted == 0 ? LIKELY : sorted * 4;
            if (sorted > len) sorted = len;
            sort_first(c, len, sorted);
        }
        sum += exp((double)(logits[c[kept++].token] - max) / temperature);
    }
    for (size_t i = 0; i < kept; i++) c[i].logit = logits[c[i].token];
    return kept;
}

static size_t keep_typical(struct sampler_candidate *c, size_t len, double share, const float *logits, float max, double temperature, struct sampler_scratch *s) {
    double total = weights_of(c, len, max, temperature, s->values), log_total = log(total), weighted[4] = {0}; /* in four sums, that vectors can hold */
    for (size_t i = 0; i < len; i++) weighted[i % 4] += (double)s->values[i] * (double)(c[i].logit - max);
    double entropy = log_total - ((weighted[0] + weighted[1]) + (weighted[2] + weighted[3])) / temperature / total;
    for (size_t i = 0; i < len; i++) c[i].logit = (float)-fabs(log_total - (double)(c[i].logit - max) / temperature - entropy);
    return keep_share(c, len, share, total, logits, max, temperature);
}

/* Of those at or above the threshold all but the last of the order go. */
static size_t exclude_top(struct sampler_candidate *c, size_t len, double threshold, float *values, double total) {
    size_t above = 0, least = 0, n = 0;
    for (size_t i = 0; i < len; i++) {
        if ((double)values[i] < threshold * total) continue;
        if (above++ == 0 || before(c[least], c[i])) least = i;
    }
    if (above < 2) return len;
    for (size_t i = 0; i < len; i++) {
        if ((double)values[i] >= threshold * total && i != least) continue;
        c[n] = c[i];
        values[n++] = values[i];
    }
    return n;
}

/* How many of the most likely candidates mirostat leaves; the candidates are sorted that far. Surprises are in bits. */
static size_t keep_surprise(const struct sampler_params *p, struct sampler_candidate *c, size_t len, float max, struct sampler_scratch *s) {
    double mu = p->memory->mu;
    size_t kept = 0;
    if (p->mirostat == 1) { /* Zipf's exponent of the hundred most likely, and from it how many have a mean surprise of mu */
        size_t m = len < 100 ? len : 100;
        double above = 0, below = 0;
        sort_first(c, len, m);
        for (size_t i = 0; i + 1 < m; i++) {
            double t = log((double)(i + 2) / (double)(i + 1)), b = (double)(c[i].logit - c[i + 1].logit) / p->temperature;
            above += t * b;
            below += t * t;
        }
        double exponent = below > 0 ? above / below : 1, e = exponent - 1;
        if (fabs(e) < 1e-6) e = 1e-6;
        double k = exponent > 1e-6 ? pow(e * exp2(mu) / (1 - pow((double)len, -e)), 1 / exponent) : (double)len;
        kept = !(k >= 1) ? 1 : k >= (double)len ? len : (size_t)k;
        sort_first(c, len, kept);
        return kept;
    }
    double total = weights_of(c, len, max, p->temperature, s->values);
    float least = (float)((double)max + p->temperature * (log(total) - mu * log(2))); /* −log2(w / total) ≤ mu */
    for (size_t i = 0; i < len; i++)
        if (c[i].logit >= least || c[i].logit == max) {
            struct sampler_candidate t = c[kept];
            c[kept++] = c[i];
            c[i] = t;
        }
    return kept;
}

/* The lowest logit within so many standard deviations of the highest; masked ones have no part in it. */
static float lowest_of_sigma(const float *logits, float max, double sigmas, struct sampler_scratch *s) {
    float *restrict values = s->values;
    double count = (double)s->vocab, squares = kernels()->sum_squares(logits, s->vocab), sum;
    if (squares < 1e40) sum = sum_of(logits, s->vocab); /* none is masked: one alone would be 1e58 of it */
    else {
        count = 0;
        for (uint32_t i = 0; i < s->vocab; i++) {
            values[i] = logits[i] > SAMPLER_MASKED ? logits[i] : 0;
            count += logits[i] > SAMPLER_MASKED;
        }
        sum = sum_of(values, s->vocab);
        squares = kernels()->sum_squares(values, s->vocab);
    }
    double variance = squares / count - sum / count * (sum / count);
    return float_from((double)max - sigmas * sqrt(variance > 0 ? variance : 0));
}

/* The way with all that is not common. Candidates without masked ones; what is left of them is drawn from in their order. */
static uint32_t draw_filtered(const struct sampler_params *p, uint64_t n, const float *logits, float max, struct sampler_scratch *s) {
    struct sampler_candidate *c = s->candidates;
    bool top_k = p->mirostat == 0 && p->top_n_sigma <= 0 && p->top_k > 0; /* the first filter, then: no others need be looked at */
    float least = top_k ? maximum_of_rank(s, p->top_k) : p->mirostat == 0 && p->top_n_sigma > 0 ? lowest_of_sigma(logits, max, p->top_n_sigma, s) : -INFINITY;
    size_t len = collect(logits, least > SAMPLER_MASKED ? least : nextafterf(SAMPLER_MASKED, 0), s);
    if (p->mirostat > 0 && p->memory) len = keep_surprise(p, c, len, max, s);
    else {
        if (p->top_k > 0 && p->top_k < len) {
            sort_first(c, len, p->top_k);
            len = p->top_k;
        }
        if (p->typical_p < 1) len = keep_typical(c, len, p->typical_p, logits, max, p->temperature, s);
        if (p->top_p < 1) len = keep_share(c, len, p->top_p, weights_of(c, len, max, p->temperature, s->values), logits, max, p->temperature);
    }
    double total = weights_of(c, len, max, p->temperature, s->values);
    if (p->mirostat == 0) {
        size_t kept = 0;
        double highest = 0;
        for (size_t i = 0; i < len; i++) highest = (double)s->values[i] > highest ? (double)s->values[i] : highest;
        total = 0;
        for (size_t i = 0; i < len; i++) {
            if ((double)s->values[i] < p->min_p * highest) continue;
            total += (double)s->values[i];
            c[kept] = c[i];
            s->values[kept++] = s->values[i];
        }
        len = kept;
        if (p->xtc_probability > 0 && chance(p->seed ^ 0x5854435854435854u, n) < p->xtc_probability) {
            len = exclude_top(c, len, p->xtc_threshold, s->values, total);
            total = 0;
            for (size_t i = 0; i < len; i++) total += (double)s->values[i];
        }
    }
    size_t at = pick(s->values, len, total, chance(p->seed, n));
    if (p->mirostat > 0 && p->memory) p->memory->mu -= p->mirostat_eta * (-log2((double)s->values[at] / total) - p->mirostat_tau);
    return c[at].token;
}

/* Candidates: the smallest run of the most likely whose share of `total` reaches top_p, where some likely ones hold it, of all whose weights are in values. Returns how many; SIZE_MAX: more are needed. */
static size_t nucleus(const float *logits, double share, double total, struct sampler_scratch *s) {
    struct sampler_candidate *c = s->candidates;
    size_t kept = 0, sorted = 0, n = collect(logits, maximum_of_rank(s, LIKELY), s);
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += (double)s->values[c[i].token];
    if (sum < share * total && n < s->vocab) return SIZE_MAX; /* a flat distribution: not worth sorting */
    sum = 0;
    while (kept < n && sum < share * total) {
        if (kept == sorted) {
            sorted = sorted == 0 ? BLOCK : sorted * 4;
            if (sorted > n) sorted = n;
            sort_first(c, n, sorted);
        }
        sum += (double)s->values[c[kept++].token];
    }
    return sum >= share * total || n == s->vocab ? kept : SIZE_MAX;
}

/* --- filters on all weights at once: what goes becomes 0 in values; nothing is sorted but an edge --- */

/* The sums of the blocks anew; returns the sum of all. */
static double sum_blocks(struct sampler_scratch *s) {
    double total = 0;
    for (uint32_t from = 0; from < s->vocab; from += BLOCK) total += s->sums[from / BLOCK] = sum_of(s->values + from, s->vocab - from < BLOCK ? s->vocab - from : BLOCK);
    return total;
}

static double cut_below(double least, struct sampler_scratch *s) {
    float *restrict values = s->values, at = float_from(least);
    for (uint32_t i = 0, n = s->vocab; i < n; i++) values[i] = values[i] >= at ? values[i] : 0;
    return sum_blocks(s);
}

/* Of candidates [0, n) the fewest of the order with which `sum` comes to `target`: they are brought to the front. A search by halves, each half as large as the one before. */
static size_t take_share(struct sampler_candidate *c, size_t n, double sum, double target, const float *values) {
    size_t low = 0, high = n;
    while (high - low > 1) {
        size_t mid = low + (high - low) / 2;
        double half = 0;
        select_first(c + low, high - low, mid - low);
        for (size_t i = low; i < mid; i++) half += (double)values[c[i].token];
        if (sum + half >= target) high = mid;
        else {
            sum += half;
            low = mid;
        }
    }
    return low + (low < high && sum < target);
}

/* far = how far each of a block's logits is from the centre, in bins; behind the last one infinitely far. */
static void measure_block(const float *restrict logits, uint32_t n, float max, float factor, float shift, float far[restrict BLOCK]) {
    float whole[BLOCK];
    if (n < BLOCK) {
        for (uint32_t i = 0; i < BLOCK; i++) whole[i] = i < n ? logits[i] : -INFINITY;
        logits = whole;
    }
    for (uint32_t i = 0; i < BLOCK; i++) far[i] = fabsf((max - logits[i]) * factor - shift);
}
static void keep_below(float *restrict values, const float *restrict far, float high) {
    for (uint32_t i = 0; i < BLOCK; i++) values[i] = far[i] < high ? values[i] : 0;
}

/*
 * Leaves the fewest whose share of `total` reaches `share`, in the order of how far (max − logit) / temperature is from `centre`: 0 for top-p, what typical-p asks for. The weights by bins,
 * whole bins from the nearest on, and of the bin in which the share is reached those that it takes. Returns what is left of the total.
 */
static double cut_share(const float *logits, float max, double temperature, double centre, double share, double total, struct sampler_scratch *s) {
    float factor = inverse(temperature) * BINS_PER_E, shift = (float)(centre * BINS_PER_E), far[BLOCK];
    double bins[2][BINS] = {{0}}, sum = 0; /* two, so that neighbours of one bin need not wait for each other */
    for (uint32_t from = 0; from < s->vocab; from += BLOCK) {
        uint32_t n = s->vocab - from < BLOCK ? s->vocab - from : BLOCK;
        int bin[BLOCK];
        measure_block(logits + from, n, max, factor, shift, far);
        for (uint32_t i = 0; i < BLOCK; i++) bin[i] = (int)(far[i] < BINS - 1 ? far[i] : BINS - 1);
        for (uint32_t i = 0; i < n; i++) bins[i & 1][bin[i]] += (double)s->values[from + i];
    }
    uint32_t last = 0;
    for (; last < BINS - 1 && sum + (bins[0][last] + bins[1][last]) < share * total; last++) sum += bins[0][last] + bins[1][last];
    float low = (float)last, high = last == BINS - 1 ? INFINITY : (float)(last + 1);
    size_t edge = 0;
    for (uint32_t from = 0; from < s->vocab; from += BLOCK) {
        uint32_t n = s->vocab - from < BLOCK ? s->vocab - from : BLOCK;
        measure_block(logits + from, n, max, factor, shift, far);
        if (n < BLOCK)
            for (uint32_t i = 0; i < n; i++) s->values[from + i] = far[i] < high ? s->values[from + i] : 0;
        else keep_below(s->values + from, far, high);
        for (uint32_t at = 0; at < n; at += 8) { /* by vectors: mostly none of them is */
            int some = 0;
            for (uint32_t i = 0; i < 8; i++) some |= (far[at + i] >= low) & (far[at + i] < high);
            for (uint32_t i = at; some && i < n && i < at + 8; i++)
                if (far[i] >= low && far[i] < high && s->values[from + i] > 0) s->candidates[edge++] = (struct sampler_candidate){logits[from + i], from + i};
        }
    }
    for (size_t i = 0; centre != 0 && i < edge; i++) s->candidates[i].logit = (float)-fabs((double)(max - s->candidates[i].logit) / temperature - centre);
    for (size_t i = take_share(s->candidates, edge, sum, share * total, s->values); i < edge; i++) s->values[s->candidates[i].token] = 0;
    return sum_blocks(s);
}

/* Of those at or above the threshold all but the last of the order go. */
static double cut_top(const float *logits, double threshold, double total, struct sampler_scratch *s) {
    struct sampler_candidate least = {0};
    size_t above = 0;
    double left = 0;
    for (int pass = 0; pass < 2; pass++) /* first which one stays */
        for (uint32_t from = 0; from < s->vocab; from += BLOCK) {
            uint32_t end = s->vocab - from < BLOCK ? s->vocab : from + BLOCK;
            bool changed = false;
            if (s->sums[from / BLOCK] * (1 + 1e-9) >= threshold * total) /* else none of these is */
                for (uint32_t i = from; i < end; i++) {
                    struct sampler_candidate c = {logits[i], i};
                    if (s->values[i] <= 0 || (double)s->values[i] < threshold * total) continue;
                    if (pass == 0 && (above++ == 0 || before(least, c))) least = c;
                    if (pass == 1 && i != least.token) {
                        s->values[i] = 0;
                        changed = true;
                    }
                }
            if (pass == 0 && end == s->vocab && above < 2) return total;
            if (changed) s->sums[from / BLOCK] = sum_of(s->values + from, end - from);
            if (pass == 1) left += s->sums[from / BLOCK];
        }
    return left;
}

/* Filters without top-k and top-nσ, and with one of typical-p and top-p at most: on all weights at once, drawn in the order of ids. */
static uint32_t draw_whole(const struct sampler_params *p, uint64_t n, const float *logits, float max, struct sampler_scratch *s) {
    double total = weigh(logits, max, p->temperature, s);
    if (p->typical_p < 1) {
        const float *restrict values = s->values;
        double weighted[4] = {0}, log_total = log(total); /* in four sums, that vectors can hold */
        uint32_t i = 0, V = s->vocab;
        for (; i + 4 <= V; i += 4)
            for (uint32_t k = 0; k < 4; k++) weighted[k] += (double)(values[i + k] * (logits[i + k] - max)); /* logits are finite: masked ones are 0 times much */
        for (; i < V; i++) weighted[0] += (double)(values[i] * (logits[i] - max));
        double entropy = log_total - ((weighted[0] + weighted[1]) + (weighted[2] + weighted[3])) / p->temperature / total;
        total = cut_share(logits, max, p->temperature, entropy - log_total, p->typical_p, total, s);
    } else if (p->top_p < 1) total = cut_share(logits, max, p->temperature, 0, p->top_p, total, s);
    if (p->min_p > 0) total = cut_below(p->min_p * (double)kernels()->max(s->values, s->vocab), s);
    if (p->xtc_probability > 0 && chance(p->seed ^ 0x5854435854435854u, n) < p->xtc_probability) total = cut_top(logits, p->xtc_threshold, total, s);
    return pick_of_all(s, total, chance(p->seed, n));
}

/* Of the candidates [0, n), whose weights are to be made; min-p is of the most likely one, whose weight is 1. */
static uint32_t draw_candidate(const struct sampler_params *p, size_t n, float max, double u, struct sampler_scratch *s) {
    weights_of(s->candidates, n, max, p->temperature, s->values);
    double total = 0;
    for (size_t i = 0; i < n; i++) {
        if ((double)s->values[i] < p->min_p) s->values[i] = 0;
        total += (double)s->values[i];
    }
    return s->candidates[pick(s->values, n, total, u)].token;
}

int sampler_draw(const struct sampler_params *p, const struct sampler_counts *counts, uint64_t n, float *logits, const float *maxima, struct sampler_scratch *s,
                 uint32_t *token) {
    uint32_t V = s->vocab;
    bool penalized = apply_penalties(p, counts, logits, V), repeats = apply_dry(p, n, logits, s);
    if (!block_maxima(logits, penalized || repeats ? NULL : maxima, s)) return E_RANGE;
    float max = kernels()->max(s->maxima, blocks_of(V));
    if (p->temperature == 0 || p->top_k == 1) {
        uint32_t b = 0;
        while (s->maxima[b] != max) b++;
        for (*token = b * BLOCK; logits[*token] != max;) ++*token;
        return 0;
    }
    if (p->mirostat > 0 || p->top_n_sigma > 0 || p->typical_p < 1 || p->xtc_probability > 0) {
        bool whole = p->mirostat == 0 && p->top_n_sigma <= 0 && (p->top_k == 0 || p->top_k >= V) && (p->typical_p >= 1 || p->top_p >= 1);
        *token = whole ? draw_whole(p, n, logits, max, s) : draw_filtered(p, n, logits, max, s);
        return 0;
    }
    double u = chance(p->seed, n);
    size_t kept;
    if (p->top_k > 0 && p->top_k < V) {
        float least = maximum_of_rank(s, p->top_k);
        size_t found = collect(logits, least > SAMPLER_MASKED ? least : SAMPLER_MASKED, s);
        kept = found < p->top_k ? found : p->top_k;
        sort_first(s->candidates, found, kept);
        if (p->top_p < 1) {
            double total = weights_of(s->candidates, kept, max, p->temperature, s->values), sum = 0;
            size_t len = kept;
            for (kept = 0; kept < len && sum < p->top_p * total; kept++) sum += (double)s->values[kept];
        }
    } else if (p->top_p < 1) {
        double total = weigh(logits, max, p->temperature, s);
        kept = nucleus(logits, p->top_p, total, s);
        if (kept == SIZE_MAX) { /* a flat distribution */
            total = cut_share(logits, max, p->temperature, 0, p->top_p, total, s);
            if (p->min_p > 0) total = cut_below(p->min_p, s);
            *token = pick_of_all(s, total, u);
            return 0;
        }
    } else if (p->min_p > 0) { /* what is clearly below need not be looked at */
        double least = (double)max + p->temperature * (log(p->min_p) - 1e-3) - 1e-6 * fabs((double)max);
        kept = collect(logits, least > (double)SAMPLER_MASKED ? (float)least : SAMPLER_MASKED, s);
    } else { /* in order of ids, nothing sorted */
        *token = pick_of_all(s, weigh(logits, max, p->temperature, s), u);
        return 0;
    }
    *token = draw_candidate(p, kept, max, u, s);
    return 0;
}
