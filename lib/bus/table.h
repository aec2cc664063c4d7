/* A table of open calls by an id and an owner, chained; the entry is the first member of what it finds. Fixed size: calls are capped. */
#ifndef GENLOOP_BUS_TABLE_H
#define GENLOOP_BUS_TABLE_H

#include <stdint.h>

enum { CALL_BUCKETS = 2048 }; /* 16 KiB; at BUS_CALLS_MAX a chain has four */

struct call_entry {
    struct call_entry *next;
    const void *owner;
    uint64_t id;
};
struct call_table {
    struct call_entry *buckets[CALL_BUCKETS];
};

static inline struct call_entry **call_bucket(struct call_table *t, const void *owner, uint64_t id) {
    uint64_t h = (id ^ (uint64_t)(uintptr_t)owner >> 4) * 0x9e3779b97f4a7c15ull;
    return &t->buckets[h >> 53];
}
static inline struct call_entry *call_find(struct call_table *t, const void *owner, uint64_t id) {
    for (struct call_entry *e = *call_bucket(t, owner, id); e; e = e->next)
        if (e->id == id && e->owner == owner) return e;
    return NULL;
}
static inline void call_insert(struct call_table *t, struct call_entry *e) {
    struct call_entry **bucket = call_bucket(t, e->owner, e->id);
    e->next = *bucket;
    *bucket = e;
}
static inline void call_remove(struct call_table *t, struct call_entry *e) {
    for (struct call_entry **at = call_bucket(t, e->owner, e->id); *at; at = &(*at)->next)
        if (*at == e) {
            *at = e->next;
            return;
        }
}

#endif
