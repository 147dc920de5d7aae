/* SPDX-License-Identifier: Apache-2.0 */
#ifndef WIRE_MESSAGE_H
#define WIRE_MESSAGE_H

/*
 * The messages that frames carry: structs <-> payloads. Strings are bytes with a length; numbers are
 * varints unless a width is named. Decoders check everything against limits.h and give -EPROTO; decoded
 * strings borrow from the payload. docs/protocol.md tells who says what when.
 *
 * Pure: no I/O.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "inlay/bytes.h"
#include "inlay/error.h"
#include "inlay/generation.h"
#include "inlay/idset.h"

enum {
	MESSAGE_VERSION = 1, /* of the protocol; both sides speak the lower of theirs */
	MESSAGE_VERSION_MIN = 1,
};

enum message_type {
	/* both directions */
	MESSAGE_HELLO = 1,
	/* client -> server */
	MESSAGE_OPEN = 2, /* the workspace that the session is about */
	MESSAGE_DATA = 3, /* objects.h */
	MESSAGE_COMMIT = 4,
	MESSAGE_HAVE = 5, /* eight-byte prefixes of ids: which are there? */
	MESSAGE_REQUEST = 6,
	MESSAGE_PING = 9, /* are you there? */
	/* over a trunk, instead of all others (trunk.h) */
	MESSAGE_CHANNEL = 10, /* client -> server: a new channel */
	MESSAGE_CARRY = 11,   /* bytes of it */
	MESSAGE_CREDIT = 12,  /* so many more may come */
	MESSAGE_HUNG_UP = 13, /* it ended at this side */
	/* server -> client */
	MESSAGE_OPENED = 16,
	MESSAGE_HAS = 17,  /* a bit for each prefix of a HAVE */
	MESSAGE_WANT = 18, /* ids that are missing */
	MESSAGE_VISIBLE = 19,
	MESSAGE_DURABLE = 20,
	MESSAGE_ROW = 21,  /* one row of a REQUEST's answer */
	MESSAGE_END = 22,  /* the end of a REQUEST's answer */
	MESSAGE_NAK = 24,  /* the answer to COMMIT when DATA built on contents that are not there */
	MESSAGE_PONG = 25, /* the answer to PING */
	MESSAGE_FAILED =
		23, /* the last message could not be carried out; the session goes on or not */
};

/* A string inside a message; not NUL-terminated. */
struct message_text {
	const char *bytes;
	size_t len;
};

struct message_hello {
	uint16_t version, version_min;
	uint32_t features;           /* bits; none are defined yet */
	struct message_text program; /* "inlay 0.1.0" */
	struct message_text machine; /* server: uname -m */
	uint32_t uid;                /* server */
};

enum message_open_flags {
	MESSAGE_OPEN_CREATE = 1 << 0, /* make the workspace when there is none */
	MESSAGE_OPEN_WRITE = 1 << 1,  /* this session is going to change it: take the lock */
	MESSAGE_OPEN_MOUNT =
		1 << 2, /* mount it with the first generation, or at once when there is one */
	MESSAGE_OPEN_BOOT = 1 << 3, /* and again after a reboot */
	MESSAGE_OPEN_ALIVE =
		1 << 4, /* the client sends something every now and then while it lives */
	MESSAGE_OPEN_STEAL = 1 << 6, /* whoever holds the lock is told to go */
	MESSAGE_OPEN_ADOPT = 1 << 5, /* take over a folder that is there, as the first generation */
};

/* How the workspace is mounted; 0 in a field: as it is. */
struct message_config {
	uint8_t upper;  /* 1 + enum inlay_upper_policy */
	uint8_t xattrs; /* 1 off, 2 on */
	uint8_t owner;  /* 1 squash, 2 keep: synced entries have their own owners */
	bool set_redirects;
	struct message_text redirects; /* paths, a NUL behind each */
};

struct message_open {
	uint8_t flags;
	struct message_text path;   /* where it appears on the target */
	struct message_text owner;  /* who asks, for the lock: "user@host pid 7" */
	struct message_text origin; /* "user@host:/path", for the generations */
	struct inlay_digest
		root; /* the tree that the client is going to commit, if it knows; zeros */
	uint64_t lock_wait_ms;
	uint64_t lease; /* a session with the same one (not 0) gives its lock to this one */
	struct message_config config;
	/* struct message_order, RUN: what runs there before a change set of this session is shown; empty =
	 * nothing. It is told in ROWs (struct message_hook) before VISIBLE; when it does not go well, nothing is
	 * shown and FAILED says so (MESSAGE_REASON_HOOK). */
	struct message_text before;
};

struct message_opened {
	struct inlay_generation live; /* number 0: nothing yet; origin is not carried */
	uint64_t durable;
	bool has_root; /* the tree named in OPEN is there, as far as a look tells */
	bool mounted;
	uint64_t objects;               /* in the store: 0 = no need to ask for any */
	struct message_text path;       /* absolute */
	struct message_text mount_text; /* why it is not mounted, or a warning */
	struct message_text aside; /* ADOPT: where what was there is now; "" = there was nothing */
	uint64_t wanted;           /* ids in the WANT that follows at once; 0 = none follows */
};

struct message_commit {
	struct inlay_digest expect; /* the live root that the change set builds on; zeros = none */
	struct inlay_root root;
	uint64_t changed;
	uint64_t rollback_of;
};

struct message_visible {
	uint64_t number;
	struct inlay_digest root;
	uint64_t took_ns; /* from COMMIT read to the last note */
	bool mounted;
	struct message_text mount_text;
};

struct message_durable {
	uint64_t number;
};

enum message_verb {
	MESSAGE_VERB_STATUS = 1, /* rows: struct message_status */
	MESSAGE_VERB_LOG,        /* rows: struct message_generation */
	MESSAGE_VERB_DIFF,       /* args: numbers a, b; rows: struct message_change */
	MESSAGE_VERB_ROLLBACK,   /* arg: number, 0 = the one before; rows: struct message_visible */
	MESSAGE_VERB_MOUNT,
	MESSAGE_VERB_UMOUNT, /* arg: 1 = lazy */
	MESSAGE_VERB_FSCK,   /* rows: struct message_finding */
	MESSAGE_VERB_GC,     /* arg: grace ns; rows: struct message_gc */
	MESSAGE_VERB_REMOVE, /* forget the workspace */
	/* rows: the live generation's tree objects: a byte (1: the object goes on in the next row), then
	 * bytes of the object */
	MESSAGE_VERB_TREES,
	/* body: ids. rows, in their order: librsync's signature of each object: a byte (1: it goes on in the next
	 * row, 0: its end, 2: there is no such object), then bytes of it */
	MESSAGE_VERB_SIGNATURES,
	/* body: an encoded spec (inlay/run.h); starts it. flag 1: unless it runs already, from this spec; row: a
	 * byte, 1 = it did */
	MESSAGE_VERB_RUN,
	MESSAGE_VERB_PROGRAM,  /* args: enum inlay_program_verb, signal; body: name; row: program */
	MESSAGE_VERB_PROGRAMS, /* rows: struct message_program */
	/* arg: lines to begin with; flag 1: go on until the client says something; body: name, empty = all;
	 * rows: struct message_log */
	MESSAGE_VERB_LOGS,
	/* args: the client's clock (CLOCK_REALTIME, ns), 1 = put right what can be; rows: struct message_check */
	MESSAGE_VERB_DOCTOR,
	/* What is done behind a change set. args: the generation before it (0 = none, MESSAGE_HOOK_SINCE_SUCCESS
	 * = what this hook ended well with last) and the one that is shown; flags: enum message_hook_flags;
	 * body: struct message_order; rows: struct message_hook */
	MESSAGE_VERB_HOOK,
	MESSAGE_VERB_UPPER, /* what was written on the target; rows: struct message_upper */
	MESSAGE_VERB_RESET, /* body: a path, empty = all; row: struct message_reset */
	MESSAGE_VERB_PULL,  /* body: paths, a NUL behind each; rows: struct message_pulled */
	/* Base images (imagemessage.h). */
	MESSAGE_VERB_IMAGES,        /* rows: struct message_image */
	MESSAGE_VERB_IMAGE_INSPECT, /* body: a manifest; rows: bytes of image.json */
	MESSAGE_VERB_IMAGE_REMOVE,  /* body: "name variant platform"; row: varint, bytes freed */
	/* arg: ms to wait for another push; body: struct message_image_push; row: varint, how many contents
	 * are there. From here on HAVE and DATA are about the image. */
	MESSAGE_VERB_IMAGE_PUSH,
	MESSAGE_VERB_IMAGE_SPACE,  /* args: bytes and files that are going to be written */
	MESSAGE_VERB_IMAGE_FINISH, /* row: struct message_image_done */
	/* What the workspace runs in. body: an encoded spec (inlay/container.h), empty = that of before; arg 1: in
	 * nothing */
	MESSAGE_VERB_ROOT,
};
#define MESSAGE_HOOK_SINCE_SUCCESS UINT64_MAX

enum message_hook_flags {
	MESSAGE_HOOK_REMEMBER = 1 << 0, /* nothing is done: the state only counts as dealt with */
	MESSAGE_HOOK_REMEMBER_FIRST = 1 << 1, /* likewise, when nothing is remembered yet */
};

struct message_request {
	uint8_t verb;
	uint8_t flags; /* MOUNT: MESSAGE_OPEN_BOOT */
	uint64_t args[2];
	struct message_text body; /* what the verb says; empty where it says nothing */
};

struct message_status {
	struct message_text path, id;
	struct inlay_generation live;
	uint64_t durable;
	bool durable_failed, mount_wanted, mounted, everybody;
	uint64_t worker_pid, worker_starts, damaged;
	struct message_text durable_text, mount_text, owner;
	uint64_t owner_since_ns;
	uint64_t store_objects, store_bytes;
	struct message_config config;     /* all fields are set */
	uint64_t upper_entries, shadowed; /* of them those that hide a synced path */
	/* the first of the hidden paths, a NUL behind each; without a mount nothing is known */
	struct message_text shadowed_paths;
	struct message_text
		hooks; /* how each ended last: struct message_outcome, a length before each */
};

struct message_change {
	uint8_t before_type, after_type; /* 0 none, 1 file, 2 directory, 3 symlink */
	bool content, mode, mtime;       /* what differs, where both are */
	uint64_t before_size, after_size;
	struct message_text path;
};

struct message_finding {
	bool progress; /* done and total, instead of a finding */
	uint64_t done, total;
	struct message_text text;
};

struct message_check {
	uint8_t level; /* enum inlay_check_level */
	bool fixed;
	struct message_text name, text, cure;
};

struct message_gc {
	uint64_t removed, removed_bytes, freed_bytes, young;
};

struct message_program {
	struct message_text name;
	uint8_t state; /* enum inlay_run_state */
	uint64_t pid;
	int32_t ended; /* as of waitpid, -1 = it did not end yet */
	uint64_t starts;
	int64_t since_ns, next_ns; /* struct inlay_run_status */
};

struct message_log {
	struct message_text name;
	struct message_text lines; /* whole ones, as in the log (inlay/run.h) */
};

enum message_action {
	MESSAGE_ACTION_RUN = 1,     /* a command, once; the order's spec */
	MESSAGE_ACTION_RESTART = 2, /* the order's program */
	MESSAGE_ACTION_SIGNAL = 3,  /* likewise */
	MESSAGE_ACTION_NONE = 4,    /* the client does something, if a changed path matches */
};

struct message_order {
	uint8_t action;              /* enum message_action */
	struct message_text name;    /* of the hook: what is remembered goes by it */
	struct message_text program; /* RESTART, SIGNAL */
	struct message_text
		spec; /* RUN: encoded (inlay/run.h); its stop_timeout is the time it has, 0 = any */
	uint8_t signal; /* SIGNAL */
	struct message_text
		patterns; /* lines as in .gitignore: nothing is done when no changed path matches one;
				       * empty = whatever changed */
};

enum message_hook_kind {
	MESSAGE_HOOK_OUTPUT = 1,  /* text: as it was written */
	MESSAGE_HOOK_ERRORS = 2,  /* likewise, to standard error */
	MESSAGE_HOOK_END = 3,     /* the last row; all but text */
	MESSAGE_HOOK_SKIPPED = 4, /* the only row: no changed path matches */
	MESSAGE_HOOK_BEGIN = 5,   /* the first row otherwise */
};

struct message_hook {
	uint8_t kind;
	struct message_text text;
	int32_t status; /* as of waitpid */
	uint64_t took_ns;
	bool timed_out;
	bool cut; /* some of the output was left out */
};

/* How a hook ended last. */
struct message_outcome {
	struct message_text name;
	bool has_good;
	struct inlay_digest good; /* the tree that it ended well with last; zeros = none */
	int64_t time_ns;          /* CLOCK_REALTIME of its end; 0 = it never ran */
	uint64_t took_ns;
	uint64_t generation; /* that it ran for; 0 = before one was shown */
	int32_t status;      /* as of waitpid */
	bool timed_out;
};

enum { MESSAGE_UPPER_KINDS = 7 };

struct message_upper {
	uint8_t kind; /* enum inlay_upper_kind (inlay/written.h) */
	bool shadows;
	bool has_synced; /* a regular file is hidden, whose content `synced` is */
	uint32_t mode;
	uint64_t size;
	int64_t mtime_ns;
	struct inlay_digest synced;
	struct message_text path, target;
};

struct message_reset {
	uint64_t count; /* entries of the upper that went */
};

enum message_pulled_step {
	MESSAGE_PULLED_BEGIN = 1, /* of the file with number `index` in the request */
	MESSAGE_PULLED_BYTES,
	MESSAGE_PULLED_END, /* code 0: that was all of it */
};

struct message_pulled {
	uint8_t step;
	uint64_t index, size;      /* BEGIN */
	uint32_t mode;             /* BEGIN */
	int64_t mtime_ns;          /* BEGIN */
	int32_t code;              /* END: 0 or a negative errno */
	struct message_text bytes; /* BYTES: up to a frame; END: why not */
};

struct message_failed {
	int32_t code;      /* a negative errno */
	uint8_t exit_code; /* enum inlay_exit */
	uint8_t reason;    /* enum message_reason */
	struct message_text text;
};

enum message_reason {
	MESSAGE_REASON_OTHER = 0,
	MESSAGE_REASON_STALE = 1,   /* COMMIT: the live root is another one */
	MESSAGE_REASON_MISSING = 2, /* no such workspace or generation */
	MESSAGE_REASON_BASIS =
		3,               /* DATA builds on what is not there: begin anew, without a basis */
	MESSAGE_REASON_HOOK = 4, /* COMMIT: `before` did not go well */
	MESSAGE_REASON_LINE = 6, /* never from a host: the shared connection could not be made */
	MESSAGE_REASON_ROBBED = 5, /* another client took the lock with OPEN_STEAL */
};

/* CHANNEL and HUNG_UP tell the id alone. */
struct message_channel {
	uint64_t id;
	uint64_t count;            /* CREDIT */
	struct message_text bytes; /* CARRY */
};

/*
 * For each struct: encode appends its payload to a buffer, decode fills it from a payload.
 */
#define MESSAGE_CODEC(name)                                                                    \
	void message_encode_##name(struct inlay_buf *b, const struct message_##name *m);       \
	int message_decode_##name(const void *payload, size_t len, struct message_##name *ret, \
				  struct inlay_error *err) inlay_must_check

MESSAGE_CODEC(hello);
MESSAGE_CODEC(channel);
MESSAGE_CODEC(open);
MESSAGE_CODEC(opened);
MESSAGE_CODEC(commit);
MESSAGE_CODEC(visible);
MESSAGE_CODEC(durable);
MESSAGE_CODEC(request);
MESSAGE_CODEC(status);
MESSAGE_CODEC(change);
MESSAGE_CODEC(finding);
MESSAGE_CODEC(check);
MESSAGE_CODEC(gc);
MESSAGE_CODEC(program);
MESSAGE_CODEC(log);
MESSAGE_CODEC(hook);
MESSAGE_CODEC(order);
MESSAGE_CODEC(outcome);
MESSAGE_CODEC(upper);
MESSAGE_CODEC(reset);
MESSAGE_CODEC(pulled);
MESSAGE_CODEC(failed);

/* A generation with its origin; what LOG rows are. */
void message_encode_generation(struct inlay_buf *b, const struct inlay_generation *g);
int message_decode_generation(const void *payload, size_t len, struct inlay_generation *ret,
			      struct inlay_error *err) inlay_must_check;

/* Goes through texts that stand one behind the other, a length before each. False at the end, and when what is
 * left is none. */
bool message_next_text(struct message_text *rest, struct message_text *ret);
void message_add_text(struct inlay_buf *b, const void *bytes, size_t len);

/* WANT: ids one after the other. Decoding adds them to the set. */
int message_decode_want(const void *payload, size_t len, struct inlay_idset *ret,
			struct inlay_error *err) inlay_must_check;

/* NAK: how many objects of the change set came before it went wrong, and the eight-byte prefixes of the bases
 * that are not to be used again. */
struct message_nak {
	uint64_t taken;
	size_t count;
	const uint8_t *prefixes; /* 8 * count bytes, little-endian */
};
MESSAGE_CODEC(nak);

static inline struct message_text message_text_of(const char *text)
{
	return (struct message_text){text, strlen(text)};
}

#endif
