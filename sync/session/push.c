/* SPDX-License-Identifier: Apache-2.0 */
#include "session/push.h"

#include "inlay/cleanup.h"
#include "session/session.h"

int push(struct source *s, const struct target *t, const struct transport_options *transport,
	 uint64_t bwlimit, const struct push_options *o, struct push_result *ret,
	 struct inlay_error *err)
{
	auto_free struct session *session = malloc(sizeof *session);

	*ret = (struct push_result){0};
	if (!session)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	int r = session_init(session, s, t, transport, bwlimit, o, err);
	if (r == 0)
		r = session_push(session, NULL, true, ret, err);
	if (r == 0 && o->change)
		r = plan_tell(s, inlay_digest_is_zero(&session->base) ? NULL : &session->base,
			      &session->goal.tree, o->change, o->ctx, err);
	/* What was hashed need not be hashed again, also when the push failed. */
	if (session->built && !o->dry_run) {
		int saved = source_save(s, r == 0 ? err : NULL);
		r = r == 0 ? saved : r;
	}
	session_close(session);
	return r;
}
