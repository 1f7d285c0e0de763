/*
 * random: numbers that no other node can have, from getrandom(2).
 * Threads: any. Blocks only until the kernel's pool is ready after boot. Aborts when the kernel has no getrandom.
 */
#ifndef LITEFWD_BASE_RANDOM_H
#define LITEFWD_BASE_RANDOM_H

#include <stdint.h>

uint64_t random_u64(void);
uint32_t random_u32(void);

#endif
