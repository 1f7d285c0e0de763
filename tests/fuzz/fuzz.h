/*
 * fuzz: what the fuzzing targets share. Each is one LLVMFuzzerTestOneInput(), for clang's -fsanitize=fuzzer
 * (configure --enable-fuzzing, make fuzz), and for replay.c, which `make check` runs.
 *
 * A target breaks by a sanitizer's report or by MUST(), which stays on whatever NDEBUG says. Whatever an input does not
 * hold reads as zeros, so that every cut of it is an input, too.
 */
#ifndef LITEFWD_TESTS_FUZZ_H
#define LITEFWD_TESTS_FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MUST(what)                                                                          \
	do {                                                                                \
		if (!(what)) {                                                              \
			fprintf(stderr, "%s:%d: must hold: %s\n", __FILE__, __LINE__, #what); \
			abort();                                                            \
		}                                                                           \
	} while (0)

struct fuzz_in {
	const uint8_t *data;
	size_t left;
};

static inline uint64_t fuzz_take(struct fuzz_in *in, unsigned bytes)
{
	uint64_t v = 0;

	for (unsigned i = 0; i < bytes; i++) {
		v = v << 8 | (in->left ? *in->data : 0);
		if (in->left)
			in->data++, in->left--;
	}
	return v;
}

/* Up to len bytes of the input itself; *ret_len: how many. */
static inline const uint8_t *fuzz_take_bytes(struct fuzz_in *in, size_t len, size_t *ret_len)
{
	const uint8_t *p = in->data;

	*ret_len = len < in->left ? len : in->left;
	in->data += *ret_len;
	in->left -= *ret_len;
	return p;
}

/* All that is left, as a text of its own: a read beyond its end is one beyond an allocation. */
static inline char *fuzz_text(const uint8_t *data, size_t size)
{
	char *text = malloc(size + 1);

	MUST(text);
	if (size)
		memcpy(text, data, size);
	text[size] = 0;
	return text;
}

#endif
