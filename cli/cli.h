/*
 * The frame of the `genloop` command: one table of verbs, and from it the dispatch, the parsing of options, --help, and the shells' completion.
 *
 * To add a verb:
 *   1. Write cli/verb_NOUN.c with `const struct verb VERBS_NOUN[]`, ended by a row without a name. A verb of two words ("dataset show") is a row of that name;
 *      the first word alone needs no row: main.c lists what begins with it.
 *   2. Declare the array at the end of this header and put it into TABLES in main.c: the order there is the order of `genloop --help`.
 *   3. Its `run` gets a struct cli with what was given, already checked against the row: unknown options, missing values, numbers out of range and a wrong count of
 *      operands have been refused with exit code 2 before. --help and (where `json` is set) --json are added by the frame.
 * An option that a row names must do something: there is no place here for one that is read and ignored.
 *
 * Exit codes: CLI_DONE, CLI_FAILED, CLI_USAGE. What was asked for goes to stdout, everything else (progress, errors) to stderr. Everything is on the main thread.
 */
#ifndef GENLOOP_CLI_CLI_H
#define GENLOOP_CLI_CLI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/span.h"

enum { CLI_DONE = 0, CLI_FAILED = 1, CLI_USAGE = 2 };
enum { CLI_OPTIONS_MAX = 256 };    /* given on one command line: more than anybody types or a script makes */
enum { CLI_OPERANDS_MAX = 65536 }; /* `ingest *` in a large folder; above it the folder's name serves */

/* CLI_FILE and CLI_DIR are texts that the shell completes as paths. */
enum cli_kind { CLI_FLAG, CLI_TEXT, CLI_INT, CLI_REAL, CLI_FILE, CLI_DIR };

struct cli_option {
    const char *name;  /* "--max-tokens"; the last row of a list has NULL */
    enum cli_kind kind;
    const char *value; /* what stands for the value in the help: "N", "DIR", or the choices "a|b|c", which are then the only ones taken. NULL for flags */
    const char *doc;   /* one line; the default in it where there is one */
    double min, max;   /* of numbers; both 0: no limit */
    char letter;       /* 'f': also -f; 0: none */
    bool repeat;       /* may be given more than once (cli_text_at); otherwise the last one counts */
};

struct cli;
struct verb {
    const char *name;     /* "up", "dataset show" */
    const char *operands; /* as the usage shows them: "PATH|URL...", "MODEL@VERSION"; "" for none */
    size_t operands_min, operands_max;
    const char *summary;  /* one line, for the list */
    const char *help;     /* more of it, paragraphs wrapped at about 100 columns; NULL: nothing more to say */
    const struct cli_option *options; /* NULL: none */
    bool json;            /* it prints something: --json is added */
    int (*run)(struct cli *c);
};

/* ---- what was given ---- */

const struct verb *cli_verb(const struct cli *c);
size_t cli_operands(const struct cli *c);
const char *cli_operand(const struct cli *c, size_t index); /* NULL beyond the last */
bool cli_json(const struct cli *c);
bool cli_given(const struct cli *c, const char *option);
bool cli_flag(const struct cli *c, const char *option);
const char *cli_text(const struct cli *c, const char *option); /* NULL where it was not given */
const char *cli_text_at(const struct cli *c, const char *option, size_t index); /* of a repeated one, in order; NULL beyond the last */
int64_t cli_int(const struct cli *c, const char *option, int64_t otherwise);
double cli_real(const struct cli *c, const char *option, double otherwise);

/* ---- how it ends ---- */

/* "genloop VERB: message" on stderr; the first adds where help is. Return CLI_USAGE and CLI_FAILED, so that `return cli_fail(c, &err)` reads as one line. */
int cli_usage(const struct cli *c, const char *format, ...) __attribute__((format(printf, 2, 3)));
int cli_fail(const struct cli *c, const struct error *err);
int cli_failf(const struct cli *c, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Text on stdout; CLI_DONE, or CLI_FAILED with a message where it cannot be written (a full disk, a closed pipe). Flushed. */
int cli_print(const struct cli *c, struct span text);

/* The home of the platform: --home, $GENLOOP_HOME, ~/.genloop; absolute. CLI_DONE, or what run should return. */
int cli_home(const struct cli *c, char *out, size_t out_size);

/* ---- the frame's own parts ---- */

/* Every verb of the table, in its order; NULL beyond the last. */
const struct verb *cli_verb_at(size_t index);
/* argv after the verb. 0, E_INVALID with what is wrong, or E_CANCELLED where --help was among it. Pure; c borrows argv and verb. Returns owned. */
int cli_parse(const struct verb *verb, int argc, char *const *argv, struct cli **c, struct error *err);
void cli_free(struct cli *c);
/* "a|b|c" without capitals is a choice; "DIR|FILE" is a placeholder. */
bool cli_is_choice(const char *value);
struct buf;
int help_all(struct buf *out);
int help_group(struct buf *out, const char *word); /* E_NOT_FOUND where no verb begins with it */
int help_verb(struct buf *out, const struct verb *v);
int completion_bash(struct buf *out);
int completion_zsh(struct buf *out);
int man_page(struct buf *out);

/* ---- the tables, each in its verb_NOUN.c ---- */

extern const struct verb VERBS_PLATFORM[]; /* up, down, scale, drain */
extern const struct verb VERBS_STATUS[];
extern const struct verb VERBS_LOGS[];
extern const struct verb VERBS_INGEST[];
extern const struct verb VERBS_DATASET[];
extern const struct verb VERBS_TRAIN[];  /* train, jobs */
extern const struct verb VERBS_MODELS[]; /* models, evaluate, improve */
extern const struct verb VERBS_KEYS[];   /* keys */
extern const struct verb VERBS_SUBJECT[]; /* subject erase */
extern const struct verb VERBS_GOVERN[]; /* approve, reject, canary, promote, rollback, retire */
extern const struct verb VERBS_CHAT[];   /* chat, complete */
extern const struct verb VERBS_IMPORT[]; /* import */
extern const struct verb VERBS_EXPORT[]; /* export */
extern const struct verb VERBS_ENCODE[]; /* embed, rerank */
extern const struct verb VERBS_BATCH[];  /* batch */
extern const struct verb VERBS_FEEDBACK[];
extern const struct verb VERBS_AUDIT[];
extern const struct verb VERBS_RUN[];
extern const struct verb VERBS_TOKENIZE[];
extern const struct verb VERBS_BENCH_SERVE[];
extern const struct verb VERBS_BENCH[];
extern const struct verb VERBS_CONFIG[];
extern const struct verb VERBS_PROGRAM[]; /* version, completion, man */

#endif
