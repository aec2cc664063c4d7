/*
 * The tape against a decoder written down in f64 from the papers, forward only: log-probabilities must agree, and the tape's gradients must be the finite
 * differences of the f64 loss.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/random.h"
#include "base/sha256.h"
#include "model/model_dir.h"
#include "nn/decoder.h"

enum { ROWS_MAX = 160, WIDTH_MAX = 64, FFN_MAX = 160, VOCAB_MAX = 80, SEGMENTS = 3 };

struct setting {
    const char *name, *arch;
    uint32_t layers, width, heads, kv_heads, head_dim, ffn, context, vocab;
    bool tied, mlp_bias;
    int attn_bias;
    uint32_t lengths[SEGMENTS];
    uint32_t label_every; /* 1: all rows */
};
static const struct setting settings[] = {
    {"llama, grouped, tied", "llama", 2, 32, 4, 2, 8, 48, 90, 50, true, false, 0, {70, 5, 1}, 1},
    {"llama, biases, untied, odd", "llama", 1, 20, 2, 1, 10, 27, 40, 37, false, true, 2, {13, 0, 9}, 2},
    {"gpt2", "gpt2", 2, 24, 3, 3, 8, 96, 80, 61, true, true, 2, {66, 7, 3}, 3},
};
enum { SETTINGS = sizeof settings / sizeof settings[0] };

/* ---- the reference ---- */

struct reference {
    const struct model_config *c;
    const struct model_param *params;
    size_t param_count;
    const double *w;
};

static const double *get(const struct reference *r, enum model_role role, uint32_t layer) {
    for (size_t i = 0; i < r->param_count; i++)
        if (r->params[i].role == role && r->params[i].layer == layer) return r->w + r->params[i].offset;
    return NULL;
}

static void norm_row(const struct reference *r, const double *x, const double *w, const double *b, double *y) {
    uint32_t n = r->c->width;
    double mean = 0, square = 0;
    if (r->c->arch->norm == MODEL_NORM_LAYER) {
        for (uint32_t i = 0; i < n; i++) mean += x[i] / n;
    }
    for (uint32_t i = 0; i < n; i++) square += (x[i] - mean) * (x[i] - mean) / n;
    double s = 1 / sqrt(square + (double)r->c->norm_eps);
    for (uint32_t i = 0; i < n; i++) y[i] = (x[i] - mean) * s * w[i] + (b ? b[i] : 0);
}

static void linear_row(const double *x, const double *w, const double *b, double *y, uint32_t out, uint32_t in) {
    for (uint32_t o = 0; o < out; o++) {
        double sum = b ? b[o] : 0;
        for (uint32_t i = 0; i < in; i++) sum += w[(size_t)o * in + i] * x[i];
        y[o] = sum;
    }
}

/* −Σ weights · log p, of one sequence. log_probs of rows with a label. */
static double sequence_loss(const struct reference *r, const uint32_t *ids, const uint32_t *labels, const float *weights, uint32_t len, double *log_probs) {
    const struct model_config *c = r->c;
    uint32_t W = c->width, D = c->head_dim, H = c->heads, K = c->kv_heads;
    static double x[ROWS_MAX][WIDTH_MAX], n[WIDTH_MAX], q[ROWS_MAX][WIDTH_MAX], k[ROWS_MAX][WIDTH_MAX], v[ROWS_MAX][WIDTH_MAX], a[WIDTH_MAX], o[WIDTH_MAX], up[FFN_MAX], gate[FFN_MAX];
    float inv[WIDTH_MAX];
    if (c->arch->positions == MODEL_POS_ROPE) model_rope_frequencies(c, inv);
    for (uint32_t t = 0; t < len; t++)
        for (uint32_t i = 0; i < W; i++) {
            x[t][i] = get(r, MODEL_EMBED_TOKENS, 0)[(size_t)ids[t] * W + i];
            if (c->arch->positions == MODEL_POS_LEARNED) x[t][i] += get(r, MODEL_EMBED_POSITIONS, 0)[(size_t)t * W + i];
        }
    for (uint32_t l = 0; l < c->layers; l++) {
        for (uint32_t t = 0; t < len; t++) {
            norm_row(r, x[t], get(r, MODEL_ATTN_NORM_W, l), get(r, MODEL_ATTN_NORM_B, l), n);
            linear_row(n, get(r, MODEL_ATTN_Q_W, l), get(r, MODEL_ATTN_Q_B, l), q[t], H * D, W);
            linear_row(n, get(r, MODEL_ATTN_K_W, l), get(r, MODEL_ATTN_K_B, l), k[t], K * D, W);
            linear_row(n, get(r, MODEL_ATTN_V_W, l), get(r, MODEL_ATTN_V_B, l), v[t], K * D, W);
            if (c->arch->positions == MODEL_POS_ROPE)
                for (uint32_t h = 0; h < H + K; h++) {
                    double *row = h < H ? q[t] + h * D : k[t] + (h - H) * D;
                    for (uint32_t i = 0; i < D / 2; i++) {
                        double angle = (double)t * (double)inv[i], p = row[i], s = row[i + D / 2];
                        row[i] = p * cos(angle) - s * sin(angle);
                        row[i + D / 2] = s * cos(angle) + p * sin(angle);
                    }
                }
        }
        for (uint32_t t = 0; t < len; t++) {
            for (uint32_t h = 0; h < H; h++) {
                double e[ROWS_MAX], sum = 0;
                uint32_t g = h / (H / K);
                for (uint32_t s = 0; s <= t; s++) {
                    double dot = 0;
                    for (uint32_t i = 0; i < D; i++) dot += q[t][h * D + i] * k[s][g * D + i];
                    sum += e[s] = exp(dot / sqrt(D));
                }
                for (uint32_t i = 0; i < D; i++) {
                    a[h * D + i] = 0;
                    for (uint32_t s = 0; s <= t; s++) a[h * D + i] += e[s] / sum * v[s][g * D + i];
                }
            }
            linear_row(a, get(r, MODEL_ATTN_O_W, l), get(r, MODEL_ATTN_O_B, l), o, W, H * D);
            for (uint32_t i = 0; i < W; i++) x[t][i] += o[i];
        }
        for (uint32_t t = 0; t < len; t++) {
            norm_row(r, x[t], get(r, MODEL_MLP_NORM_W, l), get(r, MODEL_MLP_NORM_B, l), n);
            linear_row(n, get(r, MODEL_MLP_UP_W, l), get(r, MODEL_MLP_UP_B, l), up, c->ffn, W);
            if (c->arch->mlp == MODEL_MLP_GATED) {
                linear_row(n, get(r, MODEL_MLP_GATE_W, l), get(r, MODEL_MLP_GATE_B, l), gate, c->ffn, W);
                for (uint32_t i = 0; i < c->ffn; i++) up[i] *= gate[i] / (1 + exp(-gate[i]));
            } else {
                for (uint32_t i = 0; i < c->ffn; i++) up[i] = 0.5 * up[i] * (1 + tanh(sqrt(2 / M_PI) * (up[i] + 0.044715 * up[i] * up[i] * up[i])));
            }
            linear_row(up, get(r, MODEL_MLP_DOWN_W, l), get(r, MODEL_MLP_DOWN_B, l), o, W, c->ffn);
            for (uint32_t i = 0; i < W; i++) x[t][i] += o[i];
        }
    }
    double loss = 0;
    const double *head = get(r, c->tie_embeddings ? MODEL_EMBED_TOKENS : MODEL_LM_HEAD, 0);
    for (uint32_t t = 0; t < len; t++) {
        if (labels[t] == NN_NO_LABEL) continue;
        double logits[VOCAB_MAX], sum = 0;
        norm_row(r, x[t], get(r, MODEL_FINAL_NORM_W, 0), get(r, MODEL_FINAL_NORM_B, 0), n);
        linear_row(n, head, NULL, logits, c->vocab, W);
        for (uint32_t i = 0; i < c->vocab; i++) sum += exp(logits[i]);
        log_probs[t] = logits[labels[t]] - log(sum);
        loss -= (double)weights[t] * log_probs[t];
    }
    return loss;
}

static double loss_of(const struct reference *r, const uint32_t *ids, const uint32_t *labels, const float *weights, const struct nn_segment *segments, double *log_probs) {
    double loss = 0;
    for (int s = 0; s < SEGMENTS; s++) {
        uint32_t at = segments[s].start;
        loss += sequence_loss(r, ids + at, labels + at, weights + at, segments[s].len, log_probs + at);
    }
    return loss;
}

static void check_setting(const struct setting *s) {
    struct model_config c;
    struct error err = {0};
    struct random random;
    random_seed(&random, 5);
    model_config_default(&c, model_arch_find(span_str(s->arch)), s->layers, s->width, s->heads, s->kv_heads, s->context, s->vocab);
    c.ffn = s->ffn;
    c.head_dim = s->head_dim;
    if (c.arch->positions == MODEL_POS_ROPE) c.rotary_dim = s->head_dim;
    c.tie_embeddings = s->tied;
    c.attn_bias = s->attn_bias;
    c.mlp_bias = s->mlp_bias;
    if (model_config_check(&c, &err)) fail_msg("%s: %s", s->name, err.message);
    struct model_weights w = {0};
    assert_int_equal(model_weights_new(&w, &c, &err), 0);
    for (size_t i = 0; i < w.flat_len; i++) w.flat[i] = (float)(0.3 * random_normal(&random));
    double *exact = mem_calloc(w.flat_len, sizeof *exact);
    float *gradients = mem_alloc_aligned(w.flat_len * sizeof *gradients);
    for (size_t i = 0; i < w.flat_len; i++) {
        exact[i] = (double)w.flat[i];
        gradients[i] = NAN; /* every one must be written */
    }

    uint32_t ids[ROWS_MAX], labels[ROWS_MAX], rows = 0;
    float weights[ROWS_MAX], log_probs[ROWS_MAX], again[ROWS_MAX];
    double want[ROWS_MAX] = {0};
    struct nn_segment segments[SEGMENTS];
    for (int i = 0; i < SEGMENTS; i++) {
        segments[i] = (struct nn_segment){rows, s->lengths[i]};
        rows += s->lengths[i];
    }
    for (uint32_t i = 0; i < rows; i++) {
        ids[i] = (uint32_t)random_below(&random, s->vocab);
        labels[i] = i % s->label_every ? NN_NO_LABEL : (uint32_t)random_below(&random, s->vocab);
        weights[i] = i == 4 ? 0 : (float)random_normal(&random);
    }

    struct nn_decoder *d = NULL;
    if (nn_decoder_new(&d, &c, w.params, w.param_count, s->lengths[0], &err)) fail_msg("%s: %s", s->name, err.message);
    struct nn_tape *t = nn_tape_new(64 << 20);
    size_t bytes = 0;
    for (int round = 0; round < 3; round++) { /* the same memory again: nothing of the last unit may shine through */
        nn_tape_begin(t, w.flat, gradients, (uint32_t)w.param_count);
        struct nn_value *x = nn_decoder_forward(d, t, ids, segments, SEGMENTS);
        nn_cross_entropy(t, x, nn_decoder_head(d), labels, NULL, again);
        nn_cross_entropy(t, x, nn_decoder_head(d), labels, weights, log_probs);
        assert_int_equal(nn_backward(t), 0);
        nn_decoder_finish_gradients(d, t);
        assert_memory_equal(again, log_probs, rows * sizeof *again);
        if (round == 1) bytes = nn_tape_bytes(t);
        if (round == 2) assert_int_equal(nn_tape_bytes(t), bytes);
    }

    struct reference r = {&c, w.params, w.param_count, exact};
    loss_of(&r, ids, labels, weights, segments, want);
    for (uint32_t i = 0; i < rows; i++)
        if (labels[i] != NN_NO_LABEL && fabs(want[i] - (double)log_probs[i]) > 2e-5 * (1 + fabs(want[i])))
            fail_msg("%s: row %u has log-probability %g, f64 %g", s->name, i, (double)log_probs[i], want[i]);

    for (size_t p = 0; p < w.param_count; p++) {
        const struct model_param *param = &w.params[p];
        size_t n = model_param_size(param);
        double most = 0;
        for (size_t i = 0; i < n; i++) {
            if (!isfinite(gradients[param->offset + i])) fail_msg("%s: %s of layer %u: element %zu was not written", s->name, model_role_name(param->role), param->layer, i);
            most = fmax(most, fabs((double)gradients[param->offset + i]));
        }
        for (int sample = 0; sample < 6; sample++) {
            size_t i = random_below(&random, n);
            /* of the embeddings, rows that took part */
            if (param->role == MODEL_EMBED_TOKENS && sample < 4) i = (size_t)ids[random_below(&random, rows)] * c.width + i % c.width;
            double *at = &exact[param->offset + i], was = *at, h = 1e-5 * (1 + fabs(was)), got = (double)gradients[param->offset + i];
            *at = was + h;
            double above = loss_of(&r, ids, labels, weights, segments, want);
            *at = was - h;
            double below = loss_of(&r, ids, labels, weights, segments, want);
            *at = was;
            double slope = (above - below) / (2 * h);
            if (fabs(slope - got) > 1e-4 * most + 1e-5)
                fail_msg("%s: %s of layer %u, element %zu: gradient %g, finite difference %g (largest %g)", s->name, model_role_name(param->role), param->layer, i, got, slope, most);
        }
    }
    nn_tape_free(t);
    nn_decoder_free(d);
    mem_free(exact);
    mem_free(gradients);
    model_weights_fini(&w);
}

static void test_gradients(void **state) {
    (void)state;
    for (size_t i = 0; i < SETTINGS; i++) check_setting(&settings[i]);
}

/* A tape under a cap it cannot keep says so, and is good again for a smaller unit. */
static void test_memory_cap(void **state) {
    (void)state;
    struct model_config c;
    struct error err = {0};
    struct model_weights w = {0};
    struct nn_decoder *d = NULL;
    uint32_t ids[256] = {0};
    const struct nn_segment large = {0, 256}, small = {0, 2};
    model_config_default(&c, model_arch_find(SPAN("llama")), 8, 128, 4, 4, 256, 40);
    assert_int_equal(model_weights_new(&w, &c, &err), 0);
    nn_decoder_init(&c, w.params, w.param_count, 1, w.flat);
    assert_int_equal(nn_decoder_new(&d, &c, w.params, w.param_count, 256, &err), 0);
    float *gradients = mem_alloc_aligned(w.flat_len * sizeof *gradients);
    struct nn_tape *t = nn_tape_new(5 << 20);
    for (int i = 0; i < 2; i++) {
        nn_tape_begin(t, w.flat, gradients, (uint32_t)w.param_count);
        assert_null(nn_decoder_forward(d, t, ids, &large, 1));
        assert_int_equal(nn_backward(t), E_NOMEM);
        nn_tape_begin(t, w.flat, gradients, (uint32_t)w.param_count);
        assert_non_null(nn_decoder_forward(d, t, ids, &small, 1));
        assert_int_equal(nn_tape_status(t), 0);
    }
    nn_tape_free(t);
    mem_free(gradients);
    assert_int_equal(nn_decoder_new(&d, &c, w.params, w.param_count, 257, &err), E_RANGE);
    nn_decoder_free(d);
    model_weights_fini(&w);
}

/* A seed gives the same first weights in every release: a job that was begun by an earlier one goes on, and a replay of an audit record comes to the same bytes. */
static void test_first_weights(void **state) {
    static const struct {
        const char *arch, *digest; /* of f32, as the first release gave them */
    } cases[] = {{"llama", "d8db5acb93c7c0600cc596db3f59d88d720333be787b9bab1d2b7dc79b48099e"}, {"gpt2", "1424ced9f0f7cf839cb85e84c6fa578e9681523bb96cd3f107abef04ef374fc5"}};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct model_config c;
        struct model_weights w = {0};
        struct error err = {0};
        char hex[SHA256_HEX_MAX];
        model_config_default(&c, model_arch_find(span_str(cases[i].arch)), 2, 32, 2, 1, 64, 100);
        if (strcmp(cases[i].arch, "gpt2") == 0) c.kv_heads = 2;
        assert_int_equal(model_config_check(&c, &err), 0);
        assert_int_equal(model_weights_new(&w, &c, &err), 0);
        nn_decoder_init(&c, w.params, w.param_count, 7, w.flat);
        assert_string_equal(sha256_hex(span_of(w.flat, w.flat_len * sizeof *w.flat), hex), cases[i].digest);
        model_weights_fini(&w);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_gradients), cmocka_unit_test(test_memory_cap), cmocka_unit_test(test_first_weights)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
