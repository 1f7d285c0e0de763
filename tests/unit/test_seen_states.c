#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "db/seen_states.h"

static void page(uint8_t *page1, uint32_t counter)
{
	memset(page1, 7, 100);
	memcpy(page1 + SEEN_STATE_OFFSET, &counter, sizeof counter);
}

static void add__same_state_at_its_own_position__not_another_history(void **state)
{
	static struct seen_states seen;
	uint8_t page1[100];

	(void)state;
	page(page1, 5);
	assert_false(seen_states_add(&seen, page1, (struct pos){5, 55}));
	assert_false(seen_states_add(&seen, page1, (struct pos){5, 55}));
	page(page1, 6);
	assert_false(seen_states_add(&seen, page1, (struct pos){6, 66}));
	page(page1, 5);
	assert_false(seen_states_add(&seen, page1, (struct pos){5, 55}));
}

static void add__same_bytes_at_another_position__another_history_once(void **state)
{
	static struct seen_states seen;
	uint8_t page1[100];

	(void)state;
	page(page1, 5);
	assert_false(seen_states_add(&seen, page1, (struct pos){5, 55}));
	page1[0] = 8; /* bytes that SQLite does not compare */
	page1[SEEN_STATE_OFFSET + SEEN_STATE_SIZE] = 8;
	assert_true(seen_states_add(&seen, page1, (struct pos){5, 56}));
	assert_false(seen_states_add(&seen, page1, (struct pos){5, 56}));
	assert_true(seen_states_add(&seen, page1, (struct pos){5, 55}));
}

/* Of several databases' transaction one was committed and taken back: SQLite writes the old change counter, too. */
static void add__same_content_by_a_later_transaction__the_same_state(void **state)
{
	static struct seen_states seen;
	uint8_t page1[100];

	(void)state;
	page(page1, 5);
	assert_false(seen_states_add(&seen, page1, (struct pos){5, 55}));
	assert_false(seen_states_add(&seen, page1, (struct pos){7, 55}));
	assert_true(seen_states_add(&seen, page1, (struct pos){7, 56}));
}

static void add__more_than_it_keeps__oldest_forgotten(void **state)
{
	static struct seen_states seen;
	uint8_t page1[100];

	(void)state;
	for (uint32_t i = 0; i <= SEEN_STATES_MAX; i++) {
		page(page1, i);
		assert_false(seen_states_add(&seen, page1, (struct pos){i + 1, 1}));
	}
	page(page1, 1);
	assert_true(seen_states_add(&seen, page1, (struct pos){2, 2}));
	page(page1, 0);
	assert_false(seen_states_add(&seen, page1, (struct pos){1, 2}));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(add__same_state_at_its_own_position__not_another_history),
		cmocka_unit_test(add__same_bytes_at_another_position__another_history_once),
		cmocka_unit_test(add__same_content_by_a_later_transaction__the_same_state),
		cmocka_unit_test(add__more_than_it_keeps__oldest_forgotten),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
