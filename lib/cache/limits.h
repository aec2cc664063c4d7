/*
 * Limits per subject (a key of the API, a tenant): requests a minute, tokens a minute, streams at once. The pure core: arithmetic of buckets, and a table of them for one process; and the script by
 * which Redis does the same for all gateways together, in one step for all of a request's subjects.
 *
 * A bucket holds as much as a minute gives, and fills evenly: who was silent may burst, in the long run nobody gets more than the figure. Tokens are taken by what a request may cost and given back, or
 * taken still, by what it did cost: a bucket may owe, and then refuses until it has paid. A request that one of its subjects refuses costs none of them anything.
 *
 * The table follows what Redis said last, so that a gateway that loses Redis goes on from there with the same figures, each gateway for itself. It holds LIMITS_SUBJECTS_MAX; the one that was
 * not asked for the longest time goes first: its buckets are the fullest. Streams are counted by who holds them (limits_stream).
 */
#ifndef GENLOOP_CACHE_LIMITS_H
#define GENLOOP_CACHE_LIMITS_H

#include "base/error.h"
#include "base/span.h"
#include "cache/redis.h"

enum { LIMITS_SUBJECTS = 2, LIMITS_SUBJECTS_MAX = 4096, LIMITS_SUBJECT_MAX = 128, LIMITS_FIGURE_MAX = 1000000000 };
enum { LIMITS_STREAM_LEASE_MS = 30000, LIMITS_STREAM_RENEW_MS = 10000 }; /* what a gateway that was killed held is free after the lease */

struct limit_figures { /* 0: no limit */
    int64_t requests_per_minute, tokens_per_minute, streams_max;
};
struct limit_levels { /* below 0: owed */
    double requests, tokens;
    int64_t streams; /* open */
};
enum limit_kind { LIMIT_NONE, LIMIT_REQUESTS, LIMIT_TOKENS, LIMIT_STREAMS };

struct limit_subject {
    char name[LIMITS_SUBJECT_MAX]; /* "key:key_…", "tenant:shop" */
    struct limit_figures figures;
};
struct limit_verdict {
    enum limit_kind refused; /* LIMIT_NONE: let in, and taken */
    int subject;             /* whose limit it is */
    int64_t wait_ms;         /* of a refusal: until it may work */
    struct limit_levels left[LIMITS_SUBJECTS];
};

/* ---- arithmetic ---- */

/* What is in a bucket of `limit` a minute, `gone_ms` after it held `level`. */
double limit_filled(double level, int64_t limit, int64_t gone_ms);
/* Until it holds `need`. */
int64_t limit_wait_ms(double level, int64_t limit, double need);
/* OpenAI's way to write a time: "850ms", "12.5s". */
char *limit_time_text(int64_t ms, char text[32]);

/* ---- of one process ---- */

struct limits;
struct limits *limits_new(void); /* NULL without memory */
void limits_free(struct limits *l);
/* tokens: what it may cost; -1: it makes none, and no debt keeps it out. stream: it is one. Streams are counted by limits_stream, not here. */
void limits_take(struct limits *l, const struct limit_subject *subjects, int n, int64_t tokens, bool stream, int64_t now_ms, struct limit_verdict *verdict);
/* Gives back (or, below 0, takes) tokens. */
void limits_give(struct limits *l, const struct limit_subject *subjects, int n, double tokens, int64_t now_ms);
/* A stream of this process has begun (+1) or ended (-1). */
void limits_stream(struct limits *l, const struct limit_subject *subjects, int n, int change, int64_t now_ms);
/* What Redis said. */
void limits_follow(struct limits *l, const struct limit_subject *subjects, int n, const struct limit_verdict *verdict, int64_t now_ms);

/* ---- of all, in Redis ---- */

enum { LIMITS_ARGS = 2 + 1 + 2 * LIMITS_SUBJECTS + 3 + 3 * LIMITS_SUBJECTS, LIMITS_TEXT_MAX = 2048 };
/* The command for the same: argv of *argc spans, into text. stream: an id of its own, "" : none. */
void limits_command_take(const struct limit_subject *subjects, int n, int64_t tokens, const char *stream, char text[LIMITS_TEXT_MAX], struct span argv[LIMITS_ARGS], int *argc);
/* Gives tokens back and ends the stream; renew: the stream goes on, and only its lease is renewed. */
void limits_command_give(const struct limit_subject *subjects, int n, double tokens, const char *stream, bool renew, char text[LIMITS_TEXT_MAX], struct span argv[LIMITS_ARGS], int *argc);
/* E_UNKNOWN for what is no reply of the script's. */
int limits_reply(const struct redis_reply *reply, int n, struct limit_verdict *verdict);

#endif
