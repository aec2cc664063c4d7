#include "engine/packed_copy.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/crc32c.h"
#include "base/random.h"

static const char MAGIC[8] = {'g', 'e', 'n', 'l', 'p', 'a', 'c', 'k'};
enum { AT_VERSION = 8, AT_HEAD = 12, AT_SIZE = 16, AT_CHUNK = 24, AT_CRC = 28, AT_KEY = 32, AT_WORDS = 64 };

static void put(uint8_t *at, uint64_t v, size_t bytes) {
    for (size_t i = 0; i < bytes; i++) at[i] = (uint8_t)(v >> 8 * i);
}
static uint64_t get(const uint8_t *at, size_t bytes) {
    uint64_t v = 0;
    for (size_t i = 0; i < bytes; i++) v |= (uint64_t)at[i] << 8 * i;
    return v;
}

static size_t chunk_count(size_t size) { return size / PACKED_COPY_CHUNK + (size % PACKED_COPY_CHUNK != 0); }
static size_t chunk_size(size_t size, size_t i) { return size - i * PACKED_COPY_CHUNK < PACKED_COPY_CHUNK ? size - i * PACKED_COPY_CHUNK : PACKED_COPY_CHUNK; }

static uint32_t head_crc(const uint8_t *head, size_t size) {
    uint8_t fixed[PACKED_COPY_FIXED];
    memcpy(fixed, head, sizeof fixed);
    put(fixed + AT_CRC, 0, 4);
    uint32_t parts[2] = {crc32c(fixed, sizeof fixed), crc32c(head + sizeof fixed, size - sizeof fixed)};
    uint8_t both[8];
    put(both, parts[0], 4);
    put(both + 4, parts[1], 4);
    return crc32c(both, sizeof both);
}

static void make_fixed(uint8_t fixed[PACKED_COPY_FIXED], const struct packed_copy_key *key, size_t size) {
    memset(fixed, 0, PACKED_COPY_FIXED);
    memcpy(fixed, MAGIC, sizeof MAGIC);
    put(fixed + AT_VERSION, PACKED_COPY_VERSION, 4);
    put(fixed + AT_HEAD, PACKED_COPY_FIXED + 4 * chunk_count(size), 4);
    put(fixed + AT_SIZE, size, 8);
    put(fixed + AT_CHUNK, PACKED_COPY_CHUNK, 4);
    memcpy(fixed + AT_KEY, key->digest, SHA256_SIZE);
    memcpy(fixed + AT_WORDS, key->words, strnlen(key->words, PACKED_COPY_WORDS_MAX));
}

int packed_copy_check(struct span head, uint64_t file_size, const struct packed_copy_key *key, size_t *size, const uint8_t **sums, struct error *err) {
    const uint8_t *at = (const uint8_t *)head.data;
    if (head.len < PACKED_COPY_FIXED || memcmp(at, MAGIC, sizeof MAGIC) != 0) return error_set(err, E_DATA_LOSS, "it is no packed copy of a model");
    if (get(at + AT_VERSION, 4) != PACKED_COPY_VERSION) return error_set(err, E_NOT_FOUND, "it is of version %llu, not %d", (unsigned long long)get(at + AT_VERSION, 4), PACKED_COPY_VERSION);
    if (key->size == 0 || chunk_count(key->size) > PACKED_COPY_CHUNKS_MAX) return error_set(err, E_TOO_LARGE, "weights of %zu bytes have no packed copy", key->size);
    uint64_t head_size = get(at + AT_HEAD, 4);
    if (head_size < PACKED_COPY_FIXED || head_size > PACKED_COPY_OFFSET || head_size > head.len || get(at + AT_CRC, 4) != head_crc(at, (size_t)head_size))
        return error_set(err, E_DATA_LOSS, "its head is damaged");
    uint64_t of_weights = get(at + AT_SIZE, 8);
    uint8_t want[PACKED_COPY_FIXED];
    make_fixed(want, key, of_weights > 0 && of_weights <= key->size ? (size_t)of_weights : key->size);
    put(want + AT_CRC, get(at + AT_CRC, 4), 4);
    if (memcmp(at, want, sizeof want) != 0 || head_size != get(want + AT_HEAD, 4)) return error_set(err, E_NOT_FOUND, "it is of another model, or of one that has changed since");
    if (file_size != PACKED_COPY_OFFSET + of_weights)
        return error_set(err, E_DATA_LOSS, "it has %llu bytes instead of %llu", (unsigned long long)file_size, (unsigned long long)(PACKED_COPY_OFFSET + of_weights));
    *size = (size_t)of_weights;
    *sums = at + PACKED_COPY_FIXED;
    return 0;
}

/* --- reading --- */

/* All of it; E_DATA_LOSS where the file ends before. */
static int read_at(int fd, uint8_t *to, size_t size, off_t from, struct error *err) {
    while (size > 0) {
        ssize_t n = pread(fd, to, size, from);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return error_errno(err, errno, "it cannot be read");
        if (n == 0) return error_set(err, E_DATA_LOSS, "it has become shorter");
        to += n;
        size -= (size_t)n;
        from += n;
    }
    return 0;
}

struct read_job {
    int fd;
    size_t size;
    uint8_t *memory;
    const uint8_t *sums;
    _Atomic int result;
    _Atomic size_t damaged;
};
static void read_chunk(void *arg, size_t i, int thread) {
    struct read_job *j = arg;
    (void)thread;
    if (atomic_load(&j->result) != 0) return;
    size_t size = chunk_size(j->size, i);
    uint8_t *to = j->memory + i * PACKED_COPY_CHUNK;
    int r = read_at(j->fd, to, size, (off_t)(PACKED_COPY_OFFSET + i * PACKED_COPY_CHUNK), NULL);
    if (r == 0 && crc32c_quarters(to, size) != get(j->sums + 4 * i, 4)) r = E_DATA_LOSS;
    if (r == 0) return;
    atomic_store(&j->damaged, i);
    atomic_store(&j->result, r);
}

int packed_copy_read(const char *path, const struct packed_copy_key *key, uint8_t *memory, struct pool *pool, struct error *err) {
    struct stat st;
    uint8_t *head = NULL;
    const uint8_t *sums;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK /* of a pipe */), r = 0;
    if (fd < 0) return error_errno(err, errno, "%s", path);
    if (fstat(fd, &st) != 0) r = error_errno(err, errno, "it cannot be read");
    else if (!S_ISREG(st.st_mode)) r = error_set(err, E_DATA_LOSS, "it is no regular file");
    size_t size = PACKED_COPY_FIXED + 4 * chunk_count(key->size), of_weights = 0;
    if (r == 0 && (uint64_t)st.st_size < size) size = (size_t)st.st_size;
    if (r == 0 && !(head = mem_alloc(size))) r = error_set(err, E_NOMEM, "no memory to read it");
    if (r == 0) r = read_at(fd, head, size, 0, err);
    if (r == 0) r = packed_copy_check(span_of(head, size), (uint64_t)st.st_size, key, &of_weights, &sums, err);
    if (r == 0) {
        struct read_job job = {.fd = fd, .size = of_weights, .memory = memory, .sums = sums};
        pool_run(pool, chunk_count(of_weights), &job, read_chunk);
        r = job.result;
        if (r == E_DATA_LOSS) error_set(err, r, "its bytes from %zu MiB on are damaged", job.damaged * (PACKED_COPY_CHUNK >> 20));
        else if (r != 0) error_set(err, r, "it cannot be read");
    }
    mem_free(head);
    close(fd);
    if (r != 0) error_prefix(err, "%s", path);
    return r;
}

/* --- writing --- */

static int write_at(int fd, const uint8_t *from, size_t size, off_t to, const char *path, struct error *err) {
    while (size > 0) {
        ssize_t n = pwrite(fd, from, size, to);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return error_errno(err, errno, "%s", path);
        from += n;
        size -= (size_t)n;
        to += n;
    }
    return 0;
}

/* Without fsync: a copy that a power cut has torn has wrong checksums, and is made again. */
int packed_copy_write(const char *path, const struct packed_copy_key *key, const uint8_t *memory, const atomic_bool *stop, struct error *err) {
    char temporary[PATH_MAX];
    uint64_t nonce;
    size_t chunks = chunk_count(key->size), head_size = PACKED_COPY_FIXED + 4 * chunks;
    if (key->size == 0 || chunks > PACKED_COPY_CHUNKS_MAX) return error_set(err, E_TOO_LARGE, "weights of %zu bytes have no packed copy", key->size);
    random_bytes(&nonce, sizeof nonce);
    int n = snprintf(temporary, sizeof temporary, "%s.%016llx.tmp", path, (unsigned long long)nonce), r = 0;
    if (n < 0 || (size_t)n >= sizeof temporary) return error_set(err, E_INVALID, "%s: the path is too long", path);
    uint8_t *head = mem_alloc(head_size);
    if (!head) return error_set(err, E_NOMEM, "%s: no memory to write it", path);
    int fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0) {
        mem_free(head);
        return error_errno(err, errno, "%s", temporary);
    }
    make_fixed(head, key, key->size);
    if (fallocate(fd, 0, 0, (off_t)(PACKED_COPY_OFFSET + key->size)) != 0 && errno == ENOSPC) r = error_errno(err, ENOSPC, "%s", temporary); /* said before, not amid */
    for (size_t i = 0; i < chunks && r == 0; i++) {
        size_t size = chunk_size(key->size, i);
        const uint8_t *from = memory + i * PACKED_COPY_CHUNK;
        put(head + PACKED_COPY_FIXED + 4 * i, crc32c_quarters(from, size), 4);
        if (stop && atomic_load(stop)) r = error_set(err, E_CANCELLED, "%s: given up", path);
        else r = write_at(fd, from, size, (off_t)(PACKED_COPY_OFFSET + i * PACKED_COPY_CHUNK), temporary, err);
    }
    put(head + AT_CRC, head_crc(head, head_size), 4);
    if (r == 0) r = write_at(fd, head, head_size, 0, temporary, err);
    if (close(fd) != 0 && r == 0) r = error_errno(err, errno, "%s", temporary);
    if (r == 0 && rename(temporary, path) != 0) r = error_errno(err, errno, "%s", path);
    if (r != 0) unlink(temporary);
    mem_free(head);
    return r;
}
