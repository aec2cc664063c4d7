/* What the loop's own .c files share about libuv; no other file includes it. */
#ifndef GENLOOP_BASE_LOOP_UV_H
#define GENLOOP_BASE_LOOP_UV_H

#include <uv.h>

#include "base/loop.h"

enum { LOOP_READ_SIZE = 64 * 1024 }; /* what one read takes; used up before the next, so one per loop is enough */

/* Every handle of ours begins with this, and uv_handle_t.data points to it: loop_free can dispose of what was left open. */
struct loop_handle {
    void (*closed)(struct loop_handle *h); /* frees; called by libuv when the handle is gone */
};

uv_loop_t *loop_uv(struct loop *l);
char *loop_read_buffer(struct loop *l);
void loop_handle_close(uv_handle_t *h); /* closes and then calls closed(); twice is once */
/* The message of a libuv error code in err; returns our code. */
int loop_error(struct error *err, int uv_code, const char *format, ...) __attribute__((format(printf, 3, 4)));

#endif
