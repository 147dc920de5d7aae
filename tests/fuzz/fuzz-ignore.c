/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Patterns and a path that nobody has seen. Input: a path, a NUL, then lines of patterns. They are
 * taken as an ignore file and as options; both must agree on the path, within the promised time.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "inlay/cleanup.h"
#include "inlay/ignore.h"
#include "inlay/limits.h"
#include "scan/rules.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

/* For one name at most 255 steps for each byte of pattern; a step takes some nanoseconds, tens with
 * sanitizers. What goes wrong here goes wrong by orders of magnitude. */
enum { NS_PER_STEP = 100 };

static uint64_t cpu_ns(void)
{
	struct timespec ts;

	(void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

static size_t next_name(const char *path, size_t len)
{
	const char *slash = memchr(path, '/', len);

	return slash ? (size_t)(slash - path) : len;
}

/* Through the contract: every component but the last is entered. Gives the number of names. */
static unsigned by_options(const char *patterns, const char *path, size_t len, bool *ret_out)
{
	const struct inlay_ignore_options options = {
		.patterns = &patterns, .pattern_count = 1, .no_builtin = true};
	auto_of(inlay_ignore_unref) struct inlay_ignore *rules = NULL;
	/* A directory without any ignore file. */
	auto_close int empty = open("/proc/self/task", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	unsigned names = 0;

	*ret_out = false;
	if (inlay_ignore_root(empty, &options, &rules, NULL) < 0)
		return 0;
	for (;;) {
		struct inlay_ignore_why why;
		struct inlay_ignore *below;
		size_t n = next_name(path, len);
		*ret_out = inlay_ignore_match(rules, path, n, n < len, &why);
		names++;
		if (*ret_out != (why.pattern && !why.negated))
			abort();
		if (n == len ||
		    inlay_ignore_enter(rules, -1, path, n, false, false, &below, NULL) < 0)
			return names;
		inlay_ignore_unref(rules);
		rules = below;
		path += n + 1;
		len -= n + 1;
	}
}

static void as_file(const uint8_t *text, size_t len, const char *path, size_t path_len)
{
	auto_of(rules_unref) struct rule_list *list = NULL;

	if (rules_compile("f", text, len, RULES_FILE, &list, NULL) < 0)
		return;
	(void)rules_match_name(list, path, next_name(path, path_len), true);
	for (uint32_t i = 0; i < list->rule_count; i++) {
		const struct rule *r = &list->rules[i];
		auto_free uint64_t *a = calloc(rule_state_words(r), 8);
		auto_free uint64_t *b = calloc(rule_state_words(r), 8);
		if (!a || !b)
			abort();
		rule_state_start(list, r, a);
		size_t n = next_name(path, path_len);
		(void)rule_state_match(list, r, a, path, n);
		(void)rule_state_step(list, r, a, path, n, b);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	const uint8_t *nul = memchr(data, 0, len);
	bool out;

	if (!nul || nul == data)
		return 0;
	const char *path = (const char *)data;
	size_t path_len = (size_t)(nul - data);
	for (size_t at = 0; at < path_len; at += next_name(path + at, path_len - at) + 1)
		if (next_name(path + at, path_len - at) - 1 >= INLAY_NAME_MAX)
			return 0; /* no name, or one that is too long: nobody may ask for that */
	if (path[path_len - 1] == '/')
		return 0;
	size_t text_len = len - path_len - 1;
	as_file(nul + 1, text_len, path, path_len);
	auto_free char *patterns = malloc(text_len + 1);
	if (!patterns)
		return 0;
	memcpy(patterns, nul + 1, text_len);
	patterns[text_len] = 0;
	uint64_t start = cpu_ns();
	unsigned names = by_options(patterns, path, path_len, &out);
	uint64_t steps = (uint64_t)INLAY_NAME_MAX * (text_len + 100) * (names + 1);
	if (cpu_ns() - start > steps * NS_PER_STEP + 1000000000)
		abort();
	return 0;
}
