/* logs: what the processes of the platform printed, merged by time; follows. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/file.h"
#include "base/json.h"
#include "cli.h"
#include "log_file.h"

enum { FILES_MAX = 128, TAIL_BYTES_MAX = 16 << 20 /* per file: --lines beyond it shows what fits */, FOLLOW_MS = 200, LINES_DEFAULT = 50 };

struct source {
    char path[PATH_MAX + 80], name[64];
    int fd;
    ino_t inode;
    off_t offset;       /* what has been read */
    struct buf partial; /* a line that has not ended */
};
struct line {
    char time[32];
    size_t order; /* equal times stay as they were read */
    char *text;
};
struct view {
    struct source sources[FILES_MAX];
    size_t n;
    const char *only;
    struct line *lines; /* owned, with their texts */
    size_t n_lines, capacity;
};

static int on_entry(void *arg, const char *entry) {
    struct view *v = arg;
    struct span name = span_str(entry);
    if (!span_ends(name, SPAN(".log")) || name.len - 4 >= sizeof v->sources[0].name) return 0;
    name.len -= 4;
    if (v->only && !span_eq_str(name, v->only)) return 0;
    if (v->n == FILES_MAX) return 0;
    struct source *s = &v->sources[v->n++];
    span_copy(s->name, sizeof s->name, name);
    s->fd = -1;
    buf_init(&s->partial, 4 * LOG_LINE_MAX);
    return 0;
}

static int find_sources(struct view *v, const char *home, struct error *err) {
    char folder[PATH_MAX];
    int n = snprintf(folder, sizeof folder, "%s/logs", home);
    if (n < 0 || (size_t)n >= sizeof folder - 80) return error_set(err, E_INVALID, "the home %s is too long a path", home);
    int r = file_exists(folder) ? dir_list(folder, v, on_entry, err) : 0;
    if (r != 0) return r;
    for (size_t i = 0; i < v->n; i++) (void)snprintf(v->sources[i].path, sizeof v->sources[i].path, "%s/%s.log", folder, v->sources[i].name);
    if (v->n == 0 && v->only) return error_set(err, E_NOT_FOUND, "there is no log of \"%s\" in %s: genloop logs without a name shows what there is", v->only, folder);
    return v->n ? 0 : error_set(err, E_NOT_FOUND, "there are no logs in %s: has the platform been started there?", folder);
}

/* ---- lines ---- */

static int keep_line(struct view *v, struct span text) {
    if (v->n_lines == v->capacity) {
        size_t capacity = v->capacity ? v->capacity * 2 : 1024;
        struct line *lines = mem_realloc(v->lines, capacity * sizeof *lines);
        if (!lines) return E_NOMEM;
        v->lines = lines;
        v->capacity = capacity;
    }
    struct line *l = &v->lines[v->n_lines];
    *l = (struct line){.order = v->n_lines, .text = span_dup(text)};
    if (!l->text) return E_NOMEM;
    /* {"time":"2026-… or 2026-… : what sorts is the text itself */
    struct span time = span_starts(text, SPAN("{\"time\":\"")) ? span_sub(text, 9, 24) : span_sub(text, 0, 24);
    if (time.len == 24 && time.data[4] == '-' && time.data[23] == 'Z') span_copy(l->time, sizeof l->time, time);
    else if (v->n_lines > 0) span_copy(l->time, sizeof l->time, span_str(v->lines[v->n_lines - 1].time)); /* it belongs to the one before */
    v->n_lines++;
    return 0;
}

static int compare(const void *a, const void *b) {
    const struct line *x = a, *y = b;
    int order = strcmp(x->time, y->time);
    return order ? order : x->order < y->order ? -1 : x->order > y->order;
}

static void forget_lines(struct view *v) {
    for (size_t i = 0; i < v->n_lines; i++) mem_free(v->lines[i].text);
    v->n_lines = 0;
}

static int text_out(struct buf *out, struct span line) {
    struct json *root = NULL;
    if (!span_starts(line, SPAN("{")) || json_parse(line, &root, NULL) != 0) return buf_printf(out, "%.*s\n", SPAN_ARG(line));
    struct span time = json_string(json_get(root, "time")), level = json_string(json_get(root, "level"));
    struct span message = json_string(json_get(root, "message"));
    (void)buf_printf(out, "%.*s %-5.*s %.*s %.*s: ", SPAN_ARG(span_sub(time, 11, 12)), SPAN_ARG(level), SPAN_ARG(json_string(json_get(root, "service"))),
                     SPAN_ARG(json_string(json_get(root, "event"))));
    for (size_t i = 0; i < message.len; i++) (void)buf_append_char(out, (unsigned char)message.data[i] < 0x20 || message.data[i] == 0x7f ? ' ' : message.data[i]);
    (void)buf_append_char(out, '\n');
    json_free(root);
    return out->failed;
}

/* Prints the newest `most` of what was kept, and forgets all. */
static int print_lines(struct cli *c, struct view *v, size_t most) {
    struct buf out;
    int code = CLI_DONE;
    buf_init(&out, 64 * LOG_LINE_MAX);
    if (v->n_lines) qsort(v->lines, v->n_lines, sizeof *v->lines, compare);
    for (size_t i = v->n_lines > most ? v->n_lines - most : 0; code == CLI_DONE && i < v->n_lines; i++) {
        buf_clear(&out);
        struct span line = span_str(v->lines[i].text);
        int r = cli_json(c) ? buf_printf(&out, "%.*s\n", SPAN_ARG(line)) : text_out(&out, line);
        code = r == 0 ? cli_print(c, buf_span(&out)) : cli_failf(c, "no memory");
    }
    buf_fini(&out);
    forget_lines(v);
    return code;
}

/* ---- files ---- */

static int feed(struct view *v, struct source *s, struct span bytes) {
    int r = 0;
    while (r == 0 && bytes.len) {
        ptrdiff_t end = span_find_char(bytes, '\n');
        if (end < 0) return buf_append_span(&s->partial, bytes);
        r = buf_append(&s->partial, bytes.data, (size_t)end);
        if (r == 0 && s->partial.len) r = keep_line(v, buf_span(&s->partial));
        buf_clear(&s->partial);
        bytes = span_skip(bytes, (size_t)end + 1);
    }
    return r;
}

static int read_on(struct view *v, struct source *s) {
    char bytes[65536];
    ssize_t n;
    int r = 0;
    while (r == 0 && (n = pread(s->fd, bytes, sizeof bytes, s->offset)) > 0) {
        s->offset += n;
        r = feed(v, s, span_of(bytes, (size_t)n));
    }
    return r;
}

static void open_source(struct source *s) {
    struct stat st;
    s->fd = open(s->path, O_RDONLY | O_CLOEXEC);
    if (s->fd >= 0 && fstat(s->fd, &st) == 0) s->inode = st.st_ino;
    s->offset = 0;
}

/* The last TAIL_BYTES_MAX, from a whole line on. */
static int read_tail(struct view *v, struct source *s) {
    struct stat st;
    open_source(s);
    if (s->fd < 0 || fstat(s->fd, &st) != 0) return 0; /* it went meanwhile */
    bool cut = st.st_size > TAIL_BYTES_MAX;
    if (cut) s->offset = st.st_size - TAIL_BYTES_MAX;
    size_t before = v->n_lines;
    int r = read_on(v, s);
    if (r == 0 && cut && v->n_lines > before) { /* the first is half a line */
        mem_free(v->lines[before].text);
        v->n_lines--;
        memmove(v->lines + before, v->lines + before + 1, (v->n_lines - before) * sizeof *v->lines);
    }
    return r;
}

/* What was added; where the file was rotated, the rest of the old one and then the new. */
static int read_more(struct view *v, struct source *s) {
    struct stat st;
    int r = s->fd >= 0 ? read_on(v, s) : 0;
    if (r == 0 && stat(s->path, &st) == 0 && (s->fd < 0 || st.st_ino != s->inode)) {
        if (s->fd >= 0) (void)close(s->fd);
        open_source(s);
        if (s->fd >= 0) r = read_on(v, s);
    }
    return r;
}

/* Replicas that came later have files of their own. */
static void find_new(struct view *v, const char *home) {
    struct view *now = mem_zalloc(sizeof *now);
    if (!now) return;
    now->only = v->only;
    if (find_sources(now, home, NULL) == 0)
        for (size_t i = 0; i < now->n; i++) {
            size_t k = 0;
            while (k < v->n && strcmp(v->sources[k].name, now->sources[i].name) != 0) k++;
            if (k == v->n && v->n < FILES_MAX) v->sources[v->n++] = now->sources[i];
        }
    mem_free(now);
}

static int run_logs(struct cli *c) {
    struct error err = {0};
    char home[PATH_MAX];
    int code = cli_home(c, home, sizeof home), r;
    if (code != CLI_DONE) return code;
    struct view *v = mem_zalloc(sizeof *v);
    if (!v) return cli_failf(c, "no memory");
    v->only = cli_operand(c, 0);
    if ((r = find_sources(v, home, &err)) != 0) {
        code = cli_fail(c, &err);
        goto out;
    }
    for (size_t i = 0; r == 0 && i < v->n; i++) r = read_tail(v, &v->sources[i]);
    if (r == 0) code = print_lines(c, v, (size_t)cli_int(c, "--lines", LINES_DEFAULT));
    for (int turn = 0; r == 0 && code == CLI_DONE && cli_flag(c, "--follow"); turn++) {
        (void)usleep(FOLLOW_MS * 1000);
        if (turn % 5 == 0) find_new(v, home);
        for (size_t i = 0; r == 0 && i < v->n; i++) r = read_more(v, &v->sources[i]);
        if (r == 0) code = print_lines(c, v, SIZE_MAX);
    }
    if (r != 0) code = cli_failf(c, r == E_NOMEM ? "no memory" : "a line of a log is too long");
out:
    forget_lines(v);
    mem_free(v->lines);
    for (size_t i = 0; i < v->n; i++) {
        if (v->sources[i].fd >= 0) (void)close(v->sources[i].fd);
        buf_fini(&v->sources[i].partial);
    }
    mem_free(v);
    return code;
}

static const struct cli_option OPTIONS[] = {
    {.name = "--home", .kind = CLI_DIR, .value = "DIR", .doc = "The platform's home; otherwise $GENLOOP_HOME, then ~/.genloop"},
    {.name = "--follow", .kind = CLI_FLAG, .doc = "Go on with what is added", .letter = 'f'},
    {.name = "--lines", .kind = CLI_INT, .value = "N", .min = 0, .max = 1e9, .doc = "The newest N lines (50)", .letter = 'n'},
    {0},
};
const struct verb VERBS_LOGS[] = {
    {.name = "logs", .operands = "[NAME]", .operands_max = 1, .summary = "What the processes of the platform logged", .options = OPTIONS, .json = true, .run = run_logs,
     .help = "NAME is gateway, ingest, trainer, inference-1, feedback, log or cache (the two Redis servers), or supervisor; without it all of them, by time. --json prints the lines as they\n"
             "are in HOME/logs/NAME.log; older ones are in NAME.log.1 and on."},
    {0},
};
