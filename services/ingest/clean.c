#include "services/ingest/clean.h"

#include "services/ingest/language.h"
#include "services/ingest/normalise.h"
#include "services/ingest/quality.h"

void clean_init(struct clean_result *r) {
    *r = (struct clean_result){0};
    buf_init(&r->text, CLEAN_TEXT_MAX);
}

void clean_fini(struct clean_result *r) { buf_fini(&r->text); }

static void reject(struct clean_result *r, enum reason reason, const char *detail) {
    r->reason = reason;
    if (detail && !r->detail[0]) span_copy(r->detail, sizeof r->detail, span_str(detail));
    buf_clear(&r->text);
}

/* The first line where it looks like a title, else the file's name. */
static void make_title(struct clean_result *r, struct span source) {
    if (r->title[0]) return;
    struct span rest = buf_span(&r->text), line;
    if (r->media != MEDIA_SOURCE && r->media != MEDIA_JSONL && r->media != MEDIA_CSV && span_cut(&rest, '\n', &line)) {
        bool marked = span_starts(line, SPAN("# "));
        struct span words = span_trim(marked ? span_skip(line, 2) : line);
        if (words.len && (marked || (words.len <= 80 && words.data[words.len - 1] != '.' && (!rest.len || rest.data[0] == '\n')))) {
            span_copy(r->title, sizeof r->title, words);
            r->title[span_utf8_complete(span_str(r->title))] = 0;
            return;
        }
    }
    span_copy(r->title, sizeof r->title, detect_base_name(source));
}

/* Titles go into records and prompts: one line, no control characters, personal data gone, no half character at its end. */
static void tidy_title(struct clean_result *r) {
    struct buf b;
    buf_init(&b, 2048);
    struct span title = span_sub(span_str(r->title), 0, span_utf8_complete(span_str(r->title)));
    uint64_t unused[PERSONAL_COUNT] = {0};
    if (span_is_utf8(title)) personal_redact(title, &b, unused);
    struct buf clean;
    buf_init(&clean, 2048);
    normalise_text(buf_span(&b), false, &clean);
    struct span s = span_trim(buf_span(&clean));
    for (size_t i = 0; i < s.len; i++)
        if ((unsigned char)clean.data[clean.start + i] < 32) clean.data[clean.start + i] = ' ';
    span_copy(r->title, sizeof r->title, s);
    r->title[span_utf8_complete(span_str(r->title))] = 0;
    buf_fini(&clean);
    buf_fini(&b);
}

int clean_document(struct span bytes, struct span source, struct span media_type, struct clean_result *r) {
    struct buf opened, utf8, extracted, redacted;
    buf_init(&opened, CLEAN_TEXT_MAX + 1);
    buf_init(&utf8, CLEAN_TEXT_MAX * 2);
    buf_init(&extracted, CLEAN_TEXT_MAX);
    buf_init(&redacted, CLEAN_TEXT_MAX);
    enum reason reason = REASON_NONE;
    struct detected d;
    struct span content = bytes;
    if (detect_gzip(content)) {
        reason = gunzip(content, CLEAN_TEXT_MAX, &opened);
        if (opened.failed == E_NOMEM) goto out;
        content = buf_span(&opened);
        if (reason) {
            reject(r, reason, reason == REASON_BAD_ARCHIVE ? "gzip" : "decompressed");
            goto out;
        }
    } else if (content.len > CLEAN_TEXT_MAX) {
        reject(r, REASON_TOO_LARGE, "as received");
        goto out;
    }
    detect_media(source, content, media_type, &d);
    r->media = d.media;
    if (d.media == MEDIA_BINARY || d.media == MEDIA_UNKNOWN) {
        reject(r, d.media == MEDIA_BINARY ? REASON_BINARY : REASON_UNSUPPORTED, NULL);
        if (d.media == MEDIA_BINARY) span_copy(r->detail, sizeof r->detail, span_str(d.what));
        goto out;
    }
    struct span text;
    reason = normalise_decode(content, &utf8, &text, &r->repaired);
    if (utf8.failed == E_NOMEM) goto out;
    if (utf8.failed) reason = REASON_TOO_LARGE;
    if (reason) {
        reject(r, reason, NULL);
        goto out;
    }
    struct extracted x = {.text = &extracted};
    struct span plain;
    switch (d.media) {
    case MEDIA_MARKDOWN: reason = extract_markdown(text, &x); break;
    case MEDIA_HTML: reason = extract_html(text, &x); break;
    case MEDIA_TROFF: reason = extract_troff(text, &x); break;
    case MEDIA_JSONL: reason = extract_jsonl(text, &x); break;
    case MEDIA_CSV: reason = extract_csv(text, d.delimiter, &x); break;
    case MEDIA_TEXT: reason = extract_text(text, &x); break;
    default: break;
    }
    plain = d.media == MEDIA_SOURCE ? text : buf_span(&extracted);
    r->rows = x.rows;
    r->rows_bad = x.rows_bad;
    span_copy(r->title, sizeof r->title, span_str(x.title));
    if (extracted.failed && extracted.failed != E_NOMEM) reason = REASON_TOO_LARGE;
    if (extracted.failed == E_NOMEM) goto out;
    if (reason) {
        reject(r, reason, NULL);
        goto out;
    }
    personal_redact(plain, &redacted, r->redactions);
    if (redacted.failed == E_NOMEM) goto out;
    if (redacted.failed) {
        reject(r, REASON_TOO_LARGE, "text");
        goto out;
    }
    normalise_text(buf_span(&redacted), d.media == MEDIA_JSONL || d.media == MEDIA_CSV, &r->text);
    if (r->text.failed == E_NOMEM) goto out;
    if (r->text.failed) {
        reject(r, REASON_TOO_LARGE, "text");
        goto out;
    }
    reason = quality_check(buf_span(&r->text), d.media, r->detail, sizeof r->detail);
    if (reason) {
        make_title(r, source);
        tidy_title(r);
        reject(r, reason, NULL);
        goto out;
    }
    make_title(r, source);
    tidy_title(r);
    if (d.media == MEDIA_SOURCE) span_copy(r->language, sizeof r->language, span_str(d.what));
    else span_copy(r->language, sizeof r->language, span_str(language_of(buf_span(&r->text))));
out:;
    bool no_memory = opened.failed == E_NOMEM || utf8.failed == E_NOMEM || extracted.failed == E_NOMEM || redacted.failed == E_NOMEM || r->text.failed == E_NOMEM;
    buf_fini(&opened);
    buf_fini(&utf8);
    buf_fini(&extracted);
    buf_fini(&redacted);
    return no_memory ? E_NOMEM : 0;
}
