/* pos: LiteFS' text form of a position, exactly. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>
#include <errno.h>

#include "format/pos.h"

static const char good[] = "000000000000002a/bad6bdb824d51f66\n";
static const struct pos good_pos = {.txid = 42, .checksum = UINT64_C(0xbad6bdb824d51f66)};
static const struct pos untouched = {.txid = 7, .checksum = 9};

static void pos_parse__with_and_without_newline__same_position(void **state)
{
	struct pos p = untouched;

	(void)state;
	assert_int_equal(strlen(good), POS_TEXT_SIZE);
	assert_int_equal(pos_parse(good, POS_TEXT_SIZE, &p), 0);
	assert_true(pos_equal(p, good_pos));
	p = untouched;
	assert_int_equal(pos_parse(good, POS_TEXT_SIZE - 1, &p), 0);
	assert_true(pos_equal(p, good_pos));
}

static void pos_parse__extremes__exact(void **state)
{
	struct pos p = untouched;

	(void)state;
	assert_int_equal(pos_parse("0000000000000000/0000000000000000\n", POS_TEXT_SIZE, &p), 0);
	assert_true(p.txid == 0 && p.checksum == 0);
	assert_int_equal(pos_parse("ffffffffffffffff/ffffffffffffffff\n", POS_TEXT_SIZE, &p), 0);
	assert_true(p.txid == UINT64_MAX && p.checksum == UINT64_MAX);
}

static void pos_parse__each_other_length__refused(void **state)
{
	char text[64];

	(void)state;
	memset(text, '0', sizeof text);
	memcpy(text, good, POS_TEXT_SIZE);
	for (size_t len = 0; len <= sizeof text; len++) {
		struct pos p = untouched;

		if (len == POS_TEXT_SIZE || len == POS_TEXT_SIZE - 1)
			continue;
		assert_int_equal(pos_parse(text, len, &p), -EBADMSG);
		assert_true(pos_equal(p, untouched));
	}
}

/* Every byte at every place: accepted only where LiteFS would write it, and then with its value. */
static void pos_parse__each_byte_replaced__refused_unless_a_digit(void **state)
{
	(void)state;
	for (size_t at = 0; at < POS_TEXT_SIZE; at++)
		for (int c = 0; c < 256; c++) {
			char text[POS_TEXT_SIZE];
			struct pos p = untouched;
			int is_digit = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
			int fits = at == 16 ? c == '/' : at == 33 ? c == '\n' : is_digit;

			memcpy(text, good, sizeof text);
			text[at] = (char)c;
			assert_int_equal(pos_parse(text, sizeof text, &p), fits ? 0 : -EBADMSG);
			if (!fits)
				assert_true(pos_equal(p, untouched));
			else
				assert_true(pos_equal(p, good_pos) == (text[at] == good[at]));
		}
}

static void pos_parse_hex16__upper_case_sign_and_prefix__refused(void **state)
{
	uint64_t v = 5;

	(void)state;
	assert_int_equal(pos_parse_hex16("00000000000000FF", &v), -EBADMSG);
	assert_int_equal(pos_parse_hex16("-000000000000001", &v), -EBADMSG);
	assert_int_equal(pos_parse_hex16("+000000000000001", &v), -EBADMSG);
	assert_int_equal(pos_parse_hex16("0x00000000000001", &v), -EBADMSG);
	assert_int_equal(pos_parse_hex16("               1", &v), -EBADMSG);
	assert_true(v == 5);
	assert_int_equal(pos_parse_hex16("0123456789abcdef", &v), 0);
	assert_true(v == UINT64_C(0x0123456789abcdef));
}

static void pos_equal__either_part_differs__false(void **state)
{
	struct pos other_txid = good_pos, other_sum = good_pos;

	(void)state;
	other_txid.txid++;
	other_sum.checksum ^= 1;
	assert_true(pos_equal(good_pos, good_pos));
	assert_false(pos_equal(good_pos, other_txid));
	assert_false(pos_equal(good_pos, other_sum));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(pos_parse__with_and_without_newline__same_position),
		cmocka_unit_test(pos_parse__extremes__exact),
		cmocka_unit_test(pos_parse__each_other_length__refused),
		cmocka_unit_test(pos_parse__each_byte_replaced__refused_unless_a_digit),
		cmocka_unit_test(pos_parse_hex16__upper_case_sign_and_prefix__refused),
		cmocka_unit_test(pos_equal__either_part_differs__false),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
