/*
 * The part of gates.h that judges encoders. An encoder's record has, in place of documents, pairs and samples,
 *    "encoder":{"task":"embed"|"score"|"classify", "width", "labels",
 *               "passages":[{"id", "candidate":{"finite", "rank", "own", "others"} | {"finite", "label", "outputs":[…]}, "baseline":{…}}…]}
 * rank: of a passage's own second half among all (embed: cosines, score: a cross-encoder's outputs), from 1; own, others: the value for it, and the mean of the others'; outputs: of a classifier, the
 * first GATES_OUTPUTS_MAX. A value that is null is no number.
 *
 * Gates against a baseline                              and of a first version
 *   evidence     passages are enough                      the same
 *   tokenizer    it is the one that the version claims    the same
 *   finite       every output is a number                 the same
 *   distinct     embed: mean cosine between halves of different passages ≤ encoder_cosine_max; score, classify: deviation of the outputs ≥ encoder_spread_min
 *   retrieval    share of passages that find their other half ≥ baseline's − encoder_recall_drop_max     ≥ encoder_recall_min
 * A classifier's labels have no truth here: what it is worth on labelled texts a person says, with what share of labels is the baseline's beside it (figure agreement).
 */
#ifndef GENLOOP_GATES_ENCODER_H
#define GENLOOP_GATES_ENCODER_H

#include "base/json.h"
#include "gates/gates.h"
#include "gates/stats.h"

struct encoder_record;
/* The value of "encoder". E_INVALID, E_TOO_LARGE, E_NOMEM. */
int encoder_record_parse(const struct json *encoder, bool baseline, struct encoder_record **record, struct error *err);
void encoder_record_free(struct encoder_record *record);
void encoder_judge(const struct encoder_record *record, bool baseline, const struct gate_limits *limits, struct gate_verdict *verdict);

/* Of gates.c: what a verdict is made of. */
void verdict_add_figure(struct gate_verdict *v, const char *name, struct interval i, uint64_t samples);
struct gate_result *verdict_add_gate(struct gate_verdict *v, const char *gate, struct interval i, double threshold, double margin, bool passed, uint64_t samples);

#endif
