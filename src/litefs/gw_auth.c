#include "litefs/gw_auth.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "format/pos.h"

#define SECRET_MIN 16
#define CALLERS_MAX 4096
#define NONE UINT32_MAX

/* ---- the secret ---- */

struct gw_secret *gw_secret_new(void)
{
	struct gw_secret *secret = mmap(NULL, sizeof *secret, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (secret == MAP_FAILED)
		return NULL;
	madvise(secret, sizeof *secret, MADV_DONTDUMP);
	mlock(secret, sizeof *secret); /* RLIMIT_MEMLOCK may say no */
	return secret;
}

void gw_secret_free(struct gw_secret *secret)
{
	if (!secret)
		return;
	OPENSSL_cleanse(secret, sizeof *secret);
	munmap(secret, sizeof *secret);
}

static int refuse_secret(const char *path, int err, const char *why, const char *todo)
{
	log_error("gateway_secret", "path=\"%s\" error=\"%s\" do=\"%s\"", path, why, todo);
	return err;
}

static ssize_t read_all(int fd, uint8_t *buf, size_t size)
{
	size_t n = 0;

	while (n < size) {
		ssize_t got = read(fd, buf + n, size - n);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return -errno;
		if (got == 0)
			break;
		n += (size_t)got;
	}
	return (ssize_t)n;
}

static bool is_space(uint8_t c)
{
	return c == ' ' || (c >= '\t' && c <= '\r');
}

static int read_secret(int fd, const char *path, struct gw_secret *ret)
{
	uint8_t buf[4096];
	struct stat st;
	ssize_t len;

	if (fstat(fd, &st) < 0)
		return refuse_secret(path, -errno, strerror(errno), "look at the file");
	if (!S_ISREG(st.st_mode))
		return refuse_secret(path, -EINVAL, "not a file", "name a file");
	if (st.st_uid != 0 && st.st_uid != geteuid())
		return refuse_secret(path, -EPERM, "it is another user's", "chown the file, and think of a new secret");
	if (st.st_mode & 077)
		return refuse_secret(path, -EPERM, "others may read or write it",
				     "chmod 600 the file, and think of a new secret");
	len = read_all(fd, buf, sizeof buf);
	if (len < 0)
		return refuse_secret(path, (int)len, strerror((int)-len), "look at the file");
	while (len > 0 && is_space(buf[len - 1]))
		len--;
	if (len < SECRET_MIN || (size_t)len > sizeof ret->key) {
		OPENSSL_cleanse(buf, sizeof buf);
		return refuse_secret(path, -EINVAL, len ? "not 16 to 256 bytes" : "empty",
				     "openssl rand -hex 32 >FILE, the same on every node");
	}
	memset(ret, 0, sizeof *ret);
	memcpy(ret->key, buf, (size_t)len);
	ret->len = (size_t)len;
	OPENSSL_cleanse(buf, sizeof buf);
	return 0;
}

int gw_secret_read(const char *path, struct gw_secret *ret)
{
	int fd, err;

	if (!path) {
		memset(ret, 0, sizeof *ret);
		return 0;
	}
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe is refused, not waited for */
	if (fd < 0)
		return refuse_secret(path, -errno, strerror(errno), "look at the file");
	err = read_secret(fd, path, ret);
	close(fd);
	return err;
}

/* ---- hashes ---- */

struct gw_hash {
	EVP_MD_CTX *ctx;
	bool failed;
};

static void to_hex(const uint8_t *bytes, size_t n, char *ret)
{
	for (size_t i = 0; i < n; i++)
		snprintf(ret + 2 * i, 3, "%02x", bytes[i]);
}

int gw_hash_new(struct gw_hash **ret)
{
	struct gw_hash *hash = calloc(1, sizeof *hash);

	if (!hash)
		return -ENOMEM;
	hash->ctx = EVP_MD_CTX_new();
	if (!hash->ctx || EVP_DigestInit_ex(hash->ctx, EVP_sha256(), NULL) != 1) {
		gw_hash_free(hash);
		return -ENOMEM;
	}
	*ret = hash;
	return 0;
}

void gw_hash_add(struct gw_hash *hash, const void *data, size_t len)
{
	if (EVP_DigestUpdate(hash->ctx, data, len) != 1)
		hash->failed = true;
}

/* "" is what no body has: nothing is authentic then. */
void gw_hash_end(struct gw_hash *hash, char ret_hex[65])
{
	uint8_t bytes[EVP_MAX_MD_SIZE];
	unsigned n = 0;

	ret_hex[0] = 0;
	if (EVP_DigestFinal_ex(hash->ctx, bytes, &n) == 1 && n == 32 && !hash->failed)
		to_hex(bytes, n, ret_hex);
}

void gw_hash_free(struct gw_hash *hash)
{
	if (!hash)
		return;
	EVP_MD_CTX_free(hash->ctx);
	free(hash);
}

void gw_hash_once(const void *data, size_t len, char ret_hex[65])
{
	uint8_t bytes[EVP_MAX_MD_SIZE];
	unsigned n = 0;

	ret_hex[0] = 0;
	if (EVP_Digest(data, len, bytes, &n, EVP_sha256(), NULL) == 1 && n == 32)
		to_hex(bytes, n, ret_hex);
}

/* ---- MACs ---- */

static int mac_of(const struct gw_secret *secret, const char *text, char ret[GW_MAC_HEX])
{
	uint8_t bytes[32];
	size_t n = 0;

	if (!EVP_Q_mac(NULL, "HMAC", NULL, "SHA256", NULL, secret->key, secret->len, (const uint8_t *)text, strlen(text), bytes,
		       sizeof bytes, &n) ||
	    n != sizeof bytes)
		return -ENOMEM;
	to_hex(bytes, n, ret);
	return 0;
}

static int request_mac(const struct gw_secret *secret, const char *method, const char *target, const char *body_hex,
		       const char *nonce, uint64_t caller, uint64_t counter, char ret[GW_MAC_HEX])
{
	char *text;
	int err;

	/* One that broke lines could pass for another. */
	if (strchr(method, '\n') || strchr(target, '\n') || !body_hex[0])
		return -EBADMSG;
	if (asprintf(&text, "%s\n%s\n%s\n%s\n%016" PRIx64 "\n%" PRIu64, method, target, body_hex, nonce, caller, counter) < 0)
		return -ENOMEM;
	err = mac_of(secret, text, ret);
	free(text);
	return err;
}

static int answer_mac(const struct gw_secret *secret, const char *mac, int status, const char *body_hex, char ret[GW_MAC_HEX])
{
	char text[GW_MAC_HEX + 65 + 16];

	if (strlen(mac) != GW_MAC_HEX - 1 || strlen(body_hex) != 64)
		return -EBADMSG;
	snprintf(text, sizeof text, "%s\n%d\n%s", mac, status, body_hex);
	return mac_of(secret, text, ret);
}

/* 64 lower-case hex digits and the end. */
static bool is_mac(const char *text)
{
	return strlen(text) == GW_MAC_HEX - 1 && strspn(text, "0123456789abcdef") == GW_MAC_HEX - 1;
}

/* ---- client ---- */

int gw_auth_request(const struct gw_secret *secret, const char *method, const char *target, const char body_hex[65],
		    const char *nonce, uint64_t caller, uint64_t counter, char ret_value[GW_AUTH_VALUE_MAX],
		    char ret_mac[GW_MAC_HEX])
{
	int err;

	ret_value[0] = ret_mac[0] = 0;
	if (secret->len == 0)
		return 0;
	err = request_mac(secret, method, target, body_hex, nonce, caller, counter, ret_mac);
	if (!err)
		snprintf(ret_value, GW_AUTH_VALUE_MAX, "v1 %016" PRIx64 " %" PRIu64 " %s", caller, counter, ret_mac);
	return err;
}

int gw_auth_check_answer(const struct gw_secret *secret, const char *mac, int status, const char body_hex[65],
			 const char *value)
{
	char expected[GW_MAC_HEX];
	int err;

	if (secret->len == 0)
		return 0;
	if (!value)
		return -EACCES;
	if (strncmp(value, "v1 ", 3) != 0 || !is_mac(value + 3))
		return -EBADMSG;
	err = answer_mac(secret, mac, status, body_hex, expected);
	if (err)
		return err;
	return CRYPTO_memcmp(expected, value + 3, GW_MAC_HEX - 1) ? -EACCES : 0;
}

/* ---- server ---- */

struct caller {
	uint64_t id, counter, seen;
	uint32_t next; /* of its chain; NONE: the last */
};

struct gw_callers {
	pthread_mutex_t mutex; /* a leaf */
	uint64_t now; /* counts requests */
	uint32_t n;
	uint32_t heads[CALLERS_MAX]; /* chains by id */
	struct caller callers[CALLERS_MAX];
};

int gw_callers_new(struct gw_callers **ret)
{
	struct gw_callers *callers = calloc(1, sizeof *callers);

	if (!callers)
		return -ENOMEM;
	pthread_mutex_init(&callers->mutex, NULL);
	memset(callers->heads, 0xff, sizeof callers->heads);
	*ret = callers;
	return 0;
}

void gw_callers_free(struct gw_callers *callers)
{
	if (!callers)
		return;
	pthread_mutex_destroy(&callers->mutex);
	free(callers);
}

static uint32_t *chain_of(struct gw_callers *callers, uint64_t id)
{
	return &callers->heads[id % CALLERS_MAX];
}

static uint32_t take_slot(struct gw_callers *callers)
{
	uint32_t oldest = 0, *link;

	if (callers->n < CALLERS_MAX)
		return callers->n++;
	for (uint32_t i = 1; i < CALLERS_MAX; i++)
		if (callers->callers[i].seen < callers->callers[oldest].seen)
			oldest = i;
	link = chain_of(callers, callers->callers[oldest].id);
	while (*link != oldest)
		link = &callers->callers[*link].next;
	*link = callers->callers[oldest].next;
	return oldest;
}

static int note_locked(struct gw_callers *callers, uint64_t id, uint64_t counter)
{
	uint32_t *head = chain_of(callers, id), i = *head;

	while (i != NONE && callers->callers[i].id != id)
		i = callers->callers[i].next;
	if (i != NONE && counter <= callers->callers[i].counter)
		return -EACCES;
	if (i == NONE) {
		i = take_slot(callers);
		callers->callers[i] = (struct caller){.id = id, .next = *head};
		*head = i;
	}
	callers->callers[i].counter = counter;
	callers->callers[i].seen = ++callers->now;
	return 0;
}

/* As gw_auth_request() writes it: no other spelling is the same request. */
static int parse_request(const char *value, uint64_t *ret_caller, uint64_t *ret_counter, const char **ret_mac)
{
	uint64_t counter = 0;
	const char *p = value;

	if (strlen(value) >= GW_AUTH_VALUE_MAX || strlen(value) < 20 || strncmp(value, "v1 ", 3) != 0 ||
	    pos_parse_hex16(value + 3, ret_caller) || value[19] != ' ' || value[20] < '1' || value[20] > '9')
		return -EBADMSG;
	for (p += 20; *p >= '0' && *p <= '9'; p++)
		if (__builtin_mul_overflow(counter, (uint64_t)10, &counter) ||
		    __builtin_add_overflow(counter, (uint64_t)(*p - '0'), &counter))
			return -EBADMSG;
	if (*p != ' ' || !is_mac(p + 1))
		return -EBADMSG;
	*ret_counter = counter;
	*ret_mac = p + 1;
	return 0;
}

int gw_auth_check_request(const struct gw_secret *secret, struct gw_callers *callers, const char *method, const char *target,
			  const char body_hex[65], const char *nonce, const char *value, char ret_mac[GW_MAC_HEX])
{
	uint64_t caller, counter;
	char expected[GW_MAC_HEX];
	const char *mac;
	int err;

	ret_mac[0] = 0;
	if (secret->len == 0)
		return 0;
	err = value ? parse_request(value, &caller, &counter, &mac) : -EACCES;
	if (!err)
		err = request_mac(secret, method, target, body_hex, nonce, caller, counter, expected);
	if (!err && CRYPTO_memcmp(expected, mac, GW_MAC_HEX - 1))
		err = -EACCES;
	if (err)
		return err;
	/* Only who knows the secret gets into the table. */
	pthread_mutex_lock(&callers->mutex);
	err = note_locked(callers, caller, counter);
	pthread_mutex_unlock(&callers->mutex);
	if (!err)
		memcpy(ret_mac, expected, sizeof expected);
	return err;
}

int gw_auth_answer(const struct gw_secret *secret, const char *mac, int status, const char body_hex[65],
		   char ret_value[GW_AUTH_VALUE_MAX])
{
	char answer[GW_MAC_HEX];
	int err;

	ret_value[0] = 0;
	if (secret->len == 0)
		return 0;
	err = answer_mac(secret, mac, status, body_hex, answer);
	if (!err)
		snprintf(ret_value, GW_AUTH_VALUE_MAX, "v1 %s", answer);
	return err;
}
