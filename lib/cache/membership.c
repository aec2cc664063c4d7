#include "cache/membership.h"

#include "base/buf.h"

enum { MEMBER_KEY_MAX = 512, MEMBER_SCAN_COUNT = 256 };
static const char prefix[] = "genloop:member:";

static bool name_ok(struct span s) { return s.len > 0 && s.len <= 128 && span_find_char(s, ':') < 0 && span_find_char(s, '*') < 0; }

/* The key is written into `key`; E_INVALID where a name would make another key's shape. */
static int member_key(struct span service, struct span id, struct buf *key, struct error *err) {
    if (!name_ok(service) || !name_ok(id)) return error_set(err, E_INVALID, "a service and its instance have names of 1 to 128 characters without ':'");
    return buf_printf(key, "%s%.*s:%.*s", prefix, SPAN_ARG(service), SPAN_ARG(id));
}

int membership_announce(struct redis *r, struct span service, struct span id, struct span member, struct error *err) {
    struct buf key;
    buf_init(&key, MEMBER_KEY_MAX);
    int e = member_key(service, id, &key, err);
    if (e == 0) {
        char ttl[16];
        snprintf(ttl, sizeof ttl, "%d", MEMBER_TTL_S);
        struct span words[] = {SPAN("SET"), buf_span(&key), member, SPAN("EX"), span_str(ttl)};
        e = redis_command(r, 5, words, NULL, err);
    }
    buf_fini(&key);
    return e;
}

int membership_leave(struct redis *r, struct span service, struct span id, struct error *err) {
    struct buf key;
    buf_init(&key, MEMBER_KEY_MAX);
    int e = member_key(service, id, &key, err);
    if (e == 0) {
        struct span words[] = {SPAN("DEL"), buf_span(&key)};
        e = redis_command(r, 2, words, NULL, err);
    }
    buf_fini(&key);
    return e;
}

/* Hands on the members among the keys that one SCAN gave. A key that ran out meanwhile is a nil: not there. */
static int list_some(struct redis *r, const struct redis_reply *keys, void *arg,
                     void (*on_member)(void *arg, struct span id, struct span member), struct error *err) {
    size_t n = redis_size(keys);
    for (size_t i = 0; i < n; i++) {
        struct span key = redis_str(redis_at(keys, i));
        struct span rest = span_skip(key, sizeof prefix - 1);
        ptrdiff_t colon = span_find_char(rest, ':');
        if (!span_starts(key, SPAN("genloop:member:")) || colon < 0) continue;
        struct redis_reply *value = NULL;
        struct span get[] = {SPAN("GET"), key};
        int e = redis_command(r, 2, get, &value, err);
        if (e != 0) return e;
        if (redis_type(value) == REDIS_STRING) on_member(arg, span_skip(rest, (size_t)colon + 1), redis_str(value));
        redis_reply_free(value);
    }
    return 0;
}

int membership_list(struct redis *r, struct span service, void *arg, void (*on_member)(void *arg, struct span id, struct span member),
                    struct error *err) {
    if (!span_empty(service) && !name_ok(service)) return error_set(err, E_INVALID, "no service has this name");
    char pattern[192], count[16];
    snprintf(pattern, sizeof pattern, "%s%.*s%s", prefix, SPAN_ARG(service), span_empty(service) ? "*" : ":*");
    snprintf(count, sizeof count, "%d", MEMBER_SCAN_COUNT);
    char cursor[32] = "0";
    do { /* SCAN gives every key that is there throughout at least once; a key given twice is the same member again */
        struct redis_reply *page = NULL;
        int e = redis_commandl(r, &page, err, "SCAN", cursor, "MATCH", pattern, "COUNT", count, NULL);
        if (e != 0) return e;
        span_copy(cursor, sizeof cursor, redis_str(redis_at(page, 0)));
        e = list_some(r, redis_at(page, 1), arg, on_member, err);
        redis_reply_free(page);
        if (e != 0) return e;
    } while (strcmp(cursor, "0") != 0);
    return 0;
}
