/*
 * options_litefs.c: what LiteFS' litefs.yml says and nobody else has said.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "litefs/consul.h"
#include "litefs/litefs_config.h"
#include "litefs/url.h"
#include "prog/options_internal.h"

/* Moves *from to *to where *to was not given. */
static void fill(char **to, char **from)
{
	if (*to)
		return;
	*to = *from;
	*from = NULL;
}

/* Not the URL itself in the complaint: it may hold a password. */
static int check_consul(const struct settings *opt, const struct litefs_config *config)
{
	struct consul_target target;
	const char *problem;
	int ret = consul_target_parse(config->lease_consul_url, config->lease_consul_key, &target, &problem);

	if (ret)
		options_complain("%s: %s", opt->litefs_config, problem);
	explicit_bzero(&target, sizeof target);
	return ret;
}

/* LITEFS_DIR, where it was left out. */
static int resolve_dir(struct settings *opt, struct litefs_config *config)
{
	if (opt->litefs_dir)
		return 0;
	if (config->fuse_dir[0] != '/') {
		options_complain("%s: fuse.dir \"%s\" depends on where LiteFS was started: give LITEFS_DIR", opt->litefs_config,
				 config->fuse_dir);
		return -EINVAL;
	}
	fill(&opt->litefs_dir, &config->fuse_dir);
	return 0;
}

static int resolve_config(struct settings *opt)
{
	struct litefs_config config = {0};
	int ret = litefs_config_load(opt->litefs_config, !opt->no_expand_env, &config);

	if (ret == -EBADMSG)
		options_complain("%s: %s", opt->litefs_config, config.message);
	else if (ret)
		options_complain("litefs_config=%s: %s", opt->litefs_config, strerror(-ret));
	/* LiteFS would say nothing either, but it has the environment that was meant. */
	if (!ret && config.unset[0])
		options_complain("%s: the variable %s is not set here, and is taken for empty: "
				 "give litefwd the environment that LiteFS has", opt->litefs_config, config.unset);
	if (!ret)
		ret = resolve_dir(opt, &config);
	if (ret)
		goto out;
	fill(&opt->litefs_url, &config.local_url);
	if (config.lease_type && !strcmp(config.lease_type, "static")) {
		fill(&opt->lease_hostname, &config.lease_hostname);
		fill(&opt->lease_url, &config.lease_advertise_url);
		if (!config.lease_candidate && !opt->primary_url && !(opt->lease_url && *opt->lease_url)) {
			options_complain("%s: no lease.advertise-url: it is where the primary of a static lease is, and LiteFS "
					 "cannot find it either", opt->litefs_config);
			ret = -EINVAL;
		}
	} else if (opt->primary_url) {
		; /* it wins, and Consul is never asked */
	} else if (config.lease_type && !strcmp(config.lease_type, "consul")) {
		ret = check_consul(opt, &config);
		fill(&opt->lease_consul_url, &config.lease_consul_url);
		fill(&opt->lease_consul_key, &config.lease_consul_key);
	} else {
		options_complain("%s: the lease is neither \"static\" nor \"consul\" but \"%s\": "
				 "say where the primary is with -o primary_url=http://{hostname}:20202",
				 opt->litefs_config, config.lease_type ? config.lease_type : "");
		ret = -EINVAL;
	}
out:
	litefs_config_fini(&config);
	return ret;
}

/* Whoever reaches a gateway can write every database. */
static int check_gateway(const struct settings *opt)
{
	struct sockaddr_storage addr;

	if (!opt->gateway || opt->gateway_secret || (url_parse_address(opt->gateway, &addr) == 0 && url_is_loopback(&addr)))
		return 0;
	options_complain("gateway=%s lets anybody who reaches that address write: give gateway_secret=FILE, the same on every node "
			 "(openssl rand -hex 32 >FILE; chmod 600 FILE), or an address such as 127.0.0.1:20203", opt->gateway);
	return -EINVAL;
}

int options_resolve(struct settings *opt)
{
	if (check_gateway(opt))
		return -EINVAL;
	if (opt->litefs_config) {
		int ret = resolve_config(opt);

		if (ret)
			return ret;
	}
	for (size_t i = 0; i < options_count; i++) {
		const struct option *option = &options_table[i];
		char **field = (char **)((char *)opt + option->offset);

		if (option->late && !*field && options_set(opt, option, option->initial)) {
			options_complain("out of memory");
			return -ENOMEM;
		}
	}
	return 0;
}

struct role_config options_role_config(const struct settings *opt, uint64_t node_id)
{
	return (struct role_config){
		.litefs_url = opt->litefs_url,
		.primary_url = opt->primary_url,
		.gateway_url = opt->gateway_url,
		.lease_hostname = opt->lease_hostname,
		.lease_url = opt->lease_url,
		.consul_url = opt->lease_consul_url,
		.consul_key = opt->lease_consul_key,
		.node_id = node_id,
	};
}
