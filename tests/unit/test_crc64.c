/* crc64: both ways against a bit by bit reference and against published values. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "format/crc64.h"

typedef uint64_t (*crc_fn)(uint64_t crc, const void *data, size_t len);

static uint64_t bitwise(uint64_t crc, const uint8_t *p, size_t len)
{
	crc = ~crc;
	while (len--) {
		crc ^= *p++;
		for (int i = 0; i < 8; i++)
			crc = crc >> 1 ^ (crc & 1 ? UINT64_C(0xD800000000000000) : 0);
	}
	return ~crc;
}

static uint64_t seed = 88172645463325252;

static uint64_t next_random(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed;
}

static void fill(uint8_t *p, size_t len)
{
	while (len--)
		*p++ = (uint8_t)(next_random() >> 32);
}

/* The published check value of CRC-64/GO-ISO, and values of Go's hash/crc64 for LTX' own shapes. */
static void crc64__known_values__agree(void **state)
{
	(void)state;
	assert_int_equal(crc64_iso(0, "", 0), 0);
	assert_true(crc64_iso(0, "123456789", 9) == UINT64_C(0xB90956C775A41001));
	assert_true(crc64_iso(0, "a", 1) == UINT64_C(0x3420000000000000));
	assert_true(crc64_iso(0, "The quick brown fox jumps over the lazy dog", 43) == UINT64_C(0x4EF14E19F4C6E28E));
}

static void each_length(crc_fn fn)
{
	enum { MAX = 700 };
	uint8_t buf[MAX + 16];

	fill(buf, sizeof buf);
	for (size_t shift = 0; shift < 16; shift++)
		for (size_t len = 0; len <= MAX; len++) {
			uint64_t start = len & 1 ? next_random() : 0;

			assert_true(fn(start, buf + shift, len) == bitwise(start, buf + shift, len));
		}
}

static void crc64__tables_each_length_and_alignment__as_bitwise(void **state)
{
	(void)state;
	each_length(crc64_iso_tables);
}

static void crc64__clmul_each_length_and_alignment__as_bitwise(void **state)
{
	(void)state;
	if (!crc64_has_clmul())
		skip();
	each_length(crc64_iso_clmul);
}

static void crc64__chosen_way__as_bitwise(void **state)
{
	(void)state;
	each_length(crc64_iso);
}

static void crc64__large_block__all_ways_agree(void **state)
{
	size_t len = 1 << 20;
	uint8_t *buf = malloc(len);
	uint64_t want;

	(void)state;
	assert_non_null(buf);
	fill(buf, len);
	want = bitwise(0, buf, len);
	assert_true(crc64_iso_tables(0, buf, len) == want);
	assert_true(crc64_iso(0, buf, len) == want);
	if (crc64_has_clmul())
		assert_true(crc64_iso_clmul(0, buf, len) == want);
	free(buf);
}

static void crc64__split_at_random__chains(void **state)
{
	uint8_t buf[5000];

	(void)state;
	fill(buf, sizeof buf);
	for (int round = 0; round < 200; round++) {
		uint64_t crc = 0, crc_tables = 0;
		size_t pos = 0;

		while (pos < sizeof buf) {
			size_t n = next_random() % 900;

			if (n > sizeof buf - pos)
				n = sizeof buf - pos;
			crc = crc64_iso(crc, buf + pos, n);
			crc_tables = crc64_iso_tables(crc_tables, buf + pos, n);
			pos += n;
		}
		assert_true(crc == crc64_iso(0, buf, sizeof buf));
		assert_true(crc_tables == crc);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(crc64__known_values__agree),
		cmocka_unit_test(crc64__tables_each_length_and_alignment__as_bitwise),
		cmocka_unit_test(crc64__clmul_each_length_and_alignment__as_bitwise),
		cmocka_unit_test(crc64__chosen_way__as_bitwise),
		cmocka_unit_test(crc64__large_block__all_ways_agree),
		cmocka_unit_test(crc64__split_at_random__chains),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
