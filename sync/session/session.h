/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SESSION_SESSION_H
#define SESSION_SESSION_H

/*
 * A source folder and one target of it, with the connection between them: opened once, pushes many change sets.
 * `inlay sync` pushes one, `inlay watch` keeps the session open. Used by one thread; sessions of the same source
 * can be in different threads when each is given the roots to push (session_push with a root).
 *
 *     session.c    open, push, wait, close
 *     converse.c   what is to be sent: the conversations
 *     changeset.c  sending it, and the answers
 *     files.c      how each file travels
 *     share.c      change sets that are encoded once for several targets
 *
 * While the connection holds, the target's state is known: a change set is one flight, nothing is asked. When it
 * breaks, the next push connects anew and catches up with the state that it is given; after a break in the
 * middle of a change set the target is asked what arrived, so that this is not sent again.
 */

#include "session/plan.h"
#include "session/push.h"
#include "session/recent.h"
#include "session/sender.h"

struct session {
	struct source *source;
	const struct target *target;
	const struct transport_options *transport;
	const struct push_options *o;
	struct push_result *result; /* of the push at hand */
	struct push_result idle;    /* between two of them */
	uint64_t bwlimit;
	char target_text[4096];
	struct client client;
	bool connected;
	bool live; /* opened.live is what the target shows, and our lock holds */
	struct sender sender;
	bool sending;
	struct encoded *flight; /* the change set at hand, when others send it, too */
	struct encoded *onto;   /* share.c: there is no connection, all goes there */
	bool torn_set;          /* objects were sent since the last COMMIT */
	struct acked acked;
	uint64_t lease; /* tells the target that a new connection takes over from the last one */
	bool has_acked, distrust, no_basis;
	bool broken;            /* a change set was cut: ask what arrived */
	bool given;             /* the caller gave the root: the folder is not walked here */
	bool built;             /* root is valid */
	struct inlay_root root; /* of the source */
	struct inlay_root
		goal; /* what the target shall have: root, or a union with what is there */
	struct message_opened opened;
	char opened_path[4096];
	struct inlay_digest base; /* tree of the target whose trees are here; zeros = none */
	struct inlay_idset known; /* on the target */
	struct inlay_idset lost;  /* bases that it refused: eight bytes of their ids, then zeros */
	struct plan plan;
	struct recent recent;  /* kept sessions only */
	uint64_t most_entries; /* of the target, since the deletion at hand began */
	int64_t deleted_ns;    /* monotonic: the last change set that took entries away */
	bool deleting_halted;  /* it stays a deletion until it is undone or forced */
	struct push_progress progress;
	struct inlay_buf moved_path; /* SESSION_LATER: the file that is another by now */
	unsigned commits;            /* sent and not yet answered */
	bool until_durable;          /* the push at hand ends only then */
	int64_t sent_from_ns;
	uint64_t counted_sent, counted_received; /* of the connection, in results already */
	uint64_t generation, remembered; /* newest that was visible; newest in targets/<id> */
	int64_t visible_ns;              /* of the newest */
	uint64_t set_bytes;              /* likewise: sent for it */
	int64_t heard_ns,
		pinged_ns; /* monotonic: the last message; the PING that is not answered */
};

/* Everything is borrowed and outlives the session. Reads what the target acknowledged last. */
int session_init(struct session *s, struct source *source, const struct target *t,
		 const struct transport_options *transport, uint64_t bwlimit,
		 const struct push_options *o, struct inlay_error *err) inlay_must_check;

enum { SESSION_LARGE_SET = 2000 }; /* files: what they needed is let go */

enum { SESSION_LATER = 20 }; /* positive result of push: the folder moved on; push a newer root */

/*
 * Makes the target show a root, connecting when that is needed. `root` NULL: walks and reads the folder itself.
 * Returns when it is visible, or with `durable` when it is durable. After a failure the connection may be gone;
 * the next push makes a new one.
 */
int session_push(struct session *s, const struct inlay_root *root, bool durable,
		 struct push_result *ret, struct inlay_error *err) inlay_must_check;

/* While there is nothing to push: takes messages, asks for a sign of life now and then. Positive: SESSION_WOKEN
 * when wake_fd became readable, SESSION_DURABLE when all that was pushed is durable and not yet saved; 0 when the
 * deadline (monotonic, 0 = none) passed. Negative: the connection is gone. */
enum { SESSION_WOKEN = 1, SESSION_DURABLE = 2 };
int session_wait(struct session *s, int wake_fd, int64_t deadline_ns, struct inlay_error *err)
	inlay_must_check;

/* The last failure was that another client took the target with --steal: nothing is to be done there any more. */
bool session_robbed(const struct session *s);

/* Writes down what the target has, for other processes; what was pushed is durable there. */
int session_save(struct session *s, struct inlay_error *err) inlay_must_check;
/* The machine slept, or the network changed: the next wait asks for a sign of life at once. */
void session_doubt(struct session *s);

/* Ends the connection; the session can push again. `now`: a peer that may be dead is not waited for. */
void session_hang_up(struct session *s, bool now);
void session_close(struct session *s);

/* ---- between the parts ---- */

/* Results of a conversation, above those of client.h. */
enum {
	PUSH_AGAIN = 10,    /* once more, with what is known by now */
	PUSH_DISTRUST = 11, /* once more, without taking the remembered state for granted */
	PUSH_NO_BASIS = 12, /* once more, without building on anything */
};

void session_tell(struct session *p, enum push_phase phase);
void session_file_done(void *ctx, uint64_t size);
/* How long an answer may take, 0 = any time. */
int64_t session_patience(const struct session *p);
bool session_same_root(const struct inlay_root *a, const struct inlay_root *b);
/* What a FAILED means for the conversation. */
int session_by_reason(const struct session *p);

/* converse.c: one attempt to bring the target to the root. */
/* What leads from the base to the goal; makes p->plan and p->known. */
int session_plan(struct session *p, enum plan_flags flags, struct inlay_error *err)
	inlay_must_check;
int session_walk(struct session *p, struct inlay_error *err) inlay_must_check;
/* Walks and reads the folder for p->root; sends nothing, and needs no connection. */
int session_scan(struct session *p, struct inlay_error *err) inlay_must_check;
int session_converse(struct session *p, struct inlay_error *err) inlay_must_check;

/* changeset.c */
int session_begin_sending(struct session *p, uint64_t bytes, struct inlay_error *err)
	inlay_must_check;
/* files.c: each file of the plan, in the way that costs least. Positive: SOURCE_AGAIN. */
int session_send_files(struct session *p, struct inlay_error *err) inlay_must_check;
/* True when sending them will ask the target something: OPENED must have come before. */
bool session_needs_signatures(struct session *p);
int session_send_commit(struct session *p, const struct inlay_digest *expect,
			struct inlay_error *err) inlay_must_check;
/* Everything of the plan. Positive: SESSION_LATER, PUSH_AGAIN. */
int session_send_objects(struct session *p, struct inlay_error *err) inlay_must_check;
/* The same, then COMMIT. */
int session_send_set(struct session *p, const struct inlay_digest *expect, struct inlay_error *err)
	inlay_must_check;
int session_hear_opened(struct session *p, const struct frame *f, struct inlay_error *err)
	inlay_must_check;
/* One message that is not an answer to a question. */
int session_hear(struct session *p, const struct frame *f, struct inlay_error *err)
	inlay_must_check;
/* Until all that was sent is answered, and durable if the push wants that. */
int session_wait_settled(struct session *p, struct inlay_error *err) inlay_must_check;

#endif
