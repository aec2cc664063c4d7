/* train, as far as this process does it. */
#include "local.h"

static int run_train(struct cli *c) {
    if (!cli_flag(c, "--local")) return cli_failf(c, "only train --local is built yet");
    return local_train(c);
}

static const struct cli_option OPTIONS[] = {
    {.name = "--local", .kind = CLI_FLAG, .doc = "In this process, without a platform"},
    {.name = "--recipe", .kind = CLI_FILE, .value = "FILE", .doc = "The recipe; paths in it start at its folder"},
    {.name = "--out", .kind = CLI_DIR, .value = "DIR", .doc = "The model directory, whole or not at all; checkpoints lie in it"},
    {0},
};
const struct verb VERBS_TRAIN_LOCAL[] = {
    {.name = "train", .operands = "", .summary = "Train a model", .options = OPTIONS, .run = run_train,
     .help = "One JSON line a step. The same command goes on from the last checkpoint, to the bit; on a finished DIR it changes nothing."},
    {0},
};
