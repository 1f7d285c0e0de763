/*
 * crc64: CRC-64/ISO as LTX uses it (reflected, polynomial 0xD800000000000000,
 * initial value and final xor all ones; Go's hash/crc64 with crc64.ISO).
 * Pure after the tables are made (at load, by a constructor); threads: any.
 */
#ifndef LITEFWD_FORMAT_CRC64_H
#define LITEFWD_FORMAT_CRC64_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* crc: 0 to start, or what the previous call returned (as zlib's crc32 chains). */
uint64_t crc64_iso(uint64_t crc, const void *data, size_t len);

/*
 * What crc64_iso() chooses from at load, for tests and the benchmark: tables on
 * any machine; carry-less multiplication only where crc64_has_clmul() is true.
 */
uint64_t crc64_iso_tables(uint64_t crc, const void *data, size_t len);
uint64_t crc64_iso_clmul(uint64_t crc, const void *data, size_t len);
bool crc64_has_clmul(void);

#endif
