/* embed, rerank: what encoders make of texts, asked of the platform. */
#include <stdio.h>

#include "base/alloc.h"
#include "remote.h"

enum { INPUTS_MAX = 2048, SHOWN = 4 /* numbers of a vector for people; --json has all */ };

static int run_embed(struct cli *c) {
    struct remote x;
    if (!cli_text(c, "--model")) return cli_usage(c, "--model is needed: an encoder");
    int r = remote_open(&x, c);
    remote_path(&x, "/v1/embeddings");
    struct json_out w = remote_body(&x);
    json_str(&w, "model", cli_text(c, "--model"));
    json_key(&w, "input");
    json_array(&w);
    for (size_t i = 0; i < cli_operands(c); i++) json_put_str(&w, cli_operand(c, i));
    json_array_end(&w);
    if (cli_given(c, "--dimensions")) json_num(&w, "dimensions", cli_int(c, "--dimensions", 0));
    if (cli_flag(c, "--truncate")) json_flag(&w, "truncate", true);
    json_object_end(&w);
    if (r == 0) r = remote_call(&x, "POST", true);
    if (r == 0 && cli_json(c)) json_put_value(&x.json, x.answer);
    const struct json *data = json_get(x.answer, "data");
    for (size_t i = 0; r == 0 && !cli_json(c) && i < json_size(data); i++) {
        const struct json *v = json_get(json_at(data, i), "embedding");
        for (size_t k = 0; k < SHOWN && k < json_size(v); k++) (void)buf_printf(&x.out, "%+.4f ", json_real(json_at(v, k), 0));
        (void)buf_printf(&x.out, "… %zu dimensions\t%s\n", json_size(v), cli_operand(c, i));
    }
    return remote_close(&x, r);
}

static int run_rerank(struct cli *c) {
    struct remote x;
    if (!cli_text(c, "--model")) return cli_usage(c, "--model is needed: a cross-encoder, or an encoder that embeds");
    if (!cli_text(c, "--query")) return cli_usage(c, "--query is needed: what the documents are ranked for");
    int r = remote_open(&x, c);
    remote_path(&x, "/v1/rerank");
    struct json_out w = remote_body(&x);
    json_str(&w, "model", cli_text(c, "--model"));
    json_str(&w, "query", cli_text(c, "--query"));
    json_key(&w, "documents");
    json_array(&w);
    for (size_t i = 0; i < cli_operands(c); i++) json_put_str(&w, cli_operand(c, i));
    json_array_end(&w);
    if (cli_given(c, "--top")) json_num(&w, "top_n", cli_int(c, "--top", 0));
    json_object_end(&w);
    if (r == 0) r = remote_call(&x, "POST", true);
    if (r == 0 && cli_json(c)) json_put_value(&x.json, x.answer);
    const struct json *results = json_get(x.answer, "results");
    for (size_t i = 0; r == 0 && !cli_json(c) && i < json_size(results); i++) {
        const struct json *one = json_at(results, i);
        const char *document = cli_operand(c, (size_t)json_int(json_get(one, "index"), -1));
        (void)buf_printf(&x.out, "%.4f\t%s\n", json_real(json_get(one, "relevance_score"), 0), document ? document : "-");
    }
    return remote_close(&x, r);
}

static const struct cli_option EMBED[] = {
    {.name = "--model", .kind = CLI_TEXT, .value = "MODEL", .doc = "The encoder: a name, name@version or alias", .letter = 'm'},
    {.name = "--dimensions", .kind = CLI_INT, .value = "N", .min = 1, .max = 65536, .doc = "The first N of each vector, of length 1 again; all"},
    {.name = "--truncate", .kind = CLI_FLAG, .doc = "Cut what is too long for the model, instead of failing"},
    {0},
};
static const struct cli_option RERANK[] = {
    {.name = "--model", .kind = CLI_TEXT, .value = "MODEL", .doc = "The encoder: a name, name@version or alias", .letter = 'm'},
    {.name = "--query", .kind = CLI_TEXT, .value = "TEXT", .doc = "What the documents are ranked for", .letter = 'q'},
    {.name = "--top", .kind = CLI_INT, .value = "N", .min = 1, .max = INPUTS_MAX, .doc = "The best N; all"},
    {0},
};
const struct verb VERBS_ENCODE[] = {
    {.name = "embed", .operands = "TEXT...", .operands_min = 1, .operands_max = INPUTS_MAX, .summary = "Vectors of texts, by an encoder", .options = EMBED, .json = true, .run = run_embed,
     .help = "Each text becomes a vector of length 1; texts of like meaning have vectors that lie close. A line per text shows the first numbers of its vector, --json all of them, as\n"
             "/v1/embeddings answers."},
    {.name = "rerank", .operands = "DOCUMENT...", .operands_min = 1, .operands_max = INPUTS_MAX, .summary = "Documents in the order of their relevance to a query", .options = RERANK, .json = true, .run = run_rerank,
     .help = "A line per document, the best first: its score and its text. With a cross-encoder the score is a probability; with an encoder that embeds it is the cosine of the two vectors.\n"
             "Documents that are too long lose their end."},
    {0},
};
