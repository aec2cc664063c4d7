/* AdamW, clipping, schedules and preference losses against their formulas. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/random.h"
#include "nn/loss.h"
#include "nn/optimizer.h"
#include "nn/schedule.h"

static void near(const char *what, double got, double want, double tolerance) {
    if (!(fabs(got - want) <= tolerance * (1 + fabs(want)))) fail_msg("%s: %.12g, not %.12g", what, got, want);
}

/* Values of the definitions in contracts.md, by hand. */
static void test_schedules(void **state) {
    (void)state;
    static const struct {
        const char *name;
        struct nn_schedule s;
        uint64_t step;
        double want;
    } cases[] = {
        {"constant", {NN_SCHEDULE_CONSTANT, 2, 10, 0, 0, 0, 0}, 7, 2},
        {"warm-up starts at 0", {NN_SCHEDULE_CONSTANT, 2, 10, 4, 0, 0, 0}, 1, 0},
        {"warm-up", {NN_SCHEDULE_CONSTANT, 2, 10, 4, 0, 0, 0}, 4, 1.5},
        {"warm-up ends", {NN_SCHEDULE_LINEAR, 2, 10, 4, 0, 0, 0}, 5, 2},
        {"linear", {NN_SCHEDULE_LINEAR, 2, 10, 0, 0, 0, 0}, 6, 1},
        {"linear to a ratio", {NN_SCHEDULE_LINEAR, 2, 10, 0, 0, 0, 0.5}, 6, 1.5},
        {"cosine's middle", {NN_SCHEDULE_COSINE, 2, 11, 1, 0, 0, 0}, 7, 1},
        {"cosine to a ratio", {NN_SCHEDULE_COSINE, 2, 11, 1, 0, 0, 0.1}, 7, 1.1},
        {"wsd's plateau", {NN_SCHEDULE_WSD, 2, 24, 4, 8, NN_DECAY_1_SQRT, 0}, 17, 2},
        {"wsd 1-sqrt", {NN_SCHEDULE_WSD, 2, 24, 4, 8, NN_DECAY_1_SQRT, 0}, 19, 1},
        {"wsd linear", {NN_SCHEDULE_WSD, 2, 24, 4, 8, NN_DECAY_LINEAR, 0}, 21, 1},
        {"wsd cosine", {NN_SCHEDULE_WSD, 2, 24, 4, 8, NN_DECAY_COSINE, 0}, 21, 1},
        {"all warm-up", {NN_SCHEDULE_COSINE, 2, 4, 4, 0, 0, 0}, 4, 1.5},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) near(cases[i].name, nn_schedule_lr(&cases[i].s, cases[i].step), cases[i].want, 1e-12);
}

/* Losses of known numbers (TRL's, see contracts.md), and slopes by finite differences. */
static void test_dpo(void **state) {
    (void)state;
    static const struct {
        const char *name;
        struct nn_dpo o;
        double chosen, rejected;
        uint64_t nc, nr;
        double want;
    } cases[] = {
        {"sigmoid at 0", {NN_DPO_SIGMOID, 0.1, 0}, 0, 0, 3, 4, 0.69314718056},
        {"sigmoid", {NN_DPO_SIGMOID, 0.5, 0}, 2, -2, 3, 4, 0.126928011043},
        {"sigmoid far right", {NN_DPO_SIGMOID, 1, 0}, 800, 0, 3, 4, 0},
        {"sigmoid far wrong", {NN_DPO_SIGMOID, 1, 0}, 0, 800, 3, 4, 800},
        {"smoothing", {NN_DPO_SIGMOID, 0.5, 0.1}, 2, -2, 3, 4, 0.126928011043 + 0.1 * 2},
        {"robust", {NN_DPO_ROBUST, 0.5, 0.1}, 2, -2, 3, 4, (0.9 * 0.126928011043 - 0.1 * 2.126928011043) / 0.8},
        {"ipo", {NN_DPO_IPO, 0.1, 0}, 6, -4, 3, 4, 4},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        double dc, dr, x, y, h = 1e-6;
        near(cases[i].name, nn_dpo_loss(&cases[i].o, cases[i].chosen, cases[i].rejected, cases[i].nc, cases[i].nr, &dc, &dr), cases[i].want, 1e-9);
        double up = nn_dpo_loss(&cases[i].o, cases[i].chosen + h, cases[i].rejected, cases[i].nc, cases[i].nr, &x, &y);
        double down = nn_dpo_loss(&cases[i].o, cases[i].chosen - h, cases[i].rejected, cases[i].nc, cases[i].nr, &x, &y);
        near(cases[i].name, dc, (up - down) / (2 * h), 1e-6);
        up = nn_dpo_loss(&cases[i].o, cases[i].chosen, cases[i].rejected + h, cases[i].nc, cases[i].nr, &x, &y);
        down = nn_dpo_loss(&cases[i].o, cases[i].chosen, cases[i].rejected - h, cases[i].nc, cases[i].nr, &x, &y);
        near(cases[i].name, dr, (up - down) / (2 * h), 1e-6);
    }
}

static void test_adamw(void **state) {
    (void)state;
    enum { N = 200000, STEPS = 4 }; /* several pieces */
    const struct model_param params[] = {{.role = MODEL_ATTN_Q_W, .rows = 400, .cols = 400}, {.role = MODEL_ATTN_NORM_W, .rows = 1, .cols = 40000, .offset = 160000}};
    const struct nn_adamw_options o = {0.9, 0.95, 1e-8, 0.1};
    struct error err = {0};
    float *w[3], *g = mem_calloc(N, sizeof *g);
    double *want = mem_calloc(N, sizeof *want), *m = mem_calloc(N, sizeof *m), *v = mem_calloc(N, sizeof *v);
    struct random r;
    random_seed(&r, 9);
    for (int t = 0; t < 3; t++) w[t] = mem_calloc(N, sizeof **w);
    for (size_t i = 0; i < N; i++) want[i] = (double)(w[0][i] = w[1][i] = w[2][i] = (float)random_normal(&r));
    struct pool *pools[3] = {pool_new(1), pool_new(2), pool_new(3)};
    struct nn_adamw *adam[3];
    for (int t = 0; t < 3; t++) assert_int_equal(nn_adamw_new(&adam[t], &o, params, 2, N, &err), 0);
    for (uint64_t step = 1; step <= STEPS; step++) {
        double norm = 0;
        for (size_t i = 0; i < N; i++) {
            g[i] = (float)random_normal(&r);
            norm += (double)g[i] * (double)g[i];
        }
        norm = sqrt(norm);
        for (int t = 0; t < 3; t++) {
            double got = nn_grad_norm(adam[t], pools[t], g);
            near("norm", got, norm, 1e-12);
            assert_true(got == nn_grad_norm(adam[0], pools[0], g));
            nn_adamw_step(adam[t], pools[t], w[t], g, 1e-2, nn_clip_scale(got, 1), step);
            assert_memory_equal(w[t], w[0], N * sizeof **w);
        }
        double scale = 1 / (norm + 1e-6);
        for (size_t i = 0; i < N; i++) {
            double d = (double)g[i] * scale;
            m[i] = 0.9 * m[i] + 0.1 * d;
            v[i] = 0.95 * v[i] + 0.05 * d * d;
            if (i < 160000) want[i] *= 1 - 1e-2 * 0.1; /* decay on the matrix only */
            want[i] -= 1e-2 * (m[i] / (1 - pow(0.9, (double)step))) / (sqrt(v[i] / (1 - pow(0.95, (double)step))) + 1e-8);
        }
    }
    for (size_t i = 0; i < N; i++)
        if (fabs(want[i] - (double)w[0][i]) > 2e-6) fail_msg("weight %zu is %g, not %g", i, (double)w[0][i], want[i]);
    near("clip below", nn_clip_scale(0.5, 1), 1, 0);
    near("clip off", nn_clip_scale(50, 0), 1, 0);
    near("clip above", nn_clip_scale(4, 1), 0.25, 1e-6);
    for (int t = 0; t < 3; t++) {
        nn_adamw_free(adam[t]);
        pool_free(pools[t]);
        mem_free(w[t]);
    }
    mem_free(g);
    mem_free(want);
    mem_free(m);
    mem_free(v);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_schedules), cmocka_unit_test(test_dpo), cmocka_unit_test(test_adamw)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
