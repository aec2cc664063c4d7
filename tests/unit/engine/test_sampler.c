/* The sampler: what each parameter does, on small distributions with known answers, and that a draw is a function of (seed, n). */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/random.h"
#include "engine/sampler.h"
#include "tensor/kernels.h"

enum { V = 6, DRAWS = 20000 };
static const float LOGITS[V] = {0, 2, 1, -1, 2, -50}; /* 1 and 4 are equal: 1 goes first */

static struct sampler_scratch scratch;

static int set_up(void **state) {
    (void)state;
    return sampler_scratch_init(&scratch, V);
}
static int tear_down(void **state) {
    (void)state;
    sampler_scratch_fini(&scratch);
    return 0;
}

static uint32_t draw(const struct sampler_params *p, const struct sampler_counts *c, uint64_t n) {
    float logits[V];
    memcpy(logits, LOGITS, sizeof logits);
    uint32_t token = 99;
    assert_int_equal(sampler_draw(p, c, n, logits, NULL, &scratch, &token), 0);
    return token;
}

/* The share of each token over many draws, against the distribution that remains when `kept` tokens do. */
static void check_shares(const char *name, const struct sampler_params *p, const char *kept) {
    double want[V], total = 0;
    uint32_t count[V] = {0};
    for (int i = 0; i < V; i++) {
        want[i] = kept[i] == '1' ? exp((double)LOGITS[i] / p->temperature) : 0;
        total += want[i];
    }
    for (uint64_t n = 0; n < DRAWS; n++) count[draw(p, NULL, n)]++;
    for (int i = 0; i < V; i++) {
        double share = want[i] / total, deviation = sqrt(share * (1 - share) / DRAWS);
        if (fabs(count[i] / (double)DRAWS - share) > 5 * deviation + (share > 0 ? 1e-4 : 0))
            fail_msg("%s: token %d has a share of %g, should be %g", name, i, count[i] / (double)DRAWS, share);
    }
}

static void test_shares(void **state) {
    (void)state;
    static const struct {
        const char *name;
        double temperature;
        uint32_t top_k;
        double top_p, min_p;
        const char *kept;
    } cases[] = {
        {"all", 1, 0, 1, 0, "111111"},
        {"temperature 0.5", 0.5, 0, 1, 0, "111111"},
        {"temperature 2", 2, 0, 1, 0, "111111"},
        {"top-k 2", 1, 2, 1, 0, "010010"},
        {"top-k 3", 1, 3, 1, 0, "011010"},
        {"top-k beyond the vocabulary", 1, 50, 1, 0, "111111"},
        {"top-p takes what reaches it", 1, 0, 0.5, 0, "010010"}, /* 0.398 + 0.398 */
        {"top-p just below the first", 1, 0, 0.39, 0, "010000"},
        {"top-p 0.9", 1, 0, 0.9, 0, "011010"},
        {"top-p of what top-k left", 1, 3, 0.8, 0, "010010"}, /* 2 of 3 hold 0.845 */
        {"min-p 0.3", 1, 0, 1, 0.3, "011010"},               /* e^-1 = 0.37, e^-2 = 0.14 */
        {"min-p 0.1", 1, 0, 1, 0.1, "111010"},
        {"min-p after top-k", 1, 4, 1, 0.3, "011010"},
        {"min-p with temperature", 2, 0, 1, 0.3, "111010"}, /* e^-1.5 = 0.22; e^-1 = 0.37 */
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct sampler_params p;
        sampler_params_default(&p);
        p.temperature = cases[i].temperature;
        p.top_k = cases[i].top_k;
        p.top_p = cases[i].top_p;
        p.min_p = cases[i].min_p;
        p.seed = i;
        check_shares(cases[i].name, &p, cases[i].kept);
    }
}

static void test_greedy_and_seeds(void **state) {
    (void)state;
    struct sampler_params p;
    sampler_params_default(&p);
    p.temperature = 0;
    assert_int_equal(draw(&p, NULL, 0), 1);
    p.temperature = 1;
    p.top_k = 1;
    assert_int_equal(draw(&p, NULL, 5), 1);
    p.top_k = 0;
    uint32_t other = 0, again = 0;
    for (uint64_t n = 0; n < 200; n++) {
        p.seed = 7;
        uint32_t a = draw(&p, NULL, n), b = draw(&p, NULL, n);
        p.seed = 8;
        again += a == b;
        other += a != draw(&p, NULL, n);
    }
    assert_int_equal(again, 200);
    assert_true(other > 50);
}

static void test_penalties_and_bias(void **state) {
    (void)state;
    struct sampler_counts c = {0};
    const uint32_t prompt[] = {4, 4, 2};
    assert_int_equal(sampler_counts_prompt(&c, prompt, 3), 0);
    const uint32_t answer[] = {1, 1, 1, 0};
    for (int i = 0; i < 4; i++) assert_int_equal(sampler_counts_add(&c, answer[i]), 0);
    static const struct {
        const char *name;
        double repetition, frequency, presence, bias;
        uint32_t biased, want;
    } cases[] = {
        {"none", 1, 0, 0, 0, 0, 1},
        {"frequency counts", 1, 0.1, 0, 0, 0, 4},      /* 1: 2 − 0.3 */
        {"presence is for the answer", 1, 0, 0.1, 0, 0, 4},
        {"negative frequency favours", 1, -0.1, 0, 0, 0, 1},
        {"repetition reaches the prompt", 3, 0, 0, 0, 0, 1}, /* 1 and 4: 2/3; 2: 1/3 */
        {"bias up", 1, 0, 0, 3, 2, 2},
        {"bias down", 1, 0, 0, -100, 1, 4},
        {"bias before penalty", 10, 0, 0, 60, 5, 5},   /* −50 + 60 = 10, not seen */
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct sampler_params p;
        sampler_params_default(&p);
        struct sampler_bias bias = {cases[i].biased, (float)cases[i].bias};
        p.temperature = 0;
        p.repetition_penalty = cases[i].repetition;
        p.frequency_penalty = cases[i].frequency;
        p.presence_penalty = cases[i].presence;
        p.bias = &bias;
        p.bias_count = cases[i].bias != 0;
        uint32_t got = draw(&p, &c, 0);
        if (got != cases[i].want) fail_msg("%s: token %u, should be %u", cases[i].name, got, cases[i].want);
    }
    /* repetition multiplies what is negative */
    struct sampler_params p;
    sampler_params_default(&p);
    p.repetition_penalty = 2;
    p.temperature = 0;
    float logits[V] = {-1, -3, -3, -9, -2, -9};
    uint32_t token;
    assert_int_equal(sampler_draw(&p, &c, 0, logits, NULL, &scratch, &token), 0);
    assert_true(logits[0] == -2 && logits[1] == -6 && logits[4] == -4 && logits[3] == -9);
    sampler_counts_fini(&c);
}

static void test_logprobs(void **state) {
    (void)state;
    double sum = 0;
    for (int i = 0; i < V; i++) sum += exp((double)LOGITS[i]);
    float chosen;
    struct sampler_logprob top[4];
    sampler_logprobs(LOGITS, 3, 4, &scratch, &chosen, top);
    assert_true(fabs((double)chosen - (-1 - log(sum))) < 1e-5);
    const uint32_t order[] = {1, 4, 2, 0};
    for (int i = 0; i < 4; i++) {
        assert_int_equal(top[i].token, order[i]);
        assert_true(fabs((double)top[i].logprob - ((double)LOGITS[order[i]] - log(sum))) < 1e-5);
    }
}

/* Selection over a real vocabulary, with many ties, against a full sort's answer. */
static void test_top_of_many(void **state) {
    (void)state;
    enum { MANY = 5000 };
    struct sampler_scratch big;
    assert_int_equal(sampler_scratch_init(&big, MANY), 0);
    float *logits = mem_calloc(MANY, sizeof *logits);
    struct sampler_candidate *top = mem_calloc(MANY, sizeof *top);
    for (uint64_t seed = 0; seed < 60; seed++) {
        struct random r;
        random_seed(&r, seed);
        uint64_t distinct = seed % 3 == 0 ? 3 : seed % 3 == 1 ? 40 : 1000000;
        for (int i = 0; i < MANY; i++) logits[i] = seed == 1 ? (float)i : seed == 2 ? (float)-i : (float)random_below(&r, distinct);
        uint32_t k = 1 + (uint32_t)random_below(&r, seed % 2 ? 20 : MANY);
        sampler_top(logits, k, &big, top);
        bool *taken = mem_calloc(MANY, sizeof *taken);
        for (uint32_t i = 0; i < k; i++) {
            assert_true(logits[top[i].token] == top[i].logit && !taken[top[i].token]);
            taken[top[i].token] = true;
            if (i > 0) assert_true(top[i - 1].logit > top[i].logit || (top[i - 1].logit == top[i].logit && top[i - 1].token < top[i].token));
        }
        for (uint32_t i = 0; i < MANY; i++)
            if (!taken[i]) assert_true(logits[i] < top[k - 1].logit || (logits[i] == top[k - 1].logit && i > top[k - 1].token));
        mem_free(taken);
    }
    mem_free(logits);
    mem_free(top);
    sampler_scratch_fini(&big);
}

/* Large vocabularies go by blocks, candidates and bins: what is kept, and with which shares, against a sort of all in double. */
struct naive {
    double logit, weight;
    uint32_t token;
};
static int naive_before(const void *a, const void *b) {
    const struct naive *x = a, *y = b;
    return x->logit != y->logit ? (x->logit < y->logit) - (x->logit > y->logit) : (x->token > y->token) - (x->token < y->token);
}
static void test_shares_of_many(void **state) {
    (void)state;
    enum { MANY = 5000, TRIES = 400, GROUPS = 7 };
    static const struct {
        const char *name;
        uint32_t top_k;
        double temperature, top_p, min_p;
    } cases[] = {{"temperature", 0, 1, 1, 0},      {"hot", 0, 2, 1, 0},           {"cold", 0, 0.05, 1, 0},         {"nearly 0", 0, 1e-35, 1, 0}, {"top-k", 40, 1, 1, 0}, {"top-k of most", 4000, 1, 1, 0},
                 {"top-p", 0, 1, 0.9, 0},          {"top-p, hot", 0, 2, 0.99, 0}, {"top-p of nothing", 0, 1, 1e-9, 0}, {"min-p", 0, 1, 1, 0.01},    {"min-p, hot", 0, 2, 1, 0.02},
                 {"all three", 60, 0.8, 0.9, 0.05}, {"top-p and min-p", 0, 1.5, 0.97, 0.001}};
    static const char *const shapes[] = {"peaked", "flat", "ties", "masked but a few", "one"};
    static struct naive sorted[MANY];
    static float logits[MANY], given[MANY];
    static double share[MANY];
    float maxima[(MANY + KERNELS_MAXIMA_BLOCK - 1) / KERNELS_MAXIMA_BLOCK];
    struct sampler_scratch many;
    assert_int_equal(sampler_scratch_init(&many, MANY), 0);
    for (size_t shape = 0; shape < sizeof shapes / sizeof shapes[0]; shape++)
        for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
            struct sampler_params p;
            struct random r;
            double total = 0, kept_total = 0, sum = 0, groups[GROUPS] = {0}, seen[GROUPS] = {0};
            random_seed(&r, 11 * shape + i);
            for (int k = 0; k < MANY; k++) {
                double v = random_f64(&r), tall = random_f64(&r);
                logits[k] = (float)(shape == 0 ? 4 * v + (tall < 0.004 ? 9 : 0) : shape == 1 ? v : shape == 2 ? floor(6 * v) : shape == 3 ? (tall < 0.003 ? 2 * v : -1e30) : k == 4321 ? 80 : v);
                sorted[k] = (struct naive){(double)logits[k], 0, (uint32_t)k};
                share[k] = 0;
            }
            kernels()->maxima(logits, maxima, MANY);
            qsort(sorted, MANY, sizeof sorted[0], naive_before);
            uint32_t n = cases[i].top_k && cases[i].top_k < MANY ? cases[i].top_k : MANY, kept = 0;
            for (uint32_t k = 0; k < n; k++) total += sorted[k].weight = exp((sorted[k].logit - sorted[0].logit) / cases[i].temperature);
            while (kept < n && sum < cases[i].top_p * total) sum += sorted[kept++].weight;
            for (uint32_t k = 0; k < kept; k++)
                if (sorted[k].weight >= cases[i].min_p) kept_total += share[sorted[k].token] = sorted[k].weight;
            for (int k = 0; k < MANY; k++) groups[k % GROUPS] += share[k] / kept_total;
            sampler_params_default(&p);
            p.temperature = cases[i].temperature;
            p.top_k = cases[i].top_k;
            p.top_p = cases[i].top_p;
            p.min_p = cases[i].min_p;
            for (uint64_t d = 0; d < TRIES; d++) {
                uint32_t token = 0;
                memcpy(given, logits, sizeof given);
                p.seed = d;
                assert_int_equal(sampler_draw(&p, NULL, d, given, d % 2 ? maxima : NULL, &many, &token), 0);
                /* What lies on a filter's edge may fall on either side by rounding: the next one of the order is no error. */
                bool edge = share[token] > 0 || (kept < n && sorted[kept].token == token) || 
                            (cases[i].min_p > 0 && fabs((double)logits[token] - sorted[0].logit - cases[i].temperature * log(cases[i].min_p)) < 1e-4);
                if (!(edge && logits[token] > SAMPLER_MASKED)) fail_msg("%s, %s: token %u, logit %g", shapes[shape], cases[i].name, token, (double)logits[token]);
                seen[token % GROUPS] += 1.0 / TRIES;
            }
            for (int g = 0; g < GROUPS; g++) {
                double sigma = sqrt(groups[g] * (1 - groups[g]) / TRIES);
                if (!(fabs(seen[g] - groups[g]) <= 4.5 * sigma + 1e-6)) fail_msg("%s, %s: group %d has %g, not %g", shapes[shape], cases[i].name, g, seen[g], groups[g]);
            }
        }
    sampler_scratch_fini(&many);
}

/* What goes over all weights at once (typical-p, top-p of a flat distribution, XTC, top-nσ), beside the plain way: who can be drawn, and how often. */
struct far {
    double key;
    uint32_t token;
};
static int far_before(const void *a, const void *b) {
    const struct far *x = a, *y = b;
    return x->key != y->key ? (x->key > y->key) - (x->key < y->key) : (x->token > y->token) - (x->token < y->token);
}
static void test_filters_of_many(void **state) {
    (void)state;
    enum { MANY = 4500, TRIES = 300, GROUPS = 5 };
    static const struct {
        const char *name;
        double temperature, sigma, typical, top_p, min_p, xtc;
    } cases[] = {{"typical", 1, 0, 0.9, 1, 0, 0},        {"typical, few", 1, 0, 0.2, 1, 0, 0},    {"typical, hot", 2, 0, 0.97, 1, 0, 0},     {"typical and min-p", 1, 0, 0.9, 1, 0.05, 0},
                 {"XTC", 1, 0, 1, 1, 0, 0.0002},         {"XTC and top-p", 1, 0, 1, 0.9, 0, 0.0003}, {"XTC of nobody", 1, 0, 1, 1, 0, 0.999}, {"sigma", 1, 1.5, 1, 1, 0, 0},
                 {"sigma and typical", 1, 2.5, 0.8, 1, 0, 0}, {"typical and top-p", 1, 0, 0.95, 0.8, 0, 0}, {"typical and XTC", 1, 0, 0.9, 1, 0, 0.0002}};
    static const char *const shapes[] = {"peaked", "flat", "masked but many"};
    static float logits[MANY], given[MANY];
    static double weight[MANY];
    static struct far order[MANY];
    struct sampler_scratch many;
    assert_int_equal(sampler_scratch_init(&many, MANY), 0);
    for (size_t shape = 0; shape < sizeof shapes / sizeof *shapes; shape++)
        for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
            struct sampler_params p;
            struct random r;
            double T = cases[i].temperature, max = -INFINITY, total = 0, sum = 0, squares = 0, groups[GROUPS] = {0}, seen[GROUPS] = {0}, edges[3] = {NAN, NAN, NAN}, entropy = 0;
            uint32_t count = 0;
            random_seed(&r, 31 * shape + i);
            for (int k = 0; k < MANY; k++) {
                double v = random_f64(&r), tall = random_f64(&r);
                logits[k] = (float)(shape == 0 ? 4 * v + (tall < 0.002 ? 5 : 0) : shape == 1 ? 2 * v : tall < 0.3 ? 3 * v : -1e30);
                if (logits[k] < -1e29f) continue;
                count++;
                sum += (double)logits[k];
                squares += (double)logits[k] * (double)logits[k];
                max = fmax(max, (double)logits[k]);
            }
            edges[0] = cases[i].sigma > 0 ? max - cases[i].sigma * sqrt(squares / count - sum / count * (sum / count)) : -1e29;
            for (int k = 0; k < MANY; k++) total += weight[k] = (double)logits[k] >= edges[0] ? exp(((double)logits[k] - max) / T) : 0;
            for (int round = 0; round < 2; round++) { /* typical-p, then top-p */
                double share = round == 0 ? cases[i].typical : cases[i].top_p, reached = 0;
                if (share >= 1) continue;
                entropy = log(total);
                for (int k = 0; k < MANY; k++)
                    if (weight[k] > 0) entropy -= weight[k] * ((double)logits[k] - max) / T / total;
                for (int k = 0; k < MANY; k++) order[k] = (struct far){weight[k] <= 0 ? INFINITY : round == 0 ? fabs((max - (double)logits[k]) / T + log(total) - entropy) : max - (double)logits[k], (uint32_t)k};
                qsort(order, MANY, sizeof *order, far_before);
                for (int k = 0; k < MANY; k++) {
                    if (reached >= share * total) weight[order[k].token] = 0;
                    else edges[1 + round] = order[k].key;
                    reached += weight[order[k].token];
                }
                if (round == 0) edges[0] = entropy - log(total); /* what a key is measured from, now */
                total = 0;
                for (int k = 0; k < MANY; k++) total += weight[k];
            }
            double highest = 0, least = INFINITY, threshold = 0, left = 0;
            uint32_t above = 0, stays = 0;
            for (int k = 0; k < MANY; k++) highest = fmax(highest, weight[k]);
            for (int k = 0; k < MANY; k++)
                if (weight[k] < cases[i].min_p * highest) weight[k] = 0;
            for (int k = 0; k < MANY; k++) left += weight[k];
            threshold = cases[i].xtc * left;
            for (uint32_t k = 0; cases[i].xtc > 0 && k < MANY; k++)
                if (weight[k] >= threshold && weight[k] > 0) {
                    above++;
                    if ((double)logits[k] <= least) stays = k;
                    least = fmin(least, (double)logits[k]);
                }
            for (uint32_t k = 0; above > 1 && k < MANY; k++)
                if (weight[k] >= threshold && k != stays) weight[k] = 0;
            left = 0;
            for (int k = 0; k < MANY; k++) left += weight[k];
            for (int k = 0; k < MANY; k++) groups[k % GROUPS] += weight[k] / left;
            sampler_params_default(&p);
            p.temperature = T;
            p.top_n_sigma = cases[i].sigma;
            p.typical_p = cases[i].typical;
            p.top_p = cases[i].top_p;
            p.min_p = cases[i].min_p;
            p.xtc_probability = cases[i].xtc > 0;
            p.xtc_threshold = cases[i].xtc;
            for (uint64_t d = 0; d < TRIES; d++) {
                uint32_t token = 0;
                memcpy(given, logits, sizeof given);
                p.seed = d;
                assert_int_equal(sampler_draw(&p, NULL, d, given, NULL, &many, &token), 0);
                double l = (double)logits[token], w = exp((l - max) / T);
                /* By rounding an edge may lie on either side of one. */
                bool near = fabs(fabs((max - l) / T - edges[0]) - edges[1]) < 2e-3 || fabs(max - l - edges[2]) < 2e-3 || fabs(l - edges[0]) < 1e-4 || fabs(w - threshold) < 1e-3 * threshold || fabs(w - cases[i].min_p * highest) < 1e-3 * highest;
                if (!(weight[token] > 0 || near) || !(l > -1e29)) fail_msg("%s, %s: token %u, logit %g", shapes[shape], cases[i].name, token, l);
                seen[token % GROUPS] += 1.0 / TRIES;
            }
            for (int g = 0; g < GROUPS; g++) {
                double sigma = sqrt(groups[g] * (1 - groups[g]) / TRIES);
                if (!(fabs(seen[g] - groups[g]) <= 4.5 * sigma + 1e-2)) fail_msg("%s, %s: group %d has %g, not %g", shapes[shape], cases[i].name, g, seen[g], groups[g]);
            }
        }
    sampler_scratch_fini(&many);
}

static void test_refused(void **state) {
    (void)state;
    static const struct {
        const char *param;
        double temperature, top_p, min_p, frequency, presence, repetition;
    } cases[] = {
        {"temperature", -0.1, 1, 0, 0, 0, 1}, {"temperature", 2.1, 1, 0, 0, 0, 1},      {"temperature", NAN, 1, 0, 0, 0, 1},
        {"top_p", 1, 0, 0, 0, 0, 1},          {"top_p", 1, 1.01, 0, 0, 0, 1},           {"min_p", 1, 1, -1, 0, 0, 1},
        {"frequency_penalty", 1, 1, 0, 3, 0, 1}, {"presence_penalty", 1, 1, 0, 0, -3, 1}, {"repetition_penalty", 1, 1, 0, 0, 0, 0},
    };
    struct error err;
    struct sampler_params p;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        sampler_params_default(&p);
        p.temperature = cases[i].temperature, p.top_p = cases[i].top_p, p.min_p = cases[i].min_p;
        p.frequency_penalty = cases[i].frequency, p.presence_penalty = cases[i].presence, p.repetition_penalty = cases[i].repetition;
        assert_int_equal(sampler_params_check(&p, V, &err), E_INVALID);
        assert_string_equal(err.param, cases[i].param);
    }
    static const struct {
        const char *param;
        size_t at;
        double value;
    } more[] = {
        {"typical_p", offsetof(struct sampler_params, typical_p), 0},           {"typical_p", offsetof(struct sampler_params, typical_p), 1.1},
        {"top_n_sigma", offsetof(struct sampler_params, top_n_sigma), NAN},     {"dry_multiplier", offsetof(struct sampler_params, dry_multiplier), -1},
        {"dry_base", offsetof(struct sampler_params, dry_base), 0.5},           {"xtc_probability", offsetof(struct sampler_params, xtc_probability), 1.5},
        {"xtc_threshold", offsetof(struct sampler_params, xtc_threshold), -0.1}, {"mirostat_tau", offsetof(struct sampler_params, mirostat_tau), -1},
        {"mirostat_eta", offsetof(struct sampler_params, mirostat_eta), 2},
    };
    for (size_t i = 0; i < sizeof more / sizeof *more; i++) {
        sampler_params_default(&p);
        memcpy((char *)&p + more[i].at, &more[i].value, sizeof(double));
        assert_int_equal(sampler_params_check(&p, V, &err), E_INVALID);
        assert_string_equal(err.param, more[i].param);
    }
    sampler_params_default(&p);
    assert_int_equal(sampler_params_check(&p, V, &err), 0);
    struct sampler_bias bias = {V, 1};
    p.bias = &bias;
    p.bias_count = 1;
    assert_int_equal(sampler_params_check(&p, V, &err), E_INVALID);
    float bad[V] = {0, NAN, 1, 2, 3, 4};
    uint32_t token = 77;
    p.bias_count = 0;
    assert_int_equal(sampler_draw(&p, NULL, 0, bad, NULL, &scratch, &token), E_RANGE);
    assert_int_equal(token, 77);
}

/* Maxima that are given are those of the logits before a bias and penalties changed some. */
static void test_given_maxima(void **state) {
    (void)state;
    struct sampler_params p;
    struct sampler_bias bias = {1, -100};
    struct sampler_counts counts = {0};
    float logits[V], maxima[1];
    uint32_t token = 99;
    sampler_params_default(&p);
    p.temperature = 0;
    kernels()->maxima(LOGITS, maxima, V);
    memcpy(logits, LOGITS, sizeof logits);
    assert_int_equal(sampler_draw(&p, NULL, 0, logits, maxima, &scratch, &token), 0);
    assert_int_equal(token, 1);
    p.bias = &bias;
    p.bias_count = 1;
    assert_int_equal(sampler_draw(&p, NULL, 0, logits, maxima, &scratch, &token), 0);
    assert_int_equal(token, 4);
    p.bias_count = 0;
    p.frequency_penalty = 2;
    assert_int_equal(sampler_counts_prompt(&counts, NULL, 0), 0);
    assert_int_equal(sampler_counts_add(&counts, 1), 0);
    assert_int_equal(sampler_counts_add(&counts, 4), 0);
    memcpy(logits, LOGITS, sizeof logits);
    assert_int_equal(sampler_draw(&p, &counts, 0, logits, maxima, &scratch, &token), 0);
    assert_int_equal(token, 2);
    sampler_counts_fini(&counts);
    memcpy(logits, LOGITS, sizeof logits);
    maxima[0] = NAN; /* said by who made the logits */
    p.frequency_penalty = 0;
    assert_int_equal(sampler_draw(&p, NULL, 0, logits, maxima, &scratch, &token), E_RANGE);
}

/* --- against naive ones --- */

static const float STEPS[V] = {3, 2, 1, 0, -1, -2};

static uint32_t draw_of(const float *from, const struct sampler_params *p, uint64_t n) {
    float logits[V];
    memcpy(logits, from, sizeof logits);
    uint32_t token = 99;
    assert_int_equal(sampler_draw(p, NULL, n, logits, NULL, &scratch, &token), 0);
    return token;
}

static void probabilities(const float *logits, double temperature, double *out) {
    double total = 0;
    for (int i = 0; i < V; i++) total += out[i] = exp((double)logits[i] / temperature);
    for (int i = 0; i < V; i++) out[i] /= total;
}

/* Shares of draws against a distribution that the test makes: five deviations. */
static void check_distribution(const char *name, const float *logits, const struct sampler_params *p, const double *want) {
    uint32_t count[V] = {0};
    double total = 0;
    for (int i = 0; i < V; i++) total += want[i];
    for (uint64_t n = 0; n < DRAWS; n++) count[draw_of(logits, p, n)]++;
    for (int i = 0; i < V; i++) {
        double share = want[i] / total, got = (double)count[i] / DRAWS;
        if (fabs(got - share) > 5 * sqrt(share * (1 - share) / DRAWS) + 1e-9) fail_msg("%s: token %d has %.4f, wanted %.4f", name, i, got, share);
    }
}

static void test_top_n_sigma(void **state) {
    (void)state;
    struct sampler_params p;
    double w[V], mean = 0.5, deviation = sqrt(35.0 / 12);
    for (double n = 0.5; n < 4; n += 0.5) {
        sampler_params_default(&p);
        p.top_n_sigma = n;
        p.temperature = 1.3;
        (void)mean;
        probabilities(STEPS, 1.3, w);
        for (int i = 0; i < V; i++)
            if ((double)STEPS[i] < 3 - n * deviation) w[i] = 0;
        check_distribution("top_n_sigma", STEPS, &p, w);
    }
}

static void test_typical(void **state) {
    (void)state;
    struct sampler_params p;
    static const double shares[] = {0.1, 0.3, 0.6, 0.9};
    for (size_t k = 0; k < 4; k++) {
        double w[V], entropy = 0, sum = 0;
        bool kept[V] = {false};
        sampler_params_default(&p);
        p.typical_p = shares[k];
        probabilities(STEPS, 1, w);
        for (int i = 0; i < V; i++) entropy -= w[i] * log(w[i]);
        while (sum < shares[k]) { /* the nearest to the entropy, one after the other */
            int best = -1;
            for (int i = 0; i < V; i++)
                if (!kept[i] && (best < 0 || fabs(-log(w[i]) - entropy) < fabs(-log(w[best]) - entropy))) best = i;
            kept[best] = true;
            sum += w[best];
        }
        for (int i = 0; i < V; i++)
            if (!kept[i]) w[i] = 0;
        check_distribution("typical_p", STEPS, &p, w);
    }
}

static void test_xtc(void **state) {
    (void)state;
    struct sampler_params p;
    double w[V], without[V], rest = 0;
    sampler_params_default(&p);
    p.xtc_probability = 0.4;
    p.xtc_threshold = 0.08;
    probabilities(STEPS, 1, w); /* 0.63, 0.23, 0.09, 0.03, … : the first two go, the third is the least at the threshold */
    memcpy(without, w, sizeof w);
    without[0] = without[1] = 0;
    for (int i = 0; i < V; i++) rest += without[i];
    for (int i = 0; i < V; i++) w[i] = 0.6 * w[i] + 0.4 * without[i] / rest;
    check_distribution("xtc", STEPS, &p, w);
    p.xtc_threshold = 0.5; /* one alone stays */
    probabilities(STEPS, 1, w);
    check_distribution("xtc of one", STEPS, &p, w);
}

/* Runs by comparing every place with the end. */
static void test_dry(void **state) {
    (void)state;
    static const uint64_t breakers[1] = {1u << 5};
    struct random r;
    random_seed(&r, 7);
    for (int round = 0; round < 300; round++) {
        uint32_t tokens[24], runs[24], len = (uint32_t)random_below(&r, 24);
        for (uint32_t i = 0; i < len; i++) tokens[i] = (uint32_t)random_below(&r, round % 2 ? 3 : V);
        uint32_t prompt = len ? (uint32_t)random_below(&r, len + 1) : 0, from = round % 3 == 0 ? prompt : 0; /* of the answer alone, what stood before it counts nowhere */
        struct sampler_memory m = {.tokens = tokens, .prompt = prompt, .breakers = breakers, .runs = runs};
        struct sampler_params p;
        sampler_params_default(&p);
        p.temperature = 0;
        p.memory = &m;
        p.dry_multiplier = 0.8;
        p.dry_answer_only = round % 3 == 0;
        double want[V];
        uint32_t longest[V] = {0};
        for (uint32_t at = from; at + 1 < len; at++) { /* a run that ends at `at`, and the end of the text */
            uint32_t run = 0;
            while (run <= at - from && tokens[at - run] == tokens[len - 1 - run] && tokens[at - run] != 5) run++;
            if (run > longest[tokens[at + 1]]) longest[tokens[at + 1]] = run;
        }
        for (int i = 0; i < V; i++) want[i] = (double)LOGITS[i] - (longest[i] >= 2 ? 0.8 * pow(1.75, longest[i] - 2.0) : 0);
        float logits[V];
        uint32_t token;
        memcpy(logits, LOGITS, sizeof logits);
        assert_int_equal(sampler_draw(&p, NULL, len - prompt, logits, NULL, &scratch, &token), 0);
        for (int i = 0; i < V; i++)
            if (fabs((double)logits[i] - want[i]) > 1e-4) fail_msg("round %d: token %d has %.4f, wanted %.4f", round, i, (double)logits[i], want[i]);
    }
}

static void test_mirostat(void **state) {
    (void)state;
    double w[V];
    probabilities(STEPS, 1, w);
    for (uint32_t kind = 1; kind <= 2; kind++) {
        struct sampler_params p;
        struct sampler_memory m = {.mu = 4};
        double sum = 0;
        sampler_params_default(&p);
        p.memory = &m;
        p.mirostat = kind;
        p.mirostat_tau = 1;
        p.mirostat_eta = 0.05;
        for (uint64_t n = 0; n < 4000; n++) {
            double before = m.mu, kept = 0, allowed = 0;
            uint32_t token = draw_of(STEPS, &p, n);
            for (int i = 0; i < V; i++)
                if (i == 0 || -log2(w[i]) <= before) allowed += w[i];
            if (kind == 2) { /* the rule, step by step */
                assert_true(token == 0 || -log2(w[token]) <= before + 1e-6);
                kept = before - 0.05 * (-log2(w[token] / allowed) - 1);
                if (fabs(kept - m.mu) > 1e-5) fail_msg("mu is %.6f, wanted %.6f", m.mu, kept);
            }
            if (n >= 1000) sum += -log2(w[token]);
        }
        assert_true(isfinite(m.mu));
        if (kind == 2 && fabs(sum / 3000 - 1) > 0.5) fail_msg("mirostat %u: a mean surprise of %.3f bits", kind, sum / 3000);
    }
}

static void test_masked(void **state) {
    (void)state;
    struct sampler_params p[6];
    struct sampler_memory m = {.mu = 10};
    float logits[V] = {5, -1e30f, 1, -1e30f, -1e30f, 0};
    for (int i = 0; i < 6; i++) sampler_params_default(&p[i]);
    p[1].typical_p = 0.99;
    p[2].top_n_sigma = 2;
    p[3].xtc_probability = 1;
    p[4].mirostat = 2, p[4].memory = &m;
    p[5].top_k = 5, p[5].top_p = 0.999;
    for (int i = 0; i < 6; i++)
        for (uint64_t n = 0; n < 500; n++) {
            uint32_t token = draw_of(logits, &p[i], n);
            if (token != 0 && token != 2 && token != 5) fail_msg("case %d draws %u, which is masked", i, token);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_given_maxima), cmocka_unit_test(test_shares), cmocka_unit_test(test_shares_of_many), cmocka_unit_test(test_filters_of_many),   cmocka_unit_test(test_greedy_and_seeds), cmocka_unit_test(test_penalties_and_bias),
        cmocka_unit_test(test_logprobs), cmocka_unit_test(test_top_of_many),      cmocka_unit_test(test_refused),
        cmocka_unit_test(test_top_n_sigma), cmocka_unit_test(test_typical), cmocka_unit_test(test_xtc), cmocka_unit_test(test_dry), cmocka_unit_test(test_mirostat), cmocka_unit_test(test_masked),
    };
    return cmocka_run_group_tests_name("sampler", tests, set_up, tear_down);
}
