/*
 * Which tokens the engine computes in the next step: a pure core. Requests and a time go in, plans come out; no clock, no thread, no
 * memory but its own tables. One thread.
 *
 *     submit ─► queued ─► running: prefill ─► decode ─► finish
 *                 │           (a sequence without credit pauses: it keeps its slot and blocks, and costs no step)
 *                 └─ cancel, deadline: out from any state
 *
 * Continuous batching: every step takes one row of each decoding sequence, and fills the rest of its row budget with prompt chunks in
 * the order of admission, so that a long prompt never holds the streams beside it for more than a chunk. Where the shell says how long
 * steps took (scheduler_timed), a lone prompt's chunk is cut to what the streams' own rows take: a token then comes at most twice as late. Prompts wait
 * for one another, so that what several of them wait together grows with the square of their number, and so does the chunk: up to the setting.
 * The streams' own time is that of as many rows as there are now, and a step is filled up to whole tiles of the kernels.
 *
 * Admission reserves every KV block that the request can need (prompt + max_tokens), so that what was admitted ends without ever being thrown
 * out, but for somebody more important; the head of the queue waits until its blocks are free and nobody behind passes it. The queue is by
 * priority (higher first), then by arrival. A head that does not fit takes the place of running sequences of lower priority (scheduler_preempt): the
 * lowest goes first, of equals the youngest; it is queued again where it was, and goes on at the token where it stood.
 *
 * What is computed as read and what as written differs in its last bits where CPUs have a quicker way for the one (tensor/quant.h): a block is known by that too, so that what an answer's
 * tokens were as they were written is never taken for what they are in the prompt of the next turn. An item is of one or the other.
 *
 * Full blocks are known to the prefix cache from the step on that filled them: a request takes what is known of its prompt at admission, and
 * before each of its chunks, so that of two that came together with the same prefix one computes it and the other follows.
 *
 * Where an encoder reads the prompt, a sequence's table ends with the blocks of its source, and from its admission on it is held until scheduler_release.
 *
 * `done` counts the tokens whose keys and values are in the cache, `length` those that are known: prefill is length − done > 1, and
 * decoding is its special case 1. Drafts (scheduler_sequence.draft) are guesses of the next tokens, computed in the same step; what of them
 * turns out to be true has been computed already (engine_step.c).
 */
#ifndef GENLOOP_ENGINE_SCHEDULER_H
#define GENLOOP_ENGINE_SCHEDULER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "engine/prefix_cache.h"

enum {
    SCHEDULER_SEQUENCES_MAX = 1024, /* running at once: beyond it a step of a CPU takes seconds */
    SCHEDULER_QUEUE_MAX = 65536,    /* bounds a scan of the queue to well under a millisecond */
    SCHEDULER_DRAFT_MAX = 8,        /* guesses of a step: beyond it a CPU pays for each row */
    SCHEDULER_PACES = 8,            /* 1, 2, 4 … 128 rows and more */
    SCHEDULER_PACED_ROWS_MIN = 8,   /* prompt rows of a step, however slow: fewer would read all weights for next to nothing */
};
#define SCHEDULER_CREDIT_UNLIMITED UINT32_MAX

struct scheduler_config {
    uint32_t sequences_max, queue_max;
    uint32_t step_rows;       /* rows of a step while nothing decodes; at least sequences_max */
    uint32_t step_rows_mixed; /* prompt rows of a step in which something decodes: what a stream waits for at most */
    uint32_t blocks, context; /* KV blocks in all; tokens of the longest sequence */
    uint64_t seed;            /* of the prefix cache's hash */
    uint32_t source_max;      /* of the longest source; 0: there are none */
    uint32_t tile_rows;       /* rows that the kernels take together: a step beside streams is filled up to a multiple; 0: one by one */
    bool read_apart;          /* what is read makes tiles of its own */
};

struct scheduler_request {
    uint64_t id;             /* unique among those here */
    int32_t priority;        /* higher goes first */
    uint32_t prompt, tokens_max; /* prompt ≥ 1; prompt + tokens_max ≤ context */
    uint32_t source;         /* tokens that an encoder reads: they have blocks of their own behind the others; 0: none */
    int64_t deadline_ms;     /* of the time given to scheduler_plan; 0: none */
    uint32_t credit;         /* tokens that may be produced before more is granted */
    const uint32_t *tokens;  /* prompt and answer, as far as known, borrowed until it leaves; NULL: nothing is shared with others */
    struct prefix_salt salt; /* who may share */
    bool whole;              /* every row of the prompt is wanted: none is taken from the prefix cache */
    uint32_t read;           /* tokens, from the first on, that are computed as read (forward.h); what comes behind them is written */
};
struct scheduler_waiting {
    struct scheduler_request request;
    uint64_t order;          /* of arrival */
    uint32_t length, cached; /* of one that was preempted: what it had; else prompt and 0 */
};

enum scheduler_state { SCHEDULER_FREE, SCHEDULER_QUEUED, SCHEDULER_RUNNING };

/* A running sequence. Read by the engine, changed here only. */
struct scheduler_sequence {
    enum scheduler_state state;
    struct scheduler_request request;
    uint64_t order;       /* of arrival */
    uint32_t length, done;
    uint32_t cached;      /* tokens of the prompt that came from the prefix cache */
    uint32_t draft;       /* set before a plan, at most scheduler_draft_max: so many guesses stand behind the last token */
    uint32_t known;       /* blocks of the table, from its first on, that the prefix cache knows */
    uint32_t copy;        /* a block that begins as its first one behind those does; see scheduler_admit; PREFIX_NONE: there is none */
    bool held;            /* its source is not read yet: no step has it */
    uint64_t admitted;    /* which admission this was */
    uint32_t block_count;
    uint32_t *blocks;     /* its table, room for the longest sequence */
};

struct scheduler_item {
    uint32_t slot;
    uint64_t id;
    uint32_t start, count;
    uint32_t draft; /* the last so many rows are guesses */
    bool read;   /* these rows are computed as read: no item has such rows and others */
    bool sample; /* the last of the other rows is the last known token: its output gives the next one */
};
struct scheduler_plan {
    struct scheduler_item *items; /* of the scheduler, until the next plan */
    uint32_t count, rows;
};

struct scheduler {
    struct scheduler_config config;
    struct prefix_cache cache;
    struct scheduler_sequence *slots; /* [sequences_max] */
    uint32_t *tables;
    struct scheduler_waiting *queue; /* [queue_max + sequences_max], unordered: preempted ones have room always */
    uint32_t queued, running;
    uint64_t queued_tokens; /* prompt + tokens_max of what is queued */
    uint64_t next_order, admissions;
    uint32_t *by_age; /* [sequences_max] running slots, oldest first */
    struct scheduler_item *items;
    double decode_us[SCHEDULER_PACES], prompt_row_us; /* running means; 0: nothing was timed yet. decode_us: by the logarithm of the step's rows, since few cost as much as one and many what each costs */
    uint64_t preempted, cached_tokens; /* since the start */
};

int scheduler_init(struct scheduler *s, const struct scheduler_config *config, struct error *err); /* E_RANGE, E_NOMEM */
void scheduler_fini(struct scheduler *s);

/* E_FULL: the queue is full. E_RANGE: beyond the context, or more blocks than there are in all: it would wait for ever. */
int scheduler_submit(struct scheduler *s, const struct scheduler_request *r, struct error *err);
/* Takes it out wherever it is; its blocks are free at once. E_NOT_FOUND. *slot (NULL is accepted): where it ran, UINT32_MAX where it was queued. */
int scheduler_remove(struct scheduler *s, uint64_t id, uint32_t *slot);
int scheduler_grant(struct scheduler *s, uint64_t id, uint32_t tokens); /* E_NOT_FOUND */
/* One request whose deadline has passed, still where it was; false where there is none. */
bool scheduler_expired(const struct scheduler *s, int64_t now_ms, uint64_t *id);
/* The earliest deadline, 0 where there is none: when to look again though nothing happened. */
int64_t scheduler_next_deadline(const struct scheduler *s);

/* Moves the head of the queue to a slot where slot and blocks are free; false where nothing moved. Call until false, then scheduler_preempt, and again
 * where that moved somebody; then plan. What it has in common with another does not end with a block: where the slot's `copy` is a block, its keys and values are to be copied to
 * blocks[known] before anything else is asked of the scheduler. */
bool scheduler_admit(struct scheduler *s, uint32_t *slot);
/* The source of a slot's sequence is read: it goes on. */
void scheduler_release(struct scheduler *s, uint32_t slot);
/* Queues the sequence of *slot again, where the head of the queue is more important and would fit if such as this one gave way. */
bool scheduler_preempt(struct scheduler *s, uint32_t *slot);
/* Queues the sequence of a slot again, to be computed from its first token on with others to share with: what it had computed holds no longer. */
void scheduler_restart(struct scheduler *s, uint32_t slot, struct prefix_salt salt);
/* How many guesses the sequence of a slot could have in the next step; 0 where it does not decode. */
uint32_t scheduler_draft_max(const struct scheduler *s, uint32_t slot);
/* The next step; count 0: nothing can go on. The items are then to be computed, and each reported by scheduler_computed. */
void scheduler_plan(struct scheduler *s, struct scheduler_plan *plan);
/* The item's rows are in the cache; `produced`: it was to be sampled, and so many tokens came of it, with which the sequence goes on: one, and one more for
 * each guess that was true. */
void scheduler_computed(struct scheduler *s, const struct scheduler_item *item, uint32_t produced);
/* How long the plan's step took: paces the next ones. */
void scheduler_timed(struct scheduler *s, const struct scheduler_plan *plan, double us);
/* Slot of a running id, UINT32_MAX where it does not run. */
uint32_t scheduler_find(const struct scheduler *s, uint64_t id);

#endif
