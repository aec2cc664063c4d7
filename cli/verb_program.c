/* Of the program itself: version, completion, man. */
#include "base/json.h"
#include "cli.h"

static int run_version(struct cli *c) {
    struct buf out;
    struct json_out w;
    buf_init(&out, 4096);
    if (cli_json(c)) {
        json_begin(&w, &out);
        json_object(&w);
        json_str(&w, "version", GENLOOP_VERSION);
        json_str(&w, "compiler", __VERSION__);
        json_object_end(&w);
        (void)buf_append_char(&out, '\n');
    } else {
        (void)buf_append_str(&out, "genloop " GENLOOP_VERSION "\n");
    }
    int code = cli_print(c, buf_span(&out));
    buf_fini(&out);
    return code;
}

static int run_completion(struct cli *c) {
    struct buf out;
    const char *shell = cli_operand(c, 0);
    bool bash = strcmp(shell, "bash") == 0;
    if (!bash && strcmp(shell, "zsh") != 0) return cli_usage(c, "\"%s\" is neither bash nor zsh", shell);
    buf_init(&out, 1 << 20);
    int code = (bash ? completion_bash(&out) : completion_zsh(&out)) == 0 ? cli_print(c, buf_span(&out)) : cli_failf(c, "no memory");
    buf_fini(&out);
    return code;
}

static int run_man(struct cli *c) {
    struct buf out;
    buf_init(&out, 1 << 20);
    int code = man_page(&out) == 0 ? cli_print(c, buf_span(&out)) : cli_failf(c, "no memory");
    buf_fini(&out);
    return code;
}

const struct verb VERBS_PROGRAM[] = {
    {.name = "version", .operands = "", .summary = "The version of this program", .json = true, .run = run_version},
    {.name = "completion", .operands = "bash|zsh", .operands_min = 1, .operands_max = 1, .summary = "Completion for the shell", .run = run_completion,
     .help = "For bash: source <(genloop completion bash), in ~/.bashrc to keep it. For zsh: source <(genloop completion zsh) behind compinit."},
    {.name = "man", .operands = "", .summary = "The manual page, as man(1) reads it", .run = run_man, .help = "To read it here: genloop man | man -l -"},
    {0},
};
