/* tokenizer.json: what is read is written to what reads as the same tokenizer, and encodes and decodes without harm. The input up to its first NUL is the file,
 * the rest a text. */
#include "base/alloc.h"
#include "tokenizer/tokenizer.h"

static void use(const struct tokenizer *t, struct span text) {
    struct tokens ids = {0};
    struct buf whole, streamed;
    buf_init(&whole, 1 << 22);
    buf_init(&streamed, 1 << 22);
    for (unsigned flags = 0; flags < 8; flags++) {
        tokens_clear(&ids);
        if (tokenizer_encode(t, text, flags, &ids, NULL)) continue;
        for (size_t i = 0; i < ids.len; i++) {
            ASSERT(ids.ids[i] < tokenizer_vocab_size(t));
            if (flags & TOKENIZER_OFFSETS) ASSERT(ids.offsets[i].start <= ids.offsets[i].end && ids.offsets[i].end <= text.len);
        }
        buf_clear(&whole);
        buf_clear(&streamed);
        struct detokenizer d;
        detokenizer_init(&d, t, flags & 1);
        int r = tokenizer_decode(t, ids.ids, ids.len, flags & 1, &whole);
        for (size_t i = 0; !r && i < ids.len; i++) r = detokenizer_push(&d, ids.ids[i], &streamed);
        if (!r) r = detokenizer_finish(&d, &streamed);
        detokenizer_fini(&d);
        if (!r) ASSERT(span_eq(buf_span(&whole), buf_span(&streamed)) && span_is_utf8(buf_span(&whole)));
        if (ids.offsets) tokens_fini(&ids); /* a list with offsets is not gone on with without */
    }
    tokens_fini(&ids);
    buf_fini(&whole);
    buf_fini(&streamed);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct span all = span_of(data, size);
    ptrdiff_t nul = span_find_char(all, 0);
    struct span file = nul < 0 ? all : span_sub(all, 0, (size_t)nul), text = nul < 0 ? (struct span){NULL, 0} : span_skip(all, (size_t)nul + 1);
    struct tokenizer *t = NULL, *again = NULL;
    struct error err;
    if (tokenizer_parse(file, &t, &err)) return 0;
    use(t, text);
    use(t, SPAN("Hello world, it's 1234 o'clock\n\n  <|endoftext|> a\xCC\x81 \xF0\x9F\x98\x80"));
    struct buf one, two;
    buf_init(&one, 16 * size + 65536);
    buf_init(&two, 16 * size + 65536);
    if (tokenizer_write(t, &one) == 0) {
        ASSERT(tokenizer_parse(buf_span(&one), &again, &err) == 0);
        ASSERT(tokenizer_write(again, &two) == 0);
        ASSERT(span_eq(buf_span(&one), buf_span(&two)));
    }
    buf_fini(&one);
    buf_fini(&two);
    tokenizer_free(t);
    tokenizer_free(again);
    return 0;
}
