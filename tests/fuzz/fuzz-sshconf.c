/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The answer of `ssh -G`, and lines of known_hosts: the same bytes are taken as both. A name that a whole plain
 * line with a marker lists must be found.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "inlay/cleanup.h"
#include "transport/sshconf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void check_lists(const struct sshconf *c)
{
	auto_buf struct inlay_buf path = {0};

	for (size_t i = 0; c->identity[i]; i++)
		sshconf_path(c->identity[i], &path);
	for (size_t i = 0; c->known_hosts[i]; i++)
		if (strchr(c->known_hosts[i], ' ') || !*c->known_hosts[i])
			abort();
	/* The first word of a list is in it. */
	auto_free char *first = strndup(c->ciphers, strcspn(c->ciphers, ","));
	if (first && *first && !sshconf_lists(c->ciphers, first))
		abort();
}

static void check_marked(const char *text, size_t len)
{
	auto_buf struct inlay_buf b = {0};

	inlay_buf_printf(&b, "@revoked example.org ");
	inlay_buf_add(&b, text, len);
	if (!b.failed && !sshconf_special_known_host((char *)b.data, b.len, "example.org"))
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	auto_of(sshconf_fini) struct sshconf c = {0};
	const char *text = (const char *)data;

	if (sshconf_parse(text, len, &c, NULL) == 0)
		check_lists(&c);
	(void)sshconf_special_known_host(text, len, "example.org");
	(void)sshconf_special_known_host(text, len, "[example.org]:2222");
	check_marked(text, len);
	return 0;
}
