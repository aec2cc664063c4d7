/* What the verbs that work in this process share. */
#ifndef GENLOOP_CLI_LOCAL_H
#define GENLOOP_CLI_LOCAL_H

#include "cli.h"
#include "engine/packed_cache.h"

/* An option of the contract whose engine part is not built: said before anything is read. CLI_DONE, or what run should return. `options`: NULL-terminated. */
int local_refuse(struct cli *c, const char *const *options);
/* --model as a directory or a file: E_NOT_FOUND, E_INVALID for what is neither. */
int local_model(const char *option, const char *model, struct error *err);
/* --packed-cache: what is read or written there is said on stderr. */
void local_packed(struct cli *c, struct packed_cache *cache);
#define LOCAL_PACKED_OPTION \
    {.name = "--packed-cache", .kind = CLI_DIR, .value = "DIR", .doc = "A folder for copies of weights as this CPU wants them: the next start reads them instead of packing; at most 16 GiB, least recently used go first"}
/* `train --local --recipe FILE --out DIR`: the row of `train` names these options, and calls this where --local is given. */
int local_train(struct cli *c);

struct cli;
int run_compare(struct cli *c); /* compare.c: evaluate --weights */

#endif
