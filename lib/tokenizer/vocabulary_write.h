/*
 * The way back from a tokenizer to the metadata of a GGUF file (vocabulary.h reads it). What cannot be said there is refused: after the vocabulary is made a tokenizer is made of it again, as any reader
 * would, and both must give the same ids for texts of every kind.
 */
#ifndef GENLOOP_TOKENIZER_VOCABULARY_WRITE_H
#define GENLOOP_TOKENIZER_VOCABULARY_WRITE_H

#include "base/arena.h"
#include "base/json.h"
#include "tokenizer/vocabulary.h"

struct vocabulary_made {
    struct vocabulary v; /* borrows from what follows */
    struct arena arena;
    struct json *root;
};
/* count: ids in all, as many as the model has embeddings; those that the tokenizer does not have are unused. Byte-level BPE (gpt2), SentencePiece's BPE (llama), WordPiece (bert) and Unigram (t5).
 * encoder: bos and eos are what the post-processor sets around a text, and pairs of texts are held to be the same too. E_UNSUPPORTED says what a GGUF vocabulary does not have; E_INVALID, E_NOMEM. What is made goes by vocabulary_made_fini even where it fails. */
int vocabulary_from_tokenizer(const struct tokenizer *t, uint32_t count, bool encoder, struct vocabulary_made *made, struct error *err);
void vocabulary_made_fini(struct vocabulary_made *made); /* safe on a zeroed struct and twice */

/* vocabulary.c: the name of a way to cut, by its place in the table; NULL behind the last. json: as tokenizer.json has it. */
const char *vocabulary_pre_at(size_t i, const char **json, bool *ignore_merges, bool *nfc);

#endif
