#include "base/metrics.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/file.h"

enum { BOUNDS_MAX = 24, SLOTS = 2 * METRIC_SERIES_MAX };
enum kind { COUNTER, GAUGE, HISTOGRAM };

struct family;
struct metric {
    struct family *family;
    struct metric *next; /* of the family, in order of registration */
    char *labels;
    _Atomic uint64_t value;         /* bits of a double: counter and gauge; the sum of a histogram */
    _Atomic uint64_t *buckets;      /* histogram: bounds + 1, not cumulated */
};

struct family {
    struct family *next;
    char *name, *help;
    enum kind kind;
    int bounds_count;
    double bounds[BOUNDS_MAX];
    struct metric *first, **last;
    struct metric other; /* what is counted when there are too many series, or no memory */
    _Atomic uint64_t other_buckets[BOUNDS_MAX + 1];
};

const double METRIC_SECONDS_BOUNDS[] = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60};
const int METRIC_SECONDS_BOUNDS_COUNT = sizeof METRIC_SECONDS_BOUNDS / sizeof METRIC_SECONDS_BOUNDS[0];

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct family *families, **families_last = &families;
static struct metric *slots[SLOTS]; /* open addressing by name and labels */
static size_t series_count;
/* Without memory even for a family: counted, shown nowhere. */
static struct family nowhere = {.name = "", .help = "", .other = {.family = &nowhere, .buckets = nowhere.other_buckets}};

static void add_to(_Atomic uint64_t *bits, double v) {
    uint64_t seen = atomic_load_explicit(bits, memory_order_relaxed), next;
    do {
        double d;
        memcpy(&d, &seen, sizeof d);
        d += v;
        memcpy(&next, &d, sizeof next);
    } while (!atomic_compare_exchange_weak_explicit(bits, &seen, next, memory_order_relaxed, memory_order_relaxed));
}

static double read_of(const _Atomic uint64_t *bits) {
    uint64_t seen = atomic_load_explicit(bits, memory_order_relaxed);
    double d;
    memcpy(&d, &seen, sizeof d);
    return d;
}

static uint64_t slot_hash(const char *name, const char *labels) { return span_hash(span_str(name)) * 31 + span_hash(span_str(labels)); }

static struct family *family_get(const char *name, enum kind kind, const char *help, const double *bounds, int n) {
    for (struct family *f = families; f; f = f->next)
        if (strcmp(f->name, name) == 0) {
            ASSERT(f->kind == kind);
            return f;
        }
    struct family *f = mem_zalloc(sizeof *f);
    if (f && (!(f->name = mem_strdup(name)) || !(f->help = mem_strdup(help ? help : "")))) {
        mem_free(f->name);
        mem_free(f);
        f = NULL;
    }
    if (!f) return &nowhere;
    f->kind = kind;
    ASSERT(n >= 0 && n <= BOUNDS_MAX);
    f->bounds_count = n;
    for (int i = 0; i < n; i++) f->bounds[i] = bounds[i];
    f->last = &f->first;
    f->other = (struct metric){.family = f, .buckets = f->other_buckets};
    *families_last = f;
    families_last = &f->next;
    return f;
}

static struct metric *series_new(struct family *f, const char *labels) {
    struct metric *m = mem_zalloc(sizeof *m);
    if (!m) return NULL;
    m->family = f;
    m->labels = mem_strdup(labels);
    if (f->kind == HISTOGRAM) m->buckets = mem_calloc((size_t)f->bounds_count + 1, sizeof *m->buckets);
    if (m->labels && (f->kind != HISTOGRAM || m->buckets)) return m;
    mem_free(m->labels);
    mem_free(m->buckets);
    mem_free(m);
    return NULL;
}

static struct metric *get(const char *name, const char *labels, enum kind kind, const char *help, const double *bounds, int n) {
    if (!labels) labels = "";
    pthread_mutex_lock(&lock);
    size_t at = slot_hash(name, labels) % SLOTS;
    struct metric *m;
    while ((m = slots[at]) && !(strcmp(m->family->name, name) == 0 && strcmp(m->labels, labels) == 0)) at = (at + 1) % SLOTS;
    if (m) ASSERT(m->family->kind == kind);
    if (!m) {
        struct family *f = family_get(name, kind, help, bounds, n);
        if (f != &nowhere && series_count < METRIC_SERIES_MAX) m = series_new(f, labels);
        if (m) {
            slots[at] = m;
            series_count++;
            *f->last = m;
            f->last = &m->next;
        } else {
            m = &f->other;
        }
    }
    pthread_mutex_unlock(&lock);
    return m;
}

struct metric *metric_counter(const char *name, const char *labels, const char *help) { return get(name, labels, COUNTER, help, NULL, 0); }
struct metric *metric_gauge(const char *name, const char *labels, const char *help) { return get(name, labels, GAUGE, help, NULL, 0); }
struct metric *metric_histogram(const char *name, const char *labels, const char *help, const double *bounds, int n) { return get(name, labels, HISTOGRAM, help, bounds, n); }

void metric_add(struct metric *m, double v) {
    if (m->family->kind == COUNTER && !(v >= 0)) return;
    add_to(&m->value, v);
}

void metric_set(struct metric *m, double v) {
    uint64_t bits;
    memcpy(&bits, &v, sizeof bits);
    atomic_store_explicit(&m->value, bits, memory_order_relaxed);
}

void metric_observe(struct metric *m, double v) {
    if (isnan(v)) return;
    int i = 0;
    while (i < m->family->bounds_count && v > m->family->bounds[i]) i++;
    if (m->buckets) atomic_fetch_add_explicit(&m->buckets[i], 1, memory_order_relaxed);
    add_to(&m->value, v);
}

static uint64_t observed(const struct metric *m) {
    uint64_t n = 0;
    for (int i = 0; i <= m->family->bounds_count; i++) n += atomic_load_explicit(&m->buckets[i], memory_order_relaxed);
    return n;
}

double metric_value(const struct metric *m) { return m->family->kind == HISTOGRAM ? (double)observed(m) : read_of(&m->value); }

static void put_number(struct buf *out, double v) {
    if (isnan(v)) buf_append_str(out, "NaN");
    else if (isinf(v)) buf_append_str(out, v > 0 ? "+Inf" : "-Inf");
    else if (v == trunc(v) && fabs(v) < 1e15) buf_printf(out, "%.0f", v);
    else buf_printf(out, "%.17g", v);
}

static void put_series(struct buf *out, const char *name, const char *suffix, const char *labels, const char *extra) {
    buf_printf(out, "%s%s", name, suffix);
    if (labels[0] || extra[0]) buf_printf(out, "{%s%s%s}", labels, labels[0] && extra[0] ? "," : "", extra);
    buf_append_char(out, ' ');
}

static void render_series(struct buf *out, const struct family *f, const struct metric *m, const char *labels) {
    if (f->kind != HISTOGRAM) {
        put_series(out, f->name, "", labels, "");
        put_number(out, read_of(&m->value));
        buf_append_char(out, '\n');
        return;
    }
    uint64_t n = 0;
    for (int i = 0; i <= f->bounds_count; i++) {
        char le[48] = "le=\"+Inf\"";
        if (i < f->bounds_count) snprintf(le, sizeof le, "le=\"%.15g\"", f->bounds[i]);
        n += atomic_load_explicit(&m->buckets[i], memory_order_relaxed);
        put_series(out, f->name, "_bucket", labels, le);
        buf_printf(out, "%llu\n", (unsigned long long)n);
    }
    put_series(out, f->name, "_sum", labels, "");
    put_number(out, read_of(&m->value));
    buf_append_char(out, '\n');
    put_series(out, f->name, "_count", labels, "");
    buf_printf(out, "%llu\n", (unsigned long long)n);
}

static void put_help(struct buf *out, const char *name, const char *help, const char *type) {
    buf_printf(out, "# HELP %s ", name);
    for (; *help; help++) {
        if (*help == '\\') buf_append_str(out, "\\\\");
        else if (*help == '\n') buf_append_str(out, "\\n");
        else buf_append_char(out, *help);
    }
    buf_printf(out, "\n# TYPE %s %s\n", name, type);
}

static void render_process(struct buf *out) {
    struct buf text;
    long long pages = 0;
    buf_init(&text, 4096);
    if (!file_read("/proc/self/statm", &text, NULL) && buf_cstr(&text) && sscanf(buf_cstr(&text), "%*d %lld", &pages) == 1) {
        put_help(out, "process_resident_memory_bytes", "Resident memory size in bytes.", "gauge");
        buf_printf(out, "process_resident_memory_bytes %lld\n", pages * sysconf(_SC_PAGESIZE));
    }
    buf_clear(&text);
    struct rusage use;
    if (getrusage(RUSAGE_SELF, &use) == 0) {
        put_help(out, "process_cpu_seconds_total", "Total user and system CPU time spent in seconds.", "counter");
        buf_printf(out, "process_cpu_seconds_total %.6f\n", (double)(use.ru_utime.tv_sec + use.ru_stime.tv_sec) + (double)(use.ru_utime.tv_usec + use.ru_stime.tv_usec) * 1e-6);
    }
    /* Field 22 of stat, counted behind the name, which may hold anything, is the start in ticks since boot. */
    unsigned long long ticks = 0;
    const char *at = file_read("/proc/self/stat", &text, NULL) ? NULL : buf_cstr(&text);
    at = at ? strrchr(at, ')') : NULL;
    struct timespec boot;
    if (at && sscanf(at, ") %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu", &ticks) == 1 && clock_gettime(CLOCK_BOOTTIME, &boot) == 0) {
        double up = (double)boot.tv_sec + (double)boot.tv_nsec * 1e-9, start = (double)clock_wall_ms() * 1e-3 - up + (double)ticks / (double)sysconf(_SC_CLK_TCK);
        put_help(out, "process_start_time_seconds", "Start time of the process since unix epoch in seconds.", "gauge");
        buf_printf(out, "process_start_time_seconds %.2f\n", start);
    }
    buf_fini(&text);
}

int metrics_render(struct buf *out) {
    static const char *const types[] = {"counter", "gauge", "histogram"};
    int before = out->failed;
    out->failed = 0;
    pthread_mutex_lock(&lock);
    for (const struct family *f = families; f; f = f->next) {
        put_help(out, f->name, f->help, types[f->kind]);
        for (const struct metric *m = f->first; m; m = m->next) render_series(out, f, m, m->labels);
        if (f->kind == HISTOGRAM ? observed(&f->other) != 0 : read_of(&f->other.value) != 0) render_series(out, f, &f->other, "other=\"true\"");
    }
    pthread_mutex_unlock(&lock);
    render_process(out);
    int r = out->failed;
    if (before) out->failed = before;
    return r;
}
