/* chat, complete: talking to a model, as it answers. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/types.h>

#include "base/alloc.h"
#include "base/random.h"
#include "loop_option.h"
#include "remote.h"

enum { TURNS_MAX = 4096, TEXT_MAX = 4 << 20, TOKENS_MAX = 1 << 20 };

struct turn {
    const char *role;
    char *content; /* owned */
};

struct talk {
    struct remote x;
    struct turn turns[TURNS_MAX];
    size_t n;
    char *preamble, *model; /* owned */
    bool terminal, json, any;
    struct buf text;      /* of the answer so far */
    char answer_id[256], answered_by[256], finish[32];
    int64_t prompt_tokens, completion_tokens;
};

/* Characters that would steer the terminal are shown as what they are: a model's words are nobody's commands. */
static void put_safe(struct span s) {
    for (size_t i = 0; i < s.len; i++) {
        unsigned char c = (unsigned char)s.data[i];
        if (c >= 0x20 ? c != 0x7f : c == '\n' || c == '\t') (void)fputc(c, stdout);
        else (void)fprintf(stdout, "\\x%02x", c);
    }
}

static int on_chunk(void *arg, const struct json *event) {
    struct talk *k = arg;
    const struct json *choice = json_at(json_get(event, "choices"), 0), *usage = json_get(event, "usage");
    struct span piece = json_string(json_get(json_get(choice, "delta"), "content"));
    if (!piece.len) piece = json_string(json_get(choice, "text"));
    if (json_string(json_get(event, "id")).len) span_copy(k->answer_id, sizeof k->answer_id, json_string(json_get(event, "id")));
    if (json_string(json_get(event, "model")).len) span_copy(k->answered_by, sizeof k->answered_by, json_string(json_get(event, "model")));
    if (json_string(json_get(choice, "finish_reason")).len) span_copy(k->finish, sizeof k->finish, json_string(json_get(choice, "finish_reason")));
    if (!json_is_null(usage)) {
        k->prompt_tokens = json_int(json_get(usage, "prompt_tokens"), 0);
        k->completion_tokens = json_int(json_get(usage, "completion_tokens"), 0);
    }
    if (buf_append_span(&k->text, piece) < 0) return error_set(&k->x.err, E_TOO_LARGE, "the answer has more than %d MiB", TEXT_MAX >> 20);
    if (piece.len && !k->json) {
        if (k->terminal) put_safe(piece);
        else (void)fwrite(piece.data, 1, piece.len, stdout);
        if (fflush(stdout) != 0) return error_set(&k->x.err, E_IO, "the answer cannot be written");
    }
    return 0;
}

static void put_sampling(struct cli *c, struct json_out *w) {
    if (cli_given(c, "--max-tokens")) json_num(w, "max_tokens", cli_int(c, "--max-tokens", 0));
    if (cli_given(c, "--temperature")) json_flt(w, "temperature", cli_real(c, "--temperature", 0));
    if (cli_given(c, "--top-p")) json_flt(w, "top_p", cli_real(c, "--top-p", 1));
    if (cli_given(c, "--seed")) json_num(w, "seed", cli_int(c, "--seed", 0));
    if (cli_given(c, "--stop")) {
        json_key(w, "stop");
        json_array(w);
        for (size_t i = 0; cli_text_at(c, "--stop", i); i++) json_put_str(w, cli_text_at(c, "--stop", i));
        json_array_end(w);
    }
    json_flag(w, "stream", true);
    json_key(w, "stream_options");
    json_object(w);
    json_flag(w, "include_usage", true);
    json_object_end(w);
}

static void put_loop(double multiplier, struct json_out *w) {
    if (multiplier == 0) return;
    json_flt(w, "dry_multiplier", multiplier);
    json_num(w, "dry_allowed_length", LOOP_LENGTH);
    json_key(w, "dry_sequence_breakers");
    json_array(w);
    json_array_end(w);
    json_flag(w, "dry_answer_only", true);
}

static int ask(struct talk *k) {
    struct client_request q = {.method = "POST", .path = buf_cstr(&k->x.path), .body = buf_span(&k->x.body)};
    buf_clear(&k->text);
    k->finish[0] = k->answer_id[0] = '\0';
    if (k->x.body.failed) return error_set(&k->x.err, E_TOO_LARGE, "the conversation is too long for a request");
    int r = client_stream(k->x.client, &q, k, on_chunk, &k->x.err); /* not again: half an answer is on the screen already */
    if (!k->json && (k->text.len || r == 0)) (void)fputc('\n', stdout);
    (void)fflush(stdout);
    return r;
}

static void print_json(struct talk *k) {
    struct json_out *w = &k->x.json;
    json_object(w);
    json_str(w, "id", k->answer_id);
    json_str(w, "model", k->answered_by);
    json_span(w, "text", buf_span(&k->text));
    json_str(w, "finish_reason", k->finish);
    json_key(w, "usage");
    json_object(w);
    json_num(w, "prompt_tokens", k->prompt_tokens);
    json_num(w, "completion_tokens", k->completion_tokens);
    json_object_end(w);
    json_object_end(w);
}

/* ---- chat ---- */

static int add_turn(struct talk *k, const char *role, struct span content) {
    char *copy = k->n < TURNS_MAX ? span_dup(content) : NULL;
    if (!copy) return error_set(&k->x.err, E_TOO_LARGE, "the conversation has %zu turns: /reset begins a new one", k->n);
    k->turns[k->n++] = (struct turn){role, copy};
    return 0;
}

static void forget(struct talk *k, size_t from) {
    while (k->n > from) mem_free(k->turns[--k->n].content);
}

static int answer_turn(struct talk *k) {
    remote_path(&k->x, "/v1/chat/completions");
    struct json_out w = remote_body(&k->x);
    json_str(&w, "model", k->model);
    json_key(&w, "messages");
    json_array(&w);
    for (size_t i = 0; i < k->n + (k->preamble ? 1 : 0); i++) {
        const struct turn *t = k->preamble ? i ? &k->turns[i - 1] : &(struct turn){"system", k->preamble} : &k->turns[i];
        json_object(&w);
        json_str(&w, "role", t->role);
        json_str(&w, "content", t->content);
        json_object_end(&w);
    }
    json_array_end(&w);
    put_sampling(k->x.cli, &w);
    put_loop(cli_real(k->x.cli, "--dry-multiplier", LOOP_MULTIPLIER), &w);
    json_object_end(&w);
    return ask(k);
}

/* /good and /bad: a thumb on the last answer. */
static void judge(struct talk *k, double value) {
    char id[ID_TEXT_MAX];
    if (!k->answer_id[0]) {
        (void)fputs("there is no answer yet to judge\n", stderr);
        return;
    }
    remote_path(&k->x, "/v1/feedback");
    struct json_out w = remote_body(&k->x);
    json_str(&w, "id", id_make(id));
    json_str(&w, "kind", "thumb");
    json_str(&w, "request_id", k->answer_id);
    json_str(&w, "model", k->answered_by);
    json_flt(&w, "value", value);
    json_object_end(&w);
    if (remote_call(&k->x, "POST", true) == 0) (void)fprintf(stderr, "thank you: noted for %s\n", k->answered_by);
    else (void)fprintf(stderr, "genloop chat: %s\n", k->x.err.message);
}

static bool replace(char **text, struct span with) {
    char *copy = with.len ? span_dup(with) : NULL;
    if (with.len && !copy) return false;
    mem_free(*text);
    *text = copy;
    return true;
}

static const char COMMANDS[] = "/reset          begin anew\n"
                               "/system TEXT    what the model is told before all else; without TEXT nothing\n"
                               "/model NAME     talk to another one\n"
                               "/good, /bad     judge the last answer\n"
                               "/exit           leave (also Ctrl-D)\n";

/* true: leave. */
static bool command(struct talk *k, struct span line) {
    struct span rest = line, word = SPAN("");
    (void)span_cut(&rest, ' ', &word);
    rest = span_trim(rest);
    if (span_eq_str(word, "/exit") || span_eq_str(word, "/quit")) return true;
    if (span_eq_str(word, "/reset")) forget(k, 0);
    else if (span_eq_str(word, "/system")) (void)replace(&k->preamble, rest);
    else if (span_eq_str(word, "/model") && rest.len) (void)replace(&k->model, rest);
    else if (span_eq_str(word, "/model")) (void)fprintf(stderr, "%s%s%s\n", k->model, k->answered_by[0] ? ", last answered by " : "", k->answered_by);
    else if (span_eq_str(word, "/good")) judge(k, 1);
    else if (span_eq_str(word, "/bad")) judge(k, -1);
    else (void)fputs(COMMANDS, stderr);
    return false;
}

static int converse(struct talk *k) {
    char *line = NULL;
    size_t room = 0;
    int r = 0;
    if (k->terminal) (void)fprintf(stderr, "talking to %s at %s; /help lists the commands, /exit leaves\n", k->model, client_url(k->x.client));
    for (;;) {
        if (k->terminal) (void)fputs("> ", stderr);
        ssize_t n = getline(&line, &room, stdin);
        if (n < 0) break;
        struct span text = span_trim(span_of(line, (size_t)n));
        if (!text.len) continue;
        if (text.data[0] == '/') {
            if (command(k, text)) break;
            continue;
        }
        if (!span_is_utf8(text)) {
            (void)fputs("genloop chat: that is no UTF-8\n", stderr);
            continue;
        }
        size_t before = k->n;
        r = add_turn(k, "user", text);
        if (r == 0) r = answer_turn(k);
        if (r == 0) r = add_turn(k, "assistant", buf_span(&k->text));
        if (r < 0) forget(k, before);
        if (r < 0 && !k->terminal) break; /* a script wants to know */
        if (r < 0) (void)fprintf(stderr, "genloop chat: %s\n", k->x.err.message);
        r = 0;
    }
    if (k->terminal) (void)fputc('\n', stderr);
    free(line);
    return r;
}

static const char *model_of(struct cli *c) {
    const char *named = cli_operand(c, 0) ? cli_operand(c, 0) : cli_text(c, "--model");
    return named ? named : "production";
}

static int run_chat(struct cli *c) {
    if (cli_operand(c, 0) && cli_given(c, "--model")) return cli_usage(c, "the model is named twice: %s, and by --model", cli_operand(c, 0));
    struct talk *k = mem_zalloc(sizeof *k);
    const char *prompt = cli_text(c, "--prompt");
    if (!k) return cli_failf(c, "no memory");
    if (cli_json(c) && !prompt) {
        mem_free(k);
        return cli_usage(c, "--json goes with --prompt");
    }
    int r = remote_open(&k->x, c);
    buf_init(&k->text, TEXT_MAX);
    k->json = cli_json(c);
    k->terminal = output_is_terminal(stdin) && output_is_terminal(stdout);
    const char *model = model_of(c);
    if (r == 0 && (!replace(&k->model, span_str(model)) || !replace(&k->preamble, span_str(cli_text(c, "--system") ? cli_text(c, "--system") : "")))) r = error_set(&k->x.err, E_NOMEM, "no memory");
    if (r == 0 && prompt) {
        r = add_turn(k, "user", span_str(prompt));
        if (r == 0) r = answer_turn(k);
        if (r == 0 && k->json) print_json(k);
    } else if (r == 0) {
        r = converse(k);
    }
    int code = remote_close(&k->x, r);
    forget(k, 0);
    mem_free(k->preamble);
    mem_free(k->model);
    buf_fini(&k->text);
    mem_free(k);
    return code;
}

/* ---- complete ---- */

static int read_prompt(struct talk *k, struct buf *prompt) {
    const char *given = cli_text(k->x.cli, "--prompt");
    if (given) return buf_append_str(prompt, given) == 0 ? 0 : error_set(&k->x.err, E_NOMEM, "no memory for the prompt");
    char piece[65536];
    size_t n;
    while ((n = fread(piece, 1, sizeof piece, stdin)) > 0)
        if (buf_append(prompt, piece, n) < 0) return error_set(&k->x.err, E_TOO_LARGE, "the prompt has more than %d MiB", TEXT_MAX >> 20);
    if (!prompt->len) return error_set(&k->x.err, E_INVALID, "there is no prompt: give --prompt TEXT, or the text on standard input");
    return span_is_utf8(buf_span(prompt)) ? 0 : error_set(&k->x.err, E_INVALID, "the prompt is no UTF-8");
}

static int run_complete(struct cli *c) {
    if (cli_operand(c, 0) && cli_given(c, "--model")) return cli_usage(c, "the model is named twice: %s, and by --model", cli_operand(c, 0));
    struct talk *k = mem_zalloc(sizeof *k);
    struct buf prompt;
    if (!k) return cli_failf(c, "no memory");
    int r = remote_open(&k->x, c);
    buf_init(&k->text, TEXT_MAX);
    buf_init(&prompt, TEXT_MAX);
    k->json = cli_json(c);
    k->terminal = output_is_terminal(stdout);
    if (r == 0) r = read_prompt(k, &prompt);
    if (r == 0) {
        remote_path(&k->x, "/v1/completions");
        struct json_out w = remote_body(&k->x);
        json_str(&w, "model", model_of(c));
        json_span(&w, "prompt", buf_span(&prompt));
        put_sampling(c, &w);
        json_object_end(&w);
        r = ask(k);
    }
    if (r == 0 && k->json) print_json(k);
    int code = remote_close(&k->x, r);
    buf_fini(&prompt);
    buf_fini(&k->text);
    mem_free(k);
    return code;
}

#define SAMPLING                                                                                                                                          \
    {.name = "--max-tokens", .kind = CLI_INT, .value = "N", .doc = "Length of an answer at most", .min = 1, .max = TOKENS_MAX},                            \
        {.name = "--temperature", .kind = CLI_REAL, .value = "T", .doc = "0: the likeliest token each time; otherwise as the model's files say", .min = 0, .max = 2}, \
        {.name = "--top-p", .kind = CLI_REAL, .value = "P", .doc = "Sample from the likeliest tokens that make up P", .min = 0.000001, .max = 1},          \
        {.name = "--seed", .kind = CLI_INT, .value = "N", .doc = "The same seed gives the same answer", .min = 0, .max = 9007199254740992.0}, {            \
        .name = "--stop", .kind = CLI_TEXT, .value = "TEXT", .doc = "End before this text", .repeat = true                                                  \
    }
static const struct cli_option CHAT_OPTIONS[] = {
    {.name = "--model", .kind = CLI_TEXT, .value = "MODEL", .doc = "The same as the operand"},
    {.name = "--prompt", .kind = CLI_TEXT, .value = "TEXT", .doc = "One question, one answer, no conversation", .letter = 'p'},
    {.name = "--system", .kind = CLI_TEXT, .value = "TEXT", .doc = "What the model is told before all else"},
    SAMPLING,
    {.name = "--dry-multiplier", .kind = CLI_REAL, .value = "M", .doc = "How hard an answer is kept from saying the same six tokens again and again; 0: not at all. 0.8", .min = 0, .max = 100},
    {0},
};
static const struct cli_option COMPLETE_OPTIONS[] = {{.name = "--model", .kind = CLI_TEXT, .value = "MODEL", .doc = "The same as the operand"},
                                                      {.name = "--prompt", .kind = CLI_TEXT, .value = "TEXT", .doc = "How does this go on? Otherwise standard input is read", .letter = 'p'}, SAMPLING, {0}};

const struct verb VERBS_CHAT[] = {
    {.name = "chat", .operands = "[MODEL]", .operands_max = 1, .summary = "Talk to a model", .options = CHAT_OPTIONS, .json = true, .run = run_chat,
     .help = "MODEL is a name, NAME@VERSION or an alias; without it production. On a terminal a conversation, with /help; from a pipe each line is a turn. The answers come as they are made.\n"
             "A small model easily ends in a loop: what an answer would repeat becomes the less likely the longer it is (DRY, of the answer alone: what the conversation says may be quoted). --dry-multiplier 0\n"
             "asks for the model's own words, as the API has them.\n\n"
             "examples:\n"
             "  genloop chat\n"
             "  genloop chat guide@2 --prompt \"What does ls do?\" --temperature 0"},
    {.name = "complete", .operands = "[MODEL]", .operands_max = 1, .summary = "Let a model go on with a text", .options = COMPLETE_OPTIONS, .json = true, .run = run_complete,
     .help = "examples:\n"
             "  genloop complete --prompt \"The ls command\" --max-tokens 48\n"
             "  genloop complete guide@1 < beginning.txt"},
    {0},
};
