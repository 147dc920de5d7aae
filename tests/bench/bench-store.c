/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Figures of the store: bench-store [DIRECTORY]. Puts 100,000 objects of 2 KiB, opens a store of a
 * million objects, looks them up and reads. Each figure is the best of some rounds, so that it says
 * what the code costs and not what else the machine did. The directory (default: a new one in /tmp)
 * is removed afterwards.
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "inlay/cleanup.h"
#include "inlay/io.h"
#include "inlay/store.h"
#include "store/state.h"

enum {
	PUTS = 100000,
	PUT_BYTES = 2048,
	MANY = 1000000,
	LOOKUPS = MANY,
	READS = 300000,
	THREADS = 4,
	LARGE = 64 << 20,
};

static struct inlay_error err;

static void check(int r, const char *what)
{
	if (r == 0)
		return;
	(void)fprintf(stderr, "%s: %d %s\n", what, r, r < 0 ? err.text : "");
	exit(1);
}

static double now_s(void)
{
	return (double)inlay_monotonic_ns() / 1e9;
}

static uint64_t next_random(uint64_t *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 7;
	*seed ^= *seed << 17;
	return *seed;
}

static struct inlay_store *open_store(int dir, const char *name, int flags)
{
	struct inlay_store *store = NULL;

	check(inlay_store_open(dir, name, (enum inlay_store_flags)flags, &store, &err), "open");
	return store;
}

/* An object that is different for each number, without the cost of random bytes. */
static void object(uint64_t number, uint8_t *bytes, size_t len)
{
	memset(bytes, (int)(number & 0xff), len);
	memcpy(bytes, &number, sizeof number);
}

static void bench_put(int dir)
{
	static uint8_t bytes[PUT_BYTES];
	struct inlay_store *store = open_store(dir, "put", INLAY_STORE_CREATE | INLAY_STORE_WRITE);

	double start = now_s();
	for (uint64_t n = 0; n < PUTS; n++) {
		object(n, bytes, sizeof bytes);
		check(inlay_store_put(store, bytes, sizeof bytes, NULL, &err), "put");
	}
	double put = now_s();
	check(inlay_store_sync(store, &err), "sync");
	double synced = now_s();
	for (uint64_t n = 0; n < PUTS; n++) {
		object(n, bytes, sizeof bytes);
		check(inlay_store_put(store, bytes, sizeof bytes, NULL, &err), "put");
	}
	double again = now_s();
	printf("put %d x %d bytes: %.2f us each, %.0f MB/s; sync %.0f ms; put again %.2f us each\n",
	       PUTS, PUT_BYTES, (put - start) / PUTS * 1e6, PUTS * PUT_BYTES / (put - start) / 1e6,
	       (synced - put) * 1e3, (again - synced) / PUTS * 1e6);
	inlay_store_close(store);
}

static void bench_small_commits(int dir)
{
	enum { COMMITS = 200 };
	static uint8_t bytes[PUT_BYTES];
	struct inlay_store *store = open_store(dir, "put", INLAY_STORE_WRITE);
	struct inlay_generation gen = {.number = 1};
	double best = 1e9, sum = 0;

	for (uint64_t n = 0; n < COMMITS; n++) {
		object(PUTS + n, bytes, sizeof bytes);
		gen.number = n + 1;
		double start = now_s();
		check(inlay_store_put(store, bytes, sizeof bytes, NULL, &err), "put");
		check(inlay_store_sync(store, &err), "sync");
		check(inlay_store_publish(store, "w", &gen, 10, 0, &err), "publish");
		double took = now_s() - start;
		best = took < best ? took : best;
		sum += took;
	}
	printf("put + sync + publish of one object: best %.2f ms, mean %.2f ms\n", best * 1e3,
	       sum / COMMITS * 1e3);
	inlay_store_close(store);
}

static struct inlay_digest *make_many(int dir)
{
	struct inlay_store *store = open_store(dir, "many", INLAY_STORE_CREATE | INLAY_STORE_WRITE);
	struct inlay_digest *ids = malloc(MANY * sizeof *ids);
	uint8_t bytes[64];

	if (!ids)
		exit(1);
	double start = now_s();
	for (uint64_t n = 0; n < MANY; n++) {
		object(n, bytes, sizeof bytes);
		check(inlay_store_put(store, bytes, sizeof bytes, &ids[n], &err), "put");
	}
	check(inlay_store_sync(store, &err), "sync");
	printf("put %d x %zu bytes: %.2f us each\n", MANY, sizeof bytes,
	       (now_s() - start) / MANY * 1e6);
	inlay_store_close(store);
	return ids;
}

static void bench_open(int dir, int flags, const char *how)
{
	double best = 1e9;

	for (int round = 0; round < 7; round++) {
		double start = now_s();
		struct inlay_store *store = open_store(dir, "many", flags);
		double took = now_s() - start;
		best = took < best ? took : best;
		inlay_store_close(store);
	}
	printf("open with %d objects for %s: %.1f ms\n", MANY, how, best * 1e3);
}

/* In an order that has nothing to do with that of the index. */
static void shuffle(struct inlay_digest *ids)
{
	uint64_t seed = 3;

	for (size_t i = MANY - 1; i > 0; i--) {
		size_t k = (size_t)(next_random(&seed) % (i + 1));
		struct inlay_digest swap = ids[i];
		ids[i] = ids[k];
		ids[k] = swap;
	}
}

static void bench_lookup(struct inlay_store *store, const struct inlay_digest *ids)
{
	enum { HOT = 1000 };
	uint64_t seed = 1, size, sum = 0;
	double found = 1e9, hot = 1e9, missing = 1e9;

	for (int round = 0; round < 3; round++) {
		double start = now_s();
		for (int i = 0; i < LOOKUPS; i++)
			sum += (uint64_t)inlay_store_stat(store, &ids[i], &size);
		double all = now_s();
		for (int i = 0; i < LOOKUPS; i++)
			sum += (uint64_t)inlay_store_stat(store, &ids[i % HOT], &size);
		double few = now_s();
		for (int i = 0; i < LOOKUPS; i++)
			sum += inlay_store_has_prefix(store, next_random(&seed));
		double end = now_s();
		found = all - start < found ? all - start : found;
		hot = few - all < hot ? few - all : hot;
		missing = end - few < missing ? end - few : missing;
	}
	printf("lookup at random among %d: %.0f ns; of %d of them again and again: %.0f ns; of "
	       "what is "
	       "missing (looks at the file): %.0f ns (%llu)\n",
	       MANY, found / LOOKUPS * 1e9, HOT, hot / LOOKUPS * 1e9, missing / LOOKUPS * 1e9,
	       (unsigned long long)sum);
	printf("table: %.1f bytes an object\n",
	       (double)store->index->slot_count * sizeof(uint32_t) / MANY);
}

struct reader {
	struct inlay_store *store;
	const struct inlay_digest *ids;
	uint64_t ids_count;
	size_t len;
	uint64_t span; /* offsets are below it */
	uint64_t seed;
	uint64_t reads;
};

static void *read_many(void *p)
{
	struct reader *r = p;
	uint8_t *buf = malloc(r->len);
	struct inlay_error e;
	size_t n;

	for (uint64_t i = 0; i < r->reads; i++) {
		const struct inlay_digest *id = &r->ids[next_random(&r->seed) % r->ids_count];
		uint64_t off = r->span ? next_random(&r->seed) % (r->span / r->len) * r->len : 0;
		if (!buf || inlay_store_pread(r->store, id, buf, r->len, off, &n, &e) != 0)
			exit(1);
	}
	free(buf);
	return NULL;
}

static void bench_read(const struct reader *what, const char *name)
{
	for (int threads = 1; threads <= THREADS; threads *= THREADS) {
		double best = 1e9;
		for (int round = 0; round < 3; round++) {
			pthread_t tid[THREADS];
			struct reader r[THREADS];
			double start = now_s();
			for (int t = 0; t < threads; t++) {
				r[t] = *what;
				r[t].seed = 77 + (uint64_t)t;
				if (pthread_create(&tid[t], NULL, read_many, &r[t]) != 0)
					exit(1);
			}
			for (int t = 0; t < threads; t++)
				(void)pthread_join(tid[t], NULL);
			double took = now_s() - start;
			best = took < best ? took : best;
		}
		double all = (double)what->reads * threads;
		printf("pread %s, %d thread%s: %.2f us each, %.0f MB/s\n", name, threads,
		       threads > 1 ? "s" : "", best / all * 1e6,
		       all * (double)what->len / best / 1e6);
	}
}

static void bench_large(int dir)
{
	struct inlay_store *store =
		open_store(dir, "large", INLAY_STORE_CREATE | INLAY_STORE_WRITE);
	uint8_t *bytes = malloc(LARGE);
	struct inlay_digest id;

	if (!bytes)
		exit(1);
	object(1, bytes, LARGE);
	double start = now_s();
	check(inlay_store_put(store, bytes, LARGE, &id, &err), "put");
	double put = now_s();
	check(inlay_store_sync(store, &err), "sync");
	double end = now_s();
	printf("put of one object of %d MiB: %.0f MB/s; sync %.0f ms\n", LARGE >> 20,
	       LARGE / (put - start) / 1e6, (end - put) * 1e3);
	free(bytes);
	struct reader r = {.store = store, .ids = &id, .ids_count = 1, .span = LARGE};
	r.len = 131072;
	r.reads = 20000;
	bench_read(&r, "128 KiB of a loose file");
	r.len = 4096;
	r.reads = 100000;
	bench_read(&r, "4 KiB of a loose file");
	inlay_store_close(store);
}

static void ignore_finding(void *ctx, const struct inlay_digest *id, const char *what)
{
	(void)ctx;
	(void)id;
	printf("finding: %s\n", what);
}

static bool odd(void *ctx, const struct inlay_digest *id)
{
	(void)ctx;
	return id->b[0] & 1;
}

static void bench_care(int dir)
{
	struct inlay_store *store = open_store(dir, "many", INLAY_STORE_WRITE);
	struct inlay_store_check checked;
	struct inlay_store_sweep swept;

	double start = now_s();
	check(inlay_store_verify(store, ignore_finding, NULL, NULL, &checked, &err), "verify");
	double verified = now_s();
	check(inlay_store_sweep(store, odd, NULL, 0, &swept, &err), "sweep");
	double end = now_s();
	printf("verify of %llu objects: %.2f s; sweep of half of them: %.2f s\n",
	       (unsigned long long)checked.objects, verified - start, end - verified);
	inlay_store_close(store);
}

int main(int argc, char **argv)
{
	char name[] = "/tmp/inlay-bench-XXXXXX";
	const char *path = argc > 1 ? argv[1] : mkdtemp(name);
	int dir;

	check(inlay_open_dir(AT_FDCWD, path, 0700, &dir, &err), "directory");
	bench_put(dir);
	bench_small_commits(dir);
	struct inlay_digest *ids = make_many(dir);
	bench_open(dir, 0, "reading");
	bench_open(dir, INLAY_STORE_WRITE, "writing");
	struct inlay_store *store = open_store(dir, "many", 0);
	shuffle(ids);
	bench_lookup(store, ids);
	bench_read(
		&(struct reader){
			.store = store, .ids = ids, .ids_count = MANY, .len = 64, .reads = READS},
		"64 bytes of a packed object");
	inlay_store_close(store);
	bench_large(dir);
	bench_care(dir);
	free(ids);
	close(dir);
	check(inlay_remove_tree(AT_FDCWD, path, &err), "remove");
	return 0;
}
