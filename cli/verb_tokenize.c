/* tokenize: JSON lines in, JSON lines out, as they come. */
#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/types.h>

#include "base/alloc.h"
#include "base/json.h"
#include "local.h"
#include "model/model_dir.h"
#include "tokenizer/chat.h"

enum { LINE_OUT_MAX = 1 << 30, TEXT_MAX = 256 << 20 };

struct tokenize {
    const struct tokenizer *tokenizer;
    struct chat_template *chat_template; /* owned */
    bool decode, no_special, chat;
    struct tokens ids;
    struct buf text, out;
};

static void write_ids(struct json_out *w, const struct tokens *ids) {
    json_key(w, "ids");
    json_array(w);
    for (size_t i = 0; i < ids->len; i++) json_put_uint(w, ids->ids[i]);
    json_array_end(w);
}

static int encode_line(struct tokenize *t, const struct json *line, struct json_out *w, struct error *err) {
    const struct json *text = json_get(line, "text");
    if (json_type(text) != JSON_TYPE_STRING) return error_set(err, E_INVALID, "\"text\" must be a string");
    int r = tokenizer_encode(t->tokenizer, json_string(text), t->no_special ? 0 : TOKENIZER_ADD_SPECIAL, &t->ids, err);
    if (r == 0) write_ids(w, &t->ids);
    return r;
}

static int decode_line(struct tokenize *t, const struct json *line, struct json_out *w, struct error *err) {
    const struct json *ids = json_get(line, "ids");
    if (json_type(ids) != JSON_TYPE_ARRAY) return error_set(err, E_INVALID, "\"ids\" must be an array");
    size_t n = json_size(ids);
    uint32_t *list = mem_calloc(n + 1, sizeof *list);
    if (!list) return error_set(err, E_NOMEM, "no memory for %zu ids", n);
    int r = 0;
    for (size_t i = 0; r == 0 && i < n; i++) {
        int64_t id = json_type(json_at(ids, i)) == JSON_TYPE_INT ? json_int(json_at(ids, i), -1) : -1;
        if (id < 0 || id >= tokenizer_vocab_size(t->tokenizer)) r = error_set(err, E_INVALID, "ids.%zu is no id of this tokenizer, which has 0 to %u", i, tokenizer_vocab_size(t->tokenizer) - 1);
        else list[i] = (uint32_t)id;
    }
    if (r == 0 && (r = tokenizer_decode(t->tokenizer, list, n, t->no_special, &t->text)) != 0) r = error_set(err, r, "no memory for the text");
    if (r == 0) json_span(w, "text", buf_span(&t->text));
    mem_free(list);
    return r;
}

static int chat_line(struct tokenize *t, const struct json *line, struct json_out *w, struct error *err) {
    const struct json *messages = json_get(line, "messages"), *tools = json_get(line, "tools"), *kwargs = json_get(line, "chat_template_kwargs");
    struct template_output output;
    if (json_type(messages) != JSON_TYPE_ARRAY) return error_set(err, E_INVALID, "\"messages\" must be an array");
    if (!json_is_null(tools) && json_type(tools) != JSON_TYPE_ARRAY) return error_set(err, E_INVALID, "\"tools\" must be an array");
    if (!json_is_null(kwargs) && json_type(kwargs) != JSON_TYPE_OBJECT) return error_set(err, E_INVALID, "\"chat_template_kwargs\" must be an object");
    struct chat chat = {.messages = messages, .tools = json_is_null(tools) ? NULL : tools, .kwargs = kwargs, .add_generation_prompt = json_bool(json_get(line, "add_generation_prompt"), true)};
    template_output_init(&output);
    int r = chat_template_render(t->chat_template, &chat, &output, err);
    /* What the peers' apply_chat_template gives for the same text, special tokens in the contents too: this verb is for comparing. Serving encodes by pieces. */
    if (r == 0) r = tokenizer_encode(t->tokenizer, buf_span(&output.text), 0, &t->ids, err);
    if (r == 0) {
        json_span(w, "text", buf_span(&output.text));
        write_ids(w, &t->ids);
    }
    template_output_fini(&output);
    return r;
}

/* One line to t->out. A line that cannot be done gives {"error":…} and the rest goes on; *bad counts it. */
static int do_line(struct tokenize *t, struct span text, bool *bad) {
    struct json *line = NULL;
    struct error err = {0};
    struct json_out w;
    buf_clear(&t->out);
    buf_clear(&t->text);
    tokens_clear(&t->ids);
    json_begin(&w, &t->out);
    json_object(&w);
    int r = json_parse(text, &line, &err);
    if (r == 0) r = t->chat ? chat_line(t, line, &w, &err) : t->decode ? decode_line(t, line, &w, &err) : encode_line(t, line, &w, &err);
    json_free(line);
    if (r != 0) {
        *bad = true;
        buf_clear(&t->out);
        json_begin(&w, &t->out);
        json_object(&w);
        json_str(&w, "error", err.message);
    }
    json_object_end(&w);
    (void)buf_append_char(&t->out, '\n');
    return t->out.failed;
}

/* DIR, a GGUF file, or the path of a tokenizer.json. */
static int load(const char *model, struct model_dir *dir, struct error *err) {
    struct stat st;
    *dir = (struct model_dir){0};
    if (stat(model, &st) != 0) return error_errno(err, errno, "--model: %s", model);
    if (!S_ISDIR(st.st_mode) && span_ends(span_str(model), SPAN(".json"))) return tokenizer_load(model, &dir->tokenizer, err);
    int r = model_dir_load(dir, model, MODEL_WEIGHTS_MAP, MODEL_DIR_NO_WEIGHTS | MODEL_DIR_NO_CONFIG, err);
    return r == 0 && !dir->tokenizer ? error_set(err, E_NOT_FOUND, "--model: %s has no tokenizer", model) : r;
}

static int run_tokenize(struct cli *c) {
    struct tokenize t = {.decode = cli_flag(c, "--decode"), .no_special = cli_flag(c, "--no-special"), .chat = cli_flag(c, "--chat")};
    struct model_dir dir;
    struct error err = {0};
    char *line = NULL;
    size_t capacity = 0;
    ssize_t n;
    bool bad = false;
    const char *model = cli_text(c, "--model");
    if (!model) return cli_usage(c, "--model is needed: a model directory or a tokenizer.json");
    if (t.chat && t.decode) return cli_usage(c, "--chat and --decode exclude each other");
    if (t.chat && t.no_special) return cli_usage(c, "--chat adds nothing to what the template makes: --no-special does not go with it");
    int code = CLI_DONE, r = load(model, &dir, &err);
    if (r == 0 && t.chat && !dir.chat_template) r = error_set(&err, E_NOT_FOUND, "%s has no chat template", model);
    t.tokenizer = dir.tokenizer;
    if (r == 0 && t.chat) r = chat_template_new(dir.chat_template, dir.tokenizer, &t.chat_template, &err);
    buf_init(&t.text, TEXT_MAX);
    buf_init(&t.out, LINE_OUT_MAX);
    if (r != 0) code = cli_fail(c, &err);
    while (code == CLI_DONE && (errno = 0, n = getline(&line, &capacity, stdin)) >= 0) {
        struct span text = span_trim(span_of(line, (size_t)n));
        if (span_empty(text)) continue;
        if (do_line(&t, text, &bad) != 0) code = cli_failf(c, "no memory for a line's answer");
        else code = cli_print(c, buf_span(&t.out));
    }
    if (code == CLI_DONE && ferror(stdin)) code = cli_failf(c, "standard input: %s", strerror(errno));
    if (code == CLI_DONE && bad && !t.chat) code = cli_failf(c, "some lines could not be done: they have \"error\"");
    free(line);
    tokens_fini(&t.ids);
    buf_fini(&t.text);
    buf_fini(&t.out);
    chat_template_free(t.chat_template);
    model_dir_fini(&dir);
    return code;
}

static const struct cli_option OPTIONS[] = {
    {.name = "--model", .kind = CLI_FILE, .value = "DIR|FILE|tokenizer.json", .doc = "Whose tokenizer"},
    {.name = "--decode", .kind = CLI_FLAG, .doc = "{\"ids\":[...]} to {\"text\":...} instead of the other way"},
    {.name = "--no-special", .kind = CLI_FLAG, .doc = "Add no special tokens when encoding, leave them out when decoding"},
    {.name = "--chat", .kind = CLI_FLAG, .doc = "{\"messages\":[...],\"tools\":[...],\"add_generation_prompt\":true} to what the chat template makes of it"},
    {0},
};
const struct verb VERBS_TOKENIZE[] = {
    {.name = "tokenize", .operands = "", .summary = "JSON lines of text to ids, or back", .options = OPTIONS, .run = run_tokenize,
     .help = "Reads {\"text\":...} a line on standard input and writes {\"ids\":[...]}; each answer is written when it is known. A line that cannot be done gives {\"error\":...}, and exit code 1 at the end\n"
             "(with --chat 0: a template may refuse). --chat gives {\"text\":...,\"ids\":[...]}, with nothing added to the ids; add_generation_prompt is true where it is not given, and\n"
             "\"chat_template_kwargs\":{...} gives the template further variables. As in transformers, text in messages that looks like a special token becomes one; where a model is served it never does."},
    {0},
};
