/*
 * How the commands that answer a person (chat, run --chat) keep a small model from saying the same for ever: DRY (engine/sampler.h) over the answer alone, for runs of at least six tokens and without
 * breakers. So an answer may quote the conversation, count, list and write code; a loop of any period is left after some twelve tokens of it. docs/api.md, "Answers that loop", has what it was measured by.
 * The API itself has no such default.
 */
#ifndef GENLOOP_CLI_LOOP_OPTION_H
#define GENLOOP_CLI_LOOP_OPTION_H

#define LOOP_MULTIPLIER 0.8
enum { LOOP_LENGTH = 6 };

#endif
