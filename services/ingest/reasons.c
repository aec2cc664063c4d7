#include "services/ingest/reasons.h"

#include <string.h>

static const struct {
    const char *word, *doc;
} table[REASON_COUNT] = {
    [REASON_NONE] = {"", ""},
    [REASON_BINARY] = {"binary", "The content is no text: a known magic number, NUL bytes or many control characters."},
    [REASON_NOT_UTF8] = {"not_utf8", "The bytes are neither UTF-8 nor UTF-16 with its mark nor Latin-1 by their look."},
    [REASON_BAD_ARCHIVE] = {"bad_archive", "The gzip stream is damaged or cut."},
    [REASON_TOO_LARGE] = {"too_large", "The document is above the size limit, as it came or once decompressed."},
    [REASON_UNSUPPORTED] = {"unsupported", "The media type that the client named is none that is read."},
    [REASON_REDIRECT] = {"redirect", "A manual page or web page that only points at another one."},
    [REASON_BAD_ROWS] = {"bad_rows", "JSONL or CSV without a single usable row."},
    [REASON_EMPTY] = {"empty", "Nothing was left once markup and white space were gone."},
    [REASON_TOO_SHORT] = {"too_short", "Fewer letters than a sentence has."},
    [REASON_MOSTLY_SYMBOLS] = {"mostly_symbols", "Letters are a minority: tables of numbers, drawings, dumps."},
    [REASON_REPEATED_LINES] = {"repeated_lines", "Most of the text is the same few lines again."},
    [REASON_LONG_WORDS] = {"long_words", "Most of the text is in runs without a space: base64, hex, minified code."},
    [REASON_BROKEN_TEXT] = {"broken_text", "Many characters had been lost before it came here (U+FFFD)."},
    [REASON_DUPLICATE] = {"duplicate", "The same text, but for case and white space, is in the dataset already."},
    [REASON_POISON] = {"poison", "The service ended on this document several times; it is not tried again."},
};

const char *reason_word(enum reason r) { return table[r].word; }
const char *reason_doc(enum reason r) { return table[r].doc; }

enum reason reason_of(const char *word) {
    for (int i = 1; i < REASON_COUNT; i++)
        if (!strcmp(table[i].word, word)) return (enum reason)i;
    return REASON_NONE;
}
