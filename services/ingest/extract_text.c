/* Plain text is taken as it is, but for what terminals and printers wanted: overstrikes (x BS x), ANSI escapes, form feeds. */
#include "services/ingest/extract.h"

enum reason extract_text(struct span in, struct extracted *x) {
    struct buf *out = x->text;
    size_t i = 0, from = 0;
    while (i < in.len) {
        unsigned char c = (unsigned char)in.data[i];
        if (c >= 32 || c == '\n' || c == '\t') {
            i++;
            continue;
        }
        buf_append(out, in.data + from, i - from);
        if (c == '\b') {
            /* The character before it was struck over: it goes, what follows stays. "_\bx" and "x\bx" both give x. */
            if (i > 0 && out->len && out->data[out->start + out->len - 1] != '\n') {
                do out->len--;
                while (out->len && ((unsigned char)out->data[out->start + out->len] & 0xc0) == 0x80);
            }
            i++;
        } else if (c == 27) {
            i++;
            if (i < in.len && in.data[i] == '[') { /* CSI: parameters, then one final byte */
                i++;
                while (i < in.len && in.data[i] >= 0x20 && in.data[i] < 0x40) i++;
                if (i < in.len && (unsigned char)in.data[i] >= 0x40 && (unsigned char)in.data[i] < 0x7f) i++;
            } else if (i < in.len && in.data[i] >= 0x40 && (unsigned char)in.data[i] < 0x7f)
                i++;
        } else if (c == '\f' || c == '\v') {
            buf_append(out, "\n\n", 2);
            i++;
        } else
            i++; /* a lone control character; \r is normalise.c's and stays in its place as a newline */
        if (c == '\r') {
            if (i >= in.len || in.data[i] != '\n') buf_append_char(out, '\n');
        }
        from = i;
    }
    buf_append(out, in.data + from, in.len - from);
    return REASON_NONE;
}
