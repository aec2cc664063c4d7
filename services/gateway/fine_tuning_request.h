/* POST /v1/fine_tuning/jobs, from OpenAI's JSON to what the trainer understands. Pure: nothing is looked up. What is wrong is named before what is right but not built. */
#ifndef GATEWAY_FINE_TUNING_REQUEST_H
#define GATEWAY_FINE_TUNING_REQUEST_H

#include "base/arena.h"
#include "base/error.h"
#include "base/json.h"
#include "genloop/v1/services.pb-c.h"

enum { FINE_TUNING_ARENA = 256 * 1024 };

/* Everything that *f points to is in the arena. A seed that is not given stays 0. E_INVALID, E_UNSUPPORTED with the parameter. */
int fine_tuning_request_read(const struct json *body, struct arena *arena, Genloop__V1__FineTuning *f, struct error *err);

#endif
