/*
 * The log of a process: JSON lines or text on stderr. Only executables log; libraries return errors (lib/service and the shells
 * log for them). Never log prompts, documents, keys or tokens. Thread-safe: a line is one write.
 *
 *     log_info("gateway.listen", "on %s", address)  →  {"time":"2026-…Z","level":"info","service":"gateway","event":"gateway.listen","message":"on …"}
 */
#ifndef GENLOOP_BASE_LOG_H
#define GENLOOP_BASE_LOG_H

#include <stdbool.h>

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR };

/* service: the name in every line, borrowed for ever. */
void log_init(const char *service, enum log_level level, bool json);
bool log_enabled(enum log_level level);
/* event: a dotted name, "noun.what_happened". Then a message in printf form, shown as "message". */
void log_write(enum log_level level, const char *event, const char *format, ...) __attribute__((format(printf, 3, 4)));

#define log_debug(...) (log_enabled(LOG_DEBUG) ? log_write(LOG_DEBUG, __VA_ARGS__) : (void)0)
#define log_info(...) log_write(LOG_INFO, __VA_ARGS__)
#define log_warn(...) log_write(LOG_WARN, __VA_ARGS__)
#define log_error(...) log_write(LOG_ERROR, __VA_ARGS__)

#endif
