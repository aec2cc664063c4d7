/* What a process may use, on trees of the kernel's files as different machines and containers have them. */
#include "test.h"

#include <stdlib.h>

#include "base/file.h"
#include "base/machine.h"

static char root[] = "/tmp/genloop-machine-XXXXXX";

struct entry {
    const char *path, *text;
};
static void make_tree(const struct entry *files) {
    char path[512], dir[512];
    struct error err;
    assert_int_equal(dir_remove(root, NULL), 0);
    assert_int_equal(dir_make(root, NULL), 0);
    for (; files->path; files++) {
        snprintf(path, sizeof path, "%s%s", root, files->path);
        snprintf(dir, sizeof dir, "%.*s", (int)(strrchr(path, '/') - path), path);
        if (dir_make(dir, &err) != 0 || file_write(path, span_str(files->text), 0644, &err) != 0) fail_msg("%s", err.message);
    }
}

#define MEMINFO {"/proc/meminfo", "MemTotal:       16384 kB\nMemFree:  1 kB\n"}
#define SELF(text) {"/proc/self/cgroup", text}
static const struct {
    const char *name;
    int quota;
    uint64_t memory;
    struct entry files[10];
} cases[] = {
    {"nothing is said", 0, 0, {{NULL, NULL}}},
    {"no groups", 0, 16 << 20, {MEMINFO}},
    {"version 2, no limit", 0, 16 << 20, {MEMINFO, SELF("0::/\n"), {"/sys/fs/cgroup/cpu.max", "max 100000\n"}, {"/sys/fs/cgroup/memory.max", "max\n"}}},
    {"version 2, a container", 2, 4 << 20, {MEMINFO, SELF("0::/\n"), {"/sys/fs/cgroup/cpu.max", "200000 100000\n"}, {"/sys/fs/cgroup/memory.max", "4194304\n"}}},
    {"a part of a CPU is one", 1, 16 << 20, {MEMINFO, SELF("0::/\n"), {"/sys/fs/cgroup/cpu.max", "5000 100000\n"}}},
    {"rounded up", 3, 16 << 20, {MEMINFO, SELF("0::/\n"), {"/sys/fs/cgroup/cpu.max", "250000 100000\n"}}},
    {"a unit of systemd", 2, 8 << 20,
     {MEMINFO, SELF("0::/system.slice/genloop.service\n"), {"/sys/fs/cgroup/system.slice/genloop.service/cpu.max", "max 100000\n"}, {"/sys/fs/cgroup/system.slice/cpu.max", "200000 100000\n"},
      {"/sys/fs/cgroup/system.slice/genloop.service/memory.max", "8388608\n"}, {"/sys/fs/cgroup/system.slice/memory.max", "12582912\n"}}},
    {"the group above is tighter", 1, 2 << 20,
     {MEMINFO, SELF("0::/a/b\n"), {"/sys/fs/cgroup/a/b/cpu.max", "400000 100000\n"}, {"/sys/fs/cgroup/a/cpu.max", "100000 100000\n"}, {"/sys/fs/cgroup/a/b/memory.max", "8388608\n"},
      {"/sys/fs/cgroup/a/memory.max", "2097152\n"}}},
    {"outside of what is seen", 2, 16 << 20, {MEMINFO, SELF("0::/../../x\n"), {"/sys/fs/cgroup/cpu.max", "200000 100000\n"}}},
    {"more than there is", 0, 16 << 20, {MEMINFO, SELF("0::/\n"), {"/sys/fs/cgroup/memory.max", "1099511627776\n"}}},
    {"version 1", 3, 4 << 20,
     {MEMINFO, SELF("5:cpu,cpuacct:/docker/1\n4:memory:/docker/1\n0::/\n"), {"/sys/fs/cgroup/cpu/docker/1/cpu.cfs_quota_us", "300000\n"}, {"/sys/fs/cgroup/cpu/docker/1/cpu.cfs_period_us", "100000\n"},
      {"/sys/fs/cgroup/memory/docker/1/memory.limit_in_bytes", "4194304\n"}}},
    {"version 1, no limit", 0, 16 << 20,
     {MEMINFO, SELF("5:cpu,cpuacct:/\n4:memory:/\n"), {"/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n"}, {"/sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"},
      {"/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"}}},
    {"version 1 in its own view", 1, 16 << 20, {MEMINFO, SELF("5:cpu:/docker/1\n"), {"/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "50000\n"}, {"/sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"}}},
    {"nonsense", 0, 16 << 20, {MEMINFO, SELF("::::\n\n:\n0:\n"), {"/sys/fs/cgroup/cpu.max", "-5 0\n"}, {"/sys/fs/cgroup/memory.max", "\n"}}},
};

static void test_limits(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        make_tree(cases[i].files);
        int quota = machine_quota(root);
        uint64_t memory = machine_memory(root);
        if (quota != cases[i].quota || memory != cases[i].memory) fail_msg("%s: %d CPUs, %llu bytes", cases[i].name, quota, (unsigned long long)memory);
    }
}

static void test_cpus(void **state) {
    static const struct {
        const char *text;
        bool good;
        uint64_t first, last; /* words */
    } lists[] = {{"0\n", true, 1, 0}, {"0-3\n", true, 15, 0}, {"0-1,4,6-7\n", true, 0xd3, 0}, {"1023", true, 0, 1ull << 63}, {"63,960", true, 1ull << 63, 1}, {"", true, 0, 0}, {"\n", true, 0, 0},
                 {"1024", false, 0, 0}, {"3-1", false, 0, 0}, {"a", false, 0, 0}, {"1-", false, 0, 0}, {"-1", false, 0, 0}, {"0-99999999999999999999", false, 0, 0}, {"1,,2", false, 0, 0}};
    (void)state;
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) {
        struct machine_cpus c;
        bool good = machine_parse_cpus(lists[i].text, &c);
        if (good != lists[i].good || (good && (c.bits[0] != lists[i].first || c.bits[MACHINE_CPUS_MAX / 64 - 1] != lists[i].last))) fail_msg("%s", lists[i].text);
    }
}

static void test_nodes(void **state) {
    static const struct entry two[] = {{"/sys/devices/system/node/has_memory", "0-2\n"}, {"/sys/devices/system/node/node0/cpulist", "0-7,16-23\n"}, {"/sys/devices/system/node/node1/cpulist", "8-15,24-31\n"},
                                       {"/sys/devices/system/node/node2/cpulist", "\n"}, {"/sys/devices/system/node/node3/cpulist", "40\n"}, {NULL, NULL}};
    static const struct entry none[] = {{NULL, NULL}};
    static const struct {
        const char *cpus;
        uint64_t nodes;
    } rows[] = {{"0-31", 3}, {"0-7", 1}, {"9", 2}, {"7-8", 3}, {"40", 0 /* it has no memory */}, {"", 0}};
    struct machine_cpus c;
    (void)state;
    make_tree(two);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        assert_true(machine_parse_cpus(rows[i].cpus, &c));
        if (machine_nodes(root, &c) != rows[i].nodes) fail_msg("%s: %llx", rows[i].cpus, (unsigned long long)machine_nodes(root, &c));
    }
    make_tree(none);
    assert_int_equal(machine_nodes(root, &c), 0);
    machine_affinity(&c);
    bool any = false;
    for (size_t i = 0; i < sizeof c.bits / sizeof *c.bits; i++) any |= c.bits[i] != 0;
    assert_true(any);
    void *memory = aligned_alloc(4096, 4096); /* of this machine, whatever it has: nothing breaks */
    machine_interleave(memory, 4096);
    memset(memory, 1, 4096);
    free(memory);
    assert_true(machine_memory("") > 0);
}

static int set_up(void **state) {
    (void)state;
    return mkdtemp(root) ? 0 : -1;
}
static int tear_down(void **state) {
    (void)state;
    return dir_remove(root, NULL);
}
int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_limits), cmocka_unit_test(test_cpus), cmocka_unit_test(test_nodes)};
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
