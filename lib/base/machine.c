#include "base/machine.h"

#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/file.h"
#include "base/span.h"

enum { FILE_MAX = 1 << 16, DEPTH_MAX = 64 /* groups above each other */ };

/* The first `size` - 1 bytes of a file; false where there is none. */
static bool read_text(const char *path, char *out, size_t size) {
    struct buf text;
    buf_init(&text, FILE_MAX);
    bool good = file_read(path, &text, NULL) == 0;
    if (good) span_copy(out, size, buf_span(&text));
    buf_fini(&text);
    return good;
}

/* --- control groups --- */

/* The process' group for a controller of version 1, or that of version 2 (controller ""); "/" where it is not said, or where it lies outside of what this container sees. */
static void group_of(const char *root, const char *controller, char *out, size_t size) {
    char path[PATH_MAX];
    static const struct span top = {"/", 1};
    char text[4096];
    (void)snprintf(path, sizeof path, "%s/proc/self/cgroup", root);
    span_copy(out, size, top);
    if (!read_text(path, text, sizeof text)) return;
    struct span rest = span_str(text), line;
    while (span_cut(&rest, '\n', &line)) { /* NUMBER:CONTROLLERS:PATH */
        struct span number, names, name, where = line;
        if (!span_cut(&where, ':', &number) || !span_cut(&where, ':', &names)) continue;
        bool ours = !controller[0] && span_eq(number, SPAN("0")) && names.len == 0;
        while (controller[0] && span_cut(&names, ',', &name)) ours |= span_eq(name, span_str(controller));
        if (ours && where.len > 0 && where.data[0] == '/' && !span_starts(where, SPAN("/.."))) span_copy(out, size, where);
    }
}

/* Calls fn with the file of each group from the process' own to the topmost. */
static void each_group(const char *root, const char *base, const char *group, const char *file, void *arg, void (*fn)(void *arg, const char *text)) {
    char at[PATH_MAX], path[2 * PATH_MAX], text[256];
    span_copy(at, sizeof at, span_str(group));
    for (int depth = 0; depth < DEPTH_MAX; depth++) {
        size_t len = strlen(at);
        while (len > 0 && at[len - 1] == '/') at[--len] = '\0';
        (void)snprintf(path, sizeof path, "%s/sys/fs/cgroup%s%s/%s", root, base, at, file);
        if (read_text(path, text, sizeof text)) fn(arg, text);
        char *slash = strrchr(at, '/');
        if (!slash) return;
        *slash = '\0';
    }
}

struct cpu_limit {
    long long period; /* of version 1, read before */
    int cpus;         /* 0: none */
};
static void take_quota(struct cpu_limit *l, long long quota, long long period) {
    if (quota <= 0 || period <= 0) return;
    long long cpus = quota / period + (quota % period != 0);
    if (cpus > INT_MAX) return;
    if (l->cpus == 0 || cpus < l->cpus) l->cpus = (int)cpus;
}
static void on_cpu_max(void *arg, const char *text) { /* "max 100000" or "200000 100000" */
    long long quota = 0, period = 0;
    if (sscanf(text, "%lld %lld", &quota, &period) == 2) take_quota(arg, quota, period);
}
static void on_period(void *arg, const char *text) {
    long long period = 0;
    if (sscanf(text, "%lld", &period) == 1) ((struct cpu_limit *)arg)->period = period;
}
static void on_quota(void *arg, const char *text) {
    long long quota = 0;
    if (sscanf(text, "%lld", &quota) == 1) take_quota(arg, quota, ((struct cpu_limit *)arg)->period);
}

int machine_quota(const char *root) {
    char group[PATH_MAX];
    struct cpu_limit limit = {.cpus = 0};
    group_of(root, "", group, sizeof group);
    each_group(root, "", group, "cpu.max", &limit, on_cpu_max);
    if (limit.cpus) return limit.cpus;
    group_of(root, "cpu", group, sizeof group);
    each_group(root, "/cpu", group, "cpu.cfs_period_us", &limit, on_period); /* the topmost's in the end: it is 100,000 everywhere in practice */
    each_group(root, "/cpu", group, "cpu.cfs_quota_us", &limit, on_quota);
    return limit.cpus;
}

static void on_memory(void *arg, const char *text) { /* bytes, "max", or of version 1 a number near 2^63 */
    uint64_t *least = arg;
    unsigned long long bytes = 0;
    if (sscanf(text, "%llu", &bytes) == 1 && bytes > 0 && (*least == 0 || bytes < *least)) *least = bytes;
}

uint64_t machine_memory(const char *root) {
    char group[PATH_MAX], path[PATH_MAX], text[4096];
    unsigned long long kib = 0;
    uint64_t least = 0;
    (void)snprintf(path, sizeof path, "%s/proc/meminfo", root);
    const char *total = read_text(path, text, sizeof text) ? strstr(text, "MemTotal:") : NULL;
    if (total && sscanf(total, "MemTotal: %llu kB", &kib) == 1 && kib < UINT64_MAX / 1024) least = kib * 1024;
    group_of(root, "", group, sizeof group);
    each_group(root, "", group, "memory.max", &least, on_memory);
    group_of(root, "memory", group, sizeof group);
    each_group(root, "/memory", group, "memory.limit_in_bytes", &least, on_memory);
    return least;
}

/* --- nodes --- */

bool machine_parse_cpus(const char *text, struct machine_cpus *cpus) {
    struct span rest = span_trim(span_str(text)), part;
    *cpus = (struct machine_cpus){{0}};
    while (span_cut(&rest, ',', &part)) {
        struct span first;
        uint64_t from, to;
        part = span_trim(part);
        bool range = span_find_char(part, '-') >= 0;
        if (range && !span_cut(&part, '-', &first)) return false;
        if (span_to_u64(range ? first : part, &from) != 0 || span_to_u64(part, &to) != 0 || from > to || to >= MACHINE_CPUS_MAX) return false;
        for (uint64_t i = from; i <= to; i++) cpus->bits[i / 64] |= 1ull << (i % 64);
    }
    return true;
}

uint64_t machine_nodes(const char *root, const struct machine_cpus *cpus) {
    char path[PATH_MAX], text[4096];
    struct machine_cpus memory, own;
    uint64_t nodes = 0;
    (void)snprintf(path, sizeof path, "%s/sys/devices/system/node/has_memory", root);
    if (!read_text(path, text, sizeof text) || !machine_parse_cpus(text, &memory)) return 0;
    for (int node = 0; node < MACHINE_NODES_MAX; node++) {
        if (!(memory.bits[0] >> node & 1)) continue;
        (void)snprintf(path, sizeof path, "%s/sys/devices/system/node/node%d/cpulist", root, node);
        if (!read_text(path, text, sizeof text) || !machine_parse_cpus(text, &own)) continue;
        for (size_t i = 0; i < sizeof own.bits / sizeof *own.bits; i++)
            if (own.bits[i] & cpus->bits[i]) nodes |= 1ull << node;
    }
    return nodes;
}

void machine_affinity(struct machine_cpus *cpus) {
    cpu_set_t set;
    *cpus = (struct machine_cpus){{0}};
    if (sched_getaffinity(0, sizeof set, &set) != 0) return;
    for (size_t i = 0; i < MACHINE_CPUS_MAX && i < CPU_SETSIZE; i++)
        if (CPU_ISSET(i, &set)) cpus->bits[i / 64] |= 1ull << (i % 64);
}

void machine_interleave(void *memory, size_t size) {
    enum { INTERLEAVE = 3 /* MPOL_INTERLEAVE of <linux/mempolicy.h> */ };
    struct machine_cpus cpus;
    machine_affinity(&cpus);
    uint64_t nodes = machine_nodes("", &cpus);
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    if (!memory || (nodes & (nodes - 1)) == 0) return;
    unsigned long mask = (unsigned long)nodes;
    (void)syscall(SYS_mbind, memory, (size + page - 1) / page * page, INTERLEAVE, &mask, (unsigned long)MACHINE_NODES_MAX + 1, 0ul);
}
