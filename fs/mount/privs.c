/* SPDX-License-Identifier: Apache-2.0 */
#include "mount/privs.h"

#include <errno.h>
#include <linux/fuse.h>
#include <stdio.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

/* Of the request that this thread is at. libfuse handles one before it reads the next. */
static __thread struct {
	bool ends; /* privileges are to end */
	bool init; /* INIT, from a kernel that has the flag */
} at_hand;

static void look_at(const uint8_t *request, size_t len)
{
	struct fuse_in_header head;

	at_hand.ends = at_hand.init = false;
	if (len < sizeof head)
		return;
	memcpy(&head, request, sizeof head);
	request += sizeof head;
	len -= sizeof head;
	if (head.opcode == FUSE_WRITE && len >= sizeof(struct fuse_write_in)) {
		struct fuse_write_in in;
		memcpy(&in, request, sizeof in);
		at_hand.ends = in.write_flags & FUSE_WRITE_KILL_SUIDGID;
	} else if (head.opcode == FUSE_SETATTR && len >= sizeof(struct fuse_setattr_in)) {
		struct fuse_setattr_in in;
		memcpy(&in, request, sizeof in);
		at_hand.ends = in.valid & FATTR_KILL_SUIDGID;
	} else if (head.opcode == FUSE_INIT && len >= 4 * sizeof(uint32_t)) {
		uint32_t in[4]; /* major, minor, max_readahead, flags */
		memcpy(in, request, sizeof in);
		at_hand.init = in[3] & FUSE_HANDLE_KILLPRIV_V2;
	}
}

static ssize_t read_request(int fd, void *buf, size_t size, void *userdata)
{
	(void)userdata;
	ssize_t n = read(fd, buf, size);
	if (n > 0)
		look_at(buf, (size_t)n);
	return n;
}

static ssize_t write_reply(int fd, struct iovec *iov, int count, void *userdata)
{
	(void)userdata;
	if (at_hand.init && count == 2 &&
	    iov[1].iov_len >= offsetof(struct fuse_init_out, max_background)) {
		uint8_t *flags = (uint8_t *)iov[1].iov_base + offsetof(struct fuse_init_out, flags);
		uint32_t now;
		memcpy(&now, flags, sizeof now);
		now |= FUSE_HANDLE_KILLPRIV_V2;
		memcpy(flags, &now, sizeof now);
	}
	return writev(fd, iov, count);
}

int privs_attach(struct worker *w, struct inlay_error *err)
{
	static const struct fuse_custom_io io = {.read = read_request, .writev = write_reply};
	char path[32];

	/* libfuse's way to take over a descriptor that is mounted already. */
	(void)snprintf(path, sizeof path, "/dev/fd/%d", w->fuse_fd);
	int r = w->xattrs ? fuse_session_custom_io(w->session, &io, w->fuse_fd)
			  : fuse_session_mount(w->session, path);
	if (r != 0)
		return inlay_error_set(err, -EINVAL,
				       "libfuse does not take the /dev/fuse descriptor");
	return 0;
}

int privs_obey(struct worker *w, uint64_t number)
{
	return at_hand.ends && !control_owns(number) ? view_end_privs(w->view, number, NULL) : 0;
}

int privs_judge(struct worker *w, fuse_req_t req, uint64_t number)
{
	if (!w->xattrs || fuse_req_ctx(req)->uid == 0 || control_owns(number))
		return 0;
	return view_end_privs(w->view, number, NULL);
}
