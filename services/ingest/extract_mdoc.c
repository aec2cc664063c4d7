/*
 * mdoc(7), the manual language of the BSDs: macros that say what a word is, and that may stand inside each other's lines. A line's words are
 * read one by one: a macro's name changes what the next words are shown as; enclosures close at the line's end, before its closing
 * punctuation; punctuation stands at the word before it.
 */
#include "services/ingest/troff.h"

/* What surrounds and parts the words of a macro. */
enum shape { SHAPE_PLAIN, SHAPE_FLAG, SHAPE_ENCLOSE, SHAPE_OPEN, SHAPE_CLOSE, SHAPE_NAME, SHAPE_XREF, SHAPE_FUNCTION, SHAPE_NO_SPACE, SHAPE_PREFIX, SHAPE_ARGUMENT,
             SHAPE_TEXT, SHAPE_SYSTEM, SHAPE_INCLUDE, SHAPE_LINK, SHAPE_TAB, SHAPE_LIBRARY, SHAPE_STANDARD, SHAPE_FONT };

static const struct inline_macro {
    const char *name;
    enum shape shape;
    const char *open, *close;
} inline_macros[] = {
    {"Fl", SHAPE_FLAG, "-", ""},      {"Ar", SHAPE_ARGUMENT, "", ""},   {"Cm", SHAPE_PLAIN, "", ""},     {"Ic", SHAPE_PLAIN, "", ""},     {"Li", SHAPE_PLAIN, "", ""},
    {"Pa", SHAPE_PLAIN, "", ""},      {"Ev", SHAPE_PLAIN, "", ""},      {"Va", SHAPE_PLAIN, "", ""},     {"Vt", SHAPE_PLAIN, "", ""},     {"Fa", SHAPE_PLAIN, "", ""},
    {"Em", SHAPE_PLAIN, "", ""},      {"Sy", SHAPE_PLAIN, "", ""},      {"No", SHAPE_PLAIN, "", ""},     {"Tn", SHAPE_PLAIN, "", ""},     {"Dv", SHAPE_PLAIN, "", ""},
    {"Er", SHAPE_PLAIN, "", ""},      {"Ad", SHAPE_PLAIN, "", ""},      {"An", SHAPE_PLAIN, "", ""},     {"Cd", SHAPE_PLAIN, "", ""},     {"Ms", SHAPE_PLAIN, "", ""},
    {"Sx", SHAPE_PLAIN, "", ""},      {"Ft", SHAPE_PLAIN, "", ""},      {"Bf", SHAPE_TEXT, "", ""},      {"Mt", SHAPE_PLAIN, "", ""},     {"Tg", SHAPE_TEXT, "", ""},
    {"Nm", SHAPE_NAME, "", ""},       {"Xr", SHAPE_XREF, "", ""},       {"Fn", SHAPE_FUNCTION, "", ""},  {"Ns", SHAPE_NO_SPACE, "", ""},  {"Pf", SHAPE_PREFIX, "", ""},
    {"Op", SHAPE_ENCLOSE, "[", "]"},  {"Dq", SHAPE_ENCLOSE, "“", "”"},  {"Sq", SHAPE_ENCLOSE, "‘", "’"}, {"Pq", SHAPE_ENCLOSE, "(", ")"}, {"Bq", SHAPE_ENCLOSE, "[", "]"},
    {"Brq", SHAPE_ENCLOSE, "{", "}"}, {"Aq", SHAPE_ENCLOSE, "<", ">"},  {"Ql", SHAPE_ENCLOSE, "‘", "’"}, {"Qq", SHAPE_ENCLOSE, "\"", "\""}, {"Eq", SHAPE_PLAIN, "", ""},
    {"Oo", SHAPE_OPEN, "[", ""},      {"Do", SHAPE_OPEN, "“", ""},      {"So", SHAPE_OPEN, "‘", ""},     {"Po", SHAPE_OPEN, "(", ""},     {"Bo", SHAPE_OPEN, "[", ""},
    {"Bro", SHAPE_OPEN, "{", ""},     {"Ao", SHAPE_OPEN, "<", ""},      {"Qo", SHAPE_OPEN, "\"", ""},    {"Eo", SHAPE_OPEN, "", ""},      {"Xo", SHAPE_OPEN, "", ""},
    {"Oc", SHAPE_CLOSE, "", "]"},     {"Dc", SHAPE_CLOSE, "", "”"},     {"Sc", SHAPE_CLOSE, "", "’"},    {"Pc", SHAPE_CLOSE, "", ")"},    {"Bc", SHAPE_CLOSE, "", "]"},
    {"Brc", SHAPE_CLOSE, "", "}"},    {"Ac", SHAPE_CLOSE, "", ">"},     {"Qc", SHAPE_CLOSE, "", "\""},   {"Ec", SHAPE_CLOSE, "", ""},     {"Xc", SHAPE_CLOSE, "", ""},
    {"Ap", SHAPE_FONT, "'", ""},      {"Bx", SHAPE_SYSTEM, "BSD", ""},  {"Bsx", SHAPE_SYSTEM, "BSD/OS", ""}, {"Nx", SHAPE_SYSTEM, "NetBSD", ""}, {"Fx", SHAPE_SYSTEM, "FreeBSD", ""},
    {"Ox", SHAPE_SYSTEM, "OpenBSD", ""}, {"Dx", SHAPE_SYSTEM, "DragonFly", ""}, {"Ux", SHAPE_SYSTEM, "UNIX", ""}, {"At", SHAPE_SYSTEM, "AT&T UNIX", ""}, {"In", SHAPE_INCLUDE, "", ""},
    {"Lk", SHAPE_LINK, "", ""},       {"Ta", SHAPE_TAB, "", ""},        {"Lb", SHAPE_LIBRARY, "", ""},   {"St", SHAPE_STANDARD, "", ""},
};

static const struct inline_macro *find_inline(struct span name) {
    if (name.len < 2 || name.len > 3 || name.data[0] < 'A' || name.data[0] > 'X') return NULL;
    for (size_t i = 0; i < sizeof inline_macros / sizeof *inline_macros; i++)
        if (span_eq_str(name, inline_macros[i].name)) return &inline_macros[i];
    return NULL;
}

static bool closing(struct span w) { return w.len == 1 && strchr(".,:;)]?!", w.data[0]); }
static bool opening(struct span w) { return w.len == 1 && (w.data[0] == '(' || w.data[0] == '['); }

/* Writes one word with the space that it needs before it. */
static void word_out(struct troff *tr, struct span raw, bool glued) {
    if (glued || tr->no_space) text_join(&tr->t);
    tr->no_space = false;
    bool spacing = !tr->spacing_off;
    if (!tr->t.pre || !raw.len) troff_put(tr, raw);
    else {
        /* verbatim: the spaces between words are ours to write */
        troff_put(tr, raw);
    }
    if (spacing) text_space(&tr->t);
}

/* In verbatim lines text_space says nothing, so words are parted here. */
static void gap(struct troff *tr, bool *first, bool glued) {
    if (tr->t.pre && !*first && !glued && !tr->no_space && !tr->spacing_off) text_put(&tr->t, SPAN(" "));
    *first = false;
}

static const char *library(struct span w) {
    static const char *const table[][2] = {{"libc", "Standard C Library (libc, -lc)"}, {"libm", "Math Library (libm, -lm)"}, {"libutil", "System Utilities Library (libutil, -lutil)"},
                                           {"libpthread", "POSIX Threads Library (libpthread, -lpthread)"}, {"libbsd", "Utility functions from BSD systems (libbsd, -lbsd)"}};
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (span_eq_str(w, table[i][0])) return table[i][1];
    return NULL;
}

static const char *standard(struct span w) {
    static const char *const table[][2] = {
        {"-ansiC", "ANSI X3.159-1989 (“ANSI C89”)"}, {"-ansiC-89", "ANSI X3.159-1989 (“ANSI C89”)"}, {"-isoC", "ISO/IEC 9899:1990 (“ISO C90”)"}, {"-isoC-90", "ISO/IEC 9899:1990 (“ISO C90”)"},
        {"-isoC-99", "ISO/IEC 9899:1999 (“ISO C99”)"}, {"-isoC-2011", "ISO/IEC 9899:2011 (“ISO C11”)"}, {"-p1003.1", "IEEE Std 1003.1 (“POSIX.1”)"}, {"-p1003.1-88", "IEEE Std 1003.1-1988 (“POSIX.1”)"},
        {"-p1003.1-90", "IEEE Std 1003.1-1990 (“POSIX.1”)"}, {"-p1003.1-2001", "IEEE Std 1003.1-2001 (“POSIX.1”)"}, {"-p1003.1-2004", "IEEE Std 1003.1-2004 (“POSIX.1”)"},
        {"-p1003.1-2008", "IEEE Std 1003.1-2008 (“POSIX.1”)"}, {"-p1003.2", "IEEE Std 1003.2 (“POSIX.2”)"}, {"-p1003.2-92", "IEEE Std 1003.2-1992 (“POSIX.2”)"}, {"-susv2", "Version 2 of the Single UNIX Specification (“SUSv2”)"},
        {"-susv3", "Version 3 of the Single UNIX Specification (“SUSv3”)"}, {"-susv4", "Version 4 of the Single UNIX Specification (“SUSv4”)"}, {"-xpg4", "X/Open Portability Guide Issue 4 (“XPG4”)"}, {"-svid4", "System V Interface Definition, Fourth Edition (“SVID4”)"}};
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (span_eq_str(w, table[i][0])) return table[i][1];
    return NULL;
}

/* A line's words from the i-th on, as macros and text. */
static void words(struct troff *tr, struct span *args, const bool *quoted, int n, const struct inline_macro *macro) {
    const struct inline_macro *enclosures[32];
    int depth = 0, seen = 0; /* words that the present macro has had */
    int last = n; /* closing punctuation at the end stands behind the enclosures */
    while (last > 0 && closing(args[last - 1]) && !quoted[last - 1]) last--;
    bool first = true, glued = false;
    const struct inline_macro *present = macro;
    int i = 0;
    for (;; i++) {
        /* a macro has been named: what it does before its words */
        if (i == 0 || (i < n && present && seen == -1)) {
            seen = 0;
            if (present && present->shape == SHAPE_ENCLOSE) {
                gap(tr, &first, glued);
                word_out(tr, span_str(present->open), glued);
                tr->no_space = true;
                if (depth < 32) enclosures[depth++] = present;
                present = NULL;
            } else if (present && present->shape == SHAPE_OPEN) {
                gap(tr, &first, glued);
                if (present->open[0]) {
                    word_out(tr, span_str(present->open), glued);
                    tr->no_space = true;
                }
                present = NULL;
            } else if (present && present->shape == SHAPE_CLOSE) {
                if (present->close[0]) word_out(tr, span_str(present->close), true);
                present = NULL;
            } else if (present && present->shape == SHAPE_NO_SPACE) {
                tr->no_space = true;
                present = NULL;
            } else if (present && present->shape == SHAPE_FONT) { /* Ap */
                word_out(tr, SPAN("'"), true);
                tr->no_space = true;
                present = NULL;
            } else if (present && present->shape == SHAPE_TAB) {
                gap(tr, &first, false);
                word_out(tr, SPAN("|"), false);
                present = NULL;
            }
            glued = false;
        }
        if (i >= n) break;
        struct span w = args[i];
        if (i == last) {
            while (depth > 0) word_out(tr, span_str(enclosures[--depth]->close), true);
        }
        const struct inline_macro *next = quoted[i] ? NULL : find_inline(w);
        bool punctuation = !quoted[i] && closing(w);
        /* a macro that shows something even without words */
        bool wordless = next || (punctuation && i >= last) || punctuation;
        if (present && seen == 0 && wordless) {
            if (present->shape == SHAPE_NAME && tr->name[0]) {
                gap(tr, &first, false);
                word_out(tr, span_str(tr->name), false);
            } else if (present->shape == SHAPE_FLAG) {
                gap(tr, &first, false);
                word_out(tr, SPAN("-"), false);
                if (next) tr->no_space = true;
            } else if (present->shape == SHAPE_ARGUMENT) {
                gap(tr, &first, false);
                word_out(tr, SPAN("file ..."), false);
            } else if (present->shape == SHAPE_SYSTEM) {
                gap(tr, &first, false);
                word_out(tr, span_str(present->open), false);
            }
            seen = 1;
        }
        if (next) {
            present = next;
            seen = -1;
            /* its own begin is done when the loop comes round; where it is the line's last word, now */
            if (i + 1 == n) {
                switch (next->shape) {
                case SHAPE_NAME: gap(tr, &first, false); word_out(tr, span_str(tr->name), false); break;
                case SHAPE_FLAG: gap(tr, &first, false); word_out(tr, SPAN("-"), false); break;
                case SHAPE_ARGUMENT: gap(tr, &first, false); word_out(tr, SPAN("file ..."), false); break;
                case SHAPE_SYSTEM: gap(tr, &first, false); word_out(tr, span_str(next->open), false); break;
                case SHAPE_CLOSE: if (next->close[0]) word_out(tr, span_str(next->close), true); break;
                case SHAPE_OPEN:
                    if (next->open[0]) {
                        gap(tr, &first, false);
                        word_out(tr, span_str(next->open), false);
                        tr->no_space = true;
                    }
                    break;
                case SHAPE_ENCLOSE: gap(tr, &first, false); word_out(tr, span_str(next->open), false); word_out(tr, span_str(next->close), true); break;
                case SHAPE_NO_SPACE: tr->no_space = true; break;
                case SHAPE_FONT: word_out(tr, SPAN("'"), true); tr->no_space = true; break;
                default: break;
                }
                present = NULL;
            }
            continue;
        }
        if (punctuation) {
            word_out(tr, w, true);
            first = false;
            continue;
        }
        if (!quoted[i] && span_eq_str(w, "|")) {
            gap(tr, &first, false);
            word_out(tr, w, false);
            seen = 0;
            continue;
        }
        gap(tr, &first, false);
        bool open_mark = !quoted[i] && opening(w);
        switch (present && !open_mark ? present->shape : SHAPE_PLAIN) {
        case SHAPE_FLAG: {
            char flag[512];
            size_t k = w.len < sizeof flag - 2 ? w.len : sizeof flag - 2;
            flag[0] = '-';
            memcpy(flag + 1, w.data, k);
            word_out(tr, span_of(flag, k + 1), false);
            break;
        }
        case SHAPE_XREF:
            if (seen == 0) {
                word_out(tr, w, false);
                if (i + 1 < n && !(closing(args[i + 1])) && (args[i + 1].len <= 8)) {
                    word_out(tr, SPAN("("), true);
                    word_out(tr, args[i + 1], true);
                    word_out(tr, SPAN(")"), true);
                    i++;
                }
                present = NULL;
            }
            break;
        case SHAPE_FUNCTION:
            if (seen == 0) {
                word_out(tr, w, false);
                word_out(tr, SPAN("("), true);
                int given = 0;
                while (i + 1 < last && !(!quoted[i + 1] && find_inline(args[i + 1])) && !(!quoted[i + 1] && closing(args[i + 1]))) {
                    i++;
                    if (given++) word_out(tr, SPAN(","), true);
                    if (tr->t.pre && given > 1) text_put(&tr->t, SPAN(" "));
                    word_out(tr, args[i], given == 1);
                }
                word_out(tr, tr->in_synopsis ? SPAN(");") : SPAN(")"), true);
                present = NULL;
            }
            break;
        case SHAPE_INCLUDE:
            if (tr->in_synopsis && seen == 0) {
                word_out(tr, SPAN("#include"), false);
                if (tr->t.pre) text_put(&tr->t, SPAN(" "));
            }
            word_out(tr, SPAN("<"), false);
            word_out(tr, w, true);
            word_out(tr, SPAN(">"), true);
            break;
        case SHAPE_PREFIX:
            word_out(tr, w, false);
            tr->no_space = true;
            present = NULL;
            break;
        case SHAPE_SYSTEM:
            if (seen == 0) {
                if (span_eq_str(span_str(present->open), "BSD")) { /* Bx 4.2: 4.2BSD */
                    word_out(tr, w, false);
                    word_out(tr, SPAN("BSD"), true);
                } else {
                    word_out(tr, span_str(present->open), false);
                    gap(tr, &first, false);
                    word_out(tr, w, false);
                }
            } else
                word_out(tr, w, false);
            break;
        case SHAPE_LINK:
            /* the words, where there are any, else the address */
            if (seen == 0) {
                bool more = i + 1 < last;
                if (!more) word_out(tr, w, false);
            } else
                word_out(tr, w, false);
            break;
        case SHAPE_LIBRARY: word_out(tr, library(w) ? span_str(library(w)) : w, false); break;
        case SHAPE_STANDARD: word_out(tr, standard(w) ? span_str(standard(w)) : w, false); break;
        default: word_out(tr, w, false); break;
        }
        if (open_mark) tr->no_space = true;
        else if (seen >= 0) seen++;
    }
    if (present && seen == 0 && i >= n && n == 0) { /* the macro had no words at all */
        if (present->shape == SHAPE_NAME) word_out(tr, span_str(tr->name), false);
        if (present->shape == SHAPE_FLAG) word_out(tr, SPAN("-"), false);
        if (present->shape == SHAPE_ARGUMENT) word_out(tr, SPAN("file ..."), false);
        if (present->shape == SHAPE_SYSTEM) word_out(tr, span_str(present->open), false);
    }
    while (depth > 0) word_out(tr, span_str(enclosures[--depth]->close), true);
}

static void line_done(struct troff *tr) {
    if (tr->t.pre) {
        if (!tr->in_function) text_put(&tr->t, SPAN("\n"));
    } else if (tr->tag == TAG_EXPECTED) troff_line_end(tr);
    else if (!tr->spacing_off) text_space(&tr->t);
    tr->join = false;
}

static bool has_arg(const struct span *args, int n, const char *what) {
    for (int i = 0; i < n; i++)
        if (span_eq_str(args[i], what)) return true;
    return false;
}

static void item(struct troff *tr, struct span *args, bool *quoted, int n) {
    enum mdoc_list kind = tr->n_lists ? tr->lists[tr->n_lists - 1].kind : LIST_ITEM;
    tr->no_space = false;
    text_pre_end(&tr->t);
    switch (kind) {
    case LIST_BULLET: troff_item(tr, "- ", TEXT_LINE); break;
    case LIST_ENUM: {
        char marker[16];
        int number = ++tr->lists[tr->n_lists - 1].count;
        snprintf(marker, sizeof marker, "%d. ", number < 100000 ? number : 100000);
        troff_item(tr, marker, TEXT_LINE);
        break;
    }
    case LIST_TAG:
        troff_item(tr, "- ", TEXT_LINE);
        if (n) {
            const struct inline_macro *macro = quoted[0] ? NULL : find_inline(args[0]);
            tr->tag = TAG_EXPECTED;
            if (macro) words(tr, args + 1, quoted + 1, n - 1, macro);
            else words(tr, args, quoted, n, NULL);
            if (!has_arg(args, n, "Xo")) tr->tag = TAG_OPEN; /* else the tag goes on to the .Xc */
        }
        break;
    case LIST_COLUMN: {
        /* cells are parted by Ta or tabs; the first word may be a macro */
        troff_item(tr, "", TEXT_LINE);
        const struct inline_macro *macro = n && !quoted[0] ? find_inline(args[0]) : NULL;
        if (macro) words(tr, args + 1, quoted + 1, n - 1, macro);
        else words(tr, args, quoted, n, NULL);
        break;
    }
    default:
        tr->tag = TAG_NONE;
        text_block(&tr->t);
        if (n) {
            const struct inline_macro *macro = quoted[0] ? NULL : find_inline(args[0]);
            if (macro) words(tr, args + 1, quoted + 1, n - 1, macro);
            else words(tr, args, quoted, n, NULL);
        }
        break;
    }
}

bool mdoc_request(struct troff *tr, struct span name, struct span rest) {
    if (name.len < 2 || name.len > 3) return false;
    struct span args[TROFF_ARGS_MAX];
    bool quoted[TROFF_ARGS_MAX];
    if (name.data[0] == '%' && name.len == 2) { /* a reference's parts: "author, title, …" */
        int n = troff_args(rest, args, quoted);
        if (tr->in_reference && name.data[1] != 'U' && n) {
            if (tr->author_split) {
                text_join(&tr->t);
                troff_put(tr, SPAN(","));
                text_space(&tr->t);
            }
            words(tr, args, quoted, n, NULL);
            tr->author_split = true;
        }
        return true;
    }
    if (name.data[0] < 'A' || name.data[0] > 'Z') return false;
    const struct inline_macro *macro = find_inline(name);
    int n = troff_args(rest, args, quoted);
    if (macro) {
        if (macro->shape == SHAPE_TEXT) return true;
        /* .Nm begins a line of the synopsis; .Fn, .Ft and .In are lines there */
        if (tr->in_synopsis && !tr->t.pre && tr->tag == TAG_NONE &&
            (macro->shape == SHAPE_NAME || macro->shape == SHAPE_FUNCTION || macro->shape == SHAPE_INCLUDE || span_eq_str(name, "Ft") || span_eq_str(name, "Vt") || span_eq_str(name, "Fd")))
            text_line(&tr->t);
        if (macro->shape == SHAPE_NAME && n && !closing(args[0])) {
            if (!tr->name[0]) span_copy(tr->name, sizeof tr->name, args[0]);
            else if (tr->x->title[0] && !quoted[0] && span_eq_nocase(args[0], span_str(tr->name))) span_copy(tr->name, sizeof tr->name, args[0]);
        }
        if (span_eq_str(name, "An") && n && args[0].len && args[0].data[0] == '-') return true; /* -split, -nosplit */
        if (span_eq_str(name, "Fa") && tr->in_function) {
            for (int i = 0; i < n; i++) {
                if (tr->function_args) {
                    text_join(&tr->t);
                    troff_put(tr, SPAN(","));
                    if (tr->t.pre) text_put(&tr->t, SPAN(" "));
                    else text_space(&tr->t);
                }
                tr->function_args = true;
                troff_put(tr, args[i]);
            }
            return true;
        }
        words(tr, args, quoted, n, macro);
        if (span_eq_str(name, "Xc") && tr->tag == TAG_EXPECTED) tr->tag = TAG_OPEN;
        else if (tr->tag != TAG_EXPECTED) line_done(tr);
        return true;
    }
    if (span_eq_str(name, "Dd") || span_eq_str(name, "Os") || span_eq_str(name, "Bk") || span_eq_str(name, "Ek") || span_eq_str(name, "Ef") || span_eq_str(name, "Db") || span_eq_str(name, "Hf")) return true;
    if (span_eq_str(name, "Dt")) {
        if (n) troff_title(tr, args[0], n > 1 ? args[1] : SPAN(""));
        return true;
    }
    if (span_eq_str(name, "Sh") || span_eq_str(name, "Ss")) {
        tr->no_space = false;
        tr->n_lists = 0;
        tr->in_function = false;
        text_pre_end(&tr->t);
        troff_heading(tr, name.data[1] == 'h' ? 2 : 3);
        if (name.data[1] == 'h') tr->in_synopsis = n && span_eq_str(args[0], "SYNOPSIS");
        words(tr, args, quoted, n, NULL);
        text_block(&tr->t);
        return true;
    }
    if (span_eq_str(name, "Nd")) {
        if (!tr->t.pre) text_space(&tr->t);
        troff_put(tr, SPAN("-"));
        text_space(&tr->t);
        words(tr, args, quoted, n, NULL);
        line_done(tr);
        return true;
    }
    if (span_eq_str(name, "Pp") || span_eq_str(name, "Lp")) {
        tr->no_space = false;
        troff_break(tr, TEXT_BLOCK);
        return true;
    }
    if (span_eq_str(name, "Bl")) {
        enum mdoc_list kind = LIST_ITEM;
        if (has_arg(args, n, "-bullet") || has_arg(args, n, "-dash") || has_arg(args, n, "-hyphen")) kind = LIST_BULLET;
        if (has_arg(args, n, "-enum")) kind = LIST_ENUM;
        if (has_arg(args, n, "-tag") || has_arg(args, n, "-hang") || has_arg(args, n, "-ohang") || has_arg(args, n, "-inset") || has_arg(args, n, "-diag")) kind = LIST_TAG;
        if (has_arg(args, n, "-column")) kind = LIST_COLUMN;
        if (tr->n_lists < NESTING_MAX) {
            tr->lists[tr->n_lists].kind = kind;
            tr->lists[tr->n_lists++].count = 0;
        }
        troff_break(tr, TEXT_BLOCK);
        return true;
    }
    if (span_eq_str(name, "El")) {
        if (tr->n_lists) tr->n_lists--;
        tr->tag = TAG_NONE;
        troff_break(tr, tr->n_lists ? TEXT_LINE : TEXT_BLOCK);
        return true;
    }
    if (span_eq_str(name, "It")) {
        item(tr, args, quoted, n);
        return true;
    }
    if (span_eq_str(name, "Bd")) {
        bool literal = has_arg(args, n, "-literal") || has_arg(args, n, "-unfilled");
        if (literal) {
            troff_settle(tr);
            text_pre_begin(&tr->t);
        } else
            troff_break(tr, TEXT_BLOCK);
        return true;
    }
    if (span_eq_str(name, "Ed")) {
        text_pre_end(&tr->t);
        troff_break(tr, TEXT_BLOCK);
        return true;
    }
    if (span_eq_str(name, "Dl") || span_eq_str(name, "D1")) {
        troff_settle(tr);
        bool pre = tr->t.pre;
        text_pre_begin(&tr->t);
        const struct inline_macro *first = n && !quoted[0] ? find_inline(args[0]) : NULL;
        if (first) words(tr, args + 1, quoted + 1, n - 1, first);
        else if (span_eq_str(name, "Dl")) troff_put(tr, rest);
        else words(tr, args, quoted, n, NULL);
        text_put(&tr->t, SPAN("\n"));
        if (!pre) text_pre_end(&tr->t);
        return true;
    }
    if (span_eq_str(name, "Fo")) {
        if (tr->in_synopsis && !tr->t.pre) text_line(&tr->t);
        if (n) troff_put(tr, args[0]);
        text_join(&tr->t);
        troff_put(tr, SPAN("("));
        tr->in_function = true;
        tr->function_args = false;
        return true;
    }
    if (span_eq_str(name, "Fc")) {
        text_join(&tr->t);
        troff_put(tr, tr->in_synopsis ? SPAN(");") : SPAN(")"));
        tr->in_function = false;
        words(tr, args, quoted, n, NULL);
        line_done(tr);
        return true;
    }
    if (span_eq_str(name, "Fd")) {
        if (!tr->t.pre) text_line(&tr->t);
        words(tr, args, quoted, n, NULL);
        if (!tr->t.pre) text_line(&tr->t);
        else line_done(tr);
        return true;
    }
    if (span_eq_str(name, "Ex")) {
        troff_put(tr, SPAN("The"));
        text_space(&tr->t);
        troff_put(tr, n > 1 ? args[1] : span_str(tr->name));
        text_space(&tr->t);
        troff_put(tr, SPAN("utility exits 0 on success, and >0 if an error occurs."));
        line_done(tr);
        return true;
    }
    if (span_eq_str(name, "Rv")) {
        troff_put(tr, SPAN("The"));
        text_space(&tr->t);
        troff_put(tr, n > 1 ? args[1] : span_str(tr->name));
        troff_put(tr, SPAN("() function returns the value 0 if successful; otherwise the value -1 is returned and the global variable errno is set to indicate the error."));
        line_done(tr);
        return true;
    }
    if (span_eq_str(name, "Rs")) {
        tr->in_reference = true;
        tr->author_split = false;
        if (tr->tag == TAG_NONE) troff_break(tr, TEXT_LINE);
        return true;
    }
    if (span_eq_str(name, "Re")) {
        tr->in_reference = false;
        if (tr->author_split) {
            text_join(&tr->t);
            troff_put(tr, SPAN("."));
        }
        line_done(tr);
        return true;
    }
    if (span_eq_str(name, "Sm")) {
        tr->spacing_off = n ? span_eq_str(args[0], "off") : !tr->spacing_off;
        if (!tr->spacing_off) text_space(&tr->t);
        return true;
    }
    if (span_eq_str(name, "Bt")) {
        troff_put(tr, SPAN("is currently in beta test."));
        line_done(tr);
        return true;
    }
    if (span_eq_str(name, "Ud")) {
        troff_put(tr, SPAN("currently under development."));
        line_done(tr);
        return true;
    }
    return false;
}
