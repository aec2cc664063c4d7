/*
 * The rows of a training or evaluation set, as ids and labels, in memory (a token file stays a mapping). A row is what an optimizer step counts: one
 * sequence, or the two of a preference pair. Immutable once open: any thread may read.
 */
#ifndef GENLOOP_TRAIN_DATA_H
#define GENLOOP_TRAIN_DATA_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "tokenizer/tokenizer.h"
#include "train/recipe.h"

enum {
    DATA_FILE_MAX = 1 << 30,     /* bytes of JSONL: its ids stand in memory, 5 bytes each */
    DATA_LINE_MAX = 32 << 20,
    DATA_ROWS_MAX = 1 << 24,
};

enum data_kind {
    DATA_WINDOWS,   /* pretrain: windows of one stream of tokens */
    DATA_SEQUENCES, /* sft: a line is a sequence, some of its tokens are labels */
    DATA_PAIRS,     /* dpo: chosen and rejected behind one prompt */
    DATA_DOCUMENTS, /* evaluation: like sequences, a document longer than length in windows that belong to one row */
};

struct data_options {
    enum data_kind kind;
    uint32_t length;               /* input tokens of a sequence at most; what is longer is cut at its end */
    uint32_t vocab;                /* ids must be below it */
    const struct tokenizer *tokenizer; /* borrowed; NULL: rows of ids only */
    const char *chat_template;     /* borrowed; NULL: none */
    uint64_t rows_max;             /* 0: all */
};

/* ids[0 .. count) are inputs, ids[1 .. count + 1) what follows; row p has a label where is_label says so of ids[p + 1] (NULL: everywhere). */
struct data_sequence {
    const uint32_t *ids;     /* NULL: ids16 has them */
    const uint16_t *ids16;
    const uint8_t *is_label; /* of ids[0 .. count + 1); NULL: all */
    uint32_t count;          /* inputs; 0: there may be no ids at all */
};
static inline uint32_t data_id(const struct data_sequence *s, uint32_t i) { return s->ids ? s->ids[i] : s->ids16[i]; }

struct data;
/* path: .jsonl rows, or (any other ending) little-endian uint16 tokens. Errors name the line. */
int data_open(struct data **d, const char *path, const struct data_options *options, struct error *err);
void data_close(struct data *d); /* NULL is accepted */
uint64_t data_rows(const struct data *d);
uint64_t data_tokens(const struct data *d); /* inputs of all rows */
uint64_t data_labels_cut(const struct data *d); /* rows that have no label left after cutting */
/* The sequences of a row: 1, or 2 for pairs (chosen, rejected), or as many windows as a document has. */
uint32_t data_sequences(const struct data *d, uint64_t row);
struct data_sequence data_sequence(const struct data *d, uint64_t row, uint32_t index);
uint64_t data_text_bytes(const struct data *d, uint64_t row); /* of the text it came from; 0 for ids */

/* Which row stands at `position` (0, 1, …) of an endless run over the rows: in order, or in another seeded order on each pass. */
struct data_order {
    uint64_t rows, seed;
    bool shuffle;
    uint64_t pass;      /* the one that `order` holds, UINT64_MAX: none */
    uint32_t *order;    /* owned */
};
int data_order_init(struct data_order *o, uint64_t rows, bool shuffle, uint64_t seed, struct error *err);
void data_order_fini(struct data_order *o);
uint64_t data_order_row(struct data_order *o, uint64_t position);

#endif
