/*
 * Training of a byte-level BPE (Sennrich et al. 2016; Radford et al. 2019): documents are fed one by one, split by GPT-2's pattern and
 * counted as words; finish merges the most frequent pair of the words until the vocabulary is full. Only distinct words are kept, so memory follows the
 * language, not the corpus, and has a cap.
 * The result is a pure function of the multiset of documents and the options. Ids: special tokens in the order given, then the 256 bytes in the order of
 * Hugging Face's ByteLevel alphabet, then merges by rank. Equal counts: the pair with the lower left id first, then the lower right id (as in Hugging Face's BpeTrainer).
 * One thread.
 *   new → feed* → finish → free
 */
#ifndef GENLOOP_TOKENIZER_TRAIN_H
#define GENLOOP_TOKENIZER_TRAIN_H

#include "tokenizer/tokenizer.h"

enum {
    TOKENIZER_TRAIN_WORDS_MAX = 4 << 20,       /* distinct words; about 400 MB at the mean word of code and prose; 1 GB of English has 2.5 M */
    TOKENIZER_TRAIN_WORD_BYTES_MAX = 1024,     /* a longer run (base64, a rule of dashes) is cut there before counting, which alone parts us from Hugging Face; a merge scans its words */
    TOKENIZER_TRAIN_SPECIALS_MAX = 64,
};

struct tokenizer_train_options {
    uint32_t vocab_size;          /* all ids: specials + 256 + merges; at least specials + 256 */
    uint64_t min_frequency;       /* a pair seen less often is not merged; 0 means 2 */
    const char *const *specials;  /* NULL: <|endoftext|>, <|im_start|>, <|im_end|> */
    size_t special_count;
    uint32_t words_max;           /* 0: TOKENIZER_TRAIN_WORDS_MAX */
};

struct tokenizer_trainer;
int tokenizer_trainer_new(struct tokenizer_trainer **tr, const struct tokenizer_train_options *options, struct error *err);
/* Counts a document's words. E_INVALID: no UTF-8; E_FULL: beyond words_max distinct words. */
int tokenizer_trainer_feed(struct tokenizer_trainer *tr, struct span document, struct error *err);
/* Progress: called now and then with merges done and wanted; a result other than 0 stops the training with it. */
typedef int (*tokenizer_trainer_progress)(void *arg, uint32_t done, uint32_t wanted);
/* Returns owned in *t; may have fewer ids than asked for where the documents have no more pairs. bos, eos and pad are the first special token. */
int tokenizer_trainer_finish(struct tokenizer_trainer *tr, struct tokenizer **t, void *arg, tokenizer_trainer_progress on_progress, struct error *err);
void tokenizer_trainer_free(struct tokenizer_trainer *tr); /* NULL is accepted */

#endif
