/*
 * The seams for time and chance. A pure core takes `now_ms` as a parameter; only shells ask here. A test can freeze both.
 * Thread-safe.
 */
#ifndef GENLOOP_BASE_CLOCK_H
#define GENLOOP_BASE_CLOCK_H

#include <stddef.h>
#include <stdint.h>

#include "base/span.h"

int64_t clock_wall_ms(void); /* milliseconds since 1970, UTC: for people and records */
int64_t clock_mono_ms(void); /* milliseconds of a clock that never steps: for timeouts */
int64_t clock_mono_us(void);
int64_t clock_thread_us(void); /* how long the thread has run on a CPU; never frozen */
void clock_freeze(int64_t wall_ms, int64_t mono_ms); /* tests: both stand still from here */
void clock_thaw(void);
enum { TIME_TEXT_MAX = 32 };
/* RFC 3339 in UTC with milliseconds, "2026-11-24T04:01:21.123Z"; returns text. */
char *time_format(int64_t wall_ms, char text[TIME_TEXT_MAX]);
/* RFC 3339 with seconds, an optional fraction (cut at milliseconds) and Z or an offset → milliseconds since 1970. E_INVALID, also for days that no calendar has. */
int time_parse(struct span text, int64_t *wall_ms);

#endif
