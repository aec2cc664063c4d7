/*
 * Numbers between bounds, digit by digit: -?int(.fraction)?, no exponent, at most GRAMMAR_DIGITS_MAX digits in all. A number of fixed length is below another where the first
 * digit that differs is; so a way through the digits need only know whether it still lies on the lower or the upper bound.
 */
#include <math.h>
#include <stdio.h>

#include "engine/grammar_internal.h"

enum { DIGITS = GRAMMAR_DIGITS_MAX };

struct number {
    struct builder *b;
    uint32_t end;
    bool integer;
    uint32_t more[DIGITS + 1], dot[DIGITS + 1]; /* may end, and so many digits are left; behind the dot. 0: not made */
};

static void digit(struct builder *b, uint32_t from, unsigned low, unsigned high, uint32_t to) { nfa_bytes(b, from, (uint8_t)('0' + low), (uint8_t)('0' + high), to); }

static uint32_t free_fraction(struct number *n, uint32_t left) {
    for (uint32_t k = 0; k <= left; k++) {
        if (n->more[k]) continue;
        n->more[k] = nfa_node(n->b);
        nfa_free(n->b, n->more[k], n->end);
        if (k > 0) {
            digit(n->b, n->more[k], 0, 9, n->more[k - 1]);
            n->dot[k] = nfa_node(n->b);
            digit(n->b, n->dot[k], 0, 9, n->more[k - 1]);
        }
    }
    return n->dot[left];
}

/* A whole part that lies on no bound: the number may end here, or go on with any fraction. */
static void whole_done(struct number *n, uint32_t from, uint32_t digits) {
    nfa_free(n->b, from, n->end);
    if (n->integer || digits >= DIGITS) return;
    uint32_t dot = free_fraction(n, DIGITS - digits);
    nfa_bytes(n->b, from, '.', '.', dot);
}

static const uint64_t POWERS[] = {1u, 10u, 100u, 1000u, 10000u, 100000u, 1000000u, 10000000u, 100000000u, 1000000000u, 10000000000u, 100000000000u, 1000000000000u,
                                  10000000000000u, 100000000000000u, 1000000000000000u, 10000000000000000u};

/* Numbers of `length` digits, leading zeros and all, from low to high. No deeper than DIGITS. */
static uint32_t fixed(struct builder *b, uint32_t from, uint64_t low, uint64_t high, uint32_t length) {
    uint32_t to = nfa_node(b);
    uint64_t power = POWERS[length - 1];
    unsigned first = (unsigned)(low / power), last = (unsigned)(high / power);
    if (length == 1) {
        digit(b, from, first, last, to);
        return to;
    }
    if (first == last) {
        uint32_t next = nfa_node(b);
        digit(b, from, first, first, next);
        return fixed(b, next, low % power, high % power, length - 1);
    }
    uint32_t any = nfa_node(b), at = any;
    if (low % power != 0) {
        uint32_t next = nfa_node(b);
        digit(b, from, first, first, next);
        nfa_free(b, fixed(b, next, low % power, power - 1, length - 1), to);
        first++;
    }
    if (high % power != power - 1) {
        uint32_t next = nfa_node(b);
        digit(b, from, last, last, next);
        nfa_free(b, fixed(b, next, 0, high % power, length - 1), to);
        last--; /* first < last, or first was this */
    }
    if (first <= last) {
        digit(b, from, first, last, any);
        for (uint32_t i = 1; i < length; i++) {
            uint32_t next = nfa_node(b);
            digit(b, at, 0, 9, next);
            at = next;
        }
        nfa_free(b, at, to);
    }
    return to;
}

static uint32_t digits_of(uint64_t v) {
    uint32_t n = 1;
    while (n < DIGITS && v >= POWERS[n]) n++;
    return n;
}

/* Whole parts from low to high, each going on freely. */
static void wholes(struct number *n, uint32_t from, uint64_t low, uint64_t high) {
    for (uint32_t length = 1; length <= DIGITS; length++) {
        uint64_t least = length == 1 ? 0 : POWERS[length - 1], most = POWERS[length] - 1;
        if (least < low) least = low;
        if (most > high) most = high;
        if (least <= most) whole_done(n, fixed(n->b, from, least, most, length), length);
    }
}

/* A bound as whole part and the digits of its fraction. */
struct decimal {
    uint64_t whole;
    uint8_t fraction[DIGITS];
    bool given, open;
};

static struct decimal decimal_of(double v, bool given, bool open) {
    struct decimal d = {.given = given && v < 1e16, .open = open};
    char text[64];
    double back = 0;
    if (!d.given) return d;
    int places = 0;
    for (; places <= DIGITS; places++) {
        (void)snprintf(text, sizeof text, "%.*f", places, v);
        if (span_to_f64(span_str(text), &back) == 0 && back == v) break;
    }
    struct span rest = span_str(text), whole;
    span_cut(&rest, '.', &whole);
    if (span_to_u64(whole, &d.whole) != 0) d.given = false;
    for (size_t i = 0; i < rest.len && i < DIGITS; i++) d.fraction[i] = (uint8_t)(rest.data[i] - '0');
    return d;
}

static bool zeros(const uint8_t *digits, uint32_t from) {
    for (uint32_t i = from; i < DIGITS; i++)
        if (digits[i]) return false;
    return true;
}

/* Fractions behind a whole part that lies on the lower bound, the upper one, or both (NULL: on neither). The ways that lie on one or both are at most three at a time. */
static void bounded_fraction(struct number *n, uint32_t from, uint32_t left, const struct decimal *low, const struct decimal *high) {
    struct builder *b = n->b;
    uint32_t at[4] = {0, 0, 0, 0}; /* by which bounds it lies on: 1 low, 2 high */
    at[(low ? 1 : 0) | (high ? 2 : 0)] = from;
    for (uint32_t place = 0; place <= left; place++) {
        uint32_t next[4] = {0, 0, 0, 0};
        for (unsigned on = 1; on < 4; on++) {
            if (!at[on]) continue;
            bool on_low = on & 1, on_high = on & 2;
            bool enough = !on_low || (zeros(low->fraction, place) && !low->open), below = !on_high || !high->open || !zeros(high->fraction, place);
            if (enough && below) nfa_free(b, at[on], n->end);
            if (place == left || n->integer) continue;
            uint32_t digits = at[on];
            if (place == 0) {
                digits = nfa_node(b);
                nfa_bytes(b, at[on], '.', '.', digits);
            }
            unsigned first = on_low ? low->fraction[place] : 0, last = on_high ? high->fraction[place] : 9;
            for (unsigned d = first; d <= last; d++) {
                unsigned still = (on_low && d == first ? 1u : 0u) | (on_high && d == last ? 2u : 0u);
                uint32_t to;
                if (still == 0) {
                    free_fraction(n, left - place - 1);
                    to = n->more[left - place - 1];
                } else {
                    if (!next[still]) next[still] = nfa_node(b);
                    to = next[still];
                }
                digit(b, digits, d, d, to);
            }
        }
        memcpy(at, next, sizeof at);
    }
}

static void exact_whole(struct number *n, uint32_t from, const struct decimal *low, const struct decimal *high) {
    uint64_t whole = low ? low->whole : high->whole;
    uint32_t digits = digits_of(whole);
    bounded_fraction(n, fixed(n->b, from, whole, whole, digits), DIGITS - digits, low, high);
}

/* Numbers without a sign. low is given always. */
static void magnitude(struct number *n, uint32_t from, struct decimal low, struct decimal high) {
    uint64_t most = POWERS[DIGITS] - 1;
    if (low.whole > most) return;
    if (high.given && high.whole > most) high.given = false;
    if (high.given && low.whole > high.whole) return;
    if (high.given && low.whole == high.whole) {
        exact_whole(n, from, &low, &high);
        return;
    }
    bool plain_low = !low.open && zeros(low.fraction, 0); /* the bound is whole: nothing of it is to be watched */
    if (!plain_low) exact_whole(n, from, &low, NULL);
    if (high.given) exact_whole(n, from, NULL, &high);
    uint64_t first = low.whole + !plain_low, last = high.given ? high.whole - 1 : most; /* high.whole > low.whole ≥ 0 */
    if (first <= last) wholes(n, from, first, last);
}

uint32_t number_build(struct builder *b, uint32_t from, bool integer, const struct number_bounds *given) {
    struct number n = {.b = b, .end = nfa_node(b), .integer = integer};
    struct number_bounds s = *given;
    if (integer) { /* bounds that are whole and closed */
        if (s.has_low) s.low = s.low_open ? floor(s.low) + 1 : ceil(s.low);
        if (s.has_high) s.high = s.high_open ? ceil(s.high) - 1 : floor(s.high);
        s.low_open = s.high_open = false;
    }
    if (s.has_low && s.has_high && s.low > s.high) return n.end;
    if (!s.has_high || s.high >= 0) {
        bool low = s.has_low && s.low > 0;
        magnitude(&n, from, low ? decimal_of(s.low, true, s.low_open) : decimal_of(0, true, s.has_low && s.low_open && s.low == 0),
                  decimal_of(s.high, s.has_high, s.high_open));
        if (low && s.low >= 1e16) builder_fail(b, E_UNSUPPORTED, "a minimum of more than %d digits is not supported", DIGITS);
    }
    if (!s.has_low || s.low < 0) {
        uint32_t minus = nfa_node(b);
        double least = s.has_high && s.high < 0 ? -s.high : integer ? 1 : 0;
        bool open = (s.has_high && s.high <= 0 && s.high_open) || least == 0; /* no -0 */
        nfa_bytes(b, from, '-', '-', minus);
        if (least >= 1e16) builder_fail(b, E_UNSUPPORTED, "a maximum of more than %d digits is not supported", DIGITS);
        else if (!(s.has_low && integer && -s.low < least)) magnitude(&n, minus, decimal_of(least, true, open), decimal_of(-s.low, s.has_low, s.low_open));
    }
    return n.end;
}
