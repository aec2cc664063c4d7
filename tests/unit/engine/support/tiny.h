/* Tiny models with random weights in a temporary directory, written by lib/model, for the engine's tests. */
#ifndef TESTS_ENGINE_TINY_H
#define TESTS_ENGINE_TINY_H

#include "engine/engine.h"
#include "model/model_dir.h"

enum { TINY_VOCAB = 300, TINY_CONTEXT = 192, TINY_BORDER = 60 /* of phi3 with longrope */ };
struct tiny {
    char path[64];            /* the model directory */
    struct model_weights weights;
    struct tokenizer *tokenizer; /* byte-level BPE of a little text, with <|endoftext|>, <|im_start|>, <|im_end|> */
};
/* arch: a decoder's name, or that of an encoder-decoder; all are small and odd: heads on fewer kv heads and no power of two wide where the family can, a window of 20 tokens, five experts.
 * Fails the test where it cannot. */
void tiny_make(struct tiny *t, const char *arch, uint64_t seed);
void tiny_make_long(struct tiny *t, const char *arch, uint64_t seed, uint32_t context); /* for another context than TINY_CONTEXT */
void tiny_remove(struct tiny *t);
/* What tests of engines on them share; each fails the test where it cannot. */
struct engine *tiny_engine(const struct tiny *t, struct engine_options o);
struct engine_request tiny_request(const uint32_t *tokens, size_t n, int64_t max); /* exactly max tokens, by seed 0 */
void tiny_tokens(uint32_t *out, size_t n, uint64_t seed);
/* Answers of the same tokens, log-probabilities among them where the first has any, and of the prompt. */
void tiny_same(const char *name, const struct engine_result *a, const struct engine_result *b);

#endif
