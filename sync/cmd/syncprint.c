/* SPDX-License-Identifier: Apache-2.0 */
#include "cmd/syncprint.h"

#include <stdio.h>
#include <string.h>

#include "cmd/pair.h"
#include "cmd/print.h"
#include "inlay/cleanup.h"
#include "inlay/io.h"
#include "inlay/text.h"

/* rsync's form: >f+++++++++ new, >f.st...... changed, cd+++++++++ a new directory, *deleting. */
void sync_print_change(void *ctx, const char *path, size_t len, const struct inlay_entry *before,
		       const struct inlay_entry *after)
{
	struct sync_report *o = ctx;
	const struct inlay_entry *e = after ? after : before;
	char type = S_ISREG(e->mode) ? 'f' : S_ISDIR(e->mode) ? 'd' : 'L';
	struct inlay_buf b = {0};

	progress_clear(&o->line);
	if (!after) {
		inlay_buf_printf(&b, "*deleting   ");
	} else if (!before || (before->mode & S_IFMT) != (after->mode & S_IFMT)) {
		inlay_buf_printf(&b, "%c%c+++++++++ ", type == 'f' ? '>' : 'c', type);
	} else {
		bool content = type != 'd' && !inlay_entry_same_content(before, after);
		if (type == 'd' && before->mode == after->mode)
			return;
		inlay_buf_printf(
			&b, "%c%c%c%c%c%c..... ", content ? (type == 'f' ? '>' : 'c') : '.', type,
			content ? 'c' : '.', type == 'f' && before->size != after->size ? 's' : '.',
			type != 'd' && before->mtime_ns != after->mtime_ns ? 't' : '.',
			before->mode != after->mode ? 'p' : '.');
	}
	inlay_text_escape(&b, path, len);
	if (type == 'd')
		inlay_buf_u8(&b, '/');
	if (after && type == 'L') {
		inlay_buf_printf(&b, " -> ");
		inlay_text_escape(&b, after->target, after->target_len);
	}
	inlay_buf_u8(&b, '\n');
	print_text(stdout, &b);
}

void sync_print_change_json(void *ctx, const char *path, size_t len,
			    const struct inlay_entry *before, const struct inlay_entry *after)
{
	const struct inlay_entry *e = after ? after : before;
	bool same_type = before && after && (before->mode & S_IFMT) == (after->mode & S_IFMT);

	(void)ctx;
	if (same_type && S_ISDIR(e->mode) && before->mode == after->mode)
		return;
	print_json(json_pack(
		"{s:i, s:s, s:o, s:s, s:b}", "schema", 1, "change",
		!before  ? "added"
		: !after ? "removed"
			 : "modified",
		"path", print_json_name(path, len), "type",
		S_ISREG(e->mode)   ? "file"
		: S_ISDIR(e->mode) ? "directory"
				   : "symlink",
		"content",
		!same_type || (!S_ISDIR(e->mode) && !inlay_entry_same_content(before, after))));
}

/* -v: names, as rsync does. */
void sync_print_name(void *ctx, const char *path, size_t len, const struct inlay_entry *before,
		     const struct inlay_entry *after)
{
	struct sync_report *o = ctx;
	struct inlay_buf b = {0};

	if (before && after && S_ISDIR(after->mode) && before->mode == after->mode)
		return;
	progress_clear(&o->line);
	inlay_buf_printf(&b, "%s", after ? "" : "deleting ");
	inlay_text_escape(&b, path, len);
	inlay_buf_printf(&b, S_ISDIR((after ? after : before)->mode) ? "/\n" : "\n");
	print_text(stdout, &b);
}

static void print_summary(const struct sync_report *o, const char *target,
			  const struct push_result *r)
{
	struct inlay_buf b = {0};

	inlay_text_escape(&b, target, strlen(target));
	if (o->dry_run)
		inlay_buf_printf(&b, ": would be: ");
	else if (r->changed)
		inlay_buf_printf(&b, ": generation %llu: ", (unsigned long long)r->generation);
	if (r->changed || (o->dry_run && (r->added || r->modified || r->removed)))
		pair_put_counts(&b, r);
	else
		inlay_buf_printf(&b, o->dry_run ? "no change" : ": no change, generation %llu",
				 (unsigned long long)r->generation);
	if (r->changed) {
		inlay_buf_printf(&b, "; ");
		inlay_text_size(&b, r->sent_bytes);
		inlay_buf_printf(&b, " sent, visible after ");
		inlay_text_duration(&b, r->visible_ns);
	}
	inlay_buf_printf(&b, " (");
	inlay_text_duration(&b, r->total_ns);
	inlay_buf_printf(&b, " in all)\n");
	print_text(stdout, &b);
}

/* What each took; what was not needed says so. */
static void put_phases(struct inlay_buf *b, const struct push_result *r)
{
	const struct {
		const char *name;
		int64_t ns;
		bool skipped;
	} phases[] = {
		{"Scanning", r->scan_ns, false},
		{"Reading", r->read_ns, r->files_read == 0},
		{"Until visible", r->visible_ns, !r->changed},
		{"All", r->total_ns, false},
	};

	for (size_t i = 0; i < sizeof phases / sizeof *phases; i++) {
		inlay_buf_printf(b, "%-21s ", phases[i].name);
		if (phases[i].skipped)
			inlay_buf_printf(b, "skipped");
		else
			inlay_text_duration(b, phases[i].ns);
		inlay_buf_u8(b, '\n');
	}
}

static void print_stats(const struct push_result *r)
{
	struct inlay_buf b = {0};
	const struct {
		const char *name;
		uint64_t n;
		bool size;
	} rows[] = {
		{"Entries", r->entries, false},
		{"Total file size", r->bytes, true},
		{"Files read", r->files_read, false},
		{"Bytes read", r->read_bytes, true},
		{"Hash cache hits", r->cache_hits, false},
		{"Created", r->added, false},
		{"Changed", r->modified, false},
		{"Deleted", r->removed, false},
		{"Sent on the wire", r->sent_bytes, true},
		{"Received on the wire", r->received_bytes, true},
		{"State files written", inlay_replaced_files(), false},
	};

	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		inlay_buf_printf(&b, "%-21s ", rows[i].name);
		inlay_text_count(&b, rows[i].n);
		inlay_buf_printf(&b, "%s\n", rows[i].size ? " bytes" : "");
	}
	for (size_t i = 0; i < CODEC_COUNT; i++) {
		const struct codec_count *c = &r->codecs.by[i];
		char name[32];
		(void)snprintf(name, sizeof name, "Travelled as %s", codec_name(i));
		inlay_buf_printf(&b, "%-21s ", name);
		inlay_text_count(&b, c->objects);
		inlay_buf_printf(&b, " objects, ");
		inlay_text_count(&b, c->raw);
		inlay_buf_printf(&b, " bytes, ");
		inlay_text_count(&b, c->wire);
		inlay_buf_printf(&b, " on the wire\n");
	}
	put_phases(&b, r);
	uint64_t wire = r->sent_bytes + r->received_bytes;
	inlay_buf_printf(&b, "%-21s %.2f\n", "Speedup", wire ? (double)r->bytes / (double)wire : 0);
	print_text(stdout, &b);
}

static void print_result_json(const struct sync_report *o, const struct source *s,
			      const char *target, const struct push_result *r)
{
	char hex[INLAY_DIGEST_HEX];

	inlay_digest_hex(&r->root.tree, hex);
	json_t *j = json_pack(
		"{s:i, s:o, s:o, s:o, s:b, s:b, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, "
		"s:o, s:b, s:o}",
		"schema", 1, "source", print_json_name(s->path, strlen(s->path)), "target",
		print_json_name(target, strlen(target)), "path",
		print_json_name(r->path, strlen(r->path)), "dry_run", o->dry_run, "changed",
		r->changed, "generation", (json_int_t)r->generation, "added", (json_int_t)r->added,
		"modified", (json_int_t)r->modified, "removed", (json_int_t)r->removed, "entries",
		(json_int_t)r->entries, "bytes", (json_int_t)r->bytes, "files_read",
		(json_int_t)r->files_read, "files_sent",
		(json_int_t)(r->codecs.by[CODEC_WHOLE].objects + r->codecs.by[CODEC_DELTA].objects +
			     r->codecs.by[CODEC_PATCH].objects),
		"sent_bytes", (json_int_t)r->sent_bytes, "received_bytes",
		(json_int_t)r->received_bytes, "total_ms", print_json_ms(r->total_ns), "mounted",
		r->mounted, "codecs", pair_codecs_json(&r->codecs));
	(void)json_object_update_new(j, json_pack("{s:I, s:o, s:o, s:I}", "cache_hits",
						  (json_int_t)r->cache_hits, "scan_ms",
						  print_json_ms(r->scan_ns), "read_ms",
						  print_json_ms(r->read_ns), "state_writes",
						  (json_int_t)inlay_replaced_files()));
	if (!o->dry_run)
		(void)json_object_set_new(j, "root", json_string(hex));
	if (r->changed)
		(void)json_object_set_new(j, "visible_ms", print_json_ms(r->visible_ns));
	(void)json_object_set_new(j, "skipped_special", json_integer((json_int_t)r->special));
	(void)json_object_set_new(j, "hardlinked", json_integer((json_int_t)r->hardlinked));
	if (r->aside[0])
		(void)json_object_set_new(j, "aside", print_json_name(r->aside, strlen(r->aside)));
	if (r->mount_text[0])
		(void)json_object_set_new(j, "mount_text",
					  print_json_name(r->mount_text, strlen(r->mount_text)));
	print_json(j);
}

static void print_aside(const struct push_result *r)
{
	struct inlay_buf b = {0};

	if (!r->aside[0])
		return;
	inlay_buf_printf(&b, "inlay: what was there is in ");
	inlay_text_escape(&b, r->aside, strlen(r->aside));
	inlay_buf_printf(&b, "; delete it when it is not needed any more\n");
	print_text(stderr, &b);
}

/* What was left out or is not as people may expect. */
static void print_remarks(const struct source *s, const struct push_result *r)
{
	const struct inlay_scan_stats *st = s->now ? inlay_snapshot_stats(s->now) : NULL;
	struct inlay_buf b = {0};

	print_aside(r);
	if (r->mount_text[0]) {
		inlay_buf_printf(&b, "inlay: %s", r->mounted ? "" : "synced, but not mounted: ");
		inlay_text_escape(&b, r->mount_text, strlen(r->mount_text));
		inlay_buf_u8(&b, '\n');
	}
	if (r->special) {
		inlay_buf_printf(&b, "inlay: %llu fifos, sockets or devices left out:",
				 (unsigned long long)r->special);
		for (size_t i = 0; st && i < INLAY_SCAN_NAMES && st->special_names[i]; i++) {
			inlay_buf_u8(&b, ' ');
			inlay_text_escape(&b, st->special_names[i], strlen(st->special_names[i]));
		}
		inlay_buf_u8(&b, '\n');
	}
	print_text(stderr, &b);
}

static void print_result(struct sync_report *o, const struct source *s, const struct target *t,
			 const struct push_result *r)
{
	auto_buf struct inlay_buf text = {0};

	progress_clear(&o->line);
	target_text(t, &text);
	if (o->common->json) {
		print_result_json(o, s, inlay_buf_cstr(&text), r);
		return;
	}
	if (o->stats)
		print_stats(r);
	if (o->common->verbose >= 0)
		print_summary(o, inlay_buf_cstr(&text), r);
	if (r->hardlinked && o->common->verbose >= 0 &&
	    (o->common->verbose > 0 || (r->changed && r->generation == 1)))
		(void)fprintf(stderr,
			      "inlay: %llu files have several links; they become separate files\n",
			      (unsigned long long)r->hardlinked);
	print_remarks(s, r);
}

/* As common_fail, with the target's name. */
static enum inlay_exit print_failure(const struct sync_told *t, const struct fanout_host *h)
{
	auto_buf struct inlay_buf name = {0};
	struct inlay_error err = h->err;

	/* That was done before it failed. */
	print_aside(&h->result);
	if (!t->several)
		return common_fail(t->report->common, &err);
	target_text(h->target, &name);
	const char *text = inlay_buf_cstr(&name);
	if (!t->report->common->json) {
		/* Its text begins with the host's name, where it is the host that says so. */
		(void)inlay_error_prefix(&err, err.code, "%s", text);
		return common_fail(t->report->common, &err);
	}
	enum inlay_exit code = inlay_error_exit(&err);
	print_json(json_pack("{s:i, s:o, s:{s:i, s:o}}", "schema", 1, "target",
			     print_json_name(text, strlen(text)), "error", "exit", code, "text",
			     print_json_name(err.text, strlen(err.text))));
	return code;
}

void sync_tell(void *ctx, const struct fanout_host *h)
{
	struct sync_told *t = ctx;

	progress_clear(&t->report->line);
	if (h->code < 0) {
		t->worst = print_failure(t, h);
		t->failed++;
	} else {
		print_result(t->report, t->source, h->target, &h->result);
		t->changed |= h->result.changed;
		/* It was asked for at DST, and is not seen there. */
		bool unseen = t->mounts && !h->result.mounted;
		if (unseen)
			t->worst = INLAY_EXIT_FAILURE;
		t->failed += unseen;
		t->good += !unseen;
	}
	(void)fflush(stdout);
}

enum inlay_exit sync_exit(const struct sync_told *t)
{
	return t->failed && t->good ? INLAY_EXIT_SOME_HOSTS : t->worst;
}
