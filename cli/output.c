#include "output.h"

#include <stdarg.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"

enum { TABLE_BYTES_MAX = 16 << 20, TERMINAL_EVERY_MS = 100, PLAIN_EVERY_MS = 5000, RATE_EVERY_MS = 500, BAR_MAX = 30 };

bool output_is_terminal(FILE *f) { return isatty(fileno(f)) == 1; }

int output_width(FILE *f) {
    struct winsize size;
    return ioctl(fileno(f), TIOCGWINSZ, &size) == 0 && size.ws_col >= 20 ? size.ws_col : 80;
}

/* ---- figures ---- */

char *figure_bytes(uint64_t bytes, char out[FIGURE_MAX]) {
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
    double n = (double)bytes;
    int u = 0;
    for (; n >= 1024 && u < 5; u++) n /= 1024;
    (void)snprintf(out, FIGURE_MAX, u == 0 || n >= 100 ? "%.0f %s" : "%.1f %s", n, units[u]);
    return out;
}

char *figure_ms(int64_t ms, char out[FIGURE_MAX]) {
    long long s = (ms + 500) / 1000;
    if (ms < 1000) (void)snprintf(out, FIGURE_MAX, "%lld ms", (long long)ms);
    else if (ms < 10000) (void)snprintf(out, FIGURE_MAX, "%.1f s", (double)ms / 1000);
    else if (s < 60) (void)snprintf(out, FIGURE_MAX, "%lld s", s);
    else if (s < 3600) (void)snprintf(out, FIGURE_MAX, "%lld min %lld s", s / 60, s % 60);
    else if (s < 86400) (void)snprintf(out, FIGURE_MAX, "%lld h %lld min", s / 3600, s / 60 % 60);
    else (void)snprintf(out, FIGURE_MAX, "%lld d %lld h", s / 86400, s / 3600 % 24);
    return out;
}

char *figure_count(double n, char out[FIGURE_MAX]) {
    if (n < 1000) (void)snprintf(out, FIGURE_MAX, n == (double)(int64_t)n || n >= 100 ? "%.0f" : "%.1f", n);
    else if (n < 1e6) (void)snprintf(out, FIGURE_MAX, "%.1f k", n / 1e3);
    else if (n < 1e9) (void)snprintf(out, FIGURE_MAX, "%.1f M", n / 1e6);
    else (void)snprintf(out, FIGURE_MAX, "%.1f G", n / 1e9);
    return out;
}

/* ---- tables ---- */

void table_init(struct table *t, const char *headings) {
    struct span rest = span_str(headings), heading;
    *t = (struct table){0};
    buf_init(&t->cells, TABLE_BYTES_MAX);
    while (span_cut(&rest, '|', &heading)) {
        ASSERT(t->columns < TABLE_COLUMNS_MAX);
        bool right = span_starts(heading, SPAN(">"));
        if (right) t->right |= 1u << t->columns;
        table_span(t, right ? span_skip(heading, 1) : heading);
        t->columns++;
    }
}

void table_span(struct table *t, struct span text) {
    /* A cell is one line: what would break the table is shown as a space. */
    for (size_t i = 0; i < text.len; i++) (void)buf_append_char(&t->cells, (unsigned char)text.data[i] < 0x20 || text.data[i] == 0x7f ? ' ' : text.data[i]);
    (void)buf_append_char(&t->cells, '\0');
    t->count++;
}

void table_cell(struct table *t, const char *format, ...) {
    char text[1024];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    struct span s = span_of(text, n < 0 ? 0 : (size_t)n < sizeof text ? (size_t)n : sizeof text - 1);
    table_span(t, span_sub(s, 0, span_utf8_complete(s)));
}

static size_t width_of(struct span s) {
    size_t n = 0;
    for (size_t i = 0; i < s.len; i++) n += ((unsigned char)s.data[i] & 0xc0) != 0x80;
    return n;
}

int table_render(struct table *t, struct buf *out) {
    size_t widths[TABLE_COLUMNS_MAX] = {0};
    if (t->cells.failed) return t->cells.failed;
    ASSERT(t->count % t->columns == 0); /* whole rows */
    for (int pass = 0; pass < 2; pass++) {
        struct span rest = buf_span(&t->cells);
        for (size_t i = 0; i < t->count; i++) {
            size_t column = i % t->columns, len = strlen(rest.data), width = width_of(span_of(rest.data, len));
            bool last = column + 1 == t->columns, right = t->right >> column & 1;
            struct span cell = span_of(rest.data, len);
            rest = span_skip(rest, len + 1);
            if (pass == 0) {
                if (width > widths[column]) widths[column] = width;
                continue;
            }
            size_t space = widths[column] - width;
            for (size_t k = 0; right && k < space; k++) (void)buf_append_char(out, ' ');
            (void)buf_append_span(out, cell);
            while (last && out->len && buf_span(out).data[out->len - 1] == ' ') out->len--;
            for (size_t k = 0; !right && !last && k < space; k++) (void)buf_append_char(out, ' ');
            (void)buf_append_str(out, last ? "\n" : "  ");
        }
    }
    return out->failed;
}

void table_fini(struct table *t) { buf_fini(&t->cells); }

/* ---- progress ---- */

static char *amount(const struct progress *p, double n, char out[FIGURE_MAX]) {
    return strcmp(p->unit, "B") == 0 ? figure_bytes((uint64_t)n, out) : figure_count(n, out);
}

void progress_render(const struct progress *p, int64_t now_ms, int width, char *out, size_t out_size) {
    char done[FIGURE_MAX], total[FIGURE_MAX], rate[FIGURE_MAX], time[FIGURE_MAX], bar[BAR_MAX + 1] = "";
    const char *unit = strcmp(p->unit, "B") == 0 ? "" : p->unit;
    double share = p->total ? (double)p->done / (double)p->total : 0;
    int64_t left_ms = p->rate > 0 && p->total > p->done ? (int64_t)((double)(p->total - p->done) / p->rate * 1000) : -1;
    if (share > 1) share = 1;
    int cells = width >= 100 ? BAR_MAX : width >= 70 ? 16 : 0;
    for (int i = 0; i < cells; i++) bar[i] = (double)i + 0.5 < share * cells ? '#' : '.';
    bar[cells] = '\0';
    struct buf line;
    buf_init(&line, 1024);
    (void)buf_printf(&line, "%s ", p->label);
    if (p->total && p->terminal && cells) (void)buf_printf(&line, "[%s] ", bar);
    if (p->total) (void)buf_printf(&line, "%3.0f%% %s of %s%s%s", share * 100, amount(p, (double)p->done, done), amount(p, (double)p->total, total), *unit ? " " : "", unit);
    else (void)buf_printf(&line, "%s%s%s", amount(p, (double)p->done, done), *unit ? " " : "", unit);
    if (p->rate > 0 && !p->finished) (void)buf_printf(&line, ", %s/s", amount(p, p->rate, rate));
    if (p->finished) (void)buf_printf(&line, " in %s", figure_ms(now_ms - p->started_ms, time));
    else if (left_ms >= 0) (void)buf_printf(&line, ", %s left", figure_ms(left_ms, time));
    if (p->note[0]) (void)buf_printf(&line, ", %s", p->note);
    struct span text = buf_span(&line);
    if (width > 1 && p->terminal && text.len > (size_t)width - 1) text.len = (size_t)width - 1;
    text.len = span_utf8_complete(text);
    span_copy(out, out_size, text);
    buf_fini(&line);
}

static void show(struct progress *p, int64_t now) {
    char line[1024];
    progress_render(p, now, p->terminal ? output_width(stderr) : 80, line, sizeof line);
    (void)fprintf(stderr, p->terminal ? "\r\033[K%s%s" : "%s%s", line, p->terminal && !p->finished ? "" : "\n");
    (void)fflush(stderr);
    p->shown_ms = now;
}

void progress_begin(struct progress *p, const char *label, uint64_t total, const char *unit) {
    int64_t now = clock_mono_ms();
    *p = (struct progress){.label = label, .unit = unit, .total = total, .started_ms = now, .shown_ms = now - PLAIN_EVERY_MS, .rate_ms = now, .terminal = output_is_terminal(stderr), .open = true};
}

void progress_total(struct progress *p, uint64_t total) { p->total = total; }

void progress_set(struct progress *p, uint64_t done, const char *note) {
    int64_t now = clock_mono_ms(), since = now - p->rate_ms;
    if (!p->open) return;
    p->done = done;
    if (note) span_copy(p->note, sizeof p->note, span_str(note));
    if (since >= RATE_EVERY_MS) { /* half of what was, half of what is: calm, and right after a few looks */
        double current = done >= p->rate_done ? (double)(done - p->rate_done) * 1000 / (double)since : 0;
        p->rate = p->rate > 0 ? (p->rate + current) / 2 : current;
        p->rate_ms = now;
        p->rate_done = done;
    }
    if (now - p->shown_ms >= (p->terminal ? TERMINAL_EVERY_MS : PLAIN_EVERY_MS)) show(p, now);
}

void progress_end(struct progress *p, bool ok) {
    if (!p->open) return;
    p->finished = ok;
    show(p, clock_mono_ms());
    if (!ok && p->terminal) (void)fputc('\n', stderr);
    p->open = false;
}
