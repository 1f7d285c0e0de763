#include "litefs/gw_auth.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <openssl/crypto.h>
#include <openssl/evp.h>

#include "base/log.h"

#define SECRET_MIN 16
#define CALLERS_MAX 4096
#define HASH_SIZE 32

static void to_hex(const uint8_t *data, size_t len, char *ret)
{
	for (size_t i = 0; i < len; i++)
		snprintf(ret + 2 * i, 3, "%02x", data[i]);
}

/* ---- the secret ---- */

static int secret_of(int fd, struct gw_secret *ret)
{
	struct stat st;
	ssize_t n;

	if (fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode))
		return -EINVAL;
	if (st.st_mode & 077)
		return -EPERM;
	n = read(fd, ret->key, sizeof ret->key);
	if (n < 0)
		return -errno;
	if (n == (ssize_t)sizeof ret->key)
		return -EFBIG;
	while (n > 0 && strchr(" \t\r\n", ret->key[n - 1]) && ret->key[n - 1])
		n--;
	ret->len = (size_t)n;
	return n < SECRET_MIN ? -EINVAL : 0;
}

int gw_secret_read(const char *path, struct gw_secret *ret)
{
	struct gw_secret secret = {.len = 0};
	int fd, err;

	*ret = secret;
	if (!path)
		return 0;
	fd = open(path, O_RDONLY | O_CLOEXEC);
	err = fd < 0 ? -errno : secret_of(fd, &secret);
	if (fd >= 0)
		close(fd);
	if (!err)
		*ret = secret;
	else
		log_error("gateway_secret_unusable", "file=\"%s\" error=\"%s\" do=\"%s\"", path, strerror(-err),
			  err == -EPERM ? "take the rights of group and others from it (chmod 600)"
			  : err == -EINVAL || err == -EFBIG ? "it must be a file of 16 to 255 bytes, the same on all nodes"
							    : "check gateway_secret=");
	OPENSSL_cleanse(&secret, sizeof secret);
	return err;
}

/* ---- hashes ---- */

struct gw_hash {
	EVP_MD_CTX *ctx;
	bool failed;
};

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
	hash->failed |= EVP_DigestUpdate(hash->ctx, data, len) != 1;
}

/* A hash that could not be computed fits nothing. */
void gw_hash_end(struct gw_hash *hash, char ret_hex[65])
{
	uint8_t sum[EVP_MAX_MD_SIZE];
	unsigned len = 0;

	ret_hex[0] = 0;
	if (!hash->failed && EVP_DigestFinal_ex(hash->ctx, sum, &len) == 1 && len == HASH_SIZE)
		to_hex(sum, len, ret_hex);
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
	struct gw_hash *hash;

	ret_hex[0] = 0;
	if (gw_hash_new(&hash) != 0)
		return;
	gw_hash_add(hash, data, len);
	gw_hash_end(hash, ret_hex);
	gw_hash_free(hash);
}

static int mac(const struct gw_secret *secret, const char *text, char ret[GW_MAC_HEX])
{
	uint8_t sum[EVP_MAX_MD_SIZE];
	size_t len = 0;

	if (!EVP_Q_mac(NULL, "HMAC", NULL, "SHA256", NULL, secret->key, secret->len, (const unsigned char *)text, strlen(text), sum,
		       sizeof sum, &len) ||
	    len != HASH_SIZE)
		return -ENOMEM;
	to_hex(sum, len, ret);
	return 0;
}

static int request_mac(const struct gw_secret *secret, const char *method, const char *target, const char *body_hex,
		       const char *nonce, uint64_t caller, uint64_t counter, char ret[GW_MAC_HEX])
{
	char *text;
	int err;

	if (strlen(body_hex) != 2 * HASH_SIZE)
		return -ENOMEM;
	if (asprintf(&text, "%s\n%s\n%s\n%s\n%016" PRIx64 "\n%" PRIu64, method, target, body_hex, nonce, caller, counter) < 0)
		return -ENOMEM;
	err = mac(secret, text, ret);
	free(text);
	return err;
}

static int answer_mac(const struct gw_secret *secret, const char *of_request, int status, const char *body_hex,
		      char ret[GW_MAC_HEX])
{
	char text[200];

	if (strlen(body_hex) != 2 * HASH_SIZE || strlen(of_request) != GW_MAC_HEX - 1)
		return -ENOMEM;
	snprintf(text, sizeof text, "%s\n%d\n%s", of_request, status, body_hex);
	return mac(secret, text, ret);
}

static bool same(const char *a, const char *b)
{
	return strlen(a) == GW_MAC_HEX - 1 && strlen(b) == GW_MAC_HEX - 1 && CRYPTO_memcmp(a, b, GW_MAC_HEX - 1) == 0;
}

/* ---- client ---- */

int gw_auth_request(const struct gw_secret *secret, const char *method, const char *target, const char body_hex[65],
		    const char *nonce, uint64_t caller, uint64_t counter, char ret_value[GW_AUTH_VALUE_MAX],
		    char ret_mac[GW_MAC_HEX])
{
	int err = request_mac(secret, method, target, body_hex, nonce, caller, counter, ret_mac);

	if (!err)
		snprintf(ret_value, GW_AUTH_VALUE_MAX, "v1 %016" PRIx64 " %" PRIu64 " %s", caller, counter, ret_mac);
	return err;
}

int gw_auth_check_answer(const struct gw_secret *secret, const char *of_request, int status, const char body_hex[65],
			 const char *value)
{
	char expected[GW_MAC_HEX];
	int err;

	if (!value || strncmp(value, "v1 ", 3) != 0)
		return -EBADMSG;
	err = answer_mac(secret, of_request, status, body_hex, expected);
	if (err)
		return err;
	return same(value + 3, expected) ? 0 : -EACCES;
}

/* ---- server ---- */

struct caller {
	uint64_t id, counter, seen; /* seen 0: free */
};

struct gw_callers {
	pthread_mutex_t mutex;
	uint64_t clock;
	struct caller callers[CALLERS_MAX];
};

int gw_callers_new(struct gw_callers **ret)
{
	struct gw_callers *callers = calloc(1, sizeof *callers);

	if (!callers)
		return -ENOMEM;
	pthread_mutex_init(&callers->mutex, NULL);
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

static int note_counter(struct gw_callers *callers, uint64_t id, uint64_t counter)
{
	struct caller *slot = &callers->callers[0];
	int err = 0;

	pthread_mutex_lock(&callers->mutex);
	for (size_t i = 0; i < CALLERS_MAX; i++) {
		struct caller *c = &callers->callers[i];

		if (c->seen && c->id == id) {
			slot = c;
			break;
		}
		if (c->seen < slot->seen)
			slot = c;
	}
	if (slot->seen && slot->id == id && counter <= slot->counter)
		err = -EACCES;
	else
		*slot = (struct caller){id, counter, ++callers->clock};
	pthread_mutex_unlock(&callers->mutex);
	return err;
}

int gw_auth_check_request(const struct gw_secret *secret, struct gw_callers *callers, const char *method, const char *target,
			  const char body_hex[65], const char *nonce, const char *value, char ret_mac[GW_MAC_HEX])
{
	char theirs[GW_MAC_HEX], expected[GW_MAC_HEX];
	uint64_t caller, counter;
	int end = 0, err;

	if (!value)
		return -EACCES;
	if (strlen(value) >= GW_AUTH_VALUE_MAX ||
	    sscanf(value, "v1 %16" SCNx64 " %20" SCNu64 " %64[0-9a-f]%n", &caller, &counter, theirs, &end) != 3 || value[end])
		return -EBADMSG;
	err = request_mac(secret, method, target, body_hex, nonce, caller, counter, expected);
	if (err)
		return err;
	if (!same(theirs, expected))
		return -EACCES;
	err = note_counter(callers, caller, counter);
	if (!err)
		memcpy(ret_mac, expected, GW_MAC_HEX);
	return err;
}

int gw_auth_answer(const struct gw_secret *secret, const char *of_request, int status, const char body_hex[65],
		   char ret_value[GW_AUTH_VALUE_MAX])
{
	char sum[GW_MAC_HEX];
	int err = answer_mac(secret, of_request, status, body_hex, sum);

	if (!err)
		snprintf(ret_value, GW_AUTH_VALUE_MAX, "v1 %s", sum);
	return err;
}
