/*
 * Two ways to the same number.
 *
 * Tables ("slicing by 16"): tables[k][b] is the effect of byte b followed by k
 * zero bytes, so that 16 bytes need 16 independent look-ups and no chain.
 *
 * Carry-less multiplication: a CRC is a remainder of polynomials, so 16 bytes
 * may be replaced by anything congruent that lies d bits further on. With the
 * reflected bit order a 16-byte block, loaded little-endian, is
 *
 *	low half * x^64 + high half
 *
 * and moving it on by d bits is  low * x^(d+64) + high * x^d.  Both factors are
 * taken modulo the polynomial beforehand; each product of two reflected 64-bit
 * values comes out multiplied by x, so the factors are x^(d+63) and x^(d-1).
 * Four blocks are moved 64 bytes on at a time; what is left in the end is 16
 * bytes with the remainder of everything before, and the tables finish it.
 */
#include "format/crc64.h"

#include <endian.h>
#include <string.h>

#define POLY UINT64_C(0xD800000000000000)
#define SLICES 16

static uint64_t tables[SLICES][256];

static void make_tables(void)
{
	for (unsigned int b = 0; b < 256; b++) {
		uint64_t crc = b;

		for (int bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (crc & 1 ? POLY : 0);
		tables[0][b] = crc;
	}
	for (int k = 1; k < SLICES; k++)
		for (unsigned int b = 0; b < 256; b++) {
			uint64_t crc = tables[k - 1][b];

			tables[k][b] = crc >> 8 ^ tables[0][crc & 0xff];
		}
}

static inline uint64_t load_le64(const uint8_t *p)
{
	uint64_t v;

	memcpy(&v, p, sizeof v);
	return le64toh(v);
}

/* The look-ups of eight bytes that have `after` more bytes behind them. */
static inline uint64_t slice8(uint64_t v, int after)
{
	return tables[after + 7][v & 0xff] ^ tables[after + 6][v >> 8 & 0xff] ^ tables[after + 5][v >> 16 & 0xff] ^
	       tables[after + 4][v >> 24 & 0xff] ^ tables[after + 3][v >> 32 & 0xff] ^ tables[after + 2][v >> 40 & 0xff] ^
	       tables[after + 1][v >> 48 & 0xff] ^ tables[after][v >> 56];
}

/* Without the inversions at both ends. */
static uint64_t update_tables(uint64_t state, const uint8_t *p, size_t len)
{
	while (len >= SLICES) {
		state = slice8(state ^ load_le64(p), 8) ^ slice8(load_le64(p + 8), 0);
		p += SLICES;
		len -= SLICES;
	}
	while (len--)
		state = state >> 8 ^ tables[0][(state ^ *p++) & 0xff];
	return state;
}

uint64_t crc64_iso_tables(uint64_t crc, const void *data, size_t len)
{
	return ~update_tables(~crc, data, len);
}

#if defined(__x86_64__)

#include <immintrin.h>

#define CLMUL_MIN 128 /* below this the set-up is not worth it */

/* Factors that move a block on by 64 bytes and by 16. */
static struct {
	uint64_t low, high;
} by64, by16;
static bool have_clmul;

/* x^n modulo the polynomial, reflected: bit 63 is x^0. */
static uint64_t power_of_x(unsigned int n)
{
	uint64_t v = UINT64_C(1) << 63;

	while (n--)
		v = v >> 1 ^ (v & 1 ? POLY : 0);
	return v;
}

static void clmul_prepare(void)
{
	__builtin_cpu_init();
	have_clmul = __builtin_cpu_supports("pclmul") && __builtin_cpu_supports("sse2");
	by64.low = power_of_x(512 + 63);
	by64.high = power_of_x(512 - 1);
	by16.low = power_of_x(128 + 63);
	by16.high = power_of_x(128 - 1);
}

__attribute__((target("pclmul"))) static inline __m128i fold(__m128i block, __m128i factors, __m128i next)
{
	__m128i low = _mm_clmulepi64_si128(block, factors, 0x00);
	__m128i high = _mm_clmulepi64_si128(block, factors, 0x11);

	return _mm_xor_si128(_mm_xor_si128(low, high), next);
}

static inline __m128i load(const uint8_t *p)
{
	return _mm_loadu_si128((const __m128i *)(const void *)p);
}

__attribute__((target("pclmul"))) static uint64_t update_clmul(uint64_t state, const uint8_t *p, size_t len)
{
	const __m128i k64 = _mm_set_epi64x((long long)by64.high, (long long)by64.low);
	const __m128i k16 = _mm_set_epi64x((long long)by16.high, (long long)by16.low);
	__m128i a, b, c, d;
	uint8_t rest[16];

	if (len < CLMUL_MIN)
		return update_tables(state, p, len);
	a = _mm_xor_si128(load(p), _mm_set_epi64x(0, (long long)state));
	b = load(p + 16);
	c = load(p + 32);
	d = load(p + 48);
	for (p += 64, len -= 64; len >= 64; p += 64, len -= 64) {
		a = fold(a, k64, load(p));
		b = fold(b, k64, load(p + 16));
		c = fold(c, k64, load(p + 32));
		d = fold(d, k64, load(p + 48));
	}
	b = fold(a, k16, b);
	c = fold(b, k16, c);
	d = fold(c, k16, d);
	for (; len >= 16; p += 16, len -= 16)
		d = fold(d, k16, load(p));
	_mm_storeu_si128((__m128i *)(void *)rest, d);
	return update_tables(update_tables(0, rest, sizeof rest), p, len);
}

uint64_t crc64_iso_clmul(uint64_t crc, const void *data, size_t len)
{
	return ~update_clmul(~crc, data, len);
}

bool crc64_has_clmul(void)
{
	return have_clmul;
}

uint64_t crc64_iso(uint64_t crc, const void *data, size_t len)
{
	return have_clmul ? crc64_iso_clmul(crc, data, len) : crc64_iso_tables(crc, data, len);
}

#else

static void clmul_prepare(void)
{
}

uint64_t crc64_iso_clmul(uint64_t crc, const void *data, size_t len)
{
	return crc64_iso_tables(crc, data, len);
}

bool crc64_has_clmul(void)
{
	return false;
}

uint64_t crc64_iso(uint64_t crc, const void *data, size_t len)
{
	return crc64_iso_tables(crc, data, len);
}

#endif

__attribute__((constructor)) static void prepare(void)
{
	make_tables();
	clmul_prepare();
}
