#include "log_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/json.h"

static int reopen(struct log_file *f, struct error *err) {
    struct stat st;
    f->fd = open(f->path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (f->fd < 0) return error_errno(err, errno, "%s", f->path);
    f->size = fstat(f->fd, &st) == 0 ? st.st_size : 0;
    return 0;
}

int log_file_open(struct log_file *f, const char *home, const char *name, int64_t size_max, int keep, bool text, struct error *err) {
    *f = (struct log_file){.fd = -1, .size_max = size_max, .keep = keep, .text = text};
    span_copy(f->name, sizeof f->name, span_str(name));
    int n = snprintf(f->path, sizeof f->path, "%s/logs/%s.log", home, name);
    if (n < 0 || (size_t)n >= sizeof f->path - 8) return error_set(err, E_INVALID, "the home %s is too long a path", home);
    buf_init(&f->partial, LOG_LINE_MAX);
    return reopen(f, err);
}

/* Where a rename fails the file goes on growing by a line, and is tried again: nothing printed is thrown away. */
static void rotate(struct log_file *f) {
    char from[PATH_MAX + 16], to[PATH_MAX + 16];
    for (int i = f->keep; i > 0; i--) {
        (void)snprintf(to, sizeof to, "%s.%d", f->path, i);
        if (i > 1) (void)snprintf(from, sizeof from, "%s.%d", f->path, i - 1);
        else (void)snprintf(from, sizeof from, "%s", f->path);
        (void)rename(from, to);
    }
    if (f->keep == 0) (void)unlink(f->path);
    (void)close(f->fd);
    (void)reopen(f, NULL);
}

static void append(struct log_file *f, struct span line) {
    if (f->fd < 0 && reopen(f, NULL) != 0) return;
    if (f->size > 0 && f->size + (int64_t)line.len > f->size_max) rotate(f);
    while (line.len && f->fd >= 0) {
        ssize_t n = write(f->fd, line.data, line.len);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return; /* a full disk: there is nowhere to say it */
        f->size += n;
        line = span_skip(line, (size_t)n);
    }
}

/* "4242:M 25 Nov 2026 16:00:00.123 * Ready to accept connections": role, date, a mark for the level, message. */
static bool redis_line(struct span line, const char **level, struct span *message) {
    struct span rest = line, word;
    int64_t pid;
    ptrdiff_t colon = span_find_char(line, ':');
    if (colon < 1 || (size_t)colon > 10 || span_to_i64(span_sub(line, 0, (size_t)colon), &pid) != 0) return false;
    if (span_starts(span_skip(line, (size_t)colon + 1), SPAN("signal-handler "))) { /* "4242:signal-handler (1795624312) Received SIGTERM scheduling shutdown..." */
        *level = "info";
        *message = span_skip(line, (size_t)colon + 1);
        return true;
    }
    for (int i = 0; i < 5; i++) /* role, day, month, year, time */
        if (!span_cut(&rest, ' ', &word) || word.len > 16) return false;
    if (!span_cut(&rest, ' ', &word) || word.len != 1) return false;
    *level = word.data[0] == '#' ? "warn" : word.data[0] == '*' ? "info" : "debug";
    *message = rest;
    return true;
}

int log_line_render(const char *name, bool text, int64_t now_ms, struct span line, struct buf *out) {
    bool json = span_starts(line, SPAN("{\"time\":")) && span_ends(line, SPAN("}"));
    /* "2026-11-25T16:00:00.123Z info …" */
    bool is_text = text && line.len > 24 && line.data[4] == '-' && line.data[10] == 'T' && line.data[23] == 'Z';
    if (json || is_text) {
        (void)buf_append_span(out, line);
    } else {
        char time[TIME_TEXT_MAX];
        const char *level = "error", *event = "output";
        struct span message = line;
        if (redis_line(line, &level, &message)) event = "redis";
        if (text) {
            (void)buf_printf(out, "%s %-5s %s %s: ", time_format(now_ms, time), level, name, event);
            for (size_t i = 0; i < message.len; i++) (void)buf_append_char(out, (unsigned char)message.data[i] < 0x20 || message.data[i] == 0x7f ? ' ' : message.data[i]);
        } else {
            struct json_out w;
            json_begin(&w, out);
            json_object(&w);
            json_str(&w, "time", time_format(now_ms, time));
            json_str(&w, "level", level);
            json_str(&w, "service", name);
            json_str(&w, "event", event);
            json_span(&w, "message", message);
            json_object_end(&w);
        }
    }
    (void)buf_append_char(out, '\n');
    return out->failed;
}

static void remember(struct log_file *f, struct span line) {
    struct json *root = NULL;
    /* Redis has no level above a warning: the last one before its end says why. */
    bool wanted = span_find(line, SPAN("\"level\":\"error\"")) >= 0 || span_find(line, SPAN("\"level\":\"warn\",\"service\":\"log\",\"event\":\"redis\"")) >= 0 ||
                  span_find(line, SPAN("\"level\":\"warn\",\"service\":\"cache\",\"event\":\"redis\"")) >= 0;
    if (!wanted) return;
    if (json_parse(span_trim(line), &root, NULL) == 0) {
        struct span message = json_string(json_get(root, "message"));
        if (!span_empty(message)) {
            message = span_sub(message, 0, sizeof f->last_error - 1);
            message.len = span_utf8_complete(message);
            span_copy(f->last_error, sizeof f->last_error, message);
        }
    }
    json_free(root);
}

static void end_line(struct log_file *f) {
    struct buf out;
    struct span line = buf_span(&f->partial);
    if (line.len && line.data[line.len - 1] == '\r') line.len--;
    buf_init(&out, 8 * LOG_LINE_MAX); /* every byte an escape */
    if (line.len && log_line_render(f->name, f->text, clock_wall_ms(), line, &out) == 0) {
        append(f, buf_span(&out));
        remember(f, buf_span(&out));
    }
    buf_fini(&out);
    buf_clear(&f->partial);
}

void log_file_feed(struct log_file *f, struct span bytes) {
    while (bytes.len) {
        ptrdiff_t newline = span_find_char(bytes, '\n');
        size_t n = newline < 0 ? bytes.len : (size_t)newline;
        if (n > buf_room(&f->partial)) n = buf_room(&f->partial);
        if (buf_append(&f->partial, bytes.data, n) != 0) return; /* no memory: better a line less than a supervisor less */
        bytes = span_skip(bytes, n);
        bool ended = bytes.len && bytes.data[0] == '\n';
        if (ended) bytes = span_skip(bytes, 1);
        if (ended || buf_room(&f->partial) == 0) end_line(f);
    }
}

void log_file_flush(struct log_file *f) {
    if (f->partial.len) end_line(f);
}

void log_file_say(struct log_file *f, const char *level, const char *event, struct span message) {
    char time[TIME_TEXT_MAX];
    struct buf out;
    buf_init(&out, LOG_LINE_MAX);
    if (f->text) {
        (void)buf_printf(&out, "%s %-5s %s %s: %.*s", time_format(clock_wall_ms(), time), level, f->name, event, SPAN_ARG(message));
    } else {
        struct json_out w;
        json_begin(&w, &out);
        json_object(&w);
        json_str(&w, "time", time_format(clock_wall_ms(), time));
        json_str(&w, "level", level);
        json_str(&w, "service", f->name);
        json_str(&w, "event", event);
        json_span(&w, "message", message);
        json_object_end(&w);
    }
    (void)buf_append_char(&out, '\n');
    if (!out.failed) append(f, buf_span(&out));
    buf_fini(&out);
}

void log_file_close(struct log_file *f) {
    log_file_flush(f);
    if (f->fd >= 0) (void)close(f->fd);
    f->fd = -1;
    buf_fini(&f->partial);
}
