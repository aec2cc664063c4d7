/* The manual page genloop(1), from the table of verbs: troff with the macros of man(7). Pure. */
#include "base/buf.h"
#include "cli.h"

/* When this frame was last written; what it lists is of the program's version. */
static const char PAGE_DATE[] = "2026-11-25";

/* Text as troff shows it: a backslash and a hyphen are escaped, and what stands first in a line is never taken for a request. */
static void text(struct buf *out, struct span s) {
    for (size_t i = 0; i < s.len; i++) {
        char c = s.data[i];
        bool first = i == 0 || s.data[i - 1] == '\n';
        if (first && (c == '.' || c == '\'')) (void)buf_append_str(out, "\\&");
        if (c == '\\') (void)buf_append_str(out, "\\e");
        else if (c == '-') (void)buf_append_str(out, "\\-");
        else if (c == '"') (void)buf_append_str(out, "\\(dq"); /* also inside of an argument of a macro */
        else if (c == '~') (void)buf_append_str(out, "\\(ti");
        else if (c == '^') (void)buf_append_str(out, "\\(ha");
        else if (c == '`') (void)buf_append_str(out, "\\(ga");
        else (void)buf_append_char(out, c);
    }
}
static void text_str(struct buf *out, const char *s) { text(out, span_str(s)); }

/* The same in lines of a terminal's width, as one edits such pages. */
static void flow(struct buf *out, struct span s) {
    enum { WIDTH = 72 };
    size_t column = 0;
    while (s.len) {
        size_t n = 0;
        while (n < s.len && s.data[n] != ' ' && s.data[n] != '\n') n++;
        if (n && column && column + 1 + n > WIDTH) {
            (void)buf_append_char(out, '\n');
            column = 0;
        } else if (n && column) {
            (void)buf_append_char(out, ' ');
            column++;
        }
        if (n) text(out, span_sub(s, 0, n)); /* as a line's first word: a full stop in front is escaped, which hurts nowhere else */
        column += n;
        s = span_skip(s, n);
        while (s.len && (s.data[0] == ' ' || s.data[0] == '\n')) s = span_skip(s, 1);
    }
    (void)buf_append_char(out, '\n');
}

/* Paragraphs; one whose lines begin with a space, or one that lists line by line behind a colon, keeps its lines. */
static void paragraphs(struct buf *out, const char *help) {
    struct span rest = span_str(help);
    while (rest.len) {
        size_t end = 0;
        while (end < rest.len && !(rest.data[end] == '\n' && end + 1 < rest.len && rest.data[end + 1] == '\n')) end++;
        struct span paragraph = span_sub(rest, 0, end);
        rest = span_skip(rest, end);
        while (rest.len && rest.data[0] == '\n') rest = span_skip(rest, 1);
        bool as_it_is = span_starts(paragraph, SPAN(" ")) || span_find(paragraph, SPAN("\n ")) >= 0;
        (void)buf_append_str(out, as_it_is ? ".PP\n.nf\n" : ".PP\n");
        if (as_it_is) {
            text(out, paragraph);
            (void)buf_append_str(out, "\n.fi\n");
        } else {
            flow(out, paragraph);
        }
    }
}

static void option(struct buf *out, const struct cli_option *o) {
    (void)buf_append_str(out, ".TP\n");
    if (o->letter) (void)buf_printf(out, "\\fB\\-%c\\fR, ", o->letter);
    (void)buf_append_str(out, "\\fB");
    text_str(out, o->name);
    (void)buf_append_str(out, "\\fR");
    if (o->kind != CLI_FLAG) {
        (void)buf_append_str(out, " \\fI");
        text_str(out, o->value);
        (void)buf_append_str(out, "\\fR");
    }
    if (o->repeat) (void)buf_append_str(out, " ...");
    (void)buf_append_char(out, '\n');
    flow(out, span_str(o->doc));
}

static void verb(struct buf *out, const struct verb *v) {
    (void)buf_append_str(out, ".SS \"");
    text_str(out, v->name);
    if (v->operands[0]) (void)buf_append_char(out, ' ');
    text_str(out, v->operands);
    (void)buf_append_str(out, "\"\n");
    text_str(out, v->summary);
    (void)buf_append_str(out, ".\n");
    if (v->help) paragraphs(out, v->help);
    for (const struct cli_option *o = v->options; o && o->name; o++) option(out, o);
    if (v->json) option(out, &(struct cli_option){.name = "--json", .doc = "Print JSON"});
}

int man_page(struct buf *out) {
    (void)buf_append_str(out, ".\\\" Written by the program: genloop man\n.TH GENLOOP 1 ");
    (void)buf_printf(out, "%s \"genloop " GENLOOP_VERSION "\" \"User Commands\"\n", PAGE_DATE);
    (void)buf_append_str(out, ".SH NAME\ngenloop \\- from documents to a model that answers,\nis judged, and comes back better\n"
                              ".SH SYNOPSIS\n.B genloop\n.I VERB\n.RI [ OPERAND ]...\n.RI [ OPTION ]...\n.PP\n.B genloop\n.I VERB\n.B \\-\\-help\n.PP\n.B genloop \\-\\-version\n"
                              ".SH DESCRIPTION\n.B genloop\noperates a generative\\-AI platform of five services:\ningest, trainer, inference, feedback and gateway.\n"
                              "It starts and supervises the platform of one machine\n.RB ( \"genloop up\" ),\n"
                              "talks to a running platform through its gateway, and runs, tokenizes,\ntrains and measures models in its own process.\n"
                              ".PP\nOptions may stand before and behind operands; each verb has\n.BR \\-\\-help .\nWhat was asked for goes to the standard output,\neverything else to the standard error.\n"
                              ".SH VERBS\n");
    for (size_t i = 0; cli_verb_at(i); i++) verb(out, cli_verb_at(i));
    (void)buf_append_str(out, ".SH EXIT STATUS\n.TP\n.B 0\nDone.\n.TP\n.B 1\nFailed.\n.TP\n.B 2\nWrong usage.\n"
                              ".SH ENVIRONMENT\n.TP\n.B GENLOOP_URL\nThe gateway; default http://127.0.0.1:8080.\n.TP\n.B GENLOOP_API_KEY\nThe key that is sent to it.\n"
                              ".TP\n.B GENLOOP_HOME\nThe data directory of the one\\-machine platform; default \\(ti/.genloop.\n"
                              ".TP\n.BR GENLOOP_LOG \", \" GENLOOP_STORE \", \" GENLOOP_REDIS\nWhere topics, objects and the cache are;\n.B genloop up\nstarts no server for what they name.\nEach key of the configuration has such a variable.\n"
                              ".SH FILES\n.TP\n.I \\(ti/.genloop/genloop.yaml\nThe configuration of the one\\-machine platform.\n.TP\n.I /etc/genloop/genloop.yaml\nThe configuration of the services where systemd runs them.\n"
                              ".SH EXAMPLES\n.nf\ngenloop up \\-\\-detach\ngenloop ingest \\(ti/documents \\-\\-dataset notes\ngenloop train \\-\\-dataset notes \\-\\-recipe pretrain\\-small \\-\\-name notes \\-\\-wait\n"
                              "genloop approve notes@1 \\-\\-reason \\(dqpassed its gates\\(dq\ngenloop promote notes@1 \\-\\-reason \\(dqfirst version\\(dq\ngenloop chat\n.fi\n"
                              ".SH SEE ALSO\n.BR redis\\-server (1),\n.BR systemd.unit (5)\n");
    return out->failed;
}
