/* A GenerateRequest of the bus as the engine's request. Pure; what it needs beside the message is taken from an arena. */
#ifndef GENLOOP_INFERENCE_REQUEST_H
#define GENLOOP_INFERENCE_REQUEST_H

#include "base/arena.h"
#include "engine/engine.h"
#include "genloop/v1/generation.pb-c.h"

/* *r borrows from `message` and the arena. E_INVALID and E_UNSUPPORTED name the parameter as the API calls it; E_NOMEM. */
int request_from_message(const Genloop__V1__GenerateRequest *message, struct arena *arena, struct engine_request *r, struct error *err);
/* What the message leaves to the model: its generation_config.json. */
void request_take_defaults(const Genloop__V1__GenerateRequest *message, const struct model_generation *g, struct sampler_params *s);
/* The same of a TokenizeRequest: tokens_only. */
int request_of_tokens(const Genloop__V1__TokenizeRequest *message, struct arena *arena, struct engine_request *r, struct error *err);

/* How an answer to it is taken apart, of a chat; options->tools borrows from the message and the arena. False: it is all text. `c`: the model's template, NULL where it has none. */
bool request_parsing(const Genloop__V1__GenerateRequest *message, const struct chat_template *c, struct arena *arena, struct chat_parser_options *options);

#endif
