/* evaluate DIR|FILE --weights …: what another kind of weights costs, on a text, in this process. */
#include <stdio.h>

#include "base/file.h"
#include "cli.h"
#include "engine/compare.h"
#include "local.h"
#include "output.h"

/* "q8,q4" behind the kind that is stored. */
static int read_kinds(const char *text, enum packed_kind kinds[COMPARE_KINDS_MAX], size_t *n, struct error *err) {
    struct span rest = span_str(text), one;
    char name[32];
    int r = 0;
    kinds[0] = PACKED_STORED;
    *n = 1;
    while (r == 0 && span_cut(&rest, ',', &one)) {
        if (*n == COMPARE_KINDS_MAX) return error_set(err, E_INVALID, "at most %d kinds are compared", COMPARE_KINDS_MAX - 1);
        r = packed_kind_find(span_copy(name, sizeof name, span_trim(one)), &kinds[(*n)++], err);
    }
    return r;
}

static void write_json(const struct compare_result *results, size_t n, struct buf *out) {
    struct json_out w;
    json_begin(&w, out);
    json_array(&w);
    for (size_t i = 0; i < n; i++) {
        json_object(&w);
        json_str(&w, "weights", packed_kind_name(results[i].kind));
        json_num(&w, "weights_bytes", (int64_t)results[i].weights_size);
        json_num(&w, "tokens", (int64_t)results[i].tokens);
        json_flt(&w, "perplexity", results[i].perplexity);
        json_flt(&w, "agreement", results[i].agreement);
        json_flt(&w, "logprob_difference", results[i].difference);
        json_object_end(&w);
    }
    json_array_end(&w);
    (void)buf_append_char(out, '\n');
}

static int write_table(const struct compare_result *results, size_t n, struct buf *out) {
    struct table t;
    table_init(&t, "WEIGHTS|>MiB|>PERPLEXITY|>SAME FIRST CHOICE|>LOG P APART");
    for (size_t i = 0; i < n; i++) {
        table_cell(&t, "%s%s", packed_kind_name(results[i].kind), i ? "" : " (as stored)");
        table_cell(&t, "%.1f", (double)results[i].weights_size / (1 << 20));
        table_cell(&t, "%.4g", results[i].perplexity);
        table_cell(&t, "%.2f %%", 100 * results[i].agreement);
        table_cell(&t, "%.4f", results[i].difference);
    }
    int r = table_render(&t, out);
    table_fini(&t);
    (void)buf_printf(out, "on %llu tokens\n", (unsigned long long)results[0].tokens);
    return r < 0 ? r : out->failed;
}

int run_compare(struct cli *c) {
    enum packed_kind kinds[COMPARE_KINDS_MAX];
    struct compare_result results[COMPARE_KINDS_MAX];
    struct error err = {0};
    struct buf text, out;
    size_t n = 0;
    buf_init(&text, COMPARE_TEXT_MAX);
    buf_init(&out, 64 * 1024);
    int r = read_kinds(cli_text(c, "--weights"), kinds, &n, &err);
    if (r == 0 && cli_text(c, "--text")) r = file_read(cli_text(c, "--text"), &text, &err);
    if (r == 0) r = engine_compare(cli_operand(c, 0), kinds, n, cli_text(c, "--text") ? buf_span(&text) : span_str(COMPARE_TEXT), (int)cli_int(c, "--threads", 0), results, &err);
    if (r == 0 && cli_json(c)) write_json(results, n, &out);
    else if (r == 0) r = write_table(results, n, &out);
    int code = r < 0 ? cli_fail(c, &err) : cli_print(c, buf_span(&out));
    buf_fini(&text);
    buf_fini(&out);
    return code;
}
