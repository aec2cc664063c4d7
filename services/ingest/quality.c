#include "services/ingest/quality.h"

#include <stdio.h>

#include "base/alloc.h"

struct limits {
    uint64_t letters_min;     /* a sentence has so many */
    double letters_share_min; /* of what is not white space */
    double repeated_max;      /* share of bytes in lines that stood before */
    double long_max;          /* share of bytes in words above LONG_WORD_BYTES */
};
enum { LONG_WORD_BYTES = 120, REPEATED_LINES_MIN = 12, LINE_BYTES_MIN = 4 };

static const struct limits *limits_of(enum media m) {
    static const struct limits prose = {32, 0.5, 0.6, 0.4}, source = {32, 0.25, 0.8, 0.6}, rows = {8, 0.2, 0.9, 0.6};
    return m == MEDIA_SOURCE ? &source : m == MEDIA_CSV || m == MEDIA_JSONL ? &rows : &prose;
}

/* Bytes of lines that stood before, by hash; 0 where there are too few lines to say or no memory. */
static uint64_t repeated_bytes(struct span text, uint64_t *counted) {
    struct span rest = text, line;
    size_t lines = 0;
    *counted = 0;
    while (span_cut(&rest, '\n', &line)) lines += line.len >= LINE_BYTES_MIN;
    if (lines < REPEATED_LINES_MIN) return 0;
    size_t slots = 64;
    while (slots < lines * 2) slots *= 2;
    uint64_t *seen = mem_calloc(slots, sizeof *seen), repeated = 0;
    if (!seen) return 0;
    rest = text;
    while (span_cut(&rest, '\n', &line)) {
        line = span_trim(line);
        if (line.len < LINE_BYTES_MIN) continue;
        *counted += line.len;
        uint64_t h = span_hash(line) | 1;
        size_t i = (size_t)(h >> 7) & (slots - 1);
        while (seen[i] && seen[i] != h) i = (i + 1) & (slots - 1);
        if (seen[i]) repeated += line.len;
        seen[i] = h;
    }
    mem_free(seen);
    return repeated;
}

enum reason quality_check(struct span text, enum media media, char *detail, size_t detail_size) {
    const struct limits *l = limits_of(media);
    uint64_t letters = 0, visible = 0, long_bytes = 0, lost = 0, characters = 0, word = 0;
    for (size_t i = 0; i < text.len; i++) {
        unsigned char c = (unsigned char)text.data[i];
        if (c <= ' ') {
            if (word > LONG_WORD_BYTES) long_bytes += word;
            word = 0;
            continue;
        }
        if ((c & 0xc0) != 0x80) {
            visible++;
            characters++;
            bool wide = c >= 0x80;
            if (c == 0xef && i + 2 < text.len && !memcmp(text.data + i, "\xef\xbf\xbd", 3)) {
                lost++;
                wide = false;
            }
            /* punctuation, arrows and drawings (U+2000 to U+2FFF) are no letters */
            if (c == 0xe2 && i + 1 < text.len && (unsigned char)text.data[i + 1] < 0xb0) wide = false;
            if (wide || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z')) letters++;
            if (c < 0x80) word++; /* scripts that write without spaces have no long words */
        }
    }
    if (word > LONG_WORD_BYTES) long_bytes += word;
    if (!visible) return REASON_EMPTY;
    enum reason r = REASON_NONE;
    uint64_t counted, repeated = repeated_bytes(text, &counted);
    if (lost > 10 && lost * 200 > characters) {
        r = REASON_BROKEN_TEXT;
        snprintf(detail, detail_size, "%llu of %llu characters are U+FFFD", (unsigned long long)lost, (unsigned long long)characters);
    } else if (letters < l->letters_min) {
        r = REASON_TOO_SHORT;
        snprintf(detail, detail_size, "%llu letters, at least %llu are wanted", (unsigned long long)letters, (unsigned long long)l->letters_min);
    } else if ((double)long_bytes > l->long_max * (double)visible) {
        r = REASON_LONG_WORDS;
        snprintf(detail, detail_size, "%.0f %% of the text is in words above %d bytes", 100.0 * (double)long_bytes / (double)visible, LONG_WORD_BYTES);
    } else if ((double)letters < l->letters_share_min * (double)visible) {
        r = REASON_MOSTLY_SYMBOLS;
        snprintf(detail, detail_size, "%.0f %% letters, at least %.0f %% are wanted", 100.0 * (double)letters / (double)visible, 100 * l->letters_share_min);
    } else if (counted && (double)repeated > l->repeated_max * (double)counted) {
        r = REASON_REPEATED_LINES;
        snprintf(detail, detail_size, "%.0f %% of the text stood before", 100.0 * (double)repeated / (double)counted);
    }
    return r;
}
