/*
 * The gates: the record of an evaluation in, figures and a verdict out. Pure: no clock, no chance of its own, no other input, so that anybody
 * who holds the record (`genloop evaluate MODEL --recompute`) comes to the same figures and the same verdict.
 *
 * The record is JSON, measured by the trainer and kept in the store:
 *   {"format":1, "spec":{EvaluateSpec}, "candidate":"n@v", "baseline":"n@v" | "",
 *    "tokenizer":{"candidate":sha256, "baseline":sha256 [, "round_trip":bool]},
 *    ["halves":true,]   of an encoder-decoder: bytes, tokens and nats of a document are those of its second half, given the first; each has "nll_candidate_other" too, given another's first half
 *    "documents":[{"id", "bytes", "tokens_candidate", "nll_candidate", "tokens_baseline", "nll_baseline"}…]   nats, summed over a held-out document
 *    "pairs":[{"request_id", "prompt_id", "candidate_chosen", "candidate_rejected", "baseline_chosen", "baseline_rejected"}…]  log-probabilities of held-out answers
 *    "samples":[{"prompt_id", "prompt", "seed", "candidate":{"text","tokens":[ids],"finish"}, "baseline":{…}}…]}
 * (an encoder's has "encoder" in their place: encoder.h)
 * A nll or log-probability that is null (not finite) counts as the worst there is.
 *
 * Gates against a baseline                              and of a first version
 *   evidence     documents and samples are enough         the same
 *   tokenizer    it is the one that the version claims    the same
 *   perplexity   high end of the ratio ≤ 1.05             bits per byte: high end ≤ first_bits_per_byte_max
 *   source       of an encoder-decoder: low end of the share of second halves that are likelier given their own first half ≥ source_min       the same
 *   win_rate     low end > 0.5, where there are pairs     –      of prompts: the share of its pairs followed more
 *   mean_length  0.5 … 2 times the baseline's             –
 *   repetition   ≤ baseline + 0.1                         ≤ first_repetition_max
 *   empty        ≤ max(0.05, baseline + 0.05)             ≤ 0.05
 *   distinct_3   ≥ 0.8 times the baseline's               ≥ first_distinct_3_min
 */
#ifndef GENLOOP_GATES_GATES_H
#define GENLOOP_GATES_GATES_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/span.h"
#include "genloop/v1/models.pb-c.h"

/* What a record may hold; above it E_TOO_LARGE. The bootstrap takes rounds × documents steps: 20,000 documents are 40 million. */
enum { GATES_RECORD_MAX = 256 * 1024 * 1024, GATES_DOCUMENTS_MAX = 20000, GATES_PAIRS_MAX = 100000, GATES_SAMPLES_MAX = 20000, GATES_TOKENS_MAX = 65536 };
enum { GATES_PASSAGES_MAX = 256, GATES_OUTPUTS_MAX = 16 }; /* of an encoder's record */
enum { GATES_FIGURES_MAX = 32, GATES_MAX = 16, GATES_RULE_MAX = 192 };
/* spec.held_out of what was measured on the prose that the platform ships: a platform without a data set of texts, and every encoder. No data set can have this name. */
#define EVALUATION_PROSE "builtin:prose@1"
/* Samples repeat where a run of this many tokens occurs twice in one of them. */
enum { GATES_REPEAT_TOKENS = 8 };
/* A pair is followed more, or less, where the log odds of chosen against rejected have moved by more than this; below it they are a tie. Fine-tuning on shuffled judgements moves
 * them by about half of it, on honest ones by two or three times as much. */
#define GATES_WIN_NATS 1.0

/* The thresholds: configuration `gates.*`. */
struct gate_limits {
    double perplexity_ratio_max;
    double win_rate_min;
    int64_t win_rate_pairs_min;
    double mean_length_ratio_min, mean_length_ratio_max;
    double repetition_rise_max;
    double empty_max, empty_rise_max;
    double distinct_3_ratio_min;
    double first_bits_per_byte_max, first_repetition_max, first_distinct_3_min;
    int64_t documents_min, samples_min;
    double source_min;
    double encoder_cosine_max, encoder_spread_min, encoder_recall_min, encoder_recall_drop_max; /* encoder.h */
};
extern const struct gate_limits GATE_LIMITS_DEFAULT;
/* The same by name, in a fixed order: how they stand in an Evaluation. */
enum { GATE_LIMITS_COUNT = 19 };
const char *gate_limit_name(int i);
double gate_limit_get(const struct gate_limits *limits, int i);
/* E_NOT_FOUND: there is no such limit; E_RANGE: a count that is no whole number. */
int gate_limit_set(struct gate_limits *limits, struct span name, double value);

struct gate_figure {
    const char *name;
    double value, low, high;
    uint64_t samples;
};
struct gate_result {
    const char *gate;
    bool passed;
    double value, low, high, threshold, margin;
    char rule[GATES_RULE_MAX];
    uint64_t samples;
};
struct gate_verdict {
    struct gate_figure figures[GATES_FIGURES_MAX];
    size_t n_figures;
    struct gate_result gates[GATES_MAX];
    size_t n_gates;
    bool passed;
};

struct evaluation_record;
/* Reads and checks a record. tokenizer: sha256 of the tokenizer.json that the candidate must have, "" where nothing claims one; the record's own
 * spec.tokenizer goes before it. Returns owned. E_INVALID, E_TOO_LARGE name what is wrong. */
int evaluation_record_parse(struct span json, struct span tokenizer, struct evaluation_record **record, struct error *err);
void evaluation_record_free(struct evaluation_record *record);
struct span evaluation_record_candidate(const struct evaluation_record *record);
struct span evaluation_record_baseline(const struct evaluation_record *record);
/* Computes figures and verdict. E_NOMEM. */
int gates_judge(const struct evaluation_record *record, const struct gate_limits *limits, struct gate_verdict *verdict, struct error *err);
/* The first gate that failed, NULL where all passed. */
const struct gate_result *gates_first_failed(const struct gate_verdict *verdict);

#endif
