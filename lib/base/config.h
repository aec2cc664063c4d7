/*
 * Configuration from one typed table: the YAML file, the environment (GENLOOP_SECTION_KEY, and ..._FILE for secrets) and the
 * reference in docs/ all come from the same rows. A service registers the rows it knows; keys that no row names are errors,
 * except in the sections of other services. Read once at start.
 *
 *     static const struct config_row rows[] = {
 *         {"gateway", "listen", CONFIG_STRING, offsetof(struct settings, listen), "127.0.0.1:8080", 0, 0, "Address and port of the HTTP door."},
 *     };
 */
#ifndef GENLOOP_BASE_CONFIG_H
#define GENLOOP_BASE_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/error.h"

enum config_type { CONFIG_STRING, CONFIG_SECRET, CONFIG_INT, CONFIG_REAL, CONFIG_BOOL, CONFIG_DURATION_MS, CONFIG_BYTES };
/* CONFIG_STRING, CONFIG_SECRET: char * (owned by the struct; config_free). CONFIG_INT, _DURATION_MS, _BYTES: int64_t. CONFIG_REAL: double. CONFIG_BOOL: bool.
 * Durations read "250ms", "5s", "10m", "24h", "7d"; sizes "64KiB", "8MiB", "1GiB" or a number of bytes. */

struct config_row {
    const char *section; /* "" for the keys that all services share: log, store, redis … */
    const char *key;
    enum config_type type;
    size_t offset;             /* of the field in the settings struct */
    const char *default_text;  /* as it would stand in the file; NULL: the key is required */
    double min, max;           /* of numbers; both 0: no limit */
    const char *doc;           /* one sentence, with unit and reason */
};

/* Fills *settings from path (NULL or "": no file), then the environment. rows of one process in one array of n.
 * sections: names of the other sections that may stand in the file (ended by NULL). E_INVALID names file, key and what was expected. */
int config_load(const char *path, const struct config_row *rows, size_t n, const char *const *sections, void *settings, struct error *err);
void config_free(const struct config_row *rows, size_t n, void *settings);
/* The reference: one Markdown table row per key. */
int config_describe(const struct config_row *rows, size_t n, struct buf *out);
/* What is in force, as YAML; secrets shown as "***". */
int config_show(const struct config_row *rows, size_t n, const void *settings, struct buf *out);
/* "5s", "8MiB" */
int duration_parse(struct span text, int64_t *ms);
int bytes_parse(struct span text, int64_t *bytes);

#endif
