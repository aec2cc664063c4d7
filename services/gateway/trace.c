#include "trace.h"

#include <stdio.h>

enum { TRACE_AT = 3, TRACE_LEN = 32, PARENT_AT = 36, PARENT_LEN = 16, FLAGS_AT = 53, LEN = 55 };

static int digit(char c) { return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1; } /* lower case only: the standard's own */

static bool hex(struct span s) {
    for (size_t i = 0; i < s.len; i++)
        if (digit(s.data[i]) < 0) return false;
    return true;
}

static bool zero(struct span s) {
    for (size_t i = 0; i < s.len; i++)
        if (s.data[i] != '0') return false;
    return true;
}

/* Version 00 is just so long; a later one may go on behind a hyphen; ff is none. */
static bool valid(struct span s) {
    if (s.len < LEN) return false;
    struct span version = span_sub(s, 0, 2);
    if (!hex(version) || span_eq_str(version, "ff") || s.data[2] != '-' || s.data[PARENT_AT - 1] != '-' || s.data[FLAGS_AT - 1] != '-') return false;
    if (s.len > LEN && (span_eq_str(version, "00") || s.data[LEN] != '-')) return false;
    struct span trace = span_sub(s, TRACE_AT, TRACE_LEN), parent = span_sub(s, PARENT_AT, PARENT_LEN);
    return hex(trace) && !zero(trace) && hex(parent) && !zero(parent) && hex(span_sub(s, FLAGS_AT, 2));
}

static void put_hex(const uint8_t *bytes, size_t n, char *out) {
    bool nothing = true; /* all zeros is the one id that means none */
    for (size_t i = 0; i < n; i++) nothing &= bytes[i] == 0;
    for (size_t i = 0; i < n; i++) {
        uint8_t b = nothing && i == n - 1 ? 1 : bytes[i];
        out[2 * i] = "0123456789abcdef"[b >> 4];
        out[2 * i + 1] = "0123456789abcdef"[b & 15];
    }
}

char *trace_next(struct span given, const uint8_t chance[TRACE_CHANCE], char out[TRACEPARENT_MAX]) {
    bool goes_on = valid(given);
    bool sampled = goes_on && (digit(given.data[FLAGS_AT + 1]) & 1); /* the one flag whose meaning every version has */
    (void)snprintf(out, TRACEPARENT_MAX, "00-%032d-%016d-%s", 0, 0, sampled ? "01" : "00");
    if (goes_on) memcpy(out + TRACE_AT, given.data + TRACE_AT, TRACE_LEN);
    else put_hex(chance, TRACE_LEN / 2, out + TRACE_AT);
    put_hex(chance + TRACE_LEN / 2, PARENT_LEN / 2, out + PARENT_AT);
    return out;
}
