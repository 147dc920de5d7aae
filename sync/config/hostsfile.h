/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CONFIG_HOSTSFILE_H
#define CONFIG_HOSTSFILE_H

#include "config/config.h"

/* hosts.yaml, as it is read. */
struct hosts_file {
	struct config_head head;
	struct config_objects hosts;  /* struct config_host */
	struct config_objects groups; /* struct config_group */
};

/* resolve.c: names become hosts, sources become paths, components get an order; what is wrong is told to the
 * problems. */
int config_resolve(struct config_set *set, struct inlay_error *err) inlay_must_check;

#endif
