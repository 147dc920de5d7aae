/* SPDX-License-Identifier: Apache-2.0 */
#ifndef INLAY_LIMITS_H
#define INLAY_LIMITS_H

/*
 * Every limit that a byte from a disk, a peer, the kernel, an archive or a user is checked against.
 * What exceeds one is refused with -E2BIG or -EPROTO and named; nothing is ever clamped.
 */

enum {
	INLAY_NAME_MAX = 255,       /* bytes of one name; no '/', no NUL, not "." or ".." */
	INLAY_PATH_MAX = 65535,     /* bytes of a path inside a workspace */
	INLAY_DEPTH_MAX = 1024,     /* directories above a name */
	INLAY_LINK_MAX = 4095,      /* bytes of a symlink's target */
	INLAY_FRAME_MAX = 1 << 20,  /* bytes of a frame's payload */
	INLAY_ZSTD_WINDOW_LOG = 27, /* largest window that is decoded: 128 MiB */
	INLAY_XATTR_NAME_MAX = 255,
	INLAY_XATTR_VALUE_MAX = 65536,
	INLAY_XATTRS_MAX = 1 << 20,      /* all xattrs of one entry, encoded */
	INLAY_ENTRIES_MAX = 16 << 20,    /* entries of a generation */
	INLAY_TREE_BYTES_MAX = 64 << 20, /* one encoded tree object */
	INLAY_MESSAGE_TEXT_MAX = 65535,  /* a text inside a message */
	INLAY_HISTORY_MAX = 10000,       /* generations that a ref can keep */
	INLAY_ORIGIN_MAX = 255,          /* "user@host:path" of a generation */
	INLAY_DELTA_MAX = 128 << 20,     /* old and new content of a delta with a prefix */
	INLAY_DELTA_BASES_MAX = 4096,    /* old contents that one zstd frame refers to */
	INLAY_SIGNATURE_MAX = 64 << 20,  /* librsync's signature of one object */
	INLAY_REPLAY_MAX = 1 << 16,      /* changed names that wait for their events */
	INLAY_NOISE_MAX = 64 << 10,      /* what a login shell may print before the magic */
	/* archives of images */
	INLAY_ARCHIVE_ENTRIES_MAX = 4 << 20, /* in all layers together */
	INLAY_ARCHIVE_LAYERS_MAX = 256,
	INLAY_ARCHIVE_MEMBERS_MAX = 4096, /* files of the outer archive */
	INLAY_ARCHIVE_JSON_MAX = 4 << 20, /* bytes of one JSON document */
	INLAY_ARCHIVE_JSON_DEPTH = 64,
	INLAY_ARCHIVE_INDEX_DEPTH = 4,        /* indexes that name indexes */
	INLAY_ARCHIVE_SYMLINKS_MAX = 40,      /* followed for one path */
	INLAY_ARCHIVE_EXPAND = 1000,          /* bytes out for each byte in ... */
	INLAY_ARCHIVE_EXPAND_FREE = 64 << 20, /* ... once more than this came out */
};

#define INLAY_OBJECT_MAX (1ull << 40) /* bytes of one object */

#endif
