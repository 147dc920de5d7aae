/* SPDX-License-Identifier: Apache-2.0 */
#ifndef INLAY_TESTS_UNIT_H
#define INLAY_TESTS_UNIT_H

/* cmocka and what every unit test of inlay needs. Each test program is one module. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "inlay/error.h"

/* `expr` is 0; otherwise the error's text is printed. */
#define assert_ok(expr)                                                                  \
	do {                                                                             \
		int r_ = (expr);                                                         \
		if (r_ != 0) {                                                           \
			print_error("%s = %d: %s\n", #expr, r_, r_ < 0 ? err.text : ""); \
			fail();                                                          \
		}                                                                        \
	} while (0)

/* `expr` is the positive condition or the negative code. */
#define assert_result(expr, want)                                               \
	do {                                                                    \
		int r_ = (expr);                                                \
		if (r_ != (want)) {                                             \
			print_error("%s = %d, not %d: %s\n", #expr, r_, (want), \
				    r_ < 0 ? err.text : "");                    \
			fail();                                                 \
		}                                                               \
	} while (0)

#endif
