#include "base/crc32c.h"

#include <string.h>

#if defined(__x86_64__)
#include <nmmintrin.h>
#endif

enum { QUARTERS = 4 };

/* One entry per nibble: 64 bytes of table, which is enough for a CPU without the instruction. */
static const uint32_t NIBBLES[16] = {
    0x00000000, 0x105ec76f, 0x20bd8ede, 0x30e349b1, 0x417b1dbc, 0x5125dad3, 0x61c69362, 0x7198540d,
    0x82f63b78, 0x92a8fc17, 0xa24bb5a6, 0xb21572c9, 0xc38d26c4, 0xd3d3e1ab, 0xe330a81a, 0xf36e6f75,
};

static uint32_t plain(uint32_t crc, const uint8_t *at, size_t len) {
    for (size_t i = 0; i < len; i++) {
        crc ^= at[i];
        crc = crc >> 4 ^ NIBBLES[crc & 15];
        crc = crc >> 4 ^ NIBBLES[crc & 15];
    }
    return crc;
}

#if defined(__x86_64__)
static uint64_t word_at(const uint8_t *at) {
    uint64_t w;
    memcpy(&w, at, sizeof w);
    return w;
}
__attribute__((target("sse4.2"))) static uint32_t quick(uint32_t crc, const uint8_t *at, size_t len) {
    uint64_t c = crc;
    for (; len >= sizeof(uint64_t); at += sizeof(uint64_t), len -= sizeof(uint64_t)) c = _mm_crc32_u64(c, word_at(at));
    for (; len > 0; at++, len--) c = _mm_crc32_u8((uint32_t)c, *at);
    return (uint32_t)c;
}
/* The instruction takes three cycles, and one can begin in each: four chains keep it busy. */
__attribute__((target("sse4.2"))) static size_t quick_quarters(const uint8_t *at, size_t quarter, uint32_t crc[QUARTERS]) {
    uint64_t a = crc[0], b = crc[1], c = crc[2], d = crc[3];
    size_t done = 0;
    for (; done + sizeof(uint64_t) <= quarter; done += sizeof(uint64_t)) {
        a = _mm_crc32_u64(a, word_at(at + done));
        b = _mm_crc32_u64(b, word_at(at + quarter + done));
        c = _mm_crc32_u64(c, word_at(at + 2 * quarter + done));
        d = _mm_crc32_u64(d, word_at(at + 3 * quarter + done));
    }
    crc[0] = (uint32_t)a;
    crc[1] = (uint32_t)b;
    crc[2] = (uint32_t)c;
    crc[3] = (uint32_t)d;
    return done;
}
#endif

static uint32_t go_on(uint32_t crc, const uint8_t *at, size_t len) {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("sse4.2")) return quick(crc, at, len);
#endif
    return plain(crc, at, len);
}

uint32_t crc32c(const void *data, size_t len) { return ~go_on(UINT32_MAX, data, len); }
uint32_t crc32c_plain(const void *data, size_t len) { return ~plain(UINT32_MAX, data, len); }

uint32_t crc32c_quarters(const void *data, size_t len) {
    const uint8_t *at = data;
    uint32_t crc[QUARTERS] = {UINT32_MAX, UINT32_MAX, UINT32_MAX, UINT32_MAX};
    uint8_t sums[QUARTERS * sizeof(uint32_t)];
    size_t quarter = len / QUARTERS, done = 0;
#if defined(__x86_64__)
    if (__builtin_cpu_supports("sse4.2")) done = quick_quarters(at, quarter, crc);
#endif
    for (size_t i = 0; i < QUARTERS; i++) {
        size_t size = i + 1 < QUARTERS ? quarter : len - i * quarter;
        uint32_t sum = ~go_on(crc[i], at + i * quarter + done, size - done);
        for (size_t k = 0; k < sizeof sum; k++) sums[i * sizeof sum + k] = (uint8_t)(sum >> 8 * k);
    }
    return crc32c(sums, sizeof sums);
}
