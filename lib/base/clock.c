#include "base/clock.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <time.h>

#include "base/error.h"

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
int64_t clock_thread_us(void) { return read_us(CLOCK_THREAD_CPUTIME_ID); }

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

static int digits(struct span s, size_t at, size_t n, int *value) {
    if (at + n > s.len) return E_INVALID;
    int v = 0;
    for (size_t i = at; i < at + n; i++) {
        if (s.data[i] < '0' || s.data[i] > '9') return E_INVALID;
        v = v * 10 + (s.data[i] - '0');
    }
    *value = v;
    return 0;
}

/* Days from 1970-01-01 to a date of the Gregorian calendar. */
static int64_t days_from_civil(int year, int month, int day) {
    int64_t y = month <= 2 ? year - 1 : year, era = (y >= 0 ? y : y - 399) / 400, yoe = y - era * 400;
    int64_t doy = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1, doe = yoe * 365 + yoe / 4 - yoe / 100 + doy;
    return era * 146097 + doe - 719468;
}

int time_parse(struct span s, int64_t *wall_ms) {
    static const int month_days[] = {31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    int year, month, day, hour, minute, second;
    if (digits(s, 0, 4, &year) || digits(s, 5, 2, &month) || digits(s, 8, 2, &day) || digits(s, 11, 2, &hour) || digits(s, 14, 2, &minute) || digits(s, 17, 2, &second)) return E_INVALID;
    if (s.data[4] != '-' || s.data[7] != '-' || (s.data[10] != 'T' && s.data[10] != 't' && s.data[10] != ' ') || s.data[13] != ':' || s.data[16] != ':') return E_INVALID;
    if (month < 1 || month > 12 || day < 1 || day > month_days[month - 1] || hour > 23 || minute > 59 || second > 60) return E_INVALID;
    bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    if (month == 2 && day == 29 && !leap) return E_INVALID;
    size_t at = 19;
    int millis = 0;
    if (at < s.len && s.data[at] == '.') {
        int scale = 100;
        size_t first = ++at;
        for (; at < s.len && s.data[at] >= '0' && s.data[at] <= '9'; at++, scale /= 10) millis += (s.data[at] - '0') * scale;
        if (at == first) return E_INVALID;
    }
    int offset = 0;
    if (at >= s.len) return E_INVALID;
    if (s.data[at] == '+' || s.data[at] == '-') {
        int h, m;
        if (digits(s, at + 1, 2, &h) || digits(s, at + 4, 2, &m) || s.data[at + 3] != ':' || h > 23 || m > 59) return E_INVALID;
        offset = (h * 60 + m) * (s.data[at] == '-' ? -1 : 1);
        at += 6;
    } else if (s.data[at] == 'Z' || s.data[at] == 'z')
        at++;
    if (at != s.len) return E_INVALID;
    *wall_ms = ((days_from_civil(year, month, day) * 24 + hour) * 60 + minute - offset) * 60000 + second * 1000 + millis;
    return 0;
}
