/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TREE_LAYOUT_H
#define TREE_LAYOUT_H

/*
 * The bytes of a tree object, version 1 (docs/format.md says the same). All numbers little-endian.
 *
 *     header, 40 bytes
 *      0  4  "iTRE"
 *      4  1  version
 *      5  1  hash algorithm: 1 = SHA-256
 *      6  1  kind: 0 leaf, 1 split
 *      7  1  bits: split: log2 of the number of buckets; leaf: 0
 *      8  4  count: leaf: records; split: buckets
 *     12  4  heap: leaf: bytes of the heap; split: 0
 *     16  8  entries below, recursive
 *     24  8  bytes below: sum of file sizes, recursive
 *     32  4  own: entries of this object itself (split: of all its buckets)
 *     36  4  subdirs: directories among them
 *
 *     record, 64 bytes                       bucket, 56 bytes
 *      0 32  id                               0 32  id of the leaf, zeros = empty
 *     32  8  size                            32  4  own
 *     40  8  mtime, ns since 1970, signed    36  4  subdirs
 *     48  4  mode                            40  8  entries below
 *     52  4  name: offset in the heap        48  8  bytes below
 *     56  4  top half of the name's hash
 *     60  2  extension bytes behind the name
 *     62  1  name bytes
 *     63  1  0
 *
 *     heap: for each record in order: name, extensions; no gaps
 *     extension: tag u8, length u16, bytes; tags ascending, each at most once
 *      1  symlink target, 1..4095 bytes              (symlinks: always)
 *      2  directory: subdirs u32, entries u64, bytes u64   (directories: always)
 *      3  owner: uid u32, gid u32                    (when not 0, 0)
 *      4  xattrs: id of the object, 32 bytes         (when there are any)
 *      5  link group: u64                            (when not 0)
 */

enum {
	TREE_EXT_TARGET = 1,
	TREE_EXT_DIR = 2,
	TREE_EXT_OWNER = 3,
	TREE_EXT_XATTRS = 4,
	TREE_EXT_LINK_GROUP = 5,
};

#define TREE_MAGIC "iTRE"

#endif
