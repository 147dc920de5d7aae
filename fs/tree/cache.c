/* SPDX-License-Identifier: Apache-2.0 */
#include "tree/cache.h"

#include <errno.h>

struct inlay_trees {
	pthread_mutex_t lock; /* all below; never held while the store is read */
	struct inlay_store *store;
	struct tree_pin **slots;
	size_t slot_count, count;
	size_t budget, unpinned_bytes;
	struct tree_pin *newest, *oldest; /* unpinned ones */
};

int inlay_trees_new(struct inlay_store *store, size_t budget, struct inlay_trees **ret,
		    struct inlay_error *err)
{
	struct inlay_trees *t = calloc(1, sizeof *t);

	if (t)
		t->slots = calloc(64, sizeof *t->slots);
	if (!t || !t->slots) {
		free(t);
		return inlay_error_set(err, -ENOMEM, "out of memory");
	}
	t->slot_count = 64;
	t->store = store;
	t->budget = budget;
	(void)pthread_mutex_init(&t->lock, NULL);
	*ret = t;
	return 0;
}

static void free_pin(struct tree_pin *pin)
{
	if (pin)
		inlay_buf_fini(&pin->bytes);
	free(pin);
}

void inlay_trees_free(struct inlay_trees *t)
{
	if (!t)
		return;
	for (size_t i = 0; i < t->slot_count; i++) {
		for (struct tree_pin *p = t->slots[i], *next; p; p = next) {
			next = p->next_in_slot;
			free_pin(p);
		}
	}
	free(t->slots);
	(void)pthread_mutex_destroy(&t->lock);
	free(t);
}

static struct tree_pin **slot_of(struct inlay_trees *t, const struct inlay_digest *id)
{
	return &t->slots[inlay_digest_prefix(id) & (t->slot_count - 1)];
}

static void list_remove(struct inlay_trees *t, struct tree_pin *p)
{
	*(p->newer ? &p->newer->older : &t->newest) = p->older;
	*(p->older ? &p->older->newer : &t->oldest) = p->newer;
	p->newer = p->older = NULL;
	t->unpinned_bytes -= p->bytes.cap;
}

static void list_add(struct inlay_trees *t, struct tree_pin *p)
{
	p->older = t->newest;
	p->newer = NULL;
	*(t->newest ? &t->newest->newer : &t->oldest) = p;
	t->newest = p;
	t->unpinned_bytes += p->bytes.cap;
}

static struct tree_pin *pin_known(struct inlay_trees *t, const struct inlay_digest *id)
{
	for (struct tree_pin *p = *slot_of(t, id); p; p = p->next_in_slot) {
		if (!inlay_digest_equal(&p->id, id))
			continue;
		if (p->pins++ == 0)
			list_remove(t, p);
		return p;
	}
	return NULL;
}

static void forget_oldest(struct inlay_trees *t, size_t budget)
{
	while (t->unpinned_bytes > budget && t->oldest) {
		struct tree_pin *p = t->oldest;
		struct tree_pin **at = slot_of(t, &p->id);
		while (*at != p)
			at = &(*at)->next_in_slot;
		*at = p->next_in_slot;
		list_remove(t, p);
		t->count--;
		free_pin(p);
	}
}

/* A table that could not grow is only slower. */
static void grow(struct inlay_trees *t)
{
	size_t old_count = t->slot_count;
	struct tree_pin **old = t->slots, **slots = calloc(old_count * 2, sizeof *slots);

	if (!slots)
		return;
	t->slots = slots;
	t->slot_count = old_count * 2;
	for (size_t i = 0; i < old_count; i++) {
		for (struct tree_pin *p = old[i], *next; p; p = next) {
			next = p->next_in_slot;
			struct tree_pin **at = slot_of(t, &p->id);
			p->next_in_slot = *at;
			*at = p;
		}
	}
	free(old);
}

static int load(struct inlay_trees *t, const struct inlay_digest *id, struct tree_pin **ret,
		struct inlay_error *err)
{
	struct tree_pin *p = calloc(1, sizeof *p);

	if (!p)
		return inlay_error_set(err, -ENOMEM, "out of memory");
	p->id = *id;
	int r = inlay_store_get(t->store, id, INLAY_TREE_BYTES_MAX, 0, &p->bytes, err);
	if (r == INLAY_STORE_MISSING)
		r = INLAY_TREES_MISSING;
	else if (r == 0)
		r = inlay_tree_decode(p->bytes.data, p->bytes.len, &p->tree, err);
	if (r != 0) {
		free_pin(p);
		return r;
	}
	*ret = p;
	return 0;
}

int tree_pin_get(struct inlay_trees *t, const struct inlay_digest *id, struct tree_pin **ret,
		 struct inlay_error *err)
{
	struct tree_pin *p, *loaded = NULL;

	{
		scope_lock(&t->lock);
		p = pin_known(t, id);
	}
	if (p) {
		*ret = p;
		return 0;
	}
	int r = load(t, id, &loaded, err);
	if (r != 0)
		return r;
	scope_lock(&t->lock);
	p = pin_known(t, id); /* another thread may have been faster */
	if (p) {
		free_pin(loaded);
	} else {
		p = loaded;
		p->pins = 1;
		if (++t->count > t->slot_count)
			grow(t);
		struct tree_pin **at = slot_of(t, id);
		p->next_in_slot = *at;
		*at = p;
	}
	*ret = p;
	return 0;
}

void tree_pin_put(struct inlay_trees *t, struct tree_pin *pin)
{
	if (!pin)
		return;
	scope_lock(&t->lock);
	if (--pin->pins == 0) {
		list_add(t, pin);
		forget_oldest(t, t->budget);
	}
}

void inlay_trees_forget(struct inlay_trees *t)
{
	scope_lock(&t->lock);
	forget_oldest(t, 0);
}
