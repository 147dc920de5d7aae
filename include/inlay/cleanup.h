/* SPDX-License-Identifier: Apache-2.0 */
#ifndef INLAY_CLEANUP_H
#define INLAY_CLEANUP_H

/*
 * Scope-owned resources. A failure is a plain `return`; success hands over with take_ptr() or
 * take_fd(). Cleanups keep errno and never fail: where a close can lose data, close by hand and
 * check.
 */

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

static inline void inlay_cleanup_free(void *p)
{
	free(*(void **)p);
}

static inline void inlay_cleanup_close(int *fd)
{
	if (*fd >= 0) {
		int saved = errno;
		(void)close(*fd);
		errno = saved;
	}
}

static inline void inlay_cleanup_unlock(pthread_mutex_t **lock)
{
	if (*lock)
		(void)pthread_mutex_unlock(*lock);
}

static inline pthread_mutex_t *inlay_lock(pthread_mutex_t *lock)
{
	(void)pthread_mutex_lock(lock);
	return lock;
}

static inline void inlay_cleanup_rwunlock(pthread_rwlock_t **lock)
{
	if (*lock)
		(void)pthread_rwlock_unlock(*lock);
}

static inline pthread_rwlock_t *inlay_rdlock(pthread_rwlock_t *lock)
{
	(void)pthread_rwlock_rdlock(lock);
	return lock;
}

static inline pthread_rwlock_t *inlay_wrlock(pthread_rwlock_t *lock)
{
	(void)pthread_rwlock_wrlock(lock);
	return lock;
}

#define auto_free  __attribute__((cleanup(inlay_cleanup_free)))
#define auto_close __attribute__((cleanup(inlay_cleanup_close)))

#define INLAY_CAT_(a, b) a##b
#define INLAY_CAT(a, b)  INLAY_CAT_(a, b)

/* Holds the lock until the end of the enclosing block. */
#define scope_lock(mutex)                                 \
	pthread_mutex_t *INLAY_CAT(scope_lock_, __LINE__) \
		__attribute__((cleanup(inlay_cleanup_unlock), unused)) = inlay_lock(mutex)
#define scope_rdlock(rwlock)                               \
	pthread_rwlock_t *INLAY_CAT(scope_lock_, __LINE__) \
		__attribute__((cleanup(inlay_cleanup_rwunlock), unused)) = inlay_rdlock(rwlock)
#define scope_wrlock(rwlock)                               \
	pthread_rwlock_t *INLAY_CAT(scope_lock_, __LINE__) \
		__attribute__((cleanup(inlay_cleanup_rwunlock), unused)) = inlay_wrlock(rwlock)

/* Defines inlay_cleanup_<fn>, for use as auto_of(fn). `fn` takes the pointer and accepts NULL. */
#define INLAY_DEFINE_CLEANUP(type, fn)                  \
	static inline void inlay_cleanup_##fn(type **p) \
	{                                               \
		int saved = errno;                      \
		fn(*p);                                 \
		errno = saved;                          \
	}
#define auto_of(fn) __attribute__((cleanup(inlay_cleanup_##fn)))

/* The same for values that live on the stack and end with `fn(&value)`. */
#define INLAY_DEFINE_FINI(type, fn)                    \
	static inline void inlay_cleanup_##fn(type *p) \
	{                                              \
		int saved = errno;                     \
		fn(p);                                 \
		errno = saved;                         \
	}

#define take_ptr(p)                         \
	({                                  \
		__typeof__(p) taken_ = (p); \
		(p) = NULL;                 \
		taken_;                     \
	})
#define take_fd(fd)                \
	({                         \
		int taken_ = (fd); \
		(fd) = -1;         \
		taken_;            \
	})

#endif
