#include "base/clock.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <time.h>

static atomic_bool frozen;
static _Atomic int64_t frozen_wall_ms, frozen_mono_ms;

static int64_t read_us(clockid_t id) {
    struct timespec t;
    clock_gettime(id, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

int64_t clock_wall_ms(void) { return atomic_load(&frozen) ? atomic_load(&frozen_wall_ms) : read_us(CLOCK_REALTIME) / 1000; }
int64_t clock_mono_ms(void) { return clock_mono_us() / 1000; }
int64_t clock_mono_us(void) { return atomic_load(&frozen) ? atomic_load(&frozen_mono_ms) * 1000 : read_us(CLOCK_MONOTONIC); }

void clock_freeze(int64_t wall_ms, int64_t mono_ms) {
    atomic_store(&frozen_wall_ms, wall_ms);
    atomic_store(&frozen_mono_ms, mono_ms);
    atomic_store(&frozen, true);
}

void clock_thaw(void) { atomic_store(&frozen, false); }

char *time_format(int64_t wall_ms, char text[TIME_TEXT_MAX]) {
    int64_t seconds = wall_ms / 1000, ms = wall_ms % 1000;
    if (ms < 0) {
        ms += 1000;
        seconds--;
    }
    /* Years of four digits are all that RFC 3339 has. */
    const int64_t first = -62167219200, last = 253402300799;
    if (seconds < first) seconds = first, ms = 0;
    if (seconds > last) seconds = last, ms = 999;
    time_t t = (time_t)seconds;
    struct tm tm;
    gmtime_r(&t, &tm);
    size_t n = strftime(text, TIME_TEXT_MAX, "%FT%T", &tm);
    if (n < 19) n = (size_t)snprintf(text, TIME_TEXT_MAX, "%04d-%02d-%02dT%02d:%02d:%02d", (tm.tm_year + 1900) % 10000, (tm.tm_mon + 1) % 100, tm.tm_mday % 100, tm.tm_hour % 100, tm.tm_min % 100, tm.tm_sec % 100);
    snprintf(text + n, TIME_TEXT_MAX - n, ".%03dZ", (int)ms);
    return text;
}
