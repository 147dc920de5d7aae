/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Completion. The scripts know nothing but to ask: `inlay _complete WORD...` gets the words in front of the cursor, the
 * last one as far as it is typed, and prints what may stand there: "word<TAB>what it is" for each, or ":dirs" or
 * ":files" when the shell completes names of its own. It asks no host.
 */
#include "cmd/completion.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cmd/cmd.h"
#include "cmd/helptext.h"
#include "cmd/project.h"
#include "inlay/cleanup.h"
#include "inlay/io.h"
#include "session/source.h"

static const char help[] =
	"usage: inlay completion [options] bash|zsh|fish\n"
	"\n"
	"Prints a script that makes the shell complete commands, options, hosts, targets "
	"and components:\n"
	"\n"
	"    source <(inlay completion bash)      in ~/.bashrc\n"
	"    source <(inlay completion zsh)       in ~/.zshrc, behind compinit\n"
	"    inlay completion fish | source       in ~/.config/fish/config.fish\n"
	"\n" COMMON_HELP;

enum { SSH_CONFIG_MAX = 1 << 20 };

/* ---- the scripts ---- */

static const char bash_script[] =
	"# Completion of inlay for bash. It asks inlay itself what may follow.\n"
	"_inlay()\n"
	"{\n"
	"\tlocal line words program cur prefix=\n"
	"\tlocal head=${COMP_LINE:0:COMP_POINT}\n"
	"\tread -ra words <<<\"$head\"\n"
	"\t[[ $head == *[[:space:]] ]] && words+=(\"\")\n"
	"\tprogram=${words[0]/#\\~\\//$HOME/}\n"
	"\ttype -P -- \"$program\" >/dev/null || program=inlay\n"
	"\tcur=${words[-1]}\n"
	"\t# bash puts in what stands behind the last of these.\n"
	"\t[[ $cur == *[:=]* ]] && prefix=${cur%\"${cur##*[:=]}\"}\n"
	"\tCOMPREPLY=()\n"
	"\twhile IFS= read -r line; do\n"
	"\t\tcase $line in\n"
	"\t\t:dirs | :files)\n"
	"\t\t\tlocal kind=-f names=()\n"
	"\t\t\t[[ $line == :dirs ]] && kind=-d\n"
	"\t\t\tmapfile -t names < <(compgen $kind -- \"${cur#\"$prefix\"}\")\n"
	"\t\t\t((${#names[@]})) && compopt -o filenames 2>/dev/null\n"
	"\t\t\tCOMPREPLY+=(\"${names[@]}\")\n"
	"\t\t\t;;\n"
	"\t\t*)\n"
	"\t\t\tline=${line%%$'\\t'*}\n"
	"\t\t\tprintf -v line %q \"${line#\"$prefix\"}\"\n"
	"\t\t\tCOMPREPLY+=(\"$line\")\n"
	"\t\t\t;;\n"
	"\t\tesac\n"
	"\tdone < <(\"$program\" _complete \"${words[@]:1}\" 2>/dev/null)\n"
	"\t[[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *[:=] ]] && compopt -o nospace "
	"2>/dev/null\n"
	"\treturn 0\n"
	"}\n"
	"complete -F _inlay inlay\n";

static const char zsh_script[] =
	"#compdef inlay\n"
	"# Completion of inlay for zsh. It asks inlay itself what may follow.\n"
	"_inlay()\n"
	"{\n"
	"\tlocal line word program=${(Q)words[1]/#\\~\\//$HOME/}\n"
	"\tlocal -a plain plain_text open open_text kinds\n"
	"\t(( $+commands[$program] )) || [[ -x $program ]] || program=inlay\n"
	"\tfor line in \"${(@f)$($program _complete \"${(@Q)words[2,CURRENT-1]}\" \"${(Q)PREFIX}\" "
	"2>/dev/null)}\"; do\n"
	"\t\tword=${line%%$'\\t'*}\n"
	"\t\tcase $line in\n"
	"\t\t'') ;;\n"
	"\t\t:dirs | :files) kinds+=($line) ;;\n"
	"\t\t*) if [[ $word == *[:=] ]]; then\n"
	"\t\t\topen+=($word) open_text+=(\"${line/$'\\t'/  -- }\")\n"
	"\t\telse\n"
	"\t\t\tplain+=($word) plain_text+=(\"${line/$'\\t'/  -- }\")\n"
	"\t\tfi ;;\n"
	"\t\tesac\n"
	"\tdone\n"
	"\tlocal found=1\n"
	"\t(( $#plain )) && compadd -l -d plain_text -a plain && found=0\n"
	"\t(( $#open )) && compadd -l -S '' -d open_text -a open && found=0\n"
	"\t(( $#kinds )) && compset -P '--*='\n"
	"\t[[ -n ${kinds[(r):dirs]} ]] && _files -/ && found=0\n"
	"\t[[ -n ${kinds[(r):files]} ]] && _files && found=0\n"
	"\treturn found\n"
	"}\n"
	"if [[ $funcstack[1] == _inlay ]]; then\n"
	"\t_inlay \"$@\"\n"
	"else\n"
	"\tcompdef _inlay inlay\n"
	"fi\n";

static const char fish_script[] =
	"# Completion of inlay for fish. It asks inlay itself what may follow.\n"
	"function __inlay_complete\n"
	"    set -l words (commandline -opc)\n"
	"    set -l current (commandline -ct)\n"
	"    set -q current[1]; or set current ''\n"
	"    set -l program inlay\n"
	"    type -q -- $words[1]; and set program $words[1]\n"
	"    for line in (command $program _complete $words[2..-1] $current 2>/dev/null)\n"
	"        switch $line\n"
	"            case ':dirs'\n"
	"                __fish_complete_directories $current ''\n"
	"            case ':files'\n"
	"                __fish_complete_path $current ''\n"
	"            case '*'\n"
	"                printf '%s\\n' $line\n"
	"        end\n"
	"    end\n"
	"end\n"
	"complete -c inlay -f -a '(__inlay_complete)'\n";

static const struct {
	const char *shell, *script;
} scripts[] = {{"bash", bash_script}, {"zsh", zsh_script}, {"fish", fish_script}};

int cmd_completion(int argc, char **argv)
{
	static const struct option table[] = {COMMON_OPTIONS, {0}};
	struct common common = {0};
	int c;

	while ((c = getopt_long(argc, argv, COMMON_SHORT, table, NULL)) >= 0)
		if (!common_take(&common, c))
			return common_usage("completion", "bad options");
	if (common.help) {
		(void)fputs(help, stdout);
		return INLAY_EXIT_OK;
	}
	for (size_t i = 0; argc - optind == 1 && i < sizeof scripts / sizeof *scripts; i++)
		if (strcmp(argv[optind], scripts[i].shell) == 0) {
			(void)fputs(scripts[i].script, stdout);
			return INLAY_EXIT_OK;
		}
	return common_usage("completion", "bash, zsh or fish is wanted");
}

/* ---- what may follow ---- */

struct completing {
	const char *prefix; /* of what is printed: "--state=" or "" */
	const char *word;   /* as far as it is typed, behind the prefix */
	bool dirs, files;   /* the shell's own names, too */
	struct inlay_buf help;
	bool loaded; /* inlay.yaml was looked for */
	bool found;  /* ... and read */
	struct config_set set;
};

/* Names with control bytes are not offered: they would be lines of their own. */
static void offer(const struct completing *c, const char *word, const char *text, size_t len)
{
	if (strncmp(word, c->word, strlen(c->word)) != 0)
		return;
	for (const char *p = word; *p; p++)
		if ((unsigned char)*p < ' ' || *p == 0x7f)
			return;
	(void)printf("%s%s\t%.*s\n", c->prefix, word, (int)len, text);
}

static void offer_text(const struct completing *c, const char *word, const char *text)
{
	offer(c, word, text, strlen(text));
}

static const struct config_set *project_of(struct completing *c)
{
	struct inlay_error err = {0};

	if (!c->loaded)
		c->found = project_load(NULL, &c->set, &err) == 0;
	c->loaded = true;
	return c->found ? &c->set : NULL;
}

static void offer_components(struct completing *c)
{
	const struct config_set *set = project_of(c);

	for (size_t i = 0; set && i < set->config->components.count; i++)
		offer_text(c, set->config->ordered[i]->head.name, set->config->ordered[i]->target);
}

/* The names of ssh's configuration that are no patterns. Files that it includes are not looked at. */
static void offer_ssh_hosts(const struct completing *c, const char *behind)
{
	auto_buf struct inlay_buf path = {0};
	auto_buf struct inlay_buf file = {0};
	const char *home = getenv("HOME");
	char *lines = NULL, *words = NULL;
	char name[NAME_MAX + 2];

	inlay_buf_printf(&path, "%s/.ssh/config", home ? home : "");
	if (inlay_read_file(AT_FDCWD, inlay_buf_cstr(&path), SSH_CONFIG_MAX, &file, NULL) != 0)
		return;
	(void)inlay_buf_cstr(&file);
	for (char *line = strtok_r((char *)file.data, "\n", &lines); line;
	     line = strtok_r(NULL, "\n", &lines)) {
		char *word = strtok_r(line, " \t\r=\"", &words);
		if (!word || strcasecmp(word, "host") != 0)
			continue;
		while ((word = strtok_r(NULL, " \t\r=\"", &words))) {
			if (strpbrk(word, "*?!") || strlen(word) > NAME_MAX)
				continue;
			(void)snprintf(name, sizeof name, "%s%s", word, behind);
			offer_text(c, name, "host of ssh");
		}
	}
}

static void offer_hosts(struct completing *c)
{
	const struct config_set *set = project_of(c);
	const struct config_host *hosts = set ? set->host_list.items : NULL;
	const struct config_group *groups = set ? set->groups.items : NULL;
	char name[NAME_MAX + 2];

	for (size_t i = 0; set && i < set->host_list.count; i++)
		offer_text(c, hosts[i].head.name, "host of the project");
	for (size_t i = 0; set && i < set->groups.count; i++) {
		(void)snprintf(name, sizeof name, "@%.*s", NAME_MAX, groups[i].head.name);
		offer_text(c, name, "group");
	}
	if (!set)
		offer_ssh_hosts(c, "");
}

static int offer_target(void *ctx, const struct acked *a, struct inlay_error *err)
{
	(void)err;
	offer_text(ctx, a->target, a->source);
	return 0;
}

static void offer_targets(struct completing *c)
{
	struct common common = {0};
	struct inlay_error err = {0};

	if (common_finish(&common, &err) == 0)
		(void)!acked_each(common.state, offer_target, c, &err);
	common_fini(&common);
	offer_ssh_hosts(c, ":");
}

/* "bash|zsh|fish" */
static void offer_choices(const struct completing *c, const char *kind)
{
	char word[64];

	for (const char *at = kind, *end; *at; at = *end ? end + 1 : end) {
		end = strchrnul(at, '|');
		(void)snprintf(word, sizeof word, "%.*s", (int)(end - at), at);
		offer_text(c, word, "");
	}
}

static void offer_kind(void *ctx, const char *kind)
{
	struct completing *c = ctx;
	bool remote = strchr(c->word, ':');

	if (strchr(kind, '|'))
		offer_choices(c, kind);
	else if (strcmp(kind, "COMPONENT") == 0)
		offer_components(c);
	else if (strcmp(kind, "HOST") == 0)
		offer_hosts(c);
	else if (strcmp(kind, "DST") == 0 || strcmp(kind, "HOST:PATH") == 0)
		offer_targets(c);
	if (!remote &&
	    (strcmp(kind, "DST") == 0 || strcmp(kind, "SRC") == 0 || strcmp(kind, "DIR") == 0))
		c->dirs = true;
	else if (strcmp(kind, "PATH") == 0 || strcmp(kind, "FILE") == 0 || strcmp(kind, "F") == 0 ||
		 strcmp(kind, "ARCHIVE") == 0 || strcmp(kind, "CMD") == 0)
		c->files = true;
}

static bool offer_command(void *ctx, const char *name, const char *text, size_t len)
{
	offer(ctx, name, text, len);
	return false;
}

static bool offer_option(void *ctx, const struct help_option *o)
{
	offer(ctx, o->name, o->text, o->text_len);
	return false;
}

struct wanted {
	const char *name;
	size_t len;
	char argument[64]; /* or its choices */
};

static bool same_option(void *ctx, const struct help_option *o)
{
	struct wanted *w = ctx;

	if (strncmp(o->name, w->name, w->len) != 0 || o->name[w->len])
		return false;
	(void)snprintf(w->argument, sizeof w->argument, "%s",
		       *o->choices ? o->choices : o->argument);
	return true;
}

static bool same_command(void *ctx, const char *name, const char *text, size_t len)
{
	(void)text;
	(void)len;
	return strcmp(ctx, name) == 0;
}

/* The argument that the option takes, "" for none. */
static struct wanted argument_of(struct completing *c, const char *word)
{
	struct wanted w = {.name = word, .len = strcspn(word, "=")};

	if (*word == '-')
		(void)help_each_option(inlay_buf_cstr(&c->help), same_option, &w);
	return w;
}

/* What was typed in front of the word. */
struct place {
	const char *path[3]; /* the command, and its verb */
	size_t depth, arguments;
	bool verbs;     /* the next word is a command or a verb */
	bool behind;    /* behind "--" */
	char value[64]; /* the word is the value of an option */
};

static bool load_help(struct completing *c, struct place *p)
{
	inlay_buf_clear(&c->help);
	if (!help_of(p->path, &c->help))
		return false;
	p->verbs = p->depth == 0 || strstr(inlay_buf_cstr(&c->help), " VERB ");
	return true;
}

static bool walk(struct completing *c, char **words, size_t count, struct place *p)
{
	bool ok = load_help(c, p);

	for (size_t i = 0; ok && i < count; i++) {
		const char *word = words[i];
		if (*p->value)
			*p->value = 0;
		else if (!p->behind && strcmp(word, "--") == 0)
			p->behind = true;
		else if (!p->behind && *word == '-' && !strchr(word, '='))
			memcpy(p->value, argument_of(c, word).argument, sizeof p->value);
		else if (!p->behind && *word == '-')
			continue;
		else if (!p->verbs)
			p->arguments++;
		else if (help_each_command(inlay_buf_cstr(&c->help), same_command, words[i])) {
			p->path[p->depth++] = word;
			ok = load_help(c, p);
		} else
			ok = false;
	}
	return ok;
}

int cmd_complete(int argc, char **argv)
{
	struct place p = {0};
	const char *word = argc > 1 ? argv[argc - 1] : "", *equals = strchr(word, '=');
	struct completing c = {.prefix = "", .word = word};

	if (argc > 1 && walk(&c, argv + 1, (size_t)argc - 2, &p)) {
		const char *text = inlay_buf_cstr(&c.help);
		if (p.behind)
			offer_kind(&c, "CMD");
		else if (*p.value)
			offer_kind(&c, p.value);
		else if (strncmp(word, "--", 2) == 0 && equals) {
			struct wanted w = argument_of(&c, word);
			auto_free char *prefix = strndup(word, (size_t)(equals + 1 - word));
			if (prefix) {
				c.prefix = prefix;
				c.word = equals + 1;
				offer_kind(&c, w.argument);
			}
			c.prefix = "";
		} else if (*word == '-')
			(void)help_each_option(text, offer_option, &c);
		else if (p.verbs)
			(void)help_each_command(text, offer_command, &c);
		else
			help_each_argument(text, p.depth, p.arguments, offer_kind, &c);
	}
	if (c.dirs)
		(void)puts(":dirs");
	if (c.files)
		(void)puts(":files");
	inlay_buf_fini(&c.help);
	if (c.loaded)
		config_set_fini(&c.set);
	return INLAY_EXIT_OK;
}
