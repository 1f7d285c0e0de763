/* Who is primary, how that is known, and whether it can be reached: as role and the upstreams find out later. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/random.h"
#include "litefs/gw_proto.h"
#include "litefs/http.h"
#include "litefs/role.h"
#include "prog/check.h"
#include "prog/options.h"

#define TIMEOUT_MS 3000
#define CLOCK_MAX_MS 5000

/* 0 and the role as it is within TIMEOUT_MS: on a replica with the primary's URL, if it can be had. */
static int find_role(const struct settings *opt, struct role_state *ret)
{
	const struct role_config config = options_role_config(opt, random_u64());
	int64_t until = clock_now_ns() + TIMEOUT_MS * NS_PER_MS;
	struct role *role;
	int err = role_start(&config, &role);

	if (err)
		return err;
	role_wait_local(role, until);
	for (;;) {
		role_get(role, ret);
		if (ret->kind == ROLE_PRIMARY || (ret->kind == ROLE_REPLICA && ret->primary_url[0]) || clock_now_ns() >= until)
			break;
		clock_sleep_ns(20 * NS_PER_MS);
	}
	role_stop(role);
	return 0;
}

static const char *source_of(const struct settings *opt)
{
	if (opt->primary_url)
		return "primary_url=";
	if (opt->lease_consul_key)
		return "Consul, by litefs.yml";
	if (opt->lease_url)
		return "the static lease of litefs.yml";
	return NULL;
}

static int get(const char *url, struct http_answer *answer, struct http **ret)
{
	const struct http_request request = {
		.method = HTTP_GET, .target = "/info", .max_answer = 65536, .deadline_ns = clock_now_ns() + TIMEOUT_MS * NS_PER_MS};
	char header[64];
	int err;

	snprintf(header, sizeof header, "Litefs-Id: %016" PRIX64, random_u64());
	err = http_new(url, header, ret);
	return err ? err : http_call(*ret, &request, answer);
}

/* HTTP's Date has whole seconds. */
static void check_clock(const char *url)
{
	struct http_answer answer;
	struct http *http = NULL;

	if (get(url, &answer, &http) == 0 && answer.date_ms) {
		int64_t off_ms = clock_wall_ms() - answer.date_ms;

		if (off_ms > CLOCK_MAX_MS || off_ms < -CLOCK_MAX_MS)
			check_say(CHECK_WARN, "clock", "it is %" PRId64 " s off the primary's: transactions carry the time; have both set by NTP",
				  off_ms / 1000);
		else
			check_say(CHECK_OK, "clock", "as the primary's, to the second");
	}
	http_free(http);
}

static void check_gateway(const char *url, const char *cluster)
{
	struct http_answer answer;
	struct http *http = NULL;
	struct gw_info info;
	int err = get(url, &answer, &http);

	if (err)
		check_say(CHECK_WARN, "gateway", "%s does not answer (%s): start the primary's litefwd with gateway=; LiteFS' HALT is used without it",
			  url, http && *http_error(http) ? http_error(http) : strerror(-err));
	else if (answer.status != 200 || gw_get_info(answer.body, answer.len, &info))
		check_say(CHECK_WARN, "gateway", "%s is no gateway of this version: check gateway_url=", url);
	else if (*cluster && *info.cluster && strcmp(cluster, info.cluster) != 0)
		check_say(CHECK_FAIL, "gateway", "%s is of another cluster: check gateway_url=", url);
	else
		check_say(CHECK_OK, "gateway", "%s answers", url);
	http_free(http);
}

static void check_url(const struct settings *opt, const struct role_state *role)
{
	struct api_info primary;
	struct api *api = NULL;
	int err = api_new(role->primary_url, random_u64(), &api);

	if (!err)
		err = api_info(api, TIMEOUT_MS, &primary);
	if (err)
		check_say(CHECK_FAIL, "primary", "%s does not answer (%s): check its address and the firewall; writes here get SQLITE_BUSY",
			  role->primary_url, api && *api_error(api) ? api_error(api) : strerror(-err));
	else if (*role->cluster_id && *primary.cluster_id && strcmp(role->cluster_id, primary.cluster_id) != 0)
		check_say(CHECK_FAIL, "primary", "%s is of another cluster: check %s", role->primary_url, source_of(opt));
	else if (!primary.is_primary)
		check_say(CHECK_FAIL, "primary", "%s is no primary: check %s", role->primary_url, source_of(opt));
	else
		check_say(CHECK_OK, "primary", "%s (%s) answers, and is", role->primary_url, role->primary_hostname);
	api_free(api);
	if (!err)
		check_clock(role->primary_url);
}

void check_primary(const struct settings *opt, const struct api_info *info)
{
	struct role_state *role = calloc(1, sizeof *role);
	int err = role ? find_role(opt, role) : -ENOMEM;

	if (!source_of(opt))
		check_say(info->is_primary ? CHECK_WARN : CHECK_FAIL, "lease",
			  "where the primary is cannot be told while this node is a replica: give litefs_config=, as LiteFS reads it, or primary_url=");
	else
		check_say(CHECK_OK, "lease", "the primary is found by %s", source_of(opt));
	if (err)
		check_say(CHECK_FAIL, "primary", "%s: check primary_url=, gateway_url= and litefs_config=", strerror(-err));
	else if (role->kind == ROLE_PRIMARY)
		check_say(CHECK_OK, "primary", "this node");
	else if (role->kind == ROLE_UNKNOWN)
		check_say(CHECK_WARN, "primary", "LiteFS here is not connected to one: writes get SQLITE_BUSY until it is");
	else if (!role->primary_url[0] && source_of(opt))
		check_say(CHECK_FAIL, "primary", "it is \"%s\", and where that is cannot be told by %s", role->primary_hostname, source_of(opt));
	else if (role->primary_url[0])
		check_url(opt, role);
	if (!err && role->kind == ROLE_REPLICA && role->gateway_url[0])
		check_gateway(role->gateway_url, role->cluster_id);
	free(role);
}
