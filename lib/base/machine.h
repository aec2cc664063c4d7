/*
 * What of the machine this process may use: CPUs, memory, and the nodes that both belong to. A container's limits count (control groups of version 2 and 1, with all that stand above
 * them), and the CPUs that the process is bound to (which is also how a cpuset is told). Everything is read from the kernel's files below `root`: "" is the machine itself, tests have trees of
 * their own. Any thread.
 */
#ifndef GENLOOP_BASE_MACHINE_H
#define GENLOOP_BASE_MACHINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { MACHINE_CPUS_MAX = 1024, MACHINE_NODES_MAX = 64 /* of memory */ };

struct machine_cpus { /* a set */
    uint64_t bits[MACHINE_CPUS_MAX / 64];
};

/* CPUs that the group's quota pays for, rounded up; 0: no quota. */
int machine_quota(const char *root);
/* Bytes of memory: the machine's, or the least of the limits that hold for the process. 0: not known. */
uint64_t machine_memory(const char *root);
/* "0-3,8" → the set. False: it is none. */
bool machine_parse_cpus(const char *text, struct machine_cpus *cpus);
/* A bit for each node with memory that has one of the CPUs; 0: the machine does not tell nodes apart. */
uint64_t machine_nodes(const char *root, const struct machine_cpus *cpus);
/* CPUs that this process is bound to. */
void machine_affinity(struct machine_cpus *cpus);
/*
 * Memory that the threads of this process read together, not touched yet: where their CPUs belong to several nodes its pages are spread over these in turn, so that all of the nodes' bandwidth is used
 * and no thread has it all from afar. With one node, and where the kernel refuses, nothing happens.
 */
void machine_interleave(void *memory, size_t size);

#endif
