/*
 * CRC-32C (Castagnoli; RFC 3720), with the CPU's instruction where it has one: of whole megabytes, to find what a disk or a torn write has changed. No guard against
 * somebody who means harm. Pure; any thread.
 */
#ifndef GENLOOP_BASE_CRC32C_H
#define GENLOOP_BASE_CRC32C_H

#include <stddef.h>
#include <stdint.h>

uint32_t crc32c(const void *data, size_t len);
/* Four times as fast on long data: the CRC of the CRCs of its four quarters (each of len / 4 bytes, the last with what is left), little-endian. */
uint32_t crc32c_quarters(const void *data, size_t len);
/* Tests: crc32c without the CPU's instruction. */
uint32_t crc32c_plain(const void *data, size_t len);

#endif
