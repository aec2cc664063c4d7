/*
 * A verdict again, from the record that it rests on: what `genloop evaluate MODEL --recompute` does. Whoever has the evaluation and the bytes of its record needs nothing
 * else, and trusts nobody: the bytes must have the digest that the evaluation names, the evaluation the registry's signature, and each figure, gate and verdict must come
 * out as it was told. Pure.
 */
#ifndef GENLOOP_GATES_RECOMPUTE_H
#define GENLOOP_GATES_RECOMPUTE_H

#include "base/buf.h"
#include "gates/gates.h"

enum { RECOMPUTE_DIFFERENCE_MAX = 256 };

struct recomputed {
    struct gate_verdict verdict;
    struct gate_limits limits; /* those of the evaluation */
    size_t compared;           /* numbers, and yes or no */
    size_t different;
    char difference[RECOMPUTE_DIFFERENCE_MAX]; /* the first of them, in words; "" where there is none */
};

/* public_key: 32 bytes of the registry; empty: the signature is not looked at. E_STATE: it is not judged yet; E_DENIED: the signature is not the registry's; E_DATA_LOSS: these are not the bytes
 * that it was judged by; E_UNSUPPORTED: a limit that this build does not know; errors of evaluation_record_parse. That numbers differ is no error: see `different`. */
int gates_recompute(const Genloop__V1__Evaluation *evaluation, struct span record, struct span public_key, struct recomputed *out, struct error *err);
/* For people: a table of figures and gates, and in the last line whether all of it came out as told. */
int recomputed_write_text(const Genloop__V1__Evaluation *evaluation, const struct recomputed *r, struct buf *out);
/* {"evaluation","candidate","baseline","passed","same","compared","different","difference","figures":[…],"gates":[…],"limits":{…}} */
int recomputed_write_json(const Genloop__V1__Evaluation *evaluation, const struct recomputed *r, struct buf *out);

#endif
