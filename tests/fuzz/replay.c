/*
 * replay: runs a fuzzing target over its corpus and over mutations of it, without clang. The program's name says which corpus:
 * tests/fuzz/fuzz_ltx has $FUZZ_CORPUS/ltx. One TAP case per file, one for the mutations.
 *
 * Mutations follow from the seed alone (FUZZ_SEED, printed) and the corpus, so that a failure comes again; FUZZ_MUTATIONS says how
 * many. Whatever ends the program says first which input it was; FUZZ_KEEP=FILE keeps that input. Arguments: files to run.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fuzz.h"

#define SIZE_LIMIT ((size_t)1 << 20)
#define MUTATIONS 1500
/* Of a target that goes over a socket for each input. */
#define MUTATIONS_SLOW 150

struct input {
	char *name;
	uint8_t *data;
	size_t size;
};

static struct input *inputs;
static size_t count;
static uint64_t state; /* of the generator */

/* What is running, for whoever comes to look at the ruins. */
static char now[512];
static uint8_t *now_data;
static size_t now_size;

void __sanitizer_set_death_callback(void (*callback)(void)) __attribute__((weak));

static void say(const char *text)
{
	if (write(STDERR_FILENO, text, strlen(text)) < 0)
		_exit(1);
}

static void on_death(void)
{
	const char *keep = getenv("FUZZ_KEEP");
	int fd;

	say("# died of: ");
	say(now);
	say("\n");
	if (!keep)
		return;
	fd = open(keep, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	if (fd < 0 || write(fd, now_data, now_size) < 0)
		say("# FUZZ_KEEP: not written\n");
}

static void on_signal(int sig)
{
	on_death();
	signal(sig, SIG_DFL);
	raise(sig);
}

static void give_up(const char *what)
{
	printf("Bail out! %s: %s\n", what, strerror(errno));
	exit(1);
}

static uint64_t next(void)
{
	/* splitmix64 */
	uint64_t z = (state += UINT64_C(0x9e3779b97f4a7c15));

	z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
	return z ^ z >> 31;
}

static size_t below(size_t n)
{
	return n ? (size_t)(next() % n) : 0;
}

static void add_file(const char *path, const char *name)
{
	struct input *in;
	struct stat st;
	size_t got = 0;
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0 || fstat(fd, &st) < 0)
		give_up(path);
	if ((size_t)st.st_size > SIZE_LIMIT) {
		errno = EFBIG;
		give_up(path);
	}
	inputs = realloc(inputs, (count + 1) * sizeof *inputs);
	if (!inputs)
		give_up(path);
	in = &inputs[count++];
	*in = (struct input){strdup(name), malloc((size_t)st.st_size + 1), (size_t)st.st_size};
	if (!in->name || !in->data)
		give_up(path);
	while (got < in->size) {
		ssize_t n = read(fd, in->data + got, in->size - got);

		if (n <= 0)
			give_up(path);
		got += (size_t)n;
	}
	close(fd);
}

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct input *)a)->name, ((const struct input *)b)->name);
}

static void add_directory(const char *dir)
{
	DIR *d = opendir(dir);
	struct dirent *ent;

	if (!d)
		give_up(dir);
	while ((ent = readdir(d)) != NULL) {
		char path[4096 + 300];

		if (ent->d_name[0] == '.')
			continue;
		snprintf(path, sizeof path, "%s/%s", dir, ent->d_name);
		add_file(path, ent->d_name);
	}
	closedir(d);
	if (!count) {
		errno = ENOENT;
		give_up("an empty corpus"); /* would test nothing */
	}
	qsort(inputs, count, sizeof *inputs, by_name);
}

/* In memory of exactly that size, so that a read beyond it is seen. */
static void run(const uint8_t *data, size_t size)
{
	uint8_t *copy = malloc(size ? size : 1);

	if (!copy)
		give_up("memory");
	memcpy(copy, data, size);
	now_data = copy;
	now_size = size;
	LLVMFuzzerTestOneInput(size ? copy : (const uint8_t *)"", size);
	free(copy);
}

static void mutate_once(uint8_t *buf, size_t *size, size_t cap)
{
	static const uint8_t edges[] = {0, 1, 0x7f, 0x80, 0xff, '"', '\n', '{', '}', '/', ' ', '%', ':', '$'};
	size_t at = below(*size), n = 1 + below(8);

	switch (next() % 7) {
	case 0: /* a bit */
		if (*size)
			buf[at] ^= (uint8_t)(1u << below(8));
		break;
	case 1: /* a byte */
		if (*size)
			buf[at] = (uint8_t)next();
		break;
	case 2: /* some bytes of an edge */
		for (size_t i = at; i < *size && i < at + n; i++)
			buf[i] = edges[next() % sizeof edges];
		break;
	case 3: /* the end goes */
		*size = at;
		break;
	case 4: /* some bytes go */
		if (at + n <= *size) {
			memmove(buf + at, buf + at + n, *size - at - n);
			*size -= n;
		}
		break;
	case 5: /* a piece comes again */
		if (*size + n <= cap && at + n <= *size) {
			memmove(buf + at + n, buf + at, *size - at);
			*size += n;
		}
		break;
	default: /* a piece of another input */
		if (count) {
			const struct input *other = &inputs[below(count)];
			size_t from = below(other->size);

			n = 1 + below(64);
			for (size_t i = 0; i < n && at + i < *size && from + i < other->size; i++)
				buf[at + i] = other->data[from + i];
		}
	}
}

static void mutations(unsigned long n, uint64_t seed)
{
	uint8_t *buf = malloc(SIZE_LIMIT);

	if (!buf)
		give_up("memory");
	state = seed;
	for (unsigned long i = 0; i < n; i++) {
		const struct input *in = &inputs[below(count)];
		size_t size = in->size;

		memcpy(buf, in->data, size);
		for (size_t times = 1 + below(4); times; times--)
			mutate_once(buf, &size, SIZE_LIMIT);
		snprintf(now, sizeof now, "mutation %lu of FUZZ_SEED=%llu, of %s", i, (unsigned long long)seed, in->name);
		run(buf, size);
	}
	free(buf);
}

int main(int argc, char **argv)
{
	static const int signals[] = {SIGABRT, SIGSEGV, SIGBUS, SIGILL, SIGFPE};
	const char *base = strrchr(argv[0], '/'), *corpus = getenv("FUZZ_CORPUS"), *text = getenv("FUZZ_SEED");
	uint64_t seed = text ? strtoull(text, NULL, 0) : 20240229;
	unsigned long n;
	char dir[4096];

	base = base ? base + 1 : argv[0];
	base = strncmp(base, "fuzz_", 5) ? base : base + 5;
	n = !strcmp(base, "http") || !strcmp(base, "gateway") ? MUTATIONS_SLOW : MUTATIONS;
	text = getenv("FUZZ_MUTATIONS");
	if (text)
		n = strtoul(text, NULL, 0);
	for (int i = 1; i < argc; i++)
		add_file(argv[i], argv[i]);
	if (argc < 2) {
		snprintf(dir, sizeof dir, "%s/%s", corpus ? corpus : "tests/fuzz/corpus", base);
		add_directory(dir);
	}
	if (__sanitizer_set_death_callback)
		__sanitizer_set_death_callback(on_death);
	else
		for (size_t i = 0; i < sizeof signals / sizeof signals[0]; i++)
			signal(signals[i], on_signal);
	printf("1..%zu\n# seed %llu, %lu mutations\n", count + 1, (unsigned long long)seed, n);
	fflush(stdout);
	for (size_t i = 0; i < count; i++) {
		snprintf(now, sizeof now, "%s", inputs[i].name);
		run(inputs[i].data, inputs[i].size);
		printf("ok %zu - %s__%s\n", i + 1, base, inputs[i].name);
		fflush(stdout);
	}
	mutations(n, seed);
	printf("ok %zu - %s__mutations__nothing_breaks\n", count + 1, base);
	for (size_t i = 0; i < count; i++) {
		free(inputs[i].name);
		free(inputs[i].data);
	}
	free(inputs);
	return 0;
}
