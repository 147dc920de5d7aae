/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SCAN_PATTERN_H
#define SCAN_PATTERN_H

/* From the bytes of one pattern to its components. */

#include "inlay/bytes.h"
#include "scan/rules.h"

/*
 * Appends the components of the pattern to `parts` (struct rule_part) and their globs to `code`,
 * and sets part_count, negated, dir_only and by_name of *ret. False, with nothing appended, when no
 * name can ever match: a broken pattern, an empty component.
 */
bool pattern_parse(const uint8_t *p, size_t len, struct inlay_buf *parts, struct inlay_buf *code,
		   struct rule *ret);

#endif
