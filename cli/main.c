/* genloop: finds the verb, checks what was given against its row, runs it. See cli.h. */
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>

#include "base/buf.h"
#include "cli.h"

static const struct verb *const TABLES[] = {VERBS_PLATFORM, VERBS_STATUS, VERBS_LOGS, VERBS_INGEST, VERBS_DATASET, VERBS_TRAIN, VERBS_IMPORT, VERBS_EXPORT, VERBS_MODELS, VERBS_GOVERN, VERBS_KEYS, VERBS_SUBJECT, VERBS_CHAT, VERBS_ENCODE, VERBS_BATCH,
                                             VERBS_FEEDBACK, VERBS_AUDIT, VERBS_RUN, VERBS_TOKENIZE, VERBS_BENCH_SERVE, VERBS_BENCH, VERBS_CONFIG, VERBS_PROGRAM};

const struct verb *cli_verb_at(size_t index) {
    for (size_t t = 0; t < sizeof TABLES / sizeof *TABLES; t++)
        for (const struct verb *v = TABLES[t]; v->name; v++)
            if (index-- == 0) return v;
    return NULL;
}

/* ---- how it ends ---- */

__attribute__((format(printf, 2, 0))) static void say(const struct cli *c, const char *format, va_list args) {
    (void)fflush(stdout);
    (void)fprintf(stderr, "genloop %s: ", cli_verb(c)->name);
    (void)vfprintf(stderr, format, args);
    (void)fputc('\n', stderr);
}

int cli_usage(const struct cli *c, const char *format, ...) {
    va_list args;
    va_start(args, format);
    say(c, format, args);
    va_end(args);
    (void)fprintf(stderr, "genloop %s --help says more\n", cli_verb(c)->name);
    return CLI_USAGE;
}

int cli_failf(const struct cli *c, const char *format, ...) {
    va_list args;
    va_start(args, format);
    say(c, format, args);
    va_end(args);
    return CLI_FAILED;
}

int cli_fail(const struct cli *c, const struct error *err) { return cli_failf(c, "%s", err->message[0] ? err->message : error_kind(err->code)->name); }

int cli_print(const struct cli *c, struct span text) {
    if (text.len && fwrite(text.data, 1, text.len, stdout) != text.len) return cli_failf(c, "the output cannot be written: %s", strerror(errno));
    return fflush(stdout) == 0 ? CLI_DONE : cli_failf(c, "the output cannot be written: %s", strerror(errno));
}

int cli_home(const struct cli *c, char *out, size_t out_size) {
    const char *home = NULL, *user = getenv("HOME"), *set = getenv("GENLOOP_HOME");
    char here[PATH_MAX] = "";
    for (const struct cli_option *o = cli_verb(c)->options; o && o->name; o++)
        if (strcmp(o->name, "--home") == 0) home = cli_text(c, "--home");
    if (!home) home = set && *set ? set : "~/.genloop";
    if (!*home) return cli_usage(c, "--home must name a directory");
    bool of_user = strcmp(home, "~") == 0 || strncmp(home, "~/", 2) == 0;
    if (of_user && (!user || !*user)) return cli_failf(c, "%s cannot be resolved because $HOME is not set: name the home with --home", home);
    if (!of_user && home[0] != '/' && !realpath(".", here)) return cli_failf(c, "the current directory cannot be named: %s", strerror(errno));
    int n = of_user ? snprintf(out, out_size, "%s%s", user, home + 1) : home[0] == '/' ? snprintf(out, out_size, "%s", home) : snprintf(out, out_size, "%s/%s", here, home);
    if (n < 0 || (size_t)n >= out_size) return cli_failf(c, "the home %s is too long", home);
    for (; n > 1 && out[n - 1] == '/'; n--) out[n - 1] = '\0';
    return CLI_DONE;
}

/* ---- dispatch ---- */

static int print_help(int render(struct buf *out, const void *what), const void *what, FILE *to, int code) {
    struct buf out;
    buf_init(&out, 1 << 20);
    if (render(&out, what) < 0) code = CLI_FAILED;
    else if (fwrite(buf_span(&out).data, 1, out.len, to) != out.len || fflush(to) != 0) code = CLI_FAILED;
    buf_fini(&out);
    return code;
}
static int render_all(struct buf *out, const void *what) {
    (void)what;
    return help_all(out);
}
static int render_group(struct buf *out, const void *word) { return help_group(out, word); }
static int render_verb(struct buf *out, const void *verb) { return help_verb(out, verb); }

/* The verb that argv begins with, and of how many words it is. */
static const struct verb *find_verb(int argc, char *const *argv, int *words) {
    for (size_t i = 0; cli_verb_at(i); i++) {
        struct span rest = span_str(cli_verb_at(i)->name), word;
        int n = 0;
        while (n < argc && span_cut(&rest, ' ', &word) && span_eq_str(word, argv[n])) n++;
        if (n > 0 && span_empty(rest) && span_eq_str(word, argv[n - 1])) {
            *words = n;
            return cli_verb_at(i);
        }
    }
    return NULL;
}

static bool is_help(const char *text) { return strcmp(text, "--help") == 0 || strcmp(text, "-h") == 0 || strcmp(text, "help") == 0; }

/* `genloop`, `genloop --help`, `genloop help [VERB]`, `genloop dataset --help`, or what nobody knows. */
static int without_verb(int argc, char *const *argv) {
    if (argc < 1) return print_help(render_all, NULL, stderr, CLI_USAGE);
    if (strcmp(argv[0], "--version") == 0) return printf("genloop %s\n", GENLOOP_VERSION) > 0 && fflush(stdout) == 0 ? CLI_DONE : CLI_FAILED;
    if (is_help(argv[0]) && argc == 1) return print_help(render_all, NULL, stdout, CLI_DONE);
    if (is_help(argv[0])) {
        int words;
        const struct verb *v = find_verb(argc - 1, argv + 1, &words);
        if (v) return print_help(render_verb, v, stdout, CLI_DONE);
        argc--;
        argv++;
    }
    struct buf probe;
    buf_init(&probe, 1 << 20);
    bool group = help_group(&probe, argv[0]) == 0;
    buf_fini(&probe);
    bool asked = argc == 1 || is_help(argv[1]);
    if (group && asked) return print_help(render_group, argv[0], argc == 1 ? stderr : stdout, argc == 1 ? CLI_USAGE : CLI_DONE);
    if (group) {
        (void)fprintf(stderr, "genloop %s: unknown verb \"%s\"\n", argv[0], argv[1]);
        return print_help(render_group, argv[0], stderr, CLI_USAGE);
    }
    (void)fprintf(stderr, "genloop: unknown verb \"%s\"; genloop --help lists them\n", argv[0]);
    return CLI_USAGE;
}

int main(int argc, char **argv) {
    struct cli *c = NULL;
    struct error err = {0};
    int words = 0;
    (void)signal(SIGPIPE, SIG_IGN); /* a reader that went away is an error of the write, with a message and an exit code */
    const struct verb *v = find_verb(argc - 1, argv + 1, &words);
    if (!v) return without_verb(argc - 1, argv + 1);
    int r = cli_parse(v, argc - 1 - words, argv + 1 + words, &c, &err);
    if (r == E_CANCELLED) return print_help(render_verb, v, stdout, CLI_DONE);
    if (r != 0) {
        (void)fprintf(stderr, "genloop %s: %s\ngenloop %s --help says more\n", v->name, err.message, v->name);
        return r == E_INVALID ? CLI_USAGE : CLI_FAILED;
    }
    int code = v->run(c);
    cli_free(c);
    return code;
}
