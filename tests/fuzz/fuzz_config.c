/* The configuration file: what loads can be shown, and what is shown loads to the same; durations and sizes too. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct settings {
    char *name, *secret;
    int64_t count, pause_ms, size;
    double share;
    bool on;
};
#define ROW(SECTION, KEY, TYPE, FIELD, DEFAULT, MIN, MAX) {SECTION, KEY, TYPE, offsetof(struct settings, FIELD), DEFAULT, MIN, MAX, "A key."}
static const struct config_row rows[] = {
    ROW("", "log", CONFIG_STRING, name, "redis", 0, 0),       ROW("fuzz", "secret", CONFIG_SECRET, secret, "", 0, 0), ROW("fuzz", "count", CONFIG_INT, count, "3", 1, 100),
    ROW("fuzz", "pause", CONFIG_DURATION_MS, pause_ms, "5s", 0, 0), ROW("fuzz", "size", CONFIG_BYTES, size, "8MiB", 0, 0), ROW("fuzz", "share", CONFIG_REAL, share, "0.5", 0, 1),
    ROW("fuzz", "on", CONFIG_BOOL, on, "true", 0, 0),
};
enum { ROWS = sizeof rows / sizeof *rows };

/* A file without a disk, under a path. */
static int load(struct span text, struct settings *s, struct error *err) {
    static const char *const others[] = {"gateway", NULL};
    char path[64];
    int fd = memfd_create("fuzz", 0);
    ASSERT(fd >= 0 && write(fd, text.data, text.len) == (ssize_t)text.len);
    (void)snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    int r = config_load(path, rows, ROWS, others, s, err);
    close(fd);
    return r;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct settings one = {0}, two = {0};
    struct error err = {0};
    struct buf shown, again;
    int64_t n;
    if (duration_parse(span_of(data, size), &n) == 0) ASSERT(n >= 0);
    if (bytes_parse(span_of(data, size), &n) == 0) ASSERT(n >= 0);
    int r = load(span_of(data, size), &one, &err);
    if (r < 0) {
        ASSERT(err.code == r && err.message[0] && span_is_utf8(span_str(err.message)));
        return 0;
    }
    ASSERT(one.count >= 1 && one.count <= 100 && one.share >= 0 && one.share <= 1);
    buf_init(&shown, 16 * size + 65536);
    buf_init(&again, 16 * size + 65536);
    ASSERT(config_show(rows, ROWS, &one, &shown) == 0);
    ASSERT(load(buf_span(&shown), &two, &err) == 0);
    ASSERT(config_show(rows, ROWS, &two, &again) == 0);
    ASSERT(span_eq(buf_span(&shown), buf_span(&again)));
    config_free(rows, ROWS, &one);
    config_free(rows, ROWS, &two);
    buf_fini(&shown);
    buf_fini(&again);
    return 0;
}
