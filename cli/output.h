/*
 * How the command shows things: tables, progress, figures in words. Progress goes to stderr: a bar with rate and time left where that is a terminal, otherwise a plain line
 * every few seconds, so that a log of it stays short. One thread at a time.
 */
#ifndef GENLOOP_CLI_OUTPUT_H
#define GENLOOP_CLI_OUTPUT_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/buf.h"

bool output_is_terminal(FILE *f);
int output_width(FILE *f); /* columns of the terminal; 80 where it is none */

/* Figures in words; out is returned. */
enum { FIGURE_MAX = 32 };
char *figure_bytes(uint64_t bytes, char out[FIGURE_MAX]);   /* "3.4 MiB" */
char *figure_ms(int64_t ms, char out[FIGURE_MAX]);          /* "340 ms", "12 s", "3 min 20 s", "5 h 3 min", "2 d 4 h" */
char *figure_count(double n, char out[FIGURE_MAX]);         /* "950", "12.3 k", "4.5 M" */

/* A table of aligned columns: a heading, then cells row by row. Widths count characters. */
enum { TABLE_COLUMNS_MAX = 16 };
struct table {
    struct buf cells;     /* each ended by NUL */
    size_t columns, count;
    uint32_t right;       /* a bit per column that holds numbers */
};
/* headings: "NAME|STATE|>LAG", > for numbers at the right border. */
void table_init(struct table *t, const char *headings);
void table_cell(struct table *t, const char *format, ...) __attribute__((format(printf, 2, 3)));
void table_span(struct table *t, struct span text);
/* Renders with two spaces between columns; E_NOMEM or E_FULL where a cell was lost. */
int table_render(struct table *t, struct buf *out);
void table_fini(struct table *t);

/* Progress of something with a known or an unknown (0) total. label and unit are borrowed. */
struct progress {
    const char *label, *unit; /* "documents"; "B" is shown as sizes */
    uint64_t total, done;
    int64_t started_ms, shown_ms, rate_ms;
    uint64_t rate_done;
    double rate;              /* units per second, smoothed */
    bool terminal, open, finished;
    char note[80];
};
void progress_begin(struct progress *p, const char *label, uint64_t total, const char *unit);
/* note: what stands at the end ("loss 2.31"); NULL leaves it. Shows itself at most ten times a second (a plain line each 5 s). */
void progress_set(struct progress *p, uint64_t done, const char *note);
void progress_total(struct progress *p, uint64_t total);
/* The last line stays, with what it took. Accepts one that was never begun. */
void progress_end(struct progress *p, bool ok);
/* The line of now, without colours: what both forms show. Pure; for tests. */
void progress_render(const struct progress *p, int64_t now_ms, int width, char *out, size_t out_size);

#endif
