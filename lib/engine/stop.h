/*
 * Stop strings over a stream of text: what is given out can never become part of a stop string, and nothing of a stop string, or after
 * it, is given out. A pure state machine, one automaton (Knuth, Morris and Pratt 1977) per string, a few steps a byte.
 *     push* → finish;   after push says "stopped", no more is taken
 * Of two strings that end at the same byte the longer one wins; otherwise the one that ends first.
 */
#ifndef GENLOOP_ENGINE_STOP_H
#define GENLOOP_ENGINE_STOP_H

#include "base/buf.h"
#include "base/error.h"

enum {
    STOP_STRINGS_MAX = 16,   /* OpenAI takes 4, vLLM any number */
    STOP_LENGTH_MAX = 1024,  /* bytes of one: bounds what is held back */
};

struct stop_matcher {
    struct span strings[STOP_STRINGS_MAX]; /* owned copies */
    uint16_t *failure[STOP_STRINGS_MAX];   /* failure[i]: longest proper prefix that is a suffix of the first i + 1 bytes */
    uint16_t state[STOP_STRINGS_MAX];      /* bytes matched so far */
    size_t count;
    struct buf held;
    int matched; /* index of the string that stopped, -1 */
};

/* strings: copied. E_INVALID: an empty or too long string, or too many. */
int stop_init(struct stop_matcher *m, const struct span *strings, size_t count, struct error *err);
void stop_fini(struct stop_matcher *m); /* safe on a zeroed struct */
/* Appends to out what is safe of it. *stopped: a stop string is complete. E_NOMEM, or out's cap. */
int stop_push(struct stop_matcher *m, struct span text, struct buf *out, bool *stopped);
/* The stream ended: what was held back is text after all. */
int stop_finish(struct stop_matcher *m, struct buf *out);

#endif
