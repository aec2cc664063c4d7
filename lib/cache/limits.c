#include "cache/limits.h"

#include <math.h>
#include <stdarg.h>

#include "base/alloc.h"

enum { MINUTE_MS = 60000, WAYS = 8, SETS = LIMITS_SUBJECTS_MAX / WAYS, STREAM_WAIT_MS = 1000, WAIT_MAX_MS = 24 * 3600 * 1000 };

/* ---- arithmetic ---- */

double limit_filled(double level, int64_t limit, int64_t gone_ms) {
    if (gone_ms < 0) gone_ms = 0; /* a clock that stepped back gives nothing */
    level += (double)limit * (double)gone_ms / MINUTE_MS;
    return level < (double)limit ? level : (double)limit;
}

int64_t limit_wait_ms(double level, int64_t limit, double need) {
    if (level >= need || limit <= 0) return 0;
    double ms = ceil((need - level) * MINUTE_MS / (double)limit);
    return ms < WAIT_MAX_MS ? (int64_t)ms : WAIT_MAX_MS;
}

char *limit_time_text(int64_t ms, char text[32]) {
    if (ms < 1000) (void)snprintf(text, 32, "%lldms", (long long)ms);
    else if (ms % 1000 == 0) (void)snprintf(text, 32, "%llds", (long long)(ms / 1000));
    else (void)snprintf(text, 32, "%lld.%03llds", (long long)(ms / 1000), (long long)(ms % 1000));
    return text;
}

/* ---- of one process ---- */

struct entry {
    char name[LIMITS_SUBJECT_MAX]; /* "": free */
    struct limit_levels levels;    /* as of: */
    int64_t at_ms;
};
struct limits {
    struct entry entries[SETS][WAYS];
};

struct limits *limits_new(void) { return mem_zalloc(sizeof(struct limits)); }
void limits_free(struct limits *l) { mem_free(l); }

/* The subject's, filled up to now; a new one begins full. One that holds open streams goes last. */
static struct entry *entry_of(struct limits *l, const struct limit_subject *s, int64_t now_ms) {
    struct entry *set = l->entries[span_hash(span_str(s->name)) % SETS], *e = NULL, *oldest = &set[0];
    for (int i = 0; i < WAYS && !e; i++) {
        if (strcmp(set[i].name, s->name) == 0) e = &set[i];
        bool older = (set[i].levels.streams > 0) == (oldest->levels.streams > 0) ? set[i].at_ms < oldest->at_ms : oldest->levels.streams > 0;
        if (!set[i].name[0] || (oldest->name[0] && older)) oldest = &set[i];
    }
    if (!e) {
        e = oldest;
        *e = (struct entry){.levels = {.requests = (double)s->figures.requests_per_minute, .tokens = (double)s->figures.tokens_per_minute}, .at_ms = now_ms};
        span_copy(e->name, sizeof e->name, span_str(s->name));
    }
    e->levels.requests = limit_filled(e->levels.requests, s->figures.requests_per_minute, now_ms - e->at_ms);
    e->levels.tokens = limit_filled(e->levels.tokens, s->figures.tokens_per_minute, now_ms - e->at_ms);
    if (now_ms > e->at_ms) e->at_ms = now_ms;
    return e;
}

/* What a bucket must hold for a request: what it may cost, or all that it can hold. */
static double need_of(int64_t tokens, int64_t limit) { return (double)(tokens < limit ? tokens : limit); }
/* -1 costs nothing, and is not kept out by a debt. */

void limits_take(struct limits *l, const struct limit_subject *subjects, int n, int64_t tokens, bool stream, int64_t now_ms, struct limit_verdict *v) {
    struct entry *entries[LIMITS_SUBJECTS];
    ASSERT(n > 0 && n <= LIMITS_SUBJECTS);
    *v = (struct limit_verdict){.refused = LIMIT_NONE};
    for (int i = 0; i < n; i++) {
        const struct limit_figures *f = &subjects[i].figures;
        const struct limit_levels *have = &(entries[i] = entry_of(l, &subjects[i], now_ms))->levels;
        if (v->refused != LIMIT_NONE) continue;
        v->subject = i;
        if (f->requests_per_minute && have->requests < 1) {
            v->refused = LIMIT_REQUESTS;
            v->wait_ms = limit_wait_ms(have->requests, f->requests_per_minute, 1);
        } else if (f->tokens_per_minute && tokens >= 0 && have->tokens < need_of(tokens, f->tokens_per_minute)) {
            v->refused = LIMIT_TOKENS;
            v->wait_ms = limit_wait_ms(have->tokens, f->tokens_per_minute, need_of(tokens, f->tokens_per_minute));
        } else if (stream && f->streams_max && have->streams >= f->streams_max) {
            v->refused = LIMIT_STREAMS;
            v->wait_ms = STREAM_WAIT_MS;
        }
    }
    for (int i = 0; i < n; i++) {
        if (v->refused == LIMIT_NONE) {
            if (subjects[i].figures.requests_per_minute) entries[i]->levels.requests -= 1;
            if (subjects[i].figures.tokens_per_minute && tokens > 0) entries[i]->levels.tokens -= (double)tokens;
        }
        v->left[i] = entries[i]->levels;
    }
}

void limits_give(struct limits *l, const struct limit_subject *subjects, int n, double tokens, int64_t now_ms) {
    for (int i = 0; i < n; i++) {
        struct entry *e = entry_of(l, &subjects[i], now_ms);
        if (subjects[i].figures.tokens_per_minute) e->levels.tokens = limit_filled(e->levels.tokens + tokens, subjects[i].figures.tokens_per_minute, 0);
    }
}

void limits_stream(struct limits *l, const struct limit_subject *subjects, int n, int change, int64_t now_ms) {
    for (int i = 0; i < n; i++) {
        struct entry *e = entry_of(l, &subjects[i], now_ms);
        if (e->levels.streams + change >= 0) e->levels.streams += change;
    }
}

void limits_follow(struct limits *l, const struct limit_subject *subjects, int n, const struct limit_verdict *v, int64_t now_ms) {
    for (int i = 0; i < n; i++) {
        struct entry *e = entry_of(l, &subjects[i], now_ms);
        e->levels.requests = v->left[i].requests;
        e->levels.tokens = v->left[i].tokens;
    }
}

/* ---- of all ---- */

/* KEYS: a hash (r, t: levels; at: as of, by Redis' own clock) of each subject, then a sorted set of each (its streams, by when their lease ends). ARGV: tokens, stream, lease; then three figures of each
 * subject. The same arithmetic as above: tests hold the two together. */
static const char TAKE[] =
    "local n, time = #KEYS / 2, redis.call('TIME')\n"
    "local now = time[1] * 1000 + math.floor(time[2] / 1000)\n"
    "local tokens, stream, lease = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3])\n"
    "local refused, subject, wait, r, t, s = 0, 0, 0, {}, {}, {}\n"
    "for i = 1, n do\n"
    "  local rpm, tpm, most = tonumber(ARGV[3 * i + 1]), tonumber(ARGV[3 * i + 2]), tonumber(ARGV[3 * i + 3])\n"
    "  local h = redis.call('HMGET', KEYS[i], 'r', 't', 'at')\n"
    "  local gone = math.max(0, now - (tonumber(h[3] or now) or now))\n"
    "  r[i] = math.min(rpm, (tonumber(h[1] or rpm) or rpm) + rpm * gone / 60000)\n"
    "  t[i] = math.min(tpm, (tonumber(h[2] or tpm) or tpm) + tpm * gone / 60000)\n"
    "  redis.call('ZREMRANGEBYSCORE', KEYS[n + i], '-inf', now)\n"
    "  s[i] = redis.call('ZCARD', KEYS[n + i])\n"
    "  if refused == 0 then\n"
    "    local need = math.min(tokens, tpm)\n"
    "    subject = i - 1\n"
    "    if rpm > 0 and r[i] < 1 then refused = 1; wait = (1 - r[i]) * 60000 / rpm\n"
    "    elseif tpm > 0 and tokens >= 0 and t[i] < need then refused = 2; wait = (need - t[i]) * 60000 / tpm\n"
    "    elseif stream ~= '' and most > 0 and s[i] >= most then refused = 3; wait = 1000 end\n"
    "  end\n"
    "end\n"
    "local reply = {refused, subject, math.ceil(math.min(wait, 86400000))}\n"
    "for i = 1, n do\n"
    "  if refused == 0 then\n"
    "    local tpm = tonumber(ARGV[3 * i + 2])\n"
    "    if tonumber(ARGV[3 * i + 1]) > 0 then r[i] = r[i] - 1 end\n"
    "    if tpm > 0 and tokens > 0 then t[i] = t[i] - tokens end\n"
    "    redis.call('HSET', KEYS[i], 'r', string.format('%.6f', r[i]), 't', string.format('%.6f', t[i]), 'at', string.format('%.0f', now))\n"
    "    redis.call('PEXPIRE', KEYS[i], 61000 + math.ceil(math.min(86400000, tpm > 0 and math.max(0, -t[i]) * 60000 / tpm or 0)))\n"
    "    if stream ~= '' then redis.call('ZADD', KEYS[n + i], now + lease, stream); redis.call('PEXPIRE', KEYS[n + i], lease + 1000); s[i] = s[i] + 1 end\n"
    "  end\n"
    "  reply[#reply + 1] = string.format('%.6f', r[i]); reply[#reply + 1] = string.format('%.6f', t[i]); reply[#reply + 1] = s[i]\n"
    "end\n"
    "return reply\n";

/* ARGV[3]: 0 ends the stream, above it is its new lease. */
static const char GIVE[] =
    "local n, time = #KEYS / 2, redis.call('TIME')\n"
    "local now = time[1] * 1000 + math.floor(time[2] / 1000)\n"
    "local tokens, stream, lease = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3])\n"
    "for i = 1, n do\n"
    "  local tpm = tonumber(ARGV[3 * i + 2])\n"
    "  local t = tonumber(redis.call('HGET', KEYS[i], 't') or tpm) or tpm\n"
    "  if tokens ~= 0 and tpm > 0 and redis.call('EXISTS', KEYS[i]) == 1 then redis.call('HSET', KEYS[i], 't', string.format('%.6f', math.min(tpm, t + tokens))) end\n"
    "  if stream ~= '' and lease > 0 then redis.call('ZADD', KEYS[n + i], now + lease, stream); redis.call('PEXPIRE', KEYS[n + i], lease + 1000)\n"
    "  elseif stream ~= '' then redis.call('ZREM', KEYS[n + i], stream) end\n"
    "end\n"
    "return 0\n";

struct writer {
    char *text;
    size_t used;
    struct span *argv;
    int argc;
};
__attribute__((format(printf, 2, 3))) static void put(struct writer *w, const char *format, ...) {
    va_list args;
    va_start(args, format);
    int n = vsnprintf(w->text + w->used, LIMITS_TEXT_MAX - w->used, format, args);
    va_end(args);
    ASSERT(n >= 0 && (size_t)n < LIMITS_TEXT_MAX - w->used && w->argc < LIMITS_ARGS); /* names and ids have their own bounds */
    w->argv[w->argc++] = span_of(w->text + w->used, (size_t)n);
    w->used += (size_t)n + 1;
}

static void write_command(struct span script, const struct limit_subject *subjects, int n, double tokens, const char *stream, int64_t lease_ms, char text[LIMITS_TEXT_MAX], struct span argv[LIMITS_ARGS], int *argc) {
    struct writer w = {.text = text, .argv = argv};
    put(&w, "EVAL");
    argv[w.argc++] = script;
    put(&w, "%d", 2 * n);
    for (int i = 0; i < n; i++) put(&w, "genloop:limit:%.*s", LIMITS_SUBJECT_MAX, subjects[i].name);
    for (int i = 0; i < n; i++) put(&w, "genloop:streams:%.*s", LIMITS_SUBJECT_MAX, subjects[i].name);
    put(&w, "%.6f", tokens);
    put(&w, "%.200s", stream);
    put(&w, "%lld", (long long)lease_ms);
    for (int i = 0; i < n; i++) {
        put(&w, "%lld", (long long)subjects[i].figures.requests_per_minute);
        put(&w, "%lld", (long long)subjects[i].figures.tokens_per_minute);
        put(&w, "%lld", (long long)subjects[i].figures.streams_max);
    }
    *argc = w.argc;
}

void limits_command_take(const struct limit_subject *subjects, int n, int64_t tokens, const char *stream, char text[LIMITS_TEXT_MAX], struct span argv[LIMITS_ARGS], int *argc) {
    write_command(span_of(TAKE, sizeof TAKE - 1), subjects, n, (double)tokens, stream, LIMITS_STREAM_LEASE_MS, text, argv, argc);
}

void limits_command_give(const struct limit_subject *subjects, int n, double tokens, const char *stream, bool renew, char text[LIMITS_TEXT_MAX], struct span argv[LIMITS_ARGS], int *argc) {
    write_command(span_of(GIVE, sizeof GIVE - 1), subjects, n, tokens, stream, renew ? LIMITS_STREAM_LEASE_MS : 0, text, argv, argc);
}

int limits_reply(const struct redis_reply *reply, int n, struct limit_verdict *out) {
    struct limit_verdict v = {0};
    if (redis_type(reply) != REDIS_ARRAY || redis_size(reply) != (size_t)(3 + 3 * n)) return E_UNKNOWN;
    int64_t refused = redis_int(redis_at(reply, 0)), subject = redis_int(redis_at(reply, 1));
    if (refused < LIMIT_NONE || refused > LIMIT_STREAMS || subject < 0 || subject >= n) return E_UNKNOWN;
    v.refused = (enum limit_kind)refused;
    v.subject = (int)subject;
    v.wait_ms = redis_int(redis_at(reply, 2));
    for (int i = 0; i < n; i++) {
        const size_t at = (size_t)(3 + 3 * i);
        if (span_to_f64(redis_str(redis_at(reply, at)), &v.left[i].requests) < 0 || span_to_f64(redis_str(redis_at(reply, at + 1)), &v.left[i].tokens) < 0) return E_UNKNOWN;
        v.left[i].streams = redis_int(redis_at(reply, at + 2));
    }
    *out = v;
    return 0;
}
