/* SPDX-License-Identifier: Apache-2.0 */
#include "session/recent.h"

#include <errno.h>
#include <stdlib.h>

void recent_fini(struct recent *r)
{
	free(r->slots);
	r->slots = NULL;
}

static uint64_t key_of(const struct plan *p, const struct plan_file *f)
{
	uint64_t key = inlay_xxh3(plan_path(p, f), f->path_len);

	return key ? key : 1;
}

/* A file that is half written does not push out what it was before. */
static void note(struct recent *r, uint64_t path, const struct inlay_digest *id, uint64_t size)
{
	struct recent_entry *e = &r->slots[path % RECENT_SLOTS];

	if (size == 0 || (e->path == path && size < e->size / 2))
		return;
	*e = (struct recent_entry){path, *id, size};
}

static uint64_t distance(uint64_t a, uint64_t b)
{
	return a > b ? a - b : b - a;
}

int recent_apply(struct recent *r, struct plan *p, struct inlay_error *err)
{
	if (!r->slots)
		r->slots = calloc(RECENT_SLOTS, sizeof *r->slots);
	if (!r->slots)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	for (size_t i = 0; i < p->file_count; i++) {
		struct plan_file *f = &p->files[i];
		uint64_t key = key_of(p, f);
		struct recent_entry was = r->slots[key % RECENT_SLOTS];
		if (f->basis_size > 0)
			note(r, key, &f->basis, f->basis_size);
		if (was.path == key &&
		    (f->basis_size == 0 ||
		     distance(was.size, f->size) < distance(f->basis_size, f->size))) {
			f->basis = was.id;
			f->basis_size = was.size;
		}
	}
	for (size_t i = 0; i < p->lost_count; i++)
		note(r, key_of(p, &p->lost[i]), &p->lost[i].id, p->lost[i].size);
	return 0;
}
