/* SPDX-License-Identifier: Apache-2.0 */
/*
 * inlayd: all that a target needs beside /dev/fuse.
 *
 *     serve   one for each ssh session: hands its connection to the keeper    keep/connect.c
 *     trunk   the same for many sessions over one connection                  session/servetrunk.c
 *     keep    long-lived: the one writer of the store, the mounts             keep/keeper.c
 *     mount   one for each mount: answers the kernel                          mount/worker.c
 *     supervise  one for each program of a workspace                          run/supervise.c
 *     contain    runs a hook in a workspace's root                            run/contain.c
 *     replay  one for each mount that is watched: raises events               mount/helper.c
 *     redirect   makes a directory of a mount lead to plain storage           keep/redirect.c
 *
 * fs/ is state at rest:
 *     base/     errors, bytes, files, text         object/  digests and sets of them
 *     store/    objects, refs, gc                  tree/    directories as objects
 *     scan/     from a folder to a tree            mount/   the FUSE worker
 *     keep/     the keeper                         run/      programs and their logs
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "inlay/cleanup.h"
#include "inlay/container.h"
#include "inlay/digest.h"
#include "inlay/io.h"
#include "inlay/keep.h"
#include "inlay/mount.h"
#include "inlay/run.h"
#include "inlay/session.h"
#include "inlay/text.h"
#include "inlay/written.h"

enum {
	MOUNT_FUSE_FD = 3, /* as the keeper gives them */
	MOUNT_READY_FD = 4,
	IDLE_S = 60, /* a keeper without mounts and sessions ends after that long */
};

static const char usage[] =
	"usage: inlayd serve [--state DIR]       serve one session on standard input and output\n"
	"       inlayd trunk [--state DIR]       the same for many sessions over one connection\n"
	"       inlayd keep [--state DIR] [--ready-fd N] [--stay]\n"
	"                                        keep the store and the mounts\n"
	"       inlayd stop [--state DIR]        end the keeper; its mounts go on\n"
	"       inlayd exec [--state DIR] [--program NAME] -- PATH [CMD...]\n"
	"                                        become a command in a workspace\n"
	"       inlayd selfcheck SHA256          is this program what it should be?\n"
	"       inlayd version\n"
	"\n"
	"inlayd is started by inlay; there is no need to run it by hand.\n";

struct args {
	const char *state;
	struct inlay_buf state_buf;
	int ready_fd;
	bool stay;
	struct inlay_mount_policy policy;
	const char *workspace, *store, *point, *dir, *program;
};

static int report(const char *what, int r, const struct inlay_error *err)
{
	auto_buf struct inlay_buf b = {0};

	if (r == 0)
		return 0;
	inlay_text_escape(&b, err->text, strlen(err->text));
	(void)fprintf(stderr, "inlayd %s: %s\n", what, inlay_buf_cstr(&b));
	return inlay_error_exit(err);
}

static int parse(int argc, char **argv, struct args *a)
{
	static const struct option options[] = {
		{"state", required_argument, NULL, 's'},
		{"ready-fd", required_argument, NULL, 'r'},
		{"stay", no_argument, NULL, 'y'},
		{"workspace", required_argument, NULL, 'w'},
		{"store", required_argument, NULL, 'o'},
		{"dir", required_argument, NULL, 'd'},
		{"program", required_argument, NULL, 'p'},
		{"point", required_argument, NULL, 'm'},
		{"upper", required_argument, NULL, 'u'},
		{"xattrs", no_argument, NULL, 'x'},
		{"keep-owners", no_argument, NULL, 'k'},
		{"help", no_argument, NULL, 'h'},
		{0},
	};
	struct inlay_error err = {0};
	uint64_t n;
	int c;

	a->ready_fd = -1;
	while ((c = getopt_long(argc, argv, "+h", options, NULL)) >= 0) {
		switch (c) {
		case 's':
			a->state = optarg;
			break;
		case 'r':
			if (inlay_parse_u64(optarg, &n, &err) < 0 || n > 1000)
				return INLAY_EXIT_USAGE;
			a->ready_fd = (int)n;
			break;
		case 'y':
			a->stay = true;
			break;
		case 'w':
			a->workspace = optarg;
			break;
		case 'o':
			a->store = optarg;
			break;
		case 'd':
			a->dir = optarg;
			break;
		case 'p':
			a->program = optarg;
			break;
		case 'm':
			a->point = optarg;
			break;
		case 'u':
			if (inlay_parse_u64(optarg, &n, &err) < 0 || n > INLAY_UPPER_READ_ONLY)
				return INLAY_EXIT_USAGE;
			a->policy.upper = (enum inlay_upper_policy)n;
			break;
		case 'x':
			a->policy.xattrs = true;
			break;
		case 'k':
			a->policy.keep_owners = true;
			break;
		case 'h':
			(void)fputs(usage, stdout);
			exit(0);
		default:
			return INLAY_EXIT_USAGE;
		}
	}
	if (!a->state) {
		int r = inlay_keep_default_state(&a->state_buf, &err);
		if (r < 0)
			return report("start", r, &err);
		a->state = inlay_buf_cstr(&a->state_buf);
	}
	return 0;
}

static int serve(const struct args *a)
{
	struct inlay_error err = {0};

	return report("serve", inlay_keep_connect(a->state, 0, 1, &err), &err);
}

static int hand_over(void *ctx, int fd, struct inlay_error *err)
{
	const struct args *a = ctx;

	return inlay_keep_connect(a->state, fd, fd, err);
}

static int serve_trunk(struct args *a)
{
	struct inlay_error err = {0};

	(void)signal(SIGPIPE, SIG_IGN);
	return report("trunk", inlay_serve_trunk(0, 1, hand_over, a, &err), &err);
}

static int keep(const struct args *a)
{
	struct inlay_error err = {0};
	struct inlay_keep_options options = {.state = a->state,
					     .ready_fd = a->ready_fd,
					     .session = inlay_serve,
					     .idle_ns = a->stay ? 0 : IDLE_S * 1000000000ll};
	int r = inlay_keep(&options, &err);

	return r == INLAY_HOST_LOCKED ? INLAY_EXIT_LOCKED : report("keep", r, &err);
}

static int stop(const struct args *a)
{
	struct inlay_error err = {0};

	return report("stop", inlay_keep_stop(a->state, &err), &err);
}

static int serve_mount(const struct args *a)
{
	struct inlay_error err = {0};
	struct inlay_mount_options options = {.fuse_fd = MOUNT_FUSE_FD,
					      .ready_fd = MOUNT_READY_FD,
					      .store_path = a->store,
					      .workspace_path = a->workspace,
					      .mount_point = a->point,
					      .uid = getuid(),
					      .gid = getgid(),
					      .policy = a->policy};

	if (!a->store || !a->workspace) {
		(void)fputs("inlayd mount is started by inlayd keep\n", stderr);
		return INLAY_EXIT_USAGE;
	}
	return report("mount", inlay_mount_serve(&options, &err), &err);
}

static int supervise(const struct args *a)
{
	struct inlay_error err = {0};
	struct inlay_supervise_options options = {
		.dir = a->dir, .workspace = a->workspace, .ready_fd = a->ready_fd};

	if (!a->dir || !a->workspace) {
		(void)fputs("inlayd supervise is started by inlayd keep\n", stderr);
		return INLAY_EXIT_USAGE;
	}
	return report("supervise", inlay_supervise(&options, &err), &err);
}

static int code_of(int status)
{
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* argv[optind...]: PATH [CMD...] */
static int enter(const struct args *a, char **argv)
{
	struct inlay_error err = {0};
	int status = 0;

	if (!*argv)
		return INLAY_EXIT_USAGE;
	int r = inlay_keep_enter(a->state, argv[0], a->program, argv + 1, &status, &err);
	return r == 0 ? code_of(status) : report("exec", r, &err);
}

/* Started by a session for a hook. argv[optind...]: what inlay_contain gets but for the descriptors, see below. */
static int contain(const struct args *a, char **argv)
{
	struct inlay_error err = {0};
	int status = 0, vars = 0;

	/* WORKSPACE DIR SHOWS NAME=VALUE... -- CMD... */
	for (int i = 0; i < 3; i++)
		if (!argv[i])
			return INLAY_EXIT_USAGE;
	char **env = argv + 3;
	while (env[vars] && strcmp(env[vars], "--") != 0)
		vars++;
	if (!a->dir || !a->program || !env[vars])
		return INLAY_EXIT_USAGE;
	env[vars] = NULL;
	struct inlay_contain o = {.ws_dir = a->dir,
				  .name = a->program,
				  .workspace = argv[0],
				  .dir = argv[1],
				  .shows = argv[2],
				  .env = env,
				  .argv = env + vars + 1};
	int r = inlay_contain(&o, &status, &err);
	return r == 0 ? code_of(status) : report("contain", r < 0 ? r : -ENOENT, &err);
}

static int serve_replay(const struct args *a)
{
	struct inlay_error err = {0};

	if (!a->point) {
		(void)fputs("inlayd replay is started by inlayd mount\n", stderr);
		return INLAY_EXIT_USAGE;
	}
	return report("replay", inlay_replay_serve(a->point, &err), &err);
}

/* After it was copied to a host: is every byte there? */
static int selfcheck(const char *hex)
{
	struct inlay_digest want, got;
	struct inlay_hasher h;
	uint8_t buf[65536];
	auto_close int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	size_t n = 0;

	if (!hex || !inlay_digest_from_hex(hex, &want) || fd < 0)
		return INLAY_EXIT_USAGE;
	inlay_hasher_init(&h);
	do {
		if (inlay_read_full(fd, buf, sizeof buf, &n, "myself", NULL) < 0)
			return INLAY_EXIT_FAILURE;
		inlay_hasher_add(&h, buf, n);
	} while (n == sizeof buf);
	inlay_hasher_end(&h, &got);
	return inlay_digest_equal(&want, &got) ? INLAY_EXIT_OK : INLAY_EXIT_FAILURE;
}

/* Started by the keeper: it never goes through a mount itself. */
static int redirect(char *const argv[])
{
	struct inlay_error err = {0};

	for (int i = 0; i < 3; i++)
		if (!argv[i])
			return INLAY_EXIT_USAGE;
	int r = inlay_redirect(argv[0], argv[1], argv[2], &err);
	if (r < 0)
		(void)fprintf(stderr, "%s\n", err.text);
	return r < 0 ? INLAY_EXIT_FAILURE : INLAY_EXIT_OK;
}

int main(int argc, char **argv)
{
	struct args a = {0};
	const char *verb = argc > 1 ? argv[1] : "";

	if (strcmp(verb, "--help") == 0 || strcmp(verb, "-h") == 0) {
		(void)fputs(usage, stdout);
		return 0;
	}
	if (strcmp(verb, "version") == 0 || strcmp(verb, "--version") == 0) {
		(void)printf("inlayd %s\n", INLAY_VERSION);
		return 0;
	}
	if (strcmp(verb, "selfcheck") == 0)
		return selfcheck(argc > 2 ? argv[2] : NULL);
	int r = argc > 1 ? parse(argc - 1, argv + 1, &a) : INLAY_EXIT_USAGE;
	if (r == 0 && strcmp(verb, "serve") == 0)
		r = serve(&a);
	else if (r == 0 && strcmp(verb, "trunk") == 0)
		r = serve_trunk(&a);
	else if (r == 0 && strcmp(verb, "keep") == 0)
		r = keep(&a);
	else if (r == 0 && strcmp(verb, "mount") == 0)
		r = serve_mount(&a);
	else if (r == 0 && strcmp(verb, "exec") == 0)
		r = enter(&a, argv + 1 + optind);
	else if (r == 0 && strcmp(verb, "contain") == 0)
		r = contain(&a, argv + 1 + optind);
	else if (r == 0 && strcmp(verb, "redirect") == 0)
		r = redirect(argv + 1 + optind);
	else if (r == 0 && strcmp(verb, "supervise") == 0)
		r = supervise(&a);
	else if (r == 0 && strcmp(verb, "replay") == 0)
		r = serve_replay(&a);
	else if (r == 0 && strcmp(verb, "stop") == 0)
		r = stop(&a);
	else if (r == 0)
		r = INLAY_EXIT_USAGE;
	if (r == INLAY_EXIT_USAGE)
		(void)fputs(usage, stderr);
	inlay_buf_fini(&a.state_buf);
	return r;
}
