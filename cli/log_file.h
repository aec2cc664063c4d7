/*
 * HOME/logs/NAME.log: what a child printed, as JSON lines. The services' lines are; what is none (Redis, an abort's last words) is put into one. A file that is full becomes NAME.log.1,
 * that one NAME.log.2, and so on to the number kept. On the supervisor's loop; appends of a line to a file do not wait for the disk.
 */
#ifndef GENLOOP_CLI_LOG_FILE_H
#define GENLOOP_CLI_LOG_FILE_H

#include <limits.h>

#include "base/buf.h"
#include "base/error.h"

enum { LOG_LINE_MAX = 16 << 10 }; /* as base/log.h; longer output is cut into lines of it */

struct log_file {
    char path[PATH_MAX], name[24];
    int fd;
    int64_t size, size_max;
    int keep;
    bool text;            /* the services write text instead of JSON: their lines stay as they are */
    struct buf partial;   /* a line that has not ended */
    char last_error[256]; /* the newest message of level error, or of what was no log line */
};
int log_file_open(struct log_file *f, const char *home, const char *name, int64_t size_max, int keep, bool text, struct error *err);
void log_file_close(struct log_file *f); /* with what was left of a line */
void log_file_feed(struct log_file *f, struct span bytes); /* as a child printed them */
void log_file_flush(struct log_file *f); /* the child is gone: the last line ends here */
/* A line of our own. level: "info", "warn", "error". */
void log_file_say(struct log_file *f, const char *level, const char *event, struct span message);
/* One line of a child (without its end) as JSON; for what is JSON already, itself. Pure. */
int log_line_render(const char *name, bool text, int64_t now_ms, struct span line, struct buf *out);

#endif
