/* What mount_check reads and decides without mounting: the mount table, fuse.conf, the paths, the lock file. */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>
#include <dirent.h>

#include "base/clock.h"
#include "prog/mount_check.h"

/* A private directory for each test. */
static char dir[64];

static int make_dir(void **state)
{
	(void)state;
	strcpy(dir, "/tmp/test_mount_check.XXXXXX");
	return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state)
{
	char command[128];

	(void)state;
	snprintf(command, sizeof command, "rm -rf %s", dir);
	return system(command);
}

static char *in_dir(const char *name)
{
	char *path = NULL;

	assert_true(asprintf(&path, "%s/%s", dir, name) > 0);
	return path;
}

static char *make_file(const char *text)
{
	char *path = in_dir("file");
	FILE *file = fopen(path, "w");

	assert_non_null(file);
	fputs(text, file);
	assert_int_equal(fclose(file), 0);
	return path;
}

static void find__mounted_twice__last_one(void **state)
{
	char *table = make_file("24 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
				"42 24 0:39 / /l rw,nosuid,nodev,relatime - tmpfs tmpfs rw\n"
				"43 42 0:40 / /l rw,nosuid,relatime shared:7 master:2 - fuse litefs rw,user_id=0\n"
				"44 24 0:41 / /lx rw - proc proc rw\n");
	struct mount_entry entry;

	(void)state;
	assert_int_equal(mount_check_find(table, "/l", &entry), 1);
	assert_string_equal(entry.fstype, "fuse");
	assert_string_equal(entry.source, "litefs");
	assert_int_equal(mount_check_find(table, "/", &entry), 1);
	assert_string_equal(entry.source, "/dev/sda1");
	free(table);
}

static void find__not_mounted__zero(void **state)
{
	char *table = make_file("42 24 0:39 / /litefs rw - fuse litefs rw\n\n"
				"nonsense\n1 2 3\n42 24 0:39 / /q rw - fuse\n");
	struct mount_entry entry;

	(void)state;
	assert_int_equal(mount_check_find(table, "/litef", &entry), 0);
	assert_int_equal(mount_check_find(table, "/litefs/a", &entry), 0);
	assert_int_equal(mount_check_find(table, "/q", &entry), 0);
	free(table);
}

static void find__escaped_names__compared_unescaped(void **state)
{
	char *table = make_file("42 24 0:39 / /a\\040b\\011c\\134d rw - fuse lite\\040fs rw\n");
	struct mount_entry entry;

	(void)state;
	assert_int_equal(mount_check_find(table, "/a b\tc\\d", &entry), 1);
	assert_string_equal(entry.source, "lite fs");
	free(table);
}

static void find__no_table__error(void **state)
{
	struct mount_entry entry;
	char *path = in_dir("none");

	(void)state;
	assert_int_equal(mount_check_find(path, "/", &entry), -EIO);
	free(path);
}

static void is_inside__paths__by_component(void **state)
{
	(void)state;
	assert_true(mount_check_is_inside("/a", "/a"));
	assert_true(mount_check_is_inside("/a/b", "/a"));
	assert_true(mount_check_is_inside("/a", "/"));
	assert_false(mount_check_is_inside("/ab", "/a"));
	assert_false(mount_check_is_inside("/a", "/a/b"));
	assert_false(mount_check_is_inside("/b", "/a"));
}

static void user_allow_other__forms_of_the_line__recognised(void **state)
{
	static const struct {
		const char *text;
		bool expected;
	} cases[] = {
		{"user_allow_other\n", true},
		{"# comment\nmount_max = 3\n  user_allow_other  \n", true},
		{"user_allow_other", true},
		{"#user_allow_other\n", false},
		{"# user_allow_other\n", false},
		{"user_allow_other = no\n", false},
		{"user_allow_others\n", false},
		{"", false},
	};
	char *none = in_dir("none");

	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		char *conf = make_file(cases[i].text);

		assert_int_equal(mount_check_user_allow_other(conf), cases[i].expected);
		free(conf);
	}
	assert_false(mount_check_user_allow_other(none));
	free(none);
}

/* ---- the mountpoint ---- */

/* name: in dir. 0 or error; *ret_path: what it was resolved to (owned). */
static int check_mountpoint(const char *litefs_dir, const char *name, char **ret_path)
{
	struct settings opt = {.litefs_dir = in_dir(litefs_dir), .mountpoint = in_dir(name)};
	int ret = mount_check_mountpoint(&opt);

	*ret_path = opt.mountpoint;
	free(opt.litefs_dir);
	return ret;
}

static void make_subdir(const char *name)
{
	char *path = in_dir(name);

	assert_int_equal(mkdir(path, 0755), 0);
	free(path);
}

static void assert_mountpoint(const char *litefs_dir, const char *name, int expected, const char *resolved)
{
	char *path, *want = in_dir(resolved);

	assert_int_equal(check_mountpoint(litefs_dir, name, &path), expected);
	assert_string_equal(path, want);
	free(path);
	free(want);
}

static void mountpoint__beside_litefs_dir__resolved(void **state)
{
	(void)state;
	make_subdir("l");
	make_subdir("lm");
	assert_mountpoint("l", "lm", 0, "lm");
	assert_mountpoint("l", "lm/", 0, "lm");
	assert_mountpoint("l", "./l/../lm/.", 0, "lm");
}

static void mountpoint__symbolic_link__resolved(void **state)
{
	char *path = in_dir("link");

	(void)state;
	make_subdir("l");
	make_subdir("m");
	assert_int_equal(symlink("m", path), 0);
	free(path);
	assert_mountpoint("l", "link", 0, "m");
}

static void mountpoint__missing__enoent(void **state)
{
	(void)state;
	make_subdir("l");
	assert_mountpoint("l", "m", -ENOENT, "m");
	assert_mountpoint("l", "a/b/c", -ENOENT, "a/b/c");
}

static void mountpoint__a_file__enotdir(void **state)
{
	(void)state;
	make_subdir("l");
	free(make_file("text"));
	assert_mountpoint("l", "file", -ENOTDIR, "file");
}

static void mountpoint__in_or_around_litefs_dir__refused(void **state)
{
	(void)state;
	make_subdir("l");
	make_subdir("l/sub");
	assert_mountpoint("l", "l", -EINVAL, "l");
	assert_mountpoint("l", "l/sub", -EINVAL, "l/sub");
	assert_mountpoint("l/sub", "l", -EINVAL, "l");
	assert_mountpoint("l", "l/sub/..", -EINVAL, "l/sub/..");
}

/* ---- the lock file ---- */

static void lock__second_for_the_same_directory__ebusy(void **state)
{
	struct settings opt = {.litefs_dir = in_dir("l"), .state_dir = in_dir("a/b")};
	int first = -1, second = -1;

	(void)state;
	make_subdir("l");
	assert_int_equal(mount_check_lock(&opt, &first), 0);
	assert_int_equal(mount_check_lock(&opt, &second), -EBUSY);
	assert_int_equal(second, -1);
	close(first);
	assert_int_equal(mount_check_lock(&opt, &second), 0);
	close(second);
	free(opt.litefs_dir);
	free(opt.state_dir);
}

static void *close_later(void *arg)
{
	clock_sleep_ns(200 * NS_PER_MS);
	close(*(int *)arg);
	return NULL;
}

static void lock__given_up_by_one_that_ends__had(void **state)
{
	struct settings opt = {.litefs_dir = in_dir("l"), .state_dir = in_dir("s"), .wait_ms = 60000};
	int first = -1, second = -1;
	pthread_t thread;

	(void)state;
	make_subdir("l");
	assert_int_equal(mount_check_lock(&opt, &first), 0);
	assert_int_equal(pthread_create(&thread, NULL, close_later, &first), 0);
	assert_int_equal(mount_check_lock(&opt, &second), 0);
	assert_int_equal(pthread_join(thread, NULL), 0);
	close(second);
	free(opt.litefs_dir);
	free(opt.state_dir);
}

static void lock__two_directories__independent(void **state)
{
	struct settings one = {.litefs_dir = in_dir("l"), .state_dir = in_dir("s")};
	struct settings two = {.litefs_dir = in_dir("k"), .state_dir = one.state_dir};
	struct settings three = {.litefs_dir = in_dir("d/l"), .state_dir = one.state_dir};
	int fd_one = -1, fd_two = -1, fd_three = -1;

	(void)state;
	make_subdir("l");
	make_subdir("k");
	make_subdir("d");
	make_subdir("d/l");
	assert_int_equal(mount_check_lock(&one, &fd_one), 0);
	assert_int_equal(mount_check_lock(&two, &fd_two), 0);
	assert_int_equal(mount_check_lock(&three, &fd_three), 0);
	close(fd_one);
	close(fd_two);
	close(fd_three);
	free(one.litefs_dir);
	free(one.state_dir);
	free(two.litefs_dir);
	free(three.litefs_dir);
}

static void lock__state_dir_impossible__error(void **state)
{
	struct settings opt = {.litefs_dir = in_dir("l"), .state_dir = in_dir("file/s")};
	int fd = -1;

	(void)state;
	make_subdir("l");
	free(make_file("text"));
	assert_int_equal(mount_check_lock(&opt, &fd), -ENOTDIR);
	assert_int_equal(fd, -1);
	free(opt.litefs_dir);
	free(opt.state_dir);
}

/* The one file of the state directory. */
static char *lock_path(const struct settings *opt)
{
	char *path = NULL;
	struct dirent *ent;
	DIR *d = opendir(opt->state_dir);

	assert_non_null(d);
	while ((ent = readdir(d)) != NULL)
		if (ent->d_name[0] != '.') {
			assert_null(path);
			assert_true(asprintf(&path, "%s/%s", opt->state_dir, ent->d_name) > 0);
		}
	closedir(d);
	assert_non_null(path);
	return path;
}

static mode_t mode_of(const char *path)
{
	struct stat st;

	assert_int_equal(stat(path, &st), 0);
	return st.st_mode & 07777;
}

/* Who can open the lock file can lock it, and then no litefwd starts. */
static void lock__made_or_found__for_nobody_else(void **state)
{
	struct settings opt = {.litefs_dir = in_dir("l"), .state_dir = in_dir("a/b")};
	char *parent = in_dir("a"), *path;
	int fd = -1;

	(void)state;
	make_subdir("l");
	assert_int_equal(mount_check_lock(&opt, &fd), 0);
	close(fd);
	assert_int_equal(mode_of(opt.state_dir), 0700);
	assert_int_not_equal(mode_of(parent) & 0111, 0100);
	path = lock_path(&opt);
	assert_int_equal(mode_of(path), 0600);
	assert_int_equal(chmod(path, 0666), 0);
	assert_int_equal(mount_check_lock(&opt, &fd), 0);
	close(fd);
	assert_int_equal(mode_of(path), 0600);
	if (geteuid() == 0) { /* made by another user where everybody may */
		assert_int_equal(chown(path, 65534, 65534), 0);
		assert_int_equal(mount_check_lock(&opt, &fd), -EPERM);
	}
	assert_int_equal(unlink(path), 0);
	assert_int_equal(mkfifo(path, 0600), 0);
	assert_int_equal(mount_check_lock(&opt, &fd), -EPERM);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(symlink("elsewhere", path), 0);
	assert_int_equal(mount_check_lock(&opt, &fd), -ELOOP);
	free(path);
	free(parent);
	free(opt.litefs_dir);
	free(opt.state_dir);
}

static void lock__everybody_may_write_state_dir__refused_but_if_sticky(void **state)
{
	struct settings opt = {.litefs_dir = in_dir("l"), .state_dir = in_dir("s")};
	int fd = -1;

	(void)state;
	make_subdir("l");
	make_subdir("s");
	assert_int_equal(chmod(opt.state_dir, 0777), 0);
	assert_int_equal(mount_check_lock(&opt, &fd), -EPERM);
	assert_int_equal(fd, -1);
	assert_int_equal(chmod(opt.state_dir, 01777), 0);
	assert_int_equal(mount_check_lock(&opt, &fd), 0);
	close(fd);
	free(opt.litefs_dir);
	free(opt.state_dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(find__mounted_twice__last_one, make_dir, remove_dir),
		cmocka_unit_test_setup_teardown(find__not_mounted__zero, make_dir, remove_dir),
		cmocka_unit_test_setup_teardown(find__escaped_names__compared_unescaped, make_dir, remove_dir),
		cmocka_unit_test_setup_teardown(find__no_table__error, make_dir, remove_dir),
		cmocka_unit_test(is_inside__paths__by_component),
		cmocka_unit_test_setup_teardown(user_allow_other__forms_of_the_line__recognised, make_dir, remove_dir),
		cmocka_unit_test_setup_teardown(mountpoint__beside_litefs_dir__resolved, make_dir, remove_dir),
		cmocka_unit_test_setup_teardown(mountpoint__symbolic_link__resolved, make_dir, remove_dir),
		cmocka_unit_test_setup_teardown(mountpoint__missing__enoent, make_dir, remove_dir),
		cmocka_unit_test_setup_teardown(mountpoint__a_file__enotdir, make_dir, remove_dir),
		cmocka_unit_test_setup_teardown(mountpoint__in_or_around_litefs_dir__refused, make_dir, remove_dir),
		cmocka_unit_test_setup_teardown(lock__second_for_the_same_directory__ebusy, make_dir, remove_dir),
		cmocka_unit_test_setup_teardown(lock__given_up_by_one_that_ends__had, make_dir, remove_dir),
		cmocka_unit_test_setup_teardown(lock__two_directories__independent, make_dir, remove_dir),
		cmocka_unit_test_setup_teardown(lock__state_dir_impossible__error, make_dir, remove_dir),
		cmocka_unit_test_setup_teardown(lock__made_or_found__for_nobody_else, make_dir, remove_dir),
		cmocka_unit_test_setup_teardown(lock__everybody_may_write_state_dir__refused_but_if_sticky, make_dir, remove_dir),
	};

	return cmocka_run_group_tests_name("mount_check", tests, NULL, NULL);
}
