/*
 * main: puts the layers together, and takes them apart in reverse.
 *
 *   options -> checks -> lock file -> (daemon: fork) -> HTTP -> role -> LiteFS answers -> mounted -> gateway, metrics -> ready -> fs_run
 *
 * A daemon forks before the first thread is made. Its parent stays until the child is ready (or has failed) and
 * exits as the child did, so that whoever started litefwd knows. Until then the child speaks on
 * stderr as well as to syslog.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <syslog.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/random.h"
#include "fs/fs.h"
#include "gateway/gateway.h"
#include "litefs/api.h"
#include "litefs/gw_auth.h"
#include "litefs/role.h"
#include "prog/aborter.h"
#include "prog/check.h"
#include "prog/metrics.h"
#include "prog/mount_check.h"
#include "prog/notify.h"
#include "prog/options.h"
#include "prog/options_print.h"
#include "prog/privileges.h"
#include "prog/status.h"

/* How often the wait for LiteFS looks whether it was told to stop. */
#define STOP_POLL_NS (100 * NS_PER_MS)
/* What a start may take besides the wait for LiteFS: the HALTs of a predecessor, a dead mount. */
#define START_MS 30000

/* ---- signals ---- */

/* Handlers touch these only. Threads that main starts have the signals blocked. */
static volatile sig_atomic_t stop_requested;
static struct fs *volatile stop_fs;
static struct notify *volatile stop_notify;

static void on_stop(int sig)
{
	struct fs *fs = stop_fs;
	int saved_errno = errno;

	(void)sig;
	stop_requested = 1;
	notify_stopping(stop_notify);
	if (fs)
		fs_stop(fs);
	errno = saved_errno;
}

static void signals_set(void)
{
	static const int stops[] = {SIGTERM, SIGINT, SIGHUP};
	struct sigaction act = {.sa_handler = SIG_IGN}, old;

	sigemptyset(&act.sa_mask);
	sigaction(SIGPIPE, &act, NULL);
	act.sa_handler = on_stop;
	for (size_t i = 0; i < sizeof stops / sizeof stops[0]; i++) {
		/* What nohup or a shell's "&" made us ignore stays ignored. */
		if (sigaction(stops[i], NULL, &old) == 0 && old.sa_handler != SIG_IGN)
			sigaction(stops[i], &act, NULL);
	}
}

static void signals_block(int how)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	pthread_sigmask(how, &set, NULL);
}

/* ---- role to fs ---- */

/* role begins before fs and ends after it: the mutex keeps fs alive while role's thread calls it. */
struct link {
	pthread_mutex_t mutex;
	struct fs *fs; /* NULL: not yet, or no more */
	struct notify *notify; /* constant; NULL: nobody is told */
};

static void on_role_change(void *ctx, const struct role_state *state)
{
	struct link *link = ctx;

	pthread_mutex_lock(&link->mutex);
	if (link->fs)
		fs_role_changed(link->fs, state);
	pthread_mutex_unlock(&link->mutex);
	notify_poke(link->notify);
}

static void on_tx(void *ctx, const char *db, struct pos pos)
{
	struct link *link = ctx;

	pthread_mutex_lock(&link->mutex);
	if (link->fs)
		fs_litefs_moved(link->fs, db, pos);
	pthread_mutex_unlock(&link->mutex);
}

static void link_set(struct link *link, struct fs *fs)
{
	pthread_mutex_lock(&link->mutex);
	link->fs = fs;
	pthread_mutex_unlock(&link->mutex);
}

/* ---- gateway to fs ---- */

/* The status file may be read while the gateway stops: the mutex keeps it alive. */
struct gate {
	pthread_mutex_t mutex;
	struct gateway *gateway; /* NULL: not yet, or no more */
};

static int gate_db_get(void *ctx, const char *name, struct db **ret)
{
	return fs_db_get(ctx, name, ret);
}

static int gate_db_find(void *ctx, const char *name, struct db **ret)
{
	return fs_db_find(ctx, name, ret);
}

static void gate_stop(void *ctx)
{
	struct gate *gate = ctx;
	struct gateway *gateway;

	pthread_mutex_lock(&gate->mutex);
	gateway = gate->gateway;
	gate->gateway = NULL;
	pthread_mutex_unlock(&gate->mutex);
	gateway_stop(gateway);
}

static json_t *gate_status(void *ctx)
{
	struct gate *gate = ctx;
	json_t *ret;

	pthread_mutex_lock(&gate->mutex);
	ret = gate->gateway ? gateway_status(gate->gateway) : NULL;
	pthread_mutex_unlock(&gate->mutex);
	return ret;
}

static int gate_start(struct gate *gate, const struct settings *opt, struct role *role, uint64_t node_id, struct fs *fs)
{
	struct gateway_config config = {
		.settings = opt, .role = role, .node_id = node_id, .db_get = gate_db_get, .db_find = gate_db_find, .ctx = fs,
	};
	int ret;

	signals_block(SIG_BLOCK);
	ret = gateway_start(&config, &gate->gateway);
	signals_block(SIG_UNBLOCK);
	return ret;
}

/* ---- metrics of fs ---- */

static json_t *metrics_status(void *ctx)
{
	return fs_status_json(ctx, true);
}

static int start_metrics(const struct settings *opt, struct fs *fs, struct metrics **ret)
{
	int err;

	if (!opt->metrics)
		return 0;
	signals_block(SIG_BLOCK);
	err = metrics_start(opt->metrics, metrics_status, fs, ret);
	signals_block(SIG_UNBLOCK);
	return err;
}

/* ---- service manager ---- */

static bool watch_alive(void *ctx, int64_t until_ns, char *why, size_t size)
{
	return fs_alive(ctx, until_ns, why, size);
}

static void watch_status(void *ctx, char *line, size_t size)
{
	fs_status_line(ctx, line, size);
}

/* Ready as soon as the loop of fs_run() answers. */
static int watch_start(struct notify *notify, struct fs *fs)
{
	const struct notify_config config = {.alive = watch_alive, .status = watch_status, .ctx = fs};
	int ret;

	signals_block(SIG_BLOCK);
	ret = notify_watch(notify, &config);
	signals_block(SIG_UNBLOCK);
	return ret;
}

/* ---- daemon ---- */

/*
 * In the child: returns the descriptor that daemon_ready() takes. The parent does not return: it exits with 0 once
 * the child is ready, or as the child did. -1: no fork was possible (message printed).
 */
static int daemon_fork(void)
{
	int pipe_fds[2], status = 0;
	char byte;
	ssize_t got;
	pid_t pid;

	fflush(NULL);
	if (pipe2(pipe_fds, O_CLOEXEC) < 0 || (pid = fork()) < 0) {
		fprintf(stderr, "litefwd: cannot become a daemon: %s\n", strerror(errno));
		return -1;
	}
	if (pid == 0) {
		close(pipe_fds[0]);
		setsid();
		return pipe_fds[1];
	}
	close(pipe_fds[1]);
	do
		got = read(pipe_fds[0], &byte, 1);
	while (got < 0 && errno == EINTR);
	if (got == 1)
		_exit(EXIT_OK);
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	_exit(WIFEXITED(status) ? WEXITSTATUS(status) : EXIT_FAILED);
}

/* Lets the parent go, and lets go of the terminal and the directory that we were started in. */
static void daemon_ready(int ready_fd)
{
	int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);

	if (chdir("/") < 0)
		log_warn("chdir_failed", "error=\"%s\"", strerror(errno));
	if (null_fd >= 0) {
		for (int fd = 0; fd <= 2; fd++)
			dup2(null_fd, fd);
		if (null_fd > 2)
			close(null_fd);
	}
	if (write(ready_fd, "", 1) < 0)
		log_warn("parent_gone", "error=\"%s\"", strerror(errno));
	close(ready_fd);
}

static void start_log(const struct settings *opt)
{
	log_init(!opt->foreground, opt->debug ? LOG_LV_DEBUG : LOG_LV_INFO);
	/* Whoever started a daemon should see why it did not come up; daemon_ready() ends that. */
	if (!opt->foreground)
		openlog("litefwd", LOG_PID | LOG_PERROR, LOG_DAEMON);
}

/* ---- life ---- */

/* Until the local LiteFS has answered. An exit code. */
static int wait_for_litefs(const struct settings *opt, struct role *role)
{
	int64_t deadline_ns = clock_now_ns() + opt->wait_ms * NS_PER_MS;

	for (;;) {
		int64_t now_ns = clock_now_ns(), until_ns = now_ns + STOP_POLL_NS;

		if (!role_wait_local(role, until_ns < deadline_ns ? until_ns : deadline_ns))
			return EXIT_OK;
		if (stop_requested)
			return EXIT_FAILED;
		if (now_ns >= deadline_ns)
			break;
	}
	log_error("litefs_missing", "url=%s waited_ms=%lld do=\"start LiteFS, or say where it is with -o litefs_url=\"",
		  opt->litefs_url, (long long)opt->wait_ms);
	return EXIT_NO_LITEFS;
}

/* Mounted until told otherwise. An exit code. */
static int mount_and_run(const struct settings *opt, struct role *role, uint64_t node_id, struct link *link,
			 struct aborter *aborter, int ready_fd)
{
	struct gate gate = {.mutex = PTHREAD_MUTEX_INITIALIZER};
	const struct fs_companion companion = {.stop = gate_stop, .status = gate_status, .ctx = &gate};
	struct metrics *metrics = NULL;
	struct role_state state;
	struct fs *fs = NULL;
	int ret;

	signals_block(SIG_BLOCK);
	ret = fs_new(opt, role, node_id, &fs);
	stop_fs = ret ? NULL : fs;
	signals_block(SIG_UNBLOCK);
	if (ret)
		return EXIT_FAILED;
	if (opt->gateway)
		fs_set_companion(fs, &companion);
	link_set(link, fs);
	aborter_arm(aborter, opt->mountpoint);
	/* What changed before fs was there to hear it. */
	role_get(role, &state);
	fs_role_changed(fs, &state);
	log_info("mounted", "litefs_dir=\"%s\" mountpoint=\"%s\" version=" PACKAGE_VERSION, opt->litefs_dir,
		 opt->mountpoint);
	ret = opt->gateway ? gate_start(&gate, opt, role, node_id, fs) : 0;
	if (!ret)
		ret = start_metrics(opt, fs, &metrics);
	if (!ret)
		ret = watch_start(link->notify, fs);
	if (!ret && ready_fd >= 0)
		daemon_ready(ready_fd);
	if (!ret && !stop_requested)
		ret = fs_run(fs);
	if (ret)
		log_error("serving_failed", "error=\"%s\"", strerror(-ret));
	metrics_stop(metrics);
	link_set(link, NULL);
	stop_fs = NULL;
	fs_stop(fs);
	notify_unwatch(link->notify);
	fs_free(fs);
	log_info("unmounted", "mountpoint=\"%s\"", opt->mountpoint);
	return ret ? EXIT_FAILED : EXIT_OK;
}

static int serve(const struct settings *opt, struct notify *notify, int ready_fd)
{
	struct link link = {.mutex = PTHREAD_MUTEX_INITIALIZER, .notify = notify};
	struct aborter aborter;
	struct role *role = NULL;
	struct role_config config = options_role_config(opt, random_u64());
	int ret, code;

	config.on_change = on_role_change;
	config.on_tx = on_tx;
	config.ctx = &link;
	start_log(opt);
	signals_set();
	privileges_raise_files();
	privileges_drop(opt->gateway || opt->metrics);
	if (api_global_init()) {
		log_error("http_failed", "do=\"look whether libcurl is installed properly\"");
		return EXIT_FAILED;
	}
	ret = aborter_start(&aborter);
	if (ret)
		log_warn("aborter_failed", "error=\"%s\" do=\"litefwd goes on; after a kill -9 a stuck mount needs umount -f\"",
			 strerror(-ret));
	signals_block(SIG_BLOCK);
	ret = role_start(&config, &role);
	signals_block(SIG_UNBLOCK);
	if (ret) {
		log_error("role_failed", "error=\"%s\" do=\"check primary_url=, gateway_url= and litefs_url=\"", strerror(-ret));
		code = EXIT_FAILED;
	} else {
		code = wait_for_litefs(opt, role);
	}
	if (code == EXIT_OK)
		code = mount_and_run(opt, role, config.node_id, &link, &aborter, ready_fd);
	aborter_stop(&aborter);
	role_stop(role);
	api_global_fini();
	return code;
}

/* ---- commands ---- */

static int command_help(void)
{
	options_print_help();
	return fflush(stdout) || ferror(stdout) ? EXIT_FAILED : EXIT_OK;
}

static int command_version(void)
{
	puts("litefwd " PACKAGE_VERSION);
	return fflush(stdout) || ferror(stdout) ? EXIT_FAILED : EXIT_OK;
}

static int check_and_serve_with(struct settings *opt, struct notify *notify)
{
	int lock_fd = -1, ready_fd = -1, code;

	/* Twice: for its mount, and for its answer. */
	notify_starting(notify, "waiting for LiteFS", 2 * opt->wait_ms + START_MS);
	if (mount_check_fuse(opt))
		return EXIT_FAILED;
	if (mount_check_litefs_dir(opt))
		return EXIT_NO_LITEFS;
	if (mount_check_mountpoint(opt) || mount_check_lock(opt, &lock_fd))
		return EXIT_FAILED;
	if (opt->fake) {
		close(lock_fd);
		return EXIT_OK;
	}
	if (!opt->primary_url && !opt->lease_url && !opt->lease_consul_key)
		fputs("litefwd: neither primary_url= nor litefs_config= is given: "
		      "while this node is a replica, nothing can be written here\n", stderr);
	if (!opt->foreground && (ready_fd = daemon_fork()) < 0)
		code = EXIT_FAILED;
	else
		code = serve(opt, notify, ready_fd);
	close(lock_fd);
	return code;
}

static int check_and_serve(struct settings *opt)
{
	struct gw_secret *secret = NULL;
	struct notify *notify;
	int code;

	if (options_resolve(opt))
		return EXIT_FAILED;
	if (opt->gateway_secret) {
		secret = gw_secret_new();
		if (!secret || gw_secret_read(opt->gateway_secret, secret)) {
			gw_secret_free(secret);
			return EXIT_FAILED;
		}
	}
	opt->gw_secret = secret;
	stop_notify = notify = notify_new();
	code = check_and_serve_with(opt, notify);
	stop_notify = NULL;
	notify_free(notify);
	opt->gw_secret = NULL;
	gw_secret_free(secret);
	return code;
}

/* What the generated files repeat of the table of options: for `make update-generated`. */
static int command_options(int argc, char **argv)
{
	if (argc != 3 || options_print(argv[2])) {
		fputs("usage: litefwd options --man | --man-conf | --markdown | --conf | --bash | --zsh\n", stderr);
		return EXIT_USAGE;
	}
	return fflush(stdout) || ferror(stdout) ? EXIT_FAILED : EXIT_OK;
}

/* mount(8) knows other codes: 1 wrong invocation, 32 the mount failed. */
static int mount_helper_code(int code)
{
	return code == EXIT_OK ? 0 : code == EXIT_USAGE ? 1 : 32;
}

static int command_mount(int argc, char **argv)
{
	struct settings opt;
	int code;

	options_init(&opt);
	if (options_parse(&opt, argc, argv, OPTIONS_CONFIG))
		code = EXIT_USAGE;
	else if (opt.show_help)
		code = command_help();
	else if (opt.show_version)
		code = command_version();
	else
		code = check_and_serve(&opt);
	if (opt.as_mount)
		code = mount_helper_code(code);
	options_fini(&opt);
	return code;
}

/* Subcommands by their first word; whatever is none of them mounts. */
struct command {
	const char *name;
	int (*run)(int argc, char **argv);
};

static const struct command commands[] = {
	{"status", command_status},
	{"check", command_check},
	{"options", command_options},
	{NULL, command_mount},
};

int main(int argc, char **argv)
{
	const struct command *command = commands;

	while (command->name && (argc < 2 || strcmp(argv[1], command->name) != 0))
		command++;
	return command->run(argc, argv);
}
