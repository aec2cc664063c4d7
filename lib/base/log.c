#include "base/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/json.h"

/* A longer message is cut: a line must fit one write, and a pipe takes 4 KiB at once without mixing writers. */
enum { LOG_MESSAGE_MAX = 2048 };

static const char *_Atomic log_service = "genloop";
static atomic_int log_level = LOG_INFO;
static atomic_bool log_json = true;

void log_init(const char *service, enum log_level level, bool json) {
    atomic_store(&log_service, service);
    atomic_store(&log_level, (int)level);
    atomic_store(&log_json, json);
}

bool log_enabled(enum log_level level) { return (int)level >= atomic_load_explicit(&log_level, memory_order_relaxed); }

static void write_line(struct span line) {
    while (line.len) {
        ssize_t n = write(STDERR_FILENO, line.data, line.len);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return; /* there is nobody to tell */
        line = span_skip(line, (size_t)n);
    }
}

void log_write(enum log_level level, const char *event, const char *format, ...) {
    static const char *const names[] = {"debug", "info", "warn", "error"};
    if (!log_enabled(level)) return;
    int saved = errno; /* who logs in an error path still wants to read it */
    char message[LOG_MESSAGE_MAX], time[TIME_TEXT_MAX];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(message, sizeof message, format, args);
    va_end(args);
    struct span text = span_of(message, n < 0 ? 0 : (size_t)n < sizeof message ? (size_t)n : sizeof message - 1);
    text.len = span_utf8_complete(text);
    time_format(clock_wall_ms(), time);
    struct buf line;
    buf_init(&line, 16 * 1024);
    if (atomic_load(&log_json)) {
        struct json_out w;
        json_begin(&w, &line);
        json_object(&w);
        json_str(&w, "time", time);
        json_str(&w, "level", names[level]);
        json_str(&w, "service", atomic_load(&log_service));
        json_str(&w, "event", event);
        json_span(&w, "message", text);
        json_object_end(&w);
    } else {
        /* Control characters would let a message forge lines or move the terminal's cursor. */
        for (size_t i = 0; i < text.len; i++)
            if ((unsigned char)message[i] < 0x20 || message[i] == 0x7f) message[i] = ' ';
        buf_printf(&line, "%s %-5s %s %s: %.*s", time, names[level], atomic_load(&log_service), event, SPAN_ARG(text));
    }
    buf_append_char(&line, '\n');
    if (!line.failed) write_line(buf_span(&line));
    buf_fini(&line);
    errno = saved;
}
