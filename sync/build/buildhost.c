/* SPDX-License-Identifier: Apache-2.0 */
#include "build/buildhost.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "build/buildjobs.h"

enum { ANSWER_MAX = 16 << 10 };

static const char question[] =
	"uname -m; for b in buildah podman docker mmdebstrap; do "
	"f=$(command -v $b) && echo \"$b $f $(stat -L -c \"%s %Y\" \"$f\")\"; "
	"done; true";

/* The trap also clears up behind a connection that went: the next write to it ends the script. */
static const char script[] =
	"d=$(mktemp -d \"${TMPDIR:-/var/tmp}/inlay-build.XXXXXX\") || exit 1; "
	"trap \"rm -rf \\\"$d\\\"\" EXIT; trap \"exit 1\" HUP INT TERM PIPE; "
	"cd \"$d\" && mkdir " BUILD_HOST_CONTEXT " && tar -C " BUILD_HOST_CONTEXT
	" -xf - || exit 1; "
	"[ -z \"$1\" ] || mv \"" BUILD_HOST_CONTEXT "/$1\" " BUILD_HOST_RECIPE " || exit 1; shift; "
	"\"$@\" </dev/null >&2 || exit; cat " BUILD_HOST_OUT;

static int end_line(struct child_args *a, struct inlay_buf *b, struct inlay_error *err)
{
	child_add(a, inlay_buf_cstr(b));
	return a->failed ? inlay_error_set(err, -E2BIG, "too many arguments for a build")
			 : inlay_buf_check(b, err);
}

int build_host_command(const struct build_host *h, const char *const *argv, struct child_args *ret,
		       struct inlay_error *err)
{
	auto_buf struct inlay_buf b = {0};

	transport_ssh_args(&h->transport, ret);
	inlay_buf_printf(&b, "exec");
	for (; *argv; argv++)
		child_add_quoted(&b, *argv);
	return end_line(ret, &b, err);
}

int build_host_build(const struct build_host *h, const char *const *argv, char *const *env,
		     const char *recipe, struct child_args *ret, struct inlay_error *err)
{
	auto_buf struct inlay_buf b = {0};

	transport_ssh_args(&h->transport, ret);
	inlay_buf_printf(&b, "exec sh -c");
	child_add_quoted(&b, script);
	child_add_quoted(&b, "inlay");
	child_add_quoted(&b, recipe ? recipe : "");
	child_add_quoted(&b, "env");
	for (; env && *env; env++)
		child_add_quoted(&b, *env);
	for (; *argv; argv++)
		child_add_quoted(&b, *argv);
	return end_line(ret, &b, err);
}

int build_host_open(struct build_host *h, const struct transport_options *o,
		    struct inlay_error *err)
{
	auto_of(child_args_fini) struct child_args a = {0};
	const char *argv[] = {"sh", "-c", question, NULL};

	*h = (struct build_host){.transport = *o};
	int r = build_host_command(h, argv, &a, err);
	if (r == 0)
		r = build_job_output((const char *const *)a.argv, ANSWER_MAX, &h->builders, err);
	if (r < 0) {
		r = inlay_error_prefix(err, r, "ask %s what it can build", o->host);
		(void)inlay_error_set_exit(err, INLAY_EXIT_CONNECT);
		build_host_fini(h);
		return r;
	}
	const char *text = inlay_buf_cstr(&h->builders);
	(void)snprintf(h->machine, sizeof h->machine, "%.*s", (int)strcspn(text, "\n"), text);
	return 0;
}

void build_host_fini(struct build_host *h)
{
	inlay_buf_fini(&h->builders);
}

bool build_host_builder(const struct build_host *h, const char *name, char *ret_file, size_t size,
			char *ret_version, size_t version_size)
{
	size_t n = strlen(name);

	/* The first line is the machine. */
	for (const char *line = strchr((const char *)h->builders.data, '\n'); line;
	     line = strchr(line, '\n')) {
		line++;
		if (strncmp(line, name, n) != 0 || line[n] != ' ')
			continue;
		const char *file = line + n + 1, *end = file + strcspn(file, " \n");
		int len = snprintf(ret_file, size, "%.*s", (int)(end - file), file);
		(void)snprintf(ret_version, version_size, "%.*s", (int)strcspn(end, "\n"), end);
		return *file == '/' && (size_t)len < size;
	}
	return false;
}
