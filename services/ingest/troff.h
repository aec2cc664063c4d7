/*
 * Inside of the manual page extractor: the reader that extract_troff.c (requests, escapes, man(7)) and extract_mdoc.c (mdoc(7)) share. It is not a typesetter: it
 * follows as much of troff as pages need to be read (strings, conditions as nroff decides them, macros of the page itself), and leaves measures aside.
 */
#ifndef GENLOOP_INGEST_TROFF_H
#define GENLOOP_INGEST_TROFF_H

#include "base/arena.h"
#include "services/ingest/extract.h"

enum {
    TROFF_FRAMES_MAX = 8,       /* macros that call macros */
    TROFF_ARGS_MAX = 256,       /* mdoc lines are sentences: the longest seen has 60 words */
    TROFF_NAMES_MAX = 512,      /* strings and macros that a page defines: pod2man defines 60 */
    TROFF_REGISTERS_MAX = 64,
    TROFF_CONDITIONS_MAX = 64,
    TROFF_ARENA_BYTES = 1 << 20, /* definitions and what macros are called with */
    TROFF_SECTION_MAX = 16,
};

struct troff_name {
    struct span name, value; /* of a string: decoded; of a macro: its lines */
    bool macro;
};
struct troff_frame {
    struct span rest;
    struct span args[9];
    int n_args;
};
enum troff_tag { TAG_NONE, TAG_EXPECTED, TAG_OPEN }; /* "- tag" has been begun; has been written and ": " follows as soon as something does */
enum mdoc_list { LIST_ITEM, LIST_BULLET, LIST_ENUM, LIST_TAG, LIST_COLUMN };

struct troff {
    struct text t;
    struct extracted *x;
    struct arena arena;
    struct buf line, word;      /* a line that was joined or filled in; decoded text */
    struct troff_frame frames[TROFF_FRAMES_MAX];
    int n_frames;
    struct troff_name names[TROFF_NAMES_MAX];
    int n_names;
    struct { uint32_t name; int64_t value, step; } registers[TROFF_REGISTERS_MAX];
    int n_registers;
    bool else_true[TROFF_CONDITIONS_MAX]; /* per open .ie: whether its .el runs */
    int n_else;
    size_t budget;              /* bytes that macros may still expand to: a page cannot grow without bound */
    enum troff_tag tag;
    bool join;                  /* \c: the next line follows without a space */
    bool heading_expected;
    int heading_level;
    bool font_expected;         /* .B without words: the next line is them */
    bool started, redirect, mdoc;
    size_t paragraph_at;        /* where the paragraph of the last .PP begins; SIZE_MAX: none */
    bool suppress;              /* between .de and .. and the like nothing is written */
    char name[128], section[TROFF_SECTION_MAX];
    /* mdoc */
    struct { enum mdoc_list kind; int count; } lists[NESTING_MAX];
    int n_lists;
    bool no_space, spacing_off, in_function, function_args, in_synopsis, in_reference, literal_display, author_split;
};

/* The next input line, without its newline, comments still in it. Borrowed until the next call. */
bool troff_line(struct troff *tr, struct span *line);
/* Decodes escapes and appends the characters to out. */
void troff_decode(struct troff *tr, struct span raw, struct buf *out);
/* Splits a request's words. Returns their number. */
int troff_args(struct span rest, struct span args[TROFF_ARGS_MAX], bool quoted[TROFF_ARGS_MAX]);
/* Text that is content: settles an open tag, decodes, writes. */
void troff_put(struct troff *tr, struct span raw);
void troff_put_decoded(struct troff *tr, struct span s);
void troff_settle(struct troff *tr); /* something follows the tag now */
void troff_line_end(struct troff *tr);  /* of an input line: a space, or a newline in verbatim lines */
void troff_break(struct troff *tr, enum text_break b);
void troff_heading(struct troff *tr, int level);
void troff_item(struct troff *tr, const char *marker, enum text_break before);
void troff_title(struct troff *tr, struct span name, struct span section);
/* mdoc: a request of it; false where it is none. A text line. */
bool mdoc_request(struct troff *tr, struct span name, struct span rest);

#endif
