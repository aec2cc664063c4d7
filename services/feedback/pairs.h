/*
 * Judgements and the interactions they are about, in; rows to learn from, out. Pure.
 *
 *   preference   between two interactions with the same prompt, or with texts of its own (prompt, or the prompt of request_id)
 *   thumb,       the last word on each interaction counts; interactions with the same prompt, one liked and one disliked, make a preference: each of the
 *   rating       longer side once, the shorter side taken round and round, so that n liked and m disliked give max(n, m) rows and not n × m
 *   correction   the prompt of request_id (or its own) with the corrected text: a supervised row
 *
 * What cannot be used is counted by its reason, never an error: feedback comes before its interaction, contents expire and are erased.
 * Rows come out in a fixed order (by prompt hash, then chosen, then rejected), each once. A prompt belongs to the held-out split as a whole: by a hash of
 * it, so that the same prompt is on the same side in every version of the set.
 */
#ifndef GENLOOP_FEEDBACK_PAIRS_H
#define GENLOOP_FEEDBACK_PAIRS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/buf.h"
#include "base/error.h"
#include "base/sha256.h"
#include "base/span.h"

enum { PAIRS_HELD_OUT_PERCENT = 20 };
enum { PAIRS_JUDGEMENTS_MAX = 1000000 }; /* of one set: what a build holds in memory, some 200 bytes each and the texts */

enum pair_kind { PAIR_THUMB, PAIR_RATING, PAIR_PREFERENCE, PAIR_CORRECTION };

struct pair_interaction {
    struct span request_id;
    struct span prompt; /* JSON: a string, or an array of messages; written the same for the same prompt */
    struct span answer;
};

struct pair_judgement {
    struct span id;
    enum pair_kind kind;
    double value;
    int64_t time_ms;
    struct span request_id, chosen_request_id, rejected_request_id;
    struct span prompt; /* JSON, as above; empty: that of request_id */
    struct span chosen, rejected, text;
};

struct pair_row {
    bool held_out;
    struct span prompt, chosen, rejected; /* rejected empty in supervised rows: chosen is the answer */
    struct span request_id, judgement_id;
    uint8_t prompt_hash[SHA256_SIZE];
};

struct pair_set {
    struct pair_row *preferences, *supervised; /* in the arena */
    size_t n_preferences, n_supervised;
    size_t n_preferences_held_out, n_supervised_held_out;
    uint64_t unknown_interaction, different_prompts, same_answers, incomplete, repeated; /* judgements that gave nothing, by reason */
};

/* interactions: sorted by request_id, each once. Everything in *set is in the arena or borrowed from the input. E_NOMEM, E_TOO_LARGE. */
int pairs_build(const struct pair_interaction *interactions, size_t n_interactions, const struct pair_judgement *judgements, size_t n_judgements,
                struct arena *arena, struct pair_set *set, struct error *err);
/* The row as a line of JSON with its newline: {"prompt":…,"chosen":…,"rejected":…,"request_id":…,"feedback_id":…}, or for a supervised one {"messages":[…,{"role":"assistant",…}]} where the
 * prompt is messages and {"prompt":…,"completion":…} where it is a text. */
int pairs_write_row(const struct pair_row *row, bool supervised, struct buf *out);
/* The content of an interaction, JSON {"messages":[…] | "prompt":"…", "answer":"…"}, as prompt and answer in the arena. E_INVALID. */
int pairs_read_content(struct span json, struct arena *arena, struct span *prompt, struct span *answer, struct error *err);

#endif
