#include "services/ingest/pairs.h"

#include "services/ingest/text.h"

/* ---- blocks of a text (text.h's small Markdown) ---- */

enum kind { KIND_HEADING, KIND_PARAGRAPH, KIND_ITEM, KIND_CODE, KIND_END };
struct block {
    enum kind kind;
    int level;
    struct span text; /* of a heading without its mark; of code all its lines */
};

static bool numbered(struct span line) {
    size_t n = 0;
    while (n < line.len && n < 6 && line.data[n] >= '0' && line.data[n] <= '9') n++;
    return n && n + 1 < line.len && line.data[n] == '.' && line.data[n + 1] == ' ';
}

static bool next_block(struct span *rest, struct block *b) {
    struct span line;
    for (;;) {
        struct span before = *rest;
        if (!span_cut(rest, '\n', &line)) return false;
        if (!span_trim(line).len) continue;
        *b = (struct block){.kind = KIND_PARAGRAPH, .text = line};
        if (line.data[0] == '#') {
            size_t level = 0;
            while (level < line.len && line.data[level] == '#') level++;
            if (level <= 6 && level < line.len && line.data[level] == ' ') {
                b->kind = KIND_HEADING;
                b->level = (int)level;
                b->text = span_trim(span_skip(line, level));
            }
        } else if (span_starts(line, SPAN("- ")) || numbered(line))
            b->kind = KIND_ITEM;
        else if (span_starts(line, SPAN("    "))) {
            /* code goes on over empty lines as long as indented ones follow */
            b->kind = KIND_CODE;
            struct span ahead = *rest, end = *rest;
            while (span_cut(&ahead, '\n', &line)) {
                if (span_starts(line, SPAN("    "))) end = ahead;
                else if (span_trim(line).len) break;
            }
            b->text = span_sub(before, 0, before.len - end.len);
            while (b->text.len && b->text.data[b->text.len - 1] == '\n') b->text.len--;
            *rest = end;
        }
        return true;
    }
}

/* ---- pairs ---- */

struct draw {
    struct span title, name, text;
    void *arg;
    int (*on_pair)(void *arg, const struct span *turns, int n);
    int count, stopped;
    struct buf question, answer;
};

static void put_pair(struct draw *d) {
    struct span turns[2] = {span_trim(buf_span(&d->question)), span_trim(buf_span(&d->answer))};
    if (d->stopped || d->question.failed || d->answer.failed || turns[0].len < 4 || turns[1].len < PAIR_ANSWER_MIN || d->count >= PAIRS_PER_TEXT_MAX) return;
    d->count++;
    d->stopped = d->on_pair(d->arg, turns, 2);
}

/* The first block from *rest on and, where it ends with a colon, what it announces. *rest stays behind what was taken. */
static bool take_answer(struct draw *d, struct span *rest) {
    buf_clear(&d->answer);
    struct block b;
    struct span ahead = *rest;
    bool announced = false;
    while (next_block(&ahead, &b) && b.kind != KIND_HEADING) {
        if (d->answer.len && !announced) break;
        if (d->answer.len && announced && b.kind == KIND_PARAGRAPH) break;
        if (d->answer.len + b.text.len + 2 > PAIR_ANSWER_MAX) {
            if (!d->answer.len) *rest = ahead;
            break;
        }
        if (d->answer.len) buf_append_str(&d->answer, b.kind == KIND_ITEM ? "\n" : "\n\n");
        buf_append_span(&d->answer, b.text);
        if (!announced) announced = b.text.len && (b.text.data[b.text.len - 1] == ':' || b.kind == KIND_ITEM);
        *rest = ahead;
    }
    if (!d->answer.len) return false;
    /* announced, but nothing that fits came */
    return d->answer.data[d->answer.start + d->answer.len - 1] != ':';
}

/* Headings of manual pages and how one asks for what stands there; %s is the name. NULL: nobody asks. */
static const struct {
    const char *heading, *question;
} manual[] = {
    {"DESCRIPTION", "What does %s do?"}, {"SYNOPSIS", "How is %s called?"}, {"RETURN VALUE", "What does %s return?"}, {"RETURN VALUES", "What does %s return?"},
    {"EXIT STATUS", "Which exit status does %s give?"}, {"FILES", "Which files does %s use?"}, {"ENVIRONMENT", "Which environment variables does %s heed?"},
    {"BUGS", "What are the known bugs of %s?"}, {"NOTES", "What should one know about %s?"}, {"EXAMPLES", "Show an example of %s."}, {"EXAMPLE", "Show an example of %s."},
    {"HISTORY", "What is the history of %s?"}, {"STANDARDS", "Which standards does %s follow?"}, {"CONFORMING TO", "Which standards does %s follow?"}, {"CAVEATS", "What must one be careful about with %s?"},
    {"SECURITY CONSIDERATIONS", "Is %s safe to use?"}, {"DIAGNOSTICS", "Which messages does %s give?"}, {"SEE ALSO", "What is related to %s?"}, {"ERRORS", "Which errors can %s give?"},
    {"OPTIONS", "Which options does %s have?"}, {"NAME", NULL}, {"AUTHOR", NULL}, {"AUTHORS", NULL}, {"COPYRIGHT", NULL}, {"REPORTING BUGS", NULL}, {"COLOPHON", NULL}, {"LIBRARY", NULL},
    {"ATTRIBUTES", NULL}, {"VERSIONS", "Since when is there %s?"}, {"LICENSE", NULL}, {"GIT", NULL}, {"POD ERRORS", NULL},
};

static const char *manual_question(struct span heading, bool *known) {
    *known = true;
    for (size_t i = 0; i < sizeof manual / sizeof *manual; i++)
        if (span_eq_nocase(heading, span_str(manual[i].heading))) return manual[i].question;
    *known = false;
    return NULL;
}

static void put_question(struct buf *q, const char *format, struct span name) {
    buf_clear(q);
    const char *mark = strstr(format, "%s");
    buf_append(q, format, (size_t)(mark - format));
    buf_append_span(q, name);
    buf_append_str(q, mark + 2);
}

/* ABC DEF is how manuals shout; one asks for "abc def". */
static void put_lower(struct buf *q, struct span s) {
    bool shouted = true;
    for (size_t i = 0; i < s.len; i++) shouted &= !(s.data[i] >= 'a' && s.data[i] <= 'z');
    for (size_t i = 0; i < s.len; i++) {
        char c = s.data[i];
        buf_append_char(q, shouted && c >= 'A' && c <= 'Z' ? (char)(c + 32) : c);
    }
}

/* "- tag: body" */
static bool split_item(struct span item, struct span *tag, struct span *body) {
    if (!span_starts(item, SPAN("- "))) return false;
    item = span_skip(item, 2);
    ptrdiff_t at = span_find(item, SPAN(": "));
    if (at <= 0 || at > 80) return false;
    *tag = span_sub(item, 0, (size_t)at);
    *body = span_trim(span_skip(item, (size_t)at + 2));
    return true;
}

static void manual_item(struct draw *d, struct span item, struct span heading) {
    struct span tag, body;
    if (!split_item(item, &tag, &body) || body.len < PAIR_ANSWER_MIN || body.len > PAIR_ANSWER_MAX || body.data[body.len - 1] == ':') return;
    if (span_starts(tag, d->name)) return; /* an example's command line */
    buf_clear(&d->question);
    if (tag.data[0] == '-') buf_printf(&d->question, "What does the option %.*s of %.*s do?", SPAN_ARG(tag), SPAN_ARG(d->name));
    else if (tag.len > 2 && tag.data[0] == 'E' && tag.data[1] >= 'A' && tag.data[1] <= 'Z' && span_find_char(tag, ' ') < 0)
        buf_printf(&d->question, "When does %.*s give %.*s?", SPAN_ARG(d->name), SPAN_ARG(tag));
    else if (span_eq_str(heading, "FILES") && tag.data[0] == '/')
        buf_printf(&d->question, "What is the file %.*s of %.*s?", SPAN_ARG(tag), SPAN_ARG(d->name));
    else if (span_find_char(tag, ' ') < 0 || tag.len < 32)
        buf_printf(&d->question, "What does %.*s mean in %.*s?", SPAN_ARG(tag), SPAN_ARG(d->name));
    else
        return;
    buf_clear(&d->answer);
    buf_append_span(&d->answer, body);
    put_pair(d);
}

static void draw_manual(struct draw *d) {
    struct span rest = d->text, heading = {0};
    struct block b;
    ptrdiff_t bracket = span_find_char(d->title, '(');
    d->name = bracket > 0 ? span_sub(d->title, 0, (size_t)bracket) : d->title;
    while (!d->stopped && next_block(&rest, &b)) {
        if (b.kind == KIND_ITEM) {
            manual_item(d, b.text, heading);
            continue;
        }
        if (b.kind != KIND_HEADING || b.level < 2) continue;
        heading = b.text;
        if (span_eq_str(heading, "NAME")) {
            struct span ahead = rest;
            ptrdiff_t dash;
            if (next_block(&ahead, &b) && b.kind == KIND_PARAGRAPH && (dash = span_find(b.text, SPAN(" - "))) > 0) {
                put_question(&d->question, "What is %s?", d->name);
                buf_clear(&d->answer);
                struct span what = span_trim(span_skip(b.text, (size_t)dash + 3));
                buf_printf(&d->answer, "%.*s: %.*s", SPAN_ARG(d->title), SPAN_ARG(what));
                if (what.len && what.data[what.len - 1] != '.') buf_append_char(&d->answer, '.');
                put_pair(d);
            }
            continue;
        }
        bool known;
        const char *question = manual_question(heading, &known);
        if (known && !question) continue;
        struct span answer_from = rest;
        if (!take_answer(d, &answer_from)) continue;
        if (question) put_question(&d->question, question, d->name);
        else {
            buf_clear(&d->question);
            buf_append_str(&d->question, "What does the manual of ");
            buf_append_span(&d->question, d->name);
            buf_append_str(&d->question, " say about ");
            put_lower(&d->question, heading);
            buf_append_char(&d->question, '?');
        }
        put_pair(d);
    }
}

static void draw_headings(struct draw *d) {
    struct span rest = d->text;
    struct block b;
    bool first = true;
    while (!d->stopped && next_block(&rest, &b)) {
        if (b.kind != KIND_HEADING) {
            first = false;
            continue;
        }
        struct span heading = b.text, answer_from = rest;
        if (span_eq_nocase(heading, SPAN("Table of Contents")) || span_eq_nocase(heading, SPAN("Contents")) || span_eq_nocase(heading, SPAN("Index"))) continue;
        if (!heading.len || heading.len > 160 || !take_answer(d, &answer_from)) continue;
        if (d->answer.len && d->answer.len < 40) continue; /* a label, no answer */
        buf_clear(&d->question);
        char last = heading.data[heading.len - 1];
        /* "2.1.3. Heading": the number means nothing outside its page */
        size_t number = 0;
        while (number < heading.len && ((heading.data[number] >= '0' && heading.data[number] <= '9') || heading.data[number] == '.')) number++;
        if (number && number < heading.len && heading.data[number] == ' ') heading = span_trim(span_skip(heading, number));
        if (last == '?') buf_append_span(&d->question, heading);
        else if ((first && b.level == 1) || span_eq(heading, d->title) || !d->title.len) {
            buf_append_str(&d->question, "What is “");
            buf_append_span(&d->question, heading);
            buf_append_str(&d->question, "” about?");
        } else {
            buf_append_str(&d->question, "What does “");
            buf_append_span(&d->question, d->title);
            buf_append_str(&d->question, "” say about ");
            buf_append_span(&d->question, heading);
            buf_append_char(&d->question, '?');
        }
        first = false;
        put_pair(d);
    }
}

static int draw_turns(struct span text, void *arg, int (*on_pair)(void *arg, const struct span *turns, int n)) {
    struct span turns[PAIR_TURNS_MAX], rest = text, turn;
    int n = 0;
    while (n < PAIR_TURNS_MAX && span_cut(&rest, TEXT_TURN, &turn)) {
        turn = span_trim(turn);
        if (!turn.len) break;
        turns[n++] = turn;
    }
    n -= n % 2; /* ends with an answer */
    return n ? on_pair(arg, turns, n) : 0;
}

int pairs_draw(struct span title, struct span text, enum media media, void *arg, int (*on_pair)(void *arg, const struct span *turns, int n)) {
    if (memchr(text.data ? text.data : "", TEXT_TURN, text.len)) return draw_turns(text, arg, on_pair);
    if (media != MEDIA_TROFF && media != MEDIA_MARKDOWN && media != MEDIA_HTML) return 0;
    struct draw d = {.title = title, .text = text, .arg = arg, .on_pair = on_pair};
    buf_init(&d.question, 1024);
    buf_init(&d.answer, PAIR_ANSWER_MAX + 512);
    if (media == MEDIA_TROFF) draw_manual(&d);
    else draw_headings(&d);
    buf_fini(&d.question);
    buf_fini(&d.answer);
    return d.stopped;
}
