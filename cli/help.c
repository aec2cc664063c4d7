/* What the table of verbs says of itself: the help in three depths, and completion for the shells. Pure. */
#include "base/buf.h"
#include "cli.h"

static struct span first_word(const char *name) {
    struct span rest = span_str(name), word;
    return span_cut(&rest, ' ', &word) ? word : SPAN("");
}

/* "up [--home DIR]": the name, and in short what may follow. */
static void usage_of(struct buf *out, const struct verb *v) {
    (void)buf_printf(out, "genloop %s%s%s%s", v->name, v->operands[0] ? " " : "", v->operands, v->options || v->json ? " [OPTION]..." : "");
}

static void pad(struct buf *out, size_t from, size_t to) {
    for (; from < to; from++) (void)buf_append_char(out, ' ');
}

static void summary_line(struct buf *out, const struct verb *v, size_t column) {
    size_t start = out->len;
    (void)buf_printf(out, "  %s%s%s", v->name, v->operands[0] ? " " : "", v->operands);
    size_t used = out->len - start;
    if (used + 2 > column) {
        (void)buf_append_char(out, '\n');
        used = 0;
    }
    pad(out, used, column);
    (void)buf_printf(out, "%s\n", v->summary);
}

int help_all(struct buf *out) {
    (void)buf_append_str(out, "genloop " GENLOOP_VERSION ": from documents to a model that answers, is judged, and comes back better.\n\nusage: genloop VERB ...      genloop VERB --help\n\n");
    for (size_t i = 0; cli_verb_at(i); i++) summary_line(out, cli_verb_at(i), 38);
    (void)buf_append_str(out,
                         "\nVerbs of a running platform talk to the gateway at $GENLOOP_URL (default http://127.0.0.1:8080) with $GENLOOP_API_KEY.\n"
                         "The one-machine platform lives in --home, $GENLOOP_HOME or ~/.genloop. Exit codes: 0 done, 1 failed, 2 usage.\n");
    return out->failed;
}

int help_group(struct buf *out, const char *word) {
    size_t n = 0;
    for (size_t i = 0; cli_verb_at(i); i++) {
        if (!span_eq_str(first_word(cli_verb_at(i)->name), word)) continue;
        if (n++ == 0) (void)buf_printf(out, "usage: genloop %s VERB ...      genloop %s VERB --help\n\n", word, word);
        summary_line(out, cli_verb_at(i), 38);
    }
    return n ? out->failed : E_NOT_FOUND;
}

static void option_line(struct buf *out, const struct cli_option *o) {
    size_t start = out->len;
    (void)buf_append_str(out, "  ");
    if (o->letter) (void)buf_printf(out, "-%c, ", o->letter);
    (void)buf_printf(out, "%s%s%s%s", o->name, o->kind == CLI_FLAG ? "" : " ", o->kind == CLI_FLAG ? "" : o->value, o->repeat ? " ..." : "");
    size_t used = out->len - start;
    if (used + 2 > 30) {
        (void)buf_append_char(out, '\n');
        used = 0;
    }
    pad(out, used, 30);
    (void)buf_printf(out, "%s\n", o->doc);
}

int help_verb(struct buf *out, const struct verb *v) {
    (void)buf_append_str(out, "usage: ");
    usage_of(out, v);
    (void)buf_printf(out, "\n\n%s.\n", v->summary);
    if (v->help) (void)buf_printf(out, "\n%s\n", v->help);
    (void)buf_append_str(out, "\noptions:\n");
    for (const struct cli_option *o = v->options; o && o->name; o++) option_line(out, o);
    if (v->json) option_line(out, &(struct cli_option){.name = "--json", .doc = "Print JSON"});
    option_line(out, &(struct cli_option){.name = "--help", .doc = "This text", .letter = 'h'});
    return out->failed;
}

/* ---- completion ---- */

/* The words that may follow `word` ("" for the first ones), each once. */
static void next_words(struct buf *out, const char *word) {
    struct span before = SPAN("");
    for (size_t i = 0; cli_verb_at(i); i++) {
        struct span rest = span_str(cli_verb_at(i)->name), head;
        if (!span_cut(&rest, ' ', &head)) continue;
        if (word[0]) {
            if (!span_eq_str(head, word) || span_empty(rest)) continue;
            head = rest;
        }
        if (span_eq(head, before)) continue; /* verbs of one group stand together */
        before = head;
        (void)buf_printf(out, "%.*s ", SPAN_ARG(head));
    }
}

static void option_words(struct buf *out, const struct verb *v) {
    for (const struct cli_option *o = v->options; o && o->name; o++) (void)buf_printf(out, "%s ", o->name);
    (void)buf_printf(out, "%s--help", v->json ? "--json " : "");
}

/* "a|b|c" as words. */
static void choice_words(struct buf *out, const char *choices) {
    for (; *choices; choices++) (void)buf_append_char(out, *choices == '|' ? ' ' : *choices);
}

/* What may follow an option: its choices, or, where it is a text or a number of any kind, nothing that we know; a path is completed as everything else is. */
static void values_of(struct buf *out, const struct verb *v) {
    for (const struct cli_option *o = v->options; o && o->name; o++) {
        if (o->kind == CLI_FLAG || !cli_is_choice(o->value)) continue;
        (void)buf_printf(out, "                [ \"$before\" = %s ] && words=\"", o->name);
        choice_words(out, o->value);
        (void)buf_append_str(out, "\"\n");
    }
}

/* bash: one case per verb for its options; groups complete their second word; everything else completes paths. */
int completion_bash(struct buf *out) {
    (void)buf_append_str(out, "# bash completion of genloop: source <(genloop completion bash)\n_genloop() {\n    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} one=${COMP_WORDS[1]} two=${COMP_WORDS[2]} words=\n"
                              "    if [ \"$COMP_CWORD\" -eq 1 ]; then\n        words=\"");
    next_words(out, "");
    (void)buf_append_str(out, "--help --version\"\n    else\n        case \"$one $two\" in\n");
    for (size_t i = 0; cli_verb_at(i); i++) {
        const struct verb *v = cli_verb_at(i);
        bool two = strchr(v->name, ' ') != NULL;
        (void)buf_printf(out, "        \"%s%s\"%s) words=\"", v->name, two ? "" : " ", two ? "" : "*");
        if (cli_is_choice(v->operands)) {
            choice_words(out, v->operands);
            (void)buf_append_char(out, ' ');
        }
        option_words(out, v);
        (void)buf_append_str(out, "\"\n");
        values_of(out, v);
        (void)buf_append_str(out, "                ;;\n");
    }
    (void)buf_append_str(out, "        esac\n        if [ \"$COMP_CWORD\" -eq 2 ]; then\n            case \"$one\" in\n");
    struct span before = SPAN("");
    for (size_t i = 0; cli_verb_at(i); i++) {
        struct span word = first_word(cli_verb_at(i)->name);
        char name[64];
        if (!strchr(cli_verb_at(i)->name, ' ') || span_eq(word, before)) continue;
        before = word;
        (void)buf_printf(out, "            %.*s) words=\"", SPAN_ARG(word));
        next_words(out, span_copy(name, sizeof name, word));
        (void)buf_append_str(out, "--help\" ;;\n");
    }
    (void)buf_append_str(out, "            esac\n        fi\n    fi\n    COMPREPLY=($(compgen -W \"$words\" -- \"$word\"))\n}\ncomplete -o default -F _genloop genloop\n");
    return out->failed;
}

/* What stands in '…' of the shell; a quote ends it, adds one, and goes on. */
static void quoted(struct buf *out, const char *text) {
    for (; *text; text++) {
        if (*text == '\'') (void)buf_append_str(out, "'\\''");
        else if (*text == ':' || *text == '[' || *text == ']' || *text == '\\') (void)buf_printf(out, "\\%c", *text);
        else (void)buf_append_char(out, *text);
    }
}

int completion_zsh(struct buf *out) {
    (void)buf_append_str(out, "#compdef genloop\n# zsh completion of genloop: source <(genloop completion zsh), or this text as _genloop in a folder of $fpath\n_genloop() {\n    local -a verbs\n"
                              "    if (( CURRENT == 2 )); then\n        verbs=(");
    struct span before = SPAN("");
    for (size_t i = 0; cli_verb_at(i); i++) {
        const struct verb *v = cli_verb_at(i);
        struct span word = first_word(v->name);
        if (span_eq(word, before)) continue;
        before = word;
        (void)buf_printf(out, "'%.*s:", SPAN_ARG(word));
        if (!strchr(v->name, ' ')) quoted(out, v->summary);
        (void)buf_append_str(out, "' ");
    }
    (void)buf_append_str(out, ")\n        _describe verb verbs\n        return\n    fi\n    if (( CURRENT == 3 )); then\n        case $words[2] in\n");
    before = SPAN("");
    for (size_t i = 0; cli_verb_at(i); i++) {
        const struct verb *v = cli_verb_at(i);
        const char *space = strchr(v->name, ' ');
        struct span word = first_word(v->name);
        if (!space) continue;
        if (!span_eq(word, before)) (void)buf_printf(out, "%s            %.*s) verbs=(", span_empty(before) ? "" : "); _describe verb verbs; return ;;\n", SPAN_ARG(word));
        before = word;
        (void)buf_printf(out, "'%s:", space + 1);
        quoted(out, v->summary);
        (void)buf_append_str(out, "' ");
    }
    (void)buf_append_str(out, span_empty(before) ? "" : "); _describe verb verbs; return ;;\n");
    (void)buf_append_str(out, "        esac\n    fi\n    case \"$words[2] $words[3]\" in\n");
    for (size_t i = 0; cli_verb_at(i); i++) {
        const struct verb *v = cli_verb_at(i);
        bool two = strchr(v->name, ' ') != NULL;
        (void)buf_printf(out, "        \"%s%s\"%s) _arguments ", v->name, two ? "" : " ", two ? "" : "*");
        for (const struct cli_option *o = v->options; o && o->name; o++) {
            (void)buf_printf(out, "'%s%s[", o->repeat ? "*" : "", o->name);
            quoted(out, o->doc);
            (void)buf_append_char(out, ']');
            if (o->kind != CLI_FLAG) {
                (void)buf_append_char(out, ':');
                quoted(out, o->value);
                if (cli_is_choice(o->value)) {
                    (void)buf_append_str(out, ":(");
                    choice_words(out, o->value);
                    (void)buf_append_char(out, ')');
                } else {
                    (void)buf_append_str(out, o->kind == CLI_FILE ? ":_files" : o->kind == CLI_DIR ? ":_files -/" : ": ");
                }
            }
            (void)buf_append_str(out, "' ");
        }
        (void)buf_printf(out, "%s'--help[This text]' '*:file:_files' ;;\n", v->json ? "'--json[Print JSON]' " : "");
    }
    (void)buf_append_str(out, "    esac\n}\ncompdef _genloop genloop\n");
    return out->failed;
}
