/*
 * The forward pass of encoders (BERT and what came of it): several texts one behind the other, without padding, each seeing itself alone, through the layers that
 * lib/model/arch.h describes; then a vector per text (pooled) or the scores of its classifier.
 *
 * A text's result does not depend, bit for bit, on the texts beside it, on their order or on the number of threads: every operation is on one row alone, one of
 * quant.h's products, or attention over the text's own tokens in a fixed order.
 *
 * One call at a time per struct encoder, from any thread; it spreads the work over its pool. encoder_run allocates nothing.
 */
#ifndef GENLOOP_ENGINE_ENCODER_H
#define GENLOOP_ENGINE_ENCODER_H

#include "engine/encoder_settings.h"
#include "engine/packed_cache.h"
#include "model/model_dir.h"
#include "tensor/quant.h"

struct encoder;
struct pool;

enum {
    ENCODER_ROWS_DEFAULT = 2048,   /* tokens of one pass: enough that a pass is arithmetic and not reading of weights; more makes nothing quicker */
    ENCODER_TOKENS_MAX = 1 << 15,  /* of one text: above the longest published encoders' (8,192) */
    ENCODER_ROWS_PER_TEXT = 8,     /* of a pass: so many rows have room for a text; shorter ones fill the pass sooner */
};

struct encoder_options {
    int threads;              /* 0: all CPUs that this process may use */
    enum packed_kind weights; /* PACKED_STORED: blocks as they are stored, f32 of every other type, exactly; else turned into that kind when loaded */
    struct packed_cache packed; /* copies of packed weights, borrowed for the loading; with zeros: none. A model in memory needs an identity for one */
};

/* Loads a model directory. Errors of model_dir_load and encoder_settings_load; E_UNSUPPORTED: the model is no encoder; E_INVALID: weights that are not finite. */
int encoder_new(struct encoder **e, const char *dir, const struct encoder_options *options, struct error *err);
/* The same with a directory that is in memory; takes *dir over (also on failure), and settings where they are not NULL. */
int encoder_new_from(struct encoder **e, struct model_dir *dir, struct encoder_settings *settings, const struct encoder_options *options, struct error *err);
void encoder_free(struct encoder *e); /* NULL is accepted */

const struct model_config *encoder_model(const struct encoder *e);
const struct tokenizer *encoder_tokenizer(const struct encoder *e); /* NULL: the model has none */
const struct encoder_settings *encoder_settings(const struct encoder *e);
uint32_t encoder_tokens_max(const struct encoder *e); /* of one text: the model's positions, or fewer where sentence_bert_config.json says so */
size_t encoder_memory(const struct encoder *e);       /* bytes of weights and activations at their largest */
void encoder_set_threads(struct encoder *e, int threads); /* how many compute from the next pass on; from any thread */
/* How many tokens of whole texts one pass should take, so that it lasts about a tenth of a second on one core and others get their turn. */
uint32_t encoder_pass_rows(const struct encoder *e);

struct encoder_text {
    const uint32_t *ids;
    const uint8_t *types; /* token types; NULL: all 0 */
    size_t count;
    bool score;           /* the classifier's outputs, raw; else the pooled vector */
    enum encoder_pooling pooling;
    bool normalize;       /* to length 1 */
    float *out;           /* [width], or of a score [labels] */
};
/* What a text must be to be computed. E_INVALID and E_RANGE name what is wrong: no tokens, too many, an id or a type that the model does not have, no classifier. */
int encoder_check(const struct encoder *e, const struct encoder_text *text, struct error *err);
/* All n texts, each of which encoder_check has passed, in as many passes as they take. */
void encoder_run(struct encoder *e, const struct encoder_text *texts, size_t n);

/* --- the encoder beside a decoder: its output is every token's vector, and a pass is done a few layers at a time, so that others have their turn between --- */

/* From the weights of the whole model, which may be freed afterwards; borrows the pool and the decoder's rows of token embeddings (forward_embeddings); cache as
 * encoder_options.packed. tokens_max: of a text, and of a pass. */
int encoder_new_beside(struct encoder **e, const struct model_weights *weights, enum packed_kind kind, uint32_t tokens_max, const struct packed *embeddings, struct pool *pool,
                       const struct packed_cache *cache, struct error *err);
/* Takes up the texts (n ≤ encoder_texts_max, tokens_max together), of which ids and count alone are read; ids only here, texts until the pass is done. */
void encoder_begin(struct encoder *e, const struct encoder_text *texts, size_t n);
/* So many more layers; true: the pass is done. */
bool encoder_advance(struct encoder *e, uint32_t layers);
uint32_t encoder_texts_max(const struct encoder *e);
/* [count, width] of a text of the pass that is done, behind the final norm; until the next begins. */
const float *encoder_rows(const struct encoder *e, size_t text);
/* Of a score's outputs: what they mean. One label: the logistic function; several: softmax, or each by itself where several may hold at once. In place. */
void encoder_probabilities(const struct encoder *e, float *logits);

#endif
